"""Classifier-free guidance: denoiser in, denoiser out.

Ho & Salimans 2022 (arXiv 2207.12598, eq. 6) move along the line from what the denoiser would answer without the
condition to what it answers with it::

    D_w(x, σ, y) = D(x, σ, ∅) + w (D(x, σ, y) - D(x, σ, ∅))

Here w is their w + 1, and ∅ is `condition.without()`, nothing measured or told. w = 1 is plain conditioning,
w = 0 forgets the measurement, and w > 1 exaggerates what it says, so the answer is then no posterior mean and its draws
no draws from the posterior.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from medidiff.diffusion.condition import Condition
from medidiff.diffusion.denoiser import Denoiser
from medidiff.errors import SettingsError

__all__ = ["ClassifierFree"]


@dataclass(frozen=True, slots=True)
class ClassifierFree:
    """A denoiser that follows its condition more, or less, than it should.

    Args:
        denoiser: D; it must have met the null condition in training.
        scale: w, at least 0. 1 changes nothing and costs nothing; any other but 0 costs a second evaluation.
    """

    denoiser: Denoiser
    scale: float = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.scale) and self.scale >= 0):
            raise SettingsError("E-GUIDANCE", f"guidance scale {self.scale:g}", wanted="a finite number of at least 0")

    def __call__(self, x: Tensor, sigma: Tensor, condition: Condition | None = None) -> Tensor:
        """D_w, (B, 1, I, J, K); without a condition there is nothing to guide, and this is D."""
        if self.scale == 1.0 or condition is None:
            return self.denoiser(x, sigma, condition)
        without = self.denoiser(x, sigma, condition.without())
        if self.scale == 0.0:
            return without
        return without + self.scale * (self.denoiser(x, sigma, condition) - without)
