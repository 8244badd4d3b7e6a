"""Measure what synthetic scans are worth to a segmenter: `python validation/utility.py --help`.

A fixed small 3D segmenter of tissue (`segmenter.py`, 2 mm) is trained from the same seeds for the same number of steps

* on the synthetic set alone, on the real training subjects alone, and on both, half of the patches from each;
* on the real subjects with classical augmentation (turns, zoom, mirroring, gamma, gain, noise), the control that costs
  nothing, also together with the synthetic set;
* and the same with five real subjects only,

and tested on the real test subjects. Labels of real scans are those of the classifier in `brains.py`, so this measures
how well *it* is imitated; synthetic scans bring their own maps. Figures are means over seeds; intervals are bootstraps
over test subjects, and those of differences are paired. ``--self-check`` lets two real training scans, smoothly warped,
stand in for the synthetic set.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scoring
import torch
from brains import FRAME, TISSUES, drawn_by, framed, halved, map_of, real_brains, set_options
from corruptions import warped
from findings import finding, series
from numpy.typing import NDArray
from segmenter import Pair, Score, score, seconds_a_step, train

from medidiff import io
from medidiff.errors import InputError, SettingsError
from medidiff.version import __version__

FEW = 5
_BASE = "real"
_SHARE_FOR_TRAINING = 0.8  # of --minutes; the rest is reading and scoring


@dataclass(frozen=True, slots=True)
class Arm:
    """What one segmenter is trained on."""

    name: str
    real: int | None
    synthetic: bool
    augment: bool = False


ARMS = (
    Arm("synthetic", 0, True),
    Arm("real", None, False),
    Arm("real + synthetic", None, True),
    Arm("real, augmented", None, False, augment=True),
    Arm("real + synthetic, augmented", None, True, augment=True),
    Arm("few real", FEW, False),
    Arm("few real + synthetic", FEW, True),
    Arm("few real, augmented", FEW, False, augment=True),
    Arm("few real + synthetic, augmented", FEW, True, augment=True),
)
"""All that is compared; `real` is how many subjects, None for all."""


def control_of(arm: Arm) -> str:
    """The arm that another is compared with: the same real subjects, neither synthetic nor augmented."""
    return "few real" if arm.real == FEW else _BASE


def synthetic_pairs(folder: Path, count: int) -> list[Pair]:
    """Scans and maps of a BIDS folder at 2 mm; a coarse voxel is what most of its eight voxels are.

    Raises:
        InputError: ``E-NOIMAGES`` or ``E-LABELS``, there are none, or one lacks a map on its grid.
    """
    paths = sorted(folder.glob("sub-*/anat/*_T1w.nii.gz"))
    if not paths:
        raise InputError("E-NOIMAGES", "no synthetic scans", wanted="sub-*/anat/*_T1w.nii.gz", file=folder.name)
    found = []
    for path in paths[:count] if count else paths:
        beside = map_of(path)
        scan = io.read(path)
        table = io.read(beside).data[0] if beside.is_file() else np.zeros((0, 0, 0))
        if not scan.shape == table.shape == FRAME.shape:
            raise InputError("E-LABELS", "a scan without a map on the 1 mm frame", file=path.name)
        found.append(Pair(halved(framed(scan)), majority(np.rint(table).astype(np.uint8))))
    return found


def majority(labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A label map at half the resolution: the label of most of the eight voxels, the lower one in a tie."""
    shares = np.stack([halved(labels == label) for label in range(len(TISSUES) + 1)])
    return shares.argmax(axis=0).astype(np.uint8)


def warped_pairs(pairs: Sequence[Pair], count: int) -> list[Pair]:
    """Real pairs, smoothly warped, in the place of synthetic ones; each pair in turn."""
    found = []
    for number in range(count):
        pair = pairs[number % len(pairs)]
        image = warped(pair.image, number, size=1.5, reach=6.0, order=1)
        labels = warped(pair.labels.astype(np.float32), number, size=1.5, reach=6.0, order=0)
        found.append(Pair(image, np.rint(labels).astype(np.uint8)))
    return found


