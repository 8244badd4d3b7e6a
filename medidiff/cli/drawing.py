"""Synthetic cases drawn and judged in the order of their numbers, here or by processes beside each other.

Each case has random numbers of its own, so who draws it, and when, changes no byte of it. How many threads compute may
change the rounding, so their number is told and does not follow from that of the processes or of the processors.
"""

from __future__ import annotations

import signal
from collections.abc import Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import active_children, get_context
from os import getpid
from types import TracebackType
from typing import Protocol

import torch

from medidiff.batch.leash import tie
from medidiff.case import Case
from medidiff.errors import OutputError
from medidiff.gates import CopyGate, Verdict
from medidiff.synthesis import Cascade, Request

__all__ = ["Drawer", "Drawn", "Draws", "draws"]


@dataclass(frozen=True, slots=True)
class Drawn:
    """A case that was drawn.

    Args:
        case: None if the gate does not let it pass.
        verdict: of the gate; None without one.
    """

    case: Case | None
    verdict: Verdict | None


@dataclass(frozen=True, slots=True)
class Drawer:
    """Draws cases of a seed and shows them to a gate.

    Args:
        cascade: that draws.
        request: what they are to be like.
        gate: that judges them; None for none.
        seed: of the data set.
    """

    cascade: Cascade
    request: Request
    gate: CopyGate | None
    seed: int

    def __call__(self, number: int) -> Drawn:
        """Case `number`."""
        case = self.cascade.draw(self.request, number, seed=self.seed)
        verdict = None if self.gate is None else self.gate.check(case.image)
        return Drawn(case if verdict is None or verdict.passed else None, verdict)


class Draws(Protocol):
    """Cases of a seed, for as long as it is open."""

    def __enter__(self) -> Draws:
        """Begin."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End; what is being drawn is given up."""

    def foresee(self, numbers: Iterable[int]) -> None:
        """These will be taken, in this order, whatever the gate says of them; some may be begun."""

    def take(self, number: int) -> Drawn:
        """Case `number`, drawn now or waited for."""


def draws(drawer: Drawer, *, workers: int, threads: int) -> Draws:
    """Draws by this process, or by `workers` others, each with so many threads."""
    return _Here(drawer, threads) if workers == 1 else _Beside(drawer, workers, threads)


class _Here:
    def __init__(self, drawer: Drawer, threads: int) -> None:
        self._drawer, self._threads, self._before = drawer, threads, torch.get_num_threads()

    def __enter__(self) -> _Here:
        torch.set_num_threads(self._threads)
        return self

    def __exit__(self, *_: object) -> None:
        torch.set_num_threads(self._before)

    def foresee(self, numbers: Iterable[int]) -> None:
        """Nothing is begun before it is taken."""

    def take(self, number: int) -> Drawn:
        """Case `number`, drawn now."""
        return self._drawer(number)


class _Beside:
    """Processes that end with this one, however it ends; no more cases lie ready than there are processes.

    Raises:
        OutputError: ``E-WORKERS``, one of them was ended from outside.
    """

    def __init__(self, drawer: Drawer, workers: int, threads: int) -> None:
        self._workers, self._others = workers, set(active_children())
        self._asked: dict[int, Future[Drawn]] = {}
        self._pool = ProcessPoolExecutor(
            workers, get_context("spawn"), initializer=_begin, initargs=(drawer, getpid(), threads)
        )

    def __enter__(self) -> _Beside:
        return self

    def __exit__(self, *_: object) -> None:
        for process in set(active_children()) - self._others:
            process.terminate()
        self._pool.shutdown(cancel_futures=True)

    def foresee(self, numbers: Iterable[int]) -> None:
        """As many are begun as leave each process one to draw and one that waits."""
        for number in numbers:
            if len(self._asked) >= 2 * self._workers:
                return
            self._ask(number)

    def take(self, number: int) -> Drawn:
        """Case `number`, waited for."""
        try:
            self._ask(number)
            return self._asked.pop(number).result()
        except BrokenProcessPool as error:
            mend = "Use fewer workers, if memory ran out; the same command goes on where it stopped."
            raise OutputError("E-WORKERS", "a process that drew was ended from outside", mend=mend) from error

    def _ask(self, number: int) -> None:
        if number not in self._asked:
            self._asked[number] = self._pool.submit(_draw, number)


_drawer: Drawer | None = None
"""Of a process that draws beside others."""


def _begin(drawer: Drawer, parent: int, threads: int) -> None:
    """The first thing that such a process does."""
    global _drawer
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is for the process that waits
    if not tie(parent):
        raise SystemExit
    torch.set_num_threads(threads)
    _drawer = drawer


def _draw(number: int) -> Drawn:
    assert _drawer is not None
    return _drawer(number)
