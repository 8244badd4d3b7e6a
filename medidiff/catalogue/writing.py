"""Codes of `OutputError`, and of faults that a scan can have on the way in and on the way out."""

from __future__ import annotations

__all__ = ["BOTH_WAYS", "OUTPUT"]

Rows = dict[str, tuple[str, str]]

BOTH_WAYS: Rows = {
    "E-2D": ("A single slice where a volume is needed.", "Give the whole series or volume."),
    "E-4D": (
        "Several volumes (time points, echoes, channels) where one is needed.",
        "Choose one with --scan N, or give each its own file.",
    ),
    "E-COLOUR": ("Colour pixels; scans are one number a voxel.", "Export the original grey images."),
    "E-COMPLEX": ("Complex numbers.", "Save magnitude (and phase) as files of real numbers."),
    "E-DTYPE": ("A type of voxel that is not read or written.", "Save it as integers or floats of up to 64 bits."),
    "E-NONFINITE": (
        "Some numbers are NaN or infinite.",
        "Mask or fill these voxels; --on-nan fill puts 0 and marks them.",
    ),
    "E-OUTSIDE": (
        "A file name leads out of the folder that it belongs to.",
        "Name a file inside the folder; a name from a foreign file that does this is not to be trusted.",
    ),
    "E-RANGE": (
        "Values beyond what the type in memory or in the file holds exactly.",
        "Rescale the values, or save them as a smaller integer type.",
    ),
    "E-SHAPE": (
        "Images or arrays of different sizes where one size is needed.",
        "Separate the sizes, or give arrays of the shape that the message names.",
    ),
    "E-SHEAR": (
        "The voxel axes do not meet at right angles.",
        "Resample to an orthogonal grid; --on-tilt says how.",
    ),
    "E-SIZE": (
        "More voxels than can be true, or than the format holds.",
        "Fetch the file again: its header is probably damaged.",
    ),
    "E-TINY": ("A single voxel.", "Give the whole volume."),
    "E-UNITS": (
        "The unit of lengths or values is not what it must be.",
        "Convert lengths to mm, or write in the unit of the source.",
    ),
}

OUTPUT: Rows = {
    "E-COPIES": (
        "More invented scans are like a training scan than false alarms explain, or none passed the copy gate.",
        "Train the prior on more scans or for less long; an override is recorded with the data set.",
    ),
    "E-DISK": ("The disk is full.", "Free some space and run the same command again; nothing half is left."),
    "E-EXISTS": (
        "The output folder holds another data set or batch, files that would mix with the new ones, or such a prior.",
        "Choose a new folder, or another name for the prior.",
    ),
    "E-LOCKED": (
        "Another run of medidiff is writing to the same output.",
        "Wait until it is done, or choose another output; the lock of a run that was killed is gone by itself.",
    ),
    "E-NOINDEX": (
        "Invented scans cannot be compared with the training scans, as no index of them is given.",
        "Make one with pipelines/index.py; an override is recorded with the data set.",
    ),
    "E-OUT": ("The output cannot be written there.", "Choose a folder that exists and that you may write to."),
    "E-OVERWRITE": (
        "The output would replace a source, or a file that medidiff did not write.",
        "Choose another name or folder, or move that file away.",
    ),
    "E-REPLAY-BYTES": (
        "A run was made again, and what came of it has other bytes.",
        "Use as many threads, and the same kind of processor or device; other rounding gives other bytes.",
    ),
    "E-SOPCLASS": (
        "No DICOM series can be derived from this kind of source.",
        "Write NIfTI instead.",
    ),
    "E-LEAK": (
        "An identifier of the source would have stood in a de-identified file, which was not written.",
        "Leave that file out, and report it: this is a fault of the profile.",
    ),
    "E-WORKERS": (
        "The workers of a batch, or the processes that draw scans, ended before their work did.",
        "The logs of a batch, below .medidiff/logs, say why; the same command goes on where they stopped.",
    ),
    "E-VERIFY": (
        "What was read back from the disk differs from what was written; nothing was kept.",
        "Check the disk and run the command again.",
    ),
}
