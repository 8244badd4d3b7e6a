"""Padding and filled voxels: no statistic sees them, no answer depends on them, and they come back as they were."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from small_prior import small_prior

from medidiff.anatomy import foreground
from medidiff.errors import InputError
from medidiff.physics.estimate import estimate_noise, estimate_noise_map
from medidiff.prepare import fit_intensity, put_back, readable, without_padding
from medidiff.prior import Prior
from medidiff.restore import denoise, superresolve
from medidiff.volume import Geometry, Volume

SHAPE = (30, 26, 18)


@pytest.fixture(scope="module")
def prior() -> Prior:
    return small_prior()


def corner() -> np.ndarray:
    mask = np.zeros(SHAPE, bool)
    mask[:5, :, :] = mask[:, :4, 10:] = True
    return mask


def head(value: float, *, modality: str = "MR", filled=None) -> Volume:
    """A noisy ball with `value` where the scanner measured nothing."""
    rng = np.random.default_rng(0)
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
    ball = (sum(a**2 for a in axes) < 0.8) * (600 + 300 * (axes[0] > 0))
    data = np.hypot(ball + 40 * rng.standard_normal(SHAPE), 40 * rng.standard_normal(SHAPE))
    data[corner()] = value
    if filled is not None:
        data[filled] = 12345.0
    geometry = Geometry.regular(SHAPE, spacing_mm=(1.0, 1.2, 3.0))
    return Volume(data.astype(np.float32), geometry, modality, padding=corner(), filled=filled)


@pytest.mark.parametrize("value", [-2000.0, 0.0, 65535.0])
@pytest.mark.parametrize("modality", ["MR", "CT"])
def test_the_value_of_padding_changes_no_other_voxel(value, modality):
    prior = small_prior(modality)
    first = denoise(head(-1.0, modality=modality), prior=prior, draws=2, steps=1, noise_level=40.0)
    other = denoise(head(value, modality=modality), prior=prior, draws=2, keep_draws=2, steps=1, noise_level=40.0)
    assert np.array_equal(first.mean.data[:, ~corner()], other.mean.data[:, ~corner()])
    assert (other.mean.data[:, corner()] == value).all()
    assert np.array_equal(other.mean.padding, corner())
    assert all((draw.data[:, corner()] == value).all() for draw in other.draws)
    assert (other.std.data[:, corner()] == 0).all()
    assert np.array_equal(first.std.data, other.std.data)


def test_padding_that_nobody_marked_would_change_the_result(prior):
    marked = denoise(head(65535.0), prior=prior)
    bare = denoise(dataclasses.replace(head(65535.0), padding=None), prior=prior)
    assert not np.allclose(marked.mean.data[:, ~corner()], bare.mean.data[:, ~corner()], rtol=0.01)


def test_a_scan_that_is_constant_but_for_its_padding_is_passed_through(prior):
    scan = head(-2000.0)
    flat = scan.with_data(np.where(corner(), -2000.0, 5.0))
    clean = denoise(flat, prior=prior)
    assert np.array_equal(clean.mean.data, flat.data)
    assert np.array_equal(clean.mean.padding, corner())


def test_a_finer_grid_takes_padding_from_the_nearest_voxel(prior):
    scan = head(-2000.0)
    fine = superresolve(scan, (1.0, 1.2, 1.0), prior=prior).mean
    assert fine.shape == (30, 26, 54)
    assert np.array_equal(fine.padding, corner().repeat(3, axis=2))
    assert (fine.data[:, fine.padding] == -2000).all()


def test_filled_voxels_have_no_say(prior):
    slab = np.zeros(SHAPE, bool)
    slab[:, :, 8] = True
    scan = head(0.0, filled=slab)
    plain = head(0.0)
    assert fit_intensity(scan).gain == pytest.approx(fit_intensity(plain).gain, rel=0.01)
    bare = dataclasses.replace(scan, filled=None)
    assert fit_intensity(bare).gain > 2 * fit_intensity(plain).gain
    assert np.array_equal(denoise(scan, prior=prior).mean.filled, slab)


def test_noise_is_not_read_near_what_was_never_measured():
    rng = np.random.default_rng(0)
    smooth = np.hypot(700 + 40 * rng.standard_normal(SHAPE), 40 * rng.standard_normal(SHAPE)).astype(np.float32)
    smooth[corner()] = 0
    smooth[:, :, :9] = 700.0 + np.linspace(0, 50, 9)  # a repair's interpolation: no noise in it
    filled = np.zeros(SHAPE, bool)
    filled[:, :, :9] = True
    measured = ~filled & ~corner()
    level = estimate_noise(smooth, measured=measured)
    assert level == pytest.approx(40, rel=0.2)
    assert estimate_noise(smooth) < 0.7 * level
    levels = estimate_noise_map(smooth, measured=measured)
    assert float(levels.median()) == pytest.approx(40, rel=0.3)
    for function in (estimate_noise, estimate_noise_map):
        with pytest.raises(InputError, match="E-MASK"):
            function(smooth, measured=measured[:-1])


def test_tissue_is_found_without_the_help_of_what_is_no_measurement():
    scan = head(0.0)
    bright = np.where(corner(), 60000.0, scan.data[0])
    with pytest.raises(InputError, match="E-MASK"):
        foreground(bright, measured=np.zeros(SHAPE, bool))
    image = without_padding(head(60000.0))[0]
    assert np.array_equal(
        foreground(image, measured=~corner()), foreground(without_padding(scan)[0], measured=~corner())
    )


def test_where_statistics_are_read():
    plain = dataclasses.replace(head(0.0), padding=None)
    assert readable(plain) is None
    assert without_padding(plain) is plain.data
    assert np.array_equal(readable(head(0.0)), ~corner())
    everything = dataclasses.replace(head(0.0), filled=np.ones(SHAPE, bool))
    assert np.array_equal(readable(everything), ~corner())
    nothing = dataclasses.replace(plain, padding=np.ones(SHAPE, bool))
    assert readable(nothing) is None
    assert put_back(plain, plain) is plain
