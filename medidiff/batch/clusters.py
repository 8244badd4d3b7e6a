"""The engine that a name means; the packages of a cluster are imported when it is asked for."""

from __future__ import annotations

from medidiff.batch.dask import DaskEngine
from medidiff.batch.engines import ENGINES, Engine, Resources
from medidiff.batch.slurm import Allocation, SlurmEngine
from medidiff.errors import SettingsError

__all__ = ["engine_for"]

_ALONE = Allocation()


def engine_for(
    name: str, resources: Resources, allocation: Allocation = _ALONE, *, address: str = "", jobqueue: str = ""
) -> Engine:
    """An engine.

    Args:
        name: ``"local"``, ``"slurm"`` or ``"dask"``.
        resources: of each worker.
        allocation: what each worker asks of a cluster.
        address: of a scheduler of Dask that runs already.
        jobqueue: the queue that Dask submits jobs to; see `medidiff.batch.dask.JOBQUEUES`.

    Raises:
        SettingsError: ``E-SETTING``, no such engine, or something is asked for that this one has not.
    """
    if name not in (*ENGINES, "slurm", "dask"):
        raise SettingsError("E-SETTING", name, wanted="local, slurm or dask", attribute="--engine")
    if name != "dask" and (address or jobqueue):
        option = "--address" if address else "--jobqueue"
        raise SettingsError("E-SETTING", f"--engine {name}", wanted="--engine dask", attribute=option)
    submits = name == "slurm" or bool(jobqueue)
    if not submits and allocation != _ALONE:
        found = f"a partition, account, time or memory with --engine {name}"
        raise SettingsError("E-SETTING", found, wanted="--engine slurm, or dask with --jobqueue", attribute="--engine")
    if name == "slurm":
        return SlurmEngine(resources, allocation)
    if name == "dask":
        return DaskEngine(resources, allocation, address=address, jobqueue=jobqueue)
    return ENGINES[name](resources)