def scored(
    arms: Sequence[Arm],
    real: Sequence[Pair],
    synthetic: Sequence[Pair],
    test: Sequence[Pair],
    *,
    steps: int,
    seeds: int,
) -> dict[str, list[list[Score]]]:
    """Train every arm from every seed and score it: by arm, seed and test subject."""
    found: dict[str, list[list[Score]]] = {}
    for arm in arms:
        sets = [list(real[: arm.real])] * (arm.real != 0) + [list(synthetic)] * arm.synthetic
        found[arm.name] = []
        for seed in range(seeds):
            model = train(sets, steps=steps, seed=seed, augment=arm.augment)
            found[arm.name].append([score(model, pair) for pair in test])
            overall = np.mean([each.dice for each in found[arm.name][-1]])
            print(f"{arm.name}, seed {seed}: Dice {overall:.3f}", file=sys.stderr, flush=True)
    return found


def by_subject(scores: Sequence[Sequence[Score]], field: str) -> NDArray[np.float64]:
    """Means over seeds, (test subjects, tissues and their mean)."""
    values = np.array([[getattr(each, field) for each in subjects] for subjects in scores], dtype=np.float64)
    values = np.nan_to_num(values).mean(axis=0)
    return np.column_stack((values, values.mean(axis=1)))


def interval(values: NDArray[np.float64], *, resamples: int = 2000, seed: int = 0) -> tuple[float, float, float]:
    """Mean over subjects and its 95 % bootstrap interval."""
    rng = np.random.default_rng(seed)
    drawn = values[rng.integers(len(values), size=(resamples, len(values)))].mean(axis=1)
    low, high = np.percentile(drawn, (2.5, 97.5))
    return float(values.mean()), float(low), float(high)


def summary(found: Mapping[str, list[list[Score]]]) -> list[dict[str, Any]]:
    """A row for each arm: Dice and surface distance by tissue, and the paired gain in mean Dice over its control."""
    rows = []
    for arm in (arm for arm in ARMS if arm.name in found):
        overlaps, apart = (by_subject(found[arm.name], field) for field in ("dice", "surface_mm"))
        row: dict[str, Any] = {"arm": arm.name, "control": control_of(arm)}
        for column, tissue in enumerate((*TISSUES, "mean")):
            row[f"dice {tissue}"] = interval(overlaps[:, column])
            row[f"surface {tissue} (mm)"] = interval(apart[:, column])
        if arm.name != row["control"] and row["control"] in found:
            row["gain"] = interval(overlaps[:, -1] - by_subject(found[row["control"]], "dice")[:, -1])
        rows.append(row)
    return rows


def verdict(row: Mapping[str, Any]) -> str:
    """A gain in words: whether its interval lies on one side of 0."""
    if "gain" not in row:
        return ""
    _, low, high = row["gain"]
    return "gain" if low > 0 else "loss" if high < 0 else "none shown"


def report_mapping(record: Mapping[str, Any]) -> dict[str, Any]:
    """What the report of the gates carries of a result, JSON values only: how it was measured and what came out.

    Args:
        record: as in ``utility.json``.
    """
    rows = {row["arm"]: row for row in record["arms"]}
    kept = ("steps", "seeds", "real", "synthetic", "test")
    return {
        "measured": {name: record["params"][name] for name in kept},
        "dice": {name: list(row["dice mean"]) for name, row in rows.items()},
        "gain": {
            name: {"over": row["control"], "value": list(row["gain"]), "verdict": verdict(row)}
            for name, row in rows.items()
            if "gain" in row
        },
    }


def every_figure(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[int, float]]:
    """Each figure of each arm with its interval, by name."""
    parts = ("value", "low", "high")
    told = [
        {"arm": row["arm"], "figure": figure, **dict(zip(parts, found, strict=True))}
        for row in rows
        for figure, found in row.items()
        if figure not in ("arm", "control")
    ]
    return series(told, by=("arm", "figure"), values=parts)


def markdown(rows: Sequence[Mapping[str, Any]], heading: str) -> str:
    """The table: an arm a row, mean and 95 % interval over test subjects."""
    lines = [
        heading,
        "",
        "| trained on | "
        + " | ".join(f"Dice {t}" for t in (*TISSUES, "mean"))
        + " | surfaces (mm) | gain in mean Dice | over |",
        "|---|" + "--:|" * 6 + "---|",
    ]
    for row in rows:
        cells = [_cell(row[f"dice {tissue}"]) for tissue in (*TISSUES, "mean")]
        gain = f"{_cell(row['gain'], '+.3f')}, {verdict(row)}" if "gain" in row else ""
        over = row["control"] if "gain" in row else ""
        lines.append("| " + " | ".join((row["arm"], *cells, _cell(row["surface mean (mm)"], ".2f"), gain, over)) + " |")
    return "\n".join(lines) + "\n"


