"""A synthetic case where a scan was: on the scan's grid, the right way round, middle on middle."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from medidiff.case import Case
from medidiff.physics.framing import upright
from medidiff.volume import Geometry, Volume

__all__ = ["place"]

_SAME = 5e-3  # relative: voxels that much alike are taken as they are, which costs less than blurring them

Array = NDArray[np.float32]


def place(case: Case, grid: Geometry) -> Case:
    """A case with image and labels on another grid; outside of the case lies air, 0.

    Where the voxels are of one size they are copied, and the middles may be half a voxel apart. Larger ones average
    what they see, in smaller ones the image is linear between the case's. A label is what most of its voxel is. A tilt
    of the grid stays out of account: heads are tilted a little in every scanner.

    Args:
        case: in any orientation.
        grid: of the scan.
    """
    if grid == case.image.geometry:
        return case
    image = case.image.with_data(case.image.data.astype(np.float32, copy=False))
    labels = None
    if case.labels is not None:
        table = case.labels.data[0]
        onehot = np.stack([table == label for label in range(1, len(case.label_names))]).astype(np.float32)
        shares = _seen(case.labels.with_data(onehot), grid)
        most = np.concatenate([1 - shares.sum(axis=0, keepdims=True), shares]).argmax(axis=0)  # air is background
        labels = Volume(most.astype(case.labels.data.dtype), grid)
    seen = Volume(_seen(image, grid), grid, image.modality, image.units)
    return dataclasses.replace(case, image=seen, labels=labels)


def _seen(volume: Volume, grid: Geometry) -> Array:
    """(C, I, J, K) what the voxels of a grid see of a volume that stands in its middle."""
    data, spacing = upright(volume)
    names = grid.orientation
    world = [next(w for w, pair in enumerate(("LR", "PA", "IS")) if name in pair) for name in names]
    data = data.transpose(0, *(1 + w for w in world))
    for axis, (w, name) in enumerate(zip(world, names, strict=True)):
        size, count, step = data.shape[1 + axis], grid.shape[axis], grid.spacing_mm[axis] / spacing[w]
        places = (size - 1) / 2 + step * (np.arange(count) - (count - 1) / 2)
        data = _along(data, 1 + axis, places[::-1] if name in "LPI" else places, step)
    return np.ascontiguousarray(data)


def _along(data: Array, axis: int, places: NDArray[np.float64], step: float) -> Array:
    """The data at places along one axis, in boxes as long as the distance between them."""
    size = data.shape[axis]
    if abs(step - 1) <= _SAME:
        first, way = int(np.floor(places.min() + 0.5)), int(np.sign(places[-1] - places[0])) or 1
        index = first + np.arange(len(places))[::way]
        inside = (index >= 0) & (index < size)
        taken = data.take(index.clip(0, size - 1), axis)
        taken *= inside.reshape([-1 if each == axis else 1 for each in range(data.ndim)])
        return taken
    voxels, at = np.arange(size)[None], places[:, None]
    if step < 1:
        rows = np.maximum(1 - np.abs(at - voxels), 0)
    else:
        overlap = np.minimum(at + step / 2, voxels + 0.5) - np.maximum(at - step / 2, voxels - 0.5)
        rows = np.maximum(overlap, 0) / step
    moved = np.moveaxis(data, axis, -1) @ rows.T.astype(np.float32)
    return np.moveaxis(moved, -1, axis)
