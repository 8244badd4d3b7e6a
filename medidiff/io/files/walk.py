"""Every file that a path holds: a file, a folder with its sub-folders, an archive, or a glob pattern.

Nothing outside the path is followed: links to folders, links that lead out, pipes and devices are skipped with a
record, and a folder is never entered twice. The members of an archive lie in a private folder which is removed when
nobody holds the result any longer.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from medidiff.errors import InputError
from medidiff.io.contents import Skipped
from medidiff.io.files.archives import Unpacked, is_archive, unpack

__all__ = ["Gathered", "gather"]

_OURS = ".medidiff-"  # our own unfinished files and folders
_PATTERN = frozenset("*?[")


@dataclass(frozen=True, slots=True)
class Gathered:
    """Files to look at.

    Args:
        name: of the path, for messages.
        files: regular files, in a stable order.
        skipped: what was seen and cannot be opened as a file.
        unpacked: the private folder of an archive's members, which lives as long as this value; None without.
        single: whether the path is one plain file.
    """

    name: str
    files: tuple[Path, ...]
    skipped: tuple[Skipped, ...] = ()
    unpacked: Unpacked | None = None
    single: bool = False


def gather(path: str | Path) -> Gathered:
    """All files at a path.

    Args:
        path: a file, a folder, a zip or tar archive (told by content), or a glob pattern such as ``"study/*.dcm"``.

    Raises:
        InputError: ``E-MISSING``, nothing is there; ``E-FORMAT``, it is no file; ``E-BOMB`` and others of archives.
    """
    path = Path(path)
    if path.is_dir():
        return _folder(path)
    if path.is_file():
        if not is_archive(path):
            return Gathered(path.name, (path,), single=True)
        unpacked = unpack(path)
        inside = _folder(unpacked.folder)
        return Gathered(path.name, inside.files, (*unpacked.skipped, *inside.skipped), unpacked)
    if path.exists() or path.is_symlink():
        raise InputError("E-FORMAT", _kind(path), mend="Give a file or a folder.", file=path.name)
    return _matches(path)


def _matches(pattern: Path) -> Gathered:
    fixed = [part for part in takewhile(lambda part: not _PATTERN & set(part), pattern.parts)]
    root, rest = Path(*fixed), pattern.parts[len(fixed) :]
    try:
        matched = sorted(root.glob("/".join(rest))) if rest else []
    except ValueError:  # no pattern
        matched = []
    if not matched:
        found = "nothing fits this pattern" if rest else "no such file or folder"
        raise InputError("E-MISSING", found, mend="Check the path.", file=pattern.name)
    files: dict[Path, None] = {}
    skipped: list[Skipped] = []
    inside = root.resolve()
    for match in matched:
        if match.is_dir() and not match.is_symlink():
            below = _folder(match)
            files.update(dict.fromkeys(below.files))
            skipped += below.skipped
        elif reason := _refusal(match, inside):
            skipped.append(Skipped(match.name, reason))
        else:
            files[match] = None
    return Gathered(pattern.name, tuple(files), tuple(skipped))


def _folder(root: Path) -> Gathered:
    skipped: list[Skipped] = []
    files = tuple(_walk(root, skipped))
    return Gathered(root.name, files, tuple(skipped))


def _walk(root: Path, skipped: list[Skipped]) -> Iterator[Path]:
    """Regular files below a folder, by folder and name; everything else is put down in `skipped`."""
    inside = root.resolve()

    def unreadable(error: OSError) -> None:
        skipped.append(Skipped(Path(str(error.filename)).name, "a folder that the system refuses to open"))

    for folder, children, names in os.walk(root, onerror=unreadable):
        children[:] = sorted(name for name in children if not name.startswith(_OURS))
        for name in children:
            if (Path(folder) / name).is_symlink():
                skipped.append(Skipped(name, "a link to a folder, which is not followed"))
        for name in sorted(names):
            file = Path(folder) / name
            reason = _refusal(file, inside)
            if reason:
                skipped.append(Skipped(name, reason))
            else:
                yield file


def _refusal(file: Path, inside: Path) -> str:
    """Why a name in a folder is not opened; empty when it is."""
    if file.name.startswith(_OURS):
        return "an unfinished file of medidiff"
    try:
        mode = file.lstat().st_mode
        if stat.S_ISREG(mode):
            return ""
        if not stat.S_ISLNK(mode):
            return "not a regular file"
        target = file.resolve(strict=True)
    except (OSError, RuntimeError):
        return "a link that leads nowhere"
    if not target.is_relative_to(inside):
        return "a link that leads out of the folder, which is not followed"
    return "" if target.is_file() else "not a regular file"


def _kind(path: Path) -> str:
    return "a link that leads nowhere" if path.is_symlink() and not path.exists() else "not a regular file"
