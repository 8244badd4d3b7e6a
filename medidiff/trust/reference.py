"""What the scans that a prior is for look like: the middle and the limits of each sign, and the mean brain."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from safetensors.numpy import save

from medidiff.errors import PriorError
from medidiff.prior import Card
from medidiff.prior.weights import read_weights
from medidiff.trust.grain import NUMBERS
from medidiff.trust.halves import HALF
from medidiff.trust.kernel import KernelRidge
from medidiff.trust.pose import GRID, Template

__all__ = ["RULES", "Limits", "Reference", "Rule", "reference_files", "reference_for"]

_HERE = Path(__file__).parent
_SUFFIX = ".scope.json"
_MEND = "Install medidiff again, or make it again with pipelines/scope.py."
_BRAIN = {"image": GRID, "mask": GRID, "sides": HALF}
_FILTERS = "filters."
_WIDEST = 2.0  # how far beyond the oddest person a limit may lie, in that person's distance from the middle


def _filters_of(examples: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """The arrays of what tells filters' grain, with their shapes."""
    each = (len(NUMBERS),)
    shapes = {"middle": each, "scale": each, "centres": examples + each, "weights": examples}
    return {_FILTERS + name: shape for name, shape in shapes.items()}


@dataclass(frozen=True, slots=True)
class Rule:
    """How a sign's limits follow from scans of the kind.

    Args:
        sides: ``"low"``, ``"high"`` or ``"both"``: which way is odd.
        slack: by how much a limit lies further out than these scans ask for.
        least: value that the low limit is never above; None for none.
        most: value that the high limit is never below; None for none.
        fixed: whether the limit is that value, whatever scans of the kind show.
    """

    sides: str
    slack: float
    least: float | None = None
    most: float | None = None
    fixed: bool = False


RULES: Mapping[str, Rule] = {
    "tissue": Rule("both", 0.15, least=math.log10(2.0)),
    "whole": Rule("low", 0.1),
    "across": Rule("high", 0.0, most=math.log10(260.0), fixed=True),
    "quiet": Rule("low", 0.1),
    "corner": Rule("both", 0.1),
    "loud": Rule("high", 0.2),
    "linked": Rule("low", 0.01),
    "patchy": Rule("high", 0.02),
    "filtered": Rule("high", 0.1),
    "cliff": Rule("high", 0.1),
    "spike": Rule("high", 0.0, most=1.8, fixed=True),
    "top": Rule("high", 0.3),
    "eight": Rule("high", 0.5),
    "air": Rule("high", 0.1),
    "jump": Rule("high", 0.05),
    "twice": Rule("high", 0.05),
    "blocky": Rule("high", 0.03),
    "match": Rule("low", 0.05, least=0.6),
    "upright": Rule("low", 0.0, least=0.0),
    "side": Rule("low", 0.0, least=-0.15, fixed=True),
    "order": Rule("low", 0.0, least=0.35, fixed=True),
    "grey": Rule("high", 0.06),
    "fluid": Rule("high", 0.15),
    "shading": Rule("high", 0.1),
    "ghost": Rule("high", 0.05),
}
"""Of every sign."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one sign.

    Args:
        middle: median over the scans of the kind.
        low: what lies below is odd; None for no such limit.
        high: what lies above is odd; None for no such limit.
    """

    __pydantic_config__ = ConfigDict(extra="forbid", allow_inf_nan=False)
    middle: float
    low: float | None = None
    high: float | None = None

    def distance(self, value: float) -> float:
        """How far out a value lies: 0 in the middle, 1 at a limit."""
        if value > self.middle:
            return 0.0 if self.high is None else (value - self.middle) / max(self.high - self.middle, 1e-6)
        return 0.0 if self.low is None else (self.middle - value) / max(self.middle - self.low, 1e-6)

    @classmethod
    def fitted(cls, rule: Rule, values: Mapping[str, Sequence[float]]) -> Limits:
        """From the values of scans of the kind.

        A limit lies as far beyond the oddest person as that one lies beyond the second oddest, as a share of their
        distances from the middle, and the rule's slack further.

        Args:
            rule: of the sign.
            values: by person.
        """
        middle = float(np.median([value for each in values.values() for value in each]))
        low, high = (
            _beyond(sorted((max(sign * (value - middle) for value in each) for each in values.values()), reverse=True))
            for sign in (-1, 1)
        )
        if rule.fixed:
            return cls(middle, rule.least, rule.most)
        floor = min(middle - low - rule.slack, math.inf if rule.least is None else rule.least)
        ceiling = max(middle + high + rule.slack, -math.inf if rule.most is None else rule.most)
        return cls(middle, floor if rule.sides != "high" else None, ceiling if rule.sides != "low" else None)


def _beyond(distances: Sequence[float]) -> float:
    """The largest distance, enlarged by what it exceeds the second largest by."""
    first = max(distances[0], 0.0)
    second = max(distances[1], 0.0) if len(distances) > 1 else 0.0
    return first * min(first / second, _WIDEST) if second > 0 else first


