"""SHA-256 of every file of a data set, in the form that ``sha256sum -c`` reads."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from medidiff.case import MARK
from medidiff.errors import InputError
from medidiff.io.files.atomic import sha256, write_file

__all__ = ["SUMS", "files_below", "read_sums", "remove_temporaries", "write_sums"]

SUMS = "SHA256SUMS"
_LINE = re.compile(r"([0-9a-f]{64})  (.+)")


def write_sums(root: Path, names: Iterable[str]) -> None:
    """Write the checksums of files below a folder, itself left out; the first line is the synthetic mark."""

    def write(path: Path) -> None:
        with path.open("w", encoding="utf-8", newline="\n") as stream:
            stream.write(f"# {MARK}\n")
            for name in sorted(set(names) - {SUMS}):
                stream.write(f"{sha256(root / name)}  {name}\n")

    write_file(root / SUMS, write)


def read_sums(path: Path) -> dict[str, str]:
    """SHA-256 by file name.

    Raises:
        InputError: ``E-DATASET``, the file is missing or is none of ours.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise InputError("E-DATASET", "checksums that are missing or damaged", file=path.name) from error
    found = [_LINE.fullmatch(line) for line in lines[1:]]
    if lines[:1] != [f"# {MARK}"] or None in found:
        raise InputError("E-DATASET", "checksums in another form", file=path.name)
    return {match[2]: match[1] for match in found if match}


def remove_temporaries(root: Path) -> None:
    """Remove what killed runs left anywhere below a folder, those of other machines too."""
    for place in [*root.rglob(".medidiff-*")]:
        if place.is_dir() and not place.is_symlink():
            shutil.rmtree(place, ignore_errors=True)
        else:
            place.unlink(missing_ok=True)


def files_below(root: Path) -> Iterator[str]:
    """Relative path of everything below a folder that is no folder; links are not followed."""
    for folder, children, names in os.walk(root):
        links = [name for name in children if (Path(folder) / name).is_symlink()]
        for name in (*names, *links):
            yield (Path(folder) / name).relative_to(root).as_posix()
