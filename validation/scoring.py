"""What the scoring commands share: which scans are scored, what is taken as the truth, and how a table reads."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from medidiff import io
from medidiff.anatomy import foreground, tissue_maximum
from medidiff.errors import InputError, MedidiffError, SettingsError
from medidiff.training.slabs import cut_slab, read_slab
from medidiff.volume import Geometry, Volume

if TYPE_CHECKING:
    from findings import Finding

    from medidiff.prior import Prior

__all__ = [
    "Array",
    "Truth",
    "chosen_scans",
    "ended",
    "load_prior",
    "options",
    "region",
    "save",
    "scored_scans",
    "scored_slab",
    "spread",
    "truth",
]

Array = NDArray[np.float32]
_HERE = Path(__file__).resolve().parent


@dataclass(frozen=True, slots=True, eq=False)
class Truth:
    """A noise-free scan, tissue maximum 1, and where it counts; both (I, J, K)."""

    image: Array
    mask: NDArray[np.bool_]
    geometry: Geometry


_FILES = {  # by contrast, below the folder of a set
    "T1w": ("{subject}_T1w.nii.gz", "{subject}/T1.nii.gz"),
    "T2w": ("{subject}_T2w.nii.gz", "{subject}/T2.nii.gz"),
    "FLAIR": ("{subject}_FLAIR.nii.gz", "{subject}/FLAIR.nii.gz"),
}


def scored_scans(data: Path, split: Path, folder: str, *, part: str, contrast: str = "T1w") -> dict[int, Path]:
    """The files of one part's subjects of one folder, by their place in the split, from 1."""
    table = tomllib.loads(split.read_text(encoding="utf-8")).get(folder)
    if table is None:
        raise SettingsError("E-SPLIT", f"no folder '{folder}' in the split", attribute="--set", file=split.name)
    scans = {}
    for number, subject in enumerate(table[part], start=1):
        names = [name.format(subject=subject) for name in _FILES[contrast]]
        found = sorted(path for name in names for path in (data / folder).rglob(name))
        if len(found) != 1:
            raise InputError(
                "E-DATA", f"{len(found)} files for scan {number} of part {part}", wanted="one", attribute="--data"
            )
        scans[number] = found[0]
    return scans


def scored_slab(data: Path, split: Path, folder: str, *, part: str) -> Volume:
    """The slab of one part of a folder that holds one CT, in HU.

    Raises:
        SettingsError: the split has no such folder, or not one slab of this part.
    """
    entries = tomllib.loads(split.read_text(encoding="utf-8")).get(folder, {}).get(part, [])
    if len(entries) != 1:
        found = f"{len(entries)} slabs of '{folder}' for {part}"
        raise SettingsError("E-SPLIT", found, wanted="one", attribute="--set", file=split.name)
    slab = read_slab(entries[0])
    scans = sorted((data / folder).rglob(f"{slab.subject}_ct.nii.gz"))
    if len(scans) != 1:
        raise InputError("E-DATA", f"{len(scans)} files for part {part}", wanted="one", attribute="--data")
    return dataclasses.replace(cut_slab(io.read(scans[0]), slab), modality="CT", units="HU")


def truth(path: Path, crop: int) -> Truth:
    """A scan as the reference; mask and scale come from all of it, also where only a central cube is scored."""
    scan = io.read(path)
    whole = scan.data[0]
    mask = foreground(whole)
    scaled = (whole / tissue_maximum(whole, mask)).astype(np.float32)
    sides = [min(crop, n) if crop else n for n in scaled.shape]
    starts = [(n - side) // 2 for n, side in zip(scaled.shape, sides, strict=True)]
    box = tuple(slice(a, a + side) for a, side in zip(starts, sides, strict=True))
    image = np.ascontiguousarray(scaled[box])
    affine = scan.geometry.affine.copy()
    affine[:3, 3] = scan.geometry.world(starts)
    return Truth(image, mask[box], Geometry((sides[0], sides[1], sides[2]), affine))


def spread(values: Sequence[float], digits: int) -> str:
    """Mean and sample standard deviation, for a table."""
    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    return f"{np.mean(values):.{digits}f} ± {np.std(values, ddof=1):.{digits}f}"


def chosen_scans(arguments: argparse.Namespace) -> dict[int, Path]:
    """The files to score, by their place in the split: those of ``--scans``, or all."""
    files = scored_scans(
        arguments.data, arguments.split, arguments.set, part=arguments.part, contrast=arguments.contrast
    )
    if not set(arguments.scans) <= set(files):
        raise SettingsError("E-SETTING", f"{arguments.scans}", wanted=f"1 to {len(files)}", attribute="--scans")
    return {place: files[place] for place in arguments.scans or files}


def load_prior(name: str) -> Prior | None:
    """The prior that is scored; None for ``none``."""
    if name == "none":
        return None
    from medidiff.prior import DEFAULT_PRIOR, Prior

    return Prior.load(name or DEFAULT_PRIOR)


def options(description: str, *, writes: str) -> argparse.ArgumentParser:
    """A parser with the options that all scoring commands have.

    Args:
        description: first line of ``--help``.
        writes: files that go into the folder of ``--out``, for its help.
    """
    shared = os.environ.get("MEDIDIFF_DATA") or _HERE.parent.parent / "shared" / "data"
    out = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    out.add_argument("--data", type=Path, default=Path(shared), help="folder of the shared data")
    out.add_argument("--split", type=Path, default=_HERE / "split.toml", help="which subject serves what")
    out.add_argument("--set", default="t1-ds002748", help="folder of the data to score")
    out.add_argument("--contrast", choices=sorted(_FILES), default="T1w", help="which scan of each subject")
    out.add_argument(
        "--part", choices=("test", "validation"), default="test", help="validation, to choose between settings"
    )
    out.add_argument(
        "--scans", type=int, nargs="*", default=[], help="places in the split to score, from 1; all if empty"
    )
    out.add_argument("--crop", type=int, default=0, help="side of the central cube in voxels; 0 for the whole scan")
    out.add_argument(
        "--prior", default="", help="bundled name or path, empty for the default; 'none' scores the peers alone"
    )
    out.add_argument("--threads", type=int, default=1, help="of torch; the peers run on one")
    out.add_argument("--out", type=Path, default=Path("out/validation"), help=f"folder for {writes}")
    return out


def region(arguments: argparse.Namespace) -> str:
    """What part of each scan is scored, in words."""
    return f"central {arguments.crop}³ voxels" if arguments.crop else "whole scan"


def save(folder: Path, name: str, *, table: str, record: object, finding: Finding | None = None) -> list[Path]:
    """Write ``<name>.md`` and ``<name>.json``, with what `findings.keep` takes from it; returns both paths."""
    if finding is not None:
        record = {**cast("dict[str, object]", record), "finding": finding.record()}
    folder.mkdir(parents=True, exist_ok=True)
    written = [folder / f"{name}.md", folder / f"{name}.json"]
    written[0].write_text(table, encoding="utf-8")
    written[1].write_text(json.dumps(record, indent=2, allow_nan=False), encoding="utf-8")
    return written


def ended(
    run: Callable[[argparse.Namespace], str], parser: argparse.ArgumentParser, arguments: Sequence[str] | None
) -> int:
    """Run a command and print its table; 0, or the exit code of the refusal."""
    try:
        print(run(parser.parse_args(arguments)))
    except MedidiffError as refusal:
        print(refusal, file=sys.stderr)
        return refusal.exit_code
    return 0
