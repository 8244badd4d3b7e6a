"""DICOM headers as plain values: every file is looked at, none is decoded.

A file is *junk* (skipped, with a record) when it is no DICOM file or no CT, MR or PT image. A DICOM image that cannot
be trusted is never skipped, because the stack without it would be shorter and look whole: it carries its `fault`, which
is raised when its series is used. Names, dates, UIDs and free text of the patient stay out of every message.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import pydicom
from pydicom.dataset import FileDataset
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from medidiff.errors import InputError
from medidiff.io.contents import Skipped
from medidiff.io.dicom.headers.elements import Outline, Window, is_dicom, outline, plain_bytes
from medidiff.io.dicom.headers.tags import META, WANTED, clock_of, concatenation_of, padding_of, rescale_of
from medidiff.io.dicom.headers.tile import Tile
from medidiff.io.dicom.headers.values import Values, tag_of
from medidiff.io.dicom.privacy.vocabulary import word
from medidiff.io.files.checks import REFETCH

__all__ = ["NATIVE_SYNTAXES", "Header", "is_dicom", "quietly", "read_dataset", "scan"]

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
_PARAMETRIC = "1.2.840.10008.5.1.4.1.1.30"  # in floats; one of integers is left aside
_DICOM_ROOT = "1.2.840.10008."
_SECONDARY = "1.2.840.10008.5.1.4.1.1.7"  # looked at only to say what is wrong with it
_DIRECTORY = "1.2.840.10008.1.3.10"
NATIVE_SYNTAXES = (
    ImplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
)
logging.getLogger("pydicom").addHandler(logging.NullHandler())  # or its warnings reach stderr, values and all
_LARGEST_FRAME = 2**30  # bytes; the largest detector makes a thirtieth of this


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
        floating: whether its pixels are float32, as those of a parametric map.
        photometric: e.g. ``"MONOCHROME2"``.
        bits: bits allocated, stored, highest bit, and 1 when signed.
        position_mm: ImagePositionPatient in LPS; None when missing.
        orientation: ImageOrientationPatient, six cosines in LPS; None when missing.
        spacing_mm: PixelSpacing, between rows and between columns; None when missing.
        rescale: slope and intercept, NaN for one that is missing; None when both are.
        units: RescaleType or the PET unit.
        clock: what tells images of a dynamic or multi-echo series apart, by attribute name.
        imager_spacing_mm: ImagerPixelSpacing, at the detector; None when missing.
        thickness_mm: SliceThickness; None when missing or no number.
        between_mm: SpacingBetweenSlices; None when missing or no number.
        number: InstanceNumber; None when missing or no number.
        series: SeriesNumber; None when missing or no integer.
        padding: PixelPaddingValue and PixelPaddingRangeLimit as they are stored, unsigned; empty when missing.
        tile: which part of a mosaic this is; None for a whole image.
        size: bytes in the file when its header was read.
        stored: offset of the pixel data and bytes of it, in the file or what it inflates to; None when absent.
        parts: of a file that is part of a concatenation: its UID, which part this is, and of how many (0 unknown).
        stack: name of the stack that an enhanced frame belongs to; empty when it has none.
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
    floating: bool = False
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
    series: int | None = None
    padding: tuple[int, ...] = ()
    tile: Tile | None = None
    size: int = 0
    stored: tuple[int, int] | None = None
    parts: tuple[str, int, int] | None = None
    stack: str = ""
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


def scan(files: Iterable[Path]) -> tuple[list[Header], list[Skipped]]:
    """The images among some files, in the order given, and the files that are none.

    Args:
        files: regular files, whatever they hold.
    """
    found = [_look(file) for file in files]
    headers = [entry for entry in found if isinstance(entry, Header)]
    skipped = [entry for entry in found if isinstance(entry, Skipped)]
    series = {h.series_uid for h in headers if not _is_of_another_kind(h)} - {""}
    # one with a place in the series of other images is a slice in every respect but its class
    placed = {h.file for h in headers if (h.position_mm or h.orientation) and h.series_uid in series}
    aside = [h for h in headers if _is_of_another_kind(h) and h.file not in placed]
    images = [h for h in headers if h.file in placed or not _is_of_another_kind(h)]
    if not images:
        aside = [h for h in headers if h.sop_class != _SECONDARY]
        images = [h for h in headers if h.sop_class == _SECONDARY]
    return images, skipped + [Skipped(h.file.name, _other_kind(h.sop_class)) for h in aside]


def _is_of_another_kind(header: Header) -> bool:
    return header.sop_class not in ("", *_CLASSES, *_ENHANCED, _PARAMETRIC)


def _look(file: Path) -> Header | Skipped:
    try:
        with file.open("rb", buffering=0) as stream:
            window = Window(stream)
            start = window.get(0, 1024)
            if is_dicom(start):
                with quietly():
                    return _parse(file, outline(window, WANTED, name=file.name))
    except InputError as fault:
        return Header(file=file, fault=fault)
    except OSError:
        return _faulty(file, "E-READ", "a file that the system refuses to read")
    except Exception:  # damaged bytes find every way
        return _faulty(file, "E-TRUNC", "a header that cannot be parsed")
    if start and (b"DICM" in start or not any(start) or (b"\0" in start and _DICOM_ROOT.encode() in start)):
        return _faulty(file, "E-TRUNC", "the remains of a DICOM file, damaged at its start")
    return Skipped(file.name, "not a DICOM file" if start else "no bytes in it")


def read_dataset(source: Path | BinaryIO, *, pixels: bool) -> FileDataset:
    """Parse one DICOM file, with or without pixels; one without a meta header is given the syntax that was found.

    A deflated file comes inflated, as explicit VR little endian. Elements that nest too many sequences are left out.

    Args:
        source: a file, or all of its bytes as a stream.
        pixels: whether to go on to the pixels.

    Raises:
        InputError: ``E-BOMB``, the deflated part inflates beyond all reason.
    """
    if isinstance(source, Path):
        with source.open("rb", buffering=0) as stream:
            plain = plain_bytes(stream, META, name=source.name)
    else:
        plain = plain_bytes(source, META, name="")
        source.seek(0)
    with quietly():
        file = source if plain is None else BytesIO(plain)
        dataset = pydicom.dcmread(file, stop_before_pixels=not pixels, force=True)
        if not dataset.file_meta.get("TransferSyntaxUID"):
            dataset.file_meta.TransferSyntaxUID = _found_syntax(dataset)
    return dataset


def _found_syntax(dataset: FileDataset) -> UID:
    implicit, little = dataset.original_encoding
    if implicit:
        return ImplicitVRLittleEndian
    return ExplicitVRLittleEndian if little else ExplicitVRBigEndian


def _faulty(file: Path, code: str, found: str) -> Header:
    mend = "Fetch the file again, or move it away if it is no part of the scan."
    return Header(file=file, fault=InputError(code, found, mend=mend, file=file.name))


def _parse(file: Path, found: Outline) -> Header | Skipped:
    values = Values(file.name, found.values, big=found.big)
    outer, inner = values.text("MediaStorageSOPClassUID"), values.text("SOPClassUID")
    named = {outer, inner} - {""}
    images = {uid for uid in named if uid in _CLASSES or uid in _ENHANCED or uid == _SECONDARY}
    if named == {_PARAMETRIC} and not values.text("BitsStored"):
        images = set(named)
    agreed = len(named) == 1 and (bool(outer) == found.meta or outer == _DIRECTORY) and (inner or outer == _DIRECTORY)
    if not images and agreed and _is_other_class(outer or inner):
        return _another_kind(file, outer or inner, values, found)
    if len(named) != 1 or not images:
        if found.pixels is None and found.needed > found.size:
            return Header(file=file, fault=_cut(file, found))
        return _faulty(file, "E-TRUNC", "a damaged header that does not tell what the file is")
    sop_class = images.pop()
    known = Header(
        file=file,
        sop_class=sop_class,
        modality={**_CLASSES, **_ENHANCED}.get(sop_class, "OT"),
        sop_uid=values.text("SOPInstanceUID"),
        series_uid=values.text("SeriesInstanceUID"),
        syntax=found.syntax,
        size=found.file_size,
        stored=found.pixels,
    )
    fault = _damage(known, found)
    try:
        header = _values(known, values)
        if found.pixels is not None or found.needed <= found.size:  # else it is cut in its header, and that is why
            fault = _fault(header, values, found) or fault
    except InputError as broken:
        return replace(known, fault=fault or broken)
    return header if fault is None else replace(header, fault=fault)


def _is_other_class(uid: str) -> bool:
    """Whether a UID names a known kind of object or a private one; a cut or altered UID does neither."""
    if uid.startswith(_DICOM_ROOT) or _DICOM_ROOT.startswith(uid):
        return bool(UID(uid).type)  # empty for what the Standard does not list
    return UID(uid).is_valid


def _another_kind(file: Path, uid: str, values: Values, found: Outline) -> Header | Skipped:
    """What is no CT, MR or PT image: kept where it has pixels and a place, as a slice of a series has."""
    if found.pixels is None or not (values.text("ImagePositionPatient") or values.text("ImageOrientationPatient")):
        return Skipped(file.name, _other_kind(uid))
    text = f"in the series, {_other_kind(uid)}"
    mend = "Move it away if it is no part of the scan, or fetch it again from the archive."
    fault = InputError("E-MIXMODALITY", text, wanted="one kind of image", mend=mend, file=file.name)
    place = (0.0, 0.0, 0.0)  # that there is one is all that counts
    return Header(file=file, sop_class=uid, series_uid=values.text("SeriesInstanceUID"), position_mm=place, fault=fault)


def _other_kind(uid: str) -> str:
    if uid == _DIRECTORY:
        return "a DICOMDIR, whose list of files is not followed"
    if uid == _SECONDARY:
        return "a secondary capture"
    kind = UID(uid).name.removesuffix(" Storage") if UID(uid).type else "private"
    return f"a DICOM object of another kind: {kind}"


def _values(known: Header, values: Values) -> Header:
    bits = [values.integer(n) or 0 for n in ("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation")]
    floating = known.sop_class == _PARAMETRIC
    bits = [bits[0], 32, 31, 0] if floating else bits
    frames = values.integer("NumberOfFrames") if values.text("NumberOfFrames") else 1
    number = values.number("InstanceNumber")
    return replace(
        known,
        frame_uid=values.text("FrameOfReferenceUID"),
        modality=word(values.text("Modality")) or known.modality,
        image_type=tuple(values.text("ImageType").upper().split("\\")),
        shape=(values.integer("Rows") or 0, values.integer("Columns") or 0),
        frames=frames or 0,
        enhanced=known.sop_class in _ENHANCED or floating,
        floating=floating,
        photometric=word(values.text("PhotometricInterpretation")),
        bits=(bits[0], bits[1], bits[2], bits[3]),
        position_mm=values.decimals("ImagePositionPatient", count=3),
        orientation=values.decimals("ImageOrientationPatient", count=6),
        spacing_mm=values.decimals("PixelSpacing", count=2),
        rescale=rescale_of(values),
        units=word(values.text("Units") or values.text("RescaleType"), other="unlisted"),
        clock=clock_of(values),
        imager_spacing_mm=values.decimals("ImagerPixelSpacing", count=2),
        thickness_mm=values.number("SliceThickness"),
        between_mm=values.number("SpacingBetweenSlices"),
        number=None if number is None else int(number),
        series=values.integer("SeriesNumber"),
        padding=padding_of(values),
        parts=concatenation_of(values),
    )


def _cut(file: Path, found: Outline) -> InputError:
    place = "in its header" if found.pixels is None else "in its pixels"
    text, wanted = f"{found.size} bytes, the file is cut {place}", f"at least {found.needed} bytes"
    mend = "Fetch the file again, or move it away if it is no part of the scan."
    return InputError("E-TRUNC", text, wanted=wanted, mend=mend, file=file.name)


def _damage(header: Header, found: Outline) -> InputError | None:
    """Why the bytes of a file are not all there."""
    if found.pixels is not None and (header.syntax in NATIVE_SYNTAXES or found.needed <= found.size):
        return None
    if found.needed > found.size:
        return _cut(header.file, found)
    wanted = "pixel data at the end of the file"
    return InputError("E-TRUNC", f"{found.size} bytes without pixels", wanted=wanted, mend=REFETCH, file=header.name)


def _fault(header: Header, values: Values, found: Outline) -> InputError | None:
    """Why this image cannot be used by itself, from its header alone."""
    samples, allocated, stored = values.integer("SamplesPerPixel"), *header.bits[:2]
    size = math.prod(header.shape) * header.frames * allocated // 8 * (samples or 1)
    held = 0 if header.stored is None else header.stored[1]
    native = header.syntax in NATIVE_SYNTAXES and header.stored is not None
    plural = "s" * (header.frames != 1)
    pixels = f"{header.shape[0]} x {header.shape[1]} pixels in {header.frames} frame{plural}, {size / 2**30:.1f} GiB"
    bits = f"BitsAllocated {allocated}, BitsStored {stored}, HighBit {header.bits[2]}"
    colour = (
        f"{samples or 1} number{'s' * ((samples or 1) > 1)} a pixel, "
        f"{'in colour' if header.photometric in _COLOURS else 'neither MONOCHROME1 nor MONOCHROME2'}"
    )
    lut = tag_of("ModalityLUTSequence") in found.present
    rules = (
        (not header.series_uid or not header.sop_uid, "E-TRUNC", "a header without SOP or series instance UID"),
        (min(*header.shape, allocated) == 0, "E-TRUNC", "a header without Rows, Columns or BitsAllocated"),
        (header.frames < 1, "E-MULTIFRAME", "a NumberOfFrames that is no number above 0"),
        (samples not in (None, 1) or not header.photometric.startswith("MONO"), "E-COLOUR", colour),
        (size > _LARGEST_FRAME * header.frames, "E-SIZE", f"{pixels} declared in a file of {header.size} bytes"),
        (native and size > held, "E-TRUNC", f"{held} bytes of pixels where the header declares {size}"),
        (header.floating and allocated != 32, "E-DTYPE", "a parametric map that is not in float32"),
        (allocated not in (8, 16, 32), "E-DTYPE", bits),
        (not 1 <= stored <= allocated or header.bits[2] != stored - 1, "E-DTYPE", bits),
        (lut, "E-BADRESCALE", "values by a look-up table (ModalityLUTSequence) instead of slope and intercept"),
        (header.frames > 1 and not header.enhanced, "E-MULTIFRAME", "several frames in a single-frame object"),
    )
    for broken, code, text in rules:
        if broken:
            wanted = _BITS if text is bits else ""
            return InputError(code, text, wanted=wanted, mend=_MENDS.get(code, REFETCH), file=header.file.name)
    return None


_COLOURS = ("RGB", "PALETTE COLOR", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT", "YBR_PARTIAL_420")
_BITS = "8, 16 or 32 bits allocated, at most as many stored, and a HighBit one below BitsStored"
_MENDS = {
    "E-COLOUR": "Give the grey images (MONOCHROME2) that the picture was made from.",
    "E-MULTIFRAME": "Export the series again as single-frame or enhanced images.",
    "E-BADRESCALE": "Export the series again with RescaleSlope and RescaleIntercept.",
}
