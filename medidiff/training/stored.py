"""Prepared scans that lie on the disk, each in a safetensors file, and are cut where a patch needs them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from medidiff.errors import SettingsError

__all__ = ["BROKEN", "StoredScan", "TissueVoxels"]

BROKEN = (OSError, SafetensorError, ValueError, RuntimeError)
"""What a file that is gone, cut off or no safetensors file raises."""


@dataclass(frozen=True, slots=True)
class TissueVoxels:
    """The voxels that a patch may be centred on, read one by one."""

    path: Path
    count: int

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> Tensor:
        with _open(self.path) as file:
            centre: Tensor = file.get_slice("centres")[number : number + 1][0]
        return centre


@dataclass(frozen=True, slots=True)
class StoredScan:
    """A prepared scan in a file.

    Args:
        path: of the file.
        shape: (I, J, K).
        centres: (N, 3) voxels that a patch may be centred on.
        sha256: as of `medidiff.training.patches.Scan`.
        levels: as there, one for each dose.
    """

    path: Path
    shape: tuple[int, int, int]
    centres: TissueVoxels
    sha256: str
    levels: tuple[float, ...]

    def cut(self, corner: Tensor, order: Tensor, side: int, *, dose: int | None = None) -> Tensor:
        """(C, C, C) half-precision cube of the scan, or of its noise at a dose; outside of it lies air, 0.

        Args:
            corner: (3,) first voxel, along the axes of the cube.
            order: (3,) which axes of the scan those are.
            side: C.
            dose: number of the dose.

        Raises:
            SettingsError: ``E-CACHE``, the file is gone or was altered during the run.
        """
        axes = order.tolist()
        first = [int(corner[axes.index(axis)]) for axis in range(3)]
        seen = [slice(max(a, 0), min(a + side, n)) for a, n in zip(first, self.shape, strict=True)]
        cube = torch.zeros((side, side, side), dtype=torch.half)
        if all(each.start < each.stop for each in seen):
            place = tuple(slice(s.start - a, s.stop - a) for s, a in zip(seen, first, strict=True))
            with _open(self.path) as file:
                if dose is None:
                    cube[place] = file.get_slice("image")[tuple(seen)]
                else:
                    cube[place] = file.get_slice("noise")[(slice(dose, dose + 1), *seen)][0]
        return cube.permute(axes).contiguous()


def _open(path: Path) -> safe_open:
    try:
        return safe_open(path, framework="pt")
    except BROKEN as error:
        mend = "Run the same command again: it is made anew."
        raise SettingsError("E-CACHE", "a prepared scan is gone or broken", attribute="--cache", mend=mend) from error
