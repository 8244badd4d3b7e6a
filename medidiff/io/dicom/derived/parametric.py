"""Uncertainty in DICOM: a standard deviation as a Parametric Map, in float32 and with a coded unit.

One multi-frame object in the source's study and frame of reference, each frame with the source images that it belongs
to. highdicom builds it; patient and study are then those that every derived image keeps (see `modules`).
"""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code
from pydicom.uid import generate_uid

from medidiff.errors import OutputError
from medidiff.io.dicom.derived.layout import Layout, laid_like
from medidiff.io.dicom.derived.modules import PATIENT_AND_STUDY, code, kept_of
from medidiff.io.dicom.derived.plan import series_wide
from medidiff.io.dicom.derived.references import add_derivation, add_sources, reference_series
from medidiff.io.dicom.derived.source import Source, find_source
from medidiff.io.dicom.derived.verify import verify_geometry
from medidiff.io.dicom.derived.write import RECORD, refuse_place, refuse_volume, save
from medidiff.io.dicom.headers.header import quietly, read_dataset
from medidiff.io.dicom.pixels.values import units
from medidiff.io.dicom.series.stack import LPS_TO_RAS
from medidiff.io.files.atomic import refuse_full, staging_folder
from medidiff.io.files.checks import refuse_shear
from medidiff.io.options import ReadOptions
from medidiff.io.sidecar import write_record
from medidiff.version import __version__
from medidiff.volume import Provenance, Volume

__all__ = ["write_spread"]

_FILE = "PM0001.dcm"
_MOST_BYTES = 2**32 - 2  # a value of DICOM is at most this long
_NO_UNITS = Code("1", "UCUM", "no units")
_UNITS = {  # unit of a scan -> UCUM; PET by the defined terms of Units, C.8.9.1.1.3
    "HU": Code("[hnsf'U]", "UCUM", "Hounsfield unit"),
    "BQML": Code("Bq/ml", "UCUM", "Becquerels per milliliter"),
    "CNTS": Code("{counts}", "UCUM", "Counts"),
    "CPS": Code("{counts}/s", "UCUM", "Counts per second"),
    "PCNT": Code("%", "UCUM", "Percent"),
    "GML": Code("g/ml{SUVbw}", "UCUM", "Standardized Uptake Value body weight"),
    "MLML": Code("ml/ml", "UCUM", "Milliliters per milliliter"),
}
_OFTEN_EMPTY = [
    "PatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "AccessionNumber",
    "StudyID",
    "StudyDate",
    "StudyTime",
]
_DEVIATION = Code("386136009", "SCT", "Standard deviation")


def write_spread(
    volume: Volume,
    path: Path,
    *,
    like: Path,
    provenance: Provenance,
    description: str = "",
    options: ReadOptions | None = None,
) -> list[Path]:
    """Write a standard deviation as a Parametric Map in the study that its source belongs to.

    Args:
        volume: one channel, in the unit of the source, on any grid near the source's.
        path: the folder to write into; made when missing, neither the source's folder nor inside it.
        like: the source series.
        provenance: how it was made.
        description: of the series; the source's own and the task when left out.
        options: how the source was read.

    Returns:
        The object, then the JSON record.

    Raises:
        SettingsError: the scan is synthetic.
        OutputError: the place, the volume or the source does not allow it, or what was read back differs.
    """
    refuse_place(path, like, provenance)
    source = find_source(like, options)
    refuse_volume(volume, source, file=path.name)
    refuse_shear(volume.geometry, file=path.name, error=OutputError)
    if 4 * volume.data.size > _MOST_BYTES:
        found, mend = f"{4 * volume.data.size / 2**30:.1f} GiB in one object", "Write NIfTI."
        raise OutputError("E-SIZE", found, wanted="less than 4 GiB", mend=mend, file=path.name)
    layout = laid_like(volume, source.geometry)
    image = _map(layout, source, provenance=provenance, description=description)
    with staging_folder(path) as stage:
        refuse_full(stage, volume.data.size * 4, file=path.name)
        save(image, stage / _FILE)
        _verify(stage / _FILE, layout, name=path.name)
        record = dataclasses.replace(provenance, decisions=(*provenance.decisions, *_decisions(volume)))
        write_record(stage / RECORD, volume, provenance=record, description=description)
    return [path / _FILE, path / RECORD]


def _decisions(volume: Volume) -> list[str]:
    return [] if volume.data.dtype in (np.float32, np.float16) else ["stored in float32, as Parametric Maps are"]


