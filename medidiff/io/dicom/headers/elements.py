"""The outline of one DICOM file: a few top-level values and where the pixels lie, in one pass of small reads.

Nothing is decoded and nothing recurses: sequences are stepped over with a list of their ends, so thousands of nested
ones cost a few milliseconds. A file that ends too early says how many bytes it wants. The deflated transfer syntax is
inflated under a cap.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from io import RawIOBase
from typing import IO

from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from medidiff.errors import InputError
from medidiff.io.files.checks import REFETCH
from medidiff.io.files.limits import inflate

__all__ = ["MAX_DEPTH", "PIXELS", "Outline", "Window", "is_dicom", "outline", "plain_bytes"]

MAX_DEPTH = 32  # nested sequences; the deepest standard object has about ten
PIXELS = (0x7FE00010, 0x7FE00008, 0x7FE00009)
_SYNTAX, _IMPLICIT = 0x00020010, ImplicitVRLittleEndian
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_LONG = frozenset((b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"))
_UNDEFINED = 0xFFFFFFFF
_BLOCK = 8192  # bytes; most headers fit in one
_LONGEST = 2**16  # bytes of a value worth keeping
_SHALLOW = 20 * MAX_DEPTH  # bytes; a shorter sequence cannot hold that many levels
_MOST_STEPS = 3_000_000  # elements; far above an enhanced file of ten thousand frames


@dataclass(slots=True)
class Outline:
    """What one pass over a file finds.

    Args:
        syntax: UID of the transfer syntax as declared, or as found where nothing is declared.
        big: whether numbers are stored big end first.
        meta: whether the file begins with a meta header.
        values: bytes of the wanted top-level elements, by tag.
        present: wanted tags that are there, whether or not their value was kept.
        pixels: offset of the pixel data and the bytes of it that the file holds; None when absent.
        file_size: bytes of the file.
        size: bytes there are, after inflation.
        needed: bytes that the elements claim; more than `size` in a file that was cut.
        deep: start and end of top-level elements that nest more than `MAX_DEPTH` sequences.
    """

    syntax: str = ""
    big: bool = False
    meta: bool = False
    values: dict[int, bytes] = field(default_factory=dict)
    present: set[int] = field(default_factory=set)
    pixels: tuple[int, int] | None = None
    file_size: int = 0
    size: int = 0
    needed: int = 0
    deep: list[tuple[int, int]] = field(default_factory=list)


def is_dicom(start: bytes) -> bool:
    """Whether the first bytes of a file are DICOM's, with or without the preamble."""
    if start[128:132] == b"DICM":
        return True
    group, element = start[:2], int.from_bytes(start[2:4], "little")
    if group == b"\x02\0":
        return element == 0 and start[4:6] == b"UL"
    if group == b"\0\x08":  # big endian without a meta header
        return start[2:4] in (b"\0\0", b"\0\x05", b"\0\x08", b"\0\x16") and start[4:6].isalpha()
    return (
        group == b"\x08\0" and element in (0, 1, 5, 8, 0x12, 0x16) and (start[4:6].isalpha() or start[6:8] == b"\0\0")
    )


class Window:
    """Bytes of a stream by offset, through one block at a time."""

    def __init__(self, stream: IO[bytes] | RawIOBase) -> None:
        self.stream, self.size = stream, stream.seek(0, io.SEEK_END)
        self.start, self.block = 0, b""

    def get(self, at: int, count: int) -> bytes:
        """At most `count` bytes from an offset on; fewer at the end of the file."""
        inside = at - self.start
        if inside < 0 or inside + count > len(self.block):
            if at >= self.size:
                return b""
            self.stream.seek(at)
            self.start, self.block, inside = at, self.stream.read(max(count, _BLOCK)) or b"", 0
        return self.block[inside : inside + count]


