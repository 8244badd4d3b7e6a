"""The page of a cohort: `Case` and `cohort_page`."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median
from typing import Literal
from urllib.parse import quote

from medidiff.qc.page import render

__all__ = ["Case", "cohort_page"]

State = Literal["done", "partial", "refused", "failed", "interrupted", "unfinished", "waiting"]

_MARKS = {
    "done": "●",
    "partial": "▲",
    "refused": "▲",
    "failed": "▲",
    "interrupted": "▲",
    "unfinished": "○",
    "waiting": "○",
}
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")


@dataclass(frozen=True, slots=True)
class Case:
    """One case of a cohort, as its row says.

    Args:
        name: nothing that names a patient.
        state: how it ended; ``"unfinished"`` where it was killed or still runs.
        task: ``"denoise"``, ``"superresolve"``, ...
        flags: keys of the checks that ask for a look; None where the case was not checked.
        level: noise level of the scan in its stored units.
        seconds: that it took.
        code: of the refusal.
        mend: what was met, and what helps.
        page: the case's own page, relative to the cohort's.
    """

    name: str
    state: State
    task: str = ""
    flags: tuple[str, ...] | None = None
    level: float | None = None
    seconds: float | None = None
    code: str = ""
    mend: str = ""
    page: str = ""


@dataclass(frozen=True, slots=True)
class _Column:
    """A column: its head, how it is filtered, and what stands in its cells.

    Args:
        key: the field.
        name: in the head.
        kind: ``"text"``, ``"number"`` or ``"choice"``.
        choices: of a choice, in order.
    """

    key: str
    name: str
    kind: Literal["text", "number", "choice"]
    choices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Cell:
    """What is shown and what is sorted by."""

    text: str
    value: str
    kind: str
    href: str = ""


def cohort_page(cases: Iterable[Case], *, title: str = "Cohort", note: str = "") -> str:
    """One page with a row for each case, sorted and filtered by column where it is read.

    Args:
        cases: in the order in which they are first shown.
        title: of the page; nothing that names a patient.
        note: a sentence below the title.
    """
    rows = list(cases)
    columns = (
        _Column("name", "Case", "text"),
        _Column("state", "State", "choice", _choices(case.state for case in rows)),
        _Column("task", "Task", "choice", _choices(case.task for case in rows)),
        _Column("flags", "Flags", "text"),
        _Column("level", "Noise level", "number"),
        _Column("seconds", "Seconds", "number"),
        _Column("code", "Code", "choice", _choices(case.code for case in rows)),
        _Column("mend", "Why, and what helps", "text"),
    )
    codes = Counter(case.code for case in rows if case.code)
    return render(
        "cohort",
        title=title,
        note=note,
        tiles=_tiles(rows),
        codes=sorted(codes.items(), key=lambda pair: (-pair[1], pair[0])),
        columns=columns,
        rows=[(_MARKS[case.state] == "▲", [_cell(case, column) for column in columns]) for case in rows],
    )


def _choices(values: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted({value for value in values if value}))


def _tiles(rows: list[Case]) -> list[tuple[str, str]]:
    states: Counter[str] = Counter(case.state for case in rows)
    seconds = [case.seconds for case in rows if case.seconds is not None]
    checked = [case for case in rows if case.flags is not None]
    tiles = [("cases", f"{len(rows):,}"), ("done", f"{states['done']:,}")]
    tiles += [(state, f"{states[state]:,}") for state in _MARKS if state != "done" and states[state]]
    if checked:
        tiles.append(("with flags", f"{sum(bool(case.flags) for case in checked):,} of {len(checked):,}"))
    if seconds:
        tiles.append(("median seconds", f"{median(seconds):.3g}"))
    return tiles


def _cell(case: Case, column: _Column) -> _Cell:
    value = getattr(case, column.key)
    if column.key == "name":
        return _Cell(case.name, case.name, "name", _relative(case.page))
    if column.key == "state":
        return _Cell(f"{_MARKS[case.state]} {case.state}", case.state, "state")
    if column.key == "flags":
        words = "not checked" if case.flags is None else ", ".join(case.flags) or "none"
        return _Cell(f"▲ {words}", words, "flags raised") if case.flags else _Cell(words, words, "flags")
    if column.kind == "number":
        return _Cell("" if value is None else f"{value:.4g}", "" if value is None else repr(float(value)), "number")
    return _Cell(value, value, column.key)


def _relative(page: str) -> str:
    """A relative link; nothing where it names a scheme, a host or the root."""
    if not page or page.startswith(("/", "\\")) or _SCHEME.match(page):
        return ""
    return quote(page, safe="/")
