"""`convert`: the same voxels on the same grid, one scan or all of a folder."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import medidiff.cli as cli
from medidiff.io import read
from medidiff.io.record import read_record
from tests import dicom_cases
from tests.cli_cases import document, everything, refused


def test_dicom_needs_a_dicom_source(ball_file, tmp_path, capsys):
    assert "E-LIKE" in refused(["convert", ball_file, tmp_path / "out", "--format", "dicom"], capsys, code=2)


@pytest.mark.parametrize("format", [None, "nrrd"])
def test_a_folder_needs_a_format_of_a_source_that_is_no_dicom(format, ball_file, tmp_path, capsys):
    words = ["convert", ball_file, tmp_path / "out", *([] if format is None else ["--format", format])]
    said = refused(words, capsys, code=2)
    assert f"E-OUTFORMAT: the folder 'out' and {'no format' if format is None else 'format nrrd'} (wanted: " in said
    assert "for a folder the format nifti or dicom)" in said
    assert cli.main(["convert", "--help"]) == 0
    assert "must be given unless the source, or that of --like, is DICOM" in " ".join(capsys.readouterr().out.split())
    assert cli.main([*map(str, words[:3]), "--format", "nifti"]) == 0


@pytest.fixture
def folder(tmp_path) -> Path:
    """Three series, the last with a gap, and a text."""
    for name, modality, edit in (("a", "MR", None), ("b", "CT", None), ("c", "CT", lambda _, k: k != 2)):
        dicom_cases.series(tmp_path / "study" / name, modality=modality, edit=edit)
    (tmp_path / "study" / "SECRET^NAME.txt").write_text("free text SECRET")
    return tmp_path / "study"


@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".nrrd", ".mha"])
def test_any_format_keeps_the_ramp(ending, tmp_path, capsys):
    source = tmp_path / "study"
    dicom_cases.series(source)
    out = tmp_path / f"out{ending}"
    assert document(["convert", source, out], capsys)["files"] == {"scan": str(out)}
    assert dicom_cases.ramp_error(read(out), dicom_cases.truth()) < 1e-3
    (run,) = read_record(tmp_path / "out.record.jsonl")
    assert run.exit_code == 0
    assert {line["sha256"] for line in run.of("input")} == set(sha(path) for path in source.iterdir())
    assert {line["sha256"] for line in run.of("output")} == {sha(out), sha(tmp_path / "out.json")}
    assert json.loads((tmp_path / "out.json").read_text())["Provenance"]["inputs"] == [
        line["sha256"] for line in run.of("input")
    ]


def sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_dicom_becomes_a_series_with_a_record_inside(tmp_path, capsys):
    source, out = tmp_path / "study", tmp_path / "derived"
    dicom_cases.series(source)
    document(["convert", source, out], capsys)
    assert dicom_cases.ramp_error(read(out), dicom_cases.truth()) < 1e-3
    (run,) = read_record(out / "medidiff.record.jsonl")
    assert len(run.of("output")) == len(list(out.iterdir())) - 1
    assert "derived" in refused(["convert", source, out], capsys, code=5)


def test_nifti_joins_the_study_of_a_series_that_is_named(tmp_path, capsys):
    source, plain, back = tmp_path / "study", tmp_path / "plain.nii.gz", tmp_path / "back"
    dicom_cases.series(source)
    document(["convert", source, plain], capsys)
    document(["convert", plain, back, "--like", source], capsys)
    np.testing.assert_array_equal(read(back).data, read(source).data)
    assert read(back).geometry.distance_mm(read(source).geometry) < 1e-4
    assert "E-LIKE" in refused(["convert", plain, tmp_path / "no", "--format", "dicom"], capsys, code=2)
    dicom_cases.series(source / "other", modality="MR")
    said = refused(["convert", plain, tmp_path / "no", "--like", source], capsys, code=2)
    assert "E-LIKE" in said
    assert "2 scans" in said


def test_one_scan_of_several_is_chosen_by_its_number(folder, tmp_path, capsys):
    said = refused(["convert", folder, tmp_path / "o.nii"], capsys, code=4)
    assert "E-MULTISERIES" in said
    assert "--scan" in said
    assert "--all" in said
    document(["convert", folder, tmp_path / "o.nii", "--scan", 2], capsys)
    assert dicom_cases.ramp_error(read(tmp_path / "o.nii"), dicom_cases.truth()) < 1e-3
    run = read_record(tmp_path / "o.record.jsonl")[-1]
    assert run.lines[-1]["counts"]["series_not_asked_for"] == 2
    document(["convert", folder, tmp_path / "derived", "--scan", 2, "--format", "dicom"], capsys)
    assert dicom_cases.ramp_error(read(tmp_path / "derived"), dicom_cases.truth()) < 1e-3
    assert "E-SCAN" in refused(["convert", folder, tmp_path / "o.nii", "--scan", 9], capsys, code=4)


@pytest.mark.parametrize(
    ("form", "ending"), [(None, ".nii.gz"), ("nrrd", ".nrrd"), ("metaimage", ".mha"), ("dicom", "")]
)
def test_all_scans_but_those_that_are_refused(form, ending, folder, tmp_path, capsys):
    words = ["convert", folder, tmp_path / "out", "--all", "--json", *(["--format", form] if form else [])]
    assert cli.main([str(word) for word in words]) == 7
    told = json.loads(capsys.readouterr().out)
    assert [each["scan"] for each in told["scans"]] == [1, 2]
    assert told["refused"][0]["scan"] == 3
    assert "E-GAP" in told["refused"][0]["problem"]
    for name in (f"scan-01-MR{ending}", f"scan-02-CT{ending}"):
        assert dicom_cases.ramp_error(read(tmp_path / "out" / name), dicom_cases.truth()) < 1e-3
    (run,) = read_record(tmp_path / "out" / "medidiff.record.jsonl")
    assert run.exit_code == 7
    assert [line["scan"] for line in run.of("refusal")] == [3]
    written = "".join(p.read_text() for p in (tmp_path / "out").rglob("*.json*"))
    for secret in dicom_cases.SECRETS:
        assert secret not in written


def test_all_with_a_repair_refuses_nothing(folder, tmp_path, capsys):
    told = document(["convert", folder, tmp_path / "out", "--all", "--on-gap", "resample"], capsys)
    assert told["refused"] == []
    assert told["scans"][2]["decisions"]
    assert json.loads((tmp_path / "out" / "scan-03-CT.json").read_text())["Provenance"]["settings"] == {
        "scan": 3,
        "on_gap": "resample",
    }


def test_nothing_usable_is_code_8(tmp_path, capsys):
    dicom_cases.series(tmp_path / "study", edit=lambda _, k: k != 2)
    said = refused(["convert", tmp_path / "study", tmp_path / "out", "--all"], capsys, code=8)
    assert "E-NOTHING" in said
    assert "E-GAP" in said
    assert read_record(tmp_path / "out" / "medidiff.record.jsonl")[0].exit_code == 8
    assert "E-SETTING" in refused(["convert", tmp_path / "study", tmp_path / "o.nii", "--all"], capsys, code=2)


def test_a_dry_run_writes_nothing(folder, tmp_path, capsys):
    before = everything(tmp_path)
    assert cli.main(["convert", str(folder), str(tmp_path / "out"), "--all", "--dry-run"]) == 7
    assert cli.main(["convert", str(folder), str(tmp_path / "o.nii"), "--scan", "1", "--dry-run"]) == 0
    assert "would write" in capsys.readouterr().out
    assert everything(tmp_path) == before


# --- the record -----------------------------------------------------------------------------------------------------


def test_a_refusal_leaves_a_record_too(tmp_path, capsys):
    dicom_cases.series(tmp_path / "study", edit=lambda _, k: k != 2)
    refused(["convert", tmp_path / "study", tmp_path / "o.nii"], capsys, code=4)
    (run,) = read_record(tmp_path / "o.record.jsonl")
    assert (run.exit_code, run.lines[-1]["ended"]) == (4, "refused")
    assert run.of("refusal")[0]["code"] == "E-GAP"
    refused(["convert", tmp_path / "study", tmp_path / "new"], capsys, code=4)
    assert read_record(tmp_path / "new.record.jsonl")[0].exit_code == 4  # the folder was never made
    assert not (tmp_path / "new").exists()


def test_the_record_goes_where_it_is_wanted(ball_file, tmp_path, capsys):
    record = tmp_path / "runs.jsonl"
    for name in ("a.nii", "b.nii"):
        document(["convert", ball_file, tmp_path / name, "--record", record], capsys)
    document(["evaluate", tmp_path / "a.nii", ball_file, "--record", record], capsys)
    assert [run.lines[0]["verb"] for run in read_record(record)] == ["convert", "convert", "evaluate"]
    assert not list(tmp_path.glob("*.record.jsonl"))
    (tmp_path / "theirs").write_text("text")
    said = refused(["convert", ball_file, tmp_path / "c.nii", "--record", tmp_path / "theirs"], capsys, code=5)
    assert "E-OVERWRITE" in said
    assert not (tmp_path / "c.nii").exists()


def test_no_name_of_a_patient_enters_a_record(tmp_path, capsys):
    source = tmp_path / "SECRET^NAME 19010203"
    dicom_cases.series(source)
    for number, file in enumerate(sorted(source.iterdir())):
        file.rename(source / f"ID-4711 {number}.dcm")
    (source / "copy SECRET.dcm").write_bytes((source / "ID-4711 0.dcm").read_bytes())
    document(["convert", source, tmp_path / "o.nii"], capsys)
    written = (tmp_path / "o.record.jsonl").read_text() + (tmp_path / "o.json").read_text()
    for secret in (*dicom_cases.SECRETS, str(tmp_path)):
        assert secret not in written
    assert "copy" in written


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupt_leaves_a_record_and_nothing_half(number, code, ball_file, tmp_path):
    program = f"""
