"""An answer and its scan brought to agree: on the whole, beyond fine detail, and where they are at odds beyond doubt.

These are `agreeing`, `averages_lost` and `supported`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from medidiff.physics import Separable, damped_agreement, least_agreement
from medidiff.trust import Evidence, on_average, unexplained

__all__ = ["agreeing", "averages_lost", "supported"]

T = TypeVar("T")

_AVERAGED = 0.75  # voxels, of a Gaussian, at a noise level of 1 %: an answer has its scan's averages over so many
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


def averages_lost(x: Tensor, evidence: Evidence) -> Tensor:
    """What the answer x lacks of its scan's averages over some voxels of the scan.

    There next to nothing of the noise is left, and a prior that says otherwise speaks of brains in general: it makes
    lesions fainter, and puts back what is not there. A Gaussian of s voxels leaves s⁻³ of the noise's power; s grows
    with the cube root of the level, so that what comes back of the noise stays about the same share of the error that
    the answer has anyhow. Between slices what comes back is smooth. On the device of x, or on the CPU where that is
    full.

    Args:
        x: (1, 1, X, Y, Z) the answer, at network scale.
        evidence: what it is held against.

    Returns:
        (1, 1, X, Y, Z), to be added to the answer and its draws.
    """
    return _with_room(_averages_lost, x, evidence).to(x.device)


def _averages_lost(x: Tensor, evidence: Evidence) -> Tensor:
    level = float(evidence.level.mean()) if isinstance(evidence.level, Tensor) else evidence.level
    return _back(on_average(evidence, x, voxels=_AVERAGED * (100 * level) ** (1 / 3)), evidence)


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
    given, share = _with_room(_given_back, x, evidence)
    return given.to(x.device), share


def _with_room(work: Callable[[Tensor, Evidence], T], x: Tensor, evidence: Evidence) -> T:
    """Work done where x is, or on the CPU where that is full."""
    try:
        return work(x, evidence)
    except torch.OutOfMemoryError:
        return work(x.cpu(), evidence.on(torch.device("cpu")))


def _given_back(x: Tensor, evidence: Evidence) -> tuple[Tensor, float]:
    share = 0.0
    for number in range(_ROUNDS):
        found, inside = unexplained(evidence, x, beyond=_BEYOND)
        x = x + _back(found, evidence)
        if number == 0:
            share = float((found != 0).sum()) / max(int(inside.sum()), 1)
    return x, share


def _back(found: Tensor, evidence: Evidence) -> Tensor:
    """What is to be added to an answer for its scan to see `found` more."""
    return found if evidence.operator.is_identity else damped_agreement(found, evidence.operator)
