"""``medidiff qc OUTPUT`` of a batch: a row for each case, and the report of each finished one where it is asked for."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from medidiff.batch.cases import Case as BatchCase
from medidiff.batch.job import Batch
from medidiff.batch.journal import seconds_of
from medidiff.batch.metrics import OUT_OF_SCOPE
from medidiff.batch.records import Done
from medidiff.cli.kept_reports import KeptReports
from medidiff.cli.screen import Screen
from medidiff.errors import MedidiffError
from medidiff.io import ReadOptions, read
from medidiff.io.files.atomic import make_folder
from medidiff.io.sidecar import stored_provenance
from medidiff.qc import Case, CaseReport, case_report

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

                def refused(error: MedidiffError, case: BatchCase = case) -> None:
                    screen.note(f"{case.name} is not shown: {case.plain(str(error))}")

                kept = KeptReports(reports, seen_from, refused)
                row = kept.of(row, dataclasses.asdict(done), partial(_report, batch, case, done))
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


def _report(batch: Batch, case: BatchCase, done: Done) -> CaseReport:
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
