"""The mean brain of a set of scans, made in a few rounds of laying all of them over it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medidiff.gates.align import GRID, Mean, affine, laid_over, points
from medidiff.gates.brain import Array, Brain

__all__ = ["mean_brain"]


def mean_brain(brains: Sequence[Brain], *, rounds: int = 4) -> Mean:
    """The symmetrical mean: brightness as ranks, so that no scan's contrast counts more than another's.

    Args:
        brains: T1w, all of one polarity.
        rounds: of laying all brains over the mean of the round before; the first mean has them middle on middle.
    """
    places = points().reshape(-1, 3)
    mean = _mean_of([brain.sample(places) for brain in brains])
    for _ in range(rounds):
        mean = _mean_of([laid_over(brain, mean, affine(brain, mean)) for brain in brains])
    return mean


def _mean_of(laid: Sequence[tuple[Array, Array]]) -> Mean:
    masks = [mask.reshape(GRID) for mask, _ in laid]
    images = [_ranked(mask.reshape(GRID), image.reshape(GRID)) for mask, image in laid]
    mask, image = (np.mean(arrays, axis=0) for arrays in (masks, images))
    return Mean(*(((array + array[::-1]) / 2).astype(np.float32) for array in (image, mask)))


def _ranked(mask: Array, image: Array) -> Array:
    """Rank of brightness from 0.5 to 1.5 in the brain, 0 outside."""
    tissue = mask > 0.5
    ranks = np.empty(int(tissue.sum()), dtype=np.float32)
    ranks[np.argsort(image[tissue], kind="stable")] = (np.arange(ranks.size) + 0.5) / ranks.size
    whole = np.zeros(GRID, dtype=np.float32)
    whole[tissue] = 0.5 + ranks
    return whole
