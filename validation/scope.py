"""Measure whether scans that a prior is not for are told from those it is for: `python validation/scope.py --help`.

``score`` reads scans of people whom neither the prior nor its reference has seen, makes cases of them (scope_cases.py
and scope_far.py), and adds a line for each to ``scope.jsonl``; what stands there is not done again. ``report`` makes
the table of it:

* *caught*: share of a case's scans that are marked, as the package does it (score above 1).
* *at 5 %*: the same with the limit at which 5 % of the scans of the right kind are marked.
* *AUROC*: probability that a scan of the case scores higher than one of the right kind.

Intervals are percentiles (2.5 and 97.5) of 1,000 bootstrap draws of people. Everything runs on one core; ``--people``
limits the people of the first set, ``--only`` the cases.
"""

from __future__ import annotations

import argparse
import functools
import json
import tomllib
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scope_cases import IN_SCOPE, Case, Rng
from scope_far import FAR, NEAR
from scope_scores import Row, figures, kept, of_cases, options, run, score_all, scored

from medidiff import io
from medidiff.volume import Geometry, Volume

HERE = Path(__file__).resolve().parent


# ------------------------------------------------------------------------------------------------------------ the scans


def people(data: Path, part: str, most: int | None) -> dict[str, Path]:
    """T1w scans by person, named by set and place in the split."""
    split = tomllib.loads((HERE / "split.toml").read_text(encoding="utf-8"))
    places = {
        "brain": ("t1-ds002748", "t1-ds002748/{0}/anat/{0}_T1w.nii.gz"),
        "head": ("t1-head", "t1-head/{0}_T1w.nii.gz"),
        "resampled": ("ms-open/mni", "ms-open/mni/{0}/T1.nii.gz"),
    }
    found = {}
    for kind, (folder, pattern) in places.items():
        for number, subject in enumerate(split[folder][part][: most if kind == "brain" else None], 1):
            found[f"{kind} {number}"] = data / pattern.format(subject)
    return found


def others(data: Path, part: str) -> Iterator[tuple[str, str, str, Volume]]:
    """Kind, case, person and scan: real scans that are taken as they are."""
    if part != "test":
        return
    for number, patient in enumerate(("patient01", "patient03"), 1):
        for file in sorted((data / "ms-open" / "thick" / patient).glob("*.nii.gz")):
            contrast = file.name.removesuffix(".nii.gz").split("_")[1]
            case = "clinical slices of 3 mm" if contrast == "T1W" else f"contrast: {contrast}, clinical"
            kind = "in scope" if contrast == "T1W" else "far"
            scan = io.read(file)
            yield kind, case, f"clinical {number}", scan
            if contrast == "T1W":
                mirrored = NEAR["mirrored"](scan, np.random.default_rng(0))
                yield "near", "mirrored, clinical slices of 3 mm", f"clinical {number}", mirrored
    for contrast in ("T2", "FLAIR"):
        file = data / "ms-open" / "mni" / "patient19" / f"{contrast}.nii.gz"
        yield "far", f"contrast: {contrast}, 1 mm", "resampled 1", io.read(file)
    chest = io.read(data / "ct-lung" / "LungFCP-01-0001_ct.nii.gz")
    for number in range(3):
        planes = slice(21 * number, 21 * number + 22)
        affine = chest.geometry.affine.copy()
        affine[:3, 3] = chest.geometry.world((0, 0, planes.start))
        part_of = np.maximum(chest.data[0, :, :, planes].astype(np.float32) + 1024, 0)
        grid = Geometry((part_of.shape[0], part_of.shape[1], part_of.shape[2]), affine)
        yield "far", "CT of a chest, said to be MR", f"chest {number + 1}", Volume(part_of, grid, "MR")
    yield "far", "average of 152 heads", "average 1", _average()


def _average() -> Volume:
    from nilearn.datasets import load_mni152_template

    template = load_mni152_template(resolution=1)
    return Volume(np.asarray(template.dataobj, dtype=np.float32), Geometry(template.shape, template.affine), "MR")


def cases(data: Path, part: str, most: int | None) -> Iterator[tuple[str, str, str, Path | Volume, Case]]:
    """Kind, case, person, scan or its file, and what is done to it; all people's first case comes first.

    Left and right of the resampled people stand exchanged in their files (docs/scope.md): as they are they count as
    mirrored, and they are turned back for all that is of the right kind.
    """
    named = people(data, part, most)
    for kind, each in (("in scope", IN_SCOPE), ("far", FAR), ("near", NEAR)):
        for case, change in each.items():
            for person, path in named.items():
                if not person.startswith("resampled"):
                    yield kind, case, person, path, change
                elif kind == "in scope":
                    yield kind, case, person, path, _turned_back(change)
    for person, path in named.items():
        if person.startswith("resampled"):
            yield "near", "mirrored in its file", person, path, _untouched
    for kind, case, person, volume in others(data, part):
        yield kind, case, person, volume, _untouched


