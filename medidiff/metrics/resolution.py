"""Up to which spatial frequency two images agree: Fourier shell correlation, `shell_correlation`.

Harauz & van Heel 1986 (Optik 73:146); thresholds of van Heel & Schatz 2005 (doi 10.1016/j.jsb.2005.05.009) and of
Rosenthal & Henderson 2003 (doi 10.1016/j.jmb.2003.07.013). Over the coefficients of a shell of spatial frequency,

    FSC = Σ Re(F₁ F₂*) / √(Σ |F₁|² Σ |F₂|²).

Two images with the same noise-free content and independent noise of signal-to-noise ratio S correlate by S / (1 + S);
one of them against that content itself by √(S / (1 + S)). What both share counts as signal, whether it is true or not:
two restorations that leave out, or make up, the same thing agree. Only the correlation with the truth shows that.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import fft

from medidiff.errors import InputError, SettingsError
from medidiff.metrics.shells import centred, shells, volumes, weights_of

__all__ = ["FIXED", "FIXED_TRUTH", "ShellCorrelation", "Threshold", "bits", "resolution", "shell_correlation"]

FIXED = 0.143  # of two halves of the data: all of it then correlates with the truth by 0.5 (Rosenthal & Henderson)
FIXED_TRUTH = 0.5  # the same level, of an image against the truth

_Array = NDArray[np.float64]
Threshold = float | _Array


@dataclass(frozen=True, slots=True)
class ShellCorrelation:
    """A curve of correlation over shells of spatial frequency, without the shell around 0.

    Attributes:
        frequencies: (shells,), mean over the coefficients of a shell, cycles per mm, ascending.
        correlation: (..., shells), -1 to 1; 0 where one of the images has no power in the shell.
        counts: (shells,), how many independent real numbers a shell holds: of independent white noise its correlation
            has a standard deviation of about ``1 / √counts``.
        nyquist: the last edge of the shells, cycles per mm.
    """

    frequencies: _Array
    correlation: _Array
    counts: _Array
    nyquist: float


def shell_correlation(
    first: ArrayLike,
    second: ArrayLike,
    *,
    spacing_mm: Sequence[float],
    window: ArrayLike | None = None,
    axis: int | None = None,
    half_angle_deg: float = 20.0,
) -> ShellCorrelation:
    """Fourier shell correlation of two images, up to the smallest Nyquist frequency of the grid.

    The shells are as wide as the coarsest step of frequency among the axes. With an axis only the coefficients in a
    double cone around it count (Tan et al. 2017, doi 10.1038/nmeth.4347), up to that axis' own Nyquist frequency: the
    resolution across thick slices is not that within them.

    Args:
        first: (..., I, J, K), real; leading axes are images that are compared one by one, all in one call.
        second: of the same shape.
        spacing_mm: of the voxels along I, J and K.
        window: (I, J, K), weights that fall to 0 at the border of the array or of the region that counts; each image
            then loses its weighted mean and is multiplied. A sharp cut through what both show makes noise correlate.
        axis: 0, 1 or 2, the axis of the cone; none for the whole shell.
        half_angle_deg: of the cone, measured in cycles per mm, above 0 and at most 90.

    Raises:
        InputError: ``E-SHAPE``, no two images of one shape, or fewer than 4 voxels along an axis; ``E-NONFINITE``;
            ``E-MASK``, a window without weight or below 0.
        SettingsError: ``E-SETTING``, spacing or cone out of range.
    """
    one, other = volumes(first, second)
    grid = one.shape[-3:]
    weights, table = weights_of(window, grid), shells(grid, spacing_mm, axis=axis, half_angle_deg=half_angle_deg)
    left, right = (fft.rfftn(centred(image, weights), axes=(-3, -2, -1)) for image in (one, other))
    shared = table.sums((left * right.conj()).real)
    power = np.sqrt(table.sums(np.square(np.abs(left)))) * np.sqrt(table.sums(np.square(np.abs(right))))
    correlation = np.divide(shared, power, out=np.zeros_like(shared), where=power > 0)
    independent = table.counts * _independent(weights)
    return ShellCorrelation(table.frequencies, np.clip(correlation, -1, 1), independent, table.nyquist)


def bits(counts: ArrayLike, amount: float, *, against_truth: bool = False, halves: bool = True) -> _Array:
    """The correlation at which a coefficient carries that many bits of information.

    The signal-to-noise ratio of all the data is ``2^amount - 1``, half of that in each half. With it, S, and with n
    coefficients, by the reasoning of van Heel & Schatz (whose curves for 1 and 0.5 bit this gives):

        T = (S + (2 √S + 1) / √n) / (1 + S + 2 √S / √n).

    The second terms are one standard deviation of the chance agreement between noise and noise, and noise and signal.
    Against the truth only the latter exists, and by the same reasoning ``T = (√S + 1/√n) / √(1 + S + 2 √S / √n)``.

    Args:
        counts: (shells,), as in `ShellCorrelation`.
        amount: 1 or 0.5 as a rule, above 0.
        against_truth: of one image with noise against the noise-free one, which holds all the data.
        halves: whether the two images are each made from half of the data; false where each has all of it.

    Raises:
        SettingsError: ``E-SETTING``, an amount or a count out of range.
    """
    n = np.asarray(counts, dtype=np.float64)
    if not (math.isfinite(amount) and amount > 0 and n.size and np.isfinite(n).all() and n.min() > 0):
        wanted = "bits and counts that are finite and above 0"
        raise SettingsError("E-SETTING", f"{amount} bits, {n.size} counts", wanted=wanted, attribute="amount")
    ratio = (2**amount - 1) * (0.5 if halves and not against_truth else 1.0)
    root, chance = math.sqrt(ratio), 1 / np.sqrt(n)
    if against_truth:
        return np.asarray((root + chance) / np.sqrt(1 + ratio + 2 * root * chance))
    return np.asarray((ratio + (2 * root + 1) * chance) / (1 + ratio + 2 * root * chance))


def resolution(curve: ShellCorrelation, threshold: Threshold) -> float:
    """Where a curve first falls below a threshold, in cycles per mm; the inverse is the resolution in mm.

    Between two shells the curve is a straight line. Shells before the first one that reaches the threshold do not
    count: the lowest hold so few coefficients that a threshold of bits is near 1 there.

    Args:
        curve: of one pair of images.
        threshold: one number, or (shells,) as from `bits`.

    Returns:
        The frequency; `ShellCorrelation.nyquist` where the curve never falls below (the grid is the limit), 0 where it
        never reaches the threshold.

    Raises:
        InputError: ``E-SHAPE``, curves of several pairs, or a threshold of another length.
    """
    if curve.correlation.ndim != 1 or np.ndim(threshold) > 1 or np.size(threshold) not in (1, curve.counts.size):
        found = f"correlations {curve.correlation.shape}, threshold {np.shape(threshold)}"
        raise InputError("E-SHAPE", found, wanted="one curve, and one threshold or one a shell")
    excess = curve.correlation - threshold
    if not (excess >= 0).any():
        return 0.0
    start = int(np.argmax(excess >= 0))
    below = excess[start:] < 0
    if not below.any():
        return curve.nyquist
    after = start + int(np.argmax(below))
    share = excess[after - 1] / (excess[after - 1] - excess[after])
    return float(curve.frequencies[after - 1] + share * (curve.frequencies[after] - curve.frequencies[after - 1]))


def _independent(weights: _Array | None) -> float:
    """The share of coefficients that are independent behind a window, ``(Σ w²)² / (N Σ w⁴)``.

    From the variance of ``Σ F₁ F₂*`` for white noise, were all correlated neighbours in one shell: a lower bound.
    """
    if weights is None:
        return 1.0
    squared = np.square(weights)
    return float(squared.sum() ** 2 / (squared.size * np.square(squared).sum()))
