"""Every error code: what it means, what usually mends it, and which error carries it.

`docs/errors.md` is made from this table (``python validation/error_page.py``), and `tests/test_errors.py` holds it to
the code: every code that is raised stands here, every code that stands here is raised and tested, and a code has one
meaning wherever it is met. The message of an error names the file and the numbers; this table explains the kind.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from medidiff.catalogue.network import NETWORK, NETWORK_SETTINGS
from medidiff.catalogue.reading import INPUT
from medidiff.catalogue.settings import BUG, PRIOR, SETTINGS
from medidiff.catalogue.writing import BOTH_WAYS, OUTPUT
from medidiff.errors import InputError, MedidiffError, OutputError, PriorError, SettingsError

__all__ = ["CATALOGUE", "Entry", "exit_code", "page"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One error code.

    Args:
        code: as in the message.
        meaning: what was met, in plain words.
        mend: what usually helps.
        errors: the error that carries it; two when a scan can be at fault on the way in and on the way out.
    """

    code: str
    meaning: str
    mend: str
    errors: tuple[type[MedidiffError], ...]

    @property
    def exit_codes(self) -> tuple[int, ...]:
        """Of the command line."""
        return (_OWN[self.code],) if self.code in _OWN else tuple(kind.exit_code for kind in self.errors)


def _table(errors: tuple[type[MedidiffError], ...], rows: Mapping[str, tuple[str, str]]) -> tuple[Entry, ...]:
    return tuple(Entry(code, meaning, mend, errors) for code, (meaning, mend) in rows.items())


_NOTHING_USABLE = 8  # the input can be read, but there is nothing in it to work on
_ASKED_FOR = 2  # the scan is good, but the command line is not for it
_OWN = dict.fromkeys(("E-NOIMAGES", "E-NOTHING", "E-PACS-NONE"), _NOTHING_USABLE) | dict.fromkeys(
    ("E-SCOPE",), _ASKED_FOR
)

_ALL = (
    *_table((MedidiffError,), BUG),
    *_table((InputError,), INPUT),
    *_table((InputError, OutputError), {**BOTH_WAYS, **NETWORK}),
    *_table((OutputError,), OUTPUT),
    *_table((SettingsError,), {**SETTINGS, **NETWORK_SETTINGS}),
    *_table((PriorError,), PRIOR),
)

CATALOGUE: Mapping[str, Entry] = MappingProxyType({entry.code: entry for entry in sorted(_ALL, key=lambda e: e.code)})
"""Every error code by its name, in alphabetical order."""

_HEAD = """\
# Error codes

Made by `python validation/error_page.py` from `medidiff/catalogue/`; edit that, not this page.

Whatever can be mended ends in one line, `medidiff: E-CODE: file: what was met (wanted: what would be right). What to
do.` The line names the files and the numbers; this page explains the codes. In Python the line is a `MedidiffError`
with the attributes `code`, `found`, `wanted`, `mend`, `file` and `attribute`. [cli.md](cli.md) explains the exit codes.

| code | what it means | what usually mends it | exit code |
|---|---|---|--:|
"""


def exit_code(error: MedidiffError) -> int:
    """With what number a command ends that meets this error."""
    return _OWN.get(error.code, error.exit_code)


def page() -> str:
    """The catalogue as a page of Markdown."""
    rows = (
        f"| `{e.code}` | {e.meaning} | {e.mend} | {', '.join(map(str, e.exit_codes))} |\n" for e in CATALOGUE.values()
    )
    return _HEAD + "".join(rows)
