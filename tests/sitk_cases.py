"""Small NRRD and MetaImage files whose voxels are a known linear function of their own position, made by SimpleITK."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk
from nifti_cases import grid, ramp

from medidiff.volume import Geometry

ENDINGS = (".nrrd", ".mha")
NRRD = (
    "NRRD0005\ntype: short\ndimension: 3\nspace: left-posterior-superior\nsizes: 7 6 5\n"
    "space directions: (0.8,0,0) (0,1.1,0) (0,0,2.5)\nkinds: domain domain domain\nendian: little\n"
    "encoding: raw\nspace origin: (-1,2,3)\n"
)
META = (
    "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\nCompressedData = False\n"
    "TransformMatrix = 1 0 0 0 1 0 0 0 1\nOffset = -1 2 3\nCenterOfRotation = 0 0 0\nAnatomicalOrientation = RAI\n"
    "ElementSpacing = 0.8 1.1 2.5\nDimSize = 7 6 5\nElementType = MET_SHORT\n"
)
TRUTH = Geometry(
    (7, 6, 5), np.diag((-1.0, -1.0, 1.0, 1.0)) @ [[0.8, 0, 0, -1], [0, 1.1, 0, 2], [0, 0, 2.5, 3], [0, 0, 0, 1]]
)


def by_sitk(
    path: Path, *, geometry: Geometry | None = None, data: np.ndarray | None = None, packed: bool = True
) -> Path:
    """A file written by SimpleITK alone."""
    geometry = geometry or grid()
    image = sitk.GetImageFromArray(np.ascontiguousarray((ramp().astype(np.int16) if data is None else data).T))
    affine = np.diag((-1, -1, 1, 1)) @ geometry.affine
    spacing = np.array(geometry.spacing_mm)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((affine[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    sitk.WriteImage(image, str(path), packed)
    return path


def by_hand(path: Path, *edits: tuple[str, str], voxels: bytes | None = None) -> Path:
    """A file whose header is the text above with some of it exchanged."""
    nrrd = path.suffix in (".nrrd", ".nhdr")
    text = NRRD if nrrd else META
    for old, new in edits:
        assert old in text, f"{old} is not in the header"
        text = text.replace(old, new)
    end = "\n" if nrrd else ("" if "ElementDataFile" in text else "ElementDataFile = LOCAL\n")
    content = ramp().astype("<i2").tobytes(order="F") if voxels is None else voxels
    path.write_bytes((text + end).encode("latin-1") + content)
    return path
