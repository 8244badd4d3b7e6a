"""The record of a run: whole lines, whatever happens; and nothing lost from sight."""

from __future__ import annotations

import fcntl
import hashlib
import json
import multiprocessing
import os
from pathlib import Path

import numpy as np
import pytest

from medidiff.errors import InputError, MedidiffError, OutputError
from medidiff.io import find, read_scan, write
from medidiff.io.account import Account, Used, count_files
from medidiff.io.record import RecordWriter, read_record
from medidiff.volume import Geometry, Volume
from tests import dicom_cases


def written(path: Path, *, lines: int = 3, alone: bool = False) -> RecordWriter:
    """A record of one run: a start, some decisions, an end."""
    writer = RecordWriter()
    writer.open(path, alone=alone)
    writer.line("start", verb="convert")
    writer.lines("decision", [{"text": f"sentence {n}"} for n in range(lines)])
    writer.line("end", exit_code=0)
    writer.close()
    return writer


def test_lines_come_back_in_order(tmp_path):
    first, second = written(tmp_path / "r.jsonl"), written(tmp_path / "r.jsonl", lines=1)
    runs = read_record(tmp_path / "r.jsonl")
    assert [run.run for run in runs] == [first.run, second.run]
    assert [line["text"] for line in runs[0].of("decision")] == ["sentence 0", "sentence 1", "sentence 2"]
    assert [run.exit_code for run in runs] == [0, 0]
    assert all(line["seconds"] >= 0 for run in runs for line in run.lines)


def test_a_record_cut_anywhere_tells_what_was_whole_and_can_be_gone_on_with(tmp_path):
    whole = tmp_path / "r.jsonl"
    written(whole)
    content = whole.read_bytes()
    for length in range(len(content)):
        cut = tmp_path / "cut.jsonl"
        cut.write_bytes(content[:length])
        before = content[:length].count(b"\n")
        if before:
            (run,) = read_record(cut)
            assert len(run.lines) == before
            assert run.exit_code is None
        written(cut)
        assert len(read_record(cut)[-1].lines) == 5
        assert sum(len(run.lines) for run in read_record(cut)) >= before + 5 - 1


def _append(path: str, count: int) -> None:
    writer = RecordWriter()
    writer.open(Path(path), alone=False)
    for number in range(count):
        writer.lines("decision", [{"text": "x" * 500, "number": number}] * 3)
    writer.close()


def test_two_runs_share_a_record_without_mixing_lines(tmp_path):
    path = tmp_path / "r.jsonl"
    others = [multiprocessing.get_context("fork").Process(target=_append, args=(str(path), 20)) for _ in range(2)]
    for other in others:
        other.start()
    for other in others:
        other.join(60)
    assert len(path.read_bytes().splitlines()) == 120
    assert [len(run.lines) for run in read_record(path)] == [60, 60]


def test_each_step_is_on_the_disk_before_the_run_goes_on(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda handle: synced.append(os.fstat(handle).st_size))
    written(tmp_path / "r.jsonl")
    assert synced == sorted(set(synced))
    assert len(synced) == 3


def test_a_second_run_on_one_output_is_refused_and_a_dead_one_is_not_in_the_way(tmp_path):
    path = tmp_path / "r.jsonl"
    holder = RecordWriter()
    holder.open(path, alone=True)
    with pytest.raises(OutputError, match=r"E-LOCKED: r\.jsonl"):
        RecordWriter().open(path, alone=True)
    holder.close()  # as the system does when a process dies
    written(path, alone=True)


