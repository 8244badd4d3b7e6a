"""A batch under faults, at full size: every moment at which it can be killed, and a thousand scans in one process.

    python validation/faults.py kills              # before and after each step that reaches the disk
    python validation/faults.py refusals           # 200 steps that the system refuses
    python validation/faults.py full               # files that may not grow beyond 20 sizes
    python validation/faults.py full --tmpfs       # a real small disk, full at 20 sizes; root alone can mount one
    python validation/faults.py crowd --rounds 20  # 8 processes that begin and work on one output
    python validation/faults.py soak --scans 1000  # memory, handles and throughput of one worker on real small scans
    python validation/faults.py soak --scans 3000 --broken 0.05  # of which one in twenty is broken
    python validation/faults.py stores             # MLflow stores that are down, locked, read-only or slow

The first four use a task that costs nothing; see tests/batch_faults.py. The soak denoises scans of 16 voxels a side
with an untrained network: what is measured is the machinery, not the network.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import torch

from medidiff.batch.job import Batch, Job
from medidiff.batch.metrics import Waiting, put, waiting
from medidiff.batch.sources import cases_of
from medidiff.batch.status import status_of
from medidiff.batch.worker import Worker
from medidiff.cli.batch_input import Input
from medidiff.cli.batch_status import sync
from medidiff.cli.batch_task import RestoreTask, options_of
from medidiff.cli.batch_verbs import BatchDenoise
from medidiff.errors import MedidiffError
from medidiff.io import ReadOptions, write
from medidiff.prior import Card, Prior, build_denoiser, prior_sha256
from medidiff.volume import Geometry, Volume
from tests.batch_cases import begin, make_inputs, tree
from tests.batch_faults import (
    ERRORS,
    STEPS,
    WRITING,
    counted,
    faults_after,
    faults_of_a_crowd,
    full_at,
    killed_at,
    on_a_small_disk,
    refused_at,
    run,
)

SIDE = 16
SIZES = 20


def main() -> int:
    """Run one study; exit code 1 when a promise was not kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=("kills", "refusals", "full", "crowd", "soak", "stores"))
    parser.add_argument("--tmpfs", action="store_true", help="fill a real small disk")
    parser.add_argument("--rounds", type=int, default=20, help="of the crowd")
    parser.add_argument("--scans", type=int, default=1000, help="of the soak")
    parser.add_argument("--broken", type=float, default=0.0, metavar="SHARE", help="of the scans of the soak")
    typed = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if typed.study == "soak":
            return soak(Path(folder), typed.scans, typed.broken)
        if typed.study == "stores":
            return stores(Path(folder))
        if typed.study == "crowd":
            return crowd(Path(folder), typed.rounds)
        if typed.tmpfs:
            return small_disks(Path(folder))
        return moments(Path(folder), typed.study)


