"""Random views and random measurements of clean patches: what a prior practises on.

All that is random about a patch is drawn first, as small matrices and numbers (`View`, `Measurement`), by a `Chance`.
Applying them is plain algebra over whole batches, on any device.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from medidiff.diffusion.condition import LEAST_CERTAINTY, Condition
from medidiff.physics import Axis, box_profile, gaussian_profile, sampling
from medidiff.training.chance import Chance
from medidiff.training.recipe import DegradationRanges, LowDose

__all__ = [
    "Measurement",
    "Scanner",
    "View",
    "cut_side",
    "draw_low_dose",
    "draw_measurement",
    "draw_scanner",
    "draw_view",
    "held",
    "look",
    "measure",
]

_KNOTS = 6  # of the random grey-value curve
_TOP = 1.5  # brightest grey value the curve covers


class View(NamedTuple):
    """How a cube of the scan becomes a clean patch; after collation every field has a leading B.

    Args:
        order: (3,) which axes of the scan the patch's are.
        axes: (3, P, C) what each axis of the patch sees of its axis of the cut: flips and zoom.
        curve: (KNOTS,) grey values that 0 … 1.5 become.
        remapped: () whether they do.
        gain: () brightness.
    """

    order: Tensor
    axes: Tensor
    curve: Tensor
    remapped: Tensor
    gain: Tensor


class Scanner(NamedTuple):
    """A random scanner, for a volume of any sides.

    Args:
        matrices: A of each axis, (measured, side) float64; None for the identity.
        level: σ_y.
        ramps: change of σ_y along each axis of y, (measured,), as a share of it.
        told: by how much the level that is told is off, a factor.
        rician: whether the noise is Rician; Gaussian otherwise.
        blank: whether nothing is measured.
    """

    matrices: tuple[Tensor | None, Tensor | None, Tensor | None]
    level: float
    ramps: tuple[Tensor, Tensor, Tensor]
    told: float
    rician: bool
    blank: bool


class Measurement(NamedTuple):
    """What a random scanner does to a patch of side P; samples that it lacks are rows and columns of zeros.

    Args:
        sees: (3, P, P) A of each axis.
        smoothest: (3, P, P) `Separable.smoothest` of each axis.
        stairs: (3, P, P) A⁺ of each axis.
        certainty: (3, P) diag(A⁺A) of each axis.
        level: () σ_y.
        ramp: (3, P) change of σ_y along each axis of y, as a share of it.
        told: () by how much the level that is told is off, a factor.
        rician: () whether the noise is Rician; Gaussian otherwise.
        blank: () whether nothing is measured.
    """

    sees: Tensor
    smoothest: Tensor
    stairs: Tensor
    certainty: Tensor
    level: Tensor
    ramp: Tensor
    told: Tensor
    rician: Tensor
    blank: Tensor


def cut_side(patch: int, ranges: DegradationRanges) -> int:
    """Side of the cube of the scan that a view of side `patch` is made from."""
    return patch if ranges.zoomed == 0 else math.ceil(patch * ranges.zoom[1]) + 2


def draw_view(side: int, ranges: DegradationRanges, chance: Chance) -> View:
    """One of the 48 ways to hold a cube, brighter or darker, now and then smaller or in another contrast.

    Args:
        side: P, of the patch.
        ranges: how far to go.
        chance: where the choices come from.
    """
    cut = cut_side(side, ranges)
    zoomed = chance.happens(ranges.zoomed)
    axes = []
    for _ in range(3):
        rows = _shrink(cut, side, chance.uniform(*ranges.zoom)) if zoomed else torch.eye(cut)[_middle(cut, side)]
        axes.append(rows.flip(0) if chance.happens(0.5) else rows)
    heights = torch.tensor([0.0] + [chance.uniform(0.1, 1.0) for _ in range(_KNOTS - 1)])
    return View(
        order=torch.tensor(chance.permutation(3)),
        axes=torch.stack(axes),
        curve=heights,
        remapped=torch.tensor(chance.happens(ranges.remap)),
        gain=torch.tensor(chance.log_uniform(*ranges.gain)),
    )


def _middle(cut: int, side: int) -> slice:
    return slice((cut - side) // 2, (cut - side) // 2 + side)


def _shrink(cut: int, side: int, factor: float) -> Tensor:
    """(side, cut): a triangle as wide as two of the larger voxels, which blurs nearly alike at every phase."""
    rows = sampling(cut, factor=factor, offset=(cut - 1 - (side - 1) * factor) / 2, count=side, profile=_triangle)
    assert rows is not None
    return rows.float()


def _triangle(distance: Tensor, width: Tensor) -> Tensor:
    """Cumulative triangle whose full width at half maximum is `width`."""
    t = (distance / width).clamp(-1.0, 1.0)
    return 0.5 + t - 0.5 * t * t.abs()


def held(cut: Tensor, view: View) -> Tensor:
    """Cuts (B, C, C, C) held as the view holds its own, (B, P, P, P), without its brightness and contrast."""
    return _along_axes(view.axes, cut)


def look(cut: Tensor, view: View) -> Tensor:
    """The clean patches, (B, 1, P, P, P), of cuts (B, C, C, C) whose axes already stand in the view's order."""
    x = _along_axes(view.axes, cut)
    position = (x / _TOP * (_KNOTS - 1)).clamp(0, _KNOTS - 1 - 1e-4)
    below = position.long()
    low, high = (view.curve.gather(1, (below + step).flatten(1)).view_as(x) for step in (0, 1))
    curved = torch.lerp(low, high, position - below)
    return (torch.where(_spread(view.remapped), curved, x) * _spread(view.gain))[:, None]


