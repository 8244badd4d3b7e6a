"""How far long work has come: `ProgressBar`, in a notebook or a terminal, and silent where nobody looks."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from dataclasses import dataclass
from html import escape
from importlib import import_module
from typing import Any, TypeVar

__all__ = ["ProgressBar"]

T = TypeVar("T")

_EVERY_S = 0.25


@dataclass(frozen=True, slots=True)
class _State:
    """What is shown: a bar and a sentence."""

    words: str
    done: int
    total: int

    def __repr__(self) -> str:
        return self.words

    def _repr_html_(self) -> str:
        bar = f'<progress max="{max(self.total, 1)}" value="{self.done}" style="width:16em"></progress>'
        return f'<div class="medidiff-progress">{bar} {escape(self.words)}</div>'


class ProgressBar:
    """Shows how much of long work is done and how long the rest will take.

    It is what ``progress=`` of `denoise` and `superresolve` takes. In a notebook it is a bar below the cell, in a
    terminal one line; where output goes to a file nothing is shown.

    Args:
        name: of the work.

    Example:
        >>> bar = ProgressBar("denoise")
        >>> bar(1, 2)
        >>> bar(2, 2)
        >>> list(ProgressBar("square").over([1, 2, 3]))
        [1, 2, 3]
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._start = self._shown = time.monotonic()
        self._handle: Any = None

    def __call__(self, done: int, total: int) -> None:
        """Show that so many of so many parts are done."""
        now = time.monotonic()
        if done < total and self._handle is not None and now - self._shown < _EVERY_S:
            return
        self._shown = now
        state = _State(self._sentence(done, total, now - self._start), done, total)
        if _in_notebook():
            self._display(state)
        elif sys.stderr.isatty():
            sys.stderr.write(f"\r\x1b[K{state.words}" + ("\n" if done >= total else ""))
            sys.stderr.flush()

    def over(self, items: Iterable[T], total: int | None = None) -> Iterator[T]:
        """The items one after the other, counted as they are done with.

        Args:
            items: what is gone through.
            total: how many they are; needed where they have no length.
        """
        count = len(items) if total is None and isinstance(items, Sized) else total or 0
        self(0, count)
        for number, item in enumerate(items, 1):
            yield item
            self(number, max(count, number))

    def _display(self, state: _State) -> None:
        if self._handle is not None:
            self._handle.update(state)
            return
        self._handle = import_module("IPython.display").display(state, display_id=True)

    def _sentence(self, done: int, total: int, seconds: float) -> str:
        if done >= total:
            return f"{self.name}: {total} of {total}, {_time(seconds)}"
        left = f", {_time(seconds / done * (total - done))} left" if done else ""
        return f"{self.name}: {done} of {total}{left}"


def _time(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def _in_notebook() -> bool:
    """Whether a kernel runs this, which shows displays; a kernel has always loaded IPython."""
    module = sys.modules.get("IPython")
    shell = module.get_ipython() if module else None
    return getattr(shell, "kernel", None) is not None
