"""A calibration: how far the intervals of one prior and task must reach, and for which scans that is claimed.

It is a small JSON file without anything of a patient: hashes of the scans, and a few numbers about all of them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from medidiff.errors import SettingsError
from medidiff.trust.conformal import cap_of, needed
from medidiff.trust.nodes import Case, Node, Seen, between, node_of
from medidiff.trust.signs import LAW, MEANINGS, follows_law, strange

__all__ = ["BUNDLED_CALIBRATIONS", "Calibration", "Made", "is_calibration"]

BUNDLED_CALIBRATIONS = Path(__file__).parent / "bundled"
"""Where medidiff's own lie, one for each task, from the validation subjects of `validation/split.toml`, whole scans."""
_SLACK = 1.1  # factor: as far beyond the calibrated noise, thickness and distance as the claim reaches
_CLOSE = 1.05  # likewise for gaps, overlaps and voxels along the slices
_SAME = 1.02  # likewise for the sides of voxels: scans of one protocol have the same
_TOLD = 3  # reasons that are named


@dataclass(frozen=True, slots=True)
class Made:
    """How answers are made; intervals hold for answers that are made alike.

    Args:
        task: ``"denoise"`` or ``"superresolve"``.
        prior: name of the prior.
        prior_sha256: of its weights.
        draws: for the spread.
        steps: evaluations for each draw.
        noise: kind of noise.
        noise_varies: whether the level is estimated for every voxel.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")
    task: Literal["denoise", "superresolve"]
    prior: str
    prior_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    draws: Annotated[int, Field(ge=2)]
    steps: Annotated[int, Field(ge=1)]
    noise: str
    noise_varies: bool


Range = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Calibration:
    """Intervals for the answers of one prior at one task.

    Args:
        share: of a patient's tissue that is inside, on average over patients.
        cap: B of `medidiff.trust.conformal`: a patient with a larger share outside counts as this.
        patients: how many it was made on.
        outside: how many of them had a scan out of the scope of the prior.
        lawless: how many had noise that does not follow its law, or too few dark voxels to tell.
        contradicted: how many had an answer that the scan contradicts somewhere.
        made: how their answers were made.
        noise: range of σ for which it holds, as shares of the tissue maximum.
        thickness: range of slice thickness, in voxels of the answer.
        distance: range of slice distance, likewise.
        overlap: range of thickness over distance.
        in_plane: range of the larger voxel side across the slices' normal, in voxels of the answer.
        profiles: of the slices.
        planes: of the slices.
        spacing_mm: range of the voxels' sides along each axis of the answer.
        nodes: what holds at each level or thickness, in rising order.
        origin: ``"pairs"`` or ``"degraded"``: whether the degraded scans were measured or simulated.
        scans: SHA-256 of each patient's clean scan.
        version: of medidiff.
        format: of this file.
    """

    __pydantic_config__ = ConfigDict(extra="forbid", allow_inf_nan=False)
    share: Annotated[float, Field(gt=0, lt=1)]
    cap: Annotated[float, Field(gt=0, le=1)]
    patients: Annotated[int, Field(ge=2)]
    outside: Annotated[int, Field(ge=0)]
    lawless: Annotated[int, Field(ge=0)]
    contradicted: Annotated[int, Field(ge=0)]
    made: Made
    noise: Range
    thickness: Range
    distance: Range
    overlap: Range
    in_plane: Range
    profiles: Annotated[tuple[str, ...], Field(min_length=1)]
    planes: Annotated[tuple[str, ...], Field(min_length=1)]
    spacing_mm: tuple[Range, Range, Range]
    nodes: Annotated[tuple[Node, ...], Field(min_length=1)]
    origin: Literal["pairs", "degraded"]
    scans: tuple[Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")], ...]
    version: str
    format: Literal[3] = 3

    @classmethod
    def fit(
        cls,
        cases: Sequence[Case],
        made: Made,
        *,
        share: float = 0.9,
        cap: float | None = None,
        origin: Literal["pairs", "degraded"],
        version: str,
    ) -> Calibration:
        """The intervals that patients call for.

        Args:
            cases: of patients, each at every group.
            made: how the answers were made.
            share: that is to be inside.
            cap: B; twice what may be outside when None.
            origin: see the class.
            version: of medidiff.

        Raises:
            SettingsError: ``E-PATIENTS``, too few patients, or one that is not in every group; ``E-CALIBRATION``, no
                interval is wide enough; ``E-SETTING``, a share or a cap that is none.
        """
        _refuse(share, cap)
        cap = cap_of(share) if cap is None else cap
        patients = sorted({case.patient for case in cases})
        if len(patients) < needed(share):
            found, wanted = f"{len(patients)} patients for {100 * share:.4g} % coverage", f"at least {needed(share)}"
            raise SettingsError("E-PATIENTS", found, wanted=wanted, mend="Add patients, or ask for a smaller share.")
        groups = [[case for case in cases if case.group == group] for group in sorted({case.group for case in cases})]
        for group in groups:
            if sorted(case.patient for case in group) != patients:
                mend = "Give one scan of each patient, and the same levels for all."
                raise SettingsError("E-PATIENTS", "a patient who is counted twice, or not at all", mend=mend)
        nodes = [node_of(group, share=share, cap=cap) for group in groups]
        seen = [case.seen for case in cases]
        i, j, k = (_range([each.spacing_mm[axis] for each in seen]) for axis in range(3))
        return cls(
            share=share,
            cap=cap,
            patients=len(patients),
            outside=len({case.patient for case in cases if case.seen.outside}),
            lawless=len({case.patient for case in cases if not follows_law(case.seen.dark)}),
            contradicted=len({case.patient for case in cases if case.seen.places}),
            made=made,
            noise=_range([each.noise for each in seen]),
            thickness=_range([each.thickness for each in seen]),
            distance=_range([each.distance for each in seen]),
            overlap=_range([each.overlap for each in seen]),
            in_plane=_range([each.in_plane for each in seen]),
            profiles=tuple(sorted({each.profile for each in seen})),
            planes=tuple(sorted({each.plane for each in seen})),
            spacing_mm=(i, j, k),
            nodes=tuple(sorted(nodes, key=lambda node: (node.thickness, node.noise))),
            origin=origin,
            scans=tuple(patients),
            version=version,
        )

    # ------------------------------------------------------------------------------------------------------------ use

    def refuse_unlike(self, made: Made) -> None:
        """Refuse answers that were made in another way.

        Raises:
            SettingsError: ``E-CALIBRATION``, the first difference.
        """
        for field in dataclasses.fields(Made):
            wanted, found = getattr(self.made, field.name), getattr(made, field.name)
            if wanted != found:
                shown = [str(value)[:12] for value in (found, wanted)]
                mend = "Restore as the calibration says, or calibrate anew with 'medidiff calibrate'."
                text = f"an answer made with {field.name} {shown[0]}"
                raise SettingsError("E-CALIBRATION", text, wanted=f"{field.name} {shown[1]}", mend=mend)

    def objections(self, seen: Seen) -> tuple[str, ...]:
        """Why the share is not claimed for a scan, as sentences; empty where it is."""
        found = [
            f"{name} {value:.4g}, calibrated for {low:.4g} to {high:.4g}"
            for name, value, (low, high), slack in (
                ("a noise level (share of the tissue maximum) of", seen.noise, self.noise, _SLACK),
                ("a slice thickness (voxels of the answer) of", seen.thickness, self.thickness, _SLACK),
                ("a slice distance (voxels of the answer) of", seen.distance, self.distance, _SLACK),
                ("slices whose thickness over their distance is", seen.overlap, self.overlap, _CLOSE),
                ("voxels along the slices (voxels of the answer) of", seen.in_plane, self.in_plane, _CLOSE),
                *(("voxels (mm) of", *sides, _SAME) for sides in zip(seen.spacing_mm, self.spacing_mm, strict=True)),
            )
            if not low / slack <= value <= high * slack
        ]
        for name, kind, kinds in (("profile", seen.profile, self.profiles), ("plane", seen.plane, self.planes)):
            if kind not in kinds:
                found.append(f"a slice {name} '{kind}', calibrated for {', '.join(map(repr, kinds))}")
        found = [*self._doubts(seen), *found]
        if not seen.signs:
            return (*found, "no tissue is found in the answer")
        node = self.at(seen)
        odd = strange(seen.signs, node.signs, node.signs_std, patients=self.patients)
        found += [f"unlike the calibration's patients in {MEANINGS[name]}" for name in odd[:_TOLD]]
        return tuple(dict.fromkeys(found))

    def _doubts(self, seen: Seen) -> Iterator[str]:
        """What speaks against any claim, unless it was so for at least half of the calibration's patients."""

        def rare(count: int) -> bool:
            return 2 * count < self.patients

        if seen.outside and rare(self.outside):
            yield f"out of the scope of the prior, as {self.outside} of the {self.patients} calibration patients were"
        if not follows_law(seen.dark) and rare(self.lawless):
            like = f"which was so for {self.lawless} of the {self.patients} calibration patients"
            yield (
                f"too little of the scan is dark to tell whether its noise follows the law that was assumed, {like}"
                if seen.dark is None
                else f"noise of another law than was assumed, or of an unknown one, {like}: where the scan is dark its "
                f"variance is {seen.dark[0]:.2f} to {seen.dark[1]:.2f} times what that law says, {LAW[0]:g} to "
                f"{LAW[1]:g} is believed"
            )
        if seen.places and rare(self.contradicted):
            places = "1 place" if seen.places == 1 else f"{seen.places} places"
            yield (
                f"the scan contradicts the answer in {places}, which was so for {self.contradicted} of the "
                f"{self.patients} calibration patients"
            )

    def at(self, seen: Seen) -> Node:
        """What holds for a scan: between the nodes of the nearest thicknesses or noise levels, in their logarithm."""
        name = "thickness" if self.nodes[0].thickness < self.nodes[-1].thickness else "noise"
        places = [math.log(getattr(node, name)) for node in self.nodes]
        place = min(max(math.log(getattr(seen, name)), places[0]), places[-1])
        high = next((n for n, there in enumerate(places) if there >= place), len(places) - 1)
        low = max(high - 1, 0)
        apart = places[high] - places[low]
        return between(self.nodes[low], self.nodes[high], (place - places[low]) / apart if apart > 0 else 1.0)

    def to_json(self) -> str:
        """The file's text; the same calibration always gives the same text."""
        values = dataclasses.asdict(self) | {"sha256": self._digest()}
        return json.dumps(values, indent=1, sort_keys=True, allow_nan=False) + "\n"

    def _digest(self) -> str:
        """SHA-256 of all numbers, by which the file shows that none was changed."""
        return hashlib.sha256(json.dumps(dataclasses.asdict(self), sort_keys=True).encode()).hexdigest()

    @classmethod
    def from_json(cls, text: str, *, file: str = "") -> Calibration:
        """The calibration that `to_json` wrote.

        Raises:
            SettingsError: ``E-CALIBRATION``, it is none, or was changed so that it cannot be.
        """
        mend = "Make it again with 'medidiff calibrate'; it is not meant to be edited."
        try:
            values = TypeAdapter(dict[str, Any]).validate_json(text)
            told = values.pop("sha256", None)
            held = TypeAdapter(cls).validate_json(json.dumps(values))
        except ValidationError as error:
            first = error.errors()[0]
            entry = ".".join(str(part) for part in first["loc"])[:80]
            raise SettingsError("E-CALIBRATION", first["msg"][:200], mend=mend, file=file, attribute=entry) from error
        if told != held._digest():
            raise SettingsError("E-CALIBRATION", "changed after it was written", mend=mend, file=file)
        if wrong := held._wrong():
            raise SettingsError("E-CALIBRATION", wrong, mend=mend, file=file)
        return held

    def _wrong(self) -> str:
        """What a calibration that was fitted cannot have; empty where nothing is."""
        if not 0.5 <= self.share <= 0.99 or self.patients < needed(self.share):
            return f"{self.patients} patients for a share of {self.share:g}"
        if len(set(self.scans)) != self.patients:
            return f"{len(set(self.scans))} scans of {self.patients} patients"
        for node in self.nodes:
            if 0 not in node.reaches or not set(node.signs) == set(node.signs_std) == set(MEANINGS):
                return "a level without voxels or without signs"
            if not all(place > 0 and factor > 0 for place, factor in node.factors):
                return "a factor that is not above 0"
        return ""


def is_calibration(text: bytes) -> bool:
    """Whether some text is a calibration of this version or of another, whole or edited."""
    try:
        values = json.loads(text)
    except ValueError:
        return False
    return isinstance(values, dict) and {"made", "nodes", "scans", "sha256", "format"} <= set(values)


def _refuse(share: float, cap: float | None) -> None:
    if not 0.5 <= share <= 0.99:
        raise SettingsError("E-SETTING", f"{share:g}", wanted="a share from 0.5 to 0.99", attribute="share")
    if cap is not None and not (1 - share) * (1 + 1e-9) < cap <= 1:
        wanted = f"above {1 - share:.4g} and at most 1"
        raise SettingsError("E-SETTING", f"{cap:g}", wanted=wanted, attribute="cap")


def _range(values: Sequence[float]) -> Range:
    return float(min(values)), float(max(values))
