"""Unbiased kernel distance between two sets of features: `kid`.

Binkowski et al. 2018 (arXiv:1801.01401), section 4: the squared maximum mean discrepancy with the kernel
``k(x, y) = (x·y / d + 1)³`` and the U-statistic of Gretton et al. 2012, eq. 3,

    KID = 1/(m(m-1)) Σ_{i≠j} k(x_i, x_j) + 1/(n(n-1)) Σ_{i≠j} k(y_i, y_j) - 2/(mn) Σ_{i,j} k(x_i, y_j),

which is 0 on average where the two distributions are one, whatever m and n: unlike FID it needs no correction on small
sets, and it can be negative.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medidiff.errors import InputError
from medidiff.metrics.measured import Cases

__all__ = ["feature_rows", "kid", "mean_discrepancy", "polynomial_kernel"]

_Array = NDArray[np.float64]


def feature_rows(features: ArrayLike) -> _Array:
    """Features as (n, d) float64.

    Raises:
        InputError: ``E-SHAPE`` or ``E-NONFINITE``, not at least two rows of finite numbers.
    """
    rows = np.asarray(features, dtype=np.float64)
    if rows.ndim != 2 or rows.shape[0] < 2 or rows.shape[1] < 1:
        raise InputError("E-SHAPE", f"features of shape {rows.shape}", wanted="(cases, features), at least 2 cases")
    if not np.isfinite(rows).all():
        raise InputError("E-NONFINITE", "features that are not finite numbers")
    return rows


def polynomial_kernel(features: ArrayLike) -> _Array:
    """Kernel values between all cases, ``(x·y / d + 1)³``.

    Args:
        features: (n, d), of comparable size in each column; standardise them by a fixed set first.

    Returns:
        (n, n), symmetric.
    """
    rows = feature_rows(features)
    return np.asarray((rows @ rows.T / rows.shape[1] + 1) ** 3)


def mean_discrepancy(kernel: _Array, first: Cases, second: Cases) -> float:
    """The U-statistic of two sets of cases from the kernel between all cases.

    Args:
        kernel: (n, n).
        first: numbers of cases; pairs of one case with itself, drawn twice, do not count.
        second: likewise.
    """
    return _within(kernel, first) + _within(kernel, second) - 2 * float(kernel[np.ix_(first, second)].mean())


def _within(kernel: _Array, cases: Cases) -> float:
    """Mean over pairs of different cases."""
    pairs = cases[:, None] != cases[None, :]
    return float(kernel[np.ix_(cases, cases)][pairs].mean())


def kid(real: ArrayLike, synthetic: ArrayLike) -> float:
    """Unbiased kernel distance of two sets of features; 0 on average where they come from one distribution.

    Args:
        real: (m, d).
        synthetic: (n, d).

    Raises:
        InputError: ``E-SHAPE`` or ``E-NONFINITE``, fewer than two cases, different features, or not finite.

    Example:
        >>> kid([[0.0], [1.0]], [[0.0], [1.0]]) < 0
        True
    """
    rows = stacked(real, synthetic)
    count = np.asarray(real).shape[0]
    return mean_discrepancy(polynomial_kernel(rows), np.arange(count), np.arange(count, rows.shape[0]))


def stacked(real: ArrayLike, synthetic: ArrayLike) -> _Array:
    """Both sets of features under one another.

    Raises:
        InputError: ``E-SHAPE``, they have different features.
    """
    first, second = feature_rows(real), feature_rows(synthetic)
    if first.shape[1] != second.shape[1]:
        found = f"sets with {first.shape[1]} and {second.shape[1]} features"
        raise InputError("E-SHAPE", found, wanted="the same features")
    return np.concatenate((first, second))
