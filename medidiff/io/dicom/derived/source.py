"""The images that a scan was read from, as a writer needs them: where each lies, its header, and how to name it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from medidiff.io.dicom.derived.flatten import classic_view
from medidiff.io.dicom.derived.modules import CLASSIC
from medidiff.io.dicom.headers.header import Header, read_dataset
from medidiff.io.dicom.series.split import find_stack
from medidiff.io.dicom.series.stack import LPS_TO_RAS
from medidiff.io.files.walk import Gathered
from medidiff.io.options import ReadOptions
from medidiff.volume import Geometry

__all__ = ["SAME_GRID_MM", "Source", "find_source"]

SAME_GRID_MM = 1e-3
_NEAR = 1e-3  # of the slice distance: a slab that begins so near to an image needs none beyond it


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """One scan in DICOM: images in spatial order.

    Args:
        images: headers of classic images or frames, ascending along the slice normal.
        geometry: the grid that the scan is read on.
        plain: whether each image lies on it as it is, so that nothing was interpolated.
        gathered: holds the members of an archive, which live as long as this does.
        cached: reads the header of a file, the last one from memory.
    """

    images: tuple[Header, ...]
    geometry: Geometry
    plain: bool = True
    gathered: Gathered | None = None
    cached: Any = field(default_factory=lambda: lru_cache(maxsize=2)(partial(read_dataset, pixels=False)))

    @property
    def modality(self) -> str:
        """``"CT"``, ``"MR"`` or ``"PT"``."""
        return self.images[0].modality

    @property
    def sop_class(self) -> str:
        """The single-frame SOP class of its kind; empty when there is none."""
        return CLASSIC.get(self.modality, "")

    @property
    def files(self) -> tuple[Path, ...]:
        """The files, each once."""
        return tuple(dict.fromkeys(header.file for header in self.images))

    def header(self, image: Header) -> Dataset:
        """All attributes of an image but its pixels, under the names of a classic image."""
        return classic_view(self.cached(image.file), image.frame if image.enhanced else None)

    def heights(self) -> NDArray[np.float64]:
        """(N,) mm of each image along the slice normal."""
        return np.array([np.dot(self.normal, np.asarray(image.position_mm)) for image in self.images])

    @property
    def normal(self) -> NDArray[np.float64]:
        """(3,) unit vector in LPS, across the slices."""
        row, column = np.reshape(np.asarray(self.images[0].orientation, dtype=np.float64), (2, 3))
        return np.asarray(np.cross(row, column))

    def is_grid(self, geometry: Geometry) -> bool:
        """Whether a grid is the scan's own, image for image."""
        if not self.plain or geometry.shape[2] != len(self.images):
            return False
        return geometry.distance_mm(self.geometry) <= SAME_GRID_MM

    def nearest(self, geometry: Geometry, k: int) -> Header:
        """The image nearest to the middle of slice k of a grid."""
        if self.is_grid(geometry):
            return self.images[k]
        middle = (np.array(geometry.shape) - 1) / 2
        height = float(self.normal @ _lps(geometry.world((middle[0], middle[1], k))))
        return self.images[int(np.argmin(np.abs(self.heights() - height)))]

    def contributing(self, geometry: Geometry, k: int) -> Sequence[Header]:
        """The images that slice k of a grid is made from.

        On the scan's own grid the one in its place, on another all that lie in the slab of the slice, and the next one
        on either side of it, as every interpolation between neighbours uses them.
        """
        if self.is_grid(geometry):
            return (self.images[k],)
        ends = np.array(geometry.shape[:2]) - 1
        slab = [(i, j, k + half) for i in (0, ends[0]) for j in (0, ends[1]) for half in (-0.5, 0.5)]
        over = _lps(geometry.world(np.array(slab))) @ self.normal
        heights, near = self.heights(), _NEAR * self.geometry.spacing_mm[2]
        below = np.flatnonzero(heights <= over.min() + near)
        above = np.flatnonzero(heights >= over.max() - near)
        first = int(below[-1]) if len(below) else 0
        last = int(above[0]) if len(above) else len(heights) - 1
        return self.images[first : last + 1]


def _lps(ras: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(ras @ LPS_TO_RAS[:3, :3])


def find_source(path: Path, options: ReadOptions | None = None) -> Source:
    """The images of the one scan that a path holds, or of the one that the options name.

    Raises:
        InputError: as reading it.
    """
    stack, gathered = find_stack(path, options)
    return Source(tuple(stack.slices), stack.geometry, stack.course.is_plain, gathered)
