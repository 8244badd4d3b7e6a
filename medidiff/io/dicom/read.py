"""DICOM series in: the pixels of one regular stack of classic images, or of the frames of an enhanced file.

Each file is read once: what is hashed is what is parsed. Values are what the modality means by them, as
`medidiff.io.dicom.pixels.values` tells.
"""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from io import BytesIO
from pathlib import Path

from pydicom.uid import UID, DeflatedExplicitVRLittleEndian

from medidiff.errors import InputError
from medidiff.io.contents import SeriesSummary
from medidiff.io.dicom.headers.header import NATIVE_SYNTAXES, Header, quietly, read_dataset, scan
from medidiff.io.dicom.pixels.assembly import Assembly
from medidiff.io.dicom.pixels.decode import Decoder
from medidiff.io.dicom.pixels.values import data_type, units
from medidiff.io.dicom.series.split import Part, split
from medidiff.io.dicom.series.stack import Stack
from medidiff.io.files.checks import REFETCH, refuse_nonfinite
from medidiff.io.files.walk import gather
from medidiff.io.options import ReadOptions
from medidiff.io.reading import Found, Reading, Scan
from medidiff.volume import Volume

__all__ = ["details_of", "find_dicom", "read_dicom", "read_stack", "units"]

_TIMING = {  # of a classic image, and of a frame
    "TE": (("EchoTime", "EffectiveEchoTime"), " ms"),
    "TI": (("InversionTime", "InversionTimes"), " ms"),
    "flip angle": (("FlipAngle",), "°"),
}


def find_dicom(files: Sequence[Path], options: ReadOptions) -> Found:
    """Every CT, MR and PT scan among some files; one that is no regular stack is listed with its problem.

    Args:
        files: regular files; what is no CT, MR or PT image is skipped.
        options: which repairs are allowed.
    """
    headers, skipped = scan(files)
    scans = []
    parts, left_out = split(headers, options)
    for part in parts:
        if part.stack is None:
            scans.append(_refused(part))
        else:
            scans.append(Scan(_summary(part.stack), tuple(part.stack.files), partial(_read, part.stack)))
    return Found("dicom", tuple(scans), (*skipped, *left_out))


def _refused(part: Part) -> Scan:
    def load() -> Reading:
        return _read(part.stacked())

    first = part.headers[0]
    details, files = tuple(details_of(first).items()), tuple(dict.fromkeys(header.file for header in part.headers))
    summary = SeriesSummary(files=len(files), modality=first.modality, details=details, problem=str(part.problem))
    return Scan(summary, files, load)


def _summary(stack: Stack) -> SeriesSummary:
    first = stack.slices[0]
    return SeriesSummary(
        files=len(stack.files),
        modality=first.modality,
        units=units(first),
        dtype=str(data_type(stack.slices, blended=not stack.course.is_plain)),
        details=tuple(details_of(first).items()),
        decisions=stack.decisions,
    ).on(stack.geometry)


def _read(stack: Stack) -> Reading:
    volume, digests = read_stack(stack)
    return Reading(volume, tuple(stack.files), digests, stack.skipped, stack.decisions)


def read_dicom(path: Path, options: ReadOptions | None = None) -> Reading:
    """Read the one DICOM series at a path.

    Raises:
        InputError: there is no series, more than one, or none that is one regular stack.
    """
    options = options or ReadOptions()
    found = find_dicom(gather(path).files, options)
    if not found.scans:
        wanted, mend = "a DICOM series", "Give the folder of the slices."
        raise InputError("E-NOIMAGES", "no CT, MR or PT image", wanted=wanted, mend=mend, file=path.name)
    return found.only(options.scan, file=path.name).load()


