"""A worker: takes one case after the other until nothing is left that nobody else works on.

The order of writing is what makes it safe to kill: the results (temporary name, fsync, rename), then the record of the
case in the same way, then the lease goes. Whoever comes later believes a record only if all that it says is still true.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from medidiff.batch.cases import Case
from medidiff.batch.inputs import Inputs
from medidiff.batch.job import Batch
from medidiff.batch.journal import Event, Journal, State, now
from medidiff.batch.leases import Lease
from medidiff.batch.records import Basis, Done, Refused
from medidiff.catalogue import CATALOGUE
from medidiff.errors import InputError, MedidiffError, OutputError, PriorError
from medidiff.io.files.atomic import IN_THE_WAY, sha256

__all__ = ["NO_ARCHIVE", "Outcome", "Task", "Worker"]

_HOPELESS = (
    "E-DISK",
    "E-OUT",
    "E-VERIFY",
    "E-PRIOR",
    "E-CARD",
    "E-WEIGHTS",
    "E-CONTRAST",
)  # what meets one case will meet the next
NO_ARCHIVE = frozenset(
    {
        "E-PACS-AETITLE",
        "E-PACS-BUSY",
        "E-PACS-EXTRA",
        "E-PACS-LOGIN",
        "E-PACS-NODE",
        "E-PACS-PORT",
        "E-PACS-REACH",
        "E-PACS-REJECTED",
        "E-PACS-SECRET",
        "E-PACS-TLS",
    }
)
"""Codes of an archive that no case can be fetched from; other codes of archives are of one series."""
_UNREACHED = ("E-MISSING", "E-READ")  # of one input, unless it is so with all of them
_MOST_DEATHS = 10  # that are put down to chance
_POLL_SECONDS = (0.05, 2.0)
_BEATS = 6  # in the time after which a lease counts as dead


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a task made of a case.

    Args:
        input_sha256: of the bytes that were read.
        prior: name of the prior that was chosen; empty for none.
        results: the main file of each result, or its folder.
        files: every file that was written.
        metrics: numbers about the case.
        decisions: what was chosen or repaired.
    """

    input_sha256: str
    prior: str
    results: Mapping[str, Path]
    files: Sequence[Path]
    metrics: Mapping[str, float] = field(default_factory=dict)
    decisions: tuple[str, ...] = ()


class Task(Protocol):
    """Computes one case; the same case always gives the same files."""

    def fingerprint(self, case: Case) -> str:
        """SHA-256 of the bytes that the result depends on; of what can be seen of them where they cannot be read."""

    def run(self, case: Case) -> Outcome:
        """Read, compute and write; the files are whole and on the disk when this returns.

        Raises:
            MedidiffError: the case is refused, or nothing can be written.
        """


