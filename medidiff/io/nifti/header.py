"""The NIfTI header by rule, but for its transforms: version, byte order, type, shape, place of the voxels, scaling.

No file is opened here. A header is NIfTI by its magic; its first field, its own length, then tells the byte order. A
wrong length is forgiven, and recorded, only when every other field proves the header: exactly one byte order gives a
number of dimensions from 1 to 7, a known type whose bits agree, and voxels behind the header.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from medidiff.errors import InputError
from medidiff.io.files.checks import REFETCH, refuse_thin

__all__ = ["HEADER_BYTES", "Layout", "parsed", "read_layout"]

HEADER_BYTES = 540  # of NIfTI-2; NIfTI-1 has 348
_SIZES = (348, 540)
_MAGIC = ((b"n+1\0", b"ni1\0"), (b"n+2\0", b"ni2\0"))  # one file, two files
_KINDS = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8"}
_REFUSED = {32: "E-COMPLEX", 1792: "E-COMPLEX", 2048: "E-COMPLEX", 128: "E-COLOUR", 2304: "E-COLOUR"}
_EXTENSION_LIMIT = 2**26  # bytes between header and voxels; extensions hold a few kilobytes of text
_SERIES_LIMIT = 2**15 - 1  # NIfTI-1's own bound on each dimension


@dataclass(frozen=True, slots=True)
class Layout:
    """How the voxels of a NIfTI file lie, all checked.

    Args:
        dtype: stored type with its byte order.
        shape: voxels of one volume along each axis.
        volumes: how many volumes follow each other.
        offset: first byte of the first voxel.
        slope: factor on stored values; 1 when none.
        intercept: what is added after it.
    """

    dtype: np.dtype[Any]
    shape: tuple[int, int, int]
    volumes: int
    offset: int
    slope: float
    intercept: float

    @property
    def volume_bytes(self) -> int:
        """Bytes of one volume."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def is_scaled(self) -> bool:
        """Whether stored values and real values differ."""
        return (self.slope, self.intercept) != (1.0, 0.0)

    @property
    def data_type(self) -> np.dtype[Any]:
        """Type of the voxels in memory: as stored, or a float when they are scaled."""
        stored = self.dtype.newbyteorder("=")
        if not self.is_scaled:
            return stored
        wide = stored.itemsize > 4 or (stored.kind in "iu" and stored.itemsize == 4)
        return np.dtype(np.float64 if wide else np.float32)


def parsed(block: bytes, *, paired: bool, file: str) -> tuple[Any, tuple[str, ...]]:
    """The first bytes of a file as nibabel's header, and what had to be forgiven.

    Args:
        block: the first `HEADER_BYTES` bytes, fewer when the file is shorter.
        paired: whether the file is one of two, ``.hdr`` and ``.img``.
        file: name for messages.

    Raises:
        InputError: ``E-EMPTY``, ``E-TRUNC``, ``E-FORMAT``, ``E-HEADER`` or ``E-PAIR``.
    """
    if not block:
        raise InputError("E-EMPTY", "a file without any bytes", mend=REFETCH, file=file)
    version = _version(block)
    if not version:
        _refuse_foreign(block, paired=paired, file=file)
    if len(block) < _SIZES[version - 1]:
        found = f"{len(block)} bytes, shorter than a header"
        raise InputError("E-TRUNC", found, wanted=f"{_SIZES[version - 1]} or more", mend=REFETCH, file=file)
    headers = {order: _header(block, version, order) for order in "<>"}
    right = [header for header in headers.values() if int(header["sizeof_hdr"]) == _SIZES[version - 1]]
    notes: tuple[str, ...] = ()
    if not right:
        right = [header for header in headers.values() if _is_proven(header, version)]
        notes = (f"the header gives a wrong length of its own; every other field says NIfTI-{version}",)
    if len(right) != 1:
        wanted = f"{_SIZES[version - 1]}, or a header that is right in all else"
        found = f"the header states its own length as {int(headers['<']['sizeof_hdr'])}"
        raise InputError("E-HEADER", found, wanted=wanted, mend=REFETCH, file=file, attribute="sizeof_hdr")
    _refuse_half(right[0], version, paired=paired, file=file)
    return right[0], notes


def _version(block: bytes) -> int:
    """1 or 2 by the magic, where that is; 0 without any."""
    for version, magic in ((2, block[4:8]), (1, block[344:348])):
        if magic in _MAGIC[version - 1]:
            return version
    return 0


def _header(block: bytes, version: int, order: str) -> Any:
    kind: Any = (nib.Nifti1Header, nib.Nifti2Header)[version - 1]
    return kind(block[: _SIZES[version - 1]], endianness=order, check=False)


def _is_proven(header: Any, version: int) -> bool:
    code, offset = int(header["datatype"]), float(header["vox_offset"])
    typed = code in _KINDS and int(header["bitpix"]) == 8 * np.dtype(_KINDS[code]).itemsize
    return typed and 1 <= int(header["dim"][0]) <= 7 and _SIZES[version - 1] + 4 <= offset <= _EXTENSION_LIMIT


