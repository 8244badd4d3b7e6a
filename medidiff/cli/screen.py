"""What a command shows: its result on stdout, everything else on stderr."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from threading import Timer
from typing import Any, Protocol

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from medidiff.errors import OutputError, printable

__all__ = ["Report", "Screen", "printing"]

_PATIENCE_SECONDS = 2.0  # work that is done sooner needs no bar
_PLAIN_WIDTH = 100
_REFRESH_SECONDS = 0.1


class Report(Protocol):
    """Something that is told how far the work is."""

    def __call__(self, done: int, total: int, state: str = "") -> None:
        """Take note of what is done, what there is to do, and a word on how it goes."""


@contextmanager
def printing() -> Iterator[None]:
    """Tell a stdout that takes nothing more from a bug.

    Raises:
        OutputError: ``E-OUT``; nobody reading is left to the caller as `BrokenPipeError`.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        found = f"what is printed cannot be written: {error.strerror}"
        mend = "Send it to a place with room; files that were written are whole."
        raise OutputError("E-OUT", found, mend=mend, file="stdout") from error


@dataclass(frozen=True, slots=True)
class Screen:
    """Where a command prints.

    Args:
        json: whether stdout is for one JSON document and nothing else.
    """

    json: bool = False

    @property
    def draws_bars(self) -> bool:
        """Whether long work shows a bar: only where someone can see it."""
        return not self.json and sys.stderr.isatty()

    def document(self, document: Mapping[str, Any]) -> None:
        """Print the whole result as JSON; numbers that JSON does not know become null."""
        with printing():
            print(json.dumps(_plain(document), indent=2, allow_nan=False))

    def lines(self, pairs: Mapping[str, object]) -> None:
        """Print names and values in two columns."""
        width = max(len(name) for name in pairs)
        with printing():
            for name, value in pairs.items():
                print(f"{printable(name):<{width}}  {printable(str(value))}")

    def columns(self, names: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print rows under the names of their columns, nothing cut off."""
        widths = [max(len(row[n]) for row in (names, *rows)) for n in range(len(names))]
        with printing():
            for row in (names, *rows):
                print("  ".join(printable(cell).ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], *, words: int = 1) -> None:
        """Print a table, its first columns `words` and the others numbers; plain where there is no terminal."""
        drawn = sys.stdout.isatty()
        console = Console(file=sys.stdout, width=None if drawn else _PLAIN_WIDTH, highlight=False)
        table = Table(title=title, box=SIMPLE_HEAD if drawn else None, title_justify="left", pad_edge=False)
        for number, name in enumerate(columns):
            table.add_column(name, justify="left" if number < words else "right", no_wrap=True)
        for row in rows:
            table.add_row(*(escape(printable(cell)) for cell in row))
        with printing():
            console.print(table)

    def note(self, text: str) -> None:
        """Say something by the way, on stderr."""
        with suppress(OSError):  # what goes by the way is not worth a failure
            print(f"medidiff: {printable(text)}", file=sys.stderr)

    @contextmanager
    def progress(self, what: str) -> Iterator[Report]:
        """A bar on stderr for work over two seconds; none with JSON or where stderr is no terminal.

        Yields:
            A function to call with what is done, what there is to do, and a word on how it goes.
        """
        if not self.draws_bars:
            yield _silent
            return
        parts = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        bar = Progress(*parts, TimeRemainingColumn(), console=Console(stderr=True), transient=True)
        task = bar.add_task(what, total=None)
        timer = Timer(_PATIENCE_SECONDS, bar.start)
        timer.daemon = True
        timer.start()
        try:
            yield _Throttled(bar, task, what)
        finally:
            timer.cancel()
            timer.join()
            bar.stop()


def _silent(done: int, total: int, state: str = "") -> None:
    """No bar."""


class _Throttled:
    """Moves a bar now and then: it needs to be no faster than the eye."""

    def __init__(self, bar: Progress, task: TaskID, what: str) -> None:
        self.bar, self.task, self.what, self.last = bar, task, what, 0.0

    def __call__(self, done: int, total: int, state: str = "") -> None:
        now = time.monotonic()
        if done >= total or now - self.last > _REFRESH_SECONDS:
            self.last = now
            self.bar.update(self.task, completed=done, total=total, description=f"{self.what} {state}".strip())


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, str | int | bool | None) else str(value)
