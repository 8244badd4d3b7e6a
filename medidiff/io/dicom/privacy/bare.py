"""Pixel data and nothing else: what hides behind, between and inside the pixels of a DICOM image is cut away.

Behind the declared pixels, in the unused high bits of a voxel, in comment segments of JPEG streams and after their end
there is room for text, and old software used it.
"""

from __future__ import annotations

import math
import struct

import numpy as np
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from medidiff.errors import InputError
from medidiff.io.files.checks import REFETCH

__all__ = ["bare_pixels", "bare_table"]

_NATIVE = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian)
_JPEG = {f"1.2.840.10008.1.2.4.{number}" for number in (50, 51, 57, 70, 80, 81)}
_JPEG_2000 = {f"1.2.840.10008.1.2.4.{number}" for number in (90, 91, 92, 93, 201, 202, 203)}
_PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_WIDE = {"FloatPixelData": 32, "DoubleFloatPixelData": 64}


def bare_pixels(source: Dataset, *, syntax: str, file: str) -> tuple[DataElement | None, str]:
    """The pixel element of an image without anything but pixels, and the transfer syntax that it is in.

    Args:
        source: the image; one without pixels gives None.
        syntax: transfer syntax UID of the source.
        file: name for messages.

    Raises:
        InputError: ``E-TRUNC``, pixels are missing; ``E-DEIDENTIFY``, the pixels cannot be told from what is with them.
    """
    name = next((name for name in _PIXELS if name in source), None)
    if name is None:
        return None, str(ExplicitVRLittleEndian)
    if syntax == RLELossless:
        source.decompress(as_rgb=False, generate_instance_uid=False)
        syntax = str(ExplicitVRLittleEndian)
    if syntax in _NATIVE:
        return _native(source, name, swapped=syntax == ExplicitVRBigEndian, file=file), str(ExplicitVRLittleEndian)
    if syntax not in _JPEG | _JPEG_2000:
        raise _unclean("pixels in a compression that is not taken apart", file)
    frames = list(generate_frames(source.PixelData, number_of_frames=int(source.get("NumberOfFrames") or 1)))
    bare = [_codestream(f, file) if syntax in _JPEG_2000 else _segments(f, file) for f in frames]
    element = DataElement(source[name].tag, "OB", encapsulate(bare), is_undefined_length=True)
    return element, syntax


def _unclean(found: str, file: str) -> InputError:
    mend = "Decompress it with another program first, and look at the result."
    return InputError("E-DEIDENTIFY", found, wanted="pixels that can be cleaned", mend=mend, file=file)


def _native(source: Dataset, name: str, *, swapped: bool, file: str) -> DataElement:
    allocated = _WIDE.get(name) or int(source.BitsAllocated)
    samples = int(source.get("SamplesPerPixel") or 1)
    count = int(source.Rows) * int(source.Columns) * int(source.get("NumberOfFrames") or 1) * samples
    if source.get("PhotometricInterpretation") == "YBR_FULL_422":
        count = count // 3 * 2
    size = math.ceil(count * allocated / 8)
    data = bytes(source[name].value)
    if len(data) < size:
        found = f"{len(data)} bytes of pixels, {size} declared"
        raise InputError("E-TRUNC", found, mend=REFETCH, file=file, attribute=name)
    data = data[:size]
    if name == "PixelData" and allocated in (16, 32):
        data = _without_unused_bits(data, source, allocated, swapped=swapped)
    elif swapped and allocated > 8:
        data = np.frombuffer(data, f">u{allocated // 8}").byteswap().tobytes()
    element: DataElement = source[name]
    vr = element.VR if name in _WIDE else ("OW" if allocated > 8 else "OB")
    return DataElement(element.tag, vr, data + b"\0" * (size % 2))


def _without_unused_bits(data: bytes, source: Dataset, allocated: int, *, swapped: bool) -> bytes:
    """Little-endian voxels with their sign, or zeros, above the bits that are stored."""
    signed = bool(source.get("PixelRepresentation"))
    voxels = np.frombuffer(data, f"{'>' if swapped else '<'}{'i' if signed else 'u'}{allocated // 8}")
    voxels = voxels.astype(voxels.dtype.newbyteorder("<"))
    stored = int(source.get("BitsStored") or allocated)
    if 0 < stored < allocated and source.get("HighBit") == stored - 1 and not _pads_outside(source, stored):
        voxels = (voxels << (allocated - stored)) >> (allocated - stored)
    return bytes(voxels.tobytes())


