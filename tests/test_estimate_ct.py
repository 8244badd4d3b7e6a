"""The noise of a CT is correlated: its level is found whatever the kernel, which a white-noise estimate cannot."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage
from small_prior import small_prior

from medidiff.errors import InputError
from medidiff.physics.estimate import estimate_noise
from medidiff.physics.estimate_ct import axial_slices, estimate_noise_ct
from medidiff.physics.lowdose import Beam, projection_noise, projections, reconstructed
from medidiff.restore import denoise
from medidiff.volume import Geometry, Volume

SIDE_MM, SHAPE, SLICES = 1.5, (96, 96), 8
KERNELS = ["ramp", "cosine", "hann"]


@functools.cache
def chest() -> NDArray[np.float64]:
    """Muscle with lungs, fat and vessels in air."""
    rng = np.random.default_rng(0)
    x, y = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
    body = np.where((x / 0.95) ** 2 + (y / 0.8) ** 2 < 1, -100.0, -1000.0)
    body[(x / 0.88) ** 2 + (y / 0.73) ** 2 < 1] = 50.0
    body[(((np.abs(x) - 0.4) / 0.25) ** 2 + (y / 0.4) ** 2) < 1] = -850.0
    texture = ndimage.gaussian_filter(rng.normal(size=SHAPE), 4)
    body[(body > 0) & (texture > 2 * texture.std())] = 110.0
    return ndimage.gaussian_filter(body, 0.5)


@functools.cache
def noise(window: str, photons: float = 4e5) -> NDArray[np.float64]:
    beam = Beam(photons=photons, views=120, window=window)  # type: ignore[arg-type]
    lines = [projections(chest(), SIDE_MM, beam)] * SLICES
    return np.stack(
        [reconstructed(n, SHAPE, SIDE_MM, beam) for n in projection_noise(lines, 0.1, seed=1, beam=beam)], -1
    )


def soft() -> NDArray[np.bool_]:
    return ndimage.binary_erosion((chest() > 20) & (chest() < 80), iterations=3)


def seen(window: str, photons: float = 4e5) -> NDArray[np.float64]:
    return chest()[..., None] + noise(window, photons)


def error(found: float, window: str, photons: float = 4e5) -> float:
    return abs(found / float(noise(window, photons)[soft()].std()) - 1)


@pytest.mark.parametrize("photons", [1e5, 1e6])
@pytest.mark.parametrize("window", KERNELS)
def test_the_level_is_found_whatever_the_kernel(window: str, photons: float) -> None:
    assert error(estimate_noise_ct(seen(window, photons), side_mm=SIDE_MM), window, photons) < 0.2


@pytest.mark.parametrize("window", KERNELS[1:])
def test_an_estimate_that_takes_it_for_white_does_not(window: str) -> None:
    assert error(estimate_noise(seen(window), kind="gaussian"), window) > 0.3


def test_no_noise_is_little_or_none() -> None:
    assert estimate_noise_ct(np.full((64, 64, 2), 50.0), side_mm=SIDE_MM) == 0.0
    assert estimate_noise_ct(np.repeat(chest()[..., None], 2, -1), side_mm=SIDE_MM) < 2.0


def test_what_was_not_measured_has_no_say() -> None:
    measured = np.ones((*SHAPE, SLICES), dtype=bool)
    measured[:48] = False
    spoilt = np.where(measured, seen("cosine"), 50.0)
    with_mask = estimate_noise_ct(spoilt, side_mm=SIDE_MM, measured=measured)
    assert error(with_mask, "cosine") < 0.2
    assert error(estimate_noise_ct(spoilt, side_mm=SIDE_MM), "cosine") > 0.5


def test_too_little_soft_tissue_is_refused_and_names_the_option() -> None:
    with pytest.raises(InputError, match="--noise-level") as caught:
        estimate_noise_ct(np.full((*SHAPE, 2), -900.0), side_mm=SIDE_MM)
    assert caught.value.code == "E-NOISELEVEL"


def test_slices_are_found_along_any_axis() -> None:
    upright = Geometry.regular((8, 9, 4), spacing_mm=(1, 1.1, 3))
    lying = Geometry((4, 8, 9), upright.affine[:, [2, 0, 1, 3]])
    assert axial_slices(upright) == (2, (1.0, 1.1))
    assert axial_slices(lying) == (0, (1.0, 1.1))


def test_restoration_takes_the_level_of_the_kind_of_scan() -> None:
    data = seen("cosine").astype(np.float32)
    geometry = Geometry.regular(data.shape, spacing_mm=(SIDE_MM, SIDE_MM, 3))
    levels = {}
    for modality, noise_kind, shift in (("CT", None, 0), ("MR", "gaussian", 1100)):  # no MR lies below 0
        answer = denoise(Volume(data + shift, geometry, modality), prior=small_prior(modality), noise=noise_kind)
        levels[modality] = answer.provenance.settings["noise_level"]
    assert error(levels["CT"], "cosine") < 0.2
    assert error(levels["MR"], "cosine") > 0.3
