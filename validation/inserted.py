"""Lesions that are put into a scan, and structures that are taken out of it, where the truth is then known.

A lesion is a smooth blob of known volume: an ellipsoid turned at random whose surface bulges, with an edge one voxel
wide. It is added, so the texture of the tissue goes on inside it. Taking a structure out fills its voxels from what
surrounds them (the harmonic function that continues it) and lays the fine texture of a place nearby over it. Voxels
that the structure does not reach keep their values. Everything follows from a seed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy import ndimage

from medidiff.errors import SettingsError

__all__ = ["TISSUES", "Lesion", "contrast", "inserted", "lesions", "removed", "share", "tissues"]

Array = NDArray[np.float32]
Mask = NDArray[np.bool_]
Tissue = Literal["fluid", "grey", "white"]
TISSUES: tuple[Tissue, ...] = ("fluid", "grey", "white")  # by rising brightness, as in T1

_ROUNDNESS = 0.18  # standard deviation of the logarithm of the half axes
_BULGE = 0.12  # of the surface, as a share of the radius
_BUMPS = 5  # waves that bend the surface
_DARKEST, _BRIGHTEST = 0.05, 2.0  # of the tissue maximum: a lesion beyond them gets the other sign
_SMOOTHING = 1.5  # voxels; texture is what it leaves
_DONORS = 40  # places nearby that are tried for their texture
_ITERATIONS = 400  # that continue the surroundings into a hole


@dataclass(frozen=True, slots=True)
class Lesion:
    """One lesion of a scan.

    Args:
        centre: voxel index, (3,).
        diameter_mm: of the ball that has its volume.
        contrast: what it adds to the tissue where it fills a voxel, in the scan's units; negative is darker.
        tissue: in which its centre lies.
        seed: of its shape.
    """

    centre: tuple[int, int, int]
    diameter_mm: float
    contrast: float
    tissue: Tissue
    seed: int


def share(
    shape: tuple[int, int, int], spacing_mm: Sequence[float], lesion: Lesion, *, irregularity: float = _BULGE
) -> Array:
    """The share of each voxel that a lesion fills, (I, J, K) from 0 to 1; its sum is the volume that was asked for.

    Args:
        shape: of the scan.
        spacing_mm: of its voxels.
        lesion: its place, size and seed.
        irregularity: how far the surface bulges, as a share of the radius, from 0 (an ellipsoid) to 0.3.

    Raises:
        SettingsError: it sticks out of the scan.
    """
    part, first = _part(spacing_mm, lesion, irregularity)
    box = _placed(part.shape, first, shape)
    if box is None:
        raise SettingsError("E-SETTING", "a lesion that sticks out of the scan", wanted="one inside")
    out = np.zeros(shape, dtype=np.float32)
    out[box] = part
    return out


def _placed(size: Sequence[int], first: Sequence[int], shape: Sequence[int]) -> tuple[slice, slice, slice] | None:
    """The voxels that a block takes up in a scan; None where it sticks out."""
    if min(first) < 0 or any(a + n > m for a, n, m in zip(first, size, shape, strict=True)):
        return None
    i, j, k = (slice(a, a + n) for a, n in zip(first, size, strict=True))
    return i, j, k


def _part(spacing_mm: Sequence[float], lesion: Lesion, irregularity: float) -> tuple[Array, tuple[int, ...]]:
    """The smallest block that holds a lesion, and where it begins."""
    rng = np.random.default_rng(lesion.seed)
    spacing, centre = np.asarray(spacing_mm, dtype=float), np.asarray(lesion.centre)
    half = np.ceil(1.1 * lesion.diameter_mm / spacing).astype(int) + 2
    place = np.stack(
        np.meshgrid(*(np.arange(-h, h + 1) * s for h, s in zip(half, spacing, strict=True)), indexing="ij")
    )
    axes = np.exp(rng.normal(0, _ROUNDNESS, 3))
    axes = np.clip(axes / np.prod(axes) ** (1 / 3), 0.7, 1.4)
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    turned = np.tensordot(turn, place, axes=1) / axes[:, None, None, None]
    radius = np.sqrt(np.square(turned).sum(0))
    way = turned / np.maximum(radius, 1e-9)
    waves, phases = rng.normal(0, 1.5, (_BUMPS, 3)), rng.uniform(0, 2 * np.pi, _BUMPS)
    bumps = sum(np.cos(np.tensordot(wave, way, axes=1) + phase) for wave, phase in zip(waves, phases, strict=True))
    radius = radius / (1 + irregularity * np.tanh(np.asarray(bumps)))
    edge, wanted = float(spacing.mean()), math.pi / 6 * lesion.diameter_mm**3 / float(spacing.prod())
    low, high = 0.0, lesion.diameter_mm
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _filled(middle, radius, edge).sum() < wanted else (low, middle)
    part = _filled(high, radius, edge).astype(np.float32)
    reach = ndimage.find_objects((part > 0).astype(np.uint8))[0]
    return part[reach], tuple(int(c) + side.start for c, side in zip(centre - half, reach, strict=True))


def _filled(radius_mm: float, distance: NDArray[np.float64], edge_mm: float) -> NDArray[np.float64]:
    inward = np.clip((radius_mm - distance) / edge_mm + 0.5, 0, 1)
    return np.asarray(inward * inward * (3 - 2 * inward))


def inserted(image: Array, filled: Array, amount: float) -> Array:
    """A scan with a lesion: an amount of contrast, in proportion to the share of each voxel."""
    return np.asarray(image + np.float32(amount) * filled, dtype=np.float32)


def contrast(image: Array, without: Array, filled: Array) -> float:
    """How strongly a lesion of known shape is in an image: least squares of what it has over an image without it."""
    return float(((image - without) * filled).sum(dtype=np.float64) / np.square(filled).sum(dtype=np.float64))


def removed(image: Array, filled: Array, mask: Mask, *, seed: int) -> Array:
    """A scan without a structure: its voxels continue what surrounds them, with the texture of a place nearby.

    Args:
        image: (I, J, K) the scan.
        filled: (I, J, K) share of each voxel that the structure fills; all above 0 are replaced.
        mask: (I, J, K) where there is tissue to take from.
        seed: of the place whose texture is taken.

    Raises:
        SettingsError: the structure is empty, or there is no tissue around it.
    """
    gone = filled > 0
    if not gone.any():
        raise SettingsError("E-SETTING", "a structure without voxels", wanted="one to take out")
    size = max(side.stop - side.start for side in ndimage.find_objects(gone.astype(np.uint8))[0])
    box = _around(gone, 2 * size + 6)
    scan, hole, tissue = image[box].astype(np.float64), gone[box], mask[box] & ~gone[box]
    if not tissue.any():
        raise SettingsError("E-SETTING", "a structure without tissue around it", wanted="tissue to fill it from")
    smooth = _smoothed(scan, tissue)
    base = _continued(smooth, hole)
    texture = np.where(tissue, scan - smooth, 0)
    ring = ndimage.binary_dilation(hole, iterations=3) & tissue
    grain = _nearby(smooth, texture, hole, tissue, ring, np.random.default_rng(seed))
    out = np.array(image)
    out[box] = np.where(hole, base + grain, scan).astype(image.dtype)
    return out


def _around(found: Mask, margin: int) -> tuple[slice, slice, slice]:
    i, j, k = ndimage.find_objects(found.astype(np.uint8))[0]
    sides = [
        slice(max(0, s.start - margin), min(n, s.stop + margin)) for s, n in zip((i, j, k), found.shape, strict=True)
    ]
    return sides[0], sides[1], sides[2]


def _smoothed(scan: NDArray[np.float64], where: Mask) -> NDArray[np.float64]:
    """Gaussian average over the tissue alone (normalised convolution, Knutsson & Westin 1993)."""
    weight = ndimage.gaussian_filter(where.astype(np.float64), _SMOOTHING)
    total = ndimage.gaussian_filter(np.where(where, scan, 0), _SMOOTHING)
    return np.where(weight > 1e-3, total / np.maximum(weight, 1e-3), scan)


def _continued(smooth: NDArray[np.float64], hole: Mask) -> NDArray[np.float64]:
    """The harmonic function inside the hole that meets the surroundings at its surface (Jacobi iterations)."""
    ring = ndimage.binary_dilation(hole) & ~hole
    out = np.where(hole, smooth[ring].mean(), smooth)
    inner = _around(hole, 1)
    part, where = out[inner], hole[inner]
    kernel = ndimage.generate_binary_structure(3, 1) / 6.0
    kernel[1, 1, 1] = 0
    for _ in range(_ITERATIONS):
        part = np.where(where, ndimage.convolve(part, kernel, mode="nearest"), part)
    out[inner] = part
    return out


def _nearby(
    smooth: NDArray[np.float64], texture: NDArray[np.float64], hole: Mask, tissue: Mask, ring: Mask, rng: Generator
) -> NDArray[np.float64]:
    """Texture of a place near the hole as bright as its surroundings, as strong as theirs."""
    wanted, strength = smooth[ring].mean(), texture[ring].std()
    inside, places = np.argwhere(hole), np.argwhere(tissue)
    best: tuple[float, NDArray[np.intp]] | None = None
    for place in places[rng.integers(len(places), size=_DONORS)]:
        donor = inside + (place - inside.mean(0).round().astype(int))
        if (donor < 0).any() or (donor >= hole.shape).any():
            continue
        index = tuple(donor.T)
        misfit = abs(smooth[index].mean() - wanted) + smooth[index].std() + 10 * (~tissue[index]).mean() * strength
        if best is None or misfit < best[0]:
            best = float(misfit), donor
    out = np.zeros_like(smooth)
    if best is None:
        out[hole] = rng.normal(0, strength, int(hole.sum()))
        return out
    grain = texture[tuple(best[1].T)]
    spread = grain.std()
    out[tuple(inside.T)] = (grain - grain.mean()) * (strength / spread if spread > 0 else 0.0)
    return out


def tissues(image: Array, mask: Mask) -> NDArray[np.uint8]:
    """Fluid 1, grey matter 2 and white matter 3 of a brain whose fluid is darkest, 0 outside; (I, J, K).

    Three means (Lloyd 1982) of the smoothed brightness: good enough to place a lesion, no segmentation.
    """
    smooth = ndimage.gaussian_filter(image, 0.7)
    values = smooth[mask][:: max(1, int(mask.sum()) // 50_000)]
    centres = np.percentile(values, (5, 45, 85))
    for _ in range(30):
        label = np.abs(values[:, None] - centres).argmin(1)
        counts = np.bincount(label, minlength=3)
        centres = np.where(counts, np.bincount(label, values, minlength=3) / np.maximum(counts, 1), centres)
    out = np.zeros(image.shape, dtype=np.uint8)
    out[mask] = np.searchsorted((centres[1:] + centres[:-1]) / 2, smooth[mask]) + 1
    return out


def lesions(
    image: Array,
    mask: Mask,
    spacing_mm: Sequence[float],
    *,
    wanted: Sequence[tuple[float, float]],
    seed: int,
    inside: Sequence[Tissue] = ("grey", "white"),
) -> tuple[Lesion, ...]:
    """Where lesions go: wholly inside the mask, apart from one another, their centres in the given tissues in turn.

    Each is brighter or darker by chance; one that would leave the range of tissue gets the other sign.

    Args:
        image: (I, J, K) the scan without them, tissue maximum 1.
        mask: (I, J, K) the brain.
        spacing_mm: of its voxels.
        wanted: diameter in mm and size of the contrast (in units of the scan, above 0) of each.
        seed: of places, signs and shapes.
        inside: tissues that they are put into.

    Returns:
        As many as have room, the largest placed first.
    """
    rng = np.random.default_rng(seed)
    spacing = np.asarray(spacing_mm, dtype=float)
    padded = np.pad(mask, 1)  # a lesion does not cross the border of the scan either
    free = ndimage.distance_transform_edt(padded, sampling=spacing)[1:-1, 1:-1, 1:-1]
    labels = tissues(image, mask)
    found: list[Lesion] = []
    for number, (diameter, size) in enumerate(sorted(wanted, reverse=True)):
        tissue = inside[number % len(inside)]
        places = np.argwhere((labels == TISSUES.index(tissue) + 1) & (free > diameter / 2 + 1))
        for centre in places[rng.permutation(len(places))[:200]]:
            apart = [
                float(np.linalg.norm((centre - other.centre) * spacing)) - (diameter + other.diameter_mm) * 0.75 - 4
                for other in found
            ]
            if min(apart, default=1.0) <= 0:
                continue
            i, j, k = (int(c) for c in centre)
            one = Lesion((i, j, k), diameter, size, tissue, int(rng.integers(2**31)))
            part, first = _part(spacing, one, _BULGE)
            box = _placed(part.shape, first, image.shape)
            if box is None or not mask[box][part > 0].all():
                continue
            found.append(Lesion(one.centre, diameter, _signed(size, image[box], part, rng), tissue, one.seed))
            break
    return tuple(found)


def _signed(size: float, image: Array, filled: Array, rng: Generator) -> float:
    """The contrast with a sign by chance, unless the lesion would be darker than air or brighter than anything."""
    core = image[filled > 0.5]
    darker, brighter = float(core.min()) - size > _DARKEST, float(core.max()) + size < _BRIGHTEST
    sign = 1 if not darker else -1 if not brighter else (-1, 1)[rng.integers(2)]
    return sign * size
