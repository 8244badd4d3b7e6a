"""Data-parallel training: join the processes that ``torchrun`` started, or run alone."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

import torch
from torch import Tensor, distributed
from torch.distributed import PrefixStore, rendezvous  # type: ignore[attr-defined] # documented, not in its list

from medidiff.errors import SettingsError

__all__ = ["Meeting", "Process", "name_of_start", "start_processes", "sum_over_processes"]

_SECONDS_BETWEEN_LOOKS = 0.05  # for the others, when they meet
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


class Meeting(Protocol):
    """The part of a `torch.distributed.Store` by which processes find each other."""

    def set(self, key: str, value: str) -> None:
        """Write a value."""

    def get(self, key: str) -> bytes:
        """Read a value; waits until it is there."""
        ...

    def check(self, keys: list[str]) -> bool:
        """Whether all of them are there."""
        ...


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
        store, rank, world = next(rendezvous("env://", rank, world, timeout=_PATIENCE))
        own = PrefixStore(name_of_start(store, rank, world), store)
        distributed.init_process_group(backend, store=own, rank=rank, world_size=world, timeout=_PATIENCE)
    except (ValueError, RuntimeError) as error:
        raise SettingsError(
            "E-PROCESSES", "the processes cannot find each other", mend="Start with torchrun."
        ) from error
    try:
        yield Process(rank, world, place)
    finally:
        distributed.destroy_process_group()


def name_of_start(store: Meeting, rank: int, world: int) -> str:
    """A name that all processes of this start agree on, and none of an earlier one knew.

    When torchrun begins its processes again, what they meet in is the store of the time before, with the addresses of
    processes that are gone; whoever believes them waits for ever (seen with torch 2.13; PyTorch's issue 135712). Nor
    can they count the starts: agents on different machines count differently. So the first process invents a name and
    tells it to those who ask under a name that they have just invented themselves, until each has heard it.

    Args:
        store: where the processes meet.
        rank: number of this process.
        world: how many there are.
    """
    mine, waiting = secrets.token_hex(16), set(range(1, world))
    if rank > 0:
        store.set(f"medidiff/asks/{rank}", mine)
        name = store.get(f"medidiff/answer/{mine}").decode()
        store.set(f"medidiff/heard/{name}/{rank}", "")
        return name
    while waiting:
        waiting = {other for other in waiting if not store.check([f"medidiff/heard/{mine}/{other}"])}
        for other in waiting:
            if store.check([f"medidiff/asks/{other}"]):
                store.set(f"medidiff/answer/{store.get(f'medidiff/asks/{other}').decode()}", mine)
        time.sleep(_SECONDS_BETWEEN_LOOKS)
    return mine


def sum_over_processes(*tensors: Tensor) -> None:
    """Sum tensors over all processes, in place.

    Raises:
        SettingsError: ``E-PROCESSES``, one of the others has ended.
    """
    try:
        for tensor in tensors:
            distributed.all_reduce(tensor)
    except RuntimeError as error:
        found, mend = "another process of the run is gone", "torchrun --max-restarts N goes on from the checkpoint."
        raise SettingsError("E-PROCESSES", found, mend=mend) from error


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
