"""Lay a brain over the mean brain: an affine map, then a smooth deformation, whatever the contrast.

Both lessen one robust distance: that of the mean brain from the scan's brightness, seen through the cubic that explains
the mean best (so that gamma, contrast and inversion do not matter), and that of the masks. The affine part is
Gauss-Newton in the inverse compositional form (Baker and Matthews, IJCV 56:221, 2004) with Geman-McClure weights, which
leave out what a copy lacks; the deformation is demons (Thirion, Med. Image Anal. 2:243, 1998). All numbers are
fixed: the same scan always lies the same way.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medidiff.gates.brain import Array, Brain

__all__ = ["GRID", "GRID_MM", "Mean", "affine", "laid_over", "misfit", "points"]

GRID = (40, 48, 40)
GRID_MM = 4.0

_UNIT_MM = 50.0  # of coordinates, so that angles, zooms and shifts are numbers of one size
_STEPS = 12  # at most, of the similarity and of the affine map
_FEW_STEPS = 6  # of each start, on an eighth of the points
_STILL_MM = 0.05  # a step that moves less is the last
_ZOOM = (0.8, 1.25)  # adults lie within 0.90 to 1.12; half a brain must not be stretched to a whole one
_MASK_WEIGHT = 0.5
_BRIGHTNESS, _MASK = 0.3, 0.5  # residuals that count by half in the distance of a fit
_WELL = 0.30  # distance of a fit that needs no other start
_STARTS_MM = 36.0  # how far the middle of half a brain lies from that of the whole
_DEMONS_STEPS = 15
_DEMONS_BLUR = (1.5, 2.5 / 3)  # voxels: of each step, and of the field after it
_SLACK = 0.02**2  # squared gradient, a mm², at which a step is halved
_TURNS = [
    np.eye(3)[list(order)] * np.asarray(signs)[:, None]
    for order in itertools.permutations(range(3))
    for signs in itertools.product((1.0, -1.0), repeat=3)
]

Matrix = NDArray[np.float64]


def points() -> Array:
    """(I, J, K, 3) centres of the grid's voxels in mm from its middle."""
    axes = [(np.arange(n) - (n - 1) / 2) * GRID_MM for n in GRID]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).astype(np.float32)


@dataclass(frozen=True, eq=False)
class Mean:
    """The mean brain, symmetrical, on the grid of 40 x 48 x 40 voxels of 4 mm.

    Args:
        image: (I, J, K) mean rank of brightness in the brain, from 0.5 (darkest) to 1.5; 0 outside.
        mask: (I, J, K) share of brains that have tissue there.
    """

    image: Array
    mask: Array

    @cached_property
    def inside(self) -> NDArray[np.bool_]:
        """(I, J, K), where most brains are."""
        return np.asarray(self.mask > 0.5)

    @cached_property
    def near(self) -> NDArray[np.bool_]:
        """(I, J, K), the brain and 8 mm round it: where the distance is measured."""
        return np.asarray(ndimage.binary_dilation(self.inside, iterations=2))

    @cached_property
    def all_points(self) -> _Points:
        """What is compared, near the brain."""
        return self._points(self.near)

    @cached_property
    def few_points(self) -> _Points:
        """An eighth of them."""
        sparse = np.zeros(GRID, dtype=bool)
        sparse[::2, ::2, ::2] = True
        return self._points(self.near & sparse)

    def _points(self, where: NDArray[np.bool_]) -> _Points:
        slopes = (
            np.stack(np.gradient(ndimage.gaussian_filter(values, 0.5), GRID_MM), axis=-1)[where]
            for values in (self.image, self.mask)
        )
        return _Points(points()[where], self.image[where], self.mask[where], *slopes)


@dataclass(frozen=True, slots=True, eq=False)
class _Points:
    """Places (N, 3) in mm, with the mean's image and mask (N,) and their gradients (N, 3) there."""

    places: Array
    image: Array
    mask: Array
    image_slope: Array
    mask_slope: Array

    def jacobians(self, *, similar: bool) -> tuple[Array, Array]:
        """Change of image and mask with the parameters of `_moved`: (N, 7) for a similarity, else (N, 12)."""
        x = self.places / _UNIT_MM
        both = []
        for g in (self.image_slope, self.mask_slope):
            if similar:
                turns = [g[:, c] * x[:, b] - g[:, b] * x[:, c] for b, c in ((1, 2), (2, 0), (0, 1))]
                linear = np.stack([*turns, (g * x).sum(axis=1)], axis=1)
            else:
                linear = (g[:, :, None] * x[:, None, :]).reshape(len(g), 9)
            both.append(np.concatenate([g, linear], axis=1))
        return both[0], both[1]


def _moved(step: NDArray[Any], *, similar: bool) -> Matrix:
    """(4, 4) map of a step: a shift in mm, then turns and zoom, or a linear map row by row, in units."""
    matrix = np.eye(4)
    matrix[:3, 3] = step[:3]
    if similar:
        a, b, c, zoom = step[3:] / _UNIT_MM
        matrix[:3, :3] += np.array([[zoom, -c, b], [c, zoom, -a], [-b, a, zoom]])
    else:
        matrix[:3, :3] += step[3:].reshape(3, 3) / _UNIT_MM
    return matrix


def _seen(brain: Brain, at: _Points, matrix: Matrix, weights: Array | None = None) -> tuple[Array, Array]:
    """The brain's mask, and its brightness through the cubic that explains the mean best, at the mean's points."""
    mask, image = brain.sample((at.places @ matrix[:3, :3].T + matrix[:3, 3]).astype(np.float32))
    powers = mask[:, None] * np.clip(image, -1.5, 1.5)[:, None] ** np.arange(4)
    weighted = powers if weights is None else powers * weights[:, None]
    ridge = 1e-7 * len(mask) * np.eye(4)
    return mask, powers @ np.linalg.solve(weighted.T @ powers + ridge, weighted.T @ at.image)


