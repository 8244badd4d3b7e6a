"""A case is done once, and done again only when something that its record tells is no longer true."""

from __future__ import annotations

import dataclasses
import errno
import os
import time
from pathlib import Path

import pytest

from medidiff.batch.job import Batch
from medidiff.batch.journal import Tail
from medidiff.batch.records import Done
from medidiff.batch.status import status_of
from medidiff.batch.worker import Worker
from medidiff.errors import InputError, OutputError, PriorError
from medidiff.io.files.atomic import output_errors
from tests.batch_cases import JOB, Copying, begin, ended, forked, killed, make_inputs, tree, work


@pytest.fixture
def batch(tmp_path):
    """Six cases, the last of which is broken."""
    return begin(tmp_path / "out", make_inputs(tmp_path / "in", 6, broken=[5]))


def done_of(batch: Batch, number: int = 0) -> Done:
    record = batch.records.done(batch.manifest[number].name)
    assert record is not None
    return record


def test_every_case_is_done_or_refused_and_a_second_run_repeats_nothing(batch, tmp_path):
    log = tmp_path / "log"
    assert work(batch, log) == [("done", "")] * 5 + [("refused", "E-FORMAT")]
    before = tree(batch.root)
    assert work(batch, log) == [("kept", "")] * 5 + [("refused", "E-FORMAT")]
    assert len(log.read_text().split()) == 6
    assert tree(batch.root) == before
    status = status_of(batch)
    assert (status.cases, status.done, dict(status.refused), status.left, status.held) == (6, 5, {"E-FORMAT": 1}, 0, 0)


def test_the_record_says_what_the_case_was_made_from_and_of_what_it_consists(batch):
    work(batch)
    record, case = done_of(batch), batch.manifest[0]
    assert record.basis.input_sha256 == Copying(batch.root).fingerprint(case)
    assert record.basis.config_sha256 == JOB.config_sha256
    assert (record.basis.prior, record.basis.prior_sha256) == ("tiny", "1" * 64)
    assert list(record.files) == ["sub-0/scan-0000_copied.bin", "sub-0/scan-0000_copied.txt"]
    assert record.results == {"mean": "sub-0/scan-0000_copied.bin"}
    assert record.metrics == {"size": 9.0}
    refused = batch.records.refused(batch.manifest[5].name)
    assert (refused.code, bool(refused.mend)) == ("E-FORMAT", True)
    assert "scan-0005.raw: broken content" in refused.message


def flip_output(batch: Batch) -> None:
    path = batch.root / "sub-0/scan-0000_copied.bin"
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(bytes(data))


def lose_output(batch: Batch) -> None:
    (batch.root / "sub-0/scan-0000_copied.txt").unlink()


def place_of(batch: Batch) -> Path:
    (place,) = (batch.folder / "done").rglob(f"{batch.manifest[0].name}.json")
    return place


def cut_record(batch: Batch) -> None:
    place = place_of(batch)
    place.write_bytes(place.read_bytes()[:-40])


def change_record(batch: Batch) -> None:
    place = place_of(batch)
    place.write_bytes(place.read_bytes().replace(b'"size": 9.0', b'"size": 8.0'))


def exchange_record(batch: Batch) -> None:
    other = next(path for path in (batch.folder / "done").rglob("*.json") if path != place_of(batch))
    place_of(batch).write_bytes(other.read_bytes())


def empty_record(batch: Batch) -> None:
    place_of(batch).write_bytes(b"")


def change_input(batch: Batch) -> None:
    Path(batch.manifest[0].input).write_bytes(b"another")


@pytest.mark.parametrize(
    "spoil", [flip_output, lose_output, cut_record, change_record, exchange_record, empty_record, change_input]
)
def test_a_case_whose_record_is_no_longer_true_is_done_again_and_no_other(spoil, batch, tmp_path):
    work(batch)
    before, log = tree(batch.root), tmp_path / "log"
    spoil(batch)
    time.sleep(0.01)
    assert work(batch, log) == [("done", ""), *[("kept", "")] * 4, ("refused", "E-FORMAT")]
    assert log.read_text().split() == [batch.manifest[0].name]
    after = tree(batch.root)
    assert after.keys() == before.keys()
    assert (after == before) is (spoil is not change_input)


