"""How long scanning and reading a DICOM series take, beside highdicom: `python validation/reading_speed.py --help`.

A CT series is made on disk (150 slices of 512x512, explicit VR, uncompressed) and read once to warm the disk's cache.
Then medidiff scans it (`find`: every header), medidiff reads it (scan, checks, SHA-256 of every file, pixels), and
highdicom reads it (`dcmread` of every file, `get_volume_from_series`), in turn; the best time of each counts.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import highdicom
import numpy as np
import pydicom
from badinputs import build

import medidiff.io as mio


def by_highdicom(folder: Path) -> object:
    """The volume as highdicom gives it."""
    return highdicom.get_volume_from_series([pydicom.dcmread(file) for file in sorted(folder.iterdir())])


def best_of(count: int, *tasks: Callable[[], object]) -> list[float]:
    """Shortest time of each task in s, the tasks taking turns."""
    times = np.full((count, len(tasks)), np.inf)
    for turn in range(count):
        for n, task in enumerate(tasks):
            began = time.perf_counter()
            task()
            times[turn, n] = time.perf_counter() - began
    return [float(t) for t in times.min(axis=0)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and print the figures."""
    parser = argparse.ArgumentParser(prog="reading_speed", description=__doc__)
    parser.add_argument("--slices", type=int, default=150, help="slices of the series")
    parser.add_argument("--side", type=int, default=512, help="rows and columns")
    parser.add_argument("--times", type=int, default=5, help="turns, of which the best counts")
    options = parser.parse_args(arguments)
    plan = build.Plan(shape=(options.side, options.side, options.slices), bias=0)
    with tempfile.TemporaryDirectory() as name:
        folder = build.write(Path(name), build.slices(plan))
        mio.read(folder)
        scan, ours, theirs = best_of(
            options.times, lambda: mio.find(folder), lambda: mio.read(folder), lambda: by_highdicom(folder)
        )
    print(f"{options.slices} slices of {options.side}x{options.side}, best of {options.times}, {os.cpu_count()} cores")
    print(f"scan   {1e3 * scan / options.slices:.2f} ms a slice")
    print(f"read   medidiff {ours:.2f} s, highdicom {version('highdicom')} {theirs:.2f} s: {ours / theirs:.2f} times")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
