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
from safetensors import SafetensorError
from safetensors.torch import load, save

from medidiff.diffusion.backbone import Backbone, BackboneShape
from medidiff.diffusion.denoiser import Preconditioned
from medidiff.errors import PriorError
from medidiff.prior.card import Card

__all__ = ["BUNDLED", "DEFAULT_PRIOR", "Prior"]

BUNDLED = Path(__file__).parent / "bundled"
DEFAULT_PRIOR = "fine-t1"
_LARGEST_BYTES = 256 * 2**20


@dataclass(frozen=True)
class Prior:
    """A denoiser that was trained, and the card that says on what.

    Args:
        denoiser: in evaluation mode.
        card: what it is.
    """

    denoiser: Preconditioned
    card: Card

    @classmethod
    def load(cls, source: str | Path = DEFAULT_PRIOR, *, device: str | torch.device = "cpu") -> Prior:
        """A bundled prior by name, or one from disk by the path of its card or weights.

        The weights are safetensors, which cannot carry code; size, hash, names, shapes and finiteness are checked
        before they are used.

        Raises:
            PriorError: no such prior, or one that is broken or does not match its card.
        """
        card_path = _card_path(source)
        card = Card.from_json(card_path.read_text(encoding="utf-8"), file=card_path.name)
        weights = _checked_weights(card_path.with_suffix(".safetensors"), card)
        with torch.device("meta"):  # shapes only: a card must not be able to fill the memory
            wanted = {name: tensor.shape for name, tensor in build_denoiser(card).backbone.state_dict().items()}
        found = {name: tensor.shape for name, tensor in weights.items()}
        if wanted != found:
            odd = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
            raise PriorError(
                "E-WEIGHTS", f"{len(odd)} tensors unlike the card's network, first {odd[0]}", file=card.name
            )
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
        _replace(folder / f"{card.name}.safetensors", data)
        _replace(folder / f"{card.name}.json", card.to_json().encode())
        return folder / f"{card.name}.json"

    @cached_property
    def halo(self) -> int:
        """Voxels round a tile that make its answer the whole volume's."""
        return 1 + int(self.denoiser.backbone.halo)  # type: ignore[arg-type] # 1 for the preconditioning's local mean


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
    names = ", ".join(sorted(p.stem for p in BUNDLED.glob("*.json")))
    raise PriorError("E-PRIOR", f"no prior '{Path(source).name}'", mend=f"Name a file, or one of: {names}.")


def _checked_weights(path: Path, card: Card) -> dict[str, torch.Tensor]:
    if not path.is_file():
        raise PriorError("E-PRIOR", "the weights beside the card are missing", file=path.name)
    if path.stat().st_size > _LARGEST_BYTES:
        raise PriorError("E-WEIGHTS", f"{path.stat().st_size} bytes", wanted=f"<= {_LARGEST_BYTES}", file=path.name)
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != card.weights_sha256:
        raise PriorError(
            "E-WEIGHTS", "weights whose SHA-256 is not the card's", file=path.name, mend="Fetch both again."
        )
    try:
        weights = load(data)
    except SafetensorError as error:
        raise PriorError("E-WEIGHTS", "not a safetensors file", file=path.name) from error
    broken = [name for name, tensor in weights.items() if not bool(torch.isfinite(tensor).all())]
    if broken:
        raise PriorError(
            "E-WEIGHTS", f"{len(broken)} tensors with non-finite numbers, first {broken[0]}", file=path.name
        )
    return weights


def _replace(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.part")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
