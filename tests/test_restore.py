"""Laws of restoration, on a small untrained prior: they hold whatever the weights."""

from __future__ import annotations

import dataclasses
import hashlib

import numpy as np
import pytest
import torch
from small_prior import CARD, small_prior

import medidiff.restore as restoration
from medidiff.errors import InputError, PriorError, SettingsError
from medidiff.physics.seeing import seen_through
from medidiff.prepare import IntensityScale
from medidiff.prior import Prior, build_denoiser
from medidiff.restore import Settings, denoise, superresolve
from medidiff.volume import Geometry, Provenance, Volume


@pytest.fixture(scope="module")
def prior() -> Prior:
    return small_prior()


def head(shape=(30, 26, 18), spacing=(1.0, 1.2, 3.0)) -> Volume:
    """A ball in noise; of fewer than four slices those in the middle of one."""
    rng = np.random.default_rng(0)
    axes = np.meshgrid(*(np.linspace(-1, 1, n) if n > 3 else np.linspace(-0.1, 0.1, n) for n in shape), indexing="ij")
    ball = (sum(a**2 for a in axes) < 0.8) * (600 + 300 * (axes[0] > 0))
    noisy = np.hypot(ball + 40 * rng.standard_normal(shape), 40 * rng.standard_normal(shape))
    affine = np.diag((-spacing[0], *spacing[1:], 1.0))
    affine[:3, 3] = (12.25, -3.5, 40.0)
    return Volume(noisy.astype(np.float32), Geometry(shape, affine), "MR")


def test_denoising_keeps_grid_and_units(prior) -> None:
    scan = head()
    clean = denoise(scan, prior=prior)
    assert clean.mean.geometry == scan.geometry
    assert (clean.mean.modality, clean.std, clean.draws) == ("MR", None, ())
    assert 0.5 < float(clean.mean.data.mean() / scan.data.mean()) < 2.0


@pytest.mark.parametrize("shape", [(64, 64, 2), (64, 2, 64), (2, 64, 64), (33, 31, 3)])
def test_a_scan_of_few_slices_is_denoised_and_brought_to_a_finer_grid(prior, shape) -> None:
    scan = head(shape)
    clean = denoise(scan, prior=prior, noise_level=30.0, draws=2, steps=1)
    assert clean.mean.geometry == scan.geometry
    assert 0.5 < float(clean.mean.data.mean() / scan.data.mean()) < 2.0
    sharp = superresolve(scan, (1, 1.2, 1), prior=prior, noise_level=30.0).mean
    assert sharp.geometry == scan.geometry.with_spacing((1, 1.2, 1))
    assert np.isfinite(sharp.data).all()


def test_superresolution_covers_the_scan_on_the_target_grid(prior) -> None:
    scan = head()
    sharp = superresolve(scan, (1, 1, 1), prior=prior, noise_level=30.0).mean
    assert sharp.geometry == scan.geometry.with_spacing((1, 1, 1))


@pytest.mark.parametrize("spacing", [(1, 1.2, 1), (1, 1.2, 0.9), (0.7, 0.7, 0.7)])
def test_superresolution_agrees_with_what_was_measured(prior, spacing) -> None:
    scan, level = head(), 5.0
    sharp = superresolve(scan, spacing, prior=prior, noise_level=level).mean
    again = seen_through(sharp.geometry, scan.geometry)(torch.from_numpy(np.array(sharp.data)).double())
    rms = float((again - torch.from_numpy(np.array(scan.data))).square().mean().sqrt())
    assert rms <= level * 1.001


def test_superresolution_agrees_also_below_the_noise_that_the_prior_has_practised(prior) -> None:
    scan, level = head(), 0.3  # of tissue at 900, where the prior begins at 0.4 %
    restored = superresolve(scan, (1, 1.2, 1), prior=prior, noise_level=level)
    again = seen_through(restored.mean.geometry, scan.geometry)(torch.from_numpy(np.array(restored.mean.data)).double())
    assert float((again - torch.from_numpy(np.array(scan.data))).square().mean().sqrt()) <= level * 1.01
    assert restored.provenance.settings["noise_level"] == pytest.approx(level)
    assert any("told to the prior as" in sentence for sentence in restored.provenance.decisions)


def test_a_wrong_operator_does_not_agree(prior) -> None:
    scan = head()
    sharp = superresolve(scan, (1, 1.2, 1), prior=prior, noise_level=5.0).mean
    shifted = dataclasses.replace(scan.geometry, affine=scan.geometry.affine + np.eye(4)[:, [2]] * [0, 0, 0, 1.0])
    again = seen_through(sharp.geometry, shifted)(torch.from_numpy(np.array(sharp.data)).double())
    assert float((again - torch.from_numpy(np.array(scan.data))).square().mean().sqrt()) > 5.0


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(prior) -> None:
    first, again, other = (denoise(head(), prior=prior, draws=2, keep_draws=2, steps=2, seed=s) for s in (3, 3, 4))
    assert np.array_equal(first.draws[1].data, again.draws[1].data)
    assert not np.array_equal(first.draws[1].data, other.draws[1].data)
    assert np.array_equal(first.mean.data, other.mean.data)


