"""Faults at chosen moments: a process that is killed, or whose system refuses, at the n-th step that reaches the disk.

The steps are counted by wrappers round the functions of `os`, in a copy of the process that ends with the run.
"""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from medidiff.batch.job import Batch
from medidiff.errors import OutputError
from tests.batch_cases import begin, ended, forked, tree, work

STEPS = ("link", "replace", "fsync", "unlink", "mkdir", "utime")
WRITING = ("link", "replace", "fsync")
ERRORS = (errno.EIO, errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.ESTALE)


@contextmanager
def at_each(names: tuple[str, ...], before: Callable[[], None], after: Callable[[], None]) -> Iterator[None]:
    """Call something before and after each step."""
    kept = {name: getattr(os, name) for name in names}

    def wrapped(function: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object, **more: object) -> object:
            before()
            made = function(*args, **more)
            after()
            return made

        return call

    for name, function in kept.items():
        setattr(os, name, wrapped(function))
    try:
        yield
    finally:
        for name, function in kept.items():
            setattr(os, name, function)


class Moments:
    """Counts moments, and does something at one of them."""

    def __init__(self, at: int, do: Callable[[], None]) -> None:
        self.at, self.do, self.count = at, do, 0

    def __call__(self) -> None:
        self.count += 1
        if self.count == self.at:
            self.do()


def counted(action: Callable[[], object], *, names: tuple[str, ...], twice: bool) -> int:
    """How many moments a run has: one before each step, and with `twice` one after it."""
    moments = Moments(0, lambda: None)
    with at_each(names, moments, moments if twice else lambda: None):
        action()
    return moments.count


def run(root: Path, cases: list, log: Path | None = None) -> Batch:
    """Begin, or go on, and settle all."""
    batch = begin(root, cases)
    batch.sweep()
    work(batch, log)
    return batch


def killed_at(root: Path, cases: list, moment: int) -> int:
    """A run that is killed at a moment; how the process ended."""

    def attempt() -> None:
        kill = Moments(moment, lambda: os.kill(os.getpid(), signal.SIGKILL))
        with at_each(STEPS, kill, kill):
            run(root, cases)

    return ended(forked(attempt))


def refused_at(root: Path, cases: list, moment: int, code: int) -> int:
    """A run whose system refuses one step: 0 when it went on all the same, 3 when it ended with `OutputError`."""

    def refuse() -> None:
        raise OSError(code, os.strerror(code))

    def attempt() -> None:
        with at_each(WRITING, Moments(moment, refuse), lambda: None):
            try:
                run(root, cases)
            except OutputError:
                os._exit(3)

    return ended(forked(attempt))


def full_at(root: Path, cases: list, size: int) -> int:
    """A run that can write no file larger than so many bytes; as `refused_at`."""

    def attempt() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
        try:
            run(root, cases)
        except OutputError as error:
            os._exit(3 if error.code == "E-DISK" else 4)

    return ended(forked(attempt))


def faults_after(root: Path, cases: list, whole: dict[str, bytes], log: Path) -> list[str]:
    """What is wrong when a broken run is gone on with: nothing, if the batch keeps its promises.

    A case that had a record before is not done again, no file of a result is corrupt at any time, and the tree is in
    the end that of an unbroken run.
    """
    faults = []
    finished = set()
    if Batch.is_there(root):
        finished = {name for done, refused in Batch(root).records.names() for name in done | refused}
    for name, content in tree(root).items():
        if not name.startswith(".medidiff") and ".medidiff-" not in name and content != whole[name]:
            faults.append(f"{name} is corrupt after the fault")
    log.unlink(missing_ok=True)
    run(root, cases, log)
    again = set(log.read_text().split()) if log.exists() else set()
    faults += [f"{name} was finished and done again" for name in sorted(finished & again)]
    after = tree(root)
    faults += [f"{name} is missing" for name in whole.keys() - after.keys()]
    faults += [f"{name} is left over" for name in after.keys() - whole.keys()]
    faults += [f"{name} differs" for name in whole.keys() & after.keys() if whole[name] != after[name]]
    return faults


def faults_of_a_crowd(root: Path, cases: list, whole: dict[str, bytes], log: Path, processes: int = 8) -> list[str]:
    """What is wrong when several processes begin one batch at once and work on it: nothing, if leases hold."""
    crew = [forked(lambda: work(begin(root, cases), log)) for _ in range(processes)]
    faults = [f"a process ended with {code}" for code in map(ended, crew) if code]
    done = Counter(log.read_text().split())
    faults += [f"{case.name} was done more than once" for case in cases if done[case.name] > 1]
    faults += [f"{case.name} was not done" for case in cases if not done[case.name]]
    after = tree(root)
    return faults + [f"{name} differs" for name in whole.keys() | after.keys() if whole.get(name) != after.get(name)]


@contextmanager
def small_disk(place: Path, kib: int) -> Iterator[Callable[[], None]]:
    """A real file system of a few KiB (tmpfs), which only root can mount; yields what makes it large enough.

    Args:
        place: where; made, and gone afterwards.
        kib: its size, a multiple of a page of 4 KiB.
    """
    place.mkdir()
    _ran("mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(place))
    try:
        yield lambda: _ran("mount", "-o", "remount,size=64m", str(place))
    finally:
        _ran("umount", str(place))
        place.rmdir()


def _ran(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True)


def on_a_small_disk(place: Path, cases: list, whole: dict[str, bytes], log: Path, kib: int) -> tuple[int, list[str]]:
    """A run on a disk that fills up, then made larger and gone on with: how the run ended, and what is wrong."""

    def attempt() -> None:
        try:
            run(place / "out", cases)
        except OutputError as error:
            os._exit(3 if error.code == "E-DISK" else 4)

    with small_disk(place, kib) as enlarge:
        end = ended(forked(attempt))
        enlarge()
        return end, faults_after(place / "out", cases, whole, log)