def draw_scanner(sides: Sequence[int], ranges: DegradationRanges, chance: Chance) -> Scanner:
    """A random scanner of a volume; slices lie across its last axis, and of unlike voxels the longest side does.

    Args:
        sides: (3,) voxels along each axis.
        ranges: which scanners there are.
        chance: where the choices come from.
    """
    kind = chance.pick((ranges.denoise, ranges.thick, ranges.coarse, ranges.nothing))
    i, j, k = _matrices(kind, sides, ranges, chance)
    counts = [side if each is None else each.shape[0] for each, side in zip((i, j, k), sides, strict=True)]
    level = chance.log_uniform(*(ranges.noise if kind == 0 else ranges.thick_noise))
    ramps = [torch.zeros(count) for count in counts]
    if chance.happens(ranges.varying):
        ramps = [chance.uniform(-0.6, 0.6) * torch.linspace(-0.5, 0.5, count) for count in counts]
    told = math.exp(ranges.told_error * float(chance.normal()))
    rician = chance.happens(ranges.rician)
    return Scanner((i, j, k), level, (ramps[0], ramps[1], ramps[2]), told, rician, kind == 3)


def draw_measurement(side: int, ranges: DegradationRanges, chance: Chance) -> Measurement:
    """What a random scanner does to a patch of a side.

    Args:
        side: P.
        ranges: which scanners there are.
        chance: where the choices come from.
    """
    scanner = draw_scanner([side] * 3, ranges, chance)
    ramp = torch.zeros((3, side))
    for along, told in zip(ramp, scanner.ramps, strict=True):
        along[: len(told)] = told
    parts = [_padded(Axis(matrix), side, blank=scanner.blank) for matrix in scanner.matrices]
    sees, smoothest, stairs, certainty = (torch.stack(each) for each in zip(*parts, strict=True))
    return Measurement(
        sees=sees,
        smoothest=smoothest,
        stairs=stairs,
        certainty=certainty,
        level=torch.tensor(scanner.level),
        ramp=ramp,
        told=torch.tensor(scanner.told),
        rician=torch.tensor(scanner.rician),
        blank=torch.tensor(scanner.blank),
    )


def draw_low_dose(
    side: int, ranges: DegradationRanges, low_dose: LowDose, *, levels: Sequence[float], chance: Chance
) -> tuple[Measurement, int]:
    """A patch measured voxel by voxel at a lower CT dose, and which of the recipe's doses its noise is cut from.

    The noise of that dose is scaled to a dose near it by what quantum noise would do, √((1/a - 1) / (1/a₀ - 1)).

    Args:
        side: P.
        ranges: of which the error of the told level is taken.
        low_dose: the doses, and how far from them.
        levels: standard deviation of the noise of each dose.
        chance: where the choices come from.
    """
    number = chance.below(len(levels))
    near = low_dose.doses[number]
    dose = min(chance.log_uniform(near / low_dose.spread, near * low_dose.spread), (1 + near) / 2)
    plain = dataclasses.replace(ranges, denoise=1.0, thick=0.0, coarse=0.0, nothing=0.0, rician=0.0, varying=0.0)
    level = levels[number] * math.sqrt((1 / dose - 1) / (1 / near - 1))
    return draw_measurement(side, plain, chance)._replace(level=torch.tensor(level)), number


