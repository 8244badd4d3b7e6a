"""The writer of a data set: case after case, each whole or absent, and at the end what tells of them all."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medidiff.case import MARK, Case
from medidiff.errors import InputError, OutputError, SettingsError, printable
from medidiff.export.about import About
from medidiff.export.card import card
from medidiff.export.croissant import croissant
from medidiff.export.formats import layout_of
from medidiff.export.layout import Layout
from medidiff.export.records import read_json, write_json, write_text
from medidiff.export.sums import SUMS, remove_temporaries, write_sums
from medidiff.io.files.atomic import make_folder

__all__ = ["CARD", "COMMON", "CROISSANT", "GATES", "MANIFEST", "DataSetWriter", "open_data_set"]

MANIFEST, CARD, GATES, CROISSANT = "medidiff.json", "README.md", "gates.json", "croissant.json"
COMMON = (MANIFEST, CARD, GATES, CROISSANT, SUMS)
"""Files that every data set has, whatever its format."""


def open_data_set(out: str | Path, format: str, about: About) -> DataSetWriter:
    """Begin a data set, or go on with one that was begun by the same request and is not whole yet.

    Args:
        out: a new or empty folder, or one of the same data set.
        format: one of `medidiff.export.FORMATS`.
        about: what the data set is.

    Raises:
        SettingsError: ``E-EXPORT``, there is no such format, or it cannot hold the data set.
        OutputError: ``E-EXISTS``, something else is in the folder; or the system refuses.
    """
    layout = layout_of(format, Path(out), about)
    layout.refuse()
    writer = DataSetWriter(layout)
    writer.begin()
    return writer


class DataSetWriter:
    """Writes the cases of one data set; made by `open_data_set`.

    Args:
        layout: where they go.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout, self._about = layout, layout.about
        self._root: Path = layout.root
        self._done: frozenset[int] | None = None  # the cases of a data set that is whole

    def begin(self) -> None:
        """See `open_data_set`."""
        make_folder(self._root)
        manifest = self._root / MANIFEST
        if manifest.is_file():
            told = _manifest_or_nothing(manifest)
            if told.get("Format") != self._layout.name or told.get("About") != self._about.to_json():
                self._refuse("another data set, or one of another request")
            if told.get("Complete") and (self._root / SUMS).is_file():
                self._done = frozenset(told["Cases"])
                self._tidy()
            return
        if any(self._root.iterdir()):
            self._refuse("files")
        write_json(manifest, self._manifest([], complete=False))

    def _refuse(self, found: str) -> None:
        mend = "Choose a new folder; the same command as before goes on with a data set that was begun."
        raise OutputError("E-EXISTS", f"the folder holds {found}", mend=mend, file=self._root.name)

    @property
    def is_whole(self) -> bool:
        """Whether the data set was closed before, so that nothing is left to do."""
        return self._done is not None

    def has(self, number: int) -> bool:
        """Whether a case is there already, so that it need not be drawn."""
        return number in self._done if self._done is not None else self._layout.record(number).is_file()

    def numbers(self) -> list[int]:
        """The cases that are there, in order."""
        return sorted(self._done) if self._done is not None else self._layout.numbers()

    def add(self, case: Case) -> None:
        """Write a case; one that is there already stays as it is.

        Raises:
            InputError: ``E-CASE``, it is none of this data set.
            OutputError: it cannot be written; or ``E-EXISTS``, the data set is whole and has no such case.
        """
        self._about.refuse_other(case)
        if self.has(case.number):
            return
        if self._done is not None:
            self._refuse("a data set that is whole and has no such case")
        self._layout.add(case)

    def close(self, report: Mapping[str, Any] | None, *, override: str = "") -> None:
        """Write what tells of all the cases; the data set is whole afterwards, and nobody else may be adding to it.

        Args:
            report: of the gates, JSON values. They hold when its ``"refusal"`` is empty text; its ``"override"`` may
                say why the data set leaves all the same.
            override: the same said here, for a data set without a report; one line, which stands in the data set.

        Raises:
            SettingsError: ``E-UNGATED``, the gates do not hold and nothing overrides them.
            InputError: ``E-DATASET``, there is no case.
            OutputError: the system refuses.
        """
        gates = _gates(report, override)
        if self._done is not None:
            return
        numbers = self._layout.numbers()
        if not numbers:
            raise InputError("E-DATASET", "a data set without a case", file=self._root.name)
        self._layout.finish(numbers)
        write_json(self._root / GATES, gates)
        write_text(self._root / CARD, card(self._layout, numbers, gates))
        write_json(self._root / CROISSANT, croissant(self._layout, numbers))
        write_json(self._root / MANIFEST, self._manifest(numbers, complete=True))
        remove_temporaries(self._root)
        write_sums(self._root, (*COMMON, *self._layout.expected(numbers)))
        self._tidy()
        self._done = frozenset(numbers)

    def _tidy(self) -> None:
        if self._layout.scratch:
            shutil.rmtree(self._root / self._layout.scratch, ignore_errors=True)

    def _manifest(self, numbers: Sequence[int], *, complete: bool) -> dict[str, Any]:
        about, told = self._about, {"Synthetic": True, "Description": MARK, "Format": self._layout.name}
        return told | {"Complete": complete, "Cases": list(numbers), "About": about.to_json()}


def _plain(value: Any) -> Any:
    """The same for JSON, where NaN and infinity do not exist: they become null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _manifest_or_nothing(path: Path) -> dict[str, Any]:
    try:
        return read_json(path)
    except InputError:
        return {}


def _gates(report: Mapping[str, Any] | None, override: str) -> dict[str, Any]:
    told = {} if report is None else report
    holds = told.get("refusal") == ""
    reason = printable(override or str(told.get("override") or "")).strip()
    if not holds and not reason:
        found = "no report of the gates" if report is None else "gates that do not hold"
        mend = "Run the gates with a training index; an override that says why it leaves all the same is recorded."
        raise SettingsError("E-UNGATED", found, wanted="a report without a refusal", mend=mend)
    kept = {} if report is None else {"Report": _plain(report)}
    said = {"Synthetic": True, "Description": MARK, "Holds": holds, "Override": "" if holds else reason}
    return said | kept
