"""The noise N of `y = N(A x)`: Gaussian, Rician and Poisson, with one level or a level per voxel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Generator, Tensor

from medidiff.errors import SettingsError

__all__ = ["Noise", "NoiseKind", "rician_correction"]

NoiseKind = Literal["gaussian", "rician", "poisson"]


@dataclass(frozen=True, slots=True)
class Noise:
    """Random error of a measurement.

    ========== ============================================================ ==============================
    kind       y                                                            `level`
    ========== ============================================================ ==============================
    gaussian   ``x + σ n``                                                  σ
    rician     ``√((x + σ n₁)² + (σ n₂)²)``, magnitude MR (Gudbjartsson &   σ of each receiver channel
               Patz 1995, doi 10.1002/mrm.1910340618)
    poisson    ``Poisson(x / σ²) σ²`` for x ≥ 0: counts, PET and photons    σ of a voxel whose value is 1
    ========== ============================================================ ==============================

    Args:
        kind: which of the three.
        level: σ in image units, at least 0; a number, or a tensor that broadcasts to the image (a level per voxel).
    """

    kind: NoiseKind
    level: float | Tensor

    def __post_init__(self) -> None:
        if self.kind not in get_args(NoiseKind):
            raise SettingsError("E-NOISE", f"noise '{self.kind}'", wanted=" or ".join(get_args(NoiseKind)))
        level = torch.as_tensor(self.level)
        if not bool(torch.isfinite(level).all()) or bool((level < 0).any()):
            raise SettingsError("E-NOISE", "a noise level that is negative or not finite", wanted="a level >= 0")

    def apply(self, x: Tensor, generator: Generator) -> Tensor:
        """One noisy observation of `x`, same shape and type."""
        level = torch.as_tensor(self.level, dtype=x.dtype, device=x.device)
        if not bool((level > 0).any()):
            return x.clone()
        if self.kind == "poisson":
            gain = torch.where(level > 0, level.square(), 1.0)
            counts = torch.poisson(x.clamp_min(0) / gain, generator=generator)
            return torch.where(level > 0, counts * gain, x)
        real = x + level * _normal(x, generator)
        return real if self.kind == "gaussian" else torch.hypot(real, level * _normal(x, generator))


def rician_correction(y: Tensor, level: float | Tensor) -> Tensor:
    """First-order removal of the Rician bias, ``√max(y² - σ², 0)``.

    Since ``E[y²] = x² + 2σ²`` and ``E[y] ≈ √(x² + σ²)`` where x ≫ σ (Gudbjartsson & Patz 1995, eq. 5).
    """
    level = torch.as_tensor(level, dtype=y.dtype, device=y.device)
    return (y.square() - level.square()).clamp_min(0).sqrt()


def _normal(like: Tensor, generator: Generator) -> Tensor:
    return torch.randn(like.shape, dtype=like.dtype, device=like.device, generator=generator)
