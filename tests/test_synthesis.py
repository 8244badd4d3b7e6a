"""The cascade: what is asked, what is refused, and that a case depends on its seed and number alone."""

from __future__ import annotations

import copy
import dataclasses
import functools

import numpy as np
import pytest
import torch
from scipy import ndimage
from whole_cases import COARSE, QUICK, ball, small_cascade, small_coarse

from medidiff.case import TISSUES
from medidiff.diffusion import ClassifierFree, generators_for, informed, karras
from medidiff.diffusion.atlas import Atlas, Expected
from medidiff.diffusion.samplers import dpmpp_2m
from medidiff.diffusion.whole import Asked, WholeDenoiser
from medidiff.errors import InputError, PriorError, SettingsError
from medidiff.prior.asking import Vocabulary
from medidiff.prior.coarse import CoarseCard, CoarsePrior
from medidiff.synthesis import Cascade, Effort, Finer, Mending, Request
from medidiff.synthesis.request import check_field, check_spacing, finer_shares
from medidiff.synthesis.tissue import labelled
from medidiff.volume import Geometry, Volume


@pytest.fixture(scope="module")
def cascade() -> Cascade:
    return small_cascade()


@pytest.fixture(scope="module")
def case(cascade):
    return cascade.draw(Request(contrast="T1w", age=30.0), 3, seed=5)


def test_a_case_is_a_whole_scan_with_its_labels_and_its_record(case):
    assert case.image.geometry == Geometry.regular((64, 64, 64))
    assert (case.image.data.dtype, case.labels.data.dtype) == (np.float32, np.uint8)
    assert case.label_names == TISSUES
    assert set(np.unique(case.labels.data)) <= {0, 1, 2, 3}
    assert dict(case.asked) == {"contrast": "T1w", "age": 30.0}
    assert case.provenance.synthetic
    assert set(case.provenance.prior) == {"tiny-coarse", "tiny-middle", "tiny"}


def test_a_case_depends_on_its_seed_and_number_alone(cascade, case):
    """The negative stands beside it: another number or another seed is another case."""
    request = Request(contrast="T1w", age=30.0)
    cascade.draw(request, 2, seed=5)
    again = small_cascade().draw(request, 3, seed=5)
    assert again.image.data.tobytes() == case.image.data.tobytes()
    assert again.labels.data.tobytes() == case.labels.data.tobytes()
    for number, seed in ((4, 5), (3, 6)):
        assert cascade.draw(request, number, seed=seed).image.data.tobytes() != case.image.data.tobytes()


@pytest.mark.parametrize("given", [False, True])
def test_threads_change_no_byte(cascade, given, monkeypatch):
    """Not where the shape is drawn, and not where it is fitted to a given map, of which a few steps say as much."""
    monkeypatch.setattr(Atlas, "fitted", functools.partialmethod(Atlas.fitted, steps=4))
    request = Request(contrast="T1w", age=30.0, spacing_mm=2.0, tissue=label_map() if given else None)
    before, drawn = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            drawn.append(cascade.draw(request, 3, seed=5))
    finally:
        torch.set_num_threads(before)
    assert drawn[0].image.data.tobytes() == drawn[1].image.data.tobytes()
    assert drawn[0].provenance == drawn[1].provenance


@pytest.mark.parametrize(("spacing", "shape"), [(4.0, 16), (2.0, 32), (1.0, 64), (0.9, 72)])
def test_the_spacing_says_how_many_priors_are_asked(cascade, spacing, shape):
    drawn = cascade.draw(Request(spacing_mm=spacing), 0, seed=0).image
    assert drawn.shape == (shape, shape, shape)
    assert drawn.geometry.spacing_mm == pytest.approx([spacing] * 3)


def test_a_field_of_view_is_the_middle_of_the_frame(cascade):
    whole, cut = (cascade.draw(Request(spacing_mm=2.0, field_mm=field), 1, seed=1) for field in (None, (20, 64, 32)))
    assert cut.image.shape == (10, 32, 16)
    first = np.rint(whole.image.geometry.index(cut.image.geometry.world((0, 0, 0)))).astype(int)
    inside = tuple(slice(a, a + n) for a, n in zip(first, cut.image.shape, strict=True))
    assert np.array_equal(whole.image.data[(slice(None), *inside)], cut.image.data)
    assert np.array_equal(whole.labels.data[(slice(None), *inside)], cut.labels.data)


