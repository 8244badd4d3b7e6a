"""Measure a synthetic set against real scans: `python validation/synthesis.py --help`.

`python validation/synthesis.py SYNTHETIC_DIR --data DATA` reads a BIDS folder of invented T1w scans and compares it
twice: with the training subjects (whom a prior must resemble) and with the validation and test subjects, whom it never
saw.
Floors are those of two random halves of *all* real subjects. Every figure has its number of cases and a 95 % interval;
`docs/synthesis.md` says how each is defined. ``--self-check`` needs no synthetic set: unseen real scans, as they are
and with known faults, take its place, and show what the command sees and what it does not.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import scoring
import torch
from brains import Brain, drawn_by, real_brains, set_options, synthetic_brains
from corruptions import CORRUPTIONS
from findings import finding, series
from set_features import separations
from set_features import table as table_of
from set_figures import FIGURES, Likeness, Measured, compared, condition_figures, held, markdown, metric_names

from medidiff.errors import SettingsError
from medidiff.io.files.atomic import make_folder, write_file

PARTS = ("train", "validation", "test")
_WINDOW = (0.0, 1.05)


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    out = set_options(__doc__, check="judge real scans and real scans with known faults")
    out.add_argument(
        "--faults", nargs="*", choices=sorted(CORRUPTIONS), default=sorted(CORRUPTIONS), help="of --self-check"
    )
    out.add_argument("--resamples", type=int, default=200, help="bootstrap draws")
    out.add_argument("--halvings", type=int, default=100, help="of the real scans, for the floors")
    out.add_argument("--grid", type=int, default=24, help="scans of each kind on the picture; 0 for no picture")
    out.add_argument("--blind", action="store_true", help="also a shuffled picture without labels, and its key")
    out.add_argument("--seed", type=int, default=0, help="of halvings, draws and the shuffle")
    out.add_argument("--out", type=Path, default=Path("out/synthesis"), help="folder for tables, JSON and pictures")
    out.add_argument(
        "--mlflow", default="", help="tracking URI; empty for medidiff's own store, 'none' for no tracking"
    )
    return out


def judged_sets(options: argparse.Namespace, real: Mapping[str, Sequence[Brain]]) -> dict[str, list[Brain]]:
    """The sets to judge by name: the synthetic one, or those of the self-check."""
    if not options.self_check:
        return {"synthetic": synthetic_brains(options.synthetic, count=options.count, cache=options.cache)}
    unseen = [*real["validation"], *real["test"]]
    sets = {"unseen": unseen, "one scan": [dataclasses.replace(unseen[0]) for _ in unseen]}
    for name in options.faults:
        changed = [
            real_brains(
                options.data, options.split, options.set, part=part, cache=options.cache, change=CORRUPTIONS[name]
            )
            for part in PARTS[1:]
        ]
        sets[name] = [*changed[0], *changed[1]]
        print(f"{name}: {len(sets[name])} scans", file=sys.stderr)
    return sets


def pictures(options: argparse.Namespace, real: Sequence[Brain], judged: Sequence[Brain], name: str) -> list[Path]:
    """Draw real beside synthetic scans, and with ``--blind`` the same shuffled, with a key file; returns the files."""
    from medidiff.report import montage

    rng = np.random.default_rng(options.seed)
    kinds = {
        kind: [scans[place].mosaic for place in np.sort(rng.permutation(len(scans))[: options.grid])]
        for kind, scans in (("real", real), (name, judged))
    }
    columns = min(8, max(len(shown) for shown in kinds.values()))
    named = {}
    for kind, shown in kinds.items():
        named |= {f"{kind} {number:02}": picture for number, picture in enumerate(shown, start=1)}
        named |= {
            " " * (number + 1 + 100 * (kind == "real")): np.zeros((2, 2)) for number in range(-len(shown) % columns)
        }
    written = [montage(options.out / "grid.png", named, columns=columns, window=_WINDOW, inches=2.6)]
    if options.blind:
        mixed = [(kind, picture) for kind, shown in kinds.items() for picture in shown]
        order = rng.permutation(len(mixed))
        blind = {f"{number:02}": mixed[place][1] for number, place in enumerate(order, start=1)}
        written.append(montage(options.out / "blind.png", blind, columns=columns, window=_WINDOW, inches=2.6))
        key = {f"{number:02}": mixed[place][0] for number, place in enumerate(order, start=1)}
        written.append(options.out / "blind-key.json")
        write_file(written[-1], lambda path: path.write_text(json.dumps(key, indent=1), encoding="utf-8"))
    return written


def condition_table(
    sets: Mapping[str, Sequence[Brain]], resamples: int
) -> tuple[str, dict[str, dict[str, list[float]]]]:
    """What age, sex and maps have to do with the tissue, real and judged; as a table and as numbers."""
    found = {name: condition_figures(brains, resamples=resamples) for name, brains in sets.items()}
    lines = ["| set | condition | value | 95 % interval | n |", "|---|---|--:|--:|--:|"]
    for name, figures in found.items():
        for figure, (value, low, high, count) in figures.items():
            lines.append(f"| {name} | {figure} | {value:.3g} | {low:.3g} to {high:.3g} | {count} |")
    record = {name: {figure: list(row) for figure, row in figures.items()} for name, figures in found.items()}
    return "\n".join(lines) + "\n", record


def overview(found: Mapping[str, Mapping[str, Measured]]) -> str:
    """Every set in a column, every figure in a row; bold where it lies outside of the floor's range."""
    lines = ["| figure | " + " | ".join(found) + " |", "|---|" + "--:|" * len(found)]
    for figure in FIGURES:
        cells = []
        for figures in found.values():
            m = figures[figure.name]
            outside = not m.floor_low <= m.value <= m.floor_high
            cells.append(f"**{m.value:.{figure.digits}f}**" if outside else f"{m.value:.{figure.digits}f}")
        lines.append(f"| {figure.name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def run(options: argparse.Namespace) -> str:
    """Measure, write tables, JSON and pictures, log; returns the tables."""
    good = min(options.count, options.grid, options.seed) >= 0 and options.threads >= 1
    if not good or options.self_check == (options.synthetic is not None):
        found = "a number out of range, or not one of SYNTHETIC_DIR and --self-check"
        raise SettingsError("E-SETTING", found, wanted="a folder, or --self-check")
    torch.set_num_threads(options.threads)
    real = {
        part: real_brains(options.data, options.split, options.set, part=part, cache=options.cache) for part in PARTS
    }
    every = [brain for brains in real.values() for brain in brains]
    references = {"train": real["train"], "unseen": [*real["validation"], *real["test"]]}
    sets = judged_sets(options, real)
    make_folder(options.out)
    tables, record, metrics = [], {}, {}
    summary: dict[str, dict[str, Measured]] = {}
    likeness = Likeness()
    for name, judged in sets.items():
        for reference, brains in references.items():
            if options.self_check and reference == "unseen":
                continue  # they are what is judged
            figures = compared(
                brains,
                judged,
                halved=every,
                resamples=options.resamples,
                halvings=options.halvings,
                seed=options.seed,
                likeness=likeness,
            )
            heading = f"{name} ({len(judged)}) against real scans: {reference} ({len(brains)}) of {options.set}."
            tables.append(markdown(figures, heading))
            record[f"{name} against {reference}"] = {
                figure.name: asdict(figures[figure.name]) | {"target": held(figure, figures[figure.name])}
                for figure in FIGURES
            }
            metrics |= metric_names(figures, f"{name.replace(' ', '_')}_{reference}")
            summary[name if options.self_check else f"{name} against {reference}"] = figures
    conditions, numbers = condition_table({"real": every} | sets, options.resamples)
    tables.append(conditions)
    if options.self_check:
        apart = separations(real["train"], sets, every, halvings=options.halvings, seed=options.seed)
        tables.insert(
            0, "KID against the training scans in standard deviations of real against real.\n\n" + table_of(apart)
        )
        tables.insert(0, "In bold: outside of 95 % of halvings of the real scans.\n\n" + overview(summary))
    table = "\n".join(tables)
    name = "self-check" if options.self_check else "synthesis"
    params = parameters(options, every, sets)
    told = finding("synthesis", parser(), options, params=params, figures=every_figure(record, numbers))
    whole = {"figures": record, "conditions": numbers}
    written = scoring.save(options.out, name, table=table, record=whole, finding=told)
    if options.grid:
        first = next(iter(sets))
        written += pictures(options, every, sets[first], first)
    if options.mlflow != "none":
        from medidiff.tracking import log_metrics

        log_metrics(name, told.params, metrics, artifacts=written, uri=options.mlflow or None)
    return table


def every_figure(
    record: Mapping[str, Mapping[str, Mapping[str, Any]]], conditions: Mapping[str, Mapping[str, Sequence[float]]]
) -> dict[str, dict[int, float]]:
    """Each figure with its interval and floor, and each condition, by name."""
    rows = [{"set": name, "figure": figure, **m} for name, found in record.items() for figure, m in found.items()]
    rows += [
        {"set": name, "figure": figure, **dict(zip(("value", "low", "high", "n"), row, strict=True))}
        for name, found in conditions.items()
        for figure, row in found.items()
    ]
    values = ("value", "low", "high", "floor", "floor_low", "floor_high", "n_real", "n_synthetic", "n")
    return series(rows, by=("set", "figure"), values=values)


def parameters(
    options: argparse.Namespace, real: Sequence[Brain], sets: Mapping[str, Sequence[Brain]]
) -> dict[str, str]:
    """What the figures depend on, for the record."""
    return {
        "set": options.set,
        "prior": drawn_by(options.synthetic),
        "real": str(len(real)),
        "judged": ", ".join(f"{name} {len(brains)}" for name, brains in sets.items()),
        "resamples": str(options.resamples),
        "halvings": str(options.halvings),
        "seed": str(options.seed),
        "split_sha256": hashlib.sha256(options.split.read_bytes()).hexdigest(),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0, or the exit code of the refusal."""
    return scoring.ended(run, parser(), arguments)


if __name__ == "__main__":
    raise SystemExit(main())
