"""The values everything else passes around: `Geometry`, `Volume` and `Provenance`.

They are frozen, know nothing of files or networks, and cannot be built in an invalid state. World coordinates are
RAS+ in millimetres (x to the patient's right, y to the front, z to the head), as in NIfTI; DICOM's LPS exists only
inside `io`.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medidiff.errors import InputError
from medidiff.geometry import Geometry
from medidiff.showing.rich import Exhibit, Panel, Rich, share

__all__ = ["Geometry", "Provenance", "Volume"]


@dataclass(frozen=True, slots=True, eq=False)
class Volume(Rich):
    """A scan: numbers on a grid. A notebook shows its middle slices; `plot` and `view` show more.

    Args:
        data: (C, I, J, K) or (I, J, K), real numbers in the scan's own units; kept read-only, in the type given.
        geometry: where voxel (i, j, k) lies in the patient.
        modality: DICOM's word, ``"MR"``, ``"CT"``, ``"PT"``; ``"OT"`` when unknown.
        units: unit of the numbers, e.g. ``"HU"``; empty for arbitrary units, as in most MR.
        padding: (I, J, K), true where the scanner measured nothing and stored a padding value; None when nowhere. Such
            voxels stay out of every statistic, and a result holds the same values there as the scan.
        filled: (I, J, K), true where a repair made the value up (a missing slice, NaN); None when nowhere.
        thickness_mm: what each slice across K averages over, as the scan's header says, right or wrong; None when it
            says nothing. The distance between slices is the grid's.

    Raises:
        InputError: the data or a mask do not fit the grid, or the data are not real numbers.
    """

    data: NDArray[Any]
    geometry: Geometry
    modality: str = "OT"
    units: str = ""
    padding: NDArray[np.bool_] | None = None
    filled: NDArray[np.bool_] | None = None
    thickness_mm: float | None = None

    def __post_init__(self) -> None:
        data = np.asarray(self.data)
        data = data[None] if data.ndim == 3 else data
        if data.ndim != 4 or data.shape[1:] != self.geometry.shape:
            raise InputError("E-SHAPE", f"data of shape {data.shape}", wanted=f"(C, I, J, K) on {self.geometry!r}")
        if data.dtype.kind not in "biuf":
            raise InputError("E-DTYPE", f"voxels of type {data.dtype}", wanted="real numbers")
        object.__setattr__(self, "data", _frozen(data))
        for name in ("padding", "filled"):
            object.__setattr__(self, name, self._checked_mask(getattr(self, name)))

    def _checked_mask(self, mask: NDArray[np.bool_] | None) -> NDArray[np.bool_] | None:
        """A mask that marks nothing is None, so that equal scans are equal values."""
        if mask is None:
            return None
        mask = np.asarray(mask)
        if mask.dtype != np.bool_ or mask.shape != self.geometry.shape:
            raise InputError("E-SHAPE", f"a {mask.dtype} mask of shape {mask.shape}", wanted="booleans on the grid")
        return _frozen(mask) if mask.any() else None

    def __repr__(self) -> str:
        units = f" {self.units}" if self.units else ""
        return f"Volume({self.modality}{units}, {self.data.shape[0]} channel, {self.data.dtype}, {self.geometry!r})"

    def _exhibit(self) -> Exhibit:
        channels = len(self.data)
        title = "Volume of unknown modality" if self.modality == "OT" else f"{self.modality} volume"
        notes = [f"Channel 1 of {channels} is shown."] if channels > 1 else []
        masks = (("padding, where nothing was measured", self.padding), ("made up by a repair", self.filled))
        notes += [f"{share(mask)} is {what}." for what, mask in masks if mask is not None]
        panels = (Panel("", self.data[0]),)
        return Exhibit(f"{title}, {self.data.dtype}", panels, self.geometry, self.modality, self.units, tuple(notes))

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along each axis of the grid, without the channel."""
        return self.geometry.shape

    @property
    def measured(self) -> NDArray[np.bool_]:
        """(I, J, K), true where the value was measured: neither padding nor filled."""
        made = [mask for mask in (self.padding, self.filled) if mask is not None]
        return ~np.logical_or.reduce(made) if made else np.ones(self.shape, dtype=np.bool_)

    def with_data(self, data: ArrayLike) -> Volume:
        """The same scan with other numbers on the same grid."""
        return dataclasses.replace(self, data=np.asarray(data))


def _frozen(array: NDArray[Any]) -> NDArray[Any]:
    view = array.view()
    view.setflags(write=False)
    return view


@dataclass(frozen=True, slots=True)
class Provenance:
    """All that is needed to make a result again, and nothing about the patient.

    Args:
        task: what was done, e.g. ``"denoise"``.
        version: version of medidiff.
        inputs: SHA-256 of each input, in reading order; of bytes for files, of the voxels for arrays.
        settings: every setting that has an effect, JSON values only.
        prior: name and SHA-256 of the weights, or empty.
        seed: the number all randomness was drawn from.
        environment: versions and device, e.g. ``{"torch": "2.13.0", "device": "cpu"}``.
        decisions: what the software chose by itself, as sentences.
        scope: whether the scan was of the kind that the prior is for, as `medidiff.trust.Scope.record` has it; empty
            where that was not asked.
        support: what the scan says of the result, as `medidiff.trust.Examined.record` has it; empty where it was not
            asked.
        synthetic: whether the result is an invented scan.
        research_use_only: always true; written out so that every reader meets it.
    """

    task: str
    version: str
    inputs: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    prior: Mapping[str, str] = field(default_factory=dict)
    seed: int = 0
    environment: Mapping[str, str] = field(default_factory=dict)
    decisions: tuple[str, ...] = ()
    scope: Mapping[str, Any] = field(default_factory=dict)
    support: Mapping[str, Any] = field(default_factory=dict)
    synthetic: bool = False
    research_use_only: bool = True

    @property
    def contradicted(self) -> int:
        """In how many places its scan contradicts the result, as far as was asked; the tissue as a whole is one."""
        told = self.support
        return len(told.get("flags", ())) + int(told.get("more", 0)) + bool(told.get("everywhere", False))

    def to_json(self) -> str:
        """The record as JSON text, keys sorted; the same record always gives the same text."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True, indent=2, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Provenance:
        """The record that `to_json` wrote; older ones say nothing of scope and support."""
        fields = json.loads(text)
        if isinstance(fields, dict):
            fields.setdefault("scope", {})
            fields.setdefault("support", {})
        known = {f.name for f in dataclasses.fields(cls)}
        if not isinstance(fields, dict) or set(fields) != known:
            raise InputError("E-PROVENANCE", "a record with other fields", wanted=", ".join(sorted(known)))
        fields["inputs"], fields["decisions"] = tuple(fields["inputs"]), tuple(fields["decisions"])
        return cls(**fields)
