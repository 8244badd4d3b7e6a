"""The preconditioned denoiser: from a bare network F to ``D(x_σ, σ, y) = E[x₀ | x_σ, y]``, and the loss that trains it.

Karras et al. 2022 (arXiv 2206.00364, section 5) wrap a network so that it always sees and makes numbers of about unit
size, whatever σ. Here *two* things are known about x₀, the diffusion state x_σ (error σ) and the measurement, spread
smoothly to y_s (error p_y^-½). The skip connection is the best linear guess from both and from the prior N(0, σ_d²)::

    p_y = c / (c σ_y² + (1 - c) σ_n²)            precision of y_s where its certainty is c
    Λ   = 1/σ² + p_y + 1/σ_d²                    precision of all that is known, per voxel
    m   = (x_σ/σ² + y_s p_y) / Λ                 best linear guess, whose error is about Λ^-½
    D   = m + Λ^-½ F(σ_d x_σ c_in, y_s, asinh((m - mean₃ₓ₃ₓ₃ m) Λ^½), asinh((A⁺y - y_s) Λ^½), c, ln σ_y ; ln c_σ)

A⁺y is a staircase; what it has more than y_s tells the network where each slice begins and ends.

With p_y = 0 this is EDM's own preconditioning. Because 1/σ² = 0 is an ordinary number, **σ = ∞ is legal**: x_σ then
tells nothing and D is the posterior mean ``E[x₀ | y]`` in one evaluation.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Protocol

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as nnf

from medidiff.diffusion.condition import Condition

__all__ = ["Denoiser", "Preconditioned", "diffuse", "expand_sigma", "local_mean", "restoration_loss", "with_noise"]

NOISE_FLOOR = 1e-3  # σ_y below 0.1 % of the tissue maximum is treated as that: finer than any scan
_LOSS_FLOOR = 0.01  # δ: share of the network's unit target below which an image's error no longer matters
_LN_NOISE_MID, _LN_NOISE_SPAN = -3.5, 1.5  # ln σ_y of 0.7 % … 25 % noise becomes about -1 … 1


class Denoiser(Protocol):
    """Anything that answers with ``E[x₀ | x_σ, y]``: a network, an exact formula, or a wrapper round another one."""

    def __call__(self, x: Tensor, sigma: Tensor, condition: Condition | None = None) -> Tensor:
        """(B, 1, I, J, K) state, σ as a scalar or (B,), what was measured -> (B, 1, I, J, K)."""
        ...


def expand_sigma(sigma: Tensor, like: Tensor) -> Tensor:
    """σ, a scalar or (B,), shaped to multiply the (B, C, I, J, K) tensor `like`."""
    return sigma.to(like).reshape(-1, *([1] * (like.ndim - 1)))


def diffuse(x: Tensor, sigma: Tensor, generator: Generator) -> Tensor:
    """The forward process at one level, with noise from a generator; see `with_noise`."""
    return with_noise(x, sigma, torch.randn(x.shape, dtype=x.dtype, device=x.device, generator=generator))


def with_noise(x: Tensor, sigma: Tensor, noise: Tensor) -> Tensor:
    """``x_σ = x₀ + σ n`` for standard normal n; where σ is infinite, zero, since nothing of x₀ is left."""
    level = expand_sigma(sigma, x)
    return torch.where(torch.isinf(level), 0.0, x + level.nan_to_num(posinf=0.0) * noise)


class Preconditioned(nn.Module):
    """A `Denoiser` made of a network.

    Args:
        backbone: F, ``(channels (B, 6, I, J, K), c_noise (B,)) -> (B, 1, I, J, K)``.
        sigma_data: σ_d, standard deviation of clean images about their mean.
        sigma_detail: σ_n, standard deviation of what slices twice as thick as the voxels do not fix; (k - 1)^½ σ_n for
            slices k times as thick.
        autocast: type that the network computes in, e.g. ``torch.bfloat16`` on a GPU; None leaves it in float32. The
            preconditioning always stays in float32.
    """

    channels = 6

    def __init__(
        self, backbone: nn.Module, *, sigma_data: float, sigma_detail: float, autocast: torch.dtype | None = None
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.sigma_data, self.sigma_detail, self.autocast = sigma_data, sigma_detail, autocast

    def precision(self, sigma: Tensor, condition: Condition) -> tuple[Tensor, Tensor]:
        """Λ and p_y, both (B, 1, I, J, K)."""
        certainty = condition.certainty
        noise = condition.noise.clamp_min(NOISE_FLOOR)
        measured = certainty / (certainty * noise.square() + (1.0 - certainty) * self.sigma_detail**2)
        return expand_sigma(sigma, condition.image).pow(-2) + measured + self.sigma_data**-2, measured

    def forward(self, x: Tensor, sigma: Tensor, condition: Condition | None = None) -> Tensor:
        """``E[x₀ | x_σ, y]``, (B, 1, I, J, K)."""
        condition = Condition.null(x) if condition is None else condition
        level = expand_sigma(torch.as_tensor(sigma), x).expand(x.shape[0], 1, 1, 1, 1)
        total, measured = self.precision(level.flatten(), condition)
        guess = (x * level.pow(-2) + condition.image * measured) / total
        precise = total.sqrt()
        detail = torch.asinh((guess - local_mean(guess)) * precise)
        if condition.stairs is None:
            steps = torch.zeros_like(guess)
        else:
            steps = torch.asinh((condition.stairs - condition.image) * precise)
        c_in = (1.0 + (level / self.sigma_data).square()).rsqrt()  # EDM's, times σ_d; 0 where σ is infinite
        ln_noise = (condition.noise.clamp_min(NOISE_FLOOR).log() - _LN_NOISE_MID) / _LN_NOISE_SPAN
        told = [x * c_in, condition.image, detail, steps, condition.certainty, ln_noise * (condition.certainty > 0)]
        c_noise = -0.5 * torch.log1p((self.sigma_data / level.flatten()).square())  # ln σ/σ_d when small, 0 at infinity
        with self._precision_of_network(x.device):
            residual: Tensor = self.backbone(torch.cat(told, dim=1), c_noise)
        return guess + residual.float() * total.rsqrt()

    def _precision_of_network(self, device: torch.device) -> torch.autocast | nullcontext[None]:
        return nullcontext() if self.autocast is None else torch.autocast(device.type, dtype=self.autocast)


def restoration_loss(
    denoiser: Preconditioned, x: Tensor, condition: Condition, *, sigma: Tensor, state: Tensor
) -> Tensor:
    """Logarithm of each image's weighted squared error, (B,).

    ``½ ln(mean over voxels of Λ |D(x_σ, σ, y) - x₀|² + δ)``. The mean is EDM's loss, for which the network's own
    target has unit size. Its attainable value differs a hundredfold between easy and hopeless images, which would
    drown the easy ones; Karras et al. 2024 (arXiv 2312.02696, eq. 14) learn an uncertainty u for each level and
    minimise ``L e^-u + u``. The best u for each image by itself is ln L, which leaves ``ln L + 1``: every image then
    counts by its relative error, as PSNR does. δ keeps nearly empty images from counting for more than the others.

    Args:
        denoiser: what is trained.
        x: (B, 1, I, J, K) clean images.
        condition: what was measured of them.
        sigma: (B,) diffusion levels, infinity allowed.
        state: (B, 1, I, J, K) `diffuse(x, sigma)`.
    """
    error: Tensor = denoiser(state, sigma, condition) - x
    total, _ = denoiser.precision(sigma, condition)
    return 0.5 * ((total * error.square()).flatten(1).mean(1) + _LOSS_FLOOR).log()


def local_mean(x: Tensor) -> Tensor:
    """Mean of the 3 x 3 x 3 voxels about each, those beyond the faces left out."""
    short = [axis for axis in (2, 3, 4) if x.shape[axis] < 3]  # a voxel's neighbours are the whole axis
    if short:
        x = x.mean(short, keepdim=True).expand_as(x)
    sides = [1 if axis in short else 3 for axis in (2, 3, 4)]
    return nnf.avg_pool3d(x, sides, stride=1, padding=[side // 2 for side in sides], count_include_pad=False)
