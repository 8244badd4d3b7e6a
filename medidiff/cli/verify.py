"""``medidiff verify``: whether a synthetic data set is whole, unchanged and marked."""

from __future__ import annotations

from medidiff.cli.screen import Screen
from medidiff.cli.session import Session
from medidiff.cli.verbs import Verify
from medidiff.export import verify_data_set

__all__ = ["run"]

_UNREADABLE = 4  # as any other input that is not what it should be


def run(verb: Verify, session: Session) -> int:
    """Check, and list what is wrong.

    Returns:
        0, or 4 when something is wrong and the list was asked for as JSON.

    Raises:
        InputError: ``E-DATASET``, something is wrong, or there is no data set.
    """
    screen = Screen(verb.json)
    found = verify_data_set(verb.folder)
    told = {"format": found.format, "cases": found.cases, "files": found.files, "gates": found.gates or "nothing said"}
    if verb.json:
        problems = [{"kind": problem.kind, "file": problem.file} for problem in found.problems]
        screen.document({"task": "verify", "verified": not problems, **told, "problems": problems})
        return _UNREADABLE if problems else 0
    for problem in found.problems:
        screen.note(str(problem))
    found.refuse(verb.folder.name)
    screen.lines({"verified": verb.folder.name, **told})
    return 0
