"""The scores of steps and draws: the sharpness of cases that are known, and the command on a made-up scan."""

import importlib
import json
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage
from small_prior import small_prior

from medidiff import io
from medidiff.volume import Geometry, Volume

FOLDER = Path(__file__).resolve().parent.parent / "validation"
SHAPE = (36, 36, 36)


@pytest.fixture
def command(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("steps")


@pytest.fixture
def noise():
    return np.random.default_rng(0).normal(0, 1, (48, 48, 48)).astype(np.float32)


@pytest.fixture
def study(tmp_path):
    """A data folder with one test scan, textured tissue, the split that names it, and a prior."""
    texture = ndimage.gaussian_filter(np.random.default_rng(0).normal(0, 1, SHAPE), 1.5)
    image = np.zeros(SHAPE, np.float32)
    image[2:-2, 2:-2, 2:-2] = 600 + 800 * texture[2:-2, 2:-2, 2:-2]
    place = tmp_path / "data" / "set" / "sub-02" / "anat"
    place.mkdir(parents=True)
    io.write(Volume(image, Geometry.regular(SHAPE), "MR"), place / "sub-02_T1w.nii.gz")
    split = tmp_path / "split.toml"
    split.write_text('[set]\ntrain = []\ntest = ["sub-02"]\n')
    prior = small_prior().save(tmp_path / "prior")
    return [
        *("--data", str(tmp_path / "data"), "--split", str(split), "--set", "set"),
        *("--prior", str(prior), "--crop", "36", "--out", str(tmp_path / "out")),
    ]


def test_the_power_of_a_blur_falls_as_its_transfer_says(command, noise):
    blurred = ndimage.gaussian_filter(noise, 1.0, mode="wrap")
    radial, across = (b / a for a, b in zip(command.spectrum(noise), command.spectrum(blurred), strict=True))
    middle = (np.arange(command.BANDS) + 0.5) * 0.25 / command.BANDS
    np.testing.assert_allclose(radial[2:], np.exp(-4 * (np.pi * middle[2:]) ** 2), rtol=0.12)
    assert across[-1] < 0.5 * across[0]  # in slabs too, whatever the other axes have left


def test_detail_that_lacks_along_one_axis_is_seen_across_and_hardly_in_the_shells(command, noise):
    blurred = ndimage.gaussian_filter(noise, (0, 0, 2.0), mode="wrap")
    radial, across = (b / a for a, b in zip(command.spectrum(noise), command.spectrum(blurred), strict=True))
    assert across[-1] < 0.02
    assert radial[-1] > 0.3
    same = command.spectrum(noise + 5)[1] / command.spectrum(noise)[1]
    np.testing.assert_allclose(same, 1, rtol=1e-4)  # brightness is not detail


def test_the_command_writes_a_row_for_each_way(command, study, tmp_path):
    more = ["--draws", "2", "--steps", "1", "3", "--samplers", "heun", "euler", "--starts", "informed", "bridge"]
    assert command.main([*study, *more]) == 0
    scores = json.loads((tmp_path / "out" / "steps.json").read_text())["scores"]
    tasks = {"9 % noise", "x3, 1 % noise"}
    assert {s["task"] for s in scores} == tasks
    assert len(scores) == 2 * (1 + 2 * 2 * 2 * 2)
    calls = {(s["way"], s["plan"], s["steps"]): s["evaluations"] for s in scores if s["task"] == "9 % noise"}
    assert calls["mean, one step", "", 0] == 1
    assert calls["a draw", "heun, informed", 3] == 1 + 5
    assert calls["mean of 2", "euler, bridge", 3] == 2 * 3
    assert all((s["spread"] > 0) == (s["steps"] > 0) for s in scores)  # the one-step mean has none
    text = (tmp_path / "out" / "steps.md").read_text()
    assert "power of draws in 3 steps" in text
    assert "sub-02" not in text


def made_up(command, way, steps, decibel, power):
    bands = (1.0,) * (command.BANDS - 1) + (power,)
    plan = "" if not steps else "heun, informed"
    return command.Score(1, "t", way, plan, steps, 1, decibel, 0.9, bands, bands, 1.0, 1.0)


@pytest.mark.parametrize(
    ("one", "four", "power", "held"),
    [(29.9, 29.9, 0.96, 4), (29.7, 29.9, 0.96, 3), (30, 29.7, 1.04, 3), (30, 30, 1.06, 2)],
)
def test_claims_are_decided_by_their_figures(command, one, four, power, held):
    rows = [
        made_up(command, "mean, one step", 0, one, 0.5),
        *(made_up(command, "mean of 8", n, d, 0.5) for n, d in ((4, four), (50, 30.0))),
        *(made_up(command, "a draw", n, 20.0, p) for n, p in ((4, power), (50, 0.2))),
    ]
    lines = command.claims({key: command.means(group) for key, group in command.grouped(rows).items()})
    assert len(lines) == 4
    assert sum(line.endswith("; held") for line in lines) == held


@pytest.mark.parametrize(
    "broken",
    [["--noise", "-1"], ["--factor", "0.5"], ["--noise", "0", "--factor", "0"], ["--draws", "1"], ["--steps", "0"]],
    ids=" ".join,
)
def test_broken_settings_are_refused_in_one_line(command, study, capsys, broken):
    assert command.main([*study, *broken]) == 2
    assert capsys.readouterr().err.count("\n") == 1
