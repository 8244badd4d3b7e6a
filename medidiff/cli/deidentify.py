"""``medidiff deidentify``: DICOM files without their patient."""

from __future__ import annotations

from medidiff.cli.screen import Screen
from medidiff.cli.session import Session
from medidiff.cli.verbs import Deidentify
from medidiff.io.account import count_files
from medidiff.io.dicom.privacy.deidentify import DeidentifyOptions, deidentify, new_key, read_key

__all__ = ["run"]


def run(verb: Deidentify, session: Session) -> None:
    """Write the files anew, and say what remains to be looked at.

    Raises:
        SettingsError: the key cannot be used.
        InputError: nothing could be de-identified.
        OutputError: the folder cannot be written.
    """
    screen = Screen(verb.json)
    key = new_key(verb.key) if verb.new_key else read_key(verb.key)
    options = DeidentifyOptions(
        dates=verb.dates, keep_characteristics=verb.keep_characteristics, allow_burned_in=verb.allow_burned_in
    )
    seen = count_files(verb.source)
    done = deidentify(verb.source, verb.out, key=key, options=options)
    session.account.passed(verb.source, seen=seen, done=len(done.files), skipped=done.skipped)
    session.account.decisions(done.decisions)
    session.outputs(done.files)
    if verb.json:
        skipped = [{"file": each.file, "reason": each.reason} for each in done.skipped]
        files = [f"{file.parent.name}/{file.name}" for file in done.files]
        screen.document({"task": "deidentify", "files": files, "skipped": skipped, "decisions": done.decisions})
        return
    screen.lines({"wrote": f"{len(done.files)} files below {verb.out.name}"})
    for sentence in done.decisions:
        screen.note(sentence)
    for each in done.skipped:
        screen.note(f"left out {each.file}: {each.reason}")
