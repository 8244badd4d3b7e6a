"""Adapting a prior to noisy scans of another scanner or contrast, without a clean one.

The prior practises on patches of the scans themselves, made noisier (`medidiff.training.recorrupt`). Parts of each scan
are held back (`medidiff.training.heldback`): they say when to stop, and whether the new weights are better at all. If
that is not beyond doubt the answer is the prior as it was, so adapting makes nothing worse that could be seen.

What is asked of the scans: their noise is white and of the level that is told or estimated. The noise of a scan that
was interpolated or filtered is neither; its neighbours tell of each other, and the prior would learn to keep it without
any held-back part noticing. So scans whose noise is seen not to be white, or of another level, are left out, and the
gain must be larger than what remains of it could feign. Scans that are not MR are refused: the noise of a CT is neither
white nor Rician.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import math
import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from medidiff.diffusion.denoiser import Preconditioned
from medidiff.errors import InputError, PriorError, SettingsError
from medidiff.prepare import looks_like_hounsfield
from medidiff.prior import DEFAULT_PRIOR, Card, Prior, fitting_prior
from medidiff.settings import NoiseLaw, compute_device, require
from medidiff.training.chance import Chance
from medidiff.training.heldback import Comparison, Judge, NoisyScan, noisy_scan, posterior_mean
from medidiff.training.muon import Muon
from medidiff.training.recorrupt import Recorrupted, recorrupt
from medidiff.volume import Volume

__all__ = ["AdaptSettings", "Adapted", "adapt", "beginning"]

_SHARE = 0.6  # a of `recorrupt`: scans are made 1.17 times as noisy
_WHITE = 1.15  # largest of `NoisyScan.colours`: noise smoothed by half a voxel has 1.2, white noise of 3 % about 1.05
_TOLD_RIGHT = 1.25  # factor between the level that is told and the one that the scan shows
_RATE = 5e-4
_WARMUP = 10  # patches until the full rate is reached
_CLIP = 1.0  # largest norm of a gradient
_HALF_LIFE = 30.0  # of the running mean of the weights, in patches
_BETWEEN_LOOKS = 25  # patches
_PATIENCE = 3  # looks without a better one, after which it stops
_WORTH = 0.5  # standard errors that a look must be better by

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True, slots=True)
class AdaptSettings:
    """How to adapt. All fields but `device` and `progress` have an effect on the result.

    Args:
        prior: what to begin with: a bundled prior's name, a path, or a loaded `Prior`.
        noise: kind of noise in the scans: magnitude MR is Rician, real-valued MR is Gaussian.
        noise_level: σ in the scans' stored units, above 0; estimated from each scan when None.
        patches: training patches at most.
        minutes: time at most. Where this ends it, another machine gets other weights; the decisions say so.
        seed: what all randomness comes from, at least 0.
        device: ``"auto"`` takes a CUDA GPU when there is one, else the CPU.
        progress: called with the patches done and to do, and a word on how it goes.

    Raises:
        SettingsError: a value out of range.
    """

    prior: str | Prior = DEFAULT_PRIOR
    noise: NoiseLaw = "rician"
    noise_level: float | None = None
    patches: int = 600
    minutes: float = 10.0
    seed: int = 0
    device: str = "auto"
    progress: Progress | None = None

    def __post_init__(self) -> None:
        level = self.noise_level
        rules = (
            ("--noise", self.noise, self.noise in ("rician", "gaussian"), "rician or gaussian"),
            ("--noise-level", level, level is None or (math.isfinite(level) and level > 0), "a finite level above 0"),
            ("--patches", self.patches, 1 <= self.patches <= 10**6, "1 to 1000000"),
            ("--minutes", self.minutes, 0 < self.minutes < math.inf, "a finite number above 0"),
            ("--seed", self.seed, 0 <= self.seed < 2**63, "0 to 2^63 - 1"),
        )
        require(rules)
        compute_device(self.device)

    def place(self) -> torch.device:
        """The device to compute on."""
        return compute_device(self.device)


@dataclass(frozen=True, slots=True)
class Adapted:
    """What came of it.

    Args:
        prior: under its new name; where nothing better was found, with the weights that it began with.
        changed: whether the weights are new.
        patches: training patches seen.
        comparison: of the best new weights with the first, on the cubes that decide; None where there were none.
        decisions: what was chosen on the way, as sentences.
    """

    prior: Prior
    changed: bool
    patches: int
    comparison: Comparison | None
    decisions: tuple[str, ...]


def adapt(scans: Volume | Sequence[Volume], name: str, **settings: object) -> Adapted:
    """Make a prior for the scanner and contrast of noisy scans, or find that there is nothing to gain.

    Args:
        scans: (1, I, J, K) noisy scans of one kind; a scan that is given twice counts once.
        name: of the new prior; letters, digits, dots, dashes and underscores.
        settings: the fields of `AdaptSettings`.

    Raises:
        SettingsError: a setting or the name is out of range, or there is no scan.
        InputError: a scan has more than one channel, shows no tissue, has voxels that are not finite, or a scan or the
            prior is not for MR.
        PriorError: no such prior, or training diverged.

    Example:
        >>> made = adapt(scan, "ward-3-flair", noise_level=12.0)     # doctest: +SKIP
        >>> clean = denoise(scan, prior=made.prior)                  # doctest: +SKIP
    """
    chosen = AdaptSettings(**settings)  # type: ignore[arg-type] # checked there
    volumes = [scans] if isinstance(scans, Volume) else list(scans)
    first, told = beginning(volumes, name, chosen.prior)
    noisy = [noisy_scan(v, kind=chosen.noise, level=chosen.noise_level, seed=chosen.seed) for v in volumes]
    usable, found = _usable(noisy, first.card, chosen)
    decisions = [*told, *found]
    if not usable:
        return _unchanged(first, name, decisions, patches=0, comparison=None)
    run = _Run(first, usable, chosen)
    decisions.append(run.fit())
    if run.best is None:
        decisions.append("no weights were better on the parts held back")
        return _unchanged(first, name, decisions, patches=run.seen, comparison=None)
    denoiser = _rounded(run.average, run.best)
    judge = Judge(usable, run.first, share=_SHARE, kind=chosen.noise, part=1, seed=chosen.seed, device=chosen.place())
    comparison = judge.compare(denoiser)
    decisions.append(_sentence(comparison))
    if not comparison.better:
        return _unchanged(first, name, decisions, patches=run.seen, comparison=comparison)
    card = _card(first.card, name, usable, run, comparison)
    return Adapted(Prior(denoiser.cpu().eval(), card), True, run.seen, comparison, tuple(decisions))


def beginning(scans: Sequence[Volume], name: str, prior: str | Prior) -> tuple[Prior, list[str]]:
    """The prior to begin with, and what was decided of the scans' modality: all that can be refused before any work.

    A scan that does not say its modality passes for MR, unless its values look like Hounsfield units.

    Args:
        scans: (1, I, J, K) noisy scans, at least one.
        name: of the new prior.
        prior: a bundled prior's name, a path, or a loaded one.

    Raises:
        SettingsError: the name is out of range, or there is no scan.
        InputError: ``E-MODALITY``, a scan or the prior is not for MR.
        PriorError: no such prior, or a broken one.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
        wanted = "letters, digits, dots, dashes and underscores, at most 64"
        raise SettingsError("E-SETTING", "a name that no file should have", wanted=wanted, attribute="--name")
    if not scans:
        raise SettingsError("E-SETTING", "no scans", wanted="at least one", attribute="SCAN")
    chosen = prior if isinstance(prior, Prior) else Prior.load(prior)
    if chosen.card.modality != "MR":
        found = f"the prior '{chosen.card.name}', which is for {chosen.card.modality}"
        mend = "Only a prior for MR can be adapted: name one with --prior."
        raise InputError("E-MODALITY", found, wanted="a prior for MR", mend=mend)
    decisions = []
    for number, volume in enumerate(scans, 1):
        _check_modality(volume, number)
        decisions += [f"scan {number}: {sentence}" for sentence in fitting_prior(volume, chosen)[1]]
    return chosen, decisions


