"""Sigma grids: the noise levels that a sampler walks down, from the largest to none.

A grid is a 1-D float64 tensor that decreases and ends in 0; a grid of n + 1 levels takes n steps. All three grids here
share one signature and differ in where they spend their steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from itertools import pairwise

import torch
from torch import Tensor

from medidiff.errors import SettingsError

__all__ = [
    "GRIDS",
    "alpha_bar_from_sigma",
    "cosine",
    "from_alpha_bar",
    "karras",
    "log_linear",
    "sigma_from_alpha_bar",
    "steps_of",
]


def karras(steps: int, sigma_min: float, sigma_max: float, *, rho: float = 7.0) -> Tensor:
    """Evenly spaced in σ^(1/ρ): Karras et al. 2022 (arXiv 2206.00364), eq. 5.

    Args:
        steps: number of steps, at least 1.
        sigma_min: last level above 0, in image units.
        sigma_max: first level; finite.
        rho: 7 spends most steps near sigma_min; 1 spaces σ evenly.

    Returns:
        (steps + 1,) levels.

    Raises:
        SettingsError: the numbers make no grid.

    Example:
        >>> karras(3, 1.0, 4.0, rho=1.0).tolist()
        [4.0, 2.5, 1.0, 0.0]
    """
    _refuse(steps, sigma_min, sigma_max)
    if not (math.isfinite(rho) and rho > 0):
        raise SettingsError("E-SIGMA", f"rho {rho:g}", wanted="a finite number above 0")
    return _close(torch.linspace(sigma_max ** (1 / rho), sigma_min ** (1 / rho), steps, dtype=torch.float64) ** rho)


def log_linear(steps: int, sigma_min: float, sigma_max: float) -> Tensor:
    """Evenly spaced in ln σ, the limit ρ → ∞ of `karras`: each step lowers the noise by the same factor.

    Arguments and errors as for `karras`.
    """
    _refuse(steps, sigma_min, sigma_max)
    return _close(torch.linspace(math.log(sigma_max), math.log(sigma_min), steps, dtype=torch.float64).exp())


def cosine(steps: int, sigma_min: float, sigma_max: float) -> Tensor:
    """The cosine schedule of Nichol & Dhariwal 2021 (arXiv 2102.09672, eq. 17), between two levels.

    Theirs is ``ᾱ = cos² θ`` with θ even in time, and ``σ² = (1 - ᾱ)/ᾱ``; so ``σ = tan θ``, even in the angle.
    Arguments and errors as for `karras`.
    """
    _refuse(steps, sigma_min, sigma_max)
    return _close(torch.linspace(math.atan(sigma_max), math.atan(sigma_min), steps, dtype=torch.float64).tan())


GRIDS: Mapping[str, Callable[[int, float, float], Tensor]] = {
    "karras": karras,
    "log-linear": log_linear,
    "cosine": cosine,
}
"""Grids by name, ``(steps, sigma_min, sigma_max) -> levels``."""


def from_alpha_bar(steps: int, alpha_bar: Tensor) -> Tensor:
    """The levels of a variance-preserving (DDPM) schedule at `steps` of its times, evenly spaced, both ends included.

    Args:
        steps: number of steps, from 1 (the noisiest time only) to the length of `alpha_bar`.
        alpha_bar: (T,) ᾱ_t, in (0, 1], decreasing with time, as `forward.ddpm_alpha_bar` gives.
    """
    if not 1 <= steps <= alpha_bar.numel():
        raise SettingsError("E-STEPS", f"{steps} steps", wanted=f"1 to the schedule's {alpha_bar.numel()}")
    times = torch.linspace(alpha_bar.numel() - 1, 0, steps, dtype=torch.float64).round().long()
    return _close(sigma_from_alpha_bar(alpha_bar.cpu()[times]))


def sigma_from_alpha_bar(alpha_bar: Tensor) -> Tensor:
    """``σ = √((1 - ᾱ)/ᾱ)``, float64: the noise of ``x_vp = √ᾱ x₀ + √(1-ᾱ) n`` once it is divided by √ᾱ."""
    alpha_bar = alpha_bar.double()
    return ((1.0 - alpha_bar) / alpha_bar).sqrt()


def alpha_bar_from_sigma(sigma: Tensor) -> Tensor:
    """``ᾱ = 1/(1 + σ²)``, float64."""
    return 1.0 / (1.0 + sigma.double().square())


def steps_of(sigmas: Tensor) -> list[tuple[Tensor, Tensor]]:
    """A grid as its steps (σ now, σ then), each a float64 scalar on the CPU.

    Args:
        sigmas: (n + 1,) levels. ``(inf, 0)`` is one step to the posterior mean; a step from infinity to a finite level
            would need noise that no state holds, so such a draw begins with `start.informed` instead.

    Raises:
        SettingsError: not a decreasing list of at least two levels that ends in 0.
    """
    levels = sigmas.detach().to("cpu", torch.float64)
    if levels.ndim != 1 or levels.numel() < 2 or levels[-1] != 0 or not bool((levels.diff() < 0).all()):
        raise SettingsError("E-SIGMA", "levels that are no sigma grid", wanted="a decreasing 1-D tensor that ends in 0")
    if torch.isinf(levels[0]) and levels.numel() > 2:
        raise SettingsError(
            "E-SIGMA",
            "a step from an infinite noise level to a finite one",
            mend="Take D(x, inf) as the mean of an informed start, and begin the grid at that start's level.",
        )
    return list(pairwise(levels))


def _refuse(steps: int, sigma_min: float, sigma_max: float) -> None:
    if steps < 1:
        raise SettingsError("E-STEPS", f"{steps} steps", wanted="at least 1")
    if not 0.0 < sigma_min < sigma_max < math.inf:
        raise SettingsError(
            "E-SIGMA", f"noise levels {sigma_min:g} to {sigma_max:g}", wanted="0 < sigma_min < sigma_max < infinity"
        )


def _close(levels: Tensor) -> Tensor:
    return torch.cat([levels, levels.new_zeros(1)])
