"""Trying again: exponential back-off with jitter and a limit, for faults that may pass by themselves."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from medidiff.errors import InputError, MedidiffError

__all__ = ["LONGEST_ASKED_SECONDS", "PASSING", "Later", "Patience"]

T = TypeVar("T")

PASSING = frozenset(
    {
        "E-PACS-ABORT",
        "E-PACS-BUSY",
        "E-PACS-PARTIAL",
        "E-PACS-REACH",
        "E-PACS-SERVER",
        "E-PACS-TIMEOUT",
        "E-PACS-UNCONFIRMED",
        "E-PACS-WARNING",
    }
)
"""Codes of faults that may pass; a wrong AE title, password or certificate stays wrong however often it is tried."""

LONGEST_ASKED_SECONDS = 600.0
"""An archive that asks for a longer pause is not waited for: the fault is passed on, and says when to come back."""


class Later(InputError):
    """A fault that may pass, of an archive that says how long it wants to be left alone.

    Args:
        code: as for every error.
        found: what was met.
        mend: what the reader can do.
        after_seconds: before this time has gone by nothing is asked again.
    """

    def __init__(self, code: str, found: str, *, mend: str, after_seconds: float) -> None:
        super().__init__(code, found, mend=mend)
        self.after_seconds = after_seconds


_chance = random.SystemRandom()


@dataclass(frozen=True, slots=True)
class Patience:
    """How often, and after which pauses, something is tried again.

    The pause after failure n is drawn between half and all of ``first_seconds * 2**n``, at most `most_seconds`, so
    that many clients of an archive that restarts do not all come back at once. Where the archive itself says how long
    it wants to be left alone, that is added to it.

    Args:
        attempts: tries in a row without progress, at least 1.
        first_seconds: first pause at most.
        most_seconds: longest pause.
        pause: waits; replaced in tests.
        uniform: draws between two numbers; replaced in tests.
    """

    attempts: int = 6
    first_seconds: float = 1.0
    most_seconds: float = 60.0
    pause: Callable[[float], None] = time.sleep
    uniform: Callable[[float, float], float] = _chance.uniform

    def seconds(self, failures: int) -> float:
        """The pause after so many failures in a row, in s."""
        longest = min(self.most_seconds, self.first_seconds * 2.0 ** min(failures - 1, 32))
        return self.uniform(longest / 2, longest)

    def persist(self, action: Callable[[], T], *, progress: Callable[[], int] | None = None) -> T:
        """Do something, and do it again after a fault that may pass.

        Args:
            action: what to do; it raises a `MedidiffError` when it fails.
            progress: a number that grows as the work does; while it grows, the count of attempts begins anew.

        Raises:
            MedidiffError: the last fault, as `action` raised it.
        """
        failures, reached = 0, progress() if progress else 0
        while True:
            try:
                return action()
            except MedidiffError as error:
                now = progress() if progress else 0
                failures, reached = (1 if now > reached else failures + 1), now
                asked = error.after_seconds if isinstance(error, Later) else 0.0
                if error.code not in PASSING or failures >= self.attempts or asked > LONGEST_ASKED_SECONDS:
                    raise
            self.pause(asked + self.seconds(failures))
