"""The residual of a right answer is standard normal, its largest value as rare as it is said to be; and what an answer
adds or takes away is found, with its place and kind.
"""

import dataclasses
import json

import numpy as np
import pytest
import torch
from scipy import ndimage, stats

from medidiff.trust import report as reports
from medidiff.trust.report import examined, tissue
from medidiff.trust.residual import darkened, gaussian_kernel, matched, rician_mean, standardised
from medidiff.trust.significance import (
    Lattice,
    chance_of_peak,
    chance_of_spread,
    discoveries,
    height_of,
    spread,
)
from medidiff.volume import Geometry

SHAPE, SPACING = (60, 56, 52), (0.9, 0.9, 1.1)
GRID = Geometry.regular(SHAPE, spacing_mm=SPACING)
LEVEL = 0.07


def noisy(image, generator, level=LEVEL, rician=True):
    real = image + level * torch.randn(image.shape, generator=generator)
    return torch.hypot(real, level * torch.randn(image.shape, generator=generator)) if rician else real


@pytest.fixture(scope="module")
def head():
    """A ball of two tissues with some structure, air around it, and the noise-free scan."""
    place = (np.indices(SHAPE) - np.array(SHAPE)[:, None, None, None] / 2) * np.array(SPACING)[:, None, None, None]
    radius = np.sqrt(np.square(place).sum(0))
    folds = ndimage.gaussian_filter(np.random.default_rng(3).normal(size=SHAPE), 2.0) * 1.5
    image = np.where(radius < 22, np.where(radius + 6 * folds < 14, 0.9, 0.6), 0.0)
    return torch.from_numpy(ndimage.gaussian_filter(image, 0.7).astype(np.float32))


def ball(centre, diameter):
    place = (np.indices(SHAPE) - np.array(centre)[:, None, None, None]) * np.array(SPACING)[:, None, None, None]
    inward = diameter / 2 - np.sqrt(np.square(place).sum(0))
    return torch.from_numpy(np.clip(inward + 0.5, 0, 1).astype(np.float32))


def judged(scan, answer, level=LEVEL, rician=True, **other):
    found = examined(scan, answer, level=level, rician=rician, geometry=GRID, inside=tissue(scan, answer), **other)
    assert found is not None
    return found[0]


# --------------------------------------------------------------------------------- the law of noise


@pytest.mark.parametrize("signal", [0.0, 0.7, 2.0, 5.0, 7.9, 30.0])
def test_magnitudes_become_standard_normal(signal, generator):
    clean = torch.full((40, 40, 40), signal)
    deviates = standardised(noisy(clean, generator, 1.0), clean, 1.0, rician=True).flatten().numpy()
    assert stats.kstest(deviates, "norm").pvalue > 1e-3
    if signal < 3:  # taken for Gaussian noise, the same voxels break the law
        broken = standardised(noisy(clean, generator, 1.0), clean, 1.0, rician=False).flatten().numpy()
        assert stats.kstest(broken, "norm").pvalue < 1e-6


def test_both_tails_are_as_rare_as_they_are(generator):
    signal = torch.tensor([0.0, 1.5, 4.0])
    for height in (-4.0, 4.0, 6.0):
        for s in signal:
            low, high = 1e-9, 20.0
            for _ in range(60):  # the value that is `height` standard deviations out by SciPy's noncentral chi
                middle = (low + high) / 2
                law = stats.ncx2(2, max(float(s), 1e-6) ** 2)
                chance = law.sf(middle**2) if height > 0 else law.cdf(middle**2)
                beyond = chance > stats.norm.sf(abs(height))
                low, high = (middle, high) if beyond == (height > 0) else (low, middle)
            found = standardised(torch.full((1, 1, 1), high), torch.full((1, 1, 1), float(s)), 1.0, rician=True)
            assert float(found) == pytest.approx(height, abs=0.2)


def test_the_mean_of_a_magnitude_is_that_of_its_law(generator):
    clean = torch.full((60, 60, 60), 0.8)
    assert float(rician_mean(clean, 1.0)[0, 0, 0]) == pytest.approx(
        float(noisy(clean, generator, 1.0).mean()), abs=5e-3
    )


