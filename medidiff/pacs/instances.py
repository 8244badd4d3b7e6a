"""One DICOM instance as an archive sends or takes it: what it says it is, from its header alone."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from medidiff.errors import InputError
from medidiff.io.dicom.headers.elements import Outline, Window, is_dicom, outline
from medidiff.io.dicom.headers.values import Values, tag_of
from medidiff.pacs.wanted import is_uid

__all__ = ["IMAGE_CLASSES", "SYNTAXES", "Instance", "describe"]

SYNTAXES = (
    "1.2.840.10008.1.2.1",
    "1.2.840.10008.1.2",
    "1.2.840.10008.1.2.1.99",
    "1.2.840.10008.1.2.2",
    "1.2.840.10008.1.2.5",
    *(f"1.2.840.10008.1.2.4.{n}" for n in (50, 51, 57, 70, 80, 81, 90, 91, 201, 202, 203)),
)
"""Transfer syntaxes that `medidiff.io` decodes; what is sent in one of them is kept in it."""

IMAGE_CLASSES = (
    "1.2.840.10008.5.1.4.1.1.4",
    "1.2.840.10008.5.1.4.1.1.2",
    "1.2.840.10008.5.1.4.1.1.128",
    "1.2.840.10008.5.1.4.1.1.4.1",
    "1.2.840.10008.5.1.4.1.1.2.1",
    "1.2.840.10008.5.1.4.1.1.130",
    "1.2.840.10008.5.1.4.1.1.30",
    "1.2.840.10008.5.1.4.1.1.7",
)
"""MR, CT and PET images, classic and enhanced, parametric maps and secondary captures."""

_DEFLATED = "1.2.840.10008.1.2.1.99"
_UNDEFINED = 0xFFFFFFFF
_NAMES = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "SyntheticData")
_META = {"SOPClassUID": "MediaStorageSOPClassUID", "SOPInstanceUID": "MediaStorageSOPInstanceUID"}
_WANTED = frozenset(tag_of(name) for name in (*_NAMES, *_META.values(), "TransferSyntaxUID"))


@dataclass(frozen=True, slots=True)
class Instance:
    """What a DICOM file says it is.

    Args:
        study: StudyInstanceUID.
        series: SeriesInstanceUID.
        uid: SOPInstanceUID.
        kind: SOPClassUID.
        syntax: UID of the transfer syntax.
        synthetic: whether it says that its content is invented.
        size: bytes.
        file: where it lies; None in memory.
    """

    study: str
    series: str
    uid: str
    kind: str
    syntax: str
    synthetic: bool
    size: int
    file: Path | None = None


def describe(source: bytes | Path, *, name: str) -> Instance:
    """What a DICOM file, or the bytes of one, says it is.

    Args:
        source: the file, or all of its bytes.
        name: for messages.

    Raises:
        InputError: ``E-TRUNC``, it is cut, or does not say plainly what it is; ``E-BOMB`` and ``E-SIZE`` as the reader.
    """
    if isinstance(source, Path):
        with source.open("rb") as stream:
            return _described(stream, source, name=name)
    return _described(io.BytesIO(source), None, name=name)


def _described(stream: IO[bytes], file: Path | None, *, name: str) -> Instance:
    window = Window(stream)
    if window.get(128, 4) != b"DICM" or not is_dicom(window.get(0, 1024)):
        raise _damaged("no DICOM file with a meta header", name)
    found = outline(window, _WANTED, name=name)
    needed = max(found.needed, _end_of_pixels(window, found))
    if needed > found.size:
        raise _damaged(f"{found.size} bytes where {needed} are claimed: it is cut", name)
    values = Values(name, found.values, big=found.big)
    said = {key: values.text(key).strip(" \0") for key in _NAMES}
    if any(values.text(outer).strip(" \0") != said[inner] for inner, outer in _META.items()):
        raise _damaged("a meta header that names another object than the data set", name)
    uids = [said[key] for key in _NAMES[:4]]
    if not all(is_uid(uid) for uid in (*uids, found.syntax)):
        raise _damaged("a header without study, series, SOP class or SOP instance UID, or with broken ones", name)
    kind, uid, study, series = uids
    invented = said["SyntheticData"].upper() == "YES"
    return Instance(study, series, uid, kind, found.syntax, invented, window.size, file)


def _end_of_pixels(window: Window, found: Outline) -> int:
    """Where pixel data that tell their length end; their length stands in the four bytes before them."""
    if found.pixels is None or found.syntax == _DEFLATED:
        return 0
    length = int.from_bytes(window.get(found.pixels[0] - 4, 4), "big" if found.big else "little")
    return 0 if length == _UNDEFINED else found.pixels[0] + length


def _damaged(found: str, name: str) -> InputError:
    mend = "Fetch the file again, or move it away if it is no part of the series."
    return InputError("E-TRUNC", found, wanted="a whole DICOM file", mend=mend, file=name)
