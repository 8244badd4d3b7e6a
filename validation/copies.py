"""Feed the copy gate with copies of training scans and with scans that it never saw: `python validation/copies.py`.

Each training scan is put on the priors' grid (1 mm) and copied in the required ways of `plants.py`, every second one in
the others too; each scan of `--part` is treated in the required ways and is no copy. A copy counts as caught when it is
flagged; what cannot be judged has not passed either and is told beside. The prior that learnt its training scans by
heart is the exact denoiser of their empirical distribution (Karras et al. 2022, eq. 57), sampled by the package's own
sampler at 4 mm.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import plants
import scoring
import torch
from findings import finding, series
from scoring import Array
from shares import wilson

from medidiff import io
from medidiff.anatomy import foreground, tissue_maximum
from medidiff.diffusion import from_noise, heun, karras
from medidiff.gates import CopyGate, Embedding, GateReport, Index, Verdict
from medidiff.gates.brain import upright
from medidiff.gates.relief import relief_of
from medidiff.volume import Geometry, Volume

_HERE = Path(__file__).resolve().parent
_INDEX = _HERE.parent / "medidiff" / "prior" / "bundled" / "whole" / "coarse-t1.index.safetensors"
_SET = "t1-ds002748"
_PARTS = ("unseen", "heart", "required", "others")


@dataclass(frozen=True, slots=True)
class Judged:
    """One volume that was fed.

    Args:
        kind: how it was made.
        subject: place in the split, from 1.
        flagged: by the embedding alone.
        with_voxels: by either.
        own: whether the nearest scan is the one it was made from.
        judged: whether the gate could compare it.
        score: share of the threshold reached by the embedding.
        seconds: of the comparison by embedding, one core.
    """

    kind: str
    subject: int
    flagged: bool
    with_voxels: bool
    own: bool
    judged: bool
    score: float
    seconds: float


def at_1mm(path: Path) -> Array:
    """A scan on the priors' grid, its tissue's maximum at 1."""
    values = upright(io.read(path), 1.0)
    return plants.on_grid(values / np.float32(tissue_maximum(values, foreground(values))))


def as_volume(values: Array, spacing_mm: float = 1.0) -> Volume:
    """Values on a grid along the body's axes."""
    geometry = Geometry.regular(values.shape, spacing_mm=(spacing_mm,) * 3)
    return Volume(np.ascontiguousarray(values, dtype=np.float32), geometry, "MR")


@dataclass(frozen=True, slots=True)
class Gates:
    """The gate as it ships, and with the training scans at hand."""

    alone: CopyGate
    voxels: CopyGate

    def feed(self, values: Array, kind: str, subject: int, *, spacing_mm: float = 1.0) -> Judged:
        """What both say of one volume."""
        begin = time.process_time()
        relief = relief_of(as_volume(values, spacing_mm), Embedding.shipped().mean)
        first = self.alone.judge(relief)
        seconds = time.process_time() - begin
        second = self.voxels.judge(relief)
        own, share = first.nearest == subject, first.score / first.threshold
        return Judged(kind, subject, first.flagged, second.flagged, own, first.judged, share, seconds)


def treated(scans: Mapping[int, Path], ways: Mapping[str, plants.Plant], gates: Gates) -> Iterator[Judged]:
    """Each scan in each way, each from a seed of its own."""
    for place, path in scans.items():
        whole = at_1mm(path)
        for number, (kind, plant) in enumerate(ways.items()):
            rng = np.random.default_rng((place, number))
            yield gates.feed(plant(whole, rng), kind, place)


def mixed(scans: Mapping[int, Path], strangers: Sequence[Path], gates: Gates) -> Iterator[Judged]:
    """Each training scan mixed with the next two, and with somebody's of whom the index knows nothing."""
    places = list(scans)
    for number, place in enumerate(places):
        whole, *more = (at_1mm(scans[places[(number + step) % len(places)]]) for step in range(3))
        stranger = at_1mm(strangers[number % len(strangers)])
        for kind, (name, mixture) in enumerate(plants.MIXED.items(), start=1000):
            rng = np.random.default_rng((place, kind))
            yield gates.feed(mixture(whole, (more[0], more[1]), stranger, rng), name, place)


