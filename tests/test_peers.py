"""The classical yardsticks: each does what it is there for, and what it could not do well it refuses."""

from __future__ import annotations

import numpy as np
import pytest

from medidiff.errors import InputError, SettingsError
from medidiff.metrics.peers import best_gaussian, cubic_spline, gaussian, nonlocal_means, unbiased

SHAPE = (24, 24, 20)
LEVEL = 0.1


def steps() -> np.ndarray:
    """Two flat halves and a smooth ramp, in tissue units."""
    i, j, _ = np.indices(SHAPE)
    return (0.4 + 0.4 * (i >= 12) + 0.1 * j / SHAPE[1]).astype(np.float32)


def rician(image: np.ndarray, level: float) -> np.ndarray:
    rng = np.random.default_rng(7)
    real, imaginary = level * rng.standard_normal((2, *image.shape))
    return np.hypot(image + real, imaginary).astype(np.float32)


def error(image: np.ndarray, truth: np.ndarray) -> float:
    return float(np.sqrt(np.square(image - truth).mean()))


def test_both_filters_remove_noise_and_nonlocal_means_keeps_edges():
    truth = steps()
    noisy = rician(truth, LEVEL)
    smooth, width = best_gaussian(noisy, truth, mask=np.ones(SHAPE, bool), level=LEVEL)
    means = nonlocal_means(noisy, level=LEVEL, rician=True)
    assert error(smooth, truth) < 0.6 * error(noisy, truth)
    assert error(means, truth) < error(smooth, truth)
    assert 0.3 <= width <= 1.5


def test_the_best_gaussian_is_no_worse_than_any_other_width():
    truth = steps()
    noisy = rician(truth, LEVEL)
    mask = np.zeros(SHAPE, bool)
    mask[8:16, 4:20, 4:16] = True
    best, _ = best_gaussian(noisy, truth, mask=mask)
    for width in (0.3, 0.6, 0.9, 1.5):
        assert error(best[mask], truth[mask]) <= error(gaussian(noisy, width_voxels=width)[mask], truth[mask]) + 1e-6


def test_the_rician_bias_goes():
    truth = np.full((40, 40, 40), 0.3, np.float32)
    noisy = gaussian(rician(truth, LEVEL), width_voxels=3.0)
    assert abs(float(unbiased(noisy, level=LEVEL).mean()) - 0.3) < 0.2 * abs(float(noisy.mean()) - 0.3)
    assert np.array_equal(unbiased(noisy, level=0.0), noisy)


def test_the_spline_is_exact_on_a_parabola_away_from_the_ends():
    index = np.diag((1.0, 1.0, 1 / 3, 1.0))
    index[2, 3] = -1 / 3  # the fine grid's first voxel lies a third of a coarse voxel before the coarse grid's
    where = np.arange(60) / 3 - 1 / 3
    curve = np.broadcast_to((np.arange(20.0) - 9) ** 2, (4, 4, 20))
    fine = cubic_spline(curve, index, shape=(4, 4, 60))
    inner = slice(18, 42)
    np.testing.assert_allclose(fine[2, 2, inner], (where[inner] - 9) ** 2, atol=0.02)
    nearest = curve[2, 2, np.clip(np.round(where).astype(int), 0, 19)]
    assert np.abs(nearest[inner] - (where[inner] - 9) ** 2).max() > 0.5  # what would not pass


def test_broken_settings_are_refused():
    image = steps()
    with pytest.raises(SettingsError, match="width"):
        gaussian(image, width_voxels=0.0)
    with pytest.raises(SettingsError, match="level"):
        nonlocal_means(image, level=float("nan"), rician=False)
    with pytest.raises(InputError, match="E-SHAPE"):
        best_gaussian(image, image[:-1], mask=np.ones(SHAPE, bool))
    with pytest.raises(InputError, match="finite"):
        gaussian(np.full(SHAPE, np.nan), width_voxels=1.0)
    turned = np.eye(4)
    turned[:2, :2] = ((0.8, -0.6), (0.6, 0.8))
    with pytest.raises(InputError, match="parallel"):
        cubic_spline(image, turned, shape=SHAPE)
