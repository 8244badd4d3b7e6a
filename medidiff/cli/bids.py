"""``medidiff-bids``: denoise or super-resolve the anatomical scans of a BIDS data set, called as BIDS-Apps are.

    medidiff-bids BIDS_DIR OUTPUT_DIR participant --participant-label 01 02
    medidiff-bids BIDS_DIR OUTPUT_DIR group

The participant level may run once for each participant, side by side and on any machine. What is done is not done
again, unless the scan, the prior, medidiff or an option has changed or the result is broken. A scan that is refused is
noted in OUTPUT_DIR and does not keep the others from being done. The group level writes one table and one page of all
scans, and with --reports a page for each.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from medidiff.cli.bids_scans import SUFFIXES, BidsScan, describe, drop_orphans, labels, scans
from medidiff.errors import InputError, MedidiffError, SettingsError
from medidiff.version import __version__

if TYPE_CHECKING:
    from medidiff.cli.bids_participant import Asked

__all__ = ["main"]

_PARTIAL, _NOTHING, _INTERRUPTED = 7, 8, 130
_VALIDATORS = ("bids-validator-deno", "bids-validator")
_EPILOG = """\
exit codes: 0 done   2 command line   4 the data set cannot be read, or is not valid   5 the output cannot be written
  6 the prior is missing or does not fit   7 some scans were refused   8 no scan, or all were refused
Research use only, not for diagnosis.
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise SettingsError("E-USAGE", message, mend="See 'medidiff-bids --help'.")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the app.

    Args:
        argv: what was typed after ``medidiff-bids``; of this process when left out.

    Returns:
        The exit code.
    """
    try:
        typed = _parser().parse_args(sys.argv[1:] if argv is None else argv)
        return _run(typed)
    except MedidiffError as error:
        from medidiff.catalogue import exit_code

        print("medidiff-bids:", error, file=sys.stderr)
        return exit_code(error)
    except KeyboardInterrupt:
        print("medidiff-bids: interrupted", file=sys.stderr)
        return _INTERRUPTED
    except SystemExit as done:  # argparse, after --help and --version
        return int(done.code or 0)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="medidiff-bids", description=__doc__, epilog=_EPILOG, allow_abbrev=False)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("bids_dir", type=Path, help="a BIDS data set; nothing is written into it")
    parser.add_argument("output_dir", type=Path, help="folder of the derived data set")
    parser.add_argument("analysis_level", choices=("participant", "group"), help="group: after all participants")
    add = parser.add_argument
    add("--participant-label", "--participant_label", nargs="+", default=[], metavar="LABEL", help="all if left out")
    add("--session-label", "--session_label", nargs="+", default=[], metavar="LABEL", help="all if left out")
    add("--suffix", nargs="+", choices=SUFFIXES, default=list(SUFFIXES), help="kinds of scan; all if left out")
    add("--task", choices=("denoise", "superresolve"), default="denoise", help="what to do (default: %(default)s)")
    add("--spacing", nargs=3, type=_side, metavar=("I", "J", "K"), help="voxel size in mm, or own; for superresolve")
    add("--prior", help="a bundled prior's name or the path of a card; that of the modality if left out")
    add("--seed", type=int, default=0, help="what all randomness is drawn from (default: %(default)s)")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where to compute (default: %(default)s)")
    add("--n-cpus", "--n_cpus", type=int, metavar="N", help="threads; as torch chooses if left out")
    add("--skip-bids-validation", "--skip_bids_validator", action="store_true", help="trust the data set")
    add("--reports", action="store_true", help="group: a page with checks for each scan, too (5 s a head)")
    add("-w", "--work-dir", type=Path, metavar="DIR", help="for temporary files; the system's if left out")
    add("--version", action="version", version=f"medidiff-bids {__version__} (research use only)")
    return parser


def _side(word: str) -> float | str:
    """A voxel size, or ``own`` for the scan's."""
    return word if word == "own" else float(word)