@pytest.mark.parametrize(
    ("asked", "nearest"),
    [
        ({"age": 61.0}, "60"),
        ({"age": 3.0}, "20"),
        ({"age": float("nan")}, "60"),
        ({"sex": "f"}, "F"),
        ({"contrast": "T2w"}, "T1w"),
        ({"spacing_mm": 3.0}, "4"),
        ({"spacing_mm": 0.5}, "0.85"),
        ({"spacing_mm": 1.3}, "1.2"),
        ({"field_mm": (64.0, 64.0, 65.0)}, "64x64x64"),
    ],
)
def test_what_the_prior_does_not_know_is_refused_and_the_nearest_is_named(cascade, asked, nearest):
    with pytest.raises(SettingsError, match="E-ASKED") as caught:
        cascade.draw(Request(**asked), 0, seed=0)
    assert nearest in str(caught.value)


def test_what_the_prior_knows_is_not_refused():
    card = COARSE
    for age in card.vocabulary.ages:
        card.vocabulary.tell("T1w", age, "M")
    assert [check_spacing(side, card) for side in (4.0, 2.0, 1.2, 1.0, 0.85)] == [0, 1, 2, 2, 2]
    check_field((64.0, 64.0, 64.0), card)


@pytest.mark.parametrize("broken", [{"spacing_mm": 0.0}, {"spacing_mm": float("inf")}, {"field_mm": (1.0, -1.0, 1.0)}])
def test_lengths_that_are_none_are_refused(broken):
    with pytest.raises(SettingsError, match="E-SETTING"):
        Request(**broken)


def test_each_condition_is_told_apart_and_may_be_left_out():
    words = Vocabulary(("T1w", "T2w"), (20.0, 60.0), ("F", "M"))
    assert words.tell() == [0, 0, 0, 0, 0]
    assert words.tell("T2w", 20.0, "M") == [0, 1, -1, 1, 1]
    assert words.tell("T1w", 60.0, "F") == [1, 0, 1, 1, -1]
    assert len(words.tell()) == words.numbers


def test_guidance_of_one_changes_nothing_and_of_two_does():
    cascade, request = small_cascade(), Request(age=25.0, spacing_mm=4.0)
    plain = cascade.draw(request, 0, seed=0).image.data
    assert np.array_equal(cascade.draw(dataclasses.replace(request, guidance=1.0), 0, seed=0).image.data, plain)
    assert not np.array_equal(cascade.draw(dataclasses.replace(request, guidance=3.0), 0, seed=0).image.data, plain)


