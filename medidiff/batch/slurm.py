"""Workers as a job array of Slurm, through submitit.

A job that is preempted or whose time is up gives its case back and queues again; one whose node fails is queued again
by Slurm. Which jobs still live is asked of ``squeue``, which every cluster has: submitit would ask ``sacct``, which
wants an accounting data base.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from medidiff.batch.engines import Resources
from medidiff.batch.leash import end, launch, wait
from medidiff.errors import SettingsError
from medidiff.io.files.atomic import make_folder, output_errors

if TYPE_CHECKING:
    from submitit.core.utils import DelayedSubmission

__all__ = ["Allocation", "SlurmEngine", "SlurmRunning", "Worker"]

_POLL_SECONDS = 5.0  # between two questions to the controller, which all users of a cluster share
_PATIENCE_SECONDS = 60.0  # for jobs that were cancelled
_SHORTEST_MINUTES = 2  # of a job: some of them must be left before it is told that its time is nearly up
_NOTICE_SECONDS = 90  # how long before a job's end Slurm says so
_RETURN_SECONDS = 45.0  # of these, for a worker to give its case back
_GRACE_SECONDS = 120.0  # for Slurm to end a job whose worker it has ended
_TIMES = 10_000  # that a job may run out of time and queue again
_ENDED = (
    *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED"),
    *("NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "REVOKED", "TIMEOUT"),
)
_KILLED = ("BOOT_FAIL", "DEADLINE", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "TIMEOUT")
_SIGNALLED = 128  # plus its number is the exit code of what a signal ended


@dataclass(frozen=True, slots=True)
class Allocation:
    """What each worker asks of a cluster.

    Args:
        partition: or queue; the cluster's default when empty.
        account: that pays; the user's default when empty.
        minutes: after which a job must end; it queues again while there is work.
        memory_gb: of main memory; the cluster's default when None.
        gpus: how many; Slurm shows a job its own.

    Raises:
        SettingsError: ``E-SETTING``, a value out of range.
    """

    partition: str = ""
    account: str = ""
    minutes: int = 240
    memory_gb: float | None = None
    gpus: int = 0

    def __post_init__(self) -> None:
        memory = self.memory_gb
        rules = (
            ("--time", self.minutes, self.minutes >= _SHORTEST_MINUTES, f"{_SHORTEST_MINUTES} minutes or more"),
            ("--memory", memory, memory is None or memory > 0, "above 0"),
            ("--gpus", self.gpus, self.gpus >= 0, "0 or more"),
        )
        for name, value, good, wanted in rules:
            if not good:
                raise SettingsError("E-SETTING", f"{value}", wanted=wanted, attribute=name)


# A job is told of its end by SIGUSR2, which would end a Python that has not come so far as to expect it: the signal is
# held back until `Worker` runs.
_HOLD = "import os, signal as s, sys; s.pthread_sigmask(s.SIG_BLOCK, [s.SIGUSR2]); os.execv(sys.argv[1], sys.argv[1:])"


class SlurmEngine:
    """Jobs of a Slurm cluster that sees the same files under the same names as this machine.

    Args:
        resources: of each worker; `logs` is where submitit keeps its scripts and what the jobs say.
        allocation: what each worker asks for.
    """

    def __init__(self, resources: Resources, allocation: Allocation) -> None:
        self.resources, self.allocation = resources, allocation

    def start(self, command: Sequence[str], workers: int) -> SlurmRunning:
        """Submit an array of so many jobs.

        Raises:
            SettingsError: ``E-ENGINE``, there is no Slurm or no submitit here, or Slurm refuses the jobs.
            OutputError: the folder for the logs cannot be written.
        """
        if self.resources.logs is None:
            raise SettingsError("E-ENGINE", "no folder that the jobs can write to", attribute="--engine")
        make_folder(self.resources.logs)
        submitit = _submitit()
        python = shlex.join([sys.executable, "-c", _HOLD, sys.executable])
        worker = Worker(tuple(command), self.resources.threads)
        try:
            with output_errors(self.resources.logs.name, self.resources.logs):
                executor = submitit.AutoExecutor(
                    self.resources.logs, cluster="slurm", slurm_max_num_timeout=_TIMES, slurm_python=python
                )
                executor.update_parameters(**self._parameters(workers))
                with executor.batch():
                    jobs = [executor.submit(worker) for _ in range(workers)]
        except (RuntimeError, subprocess.CalledProcessError) as error:
            raise SettingsError(
                "E-ENGINE", _last_line(error), attribute="--engine slurm", mend="Ask 'sinfo' what there is."
            ) from error
        return SlurmRunning([str(job.job_id) for job in jobs])

    def _parameters(self, workers: int) -> dict[str, Any]:
        """What is asked for, as submitit calls it."""
        asked = self.allocation
        wanted: dict[str, Any] = {
            "name": "medidiff",
            "timeout_min": asked.minutes,
            "cpus_per_task": self.resources.threads,
            "slurm_array_parallelism": workers,
            "slurm_signal_delay_s": _NOTICE_SECONDS,
            "stderr_to_stdout": True,
            "slurm_additional_parameters": {"requeue": True},
            "slurm_partition": asked.partition or None,
            "slurm_account": asked.account or None,
            "mem_gb": asked.memory_gb,
            "gpus_per_node": asked.gpus or None,
        }
        return {name: value for name, value in wanted.items() if value is not None}


def _submitit() -> Any:
    try:
        import submitit
    except ImportError as error:
        mend = "Install it with pip install 'medidiff[slurm]'."
        raise SettingsError("E-ENGINE", "submitit is not installed", attribute="--engine slurm", mend=mend) from error
    return submitit


def _last_line(error: Exception) -> str:
    """What a tool of Slurm said last."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


