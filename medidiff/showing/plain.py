"""Refusals as a notebook shows them: the message alone, and what it means there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from medidiff.errors import MedidiffError

__all__ = ["Refused", "plainly"]


class Refused(Exception):
    """What ended a cell. IPython shows its text where other errors have a traceback; the cells below do not run."""

    def _render_traceback_(self) -> list[str]:
        return [str(self)]


@contextmanager
def plainly(here: str = "", *, otherwise: str = "") -> Iterator[None]:
    """Show what medidiff refuses in the lines below as its message and no more; a bug keeps its traceback.

    Args:
        here: what the options that a message names are called in the notebook; added where it names any.
        otherwise: what to change in the notebook, added where a message names no option.

    Raises:
        Refused: instead of a `MedidiffError`.
    """
    try:
        yield
    except MedidiffError as error:
        more = here if " --" in str(error) else otherwise
        raise Refused(f"{error} {more}" if more else str(error)) from None
