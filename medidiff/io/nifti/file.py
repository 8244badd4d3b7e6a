"""NIfTI files: the rules of reading and writing.

Reading, by rule and in this order; what no rule settles is refused, never guessed:

* **type**: real integers and floats; complex ``E-COMPLEX``, colour ``E-COLOUR``, others ``E-DTYPE``.
* **shape**: one volume of at least 2 voxels along each axis; 4D with one time point counts as one volume.
* **units**: millimetres; 0 (unknown) is taken as mm; metres, microns and others are refused (``E-UNITS``), because
  tools disagree on whether such a header scales the affine.
* **grid**: sform if its code is above 0, else qform if its code is above 0, else ``E-NOXFORM``. When both codes are
  set, the farthest corner may differ by at most 0.1 mm or 1.25e-3 of the grid's diagonal, else ``E-XFORM``: turns near
  180 degrees are common in scans, and their float32 quaternion is off by up to 1.2e-3. The lengths of the sform's axes
  agree with pixdim to 1 %, else ``E-XFORM``. Shear is ``E-SHEAR``.
* **scale**: ``scl_slope`` 0 means none; a NaN or infinite slope or intercept is ``E-BADSCALE``. Unscaled voxels keep
  their type; scaled ones become float32, or float64 when stored as float64 or as integers of 32 bits or more.
* **bytes**: the size follows from the header and is checked before anything is allocated; a gzip stream is read to its
  end, so that its checksum is tested (``E-CRC``). gzip is recognised by content, not by name.
* **values**: NaN and infinite voxels are refused with their count (``E-NONFINITE``), and so are integers beyond 2^53
  (``E-RANGE``).

Writing: the volume's own axis order and orientation; sform and qform both set, with the codes of the `like` file or 1
(scanner); a qform that would break the rule above gets code 0. Units mm, slope 1. Integers keep their type, everything
else is float32. NIfTI-1, unless its float32 affine would move a corner by more than 1e-4 mm or an axis is longer than
32,767: then NIfTI-2. The description says ``medidiff; research use only``; nothing else of an old header is carried
over.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from medidiff.errors import InputError, OutputError
from medidiff.io.contents import SeriesSummary
from medidiff.io.files.atomic import output_errors, refuse_source, sha256, write_file
from medidiff.io.files.checks import REFETCH, refuse_large, refuse_nonfinite, refuse_shear, refuse_thin
from medidiff.io.nifti.header import (
    NiftiHeader,
    checked_dtype,
    checked_geometry,
    checked_scale,
    checked_shape,
    checked_spacing,
    xform_tolerance_mm,
)
from medidiff.io.options import ReadOptions
from medidiff.io.reading import Found, Reading, Scan
from medidiff.io.sidecar import ensure_provenance, labels, record_path, refuse_foreign_record, write_record
from medidiff.volume import Geometry, Provenance, Volume

__all__ = ["find_nifti", "read_header", "read_nifti", "write_nifti"]

_SIZES = (348, 540)  # length of the header of NIfTI-1 and NIfTI-2
_FLOAT32_TOLERANCE_MM = 1e-4
_TAIL_LIMIT = 2**24  # bytes that may follow the voxels in a gzip stream before it is taken for a bomb
_DEFLATE_LIMIT = 1032  # zlib's own bound: a stream never grows by more than this factor


def find_nifti(path: Path, options: ReadOptions) -> Found:
    """The one scan of a NIfTI file; a file that breaks a rule above is listed with its problem.

    Args:
        path: a ``.nii`` or ``.nii.gz`` file; compression is recognised by content.
        options: which repairs are allowed.
    """
    try:
        summary = _summary(path, read_header(path))
    except InputError as error:
        summary = SeriesSummary(files=1, problem=str(error))
    return Found("nifti", (Scan(summary, (path,), lambda: read_nifti(path, options)),))


def _summary(path: Path, header: NiftiHeader) -> SeriesSummary:
    modality, units = labels(path)
    details = {
        "stored type": str(header.dtype.newbyteorder("=")),
        "slope, intercept": f"{header.slope:g}, {header.intercept:g}",
        "sform code": str(header.sform_code),
        "qform code": str(header.qform_code),
    }
    return SeriesSummary(
        files=1,
        modality=modality,
        units=units,
        dtype=str(header.data_type),
        details=tuple(details.items()),
        decisions=header.decisions,
    ).on(header.geometry)


def read_nifti(path: Path, options: ReadOptions) -> Reading:
    """Read one NIfTI file.

    Args:
        path: a ``.nii`` or ``.nii.gz`` file; compression is recognised by content.
        options: which repairs are allowed.

    Returns:
        The scan in its stored axis order. Modality and units come from the JSON record beside it, when there is one.

    Raises:
        InputError: the file breaks a rule above.
    """
    header = read_header(path)
    data = _scaled(_stored_voxels(path, header), header, file=path.name)
    refuse_nonfinite(data, file=path.name)
    modality, units = labels(path)
    volume = Volume(data, header.geometry, modality, units)
    return Reading(volume, (path,), (sha256(path),), decisions=header.decisions)


def read_header(path: str | Path) -> NiftiHeader:
    """Read and check the header alone; the voxels are neither read nor allocated.

    Raises:
        InputError: the header breaks a rule above.
    """
    path = Path(path)
    raw = _raw_header(path)
    fields = raw.structarr
    dtype = checked_dtype(fields, file=path.name)
    shape = checked_shape(fields, file=path.name)
    pixdim = checked_spacing(fields, file=path.name)
    qform = _qform(raw, file=path.name)
    geometry, decisions = checked_geometry(fields, shape, pixdim=pixdim, qform=qform, file=path.name)
    slope, intercept = checked_scale(fields, file=path.name)
    offset = _offset(fields, path, needed=math.prod(shape) * dtype.itemsize)
    codes = int(fields["sform_code"]), int(fields["qform_code"])
    return NiftiHeader(geometry, dtype, slope, intercept, offset, *codes, decisions)


def _is_gzip(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(2) == b"\x1f\x8b"


@contextmanager
def _reading(path: Path) -> Iterator[IO[bytes]]:
    """The uncompressed bytes of a file; a broken gzip stream becomes an `InputError`."""
    try:
        with cast("IO[bytes]", gzip.open(path, "rb")) if _is_gzip(path) else path.open("rb") as stream:
            yield stream
    except EOFError as error:
        raise InputError("E-TRUNC", "the gzip stream ends too early", mend=REFETCH, file=path.name) from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise InputError("E-CRC", "the gzip stream is damaged", mend=REFETCH, file=path.name) from error


def _raw_header(path: Path) -> Any:
    with _reading(path) as stream:
        block = stream.read(540)
    version, order = _version(block)
    _refuse_foreign(block, version, path=path)
    kind: Any = (nib.Nifti1Header, nib.Nifti2Header)[version - 1]
    return kind(block[: _SIZES[version - 1]], endianness=order, check=False)


def _version(block: bytes) -> tuple[int, str]:
    """NIfTI version and byte order, told by the header's first field, its own length; 0 when it tells nothing."""
    for order in ("<", ">"):
        length = struct.unpack(f"{order}i", block[:4].ljust(4, b"\0"))[0]
        if length in _SIZES:
            return _SIZES.index(length) + 1, order
    return 0, "<"


