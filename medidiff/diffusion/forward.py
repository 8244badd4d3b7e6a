"""The usual names: the variance-preserving process of DDPM and DDIM, in terms of our σ-denoiser.

DDPM (Ho et al. 2020, arXiv 2006.11239) keeps its state at unit size, ``x_t = √ᾱ_t x₀ + √(1 - ᾱ_t) ε`` (eq. 4). Divided
by √ᾱ_t that is ``x₀ + σ n`` with ``σ² = (1 - ᾱ)/ᾱ``, so ``x_vp = x_σ / √(1 + σ²)`` and nothing but the scale differs:

* `ddim` with η = 0 is `samplers.euler` on the grid of the same ᾱ;
* `ddpm_ancestral` is `samplers.ancestral`.

Both equalities are tests. Use the samplers; this file is for reading, and for those who come from DDPM.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, get_args

import torch
from torch import Generator, Tensor

from medidiff.diffusion.condition import Condition
from medidiff.diffusion.denoiser import Denoiser, expand_sigma
from medidiff.diffusion.draws import noise_like
from medidiff.diffusion.sigma import sigma_from_alpha_bar
from medidiff.errors import SettingsError

__all__ = ["BetaKind", "ddim", "ddpm_alpha_bar", "ddpm_ancestral", "ddpm_betas", "q_sample"]

BetaKind = Literal["linear", "cosine"]

_COSINE_OFFSET = 0.008  # keeps the first β from vanishing: Nichol & Dhariwal 2021, eq. 17
_LARGEST_BETA = 0.999


def ddpm_betas(kind: BetaKind, steps: int) -> Tensor:
    """β_t, the variance that forward step t adds, (steps,) float64.

    ``"linear"`` is Ho et al.'s 1e-4 to 0.02 over 1000 steps, raised by 1000/steps so that fewer steps end as noisy;
    ``"cosine"`` is Nichol & Dhariwal 2021 (arXiv 2102.09672, eq. 17).
    """
    if kind not in get_args(BetaKind) or steps < 1:
        raise SettingsError(
            "E-BETAS", f"{steps} steps of kind '{kind}'", wanted="at least 1, " + " or ".join(get_args(BetaKind))
        )
    if kind == "linear":
        betas = torch.linspace(1e-4, 0.02, steps, dtype=torch.float64) * (1000 / steps)
    else:
        time = torch.arange(steps + 1, dtype=torch.float64) / steps
        alpha_bar = (math.pi / 2 * (time + _COSINE_OFFSET) / (1 + _COSINE_OFFSET)).cos().square()
        betas = 1 - alpha_bar[1:] / alpha_bar[:-1]
    return betas.clamp_max(_LARGEST_BETA)


def ddpm_alpha_bar(kind: BetaKind, steps: int) -> Tensor:
    """ᾱ_t, the share of x₀'s variance that is left after step t, (steps,) float64."""
    return (1 - ddpm_betas(kind, steps)).cumprod(0)


def q_sample(x0: Tensor, t: int | Tensor, alpha_bar: Tensor, *, noise: Tensor) -> Tensor:
    """The forward process in one go, ``x_t = √ᾱ_t x₀ + √(1 - ᾱ_t) ε``: Ho et al. 2020, eq. 4.

    Args:
        x0: (B, 1, I, J, K) clean images.
        t: time, counted from 0; one number, or (B,).
        alpha_bar: (T,) schedule.
        noise: ε, standard normal, like x0.
    """
    left = expand_sigma(alpha_bar.to(x0.device)[t], x0)
    return left.sqrt() * x0 + (1 - left).sqrt() * noise


@torch.no_grad()
def ddpm_ancestral(
    denoiser: Denoiser,
    x: Tensor,
    alpha_bar: Tensor,
    *,
    condition: Condition | None = None,
    generators: Sequence[Generator] = (),
) -> Tensor:
    """Ho et al. 2020, algorithm 2: mean from eq. 11, variance ``β̃_t`` from eq. 7.

    Args:
        denoiser: D, in σ form.
        x: (B, 1, I, J, K) state x_T, of about unit size.
        alpha_bar: (T,) schedule, or a part of it: one step each, last entry first.
        condition: what was measured.
        generators: one per image.
    """
    for now, then in _backwards(alpha_bar):
        alpha, beta = now / then, 1 - now / then
        noise = _noise_in(x, denoiser(x / now.sqrt(), sigma_from_alpha_bar(now), condition), now)
        x = (x - beta / (1 - now).sqrt() * noise) / alpha.sqrt()
        if then < 1:
            x = x + ((1 - then) / (1 - now) * beta).sqrt() * noise_like(x, generators)
    return x


@torch.no_grad()
def ddim(
    denoiser: Denoiser,
    x: Tensor,
    alpha_bar: Tensor,
    *,
    condition: Condition | None = None,
    generators: Sequence[Generator] = (),
    eta: float = 0.0,
) -> Tensor:
    """Song et al. 2021 (arXiv 2010.02502), eq. 12 with eq. 16 for its noise; η = 1 is `ddpm_ancestral`.

    Arguments as for `ddpm_ancestral`; `eta`, the share of its fresh noise, is 0 to 1.
    """
    if not 0.0 <= eta <= 1.0:
        raise SettingsError("E-ETA", f"eta {eta:g}", wanted="0 to 1")
    for now, then in _backwards(alpha_bar):
        clean = denoiser(x / now.sqrt(), sigma_from_alpha_bar(now), condition)
        fresh = eta * ((1 - then) / (1 - now) * (1 - now / then)).sqrt()
        kept = (1 - then - fresh.square()).clamp_min(0).sqrt()
        x = then.sqrt() * clean + kept * _noise_in(x, clean, now)
        if fresh > 0:
            x = x + fresh * noise_like(x, generators)
    return x


def _noise_in(x: Tensor, clean: Tensor, alpha_bar: Tensor) -> Tensor:
    """ε of eq. 4, once x₀ is taken to be `clean`."""
    return (x - alpha_bar.sqrt() * clean) / (1 - alpha_bar).sqrt()


def _backwards(alpha_bar: Tensor) -> list[tuple[Tensor, Tensor]]:
    """(ᾱ_t, ᾱ_{t-1}) from the noisiest step to the last, where ᾱ = 1."""
    levels = alpha_bar.detach().to("cpu", torch.float64)
    if (
        levels.ndim != 1
        or not levels.numel()
        or not bool(((levels > 0) & (levels < 1)).all() & (levels.diff() < 0).all())
    ):
        raise SettingsError("E-BETAS", "no schedule of alpha-bar", wanted="decreasing numbers between 0 and 1")
    levels = torch.cat([levels.new_ones(1), levels]).flip(0)
    return list(pairwise(levels))
