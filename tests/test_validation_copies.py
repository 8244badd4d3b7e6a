"""The study of the copy gate on cases whose answer is known."""

import importlib
from pathlib import Path

import numpy as np
import pytest

from tests.gate_cases import person

FOLDER = Path(__file__).resolve().parent.parent / "validation"


@pytest.fixture
def study(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("copies")


@pytest.fixture
def plants(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("plants")


@pytest.fixture
def brain():
    return person(0)[::2, ::2, ::2]


def test_the_interval_is_wilsons(study):
    assert study.wilson(26, 26) == pytest.approx((0.8713, 1.0), abs=1e-3)
    assert study.wilson(5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-3)


def test_a_scan_lies_in_the_middle_of_the_grid_and_is_not_resampled(plants, brain):
    laid = plants.on_grid(brain, (64, 72, 64))
    assert laid.sum() == pytest.approx(brain.sum(), rel=0.01)
    corners = np.argwhere(laid > 0.1)
    middle = (corners.min(axis=0) + corners.max(axis=0)) / 2
    assert np.abs(middle - (np.array(laid.shape) - 1) / 2).max() <= 0.5


def test_every_copy_is_a_changed_scan_from_its_own_seed(plants, brain):
    wide = np.pad(brain, 26)
    for kind, plant in {**plants.REQUIRED, **plants.EXTRA}.items():
        first, again = (plant(wide, np.random.default_rng(4)) for _ in range(2))
        assert first.dtype == np.float32, kind
        assert np.isfinite(first).all(), kind
        np.testing.assert_array_equal(first, again, err_msg=kind)
        assert first.shape != wide.shape or np.abs(first - wide).max() > 0.02, kind


def test_a_bend_has_the_size_that_it_says(plants):
    ramp = np.broadcast_to(np.arange(96, dtype=np.float32)[:, None, None], (96, 96, 96)).copy()
    moved = plants._bent(ramp, np.random.default_rng(0), rms_mm=3.0, smooth_mm=20.0) - ramp
    assert np.sqrt((moved[20:-20, 20:-20, 20:-20] ** 2).mean()) == pytest.approx(3.0, rel=0.4)


def test_a_chimera_has_a_half_of_each(plants):
    mixed = plants.chimera(np.zeros((8, 8, 8)), np.ones((8, 8, 8)), np.random.default_rng(0))
    assert mixed.sum() == 256


def test_a_mixture_is_of_the_scans_that_it_names_and_of_a_stranger_only_where_it_says_so(plants):
    flat = [np.full((8, 8, 8), value, dtype=np.float32) for value in (1, 2, 4, 8)]
    rng = np.random.default_rng(0)
    shown = [np.unique(mix(flat[0], (flat[1], flat[2]), flat[3], rng)) for mix in plants.MIXED.values()]
    for values, expected in zip(shown, ([1, 2], [1, 2], [1.5], [7 / 3], [1, 8], [3.8]), strict=True):
        np.testing.assert_allclose(values, expected, rtol=1e-6)
    halves = plants.MIXED["quarters of two training scans"](flat[0], (flat[1], flat[2]), flat[3], None)
    assert (halves == 2).mean() == 0.5


def judged(study, **fields):
    plain = {"kind": "flip", "subject": 1, "flagged": True, "with_voxels": True, "own": True, "judged": True}
    return study.Judged(**(plain | {"score": 1.2, "seconds": 0.5} | fields))


def test_the_table_counts(study):
    copies = [judged(study), judged(study, flagged=False), judged(study, kind="noise", own=False)]
    unseen = [
        judged(study, kind="as it is", flagged=False, with_voxels=False, score=0.7),
        judged(study, kind="flip", flagged=False, with_voxels=False, score=0.8),
        judged(study, kind="flip", subject=2, score=1.1),
    ]
    table = study.table_of(copies, unseen)
    assert "| flip | 2 | 0.500 | 0.095 to 0.905 | 2/2 | 1.000 |" in table
    assert "| noise | 1 | 1.000 |" in table
    assert "| as they are, one view a subject | 1 | 0 (0.000) |" in table
    assert "| these, and treated in the first eight ways | 3 | 1 (0.333) |" in table
    assert "1 of 2 unseen subjects were flagged in any view; the highest reached 1.10" in table


def test_what_is_kept_counts_as_the_table_does(study):
    copies = [judged(study), judged(study, flagged=False, score=0.8), judged(study, kind="noise", judged=False)]
    unseen = [judged(study, kind="as it is", flagged=False, with_voxels=False, score=0.7)]
    kept = study.every_figure(copies, unseen, {"checked": 8, "flagged": 7})
    assert {name: kept[f"{name}/copy/flip"][1] for name in ("n", "flagged", "with_voxels", "judged", "lowest")} == {
        "n": 2,
        "flagged": 1,
        "with_voxels": 2,
        "judged": 2,
        "lowest": 0.8,
    }
    assert kept["judged/copy/noise"][1] == 0
    assert kept["highest/unseen/as it is"][1] == 0.7
    assert (kept["n/by heart/draw"][1], kept["flagged/by heart/draw"][1]) == (8, 7)
    assert not any(name.endswith("by heart/draw") for name in study.every_figure(copies, unseen, {}))


def test_the_prior_that_knows_scans_by_heart_draws_them(study, monkeypatch):
    scans = {1: Path("a"), 2: Path("b")}
    known = {path: person(number).repeat(2, 0).repeat(2, 1).repeat(2, 2) for number, path in enumerate(scans.values())}
    monkeypatch.setattr(study, "at_1mm", lambda path: known[path])
    draws = study.by_heart(scans, 4)
    wanted = [study.upright(study.as_volume(values), 4.0) for values in known.values()]
    for draw in draws:
        assert min(np.abs(draw - one).max() for one in wanted) < 0.01
