"""What the command line refuses: in one line, with an exit code, before anything is written."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import medidiff.cli as cli
import medidiff.cli.restoring as restoring
from medidiff.io import write
from tests.cli_cases import ball, document, everything, refused
from tests.small_prior import small_prior


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--noise-level", "0"), "--noise-level"),
        (("--noise-level", "nan"), "--noise-level"),
        (("--draws", "1"), "--draws"),
        (("--steps", "0"), "--steps"),
        (("--seed", "-1"), "--seed"),
        (("--draws", "0", "--draw", "d.nii"), "--draws"),
        (("--interval", "1.2", "l.nii", "u.nii"), "--interval"),
        (("--spread", "OUT"), "one place"),
        (("--format", "dicom"), "E-OUTFORMAT"),
    ],
)
def test_settings_out_of_range_are_code_2(options, says, ball_file, card, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out = str(tmp_path / "out.nii.gz")
    words = [out if word == "OUT" else word for word in options]
    assert says in refused(["denoise", ball_file, out, "--prior", card, *words], capsys, code=2)
    assert not Path(out).exists()


def test_a_coarser_grid_is_code_2_also_in_a_dry_run(ball_file, card, tmp_path, capsys):
    words = ["superresolve", ball_file, tmp_path / "out.nii", "--spacing", 1, 1, 5, "--prior", card]
    assert "coarser" in refused(words, capsys, code=2)
    assert "coarser" in refused([*words, "--dry-run"], capsys, code=2)


def test_a_spacing_that_would_do_is_told_for_all_axes_at_once(ball_file, card, tmp_path, capsys):
    words = ["superresolve", ball_file, tmp_path / "out.nii", "--prior", card, "--dry-run", "--spacing"]
    said = refused([*words, 1, 1.2, 1], capsys, code=2)
    assert "1 mm along axis 0 and 1.2 mm along axis 1, coarser than the scan" in said
    assert "at most 0.9 x 1.1 x 2 mm" in said
    assert "Give own own 1:" in said
    told = document([*words, "own", "own", 1], capsys)["output"]
    assert told["spacing_mm"] == pytest.approx([0.9, 1.1, 1])
    assert "a number or 'own'" in refused([*words, "its", "own", 1], capsys, code=2)


def test_what_cannot_be_read_is_code_4_and_nothing_to_read_is_code_8(card, tmp_path, capsys):
    (tmp_path / "text.nii").write_text("no scan")
    (tmp_path / "empty").mkdir()
    cases = (("nothing.nii.gz", "E-MISSING", 4), ("text.nii", "E-FORMAT", 4), ("empty", "E-NOIMAGES", 8))
    for name, fault, code in cases:
        assert fault in refused(["convert", tmp_path / name, tmp_path / "out.nii"], capsys, code=code)
        words = ["denoise", tmp_path / name, tmp_path / "out.nii", "--prior", card]
        assert fault in refused(words, capsys, code=code)
    assert "E-MISSING" in refused(["info", tmp_path / "nothing.nii.gz"], capsys, code=4)
    assert document(["info", tmp_path / "text.nii"], capsys)["series"][0]["problem"].startswith("E-FORMAT")


@pytest.mark.parametrize(
    ("spoilt", "code"),
    [(lambda data: data - 2000, "E-SCALE"), (lambda data: np.float32(data == data.max()), "E-FLAT")],
    ids=["negative", "one bright voxel"],
)
def test_a_scan_that_cannot_be_restored_is_named(spoilt, code, card, tmp_path, capsys):
    scan = ball()
    source = write(scan.with_data(spoilt(scan.data)), tmp_path / "odd.nii.gz")[0]
    said = refused(["denoise", source, tmp_path / "out.nii.gz", "--prior", card], capsys, code=4)
    assert said.startswith(f"medidiff: {code}: odd.nii.gz: ")


def unreadable_ct():
    """A CT that shows air and bone, and nothing between them that noise is read in."""
    return dataclasses.replace(ball().with_data(np.where(ball().data > 500, 900, -1000)), modality="CT", units="HU")


REFUSED_VALUES = {
    "E-SCALE": lambda: ball().with_data(ball().data - 2000),
    "E-FLAT": lambda: ball().with_data(np.float32(ball().data == ball().data.max())),
    "E-NOISELEVEL": unreadable_ct,
}


@pytest.mark.parametrize("code", REFUSED_VALUES)
@pytest.mark.parametrize("verb", [["denoise"], ["superresolve", "--spacing", "own", "own", "1"]], ids=["same", "finer"])
def test_a_dry_run_refuses_for_its_values_what_the_run_refuses(verb, code, tmp_path, capsys):
    scan = REFUSED_VALUES[code]()
    small_prior(scan.modality).save(tmp_path / "prior")
    write(scan, tmp_path / "odd.nii.gz")
    words = [verb[0], tmp_path / "odd.nii.gz", tmp_path / "new" / "out.nii.gz", *verb[1:]]
    words += ["--prior", tmp_path / "prior" / "tiny.json"]
    words += ["--modality", "CT"] if scan.modality == "CT" else []
    before = everything(tmp_path)
    foreseen = refused([*words, "--dry-run"], capsys, code=4)
    assert foreseen.startswith(f"medidiff: {code}: odd.nii.gz: ")
    assert everything(tmp_path) == before
    assert refused(words, capsys, code=4) == foreseen


def test_a_dry_run_of_a_ct_whose_noise_is_given_needs_no_tissue_to_read_it_in(tmp_path, capsys):
    small_prior("CT").save(tmp_path / "prior")
    source = write(unreadable_ct(), tmp_path / "odd.nii.gz")[0]
    words = ["denoise", source, tmp_path / "out.nii.gz", "--modality", "CT", "--noise-level", 20, "--dry-run"]
    assert document([*words, "--prior", tmp_path / "prior" / "tiny.json"], capsys)["noise"]["level"] == 20


def test_no_such_prior_is_code_6(ball_file, tmp_path, capsys):
    assert "E-PRIOR" in refused(["denoise", ball_file, tmp_path / "o.nii", "--prior", "nope"], capsys, code=6)


def test_outputs_are_checked_before_a_prior_is_loaded(ball_file, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(restoring, "fitting_prior", lambda *_: pytest.fail("a prior was loaded"))
    (tmp_path / "file").write_text("")
    foreign = tmp_path / "theirs.json"
    foreign.write_text("{}")
    before = everything(tmp_path)
    assert "E-OVERWRITE" in refused(["denoise", ball_file, ball_file], capsys, code=5)
    assert "E-OVERWRITE" in refused(["denoise", ball_file, tmp_path / "o.nii", "--spread", ball_file], capsys, code=5)
    assert "E-OVERWRITE" in refused(["denoise", ball_file, tmp_path / "theirs.nii"], capsys, code=5)
    assert "E-OUT" in refused(["denoise", ball_file, tmp_path / "file" / "o.nii"], capsys, code=5)
    assert "E-OUT" in refused(["train", "recipe.toml", "-o", tmp_path / "file"], capsys, code=5)
    assert everything(tmp_path) == before


def test_a_closed_folder_is_code_5(ball_file, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("os.access", lambda *_: False)  # root may write everywhere
    assert "cannot be written" in refused(["convert", ball_file, tmp_path / "o.nii"], capsys, code=5)


def test_an_interrupt_is_130_and_a_bug_keeps_its_traceback(ball_file, monkeypatch, capsys):
    def fail(error: type[BaseException]) -> None:
        raise error

    monkeypatch.setattr("medidiff.cli.info.run", lambda *_: fail(KeyboardInterrupt))
    assert cli.main(["info", str(ball_file)]) == 130
    assert capsys.readouterr().err.count("\n") == 1
    monkeypatch.setattr("medidiff.cli.info.run", lambda *_: fail(ZeroDivisionError))
    with pytest.raises(ZeroDivisionError):
        cli.main(["info", str(ball_file)])


def test_nobody_reading_is_no_traceback(ball_file):
    run = subprocess.Popen(
        [sys.executable, "-m", "medidiff", "info", str(ball_file)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    run.stdout.close()
    assert (run.wait(60), run.stderr.read()) == (141, b"")
    run.stderr.close()


def test_a_name_cannot_colour_the_terminal(tmp_path, capsys):
    said = refused(["info", tmp_path / "no\x1b[31m\r\nsuch\u202e.nii"], capsys, code=4)
    assert said.rstrip("\n").isprintable()
