"""A volume turned to lie as a DICOM series does: its axes permuted and flipped, no voxel changed or moved."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medidiff.volume import Geometry, Volume

__all__ = ["Layout", "laid_like"]


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """One channel of a volume, axes (column index, row index, slice), slices ascending along their normal.

    Args:
        data: (I, J, K), a view of the volume's.
        geometry: where each voxel lies.
        padding: (I, J, K), as in `Volume`, turned likewise.
    """

    data: NDArray[Any]
    geometry: Geometry
    padding: NDArray[np.bool_] | None


def laid_like(volume: Volume, grid: Geometry) -> Layout:
    """The same voxels with axes that run as those of `grid`, as far as permutations and flips can bring them there."""
    likeness = grid.directions.T @ volume.geometry.directions
    left, order = np.abs(likeness), [0, 0, 0]
    for _ in range(3):  # strongest pairing first, each axis used once
        mine, theirs = divmod(int(np.argmax(left)), 3)
        order[mine] = theirs
        left[mine, :] = left[:, theirs] = -1.0
    signs = np.array([np.sign(likeness[mine, theirs]) or 1.0 for mine, theirs in enumerate(order)])
    linear = volume.geometry.affine[:3, order] * signs
    if np.linalg.det(linear) < 0:  # the slices would descend along the normal of their rows and columns
        signs[2] *= -1
        linear[:, 2] *= -1
    steps = tuple(slice(None, None, int(sign)) for sign in signs)
    data = volume.data[0].transpose(order)[steps]
    affine = np.eye(4)
    affine[:3, :3] = linear
    affine[:3, 3] = volume.geometry.affine[:3, 3] - linear @ np.where(signs < 0, np.array(data.shape) - 1, 0)
    padding = None if volume.padding is None else volume.padding.transpose(order)[steps]
    return Layout(data, Geometry((data.shape[0], data.shape[1], data.shape[2]), affine), padding)