@dataclass(slots=True)
class Worker:
    """What a job of the array does: it runs the command, and survives the end of the job's time.

    Args:
        command: program and arguments.
        threads: of the CPU that it may use.
    """

    command: tuple[str, ...]
    threads: int
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    def __call__(self) -> None:
        """Run the command.

        Raises:
            SystemExit: with the command's exit code, unless that is 0.
        """
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR2})
        self._process = launch(self.command, threads=self.threads)
        code = wait(self._process)
        if code in (-signal.SIGTERM, _SIGNALLED + signal.SIGTERM):
            time.sleep(_GRACE_SECONDS)  # Slurm asked it to end; a job that ends by itself would not be queued again
        if code:
            raise SystemExit(code if code > 0 else _SIGNALLED - code)

    def checkpoint(self) -> DelayedSubmission:
        """What to do after the job has queued again: the same; called by submitit when time is nearly up."""
        from submitit.helpers import DelayedSubmission

        if self._process is not None:
            end(self._process, seconds=_RETURN_SECONDS)
        return DelayedSubmission(Worker(self.command, self.threads))


@dataclass(slots=True)
class SlurmRunning:
    """Jobs that were submitted.

    Args:
        jobs: their numbers, with that in the array.
        poll_seconds: how long an answer of the controller is good for.
    """

    jobs: list[str]
    poll_seconds: float = _POLL_SECONDS
    _states: dict[str, str] = field(default_factory=dict, init=False)
    _codes: dict[str, int] = field(default_factory=dict, init=False)
    _asked: float = field(default=float("-inf"), init=False)

    def alive(self) -> int:
        """How many have not ended, waiting in the queue included."""
        self._ask()
        return sum(state not in _ENDED for state in self._states.values())

    def wait(self, seconds: float) -> None:
        """Wait so long, or until none is alive."""
        until = time.monotonic() + seconds
        while self.alive() and (left := until - time.monotonic()) > 0:
            time.sleep(min(self.poll_seconds, left))

    def ended(self) -> tuple[int, ...]:
        """Exit codes of those that have ended, as far as the controller remembered them when it was asked."""
        self._ask()
        return tuple(self._codes[job] for job in self.jobs if self._states[job] in _ENDED and job in self._codes)

    def stop(self) -> None:
        """Cancel them all."""
        if not self.alive():
            return
        _asked("scancel", *sorted({job.partition("_")[0] for job in self.jobs}))
        until = time.monotonic() + _PATIENCE_SECONDS
        while self.alive() and time.monotonic() < until:
            time.sleep(min(self.poll_seconds, 1.0))

    def _ask(self) -> None:
        """Refresh what is known, unless it is fresh or the controller does not answer."""
        if time.monotonic() - self._asked < self.poll_seconds:
            return
        arrays = ",".join(sorted({job.partition("_")[0] for job in self.jobs}))
        said = _asked("squeue", "-h", "-r", "-t", "all", "-O", "JobArrayID:64,State:32,exit_code:16", "-j", arrays)
        self._asked = time.monotonic()
        if said is None:
            self._states = {job: self._states.get(job, "PENDING") for job in self.jobs}
            return
        rows = _rows(said)
        for job in self.jobs:
            state, code = rows.get(job, ("COMPLETED", None))  # the controller forgets what ended minutes ago
            self._states[job] = state
            if code is not None:
                self._codes[job] = _ending(state, code)


def _rows(said: str) -> Mapping[str, tuple[str, int | None]]:
    """State and exit code of each job in the words of ``squeue``."""
    rows = {}
    for line in said.splitlines():
        job, state, *rest = line.split()
        rows[job] = state, _code(rest[0]) if rest else None
    return rows


def _ending(state: str, code: int) -> int:
    """The exit code of a worker as a process has it: what the cluster ended, or ran out of, is as if killed."""
    if state in _KILLED and code >= 0:
        return -signal.SIGKILL
    return _SIGNALLED - code if code > _SIGNALLED and state != "CANCELLED" else code


def _code(said: str) -> int | None:
    """``"code:signal"``, or the status that ``wait`` gives, as one number; below 0 it is minus a signal's."""
    code, colon, number = said.partition(":")
    if not code.isdigit():
        return None
    if not colon:
        return os.waitstatus_to_exitcode(int(code))
    return -int(number) if number.isdigit() and int(number) else int(code)


def _asked(*command: str) -> str | None:
    """What a tool of Slurm answers; None where it does not."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode and "Invalid job id" in done.stderr:
        return ""
    return None if done.returncode else done.stdout
