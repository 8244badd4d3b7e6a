"""An answer held against the scan that it was made from, through the operator by which the scanner saw it: `held`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medidiff.errors import InputError
from medidiff.physics import Separable
from medidiff.trust.report import Examined, examined, tissue
from medidiff.volume import Geometry

__all__ = ["Evidence", "Held", "held"]


_UNREAD = "what the scan says of the answer could not be read: too little tissue, or no noise to compare with"


@dataclass(frozen=True, slots=True, eq=False)
class Held:
    """What the scan says of the answer.

    Args:
        residual: (I, J, K) on the grid of the scan, how many standard deviations of the noise the answer is away from
            it at the size where that is most, negative where the answer is brighter; 0 where nothing is heeded.
        report: None where nothing can be said: hardly any tissue, or no noise.
    """

    residual: NDArray[np.float32] = field(repr=False)
    report: Examined | None

    @property
    def record(self) -> Mapping[str, Any]:
        """For the provenance."""
        return {} if self.report is None else self.report.record()

    @property
    def places(self) -> int:
        """In how many places the scan contradicts the answer; the tissue as a whole counts as one."""
        return 0 if self.report is None else len(self.report.flags) + self.report.more + self.report.everywhere

    @property
    def sentences(self) -> tuple[str, ...]:
        """For the decisions."""
        return (_UNREAD,) if self.report is None else self.report.sentences


@dataclass(frozen=True, slots=True, eq=False)
class Evidence:
    """What the scanner measured, and how: all that an answer can be held against.

    Args:
        scan: (1, 1, I, J, K) what was measured, in any one unit.
        operator: by which the scanner sees an answer.
        level: standard deviation of the noise, above 0: a number, or (1, 1, I, J, K).
        rician: whether the scan is a magnitude.
        geometry: of the scan.
        measured: (I, J, K) true where the scanner measured; None for everywhere.
        air: what is no brighter is air; None for a tenth of the brightest tissue.
    """

    scan: Tensor = field(repr=False)
    operator: Separable
    level: float | Tensor = field(repr=False)
    rician: bool
    geometry: Geometry
    measured: NDArray[np.bool_] | None = field(default=None, repr=False)
    air: float | None = None

    @property
    def wanted(self) -> tuple[int, ...]:
        """(1, 1, X, Y, Z), the shape of what the operator sees."""
        sizes = zip(self.scan.shape[2:], self.operator.matrices, strict=True)
        return (1, 1, *(count if matrix is None else matrix.shape[1] for count, matrix in sizes))

    def on(self, device: torch.device) -> Evidence:
        """The same on a device."""
        level = self.level.to(device) if isinstance(self.level, Tensor) else self.level
        return replace(self, scan=self.scan.to(device), level=level)


def held(evidence: Evidence, answer: Tensor, *, deviation: Tensor | None = None, gain: float = 1.0) -> Held:
    """Hold an answer against its scan; on the scan's device, or on the CPU where that is full.

    Args:
        evidence: what was measured.
        answer: (1, 1, X, Y, Z) on the grid that the operator sees, in the unit of the scan.
        deviation: (1, 1, X, Y, Z) standard deviation of the posterior.
        gain: units of the scan's file for one of the given units.

    Raises:
        InputError: ``E-SHAPE``, an answer or a deviation on another grid than the operator sees.
    """
    scan, operator = evidence.scan, evidence.operator
    for each in (answer, deviation):
        if each is not None and tuple(each.shape) != evidence.wanted:
            raise InputError("E-SHAPE", f"an answer of shape {tuple(each.shape)}", wanted=f"{evidence.wanted}")

    def on(place: torch.device) -> tuple[Examined, Tensor] | None:
        there = evidence.on(place)
        seen = operator(answer.to(place))[0, 0]
        spread = None if deviation is None else operator(deviation.to(place))[0, 0]
        noise = there.level[0, 0] if isinstance(there.level, Tensor) else there.level
        inside = tissue(there.scan[0, 0], seen, measured=evidence.measured, air=evidence.air)
        return examined(
            there.scan[0, 0],
            seen,
            level=noise,
            rician=evidence.rician,
            geometry=evidence.geometry,
            inside=inside,
            deviation=spread,
        )

    try:
        found = on(scan.device)
    except torch.OutOfMemoryError:
        found = on(torch.device("cpu"))
    if found is None:
        return Held(np.zeros(scan.shape[2:], dtype=np.float32), None)
    report, strongest = found
    return Held(strongest.cpu().numpy(), report.scaled(gain))