@pytest.mark.parametrize("width", [0.1, 0.8, 1.7, 3.5])
def test_filtered_noise_is_standard_normal_inside_any_mask(width, generator):
    inside = ball((30, 28, 26), 40) > 0.5
    kernel = gaussian_kernel((width,) * 3)
    found = torch.cat([matched(torch.randn(SHAPE, generator=generator), inside, kernel)[inside] for _ in range(20)])
    assert float(found.std()) == pytest.approx(1, abs=0.04)
    edge = inside & ~torch.from_numpy(ndimage.binary_erosion(inside.numpy(), iterations=2))
    at_edge = [matched(torch.randn(SHAPE, generator=generator), inside, kernel)[edge] for _ in range(20)]
    assert float(torch.cat(at_edge).std()) == pytest.approx(1, abs=0.06)
    if width > 1:  # not normalised by the mask, the edge is quiet and the law sees it
        whole = torch.ones_like(inside)
        quiet = matched(torch.where(inside, torch.randn(SHAPE, generator=generator), 0), whole, kernel)[edge]
        assert float(quiet.std()) < 0.9


@pytest.mark.parametrize("width", [0.1, 0.7, 1.5, 3.0])
def test_the_chance_of_the_largest_is_uniform_under_pure_noise(width, generator):
    inside = torch.ones(24, 26, 28, dtype=torch.bool)
    inside[:6, :6] = False
    kernel, lattice = gaussian_kernel((width, width, 0.9 * width)), Lattice.of(inside)
    chances = []
    for _ in range(200):
        found = matched(torch.randn(inside.shape, generator=generator), inside, kernel)
        chances.append(chance_of_peak(float(found.abs().max()), lattice, kernel))
    small = np.mean(np.array(chances) < 0.1)
    assert 0.02 <= small <= 0.16  # 0.1 and three standard errors, or a little rarer: it may not promise too much
    assert np.mean(np.array(chances) < 0.5) <= 0.6
    loud = matched(1.2 * torch.randn(inside.shape, generator=generator), inside, kernel)
    assert chance_of_peak(float(1.2 * loud.abs().max()), lattice, kernel) < 0.05  # noise that is too strong


@pytest.mark.parametrize("width", [0.1, 0.8, 1.7])
def test_the_chance_of_the_spread_is_uniform_under_pure_noise(width, generator):
    inside = ball((30, 28, 26), 40) > 0.5
    kernel, lattice = gaussian_kernel((width,) * 3), Lattice.of(inside)
    found = [spread(matched(torch.randn(SHAPE, generator=generator), inside, kernel)[inside]) for _ in range(150)]
    chances = np.array([chance_of_spread(each, lattice, kernel) for each in found])
    for share in (0.02, 0.1, 0.3):
        assert np.mean(chances < share) <= share + 3 * np.sqrt(share / len(found))
    assert np.mean(chances < 0.4) > 0.15  # nor is it always 1
    assert chance_of_spread(1.5 * float(np.mean(found)), lattice, kernel) < 1e-4  # noise that is too strong
    assert chance_of_spread(0.7, lattice, kernel) == 1.0


def test_the_chance_falls_and_a_height_gives_it_back():
    lattice, kernel = Lattice.of(torch.ones(30, 30, 30, dtype=torch.bool)), gaussian_kernel((1.5,) * 3)
    chances = [chance_of_peak(height, lattice, kernel) for height in (2.0, 4.0, 5.0, 6.0, 9.0)]
    assert chances == sorted(chances, reverse=True)
    height = height_of(0.01, lambda h: chance_of_peak(h, lattice, kernel))
    assert chance_of_peak(height, lattice, kernel) == pytest.approx(0.01, rel=1e-3)


def test_intrinsic_volumes_are_those_of_a_box():
    found = Lattice.of(torch.ones(5, 6, 7, dtype=torch.bool)).volumes((1.0, 2.0, 3.0))
    a, b, c = 4 * 1.0, 5 * 2.0, 6 * 3.0
    assert found == pytest.approx((1.0, a + b + c, a * b + a * c + b * c, a * b * c))


def test_discoveries_keep_their_rate(generator):
    noise = torch.randn(100_000, generator=generator)
    assert discoveries(noise) < 1e-4
    noise[:2000] += 6
    assert discoveries(noise) == pytest.approx(0.02, rel=0.1)  # of 2,000 and at most 5 % more


def test_the_spread_does_not_heed_outliers(generator):
    noise = torch.randn(50_000, generator=generator)
    noise[:500] = 1000
    assert spread(noise) == pytest.approx(1, abs=0.03)


# ------------------------------------------------------------------------------------- the report


