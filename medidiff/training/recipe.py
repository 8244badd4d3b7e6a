"""A training run as data: TOML text to frozen dataclasses, with every range checked.

The same fields become MLflow parameters and part of the prior's card; there is no other schema.
"""

from __future__ import annotations

import dataclasses
import re
import tomllib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path, PureWindowsPath
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError

from medidiff.errors import SettingsError

__all__ = [
    "DataRecipe",
    "DegradationRanges",
    "FitRecipe",
    "LowDose",
    "ModelRecipe",
    "Recipe",
    "Scans",
    "ValidationRecipe",
    "as_plain",
    "licence_of",
    "read_as",
    "read_recipe",
    "read_toml",
]

R = TypeVar("R")


def _rising(ends: tuple[float, float]) -> tuple[float, float]:
    if ends[0] > ends[1]:
        raise ValueError("the lower end of a range comes first")
    return ends


def licence_of(named: str, scans: Iterable[str]) -> str:
    """The licence that a card gives for weights.

    Args:
        named: by the recipe, or `LICENCE`; what else a recipe says is taken at its word.
        scans: under which terms they are; of others than open ones nobody but their owner can say what weights may be.

    Example:
        >>> licence_of("Apache-2.0", ["CC0, OpenNeuro"]), licence_of("Apache-2.0", ["ours, not to be passed on"])
        ('Apache-2.0', 'not stated; made of scans under: ours, not to be passed on')
    """
    bound = [each for each in dict.fromkeys(scans) if not _OPEN.search(each) or _BOUND.search(each)]
    return f"not stated; made of scans under: {'; '.join(bound)}" if bound and named == LICENCE else named


def relative(path: str) -> str:
    if "\0" in path or Path(path).is_absolute() or PureWindowsPath(path).anchor:
        raise ValueError("a path relative to the recipe is wanted")
    return path


Positive = Annotated[float, Field(gt=0, allow_inf_nan=False, strict=True)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False, strict=True)]
Share = Annotated[float, Field(ge=0, le=1, strict=True)]
Factor = Annotated[float, Field(ge=1, allow_inf_nan=False, strict=True)]
Zoom = Annotated[float, Field(ge=1, le=4, strict=True)]
Dose = Annotated[float, Field(gt=0, lt=1, strict=True)]
Count = Annotated[int, Field(ge=1, le=10**9, strict=True)]
Width = Annotated[int, Field(ge=1, le=1024, strict=True)]
Depth = Annotated[int, Field(ge=1, le=64, strict=True)]
Text = Annotated[str, Field(max_length=1000)]
LICENCE = "Apache-2.0"
"""Of the weights, where a recipe names none and its scans allow it (`licence_of`)."""
_OPEN = re.compile(r"\b(CC0|CC[ -]BY|PDDL|MIT|BSD|Apache|public domain)\b", re.IGNORECASE)
_BOUND = re.compile(r"\b(NC|ND)\b", re.IGNORECASE)  # Creative Commons for some uses only
Range = Annotated[tuple[Positive, Positive], AfterValidator(_rising)]
FactorRange = Annotated[tuple[Factor, Factor], AfterValidator(_rising)]
STRICT = ConfigDict(extra="forbid")
_LARGEST_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class Scans:
    """One source of training scans.

    Args:
        pattern: path below the data folder; ``{subject}`` stands for each subject of the split.
        split: table of the split file that lists the subjects; empty when the pattern names one file.
        weight: how often a patch comes from this source, relative to the others.
        licence: under which terms the scans were published; goes into the card.
    """

    __pydantic_config__ = STRICT
    pattern: Text
    licence: Text
    split: Text = ""
    weight: Positive = 1.0


@dataclass(frozen=True, slots=True)
class DataRecipe:
    """Where the scans are.

    Args:
        sources: what to train on.
        root: data folder, relative to the recipe; ``medidiff train --data`` replaces it.
        split: file that assigns subjects to train, validation and test, relative to the recipe; empty for none.
        spacing_mm: side of the cubic voxels in which every scan is seen; 0 keeps its own.
    """

    __pydantic_config__ = STRICT
    sources: Annotated[tuple[Scans, ...], Field(min_length=1, max_length=10_000)]
    root: Text = "."
    split: Annotated[Text, AfterValidator(relative)] = ""
    spacing_mm: Weight = 0.0


