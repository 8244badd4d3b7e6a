"""How wrong a denoiser is, from a noisy scan alone.

A scan y of level σ is made noisier still: z has the level ``(1 + a²)^½ σ``, and is just such a scan as the prior
knows. A denoiser is shown z and judged by what of y it could not know. For Gaussian noise, ``z = y + a σ n`` leaves
given x and z::

    y | x, z  ~  N(m, v),     m = (a² x + z) / (1 + a²),     v = a² σ² / (1 + a²)

so ``y - (z - y)/a²`` is x plus noise that z tells nothing of, and the mean square of ``D(z) - y + (z - y)/a²`` is that
of ``D(z) - x`` plus ``(1 + 1/a²) σ²``, whatever D is (Moran et al. 2020, arXiv 1910.11908; Pang et al. 2021,
"Recorrupted-to-Recorrupted", CVPR; the limit a → 0 is Stein's unbiased risk).

The magnitude of an MR scan is not Gaussian, and its mean is above x. But the same holds for the complex numbers that it
is the magnitude of: ``z = |y + a σ (n₁ + i n₂)|`` is exactly Rician at the higher level, and the second moment of y has
no bias that is not known::

    E[y² | x, z] = ν² + 2 v,     ν² = (a⁴ x² + 2 a² x z C + z²) / (1 + a²)²
    V[y² | x, z] = 4 v ν² + 4 v² + (2 a² x z / (1 + a²)²)² (1 - C/κ - C²)

where ``C = I₁(κ)/I₀(κ)``, ``κ = x z / ((1 + a²) σ²)``, is the mean cosine of the phase between x and z, which is lost.
With D(z) in the place of x, the difference to y² divided by ``2 a² (z² + σ²)^½ / (1 + a²)`` becomes the Gaussian one
where the signal is strong.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Generator, Tensor

__all__ = ["Recorrupted", "recorrupt"]

Kind = Literal["rician", "gaussian"]

_SMALL = 1e-3


@dataclass(frozen=True, slots=True, eq=False)
class Recorrupted:
    """A scan and the same scan made noisier.

    Args:
        scan: y, (B, 1, I, J, K).
        noisier: z, same shape; what the denoiser is shown.
        level: σ of y, above 0.
        share: a, what was added to z as a share of σ, above 0.
        kind: law of the noise.
    """

    scan: Tensor
    noisier: Tensor
    level: float
    share: float
    kind: Kind

    @property
    def told(self) -> float:
        """Noise level of z."""
        return self.level * math.sqrt(1 + self.share**2)

    @property
    def strong(self) -> float:
        """Mean square of the residual of an answer that is right, where the signal is well above the noise."""
        return self.level**2 * (1 + self.share**-2)

    def residual(self, answer: Tensor) -> Tensor:
        """What is wrong with an answer to z, plus noise that does not depend on it; same shape, image units."""
        y, z, a2 = self.scan, self.noisier, self.share**2
        if self.kind == "gaussian":
            return answer - y + (z - y) / a2
        nu2, _, _ = self._moments(answer)
        return (nu2 + 2 * self._v - y.square()) / self._scale

    def floor(self, answer: Tensor) -> Tensor:
        """Mean square of the residual at each voxel if this answer is right; the rest of the square is its error."""
        if self.kind == "gaussian":
            return torch.full_like(answer, self.strong)
        nu2, mixed, spread = self._moments(answer)
        variance = 4 * self._v * nu2 + 4 * self._v**2 + mixed.square() * spread
        return variance / self._scale**2

    def _moments(self, answer: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """ν², what the cosine of the lost phase is multiplied with in it, and the variance of that cosine."""
        x, z, a2 = answer.clamp_min(0), self.noisier, self.share**2
        kappa = x * z / self.told**2
        cosine = torch.special.i1e(kappa) / torch.special.i0e(kappa)
        mixed = 2 * a2 * x * z / (1 + a2) ** 2
        nu2 = (a2**2 * x.square() + z.square()) / (1 + a2) ** 2 + mixed * cosine
        share = torch.where(kappa > _SMALL, cosine / kappa.clamp_min(_SMALL), 0.5)  # C/κ, ½ at 0
        return nu2, mixed, (1 - share - cosine.square()).clamp_min(0)

    @property
    def _v(self) -> float:
        return self.share**2 * self.level**2 / (1 + self.share**2)

    @property
    def _scale(self) -> Tensor:
        a2 = self.share**2
        return 2 * a2 / (1 + a2) * (self.noisier.square() + self.level**2).sqrt()


def recorrupt(y: Tensor, level: float, *, share: float, kind: Kind, generator: Generator) -> Recorrupted:
    """Add noise of `share` times the level to a scan that has that level.

    Args:
        y: (B, 1, I, J, K) noisy scan.
        level: σ, above 0.
        share: a, above 0; small is near the scan's own level, large tells more in one go.
        kind: law of the noise that y has and gets.
        generator: on the CPU; the same noise on every device.
    """
    added = share * level * torch.randn((2, *y.shape), generator=generator).to(y)
    z = y + added[0] if kind == "gaussian" else torch.hypot(y + added[0], added[1])
    return Recorrupted(y, z, level, share, kind)