def test_a_right_answer_raises_no_flag(head, generator):
    report = judged(noisy(head, generator), head)
    assert report.flags == ()
    assert report.p > 0.01
    assert all(scale.spread == pytest.approx(1, abs=0.05) for scale in report.scales[:3])
    assert abs(report.blur_voxels) < 0.2
    assert report.rings.least > 0.8
    assert all(support == pytest.approx(1, abs=0.1) for support in report.rings.support[:3])
    assert "nowhere" in report.sentences[0]


@pytest.mark.parametrize("diameter", [3.0, 5.0, 9.0])
@pytest.mark.parametrize("sigmas", [3.0, -4.0])
def test_what_was_added_is_found(head, generator, diameter, sigmas):
    centre = (30, 28, 26)
    report = judged(noisy(head, generator), head + sigmas * LEVEL * ball(centre, diameter))
    flag = report.flags[0]
    assert len(report.flags) + report.more == 1
    assert flag.kind == "added"
    assert flag.bright == (sigmas > 0)
    assert np.linalg.norm(np.array(flag.centre_mm) - GRID.world(centre)) < 2
    assert diameter / 2 < flag.diameter_mm < 1.6 * diameter
    assert flag.amount == pytest.approx(sigmas * LEVEL, rel=0.35)
    assert np.sign(flag.z) == -np.sign(sigmas)
    assert report.p < 1e-6
    said = f"{'brighter' if sigmas > 0 else 'darker'} than its scan supports, as if something"
    assert said in report.sentences[0]
    assert "nowhere" not in " ".join(report.sentences)


@pytest.mark.parametrize(("diameter", "sigmas", "found"), [(3.0, 2.5, 1), (5.0, 1.2, 1), (3.0, 0.5, 0)])
def test_how_faint_an_addition_is_found(head, generator, diameter, sigmas, found):
    report = judged(noisy(head, generator), head + sigmas * LEVEL * ball((30, 28, 26), diameter))
    assert len(report.flags) == found


def test_what_was_removed_is_found(head, generator):
    lesion = 4 * LEVEL * ball((30, 28, 26), 5.0)
    report = judged(noisy(head + lesion, generator), head)
    assert [flag.kind for flag in report.flags] == ["removed"]
    assert report.flags[0].bright
    assert "darker than its scan supports, as if something bright was removed" in report.sentences[0]


def test_a_blur_is_measured(head, generator):
    scan = noisy(head, generator, 0.03)
    blurred = torch.from_numpy(ndimage.gaussian_filter(head.numpy(), 0.8))
    sharper = 2 * head - blurred
    assert judged(scan, blurred, 0.03).blur_voxels == pytest.approx(0.8, rel=0.1)
    assert judged(scan, sharper, 0.03).blur_voxels < -0.5


def test_an_answer_full_of_what_the_scan_lacks_has_little_support(head, generator):
    grain = torch.from_numpy(ndimage.gaussian_filter(np.random.default_rng(0).normal(size=SHAPE), 1.0))
    grain = (0.5 * LEVEL * grain / grain.std()).float()
    right, wrong = (judged(noisy(head, generator), answer).rings for answer in (head, head + grain))
    assert np.mean(wrong.support[1:]) < np.mean(right.support[1:]) - 0.1


def test_stronger_or_smoother_noise_than_told_raises_no_flags(head, generator):
    assert judged(noisy(head, generator, 2 * LEVEL), head).flags == ()
    smooth = ndimage.gaussian_filter(torch.randn(SHAPE, generator=generator).numpy(), 1.0)
    scan = head + torch.from_numpy(LEVEL * smooth / smooth.std()).float()
    report = judged(scan, head, rician=False)
    assert report.scales[2].spread > 2
    assert report.flags == ()
    assert report.everywhere
    assert "stronger or smoother than told" in report.sentences[0]
    found = judged(
        scan, head + 12 * LEVEL * ball((30, 28, 26), 6.0), rician=False
    )  # what is large enough is seen still
    assert [flag.kind for flag in found.flags] == ["added"]


def cloudy(head, sigmas):
    texture = torch.from_numpy(ndimage.gaussian_filter(np.random.default_rng(0).normal(size=SHAPE), 3.0)).float()
    return head + sigmas * LEVEL * texture / texture.std()


