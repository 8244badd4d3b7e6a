"""Whether a scan is of the kind that a prior was trained and validated on: `scope_of`.

A prior restores whatever it is given, and what it knows of anatomy and noise it puts there. So each scan is held
against the scans that the prior is for: some numbers are read from it (`medidiff.trust.traits`), each lies within what
those scans show or beyond, and the furthest of them is the score. It was calibrated on scans of the kind: how many of
them lie as far out is the p-value, as in conformal outlier detection (Bates et al., Ann. Statist. 51:149, 2023, eq. 3).
A score above 1 is out of scope; the sentences say which numbers are odd, and what usually lies behind that.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from medidiff.prior import Card
from medidiff.trust.reference import Reference, reference_for
from medidiff.trust.traits import traits_of
from medidiff.trust.words import said
from medidiff.volume import Volume

__all__ = ["Scope", "scope_of", "scope_within"]

_Verdict = Literal["inside", "outside", "unjudged"]


@dataclass(frozen=True, slots=True)
class Scope:
    """What was found.

    Args:
        verdict: ``"inside"``; ``"outside"``, the score is above 1; ``"unjudged"``, nothing says what the prior is for.
        prior: its name.
        score: how far out the oddest number lies; 1 is the limit; None where nothing was judged.
        p: share of scans of the kind, this one among them, that lie as far out; None where nothing was judged.
        reasons: what each number beyond its limit says, the furthest first; what follows "the scan" in a sentence.
        signs: every number, by name; None for what the scan does not show enough of.
        distances: how far out each of them lies, by name; 1 is its limit.
        furthest: whether none of the scans of the calibration lies as far out; the share may then be below `p`.
    """

    verdict: _Verdict
    prior: str
    score: float | None = None
    p: float | None = None
    reasons: tuple[str, ...] = ()
    signs: Mapping[str, float | None] = field(default_factory=dict)
    distances: Mapping[str, float] = field(default_factory=dict)
    furthest: bool = False

    @property
    def outside(self) -> bool:
        """Whether the scan is not of the kind that the prior is for."""
        return self.verdict == "outside"

    @property
    def sentence(self) -> str:
        """All of it in one sentence, for a record."""
        if self.verdict == "unjudged":
            return f"scope not judged: nothing says which scans the prior '{self.prior}' is for"
        percent = 100 * (self.p or 0)
        share = f"at most {math.ceil(percent)}" if self.furthest else f"{percent:.0f}"
        held = f"score {self.score:.2f}, limit 1; {share} % of scans of its kind lie as far out"
        if not self.outside:
            unread = "" if self.signs.get("match") is not None else "; too little of a head is shown to tell its pose"
            return f"within the scope of the prior '{self.prior}' ({held}){unread}"
        return f"OUT OF SCOPE of the prior '{self.prior}' ({held}): the scan {'; '.join(self.reasons)}"

    def record(self) -> dict[str, Any]:
        """The same as JSON values, figures rounded to what is meant by them."""
        if self.verdict == "unjudged":
            return {"verdict": self.verdict, "prior": self.prior}
        return {
            "verdict": self.verdict,
            "prior": self.prior,
            "score": _rounded(self.score),
            "p": _rounded(self.p),
            "reasons": list(self.reasons),
            "signs": {name: _rounded(value) for name, value in self.signs.items()},
        }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def scope_of(volume: Volume, card: Card) -> Scope:
    """Hold a scan against what a prior is for.

    Args:
        volume: (1, I, J, K) finite.
        card: of the prior.

    Raises:
        InputError: more than one channel, or voxels that are not finite.
        PriorError: ``E-SCOPE-REF``, what says what the prior is for is damaged.
    """
    reference = reference_for(card)
    return Scope("unjudged", card.name) if reference is None else scope_within(volume, reference)


def scope_within(volume: Volume, reference: Reference) -> Scope:
    """Hold a scan against the scans of a reference.

    Args:
        volume: (1, I, J, K) finite.
        reference: of the prior.

    Raises:
        InputError: more than one channel, or voxels that are not finite.
    """
    signs = traits_of(volume, reference.template, reference.filters)
    distances = reference.distances(signs)
    score = max(distances.values(), default=0.0)
    odd = sorted((name for name, far in distances.items() if far > 1), key=lambda name: -distances[name])
    reasons = tuple(said(name, signs, reference.limits[name]) for name in odd)
    return Scope(
        "outside" if odd else "inside",
        reference.prior,
        score,
        reference.p_value(score),
        reasons,
        signs,
        distances,
        furthest=all(other < score for other in reference.scores),
    )