@dataclass(frozen=True, slots=True)
class _Card:
    """The file."""

    __pydantic_config__ = ConfigDict(extra="forbid", allow_inf_nan=False)
    prior: str
    weights_sha256: str
    summary: str
    licence: str
    sources: tuple[str, ...]
    people: Annotated[int, Field(ge=1)]
    scans: Annotated[int, Field(ge=1)]
    notes: tuple[str, ...]
    limits: Mapping[str, Limits]
    scores: Annotated[tuple[float, ...], Field(min_length=1)]
    sha256: str


@dataclass(frozen=True, eq=False)
class Reference:
    """What a prior is for.

    Args:
        prior: its name.
        limits: of each sign.
        scores: how far out scans of the kind lie that had no part in the limits.
        template: the mean brain.
        filters: what tells the grain that filters leave from a scanner's; None where nobody has learned it.
        weights_sha256: of the prior's weights; empty before it is bound to any.
    """

    prior: str
    limits: Mapping[str, Limits]
    scores: tuple[float, ...]
    template: Template
    filters: KernelRidge | None = None
    weights_sha256: str = ""

    def distances(self, signs: Mapping[str, float | None]) -> dict[str, float]:
        """How far out each sign lies that could be read."""
        read = {name: value for name, value in signs.items() if value is not None and name in self.limits}
        return {name: self.limits[name].distance(value) for name, value in read.items()}

    def p_value(self, score: float) -> float:
        """Share of scans of the kind that lie as far out, the scan itself counted among them."""
        return (1 + sum(other >= score for other in self.scores)) / (1 + len(self.scores))

    @classmethod
    def load(cls, path: Path) -> Reference:
        """From its JSON file, with the safetensors file of the same name beside it.

        Raises:
            PriorError: ``E-SCOPE-REF``, a broken file; ``E-WEIGHTS``, the other is not the one that it names.
        """
        try:
            about = TypeAdapter(_Card).validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            raise PriorError("E-SCOPE-REF", "no such file, or a broken one", mend=_MEND, file=path.name) from error
        tensors = read_weights(path.with_suffix(".safetensors"), sha256=about.sha256)
        arrays = {name: tensor.float().numpy() for name, tensor in tensors.items()}
        examples = arrays["filters.weights"].shape[:1] if "filters.weights" in arrays else ()
        if {name: array.shape for name, array in arrays.items()} != {**_BRAIN, **_filters_of(examples)}:
            raise PriorError("E-SCOPE-REF", "other arrays than a mean brain's", mend=_MEND, file=path.name)
        filters = KernelRidge(**{name.removeprefix(_FILTERS): arrays.pop(name) for name in _filters_of(examples)})
        return cls(about.prior, about.limits, about.scores, Template(**arrays), filters, about.weights_sha256)

    def packed(self, about: Mapping[str, Any]) -> tuple[bytes, bytes]:
        """The JSON file and the safetensors file that `load` reads.

        Args:
            about: summary, licence, sources, people, scans and notes.
        """
        arrays = {name: np.asarray(getattr(self.template, name), dtype=np.float16) for name in _BRAIN}
        arrays |= {name: getattr(self.filters, name.removeprefix(_FILTERS)) for name in _filters_of(())}
        data = bytes(save(arrays))
        card = _Card(
            prior=self.prior,
            weights_sha256=self.weights_sha256,
            limits=self.limits,
            scores=self.scores,
            sha256=hashlib.sha256(data).hexdigest(),
            **about,
        )
        text = json.dumps(dataclasses.asdict(card), indent=1, sort_keys=True, allow_nan=False) + "\n"
        return text.encode(), data

    @classmethod
    def fitted(
        cls,
        prior: str,
        signs: Mapping[str, Sequence[Mapping[str, float | None]]],
        template: Template,
        filters: KernelRidge | None = None,
    ) -> Reference:
        """From the signs of scans of the kind, without scores.

        Args:
            prior: its name.
            signs: by person; those of each of a person's scans.
            template: the mean brain.
            filters: what tells the grain that filters leave from a scanner's.
        """
        limits = {}
        for name, rule in RULES.items():
            values = {
                person: read
                for person, each in signs.items()
                if (read := [v for s in each if (v := s.get(name)) is not None])
            }
            if values:
                limits[name] = Limits.fitted(rule, values)
        return cls(prior, limits, (), template, filters)


def reference_for(card: Card) -> Reference | None:
    """What comes with medidiff for a prior; None where nothing does.

    A prior that was adapted, or trained on something else under the same name, is not for the same scans: a reference
    is for the weights whose SHA-256 it names.

    Raises:
        PriorError: as `Reference.load`.
    """
    path = _HERE / f"{card.name}{_SUFFIX}"
    if card.name != path.name.removesuffix(_SUFFIX) or "degradation" not in card.recipe or not path.is_file():
        return None
    reference = _shipped(path)
    return reference if reference.weights_sha256 == card.weights_sha256 else None


def reference_files(card: Card) -> tuple[Path, ...]:
    """The files that `reference_for` reads for a prior; none where nothing comes with medidiff for it.

    Raises:
        PriorError: as `Reference.load`.
    """
    path = _HERE / f"{card.name}{_SUFFIX}"
    return () if reference_for(card) is None else (path, path.with_suffix(".safetensors"))


@cache
def _shipped(path: Path) -> Reference:
    return Reference.load(path)
