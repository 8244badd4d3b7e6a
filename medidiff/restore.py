"""Denoising and super-resolution: one question, `p(x | y)`, asked with two operators.

`denoise` and `superresolve` prepare the scan, tell the prior what was measured, and summarise its answer. The default
answer is the posterior mean, from one evaluation of the network; draws, their spread and intervals are there for the
asking.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medidiff.agreeing import agreeing, averages_lost, supported
from medidiff.applying import environment, tiled, voxels_sha256
from medidiff.diffusion import Condition, Denoiser, Plan, Turned, generators_for, observe, worst_last
from medidiff.errors import InputError, PriorError
from medidiff.judging import made_of, seen_of
from medidiff.physics import ProfileName, Separable, Slices, identity
from medidiff.physics.profile import slice_axis
from medidiff.physics.seeing import FINER, seen_through
from medidiff.prepare import fit_intensity, put_back, readable, with_filler_marked, without_padding
from medidiff.prepare.level import estimate_level
from medidiff.question import Question
from medidiff.settings import Settings
from medidiff.trust import (
    Answer,
    Evidence,
    Held,
    Made,
    Posterior,
    Seen,
    Streamed,
    expected_error,
    held,
)
from medidiff.version import __version__
from medidiff.volume import Geometry, Provenance, Volume

__all__ = ["Posterior", "Settings", "denoise", "foresee", "refines", "restore", "superresolve"]

_AIRY_HU = -500.0  # between lung and fat
_GIVEN = (
    "in {} % of the tissue the scan says more than white noise of its level explains: there the answer follows the scan"
)


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
    spacing: Sequence[float | str],
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
        spacing: (3,) target voxel size in mm along the scan's own voxel axes, none larger than the scan's; ``"own"``
            keeps the scan's own along an axis.
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
    volume = _one_channel(volume)
    if (value := _only_value(volume)) is not None:
        return _passed_through(value, volume, target, task, settings=settings)
    question = Question.of(volume, target, operator, task=task, settings=settings, slices=slices)
    kept, drawn, alone, decided = _answers(question)
    kept[0], support, places, given = _held(question, kept[0], drawn)
    record = _answered(question, [*decided, *given, *support.sentences], support)
    answers = [question.stored(x) for x in kept]
    quantiles = {share: question.stored(drawn.quantile(share)) for share in settings.quantiles}
    spread = judged = None
    if drawn.count:
        spread = _beside(question, answers[0], drawn.std[0].numpy())
        error = expected_error(drawn.about(kept[0])[0, 0].numpy())
        seen = seen_of(question, alone[0, 0], error, places=places)
        judged = _judged(question, seen, error, mean=answers[0], made=made_of(record))
    residual = _residual(support.residual, volume)
    return Posterior(answers[0], spread, tuple(answers[1:]), record, quantiles, judged, residual)


def foresee(volume: Volume, *, settings: Settings) -> bool:
    """Refuse a scan that `restore` refuses for its values, without a prior and before anything is restored.

    Returns:
        Whether a prior will be asked: not of a scan of one value.

    Raises:
        InputError: as `restore`, but for what depends on the prior.
    """
    volume = _one_channel(volume)
    if _only_value(volume) is not None:
        return False
    scale = fit_intensity(volume)
    if volume.modality == "CT" and settings.noise_level is None:  # whose noise may be too little shown to be read
        kind = settings.for_scan(volume).noise or "gaussian"
        estimate_level(volume, volume.data[0], kind=kind, gain=scale.gain)
    return True


def _one_channel(volume: Volume) -> Volume:
    """A scan of one channel, with what fills its corners marked."""
    volume = with_filler_marked(volume)
    if volume.data.shape[0] != 1:
        raise InputError("E-4D", f"{volume.data.shape[0]} channels", wanted="one", mend="Restore them one by one.")
    return volume


def _only_value(volume: Volume) -> float | None:
    """The value of a scan that holds no other; None for any other scan."""
    measured = without_padding(volume)
    value: float = measured.flat[0].item()
    if not (measured == value).all():
        return None
    if not math.isfinite(value):
        raise InputError("E-NONFINITE", "voxels that are not finite numbers", mend="Mend or mask them first.")
    return value


def _residual(numbers: NDArray[np.float32], volume: Volume) -> Volume:
    """Deviations of the scan from its answer as a volume on the scan's grid; 0 in padding."""
    plain = Volume(numbers, volume.geometry, volume.modality, thickness_mm=volume.thickness_mm)
    return put_back(plain, volume, values=False)


