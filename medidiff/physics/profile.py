"""How thick the slices of a scan are, where that is known from, and how they see what lies across them.

The distance between slices follows from their positions; their thickness does not. Thinner than the distance leaves
gaps that no slice saw, thicker makes neighbours overlap. A scan says it in its header or not at all.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from medidiff.errors import InputError, SettingsError
from medidiff.physics.separable import Profile, box_profile, gaussian_profile
from medidiff.volume import Volume

__all__ = ["PROFILES", "ProfileName", "Slices", "slice_axis"]

ProfileName = Literal["box", "gaussian"]
PROFILES: Mapping[ProfileName, Profile] = {"box": box_profile, "gaussian": gaussian_profile}

_THICKEST = 3.0  # slice distances; no scanner makes slices that overlap further
_MOST_TOLD: Mapping[ProfileName, float] = {"box": 1.5, "gaussian": 1.15}  # slice distances, see `Slices.tellable`
_SAME = 0.01  # relative; headers round
_TELL = "--thickness MM, in Python thickness_mm=MM"


def slice_axis(volume: Volume) -> int:
    """The voxel axis across the slices of a scan.

    The last one, where the header knows of slices; otherwise the one of the largest spacing, the last of those alike.
    """
    spacing = np.asarray(volume.geometry.spacing_mm)
    coarsest = 2 - int(np.argmax(spacing[::-1] >= (1 - _SAME) * spacing.max()))
    return coarsest if volume.thickness_mm is None else 2


@dataclass(frozen=True, slots=True)
class Slices:
    """The slices of a scan.

    Args:
        axis: the voxel axis across them.
        distance_mm: between the centres of neighbours.
        thickness_mm: what one slice averages over; a Gaussian's full width at half maximum.
        profile: sensitivity across a slice.
        origin: where the thickness is known from; empty when it is assumed.
    """

    axis: int
    distance_mm: float
    thickness_mm: float
    profile: ProfileName = "box"
    origin: str = ""

    @classmethod
    def of(cls, volume: Volume, *, thickness_mm: float | None = None, profile: ProfileName = "box") -> Slices:
        """What is known of the slices of a scan.

        Args:
            volume: the scan. Where its header gives no thickness, its slices touch each other.
            thickness_mm: instead of the header's.
            profile: sensitivity across a slice; no header tells it.

        Raises:
            SettingsError: ``E-SETTING``, the thickness given is not above 0, or over three slice distances; or no such
                profile.
            InputError: ``E-THICKNESS``, the header's is not.
        """
        if profile not in PROFILES:
            raise SettingsError("E-SETTING", f"{profile!r}", wanted="box or gaussian", attribute="--profile")
        axis = slice_axis(volume)
        distance = volume.geometry.spacing_mm[axis]
        known = volume.thickness_mm if thickness_mm is None else thickness_mm
        if known is None:
            return cls(axis, distance, distance, profile)
        if not 0 < known <= _THICKEST * distance:
            found = f"slices {known:g} mm thick"
            wanted = f"above 0 and at most {_THICKEST * distance:.4g} mm, {_THICKEST:g} times their distance"
            if thickness_mm is not None:
                raise SettingsError("E-SETTING", found, wanted=wanted, attribute="--thickness")
            mend = f"Pass the thickness that the protocol says ({_TELL})."
            raise InputError("E-THICKNESS", found, wanted=wanted, mend=mend, attribute="SliceThickness")
        origin = "SliceThickness of the header" if thickness_mm is None else "--thickness"
        same = abs(known / distance - 1) <= _SAME
        return cls(axis, distance, distance if same else float(known), profile, origin)

    @property
    def overlap(self) -> float:
        """Thickness in slice distances: below 1 there are gaps, above 1 neighbours overlap."""
        return self.thickness_mm / self.distance_mm

    @property
    def sentence(self) -> str:
        """For the record and the reader."""
        apart = self.thickness_mm - self.distance_mm
        touch = f"a gap of {-apart:.3g} mm" if apart < 0 else f"an overlap of {apart:.3g} mm" if apart else "no gap"
        shape = "box profile" if self.profile == "box" else "Gaussian profile, full width at half maximum"
        sizes = f"{self.thickness_mm:.4g} mm thick every {self.distance_mm:.4g} mm along axis {'IJK'[self.axis]}"
        known = f"by {self.origin}" if self.origin else f"assumed, for nothing says how thick they are ({_TELL})"
        return f"slices {sizes}, {touch}: {known}; {shape}"

    def tellable(self, thinnest: float) -> Slices:
        """The nearest slices that a prior can make use of.

        Wide gaps it has not practised. Of slices that overlap far, the smoothest answer is noise blown up: the limits
        are where it grows threefold in the finest pattern that slices can show.

        Args:
            thinnest: that the prior has practised, in slice distances.
        """
        near = min(max(self.overlap, thinnest), _MOST_TOLD[self.profile])
        return self if near == self.overlap else dataclasses.replace(self, thickness_mm=self.distance_mm * near)

    def record(self) -> dict[str, str | float]:
        """As JSON values, for the provenance."""
        return {
            "axis": "IJK"[self.axis],
            "distance_mm": self.distance_mm,
            "thickness_mm": self.thickness_mm,
            "profile": self.profile,
            "thickness_from": self.origin or "assumed",
        }
