"""Parts of one scan that serve different ends: ``patient[16:48]`` in the file of subjects is slices 16 to 47 of a scan.

Where only one patient is at hand, slabs with slices between them that nobody uses stand in for different subjects. They
share the patient and the scanner, so what they show is that something works, and never how well it works on others.
"""

from __future__ import annotations

import dataclasses
import re

import numpy as np

from medidiff.errors import SettingsError
from medidiff.volume import Geometry, Volume

__all__ = ["Slab", "cut_slab", "read_slab"]

_WRITTEN = re.compile(r"(?P<subject>[^\[\]]+)(\[(?P<first>\d{1,6}):(?P<end>\d{1,6})\])?")


@dataclasses.dataclass(frozen=True, slots=True)
class Slab:
    """A subject, and which slices of its scan are meant.

    Args:
        subject: name of the subject.
        first: first slice along the last voxel axis.
        end: the slice after the last one; None for all slices.
    """

    subject: str
    first: int = 0
    end: int | None = None


def read_slab(text: str) -> Slab:
    """The subject and the slices of an entry such as ``patient[16:48]``, or ``patient`` for all of them.

    Raises:
        SettingsError: ``E-SPLIT``, it is written in another way, or has no slice.
    """
    found = _WRITTEN.fullmatch(text)
    slab = found and Slab(found["subject"], int(found["first"] or 0), int(found["end"]) if found["end"] else None)
    if not slab or (slab.end is not None and slab.end <= slab.first):
        raise SettingsError("E-SPLIT", "an entry that names no slices", wanted="'subject' or 'subject[first:end]'")
    return slab


def cut_slab(volume: Volume, slab: Slab) -> Volume:
    """The slices of a scan, where they lie in the patient; the scan itself when the slab has no end.

    Raises:
        SettingsError: ``E-SPLIT``, the scan has fewer slices.
    """
    if slab.end is None:
        return volume
    i, j, slices = volume.shape
    if slab.end > slices:
        found = f"slices {slab.first} to {slab.end - 1} of a scan of {slices}"
        raise SettingsError("E-SPLIT", found, mend="Correct the file of subjects.")
    affine = volume.geometry.affine.copy()
    affine[:3, 3] = volume.geometry.world(np.array([0, 0, slab.first]))
    kept = slice(slab.first, slab.end)
    return dataclasses.replace(
        volume,
        data=volume.data[..., kept],
        geometry=Geometry((i, j, slab.end - slab.first), affine),
        padding=None if volume.padding is None else volume.padding[..., kept],
        filled=None if volume.filled is None else volume.filled[..., kept],
    )
