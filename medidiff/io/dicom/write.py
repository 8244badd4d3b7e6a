"""DICOM out: a derived classic MR or CT series in the study of its source.

One file per slice, in the SOP class of the source; new series and SOP instance UIDs; patient, study, frame of
reference, equipment and acquisition as in the source (`medidiff.io.dicom.template`); DERIVED, RESEARCH, with
references to the source images and to this software. The grid may be another one than the source's: rows, columns,
spacing, thickness and positions are the volume's own, its axes permuted and flipped to lie as the source's do.
Enhanced, PET and other sources are refused (``E-SOPCLASS``), as are invented scans (``E-SYNTHETIC``), which must never
enter a patient's study.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid
from pydicom.valuerep import DSfloat

from medidiff.errors import OutputError, SettingsError
from medidiff.io.dicom.headers import Header, is_dicom, quietly, read_dataset
from medidiff.io.dicom.pixels import units
from medidiff.io.dicom.read import read_dicom
from medidiff.io.dicom.split import find_stack
from medidiff.io.dicom.stack import LPS_TO_RAS, Stack
from medidiff.io.dicom.stored import Stored, stored_values
from medidiff.io.dicom.template import CT, MR, template
from medidiff.io.files.atomic import output_errors, staging_folder
from medidiff.io.files.checks import refuse_nonfinite, refuse_shear, refuse_thin
from medidiff.io.sidecar import refuse_foreign_record, write_record
from medidiff.volume import Geometry, Provenance, Volume

__all__ = ["write_dicom"]

_RECORD = "provenance.json"
_SAME_GRID_MM = 1e-3
_LOSSY = ("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.81", "1.2.840.10008.1.2.4.91")


@dataclass(frozen=True, slots=True, eq=False)
class _Series:
    """What all slices of the new series share."""

    source: Stack
    geometry: Geometry
    stored: Stored
    common: Dataset


def write_dicom(
    volume: Volume, path: str | Path, *, like: str | Path, provenance: Provenance, description: str = ""
) -> list[Path]:
    """Write a scan as a new series of the study that its source belongs to.

    Args:
        volume: one channel, on any grid near the source's.
        path: the folder to write into; made when missing, neither the source's folder nor inside it.
        like: the source series.
        provenance: how the scan was made.
        description: of the series; the source's own and the task when left out.

    Returns:
        One file per slice in spatial order, then the JSON record.

    Raises:
        SettingsError: the scan is synthetic.
        OutputError: the place, the volume or the source does not allow it, or what was read back differs.
    """
    path, like = Path(path), Path(like)
    if provenance.synthetic:
        mend = "Write NIfTI; a synthetic scan has no place in a patient's study."
        raise SettingsError("E-SYNTHETIC", "a synthetic scan and a DICOM source", mend=mend)
    with output_errors(path.name):
        _refuse_place(path, like)
    source = find_stack(like)
    _refuse_volume(volume, source, file=path.name)
    with quietly():
        series = _plan(volume, source, provenance=provenance, description=description)
    width = max(4, len(str(series.geometry.shape[2])))
    names = [f"IM{k + 1:0{width}d}.dcm" for k in range(series.geometry.shape[2])]
    with staging_folder(path) as stage:
        for k, name in enumerate(names):
            _save(_slice(series, k), stage / name)
        _verify(stage, series, volume, file=path.name)
        write_record(stage / _RECORD, volume, provenance=provenance, description=description)
    return [path / name for name in (*names, _RECORD)]


def _refuse_place(path: Path, like: Path) -> None:
    home = (like if like.is_dir() else like.parent).resolve()
    if path.resolve() == home or home in path.resolve().parents:
        mend = "Choose a folder outside the source series."
        raise OutputError("E-OVERWRITE", "the output folder is the source's or inside it", mend=mend, file=path.name)
    if path.exists() and not path.is_dir():
        raise OutputError("E-OUT", "a file stands where the folder would go", mend="Name a folder.", file=path.name)
    for file in sorted(path.iterdir()) if path.is_dir() else []:
        if file.is_file():
            with file.open("rb") as stream:
                if is_dicom(stream.read(1024)):
                    mend = "Choose a new folder, so that two series never mix."
                    raise OutputError("E-EXISTS", "the folder holds DICOM files", mend=mend, file=path.name)
    refuse_foreign_record(path / _RECORD)


def _refuse_volume(volume: Volume, source: Stack, *, file: str) -> None:
    first = source.slices[0]
    if first.sop_class not in (MR, CT) or first.modality not in ("MR", "CT"):
        found = f"a source of modality {first.modality} that is no classic MR or CT series"
        raise OutputError("E-SOPCLASS", found, wanted="one file per slice, MR or CT", mend="Write NIfTI.", file=file)
    if volume.modality not in ("OT", first.modality) or volume.units not in ("", units(first)):
        found = f"{volume.modality} values in {volume.units or 'arbitrary units'}"
        raise OutputError("E-UNITS", found, wanted=f"{first.modality}, {units(first) or 'arbitrary units'}", file=file)
    if volume.data.shape[0] != 1:
        raise OutputError("E-4D", f"{volume.data.shape[0]} channels", wanted="one", mend="Write each apart.", file=file)
    refuse_thin(volume.shape, file=file, error=OutputError)
    refuse_shear(volume.geometry, file=file, error=OutputError)
    refuse_nonfinite(volume.data, file=file, error=OutputError)
    if max(volume.shape) > 65535:
        raise OutputError("E-SIZE", f"{volume.shape} voxels", wanted="at most 65,535 along an axis", file=file)


def _plan(volume: Volume, source: Stack, *, provenance: Provenance, description: str) -> _Series:
    data, geometry = _laid_like(volume, source.geometry)
    stored = stored_values(data, modality=source.slices[0].modality)
    first = read_dataset(source.slices[0].file, pixels=False)
    common = Dataset()
    kept = template(first, sop_class=source.slices[0].sop_class)
    common.FrameOfReferenceUID, common.StudyInstanceUID = kept.FrameOfReferenceUID, kept.StudyInstanceUID
    common.SeriesInstanceUID = generate_uid()
    common.SeriesNumber = _series_number(first)
    common.SeriesDescription = _series_description(first, description or f"medidiff {provenance.task} RESEARCH")
    common.ContentQualification = "RESEARCH"
    common.SyntheticData = "NO"
    _derivation(common, provenance, regridded=not _same_grid(geometry, source))
    _equipment(common, provenance)
    _clock(common)
    _pixel_module(common, source.slices[0], geometry=geometry, stored=stored)
    if any(header.syntax in _LOSSY for header in source.slices):
        common.LossyImageCompression = "01"
    return _Series(source, geometry, stored, common)


def _same_grid(geometry: Geometry, source: Stack) -> bool:
    return geometry.distance_mm(source.geometry) <= _SAME_GRID_MM


def _laid_like(volume: Volume, grid: Geometry) -> tuple[NDArray[np.generic], Geometry]:
    """The same voxels with axes permuted and flipped to run as those of `grid`, slices ascending along their normal."""
    likeness = grid.directions.T @ volume.geometry.directions
    left, order = np.abs(likeness), [0, 0, 0]
    for _ in range(3):  # strongest pairing first, each axis used once
        mine, theirs = divmod(int(np.argmax(left)), 3)
        order[mine] = theirs
        left[mine, :] = left[:, theirs] = -1.0
    signs = np.array([np.sign(likeness[mine, theirs]) or 1.0 for mine, theirs in enumerate(order)])
    linear = volume.geometry.affine[:3, order] * signs
    if np.linalg.det(linear) < 0:
        signs[2] *= -1
        linear[:, 2] *= -1
    data = volume.data[0].transpose(order)
    last = np.where(signs < 0, np.array(data.shape) - 1, 0)
    affine = np.eye(4)
    affine[:3, :3] = linear
    affine[:3, 3] = volume.geometry.affine[:3, 3] - linear @ last
    flipped = data[tuple(slice(None, None, int(sign)) for sign in signs)]
    return flipped, Geometry((data.shape[0], data.shape[1], data.shape[2]), affine)


def _series_number(first: Dataset) -> int | None:
    try:
        return int(first.SeriesNumber) + 1000
    except (AttributeError, TypeError, ValueError):
        return None


def _series_description(first: Dataset, ending: str) -> str:
    """At most 64 characters: as much of the source's as fits before what was done."""
    with quietly():
        start = str(first.get("SeriesDescription") or "")
    ending = ending.replace("\\", " ")[:64]
    return f"{start[: max(0, 63 - len(ending))]} {ending}".strip()


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def _derivation(common: Dataset, provenance: Provenance, *, regridded: bool) -> None:
    codes = [_code("113085", "DCM", "Spatial resampling")] if regridded else []
    if provenance.prior:  # CID 7203 is extensible and has nothing for a learned prior
        codes.append(_code("RESTORE", "99MEDIDIFF", "Restoration by a learned prior"))
    if codes:
        common.DerivationCodeSequence = codes
    common.DerivationDescription = f"medidiff {provenance.version} {provenance.task}; research use only"[:1024]


