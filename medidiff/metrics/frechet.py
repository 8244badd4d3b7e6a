"""Fréchet distance between two sets of features, with its bias named: `frechet`.

    |μ₁ - μ₂|² + tr(Σ₁ + Σ₂ - 2 (Σ₁Σ₂)^½)        (Dowson & Landau 1982; as FID, Heusel et al. 2017, eq. 6)

It is biased upwards, the more so the fewer cases and the more features there are: print it only beside the value of
two real sets of the same size (`medidiff.metrics.measured`, ``matched=True``).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medidiff.errors import SettingsError
from medidiff.metrics.kernel import feature_rows, stacked

__all__ = ["frechet"]

_Array = NDArray[np.float64]


def frechet(real: ArrayLike, synthetic: ArrayLike, *, shrinkage: float = 0.0) -> float:
    """Fréchet distance of the Gaussians through two sets of features.

    Args:
        real: (m, d).
        synthetic: (n, d).
        shrinkage: share, 0 to 1, by which each covariance is drawn towards its own diagonal. Above 0 it has full rank
            also where there are fewer cases than features.

    Raises:
        InputError: ``E-SHAPE`` or ``E-NONFINITE``, broken features.
        SettingsError: ``E-SETTING``, a shrinkage out of range.

    Example:
        >>> round(frechet([[0.0], [2.0]], [[3.0], [5.0]]), 6)
        9.0
    """
    if not 0 <= shrinkage <= 1:
        raise SettingsError("E-SETTING", f"{shrinkage}", wanted="0 to 1", attribute="shrinkage")
    stacked(real, synthetic)
    first, second = feature_rows(real), feature_rows(synthetic)
    apart = float(np.square(first.mean(axis=0) - second.mean(axis=0)).sum())
    roots = _root(first, shrinkage), _root(second, shrinkage)
    # tr (Σ₁Σ₂)^½ is the sum of the singular values of R₁R₂ᵀ for any roots Σ = RᵀR.
    common = float(np.linalg.svd(roots[0] @ roots[1].T, compute_uv=False).sum())
    return apart + sum(float(np.square(root).sum()) for root in roots) - 2 * common


def _root(features: _Array, shrinkage: float) -> _Array:
    """R with RᵀR = (1 - s) Σ + s diag Σ."""
    centred: _Array = (features - features.mean(axis=0)) / np.sqrt(features.shape[0] - 1)
    if not shrinkage:
        return centred
    own = np.diag(np.sqrt(np.square(centred).sum(axis=0)))
    return np.concatenate((np.sqrt(1 - shrinkage) * centred, np.sqrt(shrinkage) * own))