def _check_modality(volume: Volume, number: int) -> None:
    """Refuse all but MR, whose magnitudes alone have the noise that is learnt from."""
    if volume.modality not in ("MR", "OT"):
        found, mend = f"scan {number} is {volume.modality}", "Leave it out: only MR has the noise that is adapted to."
        raise InputError("E-MODALITY", found, wanted="MR scans", mend=mend)
    if volume.modality == "OT" and looks_like_hounsfield(volume):
        found = f"scan {number} does not say its modality and has values like Hounsfield units"
        mend = 'Leave a CT out; if it is MR, say so in a JSON file beside it with "Modality": "MR".'
        raise InputError("E-MODALITY", found, wanted="MR scans", mend=mend)


def _usable(noisy: Sequence[NoisyScan], card: Card, chosen: AdaptSettings) -> tuple[list[NoisyScan], list[str]]:
    """The scans that can be adapted to, each once, and what was decided of them."""
    low, high = card.noise[0], card.noise[1] / math.sqrt(1 + _SHARE**2)
    decisions: list[str] = []
    usable: dict[str, NoisyScan] = {}
    for number, scan in enumerate(noisy, 1):
        told = f"noise level {scan.level * scan.gain:.4g} of scan {number}"
        if chosen.noise_level is None:
            decisions.append(f"{told} estimated from the scan ({chosen.noise})")
        if scan.sha256 in usable:
            decisions.append(f"scan {number} is the same as an earlier one and counts once")
        elif not low <= scan.level <= high:
            span = f"{100 * low:g} to {100 * high:.3g} % of the tissue maximum"
            decisions.append(f"{told} is outside of what can be adapted to ({span}); it is left out")
        elif not 1 / _TOLD_RIGHT <= scan.level / scan.estimated <= _TOLD_RIGHT:
            decisions.append(f"{told} is far from the {scan.estimated * scan.gain:.4g} that it shows; it is left out")
        elif max(scan.colours, default=1.0) > _WHITE:
            found = f"the noise of scan {number} is not white (a factor of {max(scan.colours):.2f}, at most {_WHITE:g})"
            decisions.append(
                f"{found}: the scan was interpolated or filtered, or is nearly free of noise; it is left out"
            )
        elif not len(scan.starts):
            decisions.append(f"scan {number} has too little tissue to hold some of it back; it is left out")
        else:
            usable[scan.sha256] = scan
    return list(usable.values()), decisions


