"""How alike the scans of one set are: multi-scale structural similarity (MS-SSIM) between its members.

Wang, Simoncelli & Bovik 2003 (doi 10.1109/ACSSC.2003.1292216), eq. 7, in three dimensions,

    MS-SSIM = SSIM_last^{w_last} · Π_s CS_s^{w_s},

with the map of `medidiff.metrics.fidelity.ssim` at every scale (Gaussian window of 1.5 voxels cut at 3.5 standard
deviations, population moments, K1 = 0.01, K2 = 0.03, mirrored borders) and 2 x 2 x 2 means between scales. Two choices
are ours. The scales are four, 2, 4, 8 and 16 mm for a scan at 2 mm, with the weights of Wang's second to fifth scale,
which say nothing about noise at 1 mm. And the maps are averaged over the *union of both foregrounds*, not over the
array: air around two brains is alike in all pairs, and would make any two brains alike. So values are lower than those
of tools that average over everything; compare them with the real scans only.

Near 1 between all pairs, a set is one scan over and over.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from medidiff.errors import InputError, SettingsError
from medidiff.metrics.measured import Cases

__all__ = ["WEIGHTS", "mean_similarity", "ms_ssim", "similarities"]

WEIGHTS = tuple(w / 0.9553 for w in (0.2856, 0.3001, 0.2363, 0.1333))
"""Of the scales, finest first; they sum to 1."""

_SIGMA_VOXELS, _TRUNCATE = 1.5, 3.5
_K1, _K2 = 0.01, 0.03
_SMALLEST = 6  # voxels along an axis at the coarsest scale: less than half a window says nothing

_Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class _Level:
    """A scan at one scale with what its windows hold."""

    image: _Array
    mean: _Array
    variance: _Array
    mask: NDArray[np.bool_]


def ms_ssim(first: ArrayLike, second: ArrayLike, *, masks: tuple[ArrayLike, ArrayLike], data_range: float) -> float:
    """MS-SSIM of two scans inside the union of their masks; 1 where they are equal.

    Args:
        first: (I, J, K), at least 48 voxels along each axis.
        second: (I, J, K), in the same unit.
        masks: (I, J, K) foreground of each.
        data_range: the dynamic range L, in the unit of the images, above 0.

    Raises:
        InputError: ``E-SHAPE``, ``E-NONFINITE`` or ``E-MASK``, shapes differ or are too small, voxels that are not
            finite, or an empty mask.
        SettingsError: ``E-DATARANGE``, no range above 0.
    """
    return float(similarities([first, second], masks=masks, data_range=data_range)[0, 1])


def similarities(images: Sequence[ArrayLike], *, masks: Sequence[ArrayLike], data_range: float) -> NDArray[np.float64]:
    """MS-SSIM between all scans of a set.

    Args:
        images: n scans of one shape, as for `ms_ssim`.
        masks: their foregrounds.
        data_range: the dynamic range L.

    Returns:
        (n, n), symmetric, 1 on the diagonal.

    Raises:
        InputError: as for `ms_ssim`.
        SettingsError: as for `ms_ssim`.
    """
    if not (np.isfinite(data_range) and data_range > 0):
        raise SettingsError("E-DATARANGE", f"a data range of {data_range}", wanted="a finite number above 0")
    pyramids = [_pyramid(image, mask) for image, mask in zip(images, masks, strict=True)]
    shapes = {levels[0].image.shape for levels in pyramids}
    if len(shapes) > 1:
        raise InputError("E-SHAPE", f"scans of {len(shapes)} shapes", wanted="one grid")
    table = np.eye(len(pyramids))
    for one in range(len(pyramids)):
        for other in range(one + 1, len(pyramids)):
            table[one, other] = table[other, one] = _similarity(pyramids[one], pyramids[other], data_range)
    return table


def mean_similarity(table: NDArray[np.float64], cases: Cases) -> float:
    """Mean over pairs of different cases; a case that is drawn twice is no pair with itself.

    Args:
        table: (n, n), as from `similarities`.
        cases: numbers of cases, at least two different ones.
    """
    pairs = cases[:, None] != cases[None, :]
    return float(table[np.ix_(cases, cases)][pairs].mean())


def _pyramid(image: ArrayLike, mask: ArrayLike) -> list[_Level]:
    volume, inside = np.asarray(image, dtype=np.float32), np.asarray(mask, dtype=bool)
    least = _SMALLEST * 2 ** (len(WEIGHTS) - 1)
    if volume.ndim != 3 or min(volume.shape) < least:
        wanted = f"(I, J, K), at least {least} along each axis"
        raise InputError("E-SHAPE", f"a scan of shape {volume.shape}", wanted=wanted)
    if not np.isfinite(volume).all():
        raise InputError("E-NONFINITE", "voxels that are not finite")
    if inside.shape != volume.shape or not inside.any():
        found = f"mask of shape {inside.shape}, {int(inside.sum())} voxels"
        raise InputError("E-MASK", found, wanted=f"{volume.shape}")
    levels = []
    for scale in range(len(WEIGHTS)):
        if scale:
            volume, inside = _halved(volume), _halved(inside.astype(np.float32)) >= 0.5
        mean = _windowed(volume)
        levels.append(_Level(volume, mean, _windowed(volume * volume) - mean * mean, inside))
    return levels


def _halved(image: _Array) -> _Array:
    """Means over 2 x 2 x 2 voxels; an odd voxel at the end is left out."""
    i, j, k = (n // 2 for n in image.shape)
    return np.asarray(image[: 2 * i, : 2 * j, : 2 * k].reshape(i, 2, j, 2, k, 2).mean(axis=(1, 3, 5)))


def _windowed(image: _Array) -> _Array:
    return np.asarray(ndimage.gaussian_filter(image, _SIGMA_VOXELS, truncate=_TRUNCATE))


def _similarity(first: list[_Level], second: list[_Level], data_range: float) -> float:
    product = 1.0
    for scale, (one, other) in enumerate(zip(first, second, strict=True)):
        luminance, structure = _maps(one, other, data_range)
        last = scale == len(WEIGHTS) - 1
        inside = one.mask | other.mask
        if not inside.any():
            inside = np.ones_like(inside)  # a speck that no coarse voxel is half full of
        mean = float((luminance * structure if last else structure)[inside].mean())
        product *= max(mean, 0.0) ** WEIGHTS[scale]  # a negative correlation has no power
    return product


def _maps(one: _Level, other: _Level, data_range: float) -> tuple[_Array, _Array]:
    """Luminance and contrast-structure, Wang et al. 2004, eq. 6 and 13."""
    c1, c2 = (_K1 * data_range) ** 2, (_K2 * data_range) ** 2
    both = _windowed(one.image * other.image) - one.mean * other.mean
    luminance = (2 * one.mean * other.mean + c1) / (one.mean**2 + other.mean**2 + c1)
    structure = (2 * both + c2) / (one.variance + other.variance + c2)
    return luminance, structure
