"""How like two brains are, from eight parts of each; the parts may be of an embedding or of voxels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from medidiff.gates.align import GRID
from medidiff.gates.brain import Array
from medidiff.gates.relief import Relief

__all__ = ["HALVES", "PARTS", "best_half", "cosines_of_parts", "parts", "present_parts", "voxel_cosines", "whole"]

PARTS = 8
HALVES = np.array([[0, 1, 2, 3], [4, 5, 6, 7], [0, 1, 4, 5], [2, 3, 6, 7], [0, 2, 4, 6], [1, 3, 5, 7]])
"""Parts of the left and right, the back and front, and the lower and upper half."""

_FEWEST = 0.3  # share of the part's usual voxels that must be there
_WHOLE = 6  # parts that make a whole
_REACH = 2  # voxels of 4 mm: shifts that the alignment may have left


def parts(values: NDArray[Any]) -> NDArray[Any]:
    """(..., I, J, K) as (..., 8, voxels): left before right, back before front, low before high."""
    *lead, i, j, k = values.shape
    cut = values.reshape(*lead, 2, i // 2, 2, j // 2, 2, k // 2)
    n = len(lead)
    return cut.transpose(*range(n), n, n + 2, n + 4, n + 1, n + 3, n + 5).reshape(*lead, PARTS, -1)


def present_parts(relief: Relief, inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(8,), true for each part of the mean brain of which the scan shows enough."""
    shown, usual = parts(relief.present & inside).sum(axis=-1), parts(inside).sum(axis=-1)
    return np.asarray(shown >= _FEWEST * usual)


def whole(cosines: Array) -> Array:
    """(...), mean cosine of all parts (..., 8) that are there; -1 where fewer than six are."""
    there = np.isfinite(cosines)
    mean = np.where(there, cosines, 0).sum(axis=-1) / np.maximum(there.sum(axis=-1), 1)
    return np.where(there.sum(axis=-1) >= _WHOLE, mean, -1).astype(np.float32)


def best_half(cosines: Array) -> Array:
    """(...), the largest mean cosine of one half of the brain, from (..., 8); -1 where no half is there."""
    halves = cosines[..., HALVES].mean(axis=-1)  # NaN where a part is missing
    return np.asarray(np.max(np.where(np.isfinite(halves), halves, -1), axis=-1), dtype=np.float32)


def cosines_of_parts(query: Array, known: Array) -> Array:
    """(N, 8) cosines of the parts of one embedding (8, D) with those of others (N, 8, D); NaN where one is missing."""
    sizes = np.linalg.norm(query, axis=-1) * np.linalg.norm(known, axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.einsum("pd,npd->np", query, known) / np.where(sizes > 0, sizes, np.nan), dtype=np.float32)


def voxel_cosines(query: Relief, known: Relief) -> Array:
    """(8,) normalised cross-correlation of each part at the shift that is best for all, at 4 mm.

    Shifts of up to two voxels along each axis are tried, by the Fourier transform.
    """
    shape = tuple(n + _REACH for n in GRID)
    spectrum = fft.rfftn(query.values, shape).conj() * fft.rfftn(known.values, shape)
    surface = fft.irfftn(spectrum, shape)
    near = np.ix_(*[np.arange(-_REACH, _REACH + 1)] * 3)
    shift = np.array(np.unravel_index(np.argmax(surface[near]), [2 * _REACH + 1] * 3)) - _REACH
    values, present = (_shifted(array, shift) for array in (query.values, query.present))
    both = present & known.present
    a, b = parts(values * both), parts(known.values * both)
    sizes = np.sqrt((a**2).sum(axis=-1) * (b**2).sum(axis=-1))
    enough = parts(both).sum(axis=-1) >= _FEWEST * parts(known.present | present).sum(axis=-1)
    return np.where(enough, (a * b).sum(axis=-1) / np.maximum(sizes, 1e-6), np.nan).astype(np.float32)


def _shifted(array: NDArray[Any], by: NDArray[np.int_]) -> NDArray[Any]:
    """The array moved by whole voxels; what enters is 0."""
    moved = np.zeros_like(array)
    into = tuple(slice(max(s, 0), n + min(s, 0)) for s, n in zip(by, array.shape, strict=True))
    out_of = tuple(slice(max(-s, 0), n + min(-s, 0)) for s, n in zip(by, array.shape, strict=True))
    moved[into] = array[out_of]
    return moved
