"""Whole heads in one frame: the voxels of a grid, as boxes, see a scan that stands upright in the middle of it.

A cascade draws every head in such a frame, and its training scans, and those that its samples are compared with, are
brought to it here. Obliquity up to half a right angle is left as it is: heads are tilted a little in every scanner.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

from medidiff.errors import SettingsError
from medidiff.physics.separable import Separable, sampling
from medidiff.volume import Geometry, Volume

__all__ = ["box_about", "see_in_frame", "upright"]

_TISSUE = 0.05  # share of the brightest voxels above which a voxel belongs to the head


def upright(volume: Volume) -> tuple[NDArray[np.float32], tuple[float, float, float]]:
    """A scan with its voxel axes nearest to right, front and head, (C, I, J, K), and its spacing in mm along them.

    Args:
        volume: in any orientation.
    """
    names = volume.geometry.orientation
    axes = [next(v for v, name in enumerate(names) if name in pair) for pair in ("LR", "PA", "IS")]
    data = volume.data.transpose(0, *(axis + 1 for axis in axes))
    data = np.flip(data, tuple(world + 1 for world, axis in enumerate(axes) if names[axis] in "LPI"))
    a, b, c = (volume.geometry.spacing_mm[axis] for axis in axes)
    return np.array(data, np.float32, order="C"), (a, b, c)


def box_about(image: NDArray[np.floating]) -> tuple[tuple[int, int], ...]:
    """First and last voxel of the head along each axis of an (I, J, K) scan: where it is brighter than air.

    Brighter than 5 % of the 99th percentile of what is above 0; the whole grid where nothing is.
    """
    above = image[image > 0]
    inside = image > _TISSUE * np.percentile(above, 99) if above.size else np.ones_like(image, np.bool_)
    ends = []
    for axis in range(3):
        where = np.flatnonzero(inside.any(axis=tuple(other for other in range(3) if other != axis)))
        ends.append((int(where[0]), int(where[-1])))
    return tuple(ends)


def see_in_frame(volume: Volume, frame: Geometry) -> Volume:
    """What the voxels of a frame, as boxes, see of a head that stands upright in its middle.

    The middle of the head is that of its bounding box. Outside of the scan lies 0. Every channel is averaged alike, so
    the shares of tissue in one-hot maps stay shares.

    Args:
        volume: (C, I, J, K) scan; its first channel says where the head is.
        frame: RAS grid whose voxels are no smaller than the scan's.

    Returns:
        (C, I', J', K') float32 on `frame`.

    Raises:
        SettingsError: ``E-TARGET``, a frame in another orientation, or finer than the scan.

    Example:
        >>> head = Volume(np.ones((8, 8, 8), np.float32), Geometry.regular((8, 8, 8)))
        >>> float(see_in_frame(head, Geometry.regular((6, 6, 6), spacing_mm=(2, 2, 2))).data[0, 3, 3, 3])
        1.0
    """
    data, spacing = upright(volume)
    factors = [coarse / fine for coarse, fine in zip(frame.spacing_mm, spacing, strict=True)]
    if frame.orientation != "RAS" or min(factors) < 1 - 1e-6:
        sides = f"{min(frame.spacing_mm):.3g} mm for voxels of {max(spacing):.3g} mm"
        found = f"a frame of {sides}, {frame.orientation}"
        raise SettingsError("E-TARGET", found, wanted="RAS, and no finer than the scan")
    matrices = []
    for size, count, factor, (low, high) in zip(data.shape[1:], frame.shape, factors, box_about(data[0]), strict=True):
        offset = (low + high) / 2 - factor * (count - 1) / 2
        matrices.append(_boxes(size, max(factor, 1.0), offset, count))
    seen = Separable((matrices[0], matrices[1], matrices[2]))(torch.from_numpy(data)[:, None])
    return Volume(seen[:, 0].numpy(), frame, volume.modality, volume.units)


def _boxes(size: int, factor: float, offset: float, count: int) -> torch.Tensor | None:
    """`sampling` that counts what lies beyond the ends of the scan as air, where it would leave it out."""
    margin = math.ceil(factor) + 1
    rows = sampling(size + 2 * margin, factor=factor, offset=offset + margin, count=count)
    return None if rows is None else rows[:, margin : margin + size]
