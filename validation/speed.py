"""Measure speed and memory side by side: `python validation/speed.py --help`.

One noisy head is written to disk; each method denoises it in a process of its own, from the file to a file, told the
same noise level, with the same number of threads. Wall time, processor time and peak memory are those of the whole
process (start, imports and files included); *compute* is the wall time of the denoising alone, from voxels in memory to
voxels in memory (medidiff's from a process beside the command line's, the second of two calls on a GPU); ratios are to
medidiff in the same run. DIPY's non-local means runs in its default setting. BM4D takes minutes for a whole head, and
its licence is non-commercial: it is run when it is named. Peers run on the processor, also with ``--device cuda``.

``--roofline`` also times the network alone, and says which share it reaches of the operations a second of a large
matrix product on the same device, in the same number format. ``--side 512 --methods`` shows the memory of a large scan.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import scoring
from findings import finding, series
from scoring import Array, chosen_scans, truth

from medidiff import io
from medidiff.errors import SettingsError
from medidiff.volume import Geometry, Volume

_PEERS = ("nlmeans", "bm4d")
_FIGURES = ("wall_s", "compute_s", "cpu_s", "peak_gib")
_COUNTED = 64  # side of the cube in which the operations of the network are counted
_OUT_OF_SCOPE = 3  # how medidiff ends when the scan, here a head mirrored at its borders, is unlike those of its prior
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
        compute_s: of `wall_s`, or of a process beside it, the denoising alone.
    """

    method: str
    wall_s: float
    cpu_s: float
    peak_gib: float
    compute_s: float = math.nan


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
    if code and (method, code) != ("medidiff", _OUT_OF_SCOPE):
        raise SettingsError("E-PEER", f"{method} ended with {code}", attribute="--methods")
    return Run(method, wall, cpu, peak / 2**20)


@dataclass(frozen=True, slots=True)
class Work:
    """What the processes are given.

    Args:
        source: the noisy head.
        folder: where results go.
        level: of the noise, in the head's units.
        threads: of each process.
        device: of medidiff.
        prior: a bundled prior's name or a card's path; empty for the default.
    """

    source: Path
    folder: Path
    level: float
    threads: int
    device: str = "cpu"
    prior: str = ""

    def whole(self, method: str) -> list[str]:
        """The command line of a method's process, from file to file."""
        if method != "medidiff":
            return self.inside(method)
        named = ["--prior", self.prior] if self.prior else []
        options = ["--noise-level", str(self.level), "--device", self.device, *named]
        return [sys.executable, "-m", "medidiff", "denoise", str(self.source), str(self.folder / "m.nii.gz"), *options]

    def inside(self, method: str) -> list[str]:
        """The command line of a process that also tells how long the denoising alone took, see `seconds`."""
        told = json.dumps(asdict(self) | {"source": str(self.source), "folder": str(self.folder)})
        return [sys.executable, str(_HERE), "--inside", method, told]

    def seconds(self, method: str) -> float:
        """What that process told."""
        return float((self.folder / f"{method}.seconds").read_text())


def inside(method: str, work: Work) -> None:
    """The work of such a process: read, denoise, write the seconds and the result."""
    scan = io.read(work.source)
    denoised, calls = _denoiser(method, work), 2 if method == "medidiff" and work.device == "cuda" else 1
    for _ in range(calls):
        start = time.perf_counter()
        answer = denoised(scan)
        spent = time.perf_counter() - start
    (work.folder / f"{method}.seconds").write_text(str(spent))
    io.write(scan.with_data(answer), work.folder / f"{method}.nii.gz")


def _denoiser(method: str, work: Work) -> Callable[[Volume], Array]:
    """A method as a function of a scan, its modules loaded."""
    if method == "medidiff":
        from medidiff.prior import DEFAULT_PRIOR, Prior
        from medidiff.restore import denoise

        known = {"prior": Prior.load(work.prior or DEFAULT_PRIOR), "noise_level": work.level, "device": work.device}
        return lambda scan: denoise(scan, **known).mean.data[0]
    if method == "nlmeans":
        from dipy.denoise.nlmeans import nlmeans

        how = {"sigma": work.level, "rician": True, "num_threads": work.threads}
        return lambda scan: np.asarray(nlmeans(scan.data[0].astype(np.float32), **how), dtype=np.float32)
    from bm4d import bm4d
    from peers import unbiased

    return lambda scan: unbiased(np.asarray(bm4d(scan.data[0].astype(np.float32), work.level), np.float32), work.level)


