"""Voxels out of a file in one pass: its bytes are read once, hashed as they are read, and never trusted.

`Tracked` is an open file that hashes what is read and notices when the file changes meanwhile; `Inflated` unpacks gzip
and zlib from it and tests every checksum; `voxels` takes one array out of either, allocating only what `refuse_bomb`
let pass.
"""

from __future__ import annotations

import hashlib
import math
import os
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from medidiff.errors import InputError
from medidiff.io.files.checks import REFETCH, refuse_large

__all__ = [
    "TAIL_LIMIT",
    "Again",
    "Block",
    "Inflated",
    "Readable",
    "Tracked",
    "refuse_bomb",
    "refuse_short",
    "unpacked",
    "voxels",
]

TAIL_LIMIT = 2**24  # bytes behind the last voxel that are taken for padding; more is a bomb or another format
_CHUNK = 2**20
_DEFLATE_LIMIT = 1032  # zlib's own bound: a stream never grows by more than this factor
_BOMB_BYTES = 2**31  # up to this size any factor is believed: a label map of zeros does reach zlib's bound
_BOMB_RATIO = 100


class Readable(Protocol):
    """What `voxels` reads from."""

    def read(self, count: int) -> bytes:
        """At most `count` bytes; none at the end."""


class Tracked:
    """An open file whose bytes are hashed as they are read.

    Args:
        path: a regular file.
        stamp: size, time of change and inode that the file had before, as from `stamp`; None when it is new to us.

    Raises:
        InputError: ``E-FORMAT``, not a regular file; ``E-CHANGED``, another stamp.
    """

    def __init__(self, path: Path, stamp: tuple[int, int, int] | None = None) -> None:
        self.file = path.name
        self._stream = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe must not hang us
        self._hash = hashlib.sha256()
        state = os.fstat(self._stream)
        self.stamp = (state.st_size, state.st_mtime_ns, state.st_ino)
        if not stat.S_ISREG(state.st_mode):
            os.close(self._stream)
            raise InputError("E-FORMAT", "not a regular file", mend="Give a file or a folder.", file=self.file)
        if stamp is not None and stamp != self.stamp:
            os.close(self._stream)
            self._refuse_changed()

    def __enter__(self) -> Tracked:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._stream)

    @property
    def size(self) -> int:
        """Bytes in the file when it was opened."""
        return self.stamp[0]

    def read(self, count: int) -> bytes:
        """At most `count` bytes; none at the end."""
        block = os.read(self._stream, count)
        self._hash.update(block)
        return block

    def sha256(self) -> str:
        """SHA-256 of the whole file, read to its end, in hexadecimal.

        Raises:
            InputError: ``E-CHANGED``, the file is not what it was when it was opened.
        """
        _count_rest(self, limit=TAIL_LIMIT, file=self.file)
        state = os.fstat(self._stream)
        if self.stamp != (state.st_size, state.st_mtime_ns, state.st_ino):
            self._refuse_changed()
        return self._hash.hexdigest()

    def _refuse_changed(self) -> None:
        mend = "Wait until nothing writes to it, and read it again."
        found = "the file changed between finding and reading it"
        raise InputError("E-CHANGED", found, wanted="the same bytes", mend=mend, file=self.file)


