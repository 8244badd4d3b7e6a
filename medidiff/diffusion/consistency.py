"""Data consistency: denoiser in, denoiser out that agrees with what was measured.

The answer D of a denoiser is a guess of x₀ with an error of its own. The measurement is another. Their best linear
combination is ``argmin_z |A z - y|²/σ_y² + |z - D|²/r²``, which `Separable.consistent` solves exactly. The error of D
at level σ is that of a Gaussian image of standard deviation s::

    r² = σ² s² / (σ² + s²)         (r = s at σ = ∞, r → 0 as σ → 0)

For a denoiser of Gaussian images that has *not* been told of y this makes the exact ``E[x₀ | x_σ, y]`` (the rule of
ΠGDM, Song et al. 2023, openreview 9_gsMA8MRKQ). A denoiser that has been told of y already weighed it; there, use it
with a small σ_y or with `project`, to enforce what was measured without error, and not to weigh the same noise twice.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from medidiff.diffusion.condition import Condition
from medidiff.diffusion.denoiser import Denoiser
from medidiff.errors import SettingsError
from medidiff.physics import Separable

__all__ = ["Consistent", "project", "uncertainty"]


def uncertainty(sigma: float, spread: float) -> float:
    """r, standard deviation of what a denoiser at level `sigma` cannot know of images with standard deviation `spread`.

    Example:
        >>> uncertainty(math.inf, 0.5), uncertainty(3.0, 4.0)
        (0.5, 2.4)
    """
    return spread if math.isinf(sigma) else sigma * spread / math.hypot(sigma, spread)


def project(x: Tensor, y: Tensor, operator: Separable) -> Tensor:
    """The volume nearest to `x` with ``A z = y`` on all that was measured, (..., I, J, K)."""
    return operator.consistent(x, y, sigma_y=0.0, sigma_x=1.0)


@dataclass(frozen=True, slots=True, eq=False)
class Consistent:
    """A denoiser whose every answer explains the measurement as well as its noise allows.

    Args:
        denoiser: D.
        y: (B, 1, i, j, k) measurement, or (1, 1, i, j, k) for all images.
        operator: A.
        sigma_y: standard deviation of the measurement's noise; 0 enforces ``A D = y``, as `project`.
        spread: s, standard deviation of clean images about what D would answer at σ = ∞.
        strength: share of the correction that is applied, 0 (D unchanged) to 1.
    """

    denoiser: Denoiser
    y: Tensor
    operator: Separable
    sigma_y: float
    spread: float
    strength: float = 1.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.strength <= 1.0:
            raise SettingsError("E-CONSISTENCY", f"strength {self.strength:g}", wanted="0 to 1")
        if not (0.0 <= self.sigma_y < math.inf and 0.0 < self.spread < math.inf):
            raise SettingsError(
                "E-CONSISTENCY",
                f"sigma_y {self.sigma_y:g}, spread {self.spread:g}",
                wanted="sigma_y >= 0 and spread > 0",
            )

    def __call__(self, x: Tensor, sigma: Tensor, condition: Condition | None = None) -> Tensor:
        """(B, 1, I, J, K) the answer of D, pulled to the measurement."""
        clean = self.denoiser(x, sigma, condition)
        if self.strength == 0.0:
            return clean
        levels = torch.as_tensor(sigma).expand(x.shape[0]).tolist()
        measured = self.y.expand(x.shape[0], *self.y.shape[1:])
        return torch.stack([self._pull(d, y, level) for d, y, level in zip(clean, measured, levels, strict=True)])

    def _pull(self, clean: Tensor, y: Tensor, sigma: float) -> Tensor:
        error = uncertainty(sigma, self.spread)
        pulled = self.operator.consistent(clean, y, sigma_y=self.sigma_y, sigma_x=error)
        return clean + self.strength * (pulled - clean)
