"""`augment`: one variant of a scan, a function of the seed and its number alone."""

from __future__ import annotations

import dataclasses
import hashlib
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch

from medidiff.augmentation.placing import place
from medidiff.augmentation.scanning import Scanned, drawn, scan_again
from medidiff.case import Case
from medidiff.diffusion import Plan
from medidiff.errors import InputError
from medidiff.prepare import IntensityScale, fit_intensity, put_back, with_filler_marked, without_padding
from medidiff.prior import Prior, fitting_prior
from medidiff.prior.coarse import DEFAULT_COARSE, coarse_card_path
from medidiff.prior.fitting import bundled_for
from medidiff.settings import compute_device, require
from medidiff.synthesis import Cascade, Request
from medidiff.training.chance import Chance
from medidiff.training.recipe import DegradationRanges
from medidiff.version import __version__
from medidiff.volume import Provenance, Volume

__all__ = ["KINDS", "SCANNERS", "Kind", "Variant", "VariantSettings", "augment"]

Kind = Literal["degraded", "restored", "synthetic"]
KINDS: tuple[Kind, ...] = get_args(Kind)

SCANNERS = DegradationRanges(
    denoise=0.5,
    thick=0.35,
    coarse=0.15,
    nothing=0.0,
    noise=(0.01, 0.12),
    thick_noise=(0.005, 0.05),
    rician=1.0,
    factor=(1.5, 6.0),
    uneven=0.25,
    overlap=(0.7, 1.3),
    gaussian=0.3,
    coarse_factor=(1.2, 2.5),
    cubic=0.5,
)
"""Scanners that a clinic may have: half only noisier, a third with thick slices, the rest with larger voxels."""


@dataclass(frozen=True, slots=True)
class VariantSettings:
    """How variants are made. The defaults are what a trainer can afford; `docs/augmentation.md` says what they cost.

    Args:
        scanners: which scanners degrade, sizes in voxels of the scan; grey values stay as they are.
        tissue_maximum: brightness that counts as 100 %, in the scan's units; read off each scan when None, which a
            patch without bright tissue misleads. Without an effect on CT, whose scale is its own.
        prior: that restores: a bundled prior's name, a path, or a loaded one; None for that of the scan's modality.
        plan: how a draw is made; one evaluation of the network more than it has steps.
        cases: synthetic cases to choose from; when empty, `cascade` draws one for each variant.
        cascade: a coarse prior's name, the path of its card, or a cascade.
        request: what the cascade is asked for.
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``; the processes of a data loader can only use the CPU.

    Raises:
        SettingsError: ``E-SETTING``, a value out of range; ``E-DEVICE``, no such device.
    """

    scanners: DegradationRanges = SCANNERS
    tissue_maximum: float | None = None
    prior: str | Path | Prior | None = None
    plan: Plan = dataclasses.field(default_factory=lambda: Plan(steps=2, sigma_start=0.1))
    cases: Sequence[Case] = ()
    cascade: str | Path | Cascade = DEFAULT_COARSE
    request: Request = dataclasses.field(default_factory=Request)
    device: str = "cpu"

    def __post_init__(self) -> None:
        top, nothing = self.tissue_maximum, self.scanners.nothing
        require(
            [
                ("tissue_maximum", top, top is None or 0 < top < float("inf"), "a finite brightness above 0"),
                ("scanners.nothing", nothing, nothing == 0, "0: a scan of which nothing is seen is no variant of it"),
            ]
        )
        compute_device(self.device)

    def require_cases(self) -> None:
        """Refuse settings that no synthetic variant can be made with, before the first is needed.

        Raises:
            PriorError: ``E-PRIOR``, there are no cases, and no such coarse prior.
        """
        if not self.cases and not isinstance(self.cascade, Cascade):
            coarse_card_path(self.cascade)

    def case(self, number: int, *, seed: int) -> Case:
        """The synthetic case of a variant."""
        if self.cases:
            return self.cases[Chance(seed, number).below(len(self.cases))]
        cascade = self.cascade if isinstance(self.cascade, Cascade) else _cascade(self.cascade, self.device)
        return cascade.draw(self.request, number, seed=seed)


@dataclass(frozen=True, slots=True, eq=False)
class Variant:
    """One variant of a scan.

    Args:
        kind: how it was made.
        image: (C, I, J, K) float32, in the scan's units.
        labels: its label map; None when there is none.
        provenance: all that is needed to make it again; says so where the scan is synthetic.
    """

    kind: Kind
    image: Volume
    labels: Volume | None
    provenance: Provenance