@dataclass(frozen=True, slots=True)
class DegradationRanges:
    """What is done to a clean patch before the network is asked for it again. Pairs are ranges, lowest first.

    Args:
        denoise: weight of patches measured voxel by voxel.
        thick: weight of patches measured in thick slices along one axis.
        coarse: weight of patches measured in larger voxels along all three.
        nothing: weight of patches of which nothing was measured.
        noise: σ_y as a share of the tissue maximum, drawn evenly in its logarithm.
        thick_noise: the same for patches measured in slices or larger voxels, which collect more signal.
        rician: share of patches whose noise is Rician; the rest is Gaussian.
        varying: share of patches whose noise level changes across the patch, by up to half.
        factor: slice distance in fine voxels.
        uneven: share of thick patches whose slices are not as thick as they are apart.
        overlap: slice thickness of those as a share of the slice distance; below 1 leaves a gap.
        gaussian: share of thick patches whose slice profile is Gaussian instead of a box.
        coarse_factor: voxel size along each axis for `coarse`, in fine voxels.
        cubic: share of coarse patches whose voxels are as long along all three axes.
        aligned: share of coarse patches whose first voxels begin where the patch does, as in a cascade.
        told_error: standard deviation of the error, in ln σ, with which the noise level is told.
        gain: brightness of the patch.
        remap: share of patches whose grey values pass through a random curve, for contrasts never seen.
        zoomed: share of patches seen smaller, each axis by its own factor: other heads, other voxels, less noise.
        zoom: that factor.
    """

    __pydantic_config__ = STRICT
    denoise: Weight = 0.6
    thick: Weight = 0.25
    coarse: Weight = 0.1
    nothing: Weight = 0.05
    noise: Range = (0.004, 0.25)
    thick_noise: Range = (0.004, 0.25)
    rician: Share = 0.75
    varying: Share = 0.25
    factor: FactorRange = (1.2, 5.0)
    uneven: Share = 0.5
    overlap: Range = (0.7, 1.2)
    gaussian: Share = 0.0
    coarse_factor: FactorRange = (1.2, 3.0)
    cubic: Share = 0.0
    aligned: Share = 0.0
    told_error: Weight = 0.05
    gain: Range = (0.7, 1.3)
    remap: Share = 0.3
    zoomed: Share = 0.0
    zoom: Annotated[tuple[Factor, Zoom], AfterValidator(_rising)] = (1.15, 1.5)

    def __post_init__(self) -> None:
        if self.denoise + self.thick + self.coarse + self.nothing <= 0:
            raise ValueError("one of denoise, thick, coarse and nothing must have a weight above 0")


@dataclass(frozen=True, slots=True)
class LowDose:
    """Noise of a lower CT dose instead of white noise: simulated once for each scan, cut where a patch is cut.

    Args:
        doses: shares of the scan's dose, one realisation of the noise for each.
        share: of the patches that have such noise; all the others are measured as `DegradationRanges` says.
        spread: how far below and above one of `doses` a patch's dose lies, a factor; the noise is scaled to it.
        photons: of `medidiff.physics.lowdose.Beam`, as all that follow.
        electronic: see there.
        views: see there.
        window: see there.
        overlap: see there.
    """

    __pydantic_config__ = STRICT
    doses: Annotated[tuple[Dose, ...], Field(min_length=1, max_length=32)]
    share: Share = 1.0
    spread: Annotated[float, Field(ge=1, le=4, strict=True)] = 1.4
    photons: Positive = 2e5
    electronic: Weight = 10.0
    views: Annotated[int, Field(ge=2, le=10_000, strict=True)] = 384
    window: Literal["ramp", "shepp-logan", "cosine", "hamming", "hann"] = "ramp"
    overlap: Annotated[int, Field(ge=1, le=16, strict=True)] = 1


