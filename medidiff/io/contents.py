"""What a file or folder holds, as plain values: the answer of `medidiff.io.inspect`."""

from __future__ import annotations

from dataclasses import dataclass, replace

from medidiff.volume import Geometry

__all__ = ["TOLD_APART", "Contents", "SeriesSummary", "Skipped"]

TOLD_APART = "told apart by "  # in a decision, before what tells a volume from the others of its series


@dataclass(frozen=True, slots=True)
class Skipped:
    """A file that was seen and not used.

    Args:
        file: its name, without folders.
        reason: why, as a short sentence.
    """

    file: str
    reason: str


_TELLING = ("series", "TE", "TI")  # of the details, those that tell the scans of a study apart


@dataclass(frozen=True, slots=True)
class SeriesSummary:
    """One scan of a file or folder; nothing in it identifies the patient.

    Args:
        files: number of files that make it up.
        modality: DICOM's word, or ``"OT"``.
        units: unit of the voxel values; empty when arbitrary.
        dtype: type of the voxels in memory after reading, e.g. ``"int16"``; empty when unknown.
        shape: voxels along each axis; empty when the scan is not one regular grid.
        spacing_mm: distance between voxel centres along each axis; empty as `shape`.
        orientation: e.g. ``"LPS"``; empty as `shape`.
        affine: (4, 4) voxel index to RAS+ mm, as nested tuples; empty as `shape`.
        details: technical header values by name, as text.
        decisions: what the reader chose by itself, as sentences.
        problem: the refusal that reading it would meet; empty when it can be read.
    """

    files: int
    modality: str = "OT"
    units: str = ""
    dtype: str = ""
    shape: tuple[int, ...] = ()
    spacing_mm: tuple[float, ...] = ()
    orientation: str = ""
    affine: tuple[tuple[float, ...], ...] = ()
    details: tuple[tuple[str, str], ...] = ()
    decisions: tuple[str, ...] = ()
    problem: str = ""

    def on(self, geometry: Geometry) -> SeriesSummary:
        """The same scan with its grid filled in."""
        return replace(
            self,
            shape=geometry.shape,
            spacing_mm=geometry.spacing_mm,
            orientation=geometry.orientation,
            affine=tuple(tuple(float(v) for v in row) for row in geometry.affine),
        )

    @property
    def label(self) -> str:
        """A few words that tell this scan from the others beside it."""
        size = "x".join(str(n) for n in self.shape) or "not one regular grid"
        told = "".join(f", {text.partition(TOLD_APART)[2]}" for text in self.decisions if TOLD_APART in text)
        details = dict(self.details)
        told += "".join(f", {n} {details[n]}" for n in (_TELLING[:1] if told else _TELLING) if n in details)
        return f"{self.modality} {size}, {self.files} file{'s' if self.files != 1 else ''}{told}"


@dataclass(frozen=True, slots=True)
class Contents:
    """All that a path holds.

    Args:
        format: ``"nifti"``, ``"dicom"``, ``"nrrd"`` or ``"metaimage"``.
        series: the scans, in a stable order.
        skipped: files that are no scan.
    """

    format: str
    series: tuple[SeriesSummary, ...]
    skipped: tuple[Skipped, ...] = ()
