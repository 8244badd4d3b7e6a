"""The grid of a NIfTI file: which of its transforms is believed, in which unit, and what must be asked for by name.

* **units**: mm; 0 (unknown) is taken as mm. Metres and microns are converted, and the decision says so, when the voxels
  then measure 0.01 to 50 mm; otherwise the file most likely means mm under a wrong code, and is refused (``E-UNITS``).
  Tools disagree: nibabel never converts, SimpleITK always does.
* **transform**: sform if its code is above 0, else qform if its code is above 0, else ``E-NOXFORM``, unless
  `ReadOptions.assume_affine`. When both are set, their distance in mm and degrees is a decision; the farthest corner
  may differ by at most 0.1 mm or 1.25e-3 of the grid's diagonal, else ``E-XFORM``: turns near 180 degrees are common in
  scans, and their float32 quaternion is off by up to 1.2e-3. `ReadOptions.on_xform` names the one to believe, also when
  the other is broken. The lengths of the sform's axes agree with pixdim to 1 %, else ``E-XFORM``.
* **shear**: ``E-SHEAR``, unless `ReadOptions.on_tilt`; a qform cannot hold it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from medidiff.errors import InputError
from medidiff.io.options import ReadOptions
from medidiff.io.repairs import refuse_tilt
from medidiff.volume import Geometry

__all__ = ["Grid", "read_grid", "xform_tolerance_mm"]

_UNITS = {0: ("an unknown unit", 1.0), 1: ("metres", 1000.0), 2: ("mm", 1.0), 3: ("microns", 0.001)}
_SPACING_MM = (0.01, 50.0)  # of scans of people and animals; outside, a unit other than mm is a wrong code


@dataclass(frozen=True, slots=True)
class Grid:
    """Where the voxels lie, and how that was decided.

    Args:
        geometry: the grid as stored; sheared only if the options allow it.
        transform: ``"sform"``, ``"qform"`` or ``"assumed"``.
        decisions: as sentences.
    """

    geometry: Geometry
    transform: str
    decisions: tuple[str, ...]


def read_grid(raw: Any, shape: tuple[int, int, int], *, options: ReadOptions, file: str) -> Grid:
    """The grid that a header states.

    Args:
        raw: nibabel's header.
        shape: voxels along each axis.
        options: which repairs are allowed.
        file: name for messages.

    Raises:
        InputError: the header breaks a rule above.
    """
    pixdim, factor, notes = _spacing(raw.structarr, file=file)
    geometry, transform, more = _chosen(raw, shape, pixdim=pixdim, factor=factor, options=options, file=file)
    return Grid(geometry, transform, (*more, *notes))


def xform_tolerance_mm(geometry: Geometry) -> float:
    """How far sform and qform may lie apart at the farthest corner: 0.1 mm or 1.25e-3 of the grid's diagonal."""
    diagonal = np.linalg.norm(np.asarray(geometry.spacing_mm) * geometry.shape)
    return max(0.1, 1.25e-3 * float(diagonal))


def _spacing(fields: NDArray[Any], *, file: str) -> tuple[NDArray[np.float64], float, tuple[str, ...]]:
    """Voxel sizes in mm as pixdim states them, the factor that makes mm, and what was decided."""
    stored = np.asarray(fields["pixdim"][1:4], dtype=np.float64)
    if not np.isfinite(stored).all() or stored.min() <= 0:
        found = f"voxel sizes {[float(f'{size:.6g}') for size in stored]}"
        mend = "Convert it again from its source, or write voxel sizes into pixdim that you know to be right."
        raise InputError("E-BADSPACING", found, wanted="three above 0", mend=mend, file=file, attribute="pixdim")
    code = int(fields["xyzt_units"]) & 7
    unit, factor = _UNITS.get(code, (f"unit code {code}", math.nan))
    pixdim = stored * factor
    if factor != 1 and not (pixdim.min() >= _SPACING_MM[0] and pixdim.max() <= _SPACING_MM[1]):
        sizes = " x ".join(f"{size:.4g}" for size in stored)
        found = f"voxels of {sizes} in {unit}"
        wanted = "mm, or metres or microns that make {:g} to {:g} mm".format(*_SPACING_MM)
        mend = "If the sizes are in mm, set xyzt_units to 2; otherwise convert pixdim and the transforms to mm."
        raise InputError("E-UNITS", found, wanted=wanted, mend=mend, file=file, attribute="xyzt_units")
    if code == 0:
        return pixdim, factor, ("unknown length unit taken as mm",)
    return pixdim, factor, () if code == 2 else (f"lengths converted from {unit} to mm",)


