"""What a watch has done with each study: JSON lines that survive a kill, one line for each step.

A line is put on the disk before the next step begins, so that a watch that was killed repeats at most the step it was
in. A line that was cut is left out. Only UIDs, counts, times and codes stand in it; the file is for its owner only.
"""

from __future__ import annotations

import fcntl
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from medidiff.errors import InputError, OutputError
from medidiff.io.files.atomic import output_errors
from medidiff.pacs.wanted import is_uid

__all__ = ["STATE_FILE", "Entry", "State"]

STATE_FILE = "medidiff.watch.jsonl"

Step = Literal["seen", "pulled", "handed", "passed", "failed"]
_STEPS = ("seen", "pulled", "handed", "passed", "failed")


@dataclass(frozen=True, slots=True)
class Entry:
    """Where one study stands.

    Args:
        study: StudyInstanceUID.
        step: ``seen`` (its instances are still being counted), ``pulled`` (whole on the disk), ``handed`` (the command
            took it, or there is none), ``passed`` (was there before the watch began), ``failed``.
        instances: how many it had.
        at: when, in seconds of the system's clock.
        failures: in a row.
        code: of the last failure; empty without.
    """

    study: str
    step: Step
    instances: int
    at: float
    failures: int = 0
    code: str = ""


class State:
    """Every study's last entry; one watch at a time may hold it.

    Args:
        path: the file; its folder exists.

    Raises:
        OutputError: ``E-LOCKED``, another watch holds it; ``E-OUT``, it cannot be written.
        InputError: ``E-RECORD``, something else stands there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with output_errors(path.name):
            flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            self._handle = os.open(path, flags, 0o600)
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.entries = _read(path)
        except BlockingIOError as error:
            os.close(self._handle)
            mend = "Wait until it ends, or choose another OUT."
            raise OutputError("E-LOCKED", "another watch holds this folder", mend=mend, file=path.name) from error
        except BaseException:
            os.close(self._handle)
            raise

    def put(self, entry: Entry) -> None:
        """Write an entry down, and have it put on the disk."""
        line = json.dumps(asdict(entry)).encode() + b"\n"
        with output_errors(self.path.name):
            end = os.fstat(self._handle).st_size
            torn = end > 0 and os.pread(self._handle, 1, end - 1) != b"\n"
            line = b"\n" * torn + line
            while line:
                line = line[os.write(self._handle, line) :]
            os.fsync(self._handle)
        self.entries[entry.study] = entry

    def close(self) -> None:
        """Let another watch have it."""
        os.close(self._handle)


def _read(path: Path) -> dict[str, Entry]:
    entries: dict[str, Entry] = {}
    lines = path.read_bytes().split(b"\n")
    for line in lines:
        entry = _parsed(line)
        if entry is not None:
            entries[entry.study] = entry
    if not entries and any(lines[:-1]):
        found, mend = "a file that is no state of a watch", "Choose another folder for OUT."
        raise InputError("E-RECORD", found, wanted="JSON lines of medidiff", mend=mend, file=path.name)
    return entries


def _parsed(line: bytes) -> Entry | None:
    """A whole line; None for one that was cut or is none of ours."""
    try:
        entry = Entry(**json.loads(line))
    except (ValueError, TypeError, RecursionError):
        return None
    plain = isinstance(entry.study, str) and is_uid(entry.study) and entry.step in _STEPS
    numbers = isinstance(entry.instances, int) and isinstance(entry.failures, int) and isinstance(entry.at, int | float)
    return entry if plain and numbers else None