@dataclass(frozen=True, slots=True)
class ModelRecipe:
    """The network and its preconditioning.

    Args:
        channels: features at half and at quarter size.
        blocks: residual blocks down, at quarter size, and up.
        sigma_data: σ_d, standard deviation of clean images about their mean.
        sigma_detail: σ_n, standard deviation of what slices twice as thick as the voxels do not fix.
    """

    __pydantic_config__ = STRICT
    channels: tuple[Width, Width] = (48, 96)
    blocks: tuple[Depth, Depth, Depth] = (2, 3, 2)
    sigma_data: Positive = 0.35
    sigma_detail: Positive = 0.12


@dataclass(frozen=True, slots=True)
class FitRecipe:
    """How the weights are found. Progress is counted in images (patches) seen, so the batch size changes no meaning.

    Args:
        images: patches, or whole heads, seen in the whole run.
        batch: images a step, over all processes.
        patch: side of a patch in voxels, a multiple of 4; a coarse prior sees whole heads and has none.
        rate: learning rate between warm-up and cool-down.
        warmup: images until the full rate is reached.
        cooldown: share of the run, at its end, over which the rate falls to 0 in a line.
        clip: largest norm of a step's gradient.
        ema: half-life of the running mean of the weights, in images.
        posterior_mean: share of patches at σ = ∞, which train the one-step posterior mean; none for a coarse prior.
        sigma: range of the other patches' diffusion level, drawn evenly in its logarithm.
        accumulate: parts in which a process goes through its share of a batch, one after the other; the gradients are
            summed, so the step is that of the whole batch, for a part of its memory.
        activation_checkpointing: keep only what enters each residual block, and compute the block again on the way
            back (Chen et al. 2016, arXiv 1604.06174): the same gradients for less memory, about a third slower.

    The last two say how a run is computed and not what it is: they may change between two calls of one run. So they
    are left out of its text (`repr`), by which a checkpoint knows its recipe.
    """

    __pydantic_config__ = STRICT
    images: Count
    batch: Annotated[int, Field(ge=1, le=4096, strict=True)] = 2
    patch: Annotated[int, Field(ge=8, le=512, multiple_of=4, strict=True)] = 40
    rate: Positive = 1e-3
    warmup: Count = 400
    cooldown: Share = 0.3
    clip: Positive = 1.0
    ema: Positive = 500.0
    posterior_mean: Share = 0.6
    sigma: Range = (0.01, 10.0)
    accumulate: Annotated[int, Field(ge=1, le=4096, strict=True)] = field(default=1, repr=False)
    activation_checkpointing: Annotated[bool, Field(strict=True)] = field(default=False, repr=False)

    def __post_init__(self) -> None:
        if self.accumulate > self.batch:
            raise ValueError("accumulate must not be above batch: a part of a batch is at least one image")


@dataclass(frozen=True, slots=True)
class ValidationRecipe:
    """How a run is watched.

    Args:
        every: images between two looks.
        levels: Rician noise as a share of the tissue maximum.
        crop: side of the central cube that is scored, in voxels.
        scans: how many validation scans are scored.
    """

    __pydantic_config__ = STRICT
    every: Count = 2000
    levels: Annotated[tuple[Positive, ...], Field(max_length=32)] = (0.03, 0.09, 0.15)
    crop: Annotated[int, Field(ge=16, le=1024, multiple_of=4, strict=True)] = 64
    scans: Count = 2


