from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from training_cases import TINY, changed, to_toml

from medidiff.errors import SettingsError
from medidiff.training.coarse_recipe import read_any
from medidiff.training.recipe import (
    DataRecipe,
    DegradationRanges,
    FitRecipe,
    LowDose,
    ModelRecipe,
    Recipe,
    Scans,
    ValidationRecipe,
    licence_of,
    read_recipe,
)

COMMITTED = sorted((Path(__file__).parents[1] / "pipelines" / "recipes").glob("*.toml"))


def read(folder, values):
    path = folder / "recipe.toml"
    path.write_text(values if isinstance(values, str) else to_toml(values), encoding="utf-8")
    return read_recipe(path)


positive = st.floats(1e-6, 1e6)
share = st.floats(0, 1)
weight = st.floats(0, 1e3)
count = st.integers(1, 10**6)
width, depth = st.integers(1, 1024), st.integers(1, 64)
text = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=20)
place = text.filter(lambda t: not t.startswith(("/", "\\")) and ":" not in t)  # no absolute path, no drive
rising = st.tuples(positive, positive).map(sorted).map(tuple)
factors = st.tuples(st.floats(1, 9), st.floats(1, 9)).map(sorted).map(tuple)
scans = st.builds(Scans, pattern=text, licence=text, split=text, weight=positive)
low_dose = st.builds(
    LowDose,
    doses=st.lists(st.floats(1e-3, 0.99), min_size=1, max_size=3).map(tuple),
    share=share,
    spread=st.floats(1, 4),
    photons=positive,
    electronic=weight,
    views=st.integers(2, 999),
    window=st.sampled_from(["ramp", "hann"]),
    overlap=st.integers(1, 9),
)
recipes = st.builds(
    Recipe,
    modality=st.just("CT"),
    low_dose=st.none() | low_dose,
    limits=st.lists(text, max_size=2).map(tuple),
    name=st.from_regex(r"[a-z0-9][a-z0-9-]{0,39}", fullmatch=True),
    summary=text,
    seed=st.integers(0, 2**62),
    data=st.builds(DataRecipe, sources=st.lists(scans, min_size=1, max_size=3).map(tuple), root=text, split=place),
    degradation=st.builds(
        DegradationRanges,
        **dict.fromkeys(("denoise", "thick", "coarse"), weight),
        nothing=st.floats(0.1, 1),
        **dict.fromkeys(("noise", "overlap", "gain"), rising),
        **dict.fromkeys(("factor", "coarse_factor"), factors),
        **dict.fromkeys(("rician", "varying", "remap"), share),
        told_error=weight,
    ),
    model=st.builds(
        ModelRecipe,
        channels=st.tuples(width, width),
        blocks=st.tuples(depth, depth, depth),
        sigma_data=positive,
        sigma_detail=positive,
    ),
    fit=st.builds(
        FitRecipe,
        **dict.fromkeys(("images", "warmup"), count),
        batch=st.integers(1, 4096),
        **dict.fromkeys(("rate", "clip", "ema"), positive),
        **dict.fromkeys(("cooldown", "posterior_mean"), share),
        patch=st.integers(2, 99).map(lambda n: 4 * n),
        sigma=rising,
    ),
    validation=st.builds(
        ValidationRecipe,
        every=count,
        levels=st.lists(positive, max_size=4).map(tuple),
        crop=st.integers(4, 99).map(lambda n: 4 * n),
        scans=count,
    ),
)


@settings(max_examples=20, deadline=None)
@given(recipe=recipes)
def test_a_recipe_survives_toml(recipe, tmp_path_factory):
    assert read(tmp_path_factory.getbasetemp(), recipe.to_dict()) == recipe


def test_an_entry_that_toml_lost_would_be_noticed(tmp_path):
    """The negative: the recipe that was written is not the one with a default in its place."""
    recipe = read(tmp_path, changed(fit__clip=0.5))
    assert recipe != read(tmp_path, changed())


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
def test_committed_recipes_are_read(path):
    recipe = read_any(path)
    assert recipe.name == path.stem
    assert recipe.fit.images % recipe.fit.batch == 0


def test_there_are_committed_recipes():
    assert {path.stem for path in COMMITTED} >= {"fine-t1", "smoke"}


def test_what_is_left_out_has_its_default(tmp_path):
    assert read(tmp_path, TINY).degradation == DegradationRanges()


@pytest.mark.parametrize("open_one", ["CC0, OpenNeuro", "CC-BY, Lesjak 2018", "CC BY 4.0", "MIT and Apache-2.0, see X"])
def test_weights_of_open_scans_have_the_usual_licence_and_others_none(open_one):
    assert licence_of("Apache-2.0", [open_one]) == "Apache-2.0"
    for bound in ("our own, not to be passed on", "CC BY-NC 4.0", "none", "by permit"):
        assert licence_of("Apache-2.0", [open_one, bound]) == f"not stated; made of scans under: {bound}"
        assert licence_of("own terms", [open_one, bound]) == "own terms"


REFUSED = [
    ({"fit__imges": 4}, "fit.imges"),
    ({"colour": "red"}, "colour"),
    ({"fit__images": "many"}, "fit.images"),
    ({"fit__images": "16"}, "fit.images"),
    ({"fit__images": True}, "fit.images"),
    ({"fit__images": 0}, "fit.images"),
    ({"fit__images": 1.5}, "fit.images"),
    ({"fit__patch": 13}, "fit.patch"),
    ({"fit__rate": -1e-3}, "fit.rate"),
    ({"fit__rate": float("inf")}, "fit.rate"),
    ({"fit__rate": float("nan")}, "fit.rate"),
    ({"fit__cooldown": 1.1}, "fit.cooldown"),
    ({"fit__sigma": [10.0, 0.01]}, "fit.sigma"),
    ({"model__channels": [4]}, "model.channels.1"),
    ({"model__blocks": [1, 0, 1]}, "model.blocks.1"),
    ({"degradation__noise": [0.2, 0.1]}, "degradation.noise"),
    ({"degradation__factor": [0.5, 2.0]}, "degradation.factor.0"),
    ({"degradation": {"denoise": 0, "thick": 0, "coarse": 0, "nothing": 0}}, "degradation"),
    ({"data__sources": []}, "data.sources"),
    ({"data__sources": [{"pattern": "a.nii"}]}, "data.sources.0.licence"),
    ({"name": "../elsewhere"}, "name"),
    ({"seed": -1}, "seed"),
]


@pytest.mark.parametrize(("entries", "entry"), REFUSED, ids=lambda value: value if isinstance(value, str) else "")
def test_a_broken_entry_is_named_in_one_line(entries, entry, tmp_path):
    text = to_toml(changed(**entries)).replace("Infinity", "inf").replace("NaN", "nan")
    with pytest.raises(SettingsError) as caught:
        read(tmp_path, text)
    assert caught.value.attribute == entry
    assert caught.value.file == "recipe.toml"
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_the_refusals_are_of_the_entry_and_not_of_the_rest(tmp_path):
    """The negative: the same recipe without the broken entry is read."""
    assert read(tmp_path, changed()).name == "tiny"


@pytest.mark.parametrize("text", ["name = ", "name = 'tiny'\nname = 'tiny'", "\x00"])
def test_what_is_not_toml_is_refused(text, tmp_path):
    with pytest.raises(SettingsError, match="not TOML"):
        read(tmp_path, text)


def test_a_missing_recipe_is_refused_without_its_folder(tmp_path):
    with pytest.raises(SettingsError) as caught:
        read_recipe(tmp_path / "none.toml")
    assert str(tmp_path) not in str(caught.value)
    assert "none.toml" in str(caught.value)