def moments(home: Path, study: str) -> int:
    """Break a run at each moment of a study, go on, and say what was lost."""
    cases = make_inputs(home / "in", 3, broken=[1])
    run(home / "whole", cases)
    whole = tree(home / "whole")
    names = STEPS if study == "kills" else WRITING
    count = counted(lambda: run(home / "counted", cases), names=names, twice=study == "kills")
    if study == "kills":
        tries = [(n, lambda root, n=n: killed_at(root, cases, n)) for n in range(1, count + 1)]
    elif study == "refusals":
        tries = [
            (n, lambda root, n=n: refused_at(root, cases, 1 + n % count, ERRORS[n // count % len(ERRORS)]))
            for n in range(200)
        ]
    else:
        tries = [(size, lambda root, size=size: full_at(root, cases, size)) for size in range(1, 3201, 160)]
    ends: Counter[int] = Counter()
    faults: list[str] = []
    for number, attempt in tries:
        root = home / "out"
        ends[attempt(root)] += 1
        faults += [f"at {number}: {fault}" for fault in faults_after(root, cases, whole, home / "log")]
        shutil.rmtree(root)
    told = {"study": study, "moments": len(tries), "ends": dict(ends), "faults": len(faults), "first": faults[:5]}
    print(json.dumps(told, indent=2))
    return 1 if faults else 0


def crowd(home: Path, rounds: int) -> int:
    """Eight processes begin one batch at once, again and again: each case once, and the tree of an unbroken run."""
    cases = make_inputs(home / "in", 24)
    run(home / "whole", cases)
    whole = tree(home / "whole")
    faults: list[str] = []
    for turn in range(rounds):
        root, log = home / f"out-{turn}", home / f"log-{turn}"
        faults += [f"in round {turn}: {fault}" for fault in faults_of_a_crowd(root, cases, whole, log)]
        shutil.rmtree(root)
    told = {"study": "crowd", "processes": 8, "cases": len(cases), "rounds": rounds}
    print(json.dumps(told | {"faults": len(faults), "first": faults[:5]}, indent=2))
    return 1 if faults else 0


def small_disks(home: Path) -> int:
    """Fill a real disk at 20 sizes, from one page to a little more than what a whole run needs."""
    cases = make_inputs(home / "in", 8, broken=[1])
    run(home / "whole", cases)
    whole = tree(home / "whole")
    pages = 12 + sum(1 + len(content) // 4096 for content in whole.values())  # 12: journal, leases, temporaries
    ends: Counter[int] = Counter()
    faults: list[str] = []
    sizes = sorted({4 * (1 + round(k * pages / (SIZES - 1))) for k in range(SIZES)})
    for kib in sizes:
        end, wrong = on_a_small_disk(home / "disk", cases, whole, home / "log", kib)
        ends[end] += 1
        faults += [f"with {kib} KiB: {fault}" for fault in wrong]
        faults += [f"with {kib} KiB: the run ended with {end}"] * (end not in (0, 3))
    told = {"study": "full --tmpfs", "sizes_kib": sizes, "ends": dict(ends)}
    print(json.dumps(told | {"faults": len(faults), "first": faults[:5]}, indent=2))
    return 1 if faults else 0


def soak(home: Path, count: int, share: float) -> int:
    """One worker, many small scans, a share of them broken: does it grow, does it keep handles, does it slow down?"""
    torch.set_num_threads(1)
    card = tiny_prior(home / "prior")
    chance = np.random.default_rng(0)
    for number in range(count):
        data = (chance.random((SIDE,) * 3, np.float32) * 50 + 500).astype(np.float32)
        write(Volume(data, Geometry.regular((SIDE,) * 3), "MR"), home / "in" / f"scan-{number:04d}.nii.gz")
    numbers = range(0, count, round(1 / share)) if share else range(0)
    broken = [home / "in" / f"scan-{number:04d}.nii.gz" for number in numbers]
    for path in broken:
        path.write_bytes(path.read_bytes()[:-100])
    verb = BatchDenoise(source=Input(str(home / "in")), out=home / "out", prior=str(card), noise_level=20.0)
    job = Job("denoise", str(home / "in"), options_of(verb), {"tiny": prior_sha256(card)}, 0)
    batch = Batch.begin(home / "out", job, lambda: cases_of(home / "in", ReadOptions()))
    seen: list[tuple[float, float, int]] = []

    def note(_: object) -> None:
        seen.append((time.process_time(), memory(), len(list(Path("/proc/self/fd").iterdir()))))

    task = RestoreTask(batch.job, batch.root)
    Worker(batch, task, since_ns=batch.now_ns(), told=note).work(range(count))
    first, last = seen[min(99, count // 2)], seen[-1]
    hundred = min(100, count // 4)
    begin_s, end_s = seen[hundred + 9][0] - seen[9][0], seen[-1][0] - seen[-1 - hundred][0]
    told = {
        "scans": count,
        "done": status_of(batch).done,
        "refused": dict(status_of(batch).refused),
        "memory_growth_mb": round(last[1] - first[1], 2),
        "memory_growth_from_case": min(99, count // 2) + 1,
        "handles_first_last": [first[2], last[2]],
        "cpu_seconds_first_last_hundred": [round(begin_s, 2), round(end_s, 2)],
        "throughput_ratio": round(begin_s / end_s, 3),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
    }
    print(json.dumps(told, indent=2))
    settled = told["done"] == count - len(broken) and sum(status_of(batch).refused.values()) == len(broken)
    kept = settled and last[1] - first[1] <= 10 and first[2] == last[2]
    return 0 if kept else 1


def memory() -> float:
    """Resident memory of this process in MB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 1e6


def tiny_prior(folder: Path) -> Path:
    """Card of an untrained network."""
    about = Card("tiny", "untrained", "MR", ("T1w",), (4, 8), (1, 1, 1), 0.35, 0.12, (0.004, 0.25), 0, "CC0", (), "")
    torch.manual_seed(0)
    return Prior(build_denoiser(about), about).save(folder)


def stores(home: Path) -> int:
    """Hand figures to stores that do not take them, then to one that does."""
    os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "1"
    batch = begin(home / "out", make_inputs(home / "in", 2))
    good = f"sqlite:///{home / 'good.db'}"
    put(batch, 1, Waiting("batch-denoise", {"task": "denoise"}, {"done": 2.0}))
    first = sync(batch, good)
    locked = home / "locked.db"
    shutil.copyfile(home / "good.db", locked)
    lock = sqlite3.connect(locked)
    lock.execute("BEGIN EXCLUSIVE")
    blocked = home / "blocked"
    blocked.write_text("a file where a folder would be")
    bad = {
        "down": "http://127.0.0.1:9",
        "locked": f"sqlite:///{locked}",
        "no place": f"sqlite:///{blocked / 'mlflow.db'}",
        "full": "sqlite:////dev/full",
    }
    told: dict[str, object] = {"taken at first": first}
    put(batch, 2, Waiting("batch-denoise", {"task": "denoise"}, {"done": 2.0}))
    for name, uri in bad.items():
        begin_s = time.monotonic()
        try:
            sync(batch, uri)
            told[name] = "taken"
        except MedidiffError as error:
            told[name] = f"{error.code} after {time.monotonic() - begin_s:.0f} s; {len(list(waiting(batch)))} waiting"
    lock.close()
    told["taken in the end"] = sync(batch, good)
    print(json.dumps(told, indent=2))
    sys.stdout.flush()
    kept = told["taken in the end"] == 1 and all("1 waiting" in str(told[name]) for name in bad)
    os._exit(0 if kept else 1)  # a thread may still wait for a store


if __name__ == "__main__":
    raise SystemExit(main())
