"""Reports of single cases that are kept as long as they are true, for the page of a cohort."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medidiff.errors import MedidiffError
from medidiff.io.files.atomic import output_errors, sha256, write_file
from medidiff.io.own import refuse_foreign
from medidiff.qc import Case, CaseReport, write_page
from medidiff.version import __version__

__all__ = ["KeptReports"]


@dataclass(frozen=True, slots=True)
class _Known:
    """What is kept beside a report, so that it need not be made again.

    Args:
        of: hash of all that the report shows.
        page_sha256: of the report.
        flags: that it raised.
    """

    of: str
    page_sha256: str
    flags: tuple[str, ...]

    @classmethod
    def read(cls, path: Path) -> _Known | None:
        """None where there is none that is whole."""
        try:
            fields = json.loads(path.read_bytes())
            return cls(str(fields["of"]), str(fields["page_sha256"]), tuple(map(str, fields["flags"])))
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None


@dataclass(frozen=True, slots=True)
class KeptReports:
    """The folder of the reports.

    Args:
        folder: where they lie, ``NAME.html`` and what is kept of each.
        seen_from: the folder that the cohort's page will lie in, from which links lead.
        refused: called with the reason why a case could not be shown.
    """

    folder: Path
    seen_from: Path
    refused: Callable[[MedidiffError], None]

    def of(self, row: Case, shown: Any, make: Callable[[], CaseReport]) -> Case:
        """The row with flags and link, its report made unless one that is true is there.

        Args:
            row: of the cohort's page; its name is the report's.
            shown: all that the report depends on, as JSON values.
            make: makes it.

        Raises:
            OutputError: it cannot be written.
        """
        page, beside = self.folder / f"{row.name}.html", self.folder / f"{row.name}.json"
        of = hashlib.sha256(json.dumps([__version__, shown], sort_keys=True).encode()).hexdigest()
        known = _Known.read(beside)
        if known is None or known.of != of or not page.is_file() or sha256(page) != known.page_sha256:
            try:
                report = make()
            except MedidiffError as error:
                self.refused(error)
                return row
            if known is None:
                with output_errors(page.name):
                    refuse_foreign(page)
            write_page(page, report.page)
            known = _Known(of, sha256(page), report.flags)
            text = json.dumps(dataclasses.asdict(known))
            write_file(beside, lambda name: name.write_text(text, encoding="ascii"))
        link = Path(os.path.relpath(page, self.seen_from)).as_posix()
        return dataclasses.replace(row, flags=known.flags, page=link)