def _equipment(common: Dataset, provenance: Provenance) -> None:
    item = Dataset()
    item.PurposeOfReferenceCodeSequence = [_code("109102", "DCM", "Processing Equipment")]
    item.Manufacturer = item.ManufacturerModelName = "medidiff"
    item.SoftwareVersions = provenance.version[:64]
    item.ContributionDateTime = datetime.datetime.now().strftime("%Y%m%d%H%M%S")
    prior = ", ".join(f"{key} {value}" for key, value in sorted(provenance.prior.items()))
    text = f"{provenance.task}; prior: {prior or 'none'}; seed {provenance.seed}; research use only"
    item.ContributionDescription = text[:1024]
    common.ContributingEquipmentSequence = [item]


def _clock(common: Dataset) -> None:
    now = datetime.datetime.now()
    for name in ("Series", "Content", "InstanceCreation"):
        setattr(common, f"{name}Date", now.strftime("%Y%m%d"))
        setattr(common, f"{name}Time", now.strftime("%H%M%S"))


def _pixel_module(common: Dataset, first: Header, *, geometry: Geometry, stored: Stored) -> None:
    third = "".join(first.image_type[2:3]) or ("AXIAL" if first.modality == "CT" else "OTHER")
    common.ImageType = ["DERIVED", "SECONDARY", third]
    common.SamplesPerPixel, common.PhotometricInterpretation = 1, first.photometric
    common.Columns, common.Rows = geometry.shape[:2]
    common.BitsAllocated = common.BitsStored = 16
    common.HighBit = 15
    common.PixelRepresentation = int(stored.values.dtype == np.int16)
    if first.modality == "CT" or stored.is_rescaled:
        common.RescaleSlope, common.RescaleIntercept = _decimal(stored.slope), _decimal(stored.intercept)
        common.RescaleType = (first.units or "HU") if first.modality == "CT" else "US"


