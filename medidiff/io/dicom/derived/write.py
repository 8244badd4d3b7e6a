"""DICOM out: a derived classic MR, CT or PET series in the study of its source.

One file per slice, in the single-frame SOP class of the source's modality, also when the source is an enhanced
multi-frame file or a mosaic; new series and SOP instance UIDs; patient, study, frame of reference, equipment and
acquisition as in the source (see `modules`); DERIVED, RESEARCH, with references to the source images and
to this software (see `references`). The grid may be another one than the source's: rows, columns,
spacing, thickness and positions are the volume's own, its axes permuted and flipped to lie as the source's do.

Values are stored as `stored` says; whatever that costs in precision stands in the record. Invented
scans are refused (``E-SYNTHETIC``): they must never enter a patient's study.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from medidiff.errors import OutputError, SettingsError
from medidiff.io.dicom.derived.image import image_of
from medidiff.io.dicom.derived.layout import laid_like
from medidiff.io.dicom.derived.modules import CLASSIC
from medidiff.io.dicom.derived.plan import Plan, plan_series
from medidiff.io.dicom.derived.source import Source, find_source
from medidiff.io.dicom.derived.stored import Towards
from medidiff.io.dicom.derived.verify import verify_series
from medidiff.io.dicom.headers.header import is_dicom, quietly
from medidiff.io.dicom.pixels.values import units
from medidiff.io.files.atomic import output_errors, refuse_full, resolved, staging_folder
from medidiff.io.files.checks import SHEAR_LIMIT, refuse_nonfinite, refuse_shear, refuse_thin, shear
from medidiff.io.options import ReadOptions
from medidiff.io.sidecar import refuse_foreign_record, write_record
from medidiff.volume import Provenance, Volume

__all__ = ["RECORD", "refuse_place", "refuse_volume", "save", "write_dicom"]

RECORD = "provenance.json"
_LARGEST = float(np.finfo(np.float32).max) / 4
_SAME_SHEAR = 1e-3  # of the direction cosines


def write_dicom(
    volume: Volume,
    path: Path,
    *,
    like: Path,
    provenance: Provenance,
    description: str = "",
    options: ReadOptions | None = None,
    towards: Towards = "nearest",
) -> list[Path]:
    """Write a scan as a new series of the study that its source belongs to.

    Args:
        volume: one channel, on any grid near the source's.
        path: the folder to write into; made when missing, neither the source's folder nor inside it.
        like: the source series.
        provenance: how the scan was made.
        description: of the series; the source's own and the task when left out.
        options: how the source was read.
        towards: where values go that lie between two that can be stored; bounds go outwards.

    Returns:
        One file per slice in spatial order, then the JSON record.

    Raises:
        SettingsError: the scan is synthetic.
        OutputError: the place, the volume or the source does not allow it, or what was read back differs.
    """
    refuse_place(path, like, provenance)
    source = find_source(like, options)
    refuse_volume(volume, source, file=path.name)
    with quietly():
        plan = plan_series(volume, source, provenance=provenance, description=description, towards=towards)
    count = plan.geometry.shape[2]
    names = [f"IM{k + 1:0{max(4, len(str(count)))}d}.dcm" for k in range(count)]
    with staging_folder(path) as stage:
        refuse_full(stage, volume.data.size * 2, file=path.name)
        for k, name in enumerate(names):
            with quietly():
                save(image_of(plan, k), stage / name)
        verify_series([stage / name for name in names], plan, name=path.name)
        record = dataclasses.replace(provenance, decisions=(*provenance.decisions, *_decisions(plan)))
        write_record(stage / RECORD, volume, provenance=record, description=description)
    return [path / name for name in (*names, RECORD)]


def _decisions(plan: Plan) -> list[str]:
    """What writing cost, as sentences."""
    moved = [part for k in range(plan.geometry.shape[2]) if (part := plan.stored(k).moved) is not None]
    count = sum(int(np.count_nonzero(part)) for part in moved)
    notes = [plan.storage.note] if plan.storage.note else []
    return notes + ([f"{count} measured voxels moved off the padding value by one step"] if count else [])


def refuse_place(path: Path, like: Path, provenance: Provenance) -> None:
    """Refuse what has no place in a patient's study, and folders that hold other images.

    Raises:
        SettingsError: the scan is synthetic.
        OutputError: the folder is the source's, or holds DICOM files, or is none.
    """
    if provenance.synthetic:
        mend = "Write NIfTI; a synthetic scan has no place in a patient's study."
        raise SettingsError("E-SYNTHETIC", "a synthetic scan and a DICOM source", mend=mend)
    with output_errors(path.name):
        home, place = resolved(like if like.is_dir() else like.parent), resolved(path)
        if place == home or (like.is_dir() and home in place.parents):
            found, mend = "the output folder is the source's or inside it", "Choose a folder outside the source series."
            raise OutputError("E-OVERWRITE", found, mend=mend, file=path.name)
        if path.exists() and not path.is_dir():
            raise OutputError("E-OUT", "a file stands where the folder would go", mend="Name a folder.", file=path.name)
        for file in sorted(path.iterdir()) if path.is_dir() else []:
            if file.is_file() and _is_dicom(file):
                mend = "Choose a new folder, so that two series never mix."
                raise OutputError("E-EXISTS", "the folder holds DICOM files", mend=mend, file=path.name)
        refuse_foreign_record(path / RECORD)


def _is_dicom(file: Path) -> bool:
    with file.open("rb") as stream:
        return is_dicom(stream.read(1024))


def refuse_volume(volume: Volume, source: Source, *, file: str) -> None:
    """Refuse what cannot become a derived image of the source.

    Raises:
        OutputError: by kind, unit, channels, size, geometry or values.
    """
    if source.modality not in CLASSIC or source.images[0].floating:
        kind = "a parametric map" if source.images[0].floating else f"a series of modality {source.modality}"
        wanted, mend = "CT, MR or PET images", "Write NIfTI, or name the series that the scan comes from."
        raise OutputError("E-SOPCLASS", f"{kind} as the source", wanted=wanted, mend=mend, file=file)
    unit = units(source.images[0])
    if volume.modality not in ("OT", source.modality) or volume.units not in ("", unit):
        found = f"{volume.modality} values in {volume.units or 'arbitrary units'}"
        mend = "Name the scan that it was made from."
        wanted = f"{source.modality}, {unit or 'arbitrary units'}, as in the source"
        raise OutputError("E-UNITS", found, wanted=wanted, mend=mend, file=file)
    if volume.data.shape[0] != 1:
        raise OutputError("E-4D", f"{volume.data.shape[0]} channels", wanted="one", mend="Write each apart.", file=file)
    refuse_thin(volume.shape, file=file, error=OutputError)
    if not _sheared_alike(volume, source):
        refuse_shear(volume.geometry, file=file, error=OutputError)
    refuse_nonfinite(volume.data, file=file, error=OutputError)
    largest = max(abs(float(volume.data.min())), abs(float(volume.data.max())))
    if largest > _LARGEST:
        found, mend = f"a value of {largest:.3g}", "Rescale the values first."
        raise OutputError("E-RANGE", found, wanted="values that float32 holds", mend=mend, file=file)
    if max(volume.shape) > 65535:
        mend = "Crop the scan first."
        raise OutputError("E-SIZE", f"{volume.shape} voxels", wanted="at most 65,535 an axis", mend=mend, file=file)


def _sheared_alike(volume: Volume, source: Source) -> bool:
    """Whether a grid is sheared as the source is, which a position for each slice describes rightly."""
    if shear(source.geometry) <= SHEAR_LIMIT:
        return False
    laid = laid_like(volume, source.geometry).geometry
    in_plane = abs(float(laid.directions[:, 0] @ laid.directions[:, 1]))
    return in_plane <= 1e-4 and bool(np.abs(laid.directions - source.geometry.directions).max() <= _SAME_SHEAR)


def save(image: Dataset, file: Path) -> None:
    """Write one dataset as a DICOM file, explicit VR little endian."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = image.SOPClassUID, image.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.file_meta = meta
    with output_errors(file.name):
        image.save_as(file, enforce_file_format=True)
