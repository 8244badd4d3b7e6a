"""What becomes of each slice of a stack that is no regular grid, where a named option says so.

A `Course` tells, for every slice that was measured, which slices of the regular grid it gives a share of itself to, and
how far it is first moved in plane. Everything is linear interpolation, exact for values that are a linear function of
position: between neighbours along the normal, between pixels in plane.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medidiff.io.dicom.series.tolerances import Places
from medidiff.io.options import ReadOptions
from medidiff.volume import Geometry

__all__ = ["LPS_TO_RAS", "Course", "plan_course", "shifted"]

LPS_TO_RAS = np.diag((-1.0, -1.0, 1.0, 1.0))
_Array = NDArray[np.float64]
_EDGE = 1e-6  # pixels: rounding at the rim of a slice is not outside


@dataclass(frozen=True, slots=True)
class Course:
    """From N measured slices to the slices of a regular grid.

    Args:
        geometry: the grid, voxel axes (column index, row index, slice).
        shares: for each measured slice, the grid's slices that it contributes to and its weight there.
        filled: slices of the grid that lie at no measured slice.
        shifts: for each measured slice, the column and row in it where the grid's first column and row begin; empty
            when all lie straight above each other.
    """

    geometry: Geometry
    shares: tuple[tuple[tuple[int, float], ...], ...]
    filled: tuple[int, ...] = ()
    shifts: tuple[tuple[float, float], ...] = ()

    @property
    def is_plain(self) -> bool:
        """Whether every slice is taken as it is."""
        return not self.filled and not self.shifts and all(len(s) == 1 and s[0][1] == 1.0 for s in self.shares)


def plan_course(
    places: Places, positions_mm: _Array, *, axes: _Array, shape: tuple[int, int], options: ReadOptions
) -> Course:
    """The grid that the options allow, and each slice's part in it.

    Args:
        places: where the slices lie.
        positions_mm: (N, 3) positions in LPS.
        axes: (3, 2) from one column, and from one row, to the next, in LPS mm.
        shape: rows and columns of a slice.
        options: whose repairs have been found to be allowed.
    """
    straight = places.tilt_degrees == 0 or options.on_tilt == "shear"
    step = places.step_mm if straight else places.normal * places.spacing_mm
    origin, (rows, columns) = places.origin_mm, shape
    shifts: tuple[tuple[float, float], ...] = ()
    if not straight or places.is_crooked:
        moved = _in_plane(positions_mm - origin - places.numbers[:, None] * step, axes)
        low, high = np.floor(moved.min(axis=0) + _EDGE), np.ceil(moved.max(axis=0) - _EDGE)
        origin = origin + axes @ low
        columns, rows = columns + int(high[0] - low[0]), rows + int(high[1] - low[1])
        shifts = tuple((float(c), float(r)) for c, r in low - moved)
    count, shares, filled = _along(places)
    affine = np.eye(4)
    affine[:3, :2], affine[:3, 2], affine[:3, 3] = axes, step, origin
    return Course(Geometry((columns, rows, count), LPS_TO_RAS @ affine), shares, filled, shifts)


def _in_plane(offset_mm: _Array, axes: _Array) -> _Array:
    """(N, 2) columns and rows that make up (N, 3) offsets."""
    return np.asarray(np.linalg.lstsq(axes, offset_mm.T, rcond=None)[0].T)


def _along(places: Places) -> tuple[int, tuple[tuple[tuple[int, float], ...], ...], tuple[int, ...]]:
    """Number of grid slices, each measured slice's shares in them, and those that are filled."""
    near = places.tolerance_mm / places.spacing_mm
    numbers = np.where(
        np.abs(places.numbers - np.rint(places.numbers)) <= near, np.rint(places.numbers), places.numbers
    )
    count = int(np.floor(numbers[-1])) + 1
    shares: dict[int, list[tuple[int, float]]] = defaultdict(list)
    filled = []
    for k in range(count):
        below = int(np.searchsorted(numbers, k, side="right")) - 1
        part = (k - numbers[below]) / (numbers[below + 1] - numbers[below]) if numbers[below] < k else 0.0
        shares[below].append((k, float(1 - part)))
        if part > 0:
            shares[below + 1].append((k, float(part)))
            filled.append(k)
    return count, tuple(tuple(shares[i]) for i in range(len(numbers))), tuple(filled)


def shifted(
    values: _Array, padding: NDArray[np.bool_] | None, *, start: tuple[float, float], shape: tuple[int, int]
) -> tuple[_Array, NDArray[np.bool_]]:
    """A slice moved in plane by linear interpolation.

    Args:
        values: (rows, columns).
        padding: where these are none; None for nowhere.
        start: column and row, fractional, that become the first.
        shape: rows and columns of the answer.

    Returns:
        Values, 0 where nothing was measured, and the mask of these places.
    """
    lost = np.zeros(values.shape, dtype=np.bool_) if padding is None else padding
    for axis, first in ((1, start[0]), (0, start[1])):
        values, lost = _shifted_along(values, lost, first, count=shape[axis], axis=axis)
    return values, lost


def _shifted_along(
    values: _Array, lost: NDArray[np.bool_], first: float, *, count: int, axis: int
) -> tuple[_Array, NDArray[np.bool_]]:
    size = values.shape[axis]
    at = first + np.arange(count)
    near = np.rint(at)
    at = np.where(np.abs(at - near) <= _EDGE, near, at)
    inside = (at >= 0) & (at <= size - 1)
    low = np.clip(np.floor(at).astype(int), 0, size - 1)
    high = np.minimum(low + 1, size - 1)
    part = np.where(inside, at - low, 0.0)
    across = (slice(None), None) if axis == 0 else (None, slice(None))
    blend = values.take(low, axis) * (1 - part)[across] + values.take(high, axis) * part[across]
    gone = lost.take(low, axis) | (lost.take(high, axis) & (part > 0)[across]) | ~inside[across]
    return np.where(gone, 0.0, blend), gone
