"""Measure speed and memory side by side: `python validation/speed.py --help`.

One noisy head is written to disk; each method denoises it in a process of its own, from the file to a file, told the
same noise level, with the same number of threads. Wall time, processor time and peak memory are those of the whole
process (start, imports and files included); ratios are to medidiff in the same run. DIPY's non-local means runs in its
default setting. BM4D takes minutes for a whole head, and its licence is non-commercial: it is run when it is named.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import scoring
from scoring import Array, chosen_scans, truth

from medidiff import io
from medidiff.errors import SettingsError
from medidiff.volume import Geometry, Volume

_PEERS = ("nlmeans", "bm4d")
_HERE = Path(__file__).resolve()
_WATCH = """
import json, resource, subprocess, sys, time
start = time.monotonic()
code = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode
wall, usage = time.monotonic() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([code, wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss]))
"""


@dataclass(frozen=True, slots=True)
class Run:
    """What one process took.

    Args:
        method: whose.
        wall_s: from its start to its end.
        cpu_s: processor time of all its threads.
        peak_gib: largest resident set.
    """

    method: str
    wall_s: float
    cpu_s: float
    peak_gib: float


def head(path: Path, side: int) -> Array:
    """A head of side³ voxels: a scan, mirrored at its borders as often as it takes."""
    image = truth(path, 0).image
    return np.ascontiguousarray(
        np.pad(image, [(0, max(side - n, 0)) for n in image.shape], "symmetric")[:side, :side, :side]
    )


def noisy(image: Array, level: float) -> Array:
    """Rician noise of a level on an image."""
    rng = np.random.default_rng(0)
    real, imaginary = (level * rng.standard_normal(image.shape, dtype=np.float32) for _ in range(2))
    return np.hypot(image + real, imaginary)


def measured(method: str, command: Sequence[str], *, threads: int) -> Run:
    """Run a process to its end.

    A small process in between starts it, because a process begins its peak with that of the one it is forked from.

    Raises:
        SettingsError: it failed.
    """
    count = str(threads)
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
    environment = os.environ | dict.fromkeys(names, count)
    answer = subprocess.run(
        [sys.executable, "-c", _WATCH, *command], env=environment, stdout=subprocess.PIPE, text=True, check=True
    ).stdout
    code, wall, cpu, peak = json.loads(answer.splitlines()[-1])
    if code:
        raise SettingsError("E-PEER", f"{method} ended with {code}", attribute="--methods")
    return Run(method, wall, cpu, peak / 2**20)


def command_of(method: str, source: Path, out: Path, *, level: float, threads: int) -> list[str]:
    """The command line of a method's process."""
    if method == "medidiff":
        options = ["--noise-level", str(level), "--device", "cpu"]
        return [sys.executable, "-m", "medidiff", "denoise", str(source), str(out / "medidiff.nii.gz"), *options]
    numbers = [str(level), str(threads)]
    return [sys.executable, str(_HERE), "--peer", method, str(source), str(out / f"{method}.nii.gz"), *numbers]


def peer(method: str, source: Path, out: Path, level: float, threads: int) -> None:
    """The work of a peer's process: read, denoise, write."""
    scan = io.read(source)
    image = scan.data[0].astype(np.float32)
    if method == "nlmeans":
        from dipy.denoise.nlmeans import nlmeans

        answer = nlmeans(image, sigma=level, rician=True, num_threads=threads)
    else:
        from bm4d import bm4d
        from peers import unbiased

        answer = unbiased(np.asarray(bm4d(image, level), dtype=np.float32), level)
    io.write(scan.with_data(np.asarray(answer, dtype=np.float32)), out)


def markdown(runs: Sequence[Run], heading: str) -> str:
    """The table, with ratios to medidiff."""
    ours = next(run for run in runs if run.method == "medidiff")
    lines = [heading, "", "| method | wall s | ratio | CPU s | ratio | peak GiB |", "|---|--:|--:|--:|--:|--:|"]
    for run in runs:
        ratios = run.wall_s / ours.wall_s, run.cpu_s / ours.cpu_s
        cells = f"{run.wall_s:.1f} | {ratios[0]:.2f} | {run.cpu_s:.1f} | {ratios[1]:.2f} | {run.peak_gib:.2f}"
        lines.append(f"| {run.method} | {cells} |")
    return "\n".join(lines) + "\n"


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    out = scoring.options(__doc__.splitlines()[0], writes="speed.md and speed.json")
    out.add_argument("--side", type=int, default=200, help="side of the head in voxels")
    out.add_argument("--percent", type=float, default=5.0, help="noise, %% of the tissue maximum")
    out.add_argument("--methods", nargs="*", choices=_PEERS, default=["nlmeans"], help="whom to compare")
    out.set_defaults(threads=os.cpu_count() or 1)
    return out


def run(arguments: argparse.Namespace) -> str:
    """Measure and write both files; returns the table."""
    if arguments.side < 32 or arguments.percent <= 0 or arguments.threads < 1:
        raise SettingsError("E-SETTING", "a side, noise level or number of threads out of range", wanted="side >= 32")
    file = next(iter(chosen_scans(arguments).values()))
    level, side = arguments.percent / 100, arguments.side
    with tempfile.TemporaryDirectory() as name:
        source = Path(name) / "noisy.nii.gz"
        grid = Geometry.regular((side,) * 3)
        io.write(Volume(1000 * noisy(head(file, side), level), grid, modality="MR"), source)
        runs = []
        for method in ("medidiff", *arguments.methods):
            command = command_of(method, source, Path(name), level=1000 * level, threads=arguments.threads)
            runs.append(measured(method, command, threads=arguments.threads))
            print(runs[-1], file=sys.stderr)
    heading = f"Denoising {side}³ voxels, {arguments.threads} threads, each a whole process."
    table = markdown(runs, heading)
    scoring.save(arguments.out, "speed", table=table, record=[asdict(run) for run in runs])
    return table


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command, or a peer's process; 0, or the exit code of the refusal."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["--peer"]:
        method, source, out, level, threads = given[1:]
        peer(method, Path(source), Path(out), float(level), int(threads))
        return 0
    return scoring.ended(run, parser(), given)


if __name__ == "__main__":
    raise SystemExit(main())
