"""Score a prior on clean scans that are made noisy: `python pipelines/evaluate.py RECIPE OUT SCAN ...`.

Every scan is given the noise of each level of the recipe, denoised without being told the level, and compared with
itself inside the tissue. OUT gets a table of the cases, by number; the MLflow run gets the cohort's means and centiles.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from cohort import Cohort, options
from numpy.typing import NDArray

import medidiff as md
from medidiff import io
from medidiff.anatomy import foreground
from medidiff.errors import InputError, MedidiffError
from medidiff.io.files.atomic import make_folder, write_file
from medidiff.metrics import hfen, nrmse, psnr, ssim
from medidiff.physics import Noise
from medidiff.prepare import fit_intensity
from medidiff.training.checks import central_crop
from medidiff.training.recipe import STRICT, read_as

Image = NDArray[np.float32]


@dataclass(frozen=True)
class EvaluateRecipe:
    """The prior; noise as shares of the tissue maximum; side in voxels of the cube that is scored, 0 for all."""

    __pydantic_config__ = STRICT
    prior: str
    levels: tuple[float, ...] = (0.03, 0.09, 0.15)
    noise: Literal["rician", "gaussian"] = "rician"
    crop: int = 0
    seed: int = 0


def judged(name: str, image: Image, truth: Image, mask: NDArray[np.bool_]) -> dict[str, float]:
    """Four scores of an image at network scale, on which the tissue reaches 1."""
    found = {"psnr_db": psnr(image, truth, mask=mask, data_range=1.0), "nrmse": nrmse(image, truth, mask=mask)}
    found |= {"ssim": ssim(image, truth, mask=mask, data_range=1.0), "hfen": hfen(image, truth, mask=mask)}
    return {f"{name}/{metric}": value for metric, value in found.items()}


def evaluated(scan: md.Volume, recipe: EvaluateRecipe, number: int, cohort: Cohort) -> dict[str, float]:
    """The scores of one scan at every level, before and after."""
    if len(scan.data) != 1:
        raise InputError("E-4D", f"{len(scan.data)} channels", wanted="one")
    scale, side = fit_intensity(scan), recipe.crop or max(scan.shape)
    whole = torch.from_numpy(scale.apply(scan.data[0]))
    clean, tissue = central_crop(whole, side), central_crop(torch.from_numpy(foreground(whole.numpy())), side)
    grid = md.Geometry.regular(tuple(clean.shape), spacing_mm=scan.geometry.spacing_mm)
    truth, mask, scores = clean.numpy(), tissue.numpy(), {}
    cohort.show(clean=truth)
    for level in recipe.levels:
        noisy = Noise(recipe.noise, level).apply(clean, torch.Generator().manual_seed(recipe.seed + number)).numpy()
        given = md.Volume(scale.undo(noisy), grid, scan.modality)
        result = scale.apply(md.denoise(given, prior=recipe.prior, noise=recipe.noise).mean.data[0])
        name = f"noise_{100 * level:g}"
        scores |= judged(f"input/{name}", noisy, truth, mask) | judged(f"result/{name}", result, truth, mask)
        cohort.show(**{f"{100 * level:g} % noise": noisy, f"{100 * level:g} % denoised": result})
    return scores


def main(words: Sequence[str] | None = None) -> int:
    """Run the command; 0, or an exit code of `medidiff`."""
    parser = options(__doc__)
    parser.add_argument("out", type=Path, help="folder for scores.csv and mlflow.db")
    parser.add_argument("scans", type=Path, nargs="+", help="clean scans, files or folders")
    chosen = parser.parse_args(words)
    try:
        recipe = read_as(chosen.recipe, lambda table: EvaluateRecipe)
        cohort = Cohort("evaluate", asdict(recipe))
        scans = [scan for path in chosen.scans for scan in io.find(path).scans]
        for number, scan in enumerate(scans, 1):
            with cohort.case() as scores:
                scores |= evaluated(scan.load().volume, recipe, number, cohort)
        make_folder(chosen.out)
        write_file(chosen.out / "scores.csv", cohort.table)
        return cohort.log(chosen.tracking, chosen.out, columns=1 + 2 * len(recipe.levels))
    except MedidiffError as refusal:
        print(refusal, file=sys.stderr)
        return refusal.exit_code


if __name__ == "__main__":
    raise SystemExit(main())
