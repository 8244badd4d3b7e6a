"""How a lesion fares in an answer, what an answer invents, and how well flags tell planted places from others."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from inserted import Array, Lesion, Mask, contrast
from numpy.typing import NDArray
from scipy import ndimage, stats
from torch import Tensor

from medidiff.volume import Geometry

__all__ = [
    "BLOBS_MM",
    "against_ring",
    "area_under_curve",
    "blob_contrast",
    "fate",
    "invented",
    "returned",
    "strongest_near",
]

BLOBS_MM = (3.0, 5.0, 8.0, 12.0)
"""Diameters of the blobs that are looked for in an answer."""

_CORE, _GAP, _RING = 0.5, 1, 3  # share of a voxel that is lesion; voxels to the ring about it, and to the ring's end
_HALF = 0.5  # of an answer's contrast: where the truth has as much, nothing was invented
_GRAIN = 1.5  # voxels, standard deviation: finer than that is grain
_RIM = 3  # voxels at the border of the mask that are not searched


def fate(answer: Array, truth: Array, with_it: Array, filled: Array, lesion: Lesion) -> dict[str, float]:
    """How a lesion came out.

    Args:
        answer: (I, J, K) what was made of the scan with the lesion.
        truth: (I, J, K) the noise-free scan without it.
        with_it: (I, J, K) the noise-free scan with all that was planted.
        filled: (I, J, K) share of each voxel that it fills.
        lesion: what was planted.

    Returns:
        *recovered*: its contrast by least squares on its shape, over the truth's; *ring*: its mean over that of the
        ring about it, over the truth's; *error*: root mean square error in it and one voxel around, in its contrasts.
    """
    box = _around(filled)
    part, near = filled[box], ndimage.binary_dilation(filled[box] > 0)
    off = (answer[box] - with_it[box])[near]
    return {
        "recovered": contrast(answer[box], truth[box], part) / lesion.contrast,
        "ring": against_ring(answer[box], part) / against_ring(with_it[box], part),
        "error": float(np.sqrt(np.mean(np.square(off, dtype=np.float64)))) / abs(lesion.contrast),
    }


def _around(filled: Array) -> tuple[slice, slice, slice]:
    reach = _GAP + _RING + 2
    i, j, k = (
        slice(max(0, side.start - reach), side.stop + reach)
        for side in ndimage.find_objects((filled > 0).astype(np.uint8))[0]
    )
    return i, j, k


def against_ring(image: Array, filled: Array) -> float:
    """Mean of an image in a lesion less that in a ring about it: as a reader would measure it."""
    lesion = filled > _CORE
    near = ndimage.binary_dilation(lesion, iterations=_GAP)
    ring = ndimage.binary_dilation(lesion, iterations=_GAP + _RING) & ~near & (filled == 0)
    return float(image[lesion].mean(dtype=np.float64) - image[ring].mean(dtype=np.float64))


def blob_contrast(image: Array, diameter_mm: float, spacing_mm: Sequence[float]) -> Array:
    """(I, J, K) contrast of the ball of a diameter that lies at each voxel: a difference of two Gaussians.

    In the image's units: a ball of contrast 1 in nothing gives 1 at its centre.
    """
    return np.asarray(_difference(image, diameter_mm, spacing_mm) / _response(diameter_mm, spacing_mm))


def _difference(image: Array, diameter_mm: float, spacing_mm: Sequence[float]) -> Array:
    widths = diameter_mm / 4 / np.asarray(spacing_mm)
    narrow, wide = (ndimage.gaussian_filter(image, factor * widths) for factor in (1, 2))
    return np.asarray(narrow - wide)


def _response(diameter_mm: float, spacing_mm: Sequence[float]) -> float:
    reach = [math.ceil(2 * diameter_mm / s) for s in spacing_mm]
    place = np.stack(
        np.meshgrid(*(np.arange(-n, n + 1) * s for n, s in zip(reach, spacing_mm, strict=True)), indexing="ij")
    )
    inward = diameter_mm / 2 - np.sqrt(np.square(place).sum(0))
    ball = np.clip(inward / np.mean(spacing_mm) + 0.5, 0, 1)
    return float(_difference(ball, diameter_mm, spacing_mm)[tuple(reach)])


def invented(
    answer: Array,
    truth: Array,
    mask: Mask,
    spacing_mm: Sequence[float],
    *,
    least: float,
    sizes_mm: Sequence[float] = BLOBS_MM,
) -> int:
    """Blobs that an answer has and the truth has not.

    A voxel belongs to one where at some size the answer's contrast goes beyond the truth's by `least`,
    away from 0, and the truth has less than half of it. What an answer loses or blurs is no invention.

    Args:
        answer: (I, J, K).
        truth: (I, J, K) noise-free.
        mask: (I, J, K) the brain; three voxels of its rim are left out.
        spacing_mm: of the voxels.
        least: in the image's units.
        sizes_mm: diameters that are looked at.

    Returns:
        How many connected places there are.
    """
    inner, found = ndimage.binary_erosion(mask, iterations=_RIM), np.zeros(mask.shape, dtype=bool)
    for diameter in sizes_mm:
        shown, there = (blob_contrast(image, diameter, spacing_mm) for image in (answer, truth))
        beyond = np.sign(shown) * (shown - there) >= least
        found |= beyond & (np.abs(there) <= _HALF * np.abs(shown))
    return int(ndimage.label(found & inner, structure=np.ones((3, 3, 3)))[1])


def returned(answer: Array, truth: Array, gone: Array) -> float:
    """The share of a structure that was taken out and that an answer shows all the same.

    Its grain, and that of what fills its place, are left out: an answer has neither.

    Args:
        answer: (I, J, K).
        truth: (I, J, K) noise-free, without the structure.
        gone: (I, J, K) what the structure added; 0 elsewhere.
    """
    pattern = np.where(gone != 0, ndimage.gaussian_filter(gone, _GRAIN), 0)
    return float(((answer - truth) * pattern).sum(dtype=np.float64) / (gone * pattern).sum(dtype=np.float64))


def strongest_near(deviates: Tensor, geometry: Geometry, place_mm: NDArray[np.float64], diameter_mm: float) -> float:
    """The largest size of a deviate within a lesion's radius (at least a voxel) of a place.

    Args:
        deviates: (I, J, K), on `geometry`.
        geometry: of the scan.
        place_mm: (3,) in the patient.
        diameter_mm: of the lesion.
    """
    spacing = np.asarray(geometry.spacing_mm)
    middle = np.rint(geometry.index(place_mm)).astype(int)
    reach = np.maximum(1, np.rint(diameter_mm / 2 / spacing)).astype(int)
    box = tuple(slice(max(0, m - r), m + r + 1) for m, r in zip(middle, reach, strict=True))
    return float(deviates[box].abs().max())


def area_under_curve(planted: Sequence[float], others: Sequence[float]) -> float:
    """Probability that a planted place has a larger deviate than another one (Mann & Whitney), NaN without either."""
    if not planted or not others:
        return math.nan
    return float(stats.mannwhitneyu(planted, others).statistic) / (len(planted) * len(others))