def augment(
    volume: Volume | None,
    kind: Kind = "degraded",
    *,
    labels: Volume | None = None,
    seed: int = 0,
    number: int = 0,
    **settings: Any,
) -> Variant:
    """Make one variant of a scan.

    The restored variant of a seed and number is drawn from the degraded one of the same. A synthetic one lies on the
    scan's grid, the middle of the head in the middle of it, its white matter as bright as the scan's brightest tissue.

    Args:
        volume: (C, I, J, K) scan; None for a synthetic variant on its own grid and scale. Several channels are
            degraded and restored as scans of their own.
        kind: one of `KINDS`.
        labels: of the scan; a degraded or restored variant has the same.
        seed: at least 0.
        number: of the variant, at least 0.
        settings: the fields of `VariantSettings`.

    Raises:
        SettingsError: a setting out of range, or a request that the cascade was not trained on.
        InputError: labels off the scan's grid, a modality without a prior, or voxels that are not finite.
        PriorError: no such prior, or a broken one.

    Example:
        >>> worse = augment(scan, "degraded", labels=tissue, number=7)     # doctest: +SKIP
    """
    chosen = VariantSettings(**settings)
    require(
        [
            ("kind", kind, kind in KINDS, " or ".join(KINDS)),
            ("volume", None, volume is not None or kind == "synthetic", "a scan"),
            ("seed", seed, 0 <= seed < 2**63, "0 to 2^63 - 1"),
            ("number", number, 0 <= number < 2**63, "0 to 2^63 - 1"),
        ]
    )
    if volume is None:
        case = chosen.case(number, seed=seed)
        return Variant("synthetic", case.image, case.labels, case.provenance)
    if labels is not None and labels.geometry != volume.geometry:
        raise InputError("E-LABELS", f"labels on {labels.geometry!r}", wanted=f"on the scan's {volume.geometry!r}")
    if kind == "synthetic":
        return _synthetic(volume, chosen, seed=seed, number=number)
    return _scanned(volume, kind, chosen, labels=labels, seed=seed, number=number)


def _synthetic(volume: Volume, settings: VariantSettings, *, seed: int, number: int) -> Variant:
    if volume.data.shape[0] != 1:
        raise InputError("E-4D", f"{volume.data.shape[0]} channels", wanted="one, as a cascade draws")
    drawn_case = settings.case(number, seed=seed)
    case, modality = place(drawn_case, volume.geometry), drawn_case.image.modality
    if volume.modality not in ("OT", modality):
        raise InputError("E-MODALITY", f"a {volume.modality} scan", wanted=modality, mend="Leave synthetic ones out.")
    image = case.image
    if not _is_constant(volume):
        image = image.with_data(_scale(volume, settings).undo(image.data))
    return Variant("synthetic", image, case.labels, case.provenance)


def _scanned(
    volume: Volume, kind: Kind, settings: VariantSettings, *, labels: Volume | None, seed: int, number: int
) -> Variant:
    source = with_filler_marked(volume)
    measured = without_padding(source)
    if not np.isfinite(measured).all():
        raise InputError("E-NONFINITE", "voxels that are not finite numbers", mend="Mend or mask them first.")
    prior = _prior(source, settings) if kind == "restored" else None
    chance = Chance(seed, number)
    data, told = np.array(measured, np.float32), []
    for channel, values in enumerate(measured):
        single = dataclasses.replace(source, data=values[None])
        if _is_constant(single):
            told.append({"noise": "none"})
            continue
        scale = _scale(single, settings)
        magnitude = source.modality not in ("CT", "PT") and bool(values.min() >= 0)
        x = torch.from_numpy(scale.apply(values))
        scanned = scan_again(x, settings.scanners, chance, magnitude=magnitude)
        answer = scanned.image if prior is None else _restored(scanned, prior, settings, seed=seed, number=number)
        data[channel] = scale.undo((answer.clamp_min(0) if magnitude else answer).numpy())
        told.append(scanned.record(scale.gain))
    image = put_back(dataclasses.replace(source, data=data), source)
    record = _provenance(volume, kind, settings, told=told, prior=prior, place=(seed, number))
    return Variant(kind, image, labels, record)


def _restored(scanned: Scanned, prior: Prior, settings: VariantSettings, *, seed: int, number: int) -> torch.Tensor:
    device = compute_device(settings.device)
    prior.denoiser.to(device).autocast = torch.bfloat16 if device.type == "cuda" else None
    return drawn(scanned, prior, settings.plan, seed=seed, number=number, device=device)


def _is_constant(volume: Volume) -> bool:
    """Whether there is nothing to see, as in a patch of air: such a scan is passed through."""
    values = without_padding(volume)
    return bool((values == values.flat[0]).all())


def _scale(volume: Volume, settings: VariantSettings) -> IntensityScale:
    if settings.tissue_maximum is None or volume.modality == "CT":
        return fit_intensity(volume)
    return IntensityScale(0.0, settings.tissue_maximum)


def _prior(volume: Volume, settings: VariantSettings) -> Prior:
    named = bundled_for(volume.modality) if settings.prior is None else settings.prior
    return fitting_prior(volume, named if isinstance(named, Prior) else _loaded(named))[0]


@lru_cache(maxsize=4)
def _loaded(source: str | Path) -> Prior:
    return Prior.load(source)


@lru_cache(maxsize=2)
def _cascade(source: str | Path, device: str) -> Cascade:
    return Cascade(source, device=device)


def _provenance(
    volume: Volume,
    kind: Kind,
    settings: VariantSettings,
    *,
    told: list[dict[str, Any]],
    prior: Prior | None,
    place: tuple[int, int],
) -> Provenance:
    ranges = dataclasses.asdict(settings.scanners)
    made = {"kind": kind, "number": place[1], "scanners": ranges, "tissue_maximum": settings.tissue_maximum}
    return Provenance(
        task="augment",
        version=__version__,
        inputs=(hashlib.sha256(volume.data.tobytes()).hexdigest(),),
        settings=made | {"channels": told} | ({} if prior is None else {"plan": dataclasses.asdict(settings.plan)}),
        prior={} if prior is None else {"name": prior.card.name, "sha256": prior.card.weights_sha256},
        seed=place[0],
        environment={
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "device": settings.device,
        },
    )