def test_other_settings_or_another_prior_of_the_same_name_do_all_again(batch, tmp_path):
    cases = list(batch.manifest)
    work(batch)
    with pytest.raises(OutputError, match="E-EXISTS: out: a batch of other settings \\(strength\\)"):
        begin(batch.root, cases, dataclasses.replace(JOB, options={"strength": 2}))
    weights = begin(batch.root, cases, dataclasses.replace(JOB, priors={"tiny": "2" * 64}))
    assert work(weights) == [("done", "")] * 5 + [("refused", "E-FORMAT")]
    other = begin(batch.root, cases, dataclasses.replace(weights.job, options={"strength": 2}), go_on=True)
    assert work(other) == [("done", "")] * 5 + [("refused", "E-FORMAT")]
    assert work(other)[0] == ("kept", "")
    with pytest.raises(OutputError, match="another input"):
        begin(batch.root, cases, dataclasses.replace(other.job, source="/elsewhere"), go_on=True)


def test_an_input_by_another_spelling_is_the_same_and_another_is_not(tmp_path):
    cases = make_inputs(tmp_path / "in", 2)
    (tmp_path / "link").symlink_to("in")
    (tmp_path / "other").mkdir()
    batch = begin(tmp_path / "out", cases, dataclasses.replace(JOB, source=str(tmp_path / "in")))
    work(batch)
    for name in ("link", "other/../in"):
        again = begin(batch.root, [], dataclasses.replace(JOB, source=str(tmp_path / name)))
        assert again.job == batch.job
        assert work(again) == [("kept", "")] * 2
    for name in ("other", "gone"):
        with pytest.raises(OutputError, match="another input"):
            begin(batch.root, cases, dataclasses.replace(JOB, source=str(tmp_path / name)))


@pytest.mark.parametrize(
    "changed", [{"options": {"strength": 2}}, {"priors": {"tiny": "2" * 64}}], ids=["config", "prior"]
)
def test_what_an_older_run_settles_meanwhile_is_not_settled_for_one_of_other_settings(changed, batch):
    newer = begin(batch.root, list(batch.manifest), dataclasses.replace(JOB, **changed), go_on=True)
    since = newer.now_ns()
    work(batch, numbers=[0, 5])
    work(newer, numbers=[1], since_ns=since)
    assert work(newer, since_ns=since) == [("done", "")] * 4 + [("refused", "E-FORMAT")]
    records = [newer.records.done(case.name) or newer.records.refused(case.name) for case in newer.manifest]
    assert {record.basis.config_sha256 for record in records} == {newer.job.config_sha256}
    assert {record.basis.prior_sha256 for record in records} <= set(map(newer.job.prior_sha256, ("", "tiny")))
    assert work(newer, since_ns=since) == []


def test_a_refused_case_is_tried_again_on_request_and_when_it_was_mended(batch, tmp_path):
    work(batch)
    log = tmp_path / "log"
    assert work(batch, log, retry_refused=True)[-1] == ("refused", "E-FORMAT")
    assert log.read_text().split() == [batch.manifest[5].name]
    Path(batch.manifest[5].input).write_bytes(b"mended")
    assert work(batch)[-1] == ("done", "")
    assert batch.records.refused(batch.manifest[5].name) is None
    Path(batch.manifest[5].input).write_bytes(b"broken")
    assert work(batch)[-1] == ("refused", "E-FORMAT")
    assert batch.records.done(batch.manifest[5].name) is None


def test_order_parts_and_restarts_change_no_byte(batch, tmp_path):
    work(batch)
    whole = tree(batch.root)
    other = begin(tmp_path / "other", list(batch.manifest))
    since = other.now_ns()
    assert len(work(other, numbers=[4], since_ns=since)) == 1
    assert len(work(other, numbers=other.part(2, 1), since_ns=since)) == 3
    assert len(work(Batch(other.root), numbers=reversed(range(6)), since_ns=since)) == 2
    assert tree(other.root) == whole


def test_the_seed_of_a_case_is_its_own(batch):
    seeds = {case.seed(seed) for case in batch.manifest for seed in (0, 1)}
    assert len(seeds) == 12
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_most_ends_a_worker_early(batch):
    since = batch.now_ns()
    events = []
    worker = Worker(batch, Copying(batch.root), since_ns=since, told=events.append)
    assert worker.work(range(6), most=2) == 2
    assert status_of(batch).left == 4
    tail = list(Tail(batch.folder / "journal", since).new())
    assert [event.case for event in tail] == [event.case for event in events]


class Failing(Copying):
    """Meets an error in one case."""

    def __init__(self, root: Path, error: Exception) -> None:
        super().__init__(root)
        self.error = error

    def run(self, case):
        if "0002" in case.input:
            raise self.error
        return super().run(case)