def label_map(*, spacing: float = 1.0, side: int = 64) -> Volume:
    head = ball(1, side=side)
    labels = (head.shares.numpy() // 255 * np.array([1, 2, 3], np.uint8)[:, None, None, None]).max(0)
    return Volume(labels, Geometry.regular((side,) * 3, spacing_mm=(spacing,) * 3))


def test_a_given_map_is_the_map_of_the_case(cascade):
    given = label_map()
    drawn = cascade.draw(Request(tissue=given), 0, seed=0)
    assert np.mean(drawn.labels.data == given.data) == 1.0
    free = cascade.draw(Request(), 0, seed=0)
    assert np.mean(free.labels.data == given.data) < 0.999


def test_a_given_map_moves_the_drawn_image():
    effort = Effort(8, QUICK.finer)
    maps = [Request(tissue=label_map(), spacing_mm=4.0), Request(spacing_mm=4.0)]
    given, free = (small_cascade(effort).draw(request, 0, seed=0).image.data for request in maps)
    assert not np.allclose(given, free)


@pytest.mark.parametrize("fill", [0, 7])
def test_a_map_of_other_labels_is_refused(cascade, fill):
    grid = Geometry.regular((64, 64, 64))
    with pytest.raises(InputError, match="E-LABELS"):
        cascade.check(Request(tissue=Volume(np.full(grid.shape, fill, np.uint8), grid)))


def test_a_map_elsewhere_is_stood_upright_in_the_frame(cascade):
    moved = label_map(side=48)
    affine = np.diag((-1.0, 1.0, 1.0, 1.0))
    affine[:3, 3] = (300.0, -20.0, 7.0)
    lying = Volume(moved.data, Geometry(moved.shape, affine))
    drawn = cascade.draw(Request(tissue=lying), 0, seed=0)
    assert np.count_nonzero(drawn.labels.data) == pytest.approx(np.count_nonzero(moved.data), rel=0.05)


def test_labels_follow_the_brightness_where_the_shares_leave_it_open():
    head = ball(2, side=64)
    image, sharp = head.image.float(), head.shares.float() / 255
    truth = (sharp * torch.tensor([1.0, 2.0, 3.0])[:, None, None, None]).amax(0)
    coarse = finer_shares(torch.nn.functional.avg_pool3d(sharp[None], 4)[0], Geometry.regular((64, 64, 64)))
    found = labelled(image, coarse).float()
    smooth = torch.cat([1 - coarse.sum(0, keepdim=True), coarse]).argmax(0).float()
    assert (found == truth).float().mean() > 0.985
    assert (smooth == truth).float().mean() < (found == truth).float().mean()


# --- the denoiser of whole heads ------------------------------------------------------------------------------------


class Silent(torch.nn.Module):
    def forward(self, x, c_noise):
        return torch.zeros_like(x[:, :2])


def nothing(mean: torch.Tensor, deviation: float) -> Asked:
    return Asked.nothing(Expected(mean, torch.full_like(mean, deviation)), 4)


SILENT = WholeDenoiser(Silent(), Atlas((8, 8, 8), (4, 4, 4), channels=2, modes=1))


def test_with_a_silent_network_draws_have_the_mean_and_the_spread_that_are_expected():
    mean = torch.linspace(0, 1, 8).reshape(1, 1, 8, 1, 1).expand(6, 2, 8, 8, 8)
    asked, denoiser = nothing(mean, 0.2), SILENT
    start = informed(mean, 4.0, generators_for(0, range(6)))
    drawn = dpmpp_2m(denoiser, start, karras(40, 0.005, 4.0), condition=asked)
    assert float((drawn - mean).mean()) == pytest.approx(0.0, abs=0.01)
    assert float((drawn - mean).std()) == pytest.approx(0.2, rel=0.05)


def test_what_is_given_is_kept():
    given = torch.rand((1, 2, 8, 8, 8))
    expected = nothing(torch.zeros_like(given), 1.0).expected
    certain = Asked(torch.zeros((1, 4)), given, torch.tensor([0.0, 1.0])[None, :, None, None, None], expected)
    answer = SILENT(torch.randn_like(given), torch.tensor(1.0), certain)
    assert torch.allclose(answer[:, 1], given[:, 1], atol=1e-2)
    assert not torch.allclose(answer[:, 0], given[:, 0], atol=1e-1)


def test_guidance_asks_the_denoiser_with_nothing_told():
    heard = []

    def listening(x, sigma, condition):
        heard.append((float(condition.told.abs().sum()), float(condition.certainty.sum())))
        return x

    full = torch.ones((1, 2, 8, 8, 8))
    asked = Asked(torch.ones((1, 4)), full, full, nothing(full, 1.0).expected)
    ClassifierFree(listening, 2.0)(torch.zeros((1, 2, 8, 8, 8)), torch.tensor(1.0), asked)
    assert heard[0] == (0.0, 0.0)
    assert heard[1] == (4.0, 1024.0)


def test_a_condition_of_another_shape_is_refused():
    with pytest.raises(SettingsError, match="E-CONDITION"):
        Asked(torch.zeros(4), torch.zeros((1, 2, 8, 8, 8)), torch.zeros(()), nothing(torch.zeros(1), 1.0).expected)


# --- the prior on disk ----------------------------------------------------------------------------------------------


def test_a_coarse_prior_comes_back_from_disk(tmp_path):
    prior = small_coarse()
    back = CoarsePrior.load(prior.save(tmp_path))
    assert dataclasses.replace(back.card, weights_sha256="") == prior.card
    for name, tensor in prior.denoiser.state_dict().items():
        assert torch.equal(back.denoiser.state_dict()[name], tensor.half().float())


def test_a_broken_coarse_prior_is_refused(tmp_path):
    path = small_coarse().save(tmp_path)
    weights = path.with_suffix(".safetensors")
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(PriorError, match="E-WEIGHTS"):
        CoarsePrior.load(path)
    with pytest.raises(PriorError, match="E-PRIOR"):
        CoarsePrior.load("no-such-prior")
    with pytest.raises(PriorError, match="E-CARD"):
        CoarseCard.from_json(path.read_text().replace('"kind": "coarse"', '"kind": "fine"'))


def test_a_card_of_another_network_is_refused(tmp_path):
    path = small_coarse().save(tmp_path)
    path.write_text(path.read_text().replace('"shape": [\n    16', '"shape": [\n    24'))
    with pytest.raises(PriorError, match="E-WEIGHTS"):
        CoarsePrior.load(path)


def test_a_cascade_without_its_finer_priors_is_refused():
    with pytest.raises(PriorError, match="E-PRIOR"):
        Cascade(small_coarse(), finer=(), device="cpu")
    with pytest.raises(SettingsError, match="E-SETTING"):
        Effort(coarse=0)
    with pytest.raises(SettingsError, match="E-SETTING"):
        Effort(samplers=("heun", "guesswork"))
    with pytest.raises(SettingsError, match="E-SETTING"):
        Effort(finer=())


@pytest.mark.parametrize("wrong", [{"noise": 0.0}, {"start": 0.005}, {"last": 0.0}, {"steps": 0}])
def test_a_finer_draw_out_of_range_is_refused(wrong):
    with pytest.raises(SettingsError, match="E-SETTING"):
        Finer(**wrong)


@pytest.mark.parametrize("wrong", [{"noise": 0.01}, {"last": 0.0}, {"steps": 0}, {"told": 0.3}, {"told": 1.2}])
def test_a_mending_out_of_range_is_refused(wrong):
    with pytest.raises(SettingsError, match="E-SETTING"):
        Mending(**wrong)


def test_each_stage_draws_with_a_sampler_of_its_own():
    def drawn(*samplers, spacing_mm=4.0):
        effort = Effort(4, (Finer(),), samplers=samplers)
        return small_cascade(effort).draw(Request(spacing_mm=spacing_mm), 0, seed=0).image.data

    assert np.array_equal(drawn("ancestral", "heun"), drawn("ancestral", "euler"))
    assert not np.array_equal(drawn("ancestral"), drawn("heun"))
    assert not np.array_equal(drawn("euler", "euler", spacing_mm=2.0), drawn("euler", "ancestral", spacing_mm=2.0))


def mended(noise: float | None, told: float = 1.0) -> np.ndarray:
    """What the finer stage makes of one coarse draw, in coarse voxels, with a denoiser that only smooths."""
    silent = []
    for prior in small_cascade().finer:
        untrained = copy.deepcopy(prior.denoiser)  # answers what the preconditioning knows, a smooth explanation
        for parameter in untrained.backbone.parameters():
            parameter.zero_()
        silent.append(dataclasses.replace(prior, denoiser=untrained))
    mending = None if noise is None else Mending(noise, told=told)
    effort = Effort(2, (Finer(mending=mending),))
    cascade = Cascade(small_coarse(), finer=silent, effort=effort, device="cpu")
    return eighths(cascade.draw(Request(spacing_mm=2.0), 0, seed=0).image.data[0])


def test_what_is_mended_with_more_noise_wanders_further_from_the_coarse_draw():
    coarse = small_cascade().draw(Request(spacing_mm=4.0), 0, seed=0).image.data[0]
    inside = ndimage.binary_erosion(coarse > 0.3)  # the mask of the head is another where it was drawn anew
    off = [(mended(noise) - coarse)[inside] for noise in (None, 0.1, 0.4)]
    sizes = [float(np.sqrt(np.mean(np.square(each)))) for each in off]
    assert sizes == sorted(sizes), sizes


def test_a_prior_that_is_told_of_less_noise_leaves_more_detail():
    """The spread of what is left after a smooth denoiser grows as it is told of less of the noise."""
    coarse = small_cascade().draw(Request(spacing_mm=4.0), 0, seed=0).image.data[0]
    inside = ndimage.binary_erosion(coarse > 0.3)
    detail = [image - ndimage.uniform_filter(image, 3) for image in (mended(0.2, told) for told in (1.0, 0.9, 0.7))]
    spreads = [float(each[inside].std()) for each in detail]
    assert spreads == sorted(spreads), spreads


def test_what_is_drawn_to_a_given_map_is_not_mended():
    efforts = [Effort(2, (Finer(steps=1, mending=mending),)) for mending in (None, Mending(steps=1))]

    def drawn(**asked):
        request = Request(spacing_mm=2.0, **asked)
        return [small_cascade(effort).draw(request, 0, seed=0).image.data for effort in efforts]

    assert np.array_equal(*drawn(tissue=label_map()))
    assert not np.array_equal(*drawn())


def eighths(image):
    """Means of 2 x 2 x 2 voxels."""
    i, j, k = (n // 2 for n in image.shape)
    return image.reshape(i, 2, j, 2, k, 2).mean((1, 3, 5))
