"""Training heads: packs, variations, and a coarse prior that is trained, killed and resumed."""

from __future__ import annotations

import dataclasses
import gzip
import importlib
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from small_prior import CARD, small_prior
from training_cases import to_toml
from whole_cases import COARSE_TINY, KNOTS, SHAPE, ball, plain_atlas

from medidiff import io
from medidiff.diffusion.backbone import BackboneShape
from medidiff.diffusion.whole import whole_loss
from medidiff.errors import PriorError, SettingsError
from medidiff.physics.bending import knots_like, places, seen_from, spline
from medidiff.prior import build_denoiser
from medidiff.prior.coarse import CoarsePrior, whole_backbone
from medidiff.training.chance import Chance
from medidiff.training.coarse import _untrained, begin_with
from medidiff.training.coarse_recipe import CoarseRecipe, Variation, read_any
from medidiff.training.fit import FitState, fit
from medidiff.training.heads import Heads, about, read_atlas, read_heads, vary, worn, write_heads
from medidiff.training.loop import Finished, Started, Step, Validated
from medidiff.training.run import count_scans, train
from medidiff.volume import Geometry, Volume

MOVED = Variation(turn_deg=15.0, stretch=0.1, shift_mm=6.0, bend_mm=3.0, gain=0.0, gamma=0.0, bias=0.0)
STILL = Variation(mirrored=0.0, turn_deg=0.0, stretch=0.0, shift_mm=0.0, bend_mm=0.0, gain=0.0, gamma=0.0, bias=0.0)


@pytest.fixture(scope="module")
def pack(tmp_path_factory):
    path = tmp_path_factory.mktemp("heads") / "heads.safetensors"
    write_heads(path, {"train": [ball(0), ball(1), ball(2)], "validation": [ball(3)]}, plain_atlas())
    return path


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "coarse.toml"
    path.write_text(to_toml(COARSE_TINY))
    return path


@pytest.fixture(scope="module")
def recipe(case) -> CoarseRecipe:
    return read_any(case)


def test_a_pack_gives_back_its_heads(pack):
    found = read_heads(pack, part="train")
    for head, wanted in zip(found, [ball(0), ball(1), ball(2)], strict=True):
        assert torch.equal(head.image, wanted.image)
        assert torch.equal(head.shares, wanted.shares)
        assert (head.contrast, head.age, head.sex, head.sha256) == ("T1w", wanted.age, wanted.sex, wanted.sha256)
    vocabulary, _ = about(found)
    assert (vocabulary.contrasts, vocabulary.ages, vocabulary.sexes) == (("T1w",), (20.0, 40.0), ("F", "M"))


def test_a_broken_pack_is_refused(pack, tmp_path):
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(pack.read_bytes()[:-1])
    with pytest.raises(SettingsError, match="E-PACK"):
        read_heads(broken, part="train")
    write_heads(broken, {"train": [dataclasses.replace(ball(0), shares=ball(0).shares[:2])]}, plain_atlas())
    with pytest.raises(SettingsError, match="E-PACK"):
        read_heads(broken, part="train")
    write_heads(broken, {"train": [ball(0)]}, plain_atlas())
    with pytest.raises(SettingsError, match="E-PACK"):
        read_heads(broken, part="validation")


def test_heads_of_another_frame_are_refused(recipe):
    with pytest.raises(SettingsError, match="E-PACK"):
        Heads([ball(0, side=16)], plain_atlas(), recipe, about([ball(0)])[0])
    with pytest.raises(SettingsError, match="E-PACK"):
        Heads([dataclasses.replace(ball(0), knots=torch.zeros(3, 4, 4, 4))], plain_atlas(), recipe, about([ball(0)])[0])


def fine(seed: int = 0) -> torch.Tensor:
    return torch.cat([ball(seed).image.float()[None], ball(seed).shares.float() / 255])


def varied_by(head: torch.Tensor, variation: Variation, number: int = 0) -> torch.Tensor:
    return vary(head, variation, spacing_mm=2.0, chance=Chance(0, number))[0]


def test_no_variation_changes_nothing_and_each_kind_does():
    head = fine()
    assert torch.allclose(varied_by(head, STILL), head, atol=1e-5)
    for kind in ("turn_deg", "stretch", "shift_mm", "bend_mm", "gain", "gamma", "bias"):
        varied = varied_by(head, dataclasses.replace(STILL, **{kind: 0.5}))
        assert not torch.allclose(varied, head, atol=1e-3), kind


def test_a_mirror_is_left_for_right():
    mirrored = varied_by(fine(), dataclasses.replace(STILL, mirrored=1.0))
    assert torch.allclose(mirrored, fine().flip(1), atol=1e-5)


