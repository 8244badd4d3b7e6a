"""The training run of a prior that draws one contrast given a scan in another, as data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from medidiff.training.recipe import STRICT, DegradationRanges, Range, Recipe, Share, Text

__all__ = ["ContrastRecipe", "MeasuredRecipe"]


@dataclass(frozen=True, slots=True)
class MeasuredRecipe:
    """The scans that are measured, and how they are varied in training.

    Args:
        contrast: of these scans, e.g. ``"T1w"``.
        patterns: for each source of the recipe, where the scan in this contrast lies, with ``{subject}`` as there; on
            the grid of the scan that is sought.
        gain: brightness of a patch of them; the scale of a scan is only known so well.
        noise: standard deviation of Gaussian noise that is added to it, as a share of the tissue maximum.
        nothing: share of patches of which nothing was measured.
    """

    __pydantic_config__ = STRICT
    contrast: Annotated[str, Field(pattern=r"^[A-Za-z0-9]{1,16}$")]
    patterns: Annotated[tuple[Text, ...], Field(min_length=1, max_length=10_000)]
    gain: Range = (0.93, 1.07)
    noise: Range = (0.003, 0.03)
    nothing: Share = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class ContrastRecipe(Recipe):
    """A whole training run: the sources of `data` are the contrast that is sought, `measured` the one that is given.

    Args:
        kind: tells it from the recipe of a restoring prior.
        measured: the scans in the other contrast.
    """

    __pydantic_config__ = STRICT
    kind: Literal["contrast"] = "contrast"
    measured: MeasuredRecipe

    def __post_init__(self) -> None:
        Recipe.__post_init__(self)
        if len(self.measured.patterns) != len(self.data.sources):
            raise ValueError("measured.patterns names one pattern for each of data.sources")
        if self.degradation != DegradationRanges() or self.low_dose is not None:
            raise ValueError("degradation and low_dose are for restoring priors; see measured")
        if len(self.contrasts) != 1:
            raise ValueError("contrasts names the one contrast that is sought")
