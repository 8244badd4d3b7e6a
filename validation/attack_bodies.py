"""Models of other parts of the body than the head, made of ellipsoids and cylinders, for `attack_other.py`."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from attack_scans import Array, Scan, random

__all__ = ["models"]

_SHAPE = (160, 200, 160)


def models() -> Iterator[tuple[str, Scan]]:
    """Each model with Rician noise of its own, on voxels of 1 mm."""
    affine = np.diag([-1.0, 1.0, 1.0, 1.0])
    affine[:3, 3] = (80, -100, -80)
    for name, made in _shapes():
        real = made + random(name).normal(0, 25, _SHAPE)
        image = np.sqrt(real**2 + random(name, 1).normal(0, 25, _SHAPE) ** 2)
        yield name, Scan(image.astype(np.float32), affine)


def _shapes() -> Iterator[tuple[str, Array]]:
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in _SHAPE), indexing="ij")

    def ball(centre: tuple[float, float, float], radii: tuple[float, float, float]) -> Array:
        within: Array = sum(((g - c) / r) ** 2 for g, c, r in zip((x, y, z), centre, radii, strict=True)) < 1
        return within

    def rod(a: float, b: float) -> Array:
        return (x / a) ** 2 + (y / b) ** 2

    middle = (0, 0, 0)
    flesh = np.where(rod(0.45, 0.36) < 1, 400, np.where(rod(0.55, 0.45) < 1, 1000, 0))
    yield "limb (fat, muscle, marrow)", np.where(rod(0.15, 0.12) < 1, 900, flesh)
    bones = ball((0, 0, 0.55), (0.4, 0.35, 0.5)) | ball((0, 0, -0.55), (0.4, 0.35, 0.5))
    yield "knee-like", np.where(bones, 800, np.where(rod(0.55, 0.5) < 1, 350, 0))
    wall = np.where(rod(0.9, 0.75) < 0.8, 350, np.where(rod(0.9, 0.75) < 1, 1000, 0))
    spine = np.where(ball((0, -0.6, 0), (0.1, 0.1, 1.2)), 500, wall)
    spleen = np.where(ball((-0.4, -0.1, 0.2), (0.25, 0.35, 0.4)), 600, spine)
    yield "abdomen-like", np.where(ball((0.3, 0, 0.2), (0.4, 0.5, 0.5)), 700, spleen)
    breast = np.where(ball(middle, (0.7, 0.8, 0.7)), 1000, 0)
    yield "breast-like", np.where(ball((0, -0.2, 0), (0.25, 0.4, 0.3)), 450, breast)
    kidneys = ball((0.4, 0, 0), (0.25, 0.3, 0.5)) | ball((-0.4, 0, 0), (0.25, 0.3, 0.5))
    yield "kidney pair", np.where(kidneys, 800, np.where(ball(middle, (0.9, 0.8, 1.5)), 300, 0))
    peel = np.where(ball(middle, (0.85, 0.68, 0.85)), 250, 0)
    segments = 600 + 150 * np.cos(8 * np.arctan2(x, y))
    yield "orange", np.where(ball(middle, (0.75, 0.6, 0.75)), segments, peel)
    outer = np.where(ball(middle, (0.75, 0.8, 0.75)), 650, 0)
    yield "two-shell head-like ball", np.where(ball(middle, (0.55, 0.55, 0.5)), 1000, outer)
