"""From stored pixels to the values that they mean: used bits, sign, slope and intercept, padding, the type in memory.

Integers stay integers when every slope is 1 and every intercept whole, in the first of int16, uint16, int32, int64 that
holds all values the stored bits and intercepts allow; otherwise float32, or float64 for more than 24 stored bits,
computed in float64. Bits above BitsStored are ignored. A pixel padding value keeps its value, rescaled like the others,
and is marked. For MONOCHROME1 the stored values are kept and nothing is inverted: how dark a screen is drawn is no part
of a measurement.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medidiff.io.dicom.headers.header import Header

__all__ = ["data_type", "padding_of", "put", "stored_values", "units"]

_UNSPECIFIED = "US"  # DICOM's word for a scale without a unit
_FLOAT32_BITS = 24


def units(header: Header) -> str:
    """Unit of the rescaled values: HU for CT unless the file names another, the PET unit, else arbitrary."""
    if header.rescale is None or header.units == _UNSPECIFIED or header.modality not in ("CT", "PT"):
        return ""
    return header.units or ("HU" if header.modality == "CT" else "")


def data_type(headers: Sequence[Header], *, blended: bool = False) -> np.dtype[Any]:
    """Type of the voxels in memory, told by the headers alone.

    Args:
        headers: all slices.
        blended: whether values are interpolated between pixels.
    """
    scales = [header.rescale or (1.0, 0.0) for header in headers]
    if headers[0].floating:
        return np.dtype(np.float32)
    if blended or any(slope != 1 or not intercept.is_integer() for slope, intercept in scales):
        return np.dtype(np.float32 if max(h.bits[1] for h in headers) <= _FLOAT32_BITS else np.float64)
    lows, highs = zip(*(_stored_range(header) for header in headers), strict=True)
    low = min(low + scale[1] for low, scale in zip(lows, scales, strict=True))
    high = max(high + scale[1] for high, scale in zip(highs, scales, strict=True))
    fits = (np.dtype(t) for t in ("i2", "u2", "i4", "i8") if np.iinfo(t).min <= low and high <= np.iinfo(t).max)
    return next(fits, np.dtype(np.float64))


def _stored_range(header: Header) -> tuple[int, int]:
    stored, signed = header.bits[1], header.bits[3]
    return (-(2 ** (stored - 1)), 2 ** (stored - 1) - 1) if signed else (0, 2**stored - 1)


def stored_values(cells: NDArray[Any], header: Header) -> NDArray[Any]:
    """Stored numbers from whole cells: unused high bits dropped, the sign taken from the highest stored bit.

    Args:
        cells: unsigned integers of BitsAllocated, in any byte order.
        header: of the image.
    """
    allocated, stored, _, signed = header.bits
    cells = cells.astype(f"u{allocated // 8}", copy=False)
    if header.floating:
        return np.asarray(cells.view(np.float32))
    spare = allocated - stored
    if not signed:
        return cells & np.array(2**stored - 1, cells.dtype) if spare else cells
    values: NDArray[Any] = (cells << np.array(spare, cells.dtype)).view(f"i{allocated // 8}")
    return np.asarray(values >> np.array(spare, values.dtype))


def padding_of(cells: NDArray[Any], values: NDArray[Any], header: Header) -> NDArray[np.bool_] | None:
    """Where the scanner stored its padding value, or one of a range of them; None when it declares none.

    Args:
        cells: as for `stored_values`; a padding value too wide for the stored bits is looked for in these.
        values: what `stored_values` made of them.
        header: of the image.
    """
    if not header.padding or header.floating:
        return None
    allocated, signed = header.bits[0], header.bits[3]
    patterns = [pattern & (2**allocated - 1) for pattern in header.padding]
    low, high = _stored_range(header)
    numbers = [p - 2**allocated if signed and p >= 2 ** (allocated - 1) else p for p in patterns]
    if all(low <= number <= high for number in numbers):
        return np.asarray((values >= min(numbers)) & (values <= max(numbers)))
    return np.asarray(cells == patterns[0])


def put(values: NDArray[Any], header: Header, out: NDArray[Any]) -> None:
    """Write the real values of one slice into its place.

    Args:
        values: (rows, columns) stored numbers.
        header: of the image.
        out: of the same shape, of the type that `data_type` chose.
    """
    slope, intercept = header.rescale or (1.0, 0.0)
    if out.dtype.kind == "f":
        out[...] = values * np.float64(slope) + np.float64(intercept)
    elif intercept == 0:
        out[...] = values
    else:
        np.add(values, np.array(int(intercept)).astype(out.dtype), out=out, dtype=out.dtype, casting="unsafe")
