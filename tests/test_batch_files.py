"""What holds a batch together: its files, whatever became of them, and what is told of it."""

from __future__ import annotations

import csv
import dataclasses
import errno
import json
import os
import time
from pathlib import Path

import pytest

from medidiff.batch.job import Batch
from medidiff.batch.journal import Event, Tail
from medidiff.batch.metrics import Waiting, cohort, put, sent, waiting
from medidiff.batch.records import Basis, Done, Refused
from medidiff.batch.status import Pace, speed_of, status_of, write_report
from medidiff.errors import InputError, OutputError
from medidiff.io.files.atomic import partial_name
from tests.batch_cases import JOB, begin, make_inputs, tree, work


@pytest.fixture
def batch(tmp_path):
    """Six cases, the last of which is broken."""
    return begin(tmp_path / "out", make_inputs(tmp_path / "in", 6, broken=[5]))


# --- what holds a batch together ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["settings.json", "manifest.jsonl"])
@pytest.mark.parametrize("how", ["cut", "changed", "gone"])
def test_a_damaged_batch_is_refused(name, how, batch):
    place = batch.folder / name
    text = place.read_text()
    if how == "gone":
        place.unlink()
    else:
        place.write_text(text[:-20] if how == "cut" else text.replace("1", "2"))
    with pytest.raises(InputError, match="E-BATCH"):
        Batch(batch.root)


def test_a_batch_that_was_not_wholly_begun_is_begun_anew(batch):
    before, cases = (batch.folder / "manifest.jsonl").read_bytes(), list(batch.manifest)
    (batch.folder / "settings.json").unlink()
    (batch.folder / "manifest.jsonl").write_text("of another input\n")
    again = begin(batch.root, cases)
    assert (again.folder / "manifest.jsonl").read_bytes() == before


def test_cases_share_no_name_and_no_output(tmp_path):
    one, two = make_inputs(tmp_path / "in", 2)
    for cases in (
        [one, one],
        [one, dataclasses.replace(two, output=one.output.upper().replace("KIND", "kind"))],
        [dataclasses.replace(one, output="../out_{kind}")],
        [dataclasses.replace(one, output=".medidiff/x_{kind}")],
        [dataclasses.replace(one, output="no-kind")],
        [dataclasses.replace(one, name="a b")],
    ):
        with pytest.raises(InputError, match="E-MANIFEST"):
            begin(tmp_path / "out", cases)
        assert not Batch.is_there(tmp_path / "out")


def test_what_killed_runs_left_is_swept_and_what_lives_is_not(batch):
    host = partial_name().split("-")[1]
    dead = batch.folder / "done" / f".medidiff-{host}-{2**22 - 1}-{'a' * 12}.json"
    alive = batch.folder / "done" / partial_name(".json")
    for place in (dead, alive):
        place.write_text("")
    batch.sweep()
    assert (dead.exists(), alive.exists()) == (False, True)


# --- what is told of it ---------------------------------------------------------------------------------------------


def test_the_pace_counts_what_was_computed_in_this_run():
    pace = Pace(10)
    pace.take(
        [Event("a", "kept", "", 0.1, 100.0), Event("b", "done", "", 5.0, 110.0), Event("c", "done", "", 5.0, 115.0)]
    )
    pace.take([Event("d", "refused", "E-X", 1.0, 116.0)])
    assert pace.settled == 4
    assert pace.per_hour == pytest.approx(720)
    record = {"computed": 2, "kept": 1, "refused": 1, "seconds_per_case": 5.0, "cases_per_hour": 720.0}
    assert pace.record() == record


def test_a_tail_reads_each_whole_line_once(batch):
    since = batch.now_ns()
    tail = Tail(batch.folder / "journal", since)
    work(batch, since_ns=since, numbers=[0])
    (path,) = (batch.folder / "journal").glob(f"{since}-*")
    with path.open("a") as stream:
        stream.write('{"case": "x", "state"')
    assert len(list(tail.new())) == 1
    assert list(tail.new()) == []
    with path.open("a") as stream:
        stream.write(': "done", "code": "", "seconds": 1, "at": 2}\n')
    assert [event.case for event in tail.new()] == ["x"]


def lines(batch, name: str, events: list[Event]) -> None:
    text = "".join(json.dumps(dataclasses.asdict(event)) + "\n" for event in events)
    (batch.folder / "journal" / name).write_text(text)


