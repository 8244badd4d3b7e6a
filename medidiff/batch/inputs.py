"""Whether the inputs of a batch can be reached at all: a share that is not mounted is no fault of any scan."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from medidiff.batch.cases import Case
from medidiff.errors import InputError

__all__ = ["Inputs"]


class Inputs:
    """The inputs of some cases, as they are seen from this machine.

    Args:
        cases: of the batch, which may be asked for again and again.
    """

    def __init__(self, cases: Iterable[Case]) -> None:
        self._cases, self._seen = cases, ""

    def refuse_gone(self) -> None:
        """Refuse to go on where no input at all can be opened; one that can is looked at first the next time.

        Raises:
            InputError: ``E-INPUTS``.
        """
        if self._seen and _opens(self._seen):
            return
        for case in self._cases:
            if _opens(case.input):
                self._seen = case.input
                return
        found = "none of the inputs of the batch is there, or may be read"
        mend = "Mount the disk or share that holds them, or correct the paths; the same command then goes on."
        raise InputError("E-INPUTS", found, mend=mend)


def _opens(path: str) -> bool:
    """Whether a file can be read, or a folder holds anything."""
    with suppress(OSError, ValueError):
        mode = Path(path).stat().st_mode
        if stat.S_ISDIR(mode):
            with os.scandir(path) as entries:
                return any(True for _ in entries)
        if stat.S_ISREG(mode):  # a pipe would be waited for
            with Path(path).open("rb") as stream:
                stream.read(1)
                return True
    return False
