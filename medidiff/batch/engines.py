"""Engines: where the workers of a batch run.

A worker is a command that ends by itself when nothing is left to do. It may be started twice, killed, or never come up:
what is done and what is not stands in the files of the batch, so an engine only has to start commands, and to say how
many of them still run.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from medidiff.io.files.atomic import output_errors

__all__ = ["ENGINES", "Engine", "LocalEngine", "Resources", "Running", "processors", "shown_gpu"]

_PATIENCE_SECONDS = 10.0  # for a worker that was asked to end, to give its case back
_POLL_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Resources:
    """What one worker may use.

    Args:
        threads: of the CPU.
        gpus: how many the machine has; with any, worker k sees GPU k modulo this and no other.
        logs: folder for what the workers say; nowhere when None.
    """

    threads: int = 1
    gpus: int = 0
    logs: Path | None = None


class Running(Protocol):
    """Workers that were started."""

    def alive(self) -> int:
        """How many of them have not ended, waiting in a queue included."""

    def wait(self, seconds: float) -> None:
        """Wait so long, or until none is alive."""

    def ended(self) -> tuple[int, ...]:
        """Exit codes of those that have ended, as far as they are known; below 0 is minus a signal's number."""

    def stop(self) -> None:
        """End them all, and wait until they have given their cases back; no harm if they have ended."""


class Engine(Protocol):
    """A way to start workers."""

    def start(self, command: Sequence[str], workers: int) -> Running:
        """Start so many processes of the same command.

        Args:
            command: program and arguments; needs no terminal and no input.
            workers: how many.
        """


class LocalEngine:
    """Processes on this machine.

    Args:
        resources: of each worker.
    """

    def __init__(self, resources: Resources) -> None:
        self.resources = resources

    def start(self, command: Sequence[str], workers: int) -> LocalRunning:
        """Start so many processes of the same command, each in a session of its own.

        Raises:
            OutputError: the system starts no process, or a log cannot be written.
        """
        running = LocalRunning([])
        try:
            with output_errors("a worker"):
                for number in range(workers):
                    running.processes.append(self._start(command, number))
        except BaseException:
            running.stop()
            raise
        return running

    def _start(self, command: Sequence[str], number: int) -> subprocess.Popen[bytes]:
        threads, gpus, logs = self.resources.threads, self.resources.gpus, self.resources.logs
        about = os.environ | {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
        if gpus:
            about["CUDA_VISIBLE_DEVICES"] = shown_gpu(number % gpus)
        said = subprocess.DEVNULL if logs is None else (logs / f"worker-{number}.log").open("ab")
        try:
            return subprocess.Popen(  # noqa: S603 # the command is the caller's own
                command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, env=about, start_new_session=True
            )
        finally:
            if not isinstance(said, int):
                said.close()


def shown_gpu(number: int) -> str:
    """The name of the GPU with this number among those that this process itself may see."""
    seen = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return seen[number] if number < len(seen) else str(number)


@dataclass(slots=True)
class LocalRunning:
    """Processes of this machine.

    Args:
        processes: as they were started.
    """

    processes: list[subprocess.Popen[bytes]]

    def alive(self) -> int:
        """How many have not ended."""
        return sum(process.poll() is None for process in self.processes)

    def wait(self, seconds: float) -> None:
        """Wait so long, or until none is alive."""
        end = time.monotonic() + seconds
        while self.alive() and (left := end - time.monotonic()) > 0:
            time.sleep(min(_POLL_SECONDS, left))

    def ended(self) -> tuple[int, ...]:
        """Exit codes of those that have ended."""
        return tuple(code for process in self.processes if (code := process.poll()) is not None)

    def stop(self) -> None:
        """Ask them to end, and end those that do not."""
        for process in self.processes:
            if process.poll() is None:
                process.terminate()
        self.wait(_PATIENCE_SECONDS)
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.wait()


def processors() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


ENGINES: Mapping[str, Callable[[Resources], Engine]] = {"local": LocalEngine}
"""The engines by their names."""
