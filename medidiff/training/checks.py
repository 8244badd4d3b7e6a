"""Validation during training: how well the one-step posterior mean denoises scans that are not trained on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from medidiff.anatomy import foreground
from medidiff.diffusion.condition import observe
from medidiff.diffusion.denoiser import Preconditioned
from medidiff.metrics import psnr, ssim
from medidiff.physics import Noise, identity
from medidiff.training.patches import Scan
from medidiff.training.recipe import Recipe

__all__ = ["central_crop", "denoise_scores"]


def central_crop(image: Tensor, side: int) -> Tensor:
    """The cube of at most `side` voxels in the middle."""
    starts = [max((n - side) // 2, 0) for n in image.shape]
    return image[tuple(slice(a, a + side) for a in starts)]


def denoise_scores(
    denoiser: Preconditioned, scans: Sequence[Scan], recipe: Recipe
) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Masked PSNR and SSIM by noise level or CT dose, mean over scans, and pictures of the first scan at the last one.

    Returns:
        Scores such as ``{"psnr_db_noise_3": 34.1}`` (noise of 3 % of the tissue maximum) or, at a tenth of the scan's
        dose, ``{"psnr_db_dose_10": 29.8}``, and the (I, J, K) noisy, denoised and clean cubes.
    """
    device = next(denoiser.parameters()).device
    scores: dict[str, list[float]] = {}
    pictures: dict[str, Tensor] = {}
    for number, scan in enumerate(scans):
        clean = central_crop(scan.image, recipe.validation.crop).float()
        tissue = torch.from_numpy(foreground(scan.image.float().numpy()))
        mask = central_crop(tissue, recipe.validation.crop).numpy()
        for name, y, level in _measured(scan, clean, recipe, number):
            y = y[None, None].to(device)
            with torch.no_grad():
                mean = denoiser(torch.zeros_like(y), torch.tensor(torch.inf), observe(y, identity(), level))[0, 0].cpu()
            for metric, score in (("psnr_db", psnr), ("ssim", ssim)):
                value = score(mean.numpy(), clean.numpy(), mask=mask, data_range=1.0)
                scores.setdefault(f"{metric}_{name}", []).append(value)
            if number == 0:
                pictures = {"noisy": y[0, 0].cpu(), "denoised": mean, "clean": clean}
    return {name: float(np.mean(values)) for name, values in scores.items()}, pictures


def _measured(scan: Scan, clean: Tensor, recipe: Recipe, number: int) -> Iterator[tuple[str, Tensor, float]]:
    """What is scored: its name, the noisy cube, and the level that is told; the same noise at every look.

    The noise of a dose has another level in every scan, so it is named by the dose, in per cent.
    """
    if scan.noise is not None and recipe.low_dose is not None:
        for dose, field, level in zip(recipe.low_dose.doses, scan.noise, scan.levels, strict=True):
            noise = central_crop(field, recipe.validation.crop).float()
            yield f"dose_{100 * dose:g}", clean + level * noise, level
        return
    for level in recipe.validation.levels:
        generator = torch.Generator().manual_seed(number)
        yield f"noise_{100 * level:g}", Noise("rician", level).apply(clean, generator), level
