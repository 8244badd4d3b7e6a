"""What an archive sends, before it is believed: only instances that are awaited are kept, whole, under their UID."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from enum import Enum
from pathlib import Path

from medidiff.errors import InputError, MedidiffError, OutputError
from medidiff.io.files.atomic import output_errors, refuse_full
from medidiff.pacs.instances import describe

__all__ = ["Arrivals", "Verdict"]


class Verdict(Enum):
    """What became of an instance that came."""

    TAKEN = "taken"
    AGAIN = "came before"
    FOREIGN = "not asked for"
    DAMAGED = "damaged, or too large"
    FULL = "could not be written"


class Arrivals:
    """Takes the instances of one series into a folder that nobody reads yet; safe to call from several threads.

    Args:
        folder: where files go, ``<SOP instance UID>.dcm``.
        study: UID that each instance must carry.
        series: UID that each instance must carry.
        awaited: SOP class by SOP instance UID; the class is empty where the archive did not tell.
        largest_bytes: most that one instance may hold.
    """

    def __init__(
        self, folder: Path, *, study: str, series: str, awaited: Mapping[str, str], largest_bytes: int
    ) -> None:
        self.folder, self.study, self.series, self.largest_bytes = folder, study, series, largest_bytes
        self._awaited = dict(awaited)
        self._taken: set[str] = set()
        self._lock = threading.Lock()
        self.refused: dict[Verdict, int] = {}
        self.fault: MedidiffError | None = None

    @property
    def missing(self) -> dict[str, str]:
        """SOP class by SOP instance UID of what has not come yet."""
        with self._lock:
            return {uid: kind for uid, kind in self._awaited.items() if uid not in self._taken}

    @property
    def taken(self) -> int:
        """How many have come."""
        with self._lock:
            return len(self._taken)

    def await_also(self, uids: Mapping[str, str]) -> None:
        """Wait for these too; what has come already counts."""
        with self._lock:
            self._awaited |= uids

    def take(self, content: bytes) -> Verdict:
        """Look at one instance, and keep it if it is awaited.

        Args:
            content: all bytes of a DICOM file.
        """
        verdict = self._judge(content)
        if verdict not in (Verdict.TAKEN, Verdict.AGAIN):
            with self._lock:
                self.refused[verdict] = self.refused.get(verdict, 0) + 1
        return verdict

    def _judge(self, content: bytes) -> Verdict:
        if len(content) > self.largest_bytes:
            self.overflow()
            return Verdict.DAMAGED
        try:
            found = describe(content, name="an instance")
        except InputError:
            return Verdict.DAMAGED
        with self._lock:
            if (found.study, found.series) != (self.study, self.series) or found.uid not in self._awaited:
                return Verdict.FOREIGN
            if found.uid in self._taken:
                return Verdict.AGAIN
            if not self._keep(found.uid, content):
                return Verdict.FULL
            self._taken.add(found.uid)
            return Verdict.TAKEN

    def _keep(self, uid: str, content: bytes) -> bool:
        try:
            with output_errors("an instance", self.folder):
                refuse_full(self.folder, len(content), file="an instance")
                (self.folder / f"{uid}.dcm").write_bytes(content)
        except OutputError as error:
            self.fault = error
            return False
        return True

    def overflow(self) -> None:
        """Take note of an instance that is larger than the limit."""
        found, mend = f"an instance of more than {self.largest_bytes // 2**20:,} MiB", "Raise limits.largest_mib."
        self.fault = InputError("E-PACS-ANSWER", found, mend=mend)

    def raise_fault(self) -> None:
        """Pass on what the archive could only be told in a status: a disk that is full, an instance that is too large.

        Raises:
            OutputError: ``E-DISK`` or ``E-OUT``.
            InputError: ``E-PACS-ANSWER``.
        """
        if self.fault is not None:
            raise self.fault

    def told(self) -> str:
        """What was refused, as a clause; empty when nothing was."""
        return ", ".join(f"{count} {verdict.value}" for verdict, count in self.refused.items())

    def already(self, uids: Iterable[str]) -> None:
        """Count instances that lie in the final folder from an earlier run."""
        with self._lock:
            self._taken |= set(uids)
