"""`train` and `demo` at the command line."""

from __future__ import annotations

import dataclasses

import pytest

import medidiff.cli as cli
import medidiff.cli.demo as demo
import medidiff.cli.train as training
from medidiff.io import read
from medidiff.io.record import read_record
from medidiff.prior import Prior
from medidiff.volume import Geometry, Volume
from tests.cli_cases import document, refused

RECIPE = """
name = "tiny"
summary = "A test."
[data]
[[data.sources]]
pattern = "scan.nii.gz"
licence = "CC0"
[model]
channels = [4, 8]
blocks = [1, 1, 1]
[fit]
images = 4
patch = 16
[validation]
every = 4
levels = [0.1]
crop = 16
scans = 1
"""


def test_train_tracks_shows_and_resumes(ball_file, tmp_path, capsys, monkeypatch):
    told = {}
    monkeypatch.setattr(training, "track", lambda events, **words: told.update(words) or events)
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(RECIPE)
    words = [
        "train",
        recipe,
        "-o",
        tmp_path / "run",
        "--data",
        ball_file.parent,
        "--device",
        "cpu",
        "--tracking",
        "sqlite:///t.db",
    ]
    plan = document([*words, "--dry-run"], capsys)
    assert plan["scans"] == {"train": 1, "validation": 1}
    assert not (tmp_path / "run").exists()
    result = document(words, capsys)
    assert result["images"] == 4
    assert set(result["scores"]) == {"psnr_db_noise_10", "ssim_noise_10"}
    assert told["uri"] == "sqlite:///t.db"
    assert Prior.load(result["card"]).card.images == 4
    assert cli.main([str(word) for word in words]) == 0
    assert "goes on after 4 images" in capsys.readouterr().err
    runs = read_record(tmp_path / "run" / "medidiff.record.jsonl")
    assert [run.exit_code for run in runs] == [0, 0]
    assert "sqlite" not in (tmp_path / "run" / "medidiff.record.jsonl").read_text()  # an address may hold a password


def test_the_arithmetic_of_training_is_chosen(ball_file, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(training, "track", lambda events, **words: events)
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(RECIPE)
    weights = {}
    for precision in ("auto", "float32", "bfloat16"):
        words = ["train", recipe, "-o", tmp_path / precision, "--data", ball_file.parent, "--device", "cpu"]
        card = document([*words, "--precision", precision], capsys)["card"]
        weights[precision] = Prior.load(card).card.weights_sha256
    assert weights["auto"] == weights["float32"] != weights["bfloat16"]


def test_a_broken_recipe_is_one_line(tmp_path, capsys):
    recipe = tmp_path / "bad.toml"
    recipe.write_text(RECIPE.replace("images = 4", "images = 0"))
    assert "fit.images" in refused(["train", recipe, "-o", tmp_path / "run"], capsys, code=2)
    assert "E-RECIPE" in refused(["train", tmp_path / "none.toml", "-o", tmp_path / "run"], capsys, code=2)


def test_demo_compares_and_leaves_scans_and_pictures(card, tmp_path, capsys, monkeypatch):
    truth = demo._Truth.load()
    scan = truth.scan
    cut = (slice(40, 88), slice(60, 108), slice(24, 48))
    affine = scan.geometry.affine.copy()
    affine[:3, 3] = scan.geometry.world((40, 60, 24))
    small = Volume(scan.data[0][cut], Geometry((48, 48, 24), affine), "MR")
    monkeypatch.setattr(demo._Truth, "load", lambda: dataclasses.replace(truth, scan=small, mask=truth.mask[cut]))
    table = document(["demo", "-o", tmp_path / "out", "--prior", card, "--draws", 2], capsys)
    names = {"denoised", "noisy", "spread", "superresolved", "thick"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *(f"{name}.nii.gz" for name in names),
        *(f"{name}.json" for name in names),
        *("denoise.png", "superresolve.png", "table.json", "medidiff.record.jsonl"),
    }
    for name in names - {"thick"}:
        assert read(tmp_path / "out" / f"{name}.nii.gz").geometry.distance_mm(small.geometry) < 1e-4
    assert read(tmp_path / "out" / "thick.nii.gz").geometry.spacing_mm[2] == pytest.approx(3.0, abs=1e-4)
    images = [row["image"] for row in table["rows"]]
    assert images == ["noisy", "Gaussian", "non-local means", "medidiff", "thick slices", "cubic B-spline", "medidiff"]
    score = {row["image"]: row["psnr_db"] for row in table["rows"]}
    assert score["noisy"] < min(score["Gaussian"], score["non-local means"])
    assert score["thick slices"] < score["cubic B-spline"]
    assert "--factor" in refused(["demo", "-o", tmp_path / "out", "--factor", 5], capsys, code=2)


def test_the_demos_thick_slices_lead_back_to_the_samples_grid():
    fine = demo._Truth.load().scan.geometry
    for factor in (2, 3, 4, 6, 8):
        across, down, apart = fine.spacing_mm
        coarse = fine.with_spacing((across, down, apart * factor))
        assert coarse.with_spacing(fine.spacing_mm).distance_mm(fine) < 1e-6
