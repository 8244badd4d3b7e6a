"""The card of a prior: what it is, what it was made from, what it is for."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from medidiff.errors import PriorError
from medidiff.physics.contrast import Curve

__all__ = ["Card", "Measures"]


@dataclass(frozen=True, slots=True)
class Measures:
    """The other contrast that a prior is shown, where it draws one contrast given another.

    Args:
        contrast: that it is shown, e.g. ``"T1w"``.
        curve: what its brightness says of the contrast that is sought.
        spacing_mm: side of the voxels that it was trained in; 0 for those of its scans.
    """

    __pydantic_config__ = ConfigDict(extra="forbid", allow_inf_nan=False)
    contrast: Annotated[str, Field(pattern=r"^[A-Za-z0-9]{1,16}$")]
    curve: Curve
    spacing_mm: Annotated[float, Field(ge=0)] = 0.0


@dataclass(frozen=True, slots=True)
class Card:
    """Everything about a prior but its weights; stands beside them as JSON.

    Args:
        name: short name, also the files' stem.
        summary: one sentence.
        modality: DICOM's word for what it was trained on.
        contrasts: e.g. ``("T1w",)``.
        channels: features of the network at half and at quarter size.
        blocks: residual blocks down, at quarter size, and up.
        sigma_data: σ_d of the preconditioning.
        sigma_detail: σ_n of the preconditioning.
        noise: noise levels it practised on, lowest and highest, as a share of the tissue maximum.
        images: training patches seen, those of `start` included.
        licence: terms of the weights.
        sources: training data, each with its licence and number of scans.
        data_fingerprint: SHA-256 over the training scans' voxels.
        recipe: the training recipe.
        start: the prior that training began with: its name, SHA-256 and images; empty when it began with chance.
        metrics: validation scores, by name.
        calibration: how far the spread of its draws, and intervals made of it, held on scans it had not seen, by name;
            empty where that was never measured.
        intended_use: what it may be used for.
        limits: what is known not to work, or was never tried.
        measures: what it is shown, where that is another contrast; None for a prior that restores.
        weights_sha256: of the weights file.
    """

    __pydantic_config__ = ConfigDict(extra="forbid", allow_inf_nan=False)
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    summary: str
    modality: str
    contrasts: tuple[str, ...]
    channels: tuple[Annotated[int, Field(ge=1, le=1024)], Annotated[int, Field(ge=1, le=1024)]]
    blocks: tuple[
        Annotated[int, Field(ge=0, le=64)], Annotated[int, Field(ge=0, le=64)], Annotated[int, Field(ge=0, le=64)]
    ]
    sigma_data: Annotated[float, Field(gt=0)]
    sigma_detail: Annotated[float, Field(gt=0)]
    noise: tuple[float, float]
    images: int
    licence: str
    sources: tuple[str, ...]
    data_fingerprint: str
    recipe: Mapping[str, Any] = field(default_factory=dict)
    start: Mapping[str, str | int] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    calibration: Mapping[str, float] = field(default_factory=dict)
    intended_use: str = "Research on image restoration. Not for diagnosis."
    limits: tuple[str, ...] = ()
    measures: Measures | None = None
    weights_sha256: str = ""

    @property
    def thinnest_slices(self) -> float:
        """Thickness of the thinnest slices that it practised, in slice distances; 1 where it met none with gaps.

        An adapted prior has practised what the one before it had.
        """
        recipe: Any = self.recipe
        while isinstance(recipe, Mapping) and "degradation" not in recipe:
            recipe = recipe.get("start")
        ranges = recipe["degradation"] if isinstance(recipe, Mapping) else {}
        if not (ranges.get("thick", 0) > 0 and ranges.get("uneven", 0) > 0):
            return 1.0
        return float(min(ranges.get("overlap", (1.0,))))

    def to_json(self) -> str:
        """The card as JSON text."""
        return json.dumps(dataclasses.asdict(self), indent=2, sort_keys=True, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str, *, file: str = "") -> Card:
        """The card that `to_json` wrote; unknown or broken entries are refused."""
        try:
            return TypeAdapter(cls).validate_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            entry = ".".join(str(part) for part in first["loc"])[:80]
            mend = "Fetch the card again, together with its weights; it is not meant to be edited."
            raise PriorError("E-CARD", first["msg"][:200], mend=mend, file=file, attribute=entry) from error