def _chosen(
    raw: Any,
    shape: tuple[int, int, int],
    *,
    pixdim: NDArray[np.float64],
    factor: float,
    options: ReadOptions,
    file: str,
) -> tuple[Geometry, str, tuple[str, ...]]:
    """The grid, the transform that it comes from, and why."""
    codes = {name: int(raw[f"{name}_code"]) for name in ("sform", "qform")}
    known = [name for name, code in codes.items() if code > 0]
    if not known:
        return _assumed(shape, pixdim, options=options, file=file)
    wish = options.on_xform if options.on_xform in known else ""
    taken = wish or known[0]
    geometry = _grid(raw, shape, taken, factor=factor, file=file)
    notes = (f"the grid is the {taken} (code {codes[taken]})", *refuse_tilt(geometry, options, file=file))
    for name in (name for name in known if name != taken):
        try:
            other = _grid(raw, shape, name, factor=factor, file=file)
        except InputError:
            if not wish:
                raise
            notes += (f"the {name} is broken and was ignored (--on-xform)",)
        else:
            notes += _compared(geometry, other, wish=wish, file=file)
    if taken == "sform":
        notes += _measured(geometry, pixdim, wish=wish, file=file)
    return geometry, taken, notes


def _assumed(
    shape: tuple[int, int, int], pixdim: NDArray[np.float64], *, options: ReadOptions, file: str
) -> tuple[Geometry, str, tuple[str, ...]]:
    if not options.assume_affine:
        found = "sform_code and qform_code are 0: nothing says where the voxels lie or which side is left"
        mend = "Convert it again from its source, or pass --assume-affine to take the axes as RAS+."
        raise InputError("E-NOXFORM", found, wanted="a stated grid", mend=mend, file=file)
    sizes = " x ".join(f"{size:.4g}" for size in pixdim)
    note = f"no transform: voxels of {sizes} mm, axes taken as RAS+, origin at the centre of the grid (--assume-affine)"
    return Geometry.regular(shape, spacing_mm=pixdim.tolist()), "assumed", (note,)


def _grid(raw: Any, shape: tuple[int, int, int], name: str, *, factor: float, file: str) -> Geometry:
    """One of the two grids in mm."""
    try:
        affine = _sform(raw.structarr) if name == "sform" else _qform(raw)
        scaled = np.diag((factor, factor, factor, 1.0)) @ affine
        return Geometry(shape, scaled)
    except (InputError, nib.spatialimages.HeaderDataError, ValueError) as error:
        found = error.found if isinstance(error, InputError) else "a quaternion that is no rotation"
        other = "qform" if name == "sform" else "sform"
        mend = f"Repair the header; if its {other} is set and right, pass --on-xform {other}."
        wanted = "a finite matrix with three independent axes"
        raise InputError("E-XFORM", found, wanted=wanted, mend=mend, file=file, attribute=name) from error


def _sform(fields: NDArray[Any]) -> NDArray[np.float64]:
    rows = [fields[row] for row in ("srow_x", "srow_y", "srow_z")]
    return np.array([*rows, (0, 0, 0, 1)], dtype=np.float64)


def _qform(raw: Any) -> NDArray[np.float64]:
    raw = raw.copy()
    if raw["pixdim"][0] == 0:  # the standard reads 0 as 1
        raw["pixdim"][0] = 1
    return np.asarray(raw.get_qform(), dtype=np.float64)


def _compared(taken: Geometry, other: Geometry, *, wish: str, file: str) -> tuple[str, ...]:
    """How far sform and qform lie apart; refuses more than the tolerance unless one was asked for."""
    apart, limit = taken.distance_mm(other), xform_tolerance_mm(taken)
    turn = _turn_degrees(taken, other)
    distance = f"{apart:.3g} mm at the farthest corner and {turn:.3g} degrees"
    if apart > limit and not wish:
        raise InputError(
            "E-XFORM",
            f"sform and qform disagree by {distance}",
            wanted=f"at most {limit:.2g} mm",
            mend="Find out which one is right, and pass --on-xform sform or --on-xform qform.",
            file=file,
        )
    if apart > limit:
        return (f"sform and qform disagree by {distance}: the {wish} was asked for (--on-xform)",)
    return (f"sform and qform agree to {distance}",)


def _turn_degrees(one: Geometry, other: Geometry) -> float:
    """Largest angle between the same voxel axis of two grids."""
    sine = np.linalg.norm(np.cross(one.directions.T, other.directions.T), axis=1)
    cosine = np.sum(one.directions * other.directions, axis=0)
    return float(np.degrees(np.arctan2(sine, cosine)).max())


def _measured(sform: Geometry, pixdim: NDArray[np.float64], *, wish: str, file: str) -> tuple[str, ...]:
    """Refuse a sform whose axes are not as long as pixdim says, unless it was asked for."""
    if np.abs(np.asarray(sform.spacing_mm) / pixdim - 1).max() <= 0.01:
        return ()
    lengths = " x ".join(f"{size:.4g}" for size in sform.spacing_mm)
    found = f"voxels of {lengths} mm by the sform, {' x '.join(f'{size:.4g}' for size in pixdim)} mm by pixdim"
    if wish == "sform":
        return (f"{found}: the sform was asked for (--on-xform)",)
    mend = "Repair the header, or pass --on-xform sform if the sform is right."
    raise InputError("E-XFORM", found, wanted="equal to 1 %", mend=mend, file=file, attribute="pixdim")
