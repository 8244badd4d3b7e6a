"""Invented people for the tests of the copy gate: brains of one shape, each with folds of its own."""

from __future__ import annotations

from functools import cache

import numpy as np
from scipy import ndimage

from medidiff.gates import Embedding
from medidiff.volume import Geometry, Volume

SPACING_MM = 2.0


@cache
def person(number: int) -> np.ndarray:
    """(80, 96, 80) brain at 2 mm, read-only: the mean brain with a texture of the person's own, bent in the person's
    own way."""
    rng = np.random.default_rng(number)
    mean = Embedding.shipped().mean
    folds = ndimage.gaussian_filter(rng.normal(size=mean.image.shape), 1.0)
    image = mean.image + 0.35 * folds / folds.std()
    image, mask = (ndimage.zoom(values, 2, order=1, grid_mode=True, mode="nearest") for values in (image, mean.mask))
    places = list(np.meshgrid(*[np.arange(n, dtype=float) for n in image.shape], indexing="ij"))
    for axis, place in enumerate(places):
        bend = ndimage.gaussian_filter(rng.normal(size=image.shape), 10)
        places[axis] = place + 1.5 * bend / bend.std()
    image, mask = (ndimage.map_coordinates(values, places, order=1) for values in (image, mask))
    brain = np.where(mask > 0.5, np.maximum(image, 0.1), 0).astype(np.float32)
    brain.setflags(write=False)
    return brain


def scan(values: np.ndarray, spacing_mm: float = SPACING_MM) -> Volume:
    """A volume along the body's axes."""
    geometry = Geometry.regular(values.shape, spacing_mm=(spacing_mm,) * 3)
    return Volume(np.ascontiguousarray(values, dtype=np.float32), geometry, "MR")


def rotated(values: np.ndarray, degrees: float) -> np.ndarray:
    """About the axis to the head."""
    return ndimage.rotate(values, degrees, axes=(0, 1), order=1)


def noisy(values: np.ndarray, level: float, seed: int = 0) -> np.ndarray:
    """With Rician noise."""
    real, other = np.random.default_rng(seed).normal(scale=level, size=(2, *values.shape))
    return np.hypot(values + real, other)


def bent(values: np.ndarray, mm: float, seed: int = 0) -> np.ndarray:
    """Moved by smooth fields (20 mm) of this root mean square."""
    rng = np.random.default_rng(seed)
    places = list(np.meshgrid(*[np.arange(n, dtype=float) for n in values.shape], indexing="ij"))
    for axis, place in enumerate(places):
        field = ndimage.gaussian_filter(rng.normal(size=values.shape), 20 / SPACING_MM)
        places[axis] = place + mm / SPACING_MM * field / field.std()
    return ndimage.map_coordinates(values, places, order=1)
