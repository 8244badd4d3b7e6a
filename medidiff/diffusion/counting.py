"""Counting: denoiser in, denoiser out that tells how far a long piece of work has come."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from medidiff.diffusion.condition import Condition
from medidiff.diffusion.denoiser import Denoiser

__all__ = ["Counted"]


class Counted:
    """A denoiser that counts its evaluations.

    Args:
        denoiser: D.
        progress: called after each evaluation with the number done and `total`, which whoever knows it sets.
    """

    def __init__(self, denoiser: Denoiser, progress: Callable[[int, int], None] | None) -> None:
        self.denoiser, self.progress, self.done, self.total = denoiser, progress, 0, 0

    def __call__(self, x: Tensor, sigma: Tensor, condition: Condition | None = None) -> Tensor:
        """(B, 1, I, J, K) the answer of D."""
        answer = self.denoiser(x, sigma, condition)
        self.done += 1
        if self.progress is not None:
            self.progress(self.done, self.total)
        return answer
