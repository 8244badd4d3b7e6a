"""What a coarse prior makes of what it is asked: `python validation/conditions.py --help`.

Each number of a seed is drawn at the coarse voxels for a woman and a man, and for the youngest and the oldest age that
may be asked; all else is the same random numbers, so a difference is the condition's own. Brain volume and CSF share
are counted in the drawn label maps. Then heads are drawn at 2 mm to the label maps of the test subjects, labelled anew
by the classifier, and compared with the map that was given (Dice), beside the maps of two different test subjects.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import scoring
import torch
from brains import COARSE_MM, TISSUES, data_options, label, real_brains
from findings import finding, series
from numpy.typing import NDArray
from set_figures import condition_figures

from medidiff.case import Case
from medidiff.errors import SettingsError
from medidiff.metrics.tissues import dice, volumes_ml
from medidiff.prior.coarse import DEFAULT_COARSE
from medidiff.synthesis import Cascade, Request
from medidiff.volume import Geometry, Volume

Draw = Callable[[Request, int], Case]
Row = tuple[str, float, float, float, int]
_ROW = ("kind", "figure", "value", "low", "high", "n")
"""What was measured, its value, its 95 % interval, and of how many."""


def paired(values: NDArray[np.float64], *, resamples: int = 2000, seed: int = 0) -> tuple[float, float, float]:
    """Mean over cases and its 95 % bootstrap interval."""
    cases = np.random.default_rng(seed).integers(0, len(values), (resamples, len(values)))
    low, high = np.percentile(values[cases].mean(axis=1), (2.5, 97.5))
    return float(values.mean()), float(low), float(high)


def tissues_ml(case: Case) -> NDArray[np.float64]:
    """Volume of each tissue in the label map of a case."""
    assert case.labels is not None
    labels = np.asarray(case.labels.data[0], np.uint8)
    return volumes_ml(labels, count=len(TISSUES), spacing_mm=case.labels.geometry.spacing_mm)


def effects(draw: Draw, ages: tuple[float, float], *, spacing_mm: float, pairs: int) -> list[Row]:
    """What sex does to the brain's volume, and age to the share of CSF, over so many pairs of draws."""
    volumes = {}
    asked = {"F": (None, "F"), "M": (None, "M"), "young": (ages[0], None), "old": (ages[1], None)}
    for name, (age, sex) in asked.items():
        request = Request(age=age, sex=sex, spacing_mm=spacing_mm)
        volumes[name] = np.array([tissues_ml(draw(request, number)) for number in range(pairs)])
    share = {name: 100 * each[:, 0] / each.sum(axis=1) for name, each in volumes.items()}
    decades = (ages[1] - ages[0]) / 10
    return [
        (
            "brain volume, men less women (ml)",
            *paired(volumes["M"].sum(axis=1) - volumes["F"].sum(axis=1)),
            pairs,
        ),
        ("CSF share per decade of age (% points)", *paired((share["old"] - share["young"]) / decades), pairs),
    ]


def followed(draw: Draw, maps: Sequence[NDArray[np.uint8]]) -> list[Row]:
    """Dice of each tissue between a map that was given and what the classifier finds in the scan drawn to it."""
    grid = Geometry.regular(maps[0].shape, spacing_mm=COARSE_MM)
    found = []
    for number, given in enumerate(maps):
        scan = draw(Request(tissue=Volume(given[None], grid), spacing_mm=COARSE_MM[0]), number).image
        found.append(dice(label(np.asarray(scan.data[0], np.float32)), given, count=len(TISSUES)))
    others = [dice(one, other, count=len(TISSUES)) for one, other in combinations(maps, 2)]
    rows: list[Row] = []
    for name, table in (("map given, classifier on the draw", found), ("maps of two people", others)):
        for column, tissue in enumerate(TISSUES):
            values = np.array([row[column] for row in table])
            rows.append((f"Dice of {tissue}: {name}", *paired(values), len(values)))
    return rows


def table_of(found: dict[str, list[Row]]) -> str:
    """The figures as a Markdown table."""
    lines = ["| of | condition | value | 95 % interval | n |", "|---|---|--:|--:|--:|"]
    for name, rows in found.items():
        for figure, value, low, high, count in rows:
            lines.append(f"| {name} | {figure} | {value:.3g} | {low:.3g} to {high:.3g} | {count} |")
    return "\n".join(lines) + "\n"


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    out = data_options(__doc__)
    out.add_argument("--prior", default=DEFAULT_COARSE, help="coarse prior, by name or card")
    out.add_argument("--pairs", type=int, default=24, help="draws for each sex and age")
    out.add_argument("--maps", type=int, default=6, help="test subjects whose maps are given")
    out.add_argument("--seed", type=int, default=0, help="of the draws")
    out.add_argument("--out", type=Path, default=Path("out/conditions"), help="folder for table and JSON")
    return out


def run(options: argparse.Namespace) -> str:
    """Draw, measure and write; returns the table."""
    if min(options.pairs, options.maps) < 2 or options.threads < 1:
        raise SettingsError("E-SETTING", "a number out of range", wanted="at least two pairs and two maps")
    torch.set_num_threads(options.threads)
    cascade = Cascade(options.prior)
    card = cascade.coarse.card

    def draw(request: Request, number: int) -> Case:
        return cascade.draw(request, number, seed=options.seed)

    real = {
        part: real_brains(options.data, options.split, options.set, part=part, cache=options.cache)
        for part in ("train", "validation", "test")
    }
    people = condition_figures([brain for brains in real.values() for brain in brains])
    maps = [brain.labels for brain in real["test"][: options.maps]]
    drawn = effects(draw, card.vocabulary.ages, spacing_mm=card.spacing_mm, pairs=options.pairs)
    found = {"real": [(name, *row) for name, row in people.items()], "drawn": drawn + followed(draw, maps)}
    table = table_of(found)
    record = {name: [list(row) for row in rows] for name, rows in found.items()}
    rows = [dict(zip(_ROW, (kind, *row), strict=True)) for kind, figures in record.items() for row in figures]
    about = {"set": options.set, "prior": f"{card.name} {card.weights_sha256}"}
    figures = series(rows, by=_ROW[:2], values=_ROW[2:])
    told = finding("conditions", parser(), options, params=about, figures=figures)
    scoring.save(options.out, "conditions", table=table, record={"figures": record}, finding=told)
    return table


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0, or the exit code of the refusal."""
    return scoring.ended(run, parser(), arguments)


if __name__ == "__main__":
    raise SystemExit(main())
