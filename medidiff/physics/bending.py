"""Bending: displacement fields that are cubic B-splines over evenly spaced knots, and what a bent grid sees.

Places and displacements are in voxels, places from the middle of the grid; so a field is the same on a finer grid over
the same box, but for the unit. Free-form deformations: Rueckert et al. 1999, doi 10.1109/42.796284.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as nnf

__all__ = ["knot_counts", "knots_like", "places", "seen_from", "spline"]


def knot_counts(shape: Sequence[int], *, spacing_mm: float, knots_mm: float) -> tuple[int, int, int]:
    """How many knots about `knots_mm` apart a grid takes along each axis; the outer ones lie beyond its ends."""
    a, b, c = (max(round(n * spacing_mm / knots_mm), 1) + 3 for n in shape)
    return a, b, c


def spline(knots: Tensor, shape: Sequence[int]) -> Tensor:
    """The cubic B-spline over evenly spaced knots, (C, *knots) -> (C, *shape)."""
    for axis, size in enumerate(shape, start=1):
        weights = _weights(knots.shape[axis], size).to(knots)
        knots = torch.tensordot(knots, weights, dims=([axis], [1])).movedim(-1, axis)
    return knots


def knots_like(field: Tensor, counts: Sequence[int]) -> Tensor:
    """The knots whose spline is nearest to a field in the sense of least squares, (C, *shape) -> (C, *counts)."""
    for axis, count in enumerate(counts, start=1):
        inverse = torch.linalg.pinv(_weights(count, field.shape[axis]).double()).to(field)
        field = torch.tensordot(field, inverse, dims=([axis], [1])).movedim(-1, axis)
    return field


def places(shape: Sequence[int], like: Tensor) -> Tensor:
    """(3, *shape) place of each voxel from the middle of the grid."""
    axes = [torch.arange(n, dtype=like.dtype, device=like.device) - (n - 1) / 2 for n in shape]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))


def seen_from(volume: Tensor, place: Tensor) -> Tensor:
    """What lies at each place, trilinear and 0 outside, (C, I, J, K) and (3, *shape) -> (C, *shape)."""
    half = torch.tensor([n / 2 for n in volume.shape[-3:]]).to(place)[:, None, None, None]
    grid = (place / half).flip(0).movedim(0, -1)  # PyTorch names the last axis first
    return nnf.grid_sample(volume[None], grid[None], align_corners=False)[0]


def _weights(count: int, size: int) -> Tensor:
    """(size, count) share of each knot in each voxel."""
    at = torch.linspace(1, count - 2, size)
    distance = (at[:, None] - torch.arange(count)).abs()
    near = 2 / 3 - distance.square() + distance.pow(3) / 2
    far = (2 - distance).clamp_min(0).pow(3) / 6
    return torch.where(distance < 1, near, far)
