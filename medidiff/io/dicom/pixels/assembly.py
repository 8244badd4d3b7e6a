"""One volume from slices that come in any order, a slice at a time: nothing is held twice."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from medidiff.io.dicom.pixels.values import data_type, padding_of, put, stored_values, units
from medidiff.io.dicom.series.repairs import shifted
from medidiff.io.dicom.series.stack import Stack
from medidiff.volume import Volume

__all__ = ["Assembly"]

_AIR_HU = -1024.0


class Assembly:
    """Collects the slices of a stack.

    Voxels that an interpolation cannot give, because nothing or only padding was measured there, are padding too, with
    the value of air: -1024 HU, or 0 in any other unit.
    """

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        columns, rows, count = stack.geometry.shape
        self._plain = stack.course.is_plain
        dtype = data_type(stack.slices, blended=not self._plain)
        make = np.empty if self._plain else np.zeros
        self._data: NDArray[Any] = make((count, rows, columns), dtype)
        self._padding: NDArray[np.bool_] | None = None

    def add(self, number: int, cells: NDArray[Any]) -> None:
        """Put a slice where it belongs.

        Args:
            number: of the slice in the stack.
            cells: (rows, columns) as stored, or the whole mosaic that the slice is a tile of.
        """
        header = self._stack.slices[number]
        if header.tile is not None:
            row, column = header.tile.row, header.tile.column
            cells = cells[row : row + header.shape[0], column : column + header.shape[1]]
        values = stored_values(cells, header)
        padding = padding_of(cells, values, header)
        shares = self._stack.course.shares[number]
        if self._plain:
            put(values, header, self._data[shares[0][0]])
            self._mark(shares[0][0], padding)
            return
        real = np.empty(values.shape, np.float64)
        put(values, header, real)
        if self._stack.course.shifts:
            start = self._stack.course.shifts[number]
            real, padding = shifted(real, padding, start=start, shape=self._data.shape[1:])
        for k, weight in shares:
            self._data[k] += weight * real
            self._mark(k, padding)

    def _mark(self, k: int, padding: NDArray[np.bool_] | None) -> None:
        if padding is None or not padding.any():
            return
        if self._padding is None:
            self._padding = np.zeros(self._data.shape, np.bool_)
        self._padding[k] |= padding

    def volume(self) -> Volume:
        """The scan, once every slice has been added."""
        first, course = self._stack.slices[0], self._stack.course
        unit = units(first)
        filled = None
        if course.filled:
            filled = np.zeros(self._data.shape, np.bool_)
            filled[list(course.filled)] = True
        if self._padding is not None and not self._plain:
            made = self._padding if course.shifts else self._padding & (False if filled is None else filled)
            self._data[made] = _AIR_HU if unit == "HU" else 0.0
        return Volume(
            self._data.transpose(2, 1, 0),
            course.geometry,
            first.modality,
            unit,
            padding=None if self._padding is None else self._padding.transpose(2, 1, 0),
            filled=None if filled is None else filled.transpose(2, 1, 0),
            thickness_mm=self._stack.thickness_mm,
        )
