"""Denoising and super-resolution: one question, `p(x | y)`, asked with two operators.

`denoise` and `superresolve` prepare the scan, tell the prior what was measured, and summarise its answer. The default
answer is the posterior mean, from one evaluation of the network; draws, their spread and intervals are there for the
asking.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medidiff.applying import environment, on_device, tiled, voxels_sha256
from medidiff.diffusion import Condition, Denoiser, Plan, Turned, generators_for, observe, worst_last
from medidiff.errors import InputError, PriorError
from medidiff.physics import ProfileName, Separable, Slices, identity, least_agreement
from medidiff.physics.estimate import estimate_noise_map
from medidiff.physics.profile import slice_axis
from medidiff.physics.seeing import FINER, seen_through
from medidiff.prepare import (
    IntensityScale,
    fit_intensity,
    put_back,
    readable,
    with_filler_marked,
    without_padding,
)
from medidiff.prepare.level import estimate_level
from medidiff.prior import Prior, fitting_prior
from medidiff.settings import Settings
from medidiff.trust import (
    Answer,
    Made,
    Posterior,
    Scope,
    Seen,
    Streamed,
    expected_error,
    held,
    scope_of,
    signs_of,
)
from medidiff.version import __version__
from medidiff.volume import Geometry, Provenance, Volume

__all__ = ["Posterior", "Settings", "agreeing", "denoise", "refines", "restore", "superresolve"]

_AIRY_HU = -500.0  # between lung and fat


def denoise(volume: Volume, **settings: Any) -> Posterior:
    """Remove the noise of a scan; the grid stays as it is.

    Args:
        volume: (1, I, J, K) scan.
        settings: the fields of `Settings`.

    Example:
        >>> clean = denoise(scan, noise_level=12.0)     # doctest: +SKIP
    """
    return restore(volume, volume.geometry, identity(), task="denoise", settings=Settings(**settings))


def superresolve(
    volume: Volume,
    spacing: Sequence[float],
    *,
    thickness_mm: float | None = None,
    profile: ProfileName = "box",
    **settings: Any,
) -> Posterior:
    """Bring a scan to a finer grid, and denoise it on the way.

    The answer agrees with the scan: seen through the same slices again, it differs by no more than the noise level
    (root mean square), with gaps, overlaps and either profile.

    Args:
        volume: (1, I, J, K) scan.
        spacing: (3,) target voxel size in mm along the scan's own voxel axes, none larger than the scan's.
        thickness_mm: of the slices; when left out that of the scan's header, or else the slice distance (no gap).
        profile: sensitivity across a slice, whose full width at half maximum the thickness is.
        settings: the fields of `Settings`.

    Raises:
        SettingsError: a spacing coarser than the scan's, or a thickness out of range.
        InputError: a thickness in the header that cannot be; otherwise as `restore`.
    """
    target = volume.geometry.with_spacing(spacing)
    slices = Slices.of(volume, thickness_mm=thickness_mm, profile=profile) if refines(volume, target) else None
    operator = seen_through(target, volume.geometry, slices)
    return restore(volume, target, operator, task="superresolve", settings=Settings(**settings), slices=slices)


def refines(volume: Volume, target: Geometry) -> bool:
    """Whether a target grid is finer than a scan across its slices, so that their thickness matters."""
    axis = slice_axis(volume)
    return volume.geometry.spacing_mm[axis] > target.spacing_mm[axis] * (1 + FINER)


def restore(
    volume: Volume,
    target: Geometry,
    operator: Separable,
    *,
    task: str,
    settings: Settings,
    slices: Slices | None = None,
) -> Posterior:
    """Answer `p(x | y)` for a scan y that sees the grid `target` through `operator`.

    A scan of one value is passed through as it is, and the provenance says so.
    Padding has no effect on the answer and keeps the scan's values in it; what a repair has filled in stays marked.

    Raises:
        InputError: more than one channel, no tissue, voxels that are not finite, or a modality the prior is not for;
            ``E-SCOPE``, with `Settings.strict`, a scan that is not of the kind that the prior is for.
        PriorError: no such prior, or an answer that is not finite.
    """
    settings = settings.for_scan(volume)
    volume = with_filler_marked(volume)
    if volume.data.shape[0] != 1:
        raise InputError("E-4D", f"{volume.data.shape[0]} channels", wanted="one", mend="Restore them one by one.")
    measured = without_padding(volume)
    if (measured == measured.flat[0]).all():
        return _passed_through(volume, target, task, settings=settings)
    scale = fit_intensity(volume)
    device = settings.place()
    y = torch.from_numpy(scale.apply(measured))[None].to(device)
    fitting, decisions = fitting_prior(volume, settings.prior)
    scope = _judged(volume, fitting, decisions, strict=settings.strict)
    prior = on_device(fitting, device)
    level = _noise_level(volume, y, scale, settings, decisions)
    told = _practised(level, scale, prior, decisions)
    levels = _levels(volume, y, scale, told, settings=settings, prior=prior, decisions=decisions)
    condition = observe(y, _told(operator, target, volume.geometry, slices, prior, decisions), levels)
    axes = worst_last(operator, target.shape)
    sparing = tiled(prior, [target.shape[axis] for axis in axes], settings)
    denoiser = Turned(sparing, axes)
    kept, drawn = _answers(denoiser, condition, settings, lambda x: _agreed(x, y, operator, level))
    decisions += sparing.decisions
    supported = held(
        y,
        kept[0],
        operator,
        level=levels if settings.noise_varies else level,
        rician=settings.noise == "rician",
        geometry=volume.geometry,
        measured=readable(volume),
        air=(_AIRY_HU - scale.offset) / scale.gain if volume.modality == "CT" else None,
        deviation=drawn.std if drawn.count > 1 else None,
        gain=scale.gain,
    )
    decisions += supported.sentences
    thickness = volume.thickness_mm if target == volume.geometry else None

    def answer(x: Tensor) -> Volume:
        stored = Volume(scale.undo(x[0].numpy()), target, volume.modality, volume.units, thickness_mm=thickness)
        return put_back(stored, volume)

    answers = [answer(x) for x in kept]
    spread = _spread(drawn, scale, answers[0])
    spread = None if spread is None else put_back(spread, volume, values=False)
    record = _provenance(
        volume,
        target,
        task,
        settings=settings,
        prior=prior,
        level=level * scale.gain,
        decisions=decisions,
        scope=scope.record(),
        support=supported.record,
        slices=slices,
    )
    residual = Volume(supported.residual, volume.geometry, volume.modality, thickness_mm=volume.thickness_mm)
    residual = put_back(residual, volume, values=False)
    quantiles = {share: answer(drawn.quantile(share)) for share in settings.quantiles}
    judged = None
    if drawn.count:
        seen, shares = _seen(
            volume, y.cpu(), kept[0], drawn, operator=operator, level=level, target=target, slices=slices
        )
        error = put_back(answers[0].with_data(shares * np.float32(scale.gain)), volume, values=False)
        judged = Answer(answers[0], error, level * scale.gain, seen, made_of(record))
    return Posterior(answers[0], spread, tuple(answers[1:]), record, quantiles, judged, residual)


def _passed_through(volume: Volume, target: Geometry, task: str, *, settings: Settings) -> Posterior:
    """The answer to a scan of one value: the same value everywhere, without a prior, which has nothing to say to it."""
    value = without_padding(volume).flat[0].item()
    if not math.isfinite(value):
        raise InputError("E-NONFINITE", "voxels that are not finite numbers", mend="Mend or mask them first.")
    thickness = volume.thickness_mm if target == volume.geometry else None
    flat = np.full(target.shape, value, np.float32)
    mean = put_back(Volume(flat, target, volume.modality, volume.units, thickness_mm=thickness), volume)
    decisions = [f"the scan is constant: every voxel is {value:g}; it was passed through and no prior was applied"]
    record = _provenance(volume, target, task, settings=settings, prior=None, level=0.0, decisions=decisions)
    spread = mean.with_data(np.zeros_like(mean.data)) if settings.draws else None
    judged = None if spread is None else Answer(mean, spread, 0.0, None, None)
    draws = (mean,) * settings.keep_draws
    return Posterior(mean, spread, draws, record, dict.fromkeys(settings.quantiles, mean), judged)


def _seen(
    volume: Volume,
    y: Tensor,
    mean: Tensor,
    drawn: Streamed,
    *,
    operator: Separable,
    level: float,
    target: Geometry,
    slices: Slices | None,
) -> tuple[Seen, NDArray[np.float32]]:
    """What a calibration asks of a scan, and (1, I, J, K) the expected error at network scale."""
    error = expected_error(drawn.about(mean)[0, 0].numpy())
    factor = max(own / fine for own, fine in zip(volume.geometry.spacing_mm, target.spacing_mm, strict=True))
    thick = factor if slices is None else slices.thickness_mm / target.spacing_mm[slices.axis]
    signs = signs_of(y[0, 0], mean[0, 0], error, operator=operator, level=level)
    return Seen(level, max(thick, 1.0) if operator.is_identity else thick, factor, target.spacing_mm, signs), error[
        None
    ]


def made_of(record: Provenance) -> Made:
    """How an answer was made, as far as a calibration must match it."""
    how = {name: record.settings[name] for name in ("draws", "steps", "noise", "noise_varies")}
    task: Any = record.task
    return Made(task=task, prior=record.prior["name"], prior_sha256=record.prior["sha256"], **how)


def _judged(volume: Volume, prior: Prior, decisions: list[str], *, strict: bool) -> Scope:
    """Whether the scan is of the kind that the prior is for; with `strict` a scan that is not is refused."""
    scope = scope_of(volume, prior.card)
    if scope.outside and strict:
        mend = "Look at the scan and its header; without --strict it is restored, and the result is marked."
        raise InputError("E-SCOPE", "; ".join(scope.reasons), wanted=f"a scan that '{scope.prior}' is for", mend=mend)
    decisions.append(scope.sentence)
    return scope


def _told(
    operator: Separable,
    target: Geometry,
    source: Geometry,
    slices: Slices | None,
    prior: Prior,
    decisions: list[str],
) -> Separable:
    """What the prior is told of the operator: slices as they were, but for wide gaps and far overlaps.

    The answer agrees with the scan through the true operator all the same.
    """
    if slices is None:
        return operator
    decisions.append(slices.sentence)
    near = slices.tellable(prior.card.thinnest_slices)
    if near.thickness_mm != slices.thickness_mm:
        decisions.append(
            f"slices {slices.thickness_mm:.4g} mm thick told to the prior as {near.thickness_mm:.4g} mm, "
            "the nearest that it can make use of"
        )
    return seen_through(target, source, near)


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


@torch.no_grad()
def _answers(
    denoiser: Denoiser, condition: Condition, settings: Settings, agreed: Callable[[Tensor], Tensor]
) -> tuple[list[Tensor], Streamed]:
    """The posterior mean and the draws that are kept, and what is known of all draws, met one at a time."""
    mean = denoiser(condition.image.new_zeros(1).expand_as(condition.image), torch.tensor(torch.inf), condition)
    kept, drawn = [agreed(mean)], Streamed(quantiles=bool(settings.quantiles))
    for number in range(settings.draws):
        draw = agreed(_draw(denoiser, mean, condition, number, settings))
        drawn.add(draw)
        if number < settings.keep_draws:
            kept.append(draw)
        del draw  # before the next one is made
    return kept, drawn


def _draw(denoiser: Denoiser, mean: Tensor, condition: Condition, number: int, settings: Settings) -> Tensor:
    generators = generators_for(settings.seed, [number])
    return Plan(steps=settings.steps).draw(denoiser, mean, condition=condition, generators=generators)


def _agreed(x: Tensor, y: Tensor, operator: Separable, level: float) -> Tensor:
    """An answer that agrees with the measurement, on the CPU."""
    agreed = agreeing(x, y, operator, level).cpu()
    if not bool(torch.isfinite(agreed).all()):
        raise PriorError("E-MODEL-NONFINITE", "the network answered with numbers that are not finite")
    return agreed


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


def _spread(drawn: Streamed, scale: IntensityScale, like: Volume) -> Volume | None:
    return like.with_data(drawn.std[0].numpy() * np.float32(scale.gain)) if drawn.count else None


def _provenance(
    volume: Volume,
    target: Geometry,
    task: str,
    *,
    settings: Settings,
    prior: Prior | None,
    level: float,
    decisions: list[str],
    scope: Mapping[str, Any] | None = None,
    support: Mapping[str, Any] | None = None,
    slices: Slices | None = None,
) -> Provenance:
    return Provenance(
        task=task,
        version=__version__,
        inputs=(voxels_sha256(volume.data),),
        settings={
            "noise": settings.noise,
            "noise_level": level,
            "noise_varies": settings.noise_varies,
            "draws": settings.draws,
            "steps": settings.steps,
            "spacing_mm": list(target.spacing_mm),
            "tile": settings.tile,
        }
        | ({} if slices is None else {"slices": slices.record()}),
        prior={} if prior is None else {"name": prior.card.name, "sha256": prior.card.weights_sha256},
        seed=settings.seed,
        environment=environment(settings),
        decisions=tuple(decisions),
        scope=scope or {},
        support=support or {},
    )