def test_a_shift_is_in_millimetres():
    shifts = []
    for number in range(64):
        varied = varied_by(fine(), dataclasses.replace(STILL, shift_mm=4.0), number)
        at = torch.arange(32.0)
        shifts.append(float((varied[3].sum((1, 2)) * at).sum() / varied[3].sum()))
    assert np.std(shifts) * 2.0 == pytest.approx(4.0, rel=0.25)


def test_the_atlas_is_bent_to_every_variation(recipe):
    """The head of the atlas itself is expected as it is, however it was turned and bent; unbent it would not be."""
    heads = Heads([ball(0)], plain_atlas(), dataclasses.replace(recipe, variation=MOVED), about([ball(0)])[0])
    for number in range(3):
        state, expected = heads.state(number)
        off = float((state - expected.mean[0]).square().mean().sqrt())
        assert off < 0.4 * float((state - heads.atlas.mean).square().mean().sqrt())


def _knots(seed: int) -> torch.Tensor:
    """Of a shape, in voxels of the finer frame."""
    return torch.randn((3, 7, 7, 7), generator=torch.Generator().manual_seed(seed))


def test_a_worn_shape_is_the_other_heads():
    """What the one head shows at a place of the atlas the other shape shows there too; without going back not."""
    own, other, shape = _knots(1), _knots(2), (32, 32, 32)
    at = places(shape, own)
    inside = at.abs().amax(0) < 10

    def apart(place: torch.Tensor) -> float:
        there = place + seen_from(spline(own, shape), place)
        return float((there - at - spline(other, shape)).norm(dim=0)[inside].max())

    assert apart(worn(own, other, shape)) < 0.02
    assert apart(at + spline(other, shape) - spline(own, shape)) > 0.1


def test_a_head_in_its_own_shape_is_as_it_was():
    assert torch.allclose(worn(_knots(1), _knots(1), (32, 32, 32)), places((32, 32, 32), _knots(1)), atol=1e-4)


def test_the_atlas_follows_a_head_into_another_shape(recipe):
    """A small ball and a large one, each on its way to the other: what is expected of them goes along."""
    at = places((32, 32, 32), torch.zeros(1))
    seen = seen_from(fine(), 0.8 * at)
    knots = -0.2 * knots_like(places(SHAPE, at), KNOTS)
    large = dataclasses.replace(ball(0), image=seen[0].half(), shares=(255 * seen[1:]).to(torch.uint8), knots=knots)
    variation = dataclasses.replace(STILL, reshaped=1.0)
    told = dataclasses.replace(recipe, variation=variation)
    heads = Heads([ball(0), large], plain_atlas(), told, about([ball(0)])[0])
    states = [heads.state(number) for number in range(16)]
    apart = [float((state - expected.mean[0]).square().mean().sqrt()) for state, expected in states]
    unmoved = [float((state - heads.atlas.mean).square().mean().sqrt()) for state, _ in states]
    sizes = [float((state[0] > 0.1).sum()) for state, _ in states]
    assert max(sizes) > 1.4 * min(sizes)
    assert np.mean(apart) < 0.3 * np.mean(unmoved)


def test_tissue_moves_with_the_image():
    varied = varied_by(fine(), Variation(bias=0.0, gain=0.0, gamma=0.0), 2)
    bright = varied[0] > 0.9
    assert float(varied[3][bright].mean()) > 0.95
    assert float(fine()[3][bright].mean()) < float(varied[3][bright].mean())


def test_a_head_depends_on_its_number_alone(recipe):
    heads = Heads([ball(0), ball(1)], plain_atlas(), recipe, about([ball(0), ball(1)])[0])
    one, many = heads.batch([5]), heads.batch([3, 5, 9])
    assert torch.equal(one.x[0], many.x[1])
    assert torch.equal(one.state[0], many.state[1])
    assert torch.equal(one.condition.told[0], many.condition.told[1])
    assert not torch.equal(many.x[0], many.x[1])
    state, expected = heads.state(5)
    assert torch.equal(state, one.x[0])
    assert torch.equal(expected.mean, one.condition.expected.mean)
    assert torch.equal(many.condition.expected.deviation[1], one.condition.expected.deviation[0])


def test_conditions_are_left_out_as_often_as_the_recipe_says(recipe):
    heads = Heads([ball(1)], plain_atlas(), dataclasses.replace(recipe, variation=STILL), about([ball(0), ball(1)])[0])
    told = heads.batch(range(300)).condition
    assert float((told.told[:, 2] == 0).float().mean()) == pytest.approx(1 - 0.9**2, abs=0.06)
    assert float(told.certainty[:, 1, 0, 0, 0].mean()) == pytest.approx(recipe.asked.tissue, abs=0.07)
    assert float(told.certainty[:, 0, 0, 0, 0].mean()) == pytest.approx(recipe.asked.image, abs=0.04)


