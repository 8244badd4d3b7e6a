"""New studies as they come: each is pulled once, when it has stopped growing, and handed to a command.

At least once: a watch that is killed while a command runs hands the study to it again. What the command sends back is
pushed with `medidiff.pacs.push`, which stores nothing twice.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess  # the user's own command, as a list of words, without a shell
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from medidiff.errors import InputError, MedidiffError, OutputError, SettingsError
from medidiff.pacs.answers import Archive, Study
from medidiff.pacs.patience import PASSING, Patience
from medidiff.pacs.pull import Pulled, pull_study
from medidiff.pacs.state import Entry, State, Step
from medidiff.pacs.wanted import Wanted

__all__ = ["Handing", "Polled", "Rules", "Watch"]

_PLACE = "{study}"
_GRACE_SECONDS = 10.0  # for a command that is asked to end


@dataclass(frozen=True, slots=True)
class Handing:
    """The command that takes each study.

    Args:
        words: program and arguments; ``{study}`` stands for the study's folder, which comes last where it stands
            nowhere.
        limit_seconds: after this time the command is ended, with all that it has started; never when None.
    """

    words: tuple[str, ...]
    limit_seconds: float | None = None

    @classmethod
    def parse(cls, text: str, *, limit_seconds: float | None = None) -> Handing:
        """A command as it is typed, split as a shell does, but run without one.

        Args:
            text: the command.
            limit_seconds: as for the class.

        Raises:
            SettingsError: ``E-SETTING``, it cannot be split, or is empty.
        """
        try:
            words = tuple(shlex.split(text))
        except ValueError as error:
            raise SettingsError("E-SETTING", f"a command with {error}", attribute="--run") from error
        if not words:
            raise SettingsError("E-SETTING", "an empty command", attribute="--run")
        return cls(words if any(_PLACE in word for word in words) else (*words, _PLACE), limit_seconds)

    def __call__(self, folder: Path) -> None:
        """Run it with a study's folder, and wait for its end; what it prints goes to stderr.

        Raises:
            OutputError: ``E-PACS-COMMAND``, it cannot be started, takes too long, or ends with another code than 0.
        """
        words = [word.replace(_PLACE, os.fspath(folder.absolute())) for word in self.words]
        mend = "The study lies in OUT; it is handed on again at the next round."
        try:
            process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=2, start_new_session=True)  # noqa: S603
        except OSError as error:
            found = f"the command of --run cannot be started: {error.strerror}"
            raise OutputError("E-PACS-COMMAND", found, mend=mend) from error
        try:
            code = process.wait(self.limit_seconds)
        except subprocess.TimeoutExpired as error:
            found = f"the command of --run did not end within {self.limit_seconds:g} s, and was ended"
            raise OutputError("E-PACS-COMMAND", found, mend=mend) from error
        finally:
            _end(process)
        if code:
            raise OutputError("E-PACS-COMMAND", f"the command of --run ended with code {code}", mend=mend)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a command that has not ended by itself, and what it has started: asked first, then without a question."""
    for number, seconds in ((signal.SIGTERM, _GRACE_SECONDS), (signal.SIGKILL, None)):
        if process.poll() is not None:
            return
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(seconds)


@dataclass(slots=True)
class Polled:
    """What one look at the archive brought.

    Args:
        handed: studies that are done with, each with what was pulled.
        waiting: studies that are new or still growing.
        failed: studies that could not be pulled or handed on, and why.
        left: studies that failed too often and are not tried any more.
    """

    handed: list[Pulled] = field(default_factory=list)
    waiting: int = 0
    failed: list[MedidiffError] = field(default_factory=list)
    left: int = 0


@dataclass(frozen=True, slots=True)
class Rules:
    """When a study is taken, what is done with it, and how often it may fail.

    Args:
        patience: how to try again within one look.
        hand: what is done with each study; None when the tree is all that is wanted.
        settle_seconds: how long a study's number of instances must not have changed.
        most_failures: after so many in a row a study is left alone.
        clock: seconds; replaced in tests.
    """

    patience: Patience
    hand: Callable[[Path], None] | None = None
    settle_seconds: float = 60.0
    most_failures: int = 5
    clock: Callable[[], float] = time.time


class Watch:
    """Looks at an archive again and again.

    Args:
        archive: whom to ask.
        wanted: which studies, and which of their series.
        out: folder of the tree.
        state: what was done before.
        rules: what is done with a study.
    """

    def __init__(self, archive: Archive, wanted: Wanted, out: Path, state: State, rules: Rules) -> None:
        self.archive, self.wanted, self.out, self.state, self.rules = archive, wanted, out, state, rules

    def pass_over(self) -> int:
        """Take the studies that are there now as done, unless this folder was watched before; how many they are.

        Raises:
            InputError: as the archive.
        """
        if self.state.entries:
            return 0
        studies = self.rules.patience.persist(lambda: self.archive.studies(self.wanted))
        for study in studies:
            self.state.put(Entry(study.uid, "passed", study.instances or 0, self.rules.clock()))
        return len(studies)

    def poll(self) -> Polled:
        """Look once.

        Raises:
            InputError: the archive cannot be asked.
            OutputError: the disk refuses.
        """
        polled = Polled()
        for study in self.rules.patience.persist(lambda: self.archive.studies(self.wanted)):
            entry = self.state.entries.get(study.uid)
            if entry is not None and entry.step in ("handed", "passed"):
                continue
            if entry is not None and entry.failures >= self.rules.most_failures:
                polled.left += 1
            elif entry is not None and entry.step == "pulled":
                self._hand(Pulled(self.out / study.uid, (), ()), entry, polled)
            elif self._is_settled(study, entry):
                self._pull(study.uid, self.state.entries[study.uid], polled)
            else:
                polled.waiting += 1
        return polled

    def _is_settled(self, study: Study, entry: Entry | None) -> bool:
        """Whether a study has had the same number of instances for long enough; the number is written down."""
        count = study.instances
        if count is None:
            count = sum(len(self.archive.instances(study.uid, s.uid)) for s in self.archive.series(study.uid))
        now = self.rules.clock()
        if entry is None or count != entry.instances:
            old = Entry(study.uid, "seen", count, now) if entry is None else entry
            self.state.put(replace(old, step="seen", instances=count, at=now))
            return self.rules.settle_seconds <= 0
        return entry.step == "failed" or now - entry.at >= self.rules.settle_seconds

    def _pull(self, study: str, entry: Entry, polled: Polled) -> None:
        try:
            pulled = pull_study(self.archive, study, self.out, wanted=self.wanted, patience=self.rules.patience)
        except InputError as error:
            self._failed(entry, error, polled)
            if error.code not in PASSING:
                raise
            return
        if not pulled.complete:
            self._failed(entry, pulled.refused[0], polled)
            return
        entry = self._put(entry, "pulled")
        self._hand(pulled, entry, polled)

    def _hand(self, pulled: Pulled, entry: Entry, polled: Polled) -> None:
        try:
            if self.rules.hand is not None:
                self.rules.hand(pulled.folder)
        except OutputError as error:
            self._failed(entry, error, polled, step="pulled")
            return
        self._put(entry, "handed")
        polled.handed.append(pulled)

    def _put(self, entry: Entry, step: Step) -> Entry:
        entry = replace(entry, step=step, at=self.rules.clock(), failures=0, code="")
        self.state.put(entry)
        return entry

    def _failed(self, entry: Entry, error: MedidiffError, polled: Polled, step: Step = "failed") -> None:
        polled.failed.append(error)
        self.state.put(replace(entry, step=step, at=self.rules.clock(), failures=entry.failures + 1, code=error.code))
