"""Measure whether another's cases are told from scans of the right kind: `python validation/scope_attack.py --help`.

The cases are a tester's, who had not seen those of `scope.py`: nine ways to be out of scope and one to be in it, made
of people of the test and validation parts (``attack_*.py``). ``score`` adds a line for each to ``scope_attack.jsonl``;
what stands there is not judged again. ``--parts`` and ``--people`` limit what is done, so that processes can share the
work and the file. ``report`` counts (see `scope.py` for what its words mean), by kind:

* scans of the right kind that were changed more than a user's are (`attack_inside.HARSH`) are counted apart;
* a scan with 10 % of noise is no case of pure noise.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from attack_denoised import denoised
from attack_grey import grey
from attack_inside import HARSH, inside
from attack_noise import LEFT_OUT, noise
from attack_order import pose, slabs
from attack_other import other
from attack_scans import Case
from findings import Finding
from scope_scores import Row, figures, kept, of_cases, options, run, score_all, scored
from scope_tables import attack, attack_alarms

from medidiff.volume import Volume

PARTS: Mapping[str, Callable[[Path, Sequence[str] | None], Iterator[Case]]] = {
    "inside": inside,
    "pose": pose,
    "slabs": slabs,
    "grey": grey,
    "noise": noise,
    "other": other,
    "denoised": denoised,
}
_KINDS = (
    "contrast",
    "body part",
    "mirrored",
    "upside down",
    "denoised",
    "swapped slabs",
    "inverted",
    "8 bit",
    "noise",
)


def score(arguments: argparse.Namespace) -> int:
    """Add what is missing to the file of scores."""
    score_all(arguments.out / "scope_attack.jsonl", arguments.prior, _asked(arguments))
    return 0


def _asked(arguments: argparse.Namespace) -> Iterator[tuple[Row, Callable[[], Volume]]]:
    """Names of each case that is asked for, those of one name numbered, and what makes a volume of it."""
    for part in arguments.parts or PARTS:
        before: Counter[tuple[str, str, str]] = Counter()
        for kind, case, whose, scan in PARTS[part](arguments.data, arguments.people):
            before[kind, case, whose] += 1
            names = {"kind": kind, "case": case, "person": whose.split(",")[0], "scan": whose}
            if not arguments.people or whose in arguments.people:
                yield {**names, "number": before[kind, case, whose]}, scan.volume


def counted(found: Sequence[Row]) -> list[Row]:
    """The rows that count, with what tells them apart in the kept figures: *kind*, *case* and *place*."""
    out: list[Row] = []
    for row in found:
        harsh = row["kind"] == "in scope" and row["case"] in HARSH
        place = "training site" if row["person"].startswith(("brain", "validation brain")) else "elsewhere"
        if row["kind"] != "noise" or row["case"] != LEFT_OUT:
            out.append({**row, "kind": "harsh" if harsh else row["kind"], "place": place})
    return out


def found_in(found: Sequence[Row], arguments: argparse.Namespace) -> Finding:
    """What is kept of the rows: every score, and what is told of each kind as a whole."""
    rows = sorted(counted(found), key=lambda row: (row["kind"], row["case"], row["scan"], row["number"]))
    by_kind = [{**row, "case": row["kind"]} if row["kind"] != "in scope" else row for row in rows]
    told = figures([row for row in by_kind if row["kind"] != "harsh"])
    kinds = [kind for kind in _KINDS if kind in told["cases"]]
    about = {"set": "t1-ds002748, t1-head, ms-open, ct-lung", "part": "test and validation", "kinds": "; ".join(kinds)}
    about["people"] = str(told["all in scope"]["people"])
    for kind in dict.fromkeys(row["kind"] for row in rows):
        about[f"cases.{kind}"] = "; ".join(dict.fromkeys(row["case"] for row in rows if row["kind"] == kind))
    by = ("kind", "place", "case")
    return kept("scope_attack", parser(), arguments, found=rows, by=by, figures=of_cases(told), about=about)


def report(arguments: argparse.Namespace) -> int:
    """Write ``scope_attack.json``, from which `report.py keep` takes the figures, and ``scope_attack.md``."""
    finding = found_in(scored(arguments.out / "scope_attack.jsonl"), arguments)
    tables = "\n\n".join(table(finding).markdown() for table in (attack, attack_alarms)) + "\n"
    record = json.dumps({"finding": finding.record()}, indent=1)
    (arguments.out / "scope_attack.json").write_text(record + "\n", encoding="utf-8")
    (arguments.out / "scope_attack.md").write_text(tables, encoding="utf-8")
    print(tables, end="")
    return 0


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    out = options(__doc__.splitlines()[0], out="out/scope-attack", writes="scope_attack.*")
    out.add_argument("--parts", nargs="*", choices=tuple(PARTS), help="of the cases; all when left out")
    out.add_argument("--people", nargs="*", help="whose scans, e.g. 'brain 1'; everyone's when left out")
    return out


def main(words: Sequence[str] | None = None) -> int:
    """Run the command; 0, or the exit code of the refusal."""
    return run(parser(), words, score=score, report=report)


if __name__ == "__main__":
    raise SystemExit(main())
