"""One sample against all training scans."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from medidiff.errors import InputError, PriorError
from medidiff.gates.embedding import Embedding
from medidiff.gates.index import Index, hash_of, voxel_likenesses
from medidiff.gates.relief import Relief, relief_of
from medidiff.volume import Volume

__all__ = ["CopyGate", "Verdict"]

_AGREEMENT = 0.6  # correlation with the mean brain; of T1w brains 0.65 to 0.95, of T2w and FLAIR 0.2 to 0.7
_MISFIT = (
    0.35  # distance from the mean brain before deformation; T1w brains have 0.13 to 0.26, heads with skull 0.4 and more
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the gate says of one sample.

    Args:
        flagged: it is like a training scan.
        judged: the gate could compare it; what could not be judged has not passed.
        nearest: number of the training scan that is nearest by the deciding measure, from 1; None when there was no
            comparison.
        measure: the deciding one: the voxels' hash, or that of `MEASURES` which comes nearest to its threshold.
        score: likeness to the nearest scan by that measure.
        threshold: from which a sample is flagged.
        reason: a sentence for people.
    """

    flagged: bool
    judged: bool
    nearest: int | None
    measure: str
    score: float
    threshold: float
    reason: str

    @property
    def passed(self) -> bool:
        """Whether the sample may leave."""
        return self.judged and not self.flagged

    def to_mapping(self) -> dict[str, Any]:
        """JSON values."""
        return {name: getattr(self, name) for name in self.__slots__}

    @classmethod
    def from_mapping(cls, fields: Mapping[str, Any]) -> Verdict:
        """The verdict that `to_mapping` gave."""
        return cls(**fields)


class CopyGate:
    """Compares samples with the training scans of an index.

    Args:
        index: of all training scans.
        scans: the scans themselves, in any order, where they are at hand; voxels are compared too then.
        embedding: that made the index; the shipped one when None.

    Raises:
        PriorError: ``E-INDEX``, the index is of another embedding, or the scans are not those of the index.
    """

    def __init__(self, index: Index, scans: Iterable[Volume] | None = None, embedding: Embedding | None = None) -> None:
        self.index = index
        self._embedding = embedding or Embedding.shipped()
        if index.embedding_sha256 != self._embedding.sha256:
            found = f"an index of the embedding {index.embedding_sha256[:12]}"
            mend = "Make the index again with pipelines/index.py."
            raise PriorError("E-INDEX", found, wanted=self._embedding.sha256[:12], mend=mend)
        self._reliefs = {} if scans is None else self._read(scans)

    def _read(self, scans: Iterable[Volume]) -> dict[int, Relief]:
        """The reliefs of the training scans by their place in the index."""
        places = {sha256: place for place, sha256 in enumerate(self.index.hashes)}
        found: dict[int, Relief] = {}
        for number, scan in enumerate(scans, start=1):
            place = places.get(hash_of(scan))
            if place is None:
                mend = "Give the scans that the index was made from."
                raise PriorError("E-INDEX", f"scan {number} of the training data is not in the index", mend=mend)
            found[place] = relief_of(scan, self._embedding.mean)
        distinct = len(set(self.index.hashes))
        if len(found) < distinct:
            mend = "Give all scans that the index was made from."
            raise PriorError("E-INDEX", f"{len(found)} of {distinct} training scans", wanted="all", mend=mend)
        return found

    @property
    def by_voxels(self) -> bool:
        """Whether voxels are compared too."""
        return bool(self._reliefs)

    def check(self, volume: Volume) -> Verdict:
        """Compare one sample with every training scan."""
        sha256 = hash_of(volume)
        if sha256 in self.index.hashes:
            nearest = self.index.hashes.index(sha256) + 1
            return Verdict(True, True, nearest, "hash", 1.0, 1.0, f"has the voxels of training scan {nearest}")
        try:
            relief = relief_of(volume, self._embedding.mean)
        except InputError as error:
            return Verdict(False, False, None, "", 0.0, 1.0, f"cannot be judged: {error.found}")
        return self.judge(relief)

    def judge(self, relief: Relief) -> Verdict:
        """The verdict on a relief, as `check` makes it from a sample."""
        nearest, measure, score = self._nearest(relief)
        threshold = self.index.thresholds[measure]
        flagged = score >= threshold
        doubt = _out_of_scope(relief)
        limit = f"a copy from {threshold:.2f}"
        if flagged:
            reason = f"like training scan {nearest} by {measure}: {score:.2f}, {limit}"
        else:
            reason = f"cannot be judged: {doubt}" if doubt else f"{score:.2f} by {measure} at most, {limit}"
        return Verdict(flagged, flagged or not doubt, nearest, measure, score, threshold, reason)

    def _nearest(self, relief: Relief) -> tuple[int, str, float]:
        """Number of the scan, measure and likeness of what comes nearest to its threshold."""
        found = self._embedding.likenesses(relief, self.index.embeddings)
        places = {name: list(range(len(values))) for name, values in found.items()}
        if self._reliefs:
            for name, values in voxel_likenesses(relief, list(self._reliefs.values())).items():
                found[name], places[name] = values, list(self._reliefs)
        measure = max(found, key=lambda name: float(found[name].max()) / self.index.thresholds[name])
        best = int(found[measure].argmax())
        return places[measure][best] + 1, measure, float(found[measure][best])


def _out_of_scope(relief: Relief) -> str:
    """Why a scan is none that the gate was made for; empty when it is."""
    if relief.agreement < _AGREEMENT:
        return f"agrees with the mean T1w brain by {relief.agreement:.2f} only (wanted: {_AGREEMENT})"
    if relief.misfit > _MISFIT:
        return f"misfit of {relief.misfit:.2f} to the mean brain (wanted: at most {_MISFIT}); a skull, or a part"
    return ""
