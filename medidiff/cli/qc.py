"""``medidiff qc``, and the quality report of ``denoise`` and ``superresolve``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from medidiff.cli.describe import shown
from medidiff.cli.places import refuse_page
from medidiff.cli.screen import Screen
from medidiff.cli.session import Session
from medidiff.cli.verbs import Qc, Restoring
from medidiff.errors import SettingsError
from medidiff.io.files.names import safe_label
from medidiff.io.sidecar import stored_provenance
from medidiff.qc import CaseReport, case_report, write_page
from medidiff.restore import Posterior
from medidiff.volume import Volume

__all__ = ["reported", "run"]


def run(verb: Qc, session: Session) -> None:
    """Measure a result against its scan, and write the page.

    Raises:
        InputError: a scan cannot be read, or the two do not fit each other.
        SettingsError: ``E-USAGE``, not two paths; ``E-OUTFORMAT``, the page's name does not end in .html.
        OutputError: the page is a source, or cannot be written.
    """
    screen = Screen(verb.json)
    if len(verb.path) != 2:
        raise SettingsError("E-USAGE", f"{len(verb.path)} paths", wanted="the scan before and the scan after")
    refuse_page(verb.page)
    session.begin()
    first, second = verb.path
    before, after = session.read(first), session.read(second)
    spread = None if verb.spread is None else session.read(verb.spread)
    refuse_page(verb.page, [*before.files, *after.files, *(spread.files if spread else ())])
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


def as_document(report: CaseReport) -> dict[str, Any]:
    """The checks of a report as JSON values."""
    return {
        "flags": list(report.flags),
        "checks": {check.key: {"value": check.value, "state": check.state} for check in report.checks},
        "noise_before": report.measures.noise_before,
        "noise_after": report.measures.noise_after,
    }


def reported(verb: Restoring, scan: Volume, posterior: Posterior, session: Session) -> Path | None:
    """Write the quality report that a restoration was asked for."""
    if verb.report is None:
        return None
    report = case_report(
        scan, posterior.mean, name=safe_label(verb.source), spread=posterior.std, provenance=posterior.provenance
    )
    session.outputs([write_page(verb.report, report.page)])
    return verb.report