def by_heart(scans: Mapping[int, Path], count: int) -> list[Array]:
    """Draws at 4 mm of the prior that knows nothing but some scans."""
    known = torch.stack([torch.from_numpy(upright(as_volume(at_1mm(path)), 4.0)) for path in scans.values()])[:, None]

    def denoiser(x: torch.Tensor, sigma: torch.Tensor, condition: object = None) -> torch.Tensor:
        off = ((x[:, None] - known[None]) ** 2).flatten(2).sum(dim=2) / (2 * float(sigma) ** 2)
        weights = torch.softmax(-off, dim=1)
        return torch.einsum("bn,nc...->bc...", weights, known)

    sigmas = karras(24, 0.02, 80.0)
    chance = [torch.Generator().manual_seed(seed) for seed in range(count)]
    start = from_noise((count, *known.shape[1:]), float(sigmas[0]), chance)
    return [draw[0].numpy() for draw in heun(denoiser, start, sigmas)]


def table_of(copies: Sequence[Judged], unseen: Sequence[Judged]) -> str:
    """Recall of each kind of copy, and false alarms on unseen scans."""
    lines = [
        "| copies of training scans | n | caught by embedding | 95 % | own nearest | with voxels | 95 % | not judged |",
        "|---|--:|--:|---|--:|--:|---|--:|",
    ]
    for kind in dict.fromkeys(each.kind for each in copies):
        some = [each for each in copies if each.kind == kind]
        first, both = (sum(getattr(each, name) for each in some) for name in ("flagged", "with_voxels"))
        nearest, unjudged = sum(each.own for each in some), sum(not each.judged for each in some)
        n = len(some)
        lines.append(
            f"| {kind} | {n} | {first / n:.3f} | {_interval(first, n)} | {nearest}/{n} "
            f"| {both / n:.3f} | {_interval(both, n)} | {unjudged} |"
        )
    return "\n".join([*lines, *_alarms(unseen)]) + "\n"


def _alarms(unseen: Sequence[Judged]) -> list[str]:
    if not unseen:
        return []
    lines = ["", "| unseen scans | n | flagged by embedding | 95 % | with voxels | 95 % | not judged |"]
    lines.append("|---|--:|--:|---|--:|---|--:|")
    plain = [each for each in unseen if each.kind == "as it is"]
    rows = {"as they are, one view a subject": plain, "these, and treated in the first eight ways": unseen}
    for name, some in rows.items():
        if some:
            n, first, both = len(some), sum(each.flagged for each in some), sum(each.with_voxels for each in some)
            unjudged = sum(not each.judged for each in some)
            lines.append(
                f"| {name} | {n} | {first} ({first / n:.3f}) | {_interval(first, n)} "
                f"| {both} ({both / n:.3f}) | {_interval(both, n)} | {unjudged} |"
            )
    subjects, bad = ({each.subject for each in some} for some in (unseen, [e for e in unseen if e.with_voxels]))
    highest, seconds = max(each.score for each in unseen), np.median([each.seconds for each in unseen])
    lines += [
        "",
        f"{len(bad)} of {len(subjects)} unseen subjects were flagged in any view; the highest reached "
        f"{highest:.2f} of a threshold. Median {seconds:.2f} s a comparison on one core.",
    ]
    return lines


def _interval(hits: int, n: int) -> str:
    low, high = wilson(hits, n)
    return f"{low:.3f} to {high:.3f}"


def learnt_by_heart(scans: Mapping[int, Path], gate: CopyGate, count: int) -> tuple[str, dict[str, object]]:
    """What the export would say of a prior that draws its training scans."""
    verdicts: list[Verdict] = [gate.check(as_volume(draw, 4.0)) for draw in by_heart(scans, count)]
    report = GateReport.of(gate, verdicts)
    line = f"A prior that knows {len(scans)} scans by heart, {count} draws: {report.refusal or 'NOT REFUSED'}.\n"
    return line, report.to_mapping()


