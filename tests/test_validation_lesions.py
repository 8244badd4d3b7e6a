"""The fate of lesions, inventions and flags are read on cases whose answer is known."""

import dataclasses
import importlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage

from medidiff.volume import Geometry

FOLDER = Path(__file__).resolve().parent.parent / "validation"
SHAPE, SPACING, LEVEL = (60, 60, 60), (1.0, 1.0, 1.0), 0.05


@pytest.fixture(scope="module")
def modules():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        names = ("inserted", "lesion_measures", "lesion_summary", "lesions", "scoring")
        yield {name: importlib.import_module(name) for name in names}


@pytest.fixture(scope="module")
def head(modules):
    """A ball of grey matter with a white core, as a noise-free truth."""
    radius = np.sqrt(np.square(np.indices(SHAPE) - 29.5).sum(0))
    image = ndimage.gaussian_filter(np.where(radius < 27, np.where(radius < 17, 0.9, 0.6), 0.0), 0.7)
    geometry = Geometry.regular(SHAPE, spacing_mm=SPACING)
    return modules["scoring"].Truth(image.astype(np.float32), radius < 27, geometry)


@pytest.fixture(scope="module")
def what(modules, head):
    return modules["lesions"].planted(head, LEVEL, seed=1)


@pytest.fixture(scope="module")
def plain(modules):
    return modules["lesions"].Question("5 %", 100 * LEVEL, False)


def test_lesions_of_every_kind_are_planted_and_structures_taken_out(what):
    assert len(what.found) >= 10
    assert len(what.gone) >= 2
    touched = sum((filled > 0).astype(int) for _, filled in what.found) + sum((d != 0).astype(int) for d in what.gone)
    assert touched.max() == 1
    assert np.array_equal(what.image[touched == 0], what.without[touched == 0])


def test_the_truth_recovers_all_and_a_blur_does_not(modules, head, what, plain):
    perfect = modules["lesions"].scored(what.image, what, head, plain)
    for row in perfect["lesions"]:
        assert row["recovered"] == pytest.approx(1, abs=1e-3)
        assert row["ring"] == pytest.approx(1, abs=1e-3)
        assert row["error"] == 0
    assert all(abs(row["returned"]) < 1e-6 for row in perfect["gone"])
    assert set(perfect["invented"].values()) == {0}
    halved = modules["lesions"].scored((what.image + what.without) / 2, what, head, plain)
    assert all(row["recovered"] == pytest.approx(0.5, abs=0.01) for row in halved["lesions"])
    assert all(row["returned"] == pytest.approx(0.5, abs=1e-3) for row in halved["gone"])
    blurred = modules["lesions"].scored(ndimage.gaussian_filter(what.image, 2.0), what, head, plain)
    small = [row["recovered"] for row in blurred["lesions"] if row["diameter_mm"] < 6 and abs(row["sigmas"]) > 3]
    assert np.mean(small) < 0.7


@pytest.mark.parametrize("diameter", [3.0, 5.0, 8.0, 12.0])
def test_a_ball_has_its_contrast(modules, diameter):
    place = np.indices(SHAPE) - 30
    ball = np.clip(diameter / 2 - np.sqrt(np.square(place).sum(0)) + 0.5, 0, 1)
    assert modules["lesion_measures"].blob_contrast(0.2 * ball, diameter, SPACING)[30, 30, 30] == pytest.approx(0.2)


def test_blobs_of_the_answer_alone_are_inventions(modules, head):
    measures, inserted = modules["lesion_measures"], modules["inserted"]
    centres = [(30, 30, 30), (20, 30, 38), (38, 22, 26)]
    answer = head.image.copy()
    for centre in centres:
        filled = inserted.share(SHAPE, SPACING, inserted.Lesion(centre, 5.0, 1.0, "white", 0))
        answer = inserted.inserted(answer, filled, 3 * LEVEL)

    def count(one, other, least):
        return measures.invented(one, other, head.mask, SPACING, least=least * LEVEL)

    assert count(answer, head.image, 2) == 3
    assert count(answer, head.image, 6) == 0
    assert count(head.image, answer, 2) == 0  # what an answer lost is no invention
    assert count(answer, answer, 0.5) == 0


def test_flags_find_what_was_planted(modules, head, what, plain):
    def observed(image):
        return plain.observe(image, head, seed=3)

    found = modules["lesions"].flagged(
        (observed(head.image), head.image), (observed(what.image), what.image), what, head, seed=2
    )
    assert found["flags"] == 0
    others = [row["z"] for row in found["others"]]
    area = modules["lesion_measures"].area_under_curve
    for name in ("added", "removed"):
        assert len(found[name]) >= 5
        assert area([row["z"] for row in found[name]], others) > 0.95
    assert area(others, others) == 0.5  # and by chance half


