"""`adapt` at the command line: a prior that `denoise` takes, an honest word on it, nothing of the scans."""

from __future__ import annotations

import dataclasses
import json

import pytest

import medidiff.cli as cli
from medidiff.io import read, write
from medidiff.io.record import read_record
from medidiff.prior import Prior
from medidiff.training import adapt as module
from tests.cli_cases import document, everything, refused
from tests.small_prior import small_prior
from tests.test_adapt import LEVEL, world_scan


@pytest.fixture
def eager(monkeypatch):
    monkeypatch.setattr(module, "_BETWEEN_LOOKS", 4)
    monkeypatch.setattr(module, "_RATE", 5e-3)


@pytest.fixture
def scan_file(tmp_path):
    return write(world_scan(size=40)[0], tmp_path / "DOE_JOHN" / "PLANTEDNAME.nii.gz")[0]


@pytest.fixture
def first(tmp_path):
    return small_prior().save(tmp_path / "first")


def words(scan, out, prior, *more):
    return ["adapt", scan, "-o", out, "--name", "ward", "--prior", prior, "--device", "cpu", "--patches", 8, *more]


def test_the_adapted_prior_is_one_that_denoise_takes(eager, scan_file, first, tmp_path, capsys):
    out = tmp_path / "out"
    told = document(words(scan_file, out, first, "--noise-level", LEVEL), capsys)
    assert told["changed"]
    assert told["held_back"]["change"] < 0
    assert told["card"] == str(out / "ward.json")
    assert Prior.load(out / "ward.json").card.start["name"] == "tiny"
    clean = tmp_path / "clean.nii.gz"
    made = document(["denoise", scan_file, clean, "--prior", out / "ward.json", "--noise-level", LEVEL], capsys)
    assert made["provenance"]["prior"]["name"] == "ward"
    assert read(clean).shape == (40, 40, 40)


def test_what_is_written_names_no_scan(eager, scan_file, first, tmp_path, capsys):
    out = tmp_path / "out"
    assert cli.main([str(word) for word in words(scan_file, out, first, "--noise-level", LEVEL)]) == 0
    shown = "".join(capsys.readouterr())
    assert "the new weights are taken" in shown
    files = everything(out)
    assert sorted(files) == ["medidiff.record.jsonl", "ward.json", "ward.safetensors"]
    for planted in (b"PLANTEDNAME", b"DOE_JOHN", str(tmp_path).encode()):
        assert not any(planted in data for data in files.values())
    (run,) = read_record(out / "medidiff.record.jsonl")
    assert run.exit_code == 0


def test_no_gain_is_said_and_leaves_the_weights(scan_file, first, tmp_path, capsys):
    """A level that the prior never practised teaches nothing."""
    out = tmp_path / "out"
    assert cli.main([str(word) for word in words(scan_file, out, first, "--noise-level", 1e-3)]) == 0
    seen = capsys.readouterr()
    assert "as it was, no gain" in seen.out
    assert "the prior is the one that it began with" in seen.err
    old, new = Prior.load(first), Prior.load(out / "ward.json")
    for name, weight in old.denoiser.state_dict().items():
        assert (new.denoiser.state_dict()[name] == weight).all()


def test_several_scans_are_read_and_a_name_twice_is_one(eager, scan_file, first, tmp_path, capsys):
    other = write(world_scan(1, size=40)[0], tmp_path / "other.nii.gz")[0]
    argv = words(scan_file, tmp_path / "out", first, "--noise-level", LEVEL)
    told = document([argv[0], scan_file, other, *argv[1:]], capsys)
    assert "2 noisy scans" in json.loads((tmp_path / "out" / "ward.json").read_text())["summary"]
    assert told["patches"] == 8


def test_a_prior_that_is_there_is_not_written_over(scan_file, first, tmp_path, capsys):
    before = everything(tmp_path)
    said = refused(["adapt", scan_file, "-o", first.parent, "--name", "tiny", "--prior", first], capsys, code=5)
    assert "E-EXISTS" in said
    assert everything(tmp_path) == before


def test_a_plan_writes_nothing(scan_file, first, tmp_path, capsys):
    before = everything(tmp_path)
    plan = document(words(scan_file, tmp_path / "out", first, "--dry-run"), capsys)
    assert (plan["patches"], plan["noise"]) == (8, {"kind": "rician", "level": "estimated"})
    assert cli.main([str(word) for word in words(scan_file, tmp_path / "out", first, "--dry-run")]) == 0
    assert "nothing is written" in capsys.readouterr().out
    assert everything(tmp_path) == before


@pytest.mark.parametrize("dry", [[], ["--dry-run"]], ids=["run", "plan"])
def test_a_plan_refuses_what_a_run_refuses(dry, scan_file, first, tmp_path, capsys):
    before = world_scan(size=20)[0]
    ct = write(dataclasses.replace(before, data=before.data - 1024, modality="CT"), tmp_path / "ct.nii.gz")[0]
    assert "E-MODALITY" in refused(words(ct, tmp_path / "one", first, *dry), capsys, code=4)
    of_ct = small_prior("CT").save(tmp_path / "of_ct")
    assert "E-MODALITY" in refused(words(scan_file, tmp_path / "two", of_ct, *dry), capsys, code=4)
    argv = [*words(scan_file, tmp_path / "three", first, *dry), "--name", "a b"]
    assert "--name" in refused(argv, capsys, code=2)


def test_a_plan_says_that_a_scan_is_taken_for_mr(scan_file, first, tmp_path, capsys):
    argv = words(scan_file, tmp_path / "out", first, "--dry-run")
    assert document(argv, capsys)["decisions"] == []
    scan_file.with_name("PLANTEDNAME.json").unlink()
    (told,) = document(argv, capsys)["decisions"]
    assert "does not say its modality" in told
    assert cli.main([str(word) for word in argv]) == 0
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "says", "code"),
    [
        (["--patches", 0], "--patches", 2),
        (["--minutes", "inf"], "--minutes", 2),
        (["--name", "a/b"], "--name", 2),
        (["--prior", "none"], "E-PRIOR", 6),
    ],
    ids=str,
)
def test_what_cannot_be_is_one_line(more, says, code, scan_file, first, tmp_path, capsys):
    argv = [*words(scan_file, tmp_path / "out", first, "--noise-level", LEVEL), *more]
    assert says in refused(argv, capsys, code=code)


def test_a_scan_is_wanted(tmp_path, capsys):
    assert "SCAN" in refused(["adapt", "-o", tmp_path, "--name", "x"], capsys, code=2)
