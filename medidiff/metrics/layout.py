"""Whether the parts of a brain lie where they belong to one another: steps between planes, and symmetry.

Texture statistics do not ask where anything is. A volume that was put together from tiles that do not fit has one plane
across which it changes more than across its neighbours; a brain whose left and right were invented apart from one
another is less its own mirror image than brains are.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medidiff.errors import InputError
from medidiff.metrics.tissues import dice

__all__ = ["LAYOUT", "layout"]

LAYOUT = ("step across I", "step across J", "step across K", "asymmetry", "mirrored label 1", "2", "3")
"""Names of the features for three labels, in order."""

_AROUND = 4  # planes on each side that a step is compared with
_MARGIN = 0.15  # share of the array at each end, where the brain begins and ends by itself
_SHIFTS = range(-4, 5)  # voxels that the middle of the brain may lie beside that of the array
_SMALLEST = 24


def layout(image: ArrayLike, labels: ArrayLike, *, count: int = 3) -> NDArray[np.float64]:
    """Three steps and 1 + `count` measures of symmetry.

    A step is the logarithm of the largest mean absolute difference between neighbouring planes, over the median of nine
    of them round it. The asymmetry is the logarithm of 1 less the correlation of the scan with its mirror image along
    I, at the best of nine shifts, at which the Dice overlap of each label with its mirror image is also read.

    Args:
        image: (I, J, K) with right and left along I, the head in the middle, at least 24 voxels along each axis.
        labels: (I, J, K) whole numbers from 0 to `count`.
        count: labels beside the background.

    Raises:
        InputError: ``E-SHAPE``, too small or of different shapes; ``E-FLAT``, all of one value; ``E-LABELS``, no map.
    """
    volume, table = np.asarray(image, dtype=np.float64), np.asarray(labels)
    if volume.ndim != 3 or min(volume.shape) < _SMALLEST or volume.shape != table.shape:
        found = f"a scan of shape {volume.shape} with labels of shape {table.shape}"
        raise InputError("E-SHAPE", found, wanted=f"(I, J, K), at least {_SMALLEST} each")
    if not np.ptp(volume) > 0:
        raise InputError("E-FLAT", "all voxels have one value", wanted="a scan that shows something")
    alike = [float(np.corrcoef(np.roll(volume[::-1], s, axis=0).ravel(), volume.ravel())[0, 1]) for s in _SHIFTS]
    mirrored = np.roll(table[::-1], _SHIFTS[int(np.argmax(alike))], axis=0)
    overlaps = np.nan_to_num(dice(mirrored, table, count=count))
    steps = [_step(volume, axis) for axis in range(3)]
    return np.array([*steps, np.log(max(1 - max(alike), 1e-6)), *overlaps])


def _step(volume: NDArray[np.float64], axis: int) -> float:
    others = tuple(other for other in range(3) if other != axis)
    change = np.abs(np.diff(volume, axis=axis)).mean(axis=others)
    margin = int(_MARGIN * change.size)
    inner = change[margin : change.size - margin]
    around = [np.median(inner[max(0, n - _AROUND) : n + _AROUND + 1]) for n in range(inner.size)]
    return float(np.log(np.max(inner / np.maximum(around, 1e-3)) + 1e-6))
