"""Draws met one at a time: the same mean, spread and quantiles as of all of them at once, in memory that stays."""

from __future__ import annotations

import weakref

import numpy as np
import pytest
import torch
from small_prior import small_prior

import medidiff.restore as restoration
from medidiff.errors import SettingsError
from medidiff.restore import denoise
from medidiff.trust import streaming
from medidiff.trust.streaming import BINS, PILOT, REACH, Streamed
from medidiff.volume import Geometry, Volume

LAWS = {
    "Gaussian": lambda rng, n: rng.standard_normal(n),
    "skewed": lambda rng, n: rng.exponential(size=n),
    "two lumps": lambda rng, n: rng.choice((-1.0, 1.0), n) + 0.01 * rng.standard_normal(n),
    "wild": lambda rng, n: rng.standard_cauchy(n),
    "one value": lambda rng, n: np.ones(n),
}


def draws(law: str, count: int, *, offset: float = 0.7, scale: float = 0.02) -> np.ndarray:
    """(count, 1, 6, 5, 4), of another size at every voxel."""
    size = 10.0 ** np.random.default_rng(1).uniform(-2, 0, (6, 5, 4))
    noise = LAWS[law](np.random.default_rng(0), (count, 1, 6, 5, 4))
    return (offset + scale * size * noise).astype(np.float32)


def streamed(values: np.ndarray, *, quantiles: bool = False) -> Streamed:
    seen = Streamed(quantiles=quantiles)
    for each in values:
        seen.add(torch.from_numpy(each))
    return seen


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("count", [1, 2, 9, 100])
def test_mean_and_spread_are_those_of_all_draws(law, count):
    values, centre = draws(law, count), np.float32(0.71)
    seen, wide = streamed(values), values.astype(np.float64)
    np.testing.assert_allclose(seen.mean, wide.mean(0), rtol=1e-5)
    np.testing.assert_allclose(seen.std, wide.std(0, ddof=1) if count > 1 else 0 * wide[0], rtol=1e-3, atol=1e-6)
    about = np.sqrt(((wide - centre) ** 2).mean(0))
    np.testing.assert_allclose(seen.about(torch.tensor(centre)), about, rtol=1e-3, atol=1e-6)


def test_sums_of_squares_would_not_do():
    """The negative: the usual shortcut loses small spreads about large values to rounding, Welford's way does not."""
    values = draws("Gaussian", 100, offset=100.0)
    naive = np.sqrt(np.maximum((values**2).mean(0) - values.mean(0) ** 2, 0))
    wanted = values.astype(np.float64).std(0)
    assert np.abs(streamed(values).std.numpy() / wanted - 1).max() < 0.05
    assert np.abs(naive / wanted - 1).max() > 1


def error_bound(values: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """What an estimate may be off by: a bin within the range, the way to the extreme draw beyond it."""
    pilot = values[:PILOT].astype(np.float64)
    variance = torch.from_numpy(pilot.var(0, ddof=1))
    around = torch.nn.functional.avg_pool3d(variance[None], 3, 1, 1, count_include_pad=False)[0].numpy()
    reach = REACH * np.sqrt(np.maximum(variance.numpy(), around))
    bin_width, off = 2 * reach / BINS, exact - pilot.mean(0)
    beyond = np.where(off < 0, -reach - (values.min(0) - pilot.mean(0)), values.max(0) - pilot.mean(0) - reach)
    outermost = np.abs(off) >= reach - bin_width
    return bin_width + np.where(outermost, np.maximum(beyond, 0), 0) + 1e-6


@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 0.83, 1.0])
@pytest.mark.parametrize("law", LAWS)
def test_quantiles_of_few_draws_are_exact(law, share):
    values = draws(law, PILOT)
    wanted = np.quantile(values.astype(np.float64), share, axis=0)
    np.testing.assert_allclose(streamed(values, quantiles=True).quantile(share), wanted, rtol=1e-5)


@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 0.83, 1.0])
@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("count", [PILOT + 1, 40, 300])
def test_quantiles_of_many_draws_are_within_the_stated_error(law, count, share):
    values = draws(law, count)
    exact = np.quantile(values.astype(np.float64), share, axis=0)
    found = streamed(values, quantiles=True).quantile(share).numpy()
    low, high = (np.quantile(values, min(max(share + side / (count - 1), 0), 1), axis=0) for side in (-1, 1))
    allowed = np.maximum(np.maximum(error_bound(values, exact), error_bound(values, low)), error_bound(values, high))
    assert (np.abs(found - exact) <= allowed).all()


def test_coarser_bins_are_not(monkeypatch):
    """The negative: with four bins the quantiles of Gaussian draws break the error that 32 keep."""
    values = draws("Gaussian", 300)
    exact = np.quantile(values.astype(np.float64), 0.83, axis=0)
    allowed = error_bound(values, exact)
    assert (np.abs(streamed(values, quantiles=True).quantile(0.83).numpy() - exact) <= allowed).all()
    monkeypatch.setattr(streaming, "BINS", 4)
    assert (np.abs(streamed(values, quantiles=True).quantile(0.83).numpy() - exact) > allowed).any()


