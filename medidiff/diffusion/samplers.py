"""Samplers: from a noisy state down a sigma grid to a draw, with the loop in sight.

The state is ``x_σ = x₀ + σ n``. Along the probability flow of Karras et al. 2022 (arXiv 2206.00364, eqs. 1 and 3)::

    dx/dσ = (x - D(x, σ)) / σ

Every step is written as ``D + (σ'/σ)(x - D)``: the last one, to σ' = 0, lands on D exactly, and a step from σ = ∞ is
legal. Levels are float64 whatever the type of the state. Gradients are off: a denoiser that needs them turns them on
for itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Generator, Tensor

from medidiff.diffusion.condition import Condition
from medidiff.diffusion.denoiser import Denoiser
from medidiff.diffusion.draws import noise_like
from medidiff.diffusion.sigma import steps_of
from medidiff.errors import SettingsError

__all__ = ["SAMPLERS", "Sampler", "ancestral", "dpmpp_2m", "euler", "heun"]


class Sampler(Protocol):
    """What every sampler looks like; those that draw no noise accept `generators` and leave them alone."""

    def __call__(
        self,
        denoiser: Denoiser,
        x: Tensor,
        sigmas: Tensor,
        *,
        condition: Condition | None = None,
        generators: Sequence[Generator] = (),
    ) -> Tensor:
        """(B, 1, I, J, K) state at the grid's first level -> (B, 1, I, J, K) draws.

        Args:
            denoiser: D.
            x: state, e.g. from `start`.
            sigmas: (n + 1,) sigma grid.
            condition: what was measured, handed to the denoiser.
            generators: one per image, for fresh noise.
        """
        ...


@torch.no_grad()
def euler(
    denoiser: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    *,
    condition: Condition | None = None,
    generators: Sequence[Generator] = (),
) -> Tensor:
    """Euler's method, order 1, one evaluation a step; on a DDPM grid this is DDIM. Arguments as for `Sampler`."""
    for now, then in steps_of(sigmas):
        clean = denoiser(x, now, condition)
        x = clean + then / now * (x - clean)
    return x


@torch.no_grad()
def heun(
    denoiser: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    *,
    condition: Condition | None = None,
    generators: Sequence[Generator] = (),
) -> Tensor:
    """Heun's method, order 2, two evaluations a step and one in the last: Karras et al. 2022, algorithm 1.

    Arguments as for `Sampler`.
    """
    for now, then in steps_of(sigmas):
        clean = denoiser(x, now, condition)
        ahead = clean + then / now * (x - clean)
        if then > 0:
            slope = (x - clean) / now + (ahead - denoiser(ahead, then, condition)) / then
            ahead = x + (then - now) * slope / 2
        x = ahead
    return x


@torch.no_grad()
def dpmpp_2m(
    denoiser: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    *,
    condition: Condition | None = None,
    generators: Sequence[Generator] = (),
) -> Tensor:
    """DPM-Solver++(2M), order 2, one evaluation a step: Lu et al. 2022 (arXiv 2211.01095), algorithm 2.

    With ``h = ln σ - ln σ'``, D is carried half a step on along the line through its last two values. The last step has
    no end in ln σ and is Euler's. Arguments as for `Sampler`.
    """
    before, h_before = x, torch.tensor(math.inf)  # no step before the first: the weight of `before` is 0
    for now, then in steps_of(sigmas):
        clean = denoiser(x, now, condition)
        h = (now / then).log()
        guess = clean + h / (2 * h_before) * (clean - before) if then > 0 else clean
        x = guess + then / now * (x - guess)
        before, h_before = clean, h
    return x


@torch.no_grad()
def ancestral(
    denoiser: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    *,
    condition: Condition | None = None,
    generators: Sequence[Generator] = (),
    eta: float = 1.0,
) -> Tensor:
    """Euler's method to below the next level, and fresh noise up to it; order 1, one evaluation a step.

    With η = 1 the fresh noise is that of ``q(x_σ' | x_σ, x₀)``, ``σ'√(1 - σ'²/σ²)``, and the step is DDPM's (Ho et al.
    2020, arXiv 2006.11239, eq. 7); η = 0 is `euler`. With few steps draws are too smooth: that noise leaves out how far
    the denoiser's answer may be off, which is the larger the longer the step.

    Arguments as for `Sampler`; `eta` is at least 0.
    """
    if not (math.isfinite(eta) and eta >= 0):
        raise SettingsError("E-ETA", f"eta {eta:g}", wanted="a finite number of at least 0")
    for now, then in steps_of(sigmas):
        clean = denoiser(x, now, condition)
        fresh = torch.minimum(eta * then * (1 - (then / now).square()).sqrt(), then)
        x = clean + (then.square() - fresh.square()).sqrt() / now * (x - clean)
        if fresh > 0:
            x = x + fresh * noise_like(x, generators)
    return x


SAMPLERS: Mapping[str, Sampler] = {"euler": euler, "heun": heun, "dpmpp-2m": dpmpp_2m, "ancestral": ancestral}
"""Samplers by the name that the command line knows."""