def test_the_speed_is_that_of_the_workers_of_the_latest_run_that_still_work(batch):
    assert speed_of(batch, 6) == {"cases_per_hour": None, "seconds_left": None}
    fast = [Event("a", "done", "", 10.0, 1000.0 + 10 * n) for n in range(1, 1001)]
    lines(batch, "5-1-a.jsonl", [dataclasses.replace(event, seconds=1.0, at=event.at / 10) for event in fast])
    lines(batch, "7-1-a.jsonl", fast)
    lines(batch, "7-2-b.jsonl", fast[:500])  # killed long ago
    lines(batch, "7-3-c.jsonl", [Event("b", "kept", "", 0.1, 11000.0)])
    assert speed_of(batch, 6) == {"cases_per_hour": 360.0, "seconds_left": 60}
    lines(batch, "7-4-d.jsonl", fast[-20:])
    assert speed_of(batch, 6) == {"cases_per_hour": 720.0, "seconds_left": 30}


def test_the_report_lists_every_refusal(batch):
    work(batch)
    report = write_report(batch, status_of(batch), Pace(6), about={"engine": "local"})
    assert (report["done"], report["refused"], report["codes"]) == (5, 1, {"E-FORMAT": 1})
    told = json.loads((batch.folder / "report.json").read_text())
    (refusal,) = told["refusals"]
    assert refusal["code"] == "E-FORMAT"
    assert refusal["case"] in (batch.folder / "report.txt").read_text()
    place = batch.folder / "refused.csv"
    with place.open(newline="") as stream:
        (row,) = csv.DictReader(stream)
    assert (row["input"], row["code"], row["mend"]) == (batch.manifest[5].input, "E-FORMAT", refusal["mend"])
    assert place.stat().st_mode & 0o077 == 0
    part = status_of(batch, batch.part(2, 1)).record()
    assert (part["cases"], part["done"], part["codes"]) == (3, 2, {"E-FORMAT": 1})


def test_nothing_is_listed_once_all_is_mended(batch):
    work(batch)
    write_report(batch, status_of(batch), Pace(6), about={})
    Path(batch.manifest[5].input).write_bytes(b"mended")
    work(batch)
    write_report(batch, status_of(batch), Pace(6), about={})
    assert not (batch.folder / "refused.csv").exists()
    assert json.loads((batch.folder / "report.json").read_text())["refusals"] == []


def test_figures_wait_until_a_store_has_taken_them(batch):
    work(batch)
    assert cohort(batch).means == {"mean_size": 9.0}
    put(batch, 7, Waiting("batch-denoise", {"a": 1}, {"done": 5.0}))
    ((place, told),) = waiting(batch)
    assert told.metrics == {"done": 5.0}
    sent(place)
    assert list(waiting(batch)) == []


def test_a_case_is_settled_after_a_moment_only_by_what_was_written_or_seen_after_it(batch):
    work(batch)
    name = batch.manifest[0].name
    since = batch.now_ns()
    assert batch.records.settled(name, 0) is Done
    assert batch.records.settled(batch.manifest[5].name, 0) is Refused
    assert batch.records.settled(name, since + 10**9) is None


def test_the_record_of_another_person_is_confirmed_too(batch, monkeypatch):
    work(batch)
    before, since = tree(batch.root), batch.now_ns()
    time.sleep(0.01)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, "not the owner")

    monkeypatch.setattr(os, "utime", refuse)
    assert work(batch, since_ns=since) == [("kept", "")] * 5 + [("refused", "E-FORMAT")]
    assert all(batch.settled(case.name, since) for case in batch.manifest)
    assert tree(batch.root) == before


def test_a_clock_that_was_set_back_lets_no_record_pass_unseen(batch):
    work(batch)
    hour = 3600 * 10**9
    for path in batch.folder.rglob("*"):  # as if an hour later
        about = path.stat()
        os.utime(path, ns=(about.st_atime_ns + hour, about.st_mtime_ns + hour))
    for journal in (batch.folder / "journal").iterdir():
        since, rest = journal.name.split("-", 1)
        journal.rename(journal.with_name(f"{int(since) + hour}-{rest}"))
    before = tree(batch.root)
    broken = batch.root / next(iter(before.keys() - {name for name in before if name.startswith(".")}))
    for _ in range(2):  # the second run begins after the first one, whatever the clock says
        since = batch.now_ns()
        broken.write_bytes(b"changed")
        states = work(batch, since_ns=since, retry_refused=True)
        assert sorted(states) == [("done", ""), *[("kept", "")] * 4, ("refused", "E-FORMAT")]
        assert tree(batch.root) == before
        assert all(batch.settled(case.name, since) for case in batch.manifest)
        assert work(batch, since_ns=since) == []


def test_a_record_that_cannot_be_written_is_an_output_error(batch, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    basis = Basis("a", JOB.config_sha256, "", JOB.prior_sha256(""))
    record = Refused("case-1", basis, "E-FORMAT", "x", "y")
    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OutputError, match="E-DISK"):
        batch.records.put(record)
