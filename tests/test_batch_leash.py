"""A command ends with the process that started it, and a signal that is not for it does not end it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from medidiff.batch.leash import end, launch, wait
from medidiff.batch.slurm import _HOLD

PATIENCE = 60.0
LATE = """
import signal, sys, time
print("up", flush=True)
time.sleep(0.5)
signal.signal(signal.SIGUSR2, lambda *_: sys.exit(7))
signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR2})
time.sleep(60)
"""
UP = "import time; print('up', flush=True); time.sleep(60)"
STUBBORN = f"import signal; signal.signal(15, signal.SIG_IGN); {UP}"
PARENT = f"""
import sys
from medidiff.batch.leash import launch
print(launch([sys.executable, "-c", {UP!r}], threads=1).wait())
"""


def up(process: subprocess.Popen) -> subprocess.Popen:
    assert process.stdout.readline().strip() == b"up"
    return process


def gone(process: int) -> bool:
    state = Path(f"/proc/{process}/stat")
    return not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z"


@pytest.mark.parametrize(("held", "code"), [(True, 7), (False, -signal.SIGUSR2)])
def test_a_signal_that_comes_too_early_is_kept(held, code):
    words = [sys.executable, *(("-c", _HOLD, sys.executable) if held else ()), "-c", LATE]
    process = up(subprocess.Popen(words, stdout=subprocess.PIPE))
    process.send_signal(signal.SIGUSR2)
    assert process.wait(PATIENCE) == code
    process.stdout.close()


def test_the_signal_of_a_job_does_not_end_its_worker_and_threads_are_told(capfd):
    process = launch(["sh", "-c", "kill -USR2 $$; echo $OMP_NUM_THREADS $MKL_NUM_THREADS"], threads=3)
    assert wait(process) == 0
    assert capfd.readouterr().out == "3 3\n"
    with subprocess.Popen(["sh", "-c", "kill -USR2 $$; echo on"]) as other:
        assert other.wait() == -signal.SIGUSR2
    assert signal.SIGUSR2 not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_a_command_sees_the_gpu_that_it_is_given(capfd, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    wait(launch(["sh", "-c", "echo $CUDA_VISIBLE_DEVICES"], threads=1, gpu=1))
    wait(launch(["sh", "-c", "echo $CUDA_VISIBLE_DEVICES"], threads=1))
    assert capfd.readouterr().out == "7\n5,7\n"


@pytest.mark.parametrize("leashed", [True, False])
def test_a_command_ends_with_its_parent(leashed, monkeypatch):
    parent = (
        PARENT if leashed else PARENT.replace("launch([", "__import__('subprocess').Popen([").replace(", threads=1", "")
    )
    process = up(subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE))
    (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.kill()
    process.wait()
    until = time.monotonic() + (PATIENCE if leashed else 1.0)
    while not gone(int(child)) and time.monotonic() < until:
        time.sleep(0.05)
    assert gone(int(child)) == leashed
    if not leashed:
        os.kill(int(child), signal.SIGKILL)
    process.stdout.close()


@pytest.mark.parametrize(("script", "code"), [(UP, -signal.SIGTERM), (STUBBORN, -signal.SIGKILL)])
def test_what_does_not_end_when_asked_is_ended(script, code, tmp_path):
    ready = tmp_path / "ready"
    process = launch(
        [sys.executable, "-c", script.replace("print('up', flush=True)", f"open({str(ready)!r}, 'w')")], threads=1
    )
    while not ready.exists():
        time.sleep(0.05)
    end(process, seconds=1.0)
    assert process.wait() == code
    end(process, seconds=1.0)
