"""Small NIfTI files whose voxels are a known linear function of their own position, and the ways to break them.

The ramp oracle: voxel (i, j, k) of a good file holds ``i + 10 j + 100 k``. Push every voxel that a reader returns
through the affine that it reports, and back through the true grid: one comparison checks order, flips and spacing.
"""

from __future__ import annotations

import gzip
import itertools
from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk

from medidiff.volume import Geometry, Volume

SHAPE = (7, 6, 5)
WEIGHTS = np.array([1.0, 10.0, 100.0])
SPACING = (0.8, 1.1, 2.5)
_TURN = np.linalg.qr(np.array([[1.0, 0.2, -0.1], [0.3, 1.0, 0.2], [0.1, -0.3, 1.0]]))[0]
ORIENTATIONS = list(itertools.product(itertools.permutations(range(3)), itertools.product((1, -1), repeat=3)))


def grid(order=(0, 1, 2), signs=(1, 1, 1), *, turn=_TURN) -> Geometry:
    """An oblique grid with its axes permuted and flipped."""
    affine = np.eye(4)
    affine[:3, :3] = turn[:, order] * signs * np.array(SPACING)
    affine[:3, 3] = (-31.25, 12.5, 80.125)
    return Geometry(SHAPE, affine)


def ramp(shape=SHAPE) -> np.ndarray:
    """Voxel (i, j, k) holds i + 10 j + 100 k, a linear function of its place in the world."""
    return np.moveaxis(np.indices(shape), 0, -1) @ WEIGHTS


def ramp_error(volume: Volume, truth: Geometry) -> float:
    """Largest difference from the ramp at the places that the volume says its voxels have."""
    places = volume.geometry.world(np.moveaxis(np.indices(volume.shape), 0, -1))
    return float(np.abs(volume.data[0] - truth.index(places) @ WEIGHTS).max())


def sitk_geometry(path: Path) -> Geometry:
    image = sitk.ReadImage(str(path))
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return Geometry(image.GetSize(), np.diag((-1, -1, 1, 1)) @ affine)


def nifti(path: Path, *, data=None, geometry=None, edit=None, kind=nib.Nifti1Image) -> Path:
    """A file written by nibabel alone; `edit` patches fields of the header on disk."""
    geometry = geometry or grid()
    data = ramp().astype(np.int16) if data is None else data
    image = kind(data, geometry.affine, dtype=data.dtype)
    image.set_sform(geometry.affine, code=1)
    image.set_qform(geometry.affine, code=1)
    image.header.set_xyzt_units("mm")
    plain = path.with_name("plain.nii")
    nib.save(image, plain)
    content = bytearray(plain.read_bytes())
    plain.unlink()
    if edit:
        header = image.header_class(bytes(content[: image.header_class.sizeof_hdr]), check=False)
        for name, value in edit.items():
            header[name] = value
        content[: image.header_class.sizeof_hdr] = header.binaryblock
    packed = path.name.endswith(".gz")
    path.write_bytes(gzip.compress(bytes(content)) if packed else bytes(content))
    return path
