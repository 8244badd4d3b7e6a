"""The training run of a coarse prior as data: whole heads instead of patches, and what may be asked of them."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from medidiff.training.contrast_recipe import ContrastRecipe
from medidiff.training.recipe import (
    LICENCE,
    STRICT,
    Count,
    Depth,
    FitRecipe,
    Positive,
    Recipe,
    Share,
    Text,
    Weight,
    Width,
    as_plain,
    read_as,
    relative,
)

__all__ = [
    "AskedRecipe",
    "AtlasRecipe",
    "CoarseRecipe",
    "HeadSource",
    "HeadsRecipe",
    "Variation",
    "WatchRecipe",
    "WholeRecipe",
    "read_any",
]

Side = Annotated[int, Field(ge=8, le=512, multiple_of=8, strict=True)]


@dataclass(frozen=True, slots=True)
class HeadSource:
    """One source of training heads.

    Args:
        pattern: path below the data folder, with ``{subject}`` for each subject of the split.
        licence: under which terms the scans were published; goes into the card.
        split: table of the split file that lists the subjects.
        contrast: of the scans, e.g. ``"T1w"``.
        participants: BIDS table below the data folder with the columns participant_id, age and sex or gender.
    """

    __pydantic_config__ = STRICT
    pattern: Text
    licence: Text
    split: Text
    contrast: Annotated[str, Field(pattern=r"^[A-Za-z0-9]{1,16}$")]
    participants: Text


@dataclass(frozen=True, slots=True)
class HeadsRecipe:
    """Where the heads are, and in which frame they stand.

    Args:
        sources: what to train on.
        root: data folder, relative to the recipe; it is read when the heads are packed.
        split: file that assigns subjects to train, validation and test, relative to the recipe.
        shape: voxels of the coarse frame along right, front and head, multiples of 8.
        spacing_mm: side of its cubic voxels.
        finer: how many times as fine the pack is, so that a bent head is as sharp as a real one.
    """

    __pydantic_config__ = STRICT
    sources: Annotated[tuple[HeadSource, ...], Field(min_length=1, max_length=100)]
    root: Text = "."
    split: Annotated[Text, AfterValidator(relative)] = ""
    shape: tuple[Side, Side, Side] = (40, 48, 40)
    spacing_mm: Positive = 4.0
    finer: Annotated[int, Field(ge=1, le=4, strict=True)] = 2


@dataclass(frozen=True, slots=True)
class AtlasRecipe:
    """The deformable atlas of the training heads; found when they are packed.

    Args:
        knots_mm: distances of the knots of the bending fields, one after the other; the last is the atlas's.
        steps: of descent for each distance.
        rate: of a knot, voxels a step.
        stiffness: weight of squared second differences of the knots against the squared error.
        wander_mm: standard deviation of each knot of a drawn shape beyond what the training heads' shapes span.
    """

    __pydantic_config__ = STRICT
    knots_mm: Annotated[tuple[Positive, ...], Field(min_length=1, max_length=8)] = (48.0, 32.0, 16.0)
    steps: Count = 40
    rate: Positive = 0.06
    stiffness: Weight = 3e-5
    wander_mm: Weight = 0.5


@dataclass(frozen=True, slots=True)
class Variation:
    """How a training head is varied; standard deviations but for `mirrored`.

    Args:
        mirrored: share of heads seen in a mirror, left for right.
        turn_deg: rotation about each axis.
        stretch: logarithm of the size along each axis.
        shift_mm: along each axis.
        bend_mm: displacement of each knot of the bending field.
        knots_mm: distance between these knots, over which the field is cubic.
        gain: logarithm of the brightness.
        gamma: logarithm of the exponent of the grey values.
        bias: logarithm of the brightness at each knot of a smooth field over the whole head.
        reshaped: share of heads that take on the shape of another head, or part of the way to it (`worn`).
    """

    __pydantic_config__ = STRICT
    mirrored: Share = 0.5
    turn_deg: Weight = 3.0
    stretch: Weight = 0.03
    shift_mm: Weight = 1.5
    bend_mm: Weight = 2.5
    knots_mm: Positive = 28.0
    gain: Weight = 0.04
    gamma: Weight = 0.05
    bias: Weight = 0.03
    reshaped: Share = 0.0

    def __repr__(self) -> str:
        """As before version 0.1 knew `reshaped`, where it is 0: a checkpoint knows its recipe by this text."""
        told = [each.name for each in fields(self) if each.name != "reshaped" or self.reshaped]
        return f"Variation({', '.join(f'{name}={getattr(self, name)!r}' for name in told)})"


@dataclass(frozen=True, slots=True)
class AskedRecipe:
    """How often each condition is left out, so that the prior knows what to do without it.

    Args:
        untold: share of heads whose contrast, age and sex are all left out; as large a share again lacks each.
        tissue: share of heads of which the tissue is given, for draws to a map.
        image: share of which the image is given, for segmentation.
    """

    __pydantic_config__ = STRICT
    untold: Share = 0.1
    tissue: Share = 0.2
    image: Share = 0.05


@dataclass(frozen=True, slots=True)
class WholeRecipe:
    """The network.

    Args:
        channels: features at half and at quarter size.
        blocks: residual blocks down, at quarter size, and up.
    """

    __pydantic_config__ = STRICT
    channels: tuple[Width, Width] = (48, 128)
    blocks: tuple[Depth, Depth, Depth] = (1, 5, 1)


@dataclass(frozen=True, slots=True)
class WatchRecipe:
    """How a run is watched.

    Args:
        every: images between two looks.
        levels: diffusion levels at which the validation heads are denoised.
        steps: of the draws that are shown.
    """

    __pydantic_config__ = STRICT
    every: Count = 1000
    levels: Annotated[tuple[Positive, ...], Field(max_length=32)] = (0.1, 0.3, 1.0)
    steps: Count = 16


@dataclass(frozen=True, slots=True)
class CoarseRecipe:
    """A whole training run.

    Args:
        kind: tells it from the recipe of a fine prior.
        name: the prior's name; letters, digits and dashes.
        summary: one sentence for the card.
        data: where the heads are.
        fit: how the weights are found.
        start: fine prior of the same width whose weights the run begins with, a bundled name or a path relative to the
            recipe; empty for none.
        finer: names of the priors that bring a draw to finer voxels, each halving their side.
        modality: DICOM's word for what the scans are.
        licence: of the weights, for the card (`medidiff.training.recipe.licence_of`).
        seed: what all randomness is drawn from.
        atlas: of the heads.
        variation: how heads are varied.
        asked: what is told and given.
        model: the network.
        limits: sentences for the card on what the prior is not for.
        watch: how the run is watched.
    """

    __pydantic_config__ = STRICT
    kind: Literal["coarse"]
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,39}$")]
    summary: Text
    data: HeadsRecipe
    fit: FitRecipe
    start: Annotated[Text, AfterValidator(relative)] = ""
    finer: Annotated[tuple[Text, ...], Field(max_length=4)] = ()
    modality: Literal["MR"] = "MR"
    licence: Text = LICENCE
    seed: Annotated[int, Field(ge=0, lt=2**63, strict=True)] = 0
    atlas: AtlasRecipe = field(default_factory=AtlasRecipe)
    variation: Variation = field(default_factory=Variation)
    asked: AskedRecipe = field(default_factory=AskedRecipe)
    model: WholeRecipe = field(default_factory=WholeRecipe)
    limits: Annotated[tuple[Text, ...], Field(max_length=32)] = ()
    watch: WatchRecipe = field(default_factory=WatchRecipe)

    def to_dict(self) -> dict[str, Any]:
        """The recipe as plain JSON values."""
        plain = as_plain(self)
        if not self.variation.reshaped:
            del plain["variation"]["reshaped"]  # runs of before it was known are told again by what they told then
        return plain


def read_any(path: Path) -> Recipe | CoarseRecipe:
    """The recipe of a fine, a coarse or a contrast prior in a TOML file; see `read_as`."""

    def kind(table: dict[str, Any]) -> type[Recipe | CoarseRecipe]:
        named = str(table.get("kind"))
        return {"coarse": CoarseRecipe, "contrast": ContrastRecipe}.get(named, Recipe)

    return read_as(path, kind)