def run(arguments: argparse.Namespace) -> str:
    """Feed everything, and write the table."""
    torch.set_num_threads(1)
    training = _files(arguments, "train")
    chosen = dict(list(training.items())[: arguments.scans or None])
    index = Index.load(arguments.index)
    gates = Gates(CopyGate(index), CopyGate(index, (io.read(path) for path in training.values())))
    every_second = {place: path for place, path in chosen.items() if place % 2}
    unknown = {"as it is": lambda x, rng: x} | dict(plants.REQUIRED)
    copies, unseen, line, report = [], [], "", {}
    if "unseen" in arguments.only:
        unseen = _told(arguments, treated(_files(arguments, arguments.part), unknown, gates))
    if "heart" in arguments.only:
        line, report = learnt_by_heart(dict(list(training.items())[:2]), gates.alone, 8)
    if "required" in arguments.only:
        copies += _told(arguments, treated(chosen, plants.REQUIRED, gates))
    if "others" in arguments.only:
        copies += _told(arguments, treated(every_second, plants.EXTRA, gates))
        strangers = list(_files(arguments, "validation").values())
        copies += _told(arguments, mixed(every_second, strangers, gates))
    table = table_of(copies, unseen) + "\n" + line
    record = {
        "index": index.sha256,
        "thresholds": dict(index.thresholds),
        "copies": [asdict(each) for each in copies],
        "unseen": [asdict(each) for each in unseen],
        "by_heart": report,
    }
    about = {"set": _SET, "index": index.sha256, "prior": "none"}
    told = finding("copies", parser(), arguments, params=about, figures=every_figure(copies, unseen, report))
    scoring.save(arguments.out, "copies", table=table, record=record, finding=told)
    return table


def every_figure(
    copies: Sequence[Judged], unseen: Sequence[Judged], by_heart: Mapping[str, Any]
) -> dict[str, dict[int, float]]:
    """Counts by kind of copy and of unseen scan, the weakest copy and the nearest stranger, by name."""
    rows: list[dict[str, Any]] = []
    for name, judged in {"copy": copies, "unseen": unseen}.items():
        for kind in dict.fromkeys(each.kind for each in judged):
            some = [each for each in judged if each.kind == kind]
            counts = {part: sum(getattr(each, part) for each in some) for part in ("flagged", "with_voxels", "judged")}
            scores = {"lowest": min(each.score for each in some), "highest": max(each.score for each in some)}
            seconds = {"seconds": float(np.median([each.seconds for each in some]))}
            rows.append({"set": name, "kind": kind, "n": len(some), **counts, **scores, **seconds})
    if by_heart:
        rows.append({"set": "by heart", "kind": "draw", "n": by_heart["checked"], "flagged": by_heart["flagged"]})
    values = ("n", "flagged", "with_voxels", "judged", "lowest", "highest", "seconds")
    return series(rows, by=("set", "kind"), values=values)


def _files(arguments: argparse.Namespace, part: str) -> dict[int, Path]:
    return scoring.scored_scans(arguments.data, arguments.split, _SET, part=part)


def _told(arguments: argparse.Namespace, judged: Iterator[Judged]) -> list[Judged]:
    """All of them, each told as it comes if that is wanted."""
    found = []
    for each in judged:
        found.append(each)
        if arguments.verbose:
            print(each, file=sys.stderr, flush=True)
    return found


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    shared = os.environ.get("MEDIDIFF_DATA") or _HERE.parent.parent / "shared" / "data"
    out = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    out.add_argument("--data", type=Path, default=Path(shared), help="folder of the shared data")
    out.add_argument("--split", type=Path, default=_HERE / "split.toml", help="which subject serves what")
    out.add_argument("--index", type=Path, default=_INDEX, help="of the split's training scans")
    out.add_argument("--part", choices=("test", "validation"), default="test", help="whose scans are no copies")
    out.add_argument("--scans", type=int, default=0, help="training scans to copy, the first ones; 0 for all")
    out.add_argument("--only", nargs="+", choices=_PARTS, default=list(_PARTS), help="parts of the study")
    out.add_argument("--verbose", action="store_true", help="tell every comparison")
    out.add_argument("--out", type=Path, default=Path("out/validation"), help="folder for copies.md and copies.json")
    return out


def main(words: Sequence[str] | None = None) -> int:
    """Run the command."""
    return scoring.ended(run, parser(), words)


if __name__ == "__main__":
    raise SystemExit(main())
