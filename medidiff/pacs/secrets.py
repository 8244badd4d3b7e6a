"""Passwords and tokens: from the environment or a file of the owner's, never from a command line or a configuration."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from medidiff.errors import SettingsError

__all__ = ["secret_of"]

_MOST_BYTES = 16_384


def secret_of(variable: str, file: Path | None) -> str:
    """The secret that an environment variable or a file holds; white space at its ends does not count.

    Args:
        variable: name of the environment variable; empty when it is a file.
        file: the file, which nobody but its owner may read.

    Raises:
        SettingsError: ``E-PACS-SECRET``; the message names the variable or the file, never what is in it.
    """
    if file is None:
        value = os.environ.get(variable, "").strip()
        if not value:
            raise _refused("an environment variable that is not set or empty", f"Set {variable}.", name=variable)
    else:
        value = _read(file)
    if not value.isprintable() or not value.isascii():
        raise _refused("a secret with line breaks or characters beyond ASCII", "Put the secret alone there.")
    return value


def _read(file: Path) -> str:
    try:
        about = file.stat()
        if not stat.S_ISREG(about.st_mode) or about.st_size > _MOST_BYTES:
            raise _refused("no regular file of a secret's size", "Put the secret alone into a file.", name=file.name)
        if about.st_mode & 0o077:
            raise _refused("a secret that others may read", f"Run: chmod 600 '{file.name}'.", name=file.name)
        value = file.read_text(encoding="ascii").strip()
    except (OSError, ValueError) as error:
        raise _refused("a file that is not there or cannot be read as text", "Check it.", name=file.name) from error
    if not value:
        raise _refused("an empty file", "Put the secret into it.", name=file.name)
    return value


def _refused(found: str, mend: str, *, name: str = "") -> SettingsError:
    return SettingsError("E-PACS-SECRET", found, mend=mend, attribute=name)