@dataclass(frozen=True, slots=True)
class Recipe:
    """A whole training run.

    Args:
        name: the prior's name; letters, digits and dashes.
        summary: one sentence for the card.
        data: where the scans are.
        fit: how the weights are found.
        modality: DICOM's word for what the scans are.
        contrasts: of the scans, for the card.
        licence: of the weights, for the card (`licence_of`).
        start: prior whose weights the run begins with, a bundled name or a path relative to the recipe; empty for none.
            It may have fewer blocks than `model`: a new residual block starts as the identity.
        seed: what all randomness is drawn from.
        degradation: what is done to the patches.
        low_dose: noise of a lower CT dose; only without zoom, which would blur it.
        limits: sentences for the card on what the prior is not for.
        model: the network.
        validation: how the run is watched.
    """

    __pydantic_config__ = STRICT
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,39}$")]
    summary: Text
    data: DataRecipe
    fit: FitRecipe
    modality: Literal["MR", "CT", "PT"] = "MR"
    contrasts: Annotated[tuple[Text, ...], Field(max_length=32)] = ()
    licence: Text = LICENCE
    start: Annotated[Text, AfterValidator(relative)] = ""
    seed: Annotated[int, Field(ge=0, lt=2**63, strict=True)] = 0
    degradation: DegradationRanges = field(default_factory=DegradationRanges)
    low_dose: LowDose | None = None
    limits: Annotated[tuple[Text, ...], Field(max_length=32)] = ()
    model: ModelRecipe = field(default_factory=ModelRecipe)
    validation: ValidationRecipe = field(default_factory=ValidationRecipe)

    def __post_init__(self) -> None:
        if self.low_dose is not None and (self.modality != "CT" or self.degradation.zoomed > 0):
            raise ValueError("low_dose is for modality CT, with degradation.zoomed = 0")

    def to_dict(self) -> dict[str, Any]:
        """The recipe as plain JSON values; a table that it does not have is left out."""
        return {name: value for name, value in as_plain(self).items() if value is not None}


def as_plain(recipe: Any) -> dict[str, Any]:
    """A recipe with a `FitRecipe` as plain values; how it is computed is told only where it is not the usual way.

    So the recipe of an older version has the text that it had there, by which its MLflow run is known.
    """
    plain = dataclasses.asdict(recipe)
    usual = {each.name: each.default for each in dataclasses.fields(FitRecipe) if not each.repr}
    plain["fit"] = {name: value for name, value in plain["fit"].items() if value != usual.get(name)}
    return plain


_WORDS = {"missing": "this entry is missing", "unexpected_keyword_argument": "no such entry, perhaps misspelt"}


def read_recipe(path: Path) -> Recipe:
    """The recipe of a fine prior in a TOML file; see `read_as`."""
    return read_as(path, lambda table: Recipe)


def read_as(path: Path, kind: Callable[[dict[str, Any]], type[R]]) -> R:
    """The recipe in a TOML file.

    Args:
        path: the file.
        kind: which kind of recipe its tables are.

    Raises:
        SettingsError: the file is missing, is not TOML, or an entry is unknown, of the wrong type or out of range.
    """
    try:
        table = read_toml(path)
        return TypeAdapter(kind(table)).validate_python(table)
    except OSError as error:
        raise SettingsError(
            "E-RECIPE", "no such recipe, or it cannot be read", mend="Check the path.", file=path.name
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        entry = ".".join(str(part) for part in first["loc"])[:80]
        mend = "Correct this entry; pipelines/recipes holds recipes that work."
        found = _WORDS.get(first["type"], first["msg"][:200])
        raise SettingsError("E-RECIPE", found, mend=mend, file=path.name, attribute=entry) from error
    except (ValueError, RecursionError) as error:
        found = f"not TOML: {error}" if isinstance(error, tomllib.TOMLDecodeError) else "not TOML that makes sense"
        mend = "Correct the TOML; pipelines/recipes holds recipes that work."
        raise SettingsError("E-RECIPE", found[:200], mend=mend, file=path.name) from error


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a small TOML file.

    Raises:
        OSError: it is not there, no regular file, or cannot be read.
        ValueError: it is no TOML, or larger than any recipe.
        RecursionError: it is nested without end.
    """
    if not path.is_file():
        raise FileNotFoundError
    with path.open("rb") as file:
        text = file.read(_LARGEST_BYTES + 1)
    if len(text) > _LARGEST_BYTES:
        raise ValueError("more than any recipe needs")
    return tomllib.loads(text.decode("utf-8"))
