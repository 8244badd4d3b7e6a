"""Which side of a brain is which: one half is laid on the mirror image of the other, and where it must go is read.

In most people the right Sylvian fissure turns upwards further forward than the left one, and the auditory cortex lies
further to the front (Geschwind & Levitsky, Science 161:186, 1968; Toga & Thompson, Nat. Rev. Neurosci. 4:37, 2003).
Such differences of shape are of people; differences of brightness between left and right are of a scanner's coils.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

from medidiff.trust.coarse import Array, Coarse
from medidiff.trust.pose import GRID, SIDE_MM, Matrix, Template

__all__ = ["HALF", "halves"]

HALF = 3, GRID[0] // 2, GRID[1], GRID[2]
"""Shape of what `halves` returns: to the right, front and head; the right half of the mean brain's grid."""

_SLOW = 6.0  # cubes, standard deviation: slower changes of brightness are the coils'
_SMOOTH = 0.75  # cubes, of the image
_WINDOW = 1.5  # cubes, of what moves together
_REACH = 4  # cubes beyond the middle that the right half's windows see
_STEPS = 3
_DAMPING = 0.1  # of the mean gradient's power
_BRIGHTEST = 2.0  # of the brightness around
_UNIT_MM = 50.0


def halves(blocks: Coarse, matrix: Matrix, template: Template) -> tuple[Array, Array]:
    """How far the mirror image of the left half lies from the right half at each place, in mm.

    By least squares of brightness in a window around each place (Lucas & Kanade, IJCAI 1981), repeated, both halves
    moved by half of it, so that the mirror image of a scan has exactly the opposite. The plane of symmetry is looked
    for first, and what another one would make of the shift is taken out of it.

    Args:
        blocks: the scan.
        matrix: (4, 4) from the mean brain's places in mm to the world.
        template: the mean brain.

    Returns:
        (3, I/2, J, K) to the right, front and head, 0 outside the brain; and (I/2, J, K) how much of both halves the
        field of view shows there, from 0 to 1.
    """
    shift, weight = _shifted(blocks, matrix, template)
    shift, weight = _shifted(blocks, matrix @ _plane(_terms(shift, weight, template)[0]), template)
    within = weight > 0
    found = np.zeros_like(shift)
    found[:, within] = _terms(shift, weight, template)[1]
    return found, weight


def _shifted(blocks: Coarse, matrix: Matrix, template: Template) -> tuple[Array, Array]:
    """What `halves` returns, with what the choice of the plane of symmetry does."""
    image, seen = _evened(blocks, matrix, template)
    middle = image.shape[0] // 2
    part = slice(middle - _REACH, None)
    right, left = image[part], image[::-1][part]
    weight = np.asarray(seen * seen[::-1] * template.within, dtype=np.float32)[part]
    soft = np.asarray(ndimage.gaussian_filter(weight, 0.5), dtype=np.float32)
    shift = np.zeros((3, *right.shape), np.float32)
    start = np.indices(right.shape, dtype=np.float32)
    for _ in range(_STEPS):
        moved = [
            ndimage.map_coordinates(half, start + sign * shift / 2, order=1, mode="nearest")
            for half, sign in ((right, -1), (left, 1))
        ]
        shift += _step(moved[0], moved[1], soft)
    return shift[:, _REACH:] * np.float32(SIDE_MM), weight[_REACH:]


def _evened(blocks: Coarse, matrix: Matrix, template: Template) -> tuple[Array, Array]:
    """(I, J, K) smooth brightness over that around, and whether a place is in the field of view."""
    world = template.all_places.reshape(-1, 3) @ matrix[:3, :3].T + matrix[:3, 3]
    index = blocks.geometry.index(world).T
    shape = template.image.shape
    image = ndimage.map_coordinates(blocks.data, index, order=1, mode="nearest").reshape(shape)
    last = np.asarray(blocks.data.shape)[:, None] - 1
    seen = np.asarray(((index >= 0) & (index <= last)).all(axis=0).reshape(shape), dtype=np.float32)
    near = (template.mask > 0.5) * seen
    around = ndimage.gaussian_filter(image * near, _SLOW) / np.maximum(ndimage.gaussian_filter(near, _SLOW), 1e-3)
    level = max(float(np.median(around[template.within])), 1e-6)
    even = np.clip(image / np.maximum(around, 0.2 * level), 0, _BRIGHTEST)
    smooth: Array = np.asarray(ndimage.gaussian_filter(even, _SMOOTH), dtype=np.float32)
    return smooth, seen


def _step(right: Array, left: Array, weight: Array) -> Array:
    """(3, I, J, K) the shift, in cubes, that best takes one image to the other in the window around each place."""
    slope = [np.asarray(each, dtype=np.float32) for each in np.gradient((right + left) / 2)]
    off = weight * (right - left)
    wanted = np.stack([_windowed(each * off) for each in slope], axis=-1)
    normal = np.empty((*right.shape, 3, 3), np.float32)
    for a, b in ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)):
        normal[..., a, b] = normal[..., b, a] = _windowed(weight * slope[a] * slope[b])
    power = float((np.trace(normal, axis1=-2, axis2=-1) * weight).sum()) / max(float(weight.sum()), 1e-3)
    normal += np.float32(_DAMPING * power / 3 + 1e-9) * np.eye(3, dtype=np.float32)
    return np.asarray(np.moveaxis(np.linalg.solve(normal, wanted[..., None])[..., 0], -1, 0), dtype=np.float32)


def _windowed(values: Array) -> Array:
    return np.asarray(ndimage.gaussian_filter(values, _WINDOW), dtype=np.float32)


def _terms(shift: Array, weight: Array, template: Template) -> tuple[NDArray[np.float64], Array]:
    """What moving and turning the plane of symmetry makes of a shift, (5,) numbers, and (3, N) what it leaves."""
    within = weight > 0
    x, y, z = (template.all_places[shift.shape[1] :][within] / _UNIT_MM).T
    none, one = np.zeros_like(x), np.ones_like(x)
    planes = ((one, none, none), (y, none, none), (z, none, none), (none, x, none), (none, none, x))
    terms = np.stack([np.concatenate(each) for each in planes], axis=1)
    inner = shift[:, within].reshape(-1)
    fitted = np.linalg.lstsq(terms, inner, rcond=None)[0]
    return fitted, np.asarray(inner - terms @ fitted, dtype=np.float32).reshape(3, -1)


def _plane(fitted: NDArray[np.float64]) -> Matrix:
    """(4, 4) from places about the plane of symmetry to those of the mean brain that gave these numbers.

    A plane at x = t moves what lies mirrored by -2t; one turned by a small angle moves it by twice that, both ways.
    """
    along, over_y, over_z, forward, up = fitted
    yaw, roll = (over_y - forward) / (4 * _UNIT_MM), (up - over_z) / (4 * _UNIT_MM)
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_rotvec((0.0, roll, yaw)).as_matrix()
    matrix[0, 3] = -along / 2
    return matrix
