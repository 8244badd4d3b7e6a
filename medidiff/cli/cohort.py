"""``medidiff qc OUTPUT`` of a batch: a row for each case, and the report of each finished one where it is asked for."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medidiff.batch.cases import Case as BatchCase
from medidiff.batch.job import Batch
from medidiff.batch.journal import seconds_of
from medidiff.batch.metrics import OUT_OF_SCOPE
from medidiff.batch.records import Done
from medidiff.cli.screen import Screen
from medidiff.errors import MedidiffError
from medidiff.io import ReadOptions, read
from medidiff.io.files.atomic import make_folder, sha256, write_file
from medidiff.io.sidecar import stored_provenance
from medidiff.qc import Case, case_report, write_page
from medidiff.version import __version__

__all__ = ["batch_cases"]


def batch_cases(folder: Path, *, seen_from: Path, reports: Path | None, screen: Screen) -> list[Case]:
    """A case for each line of a batch's manifest, in its order.

    Args:
        folder: that ``medidiff batch`` wrote into.
        seen_from: the folder that the cohort's page will lie in, from which links lead.
        reports: where the report of each finished case goes; those that are there and still true are kept.
        screen: where progress goes, and why a case could not be shown.

    Raises:
        InputError: ``E-BATCH``, there is no batch, or it is damaged.
        OutputError: a report cannot be written.
    """
    batch = Batch(folder)
    seconds = seconds_of(batch.folder / "journal")
    if reports is not None:
        make_folder(reports)
    rows = []
    with screen.progress("qc") as tell:
        for number, case in enumerate(batch.manifest):
            tell(number, len(batch.manifest), case.name)
            row = _row(batch, case, seconds.get(case.name))
            done = batch.records.done(case.name)
            if reports is not None and done is not None:
                row = _with_report(row, batch, case, done, reports=reports, seen_from=seen_from, screen=screen)
            rows.append(row)
    return rows


def _row(batch: Batch, case: BatchCase, seconds: float | None) -> Case:
    task, done = batch.job.task, batch.records.done(case.name)
    if done is not None:
        flags = ("scope",) if done.metrics.get(OUT_OF_SCOPE) else None
        return Case(case.name, "done", task, level=done.metrics.get("noise_level"), seconds=seconds, flags=flags)
    refused = batch.records.refused(case.name)
    if refused is not None:
        why = refused.message.removeprefix(f"{refused.code}: ")
        mend = why if refused.mend in why else f"{why}. {refused.mend}"
        return Case(case.name, "refused", task, code=refused.code, mend=mend)
    return Case(case.name, "waiting", task)


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
        except (OSError, ValueError, KeyError, TypeError):
            return None


def _with_report(
    row: Case, batch: Batch, case: BatchCase, done: Done, *, reports: Path, seen_from: Path, screen: Screen
) -> Case:
    page, beside = reports / f"{case.name}.html", reports / f"{case.name}.json"
    of = hashlib.sha256(json.dumps([__version__, dataclasses.asdict(done)], sort_keys=True).encode()).hexdigest()
    known = _Known.read(beside)
    if known is None or known.of != of or not page.is_file() or sha256(page) != known.page_sha256:
        try:
            report = _report(batch, case, done)
        except MedidiffError as error:
            screen.note(f"{case.name} is not shown: {case.plain(str(error))}")
            return row
        write_page(page, report.page)
        known = _Known(of, sha256(page), report.flags)
        text = json.dumps(dataclasses.asdict(known))
        write_file(beside, lambda name: name.write_text(text, encoding="ascii"))
    return dataclasses.replace(row, flags=known.flags, page=Path(os.path.relpath(page, seen_from)).as_posix())


def _report(batch: Batch, case: BatchCase, done: Done) -> Any:
    options = batch.job.options
    before = read(case.input, _read_options(case, options))
    if options.get("modality") and before.modality == "OT":
        before = dataclasses.replace(before, modality=options["modality"])
    mean = batch.root / done.results["mean"]
    spread = done.results.get("spread")
    return case_report(
        before,
        read(mean),
        name=case.name,
        spread=None if spread is None else read(batch.root / spread),
        provenance=stored_provenance(mean),
    )


def _read_options(case: BatchCase, options: Mapping[str, Any]) -> ReadOptions:
    """How the batch read the scan."""
    names = {field.name for field in dataclasses.fields(ReadOptions)} & options.keys()
    return ReadOptions(**{name: options[name] for name in names} | {"scan": case.scan})
