"""Parts of a ``multipart/related`` answer, one after the other and never more of it in memory than one part."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from email.message import Message

from medidiff.errors import InputError

__all__ = ["boundary_of", "parts"]

_MOST_HEADER_BYTES = 16_384


def boundary_of(content_type: str) -> bytes | None:
    """What separates the parts; None for an answer that is no multipart.

    Args:
        content_type: value of the header ``Content-Type``.
    """
    header = Message()
    header["Content-Type"] = content_type
    if header.get_content_type() != "multipart/related":
        return None
    boundary = header.get_boundary()
    if not boundary or not boundary.isascii():
        raise _broken("a multipart answer without a boundary")
    return boundary.encode("ascii")


def parts(chunks: Iterable[bytes], boundary: bytes, *, largest_bytes: int) -> Iterator[bytes]:
    """The content of each part.

    Args:
        chunks: the answer's body, however it is cut.
        boundary: as in `boundary_of`.
        largest_bytes: most that one part may hold.

    Raises:
        InputError: ``E-PACS-ANSWER``, a part is too large or has no header; ``E-PACS-ABORT``, the body ends before
            the last boundary, so that the part that was under way is not whole.
    """
    delimiter = b"\r\n--" + boundary
    held, looked = bytearray(b"\r\n"), 0  # the first boundary has no line before it
    began = False
    for chunk in chunks:
        held += chunk
        while True:
            at = held.find(delimiter, looked)
            after = at + len(delimiter)
            if at < 0 or len(held) < after + 2:
                looked = max(0, len(held) - len(delimiter) - 2) if at < 0 else at
                break
            last = held[after : after + 2] == b"--"
            if began:
                yield _content(bytes(held[:at]))
            began, looked = True, 0
            del held[:after]
            if last:
                return
        if len(held) > largest_bytes + _MOST_HEADER_BYTES:
            raise _broken(f"a part of more than {largest_bytes // 2**20:,} MiB")
    raise InputError("E-PACS-ABORT", "an answer that ends before its last part", mend="Run the same command again.")


def _content(part: bytes) -> bytes:
    header, gap, content = part.partition(b"\r\n\r\n")
    if not gap or len(header) > _MOST_HEADER_BYTES:
        raise _broken("a part without a header")
    return content


def _broken(found: str) -> InputError:
    mend = "Report it to whoever runs the archive, or raise limits.largest_mib."
    return InputError("E-PACS-ANSWER", found, wanted="DICOM instances in parts", mend=mend)
