"""Slices as people look at them: axial, coronal and sagittal, turned and named from the geometry.

Voxel axes are matched to the nearest world axes and never resampled, so an oblique scan is shown along its own slices.
Two conventions exist. Radiological: the patient's right is on the left of the picture, as if seen from the feet or face
to face, and a sagittal slice faces left. Neurological is its mirror image.

`Field` says which part of a scan is worth showing and where to cut it; `grey_window` and `symmetric_reach` how bright.
Every picture of the package is cut and scaled by these.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medidiff.anatomy import foreground
from medidiff.errors import InputError
from medidiff.geometry import Geometry

__all__ = [
    "DIVERGING",
    "PLANES",
    "SEQUENTIAL",
    "SOFT_TISSUE_HU",
    "Colours",
    "Field",
    "Plane",
    "Upright",
    "View",
    "grey_window",
    "side",
    "symmetric_reach",
    "view",
]

SOFT_TISSUE_HU = (-160.0, 240.0)  # black and white of a CT

Colours = tuple[tuple[int, int, int], ...]

# Purple to orange by way of white (PuOr of ColorBrewer 2.0, Apache-2.0): safe for all kinds of colour blindness.
DIVERGING: Colours = (
    (0x54, 0x27, 0x88),
    (0x99, 0x8E, 0xC3),
    (0xD8, 0xDA, 0xEB),
    (0xF7, 0xF7, 0xF7),
    (0xFE, 0xE0, 0xB6),
    (0xF1, 0xA3, 0x40),
    (0xB3, 0x58, 0x06),
)
# Dark blue to yellow, brighter with the value for every eye (cividis; Nuñez et al., doi 10.1371/journal.pone.0199239).
SEQUENTIAL: Colours = (
    (0x00, 0x22, 0x4E),
    (0x2A, 0x40, 0x6C),
    (0x57, 0x5D, 0x6D),
    (0x7D, 0x7C, 0x78),
    (0xA5, 0x9C, 0x74),
    (0xD2, 0xC0, 0x60),
    (0xFE, 0xE8, 0x38),
)

_MARGIN_MM = 6.0  # kept around the tissue
_BRIGHTEST = 99.5  # percentile that is shown white, or in the full colour
_ROOM = 1.2  # white over that percentile in the middle of the head: for what is brighter elsewhere, as a lesion
_BELOW = 0.1  # of white: black may lie this far below 0 by noise or resampling
_AROUND = 0.3  # of the head, on each side of its middle along each axis
_DARKEST = 0.15  # of white: what is darker in the middle is no brain

_ENDS = (("L", "R"), ("P", "A"), ("I", "S"))  # low and high end of each world axis


def side(axis: int, at_mm: float) -> str:
    """The letter of the side that a place lies on, along a world axis: R or L, A or P, S or I."""
    return _ENDS[axis][at_mm >= 0]


@dataclass(frozen=True, slots=True)
class Plane:
    """One way to cut a volume, in world axes (0: to the right, 1: to the front, 2: to the head)."""

    name: str
    normal: int
    across: int
    up: int


PLANES = (Plane("Axial", 2, 0, 1), Plane("Coronal", 1, 0, 2), Plane("Sagittal", 0, 1, 2))


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """A slice as it is looked at.

    Args:
        pixels: (rows, columns), row 0 on top, column 0 on the left of the picture.
        size_mm: width and height.
        left: anatomical direction that the left edge of the picture faces, one of L R P A I S; so for the others.
        right: of the right edge.
        top: of the top edge.
        bottom: of the bottom edge.
    """

    pixels: NDArray[Any]
    size_mm: tuple[float, float]
    left: str
    right: str
    top: str
    bottom: str


@dataclass(frozen=True, slots=True, eq=False)
class Upright:
    """A volume whose axes run to the patient's right, front and head, with the way back to its own grid.

    Args:
        data: (X, Y, Z), a view of the stored voxels.
        spacing_mm: along x, y and z.
        geometry: the grid as stored.
        order: the stored axis that runs along each world axis.
        flipped: whether it ran the other way.
    """

    data: NDArray[Any]
    spacing_mm: tuple[float, float, float]
    geometry: Geometry
    order: tuple[int, ...]
    flipped: tuple[bool, ...]

    @classmethod
    def of(cls, data: ArrayLike, geometry: Geometry) -> Upright:
        """The volume (I, J, K) of a grid, turned upright without touching a value.

        Raises:
            InputError: the data do not fit the grid.
        """
        stored = np.asarray(data)
        if stored.shape != geometry.shape:
            raise InputError("E-SHAPE", f"data of shape {stored.shape}", wanted=f"(I, J, K) on {geometry!r}")
        letters = geometry.orientation
        order = tuple(next(axis for axis in range(3) if letters[axis] in ends) for ends in _ENDS)
        flipped = tuple(letters[axis] == ends[0] for axis, ends in zip(order, _ENDS, strict=True))
        turned = stored.transpose(order)[tuple(slice(None, None, -1 if flip else 1) for flip in flipped)]
        x, y, z = (geometry.spacing_mm[axis] for axis in order)
        return cls(turned, (x, y, z), geometry, order, flipped)

    def index(self, position_mm: ArrayLike) -> tuple[int, int, int]:
        """Upright index of the voxel nearest to a world point, kept inside the grid."""
        stored = np.rint(self.geometry.index(position_mm))
        at = [int(np.clip(stored[axis], 0, self.geometry.shape[axis] - 1)) for axis in self.order]
        x, y, z = (n - 1 - i if flip else i for i, n, flip in zip(at, self.data.shape, self.flipped, strict=True))
        return x, y, z

    def cut(
        self, plane: Plane, at: tuple[int, int, int], *, box: tuple[slice, ...] | None = None, radiological: bool = True
    ) -> View:
        """One slice through an upright index, cropped to a box of upright indices."""
        box = box or (slice(None),) * 3
        place: list[slice | int] = list(box)
        place[plane.normal] = at[plane.normal]
        pixels = self.data[tuple(place)].T[::-1]
        left, right = _ENDS[plane.across]
        if radiological:
            pixels, left, right = pixels[:, ::-1], right, left
        rows, columns = pixels.shape
        size_mm = columns * self.spacing_mm[plane.across], rows * self.spacing_mm[plane.up]
        bottom, top = _ENDS[plane.up]
        return View(pixels, size_mm, left, right, top, bottom)


def view(
    data: ArrayLike, geometry: Geometry, plane: Plane, *, at_mm: ArrayLike | None = None, radiological: bool = True
) -> View:
    """The slice of a volume nearest to a world point, as the convention turns it.

    Args:
        data: (I, J, K), in any storage orientation.
        geometry: where the voxels lie.
        plane: one of `PLANES`.
        at_mm: (3,) RAS+ world point; the middle of the grid when left out.
        radiological: the patient's right on the left of the picture; false for its mirror image.

    Raises:
        InputError: the data do not fit the grid.

    Example:
        >>> axial = view(np.zeros((4, 5, 6)), Geometry.regular((4, 5, 6)), PLANES[0])
        >>> axial.left, axial.top, axial.pixels.shape
        ('R', 'A', (5, 4))
    """
    upright = Upright.of(data, geometry)
    middle = geometry.world((np.asarray(geometry.shape) - 1) / 2)
    return upright.cut(plane, upright.index(middle if at_mm is None else at_mm), radiological=radiological)


@dataclass(frozen=True, slots=True, eq=False)
class Field:
    """Which tissue of a scan is shown: where it is, its box with a margin, and where three planes cut it.

    Args:
        mask: (I, J, K) as stored, true in tissue.
        box: upright indices around it, 6 mm wider on each side.
        at: upright index that all three planes pass through.
    """

    mask: NDArray[np.bool_]
    box: tuple[slice, ...]
    at: tuple[int, int, int]

    @classmethod
    def around(cls, image: ArrayLike, geometry: Geometry, *, at_mm: ArrayLike | None = None) -> Field:
        """The field of a scan; all of it where it has but one value.

        Args:
            image: (I, J, K) finite.
            geometry: its grid.
            at_mm: (3,) RAS+ world point of the planes; the middle of the tissue when left out.
        """
        try:
            mask = foreground(image)
        except InputError:  # nothing but one value: show all of it
            mask = np.ones(geometry.shape, dtype=bool)
        grid = Upright.of(mask, geometry)
        margin = [int(np.ceil(_MARGIN_MM / s)) for s in grid.spacing_mm]
        middle, box = [], []
        for axis, (n, m) in enumerate(zip(grid.data.shape, margin, strict=True)):
            counts = grid.data.sum(axis=tuple(other for other in range(3) if other != axis))
            reach = np.flatnonzero(counts)
            middle.append(round(float(counts @ np.arange(n)) / int(counts.sum())))
            box.append(slice(max(0, int(reach[0]) - m), min(n, int(reach[-1]) + 1 + m)))
        x, y, z = middle
        return cls(mask, tuple(box), (x, y, z) if at_mm is None else grid.index(at_mm))

    def views(self, data: ArrayLike, geometry: Geometry, *, radiological: bool = True) -> list[View]:
        """The three planes of a volume on this grid, cropped to the box."""
        upright = Upright.of(data, geometry)
        return [upright.cut(plane, self.at, box=self.box, radiological=radiological) for plane in PLANES]


def grey_window(image: ArrayLike, tissue: ArrayLike) -> tuple[float, float]:
    """Black and white of a scan: from 0 (or lower, as in CT) to the 99.5th percentile of its tissue.

    Of a whole head in T1 that is the fat of the scalp, three times as bright as the brain. So white lies no further
    than 1.2 times the same percentile in the middle of the head: what is brighter outside of it may be clipped. Of
    numbers far below 0 (HU, or normalised) no multiple says how bright they look, and the whole tissue counts.

    Args:
        image: (I, J, K) finite in the tissue.
        tissue: (I, J, K), true in at least one voxel.

    Example:
        >>> head = np.full((8, 8, 8), 1000.0)
        >>> head[2:6, 2:6, 2:6] = 300.0
        >>> grey_window(head, head > 0)
        (0.0, 360.0)
    """
    mask = np.asarray(tissue, dtype=bool)
    values = np.asarray(image)[mask]
    low = min(0.0, float(np.percentile(values, 100 - _BRIGHTEST)))
    high = float(np.percentile(values, _BRIGHTEST))
    middle = np.asarray(image)[_innermost(mask)]
    brain = float(np.percentile(middle[np.isfinite(middle)], _BRIGHTEST)) if np.isfinite(middle).any() else low
    if brain > _DARKEST * high and low > -_BELOW * high:
        high = min(high, _ROOM * brain)
    return (low, high) if high > low else (low, low + 1.0)


def _innermost(mask: NDArray[np.bool_]) -> tuple[slice, ...]:
    """The middle of the box of a mask, small enough that its corners reach no scalp."""
    found = []
    for axis in range(3):
        reach = np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis)))
        first, count = int(reach[0]), int(reach[-1]) + 1 - int(reach[0])
        edge = int(_AROUND * count)
        found.append(slice(first + edge, first + count - edge))
    return tuple(found)


def symmetric_reach(difference: ArrayLike) -> float:
    """The end of a scale about 0 for signed numbers: the 99.5th percentile of their size, 1 where all are 0."""
    return float(np.percentile(np.abs(difference), _BRIGHTEST)) or 1.0
