"""Fidelity and diversity apart, from nearest neighbours: `neighbourhood`.

With B_k(x) the ball round x that reaches to its k-th neighbour in its own set, real cases x_1..x_N and synthetic
y_1..y_M:

========= ==================================== ===================================== ============================
precision 1/M Σ_j 1[y_j in some B_k(x_i)]      how many look real                    Kynkäänniemi et al. 2019
recall    1/N Σ_i 1[x_i in some B_k(y_j)]      how much of reality is met            Kynkäänniemi et al. 2019
density   1/(kM) Σ_j Σ_i 1[y_j in B_k(x_i)]    as precision, not fooled by one       Naeem et al. 2020, eq. 3
                                               outlier; 1 on average if nothing
                                               differs
coverage  1/N Σ_i 1[some y_j in B_k(x_i)]      as recall, balls of real cases alone  Naeem et al. 2020, eq. 4
========= ==================================== ===================================== ============================

For one distribution the expected coverage is 1 - Π_{a=1..k} (N - a)/(N + M - a) (Naeem et al., eq. 12), in any space.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medidiff.errors import SettingsError
from medidiff.metrics.kernel import feature_rows, stacked
from medidiff.metrics.measured import Cases

__all__ = ["Neighbourhood", "density_coverage", "distances", "expected_coverage", "neighbourhood"]

_Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Neighbourhood:
    """Four shares; density may exceed 1."""

    precision: float
    recall: float
    density: float
    coverage: float


def distances(features: ArrayLike) -> _Array:
    """Euclidean distances between all cases, (n, n), from features (n, d)."""
    rows = feature_rows(features)
    squares = np.square(rows).sum(axis=1)
    found = np.sqrt(np.maximum(squares[:, None] + squares[None, :] - 2 * rows @ rows.T, 0))
    np.fill_diagonal(found, 0)
    return np.asarray(found)


def neighbourhood(distance: _Array, real: Cases, synthetic: Cases, *, k: int = 5) -> Neighbourhood:
    """The four shares from the distances between all cases.

    Args:
        distance: (n, n).
        real: numbers of real cases; one that is drawn twice counts twice, and is no neighbour of itself.
        synthetic: numbers of synthetic cases.
        k: which neighbour a ball reaches to.

    Raises:
        SettingsError: ``E-CASES``, a set has not more than k different cases.
    """
    between = distance[np.ix_(real, synthetic)]
    in_real = between <= _radii(distance, real, k)[:, None]
    in_synthetic = between <= _radii(distance, synthetic, k)[None, :]
    return Neighbourhood(
        precision=float(in_real.any(axis=0).mean()),
        recall=float(in_synthetic.any(axis=1).mean()),
        density=float(in_real.sum() / (k * synthetic.size)),
        coverage=float(in_real.any(axis=1).mean()),
    )


def _radii(distance: _Array, cases: Cases, k: int) -> _Array:
    """Distance of each case to its k-th neighbour among the different cases of its own set."""
    members = np.unique(cases)
    if not 1 <= k < members.size:
        raise SettingsError("E-CASES", f"{members.size} cases for neighbour {k}", wanted="more cases than neighbours")
    return np.asarray(np.sort(distance[np.ix_(cases, members)], axis=1)[:, k])


def density_coverage(real: ArrayLike, synthetic: ArrayLike, *, k: int = 5) -> Neighbourhood:
    """The four shares of two sets of features.

    Args:
        real: (N, d).
        synthetic: (M, d).
        k: which neighbour a ball reaches to.

    Raises:
        InputError: ``E-SHAPE`` or ``E-NONFINITE``, broken features.
        SettingsError: ``E-CASES``, not more than k cases.
    """
    rows = stacked(real, synthetic)
    count = np.asarray(real).shape[0]
    return neighbourhood(distances(rows), np.arange(count), np.arange(count, rows.shape[0]), k=k)


def expected_coverage(n_real: int, n_synthetic: int, *, k: int = 5) -> float:
    """Coverage that two sets from one continuous distribution have on average."""
    steps = np.arange(1, k + 1)
    return float(1 - np.prod((n_real - steps) / (n_real + n_synthetic - steps)))
