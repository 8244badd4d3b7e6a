"""Limits and refusals that every reader and writer shares."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from medidiff.errors import InputError, MedidiffError
from medidiff.volume import Geometry

__all__ = [
    "MAX_BYTES",
    "REFETCH",
    "SHEAR_LIMIT",
    "refuse_large",
    "refuse_nonfinite",
    "refuse_shear",
    "refuse_thin",
    "shear",
]

MAX_BYTES = 2**35  # 32 GiB of stored voxels: eight times a 1024x1024x2048 CT, far below what a broken header declares
SHEAR_LIMIT = 1e-3  # largest cosine between two voxel axes, 0.06 degrees: rounded header decimals, never a gantry tilt
REFETCH = "Fetch the file again from its source; if that one is the same, export it anew."


def shear(geometry: Geometry) -> float:
    """Largest cosine between two different voxel axes; 0 for a grid with right angles."""
    return float(np.abs(geometry.directions.T @ geometry.directions - np.eye(3)).max())


def refuse_large(count: int, *, file: str) -> None:
    """Refuse, from the header alone, to allocate more than `MAX_BYTES`.

    Args:
        count: bytes of voxels that a header declares.
        file: name for the message.
    """
    if count > MAX_BYTES:
        raise InputError(
            "E-SIZE",
            f"the header declares {count / 2**30:,.0f} GiB of voxels",
            wanted=f"at most {MAX_BYTES // 2**30} GiB",
            mend="Fetch the file again; the header is probably damaged.",
            file=file,
        )


def refuse_thin(shape: tuple[int, ...], *, file: str, error: type[MedidiffError] = InputError) -> None:
    """Refuse what is no volume: a single slice (``E-2D``) or a single voxel (``E-TINY``)."""
    if min(shape) > 1:
        return
    code = "E-TINY" if max(shape) == 1 else "E-2D"
    size = "x".join(str(n) for n in shape)
    raise error(
        code,
        f"{size} voxels",
        wanted="at least 2 along every axis",
        mend="Give the whole volume, not one slice.",
        file=file,
    )


def refuse_shear(geometry: Geometry, *, file: str, error: type[MedidiffError] = InputError) -> None:
    """Refuse a grid whose axes do not meet at right angles (``E-SHEAR``)."""
    cosine = shear(geometry)
    if cosine > SHEAR_LIMIT:
        angle = 90.0 - np.degrees(np.arccos(min(cosine, 1.0)))
        raise error(
            "E-SHEAR",
            f"voxel axes that are {angle:.2f} degrees from a right angle",
            wanted=f"a cosine of at most {SHEAR_LIMIT:g}",
            mend="Resample the scan to an orthogonal grid first.",
            file=file,
        )


def refuse_nonfinite(data: NDArray[Any], *, file: str, error: type[MedidiffError] = InputError) -> None:
    """Refuse NaN and infinite voxels with their count and the first index (``E-NONFINITE``)."""
    if data.dtype.kind != "f" or np.isfinite(data).all():
        return
    wrong = np.argwhere(~np.isfinite(data))
    first = tuple(int(n) for n in wrong[0][-3:])
    raise error(
        "E-NONFINITE",
        f"{len(wrong)} voxels are NaN or infinite, the first at {first}",
        wanted="finite numbers",
        mend="Fill or mask these voxels first.",
        file=file,
    )