def _run(typed: argparse.Namespace) -> int:
    root, out = typed.bids_dir.absolute(), typed.output_dir.absolute()
    if out == root or (root in out.parents and root / "derivatives" not in out.parents):
        mend = "Choose BIDS_DIR/derivatives/medidiff, or a folder outside."
        raise SettingsError("E-SETTING", "inside the data set", attribute="output_dir", mend=mend)
    if (typed.spacing is not None) != (typed.task == "superresolve"):
        raise SettingsError("E-SETTING", f"--task {typed.task}", wanted="--spacing with superresolve, and only there")
    if typed.work_dir is not None:
        typed.work_dir.mkdir(parents=True, exist_ok=True)
        tempfile.tempdir = os.environ["TMPDIR"] = str(typed.work_dir.absolute())
    chosen = scans(
        root,
        participants=labels(typed.participant_label, "sub"),
        sessions=labels(typed.session_label, "ses"),
        suffixes=typed.suffix,
    )
    if not typed.skip_bids_validation:
        _validate(root)
    suffixes = sorted({scan.suffix for scan in chosen})
    describe(out, root, task=typed.task, suffixes=suffixes)
    return (_participants if typed.analysis_level == "participant" else _group)(chosen, out, typed)


def _validate(root: Path) -> None:
    """Have the official validator look at the data set, where it is installed.

    Raises:
        InputError: ``E-BIDS``, it finds errors.
    """
    beside = Path(sys.executable).parent  # an environment that is used but not activated
    tools = [tool for name in _VALIDATORS if (tool := shutil.which(name) or shutil.which(name, path=str(beside)))]
    if not tools:
        print("medidiff-bids: not validated, no bids-validator-deno is installed", file=sys.stderr)
        return
    told = subprocess.run([tools[0], "--format", "json", str(root)], capture_output=True, text=True, check=False)  # noqa: S603
    try:
        issues = json.loads(told.stdout)["issues"]["issues"]
    except (ValueError, KeyError, TypeError) as error:
        mend = "Repair it, or pass --skip-bids-validation."
        raise InputError("E-BIDS", "the validator cannot be understood", mend=mend) from error
    codes = sorted({str(issue.get("code")) for issue in issues if issue.get("severity") == "error"})
    if codes:
        mend = "Run bids-validator-deno for the files, or pass --skip-bids-validation."
        raise InputError("E-BIDS", f"not valid: {', '.join(codes)}", mend=mend, file=root.name)


def _participants(chosen: Sequence[BidsScan], out: Path, typed: argparse.Namespace) -> int:
    from medidiff.cli.bids_participant import Asked, Restorer

    asked: Asked = Asked(
        typed.task,
        spacing=None if typed.spacing is None else tuple(typed.spacing),
        prior=typed.prior,
        seed=typed.seed,
        device=typed.device,
    )
    restorer = Restorer(out, asked, threads=typed.n_cpus)
    refused = 0
    for number, scan in enumerate(chosen, 1):
        state = restorer(scan)
        refused += state.startswith("E-")
        print(f"{number}/{len(chosen)} {scan.stem}_{scan.suffix}: {state}", flush=True)
    return 0 if not refused else _NOTHING if refused == len(chosen) else _PARTIAL


def _group(chosen: Sequence[BidsScan], out: Path, typed: argparse.Namespace) -> int:
    from medidiff.cli.bids_group import write_group_page, write_table

    def refused(name: str, error: MedidiffError) -> None:
        print(f"medidiff-bids: {name} is not shown: {error}", file=sys.stderr)

    drop_orphans(out, chosen, typed.task)
    counts = write_table(chosen, out, typed.task)
    write_group_page(chosen, out, typed.task, reports=typed.reports, refused=refused)
    print(", ".join(f"{count} {state}" for state, count in sorted(counts.items())))
    return 0 if set(counts) == {"done"} else _PARTIAL
