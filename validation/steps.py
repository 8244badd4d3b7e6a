"""Score answers in few evaluations, and the sharpness of draws: `python validation/steps.py --help`.

Each scan of the committed split is the truth, tissue maximum 1, as in `denoising.py` and `superresolution.py`. It is
denoised, and brought back from thick slices: by the posterior mean in one evaluation, and by draws in more and more
steps. A row is one way to an answer: the mean of the draws, or a draw by itself, whose figures are means over the same
draws. Every answer passes the consistency step of `restore`.

*Sharpness* is the power of an answer over the power of the truth, by band of spatial frequency up to half of Nyquist
(0.25 cycles per voxel); 1 is the scan's own, and a posterior mean stays below. *Radial* takes the bands from shells of
the 3D spectrum, *across* from slabs of it along the axis of the slices, where all that is new lies. Beside the mean
over the bands stands the worst one. The truth holds about 2 % of noise, which an honest draw has too.

*Spread* is the power of what draws differ by from the one-step mean, over the power of what the truth differs by, in
the bands across: 1 when draws say as much as is unknown, below 1 when the network is surer than it may be.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np
import scoring
import torch
from numpy.typing import NDArray
from scoring import Array, Truth, chosen_scans, load_prior, spread, truth
from superresolution import Task, measure
from torch import Tensor

from medidiff.agreeing import agreeing
from medidiff.diffusion import SAMPLERS, STARTS, Condition, Plan, Turned, generators_for, observe, worst_last
from medidiff.diffusion.denoiser import Denoiser
from medidiff.errors import SettingsError
from medidiff.metrics import psnr, ssim
from medidiff.physics import Noise, Separable, identity
from medidiff.prior import Prior

BANDS = 8  # of equal width, from 0 to half of Nyquist
_HALF_NYQUIST = 0.25  # cycles per voxel
_TARGET_DB, _TARGET_POWER = 0.2, 0.05


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """A measurement of the truth and what answers it.

    Args:
        name: for the table.
        y: (1, 1, i, j, k) measurement.
        operator: A.
        level: σ_y.
        condition: what the network is told.
        denoiser: D, counted.
    """

    name: str
    y: Tensor
    operator: Separable
    level: float
    condition: Condition
    denoiser: Counted

    def answer(self, x: Tensor) -> Array:
        """(I, J, K) what `restore` makes of x, before the scan gives anything back to it."""
        return np.asarray(agreeing(x, self.y, self.operator, self.level)[0, 0].cpu().numpy())


@dataclass(slots=True)
class Counted:
    """A denoiser that counts its evaluations."""

    denoiser: Denoiser
    done: int = field(default=0)

    def __call__(self, x: Tensor, sigma: Tensor, condition: Condition | None = None) -> Tensor:
        """D's answer."""
        self.done += 1
        return self.denoiser(x, sigma, condition)


@dataclass(frozen=True, slots=True)
class Score:
    """How one way did at one task on one scan; the scan is named by its place in the split.

    Args:
        scan: place in the split.
        task: what was measured.
        way: ``mean, one step``, ``mean of 8`` or ``a draw``.
        plan: sampler and start; empty for one step.
        steps: of the sampler; 0 for one step at σ = ∞.
        evaluations: of the network for the whole answer.
        psnr_db: inside the mask.
        ssim: inside the mask.
        radial: power over the truth's, by band.
        across: the same along the last axis.
        spread: power of the difference to the one-step mean over that of the truth's, along the last axis.
        seconds: for the whole answer.
    """

    scan: int
    task: str
    way: str
    plan: str
    steps: int
    evaluations: int
    psnr_db: float
    ssim: float
    radial: tuple[float, ...]
    across: tuple[float, ...]
    spread: float
    seconds: float


