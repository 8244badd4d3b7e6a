"""Random views and random measurements of clean patches: what a prior practises on."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from medidiff.diffusion.condition import Condition, observe
from medidiff.physics import Degradation, Noise, NoiseKind, Separable, identity, nothing, sampling
from medidiff.training.chance import Chance
from medidiff.training.recipe import DegradationRanges

__all__ = ["measure", "random_view"]

_KNOTS = 6  # of the random grey-value curve
_TOP = 1.5  # brightest grey value the curve covers


def random_view(x: Tensor, ranges: DegradationRanges, chance: Chance) -> Tensor:
    """One of the 48 ways to hold a cube, brighter or darker, now and then in another contrast.

    Args:
        x: (P, P, P) clean patch, tissue maximum about 1.
        ranges: how far to go.
        chance: where the choices come from.
    """
    x = x.permute(chance.permutation(3))
    x = x.flip([axis for axis in range(3) if chance.happens(0.5)])
    if chance.happens(ranges.remap):
        x = _remap(x, chance)
    return x * chance.log_uniform(*ranges.gain)


def _remap(x: Tensor, chance: Chance) -> Tensor:
    """Pass grey values through a random curve that keeps 0 at 0; it may fall as well as rise, as between T1 and T2."""
    heights = torch.tensor([0.0] + [chance.uniform(0.1, 1.0) for _ in range(_KNOTS - 1)])
    position = (x / _TOP * (_KNOTS - 1)).clamp(0, _KNOTS - 1 - 1e-4)
    below = position.long()
    return torch.lerp(heights[below], heights[below + 1], position - below)


def measure(x: Tensor, ranges: DegradationRanges, chance: Chance) -> Condition:
    """What a random scanner would tell of a patch.

    Args:
        x: (1, 1, P, P, P) clean patch.
        ranges: which scanners there are.
        chance: where the choices come from.
    """
    operator = _operator(x.shape[-1], ranges, chance)
    if operator.measures_nothing:
        return Condition.null(x)
    span = ranges.noise if operator.is_identity else ranges.thick_noise
    level = chance.log_uniform(*span) * _level_shape(operator(x), ranges, chance)
    kind: NoiseKind = "rician" if chance.happens(ranges.rician) else "gaussian"
    y = Degradation(operator, Noise(kind, level)).observe(x, chance.generator)
    told = level * math.exp(ranges.told_error * float(chance.normal()))
    return observe(y, operator, told)


def _operator(size: int, ranges: DegradationRanges, chance: Chance) -> Separable:
    kind = chance.pick((ranges.denoise, ranges.thick, ranges.coarse, ranges.nothing))
    if kind == 0:
        return identity()
    if kind == 3:
        return nothing((size,) * 3)
    if kind == 2:
        factors = sorted(chance.uniform(*ranges.coarse_factor) for _ in range(3))  # the worst axis last, see `Turned`
        i, j, k = (_axis(size, factor, 1.0, chance) for factor in factors)
        return Separable((i, j, k))
    factor = chance.uniform(*ranges.factor)
    factor = max(round(factor), 2) if chance.happens(0.5) else factor  # whole factors are the common ones
    matrix = _axis(size, factor, chance.uniform(*ranges.overlap) if chance.happens(ranges.uneven) else 1.0, chance)
    return Separable((None, None, matrix))


def _axis(size: int, factor: float, overlap: float, chance: Chance) -> Tensor | None:
    """Samples from end to end of the patch, at a random phase, as if it were cut out of a longer scan."""
    offset = chance.uniform(-0.5, factor - 0.5)
    count = int((size - 0.5 - offset) / factor) + 1
    return sampling(size, factor=factor, thickness=factor * overlap, offset=offset, count=count)


def _level_shape(y: Tensor, ranges: DegradationRanges, chance: Chance) -> Tensor:
    """1, or a ramp across the patch between about a half and one and a half."""
    if not chance.happens(ranges.varying):
        return torch.ones((1, 1, 1, 1, 1))
    ramp = torch.zeros_like(y)
    for axis in (-3, -2, -1):
        slope = torch.linspace(-0.5, 0.5, y.shape[axis]) * chance.uniform(-0.6, 0.6)
        ramp = ramp + torch.movedim(slope.expand(torch.movedim(y, axis, -1).shape), -1, axis)
    return 1.0 + ramp
