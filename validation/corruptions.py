"""Known faults put into real scans, so that a comparison of sets can be seen to find them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

__all__ = ["CORRUPTIONS", "Corruption", "warped"]

Array = NDArray[np.float32]
Corruption = Callable[[Array, int], Array]
"""A scan at 1 mm with tissue maximum 1, and a seed, to the scan with the fault."""

_AIR = 0.05  # below lies air, which no fault may fill


def blurred(image: Array, _seed: int) -> Array:
    """Gaussian of 0.6 mm: a quarter of Nyquist keeps 80 %, half of it 41 %."""
    return np.asarray(ndimage.gaussian_filter(image, 0.6), dtype=np.float32)


def noisy(image: Array, seed: int) -> Array:
    """Gaussian noise of 2 % of the tissue maximum in tissue, about as much as the scans have."""
    noise = np.random.default_rng(seed).normal(0, 0.02, image.shape)
    return np.where(image > _AIR, np.maximum(image + noise, 0), image).astype(np.float32)


def dulled(image: Array, _seed: int) -> Array:
    """Grey matter darker by up to 0.05, as a wrong contrast would make it; CSF and white matter stay."""
    return (image - 0.05 * np.exp(-(((image - 0.55) / 0.12) ** 2))).astype(np.float32)


def warped(image: Array, seed: int, *, size: float = 3.0, reach: float = 12.0, order: int = 3) -> Array:
    """Smooth random displacements of 3 voxels (rms along each axis) with a correlation length of about 12 voxels."""
    rng = np.random.default_rng(seed)
    coarse = tuple(-(-n // 4) for n in image.shape)
    places = np.indices(image.shape, dtype=np.float32)
    for axis in range(3):
        field = ndimage.gaussian_filter(rng.normal(size=coarse), reach / 4)
        field *= size / field.std()
        zoom = [n / m for n, m in zip(image.shape, coarse, strict=True)]
        places[axis] += ndimage.zoom(field, zoom, order=1)[tuple(map(slice, image.shape))]
    moved = ndimage.map_coordinates(image, places, order=order, mode="constant")
    return np.maximum(moved, 0).astype(np.float32)


def torn(image: Array, _seed: int) -> Array:
    """The upper half moved by 3 mm to the front: tiles that do not fit."""
    out = image.copy()
    middle = image.shape[2] // 2
    out[:, 3:, middle:], out[:, :3, middle:] = image[:, :-3, middle:], 0
    return out


CORRUPTIONS: dict[str, Corruption] = {
    "blur": blurred,
    "noise": noisy,
    "contrast": dulled,
    "warp": warped,
    "seam": torn,
}