def read_stack(stack: Stack) -> tuple[Volume, tuple[str, ...]]:
    """Read the pixels of a stack whose headers have been checked, one file after the other.

    Returns:
        The scan, and SHA-256 of the bytes of each of `stack.files` as they were read.

    Raises:
        InputError: pixels are missing or cannot be decoded, or a file is no longer what it was.
    """
    parts: dict[Path, list[int]] = defaultdict(list)
    for number, header in enumerate(stack.slices):
        parts[header.file].append(number)
    assembly, digests = Assembly(stack), []
    with Decoder() as decoder:
        for numbers in parts.values():
            first = stack.slices[numbers[0]]
            raw = _bytes(first)
            digests.append(hashlib.sha256(raw).hexdigest())
            held, words = _pixels(raw, first)
            cells = None
            for number in numbers:
                if cells is None or stack.slices[number].tile is None:  # the tiles of a mosaic share its cells
                    cells = decoder.cells(held, stack.slices[number], words=words)
                assembly.add(number, cells)
    volume = assembly.volume()
    if stack.slices[0].floating:
        refuse_nonfinite(volume.data, file=stack.slices[0].file.name)
    return volume, tuple(digests)


def _bytes(header: Header) -> bytes:
    """All bytes of a file, which must still be as many as when its header was read."""
    name = header.file.name
    mend = "Wait until the transfer is finished, then run the same command again."
    try:
        raw = header.file.read_bytes()
    except FileNotFoundError as error:
        raise InputError("E-CHANGED", "a file that is gone since it was found", mend=mend, file=name) from error
    except OSError as error:
        found = error.strerror or "the system refuses to read it"
        raise InputError("E-READ", found, mend="Check the disk and the rights.", file=name) from error
    if len(raw) != header.size:
        found = f"{len(raw)} bytes, {header.size} when it was found"
        raise InputError("E-CHANGED", found, wanted="a file at rest", mend=mend, file=name)
    return raw


def _pixels(raw: bytes, header: Header) -> tuple[bytes | memoryview, bool]:
    """The value of PixelData, where the scan of the header found it, and whether it is stored in words."""
    if header.stored is None:
        return b"", True
    name = header.file.name
    if header.syntax == DeflatedExplicitVRLittleEndian:
        try:
            dataset = read_dataset(BytesIO(raw), pixels=True)
            keyword = "FloatPixelData" if header.floating else "PixelData"
            return dataset.get_item(keyword).value or b"", True
        except InputError:
            raise
        except Exception as error:  # pydicom raises nearly anything on damaged bytes
            found = "a file that cannot be parsed to its end"
            raise InputError("E-TRUNC", found, mend=REFETCH, file=name) from error
    start, count = header.stored
    if header.sop_uid.encode("latin-1") not in raw[:start]:
        found, mend = "another image than when it was found", "Run the same command again on files at rest."
        raise InputError("E-CHANGED", found, mend=mend, file=name, attribute="SOPInstanceUID")
    if header.syntax not in NATIVE_SYNTAXES:  # fragments, to their end mark
        return raw[start:], True
    return memoryview(raw)[start : start + count], raw[start - 8 : start - 6] != b"OB"


def details_of(header: Header) -> dict[str, str]:
    """Technical values of an image, as text; none of them identifies the patient.

    Series number and timing tell the scans of a study apart, as their names would, which people put patients into.
    """
    with quietly():
        kind, syntax = UID(header.sop_class), UID(header.syntax)
    stored = f"{header.bits[1]} of {header.bits[0]}{', signed' if header.bits[3] else ''}"
    return {
        "kind": kind.name if kind.name != kind else "unknown",
        "transfer syntax": syntax.name if syntax.name != syntax else "unknown",
        "bits stored": "float32" if header.floating else stored,
        "photometric": header.photometric,
        **_timing(header),
    }


def _timing(header: Header) -> dict[str, str]:
    """Series number, echo and inversion time and flip angle, those that are stated, with their units."""
    clock = dict(header.clock)
    found = {} if header.series is None else {"series": str(header.series)}
    for name, (keywords, unit) in _TIMING.items():
        stated = next((clock[keyword] for keyword in keywords if clock.get(keyword)), "")
        try:
            value = float(stated)
        except ValueError:
            continue
        if math.isfinite(value):
            found[name] = f"{value:.9g}{unit}"
    return found
