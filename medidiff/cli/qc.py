"""``medidiff qc``, and the quality report of ``denoise`` and ``superresolve``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from medidiff.batch.job import Batch
from medidiff.cli.cohort import batch_cases
from medidiff.cli.describe import shown
from medidiff.cli.places import refuse_page
from medidiff.cli.screen import Screen
from medidiff.cli.session import Session
from medidiff.cli.verbs import Qc, Restoring
from medidiff.errors import InputError, SettingsError
from medidiff.io.files.names import safe_label
from medidiff.io.sidecar import stored_provenance
from medidiff.qc import CaseReport, case_report, cases_of, cohort_page, write_page
from medidiff.restore import Posterior
from medidiff.volume import Volume

__all__ = ["reported", "run"]


def run(verb: Qc, session: Session) -> None:
    """Measure a result against its scan, or list the results of a folder, and write the page.

    Raises:
        InputError: a scan cannot be read, the two do not fit each other, or there is no record of a run.
        SettingsError: ``E-USAGE``, neither two scans nor a folder; ``E-OUTFORMAT``, the name does not end in .html.
        OutputError: the page is a source, or cannot be written.
    """
    screen = Screen(verb.json)
    first, second = verb.path if len(verb.path) == 2 else (verb.path[0], None)
    if len(verb.path) > 2 or (second is None and not first.is_dir()):
        found, wanted = f"{len(verb.path)} paths", "the scan before and the scan after, or one folder"
        raise SettingsError("E-USAGE", found, wanted=wanted)
    refuse_page(verb.page)
    session.begin()
    if second is None:
        _list(verb, first, session, screen)
        return
    before, after = session.read(first), session.read(second)
    spread = None if verb.spread is None else session.read(verb.spread)
    refuse_page(verb.page, [*before.files, *after.files, *(spread.files if spread else ())])
    with _named(first, second):
        report = case_report(
            before.volume,
            after.volume,
            name=safe_label(first),
            spread=None if spread is None else spread.volume,
            provenance=stored_provenance(second),
            radiological=not verb.neurological,
        )
    session.outputs([write_page(verb.page, report.page)])
    if verb.json:
        screen.document({"task": "qc", "page": shown([verb.page]), **as_document(report)})
        return
    for check in report.checks:
        if check.state == "look":
            screen.note(f"{check.name}: {check.value} (needs no look: {check.expected}). {check.meaning}")
    flags = ", ".join(report.flags) or "none"
    screen.lines({"wrote page": verb.page, "checks": str(len(report.checks)), "flags": flags})


@contextmanager
def _named(first: Path, second: Path) -> Iterator[None]:
    """Name the two files in a refusal that knows of none: what does not fit is the one or the other."""
    try:
        yield
    except InputError as error:
        if error.file:
            raise
        raise error.about(f"{first.name} and {second.name}") from error


def _list(verb: Qc, folder: Path, session: Session, screen: Screen) -> None:
    """The page of a cohort."""
    home = verb.page.absolute().parent
    if Batch.is_there(folder):
        cases = batch_cases(folder, seen_from=home, reports=verb.cases, screen=screen)
    elif verb.cases is not None:
        raise SettingsError("E-USAGE", "--cases without a batch", wanted="a folder that 'medidiff batch' wrote into")
    else:
        cases = cases_of(folder, seen_from=home)
    session.outputs([write_page(verb.page, cohort_page(cases, title=safe_label(folder.absolute())))])
    states = dict(sorted(Counter(case.state for case in cases).items()))
    flagged = sum(bool(case.flags) for case in cases)
    if verb.json:
        screen.document({"task": "qc", "page": shown([verb.page]), "states": states, "flagged": flagged})
        return
    counts: dict[str, str] = {state: str(count) for state, count in states.items()}
    screen.lines({"wrote page": verb.page, **counts, "with flags": str(flagged)})


def as_document(report: CaseReport) -> dict[str, Any]:
    """The checks of a report as JSON values."""
    return {
        "flags": list(report.flags),
        "checks": {check.key: {"value": check.value, "state": check.state} for check in report.checks},
        "support": None if report.support is None else report.support.record(),
        "noise_before": report.measures.noise_before,
        "noise_after": report.measures.noise_after,
    }


def reported(verb: Restoring, scan: Volume, posterior: Posterior, session: Session) -> Path | None:
    """Write the quality report that a restoration was asked for."""
    if verb.report is None:
        return None
    report = case_report(
        scan, posterior.mean, name=session.label(verb.source), spread=posterior.std, provenance=posterior.provenance
    )
    session.outputs([write_page(verb.report, report.page)])
    found = as_document(report)
    session.quality(
        **{key: found[key] for key in ("flags", "noise_before", "noise_after")}, page=safe_label(verb.report)
    )
    return verb.report