def outline(window: Window, wanted: Collection[int], *, name: str) -> Outline:
    """Walk the top level of a DICOM file up to its pixels.

    Args:
        window: a file whose first bytes are DICOM's.
        wanted: tags whose values are kept, of the meta header and of the data set.
        name: of the file, for messages.

    Raises:
        InputError: ``E-BOMB``, the deflated part inflates beyond all reason; ``E-SIZE``, a header without end.
        OSError: the system refuses.
    """
    found = Outline(file_size=window.size, size=window.size, needed=window.size)
    at = _data_set_start(window, found, wanted, name=name)
    found.syntax = found.values.get(_SYNTAX, b"").decode("latin-1").strip(" \0")
    if found.syntax == DeflatedExplicitVRLittleEndian:
        content = inflate(window.get(at, window.size - at), name=name)
        window, at = Window(io.BytesIO(content)), 0
        found.size = found.needed = len(content)
    start = window.get(at, 6)
    alphabetic = start[4:6].isalpha() and start[4:6].isupper()
    if not found.syntax:
        big = start[:1] == b"\0" and start[1:2] != b"\0"
        found.syntax = str((ExplicitVRBigEndian if big else ExplicitVRLittleEndian) if alphabetic else _IMPLICIT)
    found.big = found.syntax == ExplicitVRBigEndian
    walk = _Walk(window, found, wanted, at=at, implicit=not alphabetic, name=name)
    walk.until(lambda tag: tag in PIXELS)
    walk.pixels()
    return found


def _data_set_start(window: Window, found: Outline, wanted: Collection[int], *, name: str) -> int:
    at = 132 if window.get(128, 4) == b"DICM" else 0
    walk = _Walk(window, found, {_SYNTAX, *wanted}, at=at, implicit=False, name=name)
    walk.until(lambda tag: tag >> 16 != 2)
    found.meta = walk.at > at
    return walk.at


def plain_bytes(stream: IO[bytes] | RawIOBase, wanted: Collection[int], *, name: str) -> bytes | None:
    """A DICOM file without its deflation and without what nests too deep; None when it has neither.

    Args:
        stream: the file.
        wanted: tags that a meta header is made from.
        name: of the file, for messages.

    Raises:
        InputError: ``E-BOMB``.
    """
    window = Window(stream)
    found = outline(window, wanted, name=name)
    deflated = found.syntax == DeflatedExplicitVRLittleEndian
    if not (deflated or found.deep):
        return None
    content, meta = window.get(0, window.size), b""
    if deflated:
        at = _data_set_start(window, Outline(size=window.size), (), name=name)
        meta, content = _explicit_meta(found.values), inflate(content[at:], name=name)
    kept, last = [meta], 0
    for start, end in found.deep:
        kept.append(content[last:start])
        last = end
    return b"".join(kept) + content[last:]


def _explicit_meta(values: Mapping[int, bytes]) -> bytes:
    """Preamble and a meta header that declares explicit VR little endian, which inflated bytes are."""
    elements = b""
    for tag in (0x00020002, 0x00020003, _SYNTAX):
        value = ExplicitVRLittleEndian.encode() if tag == _SYNTAX else values.get(tag, b"")
        value += b"\0" * (len(value) % 2)
        elements += struct.pack("<HH2sH", 2, tag & 0xFFFF, b"UI", len(value)) + value
    length = struct.pack("<HH2sHL", 2, 0, b"UL", 4, len(elements))
    return bytes(128) + b"DICM" + length + elements


