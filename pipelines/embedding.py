"""Make the mean brain that the copy gate compares with: `python pipelines/embedding.py OUT.json`.

It is the mean of the `train` subjects of the committed split; its thresholds, for indexes of too few scans to have
their own, are those of an index of these subjects with the `validation` subjects held out.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

from index import options, scans_of, subjects

from medidiff.errors import MedidiffError
from medidiff.gates import Embedding, build_index
from medidiff.gates.average import mean_brain
from medidiff.gates.brain import brain_of

ABOUT = {
    "summary": "Mean brain of the copy gate: 26 brain-extracted T1w scans, symmetrical, 40 x 48 x 40 voxels of 4 mm.",
    "licence": "CC0-1.0",
    "sources": ("t1-ds002748, 26 train subjects (CC0, OpenNeuro ds002748 v1.0.5)",),
    "limits": (
        "For brain-extracted T1w scans of adults; from one site and protocol.",
        "The mean of 26 brains after deformation; none of them can be had back from it.",
    ),
}


def made(data: Path, out: Path) -> Embedding:
    """Write the mean brain without thresholds of its own, index the subjects with it, and write it again with them."""
    files = subjects(data, "train")
    mean = mean_brain([brain_of(volume) for volume in scans_of(files)])
    about = ABOUT | {"scans": len(files)}
    Embedding(mean, {}, "").save(out, about)
    plain = Embedding.load(out)
    index = build_index(scans_of(files), held_out=scans_of(subjects(data, "validation")), embedding=plain)
    dataclasses.replace(plain, thresholds=index.thresholds).save(out, about)
    return Embedding.load(out)


def main(words: Sequence[str] | None = None) -> int:
    """Run the command; 0, or the exit code of the refusal."""
    parser: argparse.ArgumentParser = options(__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="card to write, .json; the mean brain goes beside it")
    arguments = parser.parse_args(words)
    try:
        embedding = made(arguments.data, arguments.out)
    except MedidiffError as refusal:
        print(refusal, file=sys.stderr)
        return refusal.exit_code
    print(f"sha256 {embedding.sha256}; " + ", ".join(f"{k} {v:.3f}" for k, v in embedding.thresholds.items()))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
