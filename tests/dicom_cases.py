"""Small DICOM series whose voxels are a known linear function of their own position, and the ways to break them.

The ramp oracle: voxel (i, j, k) of a good series holds ``i + 10 j + 100 k`` in real units. Push every voxel that a
reader returns through the affine that it reports, and back through the true grid: one comparison checks order, flips,
spacing, slope, intercept and geometry together.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from medidiff.volume import Geometry, Volume

WEIGHTS = np.array([1.0, 10.0, 100.0])
SHAPE = (7, 6, 5)  # columns, rows, slices
SPACING = (0.75, 0.5, 2.5)  # between columns, rows, slices
SECRETS = ("SECRET", "ID-4711", "19010203", "free text", "1.2.826")
CLASSES = {
    "CT": "1.2.840.10008.5.1.4.1.1.2",
    "MR": "1.2.840.10008.5.1.4.1.1.4",
    "PT": "1.2.840.10008.5.1.4.1.1.128",
}
AXIAL = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0))
_ROTATION = np.linalg.qr(np.array([[0.2, 0.9, 0.1], [-0.9, 0.3, 0.2], [0.1, -0.1, 1.0]]))[0]
OBLIQUE = (tuple(_ROTATION[:, 0].tolist()), tuple(_ROTATION[:, 1].tolist()))

Edit = Callable[[Dataset, int], object]


def truth(axes: tuple = AXIAL, *, shape: tuple = SHAPE, spacing: tuple = SPACING) -> Geometry:
    """The RAS+ grid of a generated series."""
    row, column = np.array(axes[0]), np.array(axes[1])
    affine = np.eye(4)
    affine[:3, :3] = np.stack([row, column, np.cross(row, column)], axis=1) * spacing
    affine[:3, 3] = (-12.5, 20.25, -32.5)
    return Geometry(shape, np.diag((-1, -1, 1, 1)) @ affine)


def ramp(geometry: Geometry, grid: Geometry) -> np.ndarray:
    """(I, J, K) real values on `geometry` of the ramp that is defined on `grid`."""
    return grid.index(geometry.world(np.moveaxis(np.indices(geometry.shape), 0, -1))) @ WEIGHTS


def ramp_error(volume: Volume, grid: Geometry) -> float:
    """Largest difference between a volume and the ramp at the places that the volume says its voxels have."""
    return float(np.abs(volume.data[0] - ramp(volume.geometry, grid)).max())


def image(k: int, *, modality: str = "CT", axes: tuple = AXIAL, uids: dict | None = None) -> Dataset:
    """Slice k of a good series, as a complete image of its kind."""
    uids = uids or {"study": generate_uid(), "series": generate_uid(), "frame": generate_uid()}
    grid = truth(axes)
    i, j = np.meshgrid(range(SHAPE[0]), range(SHAPE[1]))
    position = np.diag((-1, -1, 1)) @ grid.world((0, 0, k))
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL" if modality == "CT" else "OTHER"]
    ds.SOPClassUID, ds.SOPInstanceUID = CLASSES[modality], generate_uid()
    ds.StudyDate, ds.StudyTime, ds.AcquisitionTime = "20200101", "120000", "120000"
    ds.AccessionNumber, ds.ReferringPhysicianName, ds.StudyID = "ACC1", "SECRET^DOCTOR", "S1"
    ds.SeriesDescription, ds.Modality, ds.Manufacturer = "free text SECRET", modality, "ACME"
    ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex = "SECRET^NAME", "ID-4711", "19010203", "O"
    ds.BodyPartExamined, ds.PatientPosition = "HEAD", "HFS"
    ds.SliceThickness, ds.SeriesNumber, ds.InstanceNumber, ds.AcquisitionNumber = "2.5", "3", str(k + 1), "1"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = uids["study"], uids["series"]
    ds.FrameOfReferenceUID, ds.PositionReferenceIndicator = uids["frame"], ""
    if modality == "MR":
        ds.ScanningSequence, ds.SequenceVariant, ds.ScanOptions, ds.MRAcquisitionType = "GR", "NONE", "", "3D"
        ds.RepetitionTime, ds.EchoTime, ds.EchoTrainLength = "9", "3", "1"
    else:
        ds.KVP, ds.RescaleSlope, ds.RescaleIntercept, ds.RescaleType = "120", "1", "-1024", "HU"
    ds.ImagePositionPatient = [f"{v:.10g}" for v in position]
    ds.ImageOrientationPatient = [f"{v:.12f}" for v in (*axes[0], *axes[1])]
    ds.PixelSpacing = [f"{SPACING[1]:.10g}", f"{SPACING[0]:.10g}"]
    ds.Rows, ds.Columns, ds.SamplesPerPixel, ds.PhotometricInterpretation = SHAPE[1], SHAPE[0], 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 0
    ds.WindowCenter, ds.WindowWidth, ds.SmallestImagePixelValue = "40", "400", 0
    ds.add_new(0x00290010, "LO", "ACME PRIVATE")
    ds.add_new(0x00291010, "LO", "SECRET private")
    set_pixels(ds, i + 10 * j + 100 * k + (0 if modality == "MR" else 1024))
    ds["SmallestImagePixelValue"].VR = "US"
    return ds


def set_pixels(ds: Dataset, stored: np.ndarray) -> None:
    """Put (rows, columns) stored values into an image."""
    ds.PixelData = stored.astype("<i2" if ds.PixelRepresentation else "<u2").tobytes()
    ds["PixelData"].VR = "OW"


def pixels(ds: Dataset) -> np.ndarray:
    """(rows, columns) stored values of a generated image."""
    return np.frombuffer(ds.PixelData, "<i2" if ds.PixelRepresentation else "<u2").reshape(ds.Rows, ds.Columns)


def save(ds: Dataset, file: Path, *, syntax: str = ExplicitVRLittleEndian) -> Path:
    """Write an image, broken or not."""
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = syntax
    ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
    file.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ds.save_as(file, enforce_file_format=True)
    return file


def series(
    folder: Path, *, modality: str = "CT", axes: tuple = AXIAL, edit: Edit | None = None, slices: range = range(5)
) -> list[Path]:
    """Write a series; `edit(dataset, k)` changes a slice, and leaves it out by returning False."""
    uids = {"study": generate_uid(), "series": generate_uid(), "frame": generate_uid()}
    files = []
    for k in slices:
        ds = image(k, modality=modality, axes=axes, uids=uids)
        if edit is None or edit(ds, k) is not False:
            files.append(save(ds, folder / f"IM{k:04d}.dcm"))
    return files


def enhanced(file: Path, *, order: tuple = (0, 1, 2, 3, 4), edit: Callable[[Dataset], object] | None = None) -> Path:
    """Write the CT ramp as one enhanced multi-frame file whose frames are stored in the given order."""
    source = [image(k) for k in range(SHAPE[2])]
    ds = source[0]
    ds.SOPClassUID, ds.NumberOfFrames = "1.2.840.10008.5.1.4.1.1.2.1", len(order)
    ds.PerFrameFunctionalGroupsSequence = [_groups(source[k]) for k in order]
    ds.SharedFunctionalGroupsSequence = [Dataset()]
    ds.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence = [_part(ds, "PixelSpacing", "SliceThickness")]
    ds.PixelData = b"".join(source[k].PixelData for k in order)
    for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleSlope", "RescaleIntercept"):
        delattr(ds, name)
    if edit is not None:
        edit(ds)
    return save(ds, file)


def _part(ds: Dataset, *names: str) -> Dataset:
    part = Dataset()
    for name in names:
        part[name] = ds[name]
    return part


def _groups(ds: Dataset) -> Dataset:
    group = Dataset()
    group.PlanePositionSequence = [_part(ds, "ImagePositionPatient")]
    group.PlaneOrientationSequence = [_part(ds, "ImageOrientationPatient")]
    group.PixelValueTransformationSequence = [_part(ds, "RescaleSlope", "RescaleIntercept", "RescaleType")]
    return group


def patch(file: Path, old: bytes, new: bytes) -> None:
    """Replace bytes of the same length in a file."""
    content = file.read_bytes()
    assert old in content
    assert len(old) == len(new)
    file.write_bytes(content.replace(old, new))


def compress(files: list[Path], syntax: str) -> None:
    """Compress images in place with the installed encoders."""
    for file in files:
        ds = pydicom.dcmread(file)
        ds.compress(syntax, generate_instance_uid=False)
        ds.save_as(file)
