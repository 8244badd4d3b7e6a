"""``medidiff info``: what a file or folder holds."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Sequence

from medidiff.cli.screen import Screen
from medidiff.cli.session import Session
from medidiff.cli.verbs import Info
from medidiff.errors import printable
from medidiff.io import Contents, Found, Scan, SeriesSummary, Skipped
from medidiff.io.files.names import safe_label

__all__ = ["run"]

_COLUMNS = ("scan", "modality", "voxels", "spacing (mm)", "axes", "values", "files", "state")
_SHOWN_FILES = 3  # names of each reason for leaving files out


def run(verb: Info, session: Session) -> None:
    """Print every scan that a path holds; one that cannot be read is listed with its problem.

    Raises:
        InputError: nothing is there, or the format is unknown.
    """
    screen = Screen(verb.json)
    found = session.find(verb.path)
    session.account.files(found, {})
    contents = _nameless(found, session.account.plain)
    if verb.json:
        document = dataclasses.asdict(contents)
        for number, series in enumerate(document["series"], 1):
            series["scan"] = number
        screen.document(document)
        return
    screen.columns(_COLUMNS, [_row(number, series) for number, series in enumerate(contents.series, 1)])
    for number, (scan, series) in enumerate(zip(found.scans, contents.series, strict=True), 1):
        facts = _facts(found.format, scan, series)
        print(f"\nscan {number}")
        screen.lines({f"  {name}": printable(str(value)) for name, value in facts.items()})
    if contents.skipped:
        count = len(contents.skipped)
        print(f"\n{count} file{' is' if count == 1 else 's are'} no part of a scan")
        screen.lines(_reasons(contents.skipped))


def _nameless(found: Found, plain: Callable[[str], str]) -> Contents:
    """What was found, with the label of each file in the place of its name: people put patients into file names."""
    series = tuple(
        dataclasses.replace(
            scan.summary, decisions=tuple(map(plain, scan.summary.decisions)), problem=plain(scan.summary.problem)
        )
        for scan in found.scans
    )
    skipped = tuple(Skipped(safe_label(each.file), plain(each.reason)) for each in found.skipped)
    return Contents(found.format, series, skipped)


def _row(number: int, series: SeriesSummary) -> list[str]:
    size = " x ".join(str(n) for n in series.shape) or "no regular grid"
    spacing = " x ".join(f"{s:.4g}" for s in series.spacing_mm) or "-"
    values = " ".join(part for part in (series.dtype, series.units) if part) or "-"
    state = series.problem.split(":")[0] if series.problem else "can be read"
    cells = (series.modality, size, spacing, series.orientation or "-", values, series.files, state)
    return [str(number), *(printable(str(cell)) for cell in cells)]


def _facts(format: str, scan: Scan, series: SeriesSummary) -> dict[str, object]:
    facts: dict[str, object] = {"format": format}
    if scan.files:
        facts["first file"] = safe_label(scan.files[0])
    if series.shape:
        facts["first voxel"] = ", ".join(f"{row[3]:.3f}" for row in series.affine[:3]) + " mm (RAS+)"
    facts |= dict(series.details)
    for number, sentence in enumerate(series.decisions, 1):
        facts[f"note {number}"] = sentence
    return facts | ({"problem": series.problem} if series.problem else {})


def _reasons(skipped: Sequence[Skipped]) -> dict[str, object]:
    """How many files were left out for each reason, the most common first, with the names of some."""
    files: dict[str, list[str]] = defaultdict(list)
    for each in skipped:
        files[printable(each.reason)].append(printable(each.file))
    rows = sorted(files.items(), key=lambda row: -len(row[1]))
    more = {reason: ", ..." if len(names) > _SHOWN_FILES else "" for reason, names in rows}
    return {
        f"  {len(names):>5}  {reason}": f"({', '.join(names[:_SHOWN_FILES])}{more[reason]})" for reason, names in rows
    }
