"""Turning: denoiser in, denoiser out that is always shown the worst resolved axis last.

A convolution does not know that a scan of thick sagittal slices and one of thick axial slices are the same problem held
another way; a network that meets slices along any axis must learn it three times, and must find out each time which
axis it is. Training and restoration both turn the scan first, so it meets the one problem.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from medidiff.diffusion.condition import Condition
from medidiff.diffusion.denoiser import Denoiser
from medidiff.errors import SettingsError
from medidiff.physics import Separable

__all__ = ["Turned", "worst_last"]


@dataclass(frozen=True, slots=True)
class Turned:
    """A denoiser that is shown the axes of a volume in another order.

    Args:
        denoiser: D.
        axes: which of the volume's axes I, J, K (0, 1, 2) D is shown first, second and third.

    Raises:
        SettingsError: `axes` does not name each axis once.
    """

    denoiser: Denoiser
    axes: tuple[int, int, int] = (0, 1, 2)

    def __post_init__(self) -> None:
        if sorted(self.axes) != [0, 1, 2]:
            raise SettingsError("E-AXES", f"axes {self.axes}", wanted="each of 0, 1 and 2 once")

    def __call__(self, x: Tensor, sigma: Tensor, condition: Condition | None = None) -> Tensor:
        """(B, 1, I, J, K) answer of D, in the order of x."""
        if self.axes == (0, 1, 2):
            return self.denoiser(x, sigma, condition)
        told = None if condition is None else condition.map(self._turn)
        back = [2 + self.axes.index(axis) for axis in range(3)]
        return self.denoiser(self._turn(x), sigma, told).permute(0, 1, *back)

    def _turn(self, x: Tensor) -> Tensor:
        return x.permute(0, 1, *(2 + axis for axis in self.axes)).contiguous()


def worst_last(operator: Separable, shape: tuple[int, int, int]) -> tuple[int, int, int]:
    """The axes of a fine grid from the best to the worst resolved; those resolved alike keep their order.

    Args:
        operator: A.
        shape: of the fine grid.
    """
    kept = [size if matrix is None else matrix.shape[0] for matrix, size in zip(operator.matrices, shape, strict=True)]
    first, second, third = sorted(range(3), key=lambda axis: shape[axis] / max(kept[axis], 1))
    return first, second, third
