"""Repairs and remarks that NIfTI, NRRD and MetaImage share: made-up values, sheared grids, constant scans."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medidiff.errors import InputError
from medidiff.io.files.checks import SHEAR_LIMIT, shear
from medidiff.io.options import ReadOptions
from medidiff.io.sidecar import labels, slice_thickness
from medidiff.volume import Geometry, Volume

__all__ = [
    "filled_nonfinite",
    "finished",
    "orthogonal_grid",
    "refuse_tilt",
    "refuse_unfaithful",
    "resampled",
    "shear_degrees",
]

_GROWTH_LIMIT = 8.0  # times the voxels: an orthogonal box around a sheared grid that is mostly empty helps nobody
_EDGE = 1e-6  # voxels: a place this little outside the grid is on its face


def finished(
    data: NDArray[Any], geometry: Geometry, path: Path, options: ReadOptions
) -> tuple[Volume, tuple[str, ...]]:
    """A scan from its real values and its grid, with what the options repair and what is worth a remark.

    Args:
        data: (I, J, K) writable array.
        geometry: the grid as stored; sheared only if the options allow it.
        path: its file; modality and units come from the JSON record beside it, when there is one.
        options: `ReadOptions.on_nan` and `ReadOptions.on_tilt`.

    Raises:
        InputError: ``E-NONFINITE``, or ``E-SHEAR`` for a shear that is too strong.
    """
    data, filled, notes = filled_nonfinite(data, options, file=path.name)
    modality, units = labels(path)
    if modality != "OT":
        unit = f" in {units}" if units else ""
        notes += (f"{modality}{unit}, as the JSON file beside the scan says",)
    thickness = slice_thickness(path, geometry)
    volume = Volume(data, geometry, modality, units, filled=filled, thickness_mm=thickness)
    notes += _constant_note(data)
    if options.on_tilt == "resample" and shear(geometry) > SHEAR_LIMIT:
        volume, more = resampled(volume)
        notes += more
    return volume, notes


def refuse_tilt(geometry: Geometry, options: ReadOptions, *, file: str) -> tuple[str, ...]:
    """Refuse a grid whose axes do not meet at right angles, unless the options say what to do with it.

    Returns:
        A decision, when it is kept as it is.

    Raises:
        InputError: ``E-SHEAR``, naming the angle and the options.
    """
    if shear(geometry) <= SHEAR_LIMIT or options.on_tilt == "resample":
        return ()
    found = f"voxel axes that are {shear_degrees(geometry):.2f} degrees from a right angle"
    if options.on_tilt == "shear":
        return (f"{found} were kept as stored (--on-tilt shear)",)
    wanted = f"at most {np.degrees(np.arcsin(SHEAR_LIMIT)):.2f} degrees"
    mend = "Pass --on-tilt resample for an orthogonal grid, or --on-tilt shear to keep the voxels on the sheared one."
    raise InputError("E-SHEAR", found, wanted=wanted, mend=mend, file=file)


def shear_degrees(geometry: Geometry) -> float:
    """How far the worst pair of voxel axes is from a right angle."""
    return float(np.degrees(np.arcsin(min(shear(geometry), 1.0))))


def filled_nonfinite(
    data: NDArray[Any], options: ReadOptions, *, file: str
) -> tuple[NDArray[Any], NDArray[np.bool_] | None, tuple[str, ...]]:
    """Refuse NaN and infinite voxels, or put 0 for them when the options say so.

    Args:
        data: (I, J, K) writable array, changed in place.
        options: `ReadOptions.on_nan`.
        file: name for the message.

    Returns:
        The array, the mask of what was filled, and what was decided.

    Raises:
        InputError: ``E-NONFINITE``, with the count and the first index.
    """
    if data.dtype.kind != "f" or all(np.isfinite(plane).all() for plane in data.T):
        return data, None, ()
    wrong = ~np.isfinite(data)
    count = int(wrong.sum())
    if options.on_nan != "fill":
        first = tuple(int(n) for n in np.unravel_index(int(np.argmax(wrong)), wrong.shape))
        kinds = f"{int(np.isnan(data).sum())} NaN, {int(np.isinf(data).sum())} infinite"
        raise InputError(
            "E-NONFINITE",
            f"{count} of {data.size} voxels are NaN or infinite ({kinds}), the first at {first}",
            wanted="finite numbers",
            mend="Mend them at their source, or pass --on-nan fill to put 0 there and mark them as filled.",
            file=file,
        )
    data[wrong] = 0
    return data, wrong, (f"{count} NaN or infinite voxels were filled with 0 and marked (--on-nan fill)",)


def refuse_unfaithful(data: NDArray[Any], *, file: str) -> None:
    """Refuse integers that float64 cannot hold (``E-RANGE``)."""
    if data.dtype.kind in "iu" and data.dtype.itemsize == 8:
        largest = max(int(data.max()), -int(data.min()))
        if largest > 2**53:
            mend = "Store smaller integers, or floats."
            raise InputError("E-RANGE", f"integers up to {largest}", wanted="at most 2^53", mend=mend, file=file)


def _constant_note(data: NDArray[Any]) -> tuple[str, ...]:
    """A decision that says that all voxels hold one value; empty when they do not."""
    value = data.flat[0]
    if all((plane == value).all() for plane in data.T):
        return (f"the scan is constant: every voxel is {value:g}",)
    return ()


def orthogonal_grid(geometry: Geometry) -> Geometry:
    """The smallest grid with right angles that covers a sheared one.

    The first axis is kept, the second turns within the plane of the first two, and the third becomes their normal, so
    slices stay slices; the voxel sizes are the distances along the new axes.

    Raises:
        InputError: ``E-SHEAR``, the new grid would be mostly empty.
    """
    linear = geometry.affine[:3, :3]
    turned, upper = np.linalg.qr(linear)
    signs = np.sign(np.diag(upper))
    axes, spacing = turned * signs, np.abs(np.diag(upper))
    corners = np.array([[i, j, k] for i in (0, 1) for j in (0, 1) for k in (0, 1)]) * (np.array(geometry.shape) - 1)
    places = geometry.world(corners) @ axes
    low, high = places.min(axis=0), places.max(axis=0)
    counts = np.ceil((high - low) / spacing - 1e-3) + 1
    growth = math.prod(counts.tolist()) / math.prod(geometry.shape)
    if growth > _GROWTH_LIMIT:
        found = f"a shear so strong that an orthogonal grid would hold {growth:.3g} times the voxels"
        raise InputError("E-SHEAR", found, wanted=f"at most {_GROWTH_LIMIT:g} times", mend="Repair the header.")
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = axes * spacing, axes @ low
    return Geometry((int(counts[0]), int(counts[1]), int(counts[2])), affine)


def resampled(volume: Volume) -> tuple[Volume, tuple[str, ...]]:
    """A sheared scan on the smallest orthogonal grid around it, by linear interpolation.

    What lies outside the scan holds its smallest value and is marked as padding; a voxel that an interpolation takes
    from filled ones is marked as filled.

    Args:
        volume: (1, I, J, K), sheared; one that is not is returned as it is.

    Raises:
        InputError: ``E-SHEAR``, the shear is too strong.
    """
    if shear(volume.geometry) <= SHEAR_LIMIT:
        return volume, ()
    target = orthogonal_grid(volume.geometry)
    way = np.linalg.inv(volume.geometry.affine) @ target.affine
    wide = np.float64 if volume.data.dtype.itemsize == 8 else np.float32
    data = _interpolated(volume.data[0].astype(wide, copy=False), way, target.shape)
    outside = _outside(way, target.shape, volume.shape)
    data[outside] = volume.data.min()
    padding, filled = (
        None if mask is None else _interpolated(mask.astype(np.float32), way, target.shape) > _EDGE
        for mask in (volume.padding, volume.filled)
    )
    padding = outside if padding is None else outside | padding
    note = (
        f"voxel axes {shear_degrees(volume.geometry):.2f} degrees from a right angle: interpolated to a grid of right "
        f"angles of {'x'.join(str(n) for n in target.shape)} voxels, {int(outside.sum())} of them outside the scan "
        "(--on-tilt resample)"
    )
    whole = dataclasses.replace(volume, data=data, geometry=target, padding=padding, filled=filled)
    return dataclasses.replace(whole, thickness_mm=None), (note,)  # its slices lie across no axis now


def _interpolated(data: NDArray[Any], way: NDArray[np.float64], shape: tuple[int, int, int]) -> NDArray[Any]:
    answer: NDArray[Any] = ndimage.affine_transform(
        data, way[:3, :3], way[:3, 3], output_shape=shape, order=1, mode="nearest"
    )
    return answer


def _outside(way: NDArray[np.float64], shape: tuple[int, int, int], source: tuple[int, int, int]) -> NDArray[np.bool_]:
    """(I, J, K), true where a voxel of the new grid lies beyond the outermost voxel centres of the old one."""
    answer = np.zeros(shape, dtype=np.bool_)
    index = np.ogrid[: shape[0], : shape[1], : shape[2]]
    for axis in range(3):
        place = way[axis, 3] + sum(way[axis, n] * index[n] for n in range(3))
        answer |= (place < -_EDGE) | (place > source[axis] - 1 + _EDGE)
    return answer
