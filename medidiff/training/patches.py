"""Training patches: planned one by one on the CPU, made in batches on the device that trains on them.

A plan holds all that was drawn for a patch as small tensors, so that it can come from another process; making the
patch from it is a few matrix products over the batch. Scans that are held in memory lie on that device; from those that
lie on the disk (`medidiff.training.cache`) a cube is cut when the patch is planned.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import tee
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from medidiff.diffusion.condition import Condition
from medidiff.diffusion.denoiser import with_noise
from medidiff.diffusion.whole import Asked
from medidiff.errors import SettingsError
from medidiff.training.chance import Chance
from medidiff.training.degrade import (
    Measurement,
    View,
    cut_side,
    draw_low_dose,
    draw_measurement,
    draw_view,
    held,
    look,
    measure,
)
from medidiff.training.recipe import Recipe
from medidiff.training.stored import StoredScan

__all__ = ["Batch", "PatchPlan", "Patches", "Scan"]


@dataclass(frozen=True, slots=True)
class Scan:
    """A clean scan at network scale.

    Args:
        image: (I, J, K), tissue maximum about 1.
        centres: (N, 3) voxels that a patch may be centred on.
        sha256: of the float32 image's bytes, for the data fingerprint.
        noise: (D, I, J, K) noise that lower doses add, of unit standard deviation in the tissue; None for none.
        levels: (D,) that standard deviation, at network scale.
    """

    image: Tensor
    centres: Tensor
    sha256: str
    noise: Tensor | None = None
    levels: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Batch:
    """Images ready for the loss: x₀, what was measured or asked of it, σ (B,), and the diffused state x_σ."""

    x: Tensor
    condition: Condition | Asked
    sigma: Tensor
    state: Tensor


class PatchPlan(NamedTuple):
    """All that is drawn for one patch; after collation every field has a leading B.

    Args:
        scan: () number of the scan.
        corner: (3,) first voxel of the cut, along the view's axes; it may lie outside the scan.
        view: how the cut becomes the patch.
        scanner: what is measured of it.
        field: () number of the noise that is cut with it, for all scans in a row; -1 for white noise.
        sigma: () diffusion level, infinity for the one-step posterior mean.
        seed: () of the noise.
    """

    scan: Tensor
    corner: Tensor
    view: View
    scanner: Measurement
    field: Tensor
    sigma: Tensor
    seed: Tensor


class Patches:
    """Training patches, each a function of the seed, of its number and of the kind of device alone.

    The noise comes from the device's own generator: on a CPU and on CUDA a patch has the same view, scanner and noise
    level, but another realisation of the noise.

    Args:
        scans: clean scans, all in memory or all on the disk.
        weights: how often a patch comes from each.
        recipe: sizes, ranges and the seed.
        device: where they are made; scans in memory are kept there, in half precision, a tenth of their own noise.
        workers: processes that draw plans ahead, and cut from the disk; 0 draws them as they are needed.
    """

    def __init__(
        self,
        scans: Sequence[Scan] | Sequence[StoredScan],
        weights: Sequence[float],
        recipe: Recipe,
        *,
        device: torch.device | str = "cpu",
        workers: int = 0,
    ) -> None:
        self.recipe, self.device, self.workers = recipe, torch.device(device), workers
        doses = () if recipe.low_dose is None else recipe.low_dose.doses
        if any(len(scan.levels) != len(doses) for scan in scans):
            mend = "Train from the scans themselves: a pack holds no noise."
            raise SettingsError("E-PACK", "scans without the noise of the recipe's doses", mend=mend)
        plans = _Plans(scans, weights, recipe)
        in_memory = [scan for scan in scans if isinstance(scan, Scan)]
        self._plans: Dataset[Any] = plans if in_memory else _Cuts(plans, scans)  # type: ignore[arg-type]
        self._bank = _Bank([scan.image for scan in in_memory], self.device) if in_memory else None
        fields = [field for scan in in_memory if scan.noise is not None for field in scan.noise]
        self._fields = _Bank(fields, self.device) if fields else None

    def batch(self, images: Sequence[int]) -> Batch:
        """The patches with these numbers."""
        return self._make(default_collate([self._plans[image] for image in images]))

    def batches(self, numbers: Iterable[Sequence[int]]) -> Iterator[Batch | None]:
        """A batch for each list of numbers; None for an empty one.

        Args:
            numbers: taken as they are needed, so that there may be no end of them.
        """
        if not self.workers:
            yield from (self.batch(images) if len(images) else None for images in numbers)
            return
        ahead, now = tee(numbers)  # the processes are some batches ahead
        loader = DataLoader(
            self._plans,
            batch_sampler=(list(images) for images in ahead if len(images)),
            num_workers=self.workers,
            prefetch_factor=4,
            pin_memory=self.device.type == "cuda",
        )
        plans = iter(loader)
        yield from (self._make(next(plans)) if len(images) else None for images in now)

    def _make(self, item: Any) -> Batch:
        """A batch from collated plans, and from the cubes that came with them where scans lie on the disk."""
        plan, *cubes = item if self._bank is None else (item,)
        seeds = plan.seed.tolist()
        plan = _moved(plan, self.device)
        seen, fields = [part.to(self.device, non_blocking=True).float() for part in cubes] or self._cut(plan)
        x, side = look(seen, plan.view), self.recipe.fit.patch
        noise = torch.empty((len(seeds), 3, side, side, side), device=self.device)
        for each, seed in zip(noise, seeds, strict=True):
            each.normal_(generator=torch.Generator(self.device).manual_seed(seed))
        if self.recipe.low_dose is not None:
            noise[:, 0] = torch.where(plan.field[:, None, None, None] < 0, noise[:, 0], held(fields, plan.view))
        return Batch(x, measure(x, plan.scanner, noise[:, :2]), plan.sigma, with_noise(x, plan.sigma, noise[:, 2:]))

    def _cut(self, plan: PatchPlan) -> tuple[Tensor, Tensor]:
        """The cubes of the scans in memory, and of their noise."""
        assert self._bank is not None
        place = (plan.corner, plan.view.order, cut_side(self.recipe.fit.patch, self.recipe.degradation))
        seen = self._bank.cut(plan.scan, *place)
        return seen, seen if self._fields is None else self._fields.cut(plan.field.clamp_min(0), *place)


class _Plans(Dataset[PatchPlan]):
    """Plans by the number of the image."""

    def __init__(self, scans: Sequence[Scan] | Sequence[StoredScan], weights: Sequence[float], recipe: Recipe) -> None:
        self.centres, self.levels = tuple(scan.centres for scan in scans), tuple(scan.levels for scan in scans)
        self.weights, self.recipe = tuple(weights), recipe

    def __getitem__(self, image: int) -> PatchPlan:
        fit, ranges = self.recipe.fit, self.recipe.degradation
        chance = Chance(self.recipe.seed, image)
        scan = chance.pick(self.weights)
        view = draw_view(fit.patch, ranges, chance)
        centre = self.centres[scan][chance.below(len(self.centres[scan]))].long()[view.order]
        scanner, field = draw_measurement(fit.patch, ranges, chance), -1
        if self.recipe.low_dose is not None and chance.happens(self.recipe.low_dose.share):
            scanner, dose = draw_low_dose(
                fit.patch, ranges, self.recipe.low_dose, levels=self.levels[scan], chance=chance
            )
            field = scan * len(self.levels[scan]) + dose
        mean_only = not scanner.blank and chance.happens(fit.posterior_mean)
        sigma = float("inf") if mean_only else chance.log_uniform(*fit.sigma)
        return PatchPlan(
            scan=torch.tensor(scan),
            corner=centre - cut_side(fit.patch, ranges) // 2,
            view=view,
            scanner=scanner,
            field=torch.tensor(field),
            sigma=torch.tensor(sigma),
            seed=torch.tensor(chance.below(2**62)),
        )


class _Cuts(Dataset[tuple[PatchPlan, Tensor, Tensor]]):
    """Plans with the cubes that they ask for, of a scan and of its noise, both in half precision, from the disk."""

    def __init__(self, plans: _Plans, scans: Sequence[StoredScan]) -> None:
        self.plans, self.scans = plans, tuple(scans)
        self.side = cut_side(plans.recipe.fit.patch, plans.recipe.degradation)

    def __getitem__(self, image: int) -> tuple[PatchPlan, Tensor, Tensor]:
        plan = self.plans[image]
        scan, corner, order = self.scans[int(plan.scan)], plan.corner, plan.view.order
        seen = scan.cut(corner, order, self.side)
        if not scan.levels or int(plan.field) < 0:
            return plan, seen, torch.zeros_like(seen)
        return plan, seen, scan.cut(corner, order, self.side, dose=int(plan.field) % len(scan.levels))


class _Bank:
    """All scans in one row of voxels, so that patches of different scans are cut out at once."""

    def __init__(self, images: Sequence[Tensor], device: torch.device) -> None:
        shapes = torch.tensor([tuple(image.shape) for image in images])
        sizes = shapes.prod(1)
        self.voxels = torch.cat([torch.zeros(1), *(image.flatten().half() for image in images)]).half().to(device)
        self.first = (sizes.cumsum(0) - sizes + 1).to(device)  # voxel 0 is air
        self.shapes = shapes.to(device)
        ones = torch.ones(len(images), dtype=torch.int64)
        self.strides = torch.stack([shapes[:, 1] * shapes[:, 2], shapes[:, 2], ones], dim=1).to(device)

    def cut(self, scan: Tensor, corner: Tensor, order: Tensor, side: int) -> Tensor:
        """(B, C, C, C) float32 cubes from corners (B, 3), axes in `order` (B, 3); outside of a scan lies air, 0."""
        sizes, strides = self.shapes[scan].gather(1, order), self.strides[scan].gather(1, order)
        place = corner[..., None] + torch.arange(side, device=corner.device)  # (B, 3, C)
        inside = (place >= 0) & (place < sizes[..., None])
        i, j, k = (place * strides[..., None]).unbind(1)
        where = self.first[scan][:, None, None, None] + i[:, :, None, None] + j[:, None, :, None] + k[:, None, None, :]
        a, b, c = inside.unbind(1)
        where = where * (a[:, :, None, None] & b[:, None, :, None] & c[:, None, None, :])
        return self.voxels[where].float()


def _moved(plan: PatchPlan, device: torch.device) -> PatchPlan:
    """A plan with all its tensors on a device."""

    def to(part: Tensor) -> Tensor:
        return part.to(device, non_blocking=True)

    return PatchPlan(
        to(plan.scan),
        to(plan.corner),
        View(*map(to, plan.view)),
        Measurement(*map(to, plan.scanner)),
        to(plan.field),
        to(plan.sigma),
        to(plan.seed),
    )