def _passed_through(value: float, volume: Volume, target: Geometry, task: str, *, settings: Settings) -> Posterior:
    """The answer to a scan of one value: the same value everywhere, without a prior, which has nothing to say to it."""
    thickness = volume.thickness_mm if target == volume.geometry else None
    flat = np.full(target.shape, value, np.float32)
    mean = put_back(Volume(flat, target, volume.modality, volume.units, thickness_mm=thickness), volume)
    decisions = [f"the scan is constant: every voxel is {value:g}; it was passed through and no prior was applied"]
    record = _provenance(volume, target, task, settings=settings, level=0.0, decisions=decisions)
    spread = mean.with_data(np.zeros_like(mean.data)) if settings.draws else None
    judged = None if spread is None else Answer(mean, spread, 0.0, None, None)
    draws = (mean,) * settings.keep_draws
    residual = _residual(np.zeros(volume.shape, np.float32), volume)  # the answer is the scan itself
    return Posterior(mean, spread, draws, record, dict.fromkeys(settings.quantiles, mean), judged, residual)


def _beside(question: Question, mean: Volume, size: NDArray[np.float32]) -> Volume:
    """(1, I, J, K) lengths at network scale, as a deviation is one, as a volume beside the answer; 0 in padding."""
    return question.with_kept(mean.with_data(size * np.float32(question.scale.gain)), values=False)


def _judged(question: Question, seen: Seen, error: NDArray[np.float32], *, mean: Volume, made: Made) -> Answer:
    """The answer with the error that is to be expected of it, at network scale, and what a calibration asks."""
    level = question.level * question.scale.gain
    return Answer(mean, _beside(question, mean, error[None]), level, seen, made, question.operator)


class _Answers(NamedTuple):
    """The posterior mean and the draws that are kept, (1, 1, I, J, K) at network scale, on the CPU.

    Args:
        kept: the mean, then the draws.
        drawn: what is known of all draws.
        alone: the mean before the scan gave anything back to it.
        decisions: what was done to spare memory, and what was given back.
    """

    kept: list[Tensor]
    drawn: Streamed
    alone: Tensor
    decisions: list[str]


@torch.no_grad()
def _answers(question: Question) -> _Answers:
    """Ask for the mean and for the draws, which are met one at a time."""
    settings, shape = question.settings, question.target.shape
    condition = observe(question.y, question.told, question.levels)
    axes = worst_last(question.operator, shape)
    sparing = tiled(question.prior, [shape[axis] for axis in axes], settings)
    denoiser = Turned(sparing, axes)
    mean = denoiser(condition.image.new_zeros(1).expand_as(condition.image), torch.tensor(torch.inf), condition)
    alone = _agreed(mean, question)
    follow = _following(alone, question)
    agreed, given = follow(alone)
    alone, kept = alone.cpu(), [agreed.cpu()]
    del agreed
    drawn = Streamed(quantiles=bool(settings.quantiles))
    for number in range(settings.draws):
        draw, _ = follow(_agreed(_draw(denoiser, mean, condition, number, settings), question))
        drawn.add(draw.cpu())
        if number < settings.keep_draws:
            kept.append(draw.cpu())
        del draw  # before the next one is made
    return _Answers(kept, drawn, alone, [*sparing.decisions, *_said(given)])


