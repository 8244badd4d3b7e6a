"""A scan of any grid as what the gate looks at: a brain at 2 mm along the body's axes, and where it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medidiff.anatomy import foreground
from medidiff.errors import InputError
from medidiff.volume import Volume

__all__ = ["FINE_MM", "Array", "Brain", "brain_of", "upright"]

Array = NDArray[np.float32]

FINE_MM = 2.0
_LARGEST_MM = 400.0  # of a field of view along an axis, as a head's scan has it
_BLUR_VOXELS = 0.85  # standard deviation: 4 mm full width at half maximum, so that sampling at 4 mm does not alias
_MARGIN = 4  # voxels kept round the brain
_FEWEST_VOXELS = 2000  # 16 ml: less is no part of a brain that could be told from another


@dataclass(frozen=True, slots=True, eq=False)
class Brain:
    """A brain at 2 mm, first axis to the right, second to the front, third to the head.

    Args:
        image: (I, J, K) median of the tissue at 0, its 1st to 99th percentile one apart; smoothed.
        mask: (I, J, K) share of tissue, smoothed in the same way.
        centre: (3,) middle of the tissue's bounding box, as a voxel index.
    """

    image: Array
    mask: Array
    centre: NDArray[np.float64]

    def sample(self, points_mm: NDArray[Any]) -> tuple[Array, Array]:
        """Mask and image, (N,) each, at points (N, 3) in mm from the centre; 0 outside."""
        places = (points_mm / FINE_MM + self.centre).T
        mask, image = (
            np.asarray(ndimage.map_coordinates(values, places, order=1), dtype=np.float32)
            for values in (self.mask, self.image)
        )
        return mask, image


def brain_of(volume: Volume) -> Brain:
    """The largest piece of tissue of a scan, at 2 mm.

    Axes are turned to the nearest anatomical direction, values averaged over each new voxel. Tissue is what differs
    from the border of the field of view, so that a scan with bright air counts too.

    Raises:
        InputError: ``E-UNJUDGED``, more than one channel, numbers that are not finite, one value throughout, no 16 ml
            of tissue, or a field of view that no head needs.
    """
    data = volume.data
    if data.shape[0] != 1 or not np.isfinite(data).all():
        raise _unjudged(f"{data.shape[0]} channels, or numbers that are not finite")
    spacing = np.asarray(volume.geometry.spacing_mm)
    if (spacing * volume.shape).max() > _LARGEST_MM:
        raise _unjudged(f"a field of view of {(spacing * volume.shape).max():.0f} mm")
    faces = [data[0].take(side, axis).ravel() for axis in range(3) for side in (0, -1)]
    border = float(np.median(np.concatenate(faces)))
    fine = np.pad(upright(volume, FINE_MM), 2 * _MARGIN, constant_values=border)
    try:
        tissue = foreground(np.abs(fine - border))
    except InputError as error:
        raise _unjudged(error.found) from error
    if tissue.sum() < _FEWEST_VOXELS:
        raise _unjudged(f"{tissue.sum() * FINE_MM**3 / 1000:.0f} ml of tissue")
    corners = np.argwhere(tissue)
    low, high = corners.min(axis=0) - _MARGIN, corners.max(axis=0) + 1 + _MARGIN
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    mask = tissue[box].astype(np.float32)
    dark, middle, bright = np.percentile(fine[tissue], (1, 50, 99))
    image = mask * (fine[box] - np.float32(middle)) / np.float32(max(bright - dark, 1e-6))
    soft = ndimage.gaussian_filter(mask, _BLUR_VOXELS)
    image = np.where(soft > 0.05, ndimage.gaussian_filter(image, _BLUR_VOXELS) / np.maximum(soft, 0.05), 0)
    return Brain(image.astype(np.float32), soft, (np.asarray(mask.shape) - 1) / 2)


def _unjudged(found: str) -> InputError:
    return InputError("E-UNJUDGED", found, wanted="a brain-extracted T1w scan", mend="Extract the brain first.")


def upright(volume: Volume, spacing_mm: float) -> Array:
    """A scan's first channel with its axes to the right, the front and the head, in cubic voxels.

    Axes go to the nearest anatomical direction. Each value is the average over its voxel; the middle of the field of
    view stays the middle, and beyond it there is 0.

    Args:
        volume: the scan.
        spacing_mm: side of the new voxels.
    """
    names = volume.geometry.orientation
    order = [next(i for i, name in enumerate(names) if name in pair) for pair in ("LR", "PA", "IS")]
    back = tuple(slice(None, None, 1 if names[i] in "RAS" else -1) for i in order)
    values = volume.data[0].transpose(order)[back].astype(np.float32)
    for axis, step in enumerate(np.asarray(volume.geometry.spacing_mm)[order]):
        count = values.shape[axis]
        target = int(np.ceil(count * step / spacing_mm))
        low = (count * step - target * spacing_mm) / 2 + np.arange(target)[:, None] * spacing_mm
        begins = np.arange(count) * step
        shared = np.minimum(low + spacing_mm, begins + step) - np.maximum(low, begins)
        weights = (np.maximum(shared, 0) / spacing_mm).astype(np.float32)
        values = np.moveaxis(np.tensordot(weights, values, (1, axis)), 0, axis)
    return np.ascontiguousarray(values)