def test_a_file_system_without_locks_is_no_hindrance(tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(45, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", refuse)
    written(tmp_path / "r.jsonl", alone=True)
    assert read_record(tmp_path / "r.jsonl")[0].exit_code == 0


@pytest.mark.parametrize("content", [b"some,table\n1,2\n", b"{}\n", b"\x00\x01"])
def test_a_foreign_file_is_kept(tmp_path, content):
    path = tmp_path / "theirs.jsonl"
    path.write_bytes(content)
    with pytest.raises(OutputError, match="E-OVERWRITE"):
        RecordWriter().open(path, alone=False)
    assert path.read_bytes() == content
    with pytest.raises(InputError, match="E-RECORD"):
        read_record(path)


def test_no_link_is_followed_and_no_record_is_invented(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OutputError, match="E-OUT"):
        RecordWriter().open(tmp_path / "link", alone=False)
    with pytest.raises(InputError, match="E-MISSING"):
        read_record(tmp_path / "elsewhere")


# --- the account ----------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path) -> Path:
    """Two series, one of them with a gap, and a file that is neither."""
    dicom_cases.series(tmp_path / "study" / "good", modality="MR")
    dicom_cases.series(tmp_path / "study" / "gap", edit=lambda _, k: k != 2)
    (tmp_path / "study" / "Doe^Jane notes.txt").write_text("SECRET^NAME")
    return tmp_path / "study"


def accounted(folder: Path, record: Path) -> Account:
    """Everything of a folder read, or refused, and put down."""
    writer = RecordWriter()
    writer.open(record, alone=True)
    account = Account(writer)
    found = find(folder)
    account.source(folder, found, seen=count_files(folder))
    done, refused = {}, {}
    for number, scan in enumerate(found.scans, 1):
        try:
            done[number] = Used.of(scan.load())
        except InputError as error:
            refused[number] = error
            account.refusal(error, scan=number)
    account.files(found, done, refused)
    return account


def test_every_file_is_used_or_left_out_with_a_reason(folder, tmp_path):
    account = accounted(folder, tmp_path / "r.jsonl")
    account.close(7, "partial")
    (run,) = read_record(tmp_path / "r.jsonl")
    inputs = run.of("input")
    assert len(inputs) == len([p for p in folder.rglob("*") if p.is_file()]) == 10
    digests = {hashlib.sha256(p.read_bytes()).hexdigest() for p in (folder / "good").iterdir()}
    assert {line["sha256"] for line in inputs if line["used"]} == digests
    assert all(line["reason"] for line in inputs if not line["used"])
    assert [line["code"] for line in run.of("refusal")] == ["E-GAP"]
    end = run.lines[-1]
    assert (end["counts"]["files_seen"], end["counts"]["series_seen"]) == (10, 2)
    assert end["peak_memory_bytes"] > 2**20
    text = (tmp_path / "r.jsonl").read_text()
    for secret in (*dicom_cases.SECRETS, "Doe", "Jane", str(tmp_path)):
        assert secret not in text


@pytest.mark.parametrize("lost", ["files_used", "files_skipped", "series_done", "series_refused"])
def test_what_is_lost_from_sight_is_a_bug(folder, tmp_path, lost):
    account = accounted(folder, tmp_path / "r.jsonl")
    setattr(account.counts, lost, getattr(account.counts, lost) - 1)
    with pytest.raises(MedidiffError, match=r"E-CONSERVATION: .* seen") as caught:
        account.close(0, "done")
    assert caught.value.exit_code == 1
    assert read_record(tmp_path / "r.jsonl")[0].exit_code == 1


def test_a_run_that_was_refused_need_not_account_for_everything(folder, tmp_path):
    account = accounted(folder, tmp_path / "r.jsonl")
    account.counts.files_used = 0
    account.close(4, "refused")


def test_a_file_of_two_scans_counts_once(tmp_path):
    account = Account(RecordWriter())
    file = write(Volume(np.zeros((3, 4, 5), np.int16), Geometry((3, 4, 5), np.eye(4))), tmp_path / "a.nii")[0]
    found, reading = find(file), read_scan(file)
    twice = type(found)(found.format, found.scans * 2, found.skipped)
    account.source(file, twice, seen=count_files(file))
    account.files(twice, {1: Used.of(reading), 2: Used.of(reading)})
    assert account.counts.faults == []
    assert account.counts.files_used == 1


def test_a_name_in_a_sentence_becomes_its_label(tmp_path):
    account = Account(RecordWriter(), ["Doe Jane.dcm", "x", "IM0001.dcm"])
    told = account.plain("x and Doe Jane.dcm next to IM0001.dcm, xx stays")
    assert "Doe" not in told
    assert "IM0001.dcm" in told
    assert told.endswith("xx stays")
    assert not told.startswith("x ")
    assert len(account.told([f"sentence {n}" for n in range(500)])) == 201


def test_a_file_may_be_called_otherwise_but_a_word_may_not():
    account = Account(RecordWriter(), ["Doe Jane.nii.gz", "scan"])
    account.call("Doe Jane.nii.gz", "first.nii.gz")
    account.call("scan", "series")
    assert account.plain("the scan Doe Jane.nii.gz") == "the scan first.nii.gz"


def test_files_are_counted_apart_from_the_reader(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / ".medidiff-stage").mkdir()
    for name in ("a/1", "a/b/2", "a/.medidiff-stage/3"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "a" / "link").symlink_to(tmp_path, target_is_directory=True)
    assert count_files(tmp_path / "a") == 3
    assert count_files(tmp_path / "a" / "1") is None


def test_a_record_is_strict_json(tmp_path):
    written(tmp_path / "r.jsonl")
    for line in (tmp_path / "r.jsonl").read_text("ascii").splitlines():
        assert json.loads(line, parse_constant=pytest.fail)["kind"]