def roofline(side: int, *, device: str, threads: int, prior: str) -> str:
    """How fast the network alone is, and which share that is of a matrix product's speed on the device."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from medidiff.diffusion import Condition
    from medidiff.prior import DEFAULT_PRIOR, Prior

    torch.set_num_threads(threads)
    denoiser = Prior.load(prior or DEFAULT_PRIOR, device=device).denoiser
    denoiser.autocast = torch.bfloat16 if device == "cuda" else None
    kind = denoiser.autocast or torch.float32

    def network(size: int) -> None:
        image = torch.full((1, 1, size, size, size), 0.5, device=device)
        seen = Condition(image, torch.ones(1, device=device), torch.full((1,), 0.05, device=device))
        denoiser(torch.zeros_like(image), torch.tensor(torch.inf, device=device), seen)

    with torch.no_grad():
        with FlopCounterMode(display=False) as counter:
            network(_COUNTED)
        operations = counter.get_total_flops() * (side / _COUNTED) ** 3
        spent = timed(lambda: network(side), device)
        n = 8192 if device == "cuda" else 2048
        left, right = (torch.ones((n, n), dtype=kind, device=device) for _ in range(2))
        best = 2 * n**3 / timed(lambda: left @ right, device)
    name = str(kind).removeprefix("torch.")
    return (
        f"The network alone, {side}³ in {name} on {device}: {spent:.2f} s for {operations / 1e12:.2f} T operations, "
        f"{operations / spent / best:.0%} of a matrix product's {best / 1e12:.2f} T a second.\n"
    )


def timed(call: Callable[[], object], device: str) -> float:
    """Seconds of the second of two calls."""
    import torch

    for _ in range(2):
        start = time.perf_counter()
        call()
        if device == "cuda":
            torch.cuda.synchronize()
        spent = time.perf_counter() - start
    return spent


def markdown(runs: Sequence[Run], heading: str) -> str:
    """The table, with ratios to medidiff."""
    ours = next(run for run in runs if run.method == "medidiff")
    names = "| method | wall s | ratio | compute s | ratio | CPU s | ratio | peak GiB |"
    lines = [heading, "", names, "|---|--:|--:|--:|--:|--:|--:|--:|"]
    for run in runs:
        pairs = ((run.wall_s, ours.wall_s), (run.compute_s, ours.compute_s), (run.cpu_s, ours.cpu_s))
        cells = " | ".join(f"{own:.1f} | {own / our:.2f}" for own, our in pairs)
        lines.append(f"| {run.method} | {cells} | {run.peak_gib:.2f} |")
    return "\n".join(lines) + "\n"


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    out = scoring.options(__doc__.splitlines()[0], writes="speed.md and speed.json")
    out.add_argument("--side", type=int, default=200, help="side of the head in voxels")
    out.add_argument("--percent", type=float, default=5.0, help="noise, %% of the tissue maximum")
    out.add_argument("--methods", nargs="*", choices=_PEERS, default=["nlmeans"], help="whom to compare")
    out.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where medidiff computes")
    out.add_argument("--roofline", action="store_true", help="also time the network alone")
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
        given = {"threads": arguments.threads, "device": arguments.device, "prior": arguments.prior}
        work, runs = Work(source, Path(name), 1000 * level, **given), []
        for method in ("medidiff", *arguments.methods):
            whole = measured(method, work.whole(method), threads=arguments.threads)
            if method == "medidiff":
                measured(method, work.inside(method), threads=arguments.threads)
            runs.append(replace(whole, compute_s=work.seconds(method)))
            print(runs[-1], file=sys.stderr)
    where = f"{arguments.threads} threads" + (", medidiff on a GPU" if arguments.device == "cuda" else "")
    table = markdown(runs, f"Denoising {side}³ voxels, {where}, each a whole process.")
    if arguments.roofline:
        table += "\n" + roofline(side, **given)
    from medidiff.prior import DEFAULT_PRIOR, Prior  # the network, only now: it must not weigh on what was timed

    record = {"runs": [asdict(run) for run in runs]}
    figures = series(record["runs"], by=("method",), values=_FIGURES)
    card = Prior.load(arguments.prior or DEFAULT_PRIOR).card
    params = {"region": f"{side}³ voxels", "prior": f"{card.name} {card.weights_sha256}"}
    found = finding("speed", parser(), arguments, params=params, figures=figures)
    scoring.save(arguments.out, "speed", table=table, record=record, finding=found)
    return table


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command, or the work of one of its processes; 0, or the exit code of the refusal."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["--inside"]:
        told = json.loads(given[2])
        inside(given[1], Work(**told | {"source": Path(told["source"]), "folder": Path(told["folder"])}))
        return 0
    return scoring.ended(run, parser(), given)


if __name__ == "__main__":
    raise SystemExit(main())
