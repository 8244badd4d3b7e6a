"""An answer has its scan's averages over so many voxels that noise is next to nothing there."""

import dataclasses
from importlib.resources import files

import numpy as np
import pytest
import torch
from scipy import ndimage
from small_prior import small_prior

import medidiff as md
from medidiff import agreeing as agreement
from medidiff import restore as restoration
from medidiff.agreeing import averages_lost
from medidiff.physics import identity
from medidiff.physics.separable import Separable, box_profile, sampling
from medidiff.trust import Evidence, on_average
from medidiff.volume import Geometry, Volume

SHAPE = (64, 60, 56)
GRID = Geometry.regular(SHAPE, spacing_mm=(1.0, 1.0, 1.0))
INNER = (slice(14, -14),) * 3


def bright() -> torch.Tensor:
    """A box of tissue with some structure, air around it; the tissue maximum is about 1."""
    folds = ndimage.gaussian_filter(np.random.default_rng(5).normal(size=SHAPE), 3)
    image = np.zeros(SHAPE)
    image[6:-6, 6:-6, 6:-6] = (0.7 + 2 * folds)[6:-6, 6:-6, 6:-6]
    return torch.from_numpy(image.astype(np.float32))


def seen(clean: torch.Tensor, generator: torch.Generator, level: float = 0.05) -> Evidence:
    real, other = (level * torch.randn(SHAPE, generator=generator) for _ in range(2))
    scan = torch.hypot(clean + real, other)[None, None]
    return Evidence(scan, identity(), level=level, rician=True, geometry=GRID)


def bump(width: float, amount: float) -> torch.Tensor:
    x, y, z = np.ogrid[tuple(slice(-n / 2, n / 2) for n in SHAPE)]
    return torch.from_numpy((amount * np.exp(-(x**2 + y**2 + z**2) / (2 * width**2))).astype(np.float32))


@pytest.mark.parametrize(("width", "back"), [(5.0, (0.85, 1.0)), (0.5, (-0.1, 0.1))])
def test_what_is_broad_comes_back_and_fine_detail_does_not(width, back, generator):
    """An error of half of the noise's level: no flag would tell it."""
    wrong = bump(width, 0.025)
    evidence = seen(bright(), generator)
    lost = averages_lost((bright() + wrong)[None, None], evidence) - averages_lost(bright()[None, None], evidence)
    assert back[0] < float(-(lost[0, 0] * wrong).sum() / wrong.square().sum()) < back[1]


@pytest.mark.parametrize("level", [0.01, 0.04, 0.12])
def test_of_a_right_answer_the_same_noise_for_its_level_comes_back(level, generator):
    """As much power, as a share of the level's first power, at any level."""
    lost = averages_lost(bright()[None, None], seen(bright(), generator, level))[0, 0][INNER]
    voxels = 0.75 * (100 * level) ** (1 / 3)
    assert float(lost.square().mean()) == pytest.approx(level**2 / (2 * np.sqrt(np.pi) * voxels) ** 3, rel=0.2)
    assert abs(float(lost.mean())) < 0.03 * level  # the law of magnitudes is heeded


def test_a_level_for_each_voxel_counts_as_its_mean(generator):
    evidence = seen(bright(), generator)
    varying = dataclasses.replace(evidence, level=torch.full_like(evidence.scan, evidence.level))
    assert torch.allclose(averages_lost(bright()[None, None], varying), averages_lost(bright()[None, None], evidence))


def test_a_spike_makes_no_blob(generator):
    clean = seen(bright(), generator)
    spiked = dataclasses.replace(clean, scan=clean.scan.clone())
    spiked.scan[0, 0, 30, 30, 28] += 100 * clean.level
    blob = averages_lost(bright()[None, None], spiked) - averages_lost(bright()[None, None], clean)
    assert float(blob.abs().max()) < 0.2 * clean.level


def test_nothing_comes_back_outside_of_the_tissue(generator):
    evidence = seen(bright(), generator)
    lost = averages_lost((bright() + 0.1 * (bright() > 0.3))[None, None], evidence)[0, 0]
    assert float(lost[:4].abs().max()) == 0
    assert float(lost[INNER].mean()) == pytest.approx(-0.1, abs=0.01)


def test_beside_air_tissue_is_averaged_over_tissue_alone(generator):
    evidence = seen(bright(), generator)
    even = on_average(evidence, bright()[None, None] + 0.05, voxels=3.0)[0, 0]
    assert float(even[7, 10:-10, 10:-10].mean()) == pytest.approx(float(even[INNER].mean()), rel=0.15)


