"""`denoise` and `superresolve` at the command line: what they write is where the scan was."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest

import medidiff.cli as cli
from medidiff.io import read, write
from medidiff.prior import Prior
from medidiff.trust import scope_of
from tests import dicom_cases
from tests.cli_cases import ball, document, everything
from tests.scope_heads import FAULTS, brain


def test_denoise_keeps_the_grid_and_says_how_it_was_made(ball_file, card, tmp_path, capsys):
    out = tmp_path / "deep" / "out.nii.gz"
    told = document(["denoise", ball_file, out, "--noise-level", 50, "--prior", card], capsys)
    assert read(out).geometry.distance_mm(read(ball_file).geometry) < 1e-6
    record = json.loads((tmp_path / "deep" / "out.json").read_text())
    assert record["Provenance"]["inputs"] == [hashlib.sha256(ball_file.read_bytes()).hexdigest()]
    assert record["Provenance"] == told["provenance"]
    assert record["Description"] == "medidiff denoised (research use only)"
    assert told["files"] == {"mean": str(out)}


def test_superresolve_reaches_the_grid_that_was_asked_for(ball_file, card, tmp_path, capsys):
    out = tmp_path / "out.nii"
    assert cli.main(["superresolve", str(ball_file), str(out), "--spacing", "0.9", "1.1", "1", "--prior", card]) == 0
    assert "estimated" in capsys.readouterr().err
    wanted = read(ball_file).geometry.with_spacing((0.9, 1.1, 1.0))
    assert read(out).geometry.distance_mm(wanted) < 1e-5  # NIfTI keeps the affine in float32


def test_spread_interval_and_draw_on_request(ball_file, card, tmp_path, capsys):
    mean, spread, lower, upper, draw = (tmp_path / f"{name}.nii" for name in ("m", "s", "l", "u", "d"))
    words = ["--noise-level", 50, "--prior", card, "--draws", 2, "--steps", 1]
    wanted = ["--spread", spread, "--interval", 0.9, lower, upper, "--draw", draw]
    told = document(["denoise", ball_file, mean, *words, *wanted], capsys)
    assert set(told["files"]) == {"mean", "spread", "lower", "upper", "draw"}
    m, s, low, high = (read(path).data for path in (mean, spread, lower, upper))
    np.testing.assert_allclose((high - low) / 2, 1.6449 * s, rtol=1e-2, atol=1e-2)  # the 95 % point of a Gaussian
    np.testing.assert_allclose((high + low) / 2, m, atol=1e-2)
    again = document(["denoise", ball_file, mean, *words, "--draw", draw], capsys)
    assert again["provenance"]["settings"]["draws"] == 2
    assert json.loads((tmp_path / "s.json").read_text())["Provenance"]["task"] == "denoise spread"


def test_the_residual_is_written_on_the_grid_of_the_scan_without_draws(ball_file, card, tmp_path, capsys):
    out, residual = tmp_path / "out.nii", tmp_path / "residual.nii.gz"
    words = ["--spacing", 0.9, 1.1, 1, "--noise-level", 50, "--prior", card, "--residual", residual]
    told = document(["superresolve", ball_file, out, *words], capsys)
    assert told["files"] == {"mean": str(out), "residual": str(residual)}
    assert told["provenance"]["settings"]["draws"] == 0
    assert read(residual).geometry.distance_mm(read(ball_file).geometry) < 1e-5
    peak = max(abs(scale["peak"]) for scale in told["provenance"]["support"]["scales"])
    assert float(np.abs(read(residual).data).max()) == pytest.approx(peak, rel=1e-2)


def test_a_residual_is_no_dicom_series(card, tmp_path, capsys):
    source = tmp_path / "study"
    dicom_cases.series(source, modality="MR")
    words = ["--prior", card, "--residual", str(tmp_path / "residual")]
    assert cli.main(["denoise", str(source), str(tmp_path / "derived"), *words]) == 2
    assert "E-OUTFORMAT" in capsys.readouterr().err
    assert not (tmp_path / "residual").exists()


@pytest.mark.parametrize("extra", [[], ["--json"]])
def test_a_dry_run_tells_the_plan_and_writes_nothing(extra, ball_file, card, tmp_path, capsys):
    before = everything(tmp_path)
    words = [
        "superresolve",
        ball_file,
        tmp_path / "new" / "o.nii",
        "--spacing",
        0.9,
        1.1,
        1,
        "--prior",
        card,
        "--dry-run",
    ]
    assert cli.main([*map(str, words), *extra]) == 0
    shown = capsys.readouterr().out
    for fact in ("estimated", "rician", "tiny", "o.nii", "cpu"):
        assert fact in shown
    if extra:
        plan = json.loads(shown)
        assert plan["output"]["shape"] == [20, 18, 32]
        assert plan["files"] == {"mean": str(tmp_path / "new" / "o.nii")}
    assert everything(tmp_path) == before
    assert not (tmp_path / "new").exists()


def test_a_dry_run_says_of_the_scope_what_the_run_will_say(tmp_path, capsys):
    head = brain()
    flair = head.with_data(FAULTS["contrast of FLAIR"][0](head.data[0])[None])
    source = write(flair, tmp_path / "flair.nii.gz")[0]
    wanted = scope_of(read(source), Prior.card_of("fine-t1"))
    words = ["denoise", str(source), str(tmp_path / "out.nii.gz"), "--dry-run"]
    assert wanted.outside
    assert cli.main(words) == 0
    assert f"  {wanted.sentence}\n" in capsys.readouterr().out
    assert cli.main([*words, "--strict"]) == 0
    assert f"  {wanted.sentence}; --strict refuses it\n" in capsys.readouterr().out
    for extra, refused in (([], False), (["--strict"], True)):
        assert document([*words, *extra], capsys)["scope"] == json.loads(json.dumps(wanted.record())) | {
            "refused": refused
        }


def test_a_dry_run_says_nothing_of_the_scope_of_a_scan_that_meets_no_prior(tmp_path, capsys):
    flat = ball().with_data(np.full_like(ball().data, 7))
    words = ["denoise", write(flat, tmp_path / "flat.nii.gz")[0], tmp_path / "out.nii.gz", "--dry-run", "--strict"]
    assert document(words, capsys)["scope"] is None
    assert cli.main([str(word) for word in words]) == 0
    assert "scope" not in capsys.readouterr().out.lower()


def test_a_dicom_series_becomes_a_series_and_no_name_leaves_it(card, tmp_path, capsys):
    source, out, plain = tmp_path / "study", tmp_path / "derived", tmp_path / "plain"
    dicom_cases.series(source, modality="MR")
    words = ["--noise-level", "5", "--prior", card]
    assert cli.main(["info", str(source)]) == 0
    assert cli.main(["denoise", str(source), str(out), *words, "--dry-run"]) == 0
    assert cli.main(["denoise", str(source), str(out), *words]) == 0
    assert cli.main(["denoise", str(source), str(plain), *words, "--format", "nifti", "--json"]) == 0
    assert cli.main(["denoise", str(source), str(source / "inside"), *words]) == 5
    assert cli.main(["denoise", str(source), str(out), *words]) == 5  # two series would mix
    said = "".join(capsys.readouterr())
    assert read(out).geometry.distance_mm(read(source).geometry) < 1e-4
    assert len(list(out.glob("*.dcm"))) == len(list(source.glob("*.dcm")))
    (nifti,) = plain.glob("*.nii.gz")
    assert read(nifti).geometry.distance_mm(read(source).geometry) < 1e-6
    records = "".join(path.read_text() for path in tmp_path.rglob("*.json"))
    for secret in dicom_cases.SECRETS:
        assert secret not in said + records
    assert any(b"SECRET^NAME" in path.read_bytes() for path in out.glob("*.dcm"))  # the study's own series keeps it


def test_the_spread_of_a_dicom_series_is_a_parametric_map_of_its_study(card, tmp_path, capsys):
    source, out, spread = tmp_path / "study", tmp_path / "derived", tmp_path / "spread"
    dicom_cases.series(source, modality="MR")
    words = ["--noise-level", "5", "--prior", card, "--draws", "2", "--steps", "1"]
    assert cli.main(["denoise", str(source), str(out), "--spread", str(spread), *words]) == 0
    assert [path.name for path in sorted(spread.iterdir())] == ["PM0001.dcm", "provenance.json"]
    again = read(spread)
    assert again.geometry.distance_mm(read(source).geometry) < 1e-6
    assert again.data.dtype == np.float32
    assert again.data.min() >= 0
    assert json.loads((spread / "provenance.json").read_text())["Provenance"]["task"] == "denoise spread"
