"""The NIfTI header by rule: what `medidiff.io.nifti` accepts, as one checked value (no file is opened here)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medidiff.errors import InputError
from medidiff.io.files.checks import REFETCH, refuse_shear, refuse_thin
from medidiff.volume import Geometry

__all__ = [
    "NiftiHeader",
    "checked_dtype",
    "checked_geometry",
    "checked_scale",
    "checked_shape",
    "checked_spacing",
    "xform_tolerance_mm",
]

_KINDS = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8"}


@dataclass(frozen=True, slots=True)
class NiftiHeader:
    """The checked header of a NIfTI file.

    Args:
        geometry: the grid.
        dtype: stored type with its byte order.
        slope: factor on stored values; 1 when none.
        intercept: what is added after it.
        offset: first byte of the voxels.
        sform_code: as stored.
        qform_code: as stored.
        decisions: choices made while reading, as sentences.
    """

    geometry: Geometry
    dtype: np.dtype[Any]
    slope: float
    intercept: float
    offset: int
    sform_code: int
    qform_code: int
    decisions: tuple[str, ...] = ()

    @property
    def is_scaled(self) -> bool:
        """Whether stored values and real values differ."""
        return (self.slope, self.intercept) != (1.0, 0.0)

    @property
    def data_type(self) -> np.dtype[Any]:
        """Type of the voxels in memory."""
        stored = self.dtype.newbyteorder("=")
        if not self.is_scaled:
            return stored
        wide = stored.itemsize > 4 or (stored.kind in "iu" and stored.itemsize == 4)
        return np.dtype(np.float64 if wide else np.float32)


def checked_dtype(fields: NDArray[Any], *, file: str) -> np.dtype[Any]:
    """Stored type with its byte order; complex, colour and unknown ones are refused."""
    code = int(fields["datatype"])
    if code in _KINDS:
        return np.dtype(_KINDS[code]).newbyteorder(fields.dtype["datatype"].byteorder)
    kind = {32: "E-COMPLEX", 1792: "E-COMPLEX", 2048: "E-COMPLEX", 128: "E-COLOUR", 2304: "E-COLOUR"}.get(
        code, "E-DTYPE"
    )
    raise InputError(
        kind, f"datatype {code}", wanted="real integers or floats up to 64 bits", file=file, attribute="datatype"
    )


def checked_shape(fields: NDArray[Any], *, file: str) -> tuple[int, int, int]:
    """Voxels along each axis of one volume; series, vectors, slices and empty grids are refused."""
    rank = int(fields["dim"][0])
    sizes = [int(n) for n in fields["dim"][1 : rank + 1]] if 1 <= rank <= 7 else []
    if not sizes or min(sizes) < 1:
        raise InputError(
            "E-DIM", f"dimensions {sizes or rank}", wanted="sizes of at least 1", file=file, attribute="dim"
        )
    for code, extra in (("E-5D", sizes[4:]), ("E-4D", sizes[3:4])):
        if max(extra, default=1) > 1:
            raise InputError(
                code,
                f"dimensions {sizes}",
                wanted="one volume",
                mend="Split it into 3D files.",
                file=file,
                attribute="dim",
            )
    shape = (*sizes[:3], 1, 1)[:3]
    refuse_thin(shape, file=file)
    return shape[0], shape[1], shape[2]


def checked_geometry(
    fields: NDArray[Any],
    shape: tuple[int, int, int],
    *,
    pixdim: NDArray[np.float64],
    qform: NDArray[np.float64] | None,
    file: str,
) -> tuple[Geometry, tuple[str, ...]]:
    """The grid and the choices that led to it.

    Args:
        fields: the header.
        shape: voxels along each axis.
        pixdim: (3,) spacing in mm.
        qform: (4, 4) affine of the quaternion in mm, None when its code is 0.
        file: name for messages.
    """
    sform = _sform(fields)
    affine = sform if sform is not None else qform
    if affine is None:
        mend = "Set the sform from a trusted source."
        raise InputError("E-NOXFORM", "sform_code and qform_code are 0", wanted="a stated grid", mend=mend, file=file)
    geometry = _grid(shape, affine, file=file)
    refuse_shear(geometry, file=file)
    if sform is not None:
        _compare(geometry, None if qform is None else _grid(shape, qform, file=file), pixdim=pixdim, file=file)
    chosen = f"the grid is the {'sform' if sform is not None else 'qform'}"
    unknown = int(fields["xyzt_units"]) & 7 == 0
    return geometry, (chosen, *(("unknown length unit taken as mm",) if unknown else ()))


def xform_tolerance_mm(geometry: Geometry) -> float:
    """How far sform and qform may lie apart at the farthest corner: 0.1 mm or 1.25e-3 of the grid's diagonal."""
    diagonal = np.linalg.norm(np.asarray(geometry.spacing_mm) * geometry.shape)
    return max(0.1, 1.25e-3 * float(diagonal))


