"""What quality grows with: `python validation/scaling.py --help`.

The recipe's network is trained anew on the scans of its first source, for as many patches at several widths and on
several numbers of subjects, and for several numbers of patches, each run cooled to its end; PSNR is that of the
source's validation scans with Rician noise. A row that names no other width or number of subjects has the recipe's own,
so that three curves cross in one point.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import torch
from scoring import ended, save

from medidiff.errors import SettingsError
from medidiff.training.checks import denoise_scores
from medidiff.training.fit import FitState, fit
from medidiff.training.patches import Patches, Scan
from medidiff.training.recipe import Recipe, read_recipe
from medidiff.training.run import load_scans

_HERE = Path(__file__).resolve().parent


@dataclass(frozen=True, slots=True)
class Point:
    """One training run.

    Args:
        subjects: scans that it was trained on.
        channels: width of the network.
        images: patches that it has seen.
    """

    subjects: int
    channels: tuple[int, int]
    images: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run came to.

    Args:
        point: which run.
        weights: of the network.
        seconds: of training, wall time.
        psnr_db: by noise level, mean over the validation scans.
    """

    point: Point
    weights: int
    seconds: float
    psnr_db: dict[str, float]


def points(options: argparse.Namespace, recipe: Recipe, subjects: int) -> list[Point]:
    """The runs: each curve through the point that the first number of patches, all subjects and the own width make."""
    own, first = recipe.model.channels, options.images[0]
    found = [Point(subjects, own, images) for images in options.images]
    found += [Point(subjects, (half, quarter), first) for half, quarter in options.channels]
    found += [Point(count, own, first) for count in options.subjects]
    if min(count for count, *_ in map(_numbers, found)) < 1 or max(p.subjects for p in found) > subjects:
        raise SettingsError("E-SETTING", "a number of subjects", wanted=f"1 to {subjects}", attribute="--subjects")
    return list(dict.fromkeys(found))


def _numbers(point: Point) -> tuple[int, int, int, int]:
    return point.subjects, *point.channels, point.images


def trained(
    point: Point, recipe: Recipe, scans: Sequence[Scan], watched: Sequence[Scan], options: argparse.Namespace
) -> Outcome:
    """Train and score one."""
    recipe = replace(
        recipe,
        model=replace(recipe.model, channels=point.channels),
        fit=replace(recipe.fit, images=point.images, rate=options.rate, cooldown=0.9, batch=options.batch),
    )
    autocast = torch.bfloat16 if options.device == "cuda" else None
    state = FitState(recipe, device=options.device, autocast=autocast)
    chosen = scans[: point.subjects]
    patches = Patches(chosen, [1.0] * len(chosen), recipe, device=options.device, workers=options.workers)
    began = time.monotonic()
    for _ in fit(state, patches, recipe.fit):
        pass
    seconds = time.monotonic() - began
    scores, _ = denoise_scores(state.average, watched, recipe)
    psnr_db = {name.removeprefix("psnr_db_noise_"): score for name, score in scores.items() if "psnr" in name}
    outcome = Outcome(point, sum(p.numel() for p in state.denoiser.parameters()), round(seconds, 1), psnr_db)
    print(outcome, file=sys.stderr)
    return outcome


def markdown(outcomes: Sequence[Outcome]) -> str:
    """The table, a row for each run."""
    levels = list(outcomes[0].psnr_db)
    lines = [
        "| subjects | channels | weights | patches | seconds | " + " | ".join(f"{n} % (dB)" for n in levels) + " |",
        "|--:|---|--:|--:|--:|" + "--:|" * len(levels),
    ]
    for o in outcomes:
        width, weights = "/".join(map(str, o.point.channels)), f"{o.weights / 1e6:.2f} M"
        scores = " | ".join(f"{o.psnr_db[level]:.2f}" for level in levels)
        lines.append(f"| {o.point.subjects} | {width} | {weights} | {o.point.images} | {o.seconds:.0f} | {scores} |")
    return "\n".join(lines) + "\n"


def _pair(text: str) -> tuple[int, int]:
    half, quarter = (int(number) for number in text.split(","))
    return half, quarter


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    shared = os.environ.get("MEDIDIFF_DATA") or _HERE.parent.parent / "shared" / "data"
    out = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    out.add_argument("--recipe", type=Path, default=_HERE.parent / "pipelines" / "recipes" / "fine-t1.toml")
    out.add_argument("--data", type=Path, default=Path(shared), help="folder of the shared data, or a pack")
    out.add_argument("--images", type=int, nargs="+", default=[16000], help="patches; the first for the other curves")
    out.add_argument(
        "--channels", type=_pair, nargs="*", default=[(24, 64), (80, 192)], help="other widths, half,quarter"
    )
    out.add_argument("--subjects", type=int, nargs="*", default=[2, 8], help="other numbers of subjects")
    out.add_argument("--rate", type=float, default=3e-3, help="learning rate")
    out.add_argument("--batch", type=int, default=64, help="patches a step")
    out.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    out.add_argument("--workers", type=int, default=0, help="processes that draw patches ahead")
    out.add_argument("--out", type=Path, default=Path("out/validation"), help="folder for scaling.md and scaling.json")
    return out


def run(options: argparse.Namespace) -> str:
    """Train all, write both files; returns the table."""
    if options.device == "cuda" and not torch.cuda.is_available():
        raise SettingsError("E-DEVICE", "no CUDA device", attribute="--device", mend="Use --device cpu.")
    recipe = read_recipe(options.recipe)
    load = partial(load_scans, recipe, options.recipe.parent, options.data, source=0)
    scans, _ = load(part="train")
    watched, _ = load(part="validation", most=recipe.validation.scans)
    outcomes = [trained(point, recipe, scans, watched, options) for point in points(options, recipe, len(scans))]
    table = markdown(outcomes)
    save(options.out, "scaling", table=table, record=[asdict(outcome) for outcome in outcomes])
    return table


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0, or the exit code of the refusal."""
    return ended(run, parser(), arguments)


if __name__ == "__main__":
    raise SystemExit(main())