def _said(given: float) -> list[str]:
    """That the scan gave something back in a share of its tissue; nothing where it did not."""
    return [_GIVEN.format(f"{100 * given:.1f}" if given >= 0.001 else "under 0.1")] if given else []


def _draw(denoiser: Denoiser, mean: Tensor, condition: Condition, number: int, settings: Settings) -> Tensor:
    generators = generators_for(settings.seed, [number])
    return Plan(steps=settings.steps).draw(denoiser, mean, condition=condition, generators=generators)


def _agreed(x: Tensor, question: Question) -> Tensor:
    """An answer that agrees with the measurement on the whole."""
    agreed = agreeing(x, question.y, question.operator, question.level)
    if not bool(torch.isfinite(agreed).all()):
        raise PriorError("E-MODEL-NONFINITE", "the network answered with numbers that are not finite")
    return agreed


def _following(alone: Tensor, question: Question) -> Callable[[Tensor], tuple[Tensor, float]]:
    """What makes an answer follow its scan, and in which share of the tissue it did so beyond noise.

    All have the scan's averages, as far as their mean, `alone`, lacks them: draws stay as far from it as noise leaves
    open. Not so of a CT: filtered back projection links its noise over several voxels, and averages are full of it. A
    denoised answer is held against its scan before any more is given back.
    """
    evidence = _evidence(question)
    lost = torch.zeros_like(alone) if question.volume.modality == "CT" else averages_lost(alone, evidence)
    if question.operator.is_identity:
        return lambda x: (x + lost, 0.0)
    return lambda x: supported(x + lost, evidence)


def _held(question: Question, x: Tensor, drawn: Streamed) -> tuple[Tensor, Held, int, list[str]]:
    """The answer x, at network scale, held against the scan; in how many places it was contradicted; what was decided.

    Of a denoised answer that is contradicted at any place, such places are given back to it first, but not to the
    draws: there prior and scan are at odds, and the spread about the answer says so.
    """
    evidence = _evidence(question)
    deviation = drawn.std if drawn.count > 1 else None
    found = held(evidence, x, deviation=deviation, gain=question.scale.gain)
    if not question.operator.is_identity or found.report is None or not found.report.flags:
        return x, found, found.places, []
    x, share = supported(x, evidence.on(x.device))
    return x, held(evidence, x, deviation=deviation, gain=question.scale.gain), found.places, _said(share)


def _evidence(question: Question) -> Evidence:
    """What an answer is held against.

    Noise is what the prior was told to take for it, where that is more than was estimated: of a scan that is quieter
    than all that the prior has practised on, an answer leaves out that much by right.
    """
    volume, scale, levels = question.volume, question.scale, question.levels
    return Evidence(
        question.y,
        question.operator,
        level=levels if isinstance(levels, Tensor) else max(question.level, levels),
        rician=question.settings.noise == "rician",
        geometry=volume.geometry,
        measured=readable(volume),
        air=(_AIRY_HU - scale.offset) / scale.gain if volume.modality == "CT" else None,
    )


def _answered(question: Question, later: Sequence[str], supported: Held) -> Provenance:
    """The record of an answer; `later` is what was decided after the question."""
    settings, slices, card = question.settings, question.slices, question.prior.card
    level = question.level * question.scale.gain
    decisions = (*question.decisions, *later)
    plain = _provenance(
        question.volume, question.target, question.task, settings=settings, level=level, decisions=decisions
    )
    return replace(
        plain,
        settings=plain.settings if slices is None else {**plain.settings, "slices": slices.record()},
        prior={"name": card.name, "sha256": card.weights_sha256},
        scope=question.scope.record(),
        support=supported.record,
    )


def _provenance(
    volume: Volume, target: Geometry, task: str, *, settings: Settings, level: float, decisions: Sequence[str]
) -> Provenance:
    """The record of an answer that no prior has given."""
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
        },
        seed=settings.seed,
        environment=environment(settings),
        decisions=tuple(decisions),
    )
