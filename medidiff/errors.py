"""What goes wrong, as one small tree.

::

    MedidiffError          what was found, what was wanted, and what mends it
    ├── SettingsError      an option, recipe or argument is broken or out of range   exit code 2
    ├── InputError         a scan cannot be read, or must not be guessed at          exit code 4
    ├── OutputError        a result cannot be written where it was asked for         exit code 5
    └── PriorError         a trained prior is missing, broken or does not fit        exit code 6

Everything that a user can mend is one of these and becomes one line at the command line; anything else is a bug and
keeps its traceback (exit code 1). ``E-NOIMAGES``, ``E-NOTHING`` and ``E-PACS-NONE`` end with 8 and ``E-SCOPE`` with 2
instead (`medidiff.catalogue.exit_code`). No message ever carries patient data: attributes are named, identifying values
are not shown. A message is one line without control characters, whatever a file is called.
"""

from __future__ import annotations

import functools
import unicodedata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

__all__ = ["InputError", "MedidiffError", "OutputError", "PriorError", "SettingsError", "printable"]


def printable(text: str) -> str:
    """A text as one line that a terminal shows as it stands.

    White space becomes a space; escape sequences, marks that turn the writing direction, characters without width and
    halves of surrogate pairs become ``?``.
    """
    return "".join(" " if c.isspace() else "?" if unicodedata.category(c)[0] == "C" else c for c in text)


class MedidiffError(Exception):
    """A refusal that says how to go on.

    Args:
        code: short stable name such as ``"E-GAP"``; the same fault always has the same code.
        found: what was met, with numbers and units.
        wanted: what would have been right; may be empty when it is plain.
        mend: what the reader can do about it.
        file: name of the file at fault, when there is one.
        attribute: header field or option at fault, when there is one.
    """

    exit_code = 1

    def __init__(
        self, code: str, found: str, *, wanted: str = "", mend: str = "", file: str = "", attribute: str = ""
    ) -> None:
        self.code, self.found, self.wanted, self.mend = code, found, wanted, mend
        self.file, self.attribute = file, attribute
        super().__init__(self._sentence())

    def __reduce__(self) -> tuple[Callable[..., MedidiffError], tuple[str, str]]:
        """How it goes from one process to another: with all that it says."""
        more = {"wanted": self.wanted, "mend": self.mend, "file": self.file, "attribute": self.attribute}
        return functools.partial(type(self), **more), (self.code, self.found)

    def about(self, file: str) -> Self:
        """The same refusal, which names a file at fault."""
        more = {"wanted": self.wanted, "mend": self.mend, "attribute": self.attribute}
        return type(self)(self.code, self.found, file=file, **more)

    def _sentence(self) -> str:
        where = " ".join(part for part in (self.file, self.attribute) if part)
        text = f"{self.code}: {where + ': ' if where else ''}{self.found}"
        if self.wanted:
            text += f" (wanted: {self.wanted})"
        return printable(f"{text}. {self.mend}" if self.mend else text)


class SettingsError(MedidiffError):
    """An option, recipe entry or argument is broken or out of range."""

    exit_code = 2


class InputError(MedidiffError):
    """A scan cannot be read, or reading it would mean guessing."""

    exit_code = 4


class OutputError(MedidiffError):
    """A result cannot be written where it was asked for."""

    exit_code = 5


class PriorError(MedidiffError):
    """A trained prior is missing, broken or does not fit the scan."""

    exit_code = 6
