"""NRRD and MetaImage in and out; the only door of SimpleITK.

Both formats keep a text header in front of the voxels. It is read first, because SimpleITK invents what it does not
find: a file that states no orientation is refused (``E-NOXFORM``), as is one with fewer bytes than its header declares
(``E-TRUNC``). Voxels in a second file (``.nhdr``, ``.mhd``) are read from the same folder only.
"""

from __future__ import annotations

import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK
from numpy.typing import NDArray

from medidiff.errors import InputError, OutputError
from medidiff.io.contents import SeriesSummary
from medidiff.io.files.atomic import output_errors, refuse_source, sha256, write_file
from medidiff.io.files.checks import REFETCH, refuse_large, refuse_nonfinite, refuse_shear, refuse_thin
from medidiff.io.options import ReadOptions
from medidiff.io.reading import Found, Reading, Scan
from medidiff.io.sidecar import ensure_provenance, labels, record_path, refuse_foreign_record, write_record
from medidiff.volume import Geometry, Provenance, Volume

__all__ = ["find_sitk", "read_geometry", "read_sitk", "source_files", "write_sitk"]

sitk: Any = SimpleITK  # its functions carry no types
_LPS_TO_RAS = np.diag((-1.0, -1.0, 1.0, 1.0))
_SPACES = ("left-posterior-superior", "lps", "right-anterior-superior", "ras", "left-anterior-superior", "las")


def find_sitk(path: Path, options: ReadOptions, *, format: str) -> Found:
    """The one scan of an NRRD or MetaImage file; one that cannot be read is listed with its problem."""
    files: tuple[Path, ...] = (path,)
    try:
        geometry, dtype = read_geometry(path)
        modality, units = labels(path)
        files = tuple(source_files(path))
        summary = SeriesSummary(len(files), modality, units, str(dtype)).on(geometry)
    except InputError as error:
        summary = SeriesSummary(files=len(files), problem=str(error))
    return Found(format, (Scan(summary, files, lambda: read_sitk(path, options)),))


def read_sitk(path: Path, options: ReadOptions) -> Reading:
    """Read one NRRD or MetaImage file.

    Raises:
        InputError: the file is not one whole 3D volume of real numbers with a stated grid.
    """
    geometry, dtype = read_geometry(path)
    fields, start = _header(path)
    _check_bytes(path, fields, start=start, needed=math.prod(geometry.shape) * dtype.itemsize)
    try:
        image = sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise InputError("E-TRUNC", "voxels that cannot be read", mend=REFETCH, file=path.name) from error
    data: NDArray[Any] = sitk.GetArrayFromImage(image).T
    refuse_nonfinite(data, file=path.name)
    files = tuple(source_files(path))
    volume = Volume(data, geometry, *labels(path))
    return Reading(volume, files, tuple(sha256(file) for file in files))


def read_geometry(path: str | Path) -> tuple[Geometry, np.dtype[Any]]:
    """The grid and the voxel type, from the header alone.

    Raises:
        InputError: as `read_sitk`, as far as the header tells.
    """
    path = Path(path)
    fields, _ = _header(path)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise InputError("E-FORMAT", "a header that cannot be read", mend=REFETCH, file=path.name) from error
    dtype = _dtype(reader, file=path.name)
    shape = _shape(reader, file=path.name)
    refuse_large(math.prod(shape) * dtype.itemsize, file=path.name)
    _refuse_unstated(fields, file=path.name)
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(reader.GetDirection(), (3, 3)) * reader.GetSpacing()
    affine[:3, 3] = reader.GetOrigin()
    geometry = Geometry(shape, _LPS_TO_RAS @ affine)
    refuse_shear(geometry, file=path.name)
    return geometry, dtype


def _refuse_unstated(fields: dict[str, str], *, file: str) -> None:
    """Refuse a header without spacing, directions and origin, for which SimpleITK would take 1, axes and 0."""
    nrrd = {"space directions", "space origin"} <= set(fields) and fields.get("space", "").lower() in _SPACES
    wanted = ({"TransformMatrix", "Orientation", "Rotation"}, {"Offset", "Origin", "Position"}, {"ElementSpacing"})
    if not nrrd and not all(names & set(fields) for names in wanted):
        mend = "Write the file again with its spacing, directions and origin."
        raise InputError("E-NOXFORM", "no stated grid", wanted="a stated grid", mend=mend, file=file)


def source_files(path: Path) -> list[Path]:
    """The files that hold a scan: the header, then the file of voxels when it is a second one."""
    fields, _ = _header(path)
    name = fields.get("data file") or fields.get("datafile") or fields.get("ElementDataFile", "LOCAL")
    if name.upper() == "LOCAL":
        return [path]
    other = path.parent / name
    if Path(name).name != name or not other.is_file():
        mend = "Put both files into one folder."
        raise InputError("E-PAIR", "the file of voxels is not beside its header", mend=mend, file=path.name)
    return [path, other]


def _header(path: Path) -> tuple[dict[str, str], int]:
    """Fields of the text header, and the byte behind it."""
    with path.open("rb") as stream:
        block = stream.read(2**16)
    nrrd = block.startswith(b"NRRD")
    fields: dict[str, str] = {}
    at = 0
    for line in block.split(b"\n"):
        at += len(line) + 1
        text = line.decode("latin-1").strip()
        key, _, value = text.partition(":" if nrrd else "=")
        if not text.startswith("#"):
            fields[key.strip()] = value.strip()
        if (nrrd and not text) or (not nrrd and key.strip() == "ElementDataFile"):
            break
    return fields, at