class _Run:
    """Weights on their way, and the best of them so far."""

    def __init__(self, first: Prior, scans: Sequence[NoisyScan], chosen: AdaptSettings) -> None:
        self.scans, self.chosen, self.device = scans, chosen, chosen.place()
        self.first = copy.deepcopy(first.denoiser).to(self.device)
        self.first.autocast = None
        self.trained = copy.deepcopy(self.first).requires_grad_(True)
        self.average = copy.deepcopy(self.first)
        self.parameters = list(self.trained.parameters())
        self.optimizer = Muon(self.parameters, lr=_RATE)
        self.seen = 0
        self.best: dict[str, Tensor] | None = None
        self.lowest, self.fruitless = 0.0, 0

    def fit(self) -> str:
        """Train until the watched cubes say stop, or time or patches are spent; says which it was."""
        end = time.monotonic() + 60 * self.chosen.minutes
        judge = Judge(
            self.scans,
            self.first,
            share=_SHARE,
            kind=self.chosen.noise,
            part=0,
            seed=self.chosen.seed,
            device=self.device,
        )
        state = ""
        while self.seen < self.chosen.patches:
            self._step()
            late = time.monotonic() > end
            if self.seen % _BETWEEN_LOOKS == 0 or self.seen == self.chosen.patches or late:
                state = self._look(judge.compare(self.average))
            if self.chosen.progress is not None:
                self.chosen.progress(self.seen, self.chosen.patches, state)
            if late:
                return f"stopped after {self.seen} patches by the limit of {self.chosen.minutes:g} minutes"
            if self.fruitless == _PATIENCE:
                return f"stopped by itself after {self.seen} patches"
        return f"stopped after {self.seen} patches, the most that were allowed"

    def _look(self, seen: Comparison) -> str:
        """Take note of how the running mean of the weights does."""
        if seen.change < self.lowest - _WORTH * seen.error:
            self.lowest, self.fruitless = seen.change, 0
            self.best = {name: weight.clone() for name, weight in self.average.state_dict().items()}
        else:
            self.fruitless += 1
        return f"error {seen.change:+.4f} of the noise variance"

    def _step(self) -> None:
        noisy, tissue = self._patch(Chance(self.chosen.seed, self.seen))
        residual = noisy.residual(posterior_mean(self.trained, noisy))
        loss = (residual.square() * tissue).sum() / (tissue.sum() * noisy.strong)
        loss.backward()  # type: ignore[no-untyped-call]
        if not bool(nn.utils.clip_grad_norm_(self.parameters, _CLIP) < torch.inf):
            raise PriorError("E-DIVERGED", f"loss {float(loss.detach()):g} after {self.seen} patches")
        self.seen += 1
        for group in self.optimizer.param_groups:
            group["lr"] = _RATE * min(1.0, self.seen / _WARMUP)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        keep = 0.5 ** (1 / min(_HALF_LIFE, 0.2 * self.seen))
        with torch.no_grad():
            for mean, now in zip(self.average.parameters(), self.parameters, strict=True):
                mean.lerp_(now, 1.0 - keep)

    def _patch(self, chance: Chance) -> tuple[Recorrupted, Tensor]:
        """A patch made noisier, and where it is tissue, (1, 1, P, P, P) both; now and then mirrored."""
        scan = self.scans[chance.pick([len(scan.starts) for scan in self.scans])]
        start = scan.starts[chance.below(len(scan.starts))]
        cut = tuple(slice(int(a), int(a) + n) for a, n in zip(start, scan.patch, strict=True))
        axes = [axis for axis in range(3) if chance.happens(0.5)]
        y, tissue = (part[cut].flip(axes)[None, None].to(self.device) for part in (scan.image, scan.tissue))
        kind = self.chosen.noise
        return recorrupt(y, scan.level, share=_SHARE, kind=kind, generator=chance.generator), tissue


