"""Copies of a scan as somebody might make them, for `copies.py`: each takes (I, J, K) at 1 mm and a generator.

Axes run to the right, the front and the head; the brain's tissue reaches about 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy import ndimage
from scoring import Array

__all__ = ["EXTRA", "MIXED", "REQUIRED", "chimera", "on_grid"]

Plant = Callable[[Array, Generator], Array]
Mixture = Callable[[Array, tuple[Array, Array], Array, Generator], Array]
"""Of a training scan, two more, and a stranger's."""


def on_grid(values: Array, shape: tuple[int, int, int] = (160, 192, 160)) -> Array:
    """The values on the grid of the priors, the tissue's box in the middle; what sticks out is cut off."""
    corners = np.argwhere(values > 0.1)
    low, high = corners.min(axis=0), corners.max(axis=0) + 1
    box = values[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
    cut = [slice(max(n - m, 0) // 2, max(n - m, 0) // 2 + m) for n, m in zip(box.shape, shape, strict=True)]
    box = box[tuple(cut)]
    out = np.zeros(shape, dtype=np.float32)
    start = [(m - n) // 2 for n, m in zip(box.shape, shape, strict=True)]
    out[tuple(slice(a, a + n) for a, n in zip(start, box.shape, strict=True))] = box
    return out


def _warped(values: Array, matrix: NDArray[np.float64], shift: NDArray[np.float64] | None = None) -> Array:
    centre = (np.asarray(values.shape) - 1) / 2
    offset = centre - matrix @ centre + (0 if shift is None else shift)
    return np.asarray(ndimage.affine_transform(values, matrix, offset, order=1), dtype=np.float32)


def _turned(values: Array, degrees: float, rng: Generator) -> Array:
    axis = rng.normal(size=3)
    a, b, c = axis / np.linalg.norm(axis) * np.deg2rad(degrees)
    cross = np.array([[0, -c, b], [c, 0, -a], [-b, a, 0]])
    angle = np.deg2rad(degrees)
    turn = np.eye(3) + np.sin(angle) / angle * cross + (1 - np.cos(angle)) / angle**2 * cross @ cross
    return _warped(values, turn)


def _bent(values: Array, rng: Generator, *, rms_mm: float, smooth_mm: float) -> Array:
    """Moved by three Gaussian fields, each of the given root mean square; smoothed by the given standard deviation."""
    coarse = tuple(n // 4 + 2 for n in values.shape)
    places = np.meshgrid(*[np.arange(n, dtype=np.float32) for n in values.shape], indexing="ij", sparse=True)
    moved = []
    for place in places:
        field = ndimage.gaussian_filter(rng.normal(size=coarse), smooth_mm / 4)
        field *= rms_mm / field.std()
        fine = ndimage.zoom(field, 4, order=1, grid_mode=True, mode="nearest")
        moved.append((place + fine[tuple(slice(0, m) for m in values.shape)]).astype(np.float32))
    return np.asarray(ndimage.map_coordinates(values, moved, order=1), dtype=np.float32)


def _cropped(values: Array, rng: Generator) -> Array:
    """10 to 20 mm less brain on one to three sides."""
    out = values.copy()
    corners = np.argwhere(values > 0.1)
    for axis in rng.permutation(3)[: rng.integers(1, 4)]:
        by = int(rng.integers(10, 21))
        low, high = corners[:, axis].min(), corners[:, axis].max() + 1
        gone = slice(0, low + by) if rng.random() < 0.5 else slice(high - by, None)
        np.moveaxis(out, axis, 0)[gone] = 0
    return out


def _noisy(values: Array, level: float, rng: Generator) -> Array:
    real, other = (rng.normal(scale=level, size=values.shape).astype(np.float32) for _ in range(2))
    return np.hypot(values + real, other)


def _curved(values: Array, gamma: float) -> Array:
    return np.asarray(np.maximum(values, 0) ** gamma, dtype=np.float32)


def _combined(values: Array, rng: Generator) -> Array:
    bent = _bent(values[::-1], rng, rms_mm=2.0, smooth_mm=20.0)
    return _noisy(_curved(_cropped(_turned(bent, 8, rng), rng), rng.uniform(0.75, 1.3)), 0.08, rng)


def _inverted(values: Array) -> Array:
    return np.where(values > 0.1, np.maximum(1.15 - values, 0.02), 0).astype(np.float32)


def _biased(values: Array, rng: Generator) -> Array:
    slow = ndimage.gaussian_filter(rng.normal(size=tuple(-(-n // 8) for n in values.shape)), 5)
    slow = ndimage.zoom(slow / np.abs(slow).max(), 8, order=1, grid_mode=True, mode="nearest")
    return (values * np.exp(0.4 * slow[tuple(slice(0, n) for n in values.shape)])).astype(np.float32)


def _coarse(values: Array) -> Array:
    """As a coarse prior of 4 mm would have it."""
    i, j, k = (n // 4 for n in values.shape)
    means = values[: 4 * i, : 4 * j, : 4 * k].reshape(i, 4, j, 4, k, 4).mean(axis=(1, 3, 5))
    return np.asarray(ndimage.zoom(means, 4, order=1, grid_mode=True, mode="nearest"), dtype=np.float32)


def _halved(values: Array, rng: Generator) -> Array:
    out = values.copy()
    axis = int(rng.integers(3))
    places = np.argwhere(values > 0.1)[:, axis]
    middle = int(places.min() + places.max() + 1) // 2
    np.moveaxis(out, axis, 0)[slice(0, middle) if rng.random() < 0.5 else slice(middle, None)] = 0
    return out


def _slab(values: Array) -> Array:
    """The middle 60 mm from bottom to top."""
    places = np.argwhere(values > 0.1)[:, 2]
    middle = int(places.min() + places.max() + 1) // 2
    return values[:, :, middle - 30 : middle + 30]


def chimera(values: Array, other: Array, rng: Generator) -> Array:
    """One half of one scan and the other half of another one, along any axis; both on the same grid."""
    axis = int(rng.integers(3))
    out = values.copy()
    half = slice(0, values.shape[axis] // 2)
    np.moveaxis(out, axis, 0)[half] = np.moveaxis(other, axis, 0)[half]
    return out


def _quarters(values: Array, other: Array) -> Array:
    """Left front and right back of one scan, the rest of another."""
    out, i, j = values.copy(), values.shape[0] // 2, values.shape[1] // 2
    out[:i, :j], out[i:, j:] = other[:i, :j], other[i:, j:]
    return out


REQUIRED: Mapping[str, Plant] = {
    "exact (other units)": lambda x, rng: x * np.float32(rng.uniform(50, 2000)),
    "flip": lambda x, rng: np.ascontiguousarray(x[::-1]),
    "rotation, 3 to 10°": lambda x, rng: _turned(x, float(rng.uniform(3, 10)), rng),
    "shift, up to 12 mm": lambda x, rng: _warped(x, np.eye(3), rng.uniform(-12, 12, size=3)),
    "crop, 10 to 20 mm": _cropped,
    "noise, 5 to 20 %": lambda x, rng: _noisy(x, float(rng.uniform(0.05, 0.2)), rng),
    "gamma, 0.6 to 1.6": lambda x, rng: _curved(x, float(np.exp(rng.uniform(np.log(0.6), np.log(1.6))))),
    "elastic, 3 mm over 20 mm": lambda x, rng: _bent(x, rng, rms_mm=3.0, smooth_mm=20.0),
}
"""What the gate must catch."""

EXTRA: Mapping[str, Plant] = {
    "all of these at once": _combined,
    "elastic, 3 mm over 12 mm": lambda x, rng: _bent(x, rng, rms_mm=3.0, smooth_mm=12.0),
    "elastic, 4 mm over 12 mm": lambda x, rng: _bent(x, rng, rms_mm=4.0, smooth_mm=12.0),
    "rotation, 20 to 30°": lambda x, rng: _turned(x, float(rng.uniform(20, 30)), rng),
    "flip along any axis": lambda x, rng: np.ascontiguousarray(np.flip(x, int(rng.integers(3)))),
    "smaller or larger by 8 %": lambda x, rng: _warped(x, np.eye(3) * rng.choice([1 / 1.08, 1.08])),
    "blurred, 6 mm": lambda x, rng: np.asarray(ndimage.gaussian_filter(x, 6 / 2.355), dtype=np.float32),
    "from voxels of 4 mm": lambda x, rng: _coarse(x),
    "bias field, ±40 %": _biased,
    "inverted": lambda x, rng: _inverted(x),
    "bent strongly, 4 mm over 8 mm": lambda x, rng: _bent(x, rng, rms_mm=4.0, smooth_mm=8.0),
    "half a brain": _halved,
    "slab of 60 mm": lambda x, rng: _slab(x),
}
"""What it should."""

MIXED: Mapping[str, Mixture] = {
    "half of two training scans": lambda x, more, stranger, rng: chimera(x, more[0], rng),
    "quarters of two training scans": lambda x, more, stranger, rng: _quarters(x, more[0]),
    "two training scans averaged": lambda x, more, stranger, rng: (x + more[0]) / 2,
    "three training scans averaged": lambda x, more, stranger, rng: (x + more[0] + more[1]) / 3,
    "half, and half of a stranger": lambda x, more, stranger, rng: chimera(x, stranger, rng),
    "60 %, averaged with a stranger": lambda x, more, stranger, rng: np.float32(0.6) * x + np.float32(0.4) * stranger,
}
"""Where a copy ends: whichever training scan is named counts as caught."""
