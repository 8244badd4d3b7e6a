"""Files that are whole or absent: temporary name, fsync, verify, rename; and their SHA-256."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from medidiff.errors import OutputError

__all__ = ["output_errors", "refuse_source", "sha256", "staging_folder", "sync", "write_file"]


def sha256(path: Path) -> str:
    """SHA-256 of the bytes of a file, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Have the system put a file, or the names in a folder, on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def output_errors(name: str) -> Iterator[None]:
    """Turn the system's refusals to write into `OutputError`.

    Args:
        name: file or folder that is being written, as shown in the message.

    Raises:
        OutputError: ``E-DISK`` when space is short, ``E-OUT`` for any other refusal of the system.
    """
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        raise OutputError(
            "E-DISK" if full else "E-OUT",
            error.strerror or type(error).__name__,
            file=name,
            mend="Free some space and run the same command again."
            if full
            else "Choose an output folder that exists and can be written.",
        ) from error


def refuse_source(path: Path, sources: Iterable[Path]) -> None:
    """Refuse to write over a file that the result is made from, under whatever name it is reached.

    Raises:
        OutputError: ``E-OVERWRITE``.
    """
    if path.exists() and any(source.exists() and path.samefile(source) for source in sources):
        mend = "Choose another output name."
        raise OutputError("E-OVERWRITE", "the output is one of the inputs", mend=mend, file=path.name)


def write_file(path: Path, write: Callable[[Path], object], *, verify: Callable[[Path], None] | None = None) -> None:
    """Write a file so that `path` holds either the whole new content or what it held before.

    Args:
        path: the final name; an older file there is replaced at the very end.
        write: writes the content to the name it is given, which has the same ending as `path`.
        verify: reads that name again and raises when the content is not what was meant.

    Raises:
        OutputError: the system refuses, or `verify` does.
    """
    ending = ".nii.gz" if path.name.lower().endswith(".nii.gz") else path.suffix
    partial = path.with_name(f".medidiff-{secrets.token_hex(6)}{ending}")
    with output_errors(path.name):
        try:
            write(partial)
            sync(partial)
            if verify is not None:
                verify(partial)
            partial.replace(path)
            sync(path.parent)
        finally:
            partial.unlink(missing_ok=True)


@contextmanager
def staging_folder(target: Path) -> Iterator[Path]:
    """A hidden folder on the same disk whose files move into `target` when the block ends well.

    A target that does not exist yet appears with all its files at once; into an existing one they are renamed in order.

    Raises:
        OutputError: the system refuses.
    """
    with output_errors(target.name):
        target.parent.mkdir(parents=True, exist_ok=True)
        home = target if target.is_dir() else target.parent
        stage = home / f".medidiff-{secrets.token_hex(6)}"
        stage.mkdir()
    try:
        yield stage
        with output_errors(target.name):
            _publish(stage, target)
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _publish(stage: Path, target: Path) -> None:
    for file in sorted(stage.iterdir()):
        sync(file)
    if target.is_dir():
        for file in sorted(stage.iterdir()):
            file.replace(target / file.name)
    else:
        stage.replace(target)
    sync(target.parent)
