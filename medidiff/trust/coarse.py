"""A scan in blocks of some millimetres: what is asked of its anatomy needs no more, and costs little."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medidiff.anatomy import foreground, tissue_maximum
from medidiff.errors import InputError
from medidiff.prepare import without_padding
from medidiff.volume import Geometry, Volume

__all__ = ["Array", "Coarse", "Field", "coarse", "field_of"]

Array = NDArray[np.float32]
Box = tuple[slice, slice, slice]

_BLOCK_MM = 3.5
_LARGEST_MM = 640.0  # of a field of view along an axis; what lies beyond its middle is not looked at


@dataclass(frozen=True, slots=True, eq=False)
class Coarse:
    """A scan averaged over blocks of whole voxels, along its own axes.

    Args:
        data: (I, J, K) means.
        steps: voxels of the scan in a block along each axis.
        geometry: of the blocks.
        tissue: (I, J, K), true in tissue; nowhere true in a scan of one value.
        bright: brightness called 100 %, in the scan's units; above 0.
        image: (I, J, K) the scan itself, float32, padding at the lowest measured value, without blank outer planes.
    """

    data: Array
    steps: tuple[int, int, int]
    geometry: Geometry
    tissue: NDArray[np.bool_]
    bright: float
    image: Array

    @property
    def tissue_ml(self) -> float:
        """Volume of the tissue."""
        return float(self.tissue.sum() * np.prod(self.geometry.spacing_mm) / 1000)

    def box(self, most: int) -> Box:
        """The box of the tissue in voxels of the scan, cut to its middle where it holds more than so many voxels."""
        reach = []
        for axis in range(3):
            along = np.flatnonzero(self.tissue.any(axis=tuple(a for a in range(3) if a != axis)))
            low, high = (int(along[0]), int(along[-1]) + 1) if along.size else (0, self.tissue.shape[axis])
            reach.append([low * self.steps[axis], min(high * self.steps[axis], self.image.shape[axis])])
        while np.prod([high - low for low, high in reach]) > most:
            longest = max(reach, key=lambda ends: ends[1] - ends[0])
            cut = max(1, (longest[1] - longest[0]) // 16)
            longest[0], longest[1] = longest[0] + cut, longest[1] - cut
        i, j, k = (slice(low, high) for low, high in reach)
        return i, j, k


def coarse(volume: Volume) -> Coarse:
    """Average a scan of one channel over blocks of up to 3.5 mm.

    Raises:
        InputError: more than one channel, or voxels that are not finite.
    """
    if volume.data.shape[0] != 1:
        raise InputError("E-4D", f"{volume.data.shape[0]} channels", wanted="one", mend="Judge them one by one.")
    whole = np.asarray(without_padding(volume)[0], dtype=np.float32)
    if not np.isfinite(whole).all():
        raise InputError("E-NONFINITE", "voxels that are not finite numbers", mend="Mend or mask them first.")
    shown = _shown(whole)
    image = whole[shown]
    spacing = volume.geometry.spacing_mm
    steps = [max(1, min(int(_BLOCK_MM / step), n)) for step, n in zip(spacing, image.shape, strict=True)]
    data = image
    for axis, step in enumerate(steps):
        data = _averaged(data, axis, step)
    affine = volume.geometry.affine.copy()
    middle = [part.start + (step - 1) / 2 for part, step in zip(shown, steps, strict=True)]
    affine[:3, 3] = volume.geometry.world(middle)
    affine[:3, :3] *= steps
    grid = Geometry((data.shape[0], data.shape[1], data.shape[2]), affine)
    tissue, bright = _tissue(data)
    return Coarse(data, (steps[0], steps[1], steps[2]), grid, tissue, bright, image)


def _shown(image: Array) -> Box:
    """The box without outer planes of one value each: how far a scan was padded is no matter of what it shows."""
    box = [slice(0, n) for n in image.shape]
    if image.size and image.min() == image.max():
        return box[0], box[1], box[2]
    for axis in range(3):
        along = np.moveaxis(image[tuple(box)], axis, 0)
        varied = [number for number, plane in enumerate(along) if plane.min() != plane.max()]
        if varied:  # else it varies along this axis alone
            box[axis] = slice(varied[0], varied[-1] + 1)
    return box[0], box[1], box[2]


def _averaged(data: Array, axis: int, step: int) -> Array:
    """Means of `step` neighbours; the last few voxels that fill no block stay out, but for a block that is alone."""
    if step == 1:
        return data
    along = np.moveaxis(data, axis, 0)
    count = len(along) // step
    total = along[: count * step : step].copy()
    for offset in range(1, step):
        total += along[offset : count * step : step]
    return np.moveaxis(total / np.float32(step), 0, axis)


def _tissue(data: Array) -> tuple[NDArray[np.bool_], float]:
    try:
        mask = foreground(data)
        return mask, tissue_maximum(data, mask)
    except InputError:  # one value throughout, or nothing above 0
        return np.zeros(data.shape, dtype=bool), max(float(np.ptp(data)), 1e-6)


@dataclass(frozen=True, slots=True, eq=False)
class Field:
    """A scan along the world's axes: to the right, the front and the head, in cubes.

    Args:
        image: (X, Y, Z) brightness, tissue up to about 1, clipped; 0 outside the field of view.
        seen: (X, Y, Z) whether the field of view reaches there, from 0 to 1.
        origin_mm: (3,) world position of the first cube's centre.
        side_mm: of a cube.
    """

    image: Array
    seen: Array
    origin_mm: NDArray[np.float64]
    side_mm: float

    def at(self, places_mm: NDArray[Any]) -> tuple[Array, Array]:
        """Brightness and whether it was seen, (N,) each, at world positions (N, 3)."""
        index = ((places_mm - self.origin_mm) / self.side_mm).T
        image, seen = (
            np.asarray(ndimage.map_coordinates(values, index, order=1), dtype=np.float32)
            for values in (self.image, self.seen)
        )
        return image, seen

    def halved(self) -> Field:
        """The same in cubes of twice the side."""
        shape = [n + n % 2 for n in self.image.shape]
        wide = [(0, n - old) for n, old in zip(shape, self.image.shape, strict=True)]
        image, seen = (
            np.pad(values, wide)
            .reshape(shape[0] // 2, 2, shape[1] // 2, 2, shape[2] // 2, 2)
            .mean(axis=(1, 3, 5), dtype=np.float32)
            for values in (self.image, self.seen)
        )
        return Field(image, seen, self.origin_mm + self.side_mm / 2, 2 * self.side_mm)


def field_of(blocks: Coarse, side_mm: float, *, ceiling: float) -> Field:
    """A scan along the world's axes, whatever its own.

    Args:
        blocks: the scan.
        side_mm: of the cubes.
        ceiling: brightness at which it is clipped, in medians of its tissue: fat must not outshine the brain.
    """
    corners = np.array([[i, j, k] for i in (0, 1) for j in (0, 1) for k in (0, 1)]) * (np.array(blocks.data.shape) - 1)
    ends = blocks.geometry.world(corners)
    middle, half = (ends.max(axis=0) + ends.min(axis=0)) / 2, (ends.max(axis=0) - ends.min(axis=0)) / 2
    half = np.minimum(half, _LARGEST_MM / 2)
    count = np.maximum(np.ceil(2 * half / side_mm).astype(int) + 1, 2)
    origin = middle - side_mm * (count - 1) / 2
    axes = [origin[axis] + side_mm * np.arange(count[axis]) for axis in range(3)]
    places = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    index = blocks.geometry.index(places).T
    typical = float(np.median(blocks.data[blocks.tissue])) if blocks.tissue.any() else blocks.bright
    scaled = np.clip(blocks.data / np.float32(max(typical, 1e-6) * ceiling), 0, 1)
    image = ndimage.map_coordinates(scaled, index, order=1, mode="constant").reshape(count)
    beyond = np.abs(index - (np.array(blocks.data.shape)[:, None] - 1) / 2) - np.array(blocks.data.shape)[:, None] / 2
    seen = (beyond <= 0).all(axis=0).reshape(count)
    return Field(image.astype(np.float32), seen.astype(np.float32), origin, side_mm)
