"""What two workers do against one, and what the machinery of a batch costs beside the computing.

    python validation/batch_throughput.py                                    # some minutes of two free cores
    python validation/batch_throughput.py --cases 8 --side 96 --rounds 5    # the size that docs/scaling.md names

*Throughput*: ``medidiff batch denoise`` with one and with two workers of one thread each, in turn, as often as there
are rounds; cases an hour from the start of the first case to the end of the last, so that starting Python does not
count. The ratio is that of one round. *Overhead*: one worker in this process; the time outside reading, restoring and
writing the scan (lease, hashes, records, fsync, journal) over the time inside, as wall and as processor time. The scans
are noisy cubes of the bundled head. On a machine that does other things only the processor times mean anything: the
load is printed, and a run that began above half a busy core is marked as not to be used.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import numpy as np
import torch

import medidiff.cli as cli
from medidiff import io
from medidiff.batch.cases import Case
from medidiff.batch.job import Batch
from medidiff.batch.worker import Outcome, Worker
from medidiff.cli.batch_task import RestoreTask
from medidiff.volume import Geometry, Volume

SAMPLE = Path(io.__file__).parents[1] / "sample" / "t1-brain.nii.gz"
NOISE = 0.09  # of the brightest tissue
MOST_LOAD = 0.5


def make_scans(folder: Path, count: int, side: int) -> None:
    """Noisy cubes of the bundled head, each of its own place and noise."""
    head = io.read(SAMPLE)
    room = [max(size - side, 0) for size in head.geometry.shape]
    level = NOISE * float(np.quantile(head.data, 0.999))
    for number in range(count):
        chance = np.random.default_rng(number)
        first = [int(chance.integers(free + 1)) for free in room]
        cube = head.data[0][tuple(slice(begin, begin + side) for begin in first)].astype(np.float64)
        noisy = np.hypot(cube + chance.normal(0, level, cube.shape), chance.normal(0, level, cube.shape))
        grid = Geometry.regular(cube.shape, spacing_mm=tuple(head.geometry.spacing_mm))
        io.write(Volume(noisy.astype(np.float32), grid, modality="MR"), folder / f"scan-{number:03d}.nii.gz")


def batch(scans: Path, out: Path, workers: int) -> float:
    """Cases an hour."""
    words = ["denoise", str(scans), str(out), "--workers", str(workers), "--threads", "1", "--device", "cpu", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "medidiff", "batch", *words], capture_output=True, text=True, check=True
    )
    return float(json.loads(done.stdout)["run"]["cases_per_hour"])


class Timed(RestoreTask):
    """The usual task, and how long it takes."""

    wall_s = cpu_s = 0.0

    def run(self, case: Case) -> Outcome:
        """See `RestoreTask`."""
        wall, cpu = time.monotonic(), time.process_time()
        try:
            return super().run(case)
        finally:
            self.wall_s += time.monotonic() - wall
            self.cpu_s += time.process_time() - cpu


def overhead(scans: Path, out: Path, *more: str) -> dict[str, float]:
    """Shares of the time inside the task that are spent outside it, with the priors loaded before.

    Args:
        scans: folder of them.
        out: of the results.
        more: options of ``medidiff batch denoise``.
    """
    words = ["batch", "denoise", str(scans), str(out), "--workers", "1", "--device", "cpu", "-num_parts", "1000000"]
    with redirect_stdout(StringIO()):
        cli.main([*words, *more])  # the first case
    there = Batch(out)
    task = Timed(there.job, there.root, device="cpu")
    task.run(there.manifest[0])
    task.wall_s = task.cpu_s = 0.0
    wall, cpu = time.monotonic(), time.process_time()
    settled = Worker(there, task, since_ns=there.now_ns()).work(range(1, len(there.manifest)))
    wall, cpu = time.monotonic() - wall, time.process_time() - cpu
    assert settled == len(there.manifest) - 1
    return {
        "seconds_a_case": round(task.wall_s / settled, 3),
        "overhead_wall_percent": round(100 * (wall / task.wall_s - 1), 2),
        "overhead_cpu_percent": round(100 * (cpu / task.cpu_s - 1), 2),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=12)
    parser.add_argument("--side", type=int, default=96, help="of each cube, in voxels")
    parser.add_argument("--rounds", type=int, default=3, help="0 for the overhead alone")
    typed = parser.parse_args()
    load = os.getloadavg()[0]
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        (home / "scans").mkdir()
        make_scans(home / "scans", typed.cases, typed.side)
        told: dict[str, object] = {"cases": typed.cases, "side": typed.side, "cores": len(os.sched_getaffinity(0))}
        told |= {"load_before": round(load, 2), "not_to_be_used": load > MOST_LOAD}
        told |= overhead(home / "scans", home / "alone")
        rates = [[batch(home / "scans", home / f"{n}-{w}", w) for w in (1, 2)] for n in range(typed.rounds)]
        ratios = sorted(two / one for one, two in rates)
        told["cases_an_hour"] = [[round(rate, 1) for rate in pair] for pair in rates]
        if ratios:
            told["two_against_one"] = round(statistics.median(ratios), 3)
            told["lowest_and_highest"] = [round(ratios[0], 3), round(ratios[-1], 3)]
    print(json.dumps(told, indent=2))


if __name__ == "__main__":
    main()
