"""The command line: the only place that parses arguments, prints and exits.

    medidiff info|convert|denoise|superresolve|train|demo|evaluate|deidentify

`main` reads a verb (`medidiff.cli.verbs`), runs its stages one after the other, and turns what a user can mend into
one line and an exit code. Modules of the stages are imported when they are needed: ``--help`` loads neither numpy nor
torch.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

from medidiff.cli.options import parse
from medidiff.cli.verbs import VERBS
from medidiff.errors import MedidiffError
from medidiff.version import __version__

__all__ = ["main"]

_INTERRUPTED = 130
_EPILOG = """\
exit codes:
  0 done   1 a bug (traceback)   2 broken settings or command line   4 the input cannot be read (or is not there)
  5 the output cannot be written   6 the prior is missing, broken or does not fit   130 interrupted
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: what was typed after ``medidiff``; of this process when left out.

    Returns:
        The exit code.
    """
    try:
        version = f"medidiff {__version__} (research use only)"
        verb = parse(sys.argv[1:] if argv is None else argv, VERBS, version=version, epilog=_EPILOG)
        for stage in verb.stages:
            import_module(stage).run(verb)
    except MedidiffError as error:
        print("medidiff:", " ".join(str(error).split()), file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("medidiff: interrupted", file=sys.stderr)
        return _INTERRUPTED
    except SystemExit as done:  # argparse, after --help and --version
        return int(done.code or 0)
    return 0
