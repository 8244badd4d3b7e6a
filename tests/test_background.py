"""A background that was set to one value stays as it is, and values that were shifted below 0 are refused."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy import ndimage
from small_prior import small_prior

from medidiff.errors import InputError
from medidiff.prepare import blank_background, fit_intensity
from medidiff.prior import Prior
from medidiff.restore import denoise, superresolve
from medidiff.volume import Geometry, Volume

SHAPE = (36, 32, 20)
GRID = Geometry.regular(SHAPE, spacing_mm=(1.0, 1.2, 3.0))
BALL = sum(a**2 for a in np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij")) < 0.7
RNG = np.random.default_rng


@pytest.fixture(scope="module")
def prior() -> Prior:
    return small_prior()


def acquired(level: float = 40.0) -> np.ndarray:
    """A bright ball with a darker half, in Rician noise."""
    clean = BALL * (600.0 + 300 * (np.arange(SHAPE[0]) > 18)[:, None, None])
    rng = RNG(0)
    return np.hypot(clean + level * rng.standard_normal(SHAPE), level * rng.standard_normal(SHAPE))


def volume(image: np.ndarray, modality: str = "MR", **other) -> Volume:
    return Volume(np.asarray(image, np.float32), GRID, modality, **other)


def masked(value: float = 0.0) -> Volume:
    return volume(np.where(BALL, acquired(), value))


# ------------------------------------------------------------------------------------------------------- what is kept


@pytest.mark.parametrize("value", [0.0, 3.0])
def test_a_masked_background_comes_back_bit_for_bit_and_the_record_says_so(prior, value):
    scan = masked(value)
    answer = denoise(scan, prior=prior, noise_level=40.0, draws=2, keep_draws=1, steps=1, quantiles=(0.5,))
    blank = blank_background(scan, below=90.0)
    assert blank.mean() > 0.5
    assert not (blank & BALL).any()
    for each in (answer.mean, *answer.draws, answer.quantiles[0.5]):
        assert (each.data[0][blank] == value).all()
        assert (each.data[0][BALL] != scan.data[0][BALL]).any()
    assert (answer.std.data[0][blank] == 0).all()
    assert any("background of one value" in sentence for sentence in answer.provenance.decisions)


def test_without_a_mask_nothing_is_kept(prior):
    scan = volume(acquired())
    assert blank_background(scan, below=90.0) is None
    answer = denoise(scan, prior=prior, noise_level=40.0)
    assert not any("background" in sentence for sentence in answer.provenance.decisions)
    assert (answer.mean.data != scan.data).mean() > 0.99


@pytest.mark.parametrize("axis", [0, 2])
def test_a_thick_slice_beside_tissue_leaves_open_where_tissue_ends(prior, axis):
    scan = masked()
    spacing = list(GRID.spacing_mm)
    spacing[axis] /= 2
    answer = superresolve(scan, spacing, prior=prior, noise_level=40.0, draws=2, steps=1)
    corner, data = (slice(0, 3),) * 3, answer.mean.data[0]
    assert (data[corner] == 0).all()
    assert (answer.std.data[0][corner] == 0).all()
    near = ndimage.binary_dilation(BALL) & ~BALL
    fine = np.repeat(near, 2, axis=axis)
    assert (data[fine] != 0).mean() > 0.9


@pytest.mark.parametrize("change", ["bright", "few", "lines"])
def test_what_is_no_background_is_none(change):
    """Tissue that is clipped at the top, a few dark voxels, and dark lines one voxel wide."""
    image = acquired()
    if change == "bright":
        image = np.where(BALL, 2000.0, image)
    elif change == "few":
        image[10:13, 10:13, 10:12] = 0
    else:
        image[::4] = 0
    assert blank_background(volume(image), below=90.0) is None


def test_padding_is_no_blank_background_and_its_value_says_nothing():
    scan = masked()
    corner = np.zeros(SHAPE, bool)
    corner[:6] = True
    found = []
    for value in (-5.0, 0.0, 4000.0):
        data = scan.data.copy()
        data[0, corner] = value
        found.append(blank_background(dataclasses.replace(scan, data=data, padding=corner), below=90.0))
    assert not found[0][corner].any()
    assert all(np.array_equal(found[0], each) for each in found)


def test_air_of_a_ct_that_was_cut_off_stays():
    prior = small_prior("CT")
    scan = volume(np.where(BALL, acquired() - 600, -1000.0), "CT")
    answer = denoise(scan, prior=prior, noise_level=40.0).mean.data
    assert (answer[:, :3, :3, :3] == -1000).all()


# ---------------------------------------------------------------------------------------------------- what is refused


SHIFTED = {
    "z-score": lambda x: (x - x.mean()) / x.std(),
    "z-score in a mask": lambda x: np.where(BALL, (x - x[BALL].mean()) / x[BALL].std(), 0.0),
    "-1 to 1": lambda x: 2 * (x - x.min()) / np.ptp(x) - 1,
    "mean taken off": lambda x: x - x.mean(),
    "a sign": lambda x: np.where(np.arange(SHAPE[0])[:, None, None] > 18, x, -x),
}


@pytest.mark.parametrize("how", SHIFTED)
def test_values_that_were_shifted_below_0_are_refused(prior, how):
    scan = volume(SHIFTED[how](acquired()))
    with pytest.raises(InputError, match="E-SCALE") as refused:
        denoise(scan, prior=prior)
    assert "z-score" in str(refused.value)  # what may have been done, and what mends it
    back = scan.with_data(scan.data - scan.data.min())
    assert denoise(back, prior=prior).mean.data.shape == scan.data.shape


def test_a_ct_that_does_not_say_so_is_told_how_to_say_it():
    hounsfield = volume(np.where(BALL, acquired() - 600, -1000.0 + RNG(2).normal(0, 20, SHAPE)), "OT")
    with pytest.raises(InputError, match=r"E-SCALE.*looks like a CT: a JSON file beside the scan"):
        fit_intensity(hounsfield)


@pytest.mark.parametrize("level", [20.0, 200.0])
def test_real_values_with_noise_about_0_and_what_a_resampling_leaves_are_not(level):
    real = BALL * 800.0 + level * RNG(1).standard_normal(SHAPE)
    assert real.min() < 0
    assert fit_intensity(volume(real)).offset == 0
    turned = ndimage.rotate(BALL * 800.0, 20, reshape=False, order=3)
    assert turned.min() < -50
    assert fit_intensity(volume(turned)).offset == 0


def test_a_ct_has_a_scale_of_its_own():
    assert fit_intensity(volume(acquired() - 1000, "CT")).offset == -1024
