"""The attack's denoised scans: filters of all kinds on scans as they are and after noise; see `attack_scans.py`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from attack_scans import Array, Case, Scan, chosen, level, random, rician, rim
from scipy import fft, ndimage

__all__ = ["denoised"]

Named = Iterator[tuple[str, Array]]

_PEOPLE = ("brain 2", "head 1", "clinical 2, study 2", "resampled 1")
_UNITS = 500  # of what has the brightest tissue at 1


def denoised(data: Path, asked: Sequence[str] | None) -> Iterator[Case]:
    """Every filter on each person's head, the air about it cut off; the slow ones not on the resampled scan."""
    for person, whole in chosen(data, _PEOPLE, asked):
        low, high = rim(whole.image, 0.15)
        scan = whole.cut(np.maximum(low - 3, 0), np.minimum(high + 3, whole.image.shape))
        clean, axis, slow = scan.image / level(scan.image), scan.axis("S"), person.name != "resampled 1"
        for words, percent in (("clean", 0), ("+7%", 7)):
            image = rician(clean, percent, random(person.seed, 6)) if percent else clean
            sigma = _sigma(image, axis, percent)
            for case, made in _quick(image, sigma, cube=slow):
                yield "denoised", f"{case} [{words}]", person.name, _in_units(scan.showing(made))
            if not slow:
                continue
            for case, made in _means(image, sigma, axis, noisy=percent > 0):
                yield "denoised", f"{case} [{words}]", person.name, _in_units(scan.showing(made))
            planes = _bilateral(scan.showing(image), sigma, axis)
            yield "denoised", f"bilateral [{words}]", person.name, _in_units(planes)


def _in_units(scan: Scan) -> Scan:
    return scan.showing(np.asarray(scan.image, np.float32) * _UNITS)


def _sigma(image: Array, axis: int, percent: float) -> float:
    """The noise that a filter is told of: what was added, or more where the middle plane says so."""
    from skimage.restoration import estimate_sigma

    plane = np.ascontiguousarray(np.moveaxis(image, axis, 0)[image.shape[axis] // 2])
    return max(percent / 100, float(estimate_sigma(plane)), 0.01)


def _quick(image: Array, sigma: float, *, cube: bool) -> Named:
    import SimpleITK as itk
    from skimage.restoration import denoise_tv_bregman, denoise_tv_chambolle, denoise_wavelet

    for width in (0.5, 0.7, 1.0, 1.5):
        yield f"gaussian {width}", ndimage.gaussian_filter(image, width)
    yield "median 3", ndimage.median_filter(image, 3 if cube else (3, 3, 1))
    for share in (0.7, 2):
        made = denoise_tv_chambolle(image, weight=share * sigma, max_num_iter=40)
        yield f"tv chambolle {share}sg", made
    yield "wavelet bayes", denoise_wavelet(image, method="BayesShrink", rescale_sigma=True)
    yield "wavelet visu", denoise_wavelet(image, method="VisuShrink", sigma=sigma / 2, rescale_sigma=True)
    yield "bregman", denoise_tv_bregman(image, weight=1 / (2 * sigma), max_num_iter=20)
    yield "wiener 3", _wiener(image, sigma)
    yield "dct hard 2.7", _cosines(image, 2.7 * sigma)
    for name, diffused, conductance in (
        ("curvature", itk.CurvatureAnisotropicDiffusion, 3.0),
        ("gradient", itk.GradientAnisotropicDiffusion, 1.0),
    ):
        scan = itk.GetImageFromArray(image)
        smooth = diffused(scan, timeStep=0.06, conductanceParameter=conductance, numberOfIterations=5)
        yield f"itk {name} anisotropic", itk.GetArrayFromImage(smooth)


def _means(image: Array, sigma: float, axis: int, *, noisy: bool) -> Named:
    """Non-local means in three dimensions and in planes, by two libraries."""
    from dipy.denoise.nlmeans import nlmeans
    from skimage.restoration import denoise_nl_means

    cubes = {"patch_size": 3, "patch_distance": 2, "fast_mode": True}
    yield "nlm 3d h0.6 d2", denoise_nl_means(image, h=0.6 * sigma, sigma=sigma, **cubes)
    yield "nlm 3d h1 d2", denoise_nl_means(image, h=sigma, sigma=0.0, **cubes)
    flat = {"patch_size": 5, "patch_distance": 5, "fast_mode": True}
    planes = [denoise_nl_means(plane, h=0.8 * sigma, sigma=sigma, **flat) for plane in np.moveaxis(image, axis, 0)]
    yield "nlm 2d h0.8 p5 d5", np.moveaxis(np.stack(planes), 0, axis)
    double, blocks = image.astype(np.float64), {"patch_radius": 1, "block_radius": 2, "num_threads": 1}
    yield "dipy nlmeans", nlmeans(double, sigma=sigma, rician=noisy, **blocks)
    yield "dipy nlmeans half", nlmeans(double, sigma=sigma / 2, rician=False, **blocks)


def _bilateral(scan: Scan, sigma: float, axis: int) -> Scan:
    """At most forty planes from the middle, each by itself."""
    from skimage.restoration import denoise_bilateral

    count = scan.image.shape[axis]
    low, high = (count // 2 - 20, count // 2 + 20) if count > 60 else (0, count)
    part = scan.between(axis, low, high)
    planes = [
        denoise_bilateral(np.clip(plane, 0, None), sigma_color=2 * sigma, sigma_spatial=1.5, win_size=5)
        if plane.max() > 0
        else plane
        for plane in np.moveaxis(part.image, axis, 0)
    ]
    return part.showing(np.moveaxis(np.stack(planes), 0, axis))


def _wiener(image: Array, sigma: float) -> Array:
    """Local mean and variance over 3 x 3 x 3 voxels."""
    mean = ndimage.uniform_filter(image, 3)
    power = np.maximum(ndimage.uniform_filter(image * image, 3) - mean * mean, 1e-12)
    made: Array = mean + np.maximum(power - sigma * sigma, 0) / np.maximum(power, sigma * sigma) * (image - mean)
    return made


def _cosines(image: Array, threshold: float) -> Array:
    """Hard thresholds on the cosines of blocks of 4 x 4 x 4 voxels, the mean of four ways to lay the blocks."""
    total, padded = np.zeros_like(image), np.pad(image, 4, mode="edge")
    for shift in ((0, 0, 0), (2, 1, 3), (1, 3, 2), (3, 2, 1)):
        moved = padded[tuple(slice(n, None) for n in shift)]
        a, b, c = (n // 4 for n in moved.shape)
        blocks = moved[: 4 * a, : 4 * b, : 4 * c].reshape(a, 4, b, 4, c, 4)
        cosines = fft.dctn(blocks, axes=(1, 3, 5), norm="ortho")
        cosines[np.abs(cosines) < threshold] = 0
        whole = fft.idctn(cosines, axes=(1, 3, 5), norm="ortho").reshape(4 * a, 4 * b, 4 * c)
        total += whole[tuple(slice(4 - n, 4 - n + size) for n, size in zip(shift, image.shape, strict=True))]
    return total / 4
