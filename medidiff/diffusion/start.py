"""Where a draw starts: a state at the first level of the grid.

The right state at level σ is ``x₀ + σ n`` with x₀ drawn from ``p(x₀ | y)``, which is what is sought. What can be had
instead is a good centre, and noise about it. Where σ is infinite a state tells nothing, and is zero.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from medidiff.diffusion.condition import Condition
from medidiff.diffusion.draws import noise_like

__all__ = ["bridge", "from_noise", "informed"]


def from_noise(
    shape: Sequence[int],
    sigma: float | Tensor,
    generators: Sequence[Generator],
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Tensor:
    """``σ n``: from nothing, as for synthesis. Right when σ is far above the spread of clean images about zero.

    Args:
        shape: (B, 1, I, J, K).
        sigma: first level of the grid.
        generators: one per image.
        dtype: type of the state.
        device: where the state lives.
    """
    return informed(torch.zeros(tuple(shape), dtype=dtype, device=device), sigma, generators)


def informed(mean: Tensor, sigma: float | Tensor, generators: Sequence[Generator]) -> Tensor:
    """``m + σ n``, with m the posterior mean ``D(·, ∞, y)``: what one evaluation knows, blurred just so far.

    It leaves out the spread v^½ of the posterior about its mean, so the state, and with it the draws, are too narrow by
    the factor ``σ/√(σ² + v)``: 11 % at σ = 2 v^½, 5 % at 3, 2 % at 5. Start there or above.

    Args:
        mean: (B, 1, I, J, K); one mean may be expanded to many draws.
        sigma: first level of the grid.
        generators: one per image.
    """
    return _blur(mean, torch.as_tensor(sigma).to(mean), generators)


def bridge(
    condition: Condition, sigma: float | Tensor, generators: Sequence[Generator], *, sigma_detail: float = 0.0
) -> Tensor:
    """``y_s`` with the noise that the measurement lacks: ``y_s + √(max(σ² - σ_y², 0) + (1 - c) σ_n²) n``.

    With certainty c = 1 and Gaussian noise, ``y_s = y`` is itself a state at level σ_y: this is exactly ``x₀ + σ n``
    for every σ ≥ σ_y; below σ_y it is noisier than it says. Where c < 1 the detail that was not measured is replaced by
    noise of its size, which is right in spread, not in shape, so σ should be well above σ_n. Where c = 0, y_s carries
    no noise: full σ is added.

    Args:
        condition: what was measured.
        sigma: first level of the grid.
        generators: one per image.
        sigma_detail: σ_n, standard deviation of what a coarser measurement does not fix.
    """
    level = torch.as_tensor(sigma).to(condition.image)
    carried = torch.where(condition.certainty > 0, condition.noise, 0.0)
    variance = (level.square() - carried.square()).clamp_min(0) + (1 - condition.certainty) * sigma_detail**2
    return _blur(condition.image, variance.sqrt(), generators)


def _blur(centre: Tensor, spread: Tensor, generators: Sequence[Generator]) -> Tensor:
    noise = noise_like(centre, generators)
    return torch.where(torch.isinf(spread), 0.0, centre + spread.nan_to_num(posinf=0.0) * noise)