def _decimal(value: float) -> DSfloat:
    return DSfloat(value, auto_format=True)


def _slice(series: _Series, k: int) -> Dataset:
    """One image: what its nearest source image gives, then what the series shares, then its own place and pixels."""
    geometry, lps = series.geometry, LPS_TO_RAS @ series.geometry.affine
    position = lps[:3, 3] + k * lps[:3, 2]
    near = _nearest(series, position)
    dataset = template(read_dataset(near[0].file, pixels=False), sop_class=near[0].sop_class)
    dataset.update(series.common)
    dataset.SOPInstanceUID, dataset.InstanceNumber = generate_uid(), k + 1
    dataset.SourceImageSequence = [_reference(header, preserved=_same_grid(geometry, series.source)) for header in near]
    across, down, apart = geometry.spacing_mm
    dataset.PixelSpacing = [_decimal(down), _decimal(across)]
    if abs(apart - series.source.geometry.spacing_mm[2]) > _SAME_GRID_MM:
        dataset.SliceThickness = _decimal(apart)
    dataset.SpacingBetweenSlices = _decimal(apart)
    row, column = lps[:3, 0] / across, lps[:3, 1] / down
    dataset.ImageOrientationPatient = [_decimal(value) for value in (*row, *column)]
    dataset.ImagePositionPatient = [_decimal(value) for value in position]
    dataset.SliceLocation = _decimal(float(np.dot(np.cross(row, column), position)))
    pixels = series.stored.values[:, :, k].T
    dataset.PixelData = pixels.astype(pixels.dtype.newbyteorder("<")).tobytes()
    dataset["PixelData"].VR = "OW"
    return dataset


def _nearest(series: _Series, position: NDArray[np.float64]) -> Sequence[Header]:
    """The source image at this place when the grids agree, else the one or two that lie around it."""
    normal = LPS_TO_RAS[:3, :3] @ series.source.geometry.directions[:, 2]
    away = [abs(float(np.dot(normal, position - np.asarray(h.position_mm)))) for h in series.source.slices]
    order = np.argsort(away, kind="stable")
    reach = series.source.geometry.spacing_mm[2] * 0.999
    count = 2 if away[order[1]] < reach and not _same_grid(series.geometry, series.source) else 1
    return [series.source.slices[i] for i in order[:count]]


def _reference(header: Header, *, preserved: bool) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = header.sop_class, header.sop_uid
    meaning = "Source image for image processing operation"
    item.PurposeOfReferenceCodeSequence = [_code("121322", "DCM", meaning)]
    item.SpatialLocationsPreserved = "YES" if preserved else "NO"
    return item


def _save(dataset: Dataset, file: Path) -> None:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = dataset.SOPClassUID, dataset.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta = meta
    with output_errors(file.name), quietly():
        dataset.save_as(file, enforce_file_format=True)


def _verify(stage: Path, series: _Series, volume: Volume, *, file: str) -> None:
    again = read_dicom(stage).volume
    data, geometry = _laid_like(volume, series.source.geometry)
    apart = np.abs(again.data[0].astype(np.float64) - data.astype(np.float64)).max()
    rounding = np.finfo(np.float32).eps * max(float(np.abs(data).max()), 1.0)
    whole = np.issubdtype(data.dtype, np.integer) and series.stored.slope == 1
    limit = 0.0 if whole else series.stored.slope / 2 + 2 * rounding
    if apart > limit or again.geometry.distance_mm(geometry) > 1e-4:
        found = f"what was read back differs by {apart:.3g} from what was written"
        raise OutputError("E-VERIFY", found, mend="Check the disk and run the command again.", file=file)
