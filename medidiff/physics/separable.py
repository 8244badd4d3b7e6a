"""The operators A of `y = N(A x)`: one small matrix per axis.

Identity, slice profile with thickness and gap, in-plane and three-axis resampling by any real factor, and "nothing
measured" are one class, because each acts on every axis by itself: ``A = A_i ⊗ A_j ⊗ A_k``. Adjoint, pseudo-inverse,
certainty and exact data consistency then follow in closed form from three small singular value decompositions ``A_a =
U_a S_a V_aᵀ``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from medidiff.errors import SettingsError

__all__ = [
    "Axis",
    "Separable",
    "box_profile",
    "gaussian_profile",
    "identity",
    "nothing",
    "resample",
    "sampling",
    "slices",
]

_RIDGE = 1e-4  # ε: makes the smoothest answer unique where a sample says nothing of slope or level

Profile = Callable[[Tensor, Tensor], Tensor]
"""Cumulative sensitivity of a slice: (distance from its centre in mm, thickness in mm) -> share collected so far."""


def box_profile(distance_mm: Tensor, thickness_mm: Tensor) -> Tensor:
    """Cumulative box: the slice sees every depth of its thickness alike."""
    return (distance_mm / thickness_mm + 0.5).clamp(0.0, 1.0)


def gaussian_profile(distance_mm: Tensor, thickness_mm: Tensor) -> Tensor:
    """Cumulative Gaussian whose full width at half maximum is the thickness, as 2D excitation pulses give."""
    sigma = thickness_mm / (2.0 * math.sqrt(2.0 * math.log(2.0)))
    return 0.5 * (1.0 + torch.erf(distance_mm / (sigma * math.sqrt(2.0))))


@dataclass(frozen=True)
class Axis:
    """What an operator does along one axis.

    Args:
        matrix: (measured, fine) float64, or None for the identity.
        rcond: singular values below this share of the largest count as not measured.
    """

    matrix: Tensor | None
    rcond: float = 1e-3

    @cached_property
    def svd(self) -> tuple[Tensor, Tensor, Tensor]:
        """U (m, r), s (r,), Vᵀ (r, n) of the singular values above `rcond` times the largest."""
        assert self.matrix is not None
        u, s, vt = torch.linalg.svd(self.matrix, full_matrices=False)
        kept = s > self.rcond * s.max() if s.numel() else s > 0
        return u[:, kept], s[kept], vt[kept]

    @cached_property
    def pinv(self) -> Tensor:
        """(n, m): the pseudo-inverse ``V S⁻¹ Uᵀ``."""
        u, s, vt = self.svd
        answer: Tensor = (vt.mT / s) @ u.mT
        return answer

    @cached_property
    def certainty(self) -> Tensor:
        """(n,): the diagonal of ``A⁺A``, the share of each voxel that the samples fix."""
        return self.svd[2].square().sum(0)

    @cached_property
    def smoothest(self) -> Tensor:
        """(n, m): ``M⁻¹V (Vᵀ M⁻¹ V)⁻¹ S⁻¹ Uᵀ``, the x of smallest ``xᵀ M x = |D₁x|² + |D₂x|² + ε|x|²`` with A x = y."""
        u, s, vt = self.svd
        size = vt.shape[1]
        first, second = (torch.eye(size, dtype=torch.float64).diff(n=order, dim=0) for order in (1, 2))
        rough = first.mT @ first + second.mT @ second + _RIDGE * torch.eye(size, dtype=torch.float64)
        spread = torch.linalg.solve(rough, vt.mT)
        answer: Tensor = spread @ torch.linalg.solve(vt @ spread, u.mT / s[:, None])
        return answer

    def along(self, x: Tensor, matrix: Tensor | None, axis: int) -> Tensor:
        """Multiply (new, old) `matrix` onto dimension `axis` (-3, -2 or -1) of x; no matrix changes nothing."""
        if matrix is None:
            return x
        return torch.movedim(torch.movedim(x, axis, -1) @ matrix.to(x).mT, -1, axis)


@dataclass(frozen=True)
class Separable:
    """A linear measurement that acts on each axis of a volume by itself.

    Args:
        matrices: one per axis (I, J, K): (measured, fine) float64, rows are what one sample of that axis sees; None
            is the identity.
        rcond: singular values below this share of an axis' largest count as not measured, in the pseudo-inverse, the
            certainty and the consistency alike.

    Example:
        >>> halves = torch.tensor([[0.5, 0.5]], dtype=torch.float64)
        >>> Separable((halves, None, None))(torch.tensor([2.0, 4.0]).reshape(2, 1, 1)).item()
        3.0
    """

    matrices: tuple[Tensor | None, Tensor | None, Tensor | None]
    rcond: float = 1e-3

    @cached_property
    def _axes(self) -> tuple[tuple[int, Axis], ...]:
        return tuple((dim, Axis(matrix, self.rcond)) for dim, matrix in zip((-3, -2, -1), self.matrices, strict=True))

    def _apply(self, x: Tensor, pick: Callable[[Axis], Tensor]) -> Tensor:
        for dim, axis in self._axes:
            x = axis.along(x, None if axis.matrix is None else pick(axis), dim)
        return x

    @property
    def is_identity(self) -> bool:
        """Whether every voxel is measured as it is."""
        return all(matrix is None for matrix in self.matrices)

    @property
    def measures_nothing(self) -> bool:
        """Whether some axis has no sample at all, so that `y` is empty."""
        return any(matrix is not None and matrix.shape[0] == 0 for matrix in self.matrices)

    def __call__(self, x: Tensor) -> Tensor:
        """``A x``: (..., I, J, K) fine volume to (..., i, j, k) measurement."""
        return self._apply(x, lambda axis: axis.matrix)  # type: ignore[arg-type,return-value]

    def adjoint(self, y: Tensor) -> Tensor:
        """``Aᵀ y``: measurement to the fine grid."""
        return self._apply(y, lambda axis: axis.matrix.mT)  # type: ignore[union-attr]

    def pinv(self, y: Tensor) -> Tensor:
        """``A⁺ y``: the smallest fine volume that explains the measurement (zero where nothing was measured)."""
        return self._apply(y, lambda axis: axis.pinv)

    def smoothest(self, y: Tensor) -> Tensor:
        """The smoothest fine volume that explains the measurement, (..., I, J, K); zero where nothing was measured.

        Along each axis the smallest sum of squared first and second differences among all x with ``A x = y``. A⁺y is
        a staircase; this has no steps, and is a far better guess of an anatomy whose power falls with frequency.
        """
        return self._apply(y, lambda axis: axis.smoothest)

    def certainty(self, shape: Sequence[int]) -> Tensor:
        """``diag(A⁺A)`` in [0, 1], (I, J, K) float64: the share of each voxel that the measurement fixes."""
        share = torch.ones(tuple(shape), dtype=torch.float64)
        for dim, axis in self._axes:
            if axis.matrix is not None:
                share = share * axis.certainty.reshape([-1 if d == dim else 1 for d in (-3, -2, -1)])
        return share

    def consistent(self, x: Tensor, y: Tensor, *, sigma_y: float, sigma_x: float) -> Tensor:
        """The volume nearest to `x` that also explains `y`, each weighed by its own uncertainty.

        Exactly ``argmin_z |A z - y|²/σ_y² + |z - x|²/σ_x²  =  x + V diag(s / (s² + σ_y²/σ_x²)) Uᵀ (y - A x)``, with
        ``s`` the products of the three axes' singular values.

        Args:
            x: (..., I, J, K) estimate.
            y: (..., i, j, k) measurement.
            sigma_y: standard deviation of the measurement's noise; 0 enforces ``A z = y`` on all that was measured.
            sigma_x: standard deviation of the estimate; 0 returns `x`.
        """
        if sigma_x == 0.0 or self.measures_nothing:
            return x
        spectrum = self._apply(y - self(x), lambda axis: axis.svd[0].mT)
        s = torch.ones((1, 1, 1), dtype=torch.float64)
        for dim, axis in self._axes:
            if axis.matrix is not None:
                s = s * axis.svd[1].reshape([-1 if d == dim else 1 for d in (-3, -2, -1)])
        gain = s / (s.square() + (sigma_y / sigma_x) ** 2)
        return x + self._apply(spectrum * gain.to(spectrum), lambda axis: axis.svd[2].mT)


def boxes(coarse: Sequence[int], fine: Sequence[int]) -> Separable:
    """What the voxels of a coarse grid see of a finer one over the same box.

    Args:
        coarse: (i, j, k) voxels of the coarse grid.
        fine: (I, J, K) of the finer one, at least as many along each axis.
    """
    matrices = [
        sampling(n, factor=n / count, offset=(n / count - 1) / 2, count=count)
        for n, count in zip(fine, coarse, strict=True)
    ]
    return Separable((matrices[0], matrices[1], matrices[2]))


def sampling(
    size: int,
    *,
    factor: float,
    thickness: float | None = None,
    offset: float | None = None,
    count: int | None = None,
    profile: Profile = box_profile,
) -> Tensor | None:
    """The matrix of one axis, (count, size) float64, or None when every voxel is kept as it is.

    A sample whose profile reaches over the end of the grid is normalised by what it does see, so flat stays flat.

    Args:
        size: voxels of the fine grid; all lengths below are in units of one of them.
        factor: distance between samples, at least 1.
        thickness: extent that one sample averages over; by default the factor, so no gap and no overlap. Less leaves a
            gap, more overlaps.
        offset: index of the first sample's centre; by default the samples are centred on the grid.
        count: number of samples; by default as many as lie wholly within the grid, at least one.
        profile: sensitivity across a sample.

    Raises:
        SettingsError: a factor below 1, or a thickness that is not above 0.
    """
    width = factor if thickness is None else thickness
    if not (math.isfinite(factor) and factor >= 1.0 and math.isfinite(width) and width > 0.0):
        raise SettingsError(
            "E-FACTOR", f"factor {factor:g}, thickness {width:g}", wanted="a factor >= 1 and a thickness > 0"
        )
    count = max(int((size - width) / factor + 1e-9) + 1, 1) if count is None else count
    offset = (size - 1 - (count - 1) * factor) / 2 if offset is None else offset
    if (factor, width, offset, count) == (1.0, 1.0, 0.0, size):
        return None
    centres = offset + factor * torch.arange(count, dtype=torch.float64)
    edges = torch.arange(size + 1, dtype=torch.float64) - 0.5
    rows = profile(edges[None] - centres[:, None], torch.tensor(width, dtype=torch.float64)).diff(dim=1)
    return rows / rows.sum(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)


def identity() -> Separable:
    """Every voxel is measured: denoising."""
    return Separable((None, None, None))


def slices(size: int, *, factor: float, axis: int = 2, **details: Any) -> Separable:
    """Thick slices along one `axis` of a fine grid with `size` voxels there; `details` as for `sampling`.

    Example:
        >>> slices(6, factor=3.0)(torch.ones(4, 4, 6)).shape
        torch.Size([4, 4, 2])
    """
    matrix = sampling(size, factor=factor, **details)
    i, j, k = (matrix if a == axis else None for a in range(3))
    return Separable((i, j, k))


def resample(shape: Sequence[int], *, factors: Sequence[float], profile: Profile = box_profile) -> Separable:
    """Coarser voxels along any axes, by any real factor of at least 1: a fine grid of `shape` seen in larger boxes.

    Example:
        >>> resample((8, 8, 9), factors=(2.0, 1.0, 3.0))(torch.ones(8, 8, 9)).shape
        torch.Size([4, 8, 3])
    """
    i, j, k = (sampling(n, factor=f, profile=profile) for n, f in zip(shape, factors, strict=True))
    return Separable((i, j, k))


def nothing(shape: Sequence[int]) -> Separable:
    """No voxel of a fine grid of `shape` is measured: synthesis, and the null condition of classifier-free guidance."""
    return Separable((torch.zeros((0, shape[0]), dtype=torch.float64), None, None))
