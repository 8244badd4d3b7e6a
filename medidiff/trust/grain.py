"""What the noise of a scan is like, where the scan is flat: how much of it, how far it hangs together, how even it is.

A scanner's noise has one level, or one that changes slowly over the scan, has a Gaussian's shape, and is independent
from voxel to voxel along at least one axis. What a filter leaves of it is not: a linear one links neighbours along all
axes, others take more in one place than in the next, so that what is left has a narrow middle and long tails. On quiet
scans anatomy does both as well. But anatomy is smooth, and is nowhere near a Gaussian: so links count as far as what is
measured is even, and tails as far as neighbours are not linked.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medidiff.trust.coarse import Array, Coarse

__all__ = ["grain_traits"]

_MOST_VOXELS = 1_500_000  # that are looked at one by one
_FEWEST_VOXELS = 2000  # of flat tissue
_INNER_VOXELS = 2
_BRIGHT = 0.45  # of the brightness called 100 %: what is darker is air, bone or fluid
_FLAT_SHARE = 0.3
_QUIET_SHARE = 0.05
_WINDOW = 5  # voxels
_WIDE = 15  # voxels: what changes more slowly than that is the level of the noise
_FEWEST_PLANES = 12
_MEDIAN_OF_NORMAL = 0.6744897501960817
_EVEN = 0.155  # decades from the median of white noise's power in a window to what is over 95 % of it
_UNEVEN = 3.0  # by how much less links count where power is twice as uneven as white noise's

Mask = NDArray[np.bool_]


def grain_traits(blocks: Coarse) -> dict[str, float | None]:
    """Noise in the two finest directions.

    Args:
        blocks: the scan.

    Returns:
        *quiet*, logarithm of the quietest tissue's noise at two voxels over brightness; *corner*, of noise at one voxel
        (the corner of k-space) over that at two; *loud*, of noise at one voxel over brightness; *linked*, of noise at
        one voxel over that at two along the axis where that is highest, nearer to 0 the less even it is; *patchy*, of
        the standard deviation over that of a Gaussian with the same middle, less what links explain.
    """
    box = blocks.box(_MOST_VOXELS)
    image = blocks.image[box] / np.float32(blocks.bright)
    spacing = np.asarray(blocks.geometry.spacing_mm) / blocks.steps
    axes = [int(axis) for axis in np.argsort(spacing, kind="stable")]
    found: dict[str, float | None] = dict.fromkeys(("quiet", "corner", "loud", "linked", "patchy"))
    if min(image.shape[axis] for axis in axes[:2]) < 4 * _WINDOW:
        return found
    smooth = ndimage.gaussian_filter(image, 1.5, truncate=2.5)
    inside = _shrunk(smooth > _BRIGHT)
    slope = sum((np.gradient(smooth, axis=axis) ** 2 for axis in axes[:2]), np.zeros_like(smooth))
    if inside.sum() < _FEWEST_VOXELS / _FLAT_SHARE:
        return found
    flat = inside & (slope <= np.quantile(slope[inside], _FLAT_SHARE))
    fine, middle = (_second(_second(image, axes[0], lag), axes[1], lag) for lag in (1, 2))
    at_one, at_two = _level(fine, flat), _level(middle, flat)
    power = ndimage.uniform_filter(middle * middle, _WINDOW)
    quiet = math.sqrt(max(float(np.quantile(power[inside], _QUIET_SHARE)), 0.0))
    # A slice as thick as n such voxels has averaged over n of them, and is quieter by the root of n for that.
    quiet *= math.sqrt(max(1.0, float(spacing.max() / math.sqrt(spacing[axes[0]] * spacing[axes[1]]))))
    links = sorted(_links(image, fine, flat, axes))
    return {
        "quiet": math.log10(max(quiet, 1e-5)),
        "corner": math.log10(max(at_one, 1e-6) / max(at_two, 1e-6)),
        "loud": math.log10(max(at_one, 1e-5)),
        "linked": links[-1] / (1 + _UNEVEN * _unevenness(fine, flat)),
        "patchy": _tails(fine, flat) + links[-2],
    }


def _shrunk(mask: Mask) -> Mask:
    return np.asarray(ndimage.minimum_filter(mask.view(np.uint8), 2 * _INNER_VOXELS + 1, mode="constant") > 0)


def _second(image: Array, axis: int, lag: int) -> Array:
    """Second difference over so many voxels, scaled so that white noise keeps its level; 0 at the ends."""
    along = np.moveaxis(image, axis, 0)
    out = np.zeros_like(along)
    out[lag:-lag] = (along[: -2 * lag] - 2 * along[lag:-lag] + along[2 * lag :]) / np.float32(math.sqrt(6))
    return np.moveaxis(out, 0, axis)


def _level(noise: Array, where: Mask) -> float:
    """Standard deviation of a Gaussian with this median."""
    return float(np.median(np.abs(noise[where]))) / _MEDIAN_OF_NORMAL


def _links(image: Array, fine: Array, flat: Mask, axes: list[int]) -> list[float]:
    """Logarithm of noise at one voxel over that at two along each axis; 0 where neighbours are independent."""
    pairs = [(fine, _second(_second(image, other, 1), axis, 2)) for axis, other in (axes[:2], axes[1::-1])]
    if image.shape[axes[2]] >= _FEWEST_PLANES:
        pairs.append((_second(fine, axes[2], 1), _second(fine, axes[2], 2)))
    levels = [(_level(one, flat), _level(two, flat)) for one, two in pairs]
    return [math.log10(max(one, 1e-6) / max(two, 1e-6)) for one, two in levels]


def _unevenness(fine: Array, flat: Mask) -> float:
    """By how much more than white noise's the power of the finest detail differs from place to place; 0 for not."""
    middle, high = np.quantile(ndimage.uniform_filter(fine * fine, _WINDOW)[flat], (0.5, 0.95))
    return max(float(high) / max(float(middle), 1e-12) / 10**_EVEN - 1, 0.0)


def _tails(fine: Array, flat: Mask) -> float:
    """Logarithm of the standard deviation over that of a Gaussian with the same middle, with slow changes taken out."""
    share = ndimage.uniform_filter(flat.astype(np.float32), _WIDE)
    power = ndimage.uniform_filter(np.where(flat, fine * fine, 0), _WIDE)
    even = fine[flat] / np.sqrt(np.maximum(power[flat] / np.maximum(share[flat], 1e-6), 1e-12))
    middle = float(np.median(np.abs(even))) / _MEDIAN_OF_NORMAL
    return math.log10(max(float(even.std()), 1e-6) / max(middle, 1e-6))