class Inflated:
    """The unpacked bytes of a gzip or zlib stream, of one member or several.

    Raises:
        InputError: on reading, ``E-CRC`` for a damaged stream, ``E-TRUNC`` for one that ends too early.
    """

    def __init__(self, source: Readable, *, file: str) -> None:
        self._source, self._file, self._packed = source, file, b""
        self._unpacker = zlib.decompressobj(wbits=47)  # zlib or gzip, as it comes
        self._begun = False

    def read(self, count: int) -> bytes:
        """At most `count` bytes; none at the end, where the checksum was tested."""
        while True:
            if self._unpacker.eof and not self._next_member():
                return b""
            if not self._packed:
                self._packed = self._source.read(_CHUNK)
            if not self._packed and not self._begun:
                raise InputError("E-TRUNC", "no compressed bytes", mend=REFETCH, file=self._file)
            try:
                block = self._unpacker.decompress(self._packed, count)
            except zlib.error as error:
                found = "the compressed stream is damaged (checksum or code)"
                raise InputError("E-CRC", found, mend=REFETCH, file=self._file) from error
            ended = not self._packed and not block and not self._unpacker.eof
            self._packed, self._begun = self._unpacker.unconsumed_tail, True
            if ended:
                raise InputError("E-TRUNC", "the compressed stream ends too early", mend=REFETCH, file=self._file)
            if block:
                return block

    def _next_member(self) -> bool:
        """Whether another gzip member follows; what else follows is not part of the stream, as gzip itself has it."""
        rest = self._unpacker.unused_data or self._source.read(_CHUNK)
        if not rest.startswith(b"\x1f\x8b"):
            return False
        self._packed, self._unpacker, self._begun = rest, zlib.decompressobj(wbits=31), False
        return True


def _is_gzip(path: Path) -> bool:
    """Whether a file begins as gzip does, whatever its name says."""
    with path.open("rb") as stream:
        return stream.read(2) == b"\x1f\x8b"


@contextmanager
def unpacked(path: Path, stamp: tuple[int, int, int] | None = None) -> Iterator[tuple[Tracked, Readable, bool]]:
    """Open a file whose content, not its name, says whether it is gzip.

    Yields:
        The file, its unpacked bytes from the first on, and whether they are packed.
    """
    packed = _is_gzip(path)
    with Tracked(path, stamp) as source:
        yield source, Inflated(source, file=path.name) if packed else source, packed


def refuse_bomb(needed: int, *, held: int, packed: bool, file: str) -> None:
    """Refuse, before anything is allocated, voxels that a file cannot hold or that are not worth unpacking.

    Args:
        needed: bytes that the header declares, all in all.
        held: bytes of the file.
        packed: whether these are compressed.
        file: name for the message.

    Raises:
        InputError: ``E-SIZE``, beyond what any scan has or what compression can reach; ``E-BOMB``, over 2 GiB from a
            hundredth of that; ``E-TRUNC``, fewer bytes than declared.
    """
    refuse_large(needed, file=file)
    if not packed:
        if needed > held:
            refuse_short(held, needed, file=file)
    elif needed > held * _DEFLATE_LIMIT:
        found = f"{needed} bytes declared on {held} compressed bytes, more than compression can reach"
        raise InputError("E-SIZE", found, wanted=f"at most {held * _DEFLATE_LIMIT}", mend=REFETCH, file=file)
    elif needed > max(_BOMB_BYTES, held * _BOMB_RATIO):
        found = f"{held} compressed bytes that unpack to {needed / 2**30:.1f} GiB"
        mend = "If you trust where it comes from, unpack it yourself and give the result."
        raise InputError("E-BOMB", found, wanted=f"at most {_BOMB_RATIO} times", mend=mend, file=file)


def refuse_short(found: int, needed: int, *, file: str) -> None:
    """Refuse a file that ends before its voxels do (``E-TRUNC``)."""
    wanted = f"{needed} as its header declares"
    raise InputError("E-TRUNC", f"the file ends after {max(found, 0)} bytes", wanted=wanted, mend=REFETCH, file=file)


@dataclass(frozen=True, slots=True)
class Block:
    """Where one array lies in a stream of numbers.

    Args:
        dtype: stored type with its byte order.
        shape: (I, J, K), the first axis varying fastest.
        skip: bytes before the first number.
        every: take one number out of so many, for several volumes whose voxels alternate.
        pick: which one of these, from 0.
        rest: bytes that belong to other volumes behind the last number.
    """

    dtype: np.dtype[Any]
    shape: tuple[int, int, int]
    skip: int = 0
    every: int = 1
    pick: int = 0
    rest: int = 0

    @property
    def count(self) -> int:
        """Bytes from the first to the last number, other volumes' between them included."""
        return math.prod(self.shape) * self.dtype.itemsize * self.every


