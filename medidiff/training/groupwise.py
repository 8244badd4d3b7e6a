"""The atlas of the training heads: all of them are bent to one mean, which is found together with the bending.

Groupwise registration by descent, coarse knots before fine ones: each step moves the knots of every head downhill, and
the mean to where the heads, carried back, say that it should be, so that no head is the reference (Joshi et al. 2004,
doi 10.1016/j.neuroimage.2004.07.068).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from medidiff.diffusion.atlas import Atlas, bent, stiffness
from medidiff.errors import SettingsError
from medidiff.physics.bending import knot_counts, knots_like, spline
from medidiff.training.coarse_recipe import AtlasRecipe

__all__ = ["carried_back", "channel_weights", "groupwise"]

_IMAGE_SPREAD = 0.05  # of brightness from scan to scan, whatever its shape, as a share
_STEP = 0.7  # of the way to the mean of the heads that are carried back


def groupwise(
    states: Tensor, people: Sequence[Sequence[float]], recipe: AtlasRecipe, *, spacing_mm: float
) -> tuple[Atlas, Tensor]:
    """The atlas of some heads, and their knots in it.

    Args:
        states: (N, C, I, J, K) heads in one frame, image first.
        people: (N, P) numbers that are known of them.
        recipe: knots, and how far to go.
        spacing_mm: side of the voxels.

    Returns:
        The atlas, and (N, 3, *knots).

    Raises:
        SettingsError: ``E-PACK``, less than two heads.
    """
    if len(states) < 2:
        raise SettingsError("E-PACK", "an atlas of a single head", wanted="at least two training heads")
    shape, weight = states.shape[-3:], channel_weights(states.shape[1])
    mean = states.mean(0)
    knots = torch.zeros(len(states), 3, *knot_counts(shape, spacing_mm=spacing_mm, knots_mm=recipe.knots_mm[0]))
    for distance in recipe.knots_mm:
        counts = knot_counts(shape, spacing_mm=spacing_mm, knots_mm=distance)
        knots = torch.stack([knots_like(spline(each, shape), counts) for each in knots])
        mean, knots = _descended(mean, knots, states, weight, recipe)
    atlas = Atlas(shape, knots.shape[2:], channels=states.shape[1], modes=len(states) - 1, about=len(people[0]))
    atlas.mean.copy_(mean)
    atlas.deviation.copy_(_deviation(mean, knots, states))
    _learn_shapes(atlas, knots, torch.tensor(people), wander=recipe.wander_mm / spacing_mm)
    return atlas, knots


def channel_weights(channels: int) -> Tensor:
    """(C,) weights of squared errors: tissue is worth half of the image."""
    return torch.tensor([1.0] + [0.5] * (channels - 1))


def _descended(
    mean: Tensor, knots: Tensor, states: Tensor, weight: Tensor, recipe: AtlasRecipe
) -> tuple[Tensor, Tensor]:
    knots = knots.clone().requires_grad_(True)
    optimizer = torch.optim.Adam([knots], lr=recipe.rate)
    for _ in range(recipe.steps):
        optimizer.zero_grad()
        back = torch.zeros_like(mean)
        for number, state in enumerate(states):
            template = mean.clone().requires_grad_(True)
            error = bent(template, knots[number]) - state
            loss = (weight[:, None, None, None] * error.square()).mean() + recipe.stiffness * stiffness(knots[number])
            loss.backward()
            assert template.grad is not None
            back += template.grad / weight[:, None, None, None]
        optimizer.step()
        mean = mean - _STEP * back * mean.numel() / (2 * len(states))
    return mean, knots.detach()


def _deviation(mean: Tensor, knots: Tensor, states: Tensor) -> Tensor:
    """Root mean square of what the bent mean leaves, carried back to the atlas's shape and a little blurred."""
    squares = weights = torch.zeros_like(mean)
    for each, state in zip(knots, states, strict=True):
        rest = (state - bent(mean, each)).square()
        squares = squares + carried_back(rest, each)
        weights = weights + carried_back(torch.ones_like(rest), each)
    blurred = torch.nn.functional.avg_pool3d(torch.stack([squares, weights]), 3, stride=1, padding=1)
    variance = blurred[0] / blurred[1].clamp_min(0.1)
    variance[0] += (_IMAGE_SPREAD * mean[0]).square()
    return variance.sqrt()


def carried_back(seen: Tensor, knots: Tensor) -> Tensor:
    """The adjoint of `bent`: each voxel (C, I, J, K) of a bent volume is laid down where it was seen."""
    volume = torch.zeros_like(seen, requires_grad=True)
    return torch.autograd.grad((bent(volume, knots) * seen).sum(), volume)[0]


def _learn_shapes(atlas: Atlas, knots: Tensor, people: Tensor, *, wander: float) -> None:
    """The Gaussian of knots and people, by principal components of the knots."""
    count, centre = len(knots), knots.mean(0)
    left, size, along = torch.linalg.svd((knots - centre).flatten(1).double(), full_matrices=False)
    modes = len(atlas.modes)
    scores = left[:, :modes] * (count - 1) ** 0.5
    atlas.centre.copy_(centre)
    atlas.modes.copy_((size[:modes, None] * along[:modes] / (count - 1) ** 0.5).reshape(modes, *centre.shape))
    atlas.wander.fill_(wander)
    about = people.double()
    atlas.person_mean.copy_(about.mean(0))
    atlas.person_covariance.copy_(torch.cov(about.T).reshape(about.shape[1], -1))
    atlas.leaning.copy_(scores.T @ (about - about.mean(0)) / (count - 1))
