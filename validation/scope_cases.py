"""Scans of the kind that fine-t1 is for, as users have them: what `scope.py` counts false alarms on.

A case takes a scan and a generator and returns a scan; nothing of it is used by the package.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from medidiff.anatomy import foreground, tissue_maximum
from medidiff.volume import Geometry, Volume

__all__ = ["IN_SCOPE", "Case", "Image", "Rng", "bright", "image_of", "noisy", "thick", "upright_axis"]

Rng = np.random.Generator
Case = Callable[[Volume, Rng], Volume]
Image = NDArray[np.float32]


def image_of(volume: Volume) -> Image:
    """(I, J, K) the numbers."""
    return np.asarray(volume.data[0], dtype=np.float32)


def bright(image: Image) -> float:
    """The tissue maximum."""
    return tissue_maximum(image, foreground(image))


def upright_axis(volume: Volume, letters: str) -> int:
    """The voxel axis that runs along one of a pair of anatomical directions."""
    return next(axis for axis, letter in enumerate(volume.geometry.orientation) if letter in letters)


# --------------------------------------------------------------------------------------------------- of the right kind


def noisy(volume: Volume, rng: Rng, percent: float) -> Volume:
    """Rician noise, in per cent of the tissue maximum."""
    image = image_of(volume)
    level = np.float32(percent / 100 * bright(image))
    real, other = (level * rng.standard_normal(image.shape, dtype=np.float32) for _ in range(2))
    return volume.with_data(np.hypot(image + real, other))


def thick(volume: Volume, rng: Rng, millimetres: float, percent: float = 2.0) -> Volume:
    """Slices so thick along an axis drawn at random, averaged over whole voxels, with noise of their own."""
    axis = int(rng.integers(3))
    spacing = volume.geometry.spacing_mm[axis]
    factor = max(1, round(millimetres / spacing))
    image = np.moveaxis(image_of(volume), axis, 0)
    count = len(image) // factor
    slices = image[: count * factor].reshape(count, factor, *image.shape[1:]).mean(axis=1)
    affine = volume.geometry.affine.copy()
    affine[:3, 3] += affine[:3, axis] * (factor - 1) / 2
    affine[:3, axis] *= factor
    data = np.moveaxis(slices, 0, axis)
    made = Volume(data, Geometry((data.shape[0], data.shape[1], data.shape[2]), affine), volume.modality)
    return noisy(made, rng, percent) if percent else made


def oblique(volume: Volume, rng: Rng) -> Volume:
    """The head tilted by up to 20° about each axis, as its affine says."""
    turn = Rotation.from_euler("xyz", rng.uniform(-20, 20, 3), degrees=True).as_matrix()
    affine = volume.geometry.affine.copy()
    affine[:3] = turn @ affine[:3]
    return noisy(dataclasses.replace(volume, geometry=Geometry(volume.shape, affine)), rng, 3)


def stored_otherwise(volume: Volume, rng: Rng) -> Volume:
    """The same head in another order of axes, its affine to match."""
    order = [int(axis) for axis in rng.permutation(3)]
    signs = [int(sign) for sign in rng.choice((-1, 1), 3)]
    data = image_of(volume).transpose(order)
    affine = volume.geometry.affine.copy()
    affine[:3, :3] = affine[:3, order]
    for axis, sign in enumerate(signs):
        if sign < 0:
            data = np.flip(data, axis)
            affine[:3, 3] += affine[:3, axis] * (data.shape[axis] - 1)
            affine[:3, axis] *= -1
    grid = Geometry((data.shape[0], data.shape[1], data.shape[2]), affine)
    return noisy(Volume(np.ascontiguousarray(data), grid, volume.modality), rng, 2)


def slab(volume: Volume, rng: Rng) -> Volume:
    """Six tenths of the field of view, from the head's side down or up."""
    axis = upright_axis(volume, "IS")
    count = volume.shape[axis]
    keep = round(0.65 * count)
    start = int(rng.integers(0, count - keep + 1))
    data = np.take(image_of(volume), range(start, start + keep), axis=axis)
    affine = volume.geometry.affine.copy()
    affine[:3, 3] += affine[:3, axis] * start
    grid = Geometry((data.shape[0], data.shape[1], data.shape[2]), affine)
    return noisy(Volume(data, grid, volume.modality), rng, 3)


def other_units(volume: Volume, rng: Rng) -> Volume:
    """Another gain, whole numbers."""
    image = image_of(volume)
    return noisy(volume.with_data(image), rng, 2).with_data(
        np.rint(image * (rng.uniform(300, 3000) / bright(image))).astype(np.int16)
    )


IN_SCOPE: Mapping[str, Case] = {
    "as it is": lambda volume, rng: volume,
    "noise 3 %": lambda volume, rng: noisy(volume, rng, 3),
    "noise 5 %": lambda volume, rng: noisy(volume, rng, 5),
    "noise 9 %": lambda volume, rng: noisy(volume, rng, 9),
    "noise 15 %": lambda volume, rng: noisy(volume, rng, 15),
    "slices 2 mm": lambda volume, rng: thick(volume, rng, 2),
    "slices 3 mm": lambda volume, rng: thick(volume, rng, 3),
    "slices 5 mm": lambda volume, rng: thick(volume, rng, 5),
    "slices 4 mm, no added noise": lambda volume, rng: thick(volume, rng, 4, 0),
    "oblique": oblique,
    "stored in another order": stored_otherwise,
    "a slab": slab,
    "other units": other_units,
}