def _cell(values: Sequence[float], form: str = ".3f") -> str:
    value, low, high = values
    return f"{value:{form}} ({low:{form}} to {high:{form}})"


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    out = set_options(__doc__, check="warped real training scans in place of invented ones")
    out.add_argument("--stand-ins", type=int, default=24, help="of --self-check, made of two real subjects")
    names = [arm.name for arm in ARMS]
    out.add_argument("--arms", nargs="*", choices=names, default=names, metavar="ARM", help="what to train on")
    out.add_argument("--seeds", type=int, default=3, help="trainings of each arm")
    out.add_argument("--steps", type=int, default=0, help="of each training; 0 for as many as fit --minutes")
    out.add_argument("--minutes", type=float, default=30.0, help="for all trainings together")
    out.add_argument("--out", type=Path, default=Path("out/utility"), help="folder for table and JSON")
    out.add_argument(
        "--mlflow", default="", help="tracking URI; empty for medidiff's own store, 'none' for no tracking"
    )
    return out


def run(options: argparse.Namespace) -> str:
    """Train, score, write both files, log; returns the table."""
    good = min(options.count, options.steps) >= 0 and min(options.seeds, options.threads, options.stand_ins) >= 1
    one = options.self_check != (options.synthetic is not None)
    if not good or options.minutes <= 0 or not one or not options.arms:
        found = "a number out of range, no arm, or not one of SYNTHETIC_DIR and --self-check"
        raise SettingsError("E-SETTING", found, wanted="a folder, or --self-check")
    torch.set_num_threads(options.threads)
    real, test = (
        [
            Pair(brain.coarse, brain.labels)
            for brain in real_brains(options.data, options.split, options.set, part=part, cache=options.cache)
        ]
        for part in ("train", "test")
    )
    if options.self_check:
        synthetic = warped_pairs(real[-2:], options.stand_ins)
    else:
        synthetic = synthetic_pairs(options.synthetic, options.count)
    arms = [arm for arm in ARMS if arm.name in options.arms]
    steps = options.steps
    if not steps:
        seconds = 60 * options.minutes * _SHARE_FOR_TRAINING / (len(arms) * options.seeds)
        steps = max(1, round(seconds / seconds_a_step(real[:2])))
    found = scored(arms, real, synthetic, test, steps=steps, seeds=options.seeds)
    params = {
        "version": __version__,
        "set": options.set,
        "steps": steps,
        "seeds": options.seeds,
        "real": len(real),
        "few": FEW,
        "prior": drawn_by(options.synthetic),
        "synthetic": len(synthetic),
        "stand_ins": options.self_check,
        "test": len(test),
        "split_sha256": hashlib.sha256(options.split.read_bytes()).hexdigest(),
    }
    rows = summary(found)
    kind = "warped stand-ins of two real subjects" if options.self_check else "synthetic scans"
    heading = (
        f"Tissue at 2 mm on {len(test)} unseen subjects of {options.set}: {len(real)} real, {len(synthetic)} {kind}, "
        f"{steps} steps, {options.seeds} seeds; mean and 95 % interval over subjects."
    )
    table = markdown(rows, heading)
    scores = {name: [[asdict(each) for each in part] for part in parts] for name, parts in found.items()}
    record = json.loads(json.dumps({"params": params, "arms": rows, "scores": scores}))
    record["report"] = report_mapping(record)
    told = finding("utility", parser(), options, params=params, figures=every_figure(rows))
    written = scoring.save(options.out, "utility", table=table, record=record, finding=told)
    if options.mlflow != "none":
        log(params, rows, written, options.mlflow or None)
    return table


def log(params: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], written: Sequence[Path], uri: str | None) -> None:
    """Send the means to MLflow, and the table with them."""
    from medidiff.tracking import log_metrics

    metrics = {}
    for row in rows:
        tail = row["arm"].replace(",", "").replace("+", "and").replace(" ", "_")
        metrics[f"dice_{tail}"] = row["dice mean"][0]
        metrics[f"surface_mm_{tail}"] = row["surface mean (mm)"][0]
        if "gain" in row:
            metrics[f"gain_{tail}"] = row["gain"][0]
    log_metrics("utility", params, metrics, artifacts=written, uri=uri)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0, or the exit code of the refusal."""
    return scoring.ended(run, parser(), arguments)


if __name__ == "__main__":
    raise SystemExit(main())
