"""Smooth changes to an estimate that make it agree with a measurement: `least_agreement`, `damped_agreement`."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from medidiff.physics.separable import Separable

__all__ = ["damped_agreement", "least_agreement"]

_ROUNDS = 60  # halvings of the interval of ln λ, which exhaust float64
_DAMPING = 1e-2  # λ as a share of the largest s²: no direction is blown up by more than five
_REACH = 80.0  # |ln λ|; beyond, the answer is all or nothing


def least_agreement(residual: Tensor, operator: Separable, level: float) -> Tensor:
    """The change δ that leaves a residual ``r - A δ`` of just the noise level, root mean square; (..., I, J, K).

    That is Morozov's discrepancy principle (1966).

    ``δ = A^s F r`` with A^s from `Separable.smoothest` and the filter ``F = U s²/(s² + λ) Uᵀ`` of Tikhonov: directions
    that the scanner saw well are corrected first, and those that overlapping slices hardly tell apart, where A^s
    would blow up the noise, last. Since ``A A^s U = U``, what is left is ``U λ/(s² + λ) Uᵀ r``, exactly; it falls with
    λ, and λ is where it meets the level. Nothing is changed where r is within the level already.

    Args:
        residual: (..., i, j, k), the measurement less what A sees of the estimate.
        operator: A.
        level: σ_y, above 0.
    """
    wide = residual.double()
    spectrum, share, bases = _spectrum(wide, operator)
    beyond = float((wide.square().sum() - spectrum.square().sum()).clamp_min(0))  # what no change of x can explain
    kept = _kept(spectrum.square(), share, allowed=wide.numel() * level**2 - beyond)
    if kept is None:
        return torch.zeros_like(operator.smoothest(residual))
    return _smoothest(spectrum * share / (share + kept), bases, operator, like=residual)


def damped_agreement(residual: Tensor, operator: Separable) -> Tensor:
    """The smoothest change δ whose ``A δ`` is a residual, but for what A hardly sees; (..., I, J, K).

    As `least_agreement`, with a λ that does not ask how much is left: a hundredth of what A sees best.

    Args:
        residual: (..., i, j, k), the measurement less what A sees of the estimate.
        operator: A.
    """
    spectrum, share, bases = _spectrum(residual.double(), operator)
    return _smoothest(spectrum * share / (share + _DAMPING), bases, operator, like=residual)


Bases = list[tuple[int, Tensor]]


def _spectrum(residual: Tensor, operator: Separable) -> tuple[Tensor, Tensor, Bases]:
    """``Uᵀ r``, s² as a share of the largest, and U along each axis on which A acts."""
    spectrum, share = residual, torch.ones((1, 1, 1), dtype=torch.float64, device=residual.device)
    bases: Bases = []
    for dim, matrix in zip((-3, -2, -1), operator.matrices, strict=True):
        if matrix is None:
            continue
        u, s, _ = torch.linalg.svd(matrix.double(), full_matrices=False)
        u, s = u[:, s > operator.rcond * s.max()].to(residual), s[s > operator.rcond * s.max()].to(residual)
        spectrum = _along(spectrum, u.mT, dim)
        share = share * (s / s.max()).square().reshape([-1 if d == dim else 1 for d in (-3, -2, -1)])
        bases.append((dim, u))
    return spectrum, share, bases


def _smoothest(change: Tensor, bases: Bases, operator: Separable, *, like: Tensor) -> Tensor:
    for dim, u in bases:
        change = _along(change, u, dim)
    return operator.smoothest(change.to(like))


def _kept(power: Tensor, share: Tensor, *, allowed: float) -> float | None:
    """λ at which ``Σ power (λ/(share + λ))²`` is what is allowed; None where all of it is allowed."""
    power = power.reshape(-1, *power.shape[-3:]).sum(0).sum_to_size(share.shape)
    if float(power.sum()) <= allowed:
        return None
    low, high = -_REACH, _REACH
    for _ in range(_ROUNDS):
        middle = (low + high) / 2
        left = math.exp(middle) / (share + math.exp(middle))
        low, high = (middle, high) if float((power * left.square()).sum()) <= allowed else (low, middle)
    return math.exp(low)


def _along(x: Tensor, matrix: Tensor, dim: int) -> Tensor:
    return torch.movedim(torch.movedim(x, dim, -1) @ matrix.mT, -1, dim)