def _map(layout: Layout, source: Source, *, provenance: Provenance, description: str) -> Dataset:
    common = series_wide(source, provenance=provenance, description=description)
    add_derivation(common, provenance, regridded=not source.is_grid(layout.geometry))
    kept = kept_of(source.header(source.images[0]), sop_class=source.sop_class)
    with quietly():
        image = _built(layout, source, common)
        for keyword in (*PATIENT_AND_STUDY, "BodyPartExamined", "Laterality", "PositionReferenceIndicator"):
            if keyword in kept:
                image.add(kept[keyword])
        for element in common:
            image.add(element)
        image.SpecificCharacterSet, image.Modality = "ISO_IR 192", source.modality
        for k, group in zip(_slices(image, layout), image.PerFrameFunctionalGroupsSequence, strict=True):
            _refer(group, source, layout, k)
        reference_series(image, source.images)
    return image


def _built(layout: Layout, source: Source, common: Dataset) -> Dataset:
    """The object as highdicom makes it, from a stand-in for the source that holds nothing it could stumble over."""
    import highdicom

    lps = LPS_TO_RAS @ layout.geometry.affine
    data = np.ascontiguousarray(layout.data.transpose(2, 1, 0), dtype=np.float32)
    unit = _UNITS.get(units(source.images[0]), _NO_UNITS)
    low, high = float(data.min()), float(data.max())
    centre, width = (low + high) / 2, max(high - low, 1e-6)
    window = highdicom.VOILUTTransformation(window_center=centre, window_width=width, voi_lut_function="LINEAR_EXACT")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about lengths of names, which it may quote
        return highdicom.pm.ParametricMap(
            source_images=[_stand_in(source, common)],
            pixel_array=highdicom.Volume(
                data, lps[:, [2, 1, 0, 3]], "PATIENT", frame_of_reference_uid=common.FrameOfReferenceUID
            ),
            series_instance_uid=common.SeriesInstanceUID,
            series_number=int(common.SeriesNumber),
            sop_instance_uid=generate_uid(),
            instance_number=1,
            manufacturer="medidiff",
            manufacturer_model_name="medidiff",
            software_versions=__version__,
            device_serial_number="none",
            contains_recognizable_visual_features=False,
            real_world_value_mappings=[
                highdicom.pm.RealWorldValueMapping(
                    lut_label="STD",
                    lut_explanation="posterior standard deviation",
                    unit=unit,
                    value_range=(low, high),
                    slope=1.0,
                    intercept=0.0,
                    quantity_definition=_DEVIATION,
                )
            ],
            voi_lut_transformations=[window],
            content_label="SPREAD",
            content_description="Posterior standard deviation; research use only",
            dimension_organization_type="3D",
        )


def _stand_in(source: Source, common: Dataset) -> Dataset:
    image, first = Dataset(), source.images[0]
    for keyword in _OFTEN_EMPTY:
        setattr(image, keyword, None)
    image.StudyInstanceUID, image.FrameOfReferenceUID = common.StudyInstanceUID, common.FrameOfReferenceUID
    image.SeriesInstanceUID, image.SOPInstanceUID, image.SOPClassUID = first.series_uid, first.sop_uid, source.sop_class
    image.Modality, (image.Rows, image.Columns) = source.modality, first.shape
    image.ImagePositionPatient = list(first.position_mm or ())
    image.ImageOrientationPatient = list(first.orientation or ())
    image.PixelSpacing, image.SliceThickness = list(first.spacing_mm or ()), source.geometry.spacing_mm[2]
    return image


def _refer(group: Dataset, source: Source, layout: Layout, k: int) -> None:
    """Derivation Image, C.7.6.16.2.6: the source images of one frame."""
    derivation, grid = Dataset(), layout.geometry
    derivation.DerivationCodeSequence = [code("SPREAD", "99MEDIDIFF", "Standard deviation of posterior samples")]
    add_sources(derivation, source.contributing(grid, k), preserved=source.is_grid(grid))
    group.DerivationImageSequence = [derivation]


def _slices(image: Dataset, layout: Layout) -> list[int]:
    """The slice that each frame shows; highdicom stores them in an order of its own."""
    places = [group.PlanePositionSequence[0].ImagePositionPatient for group in image.PerFrameFunctionalGroupsSequence]
    index = layout.geometry.index(np.array(places, dtype=np.float64) @ LPS_TO_RAS[:3, :3])
    return [int(k) for k in np.rint(index[:, 2])]


def _verify(file: Path, layout: Layout, *, name: str) -> None:
    """Frame by frame, value by value: float32 comes back as it is."""
    with quietly():
        image = read_dataset(file, pixels=True)
    pixels: Any = np.frombuffer(image.FloatPixelData, "<f4").reshape(-1, image.Rows, image.Columns)
    for k, frame in zip(_slices(image, layout), pixels, strict=True):
        if not np.array_equal(frame.T, layout.data[:, :, k].astype(np.float32)):
            found, mend = f"what was read back differs in frame {k + 1}", "Check the disk and run the command again."
            raise OutputError("E-VERIFY", found, mend=mend, file=name)
    verify_geometry(file.parent, layout.geometry, name=name)
