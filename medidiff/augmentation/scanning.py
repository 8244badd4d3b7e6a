"""What a random scanner makes of a scan, and how a prior answers it; at network scale, on the scan's own grid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from medidiff.agreeing import agreeing
from medidiff.diffusion import Plan, Tiled, Turned, cheapest_tile, generators_for, observe, worst_last
from medidiff.physics import Noise, Separable
from medidiff.prior import Prior
from medidiff.training.chance import Chance
from medidiff.training.degrade import draw_scanner
from medidiff.training.recipe import DegradationRanges

__all__ = ["Scanned", "drawn", "scan_again"]

_TILE = 320**3  # voxels that a prior is shown at once


@dataclass(frozen=True, slots=True, eq=False)
class Scanned:
    """A measurement ``y = N(A x)``.

    Args:
        y: (i, j, k) what was measured.
        operator: A.
        level: (i, j, k) σ_y of every sample.
        told: by how much a prior that is told this level is misled, a factor.
        rician: whether the noise is Rician; Gaussian otherwise.
    """

    y: Tensor
    operator: Separable
    level: Tensor
    told: float
    rician: bool

    @property
    def image(self) -> Tensor:
        """(I, J, K) y on the grid of x: as it is, or through the smoothest volume that would be measured so."""
        return self.y if self.operator.is_identity else self.operator.smoothest(self.y)

    def record(self, gain: float) -> dict[str, Any]:
        """As JSON values, for the provenance; the noise in the scan's units, sizes in its voxels.

        Args:
            gain: units of the scan that are 1 at network scale.
        """
        matrices, counts = self.operator.matrices, self.y.shape
        apart = [1.0 if m is None else m.shape[1] / n for m, n in zip(matrices, counts, strict=True)]
        noise = {"noise": "rician" if self.rician else "gaussian", "noise_level": float(self.level.mean()) * gain}
        return noise | {"samples": list(counts), "voxels_a_sample": apart}


def scan_again(x: Tensor, ranges: DegradationRanges, chance: Chance, *, magnitude: bool) -> Scanned:
    """Measure a scan with a random scanner, whose slices may lie across any axis.

    Args:
        x: (I, J, K) scan at network scale.
        ranges: which scanners there are.
        chance: where all choices come from.
        magnitude: whether the values are lengths, so that the noise may be Rician.
    """
    order = chance.permutation(3)
    scanner = draw_scanner([x.shape[axis] for axis in order], ranges, chance)
    place = [order.index(axis) for axis in range(3)]
    i, j, k = (scanner.matrices[at] for at in place)
    operator = Separable((i, j, k))
    clean = operator(x)
    ramps = [scanner.ramps[at].reshape(_along(axis)) for axis, at in enumerate(place)]
    level = (scanner.level * (1.0 + ramps[0] + ramps[1] + ramps[2])).expand_as(clean)
    rician = magnitude and scanner.rician
    y = Noise("rician" if rician else "gaussian", level).apply(clean, chance.generator)
    return Scanned(y, operator, level, scanner.told, rician)


def _along(axis: int) -> list[int]:
    return [-1 if each == axis else 1 for each in range(3)]


def drawn(scanned: Scanned, prior: Prior, plan: Plan, *, seed: int, number: int, device: torch.device) -> Tensor:
    """One draw of ``p(x | y)``, (I, J, K), that agrees with what was measured to within its noise.

    Args:
        scanned: y, its operator and its noise, of which the prior is told.
        prior: on `device`.
        plan: how the draw is made; one evaluation more than it has steps.
        seed: of the draw.
        number: of the draw.
        device: to compute on.
    """
    y = scanned.y[None, None].to(device)
    told = (scanned.level * scanned.told).clamp(*prior.card.noise)[None, None].to(device)
    uniform = bool((told == told.flatten()[0]).all())
    condition = observe(y, scanned.operator, float(told.flatten()[0]) if uniform else told)
    i, j, k = condition.image.shape[-3:]
    axes = worst_last(scanned.operator, (i, j, k))
    sizes = [(i, j, k)[axis] for axis in axes]
    tiled = Tiled(prior.denoiser, cheapest_tile(sizes, voxels=_TILE, halo=prior.halo), prior.halo)
    denoiser = Turned(tiled, axes)
    with torch.no_grad():
        mean = denoiser(torch.zeros_like(condition.image), torch.tensor(torch.inf), condition)
        x = plan.draw(denoiser, mean, condition=condition, generators=generators_for(seed, [number]))
    level = float(scanned.level.square().mean().sqrt())
    return agreeing(x, y, scanned.operator, level)[0, 0].cpu()
