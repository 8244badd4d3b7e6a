"""Score the rivals that `rivals.py` has trained: `python validation/rivals.py score --help`.

The prior, each rival and what they start from answer on the same crops, each in a process of its own, whose largest
memory is stated (on a GPU, that of the GPU). Seconds are those of an answer, without reading and loading.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import scoring
import superresolution
import torch
from numpy.typing import NDArray
from rivals import FACTOR, LEVEL, TASKS, THICK_LEVEL, About, Rival, load_rival
from scoring import Array, Truth, chosen_scans, load_prior, spread, truth
from steps import question
from torch import Generator, Tensor

from medidiff.diffusion import Plan, generators_for
from medidiff.errors import SettingsError
from medidiff.metrics import hfen, psnr, ssim
from medidiff.physics import Noise, Separable, identity, resample
from medidiff.prior import Prior

_QUESTIONS = {"slices": "slices x3, 1 % noise", "noise": "9 % noise"}


@dataclass(frozen=True, slots=True)
class Score:
    """How one method did at one task on one scan; the scan is named by its place in the split."""

    scan: int
    task: str
    method: str
    psnr_db: float
    ssim: float
    hfen: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Told:
    """One method's scores, and what its process needed.

    Args:
        scores: of all scans.
        weights: number of its weights.
        trained: patches, seconds and device of its training, for the table.
        peak_gib: largest memory of its process, or of the GPU when it ran there.
    """

    scores: tuple[Score, ...]
    weights: int
    trained: str
    peak_gib: float


Answer = Callable[[], Array]


def work(method: str, options: argparse.Namespace, told: Any) -> None:
    """In a process of its own: one method, all scans; `told` is a queue that gets a `Told`."""
    torch.set_num_threads(options.threads)
    told.put(_scored(method, options))


@torch.no_grad()
def _scored(method: str, options: argparse.Namespace) -> Told:
    weights, trained, ways = 0, "", _given
    if method.endswith(".safetensors"):
        about, rival = load_rival(Path(method))
        weights, ways = sum(p.numel() for p in rival.parameters()), partial(_rival, about, rival.eval())
        trained = f"{about.patches} patches, {about.seconds:.0f} s, {about.device}"
    elif method == "medidiff":
        prior = load_prior(options.prior)
        if prior is None:
            raise SettingsError("E-SETTING", "none", wanted="a prior", attribute="--prior")
        weights, ways = sum(p.numel() for p in prior.denoiser.parameters()), partial(_prior, prior)
        trained = f"{prior.card.images} patches"
    scores = []
    for number, file in chosen_scans(options).items():
        reference = truth(file, options.crop)
        for task in TASKS:
            for name, run in ways(task, number, reference, options).items():
                began = time.perf_counter()
                image = run()
                seconds = time.perf_counter() - began
                where = reference.mask & _covered(task, reference.image.shape)
                compared = image, reference.image
                score = Score(
                    scan=number,
                    task=task,
                    method=name,
                    psnr_db=psnr(*compared, mask=where, data_range=1.0),
                    ssim=ssim(*compared, mask=where, data_range=1.0),
                    hfen=hfen(*compared, mask=where),
                    seconds=seconds,
                )
                print(f"scan {number}  {task:6}  {name:34} {score.psnr_db:6.2f} dB", file=sys.stderr)
                scores.append(score)
    return Told(tuple(scores), weights, trained, _peak_gib(options.device))


def _asked(task: str, number: int, reference: Truth) -> tuple[Tensor, Separable, float, Tensor]:
    """The measurement y (i, j, k), A, σ_y, and what a rival is given, (1, 1, I, J, K)."""
    if task == "noise":
        generator = Generator().manual_seed(1000 * number + round(1000 * LEVEL))
        y = Noise("rician", LEVEL).apply(torch.from_numpy(reference.image), generator)
        return y, identity(), LEVEL, y[None, None]
    thick = superresolution.Task((1.0, 1.0, float(FACTOR)), 100 * THICK_LEVEL)
    measured = superresolution.measure(reference, thick, seed=1000 * number)
    given = superresolution.classical(measured, reference.geometry)["cubic B-spline"]()
    y = torch.from_numpy(np.array(measured.scan.data[0]))
    return y, measured.operator, measured.level, torch.from_numpy(given)[None, None]


def _given(task: str, number: int, reference: Truth, options: argparse.Namespace) -> dict[str, Answer]:
    """What every rival starts from."""
    given = _asked(task, number, reference)[3][0, 0].numpy()
    return {"noisy input" if task == "noise" else "cubic B-spline": lambda: given}


def _prior(prior: Prior, task: str, number: int, reference: Truth, options: argparse.Namespace) -> dict[str, Answer]:
    """The posterior mean in one evaluation, and a draw in four steps."""
    y, operator, level, _ = _asked(task, number, reference)
    prior.denoiser.to(options.device)
    asked = question(task, y.to(options.device), operator, level, shape=reference.image.shape, prior=prior)

    def mean() -> Tensor:
        return asked.denoiser(torch.zeros_like(asked.condition.image), torch.tensor(torch.inf), asked.condition)

    def draw() -> Tensor:
        return Plan(steps=4).draw(
            asked.denoiser, mean(), condition=asked.condition, generators=generators_for(0, [number])
        )

    return {
        "medidiff, mean, one step": lambda: asked.answer(mean()),
        "medidiff, a draw, 4 steps": lambda: asked.answer(draw()),
    }


def _rival(
    about: About, rival: Rival, task: str, number: int, reference: Truth, options: argparse.Namespace
) -> dict[str, Answer]:
    """The rival's answer to its own question; it has none to the other."""
    if task != about.task:
        return {}
    given = _asked(task, number, reference)[3].to(options.device)
    rival.to(options.device)

    def draw(place: int) -> Tensor:
        return rival.answer(given, Generator().manual_seed(1000 * number + place), options.steps)

    def average() -> Array:
        return np.asarray(torch.stack([draw(place) for place in range(options.draws)]).mean(0)[0, 0].cpu().numpy())

    if about.kind == "regression":
        return {"regression": lambda: draw(0)[0, 0].cpu().numpy()}
    ways: dict[str, Answer] = {f"MONAI, DDIM {options.steps}, a draw": lambda: draw(0)[0, 0].cpu().numpy()}
    return ways | ({f"MONAI, DDIM {options.steps}, mean of {options.draws}": average} if options.draws > 1 else {})


