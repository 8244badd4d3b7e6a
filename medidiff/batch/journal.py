"""The journal: what each worker did and when, for progress and throughput. No result depends on it.

Each worker has a file of its own, named after the moment from which its run counts, and appends a line for each case
that it settled. A line that cannot be written is a line less.
"""

from __future__ import annotations

import json
import math
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

__all__ = ["Event", "Journal", "State", "Tail", "last_lines", "latest_ns"]

_TAIL = 2**16  # bytes

State = Literal["done", "kept", "refused"]


@dataclass(frozen=True, slots=True)
class Event:
    """A case was settled.

    Args:
        case: its name.
        state: ``"done"`` just now; ``"kept"``, it was done before; or ``"refused"``, now or before.
        code: of the refusal.
        seconds: that it took.
        at: when, in seconds since 1970.
    """

    case: str
    state: State
    code: str
    seconds: float
    at: float


class Journal:
    """The lines of one worker.

    Args:
        folder: where journals lie.
        since_ns: the moment from which the run counts.
    """

    def __init__(self, folder: Path, since_ns: int) -> None:
        self._path = folder / f"{since_ns}-{os.getpid()}-{secrets.token_hex(4)}.jsonl"

    def put(self, event: Event) -> None:
        """Append a line."""
        with suppress(OSError), self._path.open("a", encoding="ascii") as stream:
            stream.write(json.dumps(asdict(event)) + "\n")


class Tail:
    """Reads what the workers of one run append, as they do.

    Args:
        folder: where journals lie.
        since_ns: the moment from which the run counts.
    """

    def __init__(self, folder: Path, since_ns: int) -> None:
        self._folder, self._since, self._read = folder, since_ns, dict[Path, int]()

    def new(self) -> Iterator[Event]:
        """What came since the last call; a line that is not whole yet comes later."""
        for path in sorted(self._folder.glob(f"{self._since}-*.jsonl")):
            with suppress(OSError), path.open("rb") as stream:
                stream.seek(self._read.get(path, 0))
                for line in stream:
                    if not line.endswith(b"\n"):
                        break
                    self._read[path] = self._read.get(path, 0) + len(line)
                    if (event := _event(line)) is not None:
                        yield event


def _event(line: bytes) -> Event | None:
    """What a line says; None for one that was cut, or is none of ours."""
    try:
        event = Event(**json.loads(line))
        texts = (event.case, event.state, event.code)
        told = all(isinstance(text, str) for text in texts) and math.isfinite(event.seconds) and math.isfinite(event.at)
    except (ValueError, TypeError, OverflowError, RecursionError):
        return None
    return event if told else None


def last_lines(folder: Path) -> list[list[Event]]:
    """What each worker of the latest run did last, some hundreds of cases each; empty before the first."""
    runs: dict[int, list[Path]] = {}
    for path in sorted(folder.glob("*-*.jsonl")):
        with suppress(ValueError):
            runs.setdefault(int(path.name.partition("-")[0]), []).append(path)
    found = []
    for path in runs[max(runs)] if runs else ():
        with suppress(OSError), path.open("rb") as stream:
            start = max(0, stream.seek(0, os.SEEK_END) - _TAIL)
            stream.seek(start)
            lines = stream.read(_TAIL).splitlines()[bool(start) :]  # the first may be half of one
            found.append([event for event in map(_event, lines) if event is not None])
    return [events for events in found if events]


def latest_ns(folder: Path) -> int:
    """The latest moment of which the journals of a folder tell: from which a run counts, or of a line; 0 for none."""
    times = [0]
    for path in folder.glob("*-*.jsonl"):
        with suppress(OSError, ValueError):
            times += [int(path.name.partition("-")[0]), path.stat().st_mtime_ns]
    return max(times)


def now() -> float:
    """Seconds since 1970, as they stand in the journal."""
    return round(time.time(), 3)


def seconds_of(folder: Path) -> dict[str, float]:
    """How long each case took that was computed, as far as the journals of a folder tell; of several times the last."""
    last: dict[str, tuple[float, float]] = {}
    for path in sorted(folder.glob("*.jsonl")):
        with suppress(OSError):
            for line in path.read_bytes().splitlines():
                event = _event(line)
                if event is not None and event.state == "done":
                    last[event.case] = max(last.get(event.case, (0.0, 0.0)), (event.at, event.seconds))
    return {case: seconds for case, (_, seconds) in last.items()}
