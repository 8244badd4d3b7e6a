"""Score super-resolution on scans that no prior has seen: `python validation/superresolution.py --help`.

Each scan of the committed test split is the truth, tissue maximum 1. It is measured in slices k times as thick (box
profile, no gap), or in larger voxels along all axes, with Rician noise of a known level, and brought back to its own
grid. Cubic B-splines interpolate between slice centres; "smoothest" is the smoothest volume that explains the slices,
which the prior is shown; in the joint tasks a method may denoise first and resample then, each step by the same prior.

PSNR, SSIM and HFEN are those of `medidiff.metrics`, in the foreground that slices cover, with a data range of 1.
*Residual* is the root mean square of the answer, measured again, less the slices, over the noise level: above 1 it
contradicts the scan.
*Ripple* is the share of the energy of steps between neighbours that repeats with the slices: 0 is none (see `ripple`).
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np
import scoring
import torch
from findings import finding, series
from scoring import Array, Truth, chosen_scans, load_prior, spread, truth

from medidiff.errors import SettingsError
from medidiff.metrics import hfen, psnr, ssim
from medidiff.metrics.peers import cubic_spline
from medidiff.physics import Degradation, Noise, Separable, resample
from medidiff.volume import Geometry, Volume

if TYPE_CHECKING:
    from medidiff.prior import Prior

_FIGURES = ("psnr_db", "ssim", "hfen", "residual", "ripple", "seconds")


@dataclass(frozen=True, slots=True)
class Task:
    """How the truth is measured.

    Args:
        factors: voxel size along each axis, in voxels of the truth.
        percent: Rician noise, % of the tissue maximum.
    """

    factors: tuple[float, float, float]
    percent: float

    @property
    def name(self) -> str:
        """For the table."""
        along = {f for f in self.factors if f > 1}
        size = f"x{self.factors[2]:g}" if self.factors[:2] == (1.0, 1.0) else f"all axes x{max(along):g}"
        return f"{size}, {self.percent:g} % noise"


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """Thick slices on their own grid, and how they were made."""

    scan: Volume
    operator: Separable
    level: float


@dataclass(frozen=True, slots=True)
class Score:
    """How one method did at one task on one scan; the scan is named by its place in the split."""

    scan: int
    task: str
    method: str
    psnr_db: float
    ssim: float
    hfen: float
    residual: float
    ripple: float
    seconds: float


def measure(reference: Truth, task: Task, *, seed: int) -> Measured:
    """The truth as a scanner with larger voxels gives it."""
    shape, fine = reference.image.shape, reference.geometry
    operator = resample(shape, factors=task.factors)
    level = task.percent / 100
    generator = torch.Generator().manual_seed(seed)
    y = Degradation(operator, Noise("rician", level)).observe(torch.from_numpy(reference.image), generator).numpy()
    factors = np.asarray(task.factors)
    affine = fine.affine.copy()
    affine[:3, :3] *= factors
    affine[:3, 3] = fine.world((np.asarray(shape) - 1 - (np.asarray(y.shape) - 1) * factors) / 2)
    coarse = Geometry((y.shape[0], y.shape[1], y.shape[2]), affine)
    return Measured(Volume(y, coarse, modality="MR"), operator, level)


def classical(measured: Measured, fine: Geometry) -> dict[str, Callable[[], Array]]:
    """What needs no network."""
    scan = measured.scan
    index = np.linalg.inv(scan.geometry.affine) @ fine.affine
    return {
        "cubic B-spline": lambda: cubic_spline(scan.data[0], index, shape=fine.shape),
        "smoothest": lambda: measured.operator.smoothest(torch.from_numpy(scan.data[0].copy())).numpy(),
    }


def ours(measured: Measured, fine: Geometry, prior: Prior, *, joint: bool) -> dict[str, Callable[[], Array]]:
    """The posterior mean in one call; for a joint task also after denoising the slices by themselves."""
    from medidiff.restore import Settings, denoise, restore  # the network: only for those who ask

    def whole(scan: Volume, level: float) -> Array:
        settings = Settings(prior=prior, noise_level=level)
        answer = restore(scan, fine, measured.operator, task="superresolve", settings=settings)
        return np.asarray(answer.mean.data[0])

    def two_steps() -> Array:
        clean = denoise(measured.scan, prior=prior, noise_level=measured.level).mean
        return whole(clean, prior.card.noise[0])

    ways: dict[str, Callable[[], Array]] = {"medidiff": lambda: whole(measured.scan, measured.level)}
    return {"medidiff, denoise first": two_steps, **ways} if joint else ways


def ripple(image: Array, reference: Truth, factor: float) -> float:
    """How much of the energy of steps between neighbours along the last axis repeats with the slices.

    ``|Σ_k d_k exp(2πi k / factor)| / Σ_k d_k`` with d_k the mean squared step from plane k to the next: 0 when steps
    know nothing of the slices, near 1 when all lie at their borders. Anatomy has a little of its own.
    """
    steps = np.where(reference.mask[..., 1:] & reference.mask[..., :-1], np.diff(image, axis=-1), 0)
    energy = np.square(steps, dtype=np.float64).mean(axis=(0, 1))
    turns = np.exp(2j * np.pi * np.arange(len(energy)) / factor)
    return float(np.abs(energy @ turns) / energy.sum())


def score_scan(number: int, reference: Truth, tasks: Sequence[Task], prior: Prior | None) -> list[Score]:
    """All methods at all tasks on one scan."""
    scores = []
    for place, task in enumerate(tasks):
        measured = measure(reference, task, seed=1000 * number + place)
        methods = classical(measured, reference.geometry)
        if prior is not None:
            methods |= ours(measured, reference.geometry, prior, joint=task.percent > 2)
        for name, run in methods.items():
            start = time.perf_counter()
            image = run()
            score = _judge(image, reference, measured, task, seconds=time.perf_counter() - start)
            print(f"scan {number}  {task.name}  {name:24} {score['psnr_db']:6.2f} dB", file=sys.stderr)
            scores.append(Score(scan=number, task=task.name, method=name, **score))
    return scores


def _judge(image: Array, reference: Truth, measured: Measured, task: Task, *, seconds: float) -> dict[str, float]:
    seen = measured.operator.certainty(image.shape).numpy() > 0  # the ends of the grid may stick out of all slices
    where, truth_image = reference.mask & seen, reference.image
    again = measured.operator(torch.from_numpy(np.array(image))).numpy()
    residual = float(np.sqrt(np.mean((again - measured.scan.data[0]) ** 2))) / measured.level
    return {
        "psnr_db": psnr(image, truth_image, mask=where, data_range=1.0),
        "ssim": ssim(image, truth_image, mask=where, data_range=1.0),
        "hfen": hfen(image, truth_image, mask=where),
        "residual": residual,
        "ripple": ripple(image, reference, task.factors[2]),
        "seconds": seconds,
    }


def markdown(scores: Sequence[Score], heading: str) -> str:
    """The table: a row per task and method, mean ± standard deviation over scans."""
    lines = [
        heading,
        "",
        "| task | method | PSNR in dB | SSIM | HFEN | residual | ripple | seconds |",
        "|---|---|--:|--:|--:|--:|--:|--:|",
    ]
    for task, method in dict.fromkeys((s.task, s.method) for s in scores):
        group = [s for s in scores if (s.task, s.method) == (task, method)]
        cells = [
            spread([getattr(s, name) for s in group], digits)
            for name, digits in (("psnr_db", 2), ("ssim", 4), ("hfen", 3), ("residual", 2), ("ripple", 2))
        ]
        lines.append(f"| {task} | {method} | {' | '.join(cells)} | {np.mean([s.seconds for s in group]):.1f} |")
    return "\n".join(lines) + "\n"


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    out = scoring.options(__doc__.splitlines()[0], writes="superresolution.md and superresolution.json")
    out.add_argument("--factors", type=float, nargs="*", default=[2.0, 3.0, 3.3, 4.0, 5.0], help="slice thickness")
    out.add_argument("--isotropic", type=float, nargs="*", default=[2.0], help="voxel size along all three axes")
    out.add_argument("--noise", type=float, default=1.0, help="noise, %% of the tissue maximum")
    out.add_argument("--joint", type=float, nargs="*", default=[9.0], help="noise of slices x3 that are noisy as well")
    return out


def tasks_of(arguments: argparse.Namespace) -> list[Task]:
    """What the options ask for."""
    numbers = [arguments.noise, *arguments.joint, *arguments.factors, *arguments.isotropic]
    if min(numbers) <= 0 or min([*arguments.factors, *arguments.isotropic, 1.0]) < 1 or arguments.threads < 1:
        raise SettingsError(
            "E-SETTING", "a factor, noise level or number of threads out of range", wanted="factors >= 1"
        )
    thick = [Task((1.0, 1.0, factor), arguments.noise) for factor in arguments.factors]
    larger = [Task((factor,) * 3, arguments.noise) for factor in arguments.isotropic]
    return [*thick, *larger, *(Task((1.0, 1.0, 3.0), noise) for noise in arguments.joint)]


def run(arguments: argparse.Namespace) -> str:
    """Score and write both files; returns the table."""
    tasks = tasks_of(arguments)
    torch.set_num_threads(arguments.threads)
    prior = load_prior(arguments.prior)
    files = chosen_scans(arguments)
    scores = [s for n, file in files.items() for s in score_scan(n, truth(file, arguments.crop), tasks, prior)]
    where = scoring.region(arguments)
    heading = (
        f"Super-resolution, {len(files)} {arguments.part} scans of {arguments.set}, {where}, mean ± sd over scans."
    )
    table = markdown(scores, heading)
    name = "none" if prior is None else f"{prior.card.name} {prior.card.weights_sha256}"
    params = {
        "set": f"{arguments.set} {arguments.contrast}",
        "part": arguments.part,
        "region": where,
        "scans": " ".join(map(str, files)),
        "split_sha256": hashlib.sha256(arguments.split.read_bytes()).hexdigest(),
        "prior": name,
    }
    record = {"scores": [asdict(s) for s in scores]}
    figures = series(record["scores"], by=("task", "method"), values=_FIGURES)
    found = finding("superresolution", parser(), arguments, params=params, figures=figures)
    scoring.save(arguments.out, "superresolution", table=table, record=record, finding=found)
    return table


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0, or the exit code of the refusal."""
    return scoring.ended(run, parser(), arguments)


if __name__ == "__main__":
    raise SystemExit(main())
