"""What the spectrum of a scan shows of how it was acquired: where k-space ends, and single points that stand out.

Noise and fine detail fade slowly towards the edge of k-space. A scan that was zero-filled (interpolated by padding
k-space, or by a scanner's reconstruction to a larger matrix) has less than is sampled there, and its power falls at
once; along one axis scanners do that as a rule (partial Fourier, slice interpolation), so two have to. A spike, one
wrong sample of k-space, puts stripes over the whole scan: one spatial frequency stands out of those around it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from medidiff.trust.coarse import Array, Coarse

__all__ = ["kspace_traits"]

_MOST_VOXELS = 600_000
_FEWEST_VOXELS = 4000.0  # of tissue, by their weights
_SHORTEST = 16  # voxels along the two finest axes
_BRIGHT = 0.45  # of the brightness called 100 %
_ERODED = 9  # voxels
_SOFT = 2.5  # voxels; a sharp window would smear a step in the spectrum
_SLOW = 2.0  # voxels: what is slower is taken out, it would leak
_BINS = 40  # from 0 to half a cycle in a voxel
_FIRST, _WIDTH, _GAP = 5, 2, 2  # bins: where a step may begin, what is averaged on either side, what lies between
_ACROSS = (0.05, 0.25)  # cycles in a voxel of the other two axes
_BLOCK = 8  # points of k-space
_LOW = 0.08  # cycles in a voxel: below, anatomy stands out
_LINE = 0.03  # cycles in a voxel from an axis
_INTERLEAVED = (1 / 3, 1 / 2)  # cycles in a slice: slices measured in two or three turns differ in brightness
_PLACES = 128  # points of k-space that are held against those about them
_FEWEST_PLANES = 12
_TINY = 1e-12
_OFFSETS = np.stack(np.meshgrid(*(np.arange(-4, 5),) * 3, indexing="ij"), axis=-1).reshape(-1, 3)
_SHELL = _OFFSETS[np.abs(_OFFSETS).max(axis=1) > 2]

Power = NDArray[np.float32]


def kspace_traits(blocks: Coarse) -> dict[str, float | None]:
    """Where k-space ends, and a point of it that stands out.

    Args:
        blocks: the scan.

    Returns:
        *cliff*, logarithm of the largest drop of power at once, along the axis where that is second largest; *spike*,
        logarithm of the power at the most outstanding point of k-space over the highest of a shell about it.
    """
    image = blocks.image[blocks.box(_MOST_VOXELS)] / np.float32(blocks.bright)
    spacing = np.asarray(blocks.geometry.spacing_mm) / blocks.steps
    if sorted(image.shape)[1] < _SHORTEST or min(image.shape) < 2:
        return {"cliff": None, "spike": None}
    # Along thick slices a window has to be as much narrower, in voxels, as these are thicker.
    finer = [float(spacing.min() / step) for step in spacing]
    detail = image - ndimage.gaussian_filter(image, [_SLOW * part for part in finer], truncate=2.5)
    return {"cliff": _cliff(detail, _inside(image, finer)), "spike": _spike(detail)}


def _inside(image: Array, finer: Sequence[float]) -> Array:
    """(I, J, K) 1 well inside tissue, where noise is Gaussian, and softly down to 0."""
    smooth = ndimage.gaussian_filter(image, [1.5 * part for part in finer], truncate=2.5)
    sizes = [2 * int(_ERODED * part / 2) + 1 for part in finer]
    bright = ndimage.minimum_filter((smooth > _BRIGHT).view(np.uint8), sizes, mode="constant").astype(np.float32)
    window = ndimage.gaussian_filter(bright, [_SOFT * part for part in finer], mode="constant", truncate=3.0)
    return np.asarray(window, dtype=np.float32)


def _power(image: Array) -> tuple[Power, tuple[int, int, int]]:
    """Power of the half of k-space that a real image has, and the shape of all of it."""
    i, j, k = (fft.next_fast_len(n, real=True) for n in image.shape)
    spectrum = fft.rfftn(image, (i, j, k))
    return np.square(spectrum.real) + np.square(spectrum.imag), (i, j, k)


def _frequencies(shape: tuple[int, int, int]) -> list[NDArray[np.float64]]:
    """Of that half along each axis, in cycles a voxel, without their sign."""
    return [np.abs(fft.fftfreq(shape[0])), np.abs(fft.fftfreq(shape[1])), fft.rfftfreq(shape[2])]


# ------------------------------------------------------------------------------------------------------------ its edge


def _cliff(detail: Array, window: Array) -> float | None:
    if float(window.sum()) < _FEWEST_VOXELS:
        return None
    power, shape = _power(detail * window)
    frequencies = _frequencies(shape)
    return sorted(_steepest(_profile(power, frequencies, axis)) for axis in range(3))[1]


def _profile(power: Power, frequencies: Sequence[NDArray[np.float64]], axis: int) -> NDArray[np.float64]:
    """(B,) logarithm of the typical power by frequency along an axis, where the other two are neither low nor high."""
    one, two = (frequencies[other] for other in range(3) if other != axis)
    low, high = _ACROSS
    across = (one[:, None] < high) & (two < high) & (one[:, None] ** 2 + two**2 > low**2)
    along = np.median(np.moveaxis(power, axis, 0)[:, across], axis=1)  # of which a spike is no part
    number = np.minimum((frequencies[axis] * 2 * _BINS).astype(int), _BINS - 1)
    count, total = np.bincount(number, minlength=_BINS), np.bincount(number, along, _BINS)
    filled = np.flatnonzero(count)
    return np.interp(np.arange(_BINS), filled, np.log10(np.maximum(total[filled] / count[filled], _TINY)))


def _steepest(profile: NDArray[np.float64]) -> float:
    """Largest drop from a few bins to the next few but those between, which the window smears."""
    ends = range(_FIRST + _WIDTH, len(profile) - _GAP - _WIDTH + 1)
    return max(
        float(profile[end - _WIDTH : end].mean() - profile[end + _GAP : end + _GAP + _WIDTH].mean()) for end in ends
    )


# ---------------------------------------------------------------------------------------------------------- its points


def _spike(detail: Array) -> float | None:
    """The most that a point of k-space stands out of a shell about it.

    Under a Hann window a wrong sample keeps to two points to either side. Anatomy, and the rays that edges throw, go on
    beyond that, and have as much power in the shell.
    """
    if min(detail.shape) < _FEWEST_PLANES:
        return None
    for axis, count in enumerate(detail.shape):
        hann = np.hanning(count + 2)[1:-1].astype(np.float32)
        detail = detail * np.expand_dims(hann, [other for other in range(3) if other != axis])
    power, shape = _power(detail)
    places = _outstanding(power, shape)
    top, shell = _at(power, places, shape), _at(power, places[:, None] + _SHELL, shape).max(axis=1)
    return float(np.log10(max((top / np.maximum(shell, _TINY * power.max() + _TINY)).max(), 1.0)))


def _outstanding(power: Power, shape: tuple[int, int, int]) -> NDArray[np.intp]:
    """(N, 3) places of the highest points of blocks of k-space, of the blocks where it is most above the median."""
    heeded = _in_blocks(np.where(_heeded(_frequencies(shape)), power, 0), "constant")
    level = np.median(_in_blocks(power, "symmetric"), axis=-1)
    above = heeded.max(axis=-1) / np.maximum(level, _TINY * level.max() + _TINY)
    chosen = np.unravel_index(np.argsort(-above, axis=None)[:_PLACES], above.shape)
    within = np.unravel_index(heeded[chosen].argmax(axis=-1), (_BLOCK,) * 3)
    return np.asarray(np.stack(chosen, axis=-1) * _BLOCK + np.stack(within, axis=-1))


def _heeded(frequencies: Sequence[NDArray[np.float64]]) -> NDArray[np.bool_]:
    """(I, J, K) where points are looked at: neither where anatomy is, nor where interleaved slices are."""
    x, y, z = np.meshgrid(*(each.astype(np.float32) for each in frequencies), indexing="ij", sparse=True)
    heeded: NDArray[np.bool_] = x * x + y * y + z * z > _LOW**2
    for along, one, two in ((x, y, z), (y, z, x), (z, x, y)):
        turns = np.logical_or.reduce([np.abs(along - each) < _LINE for each in _INTERLEAVED])
        heeded &= ~((one < _LINE) & (two < _LINE) & turns)
    return heeded


def _in_blocks(power: Power, beyond: Literal["constant", "symmetric"]) -> Power:
    """(I/8, J/8, K/8, 512), blocks that are not whole filled up with 0 or with their mirror image."""
    whole = np.pad(power, [(0, -n % _BLOCK) for n in power.shape], mode=beyond)
    i, j, k = (n // _BLOCK for n in whole.shape)
    blocks = whole.reshape(i, _BLOCK, j, _BLOCK, k, _BLOCK).transpose(0, 2, 4, 1, 3, 5)
    return blocks.reshape(i, j, k, _BLOCK**3)


def _at(power: Power, places: NDArray[np.intp], shape: tuple[int, int, int]) -> Power:
    """Power at places (..., 3) of all of k-space; that of the half which is not kept is its mirror image's."""
    i, j, k = np.moveaxis(places, -1, 0)
    k = k % shape[2]
    other = k > shape[2] // 2
    i, j, k = np.where(other, -i, i) % shape[0], np.where(other, -j, j) % shape[1], np.where(other, shape[2] - k, k)
    return np.asarray(power[i, j, k])
