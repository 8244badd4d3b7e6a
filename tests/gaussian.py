"""Images whose every answer is known: N(μ, s²) in every voxel, independently.

Then ``D(x, σ) = (x s² + μ σ²)/(s² + σ²)``, and the probability flow has the solution
``x(σ) = μ + (x_T - μ) √((s² + σ²)/(s² + σ_T²))``.
"""

from __future__ import annotations

import pytest
import torch

MEAN, SPREAD = 0.3, 0.5


def exact(x, sigma, condition=None):
    """E[x₀ | x_σ]; written with 1/σ², so that σ = ∞ is an ordinary number."""
    precision = torch.as_tensor(sigma).to(x).reshape(-1, 1, 1, 1, 1).pow(-2)
    return (x * precision + MEAN / SPREAD**2) / (precision + SPREAD**-2)


def clean_images(generator):
    return MEAN + SPREAD * torch.randn((2, 1, 30, 30, 30), dtype=torch.float64, generator=generator)


def is_a_state_at(level, x, clean):
    """x is x₀ + σ n: the difference is white noise of that size, and tells nothing about x₀."""
    noise = x - clean
    assert noise.std().item() == pytest.approx(level, rel=0.02)
    assert abs(torch.corrcoef(torch.stack([noise.flatten(), clean.flatten()]))[0, 1]) < 0.02
