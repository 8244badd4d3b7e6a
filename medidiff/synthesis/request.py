"""What is asked of a cascade, and what of it can be had."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as nnf

from medidiff.errors import InputError, SettingsError
from medidiff.physics.framing import see_in_frame
from medidiff.prior.coarse import CoarseCard
from medidiff.volume import Geometry, Volume

__all__ = ["Request", "check_field", "check_spacing", "finer_shares", "tissue_given"]

_FINEST = (0.85, 1.2)  # mm: voxels that the last prior of the cascade was trained on


@dataclass(frozen=True, slots=True)
class Request:
    """What a scan is to be like. All that is None is left to the prior.

    Args:
        contrast: e.g. ``"T1w"``.
        age: in years.
        sex: ``"F"`` or ``"M"``.
        tissue: label map of a brain that the scan is drawn to: 0 background, 1 CSF, 2 gray and 3 white matter.
        spacing_mm: side of the cubic voxels.
        field_mm: extent along right, front and head; None for the whole frame.
        guidance: how strongly contrast, age, sex and tissue are followed; 1 is as strongly as in the training scans.

    Raises:
        SettingsError: ``E-SETTING``, a number that is none.
    """

    contrast: str | None = None
    age: float | None = None
    sex: str | None = None
    tissue: Volume | None = None
    spacing_mm: float = 1.0
    field_mm: tuple[float, float, float] | None = None
    guidance: float = 1.0

    def __post_init__(self) -> None:
        sides = (self.spacing_mm, *(self.field_mm or ()))
        if not all(math.isfinite(side) and side > 0 for side in sides):
            raise SettingsError("E-SETTING", f"{sides}", wanted="lengths in mm above 0", attribute="spacing")

    @property
    def asked(self) -> dict[str, str | float]:
        """What was asked for by name; what was left open is left out."""
        named: Mapping[str, str | float | None] = {"contrast": self.contrast, "age": self.age, "sex": self.sex}
        return {name: value for name, value in named.items() if value is not None}


def check_spacing(spacing_mm: float, card: CoarseCard) -> int:
    """How many of the cascade's finer priors a spacing takes: none for the coarse voxels, all for about 1 mm.

    Raises:
        SettingsError: ``E-ASKED``, the cascade has no such voxels; the nearest it has are named.
    """
    sides = [card.spacing_mm / 2**stage for stage in range(len(card.finer) + 1)]
    for stage, side in enumerate(sides[:-1]):
        if math.isclose(spacing_mm, side, rel_tol=1e-3):
            return stage
    low, high = (limit * sides[-1] for limit in _FINEST)
    if card.finer and low <= spacing_mm <= high:
        return len(card.finer)
    had = sorted((*sides[:-1], *((low, high) if card.finer else sides[-1:])))
    nearest = min(had, key=lambda side: abs(math.log(side / spacing_mm)))
    wanted = f"{low:g} to {high:g} mm" + "".join(f", or {side:g}" for side in reversed(sides[:-1]))
    mend = f"Ask for {nearest:g}, the nearest that it was trained on."
    raise SettingsError("E-ASKED", f"{spacing_mm:g} mm", wanted=wanted, attribute="spacing", mend=mend)


def check_field(field_mm: tuple[float, float, float] | None, card: CoarseCard) -> None:
    """Refuse a field of view that is larger than the frame.

    Raises:
        SettingsError: ``E-ASKED``; the largest field is named.
    """
    most = tuple(n * card.spacing_mm for n in card.shape)
    if field_mm is not None and any(side > limit + 1e-6 for side, limit in zip(field_mm, most, strict=True)):
        found, wanted = "x".join(f"{side:g}" for side in field_mm), "x".join(f"{side:g}" for side in most)
        mend = f"Ask for at most {wanted}, the field of the training scans."
        raise SettingsError("E-ASKED", f"{found} mm", wanted=f"{wanted} mm", attribute="field of view", mend=mend)


def tissue_given(tissue: Volume, card: CoarseCard, grid: Geometry) -> tuple[Tensor, Tensor]:
    """A label map as the coarse prior is given it, and as it stands on the grid of the scan.

    A map whose box is the frame's is taken as it lies; any other is stood upright in the middle of the frame.

    Args:
        tissue: (1, I, J, K) labels from 0 to the number of the card's.
        card: of the coarse prior.
        grid: of the scan that is drawn.

    Returns:
        (L, I', J', K') share of each tissue in the coarse frame, and the same on `grid`, float32.

    Raises:
        InputError: ``E-LABELS``, other labels, or no tissue at all.
        SettingsError: ``E-TARGET``, a map coarser than the frame.
    """
    numbers = np.unique(tissue.data)
    known = range(len(card.labels) + 1)
    if not set(numbers.tolist()) <= set(known) or not numbers.any():
        wanted = ", ".join(f"{n + 1} {label}" for n, label in enumerate(card.labels))
        raise InputError("E-LABELS", f"labels {numbers[:8].tolist()}", wanted=f"0 background, {wanted}")
    onehot = np.stack([tissue.data[0] > 0, *(tissue.data[0] == n for n in known[1:])]).astype(np.float32)
    shares = tissue.with_data(onehot)
    if _same_box(tissue.geometry, card.frame):
        return _resized(shares, card.frame), _resized(shares, grid)
    coarse = torch.from_numpy(see_in_frame(shares, card.frame).data[1:].copy())
    if max(tissue.geometry.spacing_mm) <= min(grid.spacing_mm) * (1 + 1e-6):
        return coarse, torch.from_numpy(see_in_frame(shares, grid).data[1:].copy())
    return coarse, finer_shares(coarse, grid)


def finer_shares(shares: Tensor, grid: Geometry) -> Tensor:
    """Shares of tissue (L, I, J, K) on a grid over the same box, trilinear."""
    return nnf.interpolate(shares[None], size=grid.shape, mode="trilinear", align_corners=False)[0]


def _same_box(geometry: Geometry, frame: Geometry) -> bool:
    def faces(grid: Geometry) -> NDArray[np.float64]:
        return grid.world(np.stack([np.full(3, -0.5), np.asarray(grid.shape) - 0.5]))

    return geometry.orientation == "RAS" and bool(np.abs(faces(geometry) - faces(frame)).max() < 0.5)


def _resized(shares: Volume, grid: Geometry) -> Tensor:
    image = torch.from_numpy(shares.data[1:].copy())[None]
    coarser = all(n >= m for n, m in zip(shares.shape, grid.shape, strict=True))
    if coarser:
        return nnf.adaptive_avg_pool3d(image, grid.shape)[0]
    return finer_shares(image[0], grid)
