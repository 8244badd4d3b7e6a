"""An answer and its scan brought to agree: on the whole (`agreeing`), and at every place and size (`supported`)."""

from __future__ import annotations

import torch
from torch import Tensor

from medidiff.physics import Separable, damped_agreement, least_agreement
from medidiff.trust import Evidence, unexplained

__all__ = ["agreeing", "supported"]

_BEYOND = 4.0  # standard deviations of what noise does at a size: what goes further is given back; a flag takes 5.3
_ROUNDS = 2  # of giving back; the second takes what the first one's neighbours have left


def agreeing(x: Tensor, y: Tensor, operator: Separable, level: float) -> Tensor:
    """Move x towards the measurement just so far that ``rms(A x - y)`` is at most the noise level (Morozov).

    The change is the smoothest that does it and adds no steps between slices (`least_agreement`). Denoising is left
    alone: there the residual *is* the noise removed.
    """
    if operator.is_identity:
        return x
    residual = y - operator(x)
    within = float(residual.square().mean().sqrt()) <= level
    return x if within else x + least_agreement(residual, operator, level)


def supported(x: Tensor, evidence: Evidence) -> tuple[Tensor, float]:
    """Give back to x what stands out of the noise in its residual, at any size and place.

    `agreeing` looks at the whole scan, and leaves places where the scan says otherwise beyond doubt. What is given back
    is smooth between slices. On the device of x, or on the CPU where that is full.

    Args:
        x: (1, 1, X, Y, Z) the answer.
        evidence: what it is held against.

    Returns:
        The answer, and the share of the scan's tissue that gave anything.
    """
    try:
        return _given_back(x, evidence)
    except torch.OutOfMemoryError:
        given, share = _given_back(x.cpu(), evidence.on(torch.device("cpu")))
        return given.to(x.device), share


def _given_back(x: Tensor, evidence: Evidence) -> tuple[Tensor, float]:
    share = 0.0
    for number in range(_ROUNDS):
        found, inside = unexplained(evidence, x, beyond=_BEYOND)
        x = x + (found if evidence.operator.is_identity else damped_agreement(found, evidence.operator))
        if number == 0:
            share = float((found != 0).sum()) / max(int(inside.sum()), 1)
    return x, share
