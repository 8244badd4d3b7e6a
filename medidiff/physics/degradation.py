"""What a scanner did: an operator and a noise, in that order."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Generator, Tensor

from medidiff.physics.noise import Noise
from medidiff.physics.separable import Separable

__all__ = ["Degradation"]


@dataclass(frozen=True, slots=True)
class Degradation:
    """``y = N(A x)``.

    Args:
        operator: A, what each sample sees of the fine volume.
        noise: N, added after it.
    """

    operator: Separable
    noise: Noise

    def observe(self, x: Tensor, generator: Generator) -> Tensor:
        """One measurement, (..., i, j, k), of a fine volume, (..., I, J, K)."""
        return self.noise.apply(self.operator(x), generator)
