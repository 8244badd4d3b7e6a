"""Clean scans made worse by stated physics, pairs that were measured, and answers judged against their truth."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from small_prior import small_prior

from medidiff.anatomy import foreground, tissue_maximum
from medidiff.calibrating import answered, degraded, judged, paired, twins
from medidiff.errors import InputError, SettingsError
from medidiff.restore import Settings, denoise, restore, superresolve
from medidiff.trust import Calibration
from medidiff.trust.posterior import Posterior
from medidiff.trust.tally import REACHES, judged_mask
from medidiff.volume import Geometry, Volume

SHAPE = (20, 18, 24)


def clean(seed: int = 0, modality: str = "MR") -> Volume:
    rng = np.random.default_rng(seed)
    ball = sum(axis**2 for axis in np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij")) < 0.8
    affine = np.diag((-0.9, 0.9, 1.1, 1.0))
    affine[:3, 3] = (11.0, -7.0, 3.0)
    image = ball * (500 + 300 * rng.random(SHAPE))
    return Volume(image.astype(np.float32), Geometry(SHAPE, affine), modality)


def settings(**more) -> Settings:
    return Settings(prior=small_prior(), noise="rician", draws=2, steps=1, device="cpu", **more)


def test_noise_is_as_strong_as_stated():
    scan = clean()
    worse = degraded(scan, noise=0.05, law="gaussian", seed=1)
    level = 0.05 * tissue_maximum(scan.data[0], foreground(scan.data[0]))
    assert worse.level == pytest.approx(level)
    assert float((worse.scan.data - scan.data).std()) == pytest.approx(level, rel=0.03)
    assert worse.scan.geometry == scan.geometry
    again, other = (degraded(scan, noise=0.05, law="gaussian", seed=s).scan.data for s in (1, 2))
    assert np.array_equal(again, worse.scan.data)
    assert not np.array_equal(other, worse.scan.data)


@pytest.mark.parametrize("factor", [2.0, 3.0, 2.5])
def test_slices_lie_where_they_average(factor):
    """A ramp along the last axis, seen in slices, is the ramp at their centres."""
    place = np.arange(SHAPE[2], dtype=np.float32)
    ramp = clean().with_data(np.broadcast_to(100 + place, SHAPE).copy())
    worse = degraded(
        dataclasses.replace(ramp, data=np.where(clean().data > 0, ramp.data, 0)), noise=1e-6, factor=factor, seed=0
    )
    middle = worse.scan.data[0, SHAPE[0] // 2, SHAPE[1] // 2]
    centres = worse.scan.geometry.world([[0, 0, k] for k in range(len(middle))])
    wanted = 100 + ramp.geometry.index(centres)[:, 2]
    assert worse.scan.geometry.spacing_mm[2] == pytest.approx(1.1 * factor)
    np.testing.assert_allclose(middle[2:-2], wanted[2:-2], atol=1e-2)


@pytest.mark.parametrize(
    ("how", "error", "code"),
    [
        ({"noise": 0.0}, SettingsError, "E-SETTING"),
        ({"noise": 0.05, "factor": 0.5}, SettingsError, "E-SETTING"),
        ({"noise": 0.05, "factor": 13}, SettingsError, "E-SETTING"),
    ],
)
def test_what_no_scanner_does_is_refused(how, error, code):
    with pytest.raises(error, match=code):
        degraded(clean(), seed=0, **how)


def test_only_mr_is_simulated_and_one_channel():
    with pytest.raises(InputError, match="E-MODALITY"):
        degraded(clean(modality="CT"), noise=0.05, seed=0)
    with pytest.raises(InputError, match="E-4D"):
        degraded(clean().with_data(np.repeat(clean().data, 2, 0)), noise=0.05, seed=0)


def test_pairs_must_lie_on_one_grid():
    scan = clean()
    worse = degraded(scan, noise=0.05, factor=3.0, seed=0).scan
    found = paired(scan, worse, task="superresolve")
    assert found.slices is not None
    assert found.operator(torch.from_numpy(scan.data[0].astype(np.float32))).shape == worse.shape
    assert paired(scan, scan, task="denoise").operator.is_identity
    moved = dataclasses.replace(
        scan, geometry=Geometry(SHAPE, scan.geometry.affine + np.eye(4)[:, [2]] * [0, 0, 0, 0.5])
    )
    for task, other in (("denoise", moved), ("denoise", worse), ("superresolve", moved)):
        with pytest.raises(InputError, match="E-GRID"):
            paired(other if task == "superresolve" else scan, worse if task == "superresolve" else other, task=task)


@pytest.mark.parametrize(("task", "factor"), [("denoise", 1.0), ("superresolve", 2.0)])
def test_an_answer_is_judged_against_its_truth(task, factor):
    scan = clean()
    worse = degraded(scan, noise=0.05, factor=factor, seed=0)
    posterior = answered(scan, worse, task=task, settings=settings(noise_level=worse.level))
    case = judged(scan, posterior, worse, patient="0" * 64, group=2)
    answer = posterior.answer
    mask = judged_mask(answer.mean, worse.operator)
    score = np.abs(scan.data[0] - answer.mean.data[0]) / np.hypot(answer.error.data[0], 0.05 * worse.level)
    place = int(np.searchsorted(REACHES, np.median(score[mask])))
    assert case.tally.outside[0][place] == pytest.approx((score[mask] > REACHES[place]).mean(), abs=1e-3)
    assert (case.seen.thickness, case.seen.distance) == pytest.approx((factor, factor))
    assert case.seen.noise == pytest.approx(0.05, rel=0.1)
    assert answer.made.task == task
    better = judged(posterior.mean, posterior, worse, patient="0" * 64, group=2)  # the answer itself as the truth
    assert better.tally.outside[0].max() == 0


@pytest.mark.parametrize(
    ("sides", "wanted"),
    [
        ((0.9, 0.9, 1.1), (1.0, 1.0)),  # slices that touch each other
        ((0.9, 0.9, 0.55), (0.5, 1.0)),  # with gaps, as the header says
        ((0.45, 0.45, 1.1), (1.0, 2.0)),  # coarse along the slices too
    ],
)
def test_how_slices_lie_is_seen(sides, wanted):
    scan = clean()
    thick = degraded(scan, noise=0.05, factor=3.0, seed=0).scan
    thick = dataclasses.replace(thick, thickness_mm=3.3 if wanted[0] == 1 else 1.65)
    how = {"prior": small_prior(), "draws": 2, "steps": 1, "device": "cpu"}
    answer = superresolve(thick, sides, noise_level=20.0, **how).answer
    seen = answer.seen
    assert (seen.overlap, seen.in_plane) == pytest.approx(wanted, rel=0.02)
    assert (seen.profile, seen.plane) == ("box", "axial")
    assert not answer.operator.is_identity


def test_one_scan_is_found_in_another_dress():
    scan, other = clean(), clean(1)
    data = scan.data[0]
    mirrored = Geometry(SHAPE, scan.geometry.affine @ np.diag((-1.0, 1, 1, 1)))
    changed = data.copy()
    changed[10, 9, 12] += 50
    dresses = [
        np.round(data).astype(np.int16),
        (2.5 * data).astype(np.float64),
        changed,
    ]
    same = [Volume(each, scan.geometry, "MR") for each in dresses]
    same.append(Volume(data[::-1].copy(), mirrored, "MR"))
    for each in same:
        assert twins([other, scan, each]) == (1, 2)
    assert twins([scan, other, degraded(scan, noise=0.05, seed=0).scan]) is None


def test_an_answer_without_tissue_is_no_patient():
    flat = Volume(np.full(SHAPE, 7.0, np.float32), clean().geometry, "MR")
    posterior = denoise(flat, draws=2)
    with pytest.raises(InputError, match="E-FLAT"):
        judged(flat, posterior, paired(flat, flat, task="denoise"), patient="0" * 64, group=0)


# --- from restoration to an interval ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fitted() -> Calibration:
    cases = []
    for seed in range(4):
        worse = degraded(clean(seed), noise=0.05, seed=seed)
        found = answered(clean(seed), worse, task="denoise", settings=settings(noise_level=worse.level))
        cases.append(judged(clean(seed), found, worse, patient=f"{seed:064x}", group=0))
    return Calibration.fit(cases, found.answer.made, share=0.8, origin="degraded", version="0")


def restored(seed: int = 9, **more) -> Posterior:
    worse = degraded(clean(seed), noise=0.05, seed=seed)
    return denoise(worse.scan, prior=small_prior(), noise_level=worse.level, **{"draws": 2, "steps": 1} | more)


def test_a_posterior_has_calibrated_intervals(fitted):
    posterior = restored()
    bounds = posterior.interval(calibrated=fitted)
    assert (bounds.claimed, bounds.share) == (True, 0.8), bounds.reasons
    lower, upper = bounds
    assert ((lower.data < posterior.mean.data) & (posterior.mean.data < upper.data)).all()
    mask = np.zeros(SHAPE, bool)
    mask[6:12, 6:12, 9:15] = True
    region = posterior.region(mask, calibrated=fitted)
    assert region.claimed
    assert region.upper - region.lower < float((upper.data - lower.data)[0][mask].mean())
    assert not posterior.region(foreground(posterior.mean.data[0]), calibrated=fitted).claimed  # larger than any block


def test_it_refuses_a_calibration_of_another_way_of_drawing(fitted):
    with pytest.raises(SettingsError, match=r"E-CALIBRATION.*draws 3"):
        restored(draws=3).interval(calibrated=fitted)
    with pytest.raises(SettingsError, match="E-SETTING"):
        restored().interval(0.9, calibrated=fitted)
    with pytest.raises(SettingsError, match="E-SETTING"):
        restored(draws=0).interval(calibrated=fitted)


def test_bounds_without_a_calibration_claim_nothing(fitted):
    bounds = restored().interval()
    assert (bounds.claimed, bounds.share, bounds.reasons) == (False, 0.9, ("no calibration was given",))


def test_a_constant_scan_is_not_claimed(fitted):
    bounds = denoise(Volume(np.full(SHAPE, 7.0, np.float32), clean().geometry, "MR"), draws=2).interval(
        calibrated=fitted
    )
    assert not bounds.claimed
    assert (bounds.lower.data == 7).all()


@pytest.mark.parametrize("noise_varies", [False, True])
@pytest.mark.parametrize(("count", "wanted"), [(1, 0.94), (2, 0.6)])
def test_the_law_of_the_noise_and_what_contradicts_are_seen(count, wanted, noise_varies, monkeypatch):
    """In air; of a mean of two magnitudes it is not the one that is assumed."""
    rng, shape, level = np.random.default_rng(0), (36, 36, 36), 20.0
    grid = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    image = np.where(sum(axis**2 for axis in grid) < 0.4, 600.0, 0.0)
    own = level * count**0.5
    magnitudes = [
        np.hypot(image + own * rng.standard_normal(shape), own * rng.standard_normal(shape)) for _ in range(count)
    ]
    scan = Volume(np.mean(magnitudes, axis=0).astype(np.float32), Geometry.regular(shape), "MR")
    posterior = denoise(scan, prior=small_prior(), draws=2, steps=1, noise_varies=noise_varies)
    seen = posterior.answer.seen
    assert sum(seen.dark) / 2 == pytest.approx(wanted, abs=0.12)
    monkeypatch.setattr("medidiff.agreeing._ROUNDS", 0)  # nothing is given back: the report is of the answer as it was
    alone = denoise(scan, prior=small_prior(), draws=2, steps=1, noise_varies=noise_varies).provenance.support
    assert seen.places == len(alone["flags"]) + alone["more"] + alone["everywhere"]


def test_padding_has_no_width(fitted):
    scan = degraded(clean(9), noise=0.05, seed=9)
    padding = np.zeros(SHAPE, bool)
    padding[:2] = True
    padded = dataclasses.replace(scan.scan, padding=padding)
    bounds = denoise(padded, prior=small_prior(), noise_level=scan.level, draws=2, steps=1).interval(calibrated=fitted)
    assert (bounds.lower.data == bounds.upper.data)[:, :2].all()
    assert (bounds.lower.data < bounds.upper.data)[:, 3:].all()


def test_another_operator_is_another_thickness():
    worse = degraded(clean(), noise=0.05, factor=2.0, seed=0)
    found = restore(
        worse.scan, clean().geometry, worse.operator, task="superresolve", settings=settings(noise_level=worse.level)
    )
    assert found.answer.seen.thickness == pytest.approx(2.0)
