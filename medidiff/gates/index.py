"""What the gate knows of the training scans: a hash and an embedding of each, never the scan."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from medidiff.errors import InputError, PriorError, SettingsError
from medidiff.gates import likeness
from medidiff.gates.brain import Array
from medidiff.gates.embedding import DIMENSIONS, Embedding
from medidiff.gates.relief import Relief, relief_of
from medidiff.gates.thresholds import FEWEST, SAME, SHIPPED_PEOPLE, far_quantile
from medidiff.io.files.atomic import make_folder, write_file
from medidiff.volume import Volume

__all__ = ["MEASURES", "Index", "build_index", "hash_of", "voxel_likenesses"]

MEASURES = ("embedding", "embedding of a half", "voxels", "voxels of a half")
"""By what a sample is compared; the last two only where the training scans are at hand."""

_LARGEST_BYTES = 64 * 2**20
_MOST_PAIRS_OF = 40  # scans whose voxels are compared with each other's for a threshold
_MEND = "Make it again with pipelines/index.py."
_Hash = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


def hash_of(volume: Volume) -> str:
    """SHA-256 of a scan's voxels in float32, and of their number along each axis."""
    sizes = np.asarray(volume.data.shape, dtype="<i8")
    return hashlib.sha256(sizes.tobytes() + np.ascontiguousarray(volume.data, dtype="<f4").tobytes()).hexdigest()


@dataclass(frozen=True, slots=True)
class _About:
    """What stands in the file beside the embeddings."""

    __pydantic_config__ = ConfigDict(extra="forbid", allow_inf_nan=False)
    embedding_sha256: _Hash
    hashes: tuple[_Hash, ...]
    thresholds: Mapping[str, Annotated[float, Field(gt=0, le=1)]]
    calibration: Mapping[str, int | str]


