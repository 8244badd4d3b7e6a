"""A process that turns compressed frames into pixels, so that a damaged one can end or hang nothing but this process.

Run as a program, with nothing of medidiff imported. It reads requests from standard input until it ends, each a
`REQUEST` and the bytes of one frame, and answers each with a `REPLY` and the pixels, little endian, row by row; an
answer of length 0 means that the decoder refused. Only plain bytes cross the pipes.
"""

from __future__ import annotations

import os
import struct
import sys
import warnings
from typing import IO, Any

REQUEST = struct.Struct("<64s16sIIIIIQ")  # syntax, plugin, rows, columns, bits allocated, bits stored, signed, length
REPLY = struct.Struct("<Q")
_MEMORY = 2**32  # bytes of address space above what a frame is long; a broken stream may declare any size


def main() -> None:
    """Serve until the input ends."""
    _limit()
    answers = os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)  # decoders talk, and may quote what they read
    os.dup2(nowhere, 2)
    while len(head := sys.stdin.buffer.read(REQUEST.size)) == REQUEST.size:
        pixels = _pixels(head, sys.stdin.buffer)
        answers.write(REPLY.pack(len(pixels)) + pixels)
        answers.flush()


def _limit() -> None:
    try:
        import resource
    except ImportError:  # a system without it still has the parent's clock
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file would hold the patient's pixels
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    limit = _MEMORY if most == resource.RLIM_INFINITY else min(_MEMORY, most)
    resource.setrlimit(resource.RLIMIT_AS, (limit, most))


def _pixels(head: bytes, source: IO[bytes]) -> bytes:
    syntax, plugin, rows, columns, allocated, stored, signed, length = REQUEST.unpack(head)
    frame = source.read(length)
    try:
        pixels = decoded(
            frame,
            syntax=syntax.rstrip(b"\0").decode(),
            plugin=plugin.rstrip(b"\0").decode(),
            shape=(rows, columns),
            bits=(allocated, stored, stored - 1, signed),
        )
        return bytes(pixels.tobytes())
    except Exception:  # a decoder raises whatever its C library does; the parent knows which frame it was
        return b""


def decoded(frame: bytes, *, syntax: str, plugin: str, shape: tuple[int, int], bits: tuple[int, int, int, int]) -> Any:
    """(rows, columns) of one grey frame as little-endian unsigned integers.

    Args:
        frame: the compressed stream.
        syntax: UID of the transfer syntax.
        plugin: pydicom's name of the decoder.
        shape: rows and columns that the header declares.
        bits: allocated, stored, highest, and 1 when signed.

    Raises:
        Exception: whatever the decoder raises, or that the stream holds an image of another size.
    """
    from pydicom.encaps import encapsulate
    from pydicom.pixels.decoders.base import get_decoder

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        decoder: Any = get_decoder(syntax)
        pixels = decoder.as_array(
            encapsulate([frame]),
            index=0,
            raw=True,
            decoding_plugin=plugin,
            rows=shape[0],
            columns=shape[1],
            samples_per_pixel=1,
            photometric_interpretation="MONOCHROME2",
            bits_allocated=bits[0],
            bits_stored=bits[1],
            pixel_representation=bits[3],
            number_of_frames=1,
            pixel_keyword="PixelData",
        )[0]
    if pixels.shape != shape:
        raise ValueError("another size")
    return pixels.astype(f"<u{bits[0] // 8}")


if __name__ == "__main__":
    main()
