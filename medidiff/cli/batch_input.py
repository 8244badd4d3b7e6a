"""INPUT of a batch as it is typed: a path, or a question to an archive."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["Input"]

_ARCHIVE = "pacs:"


@dataclass(frozen=True, slots=True)
class Input:
    """A path, or ``pacs:NODE?condition=value&...``; the latter may hold a patient's number and is never shown.

    Args:
        text: as it was typed.

    Example:
        >>> Input("pacs:archive?accession=A%2F1&modality=MR").node
        'archive'
        >>> Input("studies/").path
        PosixPath('studies')
    """

    text: str

    @property
    def is_archive(self) -> bool:
        """Whether it is a question to an archive."""
        return self.text.startswith(_ARCHIVE)

    @property
    def path(self) -> Path:
        """The path that it is otherwise."""
        return Path(self.text)

    @property
    def node(self) -> str:
        """Who is asked: a name, ``AETITLE@host:port`` or an http(s) address."""
        return self.text.removeprefix(_ARCHIVE).partition("?")[0]

    @property
    def conditions(self) -> str:
        """What is asked for."""
        return self.text.partition("?")[2]
