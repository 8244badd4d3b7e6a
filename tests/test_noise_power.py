"""Laws of the noise power spectrum: its integral is the variance, white noise is flat, a filter's transfer squared."""

import numpy as np
import pytest
from scipy import ndimage

from medidiff.errors import InputError, SettingsError
from medidiff.metrics.noise_power import noise_power
from medidiff.metrics.shells import hann

SHAPE, MM = (36, 30, 41), (0.8, 1.0, 1.25)
CELL = float(np.prod(MM))


def noise(seed, count=()):
    return np.random.default_rng(seed).normal(0, 3, (*count, *SHAPE))


@pytest.mark.parametrize("window", [None, hann(SHAPE), hann(SHAPE, taper=0.3)], ids=["all", "hann", "tapered"])
def test_the_integral_is_the_variance(window):
    """Exact, shell by shell, corners and 0 included: Parseval."""
    one, two = noise(0), ndimage.gaussian_filter(noise(1), 1) + 0.5
    weights = np.ones(SHAPE) if window is None else window
    difference = (one - two) / np.sqrt(2)
    measured = noise_power(one, two, spacing_mm=MM, window=window)
    variance = (weights**2 * difference**2).sum() / (weights**2).sum()
    assert measured.variance == pytest.approx(variance, rel=1e-10)
    assert measured.volumes.sum() == pytest.approx(1 / CELL)  # all frequencies of the grid, once
    sphere = measured.frequencies < 0.4  # the negative: shells up to Nyquist alone leave the corners out
    assert (measured.density * measured.volumes)[sphere].sum() < 0.9 * variance


def test_white_noise_is_flat_and_of_its_variance():
    measured = noise_power(noise(2, (12,)), noise(3, (12,)), spacing_mm=MM, window=hann(SHAPE))
    assert measured.density[:, 3:-1].mean(axis=0) == pytest.approx(9 * CELL, rel=0.1)
    assert measured.variance == pytest.approx(9, rel=0.1)
    whole = (measured.frequencies * measured.volumes).sum() / measured.volumes.sum()
    assert measured.mean_frequency == pytest.approx(whole, rel=0.03)


def test_a_filter_multiplies_it_by_its_transfer_squared():
    sigma = 1.1
    filters = [sigma / d for d in MM]
    one, two = ([ndimage.gaussian_filter(each, filters, mode="wrap") for each in noise(s, (6,))] for s in (4, 5))
    measured = noise_power(one, two, spacing_mm=MM)
    transfer = np.exp(-2 * (np.pi * sigma * measured.frequencies) ** 2)
    low = (measured.frequencies < 0.25) & (measured.frequencies > 0.05)
    assert measured.density.mean(axis=0)[low] == pytest.approx((9 * CELL * transfer**2)[low], rel=0.12)
    white = noise_power(noise(6), noise(7), spacing_mm=MM)
    assert (measured.mean_frequency < white.mean_frequency / 2).all()


def test_anatomy_that_both_share_is_no_noise():
    anatomy = 50 * ndimage.gaussian_filter(noise(8), 2)
    with_it = noise_power(noise(9) + anatomy, noise(10) + anatomy, spacing_mm=MM)
    without = noise_power(noise(9), noise(10), spacing_mm=MM)
    assert with_it.density == pytest.approx(without.density)
    unlike = noise_power(noise(9) + anatomy, noise(10) + np.roll(anatomy, 3, 0), spacing_mm=MM)  # the negative
    assert unlike.variance > 1.5 * without.variance
    nothing = noise_power(anatomy, anatomy, spacing_mm=MM)
    assert nothing.variance == 0
    assert nothing.mean_frequency == 0


def test_refusals():
    with pytest.raises(InputError, match="E-SHAPE"):
        noise_power(noise(0), noise(0)[1:], spacing_mm=MM)
    with pytest.raises(InputError, match="E-NONFINITE"):
        noise_power(noise(0) + np.inf, noise(0), spacing_mm=MM)
    with pytest.raises(InputError, match="E-MASK"):
        noise_power(noise(0), noise(0), spacing_mm=MM, window=-np.ones(SHAPE))
    with pytest.raises(SettingsError, match="E-SETTING"):
        noise_power(noise(0), noise(0), spacing_mm=(1, -1, 1))
    with pytest.raises(SettingsError, match="E-SETTING"):
        hann(SHAPE, taper=0)