def _refuse_foreign(block: bytes, version: int, *, path: Path) -> None:
    magic = block[4:8] if version == 2 else block[344:348]
    file = path.name
    if not block:
        raise InputError("E-EMPTY", "a file without any bytes", mend=REFETCH, file=file)
    if version and len(block) < _SIZES[version - 1]:
        raise InputError("E-TRUNC", f"{len(block)} bytes, shorter than a header", mend=REFETCH, file=file)
    if not version and magic in (b"n+1\0", b"ni1\0"):
        raise InputError("E-HEADER", "a header length that is neither 348 nor 540", file=file, attribute="sizeof_hdr")
    if magic in (b"ni1\0", b"ni2\0") or path.suffix.lower() in (".hdr", ".img"):
        mend = "Join both files into one .nii.gz first."
        raise InputError("E-PAIR", "one half of a two-file image", wanted="a single file", mend=mend, file=file)
    if not version or magic not in (b"n+1\0", b"n+2\0"):
        found = "a DICOM file" if block[128:132] == b"DICM" else "no NIfTI header"
        raise InputError("E-FORMAT", found, wanted="NIfTI-1 or NIfTI-2 in one file", file=file)


def _qform(raw: Any, *, file: str) -> NDArray[np.float64] | None:
    if int(raw["qform_code"]) <= 0:
        return None
    raw = raw.copy()
    if raw["pixdim"][0] == 0:  # the standard reads 0 as 1
        raw["pixdim"][0] = 1
    try:
        return np.asarray(raw.get_qform(), dtype=np.float64)
    except (nib.spatialimages.HeaderDataError, ValueError) as error:
        raise InputError("E-XFORM", "a quaternion that is no rotation", file=file, attribute="qform") from error


def _offset(fields: NDArray[Any], path: Path, *, needed: int) -> int:
    refuse_large(needed, file=path.name)
    offset, first = float(fields["vox_offset"]), int(fields["sizeof_hdr"]) + 4
    if not (np.isfinite(offset) and offset.is_integer() and first <= offset <= 2**31):
        found = f"voxels at byte {offset}"
        raise InputError("E-HEADER", found, wanted=f"{first} or more", file=path.name, attribute="vox_offset")
    held = path.stat().st_size
    if _is_gzip(path):
        if needed + offset > held * _DEFLATE_LIMIT:
            found = f"{needed} bytes of voxels declared on {held} compressed bytes"
            raise InputError("E-SIZE", found, mend=REFETCH, file=path.name)
    elif needed + offset > held:
        _refuse_short(held - int(offset), needed, file=path.name)
    return int(offset)


