"""Two hundred scans in one worker: it does not grow and keeps nothing open. ``validation/faults.py soak`` does more.

Each is measured in a process of its own: one that ran other tests before has freed memory to fill before it grows.
"""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from medidiff.batch.job import Batch, Job
from medidiff.batch.sources import cases_of
from medidiff.batch.status import status_of
from medidiff.batch.worker import Worker
from medidiff.cli.batch_input import Input
from medidiff.cli.batch_task import RestoreTask, options_of
from medidiff.cli.batch_verbs import BatchDenoise
from medidiff.io import ReadOptions, write
from medidiff.prior import prior_sha256
from medidiff.volume import Geometry, Volume

SCANS, WARM, SIDE = 200, 50, 16
MOST_GROWTH_MB = 10


def memory_mb() -> float:
    """Resident memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 1e6


def handles() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


class Leaking(RestoreTask):
    """A broken instance: it keeps a file open for each case, and a megabyte of memory."""

    kept: list[object]

    def run(self, case):
        self.kept += [Path(case.input).open("rb"), np.ones(2**17)]  # noqa: SIM115
        return super().run(case)


def soaked(*what: object) -> tuple[int, list[float], list[int]]:
    """`settled`, in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(settled, *what).result()


def settled(home: Path, card: str, kind: type[RestoreTask], count: int) -> tuple[int, list[float], list[int]]:
    """Settle scans: how many are done, and memory and open files after each of them."""
    chance = np.random.default_rng(0)
    for number in range(count):
        data = chance.random((SIDE,) * 3, np.float32) * 50 + 500
        write(Volume(data, Geometry.regular((SIDE,) * 3), "MR"), home / "in" / f"scan-{number:04d}.nii.gz")
    verb = BatchDenoise(source=Input(str(home / "in")), out=home / "out", prior=card, noise_level=20.0)
    job = Job("denoise", str(home / "in"), options_of(verb), {"tiny": prior_sha256(card)}, 0)
    batch = Batch.begin(home / "out", job, lambda: cases_of(home / "in", ReadOptions()))
    memory: list[float] = []
    files: list[int] = []

    def note(_: object) -> None:
        memory.append(memory_mb())
        files.append(handles())

    task = kind(batch.job, batch.root)
    task.kept = []
    Worker(batch, task, since_ns=batch.now_ns(), told=note).work(range(count))
    for each in task.kept[::2]:
        each.close()
    return status_of(batch).done, memory, files


def test_two_hundred_scans_leave_nothing_behind(tmp_path, card):
    done, memory, files = soaked(tmp_path, card, RestoreTask, SCANS)
    assert done == SCANS
    assert memory[-1] - memory[WARM] <= MOST_GROWTH_MB
    assert files[-1] == files[0]


def test_a_task_that_keeps_what_it_opens_would_be_found_out(tmp_path, card):
    _, memory, files = soaked(tmp_path, card, Leaking, 30)
    assert files[-1] > files[0]
    assert memory[-1] - memory[5] > MOST_GROWTH_MB
