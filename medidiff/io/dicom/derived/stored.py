"""From real values to the 16-bit integers that a classic DICOM image stores; nothing ever wraps.

The first of these that fits is chosen, for the whole series at once:

1. **The source's own slope and intercept**, slice by slice, when every value lies on that lattice: what was read comes
   back bit for bit, integers and rescaled floats alike.
2. **Whole numbers exactly**: CT as HU with slope 1 and intercept -1024, or the minimum when that is lower; MR and PET
   without a rescale when they fit 16 bits.
3. **MR in whole units** when the range is 512 to 65,534 of them: at most half a unit off, below 0.1 % of the range and
   far below the noise, because the MR image object has no rescale of its own and many archives show stored values as
   they are.
4. **PET with a slope for each slice**, as scanners write it: 1/32,767 of the largest value of the slice, intercept 0.
5. **All else with the smallest slope of the series 1, 2, 5 x 10^n** that brings the range into 16 bits, so that decimal
   values such as HU stay readable. RescaleSlope in an MR image is a standard extension; viewers that ignore it show the
   picture right and the numbers scaled, alike in all slices.

Sixteen bits cannot hold a float to 1e-6: in 3 to 5 the error is at most half a slope, and `Storage.note` says so. A
lower bound is rounded down and an upper one up, by at most a slope: what is stored still holds what the bounds held,
but for a lower bound that would read as padding where padding is the lowest integer there is; it moves up by a step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydicom.valuerep import DSfloat

__all__ = ["Scale", "Storage", "Towards", "Values", "plan_storage"]

Values = Callable[[int], NDArray[Any]]  # number of a slice -> (I, J) finite real values of it

Towards = Literal["nearest", "down", "up"]
"""Where a value between two steps goes."""

_TOP = 65535
_WHOLE_UNITS_FROM = 512
_FLOAT32 = float(np.finfo(np.float32).eps)
_ON_A_STEP = 1e-6  # steps; nearer, a value is that step, which only the rounding of its float has moved


@dataclass(frozen=True, slots=True)
class Scale:
    """How one slice is stored: real = stored * slope + intercept.

    Args:
        slope: exactly as its decimal string reads.
        intercept: exactly as its decimal string reads.
        signed: whether the integers are int16; else uint16.
        exact: whether every value comes back as it was, to the rounding of float32.
        towards: where a value between two steps goes.
    """

    slope: float
    intercept: float
    signed: bool
    exact: bool = False
    towards: Towards = "nearest"

    @property
    def limits(self) -> tuple[int, int]:
        """Lowest and highest integer."""
        return (-(2**15), 2**15 - 1) if self.signed else (0, _TOP)

    @property
    def is_rescaled(self) -> bool:
        """Whether stored and real values differ."""
        return (self.slope, self.intercept) != (1.0, 0.0)

    @property
    def error(self) -> float:
        """Largest difference between a value and what is read back, beside the rounding of float32."""
        return 0.0 if self.exact else self._most_off * (1 + 1e-9)

    @property
    def _most_off(self) -> float:
        return self.slope / 2 if self.towards == "nearest" else self.slope

    @property
    def words(self) -> str:
        """How far stored values are off, for a note."""
        off = f"at most {self._most_off:g} off"
        return off if self.towards == "nearest" else f"rounded {self.towards}, {off}"

    def store(self, values: NDArray[Any]) -> NDArray[Any]:
        """The integers of a slice, saturated at the limits."""
        stored = np.clip(self._steps(values), *self.limits)
        return np.asarray(stored.astype(np.int16 if self.signed else np.uint16))

    def reaches(self, values: NDArray[Any]) -> bool:
        """Whether no value lies beyond the limits."""
        stored, (low, high) = self._steps(values), self.limits
        return bool(stored.min() >= low and stored.max() <= high)

    def real(self, stored: NDArray[Any]) -> NDArray[np.float64]:
        """What a reader makes of the integers."""
        return np.asarray(stored.astype(np.float64) * self.slope + self.intercept)

    def holds(self, values: NDArray[Any]) -> bool:
        """Whether every value is one of this scale, to the rounding of float32."""
        if self.slope <= 0 or not self.reaches(values):
            return False
        reals = values.astype(np.float64)
        apart = np.abs(self.real(self.store(values)) - reals)
        return bool((apart <= _FLOAT32 * np.abs(reals) + 1e-9 * self.slope).all())

    def _steps(self, values: NDArray[Any]) -> NDArray[Any]:
        if self.slope == 1 and self.intercept.is_integer() and values.dtype.kind in "iub":
            return values.astype(np.int64) - int(self.intercept)
        steps = (values.astype(np.float64) - self.intercept) / self.slope
        near = np.rint(steps)
        if self.towards == "nearest":
            return near
        directed = np.floor(steps) if self.towards == "down" else np.ceil(steps)
        return np.where(np.abs(steps - near) <= _ON_A_STEP, near, directed)


@dataclass(frozen=True, slots=True)
class Storage:
    """How a series is stored.

    Args:
        scales: one for each slice, all signed or none.
        note: a sentence about the precision; empty when every value comes back as it was.
    """

    scales: tuple[Scale, ...]
    note: str = ""

    @property
    def signed(self) -> bool:
        """Whether the integers are int16."""
        return self.scales[0].signed


def plan_storage(values: Values, likely: Sequence[Scale], *, modality: str, towards: Towards = "nearest") -> Storage:
    """Choose slope and intercept for each slice of a series.

    Args:
        values: slice by slice.
        likely: the source's own scale at each slice, tried first.
        modality: ``"CT"``, ``"MR"`` or ``"PT"``.
        towards: where values go that lie between two steps.

    Example:
        >>> plan_storage(lambda k: np.array([[-5, 300]]), [Scale(1.0, 0.0, False)], modality="MR").scales[0].signed
        True
    """
    count = len(likely)
    allowed = modality != "PT" or all(scale.intercept == 0 for scale in likely)  # a PET image has intercept 0
    for signed in (likely[0].signed, not likely[0].signed):
        own = tuple(Scale(_printed(s.slope), _printed(s.intercept), signed, exact=True) for s in likely)
        if allowed and all(scale.holds(values(k)) for k, scale in enumerate(own)):
            return Storage(own)
    low, high, whole = _extent(values, count)
    if whole and high - low <= _TOP and (scale := _whole(int(low), int(high), modality=modality)):
        return Storage((scale,) * count)
    if modality == "MR" and _WHOLE_UNITS_FROM <= high - low <= _TOP - 1:
        ends = (round(low), round(high)) if towards == "nearest" else (math.floor(low), math.ceil(high))
        rounded = _whole(*ends, modality=modality)
        if rounded is not None:
            scale = Scale(1.0, rounded.intercept, rounded.signed, towards=towards)
            return Storage((scale,) * count, f"stored in whole units, as MR images are: {scale.words}")
    if modality == "PT":
        scales = tuple(replace(_of_slice(values(k), signed=low < 0), towards=towards) for k in range(count))
        off = "at most half a step off" if towards == "nearest" else f"rounded {towards}, at most a step off"
        return Storage(scales, f"stored in steps of 1/32767 of each slice's maximum: {off}")
    scale = replace(_decimal_scale(float(low), float(high)), towards=towards)
    return Storage((scale,) * count, f"stored in steps of {scale.slope:g}: {scale.words}")


def _extent(values: Values, count: int) -> tuple[float, float, bool]:
    """Lowest and highest value, and whether all are whole numbers."""
    lows, highs, whole = [], [], True
    for k in range(count):
        part = values(k)
        lows.append(part.min().item())
        highs.append(part.max().item())
        whole = whole and (part.dtype.kind in "iub" or bool((part == np.rint(part)).all()))
    return min(lows), max(highs), whole


def _whole(low: int, high: int, *, modality: str) -> Scale | None:
    """A scale of slope 1 for whole numbers; None for PET that needs an intercept, which it must not have."""
    if modality == "CT":
        start = min(-1024, low) if high - min(-1024, low) <= _TOP else low
        return Scale(1.0, float(start), signed=False, exact=True)
    if low >= 0 and high <= _TOP:
        return Scale(1.0, 0.0, signed=False, exact=True)
    if low >= -(2**15) and high < 2**15:
        return Scale(1.0, 0.0, signed=True, exact=True)
    return None if modality == "PT" else Scale(1.0, float(low), signed=False, exact=True)


def _of_slice(values: NDArray[Any], *, signed: bool) -> Scale:
    largest = float(np.abs(values.astype(np.float64)).max())
    return Scale(_printed(largest / (2**15 - 1)) or 1.0, 0.0, signed)


def _decimal_scale(low: float, high: float) -> Scale:
    slope = _printed(_round_up((high - low) / (_TOP - 1)) if high > low else 1.0)
    return Scale(slope, _printed(math.floor(low / slope) * slope), signed=False)


def _printed(value: float) -> float:
    """The number that the decimal string of at most 16 characters stands for."""
    return float(DSfloat(value, auto_format=True))


def _round_up(value: float) -> float:
    """The next number of the series 1, 2, 5 x 10^n at or above a positive value."""
    exponent = math.floor(math.log10(value))
    steps = (float(f"{digit}e{exponent + up}") for up in (0, 1) for digit in (1, 2, 5))
    return next(step for step in steps if step >= value)
