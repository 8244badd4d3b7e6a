"""Invented scans as DICOM: an MR series of an invented subject, and its label map as a segmentation.

Nothing here comes from a patient or a scanner. The identity is made from the number of the case; SyntheticData
(0008,001C) is YES, PatientIdentityRemoved YES, the contributing equipment is the software as Synthesizing Equipment
(109100, DCM), and content is qualified as RESEARCH. There are no dates: those that the Standard lets be empty are
empty, those that it does not are the first day of 1900. UIDs are 2.25 UIDs made from a key, the number of the case and
what they name, so that the same case always gives the same bytes.

Values are stored as `medidiff.io.dicom.derived.stored` says: sixteen bits, at most half a step off.
"""

from __future__ import annotations

import hashlib
import uuid
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code
from pydicom.uid import UID

from medidiff.case import MARK, Case
from medidiff.errors import OutputError
from medidiff.io.dicom.derived.layout import Layout, laid_like
from medidiff.io.dicom.derived.modules import MR, code, decimal
from medidiff.io.dicom.derived.stored import Scale, Storage, plan_storage
from medidiff.io.dicom.derived.write import save
from medidiff.io.dicom.headers.header import quietly, read_dataset
from medidiff.io.dicom.read import read_dicom
from medidiff.io.dicom.series.stack import LPS_TO_RAS
from medidiff.io.files.checks import refuse_nonfinite, refuse_shear, refuse_thin
from medidiff.version import __version__
from medidiff.volume import Geometry, Volume

__all__ = ["Study", "image_name", "is_marked_dicom", "set_pixels", "set_plane", "write_labels", "write_scan"]

_AXIAL = Geometry((1, 1, 1), np.diag((-1.0, -1.0, 1.0, 1.0)))  # columns to the left, rows to the back, slices up
_NO_DAY, _NO_TIME = "19000101", "000000"
_FAMILY = Code("123110", "DCM", "Artificial Intelligence")
_TISSUE = Code("85756007", "SCT", "Tissue")
_PROPERTIES = {
    "CSF": (Code("91720002", "SCT", "Body Substance"), Code("65216001", "SCT", "Cerebrospinal Fluid")),
    "gray matter": (_TISSUE, Code("389081007", "SCT", "Gray Matter")),
    "white matter": (_TISSUE, Code("389080008", "SCT", "White Matter")),
}


@dataclass(frozen=True, slots=True)
class Study:
    """What the series of one invented subject share.

    Args:
        case: the subject.
        key: what all UIDs of the data set are made from.
        contrast: e.g. ``"T1w"``.
        anatomy: e.g. ``"brain"``.
        licence: of the data set.
    """

    case: Case
    key: str
    contrast: str
    anatomy: str
    licence: str

    def uid(self, role: str) -> UID:
        """The UID of a part of this case: ``2.25.`` and a UUID of version 8 as a whole number."""
        digest = bytearray(hashlib.sha256(f"{self.key}/{self.case.number}/{role}".encode()).digest()[:16])
        digest[6], digest[8] = digest[6] & 0x0F | 0x80, digest[8] & 0x3F | 0x80
        return UID(f"2.25.{uuid.UUID(bytes=bytes(digest)).int}")

    def layout(self, data: Volume) -> Layout:
        """The scan or its label map, cut into axial slices as nearly as its grid allows."""
        return laid_like(data, _AXIAL)


def write_scan(study: Study, folder: Path) -> list[Dataset]:
    """Write an invented scan as one MR image a slice, and read it again.

    Args:
        study: whose it is.
        folder: a new one, for this series alone.

    Returns:
        The images without their pixels, in spatial order.

    Raises:
        OutputError: DICOM cannot hold the scan, or what was read back differs.
    """
    volume, name = study.case.image, study.case.name
    refuse_thin(volume.shape, file=name, error=OutputError)
    refuse_shear(volume.geometry, file=name, error=OutputError)
    refuse_nonfinite(volume.data, file=name, error=OutputError)
    layout = study.layout(volume)
    count = layout.geometry.shape[2]
    storage = plan_storage(lambda k: layout.data[:, :, k], [Scale(1.0, 0.0, False)] * count, modality="MR")
    folder.mkdir()
    images = []
    with quietly():
        for k in range(count):
            image = _image(study, layout, storage, k)
            save(image, folder / image_name(k))
            del image.PixelData
            images.append(image)
    _verify(layout, storage, folder, name=name)
    return images


