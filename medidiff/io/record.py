"""The record of a run: JSON lines that survive whatever happens to the run.

Each line is one JSON object, put on the disk (fsync) before the run goes on, the lines of one step together, so that a
record tells how far a run came that was killed. Lines are appended under a lock (flock), so that several runs may share
a record. A line that was cut (power, kill) is closed by the next run that appends, and no reader is confused by it.

=========  ==========================================================================================
kind       what the line says
=========  ==========================================================================================
start      version, verb, options without paths and secrets and their hash, seed, versions
source     one input path: format, files and series seen
input      one file: label, bytes and SHA-256 if used, the reason if not
decision   what was chosen or repaired, as a sentence
prior      name and SHA-256 of the weights
output     one file: label, bytes, SHA-256
quality    of a result: checks that ask for a look, noise levels, label of its page
refusal    code and message of what could not be done
end        exit code, seconds, peak memory, counts
=========  ==========================================================================================

Every line has ``run`` (the same for all lines of a run) and ``seconds`` since its start. Files are named by
`medidiff.io.files.names.safe_label`, so that no record tells whose scan it was.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import stat
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medidiff.errors import InputError, OutputError
from medidiff.io.files.atomic import output_errors

__all__ = ["KINDS", "RecordWriter", "Run", "read_record"]

KINDS = ("start", "source", "input", "decision", "prior", "output", "quality", "refusal", "end")
_BEGIN = b'{"kind": '
_LONGEST_LINE = 2**20  # bytes; a longer line is none of ours


class RecordWriter:
    """Appends the lines of one run; keeps them in memory until there is a place for them.

    Args:
        clock: seconds, monotonic; replaced in tests.
    """

    def __init__(self, clock: Any = time.monotonic) -> None:
        self.run = secrets.token_hex(8)
        self._clock, self._begin = clock, clock()
        self._waiting: list[bytes] = []
        self._handle: int | None = None
        self._name, self._alone = "", False
        self.place: Path | None = None  # of the record, once it has one

    @property
    def is_open(self) -> bool:
        """Whether lines reach the disk."""
        return self._handle is not None

    @property
    def seconds(self) -> float:
        """Since the run began."""
        return round(float(self._clock() - self._begin), 3)

    def line(self, kind: str, **fields: Any) -> None:
        """Append one line.

        Raises:
            OutputError: the system refuses.
        """
        self.lines(kind, (fields,))

    def lines(self, kind: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Append several lines of one kind, and have them put on the disk together.

        Raises:
            OutputError: the system refuses.
        """
        head = {"kind": kind, "run": self.run, "seconds": self.seconds}
        self._waiting += [json.dumps({**head, **row}, allow_nan=False).encode() + b"\n" for row in rows]
        self._flush()

    def open(self, path: Path, *, alone: bool) -> None:
        """Give the record its place; what is there already is kept.

        Args:
            path: the record; its folder exists.
            alone: whether no other run may write to the same record meanwhile.

        Raises:
            OutputError: ``E-OUT``, it cannot be written; ``E-OVERWRITE``, something else stands there; ``E-LOCKED``,
                another run holds it.
        """
        self._name, self._alone = path.name, alone
        with output_errors(path.name):
            handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        try:
            if alone:
                _lock_or_refuse(handle, path.name)
            _refuse_foreign(handle, path.name)
        except BaseException:
            os.close(handle)
            raise
        self._handle, self.place = handle, path
        self._flush()

    def close(self) -> None:
        """Give the record, and its lock, back."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def _flush(self) -> None:
        if self._handle is None or not self._waiting:
            return
        with output_errors(self._name), self._locked(self._handle):
            end = os.fstat(self._handle).st_size
            torn = end > 0 and os.pread(self._handle, 1, end - 1) != b"\n"
            _write_all(self._handle, b"\n" * torn + b"".join(self._waiting))
            os.fsync(self._handle)
        self._waiting.clear()

    @contextmanager
    def _locked(self, handle: int) -> Iterator[None]:
        if self._alone:  # the lock of the whole run is held already
            yield
            return
        fcntl.flock(handle, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(handle, fcntl.LOCK_UN)


def _write_all(handle: int, content: bytes) -> None:
    while content:
        content = content[os.write(handle, content) :]


def _lock_or_refuse(handle: int, name: str) -> None:
    """Hold the record for the whole run; the system lets go of it when the process ends, however it ends."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        mend = "Wait until it is done, or choose another output."
        raise OutputError("E-LOCKED", "another run of medidiff is writing here", mend=mend, file=name) from error
    except OSError:  # a file system without locks: nothing to hold
        return


def _refuse_foreign(handle: int, name: str) -> None:
    begin = os.pread(handle, len(_BEGIN), 0).split(b"\n")[0] if stat.S_ISREG(os.fstat(handle).st_mode) else b"?"
    if not _BEGIN.startswith(begin):  # the first line may have been cut
        found, mend = "something that is no record of medidiff stands where the record would go", "Choose another name."
        raise OutputError("E-OVERWRITE", found, mend=mend, file=name)


@dataclass(frozen=True, slots=True)
class Run:
    """What a record tells of one run.

    Args:
        run: its name.
        lines: in the order they were written.
    """

    run: str
    lines: tuple[Mapping[str, Any], ...]

    @property
    def exit_code(self) -> int | None:
        """How it ended; None when it was killed, or still runs."""
        last = self.lines[-1]
        return last.get("exit_code") if last["kind"] == "end" else None

    def of(self, kind: str) -> tuple[Mapping[str, Any], ...]:
        """Its lines of one kind."""
        return tuple(line for line in self.lines if line["kind"] == kind)


def read_record(path: str | Path) -> tuple[Run, ...]:
    """The runs that a record tells of, in the order they began; lines that were cut are left out.

    Raises:
        InputError: ``E-MISSING``, there is none; ``E-RECORD``, the file is none.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError("E-MISSING", "no such record", mend="Check the path.", file=path.name)
    runs: dict[str, list[Mapping[str, Any]]] = {}
    with path.open("rb") as stream:
        while line := stream.readline(_LONGEST_LINE):
            fields = _parsed(line)
            if fields is not None:
                runs.setdefault(fields["run"], []).append(fields)
    if not runs:
        found, mend = "no whole line of a record", "Give the .record.jsonl file that lies beside a result."
        raise InputError("E-RECORD", found, wanted="JSON lines of medidiff", mend=mend, file=path.name)
    return tuple(Run(run, tuple(lines)) for run, lines in runs.items())


def _parsed(line: bytes) -> dict[str, Any] | None:
    """A whole line; None for one that was cut or is none of ours."""
    if not line.endswith(b"\n"):
        return None
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError):
        return None
    ours = isinstance(fields, dict) and fields.get("kind") in KINDS and isinstance(fields.get("run"), str)
    return fields if ours else None
