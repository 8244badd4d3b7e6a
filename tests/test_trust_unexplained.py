"""What a scan says beyond its answer comes back where noise cannot say it, and noise does not come back."""

import dataclasses
from importlib.resources import files
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import ndimage

import medidiff as md
from medidiff import agreeing as agreement
from medidiff import restore as restoration
from medidiff.physics import damped_agreement, identity
from medidiff.physics.separable import Separable, box_profile, sampling
from medidiff.restore import superresolve
from medidiff.trust import Evidence, Streamed, expected_error, held, unexplained
from medidiff.trust.report import examined
from medidiff.trust.residual import blurred, gaussian_kernel, standardised
from medidiff.trust.unexplained import _gain
from medidiff.volume import Geometry, Volume

SHAPE, SPACING, LEVEL = (48, 44, 24), (1.0, 1.1, 3.0), 0.02
GRID = Geometry.regular(SHAPE, spacing_mm=SPACING)


def bright() -> torch.Tensor:
    """A box of tissue with some structure, air around it."""
    folds = ndimage.gaussian_filter(np.random.default_rng(5).normal(size=SHAPE), (3, 3, 1))
    image = np.zeros(SHAPE)
    image[6:-6, 6:-6, 3:-3] = (0.7 + 2 * folds)[6:-6, 6:-6, 3:-3]
    return torch.from_numpy(ndimage.gaussian_filter(image, (0.7, 0.7, 0.3)).astype(np.float32))


def evidence(scan, operator=None, *, rician=True) -> Evidence:
    return Evidence(scan[None, None], operator or identity(), level=LEVEL, rician=rician, geometry=GRID)


def magnitude(image, generator):
    real = image + LEVEL * torch.randn(image.shape, generator=generator)
    return torch.hypot(real, LEVEL * torch.randn(image.shape, generator=generator))


def test_of_a_right_answer_next_to_nothing_comes_back(generator):
    clean = bright()
    found, inside = unexplained(evidence(magnitude(clean, generator)), clean[None, None], beyond=4.0)
    assert float((found != 0).sum()) < 2e-3 * float(inside.sum())
    quieter = dataclasses.replace(evidence(magnitude(clean, generator)), level=LEVEL / 2)
    assert float((unexplained(quieter, clean[None, None], beyond=4.0)[0] != 0).sum()) > 0.02 * float(
        inside.sum()
    )  # told wrongly


@pytest.mark.parametrize(("amount", "width", "back"), [(8.0, 2.0, (0.6, 1.1)), (0.3, 0.7, (-0.01, 0.01))])
def test_what_stands_out_comes_back_and_what_noise_can_do_does_not(amount, width, back, generator):
    clean = bright()
    spot = torch.zeros(SHAPE)
    spot[24, 22, 12] = 1.0
    spot = blurred(spot, gaussian_kernel([width / s for s in SPACING]))
    spot = amount * LEVEL * spot / spot.max()
    found, _ = unexplained(evidence(magnitude(clean + spot, generator)), clean[None, None], beyond=4.0)
    assert back[0] <= float((found[0, 0] * spot).sum() / spot.square().sum()) <= back[1]


def test_nothing_comes_back_outside_of_the_tissue(generator):
    scan = magnitude(bright(), generator)
    scan[:3, :3] += 20 * LEVEL
    assert float(unexplained(evidence(scan), bright()[None, None], beyond=4.0)[0][..., :3, :3, :].abs().max()) == 0


@pytest.mark.parametrize("diameters", [(3.0, 6.0), (6.0, 12.0), (0.0, 3.0), (12.0, None)])
def test_noise_in_a_band_is_as_wide_as_it_is_said_to_be(diameters, generator):
    noise = torch.randn((96, 96, 48), generator=generator)
    narrow, wide = (None if d is None else gaussian_kernel([d / 4 / s for s in SPACING]) for d in diameters)
    band = blurred(noise, narrow) - (0 if wide is None else blurred(noise, wide))
    middle = band[12:-12, 12:-12, 6:-6]
    assert float(middle.std()) == pytest.approx(_gain(narrow, wide), rel=0.08)


# ---------------------------------------------------------------------------------------- values that were cut off