def test_a_deviate_is_looked_up_where_the_lesion_lies(modules):
    grid = Geometry.regular((20, 20, 10), spacing_mm=(1, 1, 3))
    deviates = torch.zeros(20, 20, 10)
    deviates[5, 6, 7] = -4
    near = modules["lesion_measures"].strongest_near
    assert near(deviates, grid, grid.world((5, 6, 7)), 3.0) == 4
    assert near(deviates, grid, grid.world((12, 6, 7)), 3.0) == 0


def test_thick_slices_are_observed_on_their_own_grid(modules, head):
    thick = modules["lesions"].Question("x3, 5 %", 5.0, True).observe(head.image, head, seed=0)
    assert thick.scan.shape == (60, 60, 20)
    cubic = modules["lesions"].answering(
        "cubic B-spline", modules["lesions"].Question("x3", 5.0, True), head, None, "cpu"
    )
    assert cubic(thick, None).shape == SHAPE


def test_the_slices_hold_what_they_measure_of_a_lesion_and_nothing_between_them(modules, head, what):
    command = modules["lesions"]
    thick = command.Question("x3, 5 %", 5.0, True)
    measured = thick.observe(what.image, head, seed=0)
    held = command.answering(command.SLICES, thick, head, None, "cpu")(measured, what)
    seen = [measured.operator(torch.from_numpy(image)[None, None]) for image in (held, what.image)]
    assert torch.allclose(*seen, atol=1e-5)  # all that was measured, and not less
    for lesion in command.scored(held, what, head, thick)["lesions"]:
        assert 0.3 < lesion["recovered"] < 1
    ripple = np.resize(np.array([1, 0, -1], np.float32), SHAPE[2])  # sums to nothing in every slice
    hidden = dataclasses.replace(what, image=what.without + ripple)
    inner = command.in_slices(measured, hidden) - what.without
    assert np.abs(inner).max() < 1e-4 < np.abs(hidden.image - what.without).max()


def lines_of(modules, head, what, plain):
    answers = {"bm4d": ndimage.gaussian_filter(what.image, 1.0), "medidiff": what.image}
    scores = {method: modules["lesions"].scored(image, what, head, plain) for method, image in answers.items()}
    told = {"task": "5 %", "seconds": 1.0}
    return [told | {"scan": n, "method": method} | score for n in (1, 2, 3) for method, score in scores.items()]


def test_the_comparison_says_who_is_worse(modules, head, what, plain):
    lines, summary = lines_of(modules, head, what, plain), modules["lesion_summary"]
    found = summary.worse(lines, "5 %", "bm4d")
    assert found["high"] < 0
    assert found["worse"] == 0
    swapped = [line | {"method": {"bm4d": "medidiff", "medidiff": "bm4d"}[line["method"]]} for line in lines]
    assert summary.worse(swapped, "5 %", "bm4d")["low"] > 0
    table = summary.markdown(lines, "Lesions.")
    assert "| 5 % | medidiff |" in table
    assert "100.0 %" in table
    assert "error less that of bm4d" in table


def test_runs_go_on_and_are_reported(modules, head, what, tmp_path, monkeypatch, capsys):
    command = modules["lesions"]
    monkeypatch.setattr(command, "chosen_scans", lambda arguments: {1: Path("one")})
    monkeypatch.setattr(command, "truth", lambda path, crop: head)
    monkeypatch.setattr(command, "planted", lambda reference, level, seed: what)
    words = ["--out", str(tmp_path), "--methods", "noisy", "cubic B-spline", "--levels", "5", "--thick", "5"]
    assert command.main(["score", *words]) == 0
    path = tmp_path / "lesions.jsonl"
    first = path.read_text()
    assert first.count("\n") == 2
    assert command.main(["score", *words]) == 0
    assert path.read_text() == first
    path.write_text(first[: len(first) - 50])  # killed in the middle of a line
    assert command.main(["score", *words]) == 0
    whole = list(command.read_lines(path))
    assert sorted(line["key"] for line in whole) == sorted(json.loads(line)["key"] for line in first.splitlines())
    assert command.main(["report", *words]) == 0
    record = json.loads((tmp_path / "lesions.json").read_text())
    assert {name.split("/")[0] for name in record["finding"]["figures"]} >= {"within", "recovered", "invented_2"}
    assert "| 5 % | noisy |" in (tmp_path / "lesions.md").read_text()
    capsys.readouterr()
    assert command.main(["score", *words, "--levels", "0"]) == 2
    assert capsys.readouterr().err.startswith("E-SETTING")
    assert command.main(["report", "--out", str(tmp_path / "none")]) == 2
