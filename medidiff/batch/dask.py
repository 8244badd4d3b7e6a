"""Workers as tasks of Dask: on this machine, under a scheduler that runs already, or in jobs of dask-jobqueue.

Each task runs one worker command. What Dask knows of a task is not believed where it matters: when a Dask worker is
killed its task is run again elsewhere, or is lost; either way the files of the batch say what is still to do.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from medidiff.batch.engines import Resources
from medidiff.batch.leash import end, launch
from medidiff.batch.slurm import Allocation
from medidiff.errors import SettingsError

__all__ = ["JOBQUEUES", "DaskEngine", "DaskRunning"]

_PATIENCE_SECONDS = 60.0  # for workers that were asked to end
_RETURN_SECONDS = 20.0  # of these, for one to give its case back
_POLL_SECONDS = 0.5
_ANSWER_SECONDS = 30.0  # for a scheduler to answer
_ANY_PORT = "127.0.0.1:0"  # None takes 8787, which another batch may have
_FAILURES = 100  # of Dask workers under one task: each end of a job's time is one
_MEMORY_GB = 4.0  # of a job, where nothing is said: dask-jobqueue has no default
JOBQUEUES = {
    "pbs": ("PBSCluster", "account"),
    "sge": ("SGECluster", "project"),
    "slurm": ("SLURMCluster", "account"),
}
"""Queues that jobs are submitted to: the class of dask-jobqueue, and what it calls who pays."""


class DaskEngine:
    """Tasks of a Dask cluster whose workers see the same files under the same names as this machine.

    Args:
        resources: of each worker.
        allocation: what each job asks for; with `jobqueue` only.
        address: of a scheduler that runs already, ``tcp://host:port`` or ``tls://host:port``.
        jobqueue: one of `JOBQUEUES`; with neither this nor `address`, the cluster is this machine.

    Raises:
        SettingsError: ``E-SETTING``, both are given, or no such queue.
    """

    def __init__(self, resources: Resources, allocation: Allocation, *, address: str = "", jobqueue: str = "") -> None:
        if address and jobqueue:
            raise SettingsError("E-SETTING", "an address and a queue", wanted="one of them", attribute="--address")
        if jobqueue and jobqueue not in JOBQUEUES:
            raise SettingsError("E-SETTING", jobqueue, wanted=", ".join(JOBQUEUES), attribute="--jobqueue")
        self.resources, self.allocation = resources, allocation
        self.address, self.jobqueue = address, jobqueue

    def start(self, command: Sequence[str], workers: int) -> DaskRunning:
        """Submit so many tasks.

        Raises:
            SettingsError: ``E-ENGINE``, Dask is not installed, or no cluster answers.
        """
        distributed = _imported("distributed")
        try:
            cluster = None if self.address else self._cluster(workers)
        except (OSError, ValueError, RuntimeError) as error:
            raise _refusal(f"no cluster: {error}", "See ~/.config/dask/jobqueue.yaml.") from error
        try:
            client = distributed.Client(cluster or self.address, timeout=_ANSWER_SECONDS, set_as_default=False)
        except (OSError, ValueError) as error:
            if cluster is not None:
                cluster.close()
            raise _refusal(f"no scheduler answers: {error}", "Check --address.") from error
        name = f"medidiff-{secrets.token_hex(8)}"
        futures = [
            client.submit(_run, tuple(command), self._about(number), name, key=f"{name}-{number}", pure=False)
            for number in range(workers)
        ]
        return DaskRunning(cluster, client, distributed.Event(name, client=client), futures)

    def _about(self, number: int) -> _About:
        gpus = self.resources.gpus if not (self.address or self.jobqueue) else 0
        return _About(self.resources.threads, number % gpus if gpus else None)

    def _cluster(self, workers: int) -> Any:
        """A cluster of our own; its scheduler bears with jobs whose time is up."""
        dask = _imported("dask")
        with dask.config.set({"distributed.scheduler.allowed-failures": _FAILURES}):
            if not self.jobqueue:
                local = _imported("distributed").LocalCluster
                return local(n_workers=workers, threads_per_worker=1, dashboard_address=_ANY_PORT)
            kind = getattr(_imported("dask_jobqueue"), JOBQUEUES[self.jobqueue][0])
            cluster = kind(**self._job())
            cluster.adapt(minimum_jobs=workers, maximum_jobs=workers)
            return cluster

    def _job(self) -> dict[str, Any]:
        """What one job of dask-jobqueue asks for; what is left open is as the user's jobqueue.yaml says."""
        asked = self.allocation
        if asked.gpus:
            mend = "Ask for them in ~/.config/dask/jobqueue.yaml (job-extra-directives)."
            raise SettingsError("E-SETTING", f"{asked.gpus}", wanted="0 with --jobqueue", attribute="--gpus", mend=mend)
        hours, minutes = divmod(asked.minutes, 60)
        wanted = {
            "cores": self.resources.threads,
            "processes": 1,
            "memory": f"{asked.memory_gb or _MEMORY_GB:g}GB",
            "walltime": f"{hours:02}:{minutes:02}:00",
            "queue": asked.partition or None,
            JOBQUEUES[self.jobqueue][1]: asked.account or None,
            "log_directory": None if self.resources.logs is None else str(self.resources.logs),
            "worker_extra_args": ["--nthreads", "1"],  # one worker of the batch at a time
        }
        return {name: value for name, value in wanted.items() if value is not None}


