"""From real values to the 16-bit integers that a DICOM image stores; nothing ever wraps.

* Whole numbers are stored exactly: MR without a rescale when they fit 16 bits, CT as HU with slope 1 and intercept
  -1024, or the minimum when that is lower.
* Other MR values whose range is 512 to 65,535 units are rounded to whole units (at most half a unit, below 0.1 % of
  the range), because the MR image object has no rescale of its own and many archives show stored values as they are.
* All else gets the smallest slope of the series 1, 2, 5 x 10^n that brings the range into 16 bits. For slopes up to 1
  whole numbers stay exact to the precision of a float. RescaleSlope in an MR image is allowed as a standard extension;
  viewers that ignore it show the picture right and the numbers scaled, alike in all slices.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.valuerep import DSfloat

__all__ = ["Stored", "stored_values"]

_TOP = 65535
_WHOLE_UNITS_FROM = 512


@dataclass(frozen=True, slots=True, eq=False)
class Stored:
    """Values as a DICOM image holds them: real = stored * slope + intercept.

    Args:
        values: (I, J, K), uint16 or int16.
        slope: exactly as its decimal string reads.
        intercept: exactly as its decimal string reads.
    """

    values: NDArray[Any]
    slope: float
    intercept: float

    @property
    def is_rescaled(self) -> bool:
        """Whether stored and real values differ."""
        return (self.slope, self.intercept) != (1.0, 0.0)


def stored_values(data: NDArray[Any], *, modality: str) -> Stored:
    """Choose slope and intercept for a whole series and apply them.

    Args:
        data: (I, J, K), finite real numbers.
        modality: ``"CT"`` or ``"MR"``.

    Example:
        >>> stored_values(np.array([[[-5, 300]]]), modality="MR").values.dtype
        dtype('int16')
    """
    low, high = data.min().item(), data.max().item()
    whole = data.dtype.kind in "iub" or bool((data == np.rint(data)).all())
    if not whole and modality == "MR" and _WHOLE_UNITS_FROM <= high - low <= _TOP - 1:
        data, whole = np.rint(data), True
        low, high = round(low), round(high)
    if whole and high - low <= _TOP:
        return _exact(data, int(low), int(high), modality=modality)
    return _scaled(data.astype(np.float64), float(low), float(high))


def _exact(data: NDArray[Any], low: int, high: int, *, modality: str) -> Stored:
    if modality == "CT":
        start = min(-1024, low) if high - min(-1024, low) <= _TOP else low
    elif low >= 0 and high <= _TOP:
        start = 0
    elif low >= -(2**15) and high < 2**15:
        return Stored(data.astype(np.int16), 1.0, 0.0)
    else:
        start = low
    return Stored((data.astype(np.float64) - start).astype(np.uint16), 1.0, float(start))


def _scaled(data: NDArray[np.float64], low: float, high: float) -> Stored:
    slope = _round_up((high - low) / (_TOP - 1)) if high > low else 1.0
    slope = float(DSfloat(slope, auto_format=True))
    intercept = float(DSfloat(math.floor(low / slope) * slope, auto_format=True))
    values = np.rint((data - intercept) / slope)
    return Stored(np.clip(values, 0, _TOP).astype(np.uint16), slope, intercept)


def _round_up(value: float) -> float:
    """The next number of the series 1, 2, 5 x 10^n at or above a positive value."""
    exponent = math.floor(math.log10(value))
    steps = (float(f"{digit}e{exponent + up}") for up in (0, 1) for digit in (1, 2, 5))
    return next(step for step in steps if step >= value)
