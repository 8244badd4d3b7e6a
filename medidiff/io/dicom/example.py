"""A DICOM study to try things on: the bundled scan as a clinical scanner might have given it.

`example_study` averages every four slices of the bundled brain (a box profile), adds noise, and writes the result as
one MR series of an invented person. Nothing in it identifies anybody: the bundled scan is open data without a face,
the name is invented, and there are no dates. UIDs are made from the parts of the study: it is always the same.
"""

from __future__ import annotations

import hashlib
import uuid
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import UID

from medidiff.errors import SettingsError
from medidiff.geometry import Geometry
from medidiff.io.dicom.derived.layout import Layout, laid_like
from medidiff.io.dicom.derived.modules import MR
from medidiff.io.dicom.derived.stored import Scale, plan_storage
from medidiff.io.dicom.derived.write import save
from medidiff.io.dicom.headers.header import quietly
from medidiff.io.dicom.synthetic import image_name, set_pixels, set_plane
from medidiff.io.files.atomic import staging_folder, sync
from medidiff.io.nifti.file import read_nifti
from medidiff.io.options import ReadOptions
from medidiff.version import __version__
from medidiff.volume import Volume

__all__ = ["example_scan", "example_study"]

_FACTORS = (2, 3, 4, 6, 8)  # of 72 slices
_SAMPLE = "sample/t1-brain.nii.gz"
_AXIAL = Geometry((1, 1, 1), np.diag((-1.0, -1.0, 1.0, 1.0)))
_TISSUE_PERCENTILE, _NOISE = 99.0, 0.01  # noise as a share of the brightness of tissue


def example_study(folder: str | Path, *, factor: int = 4) -> Path:
    """Write the bundled scan as a DICOM study with thick slices.

    Args:
        folder: a new one; it appears whole, and one that is there already is left as it is.
        factor: slices of 1 mm that make up one of the study; 2, 3, 4, 6 or 8.

    Returns:
        The folder.

    Raises:
        SettingsError: ``E-FACTOR``, another factor.
        OutputError: the folder cannot be written.

    Example:
        >>> import tempfile
        >>> from medidiff.io import read
        >>> with tempfile.TemporaryDirectory() as place:
        ...     read(example_study(f"{place}/study")).shape
        (160, 184, 18)
    """
    target = Path(folder)
    if target.is_dir() and any(target.iterdir()):
        return target
    thick = example_scan(factor)
    layout = laid_like(thick, _AXIAL)
    count = layout.geometry.shape[2]
    storage = plan_storage(lambda k: layout.data[:, :, k], [Scale(1.0, 0.0, False)] * count, modality="MR")
    with staging_folder(target) as stage, quietly():
        series = stage / "T1w"
        series.mkdir()
        for k in range(count):
            save(_image(layout, storage.scales[k], k, factor), series / image_name(k))
            sync(series / image_name(k))
    return target


def example_scan(factor: int = 4) -> Volume:
    """The bundled scan in slices of `factor` mm, with Rician noise of 1 % of the tissue's brightness, rounded.

    Args:
        factor: slices of the bundled scan that make up one; 2, 3, 4, 6 or 8.

    Raises:
        SettingsError: ``E-FACTOR``, another factor.
    """
    if factor not in _FACTORS:
        raise SettingsError("E-FACTOR", f"{factor}", wanted="2, 3, 4, 6 or 8", attribute="factor")
    with as_file(files("medidiff").joinpath(_SAMPLE)) as path:
        fine = read_nifti(path, ReadOptions()).volume
    i, j, _ = fine.shape
    thick = fine.data[0].reshape(i, j, -1, factor).mean(axis=3)
    affine = fine.geometry.affine @ np.diag((1.0, 1.0, factor, 1.0))
    affine[:3, 3] = fine.geometry.world((0, 0, (factor - 1) / 2))
    level = _NOISE * float(np.percentile(thick[thick > 0], _TISSUE_PERCENTILE))
    apart = fine.geometry.spacing_mm[2] * factor
    return Volume(_rician(thick, level), Geometry(thick.shape, affine), "MR", thickness_mm=apart)


def _rician(image: NDArray[np.floating], level: float) -> NDArray[np.int16]:
    real, imaginary = np.random.default_rng(0).normal(0.0, level, (2, *image.shape))
    rounded: NDArray[np.int16] = np.rint(np.hypot(image + real, imaginary)).astype(np.int16)
    return rounded


def _uid(*parts: object) -> UID:
    """A 2.25 UID from a UUID of version 8, always the same for the same part."""
    digest = bytearray(hashlib.sha256("/".join(map(str, ("example", *parts))).encode()).digest()[:16])
    digest[6], digest[8] = digest[6] & 0x0F | 0x80, digest[8] & 0x3F | 0x80
    return UID(f"2.25.{uuid.UUID(bytes=bytes(digest)).int}")


def _image(layout: Layout, scale: Scale, k: int, factor: int) -> Dataset:
    image = Dataset()
    image.SpecificCharacterSet, image.ContentQualification = "ISO_IR 192", "RESEARCH"
    image.PatientName, image.PatientID, image.PatientBirthDate = "Example^Study", "EXAMPLE", None
    image.PatientSex, image.BodyPartExamined = None, "BRAIN"
    image.PatientIdentityRemoved, image.DeidentificationMethod = "YES", "Open data; the name is invented"
    image.StudyInstanceUID, image.StudyID = _uid(factor, "study"), "EXAMPLE"
    image.StudyDate = image.StudyTime = image.ReferringPhysicianName = image.AccessionNumber = None
    image.StudyDescription = "Example of medidiff; research use only"
    image.SOPClassUID, image.SOPInstanceUID = MR, _uid(factor, "image", k)
    image.Modality, image.SeriesInstanceUID, image.SeriesNumber = "MR", _uid(factor, "series"), 1
    image.SeriesDescription = f"T1w axial, {factor} mm"
    image.Manufacturer = image.ManufacturerModelName = "medidiff"
    image.SoftwareVersions = __version__
    image.PatientPosition, image.PositionReferenceIndicator = "HFS", None
    image.FrameOfReferenceUID = _uid(factor, "frame of reference")
    image.ImageType, image.InstanceNumber, image.AcquisitionNumber = ["DERIVED", "PRIMARY", "OTHER"], k + 1, 1
    image.DerivationDescription = "Slices of an open T1-weighted scan (ds002748, CC0), averaged, with noise added"
    image.ScanningSequence, image.SequenceVariant, image.ScanOptions = "RM", "NONE", None
    image.MRAcquisitionType = image.RepetitionTime = image.EchoTime = image.EchoTrainLength = None
    set_plane(image, layout.geometry, k)
    set_pixels(image, layout, scale, k)
    return image
