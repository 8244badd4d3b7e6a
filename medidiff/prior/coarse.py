"""The coarse prior of a cascade: whole heads, image and tissue together, with the card that says what may be asked."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from safetensors.torch import save

from medidiff.diffusion.atlas import Atlas
from medidiff.diffusion.backbone import Backbone, BackboneShape
from medidiff.diffusion.whole import WholeDenoiser
from medidiff.errors import PriorError
from medidiff.prior.asking import Vocabulary
from medidiff.prior.prior import BUNDLED, read_card_text, replace_file
from medidiff.prior.weights import read_weights, refuse_unlike
from medidiff.volume import Geometry

__all__ = [
    "DEFAULT_COARSE",
    "WHOLE",
    "CoarseCard",
    "CoarsePrior",
    "build_whole",
    "coarse_card_path",
    "is_coarse",
    "read_coarse_card",
    "whole_backbone",
]

WHOLE = BUNDLED / "whole"
DEFAULT_COARSE = "coarse-t1"
_CARD_BYTES = 2**20
_Width = Annotated[int, Field(ge=1, le=1024)]
_Depth = Annotated[int, Field(ge=0, le=64)]
_Knots = Annotated[int, Field(ge=4, le=64)]
_Heads = Annotated[int, Field(ge=2, le=10_000)]
_Side = Annotated[int, Field(ge=8, le=512, multiple_of=8)]


@dataclass(frozen=True, slots=True)
class CoarseCard:
    """Everything about a coarse prior but its weights; stands beside them as JSON.

    Args:
        kind: tells it from the card of a fine prior.
        name: short name, also the files' stem.
        summary: one sentence.
        modality: DICOM's word for what it was trained on.
        vocabulary: what may be asked.
        labels: names of the channels after the image.
        shape: voxels of the frame along right, front and head.
        spacing_mm: side of its cubic voxels.
        channels: features of the network at half and at quarter size.
        blocks: residual blocks down, at quarter size, and up.
        sigma: lowest and highest diffusion level that it practised on.
        finer: priors that bring a draw to finer voxels, each halving their side.
        knots: of the atlas's bending field along each axis.
        heads: training subjects; their shapes span one dimension less.
        images: training heads seen, each varied anew.
        licence: terms of the weights.
        sources: training data, each with its licence.
        data_fingerprint: SHA-256 over the training heads.
        recipe: the training recipe.
        metrics: validation scores, by name.
        calibration: as for a fine prior's card.
        intended_use: what it may be used for.
        limits: what is known not to work, or was never tried.
        weights_sha256: of the weights file.
    """

    __pydantic_config__ = ConfigDict(extra="forbid", allow_inf_nan=False)
    kind: Literal["coarse"]
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    summary: str
    modality: str
    vocabulary: Vocabulary
    labels: Annotated[tuple[str, ...], Field(min_length=1, max_length=16)]
    shape: tuple[_Side, _Side, _Side]
    spacing_mm: Annotated[float, Field(gt=0)]
    channels: tuple[_Width, _Width]
    blocks: tuple[_Depth, _Depth, _Depth]
    sigma: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]]
    finer: tuple[str, ...]
    knots: tuple[_Knots, _Knots, _Knots]
    heads: _Heads
    images: int
    licence: str
    sources: tuple[str, ...]
    data_fingerprint: str
    recipe: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    calibration: Mapping[str, float] = field(default_factory=dict)
    intended_use: str = "Research: synthetic scans of nobody. Not for diagnosis."
    limits: tuple[str, ...] = ()
    weights_sha256: str = ""

    @property
    def frame(self) -> Geometry:
        """The grid on which heads are drawn, about the world's origin."""
        return Geometry.regular(self.shape, spacing_mm=[self.spacing_mm] * 3)

    def to_json(self) -> str:
        """The card as JSON text."""
        return json.dumps(dataclasses.asdict(self), indent=2, sort_keys=True, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str, *, file: str = "") -> CoarseCard:
        """The card that `to_json` wrote; unknown or broken entries are refused."""
        try:
            return TypeAdapter(cls).validate_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            entry = ".".join(str(part) for part in first["loc"])[:80]
            mend = "Give the card of a coarse prior, as it was written; it is not meant to be edited."
            raise PriorError("E-CARD", first["msg"][:200], mend=mend, file=file, attribute=entry) from error


