"""Make the index of a prior's training scans for the copy gate: `python pipelines/index.py OUT.index.safetensors`.

Without --scans they are the `train` subjects of the committed split, with its `validation` subjects held out for the
thresholds. For a prior of your own: `python pipelines/index.py OUT --scans FOLDER --held-out FOLDER`.
"""

from __future__ import annotations

import argparse
import os
import sys
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path

from medidiff import io
from medidiff.errors import MedidiffError, SettingsError
from medidiff.gates import Index, build_index
from medidiff.volume import Volume

SET = "t1-ds002748"
SPLIT = Path(__file__).resolve().parent.parent / "validation" / "split.toml"


def subjects(data: Path, *parts: str, split: Path = SPLIT, folder: str = SET) -> list[Path]:
    """The files of some parts of a set, in the order of the split."""
    table = tomllib.loads(split.read_text(encoding="utf-8"))[folder]
    names = [name for part in parts for name in table[part]]
    files = [data / folder / name / "anat" / f"{name}_T1w.nii.gz" for name in names]
    missing = sum(not file.is_file() for file in files)
    if missing:
        raise SettingsError("E-DATA", f"{missing} of {len(files)} scans are not there", attribute="--data")
    return files


def scans_of(paths: Sequence[Path]) -> Iterator[Volume]:
    """Every scan that files or folders hold."""
    for path in paths:
        for scan in io.find(path).scans:
            yield scan.load().volume


def options(description: str) -> argparse.ArgumentParser:
    """A parser with the place of the data."""
    shared = os.environ.get("MEDIDIFF_DATA") or SPLIT.parent.parent.parent / "shared" / "data"
    out = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    out.add_argument("--data", type=Path, default=Path(shared), help="folder of the shared data")
    return out


def made(arguments: argparse.Namespace) -> Index:
    """The index that the command line asks for."""
    if arguments.scans:
        return build_index(scans_of(arguments.scans), held_out=scans_of(arguments.held_out))
    train, others = subjects(arguments.data, "train"), subjects(arguments.data, "validation")
    return build_index(scans_of(train), held_out=scans_of(others))


def main(words: Sequence[str] | None = None) -> int:
    """Run the command; 0, or the exit code of the refusal."""
    parser = options(__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="file to write, .safetensors")
    parser.add_argument("--scans", type=Path, nargs="+", default=[], help="training scans, files or folders")
    parser.add_argument("--held-out", type=Path, nargs="+", default=[], help="scans of other people")
    arguments = parser.parse_args(words)
    try:
        index = made(arguments)
        index.save(arguments.out)
    except MedidiffError as refusal:
        print(refusal, file=sys.stderr)
        return refusal.exit_code
    thresholds = ", ".join(f"{name} {value:.3f}" for name, value in index.thresholds.items())
    about = ", ".join(f"{value} {name.replace('_', ' ')}" for name, value in index.calibration.items())
    print(f"{about}; a copy from {thresholds}; sha256 {index.sha256}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
