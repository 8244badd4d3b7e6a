"""A data set that is there already, and its cases one at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medidiff.case import Case
from medidiff.errors import InputError
from medidiff.export.about import About
from medidiff.export.formats import FORMATS, layout_of
from medidiff.export.layout import Layout
from medidiff.export.records import read_json
from medidiff.export.writer import GATES, MANIFEST

__all__ = ["DataSet", "open_stored"]


@dataclass(frozen=True, slots=True)
class DataSet:
    """What the manifest of a data set tells.

    Args:
        layout: where its files lie.
        numbers: of its cases, rising.
        is_complete: whether its writer was closed.
    """

    layout: Layout
    numbers: tuple[int, ...]
    is_complete: bool

    @property
    def about(self) -> About:
        """What it is."""
        return self.layout.about

    def gates(self) -> dict[str, Any]:
        """``gates.json``: whether the gates hold or why they were overridden, and their report if there is one.

        Raises:
            InputError: ``E-DATASET``, it is missing or damaged.
        """
        return read_json(self.layout.root / GATES)

    def refuse_inexact(self) -> None:
        """Refuse a format that does not keep a scan as it was drawn.

        Raises:
            InputError: ``E-DATASET``.
        """
        if not self.layout.is_exact:
            found, mend = f"{self.layout.name}, which does not keep a scan exactly", "Export from a data set in BIDS."
            raise InputError("E-DATASET", found, mend=mend, file=self.layout.root.name)

    def cases(self, numbers: Sequence[int]) -> Iterator[Case]:
        """Some of its cases, as they were drawn, one at a time.

        Raises:
            InputError: ``E-DATASET``, the format does not keep them exactly, or their files are damaged.
        """
        self.refuse_inexact()
        return self.layout.cases(numbers)


def open_stored(root: str | Path) -> DataSet:
    """Read the manifest of a data set; nothing else of it is looked at.

    Raises:
        InputError: ``E-MISSING``, there is no such folder; ``E-DATASET``, it holds no data set.
    """
    root = Path(root)
    if not root.is_dir():
        raise InputError("E-MISSING", "no such folder", mend="Check the path.", file=root.name)
    try:
        told = read_json(root / MANIFEST)
    except InputError as error:
        mend = "Give the folder that 'medidiff synthesize' or 'medidiff export' wrote."
        raise InputError("E-DATASET", f"no {MANIFEST} that can be read", mend=mend, file=root.name) from error
    numbers = told.get("Cases")
    good = isinstance(numbers, list) and all(type(n) is int and n >= 0 for n in numbers)
    if not good or told.get("Format") not in FORMATS or numbers != sorted(set(numbers or ())):
        raise InputError("E-DATASET", "a manifest that is damaged", mend="Export it again.", file=root.name)
    layout = layout_of(told["Format"], root, About.from_json(told.get("About")))
    return DataSet(layout, tuple(numbers or ()), told.get("Complete") is True)
