"""What denoising must not do is seen where it is done: each measure on a case whose answer is known."""

import importlib
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

FOLDER = Path(__file__).resolve().parent.parent / "validation"
SHAPE = (32, 30, 34)
MASK = np.ones(SHAPE, dtype=bool)


@pytest.fixture
def command(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("harm")


@pytest.fixture
def noise():
    return np.random.default_rng(0).normal(0, 1, SHAPE).astype(np.float32)


@pytest.mark.parametrize("frequency", [0.125, 0.25])
def test_the_transfer_of_a_blur_is_its_mtf(command, frequency):
    wave = command.wave(SHAPE, frequency)
    inner = ndimage.binary_erosion(MASK, iterations=6)
    assert command.transferred(wave, wave, inner) == pytest.approx(1)
    blurred = ndimage.gaussian_filter(wave, 1.0)
    wanted = np.exp(-2 * (np.pi * frequency) ** 2)  # of a Gaussian of 1 voxel; oblique, so along no axis in particular
    assert command.transferred(blurred, wave, inner) == pytest.approx(wanted, rel=0.02)


def test_the_largest_change_of_a_region_is_found(command, noise):
    before = 100 + noise
    after = before.copy()
    after[4:18, 4:18, 4:18] += 3
    assert command.region_change(after, before, MASK) == pytest.approx(3, rel=0.02)
    assert command.region_change(before, before, MASK) == 0


def test_white_noise_has_no_neighbours_and_blurred_noise_has(command, noise):
    assert abs(command.neighbour_correlation(noise, MASK)) < 0.03
    assert command.neighbour_correlation(ndimage.gaussian_filter(noise, (0, 1, 0)), MASK) > 0.6


def test_detail_that_was_removed_is_seen(command, noise):
    scan = ndimage.gaussian_filter(noise, 1.5) * 10
    detail = ndimage.gaussian_laplace(scan, 1.0)
    other = np.random.default_rng(1).normal(0, 1, SHAPE)
    assert abs(command.detail_correlation(other, scan, MASK)) < 0.03
    assert command.detail_correlation(other + detail, scan, MASK) > 0.2


@pytest.mark.parametrize("broken", [["--levels", "-1"], ["--amplitude", "0"], ["--prior", "none"]], ids=" ".join)
def test_broken_settings_are_refused(command, broken, capsys):
    assert command.main(broken) == 2
    assert capsys.readouterr().err.startswith("E-SETTING")
