"""DICOM headers as plain values: every file below a path is looked at, none is decoded.

A file is *junk* (skipped, with a record) when it is no DICOM file or no CT, MR or PT image. A DICOM image that cannot
be trusted is never skipped, because the stack without it would be shorter and look whole: it carries its `fault`, which
is raised when its series is used. Names, dates, UIDs and free text of the patient stay out of every message.
"""

from __future__ import annotations

import logging
import math
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, Literal

import pydicom
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileDataset
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from medidiff.errors import InputError
from medidiff.io.contents import Skipped
from medidiff.io.files.checks import REFETCH

__all__ = ["NATIVE_SYNTAXES", "Header", "Tile", "frames_of", "quietly", "read_dataset", "scan"]

_CLASSES = {
    "1.2.840.10008.5.1.4.1.1.2": "CT",
    "1.2.840.10008.5.1.4.1.1.4": "MR",
    "1.2.840.10008.5.1.4.1.1.128": "PT",
}
_ENHANCED = {
    "1.2.840.10008.5.1.4.1.1.2.1": "CT",
    "1.2.840.10008.5.1.4.1.1.4.1": "MR",
    "1.2.840.10008.5.1.4.1.1.130": "PT",
    "1.2.840.10008.5.1.4.1.1.2.2": "CT",
    "1.2.840.10008.5.1.4.1.1.4.4": "MR",
    "1.2.840.10008.5.1.4.1.1.128.1": "PT",
}
_DICOM_ROOT = "1.2.840.10008."
_SECONDARY = "1.2.840.10008.5.1.4.1.1.7"  # looked at only to say what is wrong with it
NATIVE_SYNTAXES = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian)
logging.getLogger("pydicom").addHandler(logging.NullHandler())  # or its warnings reach stderr, values and all
_LARGEST_FRAME = 2**30  # bytes; the largest detector makes a thirtieth of this


@dataclass(frozen=True, slots=True)
class Tile:
    """One slice of a mosaic.

    Args:
        row: first row of the slice in the stored image.
        column: first column.
        whole: rows and columns of the stored image.
    """

    row: int
    column: int
    whole: tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What the header of one DICOM image says.

    Args:
        file: the file.
        sop_class: UID of the kind of object.
        sop_uid: UID of this image.
        series_uid: UID of its series.
        frame_uid: UID of its frame of reference; empty when the file has none.
        modality: ``"CT"``, ``"MR"``, ``"PT"`` or what the file says.
        syntax: UID of the transfer syntax.
        image_type: values of ImageType.
        shape: rows, columns.
        frames: number of frames in the file; 1 for a classic image.
        frame: which of them this is, from 0; None for a classic image or a multi-frame file as a whole.
        enhanced: whether it is a multi-frame object of the enhanced kind.
        photometric: e.g. ``"MONOCHROME2"``.
        bits: bits allocated, stored, highest bit, and 1 when signed.
        position_mm: ImagePositionPatient in LPS; None when missing.
        orientation: ImageOrientationPatient, six cosines in LPS; None when missing.
        spacing_mm: PixelSpacing, between rows and between columns; None when missing.
        rescale: slope and intercept; None when missing.
        units: RescaleType or the PET unit.
        clock: what tells images of a dynamic or multi-echo series apart, by attribute name.
        imager_spacing_mm: ImagerPixelSpacing, at the detector; None when missing.
        thickness_mm: SliceThickness; None when missing or no number.
        between_mm: SpacingBetweenSlices; None when missing or no number.
        number: InstanceNumber; None when missing or no number.
        padding: PixelPaddingValue and PixelPaddingRangeLimit as they are stored, unsigned; empty when missing.
        tile: which part of a mosaic this is; None for a whole image.
        size: bytes in the file when its header was read.
        fault: why this image cannot be used; None when it can.
    """

    file: Path
    sop_class: str = ""
    sop_uid: str = ""
    series_uid: str = ""
    frame_uid: str = ""
    modality: str = "OT"
    syntax: str = ""
    image_type: tuple[str, ...] = ()
    shape: tuple[int, int] = (0, 0)
    frames: int = 1
    frame: int | None = None
    enhanced: bool = False
    photometric: str = ""
    bits: tuple[int, int, int, int] = (16, 16, 15, 0)
    position_mm: tuple[float, ...] | None = None
    orientation: tuple[float, ...] | None = None
    spacing_mm: tuple[float, ...] | None = None
    rescale: tuple[float, float] | None = None
    units: str = ""
    clock: tuple[tuple[str, str], ...] = ()
    imager_spacing_mm: tuple[float, ...] | None = None
    thickness_mm: float | None = None
    between_mm: float | None = None
    number: int | None = None
    padding: tuple[int, ...] = ()
    tile: Tile | None = None
    size: int = 0
    fault: InputError | None = None

    @property
    def name(self) -> str:
        """File name, and the frame from 1 as DICOM counts, for messages."""
        return self.file.name if self.frame is None else f"{self.file.name} frame {self.frame + 1}"


@contextmanager
def quietly() -> Iterator[None]:
    """Keep pydicom's warnings, which may quote the patient's data, away from the user."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def scan(path: Path) -> tuple[list[Header], list[Skipped]]:
    """The images at a path, in order of file name, and the files that are none.

    Args:
        path: one file, or a folder that is searched with its sub-folders; symbolic links to folders are not followed.
    """
    headers: list[Header] = []
    skipped: list[Skipped] = []
    for file in _files(path):
        found = _look(file)
        if isinstance(found, Header):
            headers.append(found)
        else:
            skipped.append(found)
    images = [h for h in headers if h.sop_class != _SECONDARY]
    if images:
        skipped += [Skipped(h.file.name, "a secondary capture") for h in headers if h.sop_class == _SECONDARY]
    return images or headers, skipped


