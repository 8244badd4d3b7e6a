"""Shells of spatial frequency that the spectra of images are summed over: `shells`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import fft, sparse

from medidiff.errors import InputError, SettingsError

__all__ = ["Shells", "centred", "hann", "shells", "spacing_of", "volumes", "weights_of"]

_WIDEST_CONE_DEG = 90.0

_Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Shells:
    """A partition of the frequencies of a grid.

    Attributes:
        table: (shells, half the spectrum), sparse: how many coefficients of the whole spectrum each entry of a real
            image's half spectrum stands for.
        frequencies: (shells,), mean over the coefficients of a shell, cycles per mm, ascending.
        counts: (shells,), coefficients of the whole spectrum; together they are that many real numbers.
        nyquist: the smallest of the grid, or that of the axis of a cone, cycles per mm.
    """

    table: sparse.csr_array
    frequencies: _Array
    counts: _Array
    nyquist: float

    def sums(self, spectrum: _Array) -> _Array:
        """A real quantity of each coefficient, (..., I, J, K // 2 + 1), summed over shells: (..., shells)."""
        flat = spectrum.reshape(-1, self.table.shape[1])
        return np.asarray((self.table @ flat.T).T.reshape(*spectrum.shape[:-3], self.counts.size))


def shells(
    grid: Sequence[int],
    spacing_mm: Sequence[float],
    *,
    whole: bool = False,
    axis: int | None = None,
    half_angle_deg: float = 20.0,
) -> Shells:
    """Shells as wide as the coarsest step of frequency among the axes, from the first one outside 0 up to Nyquist.

    Args:
        grid: (3,) voxels.
        spacing_mm: (3,).
        whole: also 0 and what lies beyond the smallest Nyquist frequency, so that every coefficient counts once.
        axis: 0, 1 or 2, the axis of a double cone outside which nothing counts; none for the whole shell.
        half_angle_deg: of the cone, in cycles per mm, above 0 and at most 90.

    Raises:
        SettingsError: ``E-SETTING``, spacing or cone out of range.
    """
    spacing = spacing_of(spacing_mm)
    if axis not in (None, 0, 1, 2) or not 0 < half_angle_deg <= _WIDEST_CONE_DEG:
        found = f"axis {axis}, half angle {half_angle_deg:g} degrees"
        raise SettingsError("E-SETTING", found, wanted="axis 0, 1 or 2, angle above 0 to 90", attribute="axis")
    nyquist = 0.5 / (max(spacing) if axis is None else spacing[axis])
    width = max(1 / (n * step) for n, step in zip(grid, spacing, strict=True))
    steps = [fft.fftfreq(n, d) for n, d in zip(grid[:2], spacing[:2], strict=True)]
    axes = np.ix_(*steps, fft.rfftfreq(grid[2], spacing[2]))
    radius = np.sqrt(sum(np.square(each) for each in axes))
    inside = np.full(radius.shape, True) if whole else (radius > width / 2) & (radius <= nyquist * (1 + 1e-9))
    if axis is not None:
        inside &= np.abs(axes[axis]) >= radius * (math.cos(math.radians(half_angle_deg)) - 1e-9)
    twice = np.full(grid[2] // 2 + 1, 2.0)  # each coefficient stands for its conjugate, but for those on the two planes
    twice[0] = 1
    if grid[2] % 2 == 0:
        twice[-1] = 1
    used, rows = np.unique(np.rint(radius / width).astype(np.int64)[inside], return_inverse=True)
    weight = np.broadcast_to(twice, radius.shape)[inside]
    table = sparse.csr_array((weight, (rows, np.flatnonzero(inside))), shape=(used.size, radius.size))
    counts = np.asarray(np.bincount(rows, weights=weight), dtype=np.float64)
    return Shells(table, np.bincount(rows, weights=weight * radius[inside]) / counts, counts, nyquist)


def spacing_of(spacing_mm: Sequence[float]) -> tuple[float, float, float]:
    """Three voxel sizes.

    Raises:
        SettingsError: ``E-SETTING``, not three finite numbers above 0.
    """
    steps = tuple(float(step) for step in spacing_mm)
    if len(steps) != 3 or not all(math.isfinite(step) and step > 0 for step in steps):
        raise SettingsError("E-SETTING", f"spacings {steps}", wanted="three, above 0", attribute="spacing_mm")
    return steps[0], steps[1], steps[2]


def volumes(first: ArrayLike, second: ArrayLike) -> tuple[_Array, _Array]:
    """Two images or stacks of images on one grid.

    Raises:
        InputError: ``E-SHAPE``, other shapes, or fewer than 4 voxels along an axis; ``E-NONFINITE``.
    """
    one, other = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if one.ndim < 3 or one.shape != other.shape or min(one.shape) < 1 or min(one.shape[-3:]) < 4:
        found = f"images of shapes {one.shape} and {other.shape}"
        raise InputError("E-SHAPE", found, wanted="(..., I, J, K) of one shape, at least 4 voxels along each axis")
    if not (np.isfinite(one).all() and np.isfinite(other).all()):
        raise InputError("E-NONFINITE", "voxels that are not finite")
    return one, other


def weights_of(window: ArrayLike | None, grid: tuple[int, ...]) -> _Array | None:
    """A window as weights on a grid; None stays None.

    Raises:
        InputError: ``E-MASK``, another shape, a weight below 0, or none above.
    """
    if window is None:
        return None
    weights = np.asarray(window, dtype=np.float64)
    if weights.shape != grid or not np.isfinite(weights).all() or weights.min() < 0 or weights.max() <= 0:
        found = f"a window of shape {weights.shape} on {grid}"
        raise InputError("E-MASK", found, wanted="weights from 0 on the grid of the images, not all of them 0")
    return weights


def centred(image: _Array, weights: _Array | None) -> _Array:
    """Images without their (weighted) means, times the window."""
    if weights is None:
        return np.asarray(image - image.mean(axis=(-3, -2, -1), keepdims=True))
    mean = (image * weights).sum(axis=(-3, -2, -1), keepdims=True) / weights.sum()
    return np.asarray((image - mean) * weights)


def hann(shape: Sequence[int], *, taper: float = 1.0) -> _Array:
    """A window that falls to 0 before the border along each axis (Tukey 1967), (I, J, K).

    Args:
        shape: of the grid.
        taper: the share of each axis over which it rises and falls, in all; 1 is a Hann window.

    Raises:
        SettingsError: ``E-SETTING``, a share that is not above 0 and at most 1.
    """
    if not 0 < taper <= 1:
        raise SettingsError("E-SETTING", f"{taper:g}", wanted="a share above 0, at most 1", attribute="taper")
    sides = []
    for n in shape:
        place = (np.arange(n) + 0.5) / n
        sides.append(np.sin(np.pi / 2 * np.minimum(1, 2 * np.minimum(place, 1 - place) / taper)) ** 2)
    return np.asarray(sides[0][:, None, None] * sides[1][:, None] * sides[2])
