"""Metrics on their way to a tracking store: they wait in files, so that no store can keep a case from being done."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from medidiff.batch.job import Batch
from medidiff.io.files.atomic import output_errors, write_file

__all__ = ["OUT_OF_SCOPE", "Cohort", "Waiting", "cohort", "put", "sent", "waiting"]

OUT_OF_SCOPE = "out_of_scope"
"""Metric of a case, 1 where the scan was not of the kind that the prior is for."""
_SENT = ".sent.json"


@dataclass(frozen=True, slots=True)
class Waiting:
    """One run's metrics.

    Args:
        name: of the run.
        params: its settings.
        metrics: its numbers.
    """

    name: str
    params: Mapping[str, Any]
    metrics: Mapping[str, float]


def put(batch: Batch, since_ns: int, told: Waiting) -> None:
    """Keep the metrics of one run until a store has taken them.

    Raises:
        OutputError: the system refuses.
    """
    text = json.dumps(asdict(told), allow_nan=False)
    write_file(batch.folder / "metrics" / f"{since_ns}.json", lambda name: name.write_text(text, encoding="utf-8"))


def waiting(batch: Batch) -> Iterator[tuple[Path, Waiting]]:
    """What no store has taken yet, the oldest first."""
    places = sorted((batch.folder / "metrics").glob("*.json"))
    for place in places:
        if not place.name.endswith(_SENT) and not place.name.startswith("."):
            with suppress(OSError, ValueError, TypeError, RecursionError):
                yield place, Waiting(**json.loads(place.read_text(encoding="utf-8")))


def sent(place: Path) -> None:
    """Put down that a store has taken them.

    Raises:
        OutputError: the system refuses.
    """
    with output_errors(place.name):
        place.replace(place.with_suffix(_SENT))


@dataclass(frozen=True, slots=True)
class Cohort:
    """What the records of all finished cases say together.

    Args:
        means: of each metric, over the cases that have it.
        out_of_scope: names of the cases whose scan was not of the kind that the prior is for.
    """

    means: Mapping[str, float]
    out_of_scope: tuple[str, ...]


def cohort(batch: Batch) -> Cohort:
    """Look at every record."""
    marked: list[str] = []
    sums: dict[str, tuple[int, float]] = {}
    for done, _ in batch.records.names():
        for name in sorted(done):
            record = batch.records.done(name)
            if record is not None and record.metrics.get(OUT_OF_SCOPE):
                marked.append(name)
            for key, value in () if record is None else record.metrics.items():
                count, total = sums.get(key, (0, 0.0))
                sums[key] = count + 1, total + value
    means = {f"mean_{key}": total / count for key, (count, total) in sorted(sums.items())}
    return Cohort(means, tuple(sorted(marked)))
