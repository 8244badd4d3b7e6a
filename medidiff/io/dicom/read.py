"""DICOM series in: the pixels of one regular stack of classic images, or of the frames of an enhanced file.

Values are what the modality means by them: slope and intercept of each slice applied, CT in HU. Integers stay integers
when every slope is 1 and every intercept whole, in the first of int16, uint16, int32, int64 that holds all values the
stored bits and intercepts allow; otherwise float32, computed in float64. Bits above BitsStored are ignored. For
MONOCHROME1 the stored values are kept and nothing is inverted: how dark a screen is drawn is no part of a measurement.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import FileDataset
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.utils import pixel_array
from pydicom.uid import UID

from medidiff.errors import InputError
from medidiff.io.contents import SeriesSummary
from medidiff.io.dicom.headers import NATIVE_SYNTAXES, Header, quietly, read_dataset, scan
from medidiff.io.dicom.split import Part, split
from medidiff.io.dicom.stack import Stack
from medidiff.io.files.atomic import sha256
from medidiff.io.files.checks import REFETCH
from medidiff.io.options import ReadOptions
from medidiff.io.reading import Found, Reading, Scan
from medidiff.volume import Volume

__all__ = ["data_type", "details_of", "find_dicom", "read_dicom", "read_stack", "units"]


def find_dicom(path: Path, options: ReadOptions) -> Found:
    """Every CT, MR and PT series at a path; one that is no regular stack is listed with its problem.

    Args:
        path: one multi-frame file, or a folder; what is no CT, MR or PT image in it is skipped.
        options: which repairs are allowed.

    Raises:
        InputError: ``E-NOIMAGES``, there is no image at all.
    """
    headers, skipped = scan(path)
    if not headers:
        found, mend = f"no CT, MR or PT image among {len(skipped)} files", "Give the folder of the slices."
        raise InputError("E-NOIMAGES", found, wanted="a DICOM series", mend=mend, file=path.name)
    scans, left_out = [], list(skipped)
    for part in split(headers, options):
        if part.stack is None:
            scans.append(_refused(part))
        else:
            left_out += part.stack.skipped
            scans.append(Scan(_summary(part.stack), tuple(part.stack.files), partial(_read, part.stack)))
    return Found("dicom", tuple(scans), tuple(left_out))


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
        dtype=str(data_type(stack.slices)),
        details=tuple(details_of(first).items()),
        decisions=stack.decisions,
    ).on(stack.geometry)


def _read(stack: Stack) -> Reading:
    digests = tuple(sha256(file) for file in stack.files)
    return Reading(read_stack(stack), tuple(stack.files), digests, stack.skipped, stack.decisions)


def read_dicom(path: Path, options: ReadOptions | None = None) -> Reading:
    """Read the one DICOM series at a path.

    Raises:
        InputError: there is no series, more than one, or none that is one regular stack.
    """
    options = options or ReadOptions()
    return find_dicom(path, options).only(options.scan, file=path.name).load()


def read_stack(stack: Stack) -> Volume:
    """Read the pixels of a stack whose headers have been checked.

    Raises:
        InputError: pixels are missing or cannot be decoded.
    """
    first = stack.slices[0]
    dtype = data_type(stack.slices)
    data = np.empty(stack.geometry.shape, dtype=dtype, order="F")
    loaded: tuple[Path, FileDataset] | None = None
    for k, header in enumerate(stack.slices):
        if loaded is None or loaded[0] != header.file:
            loaded = header.file, _load(header)
        data[:, :, k] = _rescaled(_stored(loaded[1], header), header, dtype=dtype).T
    return Volume(data, stack.geometry, first.modality, units(first))


def units(header: Header) -> str:
    """Unit of the rescaled values: HU for CT unless the file names another, the PET unit, else arbitrary."""
    if header.modality == "CT":
        return header.units or "HU"
    return header.units if header.modality == "PT" else ""


def details_of(header: Header) -> dict[str, str]:
    """Technical values of an image, as text; none of them identifies the patient."""
    with quietly():
        kind, syntax = UID(header.sop_class), UID(header.syntax)
    return {
        "kind": kind.name if kind.name != kind else "unknown",
        "transfer syntax": syntax.name if syntax.name != syntax else "unknown",
        "bits stored": f"{header.bits[1]} of {header.bits[0]}{', signed' if header.bits[3] else ''}",
        "photometric": header.photometric,
    }


def data_type(headers: Sequence[Header]) -> np.dtype[Any]:
    """Type of the voxels in memory, told by the headers alone."""
    scales = [header.rescale or (1.0, 0.0) for header in headers]
    if any(slope != 1 or not intercept.is_integer() for slope, intercept in scales):
        return np.dtype(np.float32)
    lows, highs = zip(*(_stored_range(header) for header in headers), strict=True)
    low = min(low + scale[1] for low, scale in zip(lows, scales, strict=True))
    high = max(high + scale[1] for high, scale in zip(highs, scales, strict=True))
    fits = (np.dtype(t) for t in ("i2", "u2", "i4", "i8") if np.iinfo(t).min <= low and high <= np.iinfo(t).max)
    return next(fits)


def _stored_range(header: Header) -> tuple[int, int]:
    stored, signed = header.bits[1], header.bits[3]
    return (-(2 ** (stored - 1)), 2 ** (stored - 1) - 1) if signed else (0, 2**stored - 1)


def _rescaled(stored: NDArray[np.int64], header: Header, *, dtype: np.dtype[Any]) -> NDArray[Any]:
    slope, intercept = header.rescale or (1.0, 0.0)
    if dtype.kind == "f":
        return (stored * slope + intercept).astype(dtype)
    return (stored + int(intercept)).astype(dtype)


def _stored(dataset: FileDataset, header: Header) -> NDArray[np.int64]:
    """(rows, columns) stored values of one classic image or frame."""
    pixels = _decode(dataset, header)
    if pixels.shape != header.shape:
        found = f"an image of {pixels.shape} pixels"
        raise InputError("E-SHAPE", found, wanted=f"{header.shape}", mend=REFETCH, file=header.name)
    values: NDArray[np.int64] = pixels.astype(np.int64) & (2 ** header.bits[1] - 1)
    if header.bits[3]:  # sign-extend from the highest stored bit
        values -= (values >> (header.bits[1] - 1)) << header.bits[1]
    return values


def _load(header: Header) -> FileDataset:
    """The whole file, with at least as many bytes of pixels as its header declares."""
    name = header.name
    try:
        dataset = read_dataset(header.file, pixels=True)
        held = len(dataset.get_item("PixelData").value or b"") if "PixelData" in dataset else 0
    except Exception as error:  # pydicom raises nearly anything on damaged bytes
        raise InputError("E-TRUNC", "a file that cannot be parsed to its end", mend=REFETCH, file=name) from error
    needed = header.bits[0] // 8 * header.frames * header.shape[0] * header.shape[1]
    if held == 0 or (header.syntax in NATIVE_SYNTAXES and held < needed):
        wanted = f"{needed}" if header.syntax in NATIVE_SYNTAXES else "some"
        raise InputError("E-TRUNC", f"{held} bytes of pixels", wanted=wanted, mend=REFETCH, file=name)
    return dataset


def _decode(dataset: FileDataset, header: Header) -> NDArray[Any]:
    name = header.name
    if header.syntax not in NATIVE_SYNTAXES:
        _refuse_undecodable(header)
    try:
        with quietly():
            pixels: NDArray[Any] = pixel_array(dataset, raw=True, index=header.frame)
    except Exception as error:  # decoders raise whatever their C libraries do
        found = "pixels that their decoder refuses"
        raise InputError("E-DECODE", found, mend=REFETCH, file=name, attribute="PixelData") from error
    return pixels


def _refuse_undecodable(header: Header) -> None:
    try:
        with quietly():
            decoder = get_decoder(header.syntax)
    except NotImplementedError:
        decoder = None
    if decoder is None or not decoder.is_available:
        mend = "Install pylibjpeg-openjpeg, pyjpegls and python-gdcm, or convert the file to an uncompressed syntax."
        raise InputError(
            "E-NODECODER",
            f"transfer syntax {''.join(c for c in header.syntax if c in '.0123456789')}",
            mend=mend,
            file=header.name,
        )