@pytest.mark.parametrize("shape", [(32, 32, 2), (8, 8, 1), (2, 2, 2), (1, 1, 1)])
def test_quantiles_of_many_draws_of_a_thin_volume(shape):
    values = np.random.default_rng(0).standard_normal((40, 1, *shape)).astype(np.float32)
    found = streamed(values, quantiles=True).quantile(0.5).numpy()
    spread = values[:PILOT].var(0, ddof=1)
    wide = 2 * REACH * np.sqrt(np.maximum(spread, spread.max())) / BINS  # of a bin, at most
    assert (np.abs(found - np.median(values, axis=0)) <= 2 * wide).all()


def test_more_draws_than_sixteen_bits_can_count():
    """At the edge: the bin of a voxel whose draws are alike holds 32,767 of them, then one more."""
    seen = Streamed(quantiles=True)
    for value in range(PILOT):
        seen.add(torch.full((1, 1, 1, 1), float(value)))
    while seen.count < 2**15 - 1 + PILOT + 2:
        seen.add(torch.full((1, 1, 1, 1), 3.0))
    for share in (0.01, 0.5, 0.99):
        assert float(seen.quantile(share)) == pytest.approx(3.0, abs=0.7)
    assert float(seen.quantile(0.0)) == pytest.approx(0.0, abs=0.7)
    assert float(seen.quantile(1.0)) == pytest.approx(PILOT - 1, abs=0.7)


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_quantile_that_is_none_is_refused(share):
    with pytest.raises(SettingsError, match="E-SETTING"):
        streamed(draws("Gaussian", 3), quantiles=True).quantile(share)


def test_quantiles_must_be_announced():
    with pytest.raises(SettingsError, match="no draws to take"):
        streamed(draws("Gaussian", 3)).quantile(0.5)


# --- in restoration --------------------------------------------------------------------------------------------------


def scan() -> Volume:
    shape = (16, 14, 12)
    rng = np.random.default_rng(0)
    ball = sum(axis**2 for axis in np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")) < 0.8
    noisy = np.hypot(700.0 * ball + 40 * rng.standard_normal(shape), 40 * rng.standard_normal(shape))
    return Volume(noisy.astype(np.float32), Geometry.regular(shape), "MR")


def most_at_once(monkeypatch, **settings) -> int:
    """How many answers of a restoration exist at one time."""
    alive: list[weakref.ref] = []
    most, following = [0], restoration._following

    def watched(*given):
        follow = following(*given)

        def answer(x):
            followed, share = follow(x)
            alive.append(weakref.ref(followed))
            most[0] = max(most[0], sum(each() is not None for each in alive))
            return followed, share

        return answer

    monkeypatch.setattr(restoration, "_following", watched)
    denoise(scan(), prior=small_prior(), noise_level=40.0, steps=1, **settings)
    return most[0]


@pytest.mark.parametrize("count", [2, 12])
def test_no_draw_is_kept_that_nobody_asked_for(monkeypatch, count):
    assert most_at_once(monkeypatch, draws=count, quantiles=(0.1,)) == 2  # the mean, and the draw at hand


def test_kept_draws_are_seen_by_the_test(monkeypatch):
    """The negative: what keeps its draws has them all at the end."""
    assert most_at_once(monkeypatch, draws=12, keep_draws=12) == 13


def test_draws_are_kept_when_asked_for_and_tell_the_same():
    how = {"prior": small_prior(), "noise_level": 40.0, "steps": 2, "draws": 4}
    bare, kept = denoise(scan(), **how), denoise(scan(), **how, keep_draws=3, quantiles=(0.0, 0.5))
    assert (len(bare.draws), len(kept.draws)) == (0, 3)
    assert np.array_equal(bare.std.data, kept.std.data)
    assert np.array_equal(bare.mean.data, kept.mean.data)
    assert list(kept.quantiles) == [0.0, 0.5]
    slack = 1e-5 * np.abs(kept.mean.data).max()
    assert all((kept.quantiles[0.0].data <= draw.data + slack).all() for draw in kept.draws)


def test_a_draw_costs_four_evaluations_unless_more_are_asked_for():
    told = []
    denoise(scan(), prior=small_prior(), noise_level=40.0, draws=3, progress=lambda done, all: told.append((done, all)))
    assert told[-1] == (1 + 3 * 4, 1 + 3 * 4)


@pytest.mark.parametrize(
    "broken",
    [{"keep_draws": 3, "draws": 2}, {"keep_draws": -1}, {"quantiles": (0.5,)}, {"quantiles": (2.0,), "draws": 2}],
)
def test_what_cannot_be_kept_is_refused(broken):
    with pytest.raises(SettingsError, match="E-SETTING"):
        restoration.Settings(**broken)
