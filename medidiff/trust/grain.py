"""What the noise of a scan is like, where the scan is flat: how much of it, how far it hangs together, how even it is.

A scanner's noise has one level, or one that changes slowly over the scan, has a Gaussian's shape, and is independent
from voxel to voxel along at least one axis. What a filter leaves of it is not: a linear one links neighbours along all
axes, others take more in one place than in the next, so that what is left has a narrow middle and long tails, and is
less in flat tissue than near edges. On quiet scans anatomy does all of that as well. But anatomy is smooth, and is
nowhere near a Gaussian: so links count as far as what is measured is even, and tails as far as neighbours are not
linked. What no single number tells, all together may: `grain_numbers` are what `KernelRidge` learns from.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medidiff.trust.coarse import Array, Coarse

__all__ = ["NUMBERS", "Grain", "grain_numbers", "grain_of", "grain_traits"]

_MOST_VOXELS = 1_500_000  # that are looked at one by one
_FEWEST_VOXELS = 2000  # of flat tissue
_INNER_VOXELS = 2
_BRIGHT = 0.45  # of the brightness called 100 %: what is darker is air, bone or fluid
_FLAT_SHARE = 0.3
_SLOPED_SHARES = (0.5, 0.8)  # between them slopes are moderate, above them steep
_QUIET_SHARE = 0.05
_WINDOW = 5  # voxels
_WIDE = 15  # voxels: what changes more slowly than that is the level of the noise
_FEWEST_PLANES = 12
_MEDIAN_OF_NORMAL = 0.6744897501960817
_EVEN = 0.155  # decades from the median of white noise's power in a window to what is over 95 % of it
_UNEVEN = 3.0  # by how much less links count where power is twice as uneven as white noise's
_FARTHEST = 4.0  # standard deviations: what is larger counts as that in a third moment

Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Grain:
    """The finest detail of a scan.

    Args:
        image: (I, J, K) in units of the brightness called 100 %.
        axes: from the finest to the coarsest.
        thickness: voxels of the two finest axes that one along the coarsest is as long as, at least 1.
        fine: second differences over one voxel along both finest axes, of white noise's own level.
        middle: the same over two voxels.
        inside: in bright tissue.
        slope: squared, of the smoothed scan along both finest axes.
        flat: where that is least.
    """

    image: Array
    axes: tuple[int, int, int]
    thickness: float
    fine: Array
    middle: Array
    inside: Mask
    slope: Array
    flat: Mask

    @cached_property
    def levels(self) -> tuple[float, float]:
        """Of flat tissue's noise, at one voxel and at two."""
        return _level(self.fine, self.flat), _level(self.middle, self.flat)

    @cached_property
    def powers(self) -> tuple[Array, Array]:
        """Mean squares in windows, at one voxel and at two."""
        fine, middle = (ndimage.uniform_filter(each * each, _WINDOW) for each in (self.fine, self.middle))
        return fine, middle

    @cached_property
    def quietest(self) -> float:
        """Noise of the quietest tissue at two voxels."""
        return math.sqrt(max(float(np.quantile(self.powers[1][self.inside], _QUIET_SHARE)), 0.0))

    @cached_property
    def even(self) -> Array:
        """(N,) flat tissue's noise at one voxel, with slow changes of its level taken out."""
        return _evened(self.fine, self.flat)

    @cached_property
    def links(self) -> list[float]:
        """Logarithm of noise at one voxel over that at two along each axis, ascending; 0 for independent neighbours.

        Along the two finest axes alone where there are less than twelve planes.
        """
        one, two, third = self.axes
        pairs = [(self.fine, _second(_second(self.image, b, 1), a, 2)) for a, b in ((one, two), (two, one))]
        if self.image.shape[third] >= _FEWEST_PLANES:
            pairs.append((self.cross, _second(self.fine, third, 2)))
        return sorted(_decades(_level(first, self.flat), _level(second, self.flat)) for first, second in pairs)

    @cached_property
    def cross(self) -> Array:
        """Second differences over one voxel along all three axes."""
        return _second(self.fine, self.axes[2], 1)


def grain_of(blocks: Coarse) -> Grain | None:
    """The finest detail of a scan; None where it shows too little tissue."""
    box = blocks.box(_MOST_VOXELS)
    image = blocks.image[box] / np.float32(blocks.bright)
    spacing = np.asarray(blocks.geometry.spacing_mm) / blocks.steps
    first, second, third = (int(axis) for axis in np.argsort(spacing, kind="stable"))
    if min(image.shape[axis] for axis in (first, second)) < 4 * _WINDOW:
        return None
    smooth = ndimage.gaussian_filter(image, 1.5, truncate=2.5)
    inside = _shrunk(smooth > _BRIGHT)
    slope = sum((np.gradient(smooth, axis=axis) ** 2 for axis in (first, second)), np.zeros_like(smooth))
    if inside.sum() < _FEWEST_VOXELS / _FLAT_SHARE:
        return None
    flat = inside & (slope <= np.quantile(slope[inside], _FLAT_SHARE))
    fine, middle = (_second(_second(image, first, lag), second, lag) for lag in (1, 2))
    thickness = max(1.0, float(spacing.max() / math.sqrt(spacing[first] * spacing[second])))
    return Grain(image, (first, second, third), thickness, fine, middle, inside, slope, flat)


