"""Scans that fine-t1 is not for: what `scope.py` counts as caught or missed.

A case takes a scan and a generator and returns a scan; nothing of it is used by the package.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage
from scope_cases import Case, Rng, bright, image_of, noisy, upright_axis

from medidiff.anatomy import foreground
from medidiff.volume import Geometry, Volume

__all__ = ["FAR", "NEAR"]


def _flipped(letters: str) -> Case:
    def flip(volume: Volume, rng: Rng) -> Volume:
        return volume.with_data(np.flip(image_of(volume), upright_axis(volume, letters)).copy())

    return flip


def _axes_mistaken(volume: Volume, rng: Rng) -> Volume:
    order = [(1, 2, 0), (2, 0, 1), (0, 2, 1)][int(rng.integers(3))]
    data = image_of(volume).transpose(order)
    spacing = [volume.geometry.spacing_mm[axis] for axis in order]
    affine = volume.geometry.affine.copy()
    affine[:3, :3] = volume.geometry.directions * spacing
    return Volume(np.ascontiguousarray(data), Geometry(data.shape, affine), volume.modality)


def _upside_down(volume: Volume, rng: Rng) -> Volume:
    """Turned by half a turn about the axis from left to right."""
    axes = (upright_axis(volume, "IS"), upright_axis(volume, "AP"))
    return noisy(volume.with_data(np.flip(image_of(volume), axes).copy()), rng, 2)


def _gaussian(sigma_voxels: float) -> Case:
    return lambda volume, rng: volume.with_data(ndimage.gaussian_filter(image_of(volume), sigma_voxels))


def _means_of_noisy(volume: Volume, rng: Rng) -> Volume:
    """Non-local means of a scan with 3 to 9 % of noise."""
    from dipy.denoise.nlmeans import nlmeans

    percent = float(rng.uniform(3, 9))
    image = image_of(noisy(volume, rng, percent))
    level = percent / 100 * bright(image_of(volume))
    made = nlmeans(image.astype(np.float64), sigma=level, patch_radius=1, block_radius=2, rician=True, num_threads=1)
    return volume.with_data(made.astype(np.float32))


def _total_variation(volume: Volume, rng: Rng) -> Volume:
    from skimage.restoration import denoise_tv_chambolle

    percent = float(rng.uniform(2, 9))
    image = image_of(noisy(volume, rng, percent))
    full = bright(image_of(volume))
    made = denoise_tv_chambolle(image / full, weight=1.3 * percent / 100, max_num_iter=60)
    return volume.with_data((made * full).astype(np.float32))


def _median(volume: Volume, rng: Rng) -> Volume:
    return volume.with_data(ndimage.median_filter(image_of(noisy(volume, rng, 2)), 3))


def _wavelets(volume: Volume, rng: Rng) -> Volume:
    """Soft thresholds on a Haar transform of three scales, averaged over shifts."""
    from medidiff.physics.estimate import estimate_noise

    image = image_of(noisy(volume, rng, 3))
    level = 3 * estimate_noise(image)
    total = np.zeros_like(image)
    for shift in range(4):
        moved = np.roll(image, (shift, shift, shift), (0, 1, 2))
        smooth = moved
        kept = np.zeros_like(moved)
        for scale in (1, 2, 4):
            softer = ndimage.uniform_filter(smooth, 2 * scale + 1)
            detail = smooth - softer
            limit = np.float32(level / scale)
            kept += np.sign(detail) * np.maximum(np.abs(detail) - limit, 0)
            smooth = softer
        total += np.roll(kept + smooth, (-shift, -shift, -shift), (0, 1, 2))
    return volume.with_data(total / 4)


def _swapped(volume: Volume, rng: Rng) -> Volume:
    """Two slabs of a seventh to a fifth of the tissue changed for each other."""
    image = image_of(volume).copy()
    axis = int(rng.integers(3))
    along = np.moveaxis(image, axis, 0)
    shown = np.flatnonzero((along > 0.2 * bright(image)).mean(axis=(1, 2)) > 0.05)
    low, high = int(shown[0]), int(shown[-1]) + 1
    size = round((high - low) * rng.uniform(0.14, 0.2))
    first = low + round((high - low) * rng.uniform(0.2, 0.3))
    second = low + round((high - low) * rng.uniform(0.55, 0.6))
    a, b = along[first : first + size].copy(), along[second : second + size].copy()
    along[first : first + size], along[second : second + size] = b, a
    return noisy(volume.with_data(image), rng, 2)


def _reversed(volume: Volume, rng: Rng) -> Volume:
    """A third of the slices in the opposite order."""
    axis = int(rng.integers(3))
    image = image_of(volume).copy()
    along = np.moveaxis(image, axis, 0)
    count = len(along)
    part = slice(round(0.35 * count), round(0.65 * count))
    along[part] = along[part][::-1].copy()
    return noisy(volume.with_data(image), rng, 2)


def _shuffled(volume: Volume, rng: Rng) -> Volume:
    axis = int(rng.integers(3))
    return volume.with_data(np.take(image_of(volume), rng.permutation(volume.shape[axis]), axis=axis))


def _interleaved(volume: Volume, rng: Rng) -> Volume:
    """Odd slices first, then even ones, as an acquisition order that was taken for the order in space."""
    axis = int(rng.integers(3))
    order = [*range(0, volume.shape[axis], 2), *range(1, volume.shape[axis], 2)]
    return volume.with_data(np.take(image_of(volume), order, axis=axis))


def _twice(volume: Volume, rng: Rng) -> Volume:
    """Every slice along an axis stands twice, every second one is lost."""
    axis = int(rng.integers(3))
    return volume.with_data(np.take(image_of(volume), np.arange(volume.shape[axis]) // 2 * 2, axis=axis))


def _blank(volume: Volume, rng: Rng) -> Volume:
    """A seventh of the slices empty, in the middle."""
    image = image_of(volume).copy()
    axis = int(rng.integers(3))
    count = volume.shape[axis]
    start = round(count * rng.uniform(0.35, 0.5))
    np.moveaxis(image, axis, 0)[start : start + round(0.14 * count)] = 0
    return noisy(volume.with_data(image), rng, 2)


def _rolled(volume: Volume, rng: Rng) -> Volume:
    """Wrapped round by 30 to 50 % along an axis."""
    axis = int(rng.integers(3))
    return noisy(
        volume.with_data(np.roll(image_of(volume), round(volume.shape[axis] * rng.uniform(0.3, 0.5)), axis)), rng, 2
    )


def _inverted(volume: Volume, rng: Rng) -> Volume:
    image = image_of(volume)
    return volume.with_data(np.clip(np.percentile(image, 99.9) - image, 0, None))


def _inverted_inside(volume: Volume, rng: Rng) -> Volume:
    image = image_of(volume)
    mask = foreground(image)
    return noisy(volume.with_data(np.where(mask, np.clip(1.15 * bright(image) - image, 0, None), 0)), rng, 2)


def _windowed(volume: Volume, rng: Rng) -> Volume:
    """Window from the 2nd to the 97th percentile of the tissue, 256 grey levels."""
    image = image_of(volume)
    low, high = np.percentile(image[foreground(image)], (2, 97))
    return volume.with_data(np.rint(np.clip((image - low) / (high - low), 0, 1) * 255).astype(np.uint8))


def _byte(volume: Volume, rng: Rng) -> Volume:
    """The whole range on 256 grey levels."""
    image = image_of(noisy(volume, rng, 2))
    return volume.with_data(np.rint(image / image.max() * 255).astype(np.uint8))


def _clipped(volume: Volume, rng: Rng) -> Volume:
    image = image_of(noisy(volume, rng, 2))
    return volume.with_data(np.minimum(image, np.float32(rng.uniform(0.6, 0.85) * bright(image))))


def _noise(volume: Volume, rng: Rng) -> Volume:
    real, other = (rng.standard_normal(volume.shape, dtype=np.float32) for _ in range(2))
    return volume.with_data(100 * np.hypot(real, other))


def _drowned(volume: Volume, rng: Rng) -> Volume:
    return noisy(volume, rng, 80)


def _zero_filled(volume: Volume, rng: Rng) -> Volume:
    """Twice too many voxels along each axis: the outer half of k-space is empty."""
    image = image_of(noisy(volume, rng, 2))
    k = fft.fftshift(fft.fftn(image))
    for axis, n in enumerate(image.shape):
        along = np.moveaxis(k, axis, 0)
        along[: n // 4] = 0
        along[n - n // 4 :] = 0
    return volume.with_data(np.abs(fft.ifftn(fft.ifftshift(k))).astype(np.float32))


def _scaled(factors: tuple[float, float, float]) -> Case:
    def scale(volume: Volume, rng: Rng) -> Volume:
        affine = volume.geometry.affine.copy()
        affine[:3, :3] *= factors
        return noisy(dataclasses.replace(volume, geometry=Geometry(volume.shape, affine)), rng, 2)

    return scale


def _spread(shape: tuple[int, int, int]) -> list[NDArray[np.float64]]:
    return list(np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij"))


def _phantom(volume: Volume, rng: Rng) -> Volume:
    """Water in a ball with three rods."""
    x, y, z = _spread(volume.shape)
    image = np.where(x * x + y * y + z * z < 0.6, 800.0, 0.0)
    for a, b in ((0.3, 0.2), (-0.35, 0.1), (0.0, -0.4)):
        image[(x - a) ** 2 + (y - b) ** 2 < 0.02] = 300.0
    return noisy(volume.with_data(image.astype(np.float32)), rng, 3)


def _cylinder(volume: Volume, rng: Rng) -> Volume:
    x, y, z = _spread(volume.shape)
    image = np.where((x * x + y * y < 0.55) & (np.abs(z) < 0.8), 700.0 * (1 + 0.1 * x), 0.0)
    return noisy(volume.with_data(image.astype(np.float32)), rng, 3)


def _checkerboard(volume: Volume, rng: Rng) -> Volume:
    size = int(rng.integers(4, 20))
    index = sum(np.indices(volume.shape) // size)
    return noisy(volume.with_data((1000.0 * (index % 2)).astype(np.float32)), rng, 2)


def _biased(volume: Volume, rng: Rng) -> Volume:
    """A coil that sees one side ten times as well as the other."""
    fields = _spread(volume.shape)
    turn = rng.standard_normal(3)
    along = sum(float(part) * each for part, each in zip(turn / np.linalg.norm(turn), fields, strict=True))
    return noisy(volume.with_data((image_of(volume) * np.exp(1.6 * along)).astype(np.float32)), rng, 2)


def _jpeg(volume: Volume, rng: Rng) -> Volume:
    from PIL import Image as Picture

    image = image_of(volume)
    grey = np.clip(image / (1.2 * bright(image)) * 255, 0, 255).astype(np.uint8)
    planes = []
    for k in range(grey.shape[2]):
        code = io.BytesIO()
        Picture.fromarray(grey[:, :, k]).save(code, "jpeg", quality=20)
        planes.append(np.asarray(Picture.open(code), dtype=np.float32))
    return volume.with_data(np.stack(planes, axis=2))


def _ghosts(volume: Volume, rng: Rng) -> Volume:
    """Every other line of k-space a third weaker, and every fourth out of phase: ghosts along an axis."""
    axis = int(rng.integers(2))
    k = np.moveaxis(fft.fft(image_of(volume), axis=axis), axis, 0)
    k[::2] *= 0.6
    k[::4] *= np.exp(0.5j)
    moved = np.abs(fft.ifft(np.moveaxis(k, 0, axis), axis=axis))
    return noisy(volume.with_data(moved.astype(np.float32)), rng, 2)


def _moved(volume: Volume, rng: Rng) -> Volume:
    """A head that nods by millimetres from one line of k-space to the next."""
    axis = int(rng.integers(2))
    k = fft.fftshift(fft.fftn(image_of(volume), axes=(0, 1)), axes=(0, 1))
    n, other = k.shape[axis], 1 - axis
    shift = 4 * np.sin(np.linspace(0, rng.uniform(30, 60), n)) + rng.normal(0, 1.0, n)
    phase = np.exp(-2j * np.pi * np.multiply.outer(shift, fft.fftshift(fft.fftfreq(k.shape[other]))))
    k *= (phase if axis == 0 else phase.T)[:, :, None]
    return noisy(volume.with_data(np.abs(fft.ifftn(fft.ifftshift(k, (0, 1)), axes=(0, 1))).astype(np.float32)), rng, 2)


def _spiked(volume: Volume, rng: Rng) -> Volume:
    """A spike in k-space: stripes over the whole scan."""
    x = np.indices(volume.shape)
    wave = sum(float(f) * each for f, each in zip(rng.uniform(0.3, 1.2, 3), x, strict=True))
    image = image_of(volume)
    return noisy(volume.with_data(np.abs(image + 0.3 * bright(image) * np.cos(wave)).astype(np.float32)), rng, 2)


def _labels(volume: Volume, rng: Rng) -> Volume:
    """A map of three tissues in place of a scan."""
    image = ndimage.gaussian_filter(image_of(volume), 0.7)
    mask = foreground(image)
    edges = np.percentile(image[mask], (15, 60))
    return volume.with_data(np.where(mask, 1 + np.digitize(image, edges), 0).astype(np.uint8))


def _cut(side: int) -> Case:
    def cut(volume: Volume, rng: Rng) -> Volume:
        start = [(n - side) // 2 for n in volume.shape]
        box = tuple(slice(a, a + side) for a in start)
        affine = volume.geometry.affine.copy()
        affine[:3, 3] = volume.geometry.world(start)
        return Volume(image_of(volume)[box].copy(), Geometry((side, side, side), affine), volume.modality)

    return cut


FAR: Mapping[str, Case] = {
    "upside down": _upside_down,
    "flipped head to foot": _flipped("IS"),
    "flipped front to back": _flipped("AP"),
    "axes mistaken": _axes_mistaken,
    "denoised: Gaussian, 0.8 voxels": _gaussian(0.8),
    "denoised: Gaussian, 1.2 voxels": _gaussian(1.2),
    "denoised: non-local means": _means_of_noisy,
    "denoised: total variation": _total_variation,
    "denoised: median": _median,
    "denoised: shrinkage": _wavelets,
    "smoothed, 2.5 voxels": _gaussian(2.5),
    "swapped slabs": _swapped,
    "slices reversed in a third": _reversed,
    "slices shuffled": _shuffled,
    "slices interleaved": _interleaved,
    "slices twice": _twice,
    "slices blank": _blank,
    "wrapped round": _rolled,
    "inverted": _inverted,
    "inverted, air dark": _inverted_inside,
    "windowed to 8 bit": _windowed,
    "8 bit, whole range": _byte,
    "clipped": _clipped,
    "pure noise": _noise,
    "drowned in noise": _drowned,
    "zero-filled twice": _zero_filled,
    "voxels twice too large": _scaled((2, 2, 2)),
    "voxels half too large": _scaled((0.5, 0.5, 0.5)),
    "one side twice too large": _scaled((1, 1, 2)),
    "phantom: ball": _phantom,
    "phantom: cylinder": _cylinder,
    "checkerboard": _checkerboard,
    "bias field, extreme": _biased,
    "JPEG": _jpeg,
    "ghosts": _ghosts,
    "motion": _moved,
    "spike in k-space": _spiked,
    "a label map": _labels,
    "cut to 8 voxels": _cut(8),
}

NEAR: Mapping[str, Case] = {"mirrored": _flipped("LR")}