import os, signal, sys, time
import medidiff.cli as cli, medidiff.io.files.atomic as atomic
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell that starts the tests with & has it ignored
def slow(path):
    os.kill(os.getpid(), {int(number)})
    time.sleep(30)
atomic.sync = slow
sys.exit(cli.main(["convert", {str(ball_file)!r}, {str(tmp_path / "out" / "o.nii")!r}]))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (code, "medidiff: interrupted\n")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["o.record.jsonl"]
    (run,) = read_record(tmp_path / "out" / "o.record.jsonl")
    assert (run.exit_code, run.lines[-1]["ended"]) == (code, "interrupted")


def test_sigterm_while_it_tidies_up_ends_nothing(ball_file, tmp_path):
    program = f"""
import os, signal, sys
import medidiff.cli as cli, medidiff.io.files.atomic as atomic
from pathlib import Path
def term(path):
    os.kill(os.getpid(), signal.SIGTERM)
tidied = Path.unlink
def unlink(path, **how):
    term(path)
    tidied(path, **how)
    print("tidied")
atomic.sync, Path.unlink = term, unlink
sys.exit(cli.main(["convert", {str(ball_file)!r}, {str(tmp_path / "out" / "o.nii")!r}]))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (143, "medidiff: interrupted\n")
    assert "tidied" in done.stdout
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["o.record.jsonl"]


def test_an_archive_becomes_a_series_beside_it(tmp_path, capsys):
    dicom_cases.series(tmp_path / "study")
    archive = Path(shutil.make_archive(str(tmp_path / "scan"), "zip", tmp_path / "study"))
    document(["convert", archive, tmp_path / "derived", "--format", "dicom"], capsys)
    assert dicom_cases.ramp_error(read(tmp_path / "derived"), dicom_cases.truth()) < 1e-3
    document(["convert", tmp_path / "study" / "*.dcm", tmp_path / "o.nii"], capsys)
    assert dicom_cases.ramp_error(read(tmp_path / "o.nii"), dicom_cases.truth()) < 1e-3


def test_one_scan_and_all_of_them_contradict_each_other(ball_file, tmp_path, capsys):
    assert "--scan" in refused(["convert", ball_file, tmp_path / "out", "--all", "--scan", 1], capsys, 2)
    assert not (tmp_path / "out" / "scan-1.nii.gz").exists()