@pytest.mark.parametrize(
    "error",
    [OutputError("E-DISK", "full"), OutputError("E-OUT", "closed"), PriorError("E-WEIGHTS", "broken")],
    ids=str,
)
def test_what_meets_every_case_ends_the_worker_and_refuses_nothing(error, batch):
    with pytest.raises(type(error)):
        Worker(batch, Failing(batch.root, error), since_ns=batch.now_ns()).work(range(6))
    status = status_of(batch)
    assert (status.done, status.left, status.held, dict(status.refused)) == (2, 4, 0, {})
    assert work(batch)[:3] == [("kept", ""), ("kept", ""), ("done", "")]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ZeroDivisionError("SECRET"), "E-UNEXPECTED"),
        (MemoryError(), "E-MEMORY"),
        (PriorError("E-MODEL-NONFINITE", "nan"), "E-MODEL-NONFINITE"),
        (OutputError("E-OVERWRITE", "a foreign file"), "E-OVERWRITE"),
    ],
)
def test_what_meets_one_case_refuses_it_alone(error, code, batch):
    events = []
    Worker(batch, Failing(batch.root, error), since_ns=batch.now_ns(), told=events.append).work(range(6))
    assert [event.code for event in events] == ["", "", code, "", "", "E-FORMAT"]
    record = batch.records.refused(batch.manifest[2].name)
    assert record.mend
    assert "SECRET" not in record.message


def from_system(number: int) -> OutputError:
    """What a writer makes of a refusal of the system."""
    with pytest.raises(OutputError) as caught, output_errors("scan.bin"):
        raise OSError(number, os.strerror(number))
    return caught.value


@pytest.mark.parametrize("number", [errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.EACCES])
def test_a_place_that_is_taken_or_cannot_be_refuses_its_case_alone(number, batch):
    events = []
    error = from_system(number)
    Worker(batch, Failing(batch.root, error), since_ns=batch.now_ns(), told=events.append).work(range(6))
    assert [event.code for event in events] == ["", "", "E-OUT", "", "", "E-FORMAT"]


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.EIO, errno.ESTALE, errno.ENOSPC])
def test_a_folder_that_is_closed_as_a_whole_refuses_nobody(number, batch, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_, **__: False)
    with pytest.raises(OutputError, match=r"E-OUT|E-DISK"):
        Worker(batch, Failing(batch.root, from_system(number)), since_ns=batch.now_ns()).work(range(6))
    assert dict(status_of(batch).refused) == {}


def test_names_of_folders_do_not_stand_in_a_record(tmp_path):
    (case,) = make_inputs(tmp_path / "DOE^JANE", 1)
    batch = begin(tmp_path / "out", [case])
    error = InputError("E-READ", "nothing below DOE^JANE", file="DOE^JANE")
    Worker(batch, _Naming(batch.root, error), since_ns=batch.now_ns()).work([0])
    texts = [path.read_text() for path in batch.folder.rglob("*") if path.is_file() and path.name != "manifest.jsonl"]
    assert any("E-READ: file-" in text for text in texts)
    assert not any("DOE" in text for text in texts)
    assert (batch.folder / "manifest.jsonl").stat().st_mode & 0o077 == 0


class _Naming(Failing):
    def run(self, case):
        raise self.error


def test_a_case_on_which_workers_die_again_and_again_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("medidiff.batch.worker._MOST_DEATHS", 2)
    batch = begin(tmp_path / "out", make_inputs(tmp_path / "in", 3))

    class Deadly(Copying):
        def run(self, case):
            if "0001" in case.input:
                os.kill(os.getpid(), 9)
            return super().run(case)

    def attempt() -> None:
        Worker(batch, Deadly(batch.root), since_ns=batch.now_ns()).work(range(3))

    assert [ended(forked(attempt)) for _ in range(3)] == [-9, -9, 0]
    status = status_of(batch)
    assert (status.done, dict(status.refused), status.held) == (2, {"E-CRASH": 1}, 0)
    assert work(batch, retry_refused=True)[1] == ("done", "")


def test_a_killed_workers_case_is_done_by_another(tmp_path):
    batch = begin(tmp_path / "out", make_inputs(tmp_path / "in", 6))
    ready, since = tmp_path / "ready", batch.now_ns()

    class Slow(Copying):
        def run(self, case):
            ready.touch()
            time.sleep(60)
            return super().run(case)

    process = forked(lambda: Worker(batch, Slow(batch.root), since_ns=since).work([3]))
    while not ready.exists():
        time.sleep(0.005)
    other = forked(lambda: work(batch, since_ns=since))  # does the rest, and waits for the last
    while status_of(batch).left > 1:
        time.sleep(0.005)
    killed(process)
    assert ended(other) == 0
    assert status_of(batch).done == 6
