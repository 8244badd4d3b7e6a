"""A small prior with random weights everywhere: the laws of restoration hold whatever the weights."""

from __future__ import annotations

import dataclasses

import torch

from medidiff.prior import Card, Prior, build_denoiser

CARD = Card(
    name="tiny",
    summary="",
    modality="MR",
    contrasts=("T1w",),
    channels=(8, 8),
    blocks=(1, 1, 1),
    sigma_data=0.35,
    sigma_detail=0.12,
    noise=(0.004, 0.25),
    images=0,
    licence="Apache-2.0",
    sources=(),
    data_fingerprint="",
)


def small_prior(modality: str = "MR") -> Prior:
    """The same weights at every call, with a card for this modality."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)  # of the weights that a network begins with
        denoiser = build_denoiser(CARD)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in denoiser.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return Prior(denoiser.eval().requires_grad_(False), dataclasses.replace(CARD, modality=modality))
