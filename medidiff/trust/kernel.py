"""A function of a few numbers that was learned from examples: kernel ridge regression."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["KernelRidge"]

_FARTHEST = 6.0  # standard deviations: what lies further out counts as lying there
_WIDTH = 2.0  # of the kernel, in standard deviations
_RIDGE = 0.1

Numbers = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class KernelRidge:
    """Regularised least squares with a Gaussian kernel (Rifkin, Yeo & Poggio, NATO Sci. Ser. III 190:131, 2003).

    Args:
        middle: (F,) of the numbers, which are held against it.
        scale: (F,) above 0, their standard deviations.
        centres: (N, F) the examples, in standard deviations from the middle.
        weights: (N,) of the kernels around them.
    """

    middle: Numbers
    scale: Numbers
    centres: Numbers
    weights: Numbers

    def __call__(self, numbers: Numbers) -> float:
        """What is expected of these numbers (F,); 0 far from all examples."""
        at = _scaled(numbers, self.middle, self.scale)
        return float(_kernel(at[None], self.centres)[0] @ self.weights)

    @classmethod
    def fitted(cls, numbers: NDArray[np.float64], wanted: NDArray[np.float64]) -> KernelRidge:
        """From examples, those above 0 and those below counting as much as each other.

        Args:
            numbers: (N, F).
            wanted: (N,), some above 0, some below; the numbers of the latter set middle and scale.
        """
        below, middle, above = np.percentile(numbers[wanted < 0], (16, 50, 84), axis=0)
        scale = np.maximum((above - below) / 2, 1e-6)
        centres = _scaled(numbers.astype(np.float32), middle, scale)
        share = np.where(wanted > 0, (wanted > 0).mean(), (wanted < 0).mean())
        weights = np.linalg.solve(_kernel(centres, centres) + np.diag(2 * _RIDGE * share), wanted)
        return cls(*(np.asarray(each, dtype=np.float32) for each in (middle, scale, centres, weights)))


def _scaled(numbers: Numbers, middle: Numbers, scale: Numbers) -> Numbers:
    return np.asarray(np.clip((numbers - middle) / scale, -_FARTHEST, _FARTHEST), dtype=np.float32)


def _kernel(some: Numbers, others: Numbers) -> NDArray[np.float64]:
    """(M, N) from points (M, F) and (N, F)."""
    some, others = some.astype(np.float64), others.astype(np.float64)
    apart = np.square(some).sum(axis=1)[:, None] + np.square(others).sum(axis=1) - 2 * some @ others.T
    return np.asarray(np.exp(-np.maximum(apart, 0) / (2 * _WIDTH**2)))
