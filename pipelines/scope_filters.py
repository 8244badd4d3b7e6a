"""Examples for `pipelines/scope.py`: a scan's middle as scanners and their users leave its grain, and as filters do.

Seventeen filters in common use, each at strengths drawn at random, after noise drawn at random; and the same middle
with noise alone: in thicker slices, of fewer lines of k-space, of uneven brightness, in whole numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy import fft, ndimage
from skimage.restoration import denoise_bilateral, denoise_nl_means, denoise_tv_bregman, denoise_tv_chambolle

from medidiff.anatomy import foreground, tissue_maximum
from medidiff.volume import Geometry, Volume

__all__ = ["FILTERS", "as_filters_leave_it", "as_scanners_leave_it"]

HALF_SIDE, LARGE_HALF_SIDE = 45, 60  # voxels of the middle that is taken; the larger one before voxels become fewer
NOISE_BEFORE = (0.0, 0.02, 0.04, 0.07, 0.1)  # a filter, of the tissue maximum
LEAST_LEVEL = 0.012  # that a filter is told
TIMES = 2  # each filter

Image = NDArray[np.float32]
Rng = np.random.Generator
Filter = Callable[[Image, float, Rng], Image]
Made = tuple[Image, Sequence[float]]
"""An image and its spacing in mm."""


def as_scanners_leave_it(volume: Volume, rng: Rng) -> Iterator[Volume]:
    """Twenty-six variants of the middle of a scan, none of them filtered.

    Args:
        volume: (1, I, J, K) one scan as it is.
        rng: what draws noise and changes.
    """
    small, large, spacing = _middles(volume)
    for level in (0.0, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.09, 0.15):
        yield _volume(_noisy(small, level, rng), spacing)
    for _ in range(6):
        image, sides = _in_slices(large, spacing, rng)
        yield _volume(_noisy(image, float(rng.choice((0.0, 0.005, 0.01, 0.03, 0.06, 0.1))), rng), sides)
    for _ in range(5):
        image, sides = _of_fewer_lines(large, spacing, rng)
        yield _volume(_noisy(image, float(rng.choice((0.0, 0.005, 0.01, 0.02, 0.04))), rng), sides)
    for _ in range(2):
        slow = _slow(small.shape, rng)
        yield _volume(_noisy(small * (0.75 + 0.5 * slow), float(rng.choice((0.0, 0.01, 0.03))), rng), spacing)
        yield _volume(_noisy(small, 0.01 + 0.03 * slow, rng), spacing)
    yield _volume(np.rint(small * rng.integers(120, 400)), spacing)
    yield _volume(np.abs(small + 0.05 * rng.standard_normal(small.shape)), spacing)


def as_filters_leave_it(volume: Volume, rng: Rng) -> Iterator[Volume]:
    """The middle of a scan, as it is, in slices or of fewer lines, after noise, by each filter twice.

    Args:
        volume: (1, I, J, K) one scan as it is.
        rng: what draws noise, changes and strengths.
    """
    small, large, spacing = _middles(volume)
    for change in FILTERS.values():
        for _ in range(TIMES):
            chance = rng.random()
            image, sides = small, spacing
            if chance >= 0.6:
                image, sides = (_in_slices if chance < 0.8 else _of_fewer_lines)(large, spacing, rng)
            level = float(rng.choice(NOISE_BEFORE))
            yield _volume(change(_noisy(image, level, rng), max(level, LEAST_LEVEL), rng), sides)


def _middles(volume: Volume) -> tuple[Image, Image, Sequence[float]]:
    """Two cubes of the middle of the tissue, in units of the tissue maximum."""
    image = np.asarray(volume.data[0], dtype=np.float32)
    image = image / np.float32(tissue_maximum(image, foreground(image)))
    tissue = np.argwhere(ndimage.gaussian_filter(image, 1) > 0.2)
    middle = (tissue.min(axis=0) + tissue.max(axis=0)) // 2
    small, large = (
        np.ascontiguousarray(image[tuple(slice(max(place - half, 0), place + half) for place in middle)])
        for half in (HALF_SIDE, LARGE_HALF_SIDE)
    )
    return small, large, volume.geometry.spacing_mm


def _volume(image: NDArray[np.floating], spacing: Sequence[float]) -> Volume:
    data = np.ascontiguousarray(image, dtype=np.float32)
    return Volume(data, Geometry.regular((data.shape[0], data.shape[1], data.shape[2]), spacing_mm=spacing), "MR")


# ------------------------------------------------------------------------------------------- what scanners and users do


def _noisy(image: Image, level: float | Image, rng: Rng) -> Image:
    """Rician noise."""
    if np.max(level) <= 0:
        return image
    real, other = (level * rng.standard_normal(image.shape, dtype=np.float32) for _ in range(2))
    return np.asarray(np.hypot(image + real, other), dtype=np.float32)


def _in_slices(image: Image, spacing: Sequence[float], rng: Rng) -> Made:
    """Two to six voxels thick, along an axis drawn at random."""
    axis, factor = int(rng.integers(3)), int(rng.integers(2, 7))
    along = np.moveaxis(image, axis, 0)
    count = len(along) // factor
    along = along[: count * factor].reshape(count, factor, *along.shape[1:]).mean(axis=1)
    sides = [side * factor if number == axis else side for number, side in enumerate(spacing)]
    return np.ascontiguousarray(np.moveaxis(along, 0, axis), dtype=np.float32), sides


def _of_fewer_lines(image: Image, spacing: Sequence[float], rng: Rng) -> Made:
    """As of a scan with larger voxels: the middle of k-space."""
    shape = [round(count * rng.uniform(0.6, 0.97) / 2) * 2 for count in image.shape]
    lines = fft.fftshift(fft.fftn(image))
    kept = tuple(slice((n - few) // 2, (n - few) // 2 + few) for n, few in zip(image.shape, shape, strict=True))
    smaller = np.abs(fft.ifftn(fft.ifftshift(lines[kept]))) * (np.prod(shape) / image.size)
    return smaller.astype(np.float32), [
        side * n / few for side, n, few in zip(spacing, image.shape, shape, strict=True)
    ]


def _slow(shape: Sequence[int], rng: Rng) -> Image:
    """What changes slowly from 0 to 1."""
    field = ndimage.zoom(rng.standard_normal((3, 3, 3)), np.asarray(shape) / 3, order=3, grid_mode=True, mode="nearest")
    return np.asarray((field - field.min()) / np.ptp(field), dtype=np.float32)


# --------------------------------------------------------------------------------------------------------- the filters


def _by_planes(change: Callable[[Image], Image], image: Image, rng: Rng) -> Image:
    """Plane by plane, along an axis drawn at random."""
    axis = int(rng.integers(3))
    return np.moveaxis(np.stack([change(plane) for plane in np.moveaxis(image, axis, 0)]), 0, axis)


def _in_two_axes(value: float, other: float, rng: Rng) -> list[float]:
    out = [value, value, value]
    out[int(rng.integers(3))] = other
    return out


def _wiener(image: Image, level: float, side: Sequence[int] | int) -> Image:
    mean = ndimage.uniform_filter(image, side)
    power = np.maximum(ndimage.uniform_filter(image * image, side) - mean * mean, 1e-12)
    return np.asarray(mean + np.maximum(power - level**2, 0) / np.maximum(power, level**2) * (image - mean))


def _haar(image: Image, threshold: float) -> Image:
    """Soft thresholds on two scales, averaged over four shifts."""
    total = np.zeros_like(image)
    for shift in ((0, 0, 0), (1, 1, 0), (1, 0, 1), (0, 1, 1)):
        moved = np.roll(image, shift, (0, 1, 2))
        whole = tuple(slice(0, n // 4 * 4) for n in image.shape)
        moved[whole] = _shrunk(moved[whole], np.float32(threshold), 2)
        total += np.roll(moved, [-n for n in shift], (0, 1, 2))
    return total / 4


def _shrunk(image: Image, threshold: np.float32, scales: int) -> Image:
    if scales == 0:
        return image
    bands = [image]
    for axis in range(3):
        bands = [part for band in bands for part in _halves(band, axis)]
    first, *rest = bands
    bands = [_shrunk(first, threshold, scales - 1)]
    bands += [np.sign(band) * np.maximum(np.abs(band) - threshold, 0) for band in rest]
    for axis in (2, 1, 0):
        bands = [_whole(low, high, axis) for low, high in zip(bands[::2], bands[1::2], strict=True)]
    return bands[0]


def _halves(band: Image, axis: int) -> tuple[Image, Image]:
    along = np.moveaxis(band, axis, 0)
    even, odd = along[::2], along[1::2]
    low, high = ((one * np.float32(0.5**0.5)) for one in (even + odd, even - odd))
    return np.moveaxis(low, 0, axis), np.moveaxis(high, 0, axis)


def _whole(low: Image, high: Image, axis: int) -> Image:
    low, high = np.moveaxis(low, axis, 0), np.moveaxis(high, axis, 0)
    along = np.empty((2 * len(low), *low.shape[1:]), dtype=np.float32)
    along[::2], along[1::2] = (low + high) * np.float32(0.5**0.5), (low - high) * np.float32(0.5**0.5)
    return np.moveaxis(along, 0, axis)


def _cosines(image: Image, threshold: float) -> Image:
    """Hard thresholds on cosine transforms of blocks of four voxels, averaged over four shifts."""
    total, times = np.zeros_like(image), np.zeros_like(image)
    for start in ((0, 0, 0), (2, 1, 3), (1, 3, 2), (3, 2, 1)):
        counts = [(n - first) // 4 for n, first in zip(image.shape, start, strict=True)]
        where = tuple(slice(first, first + 4 * count) for first, count in zip(start, counts, strict=True))
        blocks = image[where].reshape(counts[0], 4, counts[1], 4, counts[2], 4)
        waves = fft.dctn(blocks, axes=(1, 3, 5), norm="ortho")
        waves[np.abs(waves) < threshold] = 0
        total[where] += fft.idctn(waves, axes=(1, 3, 5), norm="ortho").reshape(total[where].shape)
        times[where] += 1
    return np.where(times > 0, total / np.maximum(times, 1), image)


def _diffused(filter_of: Callable[..., sitk.Image], image: Image, conductance: float, rng: Rng) -> Image:
    made = filter_of(
        sitk.GetImageFromArray(image),
        timeStep=0.06,
        conductanceParameter=conductance,
        numberOfIterations=int(rng.integers(3, 8)),
    )
    return np.asarray(sitk.GetArrayFromImage(made))


def _bilateral(image: Image, level: float, rng: Rng) -> Image:
    colour = rng.uniform(1.5, 3) * level
    return _by_planes(
        lambda plane: denoise_bilateral(np.clip(plane, 0, None), sigma_color=colour, sigma_spatial=1.5, win_size=5),
        image,
        rng,
    )


def _means(image: Image, strength: float, known: float, **patches: int) -> Image:
    return np.asarray(denoise_nl_means(image, h=strength, sigma=known, fast_mode=True, **patches))


FILTERS: Mapping[str, Filter] = {
    "Gaussian": lambda x, level, rng: ndimage.gaussian_filter(x, rng.uniform(0.45, 0.9)),
    "Gaussian, in plane": lambda x, level, rng: ndimage.gaussian_filter(
        x, _in_two_axes(rng.uniform(0.5, 1.0), 0.0, rng)
    ),
    "median": lambda x, level, rng: ndimage.median_filter(x, 3),
    "median, in plane": lambda x, level, rng: ndimage.median_filter(x, tuple(map(int, _in_two_axes(3, 1, rng)))),
    "total variation": lambda x, level, rng: denoise_tv_chambolle(x, rng.uniform(0.6, 2) * level, max_num_iter=40),
    "total variation, in plane": lambda x, level, rng: _by_planes(
        lambda plane: denoise_tv_chambolle(plane, rng.uniform(0.6, 2) * level, max_num_iter=40), x, rng
    ),
    "split Bregman": lambda x, level, rng: denoise_tv_bregman(x, 1 / (rng.uniform(1, 3) * level), max_num_iter=20),
    "Wiener": lambda x, level, rng: _wiener(x, rng.uniform(0.7, 1.2) * level, 3),
    "Wiener, in plane": lambda x, level, rng: _wiener(
        x, rng.uniform(0.7, 1.2) * level, list(map(int, _in_two_axes(int(rng.choice((3, 5))), 1, rng)))
    ),
    "Haar wavelets": lambda x, level, rng: _haar(x, rng.uniform(0.7, 2) * level),
    "cosines": lambda x, level, rng: _cosines(x, rng.uniform(1.5, 2.8) * level),
    "curvature": lambda x, level, rng: _diffused(sitk.CurvatureAnisotropicDiffusion, x, rng.uniform(1, 4), rng),
    "diffusion": lambda x, level, rng: _diffused(sitk.GradientAnisotropicDiffusion, x, rng.uniform(0.6, 2), rng),
    "non-local means": lambda x, level, rng: _means(
        x, rng.uniform(0.5, 1) * level, level, patch_size=3, patch_distance=int(rng.integers(2, 4))
    ),
    "non-local means, noise not told": lambda x, level, rng: _means(
        x, rng.uniform(0.6, 1.2) * level, 0.0, patch_size=3, patch_distance=2
    ),
    "non-local means, in plane": lambda x, level, rng: _by_planes(
        lambda plane: _means(plane, rng.uniform(0.6, 1) * level, level, patch_size=5, patch_distance=5), x, rng
    ),
    "bilateral": _bilateral,
}
"""Each takes an image in units of its tissue maximum, the level of its noise and a generator."""
