"""Data-parallel training: join the processes that ``torchrun`` started, or run alone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import distributed

from medidiff.errors import SettingsError

__all__ = ["Process", "start_processes"]

_PATIENCE = timedelta(hours=2)  # the others wait at the next step while the first process validates and writes


@dataclass(frozen=True, slots=True)
class Process:
    """This process among those of a run.

    Args:
        rank: number of the process; the first, 0, is the one that writes, tracks and reports.
        world: how many there are.
        device: where this one computes.
    """

    rank: int
    world: int
    device: str

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes, tracks and reports."""
        return self.rank == 0


@contextmanager
def start_processes(device: str = "cpu") -> Iterator[Process]:
    """Join the other processes of a ``torchrun`` for the length of a ``with`` block; alone when there are none.

    Processes on CPUs talk through gloo, on GPUs through nccl, and each GPU process takes the GPU of its local rank.

    Args:
        device: ``"cpu"``, ``"cuda"``, or one GPU such as ``"cuda:1"`` when there is one process.

    Raises:
        SettingsError: torchrun's variables are broken, or this machine has fewer GPUs than processes.

    Example:
        >>> with start_processes() as process:
        ...     process.is_first
        True
    """
    rank, world, local = (
        _variable(name, default) for name, default in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0))
    )
    if world == 1:
        yield Process(0, 1, device)
        return
    if not 0 <= rank < world:
        raise SettingsError("E-PROCESSES", f"process {rank} of {world}", mend="Start the run with torchrun.")
    place = _own_gpu(local) if device.startswith("cuda") else device
    try:
        # Losses are summed on the CPU, gradients where they are: on GPUs both ways are needed.
        backend = "cpu:gloo,cuda:nccl" if device.startswith("cuda") else "gloo"
        distributed.init_process_group(backend, timeout=_PATIENCE)
    except (ValueError, RuntimeError) as error:
        raise SettingsError(
            "E-PROCESSES", "the processes cannot find each other", mend="Start with torchrun."
        ) from error
    try:
        yield Process(rank, world, place)
    finally:
        distributed.destroy_process_group()


def _variable(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    if not text.isdecimal():
        raise SettingsError("E-PROCESSES", "not a whole number", attribute=name, mend="Start the run with torchrun.")
    return int(text)


def _own_gpu(local: int) -> str:
    if local >= torch.cuda.device_count():
        raise SettingsError(
            "E-PROCESSES", f"process {local + 1} here, {torch.cuda.device_count()} GPUs", wanted="one each"
        )
    torch.cuda.set_device(local)
    return f"cuda:{local}"