def _check_bytes(path: Path, fields: dict[str, str], *, start: int, needed: int) -> None:
    """Refuse voxels that are too few or whose compressed stream is damaged; SimpleITK would make them up."""
    files = source_files(path)
    skip = start if len(files) == 1 else 0
    held = files[-1].stat().st_size - skip
    packed = _packing(fields, file=path.name)
    if needed > held * (1032 if packed else 1):
        raise InputError("E-TRUNC", f"{held} bytes of voxels", wanted=f"{needed}", mend=REFETCH, file=path.name)
    if packed:
        with files[-1].open("rb") as stream:
            stream.seek(skip)
            _check_stream(stream.read(), needed, file=path.name)


def _packing(fields: dict[str, str], *, file: str) -> bool:
    """Whether the voxels are compressed; layouts that this reader does not know are refused."""
    encoding = fields.get("encoding", "raw").lower()
    odd = {"line skip", "lineskip", "byte skip", "byteskip"} & set(fields) or fields.get("HeaderSize", "0") != "0"
    if encoding not in ("raw", "gzip", "gz") or fields.get("BinaryData", "True").lower() != "true" or odd:
        found = "voxels as text, in an unknown compression or behind a second header"
        raise InputError("E-FORMAT", found, wanted="raw or gzip", mend="Write it again.", file=file)
    return encoding != "raw" or fields.get("CompressedData", "").lower() == "true"


def _check_stream(packed: bytes, needed: int, *, file: str) -> None:
    try:
        unpacker = zlib.decompressobj(wbits=47)  # zlib or gzip, as it comes
        count = len(unpacker.decompress(packed, needed + 1))
    except zlib.error as error:
        raise InputError("E-CRC", "the compressed voxels are damaged", mend=REFETCH, file=file) from error
    if count != needed or not unpacker.eof:
        raise InputError("E-TRUNC", f"{count} bytes of voxels", wanted=f"{needed}", mend=REFETCH, file=file)


def _dtype(reader: Any, *, file: str) -> np.dtype[Any]:
    name = sitk.GetPixelIDValueAsString(reader.GetPixelID())
    if reader.GetNumberOfComponents() != 1:
        code = "E-COMPLEX" if "complex" in name else "E-COLOUR"
        raise InputError(code, f"voxels of type {name}", wanted="one real number each", file=file)
    kinds = {"signed": "i", "unsigned": "u"}
    words = name.replace("-bit", "").split()
    if len(words) == 3 and words[2] == "integer" and words[1] in kinds:
        return np.dtype(f"{kinds[words[1]]}{int(words[0]) // 8}")
    if words[-1] == "float":
        return np.dtype(f"f{int(words[0]) // 8}")
    raise InputError("E-DTYPE", f"voxels of type {name}", wanted="real integers or floats", file=file)


def _shape(reader: Any, *, file: str) -> tuple[int, int, int]:
    sizes = reader.GetSize()
    if len(sizes) != 3:
        code = "E-4D" if len(sizes) > 3 else "E-2D"
        raise InputError(code, f"{len(sizes)} dimensions", wanted="3", mend="Give one volume.", file=file)
    refuse_thin(sizes, file=file)
    return int(sizes[0]), int(sizes[1]), int(sizes[2])


def write_sitk(
    volume: Volume,
    path: str | Path,
    *,
    like: str | Path | None = None,
    provenance: Provenance | None = None,
    description: str = "",
) -> list[Path]:
    """Write a scan as NRRD or MetaImage with its JSON record; integers keep their type, the rest is float32.

    Args:
        volume: one channel.
        path: ends in ``.nrrd`` or ``.mha``; its folder is made when missing.
        like: the source, which is never written over.
        provenance: how the scan was made.
        description: one sentence for the record.

    Raises:
        OutputError: the volume or the path cannot be written, or what was read back differs.
    """
    path = Path(path)
    if volume.data.shape[0] != 1:
        raise OutputError("E-4D", f"{volume.data.shape[0]} channels", wanted="one", file=path.name)
    refuse_thin(volume.shape, file=path.name, error=OutputError)
    refuse_shear(volume.geometry, file=path.name, error=OutputError)
    refuse_nonfinite(volume.data, file=path.name, error=OutputError)
    refuse_source(path, [] if like is None else [Path(like)])
    refuse_foreign_record(record_path(path))
    image = _image(volume)
    with output_errors(path.name):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, lambda name: sitk.WriteImage(image, str(name), True), verify=lambda name: _verify(name, volume))
    write_record(record_path(path), volume, provenance=ensure_provenance(provenance, ()), description=description)
    return [path, record_path(path)]


def _stored(volume: Volume) -> NDArray[Any]:
    data: NDArray[Any] = volume.data[0]
    if data.dtype.kind not in "iu":
        data = data.astype(np.uint8 if data.dtype.kind == "b" else np.float32)
    return data


def _image(volume: Volume) -> Any:
    image = sitk.GetImageFromArray(np.ascontiguousarray(_stored(volume).T))
    affine = _LPS_TO_RAS @ volume.geometry.affine
    spacing = np.asarray(volume.geometry.spacing_mm)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((affine[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    return image


def _verify(name: Path, volume: Volume) -> None:
    again = read_sitk(name, ReadOptions()).volume
    same = np.array_equal(again.data[0], _stored(volume)) and again.geometry.distance_mm(volume.geometry) <= 1e-4
    if not same:
        raise OutputError("E-VERIFY", "what was read back differs from what was written", mend="Check the disk.")
