"""Where the voxels of a grid lie in the patient: `Geometry`.

World coordinates are RAS+ in millimetres (x to the patient's right, y to the front, z to the head), as in NIfTI.
DICOM's LPS exists only inside `io`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medidiff.errors import InputError, SettingsError

__all__ = ["Geometry"]

_REACH_MM = 1e9  # a thousand kilometres, and the inverse of the smallest voxel: beyond, arithmetic fails before sense
_SAME_SPACING = 5e-3  # relative
_VOXEL_LIMIT = 2**31  # of a target grid: twice 1024³, and 8 GiB in float32
_SIDE_LIMIT = 2**15  # voxels along an axis of a grid that is asked for; scans have some hundreds
_SHEAR_LIMIT = 1e-4  # largest cosine between two voxel axes of an orthogonal grid


@dataclass(frozen=True, slots=True, eq=False)
class Geometry:
    """A voxel grid in the patient.

    Args:
        shape: number of voxels along each voxel axis, all at least 1.
        affine: (4, 4), voxel index to RAS+ world position in mm, kept in float64 and read-only.

    Raises:
        InputError: the shape or the affine describes no grid.

    Example:
        >>> Geometry.regular((4, 5, 6), spacing_mm=(1, 1, 3)).spacing_mm
        (1.0, 1.0, 3.0)
    """

    shape: tuple[int, int, int]
    affine: NDArray[np.float64]

    def __post_init__(self) -> None:
        shape = tuple(int(n) for n in self.shape)
        if len(shape) != 3 or min(shape) < 1:
            raise InputError("E-DIM", f"grid shape {shape}", wanted="three sizes of at least 1")
        affine = np.array(self.affine, dtype=np.float64)
        if affine.shape != (4, 4) or not np.isfinite(affine).all():
            raise InputError("E-XFORM", "an affine that is not a finite 4x4 matrix", wanted="finite 4x4, in mm")
        if not np.array_equal(affine[3], (0.0, 0.0, 0.0, 1.0)):
            raise InputError("E-XFORM", "an affine whose last row is not 0 0 0 1")
        if np.abs(affine).max() > _REACH_MM:
            raise InputError("E-XFORM", "an affine that reaches absurdly far", wanted=f"at most {_REACH_MM:g} mm")
        norms = np.linalg.norm(affine[:3, :3], axis=0)
        if norms.min() <= 1 / _REACH_MM or abs(np.linalg.det(affine[:3, :3] / norms)) < 1e-6:
            raise InputError("E-XFORM", "a singular affine", wanted="three independent voxel axes")
        affine.setflags(write=False)
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "affine", affine)

    @classmethod
    def regular(cls, shape: Sequence[int], *, spacing_mm: Sequence[float] = (1.0, 1.0, 1.0)) -> Geometry:
        """A grid along the world axes whose centre is the world origin."""
        affine = np.diag((*np.asarray(spacing_mm, dtype=np.float64), 1.0))
        affine[:3, 3] = -affine[:3, :3] @ (np.asarray(shape) - 1) / 2
        return cls((shape[0], shape[1], shape[2]), affine)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Geometry):
            return NotImplemented
        return self.shape == other.shape and bool(np.array_equal(self.affine, other.affine))

    def __hash__(self) -> int:
        return hash((self.shape, self.affine.tobytes()))

    def __repr__(self) -> str:
        size = "x".join(str(n) for n in self.shape)
        spacing = " x ".join(f"{s:.4g}" for s in self.spacing_mm)
        return f"Geometry({size} voxels, {spacing} mm, {self.orientation})"

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance between neighbouring voxel centres along each voxel axis."""
        a, b, c = (float(s) for s in np.linalg.norm(self.affine[:3, :3], axis=0))
        return a, b, c

    @property
    def origin_mm(self) -> NDArray[np.float64]:
        """(3,) world position of the centre of voxel (0, 0, 0)."""
        return self.affine[:3, 3].copy()

    @property
    def directions(self) -> NDArray[np.float64]:
        """(3, 3) unit vector of each voxel axis in the world, one a column."""
        return np.asarray(self.affine[:3, :3] / np.asarray(self.spacing_mm))

    @property
    def orientation(self) -> str:
        """Nearest anatomical direction of each voxel axis, e.g. ``"RAS"`` or ``"LPI"``."""
        left = np.abs(self.directions)
        axes: list[tuple[int, int]] = []
        for _ in range(3):  # strongest pairing first, each world axis used once
            world, voxel = np.unravel_index(np.argmax(left), (3, 3))
            axes.append((int(voxel), int(world)))
            left[world, :] = left[:, voxel] = -1.0
        return "".join(("LR", "PA", "IS")[w][int(self.directions[w, v] > 0)] for v, w in sorted(axes))

    @property
    def is_orthogonal(self) -> bool:
        """Whether the voxel axes meet at right angles (no shear, no gantry tilt)."""
        gram = self.directions.T @ self.directions
        return bool(np.abs(gram - np.eye(3)).max() <= _SHEAR_LIMIT)

    @property
    def tilt_degrees(self) -> float:
        """Largest angle between a voxel axis and the anatomical direction that `orientation` names it after."""
        worlds = [next(w for w, ends in enumerate(("LR", "PA", "IS")) if letter in ends) for letter in self.orientation]
        cosines = np.abs(self.directions[worlds, range(3)])
        return float(np.degrees(np.arccos(np.clip(cosines, 0.0, 1.0))).max())

    def world(self, index: ArrayLike) -> NDArray[np.float64]:
        """World position in mm, (..., 3), of voxel indices (..., 3), which may be fractional."""
        return np.asarray(index, dtype=np.float64) @ self.affine[:3, :3].T + self.affine[:3, 3]

    def index(self, position_mm: ArrayLike) -> NDArray[np.float64]:
        """Fractional voxel indices, (..., 3), of world positions in mm, (..., 3)."""
        offset = np.asarray(position_mm, dtype=np.float64) - self.affine[:3, 3]
        return np.asarray(np.linalg.solve(self.affine[:3, :3], offset[..., None])[..., 0])

    def distance_mm(self, other: Geometry) -> float:
        """Largest distance between the same corner voxel of two grids; infinite when the shapes differ."""
        if self.shape != other.shape:
            return float("inf")
        corners = np.array([[i, j, k] for i in (0, 1) for j in (0, 1) for k in (0, 1)]) * (np.array(self.shape) - 1)
        return float(np.linalg.norm(self.world(corners) - other.world(corners), axis=-1).max())

    def with_spacing(self, spacing_mm: Sequence[float | str]) -> Geometry:
        """The grid of another spacing that covers the same box: same outer faces' centre, same directions.

        The number of voxels is rounded to the nearest whole number that covers the field of view (at least 1), and the
        new grid is centred on the old one, so no side is favoured. A distance within 0.5 % of the grid's own is taken
        for it: people type 0.72 for 0.71875, and to resample by that little would only blur.

        Args:
            spacing_mm: three distances in mm, greater than 0, or ``"own"`` for the grid's own along an axis.

        Raises:
            SettingsError: ``E-TARGET``, not such distances, or more voxels than any scan has.
        """
        sides = [spacing if side == "own" else side for side, spacing in zip(spacing_mm, self.spacing_mm, strict=False)]
        wanted = np.asarray(sides if len(spacing_mm) == 3 else spacing_mm, dtype=np.float64)
        if wanted.shape != (3,) or not np.isfinite(wanted).all() or wanted.min() <= 0:
            raise SettingsError(
                "E-TARGET", f"target spacing {tuple(spacing_mm)}", wanted="three finite values in mm above 0"
            )
        own = np.asarray(self.spacing_mm)
        wanted = np.where(np.abs(wanted / own - 1) <= _SAME_SPACING, own, wanted)
        extent = own * np.asarray(self.shape)
        with np.errstate(over="ignore"):
            count = np.maximum(np.ceil(extent / wanted - 1e-6), 1)
        if count.max() > _SIDE_LIMIT or count.prod() > _VOXEL_LIMIT:
            found, mend = f"target spacing {tuple(spacing_mm)}", "Give sizes of about those of the scan."
            limit = f"at most {_SIDE_LIMIT} voxels along each axis and {_VOXEL_LIMIT / 1e9:.1f} billion in all"
            raise SettingsError("E-TARGET", found, wanted=limit, mend=mend)
        shape = count.astype(int)
        linear = self.directions * wanted
        centre = self.world((np.asarray(self.shape) - 1) / 2)
        affine = np.eye(4)
        affine[:3, :3], affine[:3, 3] = linear, centre - linear @ ((shape - 1) / 2)
        return Geometry((int(shape[0]), int(shape[1]), int(shape[2])), affine)
