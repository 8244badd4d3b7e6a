"""What a scan's finest detail is told by, what is learned of it, and the examples that it is learned from."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from medidiff.trust import kernel
from medidiff.trust.coarse import coarse
from medidiff.trust.grain import NUMBERS, grain_numbers, grain_of
from medidiff.trust.kernel import KernelRidge
from medidiff.volume import Geometry, Volume

SPACING_MM = (0.9, 1.0, 1.1)


def scan(image: np.ndarray, spacing_mm=SPACING_MM) -> Volume:
    return Volume(np.asarray(image, np.float32), Geometry.regular(image.shape, spacing_mm=spacing_mm), "MR")


def ball(level: float, *, seed: int = 0, shape=(72, 72, 72), detail: float = 0.0) -> np.ndarray:
    """Tissue of 800 with smooth detail, in air, with Gaussian noise of a level."""
    rng = np.random.default_rng(seed)
    places = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij"))
    texture = ndimage.gaussian_filter(rng.standard_normal(shape), 1.2)
    inside = (places**2).sum(axis=0) < 0.85
    image = inside * (800 + 800 * detail * texture / texture.std())
    return np.abs(ndimage.gaussian_filter(image, 0.5) + 800 * level * rng.standard_normal(shape))


def numbers(image: np.ndarray, spacing_mm=SPACING_MM) -> dict[str, float]:
    grain = grain_of(coarse(scan(image, spacing_mm)))
    assert grain is not None
    found = grain_numbers(grain)
    assert found is not None
    return dict(zip(NUMBERS, map(float, found), strict=True))


# --- the numbers ----------------------------------------------------------------------------------------------------


def test_white_noise_has_neither_links_nor_tails():
    found = numbers(ball(0.05))
    for name in (
        *("least linked", "linked", "most linked", "tails", "wide tails", "cross tails", "corner"),
        *("sloped", "steep", "cross"),
    ):
        assert abs(found[name]) < 0.05, name
    assert abs(found["skew"]) < 0.1
    assert found["loud"] == pytest.approx(np.log10(0.05), abs=0.06)
    assert 0.05 < found["uneven"] < 0.3
    assert -0.4 < found["faint"] < -0.05


@pytest.mark.parametrize(
    ("name", "least", "change"),
    [
        ("most linked", -0.1, lambda x: ndimage.gaussian_filter(x, 0.7)),
        ("tails", 0.05, lambda x: np.where(np.random.default_rng(1).random(x.shape) < 0.1, x + 200, x)),
        ("skew", 0.3, lambda x: x + 60 * np.random.default_rng(1).exponential(1, x.shape) ** 2),
        ("uneven", 0.5, lambda x: x + 120 * np.random.default_rng(1).standard_normal(x.shape) * rare(x.shape)),
        ("across scales", 0.7, lambda x: x + 120 * np.random.default_rng(1).standard_normal(x.shape) * rare(x.shape)),
    ],
)
def test_each_number_tells_what_it_is_for(name, least, change):
    image = ball(0.03)
    before, after = numbers(image)[name], numbers(change(image))[name]
    if least < 0:
        assert after < least < before
    else:
        assert before < least < after


def rare(shape) -> np.ndarray:
    """Cubes of six voxels here and there."""
    few = np.random.default_rng(2).random([-(-n // 6) for n in shape]) < 0.12
    return np.kron(few, np.ones((6, 6, 6)))[tuple(slice(n) for n in shape)]


def test_what_is_taken_from_flat_places_alone_is_seen_at_slopes():
    image = ball(0.03, detail=0.15)
    slope = ndimage.gaussian_gradient_magnitude(image, 1.5)
    inside = ndimage.gaussian_filter(image, 1.5) > 500
    there = inside & (slope > np.quantile(slope[inside], 0.6))
    kept = np.where(there, image, ndimage.gaussian_filter(image, 0.8))
    assert numbers(kept)["steep"] > numbers(image)["steep"] + 0.2


def test_numbers_depend_neither_on_units_nor_on_the_order_of_axes():
    image = ball(0.03, detail=0.05)
    found = np.array([*numbers(image).values()])
    np.testing.assert_allclose([*numbers(image * 37).values()], found, atol=1e-3)
    turned = np.ascontiguousarray(np.flip(image.transpose(2, 0, 1), 1))
    np.testing.assert_allclose([*numbers(turned, (1.1, 0.9, 1.0)).values()], found, atol=0.02)
    other = np.array([*numbers(turned, SPACING_MM).values()])  # the negative: another axis counts as the coarsest
    assert np.abs(other - found).max() > 0.02


@pytest.mark.parametrize(("shape", "read"), [((72, 72, 11), False), ((72, 72, 14), True)])
def test_few_planes_tell_nothing(shape, read):
    grain = grain_of(coarse(scan(ball(0.03, shape=shape), (1.0, 1.0, 6.0))))
    assert grain is not None
    assert (grain_numbers(grain) is not None) is read


def test_a_scan_without_any_grain_has_finite_numbers():
    assert all(np.isfinite([*numbers(ndimage.gaussian_filter(ball(0.0), 3)).values()]))
    assert all(np.isfinite([*numbers((ball(0.0) > 400) * 800.0).values()]))


# --- what is learned ------------------------------------------------------------------------------------------------


def examples(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Points in a ring (-1) and in its middle and around it (1), which no line parts; the second number is void."""
    rng = np.random.default_rng(seed)
    wanted = np.where(rng.random(count) < 0.5, -1.0, 1.0)
    radius = np.where(wanted < 0, rng.normal(2, 0.1, count), rng.choice((0.5, 3.5), count) + rng.normal(0, 0.1, count))
    angle = rng.uniform(0, 2 * np.pi, count)
    places = np.stack([5 + 10 * radius * np.cos(angle), rng.normal(0, 1e-9, count), radius * np.sin(angle)], axis=1)
    return places, wanted