def _distance(brain: Brain, at: _Points, matrix: Matrix) -> float:
    """From 0 for a perfect fit to 1.5, every point bounded."""
    mask, image = _seen(brain, at, matrix)
    bright, edge = (image - at.image) ** 2, (mask - at.mask) ** 2
    share = bright / (bright + _BRIGHTNESS**2) + _MASK_WEIGHT * edge / (edge + _MASK**2)
    return float(share.mean())


def _refined(brain: Brain, at: _Points, start: Matrix, *, similar: bool, steps: int) -> Matrix:
    """Gauss-Newton from a start."""
    by_image, by_mask = at.jacobians(similar=similar)
    damping = 0.01 if similar else 0.05
    matrix, weights = start, np.ones_like(at.image)
    for _ in range(steps):
        mask, image = _seen(brain, at, matrix, weights)
        off, edge = image - at.image, mask - at.mask
        weights = _confidence(off, floor=0.1, factor=2.0)
        edge_weights = _MASK_WEIGHT * _confidence(edge, floor=0.3, factor=2.0)
        normal = (by_image * weights[:, None]).T @ by_image + (by_mask * edge_weights[:, None]).T @ by_mask
        slope = by_image.T @ (weights * off) + by_mask.T @ (edge_weights * edge)
        step = np.linalg.solve(normal + damping * np.diag(np.diag(normal)), slope)
        matrix = _bounded(matrix @ np.linalg.inv(_moved(step, similar=similar)))
        if np.abs(step).max() < _STILL_MM:
            break
    return matrix


def _confidence(off: Array, *, floor: float, factor: float) -> Array:
    """Geman-McClure weights, with the scale of the points at hand."""
    scale = max(factor * float(np.median(np.abs(off))), floor)
    return np.asarray(1 / (1 + (off / scale) ** 2) ** 2, dtype=np.float32)


def _bounded(matrix: Matrix) -> Matrix:
    """The map with its zooms within those of heads."""
    left, zooms, right = np.linalg.svd(matrix[:3, :3])
    matrix = matrix.copy()
    matrix[:3, :3] = left @ np.diag(np.clip(zooms, *_ZOOM)) @ right
    return matrix


def affine(brain: Brain, mean: Mean) -> Matrix:
    """(4, 4) map from the mean's places to the brain's, both in mm.

    Begins with the best of the 48 ways to lie along the axes; where that ends in a poor fit, as it does for half a
    brain, also with the middle elsewhere.
    """
    few, every = mean.few_points, mean.all_points
    ways = [np.block([[turn, np.zeros((3, 1))], [np.zeros((1, 3)), np.ones((1, 1))]]) for turn in _TURNS]
    start = min(ways, key=lambda way: _distance(brain, few, way))
    found = _refined(brain, every, start, similar=True, steps=_STEPS)
    if _distance(brain, few, found) > _WELL:
        starts = [_off(way, by) for way in _unlike(start) for by in _shifts()]
        others = [_refined(brain, few, way, similar=True, steps=_FEW_STEPS) for way in starts]
        best = min([found, *others], key=lambda way: _distance(brain, few, way))
        found = _refined(brain, every, best, similar=True, steps=_STEPS)
    return _refined(brain, every, found, similar=False, steps=_STEPS)


def _unlike(start: Matrix) -> Sequence[Matrix]:
    return [np.eye(4)] if np.array_equal(start, np.eye(4)) else [np.eye(4), start]


def _off(way: Matrix, by: NDArray[np.float64]) -> Matrix:
    moved = way.copy()
    moved[:3, 3] = by
    return moved


def _shifts() -> list[NDArray[np.float64]]:
    return [np.eye(3)[axis] * side * _STARTS_MM for axis in range(3) for side in (-1.0, 0.0, 1.0) if axis == 0 or side]


def misfit(brain: Brain, mean: Mean, matrix: Matrix) -> float:
    """How far a brain is from the mean where an affine map puts it, from 0 to 1.5."""
    return _distance(brain, mean.few_points, matrix)


def laid_over(brain: Brain, mean: Mean, matrix: Matrix) -> tuple[Array, Array]:
    """Mask and image of a brain on the mean's grid, (I, J, K) each, after the deformation.

    Args:
        brain: the scan.
        mean: the mean brain.
        matrix: (4, 4), from `affine`.
    """
    at = mean.all_points
    strength = (at.image_slope**2).sum(axis=1) + _MASK_WEIGHT * (at.mask_slope**2).sum(axis=1) + _SLACK
    field = np.zeros((3, *GRID), dtype=np.float32)
    for _ in range(_DEMONS_STEPS):
        here = _Points(at.places + field[:, mean.near].T, at.image, at.mask, at.image_slope, at.mask_slope)
        mask, image = _seen(brain, here, matrix)
        off, edge = (np.clip(x, -0.5, 0.5) for x in (image - at.image, mask - at.mask))
        pull = off[:, None] * at.image_slope + _MASK_WEIGHT * edge[:, None] * at.mask_slope
        step = np.zeros_like(field)
        step[:, mean.near] = (-pull / strength[:, None]).T
        for along, more in zip(field, step, strict=True):
            along += ndimage.gaussian_filter(more, _DEMONS_BLUR[0])
            along[:] = ndimage.gaussian_filter(along, _DEMONS_BLUR[1])
    places = points().reshape(-1, 3) + field.reshape(3, -1).T
    mask, image = brain.sample((places @ matrix[:3, :3].T + matrix[:3, 3]).astype(np.float32))
    return mask.reshape(GRID), image.reshape(GRID)