def test_a_run_is_killed_and_goes_on(case, pack, tmp_path, monkeypatch):
    monkeypatch.setattr("medidiff.training.loop._SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    whole = list(train(case, tmp_path / "whole", data=pack))
    assert isinstance(whole[0], Started)
    assert isinstance(whole[-1], Finished)
    looked = [event for event in whole if isinstance(event, Validated)]
    assert [event.images for event in looked] == [6, 12]
    assert set(looked[0].scores) == {"rmse_image_sigma_30", "rmse_tissue_sigma_30"}
    assert set(looked[0].pictures) == {"drawn 1", "drawn 2", "atlas 1", "atlas 2", "held back"}
    for event in train(case, tmp_path / "killed", data=pack):
        if isinstance(event, Step) and event.images == 8:
            break
    rest = list(train(case, tmp_path / "killed", data=pack))
    losses = {event.images: event.loss for event in whole if isinstance(event, Step)}
    assert {e.images: e.loss for e in rest if isinstance(e, Step)} == {n: losses[n] for n in losses if n > 6}
    priors = [CoarsePrior.load(tmp_path / name / "tiny-coarse.json") for name in ("whole", "killed")]
    assert priors[0].card == priors[1].card
    assert priors[0].card.images == 12
    assert priors[0].card.heads == 3


def test_training_lowers_the_loss(recipe):
    heads = [ball(0), ball(1)]
    atlas = plain_atlas()
    atlas.mean.zero_()  # what is not expected is left to learn
    atlas.deviation.fill_(0.3)
    batches = Heads(heads, atlas, recipe, about(heads)[0])
    longer = dataclasses.replace(recipe.fit, images=120, warmup=10, cooldown=0.5)
    state = FitState(recipe, denoiser=_untrained(recipe, batches.vocabulary, atlas, None))
    watched = batches.batch(range(1000, 1008))

    def error() -> float:
        with torch.no_grad():
            args = {"sigma": watched.sigma, "state": watched.state}
            return float(whole_loss(state.denoiser, watched.x, watched.condition, **args).mean())

    before = error()
    for _ in fit(state, batches, longer, loss=whole_loss):
        pass
    assert error() < before - 0.05


def test_a_coarse_recipe_wants_a_pack(case, recipe, pack):
    with pytest.raises(SettingsError, match="E-PACK"):
        next(train(case, case.parent, data=case.parent))
    assert count_scans(recipe, case.parent, pack, part="train") == 3


def test_a_run_begins_with_what_a_fine_prior_knows(case, recipe):
    """The grown network answers for the image as the fine one does, shown the bent mean; the rest is silent."""
    start, batches = small_prior(), Heads([ball(0)], plain_atlas(), recipe, about([ball(0), ball(1)])[0])
    denoiser = _untrained(recipe, batches.vocabulary, plain_atlas(), None, start)
    batch = batches.batch([0, 1])
    fed = []
    denoiser.backbone.register_forward_hook(lambda module, inputs, answer: fed.append((inputs[0], answer)))
    level = torch.tensor([0.3, 1.0])
    denoiser(batch.state, level, batch.condition)
    maps, answer = fed[0]
    own = torch.cat([maps[:, :4], maps[:, 14:16]], dim=1)
    c_noise = -0.5 * torch.log1p(level.pow(-2))
    assert torch.allclose(start.denoiser.backbone(own, c_noise), answer[:, :1], atol=1e-5)
    assert not bool(answer[:, 1:].any())
    shape = BackboneShape((8, 8), (1, 1, 1))
    with pytest.raises(PriorError, match="E-START"):
        begin_with(whole_backbone(shape, 4, batches.vocabulary), dataclasses.replace(start, denoiser=wider()))


def wider():
    return build_denoiser(dataclasses.replace(CARD, channels=(24, 32)))


def test_a_recipe_with_a_frame_that_does_not_halve_is_refused(tmp_path):
    path = tmp_path / "odd.toml"
    odd = json.loads(json.dumps(COARSE_TINY))
    odd["data"]["shape"] = [16, 16, 12]
    path.write_text(to_toml(odd))
    with pytest.raises(SettingsError, match="E-RECIPE"):
        read_any(path)


@pytest.fixture
def data(tmp_path):
    """A data folder with three scans, a table of participants, a split and a recipe."""
    for number, name in enumerate(("one", "two", "three")):
        grid = Geometry.regular((32, 32, 32), spacing_mm=(2.0, 2.0, 2.0))
        noise = np.random.default_rng(number).normal(0, 0.02, grid.shape)
        image = ball(number).image.float().numpy()
        io.write(Volume((image + (image > 0) * noise).astype(np.float32), grid, "MR"), tmp_path / f"{name}.nii.gz")
    (tmp_path / "p.tsv").write_text("participant_id\tage\tgender\none\t31\tf\ntwo\t52\tm\nthree\t40\tf\n")
    (tmp_path / "split.toml").write_text('[s]\ntrain = ["one", "three"]\nvalidation = ["two"]\n')
    (tmp_path / "coarse.toml").write_text(
        to_toml(COARSE_TINY | {"data": COARSE_TINY["data"] | {"split": "split.toml"}})
    )
    return tmp_path


def prepare(monkeypatch, *words) -> int:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "pipelines"))
    for name in ("prepare", "heads", "cohort"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    script = importlib.import_module("prepare")
    monkeypatch.setattr(script.Cohort, "log", lambda cohort, uri, home: 7 if cohort.refusals else 0)
    return script.main([*map(str, words)])


def test_scans_are_packed_as_heads_with_their_tissue(data, monkeypatch):
    packed = data / "heads.safetensors"
    assert prepare(monkeypatch, data / "coarse.toml", packed, "--data", data) == 0
    (trained, other), (watched,) = (read_heads(packed, part=part) for part in ("train", "validation"))
    assert (trained.age, trained.sex, watched.age, watched.sex) == (31.0, "F", 52.0, "M")
    assert trained.knots.shape == other.knots.shape == read_atlas(packed).centre.shape
    assert not torch.equal(trained.knots, other.knots)
    truth = ball(0).shares > 0
    for found, wanted in zip(trained.shares > 0, truth, strict=True):
        assert 2 * float((found & wanted).sum()) / float(found.sum() + wanted.sum()) > 0.7  # half a voxel off


def test_a_scan_under_another_name_in_other_bytes_is_packed_once(data, monkeypatch, capsys):
    packed = (data / "one.nii.gz").read_bytes()
    (data / "again.nii.gz").write_bytes(gzip.compress(gzip.decompress(packed), 1))
    assert (data / "again.nii.gz").read_bytes() != packed
    (data / "p.tsv").write_text((data / "p.tsv").read_text() + "again\t44\tm\n")
    (data / "split.toml").write_text('[s]\ntrain = ["one", "again", "three"]\nvalidation = ["two"]\n')
    packed = data / "heads.safetensors"
    assert prepare(monkeypatch, data / "coarse.toml", packed, "--data", data) == 0
    assert "packed 2 for train, 1 for validation, 1 repeats left out" in capsys.readouterr().out
    assert [head.age for head in read_heads(packed, part="train")] == [31.0, 40.0]


def test_a_scan_is_the_same_whatever_its_last_digits_and_labels_come_to(data, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "pipelines"))
    heads = importlib.import_module("heads")
    frame, source = Geometry.regular((32, 32, 32), spacing_mm=(2, 2, 2)), SimpleNamespace(contrast="T1w")
    first, tissue, see = heads.head(data / "one.nii.gz", frame, source, (31.0, "F")), heads.tissue, heads.see_in_frame
    monkeypatch.setattr(heads, "tissue", lambda image: np.roll(tissue(image), 1, axis=0))
    monkeypatch.setattr(heads, "see_in_frame", lambda volume, at: see(volume.with_data(1.0001 * volume.data), at))
    second = heads.head(data / "one.nii.gz", frame, source, (31.0, "F"))
    assert not torch.equal(first.shares, second.shares)
    assert first.sha256 == second.sha256
    assert first.sha256 != heads.head(data / "two.nii.gz", frame, source, (31.0, "F")).sha256