def grain_traits(grain: Grain) -> dict[str, float]:
    """Noise in the two finest directions.

    Returns:
        *quiet*, logarithm of the quietest tissue's noise at two voxels over brightness; *corner*, of noise at one voxel
        (the corner of k-space) over that at two; *loud*, of noise at one voxel over brightness; *linked*, of noise at
        one voxel over that at two along the axis where that is highest, nearer to 0 the less even it is; *patchy*, of
        the standard deviation over that of a Gaussian with the same middle, less what links explain.
    """
    at_one, at_two = grain.levels
    # A slice as thick as n such voxels has averaged over n of them, and is quieter by the root of n for that.
    quiet = grain.quietest * math.sqrt(grain.thickness)
    return {
        "quiet": math.log10(max(quiet, 1e-5)),
        "corner": _decades(at_one, at_two),
        "loud": math.log10(max(at_one, 1e-5)),
        "linked": grain.links[-1] / (1 + _UNEVEN * _unevenness(grain)),
        "patchy": _tails(grain.even) + grain.links[-2],
    }


NUMBERS = (
    *("quiet", "corner", "loud", "least linked", "linked", "most linked", "uneven", "faint", "tails", "wide tails"),
    *("sloped tails", "cross tails", "skew", "sloped", "steep", "across scales", "cross"),
)
"""What `grain_numbers` are, in their order."""


def grain_numbers(grain: Grain) -> NDArray[np.float32] | None:
    """What tells untouched noise from what a filter leaves of it, as one number each; None of less than twelve planes.

    Logarithms of ratios, but for the skew and a correlation. Of levels: *quiet*, *corner* and *loud* as `grain_traits`;
    the links of the three axes in ascending order; *sloped* and *steep*, at moderate and steep slopes over flat tissue;
    *cross*, along all three axes over two. Of power in windows of flat tissue: *uneven* and *faint*, the largest and
    least over the median; *across scales*, its correlation at one voxel with that at two. Of the distribution:
    *tails* as in `grain_traits` at one voxel, *wide* at two, *sloped* beside flat tissue, *cross* along three axes;
    *skew*, the third moment.
    """
    if grain.image.shape[grain.axes[2]] < _FEWEST_PLANES:
        return None
    fine, flat = grain.fine, grain.flat
    low, high = np.quantile(grain.slope[grain.inside], _SLOPED_SHARES)
    steep = grain.inside & (grain.slope > high)
    sloped = grain.inside & (grain.slope > low) & ~steep
    at_one, at_two = grain.levels
    power, wide_power = (each[flat] for each in grain.powers)
    least, median, most = np.quantile(power, (0.05, 0.5, 0.95))
    both = np.log(np.stack([power, wide_power]) + 1e-8)
    found = (
        _decades(grain.quietest, 1.0),
        _decades(at_one, at_two),
        _decades(at_one, 1.0),
        *grain.links,
        _decades(most, median),
        _decades(least, median),
        _tails(grain.even),
        _tails(_evened(grain.middle, flat)),
        _tails(_evened(fine, sloped | steep)),
        _tails(_evened(grain.cross, flat)),
        float((np.clip(grain.even, -_FARTHEST, _FARTHEST) ** 3).mean()),
        _decades(_level(fine, sloped), at_one),
        _decades(_level(fine, steep), at_one),
        float(np.corrcoef(both)[0, 1]) if np.ptp(both, axis=1).min() > 0 else 0.0,
        _decades(_level(grain.cross, flat), at_one),
    )
    return np.array(found, dtype=np.float32)


def _shrunk(mask: Mask) -> Mask:
    return np.asarray(ndimage.minimum_filter(mask.view(np.uint8), 2 * _INNER_VOXELS + 1, mode="constant") > 0)


def _second(image: Array, axis: int, lag: int) -> Array:
    """Second difference over so many voxels, scaled so that white noise keeps its level; 0 at the ends."""
    along = np.moveaxis(image, axis, 0)
    out = np.zeros_like(along)
    out[lag:-lag] = (along[: -2 * lag] - 2 * along[lag:-lag] + along[2 * lag :]) / np.float32(math.sqrt(6))
    return np.moveaxis(out, 0, axis)


def _decades(one: float, other: float) -> float:
    """Logarithm of a ratio; what is next to nothing counts as a millionth."""
    return math.log10(max(float(one), 1e-6) / max(float(other), 1e-6))


def _level(noise: Array, where: Mask) -> float:
    """Standard deviation of a Gaussian with this median."""
    return float(np.median(np.abs(noise[where]))) / _MEDIAN_OF_NORMAL


def _unevenness(grain: Grain) -> float:
    """By how much more than white noise's the power of the finest detail differs from place to place; 0 for not."""
    middle, high = np.quantile(grain.powers[0][grain.flat], (0.5, 0.95))
    return max(float(high) / max(float(middle), 1e-12) / 10**_EVEN - 1, 0.0)


def _evened(noise: Array, where: Mask) -> Array:
    """(N,) the noise there, with slow changes of its level taken out."""
    share = ndimage.uniform_filter(where.astype(np.float32), _WIDE)[where]
    power = ndimage.uniform_filter(np.where(where, noise * noise, 0), _WIDE)[where]
    return np.asarray(noise[where] / np.sqrt(np.maximum(power / np.maximum(share, 1e-6), 1e-12)))


def _tails(even: Array) -> float:
    """Logarithm of the standard deviation over that of a Gaussian with the same middle."""
    return _decades(float(even.std()), float(np.median(np.abs(even))) / _MEDIAN_OF_NORMAL)
