"""The trained artefact: weights, preconditioning and card, loaded with every check that makes them safe to use."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from safetensors.torch import save

from medidiff.diffusion.backbone import Backbone, BackboneShape
from medidiff.diffusion.denoiser import Preconditioned
from medidiff.errors import PriorError
from medidiff.prior.card import Card
from medidiff.prior.weights import read_weights, refuse_unlike

__all__ = ["BUNDLED", "DEFAULT_PRIOR", "Prior", "build_denoiser", "prior_sha256", "read_card_text", "replace_file"]

BUNDLED = Path(__file__).parent / "bundled"
DEFAULT_PRIOR = "fine-t1"
_LARGEST_CARD = 2**20  # bytes


@dataclass(frozen=True)
class Prior:
    """A denoiser that was trained, and the card that says on what.

    Args:
        denoiser: in evaluation mode.
        card: what it is.
    """

    denoiser: Preconditioned
    card: Card

    @staticmethod
    def card_of(source: str | Path) -> Card:
        """The card of a prior alone, named as for `load`.

        Raises:
            PriorError: no such prior, or a broken card.
        """
        return _read_card(_card_path(source))

    @classmethod
    def load(cls, source: str | Path = DEFAULT_PRIOR, *, device: str | torch.device = "cpu") -> Prior:
        """A bundled prior by name, or one from disk by the path of its card or weights.

        The weights are safetensors, which cannot carry code; size, hash, names, shapes and finiteness are checked
        before they are used.

        Raises:
            PriorError: no such prior, or one that is broken or does not match its card.
        """
        card_path = _card_path(source)
        card = _read_card(card_path)
        weights = read_weights(card_path.with_suffix(".safetensors"), sha256=card.weights_sha256)
        with torch.device("meta"):  # shapes only: a card must not be able to fill the memory
            wanted = build_denoiser(card).backbone.state_dict()
        refuse_unlike(wanted, weights, file=card.name)
        denoiser = build_denoiser(card)
        denoiser.backbone.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
        return cls(denoiser.to(device).eval().requires_grad_(False), card)

    def save(self, folder: Path) -> Path:
        """Write ``<name>.safetensors`` (half precision) and ``<name>.json``; returns the path of the card."""
        weights = {
            name: tensor.half().cpu().contiguous() for name, tensor in self.denoiser.backbone.state_dict().items()
        }
        about = {"name": self.card.name, "licence": self.card.licence, "use": "research only"}
        # One entry: several would be written in random order, and the same weights would not have the same hash.
        data = save(weights, metadata={"about": json.dumps(about)})
        card = dataclasses.replace(self.card, weights_sha256=hashlib.sha256(data).hexdigest())
        folder.mkdir(parents=True, exist_ok=True)
        replace_file(folder / f"{card.name}.safetensors", data)
        replace_file(folder / f"{card.name}.json", card.to_json().encode())
        return folder / f"{card.name}.json"

    @cached_property
    def halo(self) -> int:
        """Voxels round a tile that make its answer the whole volume's."""
        return 1 + int(self.denoiser.backbone.halo)  # type: ignore[arg-type] # 1 for the preconditioning's local mean


def prior_sha256(source: str | Path = DEFAULT_PRIOR) -> str:
    """SHA-256 of a prior's card and weights as they lie on the disk, named as for `Prior.load`.

    Raises:
        PriorError: no such prior, or one without weights.
    """
    card = _card_path(source)
    digest = hashlib.sha256(read_card_text(card).encode())
    weights = card.with_suffix(".safetensors")
    try:
        with weights.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    except OSError as error:
        mend = "Fetch the card and the weights again."
        raise PriorError("E-WEIGHTS", "the weights cannot be read", mend=mend, file=weights.name) from error
    return digest.hexdigest()


def build_denoiser(card: Card) -> Preconditioned:
    """The untrained network that a card describes."""
    with torch.random.fork_rng(devices=[]):  # its first weights must not move anybody's random numbers
        backbone = Backbone(Preconditioned.channels, BackboneShape(card.channels, card.blocks))
    return Preconditioned(backbone, sigma_data=card.sigma_data, sigma_detail=card.sigma_detail)


def _card_path(source: str | Path) -> Path:
    named = BUNDLED / f"{source}.json"
    if isinstance(source, str) and named.is_file():
        return named
    path = Path(source).with_suffix(".json")
    if path.is_file():
        return path
    names = ", ".join(sorted(p.stem for p in BUNDLED.glob("*.safetensors")))
    mend = (
        f"Give the path of a prior's card (.json), with its weights beside it, or the name of a bundled one: {names}."
    )
    raise PriorError("E-PRIOR", f"no prior '{Path(source).name}'", mend=mend)


def _read_card(path: Path) -> Card:
    return Card.from_json(read_card_text(path), file=path.name)


def read_card_text(path: Path) -> str:
    """The text of a card, which is small and UTF-8.

    Raises:
        PriorError: ``E-CARD``, it is neither.
    """
    with path.open("rb") as file:
        text = file.read(_LARGEST_CARD + 1)
    if len(text) > _LARGEST_CARD:
        raise PriorError("E-CARD", f"over {_LARGEST_CARD} bytes", mend="Fetch it again.", file=path.name)
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError as error:
        raise PriorError("E-CARD", "not UTF-8 text", mend="Fetch it again.", file=path.name) from error


def replace_file(path: Path, data: bytes) -> None:
    """Put bytes into a file, all or none."""
    temporary = path.with_name(f".{path.name}.part")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
