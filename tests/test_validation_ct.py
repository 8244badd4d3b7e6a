"""The low-dose CT score, on a made-up slab small enough for every push."""

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
SHAPE = (72, 72, 24)


@pytest.fixture
def command(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("ct")


def chest() -> np.ndarray:
    """Soft tissue with two lungs, open at both ends of the slab, in air."""
    x, y, _ = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
    body = np.where((x / 0.9) ** 2 + (y / 0.8) ** 2 < 1, 40.0, -1000.0)
    body[((np.abs(x) - 0.4) / 0.2) ** 2 + (y / 0.4) ** 2 < 1] = -850.0
    return np.rint(body + np.random.default_rng(0).normal(0, 3, SHAPE)).astype(np.int16)


@pytest.fixture
def study(tmp_path):
    """A data folder with one CT, and a split that gives its middle slices to the test."""
    place = tmp_path / "data" / "ct-lung"
    place.mkdir(parents=True)
    io.write(Volume(chest(), Geometry.regular(SHAPE, spacing_mm=(3.5, 3.5, 2)), "CT", "HU"), place / "one_ct.nii.gz")
    split = tmp_path / "split.toml"
    split.write_text('[ct-lung]\ntrain = ["one[0:5]"]\nvalidation = []\ntest = ["one[9:21]"]\n')
    return ["--data", str(tmp_path / "data"), "--split", str(split), "--photons", "2e4", "--views", "96"]


def test_the_command_writes_a_table_and_pictures_in_which_the_peers_beat_the_noise(command, study, tmp_path):
    out = tmp_path / "out"
    card = small_prior("CT").save(tmp_path / "prior")
    assert command.main([*study, "--out", str(out), "--doses", "0.1", "--prior", str(card)]) == 0
    scores = {s["method"]: s for s in json.loads((out / "ct.json").read_text())["scores"]}
    assert scores.keys() == {"low dose", "gaussian", "tv", "nlmeans", "medidiff", "medidiff, level estimated"}
    for peer in ("tv", "nlmeans"):
        assert scores[peer]["rmse_soft"] < 0.8 * scores["low dose"]["rmse_soft"]
        assert scores[peer]["psnr_soft"] > scores["low dose"]["psnr_soft"] + 1
    assert {path.name for path in out.glob("*.png")} == {"ct-dose-0.1-lung.png", "ct-dose-0.1-soft.png"}
    assert "| 0.1 | tv |" in (out / "ct.md").read_text()
    assert "one_ct" not in (out / "ct.md").read_text() + (out / "ct.json").read_text()


def test_a_lower_dose_is_noisier(command, study, tmp_path):
    command.main([*study, "--out", str(tmp_path), "--doses", "0.5", "0.05", "--prior", "none", "--peers"])
    half, low = json.loads((tmp_path / "ct.json").read_text())["scores"]
    assert low["rmse_soft"] > 3 * half["rmse_soft"]
    assert low["ssim_soft"] < half["ssim_soft"]


def test_lungs_and_soft_tissue_are_told_apart(command):
    masks = command.regions(chest()[..., :12].astype(np.float32))
    assert not (masks["lung"] & masks["soft"]).any()
    assert (chest()[..., :12][masks["lung"]] < -600).mean() > 0.95
    assert (chest()[..., :12][masks["soft"]] > -100).mean() > 0.95
    assert not (masks["lung"] | masks["soft"])[0].any()
    assert masks["lung"].sum() > 1000


def test_scores_of_a_known_error(command):
    truth = chest()[..., :12].astype(np.float32)
    masks = command.regions(truth)
    scores = command.scored(truth + 40, truth, masks)
    assert scores["rmse_soft"] == scores["rmse_lung"] == pytest.approx(40)
    assert scores["psnr_soft"] == pytest.approx(20, abs=0.3)  # 40 of 400 HU
    beyond = np.where(truth > -100, 900, truth)
    clipped = command.scored(beyond + 40, beyond, masks)
    assert clipped["psnr_soft"] == float("inf")  # both are white in this window
    assert clipped["rmse_soft"] == pytest.approx(40)


def test_neighbours_of_white_and_of_blurred_noise(command):
    noise, mask = np.random.default_rng(0).normal(0, 1, (60, 60, 8)), np.ones((60, 60, 8), dtype=bool)
    assert np.abs(command.neighbours(noise, mask)).max() < 0.06
    along_i, along_j = command.neighbours(ndimage.gaussian_filter(noise, (1, 0, 0)), mask)
    assert along_i > 0.6
    assert abs(along_j) < 0.1


@pytest.mark.parametrize(
    ("broken", "code"),
    [
        (["--doses", "0"], "E-DOSE"),
        (["--photons", "-1"], "E-BEAM"),
        (["--window", "boxcar"], "E-BEAM"),
        (["--threads", "0"], "E-SETTING"),
        (["--part", "validation"], "E-SPLIT"),
        (["--set", "no-such"], "E-SPLIT"),
    ],
    ids=str,
)
def test_broken_settings_are_refused_in_one_line(command, study, tmp_path, capsys, broken, code):
    assert command.main([*study, "--prior", "none", "--out", str(tmp_path), "--peers", *broken]) == 2
    said = capsys.readouterr().err
    assert said.startswith(code)
    assert said.count("\n") == 1