def _refuse_short(found: int, needed: int, *, file: str) -> None:
    raise InputError("E-TRUNC", f"{max(found, 0)} bytes of voxels", wanted=f"{needed}", mend=REFETCH, file=file)


def _stored_voxels(path: Path, header: NiftiHeader) -> NDArray[Any]:
    needed = int(np.prod(header.geometry.shape)) * header.dtype.itemsize
    with _reading(path) as stream:
        stream.seek(header.offset)
        content = stream.read(needed)
        if len(content) < needed:
            _refuse_short(len(content), needed, file=path.name)
        if _is_gzip(path):
            _drain(stream, file=path.name)
    stored: NDArray[Any] = np.frombuffer(content, dtype=header.dtype).reshape(header.geometry.shape, order="F")
    native: NDArray[Any] = stored.astype(header.dtype.newbyteorder("="), copy=False)
    return native


def _drain(stream: IO[bytes], *, file: str) -> None:
    """Read a gzip stream to its end, where its checksum is compared."""
    tail = 0
    while block := stream.read(2**20):
        tail += len(block)
        if tail > _TAIL_LIMIT:
            raise InputError("E-BOMB", f"more than {_TAIL_LIMIT} bytes behind the voxels", mend=REFETCH, file=file)


def _scaled(stored: NDArray[Any], header: NiftiHeader, *, file: str) -> NDArray[Any]:
    if stored.dtype.itemsize == 8 and stored.dtype.kind in "iu" and max(int(stored.max()), -int(stored.min())) > 2**53:
        raise InputError("E-RANGE", "integers beyond 2^53", wanted="values that a float can hold", file=file)
    if not header.is_scaled:
        return stored
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows is refused as non-finite
        scaled = stored.astype(np.float64) * header.slope + header.intercept
        values: NDArray[Any] = scaled.astype(header.data_type)
    return values


def write_nifti(
    volume: Volume,
    path: str | Path,
    *,
    like: str | Path | None = None,
    provenance: Provenance | None = None,
    description: str = "",
) -> list[Path]:
    """Write a scan as NIfTI with its JSON record; both are whole or absent.

    Args:
        volume: one channel.
        path: ends in ``.nii`` or ``.nii.gz``; its folder is made when missing.
        like: a NIfTI file whose transform codes are kept.
        provenance: how the scan was made.
        description: one sentence for the record.

    Returns:
        The NIfTI file and the record.

    Raises:
        OutputError: the volume or the path cannot be written, or what was read back differs.
    """
    path = Path(path)
    codes = _codes(path, like)
    data = _writable(volume, file=path.name)
    refuse_foreign_record(record_path(path))
    image = _image(data, volume.geometry, codes=codes)
    exact = isinstance(image, nib.Nifti2Image)
    grid = Geometry(volume.shape, image.affine if exact else _float32(image.affine))
    with output_errors(path.name):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, image.to_filename, verify=lambda name: _verify(name, data, grid, file=path.name))
    write_record(record_path(path), volume, provenance=ensure_provenance(provenance, ()), description=description)
    return [path, record_path(path)]


def _codes(path: Path, like: str | Path | None) -> tuple[int, int]:
    """Codes of sform and qform: those of `like`, the one that is set standing in for one that is not."""
    if like is None:
        return 1, 1
    refuse_source(path, [Path(like)])
    source = read_header(like)
    return source.sform_code or source.qform_code, source.qform_code or source.sform_code


def _writable(volume: Volume, *, file: str) -> NDArray[Any]:
    if volume.data.shape[0] != 1:
        raise OutputError("E-4D", f"{volume.data.shape[0]} channels", wanted="one", mend="Write each apart.", file=file)
    refuse_thin(volume.shape, file=file, error=OutputError)
    refuse_shear(volume.geometry, file=file, error=OutputError)
    refuse_nonfinite(volume.data, file=file, error=OutputError)
    data: NDArray[Any] = volume.data[0]
    if data.dtype.kind in "iu":
        return data
    limit = np.finfo(np.float32).max
    if data.dtype == np.float64 and max(data.max(), -data.min()) > limit:
        raise OutputError("E-RANGE", "values beyond what float32 holds", wanted=f"at most {limit:.3g}", file=file)
    return data.astype(np.uint8 if data.dtype.kind == "b" else np.float32)


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
    if geometry.distance_mm(Geometry(geometry.shape, image.get_qform())) > 0.99 * xform_tolerance_mm(geometry):
        image.set_qform(geometry.affine, code=0)
    return image


def _verify(name: Path, data: NDArray[Any], grid: Geometry, *, file: str) -> None:
    header = read_header(name)
    same = not header.is_scaled and np.array_equal(_stored_voxels(name, header), data)
    if not same or header.geometry.distance_mm(grid) > 1e-6:
        found = "what was read back differs from what was written"
        raise OutputError("E-VERIFY", found, mend="Check the disk and run the command again.", file=file)
