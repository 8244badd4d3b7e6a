"""Siemens mosaics: all slices of one volume as tiles of one image, each tile as if it were a classic image.

Where the slices lie is told by a private header (CSA), of which two values are needed: how many tiles hold a slice, and
which way the slices go. ImagePositionPatient is where the corner would lie if the whole mosaic were one slice with the
same centre, so the first tile begins half of the difference further in: with rows r and columns c of the mosaic, r' and
c' of a tile, x = ipp + column_step (c - c') / 2 + row_step (r - r') / 2 (nibabel, "DICOM mosaic format").
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from pydicom.dataset import Dataset

from medidiff.errors import InputError
from medidiff.io.dicom.headers.header import Header, quietly, read_dataset
from medidiff.io.dicom.headers.tile import Tile

__all__ = ["csa_values", "tiles_of"]

_CSA = "SIEMENS CSA HEADER"
_MOST = 1024  # tags of a header, values of a tag, tiles of a mosaic
_NAMED = struct.Struct("<64si4s3i")  # name, multiplicity, type, type again, number of values, a mark
_ALONG = 1e-3  # largest difference of the slice direction from the normal of the image


def tiles_of(header: Header) -> list[Header]:
    """The slices of a mosaic.

    Raises:
        InputError: ``E-MOSAIC``, the private header that tells where they lie is missing or damaged.
    """
    try:
        with quietly():
            dataset = read_dataset(header.file, pixels=False)
            values = csa_values(_csa(dataset))
        count = int(values["NumberOfImagesInMosaic"][0])
        normal = np.array([float(v) for v in values["SliceNormalVector"][:3]])
    except OSError:
        raise
    except Exception as error:  # pydicom raises nearly anything on damaged bytes
        raise _refusal(header, "no readable CSA header, which tells where its slices lie") from error
    if header.position_mm is None or header.orientation is None or header.spacing_mm is None:
        return [header]  # refused with its own code, as any image is
    return _tiles(header, count, normal)


def _tiles(header: Header, count: int, normal: np.ndarray[Any, np.dtype[np.float64]]) -> list[Header]:
    rows, columns = header.shape
    side = math.ceil(math.sqrt(count)) if 1 <= count <= _MOST else 0
    if side == 0 or rows % side or columns % side:
        raise _refusal(header, f"{count} slices in {rows} x {columns} pixels")
    if header.between_mm is None or header.between_mm <= 0:
        raise _refusal(header, "no SpacingBetweenSlices")
    row, column = np.reshape(np.asarray(header.orientation, dtype=np.float64), (2, 3))
    across = np.cross(row, column)
    if normal.shape != (3,) or abs(abs(float(across @ normal)) - 1) > _ALONG:
        raise _refusal(header, "slices that do not go along the normal of the image")
    up = across * np.sign(across @ normal)
    between_rows, between_columns = header.spacing_mm or (1.0, 1.0)
    tile = rows // side, columns // side
    first = np.asarray(header.position_mm, dtype=np.float64)
    first = first + row * between_columns * (columns - tile[1]) / 2 + column * between_rows * (rows - tile[0]) / 2
    return [
        replace(
            header,
            frame=k,
            shape=tile,
            tile=Tile(k // side * tile[0], k % side * tile[1], header.shape),
            position_mm=tuple((first + k * header.between_mm * up).tolist()),
        )
        for k in range(count)
    ]


def _refusal(header: Header, found: str) -> InputError:
    mend = "Export the series again with its private elements, or convert it with dcm2niix and give the NIfTI file."
    return InputError("E-MOSAIC", f"a mosaic with {found}", mend=mend, file=header.file.name)


def _csa(dataset: Dataset) -> bytes:
    return bytes(dataset.private_block(0x0029, _CSA)[0x10].value)


def csa_values(raw: bytes) -> Mapping[str, list[str]]:
    """Values by name of a CSA header, of either of its two layouts.

    Raises:
        ValueError: it is damaged.
    """
    second = raw[:4] == b"SV10"
    at = 8 if second else 0
    (count,) = struct.unpack_from("<I", raw, at)
    if not 0 < count <= _MOST:
        raise ValueError("number of tags")
    at += 8
    found: dict[str, list[str]] = {}
    base = 0
    for number in range(count):
        name, _, _, _, items, _ = _NAMED.unpack_from(raw, at)
        at += _NAMED.size
        if not 0 <= items <= _MOST:
            raise ValueError("number of values")
        base = items if number == 0 else base  # the first layout adds this to every length
        values = []
        for _ in range(items):
            lengths = struct.unpack_from("<4i", raw, at)
            at += 16
            length = lengths[1] if second else lengths[0] - base
            if length < 0 or at + length > len(raw):
                if second:
                    raise ValueError("length of a value")
                break
            values.append(raw[at : at + length].split(b"\0")[0].decode("latin-1").strip())
            at += -(-length // 4) * 4
        found[name.split(b"\0")[0].decode("latin-1")] = [value for value in values if value]
    return found