def test_a_value_cut_off_at_the_bottom_speaks_against_a_brighter_answer_alone(generator):
    signal = torch.linspace(-3, 3, 40)[:, None, None].expand(40, 30, 30)
    scan = (signal + torch.randn(signal.shape, generator=generator)).clamp_min(0)
    cut = scan == 0
    for rician in (True, False):
        deviates = standardised(scan, signal, 1.0, rician=rician)
        assert torch.equal(deviates[cut], -signal[cut].clamp_min(0))
        assert torch.equal(deviates[cut & (signal < 0)], torch.zeros(int((cut & (signal < 0)).sum())))
    whole = scan + 0.01 * torch.rand(scan.shape, generator=generator)  # no value is there twice: nothing was cut off
    lowest = whole == whole.min()
    assert not bool((standardised(whole, signal, 1.0, rician=False)[lowest & (signal < 0)] == 0).any())


def test_an_answer_below_a_cut_off_scan_raises_no_flag(generator):
    """Between the ringing of a scan that was cut off at 0 an answer is darker than 0, and not wrong there."""
    clean = bright() - 0.3 * (torch.arange(SHAPE[0]) % 4 == 0)[:, None, None] * (bright() > 0.3)
    clean[20:28] -= 0.6 * (bright()[20:28] > 0.3)
    scan = (clean + LEVEL * torch.randn(SHAPE, generator=generator)).clamp_min(0)
    inside = bright() > 0.3
    assert float((inside & (scan == 0)).sum()) > 1000
    found = examined(scan, clean, level=LEVEL, rician=False, geometry=GRID, inside=inside)
    assert found is not None
    assert not found[0].flags
    lost = scan.clone()
    lost[scan == 0] = 1e-3 * torch.rand(int((scan == 0).sum()), generator=generator)  # the same, but not cut off
    found = examined(lost, clean, level=LEVEL, rician=False, geometry=GRID, inside=inside)
    assert found is not None
    assert found[0].flags


# ------------------------------------------------------------------------------------------------ the answer's part


def through(thickness: float = 3.0) -> Separable:
    return Separable(
        (None, None, sampling(72, factor=3.0, thickness=thickness, offset=1.0, count=24, profile=box_profile))
    )


def test_the_change_is_seen_as_what_was_given_back(generator):
    r = torch.randn((1, 1, 8, 8, 24), generator=generator)
    seen = through()(damped_agreement(r, through()))
    assert torch.allclose(seen, r / 1.01, atol=1e-4)


def test_the_change_does_not_blow_up_what_overlapping_slices_hardly_tell_apart(generator):
    r = torch.randn((1, 1, 8, 8, 24), generator=generator)
    wide = through(8.7)
    plain, damped = wide.smoothest(r), damped_agreement(r, wide)
    assert float(damped.square().mean()) < 0.5 * float(plain.square().mean())


@pytest.fixture(scope="module")
def thick() -> Volume:
    """A part of the bundled scan in slices three voxels thick, with 1 % of noise."""
    scan = md.read(str(files("medidiff") / "sample/t1-brain.nii.gz"))
    fine = np.asarray(scan.data[0, 44:116, 56:128]) / np.quantile(scan.data, 0.999)
    y = fine.reshape(*fine.shape[:2], -1, 3).mean(-1)
    rng = np.random.default_rng(2)
    y = np.hypot(y + 0.01 * rng.standard_normal(y.shape), 0.01 * rng.standard_normal(y.shape))
    i, j, k = scan.geometry.spacing_mm
    return Volume(y.astype(np.float32), Geometry.regular(y.shape, spacing_mm=(i, j, 3 * k)), "MR", thickness_mm=3 * k)


def restored(thick: Volume, **settings):
    return superresolve(thick, ("own", "own", thick.geometry.spacing_mm[2] / 3), noise_level=0.01, **settings)


def test_an_answer_on_thick_slices_leaves_no_place_that_its_scan_contradicts(thick, monkeypatch):
    answer = restored(thick)
    told = [sentence for sentence in answer.provenance.decisions if "the answer follows the scan" in sentence]
    assert len(told) == 1
    monkeypatch.setattr(agreement, "_ROUNDS", 0)
    alone = restored(thick)
    flags = [len(each.provenance.support["flags"]) + each.provenance.support["more"] for each in (answer, alone)]
    assert flags[0] <= 1
    assert flags[1] > 10
    assert not any("follows the scan" in sentence for sentence in alone.provenance.decisions)


