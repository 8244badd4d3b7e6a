"""What the gate did to a whole data set, and whether it may leave."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from medidiff.errors import OutputError
from medidiff.gates.gate import CopyGate, Verdict
from medidiff.gates.thresholds import LARGEST_SHARE, LEVEL, too_many

__all__ = ["GateReport", "require_index"]


@dataclass(frozen=True, slots=True)
class GateReport:
    """The gate's account of a data set; samples that did not pass are not in it.

    Args:
        checked: samples that the gate saw.
        flagged: of these, like a training scan; dropped.
        unjudged: of these, none that the gate can compare; dropped.
        index_sha256: of the index; empty when there was none.
        scans: training scans in the index.
        by_voxels: whether the training scans were at hand.
        thresholds: by measure.
        calibration: what the thresholds were made from.
        verdicts: one for each sample, in order; neither scans nor names.
        override: why the set leaves although the gate would not let it; empty when it need not.
    """

    checked: int
    flagged: int
    unjudged: int
    index_sha256: str = ""
    scans: int = 0
    by_voxels: bool = False
    thresholds: Mapping[str, float] = field(default_factory=dict)
    calibration: Mapping[str, int | str] = field(default_factory=dict)
    verdicts: tuple[Verdict, ...] = ()
    override: str = ""

    @classmethod
    def of(cls, gate: CopyGate, verdicts: Iterable[Verdict], *, override: str = "") -> GateReport:
        """The account of what a gate has said."""
        told = tuple(verdicts)
        return cls(
            checked=len(told),
            flagged=sum(v.flagged for v in told),
            unjudged=sum(not v.judged for v in told),
            index_sha256=gate.index.sha256,
            scans=len(gate.index.hashes),
            by_voxels=gate.by_voxels,
            thresholds=dict(gate.index.thresholds),
            calibration=dict(gate.index.calibration),
            verdicts=told,
            override=override.strip(),
        )

    @classmethod
    def without_index(cls, samples: int, *, override: str) -> GateReport:
        """The account of samples that were compared with nothing, as somebody wanted it.

        Raises:
            OutputError: ``E-NOINDEX``, no reason is given.
        """
        require_index(None, override=override)
        return cls(checked=0, flagged=0, unjudged=samples, override=override.strip())

    @property
    def passed(self) -> int:
        """Samples that may leave."""
        return self.checked - self.flagged - self.unjudged

    @property
    def refusal(self) -> str:
        """Why the set must not leave, whatever was overridden; empty when it may."""
        if not self.index_sha256:
            return "no index of the training scans"
        if too_many(self.flagged, self.checked):
            return f"{self.flagged} of {self.checked} samples are like a training scan"
        if not self.passed:
            return f"none of {self.checked} samples passed ({self.unjudged} could not be judged)"
        return ""

    def require(self) -> None:
        """Refuse a set that must not leave, unless an override says why it does.

        Raises:
            OutputError: ``E-NOINDEX`` without an index; ``E-COPIES`` when more samples are flagged than false alarms
                explain, or none passed.
        """
        if self.override or not self.refusal:
            return
        if not self.index_sha256:
            require_index(None)
        wanted = f"no more flagged than {LARGEST_SHARE:.0%} false alarms explain, and one that passed"
        raise OutputError(
            "E-COPIES", self.refusal, wanted=wanted, mend="Train the prior on more scans, or for less long."
        )

    def to_mapping(self) -> dict[str, Any]:
        """JSON values: counts, thresholds, policy, and the verdict on each sample."""
        fields = {name: getattr(self, name) for name in self.__slots__}
        fields |= {
            "thresholds": dict(self.thresholds),
            "calibration": dict(self.calibration),
            "verdicts": [verdict.to_mapping() for verdict in self.verdicts],
            "dropped": self.flagged + self.unjudged if self.index_sha256 else 0,
            "passed": self.passed,
            "refusal": self.refusal,
            "policy": f"refused when a one-sided binomial test at {LEVEL} finds more than {LARGEST_SHARE:.0%} flagged",
        }
        return fields


def require_index(index: object | None, *, override: str = "") -> None:
    """Refuse to go on without an index, unless an override says why; before anything is drawn.

    Raises:
        OutputError: ``E-NOINDEX``.
    """
    if index is None and not override.strip():
        mend = "Make one with pipelines/index.py, or say why none is needed with the override."
        raise OutputError("E-NOINDEX", "no index of the training scans", wanted="one to compare with", mend=mend)