class Worker:
    """Settles cases.

    Args:
        batch: what there is to do.
        task: how a case is done.
        since_ns: what was settled after this moment is not looked at again; `Batch.now_ns`.
        retry_refused: whether to try again what was refused before that moment.
        told: called for each case that this worker settled.
    """

    def __init__(
        self,
        batch: Batch,
        task: Task,
        *,
        since_ns: int,
        retry_refused: bool = False,
        told: Callable[[Event], None] | None = None,
    ) -> None:
        self.batch, self.task, self.since_ns, self.retry_refused = batch, task, since_ns, retry_refused
        self._told, self._journal = told, Journal(batch.folder / "journal", since_ns)
        self._inputs = Inputs(batch.manifest)
        self._heart = _Heart(batch.leases.limit_s / _BEATS)

    def work(self, numbers: Iterable[int], *, most: int | None = None) -> int:
        """Settle these cases, or see that others do.

        Cases that somebody holds are left for later, those on which somebody died for the very end: if it was the case
        that killed, everything else is done by then.

        Args:
            numbers: of the cases, in the order in which they are tried.
            most: cases to settle at most; then others are not waited for.

        Returns:
            How many were settled by this worker.

        Raises:
            OutputError: nothing can be written.
            PriorError: the prior is missing or broken.
            InputError: ``E-INPUTS``, no input can be reached from here; or the archive cannot be asked.
        """
        settled = 0
        with self._heart.beating():
            later = []
            for number in numbers:
                if settled == most:
                    return settled
                fate = self._try(number, from_the_dead=False)
                settled += fate == "mine"
                if fate == "held":
                    later.append(number)
            pause = _POLL_SECONDS[0]
            while later and settled != most:
                held = []
                for number in later:
                    fate = self._try(number) if settled != most else "held"
                    settled += fate == "mine"
                    if fate == "held":
                        held.append(number)
                if most is not None and len(held) == len(later):
                    break
                pause = _POLL_SECONDS[0] if len(held) < len(later) else min(2 * pause, _POLL_SECONDS[1])
                later = held
                if later:
                    time.sleep(pause)
        return settled

    def _try(self, number: int, *, from_the_dead: bool = True) -> str:
        """What came of a case: ``"mine"``, settled just now; ``"others"``, settled before; or ``"held"``."""
        case = self.batch.manifest[number]
        if self.batch.settled(case.name, self.since_ns):
            return "others"
        lease = self.batch.leases.take(case.name, from_the_dead=from_the_dead)
        if lease is None:
            return "held"
        self._heart.lease = lease
        try:
            if self.batch.settled(case.name, self.since_ns):  # while we waited for the lease
                return "others"
            begin = time.monotonic()
            state, code = self._settle(case, lease)
            self._tell(Event(case.name, state, code, round(time.monotonic() - begin, 4), now()))
            return "mine"
        finally:
            self._heart.lease = None
            lease.release()

    def _tell(self, event: Event) -> None:
        self._journal.put(event)
        if self._told is not None:
            self._told(event)

    def _settle(self, case: Case, lease: Lease) -> tuple[State, str]:
        records = self.batch.records
        before = records.done(case.name)
        if before is not None and self._is_true(before, case) and before.is_whole(self.batch.root):
            records.confirm(before, self.since_ns)
            return "kept", ""
        refused = None if self.retry_refused else records.refused(case.name)
        if refused is not None and self._is_true(refused, case):
            records.confirm(refused, self.since_ns)
            return "refused", refused.code
        if lease.deaths >= _MOST_DEATHS and not self.retry_refused:
            found = f"{lease.deaths} workers have died on this case, one after the other"
            mend = "It may need more memory than there is. --retry-failed tries again."
            return self._refuse(case, InputError("E-CRASH", found, mend=mend))
        try:
            outcome = self.task.run(case)
        except MedidiffError as error:
            if error.code in NO_ARCHIVE or (_meets_all(error) and not self._is_of_one_place(error)):
                raise
            if error.code in _UNREACHED:
                self._inputs.refuse_gone()
            return self._refuse(case, error)
        except MemoryError:
            mend = "Use a machine with more memory, or fewer workers."
            return self._refuse(case, InputError("E-MEMORY", "not enough memory for the case", mend=mend))
        except Exception as error:  # one case is not worth the others; the type says enough for a report
            found = f"an error that medidiff does not know ({type(error).__name__})"
            mend = "Run the case alone to see the whole of it, and report it."
            return self._refuse(case, InputError("E-UNEXPECTED", found, mend=mend))
        records.put(self._done(case, outcome), self.since_ns)
        return "done", ""

    def _is_of_one_place(self, error: MedidiffError) -> bool:
        """Whether the system refuses to write where this case's results go, and nowhere else for all one knows."""
        cause = error.__cause__
        if not isinstance(cause, OSError):
            return False
        closed = cause.errno in (errno.EACCES, errno.EPERM) and os.access(self.batch.root, os.W_OK | os.X_OK)
        return closed or cause.errno in IN_THE_WAY

    def _is_true(self, record: Done | Refused, case: Case) -> bool:
        """Whether a record is of the same settings, the same prior and the same input as now."""
        basis, job = record.basis, self.batch.job
        same = basis.config_sha256 == job.config_sha256 and basis.prior_sha256 == job.prior_sha256(basis.prior)
        return same and basis.input_sha256 == self.task.fingerprint(case)

    def _done(self, case: Case, outcome: Outcome) -> Done:
        root = self.batch.root
        basis = self._basis(outcome.input_sha256, outcome.prior)
        return Done(
            case.name,
            basis,
            {name: str(path.relative_to(root)) for name, path in outcome.results.items()},
            {str(path.relative_to(root)): sha256(path) for path in outcome.files},
            outcome.metrics,
            outcome.decisions,
        )

    def _basis(self, input_sha256: str, prior: str) -> Basis:
        job = self.batch.job
        return Basis(input_sha256, job.config_sha256, prior, job.prior_sha256(prior))

    def _refuse(self, case: Case, error: MedidiffError) -> tuple[State, str]:
        basis = self._basis(self.task.fingerprint(case), "")
        mend = error.mend or CATALOGUE[error.code].mend
        refused = Refused(case.name, basis, error.code, case.plain(str(error)), case.plain(mend))
        self.batch.records.put(refused, self.since_ns)
        return "refused", error.code


def _meets_all(error: MedidiffError) -> bool:
    return error.code in _HOPELESS and isinstance(error, OutputError | PriorError)


class _Heart:
    """Touches the lease that is held, again and again, in a thread of its own.

    Args:
        every_s: time between two beats.
    """

    def __init__(self, every_s: float) -> None:
        self.every_s = every_s
        self.lease: Lease | None = None
        self._stop = threading.Event()

    @contextmanager
    def beating(self) -> Iterator[None]:
        """While the block runs."""
        self._stop.clear()
        thread = threading.Thread(target=self._beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join()

    def _beat(self) -> None:
        while not self._stop.wait(self.every_s):
            lease = self.lease
            if lease is not None:
                lease.beat()
