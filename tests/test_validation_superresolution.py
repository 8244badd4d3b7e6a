"""The super-resolution scores, on a made-up scan small enough for every push."""

import importlib
import json
from pathlib import Path

import numpy as np
import pytest

from medidiff import io
from medidiff.volume import Geometry, Volume

FOLDER = Path(__file__).resolve().parent.parent / "validation"
SHAPE = (24, 22, 36)


@pytest.fixture
def command(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("superresolution")


@pytest.fixture
def study(tmp_path):
    """A data folder with one test scan, bands of tissue across the slices, and the split that names it."""
    depth = np.linspace(0, 3 * np.pi, SHAPE[2])
    image = np.zeros(SHAPE)
    image[2:-2, 2:-2, 2:-2] = 600 + 200 * np.sin(depth)[2:-2]
    place = tmp_path / "data" / "set" / "sub-02" / "anat"
    place.mkdir(parents=True)
    noise = np.random.default_rng(0).normal(0, 1, SHAPE)
    volume = Volume((image + noise).astype(np.float32), Geometry.regular(SHAPE), "MR")
    io.write(volume, place / "sub-02_T1w.nii.gz")
    split = tmp_path / "split.toml"
    split.write_text('[set]\ntrain = []\ntest = ["sub-02"]\n')
    return ["--data", str(tmp_path / "data"), "--split", str(split), "--set", "set", "--out", str(tmp_path / "out")]


@pytest.fixture
def reference(command, study):
    return command.truth(next(Path(study[1]).rglob("*.nii.gz")), 0)


def test_the_command_writes_a_row_for_each_task_and_method(command, study, tmp_path):
    assert command.main([*study, "--prior", "none", "--factors", "3", "3.3", "--joint", "9"]) == 0
    scores = json.loads((tmp_path / "out" / "superresolution.json").read_text())["scores"]
    found = {(s["task"], s["method"]): s for s in scores}
    wanted = {"x3, 1 % noise", "x3.3, 1 % noise", "all axes x2, 1 % noise", "x3, 9 % noise"}
    assert {task for task, _ in found} == wanted
    assert found["x3, 1 % noise", "smoothest"]["psnr_db"] > found["x3, 1 % noise", "cubic B-spline"]["psnr_db"]
    assert found["x3, 1 % noise", "smoothest"]["residual"] < 1e-3  # it explains the slices exactly
    text = (tmp_path / "out" / "superresolution.md").read_text()
    assert "| x3, 1 % noise | cubic B-spline |" in text
    assert "sub-02" not in text
    finding = json.loads((tmp_path / "out" / "superresolution.json").read_text())["finding"]
    assert finding["figures"]["hfen/x3 9 noise/smoothest"] == [[1, found["x3, 9 % noise", "smoothest"]["hfen"]]]
    assert finding["params"]["command"].endswith("--factors 3 3.3")


@pytest.mark.parametrize("factors", [(1.0, 1.0, 3.0), (1.0, 1.0, 3.3), (2.0, 2.0, 2.0)], ids=str)
def test_slices_lie_where_their_grid_says(command, reference, factors):
    """The ramp oracle: what the slices of a ramp hold is the ramp at the places that their grid states."""
    geometry = reference.geometry
    ramp = geometry.world(np.moveaxis(np.indices(SHAPE), 0, -1)) @ (1.0, 2.0, 3.0) + 500
    truth = command.Truth(ramp.astype(np.float32), reference.mask, geometry)
    scan = command.measure(truth, command.Task(factors, 1e-4), seed=0).scan
    said = scan.geometry.world(np.moveaxis(np.indices(scan.shape), 0, -1)) @ (1.0, 2.0, 3.0) + 500
    inner = (slice(1, -1),) * 3
    assert np.abs(scan.data[0] - said)[inner].max() < 0.6  # a box that is cut by the voxels' own edges is off a little


def test_steps_between_slices_are_seen_as_ripple(command, reference):
    stairs = reference.image[:, :, 1::3].repeat(3, axis=2)
    assert command.ripple(stairs, reference, 3.0) > 0.9
    assert command.ripple(reference.image, reference, 3.0) < 0.2  # the negative: anatomy has no period of slices


@pytest.mark.parametrize("broken", [["--factors", "0.5"], ["--noise", "0"], ["--joint", "-1"]], ids=" ".join)
def test_broken_settings_are_refused_in_one_line(command, study, capsys, broken):
    assert command.main([*study, "--prior", "none", *broken]) == 2
    assert capsys.readouterr().err.count("\n") == 1
