"""Where the workers of a batch run, as options of its verbs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from medidiff.cli.options import Option

if TYPE_CHECKING:
    from medidiff.batch.engines import Engine, Resources

__all__ = ["EngineOptions"]

_WHERE = "where the workers run (no effect on any result)"


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """The engine, and what each worker asks of a cluster; `medidiff.batch.slurm.Allocation` checks it."""

    engine: Annotated[
        Literal["local", "slurm", "dask"], Option("this machine, jobs of Slurm, or tasks of Dask", group=_WHERE)
    ] = "local"
    partition: Annotated[
        str | None, Option("of Slurm, or the queue; the cluster's default when left out", group=_WHERE)
    ] = None
    account: Annotated[str | None, Option("that pays; yours by default", group=_WHERE)] = None
    time: Annotated[int, Option("of each job; it queues again while work is left", ("MINUTES",), group=_WHERE)] = 240
    memory: Annotated[
        float | None, Option("of each job; the cluster's default when left out", ("GB",), group=_WHERE)
    ] = None
    gpus: Annotated[int, Option("of each job of Slurm", ("N",), group=_WHERE)] = 0
    address: Annotated[
        str | None, Option("scheduler of Dask that runs already, tcp://HOST:PORT", ("URL",), group=_WHERE)
    ] = None
    jobqueue: Annotated[
        Literal["pbs", "sge", "slurm"] | None, Option("queue that Dask submits its jobs to", group=_WHERE)
    ] = None

    def engine_with(self, resources: Resources) -> Engine:
        """The engine that is asked for.

        Args:
            resources: of each worker.

        Raises:
            SettingsError: ``E-SETTING``, a value out of range, or one that this engine has no use for.
        """
        from medidiff.batch.clusters import engine_for
        from medidiff.batch.slurm import Allocation

        asked = Allocation(
            partition=self.partition or "",
            account=self.account or "",
            minutes=self.time,
            memory_gb=self.memory,
            gpus=self.gpus,
        )
        return engine_for(self.engine, resources, asked, address=self.address or "", jobqueue=self.jobqueue or "")
