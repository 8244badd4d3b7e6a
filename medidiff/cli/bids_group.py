"""The table and the page of all scans of a data set and what became of each; see `medidiff.cli.bids`."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from medidiff.cli.bids_participant import refusal_path
from medidiff.cli.bids_scans import BidsScan
from medidiff.cli.kept_reports import KeptReports
from medidiff.errors import MedidiffError
from medidiff.io import read
from medidiff.io.files.atomic import make_folder, sha256, write_file
from medidiff.io.sidecar import record_path, stored_provenance
from medidiff.qc import Case, CaseReport, case_report, cohort_page, write_page

__all__ = ["write_group_page", "write_table"]

_REPORTS = "report"  # folder of the scans' own pages; stands in .bidsignore

Refusal = Callable[[str, MedidiffError], None]

_COLUMNS = {
    "participant_id": "The participant, with sub-",
    "session_id": "The session, with ses-; n/a where there is none",
    "scan": "The scan's name",
    "state": "done, refused or missing",
    "code": "Why it was refused; docs/errors.md has every code",
    "noise_level": "Standard deviation of the noise in the scan's stored units, as it was estimated",
    "spacing_mm": "Voxel size of the result",
    "prior": "Name of the prior, and the beginning of the SHA-256 of its weights",
    "seed": "What randomness was drawn from",
    "version": "Version of medidiff",
    "decisions": "How many decisions the software took by itself; the record beside the scan names them",
}


def write_table(scans: Sequence[BidsScan], out: Path, task: str) -> Mapping[str, int]:
    """Write ``group.tsv``, and ``group.json`` that explains its columns.

    Args:
        scans: of the data set.
        out: root of the derived data set.
        task: ``"denoise"`` or ``"superresolve"``.

    Returns:
        How many scans are in each state.

    Raises:
        OutputError: the system refuses.
    """
    rows = [_row(scan, out, task) for scan in scans]
    lines = ["\t".join(_COLUMNS), *("\t".join(str(row.get(name, "n/a")) for name in _COLUMNS) for row in rows)]
    write_file(out / "group.tsv", lambda name: name.write_text("\n".join(lines) + "\n", "utf-8"))
    about = json.dumps({name: {"Description": text} for name, text in _COLUMNS.items()}, indent=2) + "\n"
    write_file(out / "group.json", lambda name: name.write_text(about, "utf-8"))
    return Counter(row["state"] for row in rows)


def write_group_page(scans: Sequence[BidsScan], out: Path, task: str, *, reports: bool, refused: Refusal) -> Path:
    """Write ``group.html``: the quality page of the cohort, with a row for each scan.

    Args:
        scans: of the data set.
        out: root of the derived data set.
        task: ``"denoise"`` or ``"superresolve"``.
        reports: whether each scan that is done gets a page of its own below ``report/``, with checks and flags; those
            that are there and still true are kept.
        refused: called with the name of a scan that could not be shown, and why.

    Raises:
        OutputError: the system refuses.
    """
    if reports:
        make_folder(out / _REPORTS)
    rows = []
    for scan in scans:
        row = _case(scan, out, task)
        if reports and row.state == "done":
            kept = KeptReports(out / _REPORTS, out, partial(refused, row.name))
            path = out / scan.derivative(task)
            row = kept.of(row, [sha256(scan.path), sha256(path)], partial(_report, scan, path, row.name))
        rows.append(row)
    place = out / "group.html"
    write_page(place, cohort_page(rows, title=f"{task} of {len(rows)} scans"))
    return place


def _case(scan: BidsScan, out: Path, task: str) -> Case:
    """A row of the page; labels of BIDS are pseudonyms by their standard, and may be shown."""
    name = f"{scan.stem}_{scan.suffix}"
    if refusal := _json(refusal_path(out, scan, task)):  # a result beside it is that of another time
        code = str(refusal.get("code", ""))
        return Case(name, "refused", task, code=code, mend=str(refusal.get("message", "")).removeprefix(f"{code}: "))
    path = out / scan.derivative(task)
    settings = _json(record_path(path)).get("Provenance", {}).get("settings", {})
    if settings and path.is_file():
        return Case(name, "done", task, level=settings.get("noise_level"))
    return Case(name, "waiting", task)


def _report(scan: BidsScan, path: Path, name: str) -> CaseReport:
    before = read(scan.path)
    if before.modality == "OT":  # below anat/ there is nothing but magnetic resonance
        before = dataclasses.replace(before, modality="MR")
    return case_report(before, read(path), name=name, provenance=stored_provenance(path))


def _row(scan: BidsScan, out: Path, task: str) -> Mapping[str, Any]:
    parts = scan.folder.parts
    known: dict[str, Any] = {"participant_id": parts[0], "scan": f"{scan.stem}_{scan.suffix}"}
    if parts[1].startswith("ses-"):
        known["session_id"] = parts[1]
    if refusal := _json(refusal_path(out, scan, task)):
        return known | {"state": "refused", "code": refusal.get("code", "n/a")}
    record = _json(record_path(out / scan.derivative(task))).get("Provenance")
    if isinstance(record, dict) and (out / scan.derivative(task)).is_file():
        return known | _told(record)
    return known | {"state": "missing"}


def _told(record: Mapping[str, Any]) -> dict[str, Any]:
    """What the record of a result says."""
    settings, prior = record.get("settings", {}), record.get("prior", {})
    return {
        "state": "done",
        "noise_level": f"{settings.get('noise_level', float('nan')):.6g}",
        "spacing_mm": " ".join(f"{side:.4g}" for side in settings.get("spacing_mm", ())),
        "prior": f"{prior.get('name', 'n/a')} {prior.get('sha256', '')[:12]}".strip(),
        "seed": record.get("seed"),
        "version": record.get("version"),
        "decisions": len(record.get("decisions", ())),
    }


def _json(path: Path) -> Mapping[str, Any]:
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
