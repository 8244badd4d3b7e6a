"""How to read a scan that is not plainly right: each repair has a name, is off by default, and recorded when used."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from medidiff.errors import SettingsError

__all__ = ["ReadOptions"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadOptions:
    """What a reader may do beyond reading; the default is to refuse whatever would mean guessing.

    The same fields are the options of the command line, ``on_gap`` as ``--on-gap``.

    Args:
        scan: which scan of a folder to read, as numbered from 1 by `medidiff.io.inspect`; 0 for the only one.
        on_gap: missing slices: ``"resample"`` interpolates them and marks them as filled.
        on_spacing: uneven slice spacing: ``"resample"`` interpolates to the most common one, and marks what it made.
        on_tilt: gantry tilt or shear: ``"shear"`` keeps the voxels on a sheared grid, ``"resample"`` interpolates to an
            orthogonal one.
        on_nan: NaN and infinite voxels: ``"fill"`` puts 0 and marks them as filled.
        on_xform: NIfTI whose sform and qform disagree: which of them to believe.
        assume_affine: NIfTI, NRRD or MetaImage without a transform: take the voxel sizes as they stand, the axes as
            RAS+, and the centre of the grid as origin.
        assume_spacing_mm: DICOM without positions on all slices: distance of slices, which are taken in the order of
            their InstanceNumber.
        assume_rescale: CT or PET without RescaleSlope: keep stored values, without a unit.
        imager_spacing: without PixelSpacing, take ImagerPixelSpacing, which is true at the detector only.

    Raises:
        SettingsError: a value out of range.
    """

    scan: int = 0
    on_gap: Literal["error", "resample"] = "error"
    on_spacing: Literal["error", "resample"] = "error"
    on_tilt: Literal["error", "shear", "resample"] = "error"
    on_nan: Literal["error", "fill"] = "error"
    on_xform: Literal["error", "sform", "qform"] = "error"
    assume_affine: bool = False
    assume_spacing_mm: float | None = None
    assume_rescale: bool = False
    imager_spacing: bool = False

    def __post_init__(self) -> None:
        rules = (
            ("--scan", self.scan, self.scan >= 0, "a number from 1"),
            ("--on-gap", self.on_gap, self.on_gap in ("error", "resample"), "error or resample"),
            ("--on-spacing", self.on_spacing, self.on_spacing in ("error", "resample"), "error or resample"),
            ("--on-tilt", self.on_tilt, self.on_tilt in ("error", "shear", "resample"), "error, shear or resample"),
            ("--on-nan", self.on_nan, self.on_nan in ("error", "fill"), "error or fill"),
            ("--on-xform", self.on_xform, self.on_xform in ("error", "sform", "qform"), "error, sform or qform"),
        )
        for name, value, good, wanted in rules:
            if not good:
                raise SettingsError("E-SETTING", f"{value}", wanted=wanted, attribute=name)
        spacing = self.assume_spacing_mm
        if spacing is not None and not (math.isfinite(spacing) and spacing > 0):
            raise SettingsError("E-SETTING", f"{spacing}", wanted="mm above 0", attribute="--assume-spacing-mm")
