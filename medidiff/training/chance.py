"""Random draws that depend on a seed and on how many images were seen, and on nothing else."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import torch
from torch import Generator, Tensor

__all__ = ["Chance"]


class Chance:
    """A stream of random choices for one image.

    The same seed and image number give the same choices in any batch, in any process, before and after a restart.

    Args:
        seed: seed of the run.
        image: number of the image, counted from the start of the run.
    """

    def __init__(self, seed: int, image: int) -> None:
        digest = hashlib.sha256(f"{seed}/{image}".encode()).digest()
        self.generator = Generator().manual_seed(int.from_bytes(digest[:7], "big"))

    def uniform(self, low: float, high: float) -> float:
        """A number, evenly from [low, high)."""
        return low + (high - low) * float(torch.rand((), generator=self.generator, dtype=torch.float64))

    def log_uniform(self, low: float, high: float) -> float:
        """A number whose logarithm is drawn evenly."""
        return math.exp(self.uniform(math.log(low), math.log(high)))

    def normal(self, shape: Sequence[int] = ()) -> Tensor:
        """Standard normal float32 numbers."""
        return torch.randn(tuple(shape), generator=self.generator)

    def happens(self, share: float) -> bool:
        """True in this share of the draws."""
        return self.uniform(0.0, 1.0) < share

    def below(self, end: int) -> int:
        """A whole number from 0 to end - 1."""
        return int(torch.randint(end, (), generator=self.generator))

    def pick(self, weights: Sequence[float]) -> int:
        """An index, as often as its weight says."""
        return int(torch.multinomial(torch.tensor(weights, dtype=torch.float64), 1, generator=self.generator))

    def permutation(self, size: int) -> list[int]:
        """The numbers 0 to size - 1 in random order."""
        return [int(i) for i in torch.randperm(size, generator=self.generator)]
