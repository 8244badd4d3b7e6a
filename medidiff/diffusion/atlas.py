"""A deformable atlas: what is expected of each voxel of a head, and how heads are bent about it.

Heads that stand in one frame still differ in shape, and a mean over them is a blur. Bent to each head, the mean is
sharp as far as people are alike: ventricles, basal ganglia, the great sulci. So a head is drawn in two steps, its shape
and then all else: the knots of a bending field come from the Gaussian of the training heads' own knots (statistical
deformation models, Rueckert et al. 2003, doi 10.1109/TMI.2003.815865), and a diffusion model that is shown the bent
atlas draws the head. Age and sex are in the same Gaussian, so that shapes follow what is told of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from medidiff.physics.bending import knot_counts, knots_like, places, seen_from, spline

__all__ = ["Atlas", "Expected", "bent", "stiffness"]

_LEAST_DEVIATION = 0.02  # of a voxel about what is expected: no voxel is ever quite the same
_RATE = 0.06  # voxels that a knot moves in a step of the fit, at first
_STIFF = 3e-5  # weight of the squared second differences of the knots against the squared error


@dataclass(frozen=True, slots=True)
class Expected:
    """What an atlas, bent to heads, expects of their voxels.

    Args:
        mean: (B, C, I, J, K).
        deviation: (B, C, I, J, K) standard deviation about it, above 0.
    """

    mean: Tensor
    deviation: Tensor

    @classmethod
    def of(cls, each: Sequence[Expected]) -> Expected:
        """Several heads as one batch."""
        return cls(torch.cat([one.mean for one in each]), torch.cat([one.deviation for one in each]))


class Atlas(nn.Module):
    """Mean and deviation of heads in the atlas's own shape, and the Gaussian of the shapes.

    Args:
        shape: (I, J, K) voxels of the frame.
        knots: of the bending field along each axis.
        channels: C of the heads, image first.
        modes: M, principal components of the shapes.
        about: P, numbers that are known of a person, or not.
    """

    mean: Tensor
    deviation: Tensor
    centre: Tensor
    modes: Tensor
    wander: Tensor
    person_mean: Tensor
    person_covariance: Tensor
    leaning: Tensor

    def __init__(
        self, shape: Sequence[int], knots: Sequence[int], *, channels: int, modes: int, about: int = 2
    ) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels, *shape))
        self.register_buffer("deviation", torch.ones(channels, *shape))
        self.register_buffer("centre", torch.zeros(3, *knots))  # knots of the mean shape
        self.register_buffer("modes", torch.zeros(modes, 3, *knots))  # knots of one standard deviation of each
        self.register_buffer("wander", torch.zeros(()))  # deviation of a knot in what the modes do not know
        self.register_buffer("person_mean", torch.zeros(about))
        self.register_buffer("person_covariance", torch.eye(about))
        self.register_buffer("leaning", torch.zeros(modes, about))  # covariance of modes and person

    @property
    def shape(self) -> tuple[int, ...]:
        """(I, J, K) voxels of the frame."""
        return tuple(self.mean.shape[-3:])

    def drawn(self, person: Sequence[float | None], generator: Generator) -> Tensor:
        """(3, *knots) of a new shape, in voxels, given what is known of the person.

        Args:
            person: (P,) numbers, as the atlas was told of the training heads; None for what is not known.
            generator: on the CPU.
        """
        known = [n for n, number in enumerate(person) if number is not None]
        told = torch.tensor([person[n] for n in known], dtype=torch.float64)
        lean, covariance = self.leaning.double().cpu(), self.person_covariance.double().cpu()
        gain = lean[:, known] @ torch.linalg.pinv(covariance[known][:, known])
        spread = torch.eye(len(lean), dtype=torch.float64) - gain @ lean[:, known].T
        scale, along = torch.linalg.eigh(spread)
        noise = torch.randn(len(lean), generator=generator).double()
        scores = gain @ (told - self.person_mean.double().cpu()[known]) + along @ (
            scale.clamp_min(0).sqrt() * (along.T @ noise)
        )
        loose = torch.randn(self.centre.shape, generator=generator).to(self.centre) * self.wander
        knots: Tensor = self.centre + torch.tensordot(scores.to(self.centre), self.modes, dims=1) + loose
        return knots

    def expected(self, knots: Tensor, place: Tensor | None = None) -> Expected:
        """What is expected of the voxels of one head, (1, C, I, J, K) each.

        Args:
            knots: (3, *knots) of its shape.
            place: (3, I, J, K) where each voxel looks at that head; its own place by default.
        """
        own = places(self.shape, knots)
        at = own if place is None else place
        field = spline(knots, self.shape)
        moved = at + (field if place is None else seen_from(field, at))
        seen = seen_from(torch.cat([self.mean, self.deviation]), moved)
        channels = len(self.mean)
        return Expected(seen[None, :channels], seen[None, channels:].clamp_min(_LEAST_DEVIATION))

    def fitted(self, state: Tensor, weight: Tensor, *, spacing_mm: float, steps: int = 30) -> Tensor:
        """(3, *knots) of the shape of a head, coarse knots first.

        Args:
            state: (C, I, J, K) head.
            weight: (C,) of each channel's squared error; 0 for what is not known of the head.
            spacing_mm: side of the voxels.
            steps: for each distance of the knots.
        """
        final = self.centre.shape[1:]
        finest = max(n * spacing_mm / (count - 3) for n, count in zip(self.shape, final, strict=True))
        levels = [knot_counts(self.shape, spacing_mm=spacing_mm, knots_mm=factor * finest) for factor in (3.0, 2.0)] + [
            tuple(final)
        ]
        knots = self.centre
        for counts in levels:
            knots = knots_like(spline(knots, self.shape), counts)
            knots = self._descended(knots, state, weight, steps)
        return knots

    def _descended(self, knots: Tensor, state: Tensor, weight: Tensor, steps: int) -> Tensor:
        knots = knots.detach().clone().requires_grad_(True)
        optimizer = torch.optim.Adam([knots], lr=_RATE)
        with torch.enable_grad():
            for _ in range(steps):
                error = bent(self.mean, knots) - state
                loss = (weight[:, None, None, None] * error.square()).mean() + _STIFF * stiffness(knots)
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
        return knots.detach()


def bent(volume: Tensor, knots: Tensor) -> Tensor:
    """A volume (C, I, J, K) seen through the field of (3, *knots)."""
    shape = volume.shape[-3:]
    return seen_from(volume, places(shape, knots) + spline(knots, shape))


def stiffness(knots: Tensor) -> Tensor:
    """Mean squared second differences of (..., *knots) along the three axes, summed: 0 for what is affine."""
    return torch.stack([knots.diff(n=2, dim=axis).square().mean() for axis in (-3, -2, -1)]).sum()
