"""NRRD and MetaImage in and out; the only door of SimpleITK.

Both formats keep a text header in front of the voxels. SimpleITK invents what it does not find there (spacing 1, axes,
origin 0, zeros for lost voxels), so headers and voxels are read here, strictly, by `medidiff.io.text`; SimpleITK
writes, and what it wrote is read again and compared. The rules of the content are those of NIfTI: a file is read once
and hashed as it is read, sizes are checked before anything is allocated, NaN, shear and a missing transform need a
named option, each volume of a series is a scan. Voxels in a second file (``.nhdr``, ``.mhd``) are read from the same
folder only.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK
from numpy.typing import NDArray

from medidiff.errors import InputError, OutputError
from medidiff.io.contents import SeriesSummary
from medidiff.io.files.atomic import write_file
from medidiff.io.files.checks import REFETCH, refuse_shear
from medidiff.io.files.stream import Again, Block, Inflated, Readable, Tracked, refuse_bomb, voxels
from medidiff.io.options import ReadOptions
from medidiff.io.reading import Found, Reading, Scan
from medidiff.io.repairs import finished, refuse_tilt, refuse_unfaithful
from medidiff.io.sidecar import ensure_provenance, labels
from medidiff.io.text.header import HEADER_LIMIT, Stated
from medidiff.io.text.metaimage import read_metaimage
from medidiff.io.text.nrrd import read_nrrd
from medidiff.io.written import Output, prepared, stored_voxels
from medidiff.volume import Geometry, Provenance, Volume

__all__ = ["find_sitk", "read_sitk", "write_sitk"]

sitk: Any = SimpleITK  # its functions carry no types
_MARK = ("medidiff", "research use only")  # a field of the header, by which `medidiff.io.own` knows the file
_LPS_TO_RAS = np.diag((-1.0, -1.0, 1.0, 1.0))
_Stamps = Sequence[tuple[int, int, int] | None]


class _Open:
    """An open file of one of the formats: its header, its grid, and where its voxels begin.

    Args:
        path: the header, with the voxels behind it or named in it.
        options: which repairs are allowed.
        stamps: what the files looked like when they were found; empty when they are new to us.
        stack: closes the files.

    Raises:
        InputError: the header breaks a rule, or the file is too short for it.
    """

    def __init__(self, path: Path, options: ReadOptions, *, stamps: _Stamps, stack: ExitStack) -> None:
        name = path.name
        source = stack.enter_context(Tracked(path, stamps[0] if stamps else None))
        text, rest, nrrd = _split(source)
        self.stated = read_nrrd(text, file=name) if nrrd else read_metaimage(text, file=name)
        self.geometry, self.decisions = _geometry(self.stated, options, file=name)
        self.sources, self.stream = [source], Again(rest, source)
        self.paths: tuple[Path, ...] = (path,)
        held = source.size - len(text)
        if self.stated.data_file:
            other = _beside(path, self.stated.data_file)
            self.sources.append(stack.enter_context(Tracked(other, stamps[1] if stamps else None)))
            self.paths, held = (path, other), self.sources[1].size
            self.stream = Again(b"", self.sources[1])
        needed = self.block(0).count * (1 if self.stated.alternating else self.stated.volumes)
        refuse_bomb(needed, held=held, packed=self.stated.packed, file=self.sources[-1].file)

    def block(self, number: int) -> Block:
        """Where one volume lies."""
        stated = self.stated
        if stated.alternating:
            return Block(stated.dtype, stated.shape, every=stated.volumes, pick=number)
        one = Block(stated.dtype, stated.shape).count
        rest = (stated.volumes - number - 1) * one
        return Block(stated.dtype, stated.shape, skip=number * one, rest=rest)

    def voxels(self, number: int) -> tuple[NDArray[Any], tuple[str, ...]]:
        """One volume, and what was noticed; the file is then at its end."""
        file = self.sources[-1].file
        stream: Readable = Inflated(self.stream, file=file) if self.stated.packed else self.stream
        return voxels(stream, self.block(number), file=file)


def _split(source: Tracked) -> tuple[bytes, bytes, bool]:
    """The text of a header, the bytes behind it that were read along, and whether it is NRRD."""
    block = bytearray()
    end, nrrd = 0, False
    while not end and len(block) < HEADER_LIMIT and (part := source.read(2**16)):
        block += part
        nrrd = block.startswith(b"NRRD")
        end = _end(bytes(block), nrrd=nrrd)
    if not end and not nrrd and len(block) < HEADER_LIMIT:
        end = len(block)  # the last line of an .mhd may lack its end
    if not end:
        found = "a text header without an end"
        raise InputError("E-HEADER", found, wanted="an end and voxels", mend=REFETCH, file=source.file)
    return bytes(block[:end]), bytes(block[end:]), nrrd


def _end(block: bytes, *, nrrd: bool) -> int:
    """The byte behind a header, 0 when it does not end in this block."""
    if nrrd:
        ends = [at + len(mark) for mark in (b"\n\n", b"\r\n\r\n") if (at := block.find(mark)) >= 0]
        return min(ends, default=0)
    line = block.find(b"\nElementDataFile")
    return block.find(b"\n", line + 1) + 1 if line >= 0 else 0


def _geometry(stated: Stated, options: ReadOptions, *, file: str) -> tuple[Geometry, tuple[str, ...]]:
    if stated.affine is not None:
        try:
            geometry = Geometry(stated.shape, stated.affine)
        except InputError as error:
            raise InputError("E-XFORM", error.found, wanted=error.wanted, mend=REFETCH, file=file) from error
        return geometry, (*refuse_tilt(geometry, options, file=file), *stated.notes)
    if not options.assume_affine:
        found = f"no stated grid: {stated.missing} missing"
        mend = "Write the file again with its grid, or pass --assume-affine to take the axes as RAS+."
        raise InputError("E-NOXFORM", found, wanted="spacing, directions and origin", mend=mend, file=file)
    if not stated.spacing_mm:
        mend = "Write the file again with its voxel sizes."
        raise InputError("E-BADSPACING", "no voxel sizes", wanted="three above 0", mend=mend, file=file)
    sizes = " x ".join(f"{size:.4g}" for size in stated.spacing_mm)
    note = f"no transform: voxels of {sizes} mm, axes taken as RAS+, origin at the centre of the grid (--assume-affine)"
    return Geometry.regular(stated.shape, spacing_mm=stated.spacing_mm), (note, *stated.notes)


def _beside(path: Path, name: str) -> Path:
    """The file of the voxels, which must lie beside its header."""
    other = path.parent / name
    if "%" in name or name.upper().split()[0] == "LIST":
        mend = "Write it again with its voxels in one file."
        raise InputError("E-PAIR", "voxels in several files", wanted="one file", mend=mend, file=path.name)
    plain = Path(name).name == name and "\\" not in name and "\0" not in name
    if not plain or not other.is_file() or other.samefile(path) or other.resolve().parent != path.parent.resolve():
        found, wanted = "the file of the voxels is not beside its header", "a plain name in the same folder"
        raise InputError("E-PAIR", found, wanted=wanted, mend="Put both files into one folder.", file=path.name)
    return other


def find_sitk(path: Path, options: ReadOptions, *, format: str) -> Found:
    """The volumes of an NRRD or MetaImage file; one that cannot be read is listed with its problem.

    Args:
        path: the file, or the header of two.
        options: which repairs are allowed.
        format: ``"nrrd"`` or ``"metaimage"``.
    """
    try:
        with ExitStack() as stack:
            found = _Open(path, options, stamps=(), stack=stack)
            stamps = tuple(source.stamp for source in found.sources)
    except InputError as error:
        summary = SeriesSummary(files=1, problem=str(error))
        return Found(format, (Scan(summary, (path,), partial(read_sitk, path, options)),))
    scans = []
    for number in range(found.stated.volumes):
        load = partial(read_sitk, path, options, number=number, stamps=stamps)
        scans.append(Scan(_summary(path, found, number), found.paths, load))
    return Found(format, tuple(scans))


def _summary(path: Path, found: _Open, number: int) -> SeriesSummary:
    stated = found.stated
    part = ((("volume", f"{number + 1} of {stated.volumes}"),)) if stated.volumes > 1 else ()
    modality, units = labels(path)
    return SeriesSummary(
        files=len(found.paths),
        modality=modality,
        units=units,
        dtype=str(stated.dtype.newbyteorder("=")),
        details=(("stored type", str(stated.dtype.newbyteorder("="))), *part),
        decisions=found.decisions,
    ).on(found.geometry)


def read_sitk(path: Path, options: ReadOptions, *, number: int = 0, stamps: _Stamps = ()) -> Reading:
    """Read one volume of an NRRD or MetaImage file.

    Args:
        path: as in `find_sitk`.
        options: which repairs are allowed.
        number: which volume of a series, from 0.
        stamps: what the files looked like when they were found.

    Raises:
        InputError: the file breaks a rule above.
    """
    with ExitStack() as stack:
        found = _Open(path, options, stamps=stamps, stack=stack)
        data, left = found.voxels(number)
        digests = tuple(source.sha256() for source in found.sources)
    refuse_unfaithful(data, file=path.name)
    volume, notes = finished(data, found.geometry, path, options)
    part = (f"volume {number + 1} of {found.stated.volumes}",) if found.stated.volumes > 1 else ()
    return Reading(volume, found.paths, digests, decisions=(*part, *found.decisions, *left, *notes))


def write_sitk(
    volume: Volume,
    path: str | Path,
    *,
    like: str | Path | None = None,
    provenance: Provenance | None = None,
    description: str = "",
) -> list[Path]:
    """Write a scan as NRRD or MetaImage with its JSON record; the types are those of NIfTI.

    Args:
        volume: one channel, on a grid with right angles: these formats have no place for a shear.
        path: ends in ``.nrrd`` or ``.mha``; its folder is made when missing.
        like: the source, which is never written over.
        provenance: how the scan was made.
        description: one sentence for the record.

    Returns:
        The file, the mask of its filled voxels when there are any, and the record.

    Raises:
        OutputError: the volume or the path cannot be written, or what was read back differs.
    """
    output = Output(Path(path), None if like is None else Path(like))
    data = stored_voxels(volume, file=output.path.name)
    refuse_shear(volume.geometry, file=output.path.name, error=OutputError)
    prepared(output, volume)
    _write(data, volume.geometry, output.path)
    if volume.filled is not None:
        _write(volume.filled.astype(np.uint8), volume.geometry, output.mask)
    return output.recorded(volume, provenance=ensure_provenance(provenance, ()), description=description)


def _write(data: NDArray[Any], geometry: Geometry, path: Path) -> None:
    write_file(
        path,
        lambda name: _save(_image(data, geometry), name, file=path.name),
        verify=lambda name: _verify(name, data, geometry, file=path.name),
        data=data,
        packed=True,
    )


def _save(image: Any, name: Path, *, file: str) -> None:
    try:
        sitk.WriteImage(image, str(name), True)
    except RuntimeError as error:  # it does not say why; the disk is the usual reason
        mend = "Free some space, check the folder, and run the same command again."
        raise OutputError("E-OUT", "SimpleITK could not write the file", mend=mend, file=file) from error


def _image(data: NDArray[Any], geometry: Geometry) -> Any:
    image = sitk.GetImageFromArray(np.ascontiguousarray(data.T))
    affine = _LPS_TO_RAS @ geometry.affine
    spacing = np.asarray(geometry.spacing_mm)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((affine[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    image.SetMetaData(*_MARK)
    return image


def _verify(name: Path, data: NDArray[Any], geometry: Geometry, *, file: str) -> None:
    again = read_sitk(name, ReadOptions()).volume
    same = again.data.dtype == data.dtype and np.array_equal(again.data[0], data)
    if not same or again.geometry.distance_mm(geometry) > 1e-6:
        found, mend = "what was read back differs from what was written", "Check the disk and run the command again."
        raise OutputError("E-VERIFY", found, mend=mend, file=file)
