"""Voxels that were never measured, or were set to one value: what is put back of them into an answer.

Padding is kept out of every statistic and away from the network as well.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medidiff.volume import Geometry, Volume

__all__ = ["blank_background", "put_back", "readable", "with_background", "without_padding"]

_PATCH = 3  # voxels along each axis: so many of one value are no noise
_FEWEST = 1e-3  # of the scan: less is no background


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


def blank_background(volume: Volume, *, below: float) -> NDArray[np.bool_] | None:
    """(I, J, K), true where the background was set to one value, as by a mask; None where it was not. No padding.

    Such places hold no noise. A prior that is asked to remove some there makes it up.

    Args:
        volume: one channel.
        below: value that is no tissue's.
    """
    image = without_padding(volume)[0]
    size = [min(_PATCH, n) for n in image.shape]
    low, high = (extreme(image, size, mode="nearest") for extreme in (ndimage.minimum_filter, ndimage.maximum_filter))
    patch = ndimage.maximum_filter((low == high) & (image < below), size, mode="constant")
    if volume.padding is not None:
        patch &= ~volume.padding
    return patch if patch.mean() >= _FEWEST else None


def with_background(answer: Volume, source: Volume, blank: NDArray[np.bool_] | None, *, values: bool = True) -> Volume:
    """An answer with its source's values in a blank background.

    On a finer grid what is nearest to a voxel of it that has no other beside it: a thick slice with tissue next to it
    says nothing of where between them tissue ends.

    Args:
        answer: one channel, on the source's grid or one that covers the same box along the same axes.
        source: the scan.
        blank: from `blank_background`.
        values: whether it gets the source's values; 0 otherwise, as befits a spread.
    """
    if blank is None:
        return answer
    if answer.geometry != source.geometry:
        size = [min(_PATCH, n) for n in blank.shape]
        blank = ndimage.minimum_filter(blank, size, mode="nearest")
    nearest = _nearest(answer.geometry, source.geometry)
    kept: Any = source.data[:, nearest[0], nearest[1], nearest[2]] if values else 0
    return answer.with_data(np.where(blank[nearest], kept, answer.data).astype(answer.data.dtype))


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
