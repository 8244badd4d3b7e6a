"""What `scope.py` and `scope_attack.py` share: scans are scored once each, and figures are made of the scores."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from findings import Finding, finding, machine, series, slug
from scope_tables import MARKED

from medidiff.errors import MedidiffError, SettingsError
from medidiff.prior import Prior
from medidiff.trust import scope_of
from medidiff.volume import Volume

__all__ = [
    "Row",
    "auroc",
    "drawn",
    "figures",
    "interval",
    "kept",
    "limit_of",
    "of_cases",
    "options",
    "rows",
    "run",
    "score_all",
    "scored",
]

Row = Mapping[str, Any]
_NAMES = ("kind", "case", "person", "scan", "number")  # tell the lines apart; a study may do without the last two
_DRAWS = 1000
_FALSE_ALARMS = 0.05


# --------------------------------------------------------------------------------------------------------- the commands


def options(about: str, *, out: str, writes: str) -> argparse.ArgumentParser:
    """The options that both commands have.

    Args:
        about: first line of ``--help``.
        out: folder when none is said.
        writes: what goes into it.
    """
    made = argparse.ArgumentParser(description=about)
    made.add_argument("verb", choices=("score", "report"))
    made.add_argument("--data", type=Path, default=os.environ.get("MEDIDIFF_DATA"), help="folder of the scans")
    made.add_argument("--out", type=Path, default=Path(out), help=f"folder for {writes}")
    made.add_argument("--prior", default="fine-t1", help="name or card of the prior")
    return made


def run(
    parser: argparse.ArgumentParser,
    words: Sequence[str] | None,
    *,
    score: Callable[[argparse.Namespace], int],
    report: Callable[[argparse.Namespace], int],
) -> int:
    """Do what the words ask for; 0, or the exit code of the refusal."""
    arguments = parser.parse_args(words)
    if arguments.verb == "score" and arguments.data is None:
        parser.error("say where the scans are: --data or MEDIDIFF_DATA")
    try:
        return score(arguments) if arguments.verb == "score" else report(arguments)
    except MedidiffError as refusal:
        print(refusal, file=sys.stderr)
        return refusal.exit_code


# ------------------------------------------------------------------------------------------------------------ measuring


def score_all(place: Path, prior: str, cases: Iterable[tuple[Row, Callable[[], Volume]]]) -> None:
    """Add a line to a file for every case that has none in it, in the order in which they come.

    Args:
        place: lines of JSON; several processes may add to one file at a time.
        prior: name or card of the prior that judges.
        cases: names of each, and what makes the scan.
    """
    card = Prior.card_of(prior)
    at = machine() | {"prior": f"{card.name} {card.weights_sha256}"}
    place.parent.mkdir(parents=True, exist_ok=True)
    known = {tuple(map(row.get, _NAMES)) for row in rows(place)}
    with place.open("a", encoding="utf-8") as stream:
        for names, make in cases:
            if tuple(map(names.get, _NAMES)) in known:
                continue
            volume = make()
            begin = time.process_time()
            scope = scope_of(volume, card)
            seconds = round(time.process_time() - begin, 3)
            row = {**names, "seconds": seconds, "voxels": volume.data.size, **scope.record(), "at": at}
            stream.write(json.dumps(row) + "\n")
            stream.flush()
            who = names.get("scan", names["person"])
            print(f"{names['kind']}: {names['case']}, {who}: {scope.score:.2f}", file=sys.stderr)


def rows(place: Path) -> list[Row]:
    """What was measured."""
    return [json.loads(line) for line in place.read_text(encoding="utf-8").splitlines()] if place.is_file() else []


def scored(place: Path) -> list[Row]:
    """What was measured, scans of the right kind among it.

    Raises:
        SettingsError: there are none of these.
    """
    found = rows(place)
    if not any(row["kind"] == "in scope" for row in found):
        told = f"no scans of the right kind in {place.name}"
        raise SettingsError("E-SETTING", told, mend="Run 'score' first.", attribute="--out")
    return found


# ---------------------------------------------------------------------------------------------------------- the figures


def auroc(far: Sequence[float], near: Sequence[float]) -> float:
    """Probability that one of `far` is larger than one of `near`, ties by half."""
    a, b = np.asarray(far)[:, None], np.asarray(near)[None]
    return float(((a > b) + 0.5 * (a == b)).mean())


def limit_of(scores: Sequence[float]) -> float:
    """The smallest score that at most 5 % of these lie above."""
    ordered = np.sort(np.asarray(scores))
    return float(ordered[max(0, int(np.ceil((1 - _FALSE_ALARMS) * len(ordered))) - 1)])


def drawn(found: Sequence[Row], rng: np.random.Generator) -> list[float]:
    """Scores of as many people, drawn with replacement, all of a person's scans at once."""
    names = sorted({row["person"] for row in found})
    chosen = [names[n] for n in rng.integers(0, len(names), len(names))]
    by_person = {name: [row["score"] for row in found if row["person"] == name] for name in names}
    return [value for name in chosen for value in by_person[name]]


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Where 95 % of bootstrap values lie."""
    low, high = np.percentile(values, (2.5, 97.5))
    return float(low), float(high)


def _share(scores: Sequence[float], limit: float = MARKED) -> float:
    return float(np.mean(np.asarray(scores) > limit))


def figures(found: Sequence[Row]) -> dict[str, Any]:
    """All that is told of rows with a kind, a case, a person and a score, as JSON values."""
    inside = [row for row in found if row["kind"] == "in scope"]
    reference = [row["score"] for row in inside]
    limit = limit_of(reference)
    told: dict[str, Any] = {"limit at 5 %": limit, "in scope": {}, "cases": {}}
    for case in dict.fromkeys(row["case"] for row in inside):
        each = [row["score"] for row in inside if row["case"] == case]
        told["in scope"][case] = {"n": len(each), "marked": _share(each), "largest": max(each)}
    rng = np.random.default_rng(0)
    alarms = [_share(drawn(inside, rng)) for _ in range(_DRAWS)]
    told["all in scope"] = {"n": len(inside), "people": len({row["person"] for row in inside})}
    told["all in scope"] |= {"marked": _share(reference), "interval": interval(alarms)}
    for case in dict.fromkeys(row["case"] for row in found if row["kind"] != "in scope"):
        rows_of = [row for row in found if row["case"] == case and row["kind"] != "in scope"]
        each = [row["score"] for row in rows_of]
        boot = [(drawn(rows_of, rng), drawn(inside, rng)) for _ in range(_DRAWS)]
        told["cases"][case] = {
            "n": len(each),
            "caught": _share(each),
            "caught interval": interval([_share(a) for a, _ in boot]),
            "caught at 5 %": _share(each, limit),
            "AUROC": auroc(each, reference),
            "AUROC interval": interval([auroc(a, b) for a, b in boot]),
        }
    near = [row["seconds"] for row in found if 0.7 < row["voxels"] / 128**3 < 1.4]  # about as large as 128^3
    told["seconds for about 128^3"] = float(np.median(near)) if near else None
    return told


# --------------------------------------------------------------------------------------------------------- what is kept


def of_cases(told: Mapping[str, Any], *before: str) -> dict[str, dict[int, float]]:
    """What a bootstrap or all scans of the right kind were needed for, by metric name; see `findings.py`."""
    out: dict[str, dict[int, float]] = {"limit/5 of the right kind": {1: told["limit at 5 %"]}}
    if told["seconds for about 128^3"] is not None:
        out["seconds/about 128 cubed"] = {1: told["seconds for about 128^3"]}
    for case, f in told["cases"].items():
        values = {"auroc": f["AUROC"]}
        for figure, name in (("caught", "caught interval"), ("auroc", "AUROC interval")):
            values |= {f"{figure}_low": f[name][0], f"{figure}_high": f[name][1]}
        out |= {"/".join((figure, *before, slug(case))): {1: value} for figure, value in values.items()}
    return out


def kept(
    script: str,
    parser: argparse.ArgumentParser,
    arguments: argparse.Namespace,
    *,
    found: Sequence[Row],
    by: Sequence[str],
    figures: Mapping[str, Mapping[int, float]],
    about: Mapping[str, object],
) -> Finding:
    """What `report.py keep` takes: every score, by names of columns, and what was made of all of them.

    Args:
        script: file name of the command.
        parser: its options.
        arguments: what was asked of the report.
        found: the rows; the machine and the prior are those of the last.
        by: columns that tell figures apart; the scans of each are numbered as they come.
        figures: see `of_cases`.
        about: what else is to be known.
    """
    counted: Counter[tuple[str, ...]] = Counter()
    numbered = []
    for row in found:
        key = tuple(slug(row[name]) for name in by)
        counted[key] += 1
        numbered.append({**row, "scan": counted[key]})
    asked = argparse.Namespace(**{**vars(arguments), "verb": "score"})
    scores = series(numbered, by=by, values=("score",))
    told = {"prior": "unknown", **found[-1].get("at", {}), **about}
    return finding(script, parser, asked, params=told, figures={**scores, **figures})
