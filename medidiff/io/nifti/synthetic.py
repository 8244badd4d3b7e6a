"""NIfTI files of invented scans, which say so in their description and in a comment extension."""

from __future__ import annotations

from pathlib import Path
from typing import Any, BinaryIO

import nibabel as nib
import numpy as np

from medidiff.case import MARK
from medidiff.io.files.atomic import make_folder
from medidiff.io.nifti.write import write_voxels
from medidiff.io.written import stored_voxels
from medidiff.volume import Volume

__all__ = ["is_marked_nifti", "write_synthetic"]

_COMMENT = 6  # code of a NIfTI extension that holds plain text


def write_synthetic(volume: Volume, path: Path) -> None:
    """Write an invented scan or its label map as NIfTI, without a record; the same voxels give the same bytes.

    Args:
        volume: one channel; the type of its voxels is kept.
        path: ends in ``.nii`` or ``.nii.gz``; its folder is made when missing, and cleared of what killed runs left.

    Raises:
        OutputError: the volume or the path cannot be written, or what was read back differs.
    """
    make_folder(path.parent)
    write_voxels(stored_voxels(volume, file=path.name), volume.geometry, path, mark=MARK)


def is_marked_nifti(stream: BinaryIO) -> bool:
    """Whether a NIfTI file says in both places that it is synthetic; False also for what is no NIfTI file.

    Args:
        stream: its bytes, unpacked, at the start.
    """
    try:
        size = int(np.frombuffer(stream.read(4), "<i4")[0])
        stream.seek(0)
        kind: Any = nib.Nifti2Header if size == nib.Nifti2Header.sizeof_hdr else nib.Nifti1Header
        header = kind.from_fileobj(stream, check=False)
        comments = [each.get_content() for each in header.extensions if each.get_code() == _COMMENT]
        texts = [comment.encode() if isinstance(comment, str) else comment for comment in comments]
        return bytes(header["descrip"].item()) == MARK.encode() and MARK.encode() in [t.rstrip(b"\0") for t in texts]
    except Exception:  # nibabel raises nearly anything on damaged bytes
        return False
