"""What the machinery of a batch costs without any computing: manifest, leases, records and status at many cases.

    python validation/batch_scale.py --cases 10000            # everything, with records put on the disk (fsync)
    python validation/batch_scale.py --cases 1000000 --no-sync  # fsync does nothing: what Python and the names cost
    python validation/batch_scale.py --cases 1000000 --settle 50000 --no-sync  # the rest get records without a lease

Each case is settled by a task that writes nothing of its own but points to one shared result file. Prints seconds for
1,000 cases, memory, the time of `status`, of what a command does before its first case and after its last, and of a
second run that verifies everything; each figure as soon as it is known, as one JSON object a line.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import shutil
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from medidiff.batch.cases import KIND, Case
from medidiff.batch.job import Batch, Job
from medidiff.batch.metrics import cohort
from medidiff.batch.records import Basis, Done, record_bytes
from medidiff.batch.shards import shard
from medidiff.batch.status import Pace, status_of, write_report
from medidiff.batch.worker import Outcome, Worker

DIGEST = hashlib.sha256(b"input").hexdigest()


class Stub:
    """A task that costs nothing."""

    def __init__(self, root: Path) -> None:
        self.file = root / "shared.bin"
        self.file.write_bytes(b"result")

    def fingerprint(self, case: Case) -> str:
        """Always the same."""
        return DIGEST

    def run(self, case: Case) -> Outcome:
        """Always the same file."""
        return Outcome(DIGEST, "stub", {"mean": self.file}, (self.file,), {"noise_level": 1.0})


def cases(count: int) -> Iterator[Case]:
    """As many cases as asked for, with paths of a usual length."""
    for number in range(count):
        name = f"sub-{number:07d}_ses-1_T1w-{number:016x}"
        place = f"/data/archive/2026/sub-{number:07d}/ses-1/anat/sub-{number:07d}_ses-1_T1w.nii.gz"
        yield Case(name, place, 0, f"sub-{number:07d}/ses-1/anat/T1w_{KIND}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--settle", type=int, help="have a worker settle so many; all when left out")
    parser.add_argument("--no-sync", action="store_true", help="turn fsync off")
    parser.add_argument("--folder", type=Path, help="where; the system's temporary folder when left out")
    typed = parser.parse_args()
    home = Path(tempfile.mkdtemp(dir=typed.folder))
    if typed.no_sync:
        os.fsync = lambda handle: None
    try:
        measure(home, typed.cases, typed.settle or typed.cases, synced=not typed.no_sync)
    finally:
        shutil.rmtree(home)


def measure(home: Path, count: int, settle: int, *, synced: bool) -> None:
    """Make the manifest, settle cases, count them, end the run, verify them again."""
    root = home / "out"
    tell(cases=count, settled=settle, fsync=synced, load=os.getloadavg()[0])
    job = Job("denoise", "/data", {"noise": None}, {"stub": "0" * 64}, 0)
    before = cpu()
    Batch.begin(root, job, lambda: cases(count))
    tell(manifest_s_per_1000=per_thousand(before, count))
    tell(manifest_mb=round((root / ".medidiff" / "manifest.jsonl").stat().st_size / 1e6, 1), peak_mb=peak())
    before = cpu()
    batch = Batch(root)
    tell(open_s=since(before))
    started, before = time.monotonic(), cpu()
    Worker(batch, Stub(root), since_ns=batch.now_ns()).work(range(settle))
    tell(settle_cpu_s_per_1000=per_thousand(before, settle))
    tell(settle_wall_s_per_1000=round(1000 * (time.monotonic() - started) / settle, 3), peak_mb=peak())
    before = cpu()
    for case in islice(cases(count), settle, None):
        place = root / ".medidiff" / "done" / shard(case.name)
        place.mkdir(exist_ok=True)
        (place / f"{case.name}.json").write_bytes(record_bytes(record_of(batch, case)))
    tell(other_records_cpu_s=since(before))
    started, before = time.monotonic(), cpu()
    status = status_of(batch)
    tell(status_cpu_s=since(before), status_wall_s=round(time.monotonic() - started, 2), peak_mb=peak())
    assert status.done == count
    before = cpu()
    batch.sweep()
    tell(sweep_cpu_s=since(before))
    before = cpu()
    cohort(batch)
    write_report(batch, status, Pace(count), about={})
    tell(report_cpu_s=since(before), peak_mb=peak())
    began = batch.now_ns()
    before = cpu()
    Worker(batch, Stub(root), since_ns=began).work(range(settle))
    tell(verify_cpu_s_per_1000=per_thousand(before, settle))
    before = cpu()
    Worker(batch, Stub(root), since_ns=began).work(range(settle))
    tell(pass_over_settled_cpu_s_per_1000=per_thousand(before, settle))
    tell(largest_folder=max(len(list(folder.iterdir())) for folder in (root / ".medidiff" / "done").iterdir()))
    tell(records_mb=round(4096 * count / 1e6, 1), peak_mb=peak(), load=os.getloadavg()[0])


def record_of(batch: Batch, case: Case) -> Done:
    """What a worker would have written."""
    basis = Basis(DIGEST, batch.job.config_sha256, "stub", "0" * 64)
    return Done(case.name, basis, {"mean": "shared.bin"}, {"shared.bin": DIGEST}, {"noise_level": 1.0})


def tell(**figures: float) -> None:
    """Print what is known."""
    print(json.dumps(figures), flush=True)


def peak() -> float:
    """Most memory that this process ever had, in MB."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)


def cpu() -> float:
    """Seconds of this process, its own and the system's for it: what other work on the machine does not change."""
    return time.process_time()


def since(before: float) -> float:
    """CPU-seconds since a moment."""
    return round(cpu() - before, 2)


def per_thousand(before: float, count: int) -> float:
    """CPU-seconds for 1,000 cases since a moment."""
    return round(1000 * (cpu() - before) / count, 3)


if __name__ == "__main__":
    main()
