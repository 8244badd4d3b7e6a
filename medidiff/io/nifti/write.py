"""NIfTI files out.

The volume keeps its own axis order and orientation. sform and qform are both set, with the codes of the `like` file or
1 (scanner); a qform that would lie too far from the sform, as with every sheared grid, gets code 0. Units mm, slope 1,
intercept 0. Integers keep their type; floats are float32, or float64 where float32 would lose more than 1e-6 of a
value. NIfTI-1, unless its float32 affine would move a corner by more than 1e-4 mm or an axis is longer than 32,767:
then NIfTI-2. The record beside the scan holds the affine in full, so that reading it again is exact. The description
says ``medidiff; research use only``; nothing else of an old header, no extension and no name, is carried over.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from medidiff.errors import OutputError
from medidiff.io.files.atomic import write_file
from medidiff.io.files.checks import SHEAR_LIMIT, shear
from medidiff.io.nifti.file import read_codes, read_nifti
from medidiff.io.nifti.grid import xform_tolerance_mm
from medidiff.io.options import ReadOptions
from medidiff.io.sidecar import ensure_provenance
from medidiff.io.written import Output, prepared, stored_voxels
from medidiff.volume import Geometry, Provenance, Volume

__all__ = ["write_nifti", "write_voxels"]

_FLOAT32_TOLERANCE_MM = 1e-4
_ALIGNED = 2  # the code of a transform that no scanner gave, for a source that states none
_AS_WRITTEN = ReadOptions(on_tilt="shear")


def write_nifti(
    volume: Volume,
    path: str | Path,
    *,
    like: str | Path | None = None,
    provenance: Provenance | None = None,
    description: str = "",
) -> list[Path]:
    """Write a scan as NIfTI with its JSON record; each file is whole or absent.

    Args:
        volume: one channel.
        path: ends in ``.nii`` or ``.nii.gz``; its folder is made when missing.
        like: a NIfTI file whose transform codes are kept.
        provenance: how the scan was made.
        description: one sentence for the record.

    Returns:
        The NIfTI file, the mask of its filled voxels when there are any, and the record.

    Raises:
        OutputError: the volume or the path cannot be written, or what was read back differs.
    """
    output = Output(Path(path), Path(like) if like is not None else None)
    codes = _codes(output.like)
    data = stored_voxels(volume, file=output.path.name)
    prepared(output, volume)
    write_voxels(data, volume.geometry, output.path, codes=codes)
    if volume.filled is not None:
        write_voxels(volume.filled.astype(np.uint8), volume.geometry, output.mask, codes=codes)
    return output.recorded(volume, provenance=ensure_provenance(provenance, ()), description=description)


def _codes(like: Path | None) -> tuple[int, int]:
    """Codes of sform and qform: those of `like`, the one that is set standing in for one that is not."""
    if like is None:
        return 1, 1
    sform, qform = (max(code, 0) for code in read_codes(like))
    return sform or qform or _ALIGNED, qform or sform or _ALIGNED


def write_voxels(
    data: NDArray[Any], geometry: Geometry, path: Path, *, codes: tuple[int, int] = (1, 1), mark: str = ""
) -> None:
    """Write the NIfTI file alone, and read it again; the same voxels always give the same bytes.

    Args:
        data: (I, J, K), in the type that is stored.
        geometry: their grid.
        path: its folder exists.
        codes: of sform and qform.
        mark: what the file is, ASCII, at most 79 characters: the description, and a comment extension.

    Raises:
        OutputError: it cannot be written, or what was read back differs.
    """
    image = _image(data, geometry, codes=codes)
    if mark:
        image.header["descrip"] = mark.encode("ascii")
        image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", mark.encode("ascii")))
    exact = isinstance(image, nib.Nifti2Image)
    grid = Geometry(geometry.shape, image.affine if exact else _float32(image.affine))
    write_file(path, image.to_filename, verify=lambda name: _verify(name, data, grid, file=path.name), data=data)


def _float32(affine: NDArray[np.float64]) -> NDArray[np.float64]:
    rounded: NDArray[np.float64] = affine.astype(np.float32).astype(np.float64)
    return rounded


def _image(data: NDArray[Any], geometry: Geometry, *, codes: tuple[int, int]) -> Any:
    rounded = Geometry(geometry.shape, _float32(geometry.affine))
    small = max(geometry.shape) < 2**15 and geometry.distance_mm(rounded) <= _FLOAT32_TOLERANCE_MM
    kind: Any = nib.Nifti1Image if small else nib.Nifti2Image
    image = kind(data, geometry.affine, dtype=data.dtype)
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = b"medidiff; research use only"
    image.set_sform(geometry.affine, code=codes[0])
    image.set_qform(geometry.affine, code=codes[1])
    apart = geometry.distance_mm(Geometry(geometry.shape, image.get_qform()))
    if shear(geometry) > SHEAR_LIMIT or apart > 0.99 * xform_tolerance_mm(geometry):
        image.set_qform(geometry.affine, code=0)
    return image


def _verify(name: Path, data: NDArray[Any], grid: Geometry, *, file: str) -> None:
    again = read_nifti(name, _AS_WRITTEN).volume
    same = again.data.dtype == data.dtype and np.array_equal(again.data[0], data)
    if not same or again.geometry.distance_mm(grid) > 1e-6:
        found = "what was read back differs from what was written"
        raise OutputError("E-VERIFY", found, mend="Check the disk and run the command again.", file=file)