def image_name(k: int) -> str:
    """The file name of slice k, from 0."""
    return f"IM{k + 1:04d}.dcm"


def _image(study: Study, layout: Layout, storage: Storage, k: int) -> Dataset:
    image = _common(study)
    image.SOPClassUID, image.SOPInstanceUID = MR, study.uid(f"image {k}")
    image.Modality, image.SeriesInstanceUID, image.SeriesNumber = "MR", study.uid("series"), 1
    image.SeriesDescription = f"SYNTHETIC {study.contrast}"
    image.Manufacturer = image.ManufacturerModelName = "medidiff"
    image.SoftwareVersions = __version__
    image.PatientPosition = image.PositionReferenceIndicator = None
    image.FrameOfReferenceUID = study.uid("frame of reference")
    image.ImageType, image.InstanceNumber, image.AcquisitionNumber = ["DERIVED", "SECONDARY", "OTHER"], k + 1, None
    image.DerivationDescription = MARK
    image.LossyImageCompression = "00"
    image.ScanningSequence, image.SequenceVariant, image.ScanOptions = "RM", "NONE", None
    image.MRAcquisitionType = image.RepetitionTime = image.EchoTime = image.EchoTrainLength = None
    set_plane(image, layout.geometry, k)
    set_pixels(image, layout, storage.scales[k], k)
    return image


def _common(study: Study) -> Dataset:
    """Patient, study and SOP Common, C.7.1, C.7.2 and C.12.1."""
    case, image = study.case, Dataset()
    age, sex = case.asked.get("age"), case.asked.get("sex")
    image.SpecificCharacterSet, image.SyntheticData, image.ContentQualification = "ISO_IR 192", "YES", "RESEARCH"
    image.PatientName, image.PatientID, image.PatientBirthDate = f"Synthetic^{case.name}", case.name, None
    image.PatientSex = sex if sex in ("F", "M", "O") else None
    if isinstance(age, int | float) and 0 <= age < 1000:
        image.PatientAge = f"{round(age):03d}Y"
    image.PatientIdentityRemoved, image.DeidentificationMethod = "YES", "Synthetic: there is no patient"
    image.PatientComments = MARK
    image.StudyInstanceUID, image.StudyID = study.uid("study"), case.name
    image.StudyDate = image.StudyTime = image.ReferringPhysicianName = image.AccessionNumber = None
    image.StudyDescription, image.BodyPartExamined = "SYNTHETIC; research use only", study.anatomy.upper()[:16]
    image.ContributingEquipmentSequence = [_equipment(study)]
    return image


def _equipment(study: Study) -> Dataset:
    item, made = Dataset(), study.case.provenance
    item.PurposeOfReferenceCodeSequence = [code("109100", "DCM", "Synthesizing Equipment")]
    item.Manufacturer = item.ManufacturerModelName = "medidiff"
    item.SoftwareVersions = made.version[:64]
    prior = ", ".join(f"{key} {value}" for key, value in sorted(made.prior.items()))
    text = f"{made.task}; prior: {prior or 'none'}; seed {made.seed}; case {study.case.number}; {study.licence}"
    item.ContributionDescription = text[:1024]
    return item


def set_plane(image: Dataset, grid: Geometry, k: int) -> None:
    """Image Plane, C.7.6.2: LPS, mm."""
    lps = LPS_TO_RAS @ grid.affine
    across, down, apart = grid.spacing_mm
    row, column, position = lps[:3, 0] / across, lps[:3, 1] / down, lps[:3, 3] + k * lps[:3, 2]
    image.SliceThickness = image.SpacingBetweenSlices = decimal(apart)
    image.ImagePositionPatient = [decimal(float(value)) for value in position]
    image.ImageOrientationPatient = [decimal(float(value)) for value in (*row, *column)]
    image.SliceLocation = decimal(float(np.dot(np.cross(row, column), position)))
    image.PixelSpacing = [decimal(down), decimal(across)]


def set_pixels(image: Dataset, layout: Layout, scale: Scale, k: int) -> None:
    """Image Pixel, C.7.6.3, of slice k."""
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.Columns, image.Rows = layout.geometry.shape[:2]
    image.BitsAllocated = image.BitsStored = 16
    image.HighBit, image.PixelRepresentation = 15, int(scale.signed)
    if scale.is_rescaled:
        image.RescaleSlope, image.RescaleIntercept = decimal(scale.slope), decimal(scale.intercept)
        image.RescaleType = "US"  # DICOM's word for no unit
    image.PixelData = scale.store(layout.data[:, :, k]).T.astype("<i2" if scale.signed else "<u2").tobytes()
    image["PixelData"].VR = "OW"