def test_a_draw_does_not_depend_on_how_many_are_drawn(prior) -> None:
    two, three = (denoise(head(), prior=prior, draws=n, keep_draws=n, steps=2) for n in (2, 3))
    assert np.array_equal(two.draws[1].data, three.draws[1].data)


def test_tiles_change_nothing(prior) -> None:
    scan, evaluations = head((96, 26, 18)), []
    whole, tiled = (
        denoise(scan, prior=prior, noise_level=40.0, tile=t, progress=lambda done, all: evaluations.append(all)).mean
        for t in (256, 16)
    )
    assert evaluations == [1, 3, 3, 3]  # so that the volume was really cut
    assert np.abs(whole.data - tiled.data).max() < 1e-4 * whole.data.max()


def test_spread_and_interval(prior) -> None:
    answer = denoise(head(), prior=prior, draws=4, keep_draws=4, steps=2)
    draws = np.stack([draw.data for draw in answer.draws])
    np.testing.assert_allclose(answer.std.data, draws.std(axis=0, ddof=1), rtol=1e-3, atol=1e-2)
    low, high = answer.interval(0.9)
    np.testing.assert_allclose(high.data - low.data, 2 * 1.6449 * answer.std.data, rtol=1e-3, atol=1e-2)
    with pytest.raises(SettingsError):
        denoise(head(), prior=prior).interval(0.9)


def test_the_record_is_complete_and_survives_json(prior) -> None:
    record = denoise(head(), prior=prior, seed=5).provenance
    assert Provenance.from_json(record.to_json()) == record
    assert record.seed == 5
    assert len(record.inputs[0]) == 64
    assert any("estimated" in sentence for sentence in record.decisions)
    given = denoise(head(), prior=prior, noise_level=40.0).provenance
    assert given.settings["noise_level"] == pytest.approx(40.0)


def test_a_level_outside_the_trained_range_is_told_and_recorded(prior) -> None:
    record = denoise(head(), prior=prior, noise_level=1e-3).provenance
    assert any("nearest" in sentence for sentence in record.decisions)


@pytest.mark.parametrize(
    "broken",
    [
        {"noise_level": 0.0},
        {"noise_level": -1.0},
        {"noise_level": float("nan")},
        {"noise": "poisson"},
        {"draws": 1},
        {"draws": -2},
        {"steps": 0},
        {"seed": -1},
        {"device": "tpu"},
        {"draws": 2.5},
        {"steps": 4.0},
        {"seed": "1"},
        {"noise_level": "loud"},
    ],
)
def test_settings_out_of_range_are_refused(broken) -> None:
    with pytest.raises(SettingsError, match="E-SETTING"):
        Settings(**broken)


def test_a_coarser_spacing_is_refused(prior) -> None:
    with pytest.raises(SettingsError, match="E-TARGET"):
        superresolve(head(), (1, 1.2, 4), prior=prior)


def test_own_keeps_the_size_of_the_scan_along_an_axis(prior) -> None:
    scan = head()
    sharp = superresolve(scan, ("own", "own", 1), prior=prior, noise_level=30.0)
    assert sharp.mean.geometry == scan.geometry.with_spacing((1, 1.2, 1))
    assert sharp.provenance.settings["spacing_mm"] == [1, 1.2, 1]
    with pytest.raises(SettingsError, match="Give own own 1"):
        superresolve(scan, (1.5, 1.5, 1), prior=prior)


def test_scans_that_cannot_be_restored_are_refused(prior) -> None:
    scan = head()
    with pytest.raises(InputError):
        denoise(Volume(np.repeat(scan.data, 2, axis=0), scan.geometry), prior=prior)
    with pytest.raises(InputError):
        denoise(scan.with_data(np.where(scan.data == scan.data.max(), np.nan, scan.data)), prior=prior)


def test_an_answer_that_is_not_finite_is_refused() -> None:
    denoiser = build_denoiser(CARD)
    next(denoiser.parameters()).data.fill_(float("inf"))
    with pytest.raises(PriorError, match="E-MODEL-NONFINITE"):
        denoise(head(), prior=Prior(denoiser.eval().requires_grad_(False), CARD))


def test_the_network_is_told_what_was_measured(prior) -> None:
    """Negative of the whole path: another level must give another answer."""
    low, high = (denoise(head(), prior=prior, noise_level=level).mean.data for level in (5.0, 80.0))
    assert np.abs(low - high).max() > 1.0


