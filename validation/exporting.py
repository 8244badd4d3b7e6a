"""Measure what writing a synthetic data set takes: `python validation/exporting.py --help`.

Invented heads in voxels of 1 mm (an ellipsoid of three tissues with 3 % noise; noise packs badly, so files are large)
are written and verified in a process of their own for each format and count. Processor time is that of writing, or of
verifying, alone; peak memory that of the whole process, two arrays of the head itself among it. Where memory did not
grow with the count, it is the same for both.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medidiff.case import TISSUES, Case
from medidiff.export import FORMATS, About, open_data_set, verify_data_set
from medidiff.version import __version__
from medidiff.volume import Geometry, Provenance, Volume

_MADE = Provenance("validate", __version__, synthetic=True)


@dataclass(frozen=True, slots=True)
class Cost:
    """What one data set took.

    Args:
        format: of the data set.
        cases: in it.
        write_s: processor seconds for each case.
        verify_s: likewise, to verify it.
        mib: size of the files of each case.
        peak_mib: largest resident set of the process.
    """

    format: str
    cases: int
    write_s: float
    verify_s: float
    mib: float
    peak_mib: float


def head(shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """(I, J, K) float32 brightness and uint8 labels of an ellipsoid."""
    distance = np.zeros(shape, np.float32)
    for axis, size in enumerate(shape):
        place = (np.arange(size, dtype=np.float32) - (size - 1) / 2) / (size / 2)
        distance += np.expand_dims(place**2, tuple({0, 1, 2} - {axis}))
    labels = np.select([distance < 0.2, distance < 0.5, distance < 0.8], [3, 2, 1], 0).astype(np.uint8)
    return np.array([0, 0.3, 0.7, 1], np.float32)[labels], labels


def measured(format: str, cases: int, shape: tuple[int, int, int], folder: Path) -> Cost:
    """Write one data set and verify it; the peak is that of the process so far.

    Raises:
        InputError: it does not verify.
    """
    about = About(
        title="Cost", count=cases, seed=0, licence="CC0-1.0", method="Not drawn: ellipsoids.", label_names=TISSUES
    )
    grid = Geometry.regular(shape)
    image, labels = head(shape)
    writer, spent = open_data_set(folder, format, about), 0.0
    for number in range(cases):
        noise = np.random.default_rng(number).standard_normal(shape, dtype=np.float32)
        noise *= np.float32(0.03) * image
        case = Case(number, Volume(image + noise, grid, "MR"), _MADE, Volume(labels, grid, "MR"))
        start = time.process_time()
        writer.add(case)
        spent += time.process_time() - start
    start = time.process_time()
    writer.close(None, override="a measurement")
    spent += time.process_time() - start
    start = time.process_time()
    verify_data_set(folder).refuse(folder.name)
    checked = time.process_time() - start
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return Cost(format, cases, spent / cases, checked / cases, size / cases / 2**20, peak_mib())


def peak_mib() -> float:
    """Largest resident set of this process (Linux); `getrusage` counts that of the one that started it as well."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:"))


def apart(format: str, cases: int, shape: tuple[int, int, int]) -> Cost:
    """The same in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["--one", format, str(cases), folder, "--shape", *map(str, shape)]
        command = [sys.executable, str(Path(__file__).resolve()), *words]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return Cost(**json.loads(done.stdout))


def markdown(costs: Sequence[Cost]) -> str:
    """The table."""
    lines = [
        "| format | cases | write, CPU s a case | verify, CPU s a case | MiB a case | peak MiB |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    lines += [
        f"| {c.format} | {c.cases} | {c.write_s:.2f} | {c.verify_s:.2f} | {c.mib:.1f} | {c.peak_mib:.0f} |"
        for c in costs
    ]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=FORMATS)
    parser.add_argument("--counts", nargs="+", type=int, default=(3, 12))
    parser.add_argument("--shape", nargs=3, type=int, default=(160, 192, 160))
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    asked = parser.parse_args(argv)
    shape = (asked.shape[0], asked.shape[1], asked.shape[2])
    if asked.one:
        format, cases, folder = asked.one
        cost = measured(format, int(cases), shape, Path(folder) / "set")
        print(json.dumps({name: getattr(cost, name) for name in Cost.__slots__}))
        return
    print(markdown([apart(format, count, shape) for format in asked.formats for count in asked.counts]))


if __name__ == "__main__":
    main()