def _files(path: Path) -> Iterator[Path]:
    if not path.is_dir():
        yield path
        return
    for folder, children, names in os.walk(path):
        children[:] = sorted(name for name in children if not name.startswith(".medidiff-"))
        yield from (Path(folder) / name for name in sorted(names))


def _look(file: Path) -> Header | Skipped:
    if not file.is_file():
        return Skipped(file.name, "not a regular file")
    try:
        with file.open("rb") as stream:
            start = stream.read(1024)
    except OSError:
        return _faulty(file, "E-READ", "a file that the system refuses to read")
    if not is_dicom(start):
        if start and (b"DICM" in start or not any(start)):
            return _faulty(file, "E-TRUNC", "the remains of a DICOM file, damaged at its start")
        return Skipped(file.name, "not a DICOM file" if start else "no bytes in it")
    if str(DeflatedExplicitVRLittleEndian).encode() in start[132:]:
        return _faulty(file, "E-NODECODER", "the deflated transfer syntax, which is not read")
    try:
        with quietly():
            return _parse(file, read_dataset(file, pixels=False))
    except InputError as fault:
        return Header(file=file, fault=fault)
    except Exception:  # pydicom raises nearly anything on damaged bytes
        return _faulty(file, "E-TRUNC", "a header that cannot be parsed")


def is_dicom(start: bytes) -> bool:
    """Whether the first bytes of a file are DICOM's, with or without the preamble."""
    if start[128:132] == b"DICM":
        return True
    group, element = start[:2], int.from_bytes(start[2:4], "little")
    if group == b"\x02\0":
        return element == 0 and start[4:6] == b"UL"
    return (
        group == b"\x08\0" and element in (0, 1, 5, 8, 0x12, 0x16) and (start[4:6].isalpha() or start[6:8] == b"\0\0")
    )


def read_dataset(file: Path | BinaryIO, *, pixels: bool) -> FileDataset:
    """Parse one DICOM file, with or without pixels; one without a meta header is given the syntax that was found."""
    with quietly():
        dataset = pydicom.dcmread(file, stop_before_pixels=not pixels, force=True)
        if not dataset.file_meta.get("TransferSyntaxUID"):
            implicit = dataset.original_encoding[0]
            dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
    return dataset


def _faulty(file: Path, code: str, found: str) -> Header:
    return Header(file=file, fault=InputError(code, found, mend=REFETCH, file=file.name))


def _parse(file: Path, dataset: FileDataset) -> Header | Skipped:
    named = {_text(dataset, "SOPClassUID"), str(dataset.file_meta.get("MediaStorageSOPClassUID") or "")} - {""}
    images = {uid for uid in named if uid in _CLASSES or uid in _ENHANCED or uid == _SECONDARY}
    if not images and named and all(_is_other_class(uid) for uid in named):
        return Skipped(file.name, "no CT, MR or PT image but another kind of DICOM object")
    if len(named) != 1 or not images:
        return _faulty(file, "E-TRUNC", "a damaged header that does not tell what the file is")
    header = _values(file, dataset, images.pop())
    fault = _fault(header, dataset)
    return header if fault is None else replace(header, fault=fault)


def _is_other_class(uid: str) -> bool:
    """Whether a UID names a known kind of object or a private one; a cut or altered UID does neither."""
    if uid.startswith(_DICOM_ROOT) or _DICOM_ROOT.startswith(uid):
        return UID(uid).name != uid
    return UID(uid).is_valid


