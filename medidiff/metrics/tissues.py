"""Volumes of labelled tissue and what a label map does to a scan's statistics: `volumes_ml`, `dice`, `radiomics`.

`radiomics` is a small fixed set of features in the spirit of the Image Biomarker Standardisation Initiative (Zwanenburg
et al. 2020), eleven for each label, made with NumPy and SciPy alone:

========== ===================================================================================================
first      mean, standard deviation, skewness, 10th and 90th percentile of the intensities
shape      volume (ml); surface, the area of voxel faces towards anything else, over volume (1/mm)
texture    contrast, correlation, energy and homogeneity (Haralick et al. 1973) of the co-occurrence of 16 grey
           levels from 0 to 1.2 between neighbours along the three axes, both inside the label
========== ===================================================================================================

They follow these definitions and not the standard's reference values; they are for comparing sets with one another.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from medidiff.errors import InputError

__all__ = ["RADIOMICS", "dice", "radiomics", "volumes_ml", "wasserstein"]

RADIOMICS = (
    "mean",
    "deviation",
    "skewness",
    "percentile 10",
    "percentile 90",
    "volume",
    "surface over volume",
    "contrast",
    "correlation",
    "energy",
    "homogeneity",
)
"""Names of the features of one label, in order."""

_GREYS, _BRIGHTEST = 16, 1.2

_Array = NDArray[np.float64]


def volumes_ml(labels: ArrayLike, *, count: int, spacing_mm: Sequence[float]) -> _Array:
    """Volume of each label from 1 on, in ml.

    Args:
        labels: (I, J, K) whole numbers from 0 to `count`.
        count: labels beside the background.
        spacing_mm: of the voxels.

    Raises:
        InputError: ``E-LABELS``, no map of such numbers.
    """
    table = _labels(labels, count)
    sizes = np.bincount(table.ravel(), minlength=count + 1)[1:]
    return np.asarray(sizes * float(np.prod(spacing_mm)) / 1000)


def wasserstein(real: ArrayLike, synthetic: ArrayLike) -> float:
    """1-Wasserstein distance between two samples of one number, in its unit; `scipy.stats.wasserstein_distance`.

    Biased upwards on small samples: read it at one size for the figure and its floor.
    """
    return float(stats.wasserstein_distance(np.asarray(real).ravel(), np.asarray(synthetic).ravel()))


def dice(first: ArrayLike, second: ArrayLike, *, count: int) -> _Array:
    """Dice overlap of each label from 1 on, ``2 |A ∩ B| / (|A| + |B|)``; NaN where neither map has it.

    Args:
        first: (I, J, K) whole numbers from 0 to `count`.
        second: on the same grid.
        count: labels beside the background.

    Raises:
        InputError: ``E-LABELS``, no maps of such numbers; ``E-SHAPE``, other shapes.
    """
    one, other = _labels(first, count), _labels(second, count)
    if one.shape != other.shape:
        raise InputError("E-SHAPE", f"label maps of shapes {one.shape} and {other.shape}", wanted="one grid")
    found = []
    for label in range(1, count + 1):
        a, b = one == label, other == label
        total = int(a.sum()) + int(b.sum())
        found.append(2 * int((a & b).sum()) / total if total else np.nan)
    return np.asarray(found)


def radiomics(image: ArrayLike, labels: ArrayLike, *, count: int, spacing_mm: Sequence[float]) -> _Array:
    """The features of the module's table for each label, one label after another.

    Args:
        image: (I, J, K), tissue maximum 1.
        labels: (I, J, K) whole numbers from 0 to `count`, each in at least two neighbouring voxels.
        count: labels beside the background.
        spacing_mm: of the voxels.

    Returns:
        (11 x count,), in the order of `RADIOMICS`.

    Raises:
        InputError: ``E-LABELS``, a label that is absent, or no map of such numbers; ``E-SHAPE``, other shapes.
    """
    volume, table = np.asarray(image, dtype=np.float64), _labels(labels, count)
    if volume.shape != table.shape:
        raise InputError("E-SHAPE", f"a scan of shape {volume.shape}, labels {table.shape}", wanted="one grid")
    greys = np.clip(volume / _BRIGHTEST * _GREYS, 0, _GREYS - 1).astype(np.intp)
    found: list[float] = []
    for label in range(1, count + 1):
        inside = table == label
        if not inside.any():
            raise InputError("E-LABELS", f"a map without label {label}", wanted=f"every label from 1 to {count}")
        found += [*_first_order(volume[inside]), *_shape(inside, spacing_mm), *_texture(greys, inside)]
    return np.asarray(found)


def _labels(labels: ArrayLike, count: int) -> NDArray[np.intp]:
    table = np.asarray(labels)
    if table.ndim != 3 or table.size == 0 or not (np.rint(table) == table).all():
        raise InputError("E-LABELS", f"a map of shape {table.shape}, {table.dtype}", wanted="(I, J, K) whole numbers")
    if table.min() < 0 or table.max() > count:
        raise InputError("E-LABELS", f"labels from {table.min():g} to {table.max():g}", wanted=f"0 to {count}")
    return table.astype(np.intp)


def _first_order(values: _Array) -> tuple[float, ...]:
    mean, deviation = float(values.mean()), float(values.std())
    skewness = float((((values - mean) / deviation) ** 3).mean()) if deviation > 0 else 0.0
    return (mean, deviation, skewness, *(float(p) for p in np.percentile(values, (10, 90))))


def _shape(inside: NDArray[np.bool_], spacing_mm: Sequence[float]) -> tuple[float, float]:
    padded, voxel = np.pad(inside, 1), float(np.prod(spacing_mm))
    faces = [int((np.diff(padded, axis=axis)).sum()) * voxel / spacing_mm[axis] for axis in range(3)]
    volume = int(inside.sum()) * voxel
    return volume / 1000, sum(faces) / volume


def _texture(greys: NDArray[np.intp], inside: NDArray[np.bool_]) -> tuple[float, float, float, float]:
    counts = np.zeros((_GREYS, _GREYS))
    for axis in range(3):
        grey, there = np.moveaxis(greys, axis, 0), np.moveaxis(inside, axis, 0)
        both = there[1:] & there[:-1]
        pairs = grey[1:][both] * _GREYS + grey[:-1][both]
        counts += np.bincount(pairs, minlength=_GREYS**2).reshape(_GREYS, _GREYS)
    counts = counts + counts.T  # a pair has no direction
    if not counts.any():
        return 0.0, 0.0, 1.0, 1.0  # no two voxels touch: nothing varies
    share = counts / counts.sum()
    i, j = np.indices(share.shape)
    mean = float((i * share).sum())
    variance = float(((i - mean) ** 2 * share).sum())
    correlation = float(((i - mean) * (j - mean) * share).sum() / variance) if variance > 0 else 0.0
    homogeneity = float((share / (1 + (i - j) ** 2)).sum())
    return float(((i - j) ** 2 * share).sum()), correlation, float(np.square(share).sum()), homogeneity
