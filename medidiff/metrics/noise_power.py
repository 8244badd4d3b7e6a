"""How the noise of a result is spread over spatial frequencies: `noise_power`.

ICRU Report 54 (1996); Siewerdsen et al. 2002 (doi 10.1118/1.1513158). The images are two results of two independent
realisations of the noise on one scan, so that their difference holds twice the noise power and nothing of the anatomy:

    NPS(f) = ΔV / Σ w² · |DFT w (x₁ - x₂)|² / 2,   ∫ NPS d³f = variance,

in squared intensity times mm³. Noise of a restored scan differs from place to place; the figure is the mean over the
window.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import fft

from medidiff.metrics.shells import shells, spacing_of, volumes, weights_of

__all__ = ["NoisePower", "noise_power"]

_Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class NoisePower:
    """A noise power spectrum over shells that hold every frequency of the grid once, 0 and the corners included.

    Attributes:
        frequencies: (shells,), mean of each shell, cycles per mm.
        density: (..., shells), mean over a shell, squared intensity times mm³.
        volumes: (shells,), of the shells in frequency space, cycles³ per mm³.
    """

    frequencies: _Array
    density: _Array
    volumes: _Array

    @property
    def variance(self) -> _Array:
        """Integral of the spectrum, squared intensity: the variance of the noise of one result, (...)."""
        return np.asarray((self.density * self.volumes).sum(axis=-1))

    @property
    def mean_frequency(self) -> _Array:
        """Mean frequency of the noise power, cycles per mm, (...): low for blotches, high for grain; 0 for no noise."""
        power = self.density * self.volumes
        total = power.sum(axis=-1)
        first = (power * self.frequencies).sum(axis=-1)
        return np.asarray(np.divide(first, total, out=np.zeros_like(total), where=total > 0))


def noise_power(
    first: ArrayLike, second: ArrayLike, *, spacing_mm: Sequence[float], window: ArrayLike | None = None
) -> NoisePower:
    """Noise power spectrum from two results with independent noise.

    Args:
        first: (..., I, J, K), real; leading axes are pairs of results, each with its own spectrum.
        second: of the same shape.
        spacing_mm: of the voxels along I, J and K.
        window: (I, J, K), weights from 0; none for the whole array.

    Raises:
        InputError: ``E-SHAPE``, ``E-NONFINITE`` or ``E-MASK``, as `medidiff.metrics.resolution.shell_correlation`.
        SettingsError: ``E-SETTING``, a spacing that is not above 0.
    """
    one, other = volumes(first, second)
    grid, spacing = one.shape[-3:], spacing_of(spacing_mm)
    weights, table = weights_of(window, grid), shells(grid, spacing, whole=True)
    noise = (one - other) / np.sqrt(2)
    squared = float(np.square(weights).sum()) if weights is not None else float(np.prod(grid))
    power = np.square(np.abs(fft.rfftn(noise if weights is None else noise * weights, axes=(-3, -2, -1))))
    cell = 1 / float(np.prod(grid) * np.prod(spacing))  # volume of one coefficient
    density = table.sums(power) / table.counts * (float(np.prod(spacing)) / squared)
    return NoisePower(table.frequencies, density, table.counts * cell)