def test_what_no_line_parts_is_learned(monkeypatch):
    monkeypatch.setattr(kernel, "_WIDTH", 0.5)
    known = KernelRidge.fitted(*examples(300, 0))
    places, wanted = examples(200, 1)
    told = np.array([known(place.astype(np.float32)) for place in places])
    assert np.mean(np.sign(told) == wanted) > 0.97
    shuffled = KernelRidge.fitted(examples(300, 0)[0], np.random.default_rng(3).permutation(examples(300, 0)[1]))
    told = np.array([shuffled(place.astype(np.float32)) for place in places])
    assert 0.3 < np.mean(np.sign(told) == wanted) < 0.7  # the negative: there was nothing to learn


def test_far_from_everything_nothing_is_expected(monkeypatch):
    monkeypatch.setattr(kernel, "_WIDTH", 0.5)
    places, wanted = examples(300, 0)
    known = KernelRidge.fitted(places[:, [0, 2]], wanted)
    assert abs(known(np.array([5 + 10 * 30, 30], np.float32))) < 0.05
    assert abs(known(places[0, [0, 2]].astype(np.float32))) > 0.2


def test_both_kinds_count_as_much():
    rng = np.random.default_rng(0)
    few, many = rng.normal(1, 1, (20, 1)), rng.normal(-1, 1, (400, 1))
    known = KernelRidge.fitted(np.concatenate([few, many]), np.repeat((1.0, -1.0), (20, 400)))
    assert abs(known(np.zeros(1, np.float32))) < 0.35  # halfway; were all examples alike it would be near -0.8


def test_numbers_that_never_vary_have_no_say():
    places, wanted = examples(300, 0)
    places[:, 1] = 7.0
    known = KernelRidge.fitted(places, wanted)
    assert np.isfinite(known.scale).all()
    assert known.scale.min() > 0


# --- the examples ---------------------------------------------------------------------------------------------------