def _verify(layout: Layout, storage: Storage, folder: Path, *, name: str) -> None:
    again = read_dicom(folder).volume
    reals = layout.data.astype(np.float64)
    limit = storage.scales[0].error + np.finfo(np.float32).eps * np.abs(reals)
    same = again.shape == layout.geometry.shape and again.geometry.distance_mm(layout.geometry) < 1e-4
    if not same or not (np.abs(again.data[0] - reals) <= limit).all():
        found, mend = "what was read back differs from what was written", "Check the disk and run the command again."
        raise OutputError("E-VERIFY", found, mend=mend, file=name)


def write_labels(study: Study, labels: Volume, images: list[Dataset], file: Path) -> None:
    """Write the label map of a case as a segmentation of its images, one binary segment for each label but 0.

    Args:
        study: whose it is.
        labels: of the case.
        images: what `write_scan` gave.
        file: where it goes.

    Raises:
        OutputError: what was read back differs.
    """
    data = np.ascontiguousarray(study.layout(labels).data.transpose(2, 1, 0)).astype(np.uint8)
    with quietly(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        segmentation = _segmentation(study, images, data)
        save(segmentation, file)
    _verify_labels(data, [image.SOPInstanceUID for image in images], file)


def _segmentation(study: Study, images: list[Dataset], data: Any) -> Dataset:
    import highdicom

    segmentation: Dataset = highdicom.seg.Segmentation(
        source_images=images,
        pixel_array=data,
        segmentation_type="BINARY",
        segment_descriptions=list(_segments(study)),
        series_instance_uid=study.uid("label series"),
        series_number=2,
        sop_instance_uid=study.uid("labels"),
        instance_number=1,
        manufacturer="medidiff",
        manufacturer_model_name="medidiff",
        software_versions=__version__,
        device_serial_number="none",
        content_label="LABELS",
        content_description="SYNTHETIC; drawn with the scan",
        series_description="SYNTHETIC labels",
    )
    for element in _common(study):
        segmentation.add(element)
    segmentation.ContentDate, segmentation.ContentTime = _NO_DAY, _NO_TIME
    for keyword in ("InstanceCreationDate", "InstanceCreationTime", "SeriesDate", "SeriesTime"):
        segmentation.pop(keyword, None)
    organization = study.uid("dimensions")
    for item in (*segmentation.DimensionOrganizationSequence, *segmentation.DimensionIndexSequence):
        item.DimensionOrganizationUID = organization
    return segmentation


def _segments(study: Study) -> Iterator[Any]:
    import highdicom

    algorithm = highdicom.AlgorithmIdentificationSequence(
        name="medidiff", version=study.case.provenance.version, family=_FAMILY
    )
    for number, name in list(enumerate(study.case.label_names))[1:]:
        own = (_TISSUE, Code(f"LABEL{number}", "99MEDIDIFF", name[:64]))
        category, kind = _PROPERTIES.get(name, own)
        yield highdicom.seg.SegmentDescription(
            segment_number=number,
            segment_label=name[:64],
            segmented_property_category=category,
            segmented_property_type=kind,
            algorithm_type="AUTOMATIC",
            algorithm_identification=algorithm,
        )


def _verify_labels(data: Any, slices: list[str], file: Path) -> None:
    """Frame by frame: which segment, which slice, which voxels."""
    image = read_dataset(file, pixels=True)
    size = image.Rows * image.Columns
    bits = np.unpackbits(np.frombuffer(image.PixelData, np.uint8), bitorder="little")
    again = np.zeros_like(data)
    for place, group in enumerate(image.PerFrameFunctionalGroupsSequence):
        number = group.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        source = group.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        mask = bits[place * size : (place + 1) * size].reshape(image.Rows, image.Columns).astype(bool)
        again[slices.index(source)][mask] = number
    if not np.array_equal(again, data):
        found, mend = "labels that were read back differ", "Check the disk and run the command again."
        raise OutputError("E-VERIFY", found, mend=mend, file=file.name)


def is_marked_dicom(stream: BinaryIO) -> bool:
    """Whether a DICOM file says that its pixels are synthetic and its identity was removed."""
    try:
        image = read_dataset(stream, pixels=False)
        return bool(image.get("SyntheticData") == image.get("PatientIdentityRemoved") == "YES")
    except Exception:  # pydicom raises nearly anything on damaged bytes
        return False
