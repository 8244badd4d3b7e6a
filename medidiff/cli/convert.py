"""``medidiff convert``: the same scan in another format."""

from __future__ import annotations

from medidiff.cli.describe import geometry, shown
from medidiff.cli.places import format_of
from medidiff.cli.screen import Screen
from medidiff.cli.verbs import Convert
from medidiff.io import read, write

__all__ = ["run"]


def run(verb: Convert) -> None:
    """Read, and write again.

    Raises:
        InputError: the scan cannot be read.
        OutputError: it cannot be written.
    """
    screen = Screen(verb.json)
    volume = read(verb.source)
    place = verb.out
    if not verb.dry_run:
        files = write(volume, verb.out, like=verb.source, format=format_of(verb, verb.out))
        place = shown(files)
    if verb.json:
        plan = {"task": "convert", "dry_run": verb.dry_run, "grid": geometry(volume.geometry)}
        screen.document(plan | {"files": {"scan": place}})
        return
    screen.lines({"grid": volume.geometry, "would write" if verb.dry_run else "wrote": place})
