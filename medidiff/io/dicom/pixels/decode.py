"""Stored pixels of one image or frame, from whichever transfer syntax they are in.

RLE is decoded here; what needs a C library (JPEG, JPEG-LS, JPEG 2000, HTJ2K) in a process of its own, started once a
series and killed when a frame takes too long: some of these libraries end the whole process on a damaged stream.
"""

from __future__ import annotations

import struct
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from threading import Timer
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.encaps import get_frame
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, RLELossless

from medidiff.errors import InputError
from medidiff.io.dicom.headers.header import NATIVE_SYNTAXES, Header, quietly
from medidiff.io.dicom.pixels import decode_child
from medidiff.io.dicom.pixels.decode_child import REPLY, REQUEST, decoded
from medidiff.io.files.checks import REFETCH

__all__ = ["Decoder", "refuse_undecodable"]

_PLAIN = (*NATIVE_SYNTAXES, DeflatedExplicitVRLittleEndian)
_SECONDS = 60.0  # for one frame; the slowest decoder needs below one for 4096x4096
_JPEG, _LS, _J2K = "1.2.840.10008.1.2.4.", "1.2.840.10008.1.2.4.8", "1.2.840.10008.1.2.4.9"
_PACKAGES = {
    "gdcm": ("python-gdcm", ("gdcm",)),
    "pyjpegls": ("pyjpegls", ("jpeg_ls",)),
    "pylibjpeg": ("pylibjpeg-openjpeg", ("pylibjpeg", "openjpeg")),
}
_PLUGINS = {
    **{_JPEG + ending: ("gdcm",) for ending in ("50", "51", "57", "70")},
    **{_LS + ending: ("pyjpegls", "gdcm") for ending in "01"},
    **{_J2K + ending: ("pylibjpeg", "gdcm") for ending in "01"},
    **{_JPEG + ending: ("pylibjpeg",) for ending in ("201", "202", "203")},
}
_J2K_START = b"\xff\x4f\xff\x51"  # start of codestream, image and tile size
_FRAME_STARTS = (*(n for n in range(0xC0, 0xD0) if n not in (0xC4, 0xC8, 0xCC)), 0xF7)  # of JPEG, and of JPEG-LS
_END = b"\xff\xd9"  # of every JPEG, JPEG-LS and JPEG 2000 stream


def _installed(plugin: str) -> bool:
    return all(find_spec(module) is not None for module in _PACKAGES[plugin][1])


def _plugin(header: Header) -> str:
    """The decoder for an image whose pixels are compressed.

    Raises:
        InputError: ``E-NODECODER``.
    """
    syntax = header.syntax
    wide = syntax == _JPEG + "51" and header.bits[1] > 8  # no decoder here takes more than eight bits of this kind
    choices = () if wide else _PLUGINS.get(syntax, ())
    for plugin in choices:
        if _installed(plugin):
            return plugin
    with quietly():
        name = UID(syntax).name
    known = name != syntax
    digits = "".join(c for c in syntax if c in ".0123456789")[:64]
    mend = "Convert the files to an uncompressed transfer syntax, for example with 'gdcmconv --raw'."
    if choices:
        mend = f"Install its decoder with 'pip install {_PACKAGES[choices[0]][0]}'. Or c{mend[1:]}"
    found = f"pixels compressed as {name} ({digits})" if known else f"pixels in the unknown transfer syntax {digits}"
    wanted = "a syntax that can be decoded" if not choices else "an installed decoder"
    raise InputError("E-NODECODER", found, wanted=wanted, mend=mend, file=header.name, attribute="TransferSyntaxUID")


def refuse_undecodable(headers: Sequence[Header]) -> None:
    """Refuse, from headers alone, what no installed decoder can read.

    Raises:
        InputError: ``E-NODECODER``.
    """
    for header in {h.syntax: h for h in reversed(headers)}.values():
        if header.syntax not in (*_PLAIN, RLELossless):
            _plugin(header)


