"""Workers as tasks of a real Dask: one is killed, another scheduler is used, all are stopped; and what is refused."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from medidiff.batch import dask as engines
from medidiff.batch.dask import JOBQUEUES, DaskEngine, DaskRunning
from medidiff.batch.engines import Resources
from medidiff.batch.slurm import Allocation
from medidiff.errors import SettingsError

WORKER = Path(__file__).with_name("stand_in_worker.py")
PATIENCE = 300.0  # seconds; on a busy machine everything takes its time


def started(folder: Path, *, cases: int, seconds: float, workers: int, **where: str) -> DaskRunning:
    engine = DaskEngine(Resources(threads=2), Allocation(), **where)
    return engine.start([sys.executable, str(WORKER), str(folder), str(cases), str(seconds)], workers)


def log_of(folder: Path) -> list[list[str]]:
    return [line.split() for line in (folder / "log").read_text().splitlines()] if (folder / "log").exists() else []


def until(true, what: str) -> None:
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end, what
        time.sleep(0.2)


def parent(process: str) -> int:
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    """Two workers on a cluster of this machine; the Dask worker above the first one has been killed."""
    folder = tmp_path_factory.mktemp("killed")
    running = started(folder, cases=6, seconds=3, workers=2)
    until(lambda: len(log_of(folder)) == 2, "two workers")
    first = log_of(folder)[0][1]
    os.kill(parent(first), signal.SIGKILL)
    yield folder, running, first
    running.stop()


def test_the_cases_of_a_killed_worker_are_taken_over(running):
    folder, tasks, _ = running
    tasks.wait(PATIENCE)
    assert sorted(path.name for path in folder.glob("result-*")) == [f"result-{n}" for n in range(6)]
    assert not list(folder.glob("lease-*"))
    assert set(tasks.ended()) == {0}  # as far as Dask knows


def test_a_command_ends_with_the_process_that_started_it(running):
    folder, _, first = running
    assert any(words[0] == "returned" for words in log_of(folder))
    assert not Path(f"/proc/{first}").exists()
    assert ["ended", first] not in log_of(folder)


def test_threads_are_as_asked(running):
    folder, _, _ = running
    assert {words[3] for words in log_of(folder) if words[0] == "began"} == {"2"}


def test_another_scheduler_is_used_and_left_as_it_was(running, tmp_path):
    _, tasks, _ = running
    tasks.wait(PATIENCE)
    mine = started(tmp_path, cases=1, seconds=1e9, workers=1, address=tasks.cluster.scheduler_address)
    until(lambda: list(tmp_path.glob("lease-*")), "a lease")
    assert mine.alive() == 1
    begin = time.monotonic()
    mine.wait(0.5)
    assert time.monotonic() - begin >= 0.5
    mine.stop()
    assert [words[0] for words in log_of(tmp_path)] == ["began", "returned"]
    assert not list(tmp_path.glob("lease-*"))
    assert mine.alive() == 0
    assert tasks.client.status == "running"
    mine.stop()


def test_two_batches_at_a_time_have_a_cluster_each(running, tmp_path):
    _, tasks, _ = running
    mine = started(tmp_path, cases=1, seconds=0, workers=1)  # warnings are errors: a port that is taken gives one
    mine.wait(PATIENCE)
    assert [path.name for path in tmp_path.glob("result-*")] == ["result-0"]
    mine.stop()
    assert tasks.client.status == "running"


# --- without a cluster ------------------------------------------------------------------------------------------------


def engine(**where: str) -> DaskEngine:
    return DaskEngine(Resources(), Allocation(), **where)


def test_a_scheduler_that_does_not_answer_is_refused(monkeypatch):
    monkeypatch.setattr(engines, "_ANSWER_SECONDS", 1.0)
    with pytest.raises(SettingsError, match=r"E-ENGINE.*no scheduler"):
        engine(address="tcp://127.0.0.1:9").start(["true"], 1)


def test_without_dask_it_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(SettingsError, match=r"E-ENGINE.*medidiff\[dask\]"):
        engine().start(["true"], 1)


def test_a_queue_that_is_not_there_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SettingsError, match="E-SETTING"):
        engine(jobqueue="pigeon")
    with pytest.raises(SettingsError, match="E-SETTING"):
        engine(jobqueue="slurm", address="tcp://127.0.0.1:9")
    with pytest.raises(SettingsError, match=r"E-SETTING.*jobqueue\.yaml"):
        DaskEngine(Resources(), Allocation(gpus=1), jobqueue="slurm").start(["true"], 1)


@pytest.mark.parametrize("queue", JOBQUEUES)
def test_what_is_asked_for_reaches_the_job(queue):
    import dask_jobqueue

    asked = Allocation(partition="long", account="lab", minutes=90, memory_gb=6)
    job = DaskEngine(Resources(threads=3), asked, jobqueue=queue)._job()
    kind = getattr(dask_jobqueue, JOBQUEUES[queue][0]).job_cls
    script = kind(scheduler="tcp://127.0.0.1:9", name="one", **job).job_script()
    assert script.rindex("--nthreads 1") > script.rindex("--nthreads 3")  # the last one counts
    assert all(word in script for word in ("01:30:00", "long", "lab", "6"))