@dataclass(frozen=True)
class CoarsePrior:
    """A denoiser of whole heads that was trained, and the card that says on what.

    Args:
        denoiser: in evaluation mode.
        card: what it is.
    """

    denoiser: WholeDenoiser
    card: CoarseCard

    @classmethod
    def load(cls, source: str | Path = DEFAULT_COARSE, *, device: str | torch.device = "cpu") -> CoarsePrior:
        """A bundled coarse prior by name, or one from disk by the path of its card or weights.

        Checked as a fine prior is, see `Prior.load`.

        Raises:
            PriorError: no such prior, or one that is broken or does not match its card.
        """
        path, card = coarse_card_path(source), read_coarse_card(source)
        weights = read_weights(path.with_suffix(".safetensors"), sha256=card.weights_sha256)
        with torch.device("meta"):  # shapes only: a card must not be able to fill the memory
            wanted = build_whole(card).state_dict()
        refuse_unlike(wanted, weights, file=card.name)
        denoiser = build_whole(card)
        denoiser.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
        return cls(denoiser.to(device).eval().requires_grad_(False), card)

    def save(self, folder: Path) -> Path:
        """Write ``<name>.safetensors`` (half precision) and ``<name>.json``; returns the path of the card."""
        weights = {name: tensor.half().cpu().contiguous() for name, tensor in self.denoiser.state_dict().items()}
        about = {"name": self.card.name, "licence": self.card.licence, "use": "research only"}
        data = save(weights, metadata={"about": json.dumps(about)})
        card = dataclasses.replace(self.card, weights_sha256=hashlib.sha256(data).hexdigest())
        folder.mkdir(parents=True, exist_ok=True)
        replace_file(folder / f"{card.name}.safetensors", data)
        replace_file(folder / f"{card.name}.json", card.to_json().encode())
        return folder / f"{card.name}.json"


def build_whole(card: CoarseCard) -> WholeDenoiser:
    """The untrained network that a card describes."""
    shape = BackboneShape(card.channels, card.blocks)
    channels = 1 + len(card.labels)
    with torch.random.fork_rng(devices=[]):  # its first weights must not move anybody's random numbers
        backbone = whole_backbone(shape, channels, card.vocabulary)
    return WholeDenoiser(backbone, Atlas(card.shape, card.knots, channels=channels, modes=card.heads - 1))


def whole_backbone(shape: BackboneShape, channels: int, vocabulary: Vocabulary) -> Backbone:
    """A network for states of so many channels, and what a vocabulary tells."""
    maps = WholeDenoiser.maps(vocabulary.numbers)
    return Backbone(WholeDenoiser.inputs(channels) + maps, shape, outputs=channels, maps=maps)


def read_coarse_card(source: str | Path) -> CoarseCard:
    """The card of a coarse prior alone, named as for `CoarsePrior.load`."""
    path = coarse_card_path(source)
    return CoarseCard.from_json(read_card_text(path), file=path.name)


def is_coarse(source: str | Path) -> bool:
    """Whether a name, or the path of a card or of weights, is that of a coarse prior; a broken card is none."""
    named = WHOLE / f"{source}.json"
    path = named if isinstance(source, str) and named.is_file() else Path(source).with_suffix(".json")
    return path.is_file() and '"kind": "coarse"' in path.read_text("utf-8", errors="replace")[:_CARD_BYTES]


def coarse_card_path(source: str | Path) -> Path:
    """Where the card of a coarse prior lies, named as for `CoarsePrior.load`.

    Raises:
        PriorError: ``E-PRIOR``, there is none.
    """
    named = WHOLE / f"{source}.json"
    if isinstance(source, str) and named.is_file():
        return named
    path = Path(source).with_suffix(".json")
    if path.is_file():
        return path
    names = ", ".join(sorted(p.stem for p in WHOLE.glob("*.json"))) or "there is none yet"
    mend = f"Give the path of a coarse prior's card (.json), or the name of a bundled one: {names}."
    raise PriorError("E-PRIOR", f"no coarse prior '{Path(source).name}'", mend=mend)
