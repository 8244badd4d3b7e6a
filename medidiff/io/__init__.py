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

from pathlib import Path

from medidiff.errors import InputError, SettingsError
from medidiff.io.contents import Contents, SeriesSummary, Skipped
from medidiff.io.formats import sniff, target_format
from medidiff.volume import Provenance, Volume

__all__ = ["Contents", "SeriesSummary", "Skipped", "fingerprint", "inspect", "read", "sources", "write"]


def read(path: str | Path) -> Volume:
    """Read one scan; what the path holds is told by its content.

    Args:
        path: a NIfTI, NRRD or MetaImage file, a DICOM file of several frames, or the folder of one DICOM series.

    Raises:
        InputError: there is no scan, or reading it would mean guessing.
    """
    path = Path(path)
    kind = sniff(path)
    try:
        if kind == "nifti":
            from medidiff.io.nifti import read_nifti

            return read_nifti(path)
        if kind == "dicom":
            from medidiff.io.dicom_read import read_dicom

            return read_dicom(path)
        from medidiff.io.sitk import read_sitk

        return read_sitk(path)
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> InputError:
    return InputError("E-READ", error.strerror or "the system refuses to read it", file=path.name)


def sources(path: str | Path) -> list[Path]:
    """The files that `read` takes the scan from, in reading order.

    Raises:
        InputError: as `read`, as far as the headers tell.
    """
    path = Path(path)
    kind = sniff(path)
    if kind == "dicom":
        from medidiff.io.dicom_stack import find_stack

        return find_stack(path).files
    if kind == "nifti":
        return [path]
    from medidiff.io.sitk import source_files

    return source_files(path)


def fingerprint(path: str | Path) -> tuple[str, ...]:
    """SHA-256 of each file that `read` takes the scan from, in reading order."""
    from medidiff.io.atomic import sha256

    return tuple(sha256(file) for file in sources(path))


def inspect(path: str | Path) -> Contents:
    """What a file or folder holds, from headers alone and without anything that identifies the patient.

    A scan that `read` would refuse is listed with its `problem` instead of raising.

    Raises:
        InputError: nothing is there, or the format is unknown.
    """
    from medidiff.io.summary import summarise

    path = Path(path)
    return summarise(path, sniff(path))


def write(
    volume: Volume,
    path: str | Path,
    *,
    like: str | Path | None = None,
    provenance: Provenance | None = None,
    format: str | None = None,
    description: str = "",
) -> list[Path]:
    """Write one scan with the record of how it was made; whole, or not at all.

    Args:
        volume: one channel.
        path: a name ending in ``.nii``, ``.nii.gz``, ``.nrrd`` or ``.mha``, or a folder.
        like: the source. For a folder and a DICOM source, the result becomes a new series of the source's study.
        provenance: how the scan was made; a plain conversion of `like` when left out.
        format: ``"dicom"`` or ``"nifti"``, for a folder.
        description: one sentence for the record; also the description of a DICOM series.

    Returns:
        The files written, the record last.

    Raises:
        SettingsError: the format is open, or DICOM is asked for without a DICOM source.
        OutputError: the place or the volume cannot be written; a source is never overwritten.
    """
    path, like = Path(path), None if like is None else Path(like)
    kind = target_format(path, like=like, format=format)
    from medidiff.io.sidecar import ensure_provenance, safe_name

    record = ensure_provenance(provenance, () if like is None else fingerprint(like))
    if kind == "dicom":
        return _write_dicom(volume, path, like=like, provenance=record, description=description)
    if kind == "nifti" and not path.name.lower().endswith((".nii", ".nii.gz")):
        path = path / safe_name(record, ending=".nii.gz")
    if like is not None:
        from medidiff.io.atomic import refuse_source

        refuse_source(path, sources(like))
    template = like if like is not None and sniff(like) == kind else None
    if kind == "nifti":
        from medidiff.io.nifti import write_nifti

        return write_nifti(volume, path, like=template, provenance=record, description=description)
    from medidiff.io.sitk import write_sitk

    return write_sitk(volume, path, like=template, provenance=record, description=description)


def _write_dicom(
    volume: Volume, path: Path, *, like: Path | None, provenance: Provenance, description: str
) -> list[Path]:
    if like is None or sniff(like) != "dicom":
        mend = "Name the DICOM series that the scan comes from, or write NIfTI."
        raise SettingsError("E-LIKE", "DICOM output without a DICOM source", wanted="a source series", mend=mend)
    from medidiff.io.dicom_write import write_dicom

    return write_dicom(volume, path, like=like, provenance=provenance, description=description)