def _rounded(denoiser: Preconditioned, weights: dict[str, Tensor]) -> Preconditioned:
    """A denoiser with weights as `Prior.save` keeps them, so that what is judged is what is written."""
    made = copy.deepcopy(denoiser)
    made.load_state_dict({name: weight.half().float() for name, weight in weights.items()})
    return made.requires_grad_(False)


def _sentence(found: Comparison) -> str:
    gain = f", about {found.gain_db:+.2f} dB" if math.isfinite(found.gain_db) else ""
    doubt = (
        f", of which {found.allowance:.4f} may be noise that neighbours share" if found.allowance > found.error else ""
    )
    change = f"{found.change:+.4f} ± {found.error:.4f} of the noise variance{gain}{doubt}"
    verdict = "the new weights are taken" if found.better else "no gain beyond doubt, the weights stay as they were"
    return f"error on the parts held back {change}: {verdict}"


def _unchanged(
    first: Prior, name: str, decisions: Iterable[str], *, patches: int, comparison: Comparison | None
) -> Adapted:
    """The prior as it was, under the new name."""
    said = (*decisions, "the prior is the one that it began with")
    card = dataclasses.replace(first.card, name=name, start=_origin(first.card))
    return Adapted(Prior(first.denoiser, card), False, patches, comparison, said)


def _origin(card: Card) -> dict[str, str | int]:
    return {"name": card.name, "sha256": card.weights_sha256, "images": card.images}


def _card(first: Card, name: str, scans: Sequence[NoisyScan], run: _Run, found: Comparison) -> Card:
    """What the new prior is; of the scans it says how many and how noisy, and no name."""
    count = f"{len(scans)} noisy scan{'s' if len(scans) > 1 else ''} without a reference"
    levels = ", ".join(f"{100 * level:.2g} %" for level in np.unique([round(scan.level, 3) for scan in scans]))
    limit = (
        f"Adapted to {count}, at noise of {levels} of the tissue maximum. Other contrasts, other noise levels, "
        "super-resolution and draws were not part of it and may be worse than with the prior it began with."
    )
    return dataclasses.replace(
        first,
        name=name,
        summary=f"{first.name}, adapted to {count}.",
        images=first.images + run.seen,
        sources=(*first.sources, f"{count}, not named"),
        data_fingerprint=hashlib.sha256("".join(sorted(scan.sha256 for scan in scans)).encode()).hexdigest(),
        recipe={
            "adaptation": {
                "noise": run.chosen.noise,
                "patches": run.seen,
                "patch": [list(scan.patch) for scan in scans],
                "rate": _RATE,
                "seed": run.chosen.seed,
                "share": _SHARE,
            },
            "start": dict(first.recipe),
        },
        start=_origin(first),
        metrics={
            "held_back_change": found.change,
            "held_back_error": found.error,
            "held_back_allowance": found.allowance,
        },
        limits=(*first.limits, limit),
        weights_sha256="",
    )