class _Walk:
    """Steps from element to element of one data set, filling in its outline."""

    def __init__(
        self, window: Window, found: Outline, wanted: Collection[int], *, at: int, implicit: bool, name: str
    ) -> None:
        self.window, self.found, self.wanted, self.name = window, found, wanted, name
        self.at, self.implicit, self.steps = at, implicit, 0
        order = ">" if found.big else "<"
        self._plain = struct.Struct(f"{order}HHL").unpack
        self._short = struct.Struct(f"{order}HH2sH").unpack
        self._long = struct.Struct(f"{order}L").unpack

    def element(self, at: int, *, implicit: bool) -> tuple[int, bytes, int, int] | None:
        """Tag, VR, length, and offset of the value of the element at an offset; None at the end of the file."""
        self.steps += 1
        if self.steps > _MOST_STEPS:
            found = f"a header of more than {_MOST_STEPS:,} elements"
            raise InputError("E-SIZE", found, wanted="the header of an image", mend=REFETCH, file=self.name)
        head = self.window.get(at, 12)
        if len(head) < 8:
            return None
        group, number, vr, length = self._short(head[:8])
        tag = group << 16 | number
        if implicit or group == 0xFFFE or not (vr.isalpha() and vr.isupper()):
            return tag, b"", self._plain(head[:8])[2], at + 8
        if vr not in _LONG:
            return tag, vr, length, at + 8
        return (tag, vr, self._long(head[8:])[0], at + 12) if len(head) == 12 else None

    def until(self, stop: Callable[[int], bool]) -> None:
        """Go on to the first top-level element whose tag `stop` is true for, or to the end."""
        found = self.found
        while (element := self.element(self.at, implicit=self.implicit)) is not None:
            tag, vr, length, value = element
            if stop(tag):
                return
            end, depth = value + length, 0
            if length == _UNDEFINED or (length > _SHALLOW and self._is_sequence(vr, value)):
                end, depth = self._past(vr, value, length)
            if tag in self.wanted:
                found.present.add(tag)
            if depth > MAX_DEPTH:
                found.deep.append((self.at, end))
            elif tag in self.wanted and not depth and length <= _LONGEST and end <= found.size:
                found.values[tag] = self.window.get(value, length)
            found.needed = max(found.needed, end)
            self.at = end
        if self.at < found.size:  # a few bytes that are no element
            found.needed = max(found.needed, self.at + 8)

    def pixels(self) -> None:
        """Take the measure of the pixel data, when the walk has stopped at them."""
        element, found = self.element(self.at, implicit=self.implicit), self.found
        if element is None:
            return
        _, _, length, value = element
        if length != _UNDEFINED:
            found.pixels = value, max(0, min(length, found.size - value))
            return
        at, held = value, 0
        while (fragment := self.element(at, implicit=True)) is not None and fragment[0] == _ITEM:
            held, at = held + fragment[2], fragment[3] + fragment[2]
        found.needed = max(found.needed, at)
        found.pixels = value, held

    def _is_sequence(self, vr: bytes, value: int) -> bool:
        if vr in (b"", b"UN"):
            element = self.element(value, implicit=True)
            return element is not None and element[0] == _ITEM
        return vr == b"SQ"

    def _past(self, vr: bytes, value: int, length: int) -> tuple[int, int]:
        """Where a sequence ends, and how many sequences are nested in it, itself included."""
        open_: list[tuple[int | None, bool, bool]] = []  # of each sequence and item: end, implicit VR, only bytes in it

        def enter(vr: bytes, value: int, length: int, *, implicit: bool, raw: bool) -> None:
            end = None if length == _UNDEFINED else value + length
            open_.append((end, implicit or vr == b"UN", raw or vr in (b"OB", b"OW")))

        enter(vr, value, length, implicit=self.implicit, raw=False)
        at, deepest = value, 1
        while open_:
            end, implicit, raw = open_[-1]
            if end is not None and at >= end:
                at = end
                open_.pop()
                continue
            element = self.element(at, implicit=implicit)
            if element is None:
                return max(self.found.size, at) + 8, deepest // 2 + 1
            tag, vr, length, value = element
            at = value
            if tag in (_ITEM_END, _SEQUENCE_END):
                if end is None:
                    open_.pop()
            elif length == _UNDEFINED or (
                length > _SHALLOW and not raw and (tag == _ITEM or self._is_sequence(vr, value))
            ):
                enter(vr, value, length, implicit=implicit, raw=raw)
                deepest = max(deepest, len(open_))
            else:
                at = value + length
        return at, deepest // 2 + 1