@pytest.mark.parametrize(
    "wrong",
    [
        lambda head: 0.5 * head,
        lambda head: 1.1 * head,
        lambda head: torch.full_like(head, 0.7),
        lambda head: torch.roll(head, (3, 3, 3), (0, 1, 2)),
        lambda head: cloudy(head, 3),
        lambda head: head + LEVEL * (head > 0.3),
    ],
    ids=["half as bright", "a tenth brighter", "a constant", "moved", "cloudy", "a little brighter"],
)
def test_an_answer_that_is_wrong_everywhere_is_said_to_be(wrong, head, generator):
    report = judged(noisy(head, generator), wrong(head))
    assert report.everywhere
    assert report.p < 1e-6
    assert "over the tissue as a whole" in report.sentences[0]
    assert "nowhere" not in " ".join(report.sentences)
    assert report.record()["everywhere"] is True
    assert -1 <= report.rings.least <= 1
    assert all(-1 <= support <= 1 for support in report.rings.support)


@pytest.mark.parametrize(("kept", "brighter"), [(0.0, 0.0), (0.2, 0.0), (0.5, 0.0), (0.0, 0.05)])
def test_an_answer_that_kept_some_noise_or_is_a_trace_brighter_is_not(kept, brighter, head, generator):
    scan = noisy(head, generator)
    report = judged(scan, head + kept * (scan - head) + brighter * LEVEL * (head > 0.3))
    assert not report.everywhere
    assert "nowhere" in report.sentences[0]


def test_a_level_for_every_voxel_is_heeded(head, generator):
    level = torch.linspace(0.5, 1.5, SHAPE[0])[:, None, None].expand(SHAPE) * LEVEL
    scan = noisy(head, generator, level)
    told, flat = judged(scan, head, level), judged(scan, head, LEVEL)
    assert told.flags == ()
    assert abs(told.scales[0].peak) < abs(flat.scales[0].peak)


def test_padding_and_masked_air_are_not_heeded(head, generator):
    scan = noisy(head, generator)
    scan[head < 0.3] = 0  # brain-extracted: no noise there
    inside = tissue(scan, head)
    assert not inside[scan == 0].any()
    assert judged(scan, head).flags == ()
    measured = np.ones(SHAPE, dtype=bool)
    measured[:30] = False
    assert not tissue(scan, head, measured=measured)[:30].any()
    hounsfield = tissue(1500 * head - 1000, 1500 * head - 1000, air=-500)
    assert bool(hounsfield[30, 28, 26])
    assert not bool(hounsfield[1, 1, 1])


@pytest.mark.parametrize("value", [-0.001, -0.3])
@pytest.mark.parametrize("rician", [True, False])
def test_a_single_lower_voxel_does_not_hide_a_masked_background(value, rician, head, generator):
    scan = noisy(head, generator, rician=rician)
    scan[head < 0.3] = 0
    wanted = tissue(scan, head)
    scan[1, 1, 1] = value
    assert torch.equal(tissue(scan, head), wanted)
    assert judged(scan, head, rician=rician).flags == ()
    scan[1, 1, 1] = 0
    scan[30, 28, 26] = value  # in tissue, where it is one odd voxel and no more
    assert int((tissue(scan, head) != wanted).sum()) == 0
    assert len(judged(scan, head, rician=rician).flags) <= 1


def test_bright_tissue_of_one_value_is_tissue(head):
    flat = torch.where(head > 0.3, 0.8, 0.0)
    assert tissue(flat, flat)[30, 28, 26]
    assert not tissue(flat, flat)[1, 1, 1]


def test_what_lies_below_zero_speaks_against_brighter_answers_alone(head):
    scan = head.clone()
    low = (head > 0) & (head < 0.2)
    scan[low] = -0.2
    assert int(low.sum()) > 100
    deviates = standardised(scan, head, LEVEL, rician=True)
    assert float(deviates[low].max()) <= 0
    assert float(deviates[low].min()) < -1
    darker = standardised(scan, head - 1, LEVEL, rician=True)
    assert float(darker[low].abs().max()) == 0
    assert float(standardised(scan, head - 1, LEVEL, rician=False)[low].min()) == 0  # all of them are at the lowest
    scan[low] -= 0.1 * torch.rand(int(low.sum()))
    assert float(standardised(scan, head - 1, LEVEL, rician=False)[low].max()) > 1  # without a law against it


# ----------------------------------------------------------------------------- scanners that darken their background


@pytest.fixture(scope="module")
def skull(head):
    """A head with a dark gap of 4 mm below an eighth of its scalp."""
    place = (np.indices(SHAPE) - np.array(SHAPE)[:, None, None, None] / 2) * np.array(SPACING)[:, None, None, None]
    radius = np.sqrt(np.square(place).sum(0))
    gap = (radius > 15) & (radius < 19) & (place > 0).all(axis=0)
    return head * torch.from_numpy(1 - ndimage.gaussian_filter(gap * 1.0, 0.5)).float()