def _covered(task: str, shape: tuple[int, int, int]) -> NDArray[np.bool_]:
    operator = resample(shape, factors=(1.0, 1.0, float(FACTOR) if task == "slices" else 1.0))
    return np.asarray(operator.certainty(shape).numpy() > 0)


def _peak_gib(device: str) -> float:
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**30
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 2**20


def apart(method: str, options: argparse.Namespace) -> Told:
    """One method in a process of its own.

    Raises:
        SettingsError: the process did not survive.
    """
    context = multiprocessing.get_context("spawn")
    told = context.SimpleQueue()
    process = context.Process(target=work, args=(method, options, told))
    process.start()
    while process.is_alive() and told.empty():
        time.sleep(0.1)
    if told.empty():
        raise SettingsError("E-SETTING", f"{Path(method).name} gave no answer", mend="See its message above.")
    answer: Told = told.get()
    process.join()
    return answer


def markdown(found: Sequence[Told], heading: str) -> str:
    """The table: a row per task and method, mean ± standard deviation over scans."""
    lines = [heading, "", "| task | method | weights | trained on | PSNR in dB | SSIM | HFEN | seconds | peak GiB |"]
    lines.append("|---|---|--:|---|--:|--:|--:|--:|--:|")
    for task in TASKS:
        for told in found:
            for method in dict.fromkeys(s.method for s in told.scores if s.task == task):
                group = [s for s in told.scores if (s.task, s.method) == (task, method)]
                cells = [
                    f"{told.weights / 1e6:.2f} M" if told.weights else "",
                    told.trained,
                    *(spread([getattr(s, n) for s in group], d) for n, d in (("psnr_db", 2), ("ssim", 4), ("hfen", 3))),
                    f"{np.mean([s.seconds for s in group]):.1f}",
                    f"{told.peak_gib:.2f}",
                ]
                lines.append(f"| {_QUESTIONS[task]} | {method} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def parser() -> argparse.ArgumentParser:
    """The options of `score`."""
    out = scoring.options("Score rivals, the prior and what they start from.", writes="rivals.md and rivals.json")
    out.set_defaults(crop=60)
    out.add_argument("--weights", type=Path, nargs="*", default=[], help="files that train has written")
    out.add_argument("--steps", type=int, default=50, help="of DDIM")
    out.add_argument("--draws", type=int, default=1, help="of DDIM, also averaged when above 1")
    out.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where the networks run")
    return out


def score(options: argparse.Namespace) -> str:
    """Score and write both files; returns the table."""
    if options.crop % 12 or options.crop < 36 or min(options.steps, options.draws, options.threads) < 1:
        found = "a crop, number of steps, draws or threads out of range"
        raise SettingsError("E-SETTING", found, wanted="a crop of whole slices and strides: 36, 48, 60, 72 ...")
    chosen_scans(options)  # what is refused is refused here, and not in a process of its own
    for path in options.weights:
        load_rival(path)
    prior = load_prior(options.prior)
    methods = ["given", *(["medidiff"] if prior is not None else []), *map(str, options.weights)]
    found = [apart(method, options) for method in methods]
    scans = len({s.scan for told in found for s in told.scores})
    heading = f"Rivals, {scans} {options.part} scans of {options.set}, {scoring.region(options)}, {options.device}."
    table = markdown(found, heading)
    name = "none" if prior is None else prior.card.weights_sha256
    scoring.save(options.out, "rivals", table=table, record={"prior": name, "rivals": [asdict(told) for told in found]})
    return table