def test_there_is_no_atlas_of_a_single_head(data, monkeypatch, capsys):
    (data / "split.toml").write_text('[s]\ntrain = ["one"]\nvalidation = ["two"]\n')
    assert prepare(monkeypatch, data / "coarse.toml", data / "heads.safetensors", "--data", data) != 0
    assert "E-PACK" in capsys.readouterr().err


def test_a_pack_without_its_atlas_is_refused(pack, tmp_path):
    assert torch.equal(read_atlas(pack).mean, plain_atlas().mean)
    path = tmp_path / "broken.safetensors"
    write_heads(path, {"train": [ball(0)]}, torch.nn.Linear(1, 1))
    with pytest.raises(SettingsError, match="E-PACK"):
        read_atlas(path)


def test_a_scan_without_tissue_is_not_packed(data, monkeypatch, capsys):
    grid = Geometry.regular((32, 32, 32), spacing_mm=(2.0, 2.0, 2.0))
    flat = (ball(0).image > 0).float().numpy()
    io.write(Volume(flat, grid, "MR"), data / "one.nii.gz")
    assert prepare(monkeypatch, data / "coarse.toml", data / "heads.safetensors", "--data", data) != 0
    assert "E-LABELS" in capsys.readouterr().err
    assert not (data / "heads.safetensors").exists()
