"""The command line: the only place that parses arguments, prints and exits.

    medidiff info|convert|denoise|superresolve|train|adapt|calibrate|demo|evaluate|export|verify|deidentify|pacs|priors

`main` reads a verb (`medidiff.cli.verbs`), runs its stages one after the other, and turns what a user can mend into
one line and an exit code. Modules of the stages are imported when they are needed: ``--help`` loads neither numpy nor
torch.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, TextIO

from medidiff.cli.options import parse
from medidiff.cli.verbs import FAMILIES, VERBS
from medidiff.errors import MedidiffError
from medidiff.version import __version__

if TYPE_CHECKING:
    from medidiff.cli.session import Session

__all__ = ["main"]

_BUG, _PARTIAL, _INTERRUPTED, _UNREAD, _TERMINATED = 1, 7, 130, 141, 143
_EPILOG = """\
exit codes:
  0 done   1 a bug (traceback)   2 broken settings or command line, or --strict refuses a scan
  3 done, but the scan is out of scope of the prior: the result is marked   4 the input cannot be read (or is not there)
  5 the output cannot be written   6 the prior is missing, broken or does not fit   7 partly done: some scans refused
  8 nothing usable in the input   130 interrupted (Ctrl-C)   141 nobody reads stdout   143 terminated
"""


class _Terminated(KeyboardInterrupt):
    """The system asks the process to end; what is under way is dropped as after Ctrl-C."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: what was typed after ``medidiff``; of this process when left out.

    Returns:
        The exit code.
    """
    version = f"medidiff {__version__} (research use only)"
    sys.stdout, sys.stderr = sys.stdout or _nowhere(), sys.stderr or _nowhere()  # a service may have neither
    try:
        typed = sys.argv[1:] if argv is None else argv
        verb = parse(typed, VERBS, version=version, epilog=_EPILOG, families=FAMILIES)
        with _terminable():
            return _run(verb)
    except MedidiffError as error:
        with suppress(OSError):
            print("medidiff:", " ".join(str(error).split()), file=sys.stderr, flush=True)
        _quiet()
        return _exit_code(error)
    except BrokenPipeError:
        _quiet()
        return _UNREAD
    except KeyboardInterrupt as stop:
        print("medidiff: interrupted", file=sys.stderr)
        return _TERMINATED if isinstance(stop, _Terminated) else _INTERRUPTED
    except SystemExit as done:  # argparse, after --help and --version
        return int(done.code or 0)


def _nowhere() -> TextIO:
    return Path(os.devnull).open("w", encoding="utf-8")


def _quiet() -> None:
    """Send what a full or closed stdout still holds nowhere, or Python complains when it ends."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run(verb: Any) -> int:
    """The stages of a verb, and the end of its record whatever happens in them."""
    from medidiff.cli.session import Session

    session = Session(verb)
    try:
        code = _stages(verb, session)
    except MedidiffError as error:
        session.finish(_exit_code(error), "refused", error)
        raise
    except KeyboardInterrupt as stop:
        session.finish(_TERMINATED if isinstance(stop, _Terminated) else _INTERRUPTED, "interrupted")
        raise
    except BaseException:
        session.finish(_BUG, "a bug")
        raise
    session.finish(code, "partial" if code == _PARTIAL else "done")
    return code


def _stages(verb: Any, session: Session) -> int:
    from medidiff.cli.screen import printing

    code = 0
    for stage in verb.stages:
        code = import_module(stage).run(verb, session) or code
    with printing():
        sys.stdout.flush()
    return code


def _exit_code(error: MedidiffError) -> int:
    from medidiff.catalogue import exit_code

    return exit_code(error)


@contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM end a run as Ctrl-C does, so that no temporary file is left; where signals can be caught.

    Only the first one does: a process that dies can send it more than once (`medidiff.batch.leash`), and the second
    would end the tidying that the first began.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_IGN)
        raise _Terminated

    try:
        before = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