def _matrices(
    kind: int, sides: Sequence[int], ranges: DegradationRanges, chance: Chance
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    if kind in (0, 3):
        return None, None, None
    if kind == 2:
        factors = [chance.uniform(*ranges.coarse_factor)] * 3
        if not chance.happens(ranges.cubic):
            factors = sorted(chance.uniform(*ranges.coarse_factor) for _ in range(3))  # the worst last, see `Turned`
        phases = [(f - 1) / 2 for f in factors] if ranges.aligned and chance.happens(ranges.aligned) else [None] * 3
        i, j, k = (
            _samples(side, f, 1.0, chance, offset=phase) for side, f, phase in zip(sides, factors, phases, strict=True)
        )
        return i, j, k
    factor = chance.uniform(*ranges.factor)
    factor = max(round(factor), 2) if chance.happens(0.5) else factor  # whole factors are the common ones
    overlap = chance.uniform(*ranges.overlap) if chance.happens(ranges.uneven) else 1.0
    return None, None, _samples(sides[2], factor, overlap, chance, gaussian=chance.happens(ranges.gaussian))


def _samples(
    side: int, factor: float, overlap: float, chance: Chance, *, gaussian: bool = False, offset: float | None = None
) -> Tensor | None:
    """Samples from end to end of the patch, at a random phase if none is given, as if cut out of a longer scan."""
    offset = chance.uniform(-0.5, factor - 0.5) if offset is None else offset
    count = int((side - 0.5 - offset) / factor) + 1
    profile = gaussian_profile if gaussian else box_profile
    return sampling(side, factor=factor, thickness=factor * overlap, offset=offset, count=count, profile=profile)


def _padded(axis: Axis, side: int, *, blank: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A, smoothest, A⁺ and certainty of one axis, (P, P) thrice and (P,), float32."""
    if blank:
        return (*torch.zeros((3, side, side)), torch.zeros(side))
    if axis.matrix is None:
        return (*torch.eye(side).expand(3, -1, -1), torch.ones(side))
    sees, smoothest, stairs = torch.zeros((3, side, side))
    count = axis.matrix.shape[0]
    sees[:count], smoothest[:, :count], stairs[:, :count] = axis.matrix, axis.smoothest, axis.pinv
    return sees, smoothest, stairs, axis.certainty.float()


def measure(x: Tensor, scanner: Measurement, noise: Tensor) -> Condition:
    """What random scanners tell of clean patches.

    Args:
        x: (B, 1, P, P, P) clean patches.
        scanner: one for each patch.
        noise: (B, 2, P, P, P) standard normal numbers.
    """
    y = _along_axes(scanner.sees, x[:, 0])
    ramps = (scanner.ramp[:, axis].reshape(_shape(axis, x.shape[-1])) for axis in range(3))
    level = _spread(scanner.level) * (1.0 + sum(ramps))
    real = y + level * noise[:, 0]
    y = torch.where(_spread(scanner.rician), torch.hypot(real, level * noise[:, 1]), real)
    told = _along_axes(scanner.smoothest, level * _spread(scanner.told)).clamp_min(0)
    shares = [scanner.certainty[:, axis].reshape(_shape(axis, x.shape[-1])) for axis in range(3)]
    blank = _spread(scanner.blank)
    return Condition(
        _along_axes(scanner.smoothest, y)[:, None],
        torch.where(blank, 0.0, (shares[0] * shares[1] * shares[2]).clamp_min(LEAST_CERTAINTY))[:, None],
        torch.where(blank, 1.0, told)[:, None],
        _along_axes(scanner.stairs, y)[:, None],
    )


def _along_axes(matrices: Tensor, x: Tensor) -> Tensor:
    """Multiply the (B, 3, m, n) `matrices` onto the three axes of the (B, n, n, n) `x`."""
    for axis, letters in enumerate(("ijk->mjk", "ijk->imk", "ijk->ijm")):
        old, new = letters.split("->")
        x = torch.einsum(f"bm{old[axis]},b{old}->b{new}", matrices[:, axis], x)
    return x


def _shape(axis: int, side: int) -> list[int]:
    return [-1] + [side if each == axis else 1 for each in range(3)]


def _spread(x: Tensor) -> Tensor:
    """(B,) shaped to multiply (B, P, P, P)."""
    return x[:, None, None, None]
