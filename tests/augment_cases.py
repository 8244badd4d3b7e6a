"""A round scan with its tissue, for the tests of augmentation; no prior is needed to make it worse."""

from __future__ import annotations

import numpy as np

from medidiff.case import Case
from medidiff.training.recipe import DegradationRanges
from medidiff.volume import Geometry, Provenance, Volume

QUIET = DegradationRanges(nothing=0.0, noise=(1e-3, 2e-3), thick_noise=(1e-3, 2e-3), factor=(2.0, 4.0), varying=0.0)
LOUD = DegradationRanges(denoise=1.0, thick=0.0, coarse=0.0, nothing=0.0, noise=(0.1, 0.1), rician=1.0, varying=0.0)


def scan_and_tissue(side: int = 32, *, dtype: type = np.float32) -> tuple[Volume, Volume]:
    """A ball of two tissues off the middle of a grid that lies askew, 0 in air, 800 at its brightest."""
    where = np.stack(np.meshgrid(*[np.arange(side) - 0.45 * side] * 3, indexing="ij"))
    radius = np.sqrt((where**2).sum(axis=0)) / side
    tissue = (radius < 0.33).astype(np.uint8) + (radius < 0.2)
    affine = np.array([[-0.9, 0.1, 0.0, 12.0], [0.1, 0.9, 0.0, -7.0], [0.0, 0.0, 1.2, 30.0], [0.0, 0.0, 0.0, 1.0]])
    grid = Geometry((side, side, side), affine)
    return Volume((400.0 * tissue).astype(dtype), grid, "MR"), Volume(tissue, grid)


def corner_case(side: int = 16, *, spacing: float = 1.0) -> Case:
    """An invented scan that is bright at its right, front and upper corner, and has one label there."""
    data = np.zeros((side, side, side), np.float32)
    data[side // 2 :, side // 2 :, side // 2 :] = 1.0
    grid = Geometry.regular((side,) * 3, spacing_mm=(spacing,) * 3)
    record = Provenance(task="synthesize", version="0", synthetic=True)
    labels = Volume(data.astype(np.uint8), grid)
    return Case(0, Volume(data, grid, "MR"), record, labels, ("background", "corner"))