class Decoder:
    """Decodes the frames of one series; to be used in a ``with`` block, which ends its process."""

    def __init__(self) -> None:
        self._child: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Decoder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def cells(self, held: bytes | memoryview, header: Header, *, words: bool = True) -> NDArray[Any]:
        """(rows, columns) of the stored image or frame as unsigned integers of BitsAllocated, unused bits and all.

        Args:
            held: the value of PixelData, of all frames.
            header: of the image, the frame, or the tile of a mosaic, for which the whole mosaic is returned.
            words: whether the value is stored in words of 16 bits (VR OW), of which big endian swaps the bytes.

        Raises:
            InputError: ``E-TRUNC``, pixels are missing; ``E-DECODE``, a decoder refuses them; ``E-NODECODER``.
        """
        shape = header.tile.whole if header.tile else header.shape
        index = 0 if header.tile else header.frame or 0
        if header.syntax in _PLAIN:
            return _native(held, header, shape=shape, index=index, words=words)
        if not held:
            raise _short(header, 0, "some")
        try:
            frame = get_frame(bytes(held), index, number_of_frames=header.frames)
        except Exception as error:  # pydicom raises nearly anything on damaged bytes
            raise InputError("E-TRUNC", "compressed pixels cut short", mend=REFETCH, file=header.name) from error
        if header.syntax == RLELossless:
            return _run_length(frame, header, shape)
        plugin = _plugin(header)
        if _END not in frame[-16:]:
            raise _undecoded(header, "compressed pixels without their end")
        if (size := _declared(frame)) != shape:  # some decoders hand out as many pixels in another shape
            found = "no image" if size is None else f"an image of {size[0]} x {size[1]} pixels"
            raise _undecoded(header, f"{found} where the header declares {shape[0]} x {shape[1]}")
        if _is_signed(frame) and not header.bits[3]:
            raise _undecoded(header, "signed numbers where the header declares unsigned ones")
        cells = self._elsewhere(frame, header, shape, plugin=plugin)
        _refuse_wider(cells, header)
        return cells

    def _elsewhere(self, frame: bytes, header: Header, shape: tuple[int, int], *, plugin: str) -> NDArray[Any]:
        allocated, stored, _, signed = header.bits
        head = REQUEST.pack(header.syntax.encode(), plugin.encode(), *shape, allocated, stored, signed, len(frame))
        needed = shape[0] * shape[1] * allocated // 8
        try:
            child = self._started()
        except OSError as error:
            raise _undecoded(header, f"the decoder {plugin} cannot be started") from error
        watch = Timer(_SECONDS, child.kill)
        watch.start()
        try:
            if child.stdin is None or child.stdout is None:
                raise EOFError
            child.stdin.write(head + frame)
            child.stdin.flush()
            answer = child.stdout.read(REPLY.size)
            count = REPLY.unpack(answer)[0] if len(answer) == REPLY.size else -1
            pixels = child.stdout.read(count) if count == needed else b""
        except (OSError, EOFError):
            count, pixels = -1, b""
        finally:
            watch.cancel()
        if len(pixels) != needed:
            died = count == -1
            if count:
                self._end()
            raise _undecoded(header, f"pixels on which the decoder {plugin} {'broke down' if died else 'gave up'}")
        return np.frombuffer(pixels, f"<u{allocated // 8}").reshape(shape)

    def _started(self) -> subprocess.Popen[bytes]:
        if self._child is None:
            program = [sys.executable, "-P", str(Path(decode_child.__file__))]
            self._child = subprocess.Popen(  # noqa: S603 - our own file, no shell, nothing of the input in the arguments
                program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
        return self._child

    def _end(self) -> None:
        child, self._child = self._child, None
        if child is None:
            return
        child.kill()  # it holds nothing that would need to be put away
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except OSError:  # bytes that it never read
                    continue
        child.wait()


def _declared(frame: bytes) -> tuple[int, int] | None:
    """Rows and columns that a JPEG, JPEG-LS or JPEG 2000 stream itself declares; None when it has no such marker."""
    start = frame.find(_J2K_START, 0, 4096)
    if start >= 0 and len(frame) >= start + 24:
        right, bottom, left, top = struct.unpack_from(">4I", frame, start + 8)
        return bottom - top, right - left
    at = 2
    while at + 9 <= len(frame) and frame[at] == 0xFF:
        marker, (length, _, rows, columns) = frame[at + 1], struct.unpack_from(">HBHH", frame, at + 2)
        if marker in _FRAME_STARTS:
            return rows, columns
        at += 1 if marker == 0xFF else 2 + length
    return None


def _is_signed(frame: bytes) -> bool:
    """Whether a JPEG 2000 stream says that its numbers have a sign; the others cannot say."""
    start = frame.find(_J2K_START, 0, 4096)
    return start >= 0 and len(frame) > start + 42 and frame[start + 42] >= 128


def _refuse_wider(cells: NDArray[Any], header: Header) -> None:
    """Refuse decoded numbers that need more bits than are declared as stored; a padding value may be wider."""
    allocated, stored, _, signed = header.bits
    if stored == allocated:
        return
    kind = "i" if signed else "u"
    numbers = cells.view(f"{kind}{allocated // 8}")
    low, high = (-(2 ** (stored - 1)), 2**stored - 1) if signed else (0, 2**stored - 1)
    wide = (numbers < low) | (numbers > high)
    if wide.any():
        wide &= ~np.isin(cells, [pattern & (2**allocated - 1) for pattern in header.padding])
    if wide.any():
        raise _undecoded(header, f"{int(wide.sum())} numbers of more than the {stored} bits that are stored")


def _undecoded(header: Header, found: str) -> InputError:
    with quietly():
        name = UID(header.syntax).name
    mend = "The file is damaged: fetch it again from the archive."
    return InputError("E-DECODE", f"{found}, {name}", mend=mend, file=header.name, attribute="PixelData")


def _short(header: Header, held: int, wanted: str) -> InputError:
    found = f"{held} bytes of pixels" if held else "no pixels"
    return InputError("E-TRUNC", found, wanted=wanted, mend=REFETCH, file=header.name, attribute="PixelData")


def _native(
    held: bytes | memoryview, header: Header, *, shape: tuple[int, int], index: int, words: bool
) -> NDArray[Any]:
    size, count = header.bits[0] // 8, shape[0] * shape[1]
    needed = size * count * header.frames
    if len(held) < needed:
        raise _short(header, len(held), f"{needed} bytes")
    big = header.syntax == ExplicitVRBigEndian
    if big and size == 1 and words:
        held = np.frombuffer(held[: len(held) // 2 * 2], ">u2").astype("<u2").tobytes()
    kind = np.dtype(f"{'>' if big else '<'}u{size}")
    return np.frombuffer(held, kind, count=count, offset=size * count * index).reshape(shape)


def _run_length(frame: bytes, header: Header, shape: tuple[int, int]) -> NDArray[Any]:
    try:
        pixels: NDArray[Any] = decoded(frame, syntax=header.syntax, plugin="pydicom", shape=shape, bits=header.bits)
    except Exception as error:  # pydicom raises nearly anything on damaged bytes
        raise _undecoded(header, "pixels that do not fill the image") from error
    return pixels
