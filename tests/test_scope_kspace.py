"""What the spectrum of a scan shows: where k-space ends, and points that stand out; no alarm about a sound scan."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import fft, ndimage

from medidiff.trust.coarse import coarse
from medidiff.trust.kspace import kspace_traits
from medidiff.volume import Geometry, Volume
from tests.scope_heads import brain, shipped

SIDES = (96, 104, 88)


def scan(image: np.ndarray, sides_mm=(1.0, 1.0, 1.0)) -> Volume:
    return Volume(np.ascontiguousarray(image, np.float32), Geometry.regular(image.shape, spacing_mm=sides_mm), "MR")


def read(image: np.ndarray, sides_mm=(1.0, 1.0, 1.0)) -> dict[str, float | None]:
    return kspace_traits(coarse(scan(image, sides_mm)))


@pytest.fixture(scope="module")
def texture() -> np.ndarray:
    """A ball of tissue with detail at every scale, its power falling as one over the square of the frequency."""
    rng = np.random.default_rng(1)
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in SIDES), indexing="ij")
    f = np.sqrt(sum(each**2 for each in np.meshgrid(*(np.fft.fftfreq(n) for n in SIDES), indexing="ij")))
    detail = np.real(fft.ifftn(fft.fftn(rng.standard_normal(SIDES)) / np.maximum(f, 0.02)))
    inside = x * x + y * y + z * z < 0.8
    return np.where(inside, 800 + 60 * detail / detail.std(), 0.0)


def noisy(image: np.ndarray, level: float = 20.0) -> np.ndarray:
    rng = np.random.default_rng(2)
    real, other = (level * rng.standard_normal(image.shape) for _ in range(2))
    return np.hypot(image + real, other)


def filled(image: np.ndarray, *shares: float) -> np.ndarray:
    """K-space kept up to a share of its extent along each axis, empty beyond."""
    spectrum = fft.fftn(image)
    for axis, share in enumerate(shares):
        np.moveaxis(spectrum, axis, 0)[np.abs(fft.fftfreq(image.shape[axis])) > share / 2] = 0
    return np.abs(fft.ifftn(spectrum))


def striped(image: np.ndarray, height: float, *turns: float) -> np.ndarray:
    wave = sum(turn * each for turn, each in zip(turns, np.indices(image.shape), strict=True))
    return np.abs(image + height * np.cos(2 * np.pi * wave))


@pytest.fixture(scope="module")
def limits():
    return shipped().limits


# --- where k-space ends -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shares", [(0.5, 0.5, 0.5), (0.5, 0.5, 1), (0.7, 1, 0.7), (1, 0.35, 0.35)], ids=str)
def test_an_empty_outer_k_space_is_seen_wherever_it_begins(shares, texture, limits):
    assert limits["cliff"].distance(read(filled(noisy(texture), *shares))["cliff"]) > 1


@pytest.mark.parametrize("shares", [(1, 1, 1), (0.5, 1, 1), (1, 1, 0.6)], ids=str)
def test_a_whole_k_space_and_one_short_axis_are_not(shares, texture, limits):
    """One axis alone, as partial Fourier and slice interpolation leave it: the training site's own scans have that."""
    assert limits["cliff"].distance(read(filled(noisy(texture), *shares))["cliff"]) < 0.8


@pytest.mark.parametrize("level", [5.0, 60.0])
def test_neither_detail_nor_noise_is_an_edge(level, texture, limits):
    assert limits["cliff"].distance(read(noisy(texture, level))["cliff"]) < 0.6


def test_noise_that_came_later_hides_the_edge(texture):
    """The negative: it is the empty part that is seen, so filling it with noise leaves little of the drop."""
    empty = filled(noisy(texture), 0.5, 0.5, 0.5)
    assert read(noisy(empty, 20.0))["cliff"] < read(empty)["cliff"] - 0.5


def test_thick_slices_are_judged_by_their_planes(texture, limits):
    thick = noisy(texture).reshape(*SIDES[:2], 22, 4).mean(-1)
    assert limits["cliff"].distance(read(thick, (1, 1, 4))["cliff"]) < 0.8
    assert limits["cliff"].distance(read(filled(thick, 0.5, 0.5, 1), (1, 1, 4))["cliff"]) > 1


# --- points that stand out --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("turns", [(0.2, 0.11, 0.31), (0.0, 0.23, 0.17), (0.27, 0.0, 0.0), (0.45, -0.4, 0.1)], ids=str)
def test_a_spike_is_seen_at_the_height_of_the_noise(turns, texture, limits):
    found = read(noisy(striped(texture, 40, *turns)))
    assert limits["spike"].distance(found["spike"]) > 1
    assert limits["cliff"].distance(found["cliff"]) < 0.8  # stripes are no edge


@pytest.mark.parametrize("shares", [(1, 1, 1), (0.5, 0.5, 0.5)], ids=str)
def test_a_scan_without_one_and_a_zero_filled_one_show_none(shares, texture, limits):
    assert limits["spike"].distance(read(filled(noisy(texture), *shares))["spike"]) < 0.8


@pytest.mark.parametrize("every", [2, 3])
def test_interleaved_slices_of_other_brightness_are_none(every, texture, limits):
    odd = texture.copy()
    odd[..., ::every] *= 0.93
    assert limits["spike"].distance(read(noisy(odd))["spike"]) < 1


def test_a_ripple_of_many_frequencies_is_none(texture, limits):
    """The negative: the same power as a spike's, spread over a band, is texture."""
    band = ndimage.gaussian_filter(np.random.default_rng(3).standard_normal(SIDES), 0.6)
    assert limits["spike"].distance(read(noisy(texture + 40 * band / band.std() / np.sqrt(2)))["spike"]) < 0.8


# --- what cannot be read ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 1, 1), (15, 15, 15), (200, 10, 9), (64, 64, 1)], ids=str)
def test_a_scan_of_few_voxels_shows_neither(shape):
    assert read(np.random.default_rng(0).uniform(1, 2, shape)) == {"cliff": None, "spike": None}


def test_a_scan_of_little_tissue_shows_no_edge():
    image = np.zeros((48, 48, 48))
    image[14:34, 14:34, 14:34] = 900
    assert read(noisy(image))["cliff"] is None


def test_both_are_read_at_any_brightness():
    head = brain()
    one, two = (kspace_traits(coarse(head.with_data(head.data * np.float32(gain)))) for gain in (1.0, 3e-4))
    assert one == pytest.approx(two, abs=1e-3)
