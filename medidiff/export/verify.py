"""The check of a data set: every file is expected, there, unchanged and marked as synthetic."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from medidiff.errors import InputError
from medidiff.export.marks import is_marked
from medidiff.export.stored import DataSet, open_stored
from medidiff.export.sums import SUMS, files_below, read_sums
from medidiff.export.writer import COMMON
from medidiff.io.files.atomic import sha256

__all__ = ["Problem", "Verification", "verify_data_set"]


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong.

    Args:
        kind: ``"incomplete"``, ``"missing"``, ``"unknown"``, ``"changed"``, ``"unmarked"`` or ``"ungated"``.
        file: path below the data set; empty when it is about the whole.
    """

    kind: str
    file: str = ""

    def __str__(self) -> str:
        text = _MEANING[self.kind]
        return f"{self.file}: {text}" if self.file else text


_MEANING = {
    "incomplete": "the data set was never finished",
    "missing": "the file is missing",
    "unknown": "no data set of this format has this file",
    "changed": "the file is not what the checksums say",
    "unmarked": "the file does not say that it is synthetic",
    "ungated": "nothing says that the gates hold or that they were overridden",
}


@dataclass(frozen=True, slots=True)
class Verification:
    """What a check found.

    Args:
        format: of the data set.
        cases: how many it has.
        files: how many there are.
        gates: ``"hold"`` or ``"overridden"``; empty when nothing is said.
        problems: what is wrong, sorted.
    """

    format: str
    cases: int
    files: int
    gates: str
    problems: tuple[Problem, ...]

    def refuse(self, name: str) -> None:
        """Refuse a data set with problems.

        Args:
            name: of the data set, for the message.

        Raises:
            InputError: ``E-DATASET``, with the first problem and their number.
        """
        if self.problems:
            found = f"{len(self.problems)} problems, the first: {self.problems[0]}"
            raise InputError("E-DATASET", found, mend="'medidiff verify' lists them all.", file=name)


def verify_data_set(root: str | Path) -> Verification:
    """Check marks, checksums and completeness of a data set of any format.

    Raises:
        InputError: ``E-MISSING`` or ``E-DATASET``, there is no data set to check.
    """
    stored = open_stored(root)
    place = stored.layout.root
    there = set(files_below(place))
    gates = _gates(stored)
    problems = [*_whole(stored, there), *([] if gates else [Problem("ungated")]), *_files(place, there)]
    return Verification(
        stored.layout.name,
        len(stored.numbers),
        len(there),
        gates,
        tuple(sorted(problems, key=lambda problem: (problem.file, problem.kind))),
    )


def _gates(stored: DataSet) -> str:
    try:
        told = stored.gates()
    except InputError:
        return ""
    if told.get("Holds") is True:
        return "hold"
    return "overridden" if told.get("Override") else ""


def _whole(stored: DataSet, there: set[str]) -> Iterator[Problem]:
    if not stored.is_complete or not stored.numbers:
        yield Problem("incomplete")
    expected = {*COMMON, *stored.layout.expected(stored.numbers)}
    yield from (Problem("missing", name) for name in expected - there)
    yield from (Problem("unknown", name) for name in there - expected)


def _files(root: Path, there: set[str]) -> Iterator[Problem]:
    try:
        sums = read_sums(root / SUMS)
    except InputError:
        sums = {}
    for name in there:
        if (root / name).is_symlink() or not (root / name).is_file():
            yield Problem("changed", name)
            continue
        if name != SUMS and sums.get(name) != sha256(root / name):
            yield Problem("changed", name)
        if not is_marked(root / name):
            yield Problem("unmarked", name)
    yield from (Problem("missing", name) for name in sums.keys() - there)