def test_where_a_gpu_is_full_the_averages_come_from_the_cpu(generator, monkeypatch):
    evidence, x, calls = seen(bright(), generator), bright()[None, None] + 0.1, []
    wanted, real = averages_lost(x, evidence), agreement.on_average

    def full(*given, **other):
        calls.append(given)
        if len(calls) == 1:
            raise torch.OutOfMemoryError
        return real(*given, **other)

    monkeypatch.setattr(agreement, "on_average", full)
    assert torch.equal(averages_lost(x, evidence), wanted)
    assert len(calls) == 2


def test_through_thick_slices_what_is_broad_comes_back_smoothly(generator):
    wrong, fine = bump(7.0, 0.025), bright()[None, None]
    slices = sampling(SHAPE[2], factor=2.0, thickness=2.0, offset=0.5, count=SHAPE[2] // 2, profile=box_profile)
    thick = Separable((None, None, slices))
    seen_ = thick(fine)
    scan = torch.hypot(seen_ + 0.02 * torch.randn(seen_.shape, generator=generator), torch.zeros(()))
    evidence = Evidence(scan, thick, level=0.02, rician=False, geometry=GRID.with_spacing((1.0, 1.0, 2.0)))
    lost = averages_lost(fine + wrong, evidence) - averages_lost(fine, evidence)
    assert lost.shape == fine.shape
    assert 0.85 < float(-(lost[0, 0] * wrong).sum() / wrong.square().sum()) < 1.02
    steps = lost[0, 0].diff(dim=2)[INNER]
    assert float(steps[..., ::2].abs().max()) == pytest.approx(float(steps[..., 1::2].abs().max()), rel=0.25)


# ------------------------------------------------------------------------------------------------------ whole answers


@pytest.fixture(scope="module")
def scan() -> Volume:
    """A part of the bundled scan with 6 % of noise."""
    volume = md.read(str(files("medidiff") / "sample/t1-brain.nii.gz"))
    cut = (slice(44, 92), slice(56, 104), slice(0, 40))
    fine = np.asarray(volume.data[0][cut]) / np.quantile(volume.data, 0.999)
    rng = np.random.default_rng(2)
    noisy = np.hypot(fine + 0.06 * rng.standard_normal(fine.shape), 0.06 * rng.standard_normal(fine.shape))
    return Volume(noisy.astype(np.float32), Geometry.regular(fine.shape, spacing_mm=volume.geometry.spacing_mm), "MR")


def without(monkeypatch) -> None:
    monkeypatch.setattr(restoration, "averages_lost", lambda x, evidence: torch.zeros_like(x))


def test_an_answer_and_its_draws_move_alike_and_the_spread_stays(scan, monkeypatch):
    how = {"noise_level": 0.06, "draws": 2, "steps": 1, "keep_draws": 2}
    answer = md.denoise(scan, **how)
    without(monkeypatch)
    alone = md.denoise(scan, **how)
    moved = answer.mean.data - alone.mean.data
    assert 0 < float(np.sqrt(np.mean(moved**2))) < 0.02
    for ours, theirs in zip(answer.draws, alone.draws, strict=True):
        assert np.allclose(ours.data - theirs.data, moved, atol=1e-5)
    assert np.allclose(answer.std.data, alone.std.data, atol=1e-5)


def test_the_signs_for_a_calibration_are_those_of_the_network_alone(scan, monkeypatch):
    answer = md.denoise(scan, noise_level=0.06, draws=2, steps=1).answer.seen.signs
    without(monkeypatch)
    alone = md.denoise(scan, noise_level=0.06, draws=2, steps=1).answer.seen.signs
    for name in ("residual", "correlation"):
        assert answer[name] == alone[name]


def test_a_super_resolved_answer_has_its_averages_too_and_the_spread_of_its_draws_stays(scan, monkeypatch):
    fine = (*scan.geometry.spacing_mm[:2], scan.geometry.spacing_mm[2] / 2)
    how = {"noise_level": 0.06, "draws": 2, "steps": 1}
    answer = md.superresolve(scan, fine, **how)
    without(monkeypatch)
    alone = md.superresolve(scan, fine, **how)
    moved = answer.mean.data - alone.mean.data
    assert 0 < float(np.sqrt(np.mean(moved**2))) < 0.03
    assert float(np.median(np.abs(answer.std.data - alone.std.data))) < 0.02 * float(np.median(alone.std.data))


def test_a_ct_whose_noise_is_linked_has_what_its_prior_says(monkeypatch):
    rng = np.random.default_rng(3)
    hu = np.where(bright().numpy() > 0.3, 40.0, -1000.0) + 30 * rng.standard_normal(SHAPE)
    scan, how = Volume(hu.astype(np.float32), GRID, "CT"), {"prior": small_prior("CT"), "noise_level": 30.0}
    answer = md.denoise(scan, **how).mean.data
    without(monkeypatch)
    assert np.array_equal(md.denoise(scan, **how).mean.data, answer)
