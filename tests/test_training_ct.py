"""Training on the noise of a lower CT dose: cut where the patch is cut, turned as it is, as strong as the dose says."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from training_cases import changed, phantom, to_toml

from medidiff import io
from medidiff.errors import SettingsError
from medidiff.prior import Prior
from medidiff.training import data as module
from medidiff.training.data import Found, find_scans, load_scan
from medidiff.training.patches import Patches, Scan
from medidiff.training.recipe import Recipe, read_recipe
from medidiff.training.run import Finished, Validated, train
from medidiff.training.slabs import Slab
from medidiff.volume import Geometry, Volume

SHAPE = (26, 24, 30)
DOSES = [0.5, 0.1]
LOW_DOSE = {
    "doses": DOSES,
    "spread": 1.0,
    "photons": 2e4,
    "electronic": 0.0,
    "views": 40,
    "window": "cosine",
    "overlap": 2,
}
PLAIN = {
    "degradation__gain": [1.0, 1.0],
    "degradation__remap": 0.0,
    "degradation__told_error": 0.0,
    "degradation__noise": [0.005, 0.05],
}


def chest() -> Volume:
    x, y, _ = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
    body = np.where((x / 0.9) ** 2 + (y / 0.8) ** 2 < 1, 40.0, -1000.0)
    body[((np.abs(x) - 0.4) / 0.25) ** 2 + (y / 0.4) ** 2 < 1] = -850.0
    noisy = np.rint(body + np.random.default_rng(0).normal(0, 5, SHAPE))
    return Volume(noisy.astype(np.int16), Geometry.regular(SHAPE, spacing_mm=(8, 8, 3)), "CT", "HU")


def case(folder: Path, **entries: object) -> Path:
    """A CT, its slabs, and a recipe that trains on them."""
    (folder / "scans").mkdir(parents=True, exist_ok=True)
    io.write(chest(), folder / "scans" / "one_ct.nii.gz")
    (folder / "split.toml").write_text('[ct]\ntrain = ["one[0:14]"]\nvalidation = ["one[18:30]"]\ntest = []\n')
    source = {"pattern": "{subject}_ct.nii.gz", "split": "ct", "licence": "none"}
    values = changed(modality="CT", low_dose=LOW_DOSE, **(PLAIN | entries))
    values["data"] = {"root": "scans", "split": "split.toml", "sources": [source]}
    (folder / "tiny.toml").write_text(to_toml(values))
    return folder / "tiny.toml"


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Recipe:
    return read_recipe(case(tmp_path_factory.mktemp("recipe")))


def made_up(noise: Tensor, image: Tensor, *, levels: tuple[float, ...] = (0.3, 0.6)) -> Scan:
    centres = torch.tensor([[13, 12, 11], [9, 14, 10], [16, 11, 12]], dtype=torch.int16)
    return Scan(image, centres, "", torch.stack([noise] * len(levels)), levels)


def difference(scan: Scan, recipe: Recipe, count: int = 24) -> tuple[Tensor, Tensor, Tensor]:
    """Clean patches, noise over its level, and level, (B, 1, P, P, P) each."""
    batch = Patches([scan], [1.0], recipe).batch(range(count))
    return batch.x, (batch.condition.image - batch.x) / batch.condition.noise, batch.condition.noise


def follows_its_patch(scan: Scan, recipe: Recipe) -> bool:
    """Noise that is the picture itself must be the patch itself, however it was cut and turned."""
    x, noise, _ = difference(scan, recipe)
    return bool(torch.allclose(noise, x, atol=2e-3))


def test_noise_is_cut_where_the_patch_is_and_turned_as_it_is(recipe):
    image = torch.rand(SHAPE, generator=torch.Generator().manual_seed(0))
    assert follows_its_patch(made_up(image, image), recipe)


@pytest.mark.parametrize("change", ["flip", "roll"])
def test_noise_from_elsewhere_does_not_follow(recipe, change):
    image = torch.rand(SHAPE, generator=torch.Generator().manual_seed(0))
    other = image.flip(0) if change == "flip" else image.roll(1, 2)
    assert not follows_its_patch(made_up(other, image), recipe)


def test_the_level_is_that_of_the_dose(recipe):
    image = torch.rand(SHAPE, generator=torch.Generator().manual_seed(0))
    levels = difference(made_up(image, image), recipe)[2].flatten(1).unique(dim=1).flatten()
    assert sorted({round(float(level), 4) for level in levels}) == [0.3, 0.6]


def test_a_dose_between_is_scaled_as_photons_are(recipe):
    near = dataclasses.replace(recipe, low_dose=dataclasses.replace(recipe.low_dose, spread=1.5))
    image = torch.rand(SHAPE, generator=torch.Generator().manual_seed(0))
    x, noise, level = difference(made_up(image, image, levels=(0.3, 30.0)), near, count=60)
    assert torch.allclose(noise, x, atol=2e-3)
    of_half = level.amax((1, 2, 3, 4))[level.amax((1, 2, 3, 4)) < 3]
    quietest, loudest = (0.3 * math.sqrt((1 / dose - 1) / (1 / 0.5 - 1)) for dose in (0.75, 0.5 / 1.5))
    assert quietest <= float(of_half.min()) < 0.2 < 0.4 < float(of_half.max()) <= loudest


def test_the_other_patches_have_white_noise(recipe):
    image = torch.rand(SHAPE, generator=torch.Generator().manual_seed(0))
    none = dataclasses.replace(recipe, low_dose=dataclasses.replace(recipe.low_dose, share=0.0))
    assert not follows_its_patch(made_up(image, image), none)
    half = dataclasses.replace(recipe, low_dose=dataclasses.replace(recipe.low_dose, share=0.5))
    x, noise, _ = difference(made_up(image, image), half, count=60)
    own = (noise - x).abs().amax((1, 2, 3, 4)) < 2e-3
    assert 15 < int(own.sum()) < 45


def test_a_scan_brings_the_noise_of_each_dose(recipe, tmp_path):
    path = case(tmp_path)
    (found,) = find_scans(recipe.data, folder=path.parent, root=None, part="train")
    scan = load_scan(found, recipe)
    assert scan.noise.shape == (2, 26, 24, 14)
    assert scan.levels[1] == pytest.approx(3 * scan.levels[0], rel=0.15)  # √(9 / 1)
    tissue = scan.image > 0.48
    assert float(scan.noise[0][tissue].float().std()) == pytest.approx(1, abs=0.2)
    assert load_scan(found, dataclasses.replace(recipe, low_dose=None)).noise is None


@pytest.mark.parametrize(("slab", "patch", "ends"), [(Slab("one", 0, 14), 8, (4, 10)), (Slab("one", 2, 8), 12, (2, 3))])
def test_patches_do_not_stick_out_of_a_slab(recipe, tmp_path, slab, patch, ends):
    path = case(tmp_path).parent / "scans" / "one_ct.nii.gz"
    wanted = dataclasses.replace(recipe, low_dose=None, fit=dataclasses.replace(recipe.fit, patch=patch))
    k = load_scan(Found(path, 1.0, slab), wanted).centres[:, 2]
    assert (int(k.min()), int(k.max())) == ends
    whole = load_scan(Found(path, 1.0, Slab("one")), wanted).centres[:, 2]
    assert (int(whole.min()), int(whole.max())) == (0, SHAPE[2] - 1)  # the negative: a scan's own ends are left alone


def test_nor_do_the_larger_cuts_of_patches_that_are_seen_smaller(recipe, tmp_path):
    path = case(tmp_path).parent / "scans" / "one_ct.nii.gz"
    zoomed = dataclasses.replace(recipe.degradation, zoomed=0.5, zoom=(1.1, 1.25))
    fit = dataclasses.replace(recipe.fit, patch=8)
    wanted = dataclasses.replace(recipe, low_dose=None, fit=fit, degradation=zoomed)
    k = load_scan(Found(path, 1.0, Slab("one", 0, 14)), wanted).centres[:, 2]
    assert (int(k.min()), int(k.max())) == (6, 8)  # 12 voxels are cut
    unzoomed = dataclasses.replace(wanted, degradation=recipe.degradation)
    k = load_scan(Found(path, 1.0, Slab("one", 0, 14)), unzoomed).centres[:, 2]
    assert (int(k.min()), int(k.max())) == (4, 10)


def corners(shape: tuple[int, int, int]) -> np.ndarray:
    """The corners of every slice, outside of a round field of view."""
    x, y, _ = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    return np.asarray(x**2 + y**2 > 1)


@pytest.mark.parametrize("slab", [Slab("one"), Slab("one", 0, 14)])
def test_the_filler_of_a_ct_never_reaches_the_network(recipe, tmp_path, slab):
    path, outside = case(tmp_path).parent / "scans" / "other_ct.nii.gz", corners(SHAPE)
    seen = []
    for value in (-2000, -3024):
        io.write(chest().with_data(np.where(outside, value, chest().data[0]).astype(np.int16)), path)
        seen.append(load_scan(Found(path, 1.0, slab), recipe))
        path.unlink()
    first, second = seen
    inside = ~corners(tuple(first.image.shape))
    assert first.image.min() == first.image[torch.from_numpy(inside)].min()
    assert inside[tuple(first.centres.long().T)].all()
    assert first.sha256 == second.sha256
    assert torch.equal(first.noise, second.noise)
    assert torch.equal(first.centres, second.centres)


@pytest.mark.parametrize("value", [-500, 0, 30000])
def test_the_value_of_padding_has_no_effect(recipe, tmp_path, monkeypatch, value):
    plain = phantom(0)
    padding = np.zeros(plain.shape, bool)
    padding[:, :, 18:] = True  # over tissue, too
    scan = {}
    for stored in (-1, value):
        data = np.where(padding, stored, plain.data).astype(np.int16)
        monkeypatch.setattr(module, "read", lambda _, d=data: dataclasses.replace(plain.with_data(d), padding=padding))
        scan[stored] = load_scan(Found(tmp_path, 1.0, Slab("")), dataclasses.replace(recipe, low_dose=None))
    assert scan[value].sha256 == scan[-1].sha256
    assert torch.equal(scan[value].centres, scan[-1].centres)
    assert int(scan[value].centres[:, 2].max()) < 18
    assert scan[value].image[:, :, 18:].unique().numel() == 1


def test_the_hash_of_a_scan_without_padding_is_that_of_its_voxels(recipe, tmp_path):
    """What the fingerprints of the bundled priors were made of."""
    path = case(tmp_path).parent / "scans" / "one_ct.nii.gz"
    expected = ((chest().data[0].astype(np.float64) + 1024) / 2048).astype(np.float32)
    scan = load_scan(Found(path, 1.0, Slab("one")), dataclasses.replace(recipe, low_dose=None))
    assert scan.sha256 == hashlib.sha256(np.ascontiguousarray(expected).tobytes()).hexdigest()


def test_the_modality_is_the_recipes_where_the_file_does_not_say(recipe, tmp_path):
    path = case(tmp_path).parent / "scans" / "one_ct.nii.gz"
    said = load_scan(Found(path, 1.0, Slab("one")), dataclasses.replace(recipe, low_dose=None))
    path.with_name("one_ct.json").unlink()
    unsaid = load_scan(Found(path, 1.0, Slab("one")), dataclasses.replace(recipe, low_dose=None))
    assert unsaid.sha256 == said.sha256


def test_a_run_ends_with_a_prior_for_ct(tmp_path):
    path = case(tmp_path, limits=["not for use"], validation__crop=16)
    events = list(train(path, tmp_path / "out"))
    scores = next(event for event in events if isinstance(event, Validated)).scores
    assert sorted(scores) == ["psnr_db_dose_10", "psnr_db_dose_50", "ssim_dose_10", "ssim_dose_50"]
    assert isinstance(events[-1], Finished)
    card = Prior.load(events[-1].card).card
    assert (card.modality, card.limits) == ("CT", ("not for use",))
    assert card.recipe["low_dose"]["doses"] == DOSES


def test_scans_without_noise_are_refused(recipe):
    bare = dataclasses.replace(made_up(torch.zeros(SHAPE), torch.zeros(SHAPE)), noise=None, levels=())
    with pytest.raises(SettingsError) as caught:
        Patches([bare], [1.0], recipe)
    assert caught.value.code == "E-PACK"


@pytest.mark.parametrize(
    "broken",
    [
        {"modality": "MR"},
        {"degradation__zoomed": 0.2},
        {"low_dose__doses": [1.0]},
        {"low_dose__doses": []},
        {"low_dose__window": "boxcar"},
    ],
    ids=str,
)
def test_a_low_dose_that_cannot_be_is_refused(tmp_path, broken):
    values = changed(modality="CT", low_dose=LOW_DOSE)
    for entry, value in broken.items():
        table, _, name = entry.rpartition("__")
        (values.setdefault(table, {}) if table else values)[name] = value
    (tmp_path / "broken.toml").write_text(to_toml(values))
    with pytest.raises(SettingsError) as caught:
        read_recipe(tmp_path / "broken.toml")
    assert caught.value.code == "E-RECIPE"
