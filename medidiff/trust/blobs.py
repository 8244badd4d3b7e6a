"""Places where an answer and its scan part: `Blob` and `blobs`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from medidiff.trust.residual import blurred, gaussian_kernel
from medidiff.volume import Geometry

__all__ = ["Blob", "Layer", "blobs"]

_AROUND = 2.0  # filter widths of the surroundings that a place is compared with
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
class _Peak:
    z: float
    place: tuple[int, int, int]
    layer: Layer


def blobs(
    layers: Sequence[Layer], *, scan: Tensor, seen: Tensor, residual: Tensor, geometry: Geometry
) -> tuple[Blob, ...]:
    """The places beyond the threshold, each at the size that shows it best; the furthest from 0 first.

    Args:
        layers: the deviates, one layer a size.
        scan: (I, J, K) what was measured.
        seen: (I, J, K) what the scanner would see of the answer.
        residual: (I, J, K) the scan less what the noise makes of `seen` on average; in the scan's units.
        geometry: of the scan.
    """
    peaks = [peak for sign in (1.0, -1.0) for peak in _peaks(layers, sign)]
    peaks.sort(key=lambda peak: -abs(peak.z))
    return tuple(_described(peak, scan, seen, residual, geometry) for peak in peaks)


def _peaks(layers: Sequence[Layer], sign: float) -> list[_Peak]:
    """The largest deviate of every connected place of one sign (voxels that touch belong together)."""
    excess = torch.stack([sign * layer.deviates - layer.beyond for layer in layers]).amax(0)
    if not bool((excess > 0).any()):
        return []
    values = excess.cpu().numpy()
    labels, _ = ndimage.label(values > 0, structure=np.ones((3, 3, 3)))
    found = []
    for number, box in enumerate(ndimage.find_objects(labels), start=1):
        inside = labels[box] == number
        at = np.unravel_index(np.where(inside, values[box], -np.inf).argmax(), inside.shape)
        i, j, k = (int(side.start + n) for side, n in zip(box, at, strict=True))
        layer = max(layers, key=lambda each: sign * float(each.deviates[i, j, k]) - each.beyond)
        found.append(_Peak(float(layer.deviates[i, j, k]), (i, j, k), layer))
    return found


def _described(peak: _Peak, scan: Tensor, seen: Tensor, residual: Tensor, geometry: Geometry) -> Blob:
    spacing, layer = np.asarray(geometry.spacing_mm), peak.layer
    reach = [math.ceil(2 * layer.diameter_mm / s) + 1 for s in spacing]
    box = tuple(slice(max(0, n - r), n + r + 1) for n, r in zip(peak.place, reach, strict=True))
    middle = tuple(n - side.start for n, side in zip(peak.place, box, strict=True))
    near = (layer.deviates[box] / peak.z).cpu().numpy() >= 0.5
    place = _piece(near, middle)
    voxel = float(np.prod(spacing))
    extent = 2 * (3 * float(place.sum()) * voxel / (4 * math.pi)) ** (1 / 3)
    blur = _HALF_WIDTH * layer.diameter_mm / 4  # what the filter adds to the width at half height
    diameter = _WIDER * math.sqrt(max(extent**2 - blur**2, (layer.diameter_mm / 4) ** 2))
    shown, measured = (_contrast(image[box], layer, middle) for image in (seen, scan))
    kind: Kind = "added" if abs(shown) >= abs(measured) else "removed"
    amount = -float(residual[box].cpu().numpy()[place].mean())
    x, y, z = (round(float(c), 1) for c in geometry.world(peak.place))
    return Blob(
        kind=kind,
        bright=(shown > measured) == (kind == "added"),
        centre_mm=(x, y, z),
        diameter_mm=round(diameter, 1),
        z=round(peak.z, 2),
        p=float(f"{layer.chance(abs(peak.z)):.2g}"),
        amount=float(f"{amount:.4g}"),
    )


def _piece(mask: NDArray[np.bool_], middle: tuple[int, ...]) -> NDArray[np.bool_]:
    labels, _ = ndimage.label(mask)
    return np.asarray(labels == labels[middle])


def _contrast(image: Tensor, layer: Layer, middle: tuple[int, ...]) -> float:
    """Brightness of a place against what lies around it."""
    here = blurred(image, gaussian_kernel(layer.widths))[middle]
    around = blurred(image, gaussian_kernel([_AROUND * width for width in layer.widths]))[middle]
    return float(here - around)
