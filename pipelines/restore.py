"""Denoise or super-resolve a cohort: `python pipelines/restore.py RECIPE OUT SCAN ...`.

Every scan that the files and folders hold becomes OUT/case-00001.nii.gz and so on, in their order, with a record that
has the SHA-256 of what it was made from; cases.csv and the MLflow run tell how much was removed from the tissue, by how
much its brightness drifted, and how long a scan took.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from cohort import Cohort, options

import medidiff as md
from medidiff import io
from medidiff.anatomy import foreground, tissue_maximum
from medidiff.errors import MedidiffError
from medidiff.io.files.atomic import make_folder, write_file
from medidiff.training.recipe import STRICT, read_as


@dataclass(frozen=True)
class RestoreRecipe:
    """What to do; the entries are the options of `medidiff denoise` and `medidiff superresolve`."""

    __pydantic_config__ = STRICT
    task: Literal["denoise", "superresolve"] = "denoise"
    prior: str = ""
    spacing: tuple[float, float, float] | None = None
    draws: int = 0
    seed: int = 0

    def restored(self, scan: md.Volume) -> md.Posterior:
        """The scan, restored; to cubic voxels as fine as its finest side where no spacing is named."""
        told: dict[str, Any] = {"prior": self.prior or None, "draws": self.draws, "seed": self.seed}
        if self.task == "denoise":
            return md.denoise(scan, **told)
        return md.superresolve(scan, self.spacing or (min(scan.geometry.spacing_mm),) * 3, **told)


def measured(scan: md.Volume, mean: md.Volume) -> dict[str, float]:
    """Drift of the tissue's brightness, and, on one grid, what was removed from it, in per cent of its maximum."""
    before, after = scan.data[0].astype(np.float64), mean.data[0].astype(np.float64)
    tissue = foreground(scan.data[0])
    peak = tissue_maximum(scan.data[0], tissue) / 100
    own = foreground(mean.data[0])
    found = {"brightness_drift_percent": 100 * float(after[own].mean() / before[tissue].mean() - 1)}
    if before.shape == after.shape:
        found["removed_percent"] = float((before - after)[tissue].std()) / peak
    return found


def main(words: Sequence[str] | None = None) -> int:
    """Run the command; 0, or an exit code of `medidiff`."""
    parser = options(__doc__)
    parser.add_argument("out", type=Path, help="folder for the cases, cases.csv and mlflow.db")
    parser.add_argument("scans", type=Path, nargs="+", help="scans, files or folders")
    chosen = parser.parse_args(words)
    try:
        recipe = read_as(chosen.recipe, lambda table: RestoreRecipe)
        cohort = Cohort("restore", {name: value for name, value in asdict(recipe).items() if value not in ("", None)})
        make_folder(chosen.out)
        for scan in [scan for path in chosen.scans for scan in io.find(path).scans]:
            path = chosen.out / f"case-{cohort.number:05d}.nii.gz"
            with cohort.case() as scores:
                begun, reading = time.monotonic(), scan.load()
                posterior = recipe.restored(reading.volume)
                io.write(posterior.mean, path, provenance=replace(posterior.provenance, inputs=reading.sha256))
                scores |= measured(reading.volume, posterior.mean) | {"scan_seconds": time.monotonic() - begun}
                cohort.show(before=reading.volume.data[0], after=posterior.mean.data[0])
        write_file(chosen.out / "cases.csv", cohort.table)
        return cohort.log(chosen.tracking, chosen.out)
    except MedidiffError as refusal:
        print(refusal, file=sys.stderr)
        return refusal.exit_code


if __name__ == "__main__":
    raise SystemExit(main())