def test_the_signs_for_a_calibration_are_those_of_the_answer_alone(thick, monkeypatch):
    answer = restored(thick, draws=2, steps=1)
    monkeypatch.setattr(agreement, "_ROUNDS", 0)
    alone = restored(thick, draws=2, steps=1)
    assert not np.array_equal(answer.mean.data, alone.mean.data)
    for name in ("residual", "correlation"):
        assert answer.answer.seen.signs[name] == alone.answer.seen.signs[name]


def test_where_a_gpu_is_full_what_is_given_back_comes_from_the_cpu(thick, monkeypatch):
    wanted, calls, moved = restored(thick), [], []
    real, on = agreement.unexplained, Evidence.on

    def full(found, answer, **other):
        calls.append(answer.device)
        if len(calls) == 1:
            raise torch.OutOfMemoryError
        return real(found, answer, **other)

    monkeypatch.setattr(agreement, "unexplained", full)
    monkeypatch.setattr(Evidence, "on", lambda self, device: moved.append(device) or on(self, device))
    assert np.array_equal(restored(thick).mean.data, wanted.mean.data)
    assert len(calls) == 1 + agreement._ROUNDS
    assert moved[0] == torch.device("cpu")


def test_evidence_moves_with_all_that_lies_on_its_device(generator):
    there = evidence(magnitude(bright(), generator))
    varying = dataclasses.replace(there, level=torch.full_like(there.scan, LEVEL)).on(torch.device("meta"))
    assert {varying.scan.device.type, varying.level.device.type} == {"meta"}
    assert there.on(torch.device("meta")).level == there.level


# ------------------------------------------------------------------------------------------------ denoised answers


def asked(scan: torch.Tensor) -> SimpleNamespace:
    """As much of a question as an answer is held against."""
    return SimpleNamespace(
        y=scan[None, None],
        operator=identity(),
        level=LEVEL,
        levels=LEVEL,
        settings=SimpleNamespace(noise="rician"),
        volume=Volume(scan.numpy(), GRID, "MR"),
        scale=SimpleNamespace(gain=1.0, offset=0.0),
    )


def lesion(amount: float, width_mm: float = 2.0) -> torch.Tensor:
    spot = torch.zeros(SHAPE)
    spot[24, 22, 12] = 1.0
    spot = blurred(spot, gaussian_kernel([width_mm / s for s in SPACING]))
    return amount * LEVEL * spot / spot.max()


def test_a_denoised_answer_that_is_contradicted_nowhere_is_left_alone(generator):
    x = bright()[None, None]
    same, report, places, said = restoration._held(asked(magnitude(bright() + lesion(0.5), generator)), x, Streamed())
    assert same is x
    assert report.report.flags == ()
    assert (places, said) == (0, [])


def test_a_denoised_answer_is_given_back_what_it_has_lost_and_no_noise(generator):
    lost = lesion(8.0)
    scan, x = magnitude(bright() + lost, generator), bright()[None, None]
    assert len(held(evidence(scan), x).report.flags) == 1
    mended, report, places, said = restoration._held(asked(scan), x, Streamed())
    assert report.report.flags == ()
    assert "the answer follows the scan" in said[0]
    assert places == 1  # a claim of coverage asks for the answer as it was
    change = (mended - x)[0, 0]
    assert 0.6 < float((change * lost).sum() / lost.square().sum()) < 1.1
    assert float((change != 0).float().mean()) < 0.03
    assert float(change[lost < 0.01 * lost.max()].square().mean().sqrt()) < 0.05 * LEVEL


def test_where_something_is_given_back_the_spread_of_the_draws_about_the_answer_says_so(generator):
    x, drawn = bright()[None, None], Streamed()
    for _ in range(2):
        drawn.add(x + 0.1 * LEVEL * torch.randn(x.shape, generator=generator))
    mended, *_ = restoration._held(asked(magnitude(bright() + lesion(8.0), generator)), x, drawn)
    error = expected_error(drawn.about(mended)[0, 0].numpy())
    assert error[24, 22, 12] > 3 * LEVEL
    assert np.median(error) < 0.2 * LEVEL