def _turned_back(change: Case) -> Case:
    return lambda volume, rng: change(NEAR["mirrored"](volume, rng), rng)


def _untouched(volume: Volume, rng: Rng) -> Volume:
    return volume


# ------------------------------------------------------------------------------------------------------------ measuring


def score(arguments: argparse.Namespace) -> int:
    """Add what is missing to the file of scores."""
    score_all(arguments.out / "scope.jsonl", arguments.prior, _asked(arguments))
    return 0


def _asked(arguments: argparse.Namespace) -> Iterator[tuple[Row, Callable[[], Volume]]]:
    """Names of each case that is asked for, and what makes its scan; a file is read once."""
    read = functools.cache(io.read)
    for kind, case, person, source, change in cases(arguments.data, arguments.part, arguments.people):
        if not arguments.only or case in arguments.only:
            make = functools.partial(_made, read, source, change, f"{person} {case}")
            yield {"kind": kind, "case": case, "person": person}, make


def _made(read: Callable[[Path], Volume], source: Path | Volume, change: Case, seed: str) -> Volume:
    volume = read(source) if isinstance(source, Path) else source
    return change(volume, np.random.default_rng(zlib.crc32(seed.encode())))


# ----------------------------------------------------------------------------------------------------------- the report


def table(told: Mapping[str, Any]) -> str:
    """The same as Markdown."""
    whole = told["all in scope"]
    low, high = (100 * end for end in whole["interval"])
    lines = [
        f"In scope: {whole['n']} scans of {whole['people']} people, {100 * whole['marked']:.1f} % marked "
        f"(95 % interval {low:.1f} to {high:.1f}); 5 % would be marked at a limit of {told['limit at 5 %']:.2f} "
        f"in place of 1. CPU-s for scans of about 128^3 voxels (median): {told['seconds for about 128^3']}.",
        "",
        "| in scope | n | marked | largest score |",
        "|---|--:|--:|--:|",
    ]
    for case, f in told["in scope"].items():
        lines.append(f"| {case} | {f['n']} | {round(f['marked'] * f['n'])} | {f['largest']:.2f} |")
    lines += [
        "",
        "| not in scope | n | caught | 95 % | caught at 5 % | AUROC | 95 % |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for case, f in told["cases"].items():
        ends = [f"{a:.2f} to {b:.2f}" for a, b in (f["caught interval"], f["AUROC interval"])]
        lines.append(
            f"| {case} | {f['n']} | {f['caught']:.2f} | {ends[0]} | {f['caught at 5 %']:.2f} "
            f"| {f['AUROC']:.3f} | {ends[1]} |"
        )
    return "\n".join(lines) + "\n"


def report(arguments: argparse.Namespace) -> int:
    """Write ``scope.json``, from which `report.py keep` takes the figures, and ``scope.md`` beside the scores."""
    found = [{**row, "side": _side(row)} for row in scored(arguments.out / "scope.jsonl")]
    told = figures(found)
    about = {
        "set": "t1-ds002748, t1-head, ms-open, ct-lung",
        "part": arguments.part,
        "people": told["all in scope"]["people"],
        "in scope": "; ".join(told["in scope"]),
        "not in scope": "; ".join(told["cases"]),
    }
    made = of_cases(told, "not in scope")
    finding = kept("scope", parser(), arguments, found=found, by=("side", "case"), figures=made, about=about)
    record = json.dumps({**told, "finding": finding.record()}, indent=1)
    (arguments.out / "scope.json").write_text(record + "\n", encoding="utf-8")
    (arguments.out / "scope.md").write_text(table(told), encoding="utf-8")
    print(table(told), end="")
    return 0


def _side(row: Row) -> str:
    return "in scope" if row["kind"] == "in scope" else "not in scope"


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    out = options(__doc__.splitlines()[0], out="out/scope", writes="scope.jsonl, .json and .md")
    out.add_argument("--part", default="test", choices=("validation", "test"), help="of the split")
    out.add_argument("--people", type=int, help="of the first set at most; all when left out")
    out.add_argument("--only", nargs="*", help="names of the cases; all when left out")
    return out


def main(words: Sequence[str] | None = None) -> int:
    """Run the command; 0, or the exit code of the refusal."""
    return run(parser(), words, score=score, report=report)


if __name__ == "__main__":
    raise SystemExit(main())