@dataclass(frozen=True, slots=True)
class _About:
    """What a task must know of its worker: threads of the CPU, and the GPU that it may see."""

    threads: int
    gpu: int | None


def _imported(module: str) -> Any:
    from importlib import import_module

    try:
        return import_module(module)
    except ImportError as error:
        found = f"{error.name or module} is not installed"
        raise _refusal(found, "Install it: pip install 'medidiff[dask]'.") from error


def _refusal(found: str, mend: str) -> SettingsError:
    return SettingsError("E-ENGINE", found, attribute="--engine dask", mend=mend)


def _run(command: Sequence[str], about: _About, stop: str) -> int:
    """One task: the worker command, until it ends or the event `stop` is set; its exit code."""
    asked = _imported("distributed").Event(stop)
    process = launch(command, threads=about.threads, gpu=about.gpu)
    try:
        while process.poll() is None and not asked.wait(timeout=_POLL_SECONDS):
            pass
    finally:
        if process.poll() is None:
            end(process, seconds=_RETURN_SECONDS)
    return process.wait()


@dataclass(slots=True)
class DaskRunning:
    """Tasks that were submitted.

    Args:
        cluster: made for them and closed with them; None where the scheduler is the user's.
        client: our connection.
        asked: the event that asks them to end.
        futures: one each.
    """

    cluster: Any
    client: Any
    asked: Any
    futures: list[Any]

    def alive(self) -> int:
        """How many have not ended, waiting for a Dask worker included; none once the scheduler is gone."""
        if self.client.status not in ("running", "connecting"):
            return 0
        return sum(not future.done() for future in self.futures)

    def wait(self, seconds: float) -> None:
        """Wait so long, or until none is alive."""
        until = time.monotonic() + seconds
        while self.alive() and (left := until - time.monotonic()) > 0:
            time.sleep(min(_POLL_SECONDS, left))

    def ended(self) -> tuple[int, ...]:
        """Exit codes of those that have ended and whose end Dask has seen."""
        return tuple(future.result() for future in self.futures if future.status == "finished")

    def stop(self) -> None:
        """Ask them to end, then cancel what is left and close the connection."""
        if self.client.status == "running":
            if self.alive():
                self.asked.set()
                self.wait(_PATIENCE_SECONDS)
            self.client.cancel(self.futures, force=True)
        self.client.close()
        if self.cluster is not None:
            self.cluster.close()
