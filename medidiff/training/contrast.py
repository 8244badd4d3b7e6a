"""Pairs of scans of one person in two contrasts: how they come to network scale, and the patches made of them."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as nnf

from medidiff.anatomy import foreground
from medidiff.diffusion.condition import Condition, observe_contrast
from medidiff.diffusion.denoiser import Preconditioned, with_noise
from medidiff.errors import InputError, SettingsError
from medidiff.io import read
from medidiff.metrics import psnr, ssim
from medidiff.physics.contrast import Curve, fit_curve
from medidiff.prepare import fit_intensity, without_padding
from medidiff.training.chance import Chance
from medidiff.training.checks import central_crop
from medidiff.training.contrast_recipe import ContrastRecipe
from medidiff.training.data import Found, find_scans, in_larger_voxels
from medidiff.training.patches import Batch
from medidiff.volume import Volume

__all__ = ["Pair", "Pairs", "contrast_scores", "curve_of", "in_one_frame", "load_pairs"]

_MARGIN = 4  # voxels of air about the tissue that the curve is fitted on


@dataclass(frozen=True, slots=True)
class Pair:
    """Two clean scans of one person on one grid, each at its own network scale.

    Args:
        sought: (I, J, K).
        measured: (I, J, K), the same places in another contrast.
        centres: (N, 3) voxels that a patch may be centred on.
        weight: how often a patch comes from it.
        sha256: of both scans' bytes, for the data fingerprint.
    """

    sought: Tensor
    measured: Tensor
    centres: Tensor
    weight: float
    sha256: str


def load_pairs(recipe: ContrastRecipe, folder: Path, data: Path | None, *, part: str) -> list[Pair]:
    """The pairs of one part of the split; none where the split lists no subject.

    Args:
        recipe: which sources.
        folder: where the recipe lies.
        data: data folder instead of the recipe's.
        part: ``"train"``, ``"validation"`` or ``"test"``.

    Raises:
        SettingsError: a file or a table of the split is missing.
        InputError: ``E-GRID``, the two scans of a person lie on different grids.
    """
    root = folder / recipe.data.root if data is None else data
    pairs = []
    for source, pattern in zip(recipe.data.sources, recipe.measured.patterns, strict=True):
        plain = dataclasses.replace(recipe.data, sources=(source,))
        other = dataclasses.replace(recipe.data, sources=(dataclasses.replace(source, pattern=pattern),))
        both = (find_scans(each, folder=folder, root=root, part=part) for each in (plain, other))
        for sought, measured in zip(*both, strict=True):
            pairs.append(_pair(sought, measured, recipe))
    return pairs


def _pair(sought: Found, measured: Found, recipe: ContrastRecipe) -> Pair:
    if sought.slab.end is not None:
        found, mend = "slices of a scan", "List whole scans."
        raise SettingsError("E-SPLIT", found, mend=mend, file=recipe.data.split)
    scans = [_scaled(read(each.path)) for each in (measured, sought)]
    seen, wanted = in_one_frame(scans, recipe.data.spacing_mm, file=sought.path.name)
    digest = hashlib.sha256(wanted.tobytes() + seen.tobytes()).hexdigest()
    centres = torch.from_numpy(np.argwhere(foreground(seen)).astype(np.int16))
    return Pair(torch.from_numpy(wanted), torch.from_numpy(seen), centres, sought.weight, digest)


def _scaled(volume: Volume) -> Volume:
    return volume.with_data(fit_intensity(volume).apply(without_padding(volume)))


def in_one_frame(volumes: Sequence[Volume], spacing_mm: float, *, file: str) -> list[NDArray[np.float32]]:
    """Scans of one grid in cubic voxels, (I, J, K) each, moved alike: the first one says where the head is.

    Each by itself would be laid about its own middle, and another contrast shows another bounding box.

    Args:
        volumes: one channel each.
        spacing_mm: side of the voxels; 0 leaves them as they are.
        file: name for the message.

    Raises:
        InputError: ``E-GRID``, they lie on different grids.
    """
    first = volumes[0]
    if any(volume.geometry != first.geometry for volume in volumes):
        mend = "Register one to the other and resample it to its grid first."
        raise InputError("E-GRID", "two contrasts on different grids", mend=mend, file=file)
    stacked = first.with_data(np.concatenate([volume.data for volume in volumes]).astype(np.float32))
    moved = in_larger_voxels(stacked, spacing_mm) if spacing_mm else stacked
    return [np.array(channel, order="C") for channel in moved.data]


def curve_of(pairs: Sequence[Pair]) -> Curve:
    """What the measured contrast says of the sought one, over the boxes that hold the tissue and a little air."""
    boxes = []
    for pair in pairs:
        low = (pair.centres.amin(0) - _MARGIN).clamp_min(0).tolist()
        high = (pair.centres.amax(0) + _MARGIN + 1).tolist()
        boxes.append(tuple(slice(a, b) for a, b in zip(low, high, strict=True)))
    seen, sought = (
        torch.cat([getattr(pair, name)[box].flatten() for pair, box in zip(pairs, boxes, strict=True)])
        for name in ("measured", "sought")
    )
    return fit_curve(seen.numpy(), sought.numpy())


class _Patch(NamedTuple):
    x: Tensor
    y: Tensor
    blank: Tensor
    sigma: Tensor
    state: Tensor


class Pairs:
    """Training patches of pairs, each a function of the seed and of its number alone.

    Args:
        pairs: clean scans in both contrasts.
        curve: what one says of the other.
        recipe: sizes, ranges and the seed.
        device: where they are used; they are made on the CPU.
    """

    def __init__(
        self, pairs: Sequence[Pair], curve: Curve, recipe: ContrastRecipe, *, device: torch.device | str = "cpu"
    ) -> None:
        self.curve, self.recipe, self.device = curve, recipe, torch.device(device)
        self._centres, self._weights = [pair.centres for pair in pairs], [pair.weight for pair in pairs]
        margin = [recipe.fit.patch // 2] * 6  # outside of a scan lies air, 0
        self._scans = [nnf.pad(torch.stack([pair.sought, pair.measured]), margin) for pair in pairs]

    def batches(self, numbers: Iterable[Sequence[int]]) -> Iterator[Batch | None]:
        """A batch for each list of numbers; None for an empty one."""
        yield from (self.batch(images) if len(images) else None for images in numbers)

    def batch(self, images: Sequence[int]) -> Batch:
        """The patches with these numbers."""
        patches = zip(*map(self._patch, images), strict=True)
        x, y, blank, sigma, state = (torch.stack(each).to(self.device) for each in patches)
        seen = observe_contrast(y, self.curve)
        image, stairs = (torch.where(blank, 0.0, each) for each in (seen.image, y))
        condition = Condition(image, (~blank).to(y), torch.where(blank, 1.0, seen.noise), stairs)
        return Batch(x, condition, sigma, state)

    def _patch(self, number: int) -> _Patch:
        fit, measured = self.recipe.fit, self.recipe.measured
        chance = Chance(self.recipe.seed, number)
        scan = chance.pick(self._weights)
        centre = self._centres[scan][chance.below(len(self._centres[scan]))].tolist()
        a, b, c = (slice(int(n), int(n) + fit.patch) for n in centre)  # the margin is half a patch
        turned = [1 + axis for axis in chance.permutation(3)]
        flips = [axis for axis in (1, 2, 3) if chance.happens(0.5)]
        both = self._scans[scan][:, a, b, c].permute(0, *turned).flip(flips)
        gain, level = chance.log_uniform(*measured.gain), chance.log_uniform(*measured.noise)
        blank = chance.happens(measured.nothing)
        mean_only = not blank and chance.happens(fit.posterior_mean)
        sigma = torch.tensor(float("inf") if mean_only else chance.log_uniform(*fit.sigma))
        noise = chance.normal((2, *both.shape[1:]))
        x, y = both[:1], gain * both[1:] + level * noise[:1]
        return _Patch(x, y, torch.tensor(blank).reshape(1, 1, 1, 1), sigma, with_noise(x[None], sigma, noise[1:])[0])


def contrast_scores(
    denoiser: Preconditioned, pairs: Sequence[Pair], curve: Curve, recipe: ContrastRecipe, *, name: str
) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Masked PSNR and SSIM of the posterior mean, mean over pairs, and pictures of the first one.

    Args:
        denoiser: what is judged.
        pairs: scans to judge it on.
        curve: what the measured contrast says of the sought one.
        recipe: of the run.
        name: of the part that the pairs are of, in the names of the scores.
    """
    device = next(denoiser.parameters()).device
    scores: dict[str, list[float]] = {}
    pictures: dict[str, Tensor] = {}
    for number, pair in enumerate(pairs[: recipe.validation.scans]):
        tissue = torch.from_numpy(foreground(pair.measured.numpy()))
        clean, y, mask = (central_crop(each, recipe.validation.crop) for each in (pair.sought, pair.measured, tissue))
        condition = observe_contrast(y[None, None].to(device), curve)
        with torch.no_grad():
            mean = denoiser(torch.zeros_like(condition.image), torch.tensor(torch.inf), condition)[0, 0].cpu()
        for metric, score in (("psnr_db", psnr), ("ssim", ssim)):
            value = score(mean.numpy(), clean.numpy(), mask=mask.numpy(), data_range=1.0)
            scores.setdefault(f"{metric}_{name}", []).append(value)
        if number == 0:
            pictures = {"measured": y, "posterior mean": mean, "sought": clean}
    return {each: sum(values) / len(values) for each, values in scores.items()}, pictures