GAP = (41, 39, 35)  # voxel in it


def lowered(scan):
    """As a scanner leaves it: darker where it is dark."""
    return torch.where(scan < 2 * LEVEL, scan * scan / (2 * LEVEL), scan)


def test_a_background_is_dark_that_noise_alone_would_make_brighter(skull, generator):
    scan = noisy(skull, generator)
    inside = tissue(scan, skull)
    assert not darkened(scan, skull, LEVEL, inside=inside)
    assert darkened(lowered(scan), skull, LEVEL, inside=inside)
    assert darkened(lowered(scan), skull, torch.full(SHAPE, LEVEL), inside=inside)
    assert not darkened(lowered(scan), skull + 2 * LEVEL, LEVEL, inside=inside)  # nothing in it is empty
    few = inside & (torch.cumsum((inside & (skull < LEVEL)).flatten(), 0).reshape(SHAPE) <= 900)
    assert not darkened(lowered(scan), skull, LEVEL, inside=few)


def test_a_right_answer_to_a_darkened_scan_raises_no_flag(skull, generator, monkeypatch):
    scan = lowered(noisy(skull, generator))
    assert judged(scan, skull).flags == ()
    monkeypatch.setattr(reports, "darkened", lambda *_, **__: False)
    assert len(judged(scan, skull).flags) > 3  # by a law that does not hold there


@pytest.mark.parametrize("sigmas", [4.0, -4.0])
@pytest.mark.parametrize("centre", [GAP, (30, 28, 26)])
def test_what_was_added_or_removed_is_found_in_a_darkened_scan(skull, generator, sigmas, centre):
    thing = 4 * LEVEL * ball(centre, 5.0)
    scan, answer = (skull, skull + thing) if sigmas > 0 else (skull + thing, skull)
    report = judged(lowered(noisy(scan, generator)), answer)
    assert 1 <= len(report.flags) + report.more <= 2
    assert np.sign(report.flags[0].z) == -np.sign(sigmas)
    assert np.linalg.norm(np.array(report.flags[0].centre_mm) - GRID.world(centre)) < 2


def test_what_is_bright_follows_the_law_in_a_darkened_scan_too(skull, generator):
    scan = noisy(skull, generator)
    law, other = (standardised(scan, skull, LEVEL, rician=True, darkened=dark) for dark in (False, True))
    bright = scan >= 2.5 * LEVEL
    assert torch.equal(law[bright], other[bright])
    plain = ((scan - skull) / LEVEL)[~bright]
    between = (law[~bright] <= 0) & (plain >= 0)  # of what is dark, any law between the two may hold
    assert 0.1 < float(between.float().mean()) < 0.9
    assert float(other[~bright][between].abs().max()) == 0
    assert torch.equal(other[~bright][~between], torch.where(plain < 0, plain, law[~bright])[~between])


def test_the_share_outside_is_a_tenth_of_a_right_answer(head, generator):
    sure, unsure = (judged(noisy(head, generator), head, deviation=torch.full(SHAPE, d)) for d in (0.0, 2 * LEVEL))
    assert sure.outside == pytest.approx(0.1, abs=0.005)
    assert unsure.outside > 0.8  # so wide a posterior would have left next to none of the noise


def test_without_noise_or_tissue_there_is_no_report(head):
    inside = torch.zeros(SHAPE, dtype=torch.bool)
    assert examined(head, head, level=LEVEL, rician=True, geometry=GRID, inside=inside) is None
    assert examined(head, head, level=0.0, rician=True, geometry=GRID, inside=~inside) is None


def test_a_slab_without_room_for_windows_is_judged_all_the_same(generator):
    grid = Geometry.regular((60, 60, 3), spacing_mm=(1, 1, 5))
    clean = torch.full(grid.shape, 0.8)
    answer = clean.clone()
    answer[28:33, 28:33, 1] += 5 * LEVEL
    scan = noisy(clean, generator)
    found = examined(scan, answer, level=LEVEL, rician=True, geometry=grid, inside=torch.ones(grid.shape) > 0)
    assert found is not None
    assert found[0].rings is None
    assert len(found[0].flags) == 1


def test_the_record_is_plain_json(head, generator):
    report = judged(noisy(head, generator), head + 4 * LEVEL * ball((30, 28, 26), 5.0))
    assert json.loads(json.dumps(report.record(), allow_nan=False))["flags"][0]["kind"] == "added"
    more = dataclasses.replace(report, more=7)
    assert more.sentences[-1] == "7 further such places"
