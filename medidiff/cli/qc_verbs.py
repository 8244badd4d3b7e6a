"""The verb about quality reports; see `medidiff.cli.verbs`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from medidiff.cli.options import Option
from medidiff.cli.shared import Json, Repairs

__all__ = ["Qc"]


@dataclass(frozen=True, kw_only=True)
class Qc(Repairs):
    """Show a result beside the scan that it was made from, measured and checked: one HTML page that loads nothing.

    Two paths, as IN elsewhere: the scan as it was measured, and the result. How the result was made is taken from the
    record that lies beside it. A single path is the folder of a batch, or one that many runs wrote into: the page lists
    the cases, with links to their reports, and is sorted and filtered in the browser.
    """

    stages: ClassVar[tuple[str, ...]] = ("medidiff.cli.qc",)
    path: Annotated[
        tuple[Path, ...],
        Option("the scan before and the scan after, or a folder of results", ("PATH",), positional=True),
    ]
    page: Annotated[Path, Option("the page, a name ending in .html", ("PAGE",), ("-o", "--out"))]
    spread: Annotated[Path | None, Option("standard deviation of the draws, shown as uncertainty", ("PATH",))] = None
    cases: Annotated[
        Path | None, Option("of a batch: write the report of each finished case into this folder, too", ("DIR",))
    ] = None
    neurological: Annotated[bool, Option("the patient's right on the right of the picture")] = False
    record: Annotated[Path | None, Option("where the record of the run goes; none when left out", ("PATH",))] = None
    json: Json = False
