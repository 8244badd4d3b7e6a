"""Engines start commands, say how many still run, and end them; what they do is none of their concern."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from medidiff.batch.engines import ENGINES, LocalEngine, Resources, processors
from medidiff.errors import OutputError


def local(**resources) -> LocalEngine:
    engine = ENGINES["local"](Resources(**resources))
    assert isinstance(engine, LocalEngine)
    return engine


def test_so_many_workers_run_and_end_by_themselves(tmp_path):
    running = local(threads=3, logs=tmp_path).start(["sh", "-c", "echo $OMP_NUM_THREADS; exit 4"], 2)
    running.wait(20)
    assert running.alive() == 0
    assert running.ended() == (4, 4)
    assert [(tmp_path / f"worker-{n}.log").read_text() for n in (0, 1)] == ["3\n", "3\n"]
    running.stop()


def test_waiting_ends_with_the_last_worker_and_not_before_the_time():
    running = local().start(["sleep", "30"], 1)
    begin = time.monotonic()
    running.wait(0.2)
    assert time.monotonic() - begin >= 0.2
    assert running.alive() == 1
    assert running.ended() == ()
    os.kill(running.processes[0].pid, signal.SIGKILL)
    running.wait(20)
    assert time.monotonic() - begin < 20
    assert running.ended() == (-signal.SIGKILL,)


def wait_for(place: Path) -> None:
    """Until a worker has said that it is ready."""
    while not place.read_text():
        time.sleep(0.02)


def test_stopping_asks_first_and_leaves_nobody(tmp_path):
    polite = "import signal, time; signal.signal(15, lambda *_: exit(7)); print('ready', flush=True); time.sleep(99)"
    running = local(logs=tmp_path).start([sys.executable, "-c", polite], 1)
    wait_for(tmp_path / "worker-0.log")
    running.stop()
    assert running.ended() == (7,)


def test_a_worker_that_does_not_end_when_asked_is_ended(tmp_path, monkeypatch):
    monkeypatch.setattr("medidiff.batch.engines._PATIENCE_SECONDS", 0.3)
    deaf = "trap '' TERM; echo ready; while :; do sleep 0.1; done"
    running = local(logs=tmp_path).start(["sh", "-c", deaf], 1)
    wait_for(tmp_path / "worker-0.log")
    running.stop()
    assert running.ended() == (-signal.SIGKILL,)


def test_each_worker_sees_one_gpu_of_those_that_may_be_seen(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    running = local(gpus=2, logs=tmp_path).start(["sh", "-c", "echo $CUDA_VISIBLE_DEVICES"], 3)
    running.wait(20)
    assert [(tmp_path / f"worker-{n}.log").read_text().strip() for n in range(3)] == ["5", "7", "5"]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    running = local(gpus=2, logs=tmp_path).start(["sh", "-c", "echo $CUDA_VISIBLE_DEVICES"], 2)
    running.wait(20)
    assert (tmp_path / "worker-1.log").read_text().split() == ["7", "1"]


def test_a_command_that_is_not_there_is_refused():
    with pytest.raises(OutputError, match="E-OUT"):
        local().start(["/nowhere/at/all"], 2)


def test_there_is_a_processor():
    assert 1 <= processors() <= (os.cpu_count() or 1)
