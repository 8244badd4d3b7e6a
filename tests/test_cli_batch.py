"""``medidiff batch``: many scans as one scan would be done, each once, and what is said of it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

import medidiff.cli as cli
from medidiff.batch.job import Batch
from medidiff.batch.metrics import waiting
from medidiff.cli import batch_status, batch_task
from medidiff.cli.batch_task import RestoreTask
from medidiff.errors import SettingsError
from medidiff.io import read, write
from medidiff.prior import Prior
from tests import dicom_cases
from tests.batch_cases import ended, forked, tree
from tests.cli_cases import ball, document, refused

SHAPE = (10, 9, 8)


@pytest.fixture
def scans(tmp_path):
    """Three scans and a broken one."""
    for number in range(3):
        write(ball(SHAPE, seed=number), tmp_path / "in" / f"sub-{number}" / "T1w.nii.gz")
    (tmp_path / "in" / "DOE^JANE").mkdir()
    (tmp_path / "in" / "DOE^JANE" / "T1w.nii.gz").write_bytes(b"no scan")
    return tmp_path / "in"


@pytest.fixture
def words(scans, card, tmp_path):
    return ["batch", "denoise", scans, tmp_path / "out", "--prior", card, "--workers", "1", "--noise-level", "50"]


def ran(words: list[object], capsys, code: int = 7) -> dict:
    assert cli.main([*map(str, words), "--json"]) == code
    return json.loads(capsys.readouterr().out)


def test_each_scan_is_done_as_it_would_be_alone(words, scans, card, tmp_path, capsys):
    told = ran(words, capsys)
    assert (told["cases"], told["done"], told["refused"], told["left"]) == (4, 3, 1, 0)
    assert told["codes"] == {"E-FORMAT": 1}
    assert told["run"]["computed"] == 3
    alone = tmp_path / "alone.nii.gz"
    document(["denoise", scans / "sub-1" / "T1w.nii.gz", alone, "--noise-level", 50, "--prior", card], capsys)
    np.testing.assert_array_equal(read(tmp_path / "out" / "sub-1" / "T1w_denoised.nii.gz").data, read(alone).data)
    record = json.loads((tmp_path / "out" / "sub-1" / "T1w_denoised.json").read_text())
    assert "threads" not in record["Provenance"]["environment"]
    status = document(["batch", "status", tmp_path / "out"], capsys)
    speed = status.pop("speed")
    assert (speed["cases_per_hour"] > 0, speed["seconds_left"]) == (True, 0)
    assert status == {key: told[key] for key in status}
    assert cli.main(["batch", "status", str(tmp_path / "out")]) == 0
    assert "E-FORMAT" in capsys.readouterr().out


def test_the_report_is_of_the_whole_batch_also_after_a_part(words, tmp_path, capsys):
    report = tmp_path / "out" / ".medidiff" / "report.json"
    for part, code, left in ((1, 0, 2), (0, 7, 0)):  # what is refused comes first
        told = ran([*words, "-num_parts", "2", "-part_id", part], capsys, code)
        assert (told["cases"], told["left"]) == (2, 0)
        whole = json.loads(report.read_text())
        assert (whole["cases"], whole["left"], whole["cases of the part"]) == (4, left, 2)
        assert whole["part"] == f"{part} of 2, from 0"
    assert whole["refused"] == len(whole["refusals"]) == 1


@pytest.mark.parametrize("form", ["nifti", "dicom"])
def test_no_spread_of_other_settings_stays_beside_a_result(form, card, tmp_path, capsys):
    dicom_cases.series(tmp_path / "in" / "ser-1", modality="MR", slices=range(8))
    out = tmp_path / "out"
    words = ["batch", "denoise", tmp_path / "in", out, "--prior", card, "--workers", "1", "--format", form]
    ran([*words, "--noise-level", "50", "--spread", "--draws", "2"], capsys, 0)
    ran([*words, "--noise-level", "60", "--spread", "--draws", "2", "--continue"], capsys, 0)
    assert list(out.rglob("*_spread*"))
    ran([*words, "--noise-level", "60", "--continue"], capsys, 0)
    assert list(out.rglob("*_denoised*"))
    assert not list(out.rglob("*_spread*"))
    words[1] = "superresolve"
    ran([*words, "--noise-level", "60", "--spacing", "0.5", "0.5", "0.5", "--continue"], capsys, 0)
    assert list(out.rglob("*_denoised*"))  # another task has other names, and leaves the result of the first


def test_the_same_command_again_repeats_nothing_and_tells_nobodys_name(words, tmp_path, capsys):
    ran(words, capsys)
    before = {
        name: data for name, data in tree(tmp_path / "out").items() if "report" not in name and "record" not in name
    }
    told = ran(words, capsys)
    assert (told["run"]["computed"], told["run"]["kept"], told["run"]["refused"]) == (0, 3, 1)
    assert before.items() <= tree(tmp_path / "out").items()
    private = {"manifest.jsonl", "settings.json", "refused.csv"}
    assert {(tmp_path / "out" / ".medidiff" / name).stat().st_mode & 0o077 for name in private} == {0}
    hidden = [p for p in (tmp_path / "out").rglob("*") if p.is_file() and p.name not in private]
    assert not [p for p in hidden if b"DOE" in p.read_bytes() or "DOE" in str(p)]
    record = (tmp_path / "out" / ".medidiff" / "record.jsonl").read_text()
    assert record.count('"kind": "end"') == 2


def test_the_refused_are_listed_and_what_was_mended_is_done(words, scans, tmp_path, capsys):
    ran(words, capsys)
    told = document(["batch", "status", tmp_path / "out", "--refused"], capsys)
    (refusal,) = told["refusals"]
    assert refusal["code"] == "E-FORMAT"
    assert refusal["message"].endswith(refusal["mend"])
    assert refusal["mend"]
    assert cli.main(["batch", "status", str(tmp_path / "out"), "--refused"]) == 0
    out = capsys.readouterr().out
    assert refusal["case"] in out
    assert refusal["message"] in out
    assert "DOE" not in out
    assert ran([*words, "--retry-failed"], capsys)["codes"] == {"E-FORMAT": 1}
    (scans / "DOE^JANE" / "T1w.nii.gz").unlink()  # a text; `write` would not replace it
    write(ball(SHAPE, seed=9), scans / "DOE^JANE" / "T1w.nii.gz")
    told = ran([*words, "--retry-failed"], capsys, 0)
    assert (told["run"]["computed"], told["run"]["kept"]) == (1, 3)
    assert document(["batch", "status", tmp_path / "out", "--refused"], capsys)["refusals"] == []


def test_a_weight_that_changed_under_the_same_name_does_all_again(words, card, tmp_path, capsys):
    home = tmp_path / "prior"
    shutil.copytree(Path(card).parent, home)
    words[words.index(card)] = home / Path(card).name
    ran(words, capsys)
    first = (tmp_path / "out" / "sub-0" / "T1w_denoised.nii.gz").read_bytes()
    prior = Prior.load(home / Path(card).name)
    for parameter in prior.denoiser.parameters():
        parameter.add_(0.05)
    prior.save(home)
    assert ran(words, capsys)["run"]["computed"] == 3
    assert (tmp_path / "out" / "sub-0" / "T1w_denoised.nii.gz").read_bytes() != first
    assert ran(words, capsys)["run"]["computed"] == 0


def test_other_settings_need_another_folder_or_to_be_meant(words, capsys):
    ran(words, capsys)
    words[-1] = "60"
    assert "noise_level" in refused(words, capsys, 5)
    assert ran([*words, "--continue"], capsys)["run"]["computed"] == 3
    assert ran([*words, "--continue", "--retry-failed"], capsys)["run"]["kept"] == 3


def test_parts_share_the_cases_out(words, tmp_path, capsys):
    first = ran([*words, "-num_parts", "2", "-part_id", "0"], capsys, 7)
    assert (first["cases"], first["left"]) == (2, 0)
    assert document(["batch", "status", tmp_path / "out"], capsys)["left"] == 2
    second = ran([*words, "-num_parts", "2", "-part_id", "1"], capsys, 0)
    assert (second["cases"], second["done"]) == (2, 2)
    whole = tree(tmp_path / "out")
    words[3] = tmp_path / "whole"
    ran(words, capsys)
    results = {
        name: data for name, data in tree(tmp_path / "whole").items() if name.startswith("sub-") or "/done/" in name
    }
    assert results.items() <= whole.items()


def test_a_worker_of_its_own_is_replaced_when_it_is_killed(words, tmp_path):
    """One worker alone, so that nobody else does its work; the command is a copy of this process: it starts sooner."""
    command = forked(lambda: os._exit(cli.main([*map(str, words), "--threads", "1"])))
    workers: list[int] = []
    while not workers:
        assert os.waitpid(command, os.WNOHANG) == (0, 0), "it ended before it had a worker"
        workers = _workers(command)
        time.sleep(0.02)
    os.kill(workers[0], signal.SIGKILL)
    assert ended(command) == 7
    assert len(list((tmp_path / "out").glob("sub-*/*.nii.gz"))) == 3
    assert Batch(tmp_path / "out").leases.held() == 0


def _workers(process: int) -> list[int]:
    """Children of a process that run as workers; it may have others for a moment."""
    told = Path(f"/proc/{process}/task/{process}/children")
    found = []
    for child in told.read_text().split() if told.exists() else []:
        with suppress(OSError):
            if b"\0work\0" in Path(f"/proc/{child}/cmdline").read_bytes():
                found.append(int(child))
    return found


def test_a_worker_is_a_command(words, tmp_path, capsys):
    ran(words, capsys)
    shutil.rmtree(tmp_path / "out" / ".medidiff" / "done")
    assert cli.main(["batch", "work", str(tmp_path / "out"), "--most", "1"]) == 0
    assert document(["batch", "status", tmp_path / "out"], capsys)["left"] in (2, 3)  # the first may be the broken one
    assert cli.main(["batch", "work", str(tmp_path / "out")]) == 0
    assert document(["batch", "status", tmp_path / "out"], capsys)["left"] == 0
    assert "E-BATCH" in refused(["batch", "work", tmp_path / "in"], capsys, 4)
    assert "E-SETTING" in refused(["batch", "work", tmp_path / "out", "-part_id", "3"], capsys, 2)


def test_every_kind_of_result(words, tmp_path, capsys):
    ran([*words, "--spread", "--draw", "--interval", "0.9", "--draws", "2", "--steps", "1"], capsys)
    names = {path.name.removesuffix(".nii.gz") for path in (tmp_path / "out" / "sub-0").glob("*.nii.gz")}
    assert names == {f"T1w_{kind}" for kind in ("denoised", "spread", "draw", "lower", "upper")}
    batch = Batch(tmp_path / "out")
    (case,) = [case for case in batch.manifest if "sub-0" in case.input]
    assert set(batch.records.done(case.name).results) == {"mean", "spread", "draw", "lower", "upper"}


@pytest.mark.parametrize("task", ["superresolve", "joint"])
def test_a_finer_grid(task, words, tmp_path, capsys):
    words[1] = task
    ran([*words, "--spacing", "0.9", "1.1", "1"], capsys)
    result = read(tmp_path / "out" / "sub-0" / "T1w_superresolved.nii.gz")
    assert result.geometry.spacing_mm == pytest.approx((0.9, 1.1, 1.0), abs=1e-4)


def test_dicom_series_become_series_of_their_studies(card, tmp_path, capsys):
    dicom_cases.series(tmp_path / "in" / "ser-1", modality="MR")
    words = ["batch", "denoise", tmp_path / "in", tmp_path / "out", "--prior", card, "--workers", 1, "--noise-level", 5]
    ran([*words, "--format", "dicom"], capsys, 0)
    place = tmp_path / "out" / "ser-1" / "scan-01_denoised"
    assert read(place).geometry.distance_mm(read(tmp_path / "in").geometry) < 1e-4
    (next(place.glob("*.dcm"))).unlink()
    assert ran([*words, "--format", "dicom"], capsys, 0)["run"]["computed"] == 1
    assert len(list(place.glob("*.dcm"))) == len(list((tmp_path / "in").rglob("*.dcm")))
    (place / "provenance.json").write_text("{")
    assert ran([*words, "--format", "dicom"], capsys, 0)["run"]["computed"] == 1
    assert len(list(place.glob("*.dcm"))) == len(list((tmp_path / "in").rglob("*.dcm")))


@pytest.mark.parametrize("damage", [lambda data: b"", lambda data: data[:-9], lambda data: b"\xff" + data[1:]])
def test_a_damaged_record_of_a_result_is_made_again_and_a_foreign_one_is_not(damage, words, tmp_path, capsys):
    ran(words, capsys)
    beside = tmp_path / "out" / "sub-1" / "T1w_denoised.json"
    whole = beside.read_bytes()
    beside.write_bytes(damage(whole))
    assert ran(words, capsys)["run"]["computed"] == 1
    assert beside.read_bytes() == whole
    shutil.rmtree(tmp_path / "out" / ".medidiff")  # now nobody says that it was ours
    beside.write_bytes(damage(whole))
    assert ran(words, capsys)["codes"] == {"E-FORMAT": 1, "E-OVERWRITE": 1}
    assert beside.read_bytes() == damage(whole)


def test_an_unknown_error_of_a_reader_refuses_its_case_and_no_more(words, capsys, monkeypatch):
    find = batch_task.find

    def odd(path: Path, *args: object) -> object:
        if "sub-1" in str(path):
            raise ZeroDivisionError
        return find(path, *args)

    monkeypatch.setattr(batch_task, "find", odd)
    for _ in range(2):
        told = ran(words, capsys)
        assert (told["done"], told["codes"]) == (2, {"E-FORMAT": 1, "E-UNEXPECTED": 1})


def test_a_folder_that_medidiff_did_not_write_is_never_removed(card, tmp_path, capsys):
    dicom_cases.series(tmp_path / "in" / "ser-1", modality="MR")
    place = tmp_path / "out" / "ser-1" / "scan-01_denoised"
    place.mkdir(parents=True)
    (place / "provenance.json").write_text("{}")
    words = ["batch", "denoise", tmp_path / "in", tmp_path / "out", "--prior", card, "--workers", 1, "--noise-level", 5]
    assert "E-OVERWRITE" in refused([*words, "--format", "dicom"], capsys, 8)
    assert (place / "provenance.json").read_text() == "{}"


def test_what_stands_in_the_way_of_one_result_keeps_no_other_from_being_written(words, scans, tmp_path, capsys):
    table = words[2] = tmp_path / "list.csv"
    inputs = [scans / f"sub-{n}" / "T1w.nii.gz" for n in range(3)]
    rows = zip(inputs, ("x" * 250, "file/y", "z"), strict=True)
    table.write_text("input,output\n" + "".join(f"{path},{name}\n" for path, name in rows))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "file").write_text("mine")
    told = ran(words, capsys)
    assert (told["done"], told["codes"]) == (1, {"E-OUT": 2})
    (tmp_path / "out" / "z_denoised.nii.gz").unlink()
    (tmp_path / "out" / "z_denoised.nii.gz").mkdir()
    (tmp_path / "out" / "file").unlink()
    told = ran([*words, "--retry-failed"], capsys)
    assert (told["done"], told["codes"]) == (1, {"E-OUT": 2})
    assert (tmp_path / "out" / "file" / "y_denoised.nii.gz").is_file()


def test_the_hash_of_an_input_is_that_of_the_bytes_that_were_read(words, scans, tmp_path, capsys):
    dicom_cases.series(scans / "ser-1", modality="MR")
    ran(words, capsys)
    batch = Batch(tmp_path / "out")
    task = RestoreTask(batch.job, batch.root)
    for case in batch.manifest:
        record = batch.records.done(case.name) or batch.records.refused(case.name)
        assert record.basis.input_sha256 == task.fingerprint(case), case
    beside = scans / "sub-0" / "T1w.json"
    beside.write_text(beside.read_text().replace('"Modality"', '"modality"'))
    (case,) = [case for case in batch.manifest if "sub-0" in case.input]
    assert batch.records.done(case.name).basis.input_sha256 != task.fingerprint(case)


def test_a_dry_run_tells_the_plan_and_writes_nothing(words, tmp_path, capsys):
    told = document([*words, "--dry-run"], capsys)
    assert (told["cases"], list(told["priors"])) == (4, ["tiny"])
    assert not (tmp_path / "out").exists()
    assert cli.main([*map(str, words), "--dry-run"]) == 0
    assert "{kind}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("extra", "code", "says"),
    [
        (["-part_id", "1"], 2, "-part_id"),
        (["--threads", "0"], 2, "--threads"),
        (["--draws", "0", "--spread"], 2, "--draws"),
        (["--interval", "1.5"], 2, "--interval"),
        (["--engine", "cloud"], 2, "--engine"),
        (["--prior", "nobody"], 6, "E-PRIOR"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(extra, code, says, words, tmp_path, capsys):
    assert says in refused([*words, *extra], capsys, code)
    assert not (tmp_path / "out").exists()


def test_an_input_that_is_missing_empty_or_wholly_broken(words, scans, tmp_path, capsys):
    words[2] = tmp_path / "nowhere"
    assert "E-MISSING" in refused(words, capsys, 4)
    assert not (tmp_path / "out").exists()
    words[2] = scans / "DOE^JANE"
    assert "E-NOTHING" in refused(words, capsys, 8)
    words[2] = words[3] = scans
    assert "E-OVERWRITE" in refused(words, capsys, 5)


def test_workers_that_cannot_write_say_where_the_reason_stands(words, tmp_path, capsys, monkeypatch):
    words[words.index("--workers") + 1] = "2"
    monkeypatch.setattr(sys, "executable", "false")
    assert "E-WORKERS" in refused(words, capsys, 5)


# --- a tracking store ----------------------------------------------------------------------------------------------


def test_a_store_that_does_not_answer_loses_nothing_and_is_told_later(words, tmp_path, capsys, monkeypatch):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(batch_status, "_PATIENCE_SECONDS", 1800)  # a machine that is busy; the good store is to succeed
    assert cli.main([*map(str, words), "--tracking", f"http://127.0.0.1:{port}"]) == 7
    assert "medidiff batch sync" in capsys.readouterr().err
    batch = Batch(tmp_path / "out")
    ((_, told),) = waiting(batch)
    assert (told.metrics["done"], told.metrics["refused_e-format"]) == (3, 1)
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    assert cli.main(["batch", "sync", str(batch.root), "--tracking", uri]) == 0
    assert list(waiting(batch)) == []
    assert cli.main(["batch", "sync", str(batch.root), "--tracking", uri]) == 0
    assert capsys.readouterr().out.split()[-1] == "0"


def test_a_store_that_is_slow_is_not_waited_for(words, tmp_path, capsys, monkeypatch):
    ran(words, capsys)
    monkeypatch.setattr(batch_status, "_PATIENCE_SECONDS", 0.2)
    monkeypatch.setattr("medidiff.tracking.log_metrics", lambda *_, **__: time.sleep(5))
    with pytest.raises(SettingsError, match="E-MLFLOW"):
        batch_status.sync(Batch(tmp_path / "out"), "http://slow")
    assert len(list(waiting(Batch(tmp_path / "out")))) == 1
