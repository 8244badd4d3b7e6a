"""A measurement in another contrast: what the brightness of one scan says of another at the same place.

Between two contrasts there is no operator that a scanner could be asked for; what can be had is the regression of one
on the other, voxel by voxel. `Curve` holds its mean and what it leaves open, so that a scan in another contrast becomes
what every measurement is: a guess at x with a known error.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from medidiff.errors import InputError

__all__ = ["Curve", "fit_curve"]

_KNOTS = 26
_ENDS = (0.0, 1.25)  # of the tissue maximum; brighter and darker voxels count as these
_FEWEST = 50  # voxels about a knot; with fewer its neighbours speak for it
_LEAST_SPREAD = 0.02  # two percent of the tissue maximum: a scan's own noise


@dataclass(frozen=True, slots=True)
class Curve:
    """Mean and standard deviation of x where y has some brightness, straight lines between evenly spaced knots.

    Args:
        low: brightness of y at the first knot, as a share of the tissue maximum.
        high: at the last.
        means: of x at the knots, as shares of its own tissue maximum; at least two.
        spreads: standard deviation of x about it, as many, all above 0.

    Raises:
        ValueError: numbers that are no curve.
    """

    low: float
    high: float
    means: tuple[float, ...]
    spreads: tuple[float, ...]

    def __post_init__(self) -> None:
        numbers = (self.low, self.high, *self.means, *self.spreads)
        if len(self.means) < 2 or len(self.means) != len(self.spreads) or not all(map(math.isfinite, numbers)):
            raise ValueError("at least two finite means are wanted, and as many spreads")
        if not self.low < self.high or min(self.spreads) <= 0:
            raise ValueError("ends that rise and spreads above 0 are wanted")

    def mean(self, y: Tensor) -> Tensor:
        """``E[x | y]`` of each voxel, in y's shape."""
        return self._between(self.means, y)

    def spread(self, y: Tensor) -> Tensor:
        """``sd(x | y)`` of each voxel, in y's shape."""
        return self._between(self.spreads, y)

    def _between(self, heights: Sequence[float], y: Tensor) -> Tensor:
        last = len(heights) - 1
        place = ((y - self.low) / (self.high - self.low) * last).clamp(0.0, last)
        below = place.long().clamp_max(last - 1)
        known = torch.tensor(heights, dtype=y.dtype, device=y.device)
        return torch.lerp(known[below], known[below + 1], place - below)


def fit_curve(y: ArrayLike, x: ArrayLike) -> Curve:
    """The curve of voxels that were seen in both contrasts: mean and standard deviation of x about each knot.

    Args:
        y: (N,) brightness in the contrast that is measured, tissue maximum about 1.
        x: (N,) of the same voxels in the contrast that is sought.

    Raises:
        InputError: ``E-SHAPE``, not as many of one as of the other; ``E-NONFINITE``, numbers that are not finite;
            ``E-FLAT``, too few kinds of brightness for a curve.
    """
    seen, sought = np.asarray(y, dtype=np.float64).ravel(), np.asarray(x, dtype=np.float64).ravel()
    if seen.shape != sought.shape:
        raise InputError("E-SHAPE", f"{seen.size} and {sought.size} voxels", wanted="as many in both contrasts")
    if not (np.isfinite(seen).all() and np.isfinite(sought).all()):
        raise InputError("E-NONFINITE", "voxels that are not finite numbers", mend="Mend or mask them first.")
    low, high = _ENDS
    knot = np.rint((seen.clip(low, high) - low) / (high - low) * (_KNOTS - 1)).astype(np.intp)
    counts = np.bincount(knot, minlength=_KNOTS)
    known = np.flatnonzero(counts >= _FEWEST)
    if known.size < 2:
        found, wanted = f"{known.size} kinds of brightness with {_FEWEST} voxels each", "at least 2"
        raise InputError("E-FLAT", found, wanted=wanted, mend="Give whole scans in both contrasts.")
    means = np.bincount(knot, sought, minlength=_KNOTS)[known] / counts[known]
    squares = np.bincount(knot, np.square(sought), minlength=_KNOTS)[known] / counts[known]
    spreads = np.sqrt((squares - np.square(means)).clip(_LEAST_SPREAD**2))
    return Curve(low, high, _everywhere(known, means), _everywhere(known, spreads))


def _everywhere(known: NDArray[np.intp], heights: NDArray[np.float64]) -> tuple[float, ...]:
    return tuple(float(height) for height in np.interp(np.arange(_KNOTS), known, heights))