def checked_spacing(fields: NDArray[Any], *, file: str) -> NDArray[np.float64]:
    """Distance in mm between voxel centres as pixdim states it; other units than mm are refused."""
    pixdim = np.asarray(fields["pixdim"][1:4], dtype=np.float64)
    if not np.isfinite(pixdim).all() or pixdim.min() <= 0:
        found = f"spacing {pixdim.tolist()}"
        raise InputError("E-BADSPACING", found, wanted="three lengths above 0", file=file, attribute="pixdim")
    units = int(fields["xyzt_units"]) & 7
    if units not in (0, 2):
        name = {1: "metres", 3: "microns"}.get(units, f"code {units}")
        mend = "Convert the header to mm."
        raise InputError("E-UNITS", f"lengths in {name}", wanted="mm", mend=mend, file=file, attribute="xyzt_units")
    return pixdim


def _sform(fields: NDArray[Any]) -> NDArray[np.float64] | None:
    if int(fields["sform_code"]) <= 0:
        return None
    rows = [fields[name] for name in ("srow_x", "srow_y", "srow_z")]
    return np.array([*rows, (0, 0, 0, 1)], dtype=np.float64)


def _grid(shape: tuple[int, int, int], affine: NDArray[np.float64], *, file: str) -> Geometry:
    try:
        return Geometry(shape, affine)
    except InputError as error:
        raise InputError(error.code, error.found, wanted=error.wanted, mend=REFETCH, file=file) from error


def _compare(sform: Geometry, qform: Geometry | None, *, pixdim: NDArray[np.float64], file: str) -> None:
    apart = 0.0 if qform is None else sform.distance_mm(qform)
    if apart > xform_tolerance_mm(sform):
        raise InputError(
            "E-XFORM",
            f"sform and qform disagree by {apart:.3g} mm at the farthest corner",
            wanted=f"at most {xform_tolerance_mm(sform):.2g} mm",
            mend="Keep the right one and set the code of the other to 0.",
            file=file,
        )
    if np.abs(np.asarray(sform.spacing_mm) / pixdim - 1).max() > 0.01:
        lengths = tuple(round(s, 4) for s in sform.spacing_mm)
        found = f"the sform's axes are {lengths} mm long and pixdim says {np.round(pixdim, 4).tolist()}"
        raise InputError("E-XFORM", found, wanted="equal to 1 %", mend="Repair the header.", file=file)


def checked_scale(fields: NDArray[Any], *, file: str) -> tuple[float, float]:
    """Slope and intercept, (1, 0) when the header asks for none."""
    slope, intercept = float(fields["scl_slope"]), float(fields["scl_inter"])
    if slope == 0:
        return 1.0, 0.0
    if not np.isfinite((slope, intercept)).all():
        raise InputError(
            "E-BADSCALE",
            f"slope {slope} and intercept {intercept}",
            wanted="finite numbers",
            mend="Set scl_slope to 1 and scl_inter to 0 if the values are unscaled.",
            file=file,
            attribute="scl_slope",
        )
    return slope, intercept
