"""Codes of `InputError`: a scan cannot be read, or reading it would mean guessing."""

from __future__ import annotations

__all__ = ["INPUT"]

Rows = dict[str, tuple[str, str]]

INPUT: Rows = {
    "E-BATCH": (
        "The folder holds no batch, or its settings or its manifest are damaged.",
        "Give the folder that 'medidiff batch' wrote into; begin a damaged batch anew in another folder.",
    ),
    "E-CRASH": (
        "The workers that tried this case died on it, ten times without a break.",
        "It may need more memory than there is; 'medidiff batch ... --retry-failed' tries again.",
    ),
    "E-INPUTS": (
        "None of the inputs of a batch is there, or may be read, on this machine; no case is refused for it.",
        "Mount the disk or share that holds them, or correct the paths; the same command then goes on.",
    ),
    "E-MANIFEST": (
        "A manifest of cases is broken: a missing column, two cases of one name, or a name that cannot be.",
        "Correct the row that the message names.",
    ),
    "E-MEMORY": (
        "There is not enough memory for the scan, even in the smallest tiles.",
        "Use a machine with more memory, or fewer workers at once.",
    ),
    "E-UNEXPECTED": (
        "One case of a batch met an error that medidiff does not know; the other cases went on.",
        "Run the case alone to see the whole error, and report it.",
    ),
    "E-5D": (
        "The file holds vectors or several channels for each voxel, not one number.",
        "Split it into files of one number a voxel with the program that wrote it.",
    ),
    "E-ARCHIVE": (
        "A zip or tar archive is damaged, locked by a password, packed in an unusual way, or holds too many files.",
        "Unpack it yourself and give the folder.",
    ),
    "E-BADDS": (
        "A DICOM decimal holds text that is no number (often a decimal comma), or too few or too many numbers.",
        "Export the series again; the message quotes what stands there.",
    ),
    "E-BADIOP": (
        "The slice orientation of a DICOM image is not two perpendicular unit vectors.",
        "Export the series again; a viewer or converter has damaged it.",
    ),
    "E-BADRESCALE": (
        "Stored values cannot be turned into real ones: the slope is 0, or a look-up table stands in its place.",
        "Export the series again, with slope and intercept.",
    ),
    "E-BADSCALE": (
        "The slope or intercept of a NIfTI file is not a finite number, and programs disagree on what it means.",
        "If the voxels are unscaled, set scl_slope to 1 and scl_inter to 0; else convert the source again.",
    ),
    "E-BADSPACING": (
        "A voxel size is zero, negative or not a number.",
        "Fetch the source again; a size cannot be guessed.",
    ),
    "E-BIDS": (
        "A folder is no BIDS data set, lacks a participant that was asked for, or has errors for the BIDS validator.",
        "Run bids-validator-deno and mend what it names, or pass --skip-bids-validation.",
    ),
    "E-BURNEDIN": (
        "An image that says that text is burned into its pixels, which may name the patient.",
        "Blank the text first, or pass --allow-burned-in when it names nobody.",
    ),
    "E-CASE": (
        "A case that cannot be, or is none of the data set: by labels, contrast, modality, or a record not synthetic.",
        "Draw it again with medidiff synthesize; it was changed since.",
    ),
    "E-DATASET": (
        "The folder holds no synthetic data set of medidiff, or one with files changed, missing, unknown or unmarked.",
        "See all that is wrong with 'medidiff verify', and export it again.",
    ),
    "E-DEIDENTIFY": (
        "An object that cannot be freed of its patient: a report, a document, a waveform, or pixels with more in them.",
        "Leave it out; only images, segmentations, doses, structure sets and registrations are written.",
    ),
    "E-DUPUID": (
        "Two files have the same SOPInstanceUID.",
        "Keep one of them.",
    ),
    "E-BOMB": (
        "A compressed file or archive grows hundreds of times its own size, which no image does.",
        "Do not open it elsewhere either; ask where it comes from.",
    ),
    "E-CHANGED": (
        "The file changed while it was read.",
        "Wait until whatever writes it is done, and run the command again.",
    ),
    "E-CRC": (
        "The compressed data are damaged: their checksum is wrong.",
        "Fetch or compress the file again.",
    ),
    "E-DECODE": (
        "The compressed pixels of a DICOM file cannot be decoded.",
        "Fetch the file again; if it stays, export the series uncompressed.",
    ),
    "E-DIM": (
        "The grid has a side without voxels, or not three dimensions.",
        "Fetch the source again; its header is damaged.",
    ),
    "E-DUPPOS": (
        "Two different DICOM images claim the same place, so one of them is not part of this scan.",
        "Keep the right one, or put the two acquisitions into folders of their own.",
    ),
    "E-EMPTY": ("The file holds no bytes.", "Fetch it again."),
    "E-FLAT": (
        "All voxels that count have one value: there is nothing to measure or to restore.",
        "Check that this is the right scan, and that it was exported with its pixels.",
    ),
    "E-FOR": (
        "Images of one series lie in different coordinate systems (frames of reference).",
        "Put each frame of reference into a folder of its own.",
    ),
    "E-FORMAT": (
        "The content is none of the formats that are read, whatever the name says.",
        "Give NIfTI, a DICOM file or folder, NRRD or MetaImage.",
    ),
    "E-GAP": (
        "Slices are missing between others.",
        "Send the series again from the archive; or allow --on-gap resample, which interpolates and marks them.",
    ),
    "E-GRID": (
        "Two scans that are compared do not lie on the same grid.",
        "Bring both to one grid first, with a tool of your choice: nothing is resampled for a comparison.",
    ),
    "E-HEADER": (
        "The header contradicts itself or the standard.",
        "Convert the source again with a current program.",
    ),
    "E-MASK": (
        "A mask has another size than the scan, or marks no voxel.",
        "Give a mask on the scan's own grid that marks what counts.",
    ),
    "E-MODALITY": (
        "The scan is of another modality than the prior or the simulation is for, or nothing says of which it is.",
        "Name a prior of the scan's modality with --prior; --modality tells it of a file that does not.",
    ),
    "E-MISSING": ("There is no such file or folder.", "Check the path."),
    "E-MIXMODALITY": (
        "Images of different kinds (for example CT and MR) share one series.",
        "Put each kind into a folder of its own.",
    ),
    "E-MIXPHOTOMETRIC": (
        "Some images of a series are bright where others are dark (MONOCHROME1 and MONOCHROME2).",
        "Put each kind into a folder of its own, or export the series again.",
    ),
    "E-MIXSPACING": (
        "Images of one series have different pixel sizes.",
        "Send the series again, or put each size into a folder of its own.",
    ),
    "E-MIXUNITS": (
        "Images of one series have different units of the values.",
        "Put each unit into a folder of its own.",
    ),
    "E-MOSAIC": (
        "All slices are tiled into one image, and what is needed to place them is not there.",
        "Export the series as ordinary or enhanced DICOM, or convert it with dcm2niix.",
    ),
    "E-MULTIFRAME": (
        "A DICOM file of several frames does not say where each frame lies.",
        "Export the series as classic or enhanced DICOM.",
    ),
    "E-MULTISERIES": (
        "The path holds several scans where one is needed.",
        "See them with 'medidiff info', then choose with --scan N, in Python with ReadOptions(scan=N), or convert all "
        "with --all.",
    ),
    "E-NODECODER": (
        "The pixels are compressed in a way that no installed package reads.",
        "Install the package that the message names, or export the series uncompressed.",
    ),
    "E-NOISELEVEL": (
        "The noise of a CT cannot be read off it: there is too little soft tissue without borders.",
        "Give it with --noise-level: the standard deviation in HU of a region that should be even.",
    ),
    "E-LABELS": (
        "A label map that is none: not whole numbers, out of range, off the grid of its scan, or without a tissue.",
        "Make the map again, on the scan's grid, with the labels that are named.",
    ),
    "E-NOIMAGES": (
        "There is no CT, MR or PET image in the folder.",
        "Give the folder that holds the slices; 'medidiff info' lists what was seen and why it was left out.",
    ),
    "E-NOIOP": (
        "A DICOM image does not say how it is turned in the patient.",
        "Send the series again from the archive; the orientation is never guessed.",
    ),
    "E-NOIPP": (
        "A DICOM image does not say where it lies in the patient.",
        "Send the series again; if no image says so, --assume-spacing-mm stacks them by their number.",
    ),
    "E-NORESCALE": (
        "A CT or PET image does not say how stored values become HU or activity.",
        "Send the series again; or --assume-rescale keeps the stored values, without a unit.",
    ),
    "E-NOSPACING": (
        "A DICOM image does not say how large its pixels are.",
        "Send the series again; or --imager-spacing takes the size at the detector.",
    ),
    "E-NOTHING": (
        "Every scan of the input was refused, so nothing was written.",
        "Ask 'medidiff info', which says for each scan what is wrong and what helps.",
    ),
    "E-NOXFORM": (
        "The file does not say where its voxels lie in the patient.",
        "Convert the source again; or --assume-affine takes the voxel sizes as they stand and RAS axes.",
    ),
    "E-ORIENTATION": (
        "One series holds several stacks of different orientation.",
        "Put each orientation into a folder of its own.",
    ),
    "E-PAIR": (
        "Header and voxels are two files, and one of them is not there.",
        "Put both into one folder, or convert them to a single file.",
    ),
    "E-PROVENANCE": (
        "A record of how a scan was made is broken or comes from another version.",
        "Make the scan again.",
    ),
    "E-READ": (
        "The system refuses to read a file.",
        "Check that the disk is there and that you may read it.",
    ),
    "E-REPLAY-INPUT": (
        "A run is to be made again from another scan, or on other training data.",
        "Name the scan with --input, or the data with --data, that the run had.",
    ),
    "E-SQUARE": (
        "CT slices whose voxels are not square: their projections cannot be simulated.",
        "Resample the scan to square voxels across the patient.",
    ),
    "E-SPACING": (
        "The slices are not evenly spaced, or one lies off the line of the others.",
        "Send the series again; or --on-spacing resample interpolates to the usual spacing and marks what it made.",
    ),
    "E-RECORD": (
        "The file is no record of a run.",
        "Give the .record.jsonl file that lies beside a result, or in its folder.",
    ),
    "E-SCOPE": (
        "With --strict: the scan is not of the kind that the prior was trained and validated on.",
        "Look at the scan and its header, or name a prior that is for it; without --strict the result is marked.",
    ),
    "E-SCALE": (
        "Whole regions lie below 0, or no tissue above it: brightness has no scale, and noise no law.",
        "Give the scan as it was before its values were shifted (z-score, -1 to 1), or add what brings air to 0.",
    ),
    "E-SCAN": ("There is no scan with this number.", "List the scans with 'medidiff info'."),
    "E-THICKNESS": (
        "SliceThickness is not above 0, or over three times the distance of the slices.",
        "Pass --thickness MM with the thickness that the protocol says.",
    ),
    "E-TILT": (
        "The slices are not stacked along their normal (gantry tilt): a plain grid would be wrong.",
        "--on-tilt resample interpolates to a right-angled grid; --on-tilt shear keeps the voxels.",
    ),
    "E-TRUNC": (
        "The file ends too early or is damaged.",
        "Fetch it again; an interrupted copy is the usual cause.",
    ),
    "E-XFORM": (
        "The transform from voxels to the patient is impossible, or the two that NIfTI holds disagree.",
        "Repair the header; or choose one with --on-xform sform or --on-xform qform.",
    ),
    "E-UNJUDGED": (
        "The copy gate cannot compare this scan: it shows no single brain of a head's size.",
        "Give brain-extracted T1w scans, one volume each.",
    ),
}