def voxels(stream: Readable, block: Block, *, file: str) -> tuple[NDArray[Any], tuple[str, ...]]:
    """Take one array out of a stream, then read the stream to its end.

    Returns:
        (I, J, K) in native byte order, first axis fastest in memory; and a decision when bytes were left over.

    Raises:
        InputError: ``E-TRUNC``, too few bytes; ``E-BOMB``, far more than declared; ``E-SIZE``, no memory for them.
    """
    try:
        flat = np.empty(math.prod(block.shape), dtype=block.dtype)
    except MemoryError as error:
        found = f"{math.prod(block.shape) * block.dtype.itemsize / 2**30:.1f} GiB of voxels, more than memory holds"
        raise InputError("E-SIZE", found, mend="Use a machine with more memory.", file=file) from error
    if _skipped(stream, block.skip) < block.skip:
        refuse_short(0, block.count, file=file)
    done = _fill(stream, flat, block)
    if done < block.count:
        refuse_short(block.skip + done, block.skip + block.count + block.rest, file=file)
    rest = _count_rest(stream, limit=block.rest + TAIL_LIMIT, file=file)
    if rest < block.rest:
        refuse_short(block.skip + block.count + rest, block.skip + block.count + block.rest, file=file)
    if not flat.dtype.isnative:
        flat = flat.byteswap(inplace=True).view(flat.dtype.newbyteorder("="))
    notes = (f"{rest - block.rest} bytes behind the last voxel were ignored",) if rest > block.rest else ()
    return flat.reshape(block.shape, order="F"), notes


class Again:
    """A stream of which some bytes were read already.

    Args:
        start: these bytes.
        stream: the rest.
    """

    def __init__(self, start: bytes, stream: Readable) -> None:
        self._start, self._stream = start, stream

    def read(self, count: int) -> bytes:
        """At most `count` bytes; none at the end."""
        part, self._start = self._start[:count], self._start[count:]
        return part or self._stream.read(count)


def _fill(stream: Readable, flat: NDArray[Any], block: Block) -> int:
    """Fill `flat` from the stream; returns the bytes that were read."""
    if block.every == 1:
        into, at = memoryview(cast("Any", flat.view(np.uint8))), 0
        while at < len(into) and (part := stream.read(min(_CHUNK, len(into) - at))):
            into[at : at + len(part)] = part
            at += len(part)
        return at
    step, done, whole = block.every * block.dtype.itemsize, 0, max(_CHUNK // (block.every * block.dtype.itemsize), 1)
    for at in range(0, flat.size, whole):
        count = min(whole, flat.size - at)
        part = _exactly(stream, count * step)
        done += len(part)
        if len(part) < count * step:
            break
        flat[at : at + count] = np.frombuffer(part, dtype=block.dtype)[block.pick :: block.every]
    return done


def _exactly(stream: Readable, count: int) -> bytes:
    parts = bytearray()
    while len(parts) < count and (part := stream.read(min(_CHUNK, count - len(parts)))):
        parts += part
    return bytes(parts)


def _skipped(stream: Readable, count: int) -> int:
    done = 0
    while done < count and (part := stream.read(min(_CHUNK, count - done))):
        done += len(part)
    return done


def _count_rest(stream: Readable, *, limit: int, file: str) -> int:
    """Read a stream to its end, where a compressed one compares its checksum, and count the bytes.

    Raises:
        InputError: ``E-BOMB``, more than `limit`.
    """
    count = 0
    while part := stream.read(_CHUNK):
        count += len(part)
        if count > limit:
            found = f"more than {TAIL_LIMIT // 2**20} MiB behind the last voxel"
            raise InputError("E-BOMB", found, wanted="the declared voxels only", mend=REFETCH, file=file)
    return count
