"""How far slices may lie from a regular grid and still be read as one.

The rule, for slices d mm apart on the regular grid that fits them best (least squares):

* each slice lies within t of its place along the normal, where t is 1 % of d, or one unit of the last decimal of the
  positions if that is more (at most 0.01 mm, and never more than 10 % of d);
* each step between neighbours is within 1 % of d, or the same unit, of a whole number of d;
* in plane, where the rounding of two coordinates adds up, twice that unit is allowed.

So a series written as 0.33, 0.67, 1.00 is regular; one step 2 % too long is not, though every slice is near its place;
and steps that grow by a hair each are not once a slice has drifted 1 % of d away. Whole numbers above 1 are gaps.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medidiff.io.files.checks import SHEAR_LIMIT

__all__ = ["Places", "fit_places"]

_SHARE = 0.01
_SHARE_AT_MOST = 0.1
_ROUNDING_AT_MOST_MM = 0.01
_SLACK = 1.2  # the fit itself moves by a part of what rounding moves the slices
_Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Places:
    """Slices on the straight, regular line that fits them best: slice i lies near ``origin + numbers[i] * step``.

    Args:
        numbers: (N,) place of each slice, ascending from 0; whole numbers unless `uneven`.
        origin_mm: (3,).
        step_mm: (3,) from one place to the next.
        normal: (3,) unit vector across the slices.
        tolerance_mm: how far a slice may lie from its place along the normal.
        sideways_mm: how far in plane.
        uneven: whether the distances along the normal are no whole numbers of steps.
        crooked_mm: (N,) how far each slice lies from the line, in plane.
        tilt_degrees: between the line and the normal; 0 when rounding explains it.
    """

    numbers: _Array
    origin_mm: _Array
    step_mm: _Array
    normal: _Array
    tolerance_mm: float
    sideways_mm: float
    uneven: bool
    crooked_mm: _Array
    tilt_degrees: float

    @property
    def is_crooked(self) -> bool:
        """Whether a slice lies too far from the line, in plane."""
        return bool(self.crooked_mm.max() > self.sideways_mm)

    @property
    def spacing_mm(self) -> float:
        """Distance of neighbouring places along the normal."""
        return float(self.step_mm @ self.normal)

    @property
    def missing(self) -> int:
        """Places without a slice; 0 when uneven."""
        return 0 if self.uneven else int(self.numbers[-1]) + 1 - len(self.numbers)


def fit_places(positions_mm: _Array, normal: _Array) -> Places:
    """The regular line for slices in spatial order, no two at the same place.

    Args:
        positions_mm: (N, 3), N at least 2, ascending along the normal.
        normal: (3,) unit vector.
    """
    along = positions_mm @ normal
    steps = np.diff(along)
    rounding = min(float(_quantum(positions_mm) @ np.abs(normal)), _ROUNDING_AT_MOST_MM)
    rounding_in_plane = min(float(_quantum(positions_mm).max()), _ROUNDING_AT_MOST_MM)
    usual = _usual(steps, rounding)
    numbers = _whole(along, usual, rounding)
    if numbers is None and (other := _whole(along, float(steps.min()), rounding)) is not None:
        numbers = other if other[-1] < 2 * len(other) else None  # a hair's breadth divides every distance
    uneven = numbers is None
    if numbers is None:
        numbers = (along - along[0]) / usual
    origin, step = _line(numbers, positions_mm)
    spacing = float(step @ normal)
    tolerance, sideways = _tolerance(spacing, rounding), _tolerance(spacing, 2 * rounding_in_plane)
    crooked = _away(positions_mm, numbers, origin, step, normal)
    if crooked.max() > sideways:  # one slice astray must not tilt the line of the others
        origin, step = _robust_line(numbers, positions_mm)
        crooked = _away(positions_mm, numbers, origin, step, normal)
    drift = float(np.linalg.norm(step - spacing * normal))
    tilted = drift > max(SHEAR_LIMIT * float(np.linalg.norm(step)), 2 * rounding_in_plane / float(numbers[-1]))
    if not tilted and drift > SHEAR_LIMIT * spacing:
        step = spacing * normal
    angle = float(np.degrees(np.arctan2(drift, spacing))) if tilted else 0.0
    return Places(numbers, origin, step, normal, tolerance, sideways, uneven, crooked, angle)


def _away(positions_mm: _Array, numbers: _Array, origin: _Array, step: _Array, normal: _Array) -> _Array:
    """(N,) distance of each slice from the line, in plane."""
    off = positions_mm - origin - numbers[:, None] * step
    return np.asarray(np.linalg.norm(off - (off @ normal)[:, None] * normal, axis=1))


def _tolerance(spacing: float, rounding: float) -> float:
    return min(max(_SHARE * spacing, rounding), _SHARE_AT_MOST * spacing)


def _quantum(positions_mm: _Array) -> _Array:
    """(3,) size of the last decimal that each coordinate uses, in mm; 0 when there are more than six."""
    found = np.zeros(3)
    for decimals in range(6, -1, -1):
        exact = np.abs(positions_mm - np.round(positions_mm, decimals)).max(axis=0) < 1e-9
        found[exact] = 10.0**-decimals
    return found


def _usual(steps: _Array, rounding: float) -> float:
    """The most common step, to within the tolerance; the smallest of several."""
    ordered = np.sort(steps)
    reach = np.maximum(_SHARE * ordered, _SLACK * rounding)
    count = np.searchsorted(ordered, ordered + reach, side="right") - np.searchsorted(ordered, ordered - reach)
    near = ordered[np.abs(ordered - ordered[int(np.argmax(count))]) <= reach[int(np.argmax(count))]]
    return float(np.median(near))


def _whole(along: _Array, base: float, rounding: float) -> _Array | None:
    """The place of each slice on a grid with about this step, or None when they lie on none."""
    steps = np.diff(along)
    for _ in range(2):  # a long gap counts its steps right only once the step is known well
        jumps = np.rint(steps / base)
        if jumps.min() < 1:
            return None
        numbers = np.concatenate([[0.0], np.cumsum(jumps)])
        origin, step = _line(numbers, along[:, None])
        base = float(step[0])
    off = np.abs(along - origin[0] - numbers * base).max()
    jerk = np.abs(steps - jumps * base).max()
    near = off <= _tolerance(base, rounding) and jerk <= max(_SHARE * base, _SLACK * rounding)
    return numbers if near else None


def _line(numbers: _Array, positions: _Array) -> tuple[_Array, _Array]:
    """Origin and step of the least squares line through (N, D) positions at these places."""
    centred = numbers - numbers.mean()
    step = centred @ (positions - positions.mean(axis=0)) / (centred @ centred)
    return positions.mean(axis=0) - numbers.mean() * step, step


def _robust_line(numbers: _Array, positions: _Array) -> tuple[_Array, _Array]:
    """As `_line`, by medians."""
    step = np.median(np.diff(positions, axis=0) / np.diff(numbers)[:, None], axis=0)
    return np.median(positions - numbers[:, None] * step, axis=0), step
