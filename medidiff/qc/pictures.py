"""Slices as pictures in a page: an atlas for each plane and each kind of volume, as WebP in a data URI.

An atlas holds evenly spaced slices of one plane, each as a tile of the same size, row by row. The voxels are shown
one to one; only where a plane has more than 512 of them along a side every second (third, ...) is taken, never a mean,
so that noise looks as it is. All atlases are grey: WebP halves the resolution of colour, which would wash out the sign
of a change from voxel to voxel, so that the page itself puts the colours on. It also scales tiles to millimetres.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medidiff.views import PLANES, Colours, Field, Plane, Upright
from medidiff.volume import Geometry

__all__ = ["Atlas", "Layer", "Sheet", "sheets"]

_QUALITY = 82  # of WebP, of 100
_EFFORT = 2  # of WebP, of 6
_MOST_TILES = 21
_MOST_PIXELS = 420_000  # of an atlas; three planes and three kinds stay below 2 MB as base64
_LONGEST_SIDE = 512

_Grey = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """A volume and how its numbers are shown.

    Args:
        kind: ``"before"``, ``"after"``, ``"change"`` or ``"spread"``.
        data: (I, J, K).
        window: the numbers that are shown darkest and brightest, or in the first and last colour.
        colours: evenly spaced over the window; none for grey.
    """

    kind: str
    data: NDArray[np.floating]
    window: tuple[float, float]
    colours: Colours = ()

    def pixels(self, numbers: NDArray[np.floating]) -> _Grey:
        """Some of its numbers as brightness from 0 to 255, clipped to the window."""
        low, high = self.window
        return np.asarray(np.rint(np.clip((numbers - low) / (high - low), 0, 1) * 255), dtype=np.uint8)

    @property
    def background(self) -> float:
        """The number that fills an atlas where there is no tile: the middle of a signed window."""
        low, high = self.window
        return 0.0 if low == -high else low


@dataclass(frozen=True, slots=True)
class Atlas:
    """One picture with all the slices of a plane, of one kind of volume.

    Args:
        kind: of the volume.
        uri: the picture as a data URI.
    """

    kind: str
    uri: str


@dataclass(frozen=True, slots=True)
class Sheet:
    """A plane as it is shown.

    Args:
        plane: its name.
        columns: tiles in a row of an atlas.
        tile: width and height of a tile in pixels.
        size_mm: width and height of a slice.
        places_mm: world coordinate of each slice along the plane's normal.
        first: number of the slice that is shown first.
        letters: what the left, right, top and bottom edge face.
        thinned: every how many voxels one is shown, across and down.
        atlases: the pictures.
    """

    plane: str
    columns: int
    tile: tuple[int, int]
    size_mm: tuple[float, float]
    places_mm: tuple[float, ...]
    first: int
    letters: tuple[str, str, str, str]
    thinned: tuple[int, int]
    atlases: tuple[Atlas, ...]


def sheets(
    layers: Sequence[Layer], field: Field, geometry: Geometry, *, radiological: bool = True
) -> tuple[Sheet, ...]:
    """The three planes of some volumes on one grid.

    Args:
        layers: the volumes, at least one.
        field: which part is shown.
        geometry: the grid.
        radiological: the patient's right on the left of the picture.
    """
    volumes = [Upright.of(layer.data, geometry) for layer in layers]
    return tuple(_sheet(plane, layers, volumes, field, radiological) for plane in PLANES)


def _sheet(
    plane: Plane, layers: Sequence[Layer], volumes: Sequence[Upright], field: Field, radiological: bool
) -> Sheet:
    view = volumes[0].cut(plane, field.at, box=field.box, radiological=radiological)
    across, down = (-(-n // _LONGEST_SIDE) for n in reversed(view.pixels.shape))
    height, width = view.pixels[::down, ::across].shape
    places, first = _places(field.box[plane.normal], field.at[plane.normal], most=_MOST_PIXELS // (width * height))
    columns = min(len(places), max(1, round(math.sqrt(len(places) * height / width))))
    atlases = []
    for layer, volume in zip(layers, volumes, strict=True):
        tiles = []
        for place in places:
            at = list(field.at)
            at[plane.normal] = place
            cut = volume.cut(plane, (at[0], at[1], at[2]), box=field.box, radiological=radiological)
            tiles.append(cut.pixels[::down, ::across])
        atlases.append(Atlas(layer.kind, _uri(layer.pixels(_tiled(tiles, columns, fill=layer.background)))))
    return Sheet(
        plane=plane.name,
        columns=columns,
        tile=(width, height),
        size_mm=view.size_mm,
        places_mm=tuple(_world(volumes[0], plane, field, place) for place in places),
        first=first,
        letters=(view.left, view.right, view.top, view.bottom),
        thinned=(across, down),
        atlases=tuple(atlases),
    )


def _places(box: slice, at: int, *, most: int) -> tuple[list[int], int]:
    """Upright indices of the slices that are shown, evenly spaced from the middle one outwards, and its number."""
    count = max(1, min(most, _MOST_TILES))
    low, high = box.start, box.stop - 1
    step = max(1, math.ceil((high - low + 1) / count))
    below, above = (at - low) // step, (high - at) // step
    return [at + n * step for n in range(-below, above + 1)], below


def _world(volume: Upright, plane: Plane, field: Field, place: int) -> float:
    """World coordinate along the plane's normal of the point where the other two planes cut a slice."""
    at = list(field.at)
    at[plane.normal] = place
    stored = [0, 0, 0]
    for world, (axis, flip) in enumerate(zip(volume.order, volume.flipped, strict=True)):
        stored[axis] = volume.data.shape[world] - 1 - at[world] if flip else at[world]
    return float(volume.geometry.world(stored)[plane.normal])


def _tiled(tiles: list[NDArray[np.floating]], columns: int, *, fill: float) -> NDArray[np.floating]:
    height, width = tiles[0].shape
    rows = -(-len(tiles) // columns)
    sheet = np.full((rows * height, columns * width), fill, dtype=np.float32)
    for number, tile in enumerate(tiles):
        row, column = divmod(number, columns)
        sheet[row * height : (row + 1) * height, column * width : (column + 1) * width] = tile
    return sheet


def _uri(pixels: _Grey) -> str:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "WEBP", quality=_QUALITY, method=_EFFORT)
    return "data:image/webp;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
