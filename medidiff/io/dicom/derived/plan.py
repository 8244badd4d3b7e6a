"""What is decided for a whole derived series before its first image is written."""

from __future__ import annotations

import datetime
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from medidiff.io.dicom.derived.display import window_of
from medidiff.io.dicom.derived.layout import Layout, laid_like
from medidiff.io.dicom.derived.modules import kept_of
from medidiff.io.dicom.derived.padding import Padding, padding_of
from medidiff.io.dicom.derived.references import add_derivation, add_equipment
from medidiff.io.dicom.derived.source import Source
from medidiff.io.dicom.derived.stored import Scale, Storage, Towards, plan_storage
from medidiff.io.dicom.headers.header import Header, quietly
from medidiff.volume import Geometry, Provenance, Volume

__all__ = ["Plan", "Stored", "plan_series", "series_wide"]

_UNDECIDED = Storage(())
_ROUNDED_MM = 1e-4  # what a NIfTI header in float32 leaves of a position; nearer, the source's own is meant


@dataclass(frozen=True, slots=True, eq=False)
class Stored:
    """One slice as integers.

    Args:
        values: (I, J), int16 or uint16.
        scale: how they are to be read.
        padding: PixelPaddingValue and PixelPaddingRangeLimit, the second only when it differs.
        moved: (I, J), measured voxels that would have read as padding and were moved by a step.
    """

    values: NDArray[Any]
    scale: Scale
    padding: tuple[int, ...] = ()
    moved: NDArray[np.bool_] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """A derived series.

    Args:
        source: what it is derived from.
        layout: its voxels, turned as the source lies.
        paddings: the padding of each slice, where there is any.
        common: the attributes that all its images share.
        storage: how its values are stored.
        window: centre and width for the first look.
    """

    source: Source
    layout: Layout
    paddings: tuple[Padding | None, ...]
    common: Dataset
    storage: Storage = _UNDECIDED
    window: tuple[float, float] | None = None

    @property
    def geometry(self) -> Geometry:
        """The grid of the series, axes (column index, row index, slice)."""
        return self.layout.geometry

    @property
    def preserved(self) -> bool:
        """Whether every voxel lies where it lay in the source."""
        return self.source.is_grid(self.geometry)

    def nearest(self, k: int) -> Header:
        """The source image that slice k takes its acquisition from."""
        return self.source.nearest(self.geometry, k)

    def values(self, k: int) -> NDArray[Any]:
        """(I, J) real values of slice k, padding put back."""
        values, padding, mask = self.layout.data[:, :, k], self.paddings[k], self.mask(k)
        return values if padding is None or mask is None else padding.put(values, mask)

    def mask(self, k: int) -> NDArray[np.bool_] | None:
        """(I, J) where slice k holds padding; None where there can be none.

        A volume that has lost its mask on the way, through NIfTI for one, has it again where it holds the source's
        padding value on the source's grid.
        """
        padding = self.paddings[k]
        if padding is None:
            return None
        if self.layout.padding is not None:
            return self.layout.padding[:, :, k]
        return padding.covers(self.layout.data[:, :, k]) if self.preserved else None

    def stored(self, k: int) -> Stored:
        """Slice k as integers, padding and measured values kept apart."""
        scale, padding, mask = self.storage.scales[k], self.paddings[k], self.mask(k)
        stored = scale.store(self.values(k))
        if padding is None or mask is None:
            return Stored(stored, scale)
        ends = np.array([padding.value, padding.high if padding.value == padding.low else padding.low])
        if not scale.reaches(ends):
            return Stored(stored, scale)
        marks = tuple(dict.fromkeys(int(v) for v in scale.store(ends)))
        low, high = min(marks), max(marks)
        moved = ~mask & (stored >= low) & (stored <= high)
        if not moved.any():
            return Stored(stored, scale, marks)
        down = low > scale.limits[0] if scale.towards == "down" else high == scale.limits[1]
        stored = np.where(moved, low - 1 if down else high + 1, stored).astype(stored.dtype)
        return Stored(stored, scale, marks, moved)


def plan_series(
    volume: Volume, source: Source, *, provenance: Provenance, description: str, towards: Towards = "nearest"
) -> Plan:
    """Decide how a scan becomes a series of its source's study.

    Args:
        volume: one channel.
        source: the scan that it is derived from.
        provenance: how it was made.
        description: of the series; the source's own and the task when empty.
        towards: where values go that lie between two that can be stored.
    """
    layout = laid_like(volume, source.geometry)
    if source.is_grid(layout.geometry) and layout.geometry.distance_mm(source.geometry) <= _ROUNDED_MM:
        layout = replace(layout, geometry=source.geometry)
    count = layout.geometry.shape[2]
    likely, paddings = [], []
    for k in range(count):
        image = source.nearest(layout.geometry, k)
        slope, intercept = image.rescale or (1.0, 0.0)
        likely.append(Scale(slope, intercept, bool(image.bits[3])))
        paddings.append(padding_of(image, likely[-1]))
    if layout.padding is not None and None in paddings:
        lowest = float(layout.data[layout.padding].min())
        paddings = [Padding(lowest, lowest, lowest)] * count
    common = series_wide(source, provenance=provenance, description=description)
    add_derivation(common, provenance, regridded=not source.is_grid(layout.geometry))
    plan = Plan(source, layout, tuple(paddings), common)
    storage = plan_storage(plan.values, likely, modality=source.modality, towards=towards)
    first = source.header(source.images[0])
    return replace(plan, storage=storage, window=window_of(first, plan.values, storage, modality=source.modality))


def series_wide(source: Source, *, provenance: Provenance, description: str) -> Dataset:
    """The attributes that every object of a new series has alike, whatever its kind."""
    first = source.header(source.images[0])
    kept = kept_of(first, sop_class=source.sop_class)
    common = Dataset()
    common.FrameOfReferenceUID, common.StudyInstanceUID = kept.FrameOfReferenceUID, kept.StudyInstanceUID
    common.SeriesInstanceUID = generate_uid()
    common.SeriesNumber = _series_number(first)
    common.SeriesDescription = _series_description(first, description or f"medidiff {provenance.task} RESEARCH")
    common.ContentQualification = "RESEARCH"
    common.SyntheticData = "NO"
    add_equipment(common, provenance)
    now = datetime.datetime.now()
    for name in ("Series", "Content", "InstanceCreation"):
        setattr(common, f"{name}Date", now.strftime("%Y%m%d"))
        setattr(common, f"{name}Time", now.strftime("%H%M%S"))
    if source.modality == "PT" and kept.get("SeriesDate") and kept.get("SeriesTime"):
        del common.SeriesDate, common.SeriesTime  # uptake is computed from the source's
    return common


def _series_number(first: Dataset) -> int:
    """1000 above the source's, so that results stand behind the scans in every list."""
    try:
        return int(first.SeriesNumber) % 1_000_000 + 1000
    except (AttributeError, TypeError, ValueError):
        return 1000


def _series_description(first: Dataset, ending: str) -> str:
    """At most 64 characters: as much of the source's as fits before what was done."""
    with quietly():
        start = str(first.get("SeriesDescription") or "")
    ending = ending.replace("\\", " ")[:64]
    return f"{start[: max(0, 63 - len(ending))].strip()} {ending}".strip()