def lying_down(scan: Volume) -> Volume:
    """The same scan with its axes in the order K, I, J."""
    affine = scan.geometry.affine[:, [2, 0, 1, 3]]
    data = scan.data[0].transpose(2, 0, 1)
    return Volume(data, Geometry(data.shape, affine), scan.modality)


def test_thick_slices_are_the_same_problem_along_any_axis(prior) -> None:
    scan = head()
    standing = superresolve(scan, (1.0, 1.2, 1.0), prior=prior, noise_level=40.0).mean
    lying = superresolve(lying_down(scan), (1.0, 1.0, 1.2), prior=prior, noise_level=40.0).mean
    assert np.allclose(lying.data[0], standing.data[0].transpose(2, 0, 1), atol=1e-2)


def test_without_turning_they_are_not(prior, monkeypatch) -> None:
    monkeypatch.setattr("medidiff.restore.worst_last", lambda operator, shape: (0, 1, 2))
    with pytest.raises(AssertionError):
        test_thick_slices_are_the_same_problem_along_any_axis(prior)


def test_a_grid_that_no_memory_holds_is_refused_before_it_is_made(prior) -> None:
    with pytest.raises(SettingsError, match=r"E-TARGET.*billion in all"):
        superresolve(head(), (0.01, 0.01, 0.01), prior=prior)


# Whole volumes are held no more often than they must be


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("kind", [np.int16, np.uint8, np.float32, np.float64])
@pytest.mark.parametrize("shape", [(1, 5, 6, 7), (2, 3, 1, 4), (1, 1, 1, 1), (4,), ()])
def test_scaling_plane_by_plane_is_scaling(shape, kind, order) -> None:
    scale = IntensityScale(3.3, 97.1)
    values = np.asarray(200 * np.random.default_rng(0).random(shape)).astype(kind, order=order)
    wide = values.astype(np.float64)
    assert np.array_equal(scale.apply(values), ((wide - 3.3) / 97.1).astype(np.float32))
    assert np.array_equal(scale.undo(values), (wide * 97.1 + 3.3).astype(np.float32))
    assert scale.apply(values).strides == ((wide - 3.3) / 97.1).astype(np.float32).strides
    assert not np.array_equal(scale.apply(values), IntensityScale(3.4, 97.1).apply(values))


def test_an_array_is_told_by_the_hash_of_its_numbers_however_they_lie(prior) -> None:
    scan = head()
    wanted = (hashlib.sha256(np.ascontiguousarray(scan.data).tobytes()).hexdigest(),)
    for same in (scan.data, np.asfortranarray(scan.data), np.repeat(scan.data, 2, axis=3)[..., ::2]):
        assert denoise(scan.with_data(same), prior=prior, noise_level=40.0).provenance.inputs == wanted
    assert denoise(scan.with_data(scan.data[:, ::-1]), prior=prior, noise_level=40.0).provenance.inputs != wanted


# --- a noise level that varies ---------------------------------------------------------------------------------------


def told_levels(monkeypatch, scan, **settings):
    """What the network is told of the noise, in the scan's units, along the first axis."""
    seen = []
    observe = restoration.observe

    def spy(y, operator, level):
        seen.append(level)
        return observe(y, operator, level)

    monkeypatch.setattr(restoration, "observe", spy)
    restored = denoise(scan, prior=small_prior(), **settings)
    level = seen[0] if isinstance(seen[0], torch.Tensor) else torch.full((1, 1, *scan.geometry.shape), seen[0])
    gain = restored.provenance.settings["noise_level"] / float(seen[0].mean()) if settings.get("noise_level") else 1.0
    return level[0, 0].mean((1, 2)).numpy() * gain, restored.provenance


def ramp(shape=(64, 32, 32)):
    """Tissue everywhere, and noise that grows threefold along the first axis."""
    rng = np.random.default_rng(0)
    level = np.linspace(20, 60, shape[0])[:, None, None]
    clean = 700.0 + 0 * level
    noisy = np.hypot(clean + level * rng.standard_normal(shape), level * rng.standard_normal(shape))
    noisy[:, :3], noisy[:, -3:] = 0, 0
    return Volume(noisy.astype(np.float32), Geometry.regular(shape), "MR")


def test_a_level_that_varies_is_told_voxel_by_voxel(monkeypatch) -> None:
    levels, record = told_levels(monkeypatch, ramp(), noise_varies=True, noise_level=40.0)
    assert levels[-8:].mean() / levels[:8].mean() > 1.8
    assert levels.mean() == pytest.approx(40.0, rel=0.02)
    assert any("for every voxel" in sentence for sentence in record.decisions)
    assert record.settings["noise_varies"] is True


def test_a_level_that_does_not_vary_is_told_once(monkeypatch) -> None:
    levels, record = told_levels(monkeypatch, ramp())
    assert levels.max() == levels.min()
    assert not any("for every voxel" in sentence for sentence in record.decisions)