def _refuse_foreign(block: bytes, *, paired: bool, file: str) -> None:
    wanted, mend = "NIfTI-1 or NIfTI-2", REFETCH
    if block[128:132] == b"DICM":
        found, mend = "a DICOM file", "Give it its right name, or give the folder of its series."
    elif any(int.from_bytes(block[:4], order) in _SIZES for order in ("little", "big")):
        if len(block) < _SIZES[0]:
            found, wanted = f"{len(block)} bytes, shorter than a header", f"{_SIZES[0]} or more"
            raise InputError("E-TRUNC", found, wanted=wanted, mend=REFETCH, file=file)
        found = f"magic {block[344:348]!r}"
        mend = "Fetch the file again, or convert it from its source."
        if paired:
            found += ", an Analyze header, which does not tell left from right"
    else:
        found = "no NIfTI header"
    raise InputError("E-FORMAT", found, wanted=wanted, mend=mend, file=file)


def _refuse_half(header: Any, version: int, *, paired: bool, file: str) -> None:
    """Refuse a header whose magic says that its voxels are elsewhere than its name says."""
    magic = header.structarr["magic"].item()[:3]
    if (magic == _MAGIC[version - 1][1][:3]) is not paired:
        found = "a header without its voxels" if not paired else "a header that says that its voxels follow it"
        wanted = "both files of the pair, named .hdr and .img" if not paired else "a single file named .nii"
        mend = "Put both files into one folder and give the .hdr." if not paired else "Rename it to .nii."
        raise InputError("E-PAIR", found, wanted=wanted, mend=mend, file=file, attribute="magic")


def read_layout(fields: NDArray[Any], *, paired: bool, file: str) -> tuple[Layout, tuple[str, ...]]:
    """How the voxels lie, and what was noticed on the way.

    Raises:
        InputError: a field breaks a rule.
    """
    dtype = _dtype(fields, file=file)
    shape, volumes = _shape(fields, file=file)
    offset = _offset(fields, paired=paired, file=file)
    slope, intercept = _scale(fields, file=file)
    notes = []
    if (bits := int(fields["bitpix"])) != 8 * dtype.itemsize:
        notes.append(f"bitpix {bits} contradicts the datatype and was ignored")
    if offset > int(fields.dtype.itemsize) + 4 and not paired:
        notes.append(f"{offset - int(fields.dtype.itemsize) - 4} bytes of header extensions were left out")
    return Layout(dtype, shape, volumes, offset, slope, intercept), tuple(notes)


def _dtype(fields: NDArray[Any], *, file: str) -> np.dtype[Any]:
    code = int(fields["datatype"])
    if code in _KINDS:
        return np.dtype(_KINDS[code]).newbyteorder(fields.dtype["datatype"].byteorder)
    words = {"E-COMPLEX": "complex numbers", "E-COLOUR": "colours"}
    kind = _REFUSED.get(code, "E-DTYPE")
    found = f"datatype {code}" + (f", {words[kind]}" if kind in words else "")
    mend = {
        "E-COMPLEX": "Save the magnitude (and the phase) as files of real numbers.",
        "E-COLOUR": "Give the grey image that the colours were made from.",
    }.get(kind, "Save it as integers or floats with the program that wrote it.")
    wanted = "real integers or floats up to 64 bits"
    raise InputError(kind, found, wanted=wanted, mend=mend, file=file, attribute="datatype")


def _shape(fields: NDArray[Any], *, file: str) -> tuple[tuple[int, int, int], int]:
    """Voxels along each axis of one volume, and how many volumes there are."""
    rank = int(fields["dim"][0])
    sizes = [int(n) for n in fields["dim"][1 : rank + 1]] if 1 <= rank <= 7 else []
    if not sizes or min(sizes) < 1:
        found = f"dimensions {sizes}" if sizes else f"{rank} dimensions"
        raise InputError("E-DIM", found, wanted="3 or 4 sizes of at least 1", mend=REFETCH, file=file, attribute="dim")
    if max(sizes[4:], default=1) > 1:
        mend = "Split it into 3D or 4D files of one number a voxel."
        raise InputError("E-5D", f"dimensions {sizes}", wanted="3 or 4", mend=mend, file=file, attribute="dim")
    shape = (*sizes[:3], 1, 1)[:3]
    refuse_thin(shape, file=file)
    volumes = max(sizes[3:4], default=1)
    if volumes > _SERIES_LIMIT:
        wanted = f"at most {_SERIES_LIMIT}"
        raise InputError(
            "E-4D",
            f"{volumes} volumes",
            wanted=wanted,
            mend="Split it into files of fewer volumes.",
            file=file,
            attribute="dim",
        )
    return (shape[0], shape[1], shape[2]), volumes


def _offset(fields: NDArray[Any], *, paired: bool, file: str) -> int:
    offset, first = float(fields["vox_offset"]), 0 if paired else int(fields.dtype.itemsize) + 4
    if not (math.isfinite(offset) and offset.is_integer() and first <= offset <= _EXTENSION_LIMIT):
        wanted = f"a whole number from {first} to {_EXTENSION_LIMIT}"
        found = f"voxels at byte {offset:g}"
        raise InputError("E-HEADER", found, wanted=wanted, mend=REFETCH, file=file, attribute="vox_offset")
    return int(offset)


def _scale(fields: NDArray[Any], *, file: str) -> tuple[float, float]:
    """Slope and intercept, (1, 0) when the header asks for none."""
    slope, intercept = float(fields["scl_slope"]), float(fields["scl_inter"])
    if slope == 0:
        return 1.0, 0.0
    if not (math.isfinite(slope) and math.isfinite(intercept)):
        mend = "Convert it again from its source; if its values are unscaled, set scl_slope to 1 and scl_inter to 0."
        found = f"slope {slope} and intercept {intercept}"
        raise InputError("E-BADSCALE", found, wanted="finite numbers", mend=mend, file=file, attribute="scl_slope")
    return slope, intercept
