"""The quarantine: every refused case, with its reason, what mends it, and for the owner where its input lies."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

from medidiff.batch.job import Batch
from medidiff.batch.records import Refused
from medidiff.errors import printable
from medidiff.io.files.atomic import output_errors, write_file

__all__ = ["COLUMNS", "QUARANTINE", "refused_cases", "write_quarantine"]

QUARANTINE = "refused.csv"
COLUMNS = ("input", "scan", "case", "code", "message", "mend")


def refused_cases(batch: Batch, names: Iterable[str] | None = None) -> list[Refused]:
    """The records of refused cases that are whole, those of one code together.

    Args:
        batch: on the disk.
        names: of the cases to look at; all that are recorded as refused when left out.
    """
    if names is None:
        names = (name for _, refused in batch.records.names() for name in refused)
    records = filter(None, map(batch.records.refused, names))
    return sorted(records, key=lambda record: (record.code, record.case))


def write_quarantine(batch: Batch, refused: Sequence[Refused]) -> None:
    """Write ``refused.csv`` into the batch's folder, a row a case; none where nothing is refused.

    Like the manifest it names inputs as they were found, so its owner alone may read it.

    Raises:
        OutputError: the system refuses.
    """
    place = batch.folder / QUARANTINE
    if not refused:
        with output_errors(place.name):
            place.unlink(missing_ok=True)
        return
    inputs = _inputs(batch, {record.case for record in refused})

    def write(name: Path) -> None:
        name.chmod(0o600)
        with name.open("w", encoding="utf-8", errors="surrogateescape", newline="") as stream:
            table = csv.writer(stream)
            table.writerow(COLUMNS)
            for record in refused:
                told = (record.case, record.code, record.message, record.mend)
                table.writerow((*inputs.get(record.case, ("", 0)), *map(printable, told)))

    write_file(place, write)


def _inputs(batch: Batch, names: set[str]) -> dict[str, tuple[str, int]]:
    """Path and scan of each of these cases."""
    return {case.name: (case.input, case.scan) for case in batch.manifest if case.name in names}
