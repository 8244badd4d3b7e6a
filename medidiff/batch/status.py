"""How far a batch is, told from its files alone, and the report at its end."""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from medidiff.batch.job import Batch
from medidiff.batch.journal import Event, last_lines
from medidiff.batch.quarantine import refused_cases, write_quarantine
from medidiff.batch.records import Done, Refused
from medidiff.io.files.atomic import write_file

__all__ = ["Pace", "Status", "speed_of", "status_of", "write_report"]

_SILENCE_SECONDS, _SILENCE_CASES = 60.0, 3.0  # after which a worker has ended for all one can see


@dataclass(frozen=True, slots=True)
class Status:
    """How many cases are where.

    Args:
        task: of the batch.
        cases: in all.
        done: with a record of a finished case; whether the record is still true is seen when it is looked at again.
        refused: codes of the refused cases, and how many have each.
        held: under work, or left by a worker that died.
    """

    task: str
    cases: int
    done: int
    refused: Mapping[str, int]
    held: int

    @property
    def left(self) -> int:
        """How many have no record."""
        return self.cases - self.done - sum(self.refused.values())

    def record(self) -> dict[str, Any]:
        """The same as JSON values."""
        counts = {"cases": self.cases, "done": self.done, "refused": sum(self.refused.values()), "left": self.left}
        return {"task": self.task} | counts | {"held": self.held, "codes": dict(self.refused)}


def status_of(batch: Batch, numbers: range | None = None) -> Status:
    """Count the records of a batch.

    Args:
        batch: on the disk.
        numbers: of the cases to count; all when left out, which is faster.
    """
    if numbers is not None and len(numbers) < len(batch.manifest):
        done, names = _of_some(batch, numbers)
        cases = len(numbers)
    else:
        done, names, cases = 0, [], len(batch.manifest)
        for finished, refused in batch.records.names():
            done += len(finished)
            names += refused
    records = refused_cases(batch, names)
    codes = Counter(record.code for record in records)
    if cut := len(names) - len(records):
        codes["?"] = cut  # records that were cut are mended in the next run
    return Status(batch.job.task, cases, done, dict(sorted(codes.items())), batch.leases.held())


def _of_some(batch: Batch, numbers: range) -> tuple[int, list[str]]:
    kinds = {(case := batch.manifest[n].name): batch.records.settled(case, -1) for n in numbers}
    return sum(kind is Done for kind in kinds.values()), [name for name, kind in kinds.items() if kind is Refused]


def speed_of(batch: Batch, left: int) -> dict[str, float | None]:
    """How fast the workers of the latest run compute, all together, and how long what is left takes at that speed.

    A worker counts while its last line is not much older than one of its cases takes.

    Args:
        batch: on the disk.
        left: cases without a record.
    """
    workers = [(events, max(event.at for event in events)) for events in last_lines(batch.folder / "journal")]
    newest = max((last for _, last in workers), default=0.0)
    per_second = 0.0
    for events, last in workers:
        computed = [event for event in events if event.state == "done"]
        if not computed or newest - last > _SILENCE_SECONDS + _SILENCE_CASES * max(e.seconds for e in computed):
            continue
        span = last - min(event.at - event.seconds for event in computed)
        per_second += len(computed) / span if span > 0 else 0.0
    found = {"cases_per_hour": round(3600 * per_second, 2) if per_second else None}
    return found | {"seconds_left": round(left / per_second) if per_second else None}


@dataclass(slots=True)
class Pace:
    """What the workers of a run tell, added up.

    Args:
        total: cases to settle.
    """

    total: int
    settled: int = 0
    states: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    _first: float = 0.0
    _last: float = 0.0

    def take(self, events: Iterable[Event]) -> None:
        """Add what is new."""
        for event in events:
            self.settled += 1
            self.states[event.state] += 1
            if event.state == "done":
                self.seconds.append(event.seconds)
                self._first = self._first or event.at - event.seconds
                self._last = max(self._last, event.at)

    @property
    def per_hour(self) -> float:
        """Cases computed in an hour, as far as this run tells; 0 before the first."""
        span = self._last - self._first
        return 3600 * len(self.seconds) / span if span > 0 else 0.0

    def record(self) -> dict[str, Any]:
        """As JSON values."""
        typical = statistics.median(self.seconds) if self.seconds else None
        counts = {"computed": len(self.seconds), "kept": self.states["kept"], "refused": self.states["refused"]}
        return counts | {"seconds_per_case": typical, "cases_per_hour": round(self.per_hour, 2)}


def write_report(
    batch: Batch, status: Status, pace: Pace, *, about: Mapping[str, Any], out_of_scope: Sequence[str] = ()
) -> dict[str, Any]:
    """Write ``report.json``, ``report.txt`` and ``refused.csv`` into the batch's folder.

    Args:
        batch: on the disk.
        status: at the end.
        pace: of the run.
        about: what else there is to say, such as the engine; JSON values.
        out_of_scope: names of the finished cases whose scan was not of the kind that the prior is for.

    Returns:
        The report.

    Raises:
        OutputError: the system refuses.
    """
    report = status.record() | {"out_of_scope": len(out_of_scope), "run": pace.record()} | dict(about)
    refused = refused_cases(batch)
    write_quarantine(batch, refused)
    listed = [{"case": r.case, "code": r.code, "message": r.message, "mend": r.mend} for r in refused]
    text = json.dumps(report | {"refusals": listed, "marked": list(out_of_scope)}, indent=2, allow_nan=False) + "\n"
    write_file(batch.folder / "report.json", lambda name: name.write_text(text, encoding="utf-8"))
    lines = [f"{key}: {value}" for key, value in report.items() if not isinstance(value, dict)]
    lines += [f"{code}: {count} refused" for code, count in status.refused.items()]
    lines += [f"{each['case']}: {each['message']}" for each in listed]
    lines += [f"{name}: done, but out of scope of the prior" for name in out_of_scope]
    words = "\n".join(lines) + "\n"
    write_file(batch.folder / "report.txt", lambda name: name.write_text(words, encoding="utf-8"))
    return report
