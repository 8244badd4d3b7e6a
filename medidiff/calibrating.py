"""Answers to scans whose truth is known, judged: what a calibration is fitted to.

The truth is a clean scan. Its degraded partner was measured, or is simulated by stated physics: slices or larger
distances between them by a box profile without gaps, across the scan's last axis, then Rician or Gaussian noise. What
is judged is the answer's tissue that slices reach and that the scanner measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from medidiff.errors import InputError, SettingsError
from medidiff.physics import Degradation, Noise, Separable, Slices, identity, resample
from medidiff.physics.framing import upright
from medidiff.physics.seeing import seen_through
from medidiff.prepare import fit_intensity
from medidiff.restore import refines, restore
from medidiff.settings import NoiseLaw, Settings
from medidiff.trust import Case, Posterior, judged_mask, tally
from medidiff.volume import Geometry, Volume

__all__ = ["Degraded", "Task", "answered", "degraded", "judged", "paired", "twins"]

Task = Literal["denoise", "superresolve"]

_COARSE = 16  # cells along each axis in which scans are compared first
_SIMILAR = 0.995  # correlation of these; of two of 36 people of one site it is at most 0.981
_TWINS = 0.9999  # correlation of the voxels
_SAME_MM = 0.01  # between the grid of a clean scan and the one that its partner's answer lies on


@dataclass(frozen=True, slots=True, eq=False)
class Degraded:
    """A scan that is worse than its truth in a known way.

    Args:
        scan: as it is given to the prior.
        operator: by which it sees the grid of the truth.
        slices: how its slices were taken, where that matters and was not simulated.
        level: of its noise, in stored units; None where it is to be estimated.
    """

    scan: Volume
    operator: Separable
    slices: Slices | None = None
    level: float | None = None


def degraded(clean: Volume, *, noise: float, factor: float = 1.0, law: NoiseLaw = "rician", seed: int) -> Degraded:
    """A clean MR scan as it would have been measured with more noise, or in thicker slices.

    Args:
        clean: the truth.
        noise: σ, as a share of the tissue maximum.
        factor: thickness of the slices, in voxels of the truth along its last axis.
        law: of the noise.
        seed: of the noise.

    Raises:
        InputError: ``E-MODALITY``, not MR: the noise of a CT or PET is not white; several channels; no tissue.
        SettingsError: a level or factor out of range.
    """
    if clean.modality not in ("MR", "OT"):
        mend = "Give pairs of clean and degraded scans instead."
        raise InputError("E-MODALITY", f"a {clean.modality} scan to add noise to", wanted="an MR scan", mend=mend)
    if clean.data.shape[0] != 1:
        raise InputError("E-4D", f"{clean.data.shape[0]} channels", wanted="one", mend="Give them one by one.")
    if not (0 < noise < 1 and 1 <= factor <= clean.shape[2] / 2):
        wanted = f"noise above 0 and below 1, a factor from 1 to {clean.shape[2] // 2}"
        raise SettingsError("E-SETTING", f"noise {noise:g}, factor {factor:g}", wanted=wanted)
    level = noise * fit_intensity(clean).gain
    operator = identity() if factor == 1 else resample(clean.shape, factors=(1.0, 1.0, factor))
    image = torch.from_numpy(clean.data[0].astype(np.float32))
    chance = torch.Generator().manual_seed(seed)
    y = Degradation(operator, Noise(law, level)).observe(image, chance).numpy()
    scan = Volume(y, _coarser(clean.geometry, y.shape[2], factor), clean.modality, clean.units)
    return Degraded(scan, operator, level=level)


def _coarser(fine: Geometry, count: int, factor: float) -> Geometry:
    """The grid of slices that lie in the middle of a fine grid's last axis."""
    affine = fine.affine.copy()
    affine[:3, 2] *= factor
    affine[:3, 3] = fine.world((0, 0, (fine.shape[2] - 1 - (count - 1) * factor) / 2))
    return Geometry((fine.shape[0], fine.shape[1], count), affine)


def paired(clean: Volume, scan: Volume, *, task: Task) -> Degraded:
    """A degraded scan that was measured, beside the clean one of the same patient, in register with it.

    Raises:
        InputError: ``E-GRID``, the clean scan does not lie where the answer to the degraded one will.
    """
    target = scan.geometry if task == "denoise" else scan.geometry.with_spacing(clean.geometry.spacing_mm)
    apart = target.distance_mm(clean.geometry)
    if apart > _SAME_MM:
        found = f"a clean scan {apart:.4g} mm away" if np.isfinite(apart) else f"a clean scan of {clean.shape} voxels"
        wanted = f"one on the grid of the answer, {target!r}"
        raise InputError("E-GRID", found, wanted=wanted, mend="Register and resample the clean scan to it first.")
    if task == "denoise":
        return Degraded(scan, identity())
    slices = Slices.of(scan) if refines(scan, clean.geometry) else None
    return Degraded(scan, seen_through(clean.geometry, scan.geometry, slices), slices)


def answered(clean: Volume, worse: Degraded, *, task: Task, settings: Settings) -> Posterior:
    """The answer to a degraded scan, on the grid of its truth.

    Raises:
        MedidiffError: as `medidiff.restore.restore`.
    """
    return restore(worse.scan, clean.geometry, worse.operator, task=task, settings=settings, slices=worse.slices)


def judged(clean: Volume, posterior: Posterior, worse: Degraded, *, patient: str, group: int) -> Case:
    """How far an answer is from its truth.

    Args:
        clean: the truth.
        posterior: the answer, with draws.
        worse: what it is the answer to.
        patient: SHA-256 of the clean scan.
        group: which level or thickness it is.

    Raises:
        InputError: ``E-FLAT``, the answer shows no tissue, or is that of a constant scan.
    """
    answer = posterior.answer
    if answer is None or answer.seen is None or not answer.seen.signs:
        raise InputError("E-FLAT", "an answer without tissue", wanted="a scan of a patient", mend="Leave it out.")
    gain = answer.level / answer.seen.noise
    truth, mean, error = (np.asarray(each.data[0] / np.float32(gain)) for each in (clean, answer.mean, answer.error))
    counted = tally(
        truth,
        mean,
        error,
        mask=judged_mask(answer.mean, worse.operator),
        level=answer.seen.noise,
        spacing_mm=clean.geometry.spacing_mm,
    )
    return Case(patient, group, answer.seen, counted)


def twins(scans: Sequence[Volume]) -> tuple[int, int] | None:
    """The first two scans that are one, stored in another type, unit or order of axes, or with a few voxels changed.

    Two scans of one patient are not told from those of two: noise and position differ.
    """
    cells: list[NDArray[np.float64]] = []
    for number, scan in enumerate(scans):
        image = torch.from_numpy(np.ascontiguousarray(upright(scan)[0]))
        seen = _centred(F.adaptive_avg_pool3d(image[None], (_COARSE,) * 3).numpy())
        for other, earlier in enumerate(cells):
            if earlier @ seen > _SIMILAR and _one(upright(scans[other])[0], image.numpy()):
                return other, number
        cells.append(seen)
    return None


def _one(first: NDArray[np.float32], second: NDArray[np.float32]) -> bool:
    return first.shape == second.shape and bool(_centred(first) @ _centred(second) > _TWINS)


def _centred(values: NDArray[np.float32]) -> NDArray[np.float64]:
    """Without their mean, of length 1."""
    flat = values.astype(np.float64).ravel()
    flat -= flat.mean()
    return np.asarray(flat / max(float(np.linalg.norm(flat)), np.finfo(np.float64).tiny))
