"""Scans in and out: NIfTI, DICOM series, NRRD and MetaImage.

The heavy libraries are imported by the function that needs them, so that importing this package costs next to nothing
and `inspect` never loads torch.

Example:
    >>> import tempfile, numpy as np
    >>> from medidiff.volume import Geometry, Volume
    >>> scan = Volume(np.ones((4, 5, 6), np.int16), Geometry.regular((4, 5, 6)), modality="MR")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     written = write(scan, f"{folder}/scan.nii.gz")
    ...     read(written[0]).geometry == scan.geometry
    True
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from medidiff.errors import InputError, SettingsError
from medidiff.io.contents import Contents, SeriesSummary, Skipped
from medidiff.io.files.formats import sniff, target_format
from medidiff.io.options import ReadOptions
from medidiff.io.reading import Found, Reading, Scan
from medidiff.volume import Provenance, Volume

__all__ = [
    "Contents",
    "Found",
    "Kind",
    "ReadOptions",
    "Reading",
    "Scan",
    "SeriesSummary",
    "Skipped",
    "find",
    "fingerprint",
    "inspect",
    "read",
    "read_scan",
    "sources",
    "write",
]

Kind = Literal["scan", "spread", "lower", "upper"]
_TOWARDS: dict[Kind, Literal["nearest", "down", "up"]] = {"scan": "nearest", "lower": "down", "upper": "up"}


def read(path: str | Path, options: ReadOptions | None = None) -> Volume:
    """Read one scan; what the path holds is told by its content.

    Args:
        path: a NIfTI, NRRD or MetaImage file, a DICOM file of several frames, or the folder of one DICOM series.
        options: which scan, and which repairs are allowed; nothing is guessed without.

    Raises:
        InputError: there is no scan, there are several, or reading it would mean guessing.
    """
    return read_scan(path, options).volume


def read_scan(path: str | Path, options: ReadOptions | None = None) -> Reading:
    """As `read`, with the account of every file that was seen.

    Raises:
        InputError: as `read`.
    """
    options = options or ReadOptions()
    with _system_refusals(path):
        return find(path, options).only(options.scan, file=Path(path).name).load()


def find(path: str | Path, options: ReadOptions | None = None) -> Found:
    """All scans that a path holds, from headers alone; each can be read on its own.

    Args:
        path: a file, a folder (searched with its sub-folders), a zip or tar archive, or a glob pattern such as
            ``"study/*.dcm"``; `medidiff.io.finding` has the rules.
        options: which repairs are allowed.

    Raises:
        InputError: nothing is there, or the format is unknown.
    """
    from medidiff.io.finding import find_scans

    with _system_refusals(path):
        return find_scans(Path(path), options or ReadOptions())


@contextmanager
def _system_refusals(path: str | Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        found = error.strerror or "the system refuses to read it"
        raise InputError("E-READ", found, mend="Check the disk and the rights.", file=Path(path).name) from error


def sources(path: str | Path, options: ReadOptions | None = None) -> tuple[Path, ...]:
    """The files that `read` takes the scan from, in reading order; of an archive, the archive itself.

    Raises:
        InputError: as `read`, as far as the headers tell.
    """
    from medidiff.io.files.archives import is_archive

    options, path = options or ReadOptions(), Path(path)
    files = find(path, options).only(options.scan, file=path.name).files
    return (path,) if path.is_file() and is_archive(path) else files


def fingerprint(path: str | Path, options: ReadOptions | None = None) -> tuple[str, ...]:
    """SHA-256 of each file that `read` takes the scan from, in reading order."""
    from medidiff.io.files.atomic import sha256

    options = options or ReadOptions()
    scan = find(path, options).only(options.scan, file=Path(path).name)
    return tuple(sha256(file) for file in scan.files)


def inspect(path: str | Path, options: ReadOptions | None = None) -> Contents:
    """What a file or folder holds, from headers alone and without anything that identifies the patient.

    A scan that `read` would refuse is listed with its `problem` instead of raising.

    Raises:
        InputError: nothing is there, or the format is unknown.
    """
    found = find(path, options)
    return Contents(found.format, tuple(scan.summary for scan in found.scans), found.skipped)


def write(
    volume: Volume,
    path: str | Path,
    *,
    like: str | Path | None = None,
    provenance: Provenance | None = None,
    format: str | None = None,
    description: str = "",
    options: ReadOptions | None = None,
    kind: Kind = "scan",
) -> list[Path]:
    """Write one scan with the record of how it was made; whole, or not at all.

    Args:
        volume: one channel.
        path: a name ending in ``.nii``, ``.nii.gz``, ``.nrrd`` or ``.mha``, or a folder.
        like: the source. For a folder and a DICOM source, the result becomes a new series of the source's study.
        provenance: how the scan was made; a plain conversion of `like` when left out.
        format: ``"dicom"`` or ``"nifti"``, for a folder.
        description: one sentence for the record; also the description of a DICOM series.
        options: how `like` was read, when not with the defaults.
        kind: ``"spread"`` for a standard deviation, which DICOM keeps as a Parametric Map, in floats and with its unit;
            ``"lower"`` and ``"upper"`` for bounds, which the whole numbers of DICOM must not bring closer together.

    Returns:
        The files written, the record last.

    Raises:
        SettingsError: the format is open, or DICOM is asked for without a DICOM source.
        OutputError: the place or the volume cannot be written. Only what medidiff wrote is replaced, so that a cell may
            be run twice; a source, or any other file, is refused (``E-OVERWRITE``).
    """
    path, like = Path(path), None if like is None else Path(like)
    form = target_format(path, like=like, format=format)
    from medidiff.io.sidecar import ensure_provenance, safe_name

    record = ensure_provenance(provenance, () if like is None else fingerprint(like, options))
    if form == "dicom":
        return _write_dicom(
            volume, path, like=like, provenance=record, description=description, options=options, kind=kind
        )
    if form == "nifti" and not path.name.lower().endswith((".nii", ".nii.gz")):
        path = path / safe_name(record, ending=".nii.gz")
    if like is not None:
        from medidiff.io.files.atomic import refuse_source

        refuse_source(path, sources(like, options))
    template = like if like is not None and sniff(like) == form else None
    if form == "nifti":
        from medidiff.io.nifti.write import write_nifti

        return write_nifti(volume, path, like=template, provenance=record, description=description)
    from medidiff.io.sitk import write_sitk

    return write_sitk(volume, path, like=template, provenance=record, description=description)


def _write_dicom(
    volume: Volume,
    path: Path,
    *,
    like: Path | None,
    provenance: Provenance,
    description: str,
    options: ReadOptions | None,
    kind: Kind,
) -> list[Path]:
    if like is None or sniff(like) != "dicom":
        mend = "Name the DICOM series that the scan comes from, or write NIfTI."
        raise SettingsError("E-LIKE", "DICOM output without a DICOM source", wanted="a source series", mend=mend)
    about: dict[str, Any] = {"like": like, "provenance": provenance, "description": description, "options": options}
    if kind == "spread":
        from medidiff.io.dicom.derived.parametric import write_spread

        return write_spread(volume, path, **about)
    from medidiff.io.dicom.derived.write import write_dicom

    return write_dicom(volume, path, towards=_TOWARDS[kind], **about)
