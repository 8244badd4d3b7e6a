"""What a prior is asked about one scan: `p(x | y)` with the scan's own numbers.

A `Question` is the scan at network scale, the operator by which it sees the answer, how noisy it is, and the prior that
is to answer; and in sentences what had to be decided on the way.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medidiff.applying import on_device
from medidiff.errors import InputError
from medidiff.physics import Separable, Slices
from medidiff.physics.estimate import estimate_noise_map
from medidiff.physics.seeing import seen_through
from medidiff.prepare import (
    IntensityScale,
    blank_background,
    fit_intensity,
    put_back,
    readable,
    with_background,
    without_padding,
)
from medidiff.prepare.level import estimate_level
from medidiff.prior import Prior, fitting_prior
from medidiff.settings import Settings
from medidiff.trust import Scope, scope_of
from medidiff.volume import Geometry, Volume

__all__ = ["Question"]

_DARK = 0.1  # of the network's scale: no tissue is darker


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """A scan as it is put to a prior.

    Args:
        volume: (1, i, j, k) the scan.
        target: grid of the answer.
        operator: A, by which the scan sees the answer.
        told: A as the prior is told.
        task: the verb.
        settings: of the answer, with the scan's own kind of noise.
        slices: how thick they are and how they are spaced, where that matters.
        prior: on its device.
        scale: between the scan's units and the network's.
        y: (1, 1, i, j, k) the scan at network scale, on the prior's device.
        level: σ_y at network scale.
        levels: σ_y as the prior is told: a number, or (1, 1, i, j, k) where it varies.
        scope: whether the scan is of the kind that the prior is for.
        blank: (i, j, k), true where the scan's background was set to one value; None where it was not.
        decisions: sentences, in the order in which they were decided.
    """

    volume: Volume
    target: Geometry
    operator: Separable
    told: Separable
    task: str
    settings: Settings
    slices: Slices | None
    prior: Prior
    scale: IntensityScale
    y: Tensor
    level: float
    levels: float | Tensor
    scope: Scope
    blank: NDArray[np.bool_] | None
    decisions: tuple[str, ...]

    @classmethod
    def of(
        cls,
        volume: Volume,
        target: Geometry,
        operator: Separable,
        *,
        task: str,
        settings: Settings,
        slices: Slices | None,
    ) -> Question:
        """The question that a scan with tissue asks.

        Raises:
            InputError: no tissue, voxels that are not finite, or a modality the prior is not for; ``E-SCOPE``, with
                `Settings.strict`, a scan that is not of the kind that the prior is for.
            PriorError: no such prior.
        """
        scale, device = fit_intensity(volume), settings.place()
        y = torch.from_numpy(scale.apply(without_padding(volume)))[None].to(device)
        fitting, decisions = fitting_prior(volume, settings.prior)
        scope = _scope(volume, fitting, decisions, strict=settings.strict)
        prior = on_device(fitting, device)
        level = _noise_level(volume, y, scale, settings, decisions)
        practised = _practised(level, scale, prior, decisions)
        levels = _levels(volume, y, scale, practised, settings=settings, prior=prior, decisions=decisions)
        told = operator if slices is None else _told(slices, target, volume.geometry, prior, decisions)
        return cls(
            volume=volume,
            target=target,
            operator=operator,
            told=told,
            task=task,
            settings=settings,
            slices=slices,
            prior=prior,
            scale=scale,
            y=y,
            level=level,
            levels=levels,
            scope=scope,
            blank=_blank(volume, scale, decisions),
            decisions=tuple(decisions),
        )

    def stored(self, x: Tensor) -> Volume:
        """(1, 1, I, J, K) at network scale, on the CPU, in the scan's units, with what is not the prior's."""
        thickness = self.volume.thickness_mm if self.target == self.volume.geometry else None
        units = self.scale.undo(x[0].numpy())
        found = Volume(units, self.target, self.volume.modality, self.volume.units, thickness_mm=thickness)
        return self.with_kept(found)

    def with_kept(self, found: Volume, *, values: bool = True) -> Volume:
        """A volume on the target's grid with the scan's values in padding and blank background, or 0 there."""
        return put_back(with_background(found, self.volume, self.blank, values=values), self.volume, values=values)


def _blank(volume: Volume, scale: IntensityScale, decisions: list[str]) -> NDArray[np.bool_] | None:
    """Where the scan's background was set to one value, which it keeps."""
    blank = blank_background(volume, below=scale.offset + _DARK * scale.gain)
    if blank is not None:
        decisions.append(f"{100 * blank.mean():.3g} % of the scan is background of one value, which stays as it is")
    return blank


def _scope(volume: Volume, prior: Prior, decisions: list[str], *, strict: bool) -> Scope:
    """Whether the scan is of the kind that the prior is for; with `strict` a scan that is not is refused."""
    scope = scope_of(volume, prior.card)
    if scope.outside and strict:
        found = f"the scan {'; '.join(scope.reasons)}"
        mend = "Look at the scan and its header; without --strict it is restored, and the result is marked."
        raise InputError("E-SCOPE", found, wanted=f"a scan that '{scope.prior}' is for", mend=mend)
    decisions.append(scope.sentence)
    return scope


def _noise_level(volume: Volume, y: Tensor, scale: IntensityScale, settings: Settings, decisions: list[str]) -> float:
    """σ_y at network scale, given or estimated."""
    if settings.noise_level is not None:
        return settings.noise_level / scale.gain
    level = estimate_level(volume, y[0, 0].cpu(), kind=settings.noise or "rician", gain=scale.gain)
    decisions.append(f"noise level {level * scale.gain:.4g} estimated from the scan ({settings.noise})")
    return level


def _practised(level: float, scale: IntensityScale, prior: Prior, decisions: list[str]) -> float:
    """The level nearest to a noise level that the prior has practised on, which it is told instead."""
    low, high = prior.card.noise
    told = min(max(level, low), high)
    if told != level:
        decisions.append(
            f"noise level {level * scale.gain:.4g} told to the prior as {told * scale.gain:.4g}, "
            f"the nearest it was trained on ({low * scale.gain:.4g} to {high * scale.gain:.4g})"
        )
    return told


def _levels(
    volume: Volume,
    y: Tensor,
    scale: IntensityScale,
    level: float,
    *,
    settings: Settings,
    prior: Prior,
    decisions: list[str],
) -> float | Tensor:
    """σ_y as the prior is told: the level, or where it varies one for every voxel of `y`."""
    if not settings.noise_varies:
        return level
    found = estimate_noise_map(y[0, 0].cpu(), kind=settings.noise or "rician", measured=readable(volume))
    found *= level / found.mean().clamp_min(torch.finfo(found.dtype).tiny)
    low, high = (float(q) * scale.gain for q in np.quantile(found.numpy(), (0.05, 0.95)))
    decisions.append(f"noise level estimated for every voxel: {low:.4g} to {high:.4g} in nine tenths of the scan")
    return found.clamp(*prior.card.noise)[None, None].to(y)


def _told(slices: Slices, target: Geometry, source: Geometry, prior: Prior, decisions: list[str]) -> Separable:
    """What the prior is told of the operator: slices as they were, but for wide gaps and far overlaps.

    The answer agrees with the scan through the true operator all the same.
    """
    decisions.append(slices.sentence)
    near = slices.tellable(prior.card.thinnest_slices)
    if near.thickness_mm != slices.thickness_mm:
        decisions.append(
            f"slices {slices.thickness_mm:.4g} mm thick told to the prior as {near.thickness_mm:.4g} mm, "
            "the nearest that it can make use of"
        )
    return seen_through(target, source, near)