@dataclass(frozen=True, eq=False)
class Index:
    """The training scans as the gate knows them; scan number n is entry n - 1.

    Args:
        hashes: `hash_of` each scan.
        embeddings: (N, 8, D), in half precision on disk.
        thresholds: likeness from which a sample counts as a copy, by measure.
        embedding_sha256: of the network that made the embeddings.
        calibration: from what the thresholds were made: numbers of scans, of different people among them, and of
            held-out scans.
    """

    hashes: tuple[str, ...]
    embeddings: Array
    thresholds: Mapping[str, float]
    embedding_sha256: str
    calibration: Mapping[str, int | str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.embeddings.shape != (len(self.hashes), likeness.PARTS, DIMENSIONS) or not self.hashes:
            raise _broken(f"{len(self.hashes)} hashes, embeddings of shape {self.embeddings.shape}")
        if set(self.thresholds) != set(MEASURES) or not np.isfinite(self.embeddings).all():
            raise _broken("thresholds of other measures, or embeddings that are not finite")

    @property
    def sha256(self) -> str:
        """Of the file."""
        return hashlib.sha256(self._to_bytes()).hexdigest()

    def _to_bytes(self) -> bytes:
        about = TypeAdapter(_About).dump_python(
            _About(self.embedding_sha256, self.hashes, dict(self.thresholds), dict(self.calibration)), mode="json"
        )
        # One entry: several would be written in random order, and the same index would not have the same hash.
        text = json.dumps(about, sort_keys=True)
        return bytes(save({"embeddings": self.embeddings.astype(np.float16)}, metadata={"about": text}))

    def save(self, path: Path) -> Path:
        """Write the index as one safetensors file, whole or not at all.

        Raises:
            OutputError: the system refuses.
        """
        make_folder(path.parent)
        data = self._to_bytes()
        write_file(path, lambda partial: partial.write_bytes(data))
        return path

    @classmethod
    def load(cls, path: Path) -> Index:
        """The index that `save` wrote.

        Raises:
            PriorError: ``E-INDEX``, it is not there or broken.
        """
        if not path.is_file() or path.stat().st_size > _LARGEST_BYTES:
            raise _broken(f"no file of at most {_LARGEST_BYTES} bytes", file=path.name)
        try:
            with safe_open(path, framework="np") as file:
                about = TypeAdapter(_About).validate_json((file.metadata() or {}).get("about", ""))
                embeddings = file.get_tensor("embeddings").astype(np.float32)
        except (SafetensorError, ValidationError, ValueError, KeyError, OSError) as error:
            raise _broken("not an index, or a damaged one", file=path.name) from error
        return cls(about.hashes, embeddings, about.thresholds, about.embedding_sha256, about.calibration)


def _broken(found: str, *, file: str = "") -> PriorError:
    return PriorError("E-INDEX", found, wanted="an index of training scans", mend=_MEND, file=file)


def build_index(
    volumes: Iterable[Volume], *, held_out: Iterable[Volume] = (), embedding: Embedding | None = None
) -> Index:
    """The index of a set of training scans, with thresholds of its own.

    Thresholds come from the training scans, each against those of other people (scans as like as copies count as one
    person's, so that a scan that stands in the set twenty times does not count as twenty people), and from held-out
    scans against all; the higher one holds. With fewer than eight people in both, those that were shipped with the
    embedding hold.

    Args:
        volumes: brain-extracted T1w scans.
        held_out: such scans of people who are not among them; several views of one person may be given.
        embedding: the network; the shipped one when None.

    Raises:
        InputError: ``E-UNJUDGED``, one of the scans shows no brain.
        SettingsError: ``E-DATA``, there are none; ``E-SHARED``, a held-out scan is as like a training scan as copies
            are: thresholds that let it pass would let copies pass.
    """
    network = embedding or Embedding.shipped()
    known, hashes = [], []
    for number, volume in enumerate(volumes, start=1):
        known.append(_relief(volume, network, f"training scan {number}"))
        hashes.append(hash_of(volume))
    if not known:
        raise SettingsError("E-DATA", "no training scans", wanted="at least one", attribute="--data")
    others = [_relief(volume, network, f"held-out scan {n}") for n, volume in enumerate(held_out, start=1)]
    vectors = np.stack([network.embed(relief) for relief in known]).astype(np.float16).astype(np.float32)
    _refuse_known(others, vectors, network)
    people = _people(known, vectors, network)
    alone = _nearest(known, known, vectors, network, apart=people)
    unseen = _nearest(others, known, vectors, network) if others else {name: [] for name in MEASURES}
    thresholds = {name: _threshold(alone[name], unseen[name], network.thresholds.get(name)) for name in MEASURES}
    about: dict[str, int | str] = {"scans": len(known), "people": len(set(people)), "held_out": len(others)}
    return Index(tuple(hashes), vectors, thresholds, network.sha256, about)


def _relief(volume: Volume, network: Embedding, name: str) -> Relief:
    try:
        return relief_of(volume, network.mean)
    except InputError as error:
        raise InputError(error.code, f"{name}: {error.found}", wanted=error.wanted, mend=error.mend) from error


def _refuse_known(others: Sequence[Relief], vectors: Array, network: Embedding) -> None:
    for number, relief in enumerate(others, start=1):
        values = network.likenesses(relief, vectors)["embedding"]
        if values.max() >= SAME:
            found = f"held-out scan {number} is like training scan {values.argmax() + 1}: {values.max():.2f}"
            wanted, mend = "scans of people who are not among the training scans", "Leave it out, with its like."
            raise SettingsError("E-SHARED", found, wanted=wanted, mend=mend, attribute="--held-out")


def _people(known: Sequence[Relief], vectors: Array, network: Embedding) -> list[int]:
    """A number for each scan; the same for scans that are as like as copies, directly or through others."""
    groups = list(range(len(known)))
    for i, relief in enumerate(known):
        for j in np.flatnonzero(network.likenesses(relief, vectors)["embedding"] >= SAME):
            keep, drop = sorted((groups[i], groups[j]))
            groups = [keep if group == drop else group for group in groups]
    return groups


def _nearest(
    queries: Sequence[Relief],
    known: Sequence[Relief],
    vectors: Array,
    network: Embedding,
    *,
    apart: Sequence[int] | None = None,
) -> dict[str, list[float]]:
    """Likeness of each query to the nearest scan, by measure; to those of other people where the queries are known."""
    found: dict[str, list[float]] = {name: [] for name in MEASURES}
    some = range(min(len(known), _MOST_PAIRS_OF))
    for number, relief in enumerate(queries):
        others = [i for i in range(len(known)) if apart is None or apart[i] != apart[number]]
        if not others or (apart is not None and apart.index(apart[number]) < number):  # one query for each person
            continue
        for name, values in network.likenesses(relief, vectors[others]).items():
            found[name].append(float(values.max()))
        close = [i for i in others if i in some]
        if close and number in range(_MOST_PAIRS_OF):
            by_voxels = voxel_likenesses(relief, [known[i] for i in close])
            for name, values in by_voxels.items():
                found[name].append(float(values.max()))
    return found


def voxel_likenesses(query: Relief, known: Sequence[Relief]) -> dict[str, Array]:
    """Likeness to each of some scans by their voxels, (N,) by measure, over shifts and both ways round."""
    cosines = np.stack([[likeness.voxel_cosines(way, scan) for scan in known] for way in (query, query.mirrored)])
    return {
        "voxels": likeness.whole(cosines).max(axis=0),
        "voxels of a half": likeness.best_half(cosines).max(axis=0),
    }


def _threshold(alone: Sequence[float], unseen: Sequence[float], shipped: float | None) -> float:
    """The highest that different people ask for, at most what counts as one person.

    A quantile of few people is uncertain, so it is drawn to the shipped one as if that stood for twenty more.
    """
    asked = []
    for values in (alone, unseen):
        if len(values) >= FEWEST:
            own = far_quantile(values)
            drawn = 0.0 if shipped is None else SHIPPED_PEOPLE / (len(values) + SHIPPED_PEOPLE) * (shipped - own)
            asked.append(own + drawn)
    return float(min(max([*(asked or [shipped or SAME]), *unseen]), SAME))
