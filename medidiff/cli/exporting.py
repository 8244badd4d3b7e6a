"""``medidiff export``: a synthetic data set in another format."""

from __future__ import annotations

from medidiff.cli.screen import Screen
from medidiff.cli.session import Session
from medidiff.cli.verbs import Export
from medidiff.errors import OutputError
from medidiff.export import open_data_set, open_stored, verify_data_set
from medidiff.io.account import count_files
from medidiff.io.files.atomic import resolved

__all__ = ["run"]


def run(verb: Export, session: Session) -> None:
    """Check the data set, then write its cases one after the other, those that OUT has already left out.

    Raises:
        InputError: ``E-DATASET``, IN does not verify or does not keep its scans exactly.
        SettingsError: ``E-EXPORT``, the format cannot hold it.
        OutputError: the folder cannot be written, or is IN or inside it.
    """
    screen = Screen(verb.json)
    inner, outer = resolved(verb.source), resolved(verb.out)
    if inner == outer or inner in outer.parents or outer in inner.parents:
        mend = "Choose a folder outside of IN."
        raise OutputError("E-OVERWRITE", "OUT is IN, or one inside the other", mend=mend, file=verb.out.name)
    stored = open_stored(verb.source)
    stored.refuse_inexact()
    verify_data_set(verb.source).refuse(verb.source.name)
    seen = count_files(verb.source)
    session.account.passed(verb.source, seen=seen, done=seen or 0, skipped=(), format=stored.layout.name)
    writer = open_data_set(verb.out, verb.format, stored.about)
    session.begin()
    missing = [number for number in stored.numbers if not writer.has(number)]
    with screen.progress("exporting") as report:
        for done, case in enumerate(stored.cases(missing), 1):
            writer.add(case)
            report(done, len(missing))
    gates = stored.gates()
    writer.close(gates.get("Report"), override=str(gates.get("Override") or ""))
    session.outputs([verb.out / "SHA256SUMS"])
    if verb.json:
        told = {"task": "export", "format": verb.format, "folder": verb.out, "cases": len(stored.numbers)}
        screen.document(told | {"written": len(missing)})
        return
    screen.lines({"wrote": f"{len(missing)} of {len(stored.numbers)} cases to {verb.out.name}", "format": verb.format})