def spectrum(image: Array) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean power by band up to half of Nyquist, in shells and in slabs along the last axis, each (BANDS,).

    The image is taken about its mean and through a Hann window along each axis, so that its ends do not meet in a step.
    """
    windows = [np.hanning(n + 2)[1:-1] for n in image.shape]
    window = windows[0][:, None, None] * windows[1][:, None] * windows[2]
    x = image.astype(np.float64)
    power = np.abs(np.fft.fftn((x - (x * window).sum() / window.sum()) * window)) ** 2
    i, j, k = np.meshgrid(*(np.fft.fftfreq(n) for n in image.shape), indexing="ij", sparse=True)
    plane = np.sqrt(i**2 + j**2)
    across = np.where(plane < _HALF_NYQUIST, np.abs(k), np.inf)
    return _by_band(power, np.sqrt(plane**2 + k**2)), _by_band(power, across)


def _by_band(power: NDArray[np.float64], frequency: NDArray[np.float64]) -> NDArray[np.float64]:
    inside = frequency <= _HALF_NYQUIST
    band = np.minimum(frequency[inside] / _HALF_NYQUIST * BANDS, BANDS - 1).astype(int)
    count = np.bincount(band, minlength=BANDS)
    if not count.all():
        raise SettingsError(
            "E-SETTING", "a scan too small for its spectrum", wanted="36 voxels a side", attribute="--crop"
        )
    return np.asarray(np.bincount(band, power[inside], minlength=BANDS) / count)


def questions(number: int, reference: Truth, prior: Prior, options: argparse.Namespace) -> Iterator[Question]:
    """The scan with noise, and in thick slices; what is random depends on its place in the split and on the level."""
    image, shape = torch.from_numpy(reference.image), reference.image.shape
    if options.noise:
        generator = torch.Generator().manual_seed(1000 * number + round(10 * options.noise))
        noisy = Noise("rician", options.noise / 100).apply(image, generator)
        yield question(f"{options.noise:g} % noise", noisy, identity(), options.noise / 100, shape=shape, prior=prior)
    if options.factor:
        task = Task((1.0, 1.0, options.factor), options.thick_noise)
        measured = measure(reference, task, seed=1000 * number)
        y = torch.from_numpy(np.array(measured.scan.data[0]))
        yield question(task.name, y, measured.operator, measured.level, shape=shape, prior=prior)


def question(
    name: str, y: Tensor, operator: Separable, level: float, *, shape: tuple[int, int, int], prior: Prior
) -> Question:
    """What the prior is asked about a measurement (i, j, k) of a grid of `shape`."""
    y = y[None, None]
    denoiser = Counted(Turned(prior.denoiser, worst_last(operator, shape)))
    return Question(name, y, operator, level, observe(y, operator, level), denoiser)


@torch.no_grad()
def score(number: int, reference: Truth, asked: Question, options: argparse.Namespace) -> Iterator[Score]:
    """All ways to one answer."""
    began = time.perf_counter()
    mean = asked.denoiser(torch.zeros_like(asked.condition.image), torch.tensor(torch.inf), asked.condition)
    first = time.perf_counter() - began
    where = reference.mask & (asked.operator.certainty(reference.image.shape).numpy() > 0)
    wanted, centre = spectrum(reference.image), asked.answer(mean)
    unknown = spectrum(reference.image - centre)[1].sum()

    def judged(images: Sequence[Array], way: str, plan: str, *, steps: int, calls: int, seconds: float) -> Score:
        ratios = [[s / w for s, w in zip(spectrum(image), wanted, strict=True)] for image in images]
        radial, across = (tuple(map(float, np.mean([r[kind] for r in ratios], axis=0))) for kind in (0, 1))
        decibel = [psnr(x, reference.image, mask=where, data_range=1.0) for x in images]
        alike = [ssim(x, reference.image, mask=where, data_range=1.0) for x in images]
        return Score(
            scan=number,
            task=asked.name,
            way=way,
            plan=plan,
            steps=steps,
            evaluations=calls,
            psnr_db=float(np.mean(decibel)),
            ssim=float(np.mean(alike)),
            radial=radial,
            across=across,
            spread=float(np.mean([spectrum(x - centre)[1].sum() for x in images]) / unknown),
            seconds=seconds,
        )

    yield judged([asked.answer(mean)], "mean, one step", "", steps=0, calls=1, seconds=first)
    for plan in plans(options):
        name = f"{plan.sampler}, {plan.start}"
        before = 1 if plan.start == "informed" else 0  # evaluations that all draws share
        asked.denoiser.done, began, draws = 0, time.perf_counter(), []
        for draw in range(options.draws):
            generators = generators_for(options.seed, [draw])
            draws.append(plan.draw(asked.denoiser, mean, condition=asked.condition, generators=generators))
        seconds, calls = time.perf_counter() - began, asked.denoiser.done
        average = torch.stack(draws).mean(0)
        yield judged(
            [asked.answer(average)],
            f"mean of {options.draws}",
            name,
            steps=plan.steps,
            calls=before + calls,
            seconds=before * first + seconds,
        )
        yield judged(
            [asked.answer(x) for x in draws],
            "a draw",
            name,
            steps=plan.steps,
            calls=before + calls // options.draws,
            seconds=before * first + seconds / options.draws,
        )


def plans(options: argparse.Namespace) -> list[Plan]:
    """Every sampler from every start in every number of steps."""
    return [
        Plan(
            steps=steps,
            sampler=sampler,
            start=start,
            sigma_start=options.sigma_start,
            sigma_end=options.sigma_end,
            rho=options.rho,
        )
        for sampler in options.samplers
        for start in options.starts
        for steps in options.steps
    ]


def worst(ratios: Sequence[float]) -> float:
    """The ratio that is farthest from 1."""
    return max(ratios, key=lambda ratio: abs(ratio - 1))


def means(scores: Sequence[Score]) -> Score:
    """The scores of one way, averaged over scans."""
    names = ("psnr_db", "ssim", "spread", "seconds")
    average = {name: float(np.mean([getattr(s, name) for s in scores])) for name in names}
    bands = {k: tuple(map(float, np.mean([getattr(s, k) for s in scores], axis=0))) for k in ("radial", "across")}
    first = scores[0]
    return Score(first.scan, first.task, first.way, first.plan, first.steps, first.evaluations, **average, **bands)


def markdown(scores: Sequence[Score], heading: str) -> str:
    """The table, mean ± standard deviation over scans, and what follows from it for each claim."""
    sharp = "radial, mean | radial, worst | across, mean | across, worst | spread"
    lines = [
        heading,
        "",
        f"| task | way | sampler, start | steps | evaluations | PSNR in dB | SSIM | {sharp} | seconds |",
    ]
    lines.append("|---|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|")
    groups = grouped(scores)
    for (task, way, plan, steps), group in groups.items():
        average = means(group)
        bands = [average.radial, average.across]
        cells = [
            spread([s.psnr_db for s in group], 2),
            spread([s.ssim for s in group], 4),
            *(f"{value:.3f}" for ratios in bands for value in (np.mean(ratios), worst(ratios))),
            f"{average.spread:.2f}",
            f"{average.seconds:.1f}",
        ]
        count = str(steps) if steps else "–"
        lines.append(f"| {task} | {way} | {plan} | {count} | {average.evaluations} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", *claims({key: means(group) for key, group in groups.items()})]) + "\n"


_Key = tuple[str, str, str, int]


def grouped(scores: Sequence[Score]) -> dict[_Key, list[Score]]:
    """Scores of all scans by task, way, plan and steps."""
    groups: dict[_Key, list[Score]] = {}
    for s in scores:
        groups.setdefault((s.task, s.way, s.plan, s.steps), []).append(s)
    return groups


def claims(table: dict[_Key, Score]) -> list[str]:
    """One line per claim that the table can decide: few steps against many, one step against draws, sharpness."""
    lines = []
    for task, plan in dict.fromkeys((task, plan) for task, _, plan, _ in table if plan):
        here = {(way, steps): s for (t, way, p, steps), s in table.items() if t == task and p in (plan, "")}
        averages = {steps: s for (way, steps), s in here.items() if way.startswith("mean of")}
        most, few = max(averages), max((n for n in averages if n <= 4), default=0)
        one = here["mean, one step", 0].psnr_db
        found = [("one step against the mean of draws", one - averages[most].psnr_db, f"{most} steps each")]
        if few and few != most:
            gain = averages[few].psnr_db - averages[most].psnr_db
            found.append((f"mean of draws, {few} steps against {most}", gain, "the same draws"))
        lines += [
            f"- {task}, {plan}: {what}: {gain:+.2f} dB ({note}); {_verdict(gain >= -_TARGET_DB)}"
            for what, gain, note in found
        ]
        if few:
            far = {kind: worst(getattr(here["a draw", few], kind)) for kind in ("radial", "across")}
            lines += [
                f"- {task}, {plan}: power of draws in {few} steps, worst band, {kind}: {ratio:.3f} of the scan's; "
                f"{_verdict(abs(ratio - 1) <= _TARGET_POWER)}"
                for kind, ratio in far.items()
            ]
    return lines


def _verdict(held: bool) -> str:
    return "held" if held else "not held"


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    out = scoring.options(__doc__.splitlines()[0], writes="steps.md and steps.json")
    out.set_defaults(crop=60)
    usual = Plan()
    out.add_argument("--noise", type=float, default=9.0, help="of the scan to denoise, %% of the maximum; 0 for none")
    out.add_argument("--factor", type=float, default=3.0, help="slice thickness in voxels; 0 for no thick slices")
    out.add_argument("--thick-noise", type=float, default=1.0, help="of the slices, %% of the tissue maximum")
    out.add_argument("--steps", type=int, nargs="+", default=[1, 2, 4, 8, 50], help="of the sampler")
    out.add_argument("--draws", type=int, default=8, help="from which the mean is taken")
    out.add_argument("--samplers", nargs="+", choices=sorted(SAMPLERS), default=[usual.sampler], help="to compare")
    out.add_argument("--starts", nargs="+", choices=STARTS, default=[usual.start], help="to compare")
    out.add_argument("--sigma-start", type=float, default=usual.sigma_start, help="first level")
    out.add_argument("--sigma-end", type=float, default=usual.sigma_end, help="last level above 0")
    out.add_argument("--rho", type=float, default=usual.rho, help="spacing of the levels between")
    out.add_argument("--seed", type=int, default=0, help="of the draws")
    return out


def run(options: argparse.Namespace) -> str:
    """Score and write both files; returns the table."""
    prior = load_prior(options.prior)
    levels = (options.noise, options.factor, options.thick_noise)
    if (
        prior is None
        or not all(0 <= level < math.inf for level in levels)
        or not (options.factor == 0 or (options.factor > 1 and options.thick_noise > 0))
        or not (options.noise or options.factor)
        or min(options.draws - 1, options.threads, *options.steps) < 1
    ):
        found = "no prior, no task, or a level, factor, number of steps, draws or threads out of range"
        raise SettingsError("E-SETTING", found, wanted="a factor above 1, levels above 0, draws from 2, steps from 1")
    torch.set_num_threads(options.threads)
    scores = []
    for number, file in chosen_scans(options).items():
        reference = truth(file, options.crop)
        for asked in questions(number, reference, prior, options):
            for found in score(number, reference, asked, options):
                print(
                    f"scan {number}  {found.task}  {found.way:14} {found.plan:20} {found.steps:3} steps "
                    f"{found.psnr_db:6.2f} dB  {worst(found.radial):.3f}",
                    file=sys.stderr,
                )
                scores.append(found)
    where, scans = scoring.region(options), len({s.scan for s in scores})
    grid = f"levels {options.sigma_start:g} to {options.sigma_end:g}, rho {options.rho:g}"
    heading = f"Steps and draws, {scans} {options.part} scans of {options.set}, {where}, {grid}, mean ± sd over scans."
    table = markdown(scores, heading)
    record = {"prior": prior.card.weights_sha256, "grid": grid, "region": where, "scores": [asdict(s) for s in scores]}
    scoring.save(options.out, "steps", table=table, record=record)
    return table


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0, or the exit code of the refusal."""
    return scoring.ended(run, parser(), arguments)


if __name__ == "__main__":
    raise SystemExit(main())
