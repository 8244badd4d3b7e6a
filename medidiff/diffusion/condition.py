"""What the network is told about the measurement, on the grid of the volume that is sought."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from medidiff.errors import SettingsError
from medidiff.physics import Separable
from medidiff.physics.contrast import Curve

__all__ = ["LEAST_CERTAINTY", "Condition", "observe", "observe_contrast"]

LEAST_CERTAINTY = 0.02


@dataclass(frozen=True, slots=True)
class Condition:
    """A measurement `y`, as the network sees it.

    Denoising has certainty 1 everywhere, super-resolution by k has 1/k, and with certainty 0 nothing was measured at
    all, which is synthesis and the null condition of classifier-free guidance.

    Args:
        image: (B, 1, I, J, K) what was seen: the smoothest volume z with ``A z = y``, which is y itself for denoising.
        certainty: ``diag(A⁺ A)`` in [0, 1], the share of each voxel that `y` fixes; broadcasts to `image`.
        noise: σ_y, standard deviation of the measurement's noise in image units; broadcasts to `image`.
        stairs: ``A⁺ y``, the smallest explanation, whose steps show where each sample begins and ends; broadcasts to
            `image`, which it is equal to for denoising and where it is left out. Of another contrast it is y itself.
    """

    image: Tensor
    certainty: Tensor
    noise: Tensor
    stairs: Tensor | None = None

    def __post_init__(self) -> None:
        if self.image.ndim != 5 or self.image.shape[1] != 1:
            raise SettingsError(
                "E-CONDITION", f"a condition of shape {tuple(self.image.shape)}", wanted="(B, 1, I, J, K)"
            )
        object.__setattr__(self, "certainty", self.certainty.to(self.image).expand_as(self.image))
        object.__setattr__(self, "noise", self.noise.to(self.image).expand_as(self.image))
        if self.stairs is not None:
            object.__setattr__(self, "stairs", self.stairs.to(self.image).expand_as(self.image))

    @classmethod
    def null(cls, like: Tensor) -> Condition:
        """Nothing was measured; `like` gives shape, type and device."""
        zero = torch.zeros_like(like[:, :1])
        return cls(zero, zero, zero + 1.0)

    def without(self) -> Condition:
        """The null condition of classifier-free guidance."""
        return Condition.null(self.image)

    def map(self, change: Callable[[Tensor], Tensor]) -> Condition:
        """The same change to all maps, e.g. a crop, a flip or a move to another device."""
        stairs = None if self.stairs is None else change(self.stairs)
        return Condition(change(self.image), change(self.certainty), change(self.noise), stairs)


def observe(y: Tensor, operator: Separable, noise: float | Tensor) -> Condition:
    """Tell the network of a measurement: ``(A^s y, diag(A⁺A), σ_y, A⁺y)`` with ``A^s y`` from `Separable.smoothest`.

    A voxel that no sample reaches, in a gap or beyond the last slice, is told with certainty `LEAST_CERTAINTY`, because
    its neighbours in ``A^s y`` say something of it. Where nothing at all was measured the certainty is 0.

    Args:
        y: (B, 1, i, j, k) measurement.
        operator: A.
        noise: σ_y, a number, or a map that broadcasts to `y`; a map is spread to the fine grid as the image is.
    """
    image = operator.smoothest(y)
    level = torch.as_tensor(noise, dtype=y.dtype, device=y.device)
    if level.numel() == 1:
        level = level.reshape(1, 1, 1, 1, 1)
    elif not operator.is_identity:
        level = operator.smoothest(level.expand_as(y)).clamp_min(0)
    if operator.is_identity or operator.measures_nothing:
        return Condition(image, operator.certainty(image.shape[-3:])[None, None], level)
    certainty = operator.certainty(image.shape[-3:])[None, None].clamp_min(LEAST_CERTAINTY)
    return Condition(image, certainty, level, operator.pinv(y))


def observe_contrast(y: Tensor, curve: Curve) -> Condition:
    """Tell the network of a scan in another contrast: ``(E[x | y], 1, sd(x | y), y)``, voxel by voxel.

    Every voxel was measured, each with an error of its own: what its brightness leaves open. What the brightness
    of a voxel cannot tell, its surround may, and that is the network's part.

    Args:
        y: (B, 1, I, J, K) scan in the contrast that the curve reads, tissue maximum about 1.
        curve: of the contrast that is sought.
    """
    return Condition(curve.mean(y), torch.ones_like(y), curve.spread(y), y)
