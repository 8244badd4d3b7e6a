"""Another contrast as a measurement: the curve, the pairs that are trained on, and what is drawn from a scan."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from contrast_cases import CURVE, contrast_prior, other, recipe_text, write_pairs
from training_cases import PREPARE, phantom, script, to_toml

import medidiff as md
from medidiff.diffusion import Condition, observe_contrast
from medidiff.errors import InputError, PriorError, SettingsError
from medidiff.physics.contrast import Curve, fit_curve
from medidiff.prior import Card, Prior
from medidiff.training.coarse_recipe import read_any
from medidiff.training.contrast import Pair, Pairs, curve_of, in_one_frame, load_pairs
from medidiff.training.contrast_recipe import ContrastRecipe
from medidiff.training.run import Finished, Validated, train
from medidiff.translation import translate
from medidiff.volume import Geometry, Volume
from tests.small_prior import small_prior


def bent(y: np.ndarray) -> np.ndarray:
    return 0.9 * np.sin(2.5 * y)


# --- the curve ------------------------------------------------------------------------------------------------------


def brightness(count: int = 100_000) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    y = rng.uniform(0, 1.25, count)
    return y, bent(y) + (0.05 + 0.1 * y) * rng.normal(size=count)


def off(curve: Curve, y: np.ndarray) -> tuple[float, float]:
    """Largest errors of mean and spread at some brightness."""
    at = torch.from_numpy(y)
    mean, spread = curve.mean(at).numpy() - bent(y), curve.spread(at).numpy() - (0.05 + 0.1 * y)
    return float(np.abs(mean).max()), float(np.abs(spread).max())


def test_a_curve_is_the_mean_and_the_spread_at_every_brightness():
    mean, spread = off(fit_curve(*brightness()), np.linspace(0.05, 1.2, 50))
    assert mean < 0.02
    assert spread < 0.02


def test_scans_of_two_people_have_no_such_curve():
    """The negative: voxels that are not the same places."""
    y, x = brightness()
    mean, _ = off(fit_curve(y, np.random.default_rng(1).permutation(x)), np.linspace(0.05, 1.2, 50))
    assert mean > 0.2


@pytest.mark.parametrize(
    ("y", "x", "code"),
    [
        (np.ones(100), np.ones(99), "E-SHAPE"),
        (np.ones(100), np.full(100, np.nan), "E-NONFINITE"),
        (np.ones(100), np.ones(100), "E-FLAT"),
    ],
)
def test_what_makes_no_curve_is_refused(y, x, code):
    with pytest.raises(InputError) as refusal:
        fit_curve(y, x)
    assert refusal.value.code == code


@pytest.mark.parametrize(
    "broken",
    [
        (0, 1, (1.0,), (1.0,)),
        (0, 1, (1.0, 2.0), (1.0,)),
        (1, 0, (1.0, 2.0), (1.0, 1.0)),
        (0, 1, (1.0, 2.0), (0.0, 1.0)),
    ],
)
def test_numbers_that_are_no_curve_are_refused(broken):
    with pytest.raises(ValueError, match="wanted"):
        Curve(*broken)


def test_the_network_is_told_of_every_voxel_with_what_its_brightness_leaves_open():
    y = torch.rand((1, 1, 4, 4, 4), generator=torch.Generator().manual_seed(0))
    told = observe_contrast(y, CURVE)
    assert torch.equal(told.image, CURVE.mean(y))
    assert torch.equal(told.noise, CURVE.spread(y))
    assert bool((told.certainty == 1).all())
    assert torch.equal(told.stairs, y)


# --- the pairs ------------------------------------------------------------------------------------------------------


def a_pair(*, shift: int = 0) -> Pair:
    """One brightness a curve of the other, at the same places or some voxels away."""
    y = torch.from_numpy(phantom(0).data[0] / np.float32(700))
    x = torch.from_numpy(bent(y.numpy()))
    return Pair(x.roll(shift, 0), y, (y > 0.3).nonzero(), 1.0, "0")


@pytest.fixture
def recipe(tmp_path) -> ContrastRecipe:
    exact = {"gain": [1.0, 1.0], "noise": [1e-6, 1e-6], "nothing": 0.0}
    path = tmp_path / "recipe.toml"
    path.write_text(recipe_text(measured=exact))
    read = read_any(path)
    assert isinstance(read, ContrastRecipe)
    return read


def mismatch(pair: Pair, recipe: ContrastRecipe) -> float:
    curve = curve_of([a_pair()])
    batch = Pairs([pair], curve, recipe).batch(range(6))
    return float((batch.condition.image - batch.x).abs().mean())


def test_both_contrasts_of_a_patch_are_the_same_places_held_the_same_way(recipe):
    assert mismatch(a_pair(), recipe) < 0.02


def test_contrasts_two_voxels_apart_would_be_noticed(recipe):
    assert mismatch(a_pair(shift=2), recipe) > 0.05


def test_a_patch_is_a_function_of_its_number(recipe):
    pairs = Pairs([a_pair()], CURVE, recipe)
    alone, beside = pairs.batch([3]), pairs.batch([1, 3])
    assert torch.equal(alone.x[0], beside.x[1])
    assert torch.equal(alone.state[0], beside.state[1])
    assert not torch.equal(beside.x[0], beside.x[1])


def test_a_patch_of_which_nothing_was_measured_is_the_null_condition(recipe):
    blank = dataclasses.replace(recipe, measured=dataclasses.replace(recipe.measured, nothing=1.0))
    batch = Pairs([a_pair()], CURVE, blank).batch([0, 1])
    null = Condition.null(batch.x)
    assert torch.equal(batch.condition.image, null.image)
    assert torch.equal(batch.condition.certainty, null.certainty)
    assert torch.equal(batch.condition.noise, null.noise)
    assert not bool(batch.condition.stairs.any())
    assert bool(torch.isfinite(batch.sigma).all())  # of nothing there is no posterior mean to learn


def test_contrasts_on_two_grids_are_refused(tmp_path):
    path = write_pairs(tmp_path)
    scan = md.read(tmp_path / "scans/one/FLAIR.nii.gz")
    affine = scan.geometry.affine.copy()
    affine[0, 3] += 1
    md.write(dataclasses.replace(scan, geometry=Geometry(scan.shape, affine)), tmp_path / "scans/one/FLAIR.nii.gz")
    with pytest.raises(InputError) as refusal:
        load_pairs(read_any(path), tmp_path, None, part="train")
    assert refusal.value.code == "E-GRID"


def two_contrasts() -> tuple[Volume, Volume]:
    """A ball, and the same ball in a contrast that shows a rind on one side of it as well."""
    places = np.stack(np.meshgrid(*[np.arange(24.0)] * 3, indexing="ij"))
    ball = (((places - 11) ** 2).sum(0) < 36).astype(np.float32)
    rind = (((places - 11) ** 2).sum(0) < 90) & (places[0] > 17)
    grid = Geometry.regular((24, 24, 24))
    return Volume(ball, grid, "MR"), Volume(ball + 0.5 * rind, grid, "MR")


def overlap(first: np.ndarray, second: np.ndarray) -> float:
    a, b = first > 0.75, second > 0.75
    return 2 * float((a & b).sum()) / float(a.sum() + b.sum())


def test_contrasts_are_moved_to_larger_voxels_alike():
    ball, with_rind = two_contrasts()
    assert overlap(*in_one_frame([ball, with_rind], 2.0, file="x")) == 1.0


def test_contrasts_that_are_moved_each_by_itself_come_apart():
    """The negative: another bounding box is another middle."""
    alone = [in_one_frame([volume], 2.0, file="x")[0] for volume in two_contrasts()]
    assert overlap(*alone) < 0.9


def test_slices_of_a_scan_are_no_pair(tmp_path):
    path = write_pairs(tmp_path)
    (tmp_path / "split.toml").write_text(to_toml({"people": {"train": ["one[0:12]"], "validation": [], "test": []}}))
    with pytest.raises(SettingsError) as refusal:
        load_pairs(read_any(path), tmp_path, None, part="train")
    assert refusal.value.code == "E-SPLIT"


# --- the run --------------------------------------------------------------------------------------------------------


def weights(folder) -> bytes:
    return (folder / "tiny-contrast.safetensors").read_bytes()


def test_a_run_leaves_a_prior_that_knows_its_curve_and_goes_on_where_it_stopped(tmp_path):
    whole = write_pairs(tmp_path)
    events = list(train(whole, tmp_path / "whole"))
    finished, looks = events[-1], [event for event in events if isinstance(event, Validated)]
    assert isinstance(finished, Finished)
    assert set(looks[-1].scores) == {"psnr_db_fit", "ssim_fit"}  # nobody to validate on, and the name says so
    card = Prior.load(finished.card).card
    assert card.measures is not None
    assert card.measures.contrast == "T1w"
    assert card.measures.curve == curve_of(load_pairs(read_any(whole), tmp_path, None, part="train"))
    half = write_pairs(tmp_path, fit={"images": 4})
    list(train(half, tmp_path / "halves"))
    stopped = weights(tmp_path / "halves")
    assert stopped != weights(tmp_path / "whole")
    list(train(write_pairs(tmp_path, fit={"cooldown": 0.0}), tmp_path / "flat"))
    list(train(write_pairs(tmp_path, fit={"images": 4, "cooldown": 0.0}), tmp_path / "again"))
    list(train(write_pairs(tmp_path, fit={"cooldown": 0.0}), tmp_path / "again"))
    assert weights(tmp_path / "again") == weights(tmp_path / "flat")


def test_a_pack_holds_no_pairs(tmp_path):
    with pytest.raises(SettingsError) as refusal:
        list(train(write_pairs(tmp_path), tmp_path / "run", data=tmp_path / "pack.safetensors"))
    assert refusal.value.code == "E-PACK"


REFUSED = {
    "a pattern too many": {"measured": {"patterns": ["a", "b"]}},
    "a degradation": {"degradation": {"thick": 0.9}},
    "two contrasts": {"contrasts": ["FLAIR", "T2w"]},
    "no word for a contrast": {"measured": {"contrast": "T1 w"}},
    "a misspelt entry": {"measured": {"gian": [1.0, 1.0]}},
}


@pytest.mark.parametrize("tables", REFUSED.values(), ids=REFUSED)
def test_a_recipe_that_means_nothing_is_refused(tables, tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text(recipe_text(**tables))
    with pytest.raises(SettingsError) as refusal:
        read_any(path)
    assert refusal.value.code == "E-RECIPE"


def test_a_card_with_a_broken_curve_is_refused():
    card = contrast_prior().card
    assert Card.from_json(card.to_json()) == card
    fields = json.loads(card.to_json())
    fields["measures"]["curve"]["spreads"] = [0.1]
    with pytest.raises(PriorError) as refusal:
        Card.from_json(json.dumps(fields))
    assert refusal.value.code == "E-CARD"


# --- what is drawn --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scan() -> Volume:
    """A scan whose axes are turned in the patient."""
    plain = phantom(0)
    turn = np.array([[0.8, -0.6, 0.0], [0.6, 0.8, 0.0], [0.0, 0.0, 1.0]])
    affine = plain.geometry.affine.copy()
    affine[:3, :3] = turn @ affine[:3, :3]
    return dataclasses.replace(plain, geometry=Geometry(plain.shape, affine))


@pytest.fixture(scope="module")
def drawn(scan) -> md.Posterior:
    return translate(scan, to="FLAIR", prior=contrast_prior(), draws=2, steps=2)


def test_what_is_drawn_lies_on_the_scans_own_grid_and_says_that_it_is_invented(drawn, scan, tmp_path):
    for volume in (drawn.mean, drawn.std, *drawn.draws):
        assert volume.geometry == scan.geometry
    record = drawn.provenance
    assert record.synthetic
    assert record.settings["from"] == "T1w"
    assert record.settings["to"] == "FLAIR"
    files = md.write(drawn.mean, tmp_path / "flair.nii.gz", provenance=record)
    about = json.loads(files[-1].read_text())
    assert about["Synthetic"] is True
    assert about["ResearchUseOnly"] is True
    assert md.read(files[0]).geometry.distance_mm(scan.geometry) < 1e-4


def test_a_draw_comes_from_its_seed_and_the_mean_from_none(drawn, scan):
    again = translate(scan, to="FLAIR", prior=contrast_prior(), draws=3, steps=2)
    assert all(np.array_equal(a.data, b.data) for a, b in zip(drawn.draws, again.draws[:2], strict=True))
    elsewhere = translate(scan, to="FLAIR", prior=contrast_prior(), draws=2, steps=2, seed=1)
    assert np.array_equal(elsewhere.mean.data, drawn.mean.data)
    assert not np.array_equal(elsewhere.draws[0].data, drawn.draws[0].data)
    assert not np.array_equal(drawn.draws[0].data, drawn.draws[1].data)


def test_what_is_drawn_does_not_depend_on_the_units_of_the_scan_but_on_the_scan(drawn, scan):
    scaled = scan.with_data(scan.data.astype(np.float32) * 3)
    assert np.allclose(translate(scaled, to="FLAIR", prior=contrast_prior()).mean.data, drawn.mean.data, atol=1e-4)
    darker = translate(other(scan), to="FLAIR", prior=contrast_prior())
    assert not np.allclose(darker.mean.data, drawn.mean.data, atol=1e-2)


def test_padding_stays_empty(scan):
    padding = np.zeros(scan.shape, bool)
    padding[:3] = True
    mean = translate(dataclasses.replace(scan, padding=padding), to="FLAIR", prior=contrast_prior()).mean
    assert not mean.data[0][padding].any()
    assert np.array_equal(mean.padding, padding)


CONTRAST = {
    "a prior that restores": (lambda s: translate(s, to="FLAIR", prior=small_prior()), PriorError, "E-CONTRAST"),
    "another contrast": (lambda s: translate(s, to="T2w", prior=contrast_prior()), PriorError, "E-CONTRAST"),
    "to denoise": (lambda s: md.denoise(s, prior=contrast_prior()), PriorError, "E-CONTRAST"),
    "other voxels": (lambda s: translate(s, to="FLAIR", prior=contrast_prior(2.0)), SettingsError, "E-ASKED"),
    "a CT": (
        lambda s: translate(dataclasses.replace(s, modality="CT"), to="FLAIR", prior=contrast_prior()),
        InputError,
        "E-MODALITY",
    ),
    "two channels": (
        lambda s: translate(s.with_data(np.repeat(s.data, 2, 0)), to="FLAIR", prior=contrast_prior()),
        InputError,
        "E-4D",
    ),
}


@pytest.mark.parametrize(("ask", "kind", "code"), CONTRAST.values(), ids=CONTRAST)
def test_a_prior_is_asked_for_what_it_draws_alone(ask, kind, code, scan):
    with pytest.raises(kind) as refusal:
        ask(scan)
    assert refusal.value.code == code


def test_voxels_of_about_the_trained_size_are_taken(scan):
    assert translate(scan, to="FLAIR", prior=contrast_prior(1.1)).mean.geometry == scan.geometry


def test_numbers_that_are_not_finite_are_not_handed_out(scan):
    prior = contrast_prior()
    with torch.no_grad():
        next(prior.denoiser.parameters()).fill_(float("nan"))
    with pytest.raises(PriorError) as refusal:
        translate(scan, to="FLAIR", prior=prior)
    assert refusal.value.code == "E-MODEL-NONFINITE"


def test_no_pack_is_made_of_pairs(tmp_path, capsys):
    pack = tmp_path / "pack.safetensors"
    assert script(PREPARE, write_pairs(tmp_path), pack) == 2
    assert "E-PACK" in capsys.readouterr().err
    assert not pack.exists()
