"""The MetaImage header by rule (https://itk.org/Wiki/ITK/MetaIO/Documentation).

It is read as ITK reads it: LPS, row i of TransformMatrix is the direction of axis i, CenterOfRotation and
AnatomicalOrientation mean nothing. Three axes, or four of which the last makes several volumes. Raw or zlib; text,
several channels, skipped headers, lists of files and an intensity function are refused; so is ``MET_LONG``, because
writers differ on its size.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from medidiff.io.text.header import (
    Stated,
    fields_of,
    floats,
    integers,
    positive,
    ras_affine,
    refuse,
    spatial_shape,
    stored_type,
)

__all__ = ["read_metaimage"]

_KINDS = {
    "MET_CHAR": "i1",
    "MET_UCHAR": "u1",
    "MET_SHORT": "i2",
    "MET_USHORT": "u2",
    "MET_INT": "i4",
    "MET_UINT": "u4",
    "MET_LONG_LONG": "i8",
    "MET_ULONG_LONG": "u8",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}
_TRUTH = {"true": True, "1": True, "t": True, "false": False, "0": False, "f": False}
_MATRIX = ("TransformMatrix", "Orientation", "Rotation")
_ORIGIN = ("Offset", "Origin", "Position")


def read_metaimage(text: bytes, *, file: str) -> Stated:
    """What a MetaImage header states.

    Args:
        text: the header, to the end of its line ``ElementDataFile``.
        file: name for messages.

    Raises:
        InputError: it breaks a rule above.
    """
    fields = fields_of(text, mark="=", lower=False, file=file)
    _refuse_layout(fields, file=file)
    sizes = integers(fields.get("DimSize", ""), file=file, attribute="DimSize")
    if integers(fields.get("NDims", ""), file=file, attribute="NDims") != (len(sizes),):
        raise refuse("E-HEADER", f"{len(sizes)} sizes that are not as many as NDims says", file=file, attribute="NDims")
    if len(sizes) > 4:
        mend = "Split it into files of one number a voxel."
        raise refuse("E-5D", f"{len(sizes)} dimensions", wanted="3 or 4", mend=mend, file=file, attribute="NDims")
    shape = spatial_shape(sizes, file=file, attribute="DimSize")
    spacing = _spacing(fields, len(sizes), file=file)
    affine, missing = _affine(fields, len(sizes), spacing, file=file)
    order = ("BinaryDataByteOrderMSB", "ElementByteOrderMSB")
    notes: tuple[str, ...] = ()
    if not set(order) & set(fields):
        notes = ("no byte order stated: taken as little endian",)
    big = any(_truth(fields, name, default=False, file=file) for name in order)
    return Stated(
        stored_type(fields.get("ElementType", ""), _KINDS, big=big, file=file, attribute="ElementType"),
        shape,
        max(sizes[3:], default=1),
        False,
        affine,
        spacing,
        missing,
        _truth(fields, "CompressedData", default=False, file=file),
        "" if fields.get("ElementDataFile", "").upper() == "LOCAL" else fields.get("ElementDataFile", ""),
        notes,
    )


def _truth(fields: dict[str, str], name: str, *, default: bool, file: str) -> bool:
    word = fields.get(name, str(default)).lower()
    if word not in _TRUTH:
        raise refuse("E-HEADER", "neither True nor False", wanted="True or False", file=file, attribute=name)
    return _TRUTH[word]


def _refuse_layout(fields: dict[str, str], *, file: str) -> None:
    if not fields.get("ElementDataFile"):
        raise refuse(
            "E-HEADER", "no voxels are named", wanted="LOCAL or a file", file=file, attribute="ElementDataFile"
        )
    if not _truth(fields, "BinaryData", default=True, file=file):
        mend = "Write it again as binary data."
        raise refuse("E-FORMAT", "voxels as text", wanted="binary data", mend=mend, file=file, attribute="BinaryData")
    if fields.get("HeaderSize", "0") != "0":
        mend = "Write it again without."
        raise refuse("E-FORMAT", "voxels behind a second header", mend=mend, file=file, attribute="HeaderSize")
    if fields.get("ElementType", "").endswith("_ARRAY") or fields.get("ElementNumberOfChannels", "1") != "1":
        mend, found = "Write it again with one number a voxel.", "several numbers in each voxel"
        name = "ElementNumberOfChannels"
        raise refuse("E-COLOUR", found, wanted="one real number", mend=mend, file=file, attribute=name)
    for name, plain in (("ElementToIntensityFunctionSlope", 1.0), ("ElementToIntensityFunctionOffset", 0.0)):
        if name in fields and floats(fields[name], file=file, attribute=name) != (plain,):
            mend = "Write it again with the real values as voxels."
            found = "an intensity function, which some programs apply and others ignore"
            raise refuse("E-BADSCALE", found, wanted="none", mend=mend, file=file, attribute=name)
    if fields.get("DistanceUnits", "mm").lower() not in ("mm", "?", ""):
        mend = "Write it again in mm."
        raise refuse("E-UNITS", "lengths in another unit", wanted="mm", mend=mend, file=file, attribute="DistanceUnits")


def _first(fields: dict[str, str], names: tuple[str, ...]) -> str:
    return next((name for name in names if name in fields), "")


def _spacing(fields: dict[str, str], rank: int, *, file: str) -> tuple[float, ...]:
    if "ElementSpacing" not in fields:
        return ()
    sizes = floats(fields["ElementSpacing"], file=file, attribute="ElementSpacing")
    if len(sizes) != rank:
        found = f"{len(sizes)} voxel sizes for {rank} axes"
        raise refuse("E-HEADER", found, file=file, attribute="ElementSpacing")
    return positive(sizes[:3], file=file, attribute="ElementSpacing")


def _affine(
    fields: dict[str, str], rank: int, spacing: tuple[float, ...], *, file: str
) -> tuple[NDArray[np.float64] | None, str]:
    """The affine, or what is missing for it."""
    matrix, origin = _first(fields, _MATRIX), _first(fields, _ORIGIN)
    names = (("TransformMatrix", matrix), ("Offset", origin), ("ElementSpacing", "x" if spacing else ""))
    if missing := " and ".join(name for name, found in names if not found):
        return None, missing
    turn = floats(fields[matrix], file=file, attribute=matrix)
    place = floats(fields[origin], file=file, attribute=origin)
    if len(turn) != rank**2 or len(place) != rank:
        found = f"{len(turn)} numbers of direction and {len(place)} of place for {rank} axes"
        raise refuse("E-HEADER", found, wanted=f"{rank**2} and {rank}", file=file, attribute=matrix)
    square = np.reshape(turn, (rank, rank))
    if rank > 3 and (square[3, :3].any() or square[:3, 3].any()):
        raise refuse("E-XFORM", "time that runs along space", wanted="a time axis apart", file=file, attribute=matrix)
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is refused with the grid
        linear = square[:3, :3].T * spacing
    return ras_affine(linear, place[:3], frame=(-1, -1, 1)), ""
