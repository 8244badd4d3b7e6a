"""Keep what `medidiff demo` prints, for the README: `python validation/demo.py --help`.

The demo is run as a user runs it, on the sample that comes with the package, and its ``table.json`` becomes a finding.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import scoring
from findings import finding, series

from medidiff import cli
from medidiff.errors import SettingsError
from medidiff.prior import DEFAULT_PRIOR, Prior

_FIGURES = ("psnr_db", "ssim", "nrmse", "hfen", "seconds")


def figures_of(table: Mapping[str, Any]) -> dict[str, dict[int, float]]:
    """The figures of a demo's ``table.json``, told apart by task and image."""
    return series(table["rows"], by=("task", "image"), values=_FIGURES)


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    out = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    out.add_argument("--out", type=Path, default=Path("out/validation"), help="folder for demo.json")
    return out


def run(arguments: argparse.Namespace) -> str:
    """Run the demo and write what it found; returns where."""
    with tempfile.TemporaryDirectory() as folder:
        if cli.main(["demo", "-o", folder]) != 0:
            raise SettingsError("E-SETTING", "the demo did not end well", mend="Read what it said.")
        table = json.loads((Path(folder) / "table.json").read_text(encoding="utf-8"))
    card = Prior.load(DEFAULT_PRIOR).card
    params = {"set": "the sample that comes with medidiff", "prior": f"{card.name} {card.weights_sha256}"}
    told = finding("demo", parser(), arguments, params=params, figures=figures_of(table))
    scoring.save(arguments.out, "demo", table="", record={"table": table}, finding=told)
    return f"{arguments.out / 'demo.json'}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0, or the exit code of the refusal."""
    return scoring.ended(run, parser(), arguments)


if __name__ == "__main__":
    raise SystemExit(main())
