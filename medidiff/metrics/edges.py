"""How sharp edges are: the spread of a slanted, spherical or anatomical edge, and its modulation transfer function.

The voxels near an edge are sorted by their distance to it, which no grid divides evenly, so that together they sample
the edge far more finely than they lie (ISO 12233; spheres: Thornton & Flynn 2006, Proc. SPIE 6142:61421Z). The MTF of
a method that is not linear holds for that contrast and noise (Richard et al. 2012, doi 10.1118/1.4725171). The
derivative of the curve is the line spread, its Fourier transform the MTF. In a scan an edge has a width of its own: the
curve of the truth is then the reference, and the ratio of both MTFs is what a method does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage, spatial

from medidiff.errors import InputError, SettingsError
from medidiff.metrics.shells import spacing_of

__all__ = ["EdgeSpread", "Surface", "clean", "distances", "edge_spread", "falls_to", "modulation", "surface"]

_FLAT_WITHIN = 0.5  # of the reach, on both sides of the edge: where the line spread is taken as it is
_SAMPLES_MM = 0.5  # between samples along a normal
_GRADIENT_VOXELS = 1.0  # width of the Gaussian derivative that gives the normals

_Array = NDArray[np.float64]
_Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Surface:
    """Points where an image crosses a level.

    Attributes:
        points_mm: (n, 3), along the axes of the grid, from the first voxel.
        normals: (n, 3), of length 1, towards the brighter side.
        spacing_mm: of the voxels.
    """

    points_mm: _Array
    normals: _Array
    spacing_mm: tuple[float, float, float]

    def of(self, chosen: _Mask) -> Surface:
        """The points that are chosen."""
        return Surface(self.points_mm[chosen], self.normals[chosen], self.spacing_mm)


@dataclass(frozen=True, slots=True, eq=False)
class EdgeSpread:
    """Brightness against the distance to an edge; those of several scans are added.

    Attributes:
        distance_mm: (bins,), centres of the bins, negative on the darker side.
        sums: (bins,), of the voxels in each.
        counts: (bins,).
    """

    distance_mm: _Array
    sums: _Array
    counts: _Array

    def __add__(self, other: EdgeSpread) -> EdgeSpread:
        return EdgeSpread(self.distance_mm, self.sums + other.sums, self.counts + other.counts)


def surface(image: ArrayLike, *, level: float, spacing_mm: Sequence[float]) -> Surface:
    """Where an image crosses a level between neighbours, to a fraction of a voxel.

    Args:
        image: (I, J, K), with little noise: the truth, smoothed as needed.
        level: halfway between the two sides of the edge.
        spacing_mm: of the voxels.

    Raises:
        InputError: ``E-SHAPE``, no volume of finite numbers; ``E-FLAT``, it never crosses the level.
    """
    spacing, volume = spacing_of(spacing_mm), _volume(image)
    bright, steps = (volume >= level).astype(np.int8), np.eye(3, dtype=np.intp)
    found = []
    for axis in range(3):
        here = np.argwhere(np.diff(bright, axis=axis))
        low, high = volume[tuple(here.T)], volume[tuple((here + steps[axis]).T)]
        found.append(here + steps[axis] * ((level - low) / (high - low))[:, None])
    index = np.concatenate(found)
    if not index.size:
        raise InputError("E-FLAT", f"an image that never crosses {level:.4g}", wanted="an edge")
    normals = np.stack([_sampled(_slope(volume, axis) / spacing[axis], index) for axis in range(3)], axis=1)
    lengths = np.linalg.norm(normals, axis=1)
    there = lengths > 0
    return Surface(index[there] * np.asarray(spacing), normals[there] / lengths[there, None], spacing)


def clean(
    image: ArrayLike,
    edge: Surface,
    *,
    dark: tuple[float, float],
    bright: tuple[float, float],
    ripple: float,
    near_mm: float,
    reach_mm: float,
) -> _Mask:
    """The points of a surface where an image is flat on both sides, and of the two tissues that are meant.

    Args:
        image: (I, J, K), the truth.
        edge: a surface in it.
        dark: lowest and highest mean of the darker side.
        bright: of the brighter side.
        ripple: largest deviation from those means, as a share of their difference.
        near_mm: from the edge, where the sides begin.
        reach_mm: where they end, above `near_mm`.

    Returns:
        (n,), true at such points.
    """
    volume = _volume(image)
    away = np.arange(near_mm, reach_mm + 1e-9, _SAMPLES_MM)
    if not 0 <= near_mm < reach_mm:
        raise SettingsError("E-SETTING", f"sides from {near_mm:g} to {reach_mm:g} mm", wanted="ascending from 0")
    sides = [_profiles(volume, edge, sign * away) for sign in (-1, 1)]
    means = [side.mean(axis=1) for side in sides]
    allowed = ripple * (means[1] - means[0])
    good = np.full(len(edge.points_mm), True)
    for side, mean, (low, high) in zip(sides, means, (dark, bright), strict=True):
        good &= (mean >= low) & (mean <= high) & (np.abs(side - mean[:, None]).max(axis=1) <= allowed)
    return good


def distances(edge: Surface, chosen: _Mask, *, shape: Sequence[int], reach_mm: float) -> _Array:
    """Distance of each voxel to a surface along the normal of its nearest point, in mm, negative on the darker side.

    Args:
        edge: all points of the surface.
        chosen: (n,), the points that count; voxels nearest to another one get NaN.
        shape: (I, J, K) of the grid.
        reach_mm: farther voxels get NaN.
    """
    tree = spatial.cKDTree(edge.points_mm)
    out = np.full(tuple(shape), np.nan)
    near = np.zeros(tuple(shape), dtype=bool)
    near[tuple(np.rint(edge.points_mm[chosen] / np.asarray(edge.spacing_mm)).astype(int).T)] = True
    near = ndimage.distance_transform_edt(~near, sampling=edge.spacing_mm) <= reach_mm + max(edge.spacing_mm)
    place = np.argwhere(near)
    metric = place * np.asarray(edge.spacing_mm)
    _, nearest = tree.query(metric)
    along = ((metric - edge.points_mm[nearest]) * edge.normals[nearest]).sum(axis=1)
    kept = chosen[nearest] & (np.abs(along) <= reach_mm)
    out[tuple(place[kept].T)] = along[kept]
    return out


def edge_spread(image: ArrayLike, distance_mm: ArrayLike, *, bin_mm: float, reach_mm: float) -> EdgeSpread:
    """Voxels summed by their distance to an edge.

    Args:
        image: (I, J, K).
        distance_mm: (I, J, K), negative on the darker side; NaN does not count.
        bin_mm: width of a bin, a fraction of a voxel.
        reach_mm: to which distance on both sides.

    Raises:
        InputError: ``E-SHAPE``, no volume of finite numbers, or distances of another shape.
        SettingsError: ``E-SETTING``, fewer than 8 bins.
    """
    volume, distance = _volume(image), np.asarray(distance_mm, dtype=np.float64)
    if distance.shape != volume.shape:
        raise InputError("E-SHAPE", f"distances of shape {distance.shape}", wanted=f"{volume.shape}")
    if not (bin_mm > 0 and reach_mm >= 4 * bin_mm):
        found = f"bins of {bin_mm:g} mm to {reach_mm:g} mm"
        raise SettingsError("E-SETTING", found, wanted="at least 4 on each side", attribute="bin_mm")
    half = math.floor(reach_mm / bin_mm + 1e-9)
    number = np.floor(distance / bin_mm) + half
    inside = (number >= 0) & (number < 2 * half)  # false for NaN
    bins = number[inside].astype(np.intp)
    counts = np.bincount(bins, minlength=2 * half)
    sums = np.asarray(np.bincount(bins, weights=volume[inside], minlength=2 * half), dtype=np.float64)
    centres = np.asarray((np.arange(2 * half) - half + 0.5) * bin_mm, dtype=np.float64)
    return EdgeSpread(centres, sums, np.asarray(counts, dtype=np.float64))


def modulation(edge: EdgeSpread, frequencies: ArrayLike) -> _Array:
    """Modulation transfer function: the modulus of the Fourier transform of the line spread, 1 at frequency 0.

    What the bins blur is taken out: their mean and the difference of neighbours multiply the transform by sinc² of
    frequency times bin width. The line spread fades out over the outer half of its reach.

    Args:
        edge: with voxels in each bin.
        frequencies: (f,), cycles per mm, below half of 1 over the bin width.

    Raises:
        InputError: ``E-FLAT``, a bin without voxels, or no step between both sides.
        SettingsError: ``E-SETTING``, a frequency out of range.
    """
    wanted = np.asarray(frequencies, dtype=np.float64)
    width = float(edge.distance_mm[1] - edge.distance_mm[0])
    if not edge.counts.all():
        raise InputError("E-FLAT", "a bin without voxels", wanted="voxels at all distances to the edge")
    if wanted.size == 0 or not ((wanted >= 0) & (wanted < 0.5 / width)).all():
        raise SettingsError("E-SETTING", "frequencies", wanted=f"from 0 to below {0.5 / width:.3g} cycles per mm")
    place = (edge.distance_mm[1:] + edge.distance_mm[:-1]) / 2
    outer = np.clip((np.abs(place) / np.abs(edge.distance_mm[0]) - _FLAT_WITHIN) / (1 - _FLAT_WITHIN), 0, 1)
    line = np.diff(edge.sums / edge.counts) * np.cos(np.pi / 2 * outer) ** 2
    area = line.sum()
    if not area > 0:
        raise InputError("E-FLAT", "no step from the darker to the brighter side", wanted="an edge")
    spectrum = np.abs(np.exp(-2j * np.pi * np.outer(wanted, place)) @ line) / area
    return np.asarray(spectrum / np.sinc(wanted * width) ** 2)


def falls_to(level: float, frequencies: ArrayLike, curve: ArrayLike) -> float:
    """The frequency at which a curve first falls to a level, as MTF50 and MTF10; infinite where it stays above.

    Args:
        level: 0.5 or 0.1 as a rule.
        frequencies: (f,), ascending.
        curve: (f,), such as an MTF.
    """
    place, values = np.asarray(frequencies, dtype=np.float64), np.asarray(curve, dtype=np.float64)
    below = np.flatnonzero(values <= level)
    if not below.size:
        return math.inf
    after = int(below[0])
    if after == 0:
        return float(place[0])
    share = (values[after - 1] - level) / (values[after - 1] - values[after])
    return float(place[after - 1] + share * (place[after] - place[after - 1]))


def _slope(volume: _Array, axis: int) -> _Array:
    order = [0, 0, 0]
    order[axis] = 1
    return np.asarray(ndimage.gaussian_filter(volume, _GRADIENT_VOXELS, order=order))


def _sampled(volume: _Array, index: _Array) -> _Array:
    return np.asarray(ndimage.map_coordinates(volume, index.T, order=1, mode="nearest"))


def _profiles(volume: _Array, edge: Surface, away_mm: _Array) -> _Array:
    """(n, m), an image along the normals at some distances."""
    place = edge.points_mm[:, None] + edge.normals[:, None] * away_mm[:, None]
    index = (place / np.asarray(edge.spacing_mm)).reshape(-1, 3)
    return _sampled(volume, index).reshape(len(edge.points_mm), len(away_mm))


def _volume(image: ArrayLike) -> _Array:
    volume = np.asarray(image, dtype=np.float64)
    if volume.ndim != 3 or min(volume.shape) < 4 or not np.isfinite(volume).all():
        raise InputError("E-SHAPE", f"data of shape {volume.shape}", wanted="(I, J, K), finite, at least 4 voxels each")
    return volume
