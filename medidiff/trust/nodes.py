"""What a calibration learns at one noise level or slice thickness: `Node`, and the nodes between two."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field

from medidiff.trust.conformal import controlled
from medidiff.trust.signs import means
from medidiff.trust.tally import SIZES_MM, Tally

__all__ = ["Case", "Node", "Seen", "between", "corrected", "factors", "node_of"]

_GROUPS = 8  # of the expected error, in which the standardised error is set to 1


@dataclass(frozen=True, slots=True)
class Seen:
    """What decides whether a calibration is for a scan, but for the way its answer was made.

    Args:
        noise: σ, as a share of the tissue maximum.
        thickness: of the slices, in voxels of the answer; 1 where nothing was super-resolved.
        distance: between slices, in voxels of the answer.
        spacing_mm: of the answer's voxels.
        signs: of `medidiff.trust.signs.signs_of`.
        outside: whether it is out of the scope of the prior.
        in_plane: how many times as large as the answer's the scan's voxels are along the other two axes, the larger.
        profile: of the slices; empty where nothing was super-resolved, as is the next.
        plane: of the slices, ``"axial"``, ``"coronal"`` or ``"sagittal"``.
        dark: of `medidiff.physics.estimate.dark_noise`; None where too little of the scan is dark.
        places: in which the scan contradicts the answer (`medidiff.trust.report`).
    """

    noise: float
    thickness: float
    distance: float
    spacing_mm: tuple[float, float, float]
    signs: Mapping[str, float]
    outside: bool = False
    in_plane: float = 1.0
    profile: str = ""
    plane: str = ""
    dark: tuple[float, float] | None = None
    places: int = 0

    @property
    def overlap(self) -> float:
        """Thickness of the slices over their distance: below 1 they leave gaps, above 1 they overlap."""
        return self.thickness / self.distance


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """One patient's answer at one noise level or thickness.

    Args:
        patient: SHA-256 of the clean scan.
        group: which level or thickness, the same for all patients.
        seen: of the scan.
        tally: of its answer.
    """

    patient: str
    group: int
    seen: Seen
    tally: Tally


@dataclass(frozen=True, slots=True)
class Node:
    """What holds at one noise level or thickness.

    Args:
        noise: geometric mean over the patients, as a share of the tissue maximum.
        thickness: of the slices, likewise.
        reaches: λ by side of the blocks in mm.
        factors: (expected error as a share of the tissue maximum, what it is to be multiplied by), in rising order.
        signs: mean of each sign over patients.
        signs_std: standard deviation of each.
    """

    __pydantic_config__ = ConfigDict(extra="forbid", allow_inf_nan=False)
    noise: Annotated[float, Field(gt=0)]
    thickness: Annotated[float, Field(gt=0)]
    reaches: Mapping[int, Annotated[float, Field(gt=0)]]
    factors: Annotated[tuple[tuple[float, float], ...], Field(min_length=1)]
    signs: Mapping[str, float]
    signs_std: Mapping[str, float]


def node_of(group: Sequence[Case], *, share: float, cap: float) -> Node:
    """What holds for the patients of one level: λ that keep the risk, factors and signs."""
    reaches = {}
    for size in SIZES_MM:
        curves = [case.tally.outside[size] for case in group if size in case.tally.outside]
        if len(curves) == len(group):
            reaches[size] = controlled(np.stack(curves), share=share, cap=cap)
    mean, std = means([case.seen.signs for case in group])
    return Node(
        noise=float(np.exp(np.mean([math.log(case.seen.noise) for case in group]))),
        thickness=float(np.exp(np.mean([math.log(case.seen.thickness) for case in group]))),
        reaches=reaches,
        factors=factors([case.tally for case in group]),
        signs=mean,
        signs_std=std,
    )


def factors(tallies: Sequence[Tally]) -> tuple[tuple[float, float], ...]:
    """What brings the standardised error to 1, by expected error: ``√(Σ (x - m)² / Σ e²)`` in eight equal groups.

    Patients weigh alike, however large their heads.
    """
    total = np.sum([each.squares / each.squares[0].sum() for each in tallies], axis=0)
    there = total[:, total[0] > 0]
    group = np.minimum((np.cumsum(there[0]) - there[0] / 2) / there[0].sum() * _GROUPS, _GROUPS - 1).astype(int)
    count, off, error = (np.bincount(group, weights, minlength=_GROUPS) for weights in there)
    kept = (count > 0) & (error > 0) & (off > 0)
    return tuple(
        (float(np.sqrt(e / n)), float(np.sqrt(o / e)))
        for n, o, e in zip(*(v[kept] for v in (count, off, error)), strict=True)
    )


def corrected(error: NDArray[np.float32], node: Node) -> NDArray[np.float32]:
    """Expected errors (shares of the tissue maximum) times the factors, on a logarithmic scale between them."""
    places, values = np.log(np.array(node.factors)).T
    tiny = np.finfo(np.float32).tiny
    return np.asarray(error * np.exp(np.interp(np.log(np.maximum(error, tiny)), places, values)), dtype=np.float32)


def between(low: Node, high: Node, share: float) -> Node:
    """A node on the way from one to another; a share of 1 is the other."""
    if share >= 1.0 or low is high:
        return high

    def blend(a: float, b: float) -> float:
        return math.exp((1 - share) * math.log(a) + share * math.log(b))

    def across(name: str) -> float:
        """The standard deviation over patients."""
        return (1 - share) * low.signs_std[name] + share * high.signs_std[name]

    def bend(name: str) -> float:
        """How far a sign may be from the straight line between two nodes, where nobody was measured."""
        return share * (1 - share) * abs(high.signs[name] - low.signs[name])

    places = sorted({place for node in (low, high) for place, _ in node.factors})
    each = [np.exp(np.interp(np.log(places), *np.log(np.array(node.factors)).T)) for node in (low, high)]
    sizes = [size for size in low.reaches if size in high.reaches]
    return Node(
        noise=blend(low.noise, high.noise),
        thickness=blend(low.thickness, high.thickness),
        reaches={size: blend(low.reaches[size], high.reaches[size]) for size in sizes},
        factors=tuple((p, blend(float(a), float(b))) for p, a, b in zip(places, *each, strict=True)),
        signs={name: (1 - share) * low.signs[name] + share * high.signs[name] for name in low.signs},
        signs_std={name: float(np.hypot(across(name), bend(name))) for name in low.signs_std},
    )
