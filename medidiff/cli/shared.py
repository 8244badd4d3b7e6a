"""Options that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from medidiff.cli.options import Option

__all__ = ["Device", "DryRun", "Json", "Record", "Seed"]

DryRun = Annotated[bool, Option("print the whole plan and write nothing")]
Json = Annotated[bool, Option("print one JSON document on stdout")]
Device = Annotated[Literal["auto", "cpu", "cuda"], Option("where to compute")]
Seed = Annotated[int, Option("what all randomness is drawn from")]
Record = Annotated[
    Path | None, Option("where the record of the run goes, JSON lines; beside the output when left out", ("PATH",))
]
