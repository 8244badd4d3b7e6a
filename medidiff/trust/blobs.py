"""Places where an answer and its scan part: `Blob` and `peaks`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from medidiff.trust.residual import averaged, gaussian_kernel
from medidiff.volume import Geometry

__all__ = ["MOST", "Blob", "Layer", "Peak", "apart", "peaks"]

MOST = 20
"""Places that are described; of more the furthest from 0."""

_MOST_PEAKS = 2000  # that are told apart
_NEAR = 0.75  # diameters
_AROUND = 2.0  # filter widths of the surroundings that a place is compared with
_LEAST_AROUND = 1.0  # voxels, of those widths: a voxel's surroundings are its neighbours
_WIDER = 1.4  # a ball's diameter over what its filtered image is wide at half height, the filter's width taken off
_HALF_WIDTH = 2.355  # full width at half height of a Gaussian, in standard deviations

Kind = Literal["added", "removed"]


@dataclass(frozen=True, slots=True)
class Blob:
    """A place where the answer is not what the scan supports.

    Args:
        kind: ``"added"`` where the answer shows something that the scan does not, ``"removed"`` for the reverse.
        bright: whether what was added or removed is brighter than what surrounds it.
        centre_mm: (3,) in the patient, RAS+.
        diameter_mm: of a ball as large, about.
        z: deviate of the place, in standard deviations of what noise does there; negative where the answer is brighter.
        p: probability that noise alone goes so far anywhere in the scan.
        amount: the answer less the scan there, in the scan's units.
    """

    kind: Kind
    bright: bool
    centre_mm: tuple[float, float, float]
    diameter_mm: float
    z: float
    p: float
    amount: float


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """The deviates at one size.

    Args:
        diameter_mm: of the blobs that it sees best.
        widths: (3,) standard deviation of its filter along each axis, in voxels.
        deviates: (I, J, K) standard normal where only noise is; 0 where nothing is heeded.
        beyond: what lies further from 0 asks for a look.
        chance: probability that noise alone goes so far from 0 anywhere.
    """

    diameter_mm: float
    widths: tuple[float, float, float]
    deviates: Tensor
    beyond: float
    chance: Callable[[float], float]


@dataclass(frozen=True, slots=True)
class Peak:
    """The furthest deviate of a connected place at one size.

    Args:
        z: the deviate.
        place: (3,) voxel index.
        diameter_mm: of the size.
        blob: what it looks like; None for all but the furthest of a size.
    """

    z: float
    place: tuple[int, int, int]
    diameter_mm: float
    blob: Blob | None


def peaks(layer: Layer, *, scan: Tensor, seen: Tensor, residual: Tensor, geometry: Geometry) -> list[Peak]:
    """The connected places of one size beyond the threshold, furthest first, the first few described.

    Args:
        layer: the deviates.
        scan: (I, J, K) what was measured.
        seen: (I, J, K) what the noise makes of what the scanner would see of the answer, on average.
        residual: (I, J, K) the scan less `seen`.
        geometry: of the scan.
    """
    found = [(z, place) for sign in (1.0, -1.0) for z, place in _furthest(layer, sign)]
    found.sort(key=lambda peak: -abs(peak[0]))
    described = [_described(z, place, layer, scan, seen, residual, geometry) for z, place in found[:MOST]]
    blobs = [*described, *[None] * (len(found) - len(described))]
    return [Peak(z, place, layer.diameter_mm, blob) for (z, place), blob in zip(found, blobs, strict=True)]


def _furthest(layer: Layer, sign: float) -> list[tuple[float, tuple[int, int, int]]]:
    """The furthest deviate of every connected place of one sign; voxels that touch belong together."""
    if float((sign * layer.deviates).max()) <= layer.beyond:
        return []
    values = (sign * layer.deviates).cpu().numpy()
    labels, count = ndimage.label(values > layer.beyond, structure=np.ones((3, 3, 3)))
    places = ndimage.maximum_position(values, labels, range(1, count + 1))
    return [(sign * float(values[place]), (int(place[0]), int(place[1]), int(place[2]))) for place in places]


def apart(found: Sequence[Peak], spacing_mm: Sequence[float]) -> list[Peak]:
    """One peak for every place: those near a further one of the same sign are the same thing at another size."""
    kept: list[Peak] = []
    places, reaches, signs = np.empty((0, 3)), np.empty(0), np.empty(0)
    for peak in sorted(found, key=lambda peak: -abs(peak.z))[:_MOST_PEAKS]:
        place = np.asarray(peak.place) * np.asarray(spacing_mm)
        reach = max(_NEAR * peak.diameter_mm, 2 * max(spacing_mm))
        sign = math.copysign(1.0, peak.z)
        near = np.linalg.norm(places - place, axis=1) <= np.maximum(reaches, reach)
        if not (near & (signs == sign)).any():
            kept.append(peak)
            places, reaches, signs = np.vstack([places, place]), np.append(reaches, reach), np.append(signs, sign)
    return kept


def _described(
    z: float,
    place: tuple[int, int, int],
    layer: Layer,
    scan: Tensor,
    seen: Tensor,
    residual: Tensor,
    geometry: Geometry,
) -> Blob:
    spacing = np.asarray(geometry.spacing_mm)
    reach = [math.ceil(max(2 * layer.diameter_mm / s, 3 * _LEAST_AROUND)) + 1 for s in spacing]
    box = tuple(slice(max(0, n - r), n + r + 1) for n, r in zip(place, reach, strict=True))
    middle = tuple(n - side.start for n, side in zip(place, box, strict=True))
    inside = _piece((layer.deviates[box] / z).cpu().numpy() >= 0.5, middle)
    extent = 2 * (3 * float(inside.sum()) * float(np.prod(spacing)) / (4 * math.pi)) ** (1 / 3)
    blur = _HALF_WIDTH * layer.diameter_mm / 4  # what the filter adds to the width at half height
    diameter = _WIDER * math.sqrt(max(extent**2 - blur**2, (layer.diameter_mm / 4) ** 2))
    heeded = layer.deviates[box] != 0
    shown, measured = (_contrast(image[box], heeded, layer.widths, middle) for image in (seen, scan))
    kind: Kind = "added" if abs(shown) >= abs(measured) else "removed"
    x, y, zed = (round(float(c), 1) for c in geometry.world(place))
    return Blob(
        kind=kind,
        bright=(shown > measured) == (kind == "added"),
        centre_mm=(x, y, zed),
        diameter_mm=round(diameter, 1),
        z=round(z, 2),
        p=float(f"{layer.chance(abs(z)):.2g}"),
        amount=-float(residual[box].cpu().numpy()[inside].mean()),
    )


def _piece(mask: NDArray[np.bool_], middle: tuple[int, ...]) -> NDArray[np.bool_]:
    labels, _ = ndimage.label(mask)
    return np.asarray(labels == labels[middle])


def _contrast(image: Tensor, heeded: Tensor, widths: Sequence[float], middle: tuple[int, ...]) -> float:
    """Brightness of a place against what lies around it and is heeded: no air, and nothing beyond the field of view."""
    wider = [max(_AROUND * width, _LEAST_AROUND) for width in widths]
    here, around = (averaged(image, heeded, gaussian_kernel(each))[middle] for each in (widths, wider))
    return float(here - around)