@pytest.fixture
def pipeline(monkeypatch):
    """Imports modules of `pipelines/`."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "pipelines"))
    before = {name: sys.modules.pop(name, None) for name in ("scope", "scope_learned", "scope_filters")}
    yield importlib.import_module
    for name, module in before.items():  # `validation/` has a scope.py, too
        sys.modules.pop(name, None)
        if module is not None:
            sys.modules[name] = module


def test_every_filter_takes_noise_and_leaves_the_tissue(pipeline):
    filters = pipeline("scope_filters").FILTERS
    image = (ball(0.06, shape=(48, 48, 48)) / 800).astype(np.float32)
    inside = ndimage.minimum_filter(ball(0.0, shape=(48, 48, 48)) > 700, 9)
    for name, change in filters.items():
        made = np.asarray(change(image, 0.06, np.random.default_rng(0)))
        assert made.shape == image.shape, name
        assert np.isfinite(made).all(), name
        assert made[inside].mean() == pytest.approx(1, abs=0.02), name
        assert made[inside].std() < 0.93 * image[inside].std(), name


def test_the_wavelets_and_cosines_leave_what_they_need_not_take(pipeline):
    module = pipeline("scope_filters")
    image = (ball(0.06, shape=(41, 48, 46)) / 800).astype(np.float32)
    for change in (module._haar, module._cosines):
        np.testing.assert_allclose(change(image, 0.0), image, atol=1e-5)
        assert np.abs(change(image, 0.2) - image).max() > 0.1


def test_examples_are_drawn_from_the_middle_of_a_scan(pipeline):
    module = pipeline("scope_filters")
    volume = scan(ball(0.02, shape=(100, 110, 120)))
    untouched = list(module.as_scanners_leave_it(volume, np.random.default_rng(0)))
    filtered = list(module.as_filters_leave_it(volume, np.random.default_rng(0)))
    assert len(untouched) == 26
    assert len(filtered) == 2 * len(module.FILTERS)
    for each in (*untouched, *filtered):
        assert np.isfinite(each.data).all()
        assert max(each.shape) <= 120
        assert min(each.geometry.spacing_mm) > 0.89
    again = list(module.as_filters_leave_it(volume, np.random.default_rng(0)))
    assert all(np.array_equal(one.data, other.data) for one, other in zip(filtered, again, strict=True))
    thick = [each for each in untouched if max(each.geometry.spacing_mm) > 1.7]
    assert len(thick) >= 6
    for each in thick:
        axis = int(np.argmax(each.geometry.spacing_mm))
        assert each.shape[axis] < 60


def test_nobody_is_held_against_what_they_have_taught(pipeline, monkeypatch):
    module = pipeline("scope_learned")
    halves, grain = module.HALF, len(NUMBERS)

    def taught(seed: int) -> dict[str, module.Learned]:
        draw = {name: np.random.default_rng(seed if name == "c" else n) for n, name in enumerate("abc")}
        shifts = {Path(name): rng.normal(0.2, 1, halves).astype(np.float32) for name, rng in draw.items()}
        lists = {name: [rng.normal(sign, 1, (9, grain)).tolist() for sign in (-1, 1)] for name, rng in draw.items()}
        monkeypatch.setattr(module.io, "read", lambda path: path)
        monkeypatch.setattr(module, "asymmetry", lambda path, template: (shifts[path], None))
        template = module.Template(np.zeros((2, 2, 2)), np.zeros((2, 2, 2)))
        files = {name: Path(name) for name in "abc"}
        return module.learned(files, template, (), lambda what, person, measure: lists[person])

    one, other = taught(7), taught(8)
    for name, same in (("c", True), ("a", False), (module.ALL, False)):
        assert np.array_equal(one[name].filters.weights, other[name].filters.weights) is same, name
        along = [each[name].template.sides / np.linalg.norm(each[name].template.sides) for each in (one, other)]
        assert np.allclose(*along, atol=1e-6) is same, name


def test_what_is_kept_is_of_the_same_code(pipeline, tmp_path):
    kept, place = pipeline("scope").Kept, tmp_path / "kept.jsonl"
    assert kept(place)("signs", "one", lambda: [{"loud": 0.5}]) == [{"loud": 0.5}]
    again = kept(place)
    assert again("signs", "one", lambda: pytest.fail("measured twice")) == [{"loud": 0.5}]
    assert again("grain", "one", lambda: 3) == 3
    place.write_text(place.read_text().replace(again.code["signs"], "0" * 64))
    other = kept(place)
    assert other("signs", "one", lambda: [{"loud": 0.7}]) == [{"loud": 0.7}]
    assert other("grain", "one", lambda: pytest.fail("measured twice")) == 3
