"""How far answers are from the truth, patient by patient: what a calibration is made of.

The score of a voxel is ``|x - m| / u``, with m the answer and ``u = √(e² + (FLOOR σ)²)``, where e is the error that the
draws lead one to expect (`expected_error`) and σ the noise level of the scan; the floor keeps voxels on which all draws
agree from dividing by nothing. The score of a block is the same of the mean over its voxels: ``|mean(x - m)|`` over the
root mean square of u in it. A patient is told by the share of scores above each of `REACHES`, so that patients, and not
their millions of voxels, which are alike, are what is counted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medidiff.anatomy import foreground
from medidiff.errors import InputError
from medidiff.physics import Separable
from medidiff.volume import Volume

__all__ = [
    "EDGES",
    "FLOOR",
    "FULL",
    "REACHES",
    "SIZES_MM",
    "Tally",
    "block_shape",
    "block_side",
    "expected_error",
    "judged_mask",
    "scale_of",
    "tally",
]

Array = NDArray[np.floating]

FLOOR = 0.05
"""Of u, in noise levels."""
SIZES_MM = (0, 1, 2, 4, 8, 16)
"""Sides of the blocks; 0 is the voxel, however small, as is what is not larger than one."""
REACHES: NDArray[np.float64] = np.geomspace(0.02, 200.0, 1024)
"""Half widths of intervals, in u; each is 0.9 % wider than the one before."""
EDGES: NDArray[np.float64] = np.geomspace(1e-4, 1.0, 257)
"""Of the bins of e that the standardised error is read in, as shares of the tissue maximum."""
FULL = 0.5
"""Share of a block that must be judged tissue."""
_NEIGHBOURS = 1.0  # voxels, standard deviation: few draws tell little of a single voxel


@dataclass(frozen=True, slots=True, eq=False)
class Tally:
    """How one patient's answers did at one noise level and thickness.

    Args:
        outside: by side of the blocks in mm, (1024,) share of blocks whose score is above each of `REACHES`.
        squares: (3, 256) by bin of e: voxels, and the sums of ``(x - m)²`` and of e², both in shares of the tissue
            maximum.
    """

    outside: dict[int, NDArray[np.float64]]
    squares: NDArray[np.float64]


def expected_error(about: Array) -> NDArray[np.float32]:
    """What the draws say of the error of the answer: their spread about it, over the neighbourhood of a voxel.

    Args:
        about: (I, J, K) root mean square of what draws differ by from the answer (`Streamed.about`). It holds the
            answer's own deviation from the mean of the draws, since an honest draw and the truth are alike.
    """
    wide = ndimage.gaussian_filter(np.square(about, dtype=np.float64), _NEIGHBOURS, truncate=3.0)
    return np.asarray(np.sqrt(np.maximum(wide, 0)), dtype=np.float32)


def scale_of(error: Array, level: float) -> NDArray[np.float32]:
    """The u of every voxel, in the units of both arguments."""
    return np.asarray(np.hypot(error, np.float32(FLOOR * level)), dtype=np.float32)


def block_shape(size_mm: float, spacing_mm: Sequence[float]) -> tuple[int, int, int]:
    """Voxels along each axis of the blocks of a size; at least one."""
    i, j, k = (max(1, round(size_mm / side)) for side in spacing_mm)
    return i, j, k


def block_side(size_mm: float, spacing_mm: Sequence[float]) -> float:
    """Side in mm of the cube that is as large as the blocks of a size."""
    return math.prod(n * side for n, side in zip(block_shape(size_mm, spacing_mm), spacing_mm, strict=True)) ** (1 / 3)


def judged_mask(mean: Volume, operator: Separable) -> NDArray[np.bool_]:
    """(I, J, K) where an answer is judged: tissue in the answer, measured, and reached by a slice.

    Raises:
        InputError: no tissue.
    """
    mask = foreground(mean.data[0], measured=None if mean.padding is None else ~mean.padding) & mean.measured
    if not operator.is_identity:
        mask &= operator.certainty(mean.shape).numpy() > 0
    return mask


def tally(
    truth: Array, mean: Array, error: Array, *, mask: NDArray[np.bool_], level: float, spacing_mm: Sequence[float]
) -> Tally:
    """Count the scores of one patient.

    Args:
        truth: (I, J, K) x.
        mean: (I, J, K) m.
        error: (I, J, K) e, of `expected_error`.
        mask: (I, J, K) where the answer is judged: tissue.
        level: σ, in the same units as all before: shares of the tissue maximum.
        spacing_mm: of the voxels.

    Raises:
        InputError: ``E-MASK``, the mask is empty.
    """
    if not mask.any():
        raise InputError("E-MASK", "a mask without a voxel", wanted="tissue to judge the answer in")
    off = np.where(mask, truth.astype(np.float64) - mean, 0.0)
    squared = np.where(mask, np.square(scale_of(error, level), dtype=np.float64), 0.0)
    outside = {}
    for size in SIZES_MM:
        shape = block_shape(size, spacing_mm)
        count, sums, spread = (blocks(each, shape) for each in (mask.astype(np.float64), off, squared))
        there = count >= FULL * np.prod(shape)
        if there.any():
            scores = np.abs(sums[there]) / np.sqrt(spread[there] * count[there])
            outside[size] = share_above(scores)
    return Tally(outside, _squares(off[mask], error[mask]))


def blocks(values: NDArray[np.float64], shape: Sequence[int]) -> NDArray[np.float64]:
    """Sums over the whole blocks of a volume, from its first corner on."""
    counts = [n // b for n, b in zip(values.shape, shape, strict=True)]
    cut = values[tuple(slice(0, c * b) for c, b in zip(counts, shape, strict=True))]
    split = cut.reshape([part for c, b in zip(counts, shape, strict=True) for part in (c, b)])
    return np.asarray(split.sum(axis=(1, 3, 5)))


def share_above(scores: Array) -> NDArray[np.float64]:
    """(1024,) share of scores above each of `REACHES`."""
    ordered = np.sort(scores, axis=None)
    return 1.0 - np.searchsorted(ordered, REACHES, side="right") / ordered.size


def _squares(off: Array, error: Array) -> NDArray[np.float64]:
    place = np.clip(np.searchsorted(EDGES, error) - 1, 0, len(EDGES) - 2)
    weights = (np.ones_like(error), np.square(off), np.square(error, dtype=np.float64))
    return np.stack([np.bincount(place, w, minlength=len(EDGES) - 1) for w in weights])