def _pads_outside(source: Dataset, stored: int) -> bool:
    """Whether padding is marked by a value that the stored bits cannot hold."""
    padding = source.get("PixelPaddingValue")
    return isinstance(padding, int) and not -(2 ** (stored - 1)) <= padding < 2**stored


def _segments(frame: bytes, file: str) -> bytes:
    """A JPEG or JPEG-LS stream without comments, application data and what follows its end."""
    out, place = bytearray(frame[:2]), 2
    if frame[:2] != b"\xff\xd8":
        raise _unclean("a JPEG stream that does not begin as one", file)
    while place + 4 <= len(frame):
        while frame[place : place + 2] == b"\xff\xff":
            place += 1
        marker, (length,) = frame[place + 1], struct.unpack_from(">H", frame, place + 2)
        if frame[place] != 0xFF:
            break
        if marker == 0xD9:
            return bytes(out + b"\xff\xd9")
        segment = frame[place : place + 2 + length]
        place += 2 + length
        if marker == 0xFE or (0xE0 <= marker <= 0xEF and not _is_colour(segment)):
            continue
        out += segment
        if marker == 0xDA:
            end = _end_of_scan(frame, place)
            out += frame[place:end]
            place = end
    if frame[place : place + 2] == b"\xff\xd9":
        return bytes(out + b"\xff\xd9")
    raise _unclean("a damaged JPEG stream", file)


def _is_colour(segment: bytes) -> bool:
    """Whether an application segment says how colours are meant, and nothing else."""
    return (segment[1] == 0xEE and segment[4:9] == b"Adobe" and len(segment) == 16) or (
        segment[1] == 0xE8 and segment[4:8] == b"mrfx" and len(segment) == 9
    )


def _end_of_scan(frame: bytes, place: int) -> int:
    """Where the entropy-coded bytes end: at the next marker that is no restart and no stuffed byte."""
    while True:
        place = frame.find(b"\xff", place)
        if place < 0 or place + 1 >= len(frame):
            return len(frame)
        following = frame[place + 1]
        # JPEG stuffs a zero, JPEG-LS a byte whose first bit is zero; 0xD0 to 0xD7 are restarts.
        if following >= 0x80 and not 0xD0 <= following <= 0xD7 and following != 0xFF:
            return place
        place += 1 if following == 0xFF else 2


def _codestream(frame: bytes, file: str) -> bytes:
    """A JPEG 2000 codestream without comments, out of its box if it has one, and without what follows its end."""
    start, end = frame.find(b"\xff\x4f\xff\x51"), frame.rfind(b"\xff\xd9")
    if start < 0 or end < start:
        raise _unclean("a damaged JPEG 2000 stream", file)
    out, place = bytearray(b"\xff\x4f"), start + 2
    while place + 4 <= end and frame[place : place + 2] != b"\xff\x90":
        (length,) = struct.unpack_from(">H", frame, place + 2)
        if frame[place] != 0xFF:
            raise _unclean("a damaged JPEG 2000 stream", file)
        if frame[place + 1] != 0x64:
            out += frame[place : place + 2 + length]
        place += 2 + length
    return bytes(out + _tiles(frame, place, file))


def _tiles(frame: bytes, place: int, file: str) -> bytes:
    """The tile parts, each as long as it says, and the end mark."""
    out = bytearray()
    while frame[place : place + 2] == b"\xff\x90":
        (length,) = struct.unpack_from(">I", frame, place + 6)
        length = length or frame.find(b"\xff\xd9", place) - place  # coded bytes never look like a mark
        part = frame[place : place + length]
        if length < 14 or len(part) < length or b"\xff\x64" in part[: part.find(b"\xff\x93")]:
            raise _unclean("a JPEG 2000 stream with comments between its tiles", file)
        out += part
        place += length
    if frame[place : place + 2] != b"\xff\xd9":
        raise _unclean("a damaged JPEG 2000 stream", file)
    return bytes(out + b"\xff\xd9")


def bare_table(element: DataElement, descriptor: DataElement, *, swapped: bool) -> DataElement | None:
    """A look-up table cut to the length that its descriptor declares; None when it is shorter."""
    entries, _, bits = (int(v) for v in descriptor.value)
    entries = entries or 65536
    if not isinstance(element.value, bytes):
        values = [int(v) for v in element.value][:entries]
        return DataElement(element.tag, "US", values) if len(values) == entries else None
    width = 1 if bits <= 8 and len(element.value) < 2 * entries else 2
    data = element.value[: entries * width]
    if len(data) < entries * width:
        return None
    if swapped and width == 2:
        data = np.frombuffer(data, ">u2").byteswap().tobytes()
    return DataElement(element.tag, "OW", data + b"\0" * (len(data) % 2))
