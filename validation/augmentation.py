"""Measure what variants of a scan cost a trainer, and how good they are: `python validation/augmentation.py --help`.

*Cost*: processor seconds of `medidiff.augment` for cubes of real scans, and whole scans with side 0, of each kind: the
median of ``--variants`` numbers after one call that loads what is needed. A restored variant takes one evaluation of
the network more than its plan has steps; a synthetic one is chosen from cases that were drawn before, and placed.

*Quality*, at the first side: root mean square error against the scan that was degraded, in its tissue, in % of the
tissue maximum: of the degraded scan, and of a draw with the default plan and with that of `restore`. *Spread* is the
standard deviation of two draws of one measurement; in an honest posterior it is the error of a draw over √2. Means
over scans with their 95 % bootstrap intervals.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import scoring
import torch
from exporting import head
from scoring import Truth, chosen_scans, truth
from utility import interval

from medidiff.augmentation import VariantSettings, augment
from medidiff.augmentation.scanning import drawn, scan_again
from medidiff.case import Case
from medidiff.diffusion import Plan
from medidiff.errors import SettingsError
from medidiff.prior import DEFAULT_PRIOR, Prior
from medidiff.training.chance import Chance
from medidiff.version import __version__
from medidiff.volume import Geometry, Provenance, Volume

_FRAME = (160, 192, 160)
_FULL = Plan()
_CPU = torch.device("cpu")


def invented(shape: tuple[int, int, int]) -> Case:
    """An ellipsoid in the place of a case that a cascade drew, in voxels of 1 mm."""
    image, labels = head(shape)
    grid = Geometry.regular(shape)
    record = Provenance("validate", __version__, synthetic=True)
    return Case(0, Volume(image, grid, "MR"), record, Volume(labels, grid))


def seconds(call: Callable[[int], Any], variants: int) -> float:
    """Median processor seconds of a call with the numbers from 1 on, after one with 0."""
    call(0)
    spent = []
    for number in range(1, variants + 1):
        start = time.process_time()
        call(number)
        spent.append(time.process_time() - start)
    return float(np.median(spent))


def costs(volume: Volume, settings: dict[str, Any], *, variants: int) -> dict[str, float]:
    """Processor seconds of each kind of variant of a scan."""
    full = settings | {"plan": _FULL}
    calls = {
        "degraded": lambda number: augment(volume, "degraded", number=number, **settings),
        "restored": lambda number: augment(volume, "restored", number=number, **settings),
        "restored, the plan of restore": lambda number: augment(volume, "restored", number=number, **full),
        "synthetic, chosen": lambda number: augment(volume, "synthetic", number=number, **settings),
    }
    return {name: seconds(call, variants) for name, call in calls.items()}


def errors(clean: Truth, prior: Prior, *, variants: int) -> dict[str, float]:
    """Root mean square errors in the tissue of one scan, over numbers; in % of the tissue maximum."""
    x, settings = torch.from_numpy(clean.image), VariantSettings()
    squares: dict[str, list[float]] = {}

    def add(name: str, difference: torch.Tensor) -> None:
        squares.setdefault(name, []).append(float(difference[torch.from_numpy(clean.mask)].square().mean()))

    for number in range(variants):
        scanned = scan_again(x, settings.scanners, Chance(0, number), magnitude=True)
        add("degraded", scanned.image - x)
        for name, plan in (("draw", settings.plan), ("draw, the plan of restore", _FULL)):
            one, two = (
                drawn(scanned, prior, plan, seed=0, number=n, device=_CPU) for n in (2 * number, 2 * number + 1)
            )
            add(name, one - x)
            add(f"{name}: spread", (one - two) / 2**0.5)
    return {name: 100 * float(np.mean(values)) ** 0.5 for name, values in squares.items()}


def markdown(costs_by_side: dict[str, dict[str, float]], quality: dict[str, list[float]], heading: str) -> str:
    """Both tables."""
    sides = list(costs_by_side)
    lines = [heading, "", f"| CPU s a variant | {' | '.join(sides)} |", f"|---|{'--:|' * len(sides)}"]
    for kind in costs_by_side[sides[0]]:
        lines.append(f"| {kind} | " + " | ".join(f"{costs_by_side[side][kind]:.3f}" for side in sides) + " |")
    lines += ["", f"| % of the tissue maximum, {sides[0]} | mean | 95 % |", "|---|--:|---|"]
    for name, values in quality.items():
        mean, low, high = interval(np.array(values, dtype=np.float64))
        lines.append(f"| {name} | {mean:.2f} | {low:.2f} to {high:.2f} |")
    return "\n".join(lines) + "\n"


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    out = scoring.options(__doc__.splitlines()[0], writes="augmentation.md and augmentation.json")
    out.add_argument("--sides", type=int, nargs="+", default=[48, 64, 96], help="of cubes, in voxels; 0 for a scan")
    out.add_argument("--variants", type=int, default=4, help="of each kind and scan")
    return out


def run(arguments: argparse.Namespace) -> str:
    """Measure and write both files; returns the tables."""
    if arguments.variants < 1 or any(side != 0 and side < 32 for side in arguments.sides):
        raise SettingsError(
            "E-SETTING", "a side or number of variants out of range", wanted="sides of 0, or 32 and more"
        )
    torch.set_num_threads(arguments.threads)
    files = list(chosen_scans(arguments).values())
    prior = Prior.load(arguments.prior or DEFAULT_PRIOR)
    settings = {"prior": prior, "cases": [invented(_FRAME)], "tissue_maximum": 1.0}
    costs_by_side = {}
    for side in arguments.sides:
        clean = truth(files[0], side)
        volume = Volume(clean.image, clean.geometry, "MR")
        name = f"{side}³" if side else "x".join(str(n) for n in clean.image.shape)
        costs_by_side[name] = costs(volume, settings, variants=arguments.variants)
        print(name, costs_by_side[name], file=sys.stderr, flush=True)
    found = [errors(truth(file, arguments.sides[0]), prior, variants=arguments.variants) for file in files]
    quality = {name: [each[name] for each in found] for name in found[0]}
    heading = (
        f"Variants of T1w scans of {arguments.set}, {arguments.part}: cost on the first, quality on {len(files)}; "
        f"{arguments.variants} variants, {arguments.threads} thread, prior {prior.card.name}."
    )
    table = markdown(costs_by_side, quality, heading)
    record = {"costs": costs_by_side, "quality": quality, "variants": arguments.variants, "version": __version__}
    scoring.save(arguments.out, "augmentation", table=table, record=record)
    return table


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0, or the exit code of the refusal."""
    return scoring.ended(run, parser(), arguments)


if __name__ == "__main__":
    raise SystemExit(main())
