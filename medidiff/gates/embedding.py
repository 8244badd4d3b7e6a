"""A brain's relief as 1,024 numbers: eight parts, each 128 random sums of its voxels.

Random projections keep angles (Johnson and Lindenstrauss 1984): the cosine of two parts of 128 numbers is that of their
some 2,300 voxels within about 1/√128, the mean of eight parts within about 0.03. Nothing in them was fitted to
anybody's scan, so they treat every brain alike, and 1,024 sums do not determine some 18,000 voxels. The signs come from
SHAKE-256, not from a random number generator whose stream may change.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from safetensors.numpy import save

from medidiff.errors import PriorError
from medidiff.gates import likeness
from medidiff.gates.align import GRID, Mean
from medidiff.gates.brain import Array
from medidiff.gates.relief import Relief
from medidiff.io.files.atomic import make_folder, write_file
from medidiff.prior.weights import read_weights

__all__ = ["DIMENSIONS", "Embedding"]

DIMENSIONS = 128
"""Numbers for each part."""

_SHIPPED = Path(__file__).parent / "embedding.json"
_SEED = b"medidiff copy gate, 1"
_MEND = "Install medidiff again, or make it again with pipelines/embedding.py."


@dataclass(frozen=True, slots=True)
class _Card:
    """What stands beside the mean brain."""

    __pydantic_config__ = ConfigDict(extra="forbid", allow_inf_nan=False)
    summary: str
    licence: str
    sources: tuple[str, ...]
    scans: int
    limits: tuple[str, ...]
    thresholds: Mapping[str, Annotated[float, Field(gt=0, le=1)]]
    sha256: str


@dataclass(frozen=True, eq=False)
class Embedding:
    """What turns a relief into numbers, and the mean brain that reliefs are made with.

    Args:
        mean: the mean brain.
        thresholds: for indexes of too few scans to make their own, by measure.
        sha256: of the file.
    """

    mean: Mean
    thresholds: Mapping[str, float]
    sha256: str

    @classmethod
    def shipped(cls) -> Embedding:
        """The one that comes with medidiff."""
        return _shipped()

    @classmethod
    def load(cls, card: Path) -> Embedding:
        """From a card, with the safetensors file of the same name beside it.

        Raises:
            PriorError: ``E-EMBEDDING``, no such card, or a broken one; ``E-WEIGHTS``, the file is not the card's.
        """
        try:
            about = TypeAdapter(_Card).validate_json(card.read_bytes())
        except (OSError, ValidationError) as error:
            raise PriorError("E-EMBEDDING", "no card, or a broken one", mend=_MEND, file=card.name) from error
        tensors = read_weights(card.with_suffix(".safetensors"), sha256=about.sha256)
        arrays = {name: tensor.float().numpy() for name, tensor in tensors.items()}
        if {name: array.shape for name, array in arrays.items()} != {"image": GRID, "mask": GRID}:
            raise PriorError("E-EMBEDDING", "other arrays than a mean brain's", mend=_MEND, file=card.name)
        return cls(Mean(arrays["image"], arrays["mask"]), about.thresholds, about.sha256)

    @cached_property
    def _signs(self) -> Array:
        """(8, voxels, D) of +1 and -1."""
        count = int(np.prod(GRID)) * DIMENSIONS
        bits = np.unpackbits(np.frombuffer(hashlib.shake_256(_SEED).digest(count // 8), dtype=np.uint8))
        return (2 * bits.astype(np.float32) - 1).reshape(likeness.PARTS, -1, DIMENSIONS)

    def embed(self, relief: Relief) -> Array:
        """(8, D) float32, each part of length 1, or 0 where the scan does not show it."""
        sums = np.einsum("pv,pvd->pd", likeness.parts(relief.values), self._signs)
        sums /= np.maximum(np.linalg.norm(sums, axis=-1, keepdims=True), 1e-6)
        return np.asarray(sums * likeness.present_parts(relief, self.mean.inside)[:, None], dtype=np.float32)

    def likenesses(self, query: Relief, known: Array) -> dict[str, Array]:
        """Likeness of a scan to each of others by their embeddings (N, 8, D), (N,) by measure, both ways round."""
        ways = [likeness.cosines_of_parts(self.embed(way), known) for way in (query, query.mirrored)]
        cosines = np.stack(ways)
        return {
            "embedding": likeness.whole(cosines).max(axis=0),
            "embedding of a half": likeness.best_half(cosines).max(axis=0),
        }

    def save(self, card: Path, about: Mapping[str, Any]) -> Path:
        """Write the card and the mean brain; `about` holds summary, licence, sources, scans and limits."""
        tensors = {"image": self.mean.image.astype(np.float16), "mask": self.mean.mask.astype(np.float16)}
        data = bytes(save(tensors))
        text = dataclasses.asdict(
            _Card(**about, thresholds=dict(self.thresholds), sha256=hashlib.sha256(data).hexdigest())
        )
        make_folder(card.parent)
        write_file(card.with_suffix(".safetensors"), lambda partial: partial.write_bytes(data))
        written = (json.dumps(text, indent=2, sort_keys=True) + "\n").encode()
        write_file(card, lambda partial: partial.write_bytes(written))
        return card


@cache
def _shipped() -> Embedding:
    return Embedding.load(_SHIPPED)
