"""A command that ends when the process that started it does.

A cluster ends the process that it started; the worker below that process would go on, and take the processors of the
next job. ``python -m medidiff.batch.leash PARENT COMMAND...`` asks the system (Linux) to send SIGTERM to COMMAND when
the process PARENT dies, then becomes COMMAND; a PARENT of several threads may send it more than once. `launch` also
keeps SIGUSR2 from it, which a cluster sends to every process of a job to say that time is nearly up: the process above
acts on it.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress

from medidiff.batch.engines import shown_gpu

__all__ = ["end", "launch", "tie", "wait"]

_PR_SET_PDEATHSIG = 1  # of <linux/prctl.h>
_POLL_SECONDS = 0.05


def launch(command: Sequence[str], *, threads: int, gpu: int | None = None) -> subprocess.Popen[bytes]:
    """Start a command on a leash; what it says goes where this process's words go.

    Args:
        command: program and arguments.
        threads: of the CPU that it may use.
        gpu: the only one that it may see, by its number; those that this process may see when None.

    Raises:
        OSError: the system starts no process.
    """
    about = os.environ | {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    if gpu is not None:
        about["CUDA_VISIBLE_DEVICES"] = shown_gpu(gpu)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})  # a new process begins with the same mask
    leashed = [sys.executable, "-m", __name__, str(os.getpid()), *command]
    try:
        return subprocess.Popen(leashed, stdin=subprocess.DEVNULL, env=about)  # noqa: S603 # the command is the caller's
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def wait(process: subprocess.Popen[bytes]) -> int:
    """Wait for a command, in such a way that a signal handler may `end` it meanwhile; the exit code."""
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    return process.wait()


def end(process: subprocess.Popen[bytes], *, seconds: float) -> None:
    """Ask a command to end, and end it if it has not after so long; may be called from a signal handler."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.kill(process.pid, number)
        until = time.monotonic() + seconds
        while not (gone := _has_ended(process.pid)) and time.monotonic() < until:
            time.sleep(_POLL_SECONDS)
        if gone:
            return


def tie(parent: int) -> bool:
    """Let this process get SIGTERM when the one that started it dies (Linux); whether that one still lives."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
    return os.getppid() == parent  # it may have died before the system was asked


def _has_ended(process: int) -> bool:
    """Whether a child has ended; it is not reaped, so that its number stays its own."""
    try:
        return os.waitid(os.P_PID, process, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None
    except ChildProcessError:  # reaped already
        return True


def _main(parent: int, command: list[str]) -> None:
    if tie(parent):
        os.execvp(command[0], command)  # noqa: S606 # the command is the caller's own


if __name__ == "__main__":
    _main(int(sys.argv[1]), sys.argv[2:])
