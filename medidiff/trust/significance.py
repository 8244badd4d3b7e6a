"""How surprising the largest of many correlated deviates is, and how surprising their spread."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy import special
from torch import Tensor

from medidiff.trust.residual import Kernel

__all__ = ["Lattice", "chance_of_peak", "chance_of_spread", "discoveries", "height_of", "spread"]

_MEDIAN_OF_NORMAL = 0.6744897501960817  # median of |z|, z standard normal
_EFFICIENCY = 0.3675  # of the median as an estimate of a normal law's spread (Hampel 1974), against the mean square
_ENOUGH = 400_000  # voxels that tell a median
_BINS, _TOP = 4000, 40.0  # of the histogram by which discoveries are counted


@dataclass(frozen=True, slots=True)
class Lattice:
    """The voxels of a search, and how many of their neighbours are in it too.

    Args:
        points: voxels.
        edges: (3,) pairs of neighbours along each axis.
        faces: (3,) squares of four across I, J and K.
        cubes: cubes of eight.
    """

    points: int
    edges: tuple[int, int, int]
    faces: tuple[int, int, int]
    cubes: int

    @classmethod
    def of(cls, inside: Tensor) -> Lattice:
        """Count them in a mask (I, J, K)."""

        def joined(mask: Tensor, *axes: int) -> Tensor:
            for axis in axes:
                along = mask.movedim(axis, 0)
                mask = (along[1:] & along[:-1]).movedim(0, axis)
            return mask

        edges = [int(joined(inside, axis).sum()) for axis in range(3)]
        faces = [int(joined(inside, *(a for a in range(3) if a != axis)).sum()) for axis in range(3)]
        cubes = int(joined(inside, 0, 1, 2).sum())
        return cls(int(inside.sum()), (edges[0], edges[1], edges[2]), (faces[0], faces[1], faces[2]), cubes)

    def volumes(self, steps: tuple[float, float, float]) -> tuple[float, float, float, float]:
        """Euler number, and intrinsic volumes of dimension 1, 2 and 3 with steps of the given length (Worsley 1996)."""
        euler = self.points - sum(self.edges) + sum(self.faces) - self.cubes
        length = area = 0.0
        for axis in range(3):
            squares = sum(self.faces[other] for other in range(3) if other != axis)
            length += (self.edges[axis] - squares + self.cubes) * steps[axis]
        for one, two in itertools.combinations(range(3), 2):
            area += (self.faces[3 - one - two] - self.cubes) * steps[one] * steps[two]
        return float(euler), length, area, self.cubes * math.prod(steps)


def chance_of_peak(height: float, lattice: Lattice, kernel: Kernel) -> float:
    """Probability that white noise, filtered, goes as far as `height` from 0 anywhere on a lattice.

    From the expected Euler characteristic of the excursions of a Gaussian field (Worsley et al. 1996, Human Brain
    Mapping 4:58, table II), or from the number of voxels (Šidák) where that says less; the former counts for smooth
    filters, the latter for a filter of a voxel.
    """
    correlations = [sum(a * b for a, b in itertools.pairwise(w)) / sum(a * a for a in w) for w in kernel]
    steps = [math.sqrt(2 * (1 - c)) for c in correlations]
    tail = float(special.ndtr(-height))
    density = math.exp(-(height**2) / 2)
    densities = (
        tail,
        density / (2 * math.pi),
        height * density / (2 * math.pi) ** 1.5,
        (height**2 - 1) * density / (2 * math.pi) ** 2,
    )
    volumes = lattice.volumes((steps[0], steps[1], steps[2]))
    expected = 2 * sum(volume * rho for volume, rho in zip(volumes, densities, strict=True))
    field = (
        -math.expm1(-expected) if height > 1.5 and expected > 0 else 1.0
    )  # low excursions merge: the count says little
    voxels = -math.expm1(lattice.points * math.log1p(-min(2 * tail, 1 - 1e-16)))
    return min(field, voxels)


def chance_of_spread(width: float, lattice: Lattice, kernel: Kernel) -> float:
    """Probability that white noise, filtered, is spread as wide as `width` on a lattice, or wider (see `spread`).

    The logarithm of the estimate is taken for normal. Of N values that are correlated by r, as many are independent as
    tell a mean square: ``N / Σ r²`` (Bayley & Hammersley 1946).
    """
    if width <= 1:
        return 1.0
    alike = 1.0
    for weights in kernel:
        correlation = np.correlate(weights, weights, mode="full") / np.dot(weights, weights)
        alike *= float(np.square(correlation).sum())
    independent = max(lattice.points / alike, 1.0)
    return float(special.ndtr(-math.log(width) * math.sqrt(2 * _EFFICIENCY * independent)))


def height_of(chance: float, chance_of: Callable[[float], float]) -> float:
    """The height whose chance is the given one; `chance_of` falls with height."""
    low, high = 0.0, 40.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if chance_of(middle) > chance else (low, middle)
    return high


def discoveries(deviates: Tensor, *, rate: float = 0.05) -> float:
    """The share of deviates that differ from 0 at a false discovery rate (Benjamini & Hochberg 1995).

    Args:
        deviates: (N,) standard normal where nothing is to be discovered.
        rate: expected share of errors among the discoveries.
    """
    number = deviates.numel()
    if number == 0:
        return 0.0
    counts = torch.histc(deviates.abs().clamp_max(_TOP).float(), bins=_BINS, min=0.0, max=_TOP).double().cpu()
    beyond = counts.flip(0).cumsum(0).flip(0)  # as far from 0 as the lower edge of each bin
    edges = torch.linspace(0, _TOP, _BINS + 1, dtype=torch.float64)[:-1]
    chance = torch.special.erfc(edges / math.sqrt(2))
    passed = torch.nonzero((beyond > 0) & (chance * number <= rate * beyond))
    return float(beyond[passed[0, 0]]) / number if len(passed) else 0.0


def spread(deviates: Tensor) -> float:
    """Standard deviation of the core of a sample, from the median of its size: few outliers do not move it."""
    if deviates.numel() == 0:
        return 0.0
    thinned = deviates[:: max(1, deviates.numel() // _ENOUGH)]
    return float(thinned.abs().median()) / _MEDIAN_OF_NORMAL
