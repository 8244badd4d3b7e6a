"""Whole heads, image and tissue together: what is asked of them, and the denoiser that draws them.

The state has several channels on one coarse grid: the image first, then the share of each tissue in every voxel. What
is *given* of it is a measurement like any other, with a certainty for each channel: nothing for a free draw, the tissue
for a draw to a mask, the image for a segmentation. Age, sex and contrast are told as numbers; each may be left out.

Every head comes with what an atlas, bent to its shape, expects of each voxel: a mean μ and a variance v. They are the
prior of the preconditioning, in the place of EDM's single σ_d (Karras et al. 2022, section 5), and the network is shown
the bent mean as if it were a blurred measurement of the head that is sought::

    Λ = 1/σ² + 1/v + p        precision of all that is known, per voxel: state, prior N(μ, v), what is given
    m = (x_σ/σ² + μ/v + p y) / Λ
    D = m + Λ^-½ F(x_σ c_in, μ, asinh((m - mean₃ₓ₃ₓ₃ m) Λ^½), 0 ; tissue, μ, given ; certainty, noise, told ; ln c_σ)

The first four channels are those of `Preconditioned`, so that a network that knows such scans can be a beginning: the
bent mean in the place of the measurement.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from medidiff.diffusion.atlas import Atlas, Expected
from medidiff.diffusion.backbone import MAPS
from medidiff.diffusion.denoiser import expand_sigma, local_mean
from medidiff.errors import SettingsError

__all__ = ["Asked", "WholeDenoiser", "whole_loss"]

_GIVEN_ERROR = 0.02  # standard deviation of what is given about what it stands for
_LOSS_FLOOR = 0.01  # as for `restoration_loss`
_TYPICAL = 0.1  # standard deviation of a voxel about what is expected, for the weight of the loss
_TISSUE_SPREAD = 0.3  # standard deviation of a share of tissue about what is expected, where there is any
_MEAN_CERTAINTY = 0.125  # of the bent mean: that of voxels twice as long along each axis
_PARTS = 2  # image and tissue, each given or not


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked of whole heads.

    Args:
        told: (B, T) numbers: of each condition its value, 0 where it is left out, and whether it is told.
        given: (B, C, I, J, K) what is given of the state; counts only where it is certain.
        certainty: (B, C, I, J, K) in [0, 1], 1 where it is given.
        expected: what the atlas expects of each head, (B, C, I, J, K) as well.
    """

    told: Tensor
    given: Tensor
    certainty: Tensor
    expected: Expected

    def __post_init__(self) -> None:
        if self.told.ndim != 2 or self.given.ndim != 5 or len(self.told) != len(self.given):
            found = f"told {tuple(self.told.shape)}, given {tuple(self.given.shape)}"
            raise SettingsError("E-CONDITION", found, wanted="(B, T) and (B, C, I, J, K)")
        object.__setattr__(self, "certainty", self.certainty.to(self.given).expand_as(self.given))

    @classmethod
    def nothing(cls, expected: Expected, told: int) -> Asked:
        """Nothing is told or given of heads but their shapes; `told` is T."""
        zero = torch.zeros_like(expected.mean)
        return cls(zero.new_zeros((len(zero), told)), zero, zero, expected)

    def without(self) -> Asked:
        """The null condition of classifier-free guidance; heads keep their shapes."""
        return Asked.nothing(self.expected, self.told.shape[1])


class WholeDenoiser(nn.Module):
    """``E[x₀ | x_σ, asked]`` for whole heads.

    Args:
        backbone: F, ``(channels (B, inputs, I, J, K), c_noise (B,)) -> (B, C, I, J, K)``.
        atlas: of the training heads; it travels with the network and says what is expected of a head.
        autocast: type that the network computes in; None for float32.
    """

    def __init__(self, backbone: nn.Module, atlas: Atlas, *, autocast: torch.dtype | None = None) -> None:
        super().__init__()
        self.backbone, self.atlas, self.autocast = backbone, atlas, autocast

    @staticmethod
    def inputs(channels: int) -> int:
        """Channels that the network reads but for those that modulate, for a state of so many."""
        return 4 + 2 * (channels - 1) + channels

    @staticmethod
    def maps(told: int) -> int:
        """Channels that modulate: certainty and noise as for `Preconditioned`, what is told, and what is given."""
        return MAPS + told + _PARTS

    def forward(self, x: Tensor, sigma: Tensor, condition: Asked) -> Tensor:
        """(B, C, I, J, K) state, σ as a scalar or (B,) -> (B, C, I, J, K)."""
        level = expand_sigma(torch.as_tensor(sigma), x).expand(len(x), 1, 1, 1, 1)
        given = condition.certainty / _GIVEN_ERROR**2
        prior = condition.expected.deviation.square().reciprocal()
        total = level.pow(-2) + prior + given
        guess = (x * level.pow(-2) + condition.expected.mean * prior + condition.given * given) / total
        c_noise = -0.5 * torch.log1p(level.flatten().pow(-2))
        with torch.autocast(x.device.type, dtype=self.autocast, enabled=self.autocast is not None):
            residual: Tensor = self.backbone(self._channels(x, level, guess, total, condition), c_noise)
        return guess + residual.float() * total.rsqrt()

    def _channels(self, x: Tensor, level: Tensor, guess: Tensor, total: Tensor, condition: Asked) -> Tensor:
        image, c_in = guess[:, :1], (1.0 + level.square()).rsqrt()
        detail = torch.asinh((image - local_mean(image)) * total[:, :1].sqrt())
        mean = condition.expected.mean
        seen = [x[:, :1] * c_in, mean[:, :1], detail, torch.zeros_like(image)]
        tissue = (x - mean)[:, 1:] * (level.square() + _TISSUE_SPREAD**2).rsqrt()
        known = (condition.given - mean) * condition.certainty
        told = condition.told[:, :, None, None, None].expand(-1, -1, *x.shape[-3:])
        measured = [torch.full_like(image, _MEAN_CERTAINTY), torch.zeros_like(image)]
        return torch.cat([*seen, tissue, mean[:, 1:], known, *measured, told, condition.certainty[:, :_PARTS]], dim=1)


def whole_loss(denoiser: WholeDenoiser, x: Tensor, condition: Asked, *, sigma: Tensor, state: Tensor) -> Tensor:
    """Logarithm of each image's weighted squared error, (B,), as `restoration_loss`; the weight is EDM's.

    Args:
        denoiser: what is trained.
        x: (B, C, I, J, K) heads.
        condition: what was told and given of them.
        sigma: (B,) diffusion levels.
        state: (B, C, I, J, K) diffused heads.
    """
    error: Tensor = denoiser(state, sigma, condition) - x
    weight = sigma.pow(-2) + _TYPICAL**-2
    return 0.5 * (weight * error.square().flatten(1).mean(1) + _LOSS_FLOOR).log()
