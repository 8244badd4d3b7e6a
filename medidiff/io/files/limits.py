"""How much a path may hold before anything is believed: caps on inflation, archives and folders."""

from __future__ import annotations

import zlib

from medidiff.errors import InputError
from medidiff.io.files.checks import REFETCH

__all__ = ["MAX_INFLATED", "MAX_MEMBERS", "inflate", "refuse_bomb"]

MAX_INFLATED = 2**33  # bytes of all members of an archive together: 8 GiB
MAX_MEMBERS = 100_000  # files in an archive
_MAX_STREAM = 2**30  # bytes of one deflated stream that is held in memory
_FREE = 2**26  # bytes below which any ratio is believed: an empty slice deflates a thousandfold
_MAX_RATIO = 200  # inflated to stored; images rarely reach 20


def refuse_bomb(inflated: int, stored: int, *, name: str, limit: int = MAX_INFLATED) -> None:
    """Refuse a stream that has grown, or says that it will grow, beyond all reason.

    Args:
        inflated: bytes that came out so far, or that are declared.
        stored: bytes that went in.
        name: of the file, for the message.
        limit: most bytes in any case.

    Raises:
        InputError: ``E-BOMB``.
    """
    if inflated <= _FREE or (inflated <= limit and inflated <= _MAX_RATIO * max(stored, 1)):
        return
    raise InputError(
        "E-BOMB",
        f"{stored / 2**20:.3g} MiB that inflate to more than {inflated / 2**20:.4g} MiB",
        wanted=f"at most {_MAX_RATIO} times the stored size and {limit / 2**30:g} GiB",
        mend="If you trust where it comes from, unpack it yourself (DICOM: with 'gdcmconv --raw').",
        file=name,
    )


def inflate(content: bytes, *, name: str, wbits: int = -zlib.MAX_WBITS) -> bytes:
    """Inflate a raw deflate stream in memory, but never beyond the caps; a cut stream gives what it holds.

    Args:
        content: the stream.
        name: of the file, for the message.
        wbits: as in `zlib.decompressobj`; raw deflate when left out.

    Raises:
        InputError: ``E-BOMB`` above the caps, ``E-TRUNC`` when the stream is damaged.
    """
    stream, parts, size, rest = zlib.decompressobj(wbits), [], 0, content
    try:
        while rest and not stream.eof:
            parts.append(stream.decompress(rest, _FREE // 4))
            size, rest = size + len(parts[-1]), stream.unconsumed_tail
            refuse_bomb(size, len(content), name=name, limit=_MAX_STREAM)
    except zlib.error as error:
        raise InputError("E-TRUNC", "a deflated stream that is damaged", mend=REFETCH, file=name) from error
    return b"".join(parts)
