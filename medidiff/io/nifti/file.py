"""NIfTI files in.

What no rule settles is refused, never guessed; `medidiff.io.nifti.header` and `medidiff.io.nifti.grid` hold the rules
of the header. Those of the content:

* gzip is recognised by content, not by name. A file is read once, from its first byte to its last: hashed as it is
  read, its header parsed again, every checksum tested (``E-CRC``).
* The size follows from the header and is checked before anything is allocated (``E-TRUNC``, ``E-SIZE``, ``E-BOMB``).
* ``.hdr`` and ``.img`` are read together; a header without NIfTI's magic is refused, for Analyze does not say which
  side is left.
* Each time point of a 4D file is a scan of its own; 4D with one time point is one volume, more dimensions are ``E-5D``.
* Unscaled voxels keep their type; scaled ones become float32, or float64 when stored as float64 or as integers of 32
  bits or more.
* NaN and infinite voxels are refused with their count (``E-NONFINITE``) unless `ReadOptions.on_nan`, and integers
  beyond 2^53 in any case (``E-RANGE``).
* The record beside a scan, if medidiff wrote it, adds the digits that the header's float32 affine lost.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medidiff.errors import InputError
from medidiff.io.contents import SeriesSummary
from medidiff.io.files.stream import Again, Block, Readable, Tracked, refuse_bomb, unpacked, voxels
from medidiff.io.nifti.grid import Grid, read_grid
from medidiff.io.nifti.header import HEADER_BYTES, Layout, parsed, read_layout
from medidiff.io.options import ReadOptions
from medidiff.io.reading import Found, Reading, Scan
from medidiff.io.repairs import finished, refuse_unfaithful
from medidiff.io.sidecar import exact_affine, labels
from medidiff.volume import Geometry

__all__ = ["NiftiHeader", "find_nifti", "read_codes", "read_header", "read_nifti"]

_Stamps = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, slots=True)
class NiftiHeader:
    """The checked header of a NIfTI file.

    Args:
        layout: how the voxels lie.
        grid: where they lie.
        codes: of sform and qform, as stored.
        decisions: choices made while reading, as sentences.
    """

    layout: Layout
    grid: Grid
    codes: tuple[int, int]
    decisions: tuple[str, ...]

    @property
    def geometry(self) -> Geometry:
        """The grid as stored."""
        return self.grid.geometry


def find_nifti(path: Path, options: ReadOptions) -> Found:
    """The volumes of a NIfTI file; a file that breaks a rule above is listed with its problem.

    Args:
        path: a ``.nii`` or ``.nii.gz`` file, or either half of a ``.hdr`` and ``.img`` pair.
        options: which repairs are allowed.
    """
    files: tuple[Path, ...] = (path,)
    try:
        files = _pair(path)
        header, stamps = _find_header(files, options)
    except InputError as error:
        load = partial(read_nifti, path, options)
        return Found("nifti", (Scan(SeriesSummary(files=len(files), problem=str(error)), files, load),))
    summaries = (_summary(path, header, number) for number in range(header.layout.volumes))
    scans = (
        Scan(summary, files, partial(read_nifti, path, options, number=number, stamps=stamps))
        for number, summary in enumerate(summaries)
    )
    return Found("nifti", tuple(scans))


def _summary(path: Path, header: NiftiHeader, number: int) -> SeriesSummary:
    modality, units = labels(path)
    layout = header.layout
    details = {
        "stored type": str(layout.dtype.newbyteorder("=")),
        "slope, intercept": f"{layout.slope:g}, {layout.intercept:g}",
        "sform code": str(header.codes[0]),
        "qform code": str(header.codes[1]),
    }
    if layout.volumes > 1:
        details["volume"] = f"{number + 1} of {layout.volumes}"
    return SeriesSummary(
        files=len(_pair(path)),
        modality=modality,
        units=units,
        dtype=str(layout.data_type),
        details=tuple(details.items()),
        decisions=header.decisions,
    ).on(header.geometry)


def read_header(path: str | Path, options: ReadOptions | None = None) -> NiftiHeader:
    """Read and check the header alone; the voxels are neither read nor allocated.

    Raises:
        InputError: the header breaks a rule above.
    """
    return _find_header(_pair(Path(path)), options or ReadOptions())[0]


def read_codes(path: Path) -> tuple[int, int]:
    """The codes of sform and qform as a file states them, whether or not the transforms are any good."""
    files = _pair(path)
    with unpacked(files[0]) as (_, stream, _):
        fields = parsed(_start(stream), paired=len(files) > 1, file=files[0].name)[0].structarr
    return int(fields["sform_code"]), int(fields["qform_code"])


def _find_header(files: tuple[Path, ...], options: ReadOptions) -> tuple[NiftiHeader, _Stamps]:
    with unpacked(files[0]) as (source, stream, packed):
        header = _checked(_start(stream), files, options)
        stamps = [source.stamp]
        if len(files) == 1:
            _refuse_size(header.layout, source, packed=packed)
    for other in files[1:]:
        with unpacked(other) as (source, _, packed):
            stamps.append(source.stamp)
            _refuse_size(header.layout, source, packed=packed)
    return header, tuple(stamps)


def _start(stream: Readable) -> bytes:
    block = bytearray()
    while len(block) < HEADER_BYTES and (part := stream.read(HEADER_BYTES - len(block))):
        block += part
    return bytes(block)


def _checked(block: bytes, files: tuple[Path, ...], options: ReadOptions) -> NiftiHeader:
    file, paired = files[0].name, len(files) > 1
    raw, forgiven = parsed(block, paired=paired, file=file)
    fields = raw.structarr
    with np.errstate(all="ignore"):  # signalling NaN and numbers out of range are refused by rule, not warned of
        layout, noticed = read_layout(fields, paired=paired, file=file)
        grid = read_grid(raw, layout.shape, options=options, file=file)
    codes = int(fields["sform_code"]), int(fields["qform_code"])
    return NiftiHeader(layout, grid, codes, (*grid.decisions, *forgiven, *noticed))


def _refuse_size(layout: Layout, source: Tracked, *, packed: bool) -> None:
    needed = layout.offset + layout.volumes * layout.volume_bytes
    refuse_bomb(needed, held=source.size, packed=packed, file=source.file)


def _pair(path: Path) -> tuple[Path, ...]:
    """The file itself, or header and voxels when its name is that of one half of a pair.

    Raises:
        InputError: ``E-PAIR``, the other half is not there.
    """
    name = path.name
    packed = name[-3:] if name.lower().endswith(".gz") else ""
    stem, ending = name[: len(name) - len(packed) - 4], name[len(name) - len(packed) - 4 : len(name) - len(packed)]
    if ending.lower() not in (".hdr", ".img"):
        return (path,)
    other = ".img" if ending.lower() == ".hdr" else ".hdr"
    endings = [form + tail for form in (other, other.upper()) for tail in (packed, "" if packed else ".gz")]
    found = [path.with_name(stem + end) for end in endings if path.with_name(stem + end).is_file()]
    if not found:
        what = "a header without its voxels" if other == ".img" else "voxels without their header"
        mend = "Put both files into one folder."
        raise InputError("E-PAIR", what, wanted=f"a file of the same name ending in {other}", mend=mend, file=name)
    return (path, found[0]) if other == ".img" else (found[0], path)


def read_nifti(path: Path, options: ReadOptions, *, number: int = 0, stamps: _Stamps | None = None) -> Reading:
    """Read one volume of a NIfTI file.

    Args:
        path: as in `find_nifti`.
        options: which repairs are allowed.
        number: which volume of a 4D file, from 0.
        stamps: what the files looked like when they were found.

    Returns:
        The scan in its stored axis order. Modality and units come from the JSON record beside it, when there is one.

    Raises:
        InputError: the file breaks a rule above.
    """
    files = _pair(path)
    header, stored, digests, left = _loaded(files, options, number=number, stamps=stamps or (None,) * len(files))
    refuse_unfaithful(stored, file=path.name)
    geometry, exact = exact_affine(path, header.geometry, transform=header.grid.transform)
    volume, notes = finished(_scaled(stored, header.layout), geometry, path, options)
    part = (f"volume {number + 1} of {header.layout.volumes}",) if header.layout.volumes > 1 else ()
    return Reading(volume, files, digests, decisions=(*part, *header.decisions, *exact, *left, *notes))


def _loaded(
    files: tuple[Path, ...], options: ReadOptions, *, number: int, stamps: tuple[tuple[int, int, int] | None, ...]
) -> tuple[NiftiHeader, NDArray[Any], tuple[str, ...], tuple[str, ...]]:
    """Header, stored voxels, the hash of each file, each read once, and what was noticed."""
    with unpacked(files[0], stamps[0]) as (source, stream, packed):
        start = _start(stream)
        header = _checked(start, files, options)
        layout = header.layout
        before = layout.offset + number * layout.volume_bytes
        behind = (layout.volumes - number - 1) * layout.volume_bytes
        if len(files) == 1:
            _refuse_size(layout, source, packed=packed)
            where = Block(layout.dtype, layout.shape, skip=before, rest=behind)
            stored, notes = voxels(Again(start, stream), where, file=source.file)
            return header, stored, (source.sha256(),), notes
        first = source.sha256()
    with unpacked(files[1], stamps[1]) as (source, stream, packed):
        _refuse_size(layout, source, packed=packed)
        where = Block(layout.dtype, layout.shape, skip=before, rest=behind)
        stored, notes = voxels(stream, where, file=source.file)
        return header, stored, (first, source.sha256()), notes


def _scaled(stored: NDArray[Any], layout: Layout) -> NDArray[Any]:
    """Real values, plane by plane, so that float64 intermediates stay small."""
    if not layout.is_scaled:
        return stored
    values: NDArray[Any] = np.empty(stored.shape, dtype=layout.data_type, order="F")
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows is refused as non-finite
        for k in range(stored.shape[2]):
            values[..., k] = stored[..., k].astype(np.float64) * layout.slope + layout.intercept
    return values
