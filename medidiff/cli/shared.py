"""Options that several verbs share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from medidiff.cli.options import Option

__all__ = ["BUNDLED", "Device", "DryRun", "Json", "Record", "Repairs", "Seed"]

BUNDLED = "bundled"  # what --intervals calls medidiff's own calibration
DryRun = Annotated[bool, Option("print the whole plan and write nothing")]
Json = Annotated[bool, Option("print one JSON document on stdout")]
Device = Annotated[Literal["auto", "cpu", "cuda"], Option("where to compute")]
Seed = Annotated[int, Option("what all randomness is drawn from")]
Record = Annotated[
    Path | None, Option("where the record of the run goes, JSON lines; beside the output when left out", ("PATH",))
]

_REPAIRS = "repairs (each is off, and a scan that needs one is refused; what was done is recorded)"


def _repair(help: str, *metavar: str) -> Option:
    return Option(help, metavar, group=_REPAIRS)


@dataclass(frozen=True, kw_only=True)
class Repairs:
    """How a scan is read that is not plainly right: the fields of `medidiff.io.ReadOptions`."""

    scan: Annotated[
        int, Option("which scan of the path, as 'medidiff info' numbers them; 0 for the only one", ("N",))
    ] = 0
    on_gap: Annotated[Literal["error", "resample"], _repair("missing slices: interpolate them and mark them")] = "error"
    on_spacing: Annotated[
        Literal["error", "resample"], _repair("uneven slice spacing: interpolate to the most common one")
    ] = "error"
    on_tilt: Annotated[
        Literal["error", "shear", "resample"],
        _repair("gantry tilt: keep the voxels on a sheared grid, or interpolate to a right-angled one"),
    ] = "error"
    on_nan: Annotated[Literal["error", "fill"], _repair("NaN and infinite voxels: put 0 and mark them")] = "error"
    on_xform: Annotated[
        Literal["error", "sform", "qform"], _repair("NIfTI whose two transforms disagree: which to believe")
    ] = "error"
    assume_affine: Annotated[
        bool, _repair("no transform in the file: take the voxel sizes as they stand, RAS axes, the centre as origin")
    ] = False
    assume_spacing_mm: Annotated[
        float | None, _repair("DICOM without positions: slices this far apart, by InstanceNumber", "MM")
    ] = None
    assume_rescale: Annotated[bool, _repair("CT or PET without RescaleSlope: keep stored values, without a unit")] = (
        False
    )
    imager_spacing: Annotated[
        bool, _repair("no PixelSpacing: take ImagerPixelSpacing, which is true at the detector")
    ] = False