def _values(file: Path, dataset: FileDataset, sop_class: str) -> Header:
    slope, intercept = (
        _decimals(dataset, name, count=1, file=file.name) for name in ("RescaleSlope", "RescaleIntercept")
    )
    bits = [_integer(dataset, n) or 0 for n in ("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation")]
    clock = (
        "ImageType",
        "TemporalPositionIdentifier",
        "EchoNumbers",
        "AcquisitionNumber",
        "DiffusionBValue",
        "AcquisitionTime",
    )
    return Header(
        file=file,
        sop_class=sop_class,
        sop_uid=_text(dataset, "SOPInstanceUID"),
        series_uid=_text(dataset, "SeriesInstanceUID"),
        frame_uid=_text(dataset, "FrameOfReferenceUID"),
        modality=_text(dataset, "Modality") or {**_CLASSES, **_ENHANCED}.get(sop_class, "OT"),
        syntax=str(dataset.file_meta.TransferSyntaxUID),
        image_type=tuple(_text(dataset, "ImageType").upper().split("\\")),
        shape=(_integer(dataset, "Rows") or 0, _integer(dataset, "Columns") or 0),
        frames=int(_text(dataset, "NumberOfFrames") or 1),
        enhanced=sop_class in _ENHANCED,
        photometric=_text(dataset, "PhotometricInterpretation"),
        bits=(bits[0], bits[1], bits[2], bits[3]),
        position_mm=_decimals(dataset, "ImagePositionPatient", count=3, file=file.name),
        orientation=_decimals(dataset, "ImageOrientationPatient", count=6, file=file.name),
        spacing_mm=_decimals(dataset, "PixelSpacing", count=2, file=file.name),
        rescale=_scale(slope, intercept),
        units=_text(dataset, "Units") or _text(dataset, "RescaleType"),
        clock=tuple((name, _text(dataset, name)) for name in clock),
        imager_spacing_mm=_decimals(dataset, "ImagerPixelSpacing", count=2, file=file.name),
        thickness_mm=_number(dataset, "SliceThickness"),
        between_mm=_number(dataset, "SpacingBetweenSlices"),
        number=None if (number := _number(dataset, "InstanceNumber")) is None else int(number),
        padding=_padding(dataset),
        size=file.stat().st_size,
    )


def _scale(slope: tuple[float, ...] | None, intercept: tuple[float, ...] | None) -> tuple[float, float] | None:
    """Both, or NaN for the one that is missing beside the other, which `prepare_slices` refuses."""
    if slope is None and intercept is None:
        return None
    return (math.nan if slope is None else slope[0], math.nan if intercept is None else intercept[0])


def _number(dataset: Dataset, keyword: str) -> float | None:
    """A number that is only compared or counted with, so that a broken one may be ignored."""
    try:
        value = float(_text(dataset, keyword))
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _padding(dataset: Dataset) -> tuple[int, ...]:
    """Stored bit patterns; whether they are signed is told by PixelRepresentation, whatever their own type says."""
    order: Literal["little", "big"] = "big" if dataset.original_encoding[1] is False else "little"
    found = []
    for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit"):
        element = dataset.get_item(keyword) if keyword in dataset else None
        value = None if element is None else element.value
        if isinstance(value, bytes) and len(value) in (2, 4):
            found.append(int.from_bytes(value, order))
        elif isinstance(value, int):
            found.append(value & (0xFFFF if -(2**15) <= value < 2**16 else 0xFFFFFFFF))
        else:
            break
    return tuple(found)


def _text(dataset: Dataset, keyword: str) -> str:
    """A short ASCII value as stored, before pydicom interprets it; empty when missing."""
    if keyword not in dataset:
        return ""
    element = dataset.get_item(keyword)
    value = element.value if isinstance(element, RawDataElement) else dataset[keyword].value
    if isinstance(value, bytes):
        return value.decode("latin-1").strip(" \0")
    if isinstance(value, (str, int, float)) or value is None:
        return str(value if value is not None else "")
    return "\\".join(str(part) for part in value)


def _integer(dataset: Dataset, keyword: str) -> int | None:
    value = dataset.get(keyword)
    return int(value) if isinstance(value, int) else None


