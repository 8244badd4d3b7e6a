"""What an archive answers, and what every archive can do, whichever way it speaks."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol, Self

from medidiff.errors import InputError
from medidiff.pacs.arrivals import Arrivals
from medidiff.pacs.instances import Instance
from medidiff.pacs.wanted import Wanted

__all__ = ["MOST_ANSWERS", "Archive", "Refused", "Series", "Study", "refuse_flood"]

MOST_ANSWERS = 100_000  # to one question; an archive that answers more than this is not believed


@dataclass(frozen=True, slots=True)
class Study:
    """A study that an archive holds.

    Args:
        uid: StudyInstanceUID.
        instances: how many instances the archive says it has; None when it does not say.
    """

    uid: str
    instances: int | None = None


@dataclass(frozen=True, slots=True)
class Series:
    """A series of a study.

    Args:
        uid: SeriesInstanceUID.
        modality: e.g. ``"MR"``; empty when unsaid.
        description: SeriesDescription, which may name a patient; empty when unsaid.
    """

    uid: str
    modality: str = ""
    description: str = field(default="", repr=False)

    @property
    def is_ours(self) -> bool:
        """Whether medidiff has derived it, as its description then says."""
        return re.search(r"(?:^| )medidiff (?:denoise|superresolve)", self.description) is not None


@dataclass(frozen=True, slots=True)
class Refused:
    """An instance that an archive did not take.

    Args:
        uid: SOPInstanceUID.
        reason: in words, without anything of the patient.
    """

    uid: str
    reason: str


class Archive(Protocol):
    """One archive. Every method raises `InputError` with a code ``E-PACS-...`` when it fails."""

    largest_bytes: int

    def studies(self, wanted: Wanted) -> list[Study]:
        """Studies that fit; what was answered and does not fit is left out."""

    def series(self, study: str) -> list[Series]:
        """All series of a study."""

    def instances(self, study: str, series: str) -> dict[str, str]:
        """SOP class by SOP instance UID of a series; the class is empty when unsaid, the whole when there is none."""

    def fetch(self, arrivals: Arrivals) -> int:
        """Have the instances sent that have not arrived yet.

        Returns:
            How many the archive says it could not send; not all that it sends need arrive, so look at `arrivals`.
        """

    def store(self, instances: Sequence[Instance]) -> list[Refused]:
        """Send files as they are; an instance that the archive has already is no fault.

        Raises:
            InputError: the connection failed, or ``E-PACS-FULL``.
        """

    def close(self) -> None:
        """Give connections back."""

    def __enter__(self) -> Self:
        """The archive itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give connections back."""
        self.close()


def refuse_flood(count: int) -> None:
    """Refuse an archive that answers without end.

    Raises:
        InputError: ``E-PACS-ANSWER``.
    """
    if count > MOST_ANSWERS:
        mend = "Ask for less at a time, for example with --dates."
        raise InputError("E-PACS-ANSWER", f"more than {MOST_ANSWERS:,} answers to one question", mend=mend)
