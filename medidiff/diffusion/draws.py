"""Randomness of draws: every draw has a generator of its own, so it does not depend on its neighbours in the batch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Generator, Tensor

from medidiff.errors import SettingsError

__all__ = ["generators_for", "noise_like"]


def generators_for(seed: int, draws: Sequence[int]) -> list[Generator]:
    """One generator for each numbered draw; draw 3 of seed 7 is always the same, whatever is drawn beside it.

    They live on the CPU, so that a draw starts from the same noise on every device.

    Args:
        seed: at least 0.
        draws: their numbers, at least 0, e.g. ``range(8)``, or ``[5]`` to draw the sixth again.

    Example:
        >>> first, again = generators_for(7, [3]), generators_for(7, range(4))
        >>> bool((noise_like(torch.zeros(1, 2), first) == noise_like(torch.zeros(4, 2), again)[3]).all())
        True
    """
    if seed < 0 or min(draws, default=0) < 0:
        raise SettingsError("E-SEED", f"seed {seed}, draws {list(draws)}", wanted="numbers of at least 0")
    states = (np.random.SeedSequence((seed, draw)).generate_state(2) for draw in draws)
    return [Generator().manual_seed(int(high) << 31 | int(low) >> 1) for high, low in states]


def noise_like(x: Tensor, generators: Sequence[Generator]) -> Tensor:
    """Standard normal noise of x's shape, type and device, (B, ...); image b's comes from generator b alone.

    Raises:
        SettingsError: not one generator per image.
    """
    if len(generators) != x.shape[0]:
        raise SettingsError(
            "E-SEED", f"{len(generators)} random generators for {x.shape[0]} images", wanted="one for each image"
        )
    each = [torch.randn(x.shape[1:], dtype=x.dtype, device=g.device, generator=g) for g in generators]
    return torch.stack([noise.to(x.device) for noise in each])
