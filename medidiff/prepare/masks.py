"""Voxels that were never measured: kept out of every statistic and away from the network, and put back at the end."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medidiff.volume import Geometry, Volume

__all__ = ["put_back", "readable", "without_padding"]


def readable(volume: Volume) -> NDArray[np.bool_] | None:
    """(I, J, K), true where statistics are read; None for everywhere.

    That is where the scanner measured. Where a repair has made up every voxel, it is where there is no padding.
    """
    if volume.padding is None and volume.filled is None:
        return None
    measured = volume.measured
    if measured.any():
        return measured
    return None if volume.padding is None or volume.padding.all() else ~volume.padding


def without_padding(volume: Volume) -> NDArray[Any]:
    """(C, I, J, K) values with the lowest readable one in place of padding, so that nothing depends on its value."""
    if volume.padding is None or volume.padding.all():
        return volume.data
    where = readable(volume)
    lowest = volume.data[:, where].min(axis=1)
    return np.where(volume.padding, lowest[:, None, None, None], volume.data)


def put_back(answer: Volume, source: Volume, *, values: bool = True) -> Volume:
    """An answer with its source's masks, and its values where there is padding.

    On another grid a voxel is what the nearest voxel of the source is.

    Args:
        answer: one channel, on the source's grid or one that covers the same box along the same axes.
        source: the scan.
        values: whether padding gets the source's values; 0 otherwise, as befits a spread.
    """
    if source.padding is None and source.filled is None:
        return answer
    nearest = _nearest(answer.geometry, source.geometry)
    padding, filled = (None if mask is None else mask[nearest] for mask in (source.padding, source.filled))
    data = answer.data
    if padding is not None:
        kept: Any = source.data[:, nearest[0], nearest[1], nearest[2]] if values else 0
        data = np.where(padding, kept, data).astype(data.dtype)
    return dataclasses.replace(answer, data=data, padding=padding, filled=filled)


def _nearest(target: Geometry, source: Geometry) -> tuple[NDArray[np.intp], ...]:
    """Open mesh of the nearest source voxel of each target voxel, axis by axis."""
    axes = []
    for axis, count in enumerate(target.shape):
        places = np.zeros((count, 3))
        places[:, axis] = np.arange(count)
        index = np.rint(source.index(target.world(places))[:, axis]).astype(np.intp)
        axes.append(np.clip(index, 0, source.shape[axis] - 1))
    return np.ix_(*axes)