def _decimals(dataset: Dataset, keyword: str, *, count: int, file: str) -> tuple[float, ...] | None:
    """Decimal strings as numbers; strings longer than DICOM's 16 characters are common and read as they stand."""
    text = _text(dataset, keyword)
    if not text.strip("\\ "):
        return None
    try:
        values = tuple(float(part) for part in text.split("\\"))
    except ValueError:
        shown = "".join(c if c in "0123456789.,+-eE\\ " else "?" for c in text[:64])
        raise InputError(
            "E-BADDS", f"the text {shown!r}", wanted="decimal numbers", mend=REFETCH, file=file, attribute=keyword
        ) from None
    if not all(math.isfinite(v) for v in values):
        raise InputError("E-NONFINITE", "a value that is not finite", mend=REFETCH, file=file, attribute=keyword)
    if len(values) != count:
        found = f"{len(values)} values"
        raise InputError("E-BADDS", found, wanted=str(count), mend=REFETCH, file=file, attribute=keyword)
    return values


def _fault(header: Header, dataset: FileDataset) -> InputError | None:
    """Why this image cannot be used by itself, from its header alone."""
    samples, allocated, stored = _integer(dataset, "SamplesPerPixel"), *header.bits[:2]
    size = math.prod(header.shape) * header.frames * allocated // 8 * (samples or 1)
    held = header.file.stat().st_size
    native = header.syntax in NATIVE_SYNTAXES
    rules = (
        (not header.series_uid or not header.sop_uid, "E-TRUNC", "a header without SOP or series instance UID"),
        (min(*header.shape, allocated) == 0, "E-TRUNC", "a header without Rows, Columns or BitsAllocated"),
        (samples not in (None, 1) or not header.photometric.startswith("MONO"), "E-COLOUR", "pixels that are not grey"),
        (size > _LARGEST_FRAME * header.frames, "E-SIZE", f"{size / 2**30:.1f} GiB of pixels declared"),
        (native and size > held, "E-TRUNC", f"{held} bytes in the file, {size} of pixels declared"),
        (allocated not in (8, 16, 32), "E-DTYPE", f"{allocated} bits allocated"),
        (not 1 <= stored <= allocated or header.bits[2] != stored - 1, "E-DTYPE", f"bits {header.bits[:3]}"),
        ("ModalityLUTSequence" in dataset, "E-BADRESCALE", "a modality look-up table instead of slope and intercept"),
        ("MOSAIC" in header.image_type, "E-MOSAIC", "a mosaic of slices in one image"),
        (header.frames > 1 and not header.enhanced, "E-MULTIFRAME", "several frames in a single-frame object"),
    )
    for broken, code, found in rules:
        if broken:
            return InputError(code, found, mend=REFETCH, file=header.file.name)
    return None


def frames_of(header: Header) -> list[Header]:
    """The frames of an enhanced multi-frame file, each as if it were a classic image.

    Raises:
        InputError: the functional groups are missing or broken.
    """
    try:
        with quietly():
            dataset = read_dataset(header.file, pixels=False)
            shared = dataset.get("SharedFunctionalGroupsSequence") or [Dataset()]
            each = list(dataset.PerFrameFunctionalGroupsSequence)
            if len(each) != header.frames:
                raise ValueError
            return [_frame(header, number, group=group, shared=shared[0]) for number, group in enumerate(each)]
    except InputError:
        raise
    except Exception as error:  # as in `_look`
        found = "functional groups that do not fit the frames"
        raise InputError("E-MULTIFRAME", found, wanted="one group a frame", mend=REFETCH, file=header.name) from error


def _frame(header: Header, number: int, *, group: Dataset, shared: Dataset) -> Header:
    def item(sequence: str) -> Dataset:
        found = group.get(sequence) or shared.get(sequence) or [Dataset()]
        return Dataset(found[0])

    def decimals(sequence: str, keyword: str, count: int) -> tuple[float, ...] | None:
        return _decimals(item(sequence), keyword, count=count, file=f"{header.name} frame {number + 1}")

    scale = [decimals("PixelValueTransformationSequence", f"Rescale{part}", 1) for part in ("Slope", "Intercept")]
    clock = (
        ("FrameContentSequence", "TemporalPositionIndex"),
        ("MREchoSequence", "EffectiveEchoTime"),
        ("MRDiffusionSequence", "DiffusionBValue"),
        ("MRImageFrameTypeSequence", "FrameType"),
    )
    return replace(
        header,
        frame=number,
        position_mm=decimals("PlanePositionSequence", "ImagePositionPatient", 3),
        orientation=decimals("PlaneOrientationSequence", "ImageOrientationPatient", 6),
        spacing_mm=decimals("PixelMeasuresSequence", "PixelSpacing", 2),
        rescale=_scale(scale[0], scale[1]),
        units=header.units or _text(item("PixelValueTransformationSequence"), "RescaleType"),
        clock=tuple((keyword, _text(item(sequence), keyword)) for sequence, keyword in clock),
    )
