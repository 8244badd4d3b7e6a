"""Which files medidiff wrote: its own earlier results may be replaced, and nothing else may.

A NIfTI file says it in its description, NRRD and MetaImage in a field ``medidiff``, a page in its footer. A file of
another kind where a scan would go, such as a result that a disk has damaged, and NRRD and MetaImage of a version that
left no mark, are judged by the JSON record beside them.
"""

from __future__ import annotations

import zlib
from pathlib import Path

from medidiff.errors import OutputError
from medidiff.io.sidecar import is_own_record, record_path

__all__ = ["is_own", "refuse_foreign"]

_START_BYTES = 2**12  # the headers that medidiff writes are shorter
_DESCRIPTIONS = (b"medidiff;", b"SYNTHETIC: invented by medidiff")  # begin the description of a NIfTI file
_FIELDS = (b"\nmedidiff:=", b"\nmedidiff = ")  # of NRRD, of MetaImage
_FOOTER = b"\n<footer>medidiff "


def is_own(path: Path) -> bool:
    """Whether medidiff wrote a file.

    Raises:
        OSError: it cannot be read.
    """
    if path.suffix.lower() in (".html", ".htm"):
        return _FOOTER in path.read_bytes()
    start = _start(path)
    description = _description(start)
    if description is not None:
        return description.startswith(_DESCRIPTIONS)
    return any(field in start for field in _FIELDS) or is_own_record(record_path(path))


def refuse_foreign(path: Path) -> None:
    """Refuse to replace a file that medidiff did not write.

    One without any bytes holds nothing to lose, and where a link is replaced, what it leads to stays.

    Raises:
        OutputError: ``E-OVERWRITE``.
        OSError: the file cannot be read.
    """
    is_held = path.is_file() and not path.is_symlink() and path.stat().st_size > 0
    if is_held and not is_own(path):
        found, mend = "a file that medidiff did not write stands there", "Choose another name, or move that file away."
        raise OutputError("E-OVERWRITE", found, mend=mend, file=path.name)


def _start(path: Path) -> bytes:
    """The first bytes, unpacked where they are gzip's; those as they stand where they cannot be."""
    with path.open("rb") as stream:
        start = stream.read(_START_BYTES)
    if not start.startswith(b"\x1f\x8b"):
        return start
    try:
        return zlib.decompressobj(wbits=31).decompress(start, _START_BYTES)
    except zlib.error:
        return start


def _description(start: bytes) -> bytes | None:
    """The description of a NIfTI file; None for any other."""
    if start[344:348] in (b"n+1\0", b"ni1\0"):
        return start[148:228]
    return start[240:320] if start[4:8] in (b"n+2\0", b"ni2\0") else None
