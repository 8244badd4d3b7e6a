"""Which format a path holds or asks for: content decides on the way in, the name on the way out."""

from __future__ import annotations

import zlib
from pathlib import Path

from medidiff.errors import InputError, SettingsError
from medidiff.io.files.archives import starts_archive
from medidiff.io.files.walk import gather

__all__ = ["kind_of", "sniff", "target_format"]

_ENDINGS = {".nii": "nifti", ".nii.gz": "nifti", ".nrrd": "nrrd", ".mha": "metaimage"}
_PAIR = (".hdr", ".img", ".hdr.gz", ".img.gz")  # of NIfTI in two files; voxels alone look like anything
_NOT_WRITTEN = (".hdr", ".img", ".mhd", ".nhdr", ".dcm", ".gz", ".zip", ".json", ".png", ".jpg", ".mgz")


def sniff(path: str | Path) -> str:
    """Format of what a path holds: ``"dicom"``, ``"nifti"``, ``"nrrd"`` or ``"metaimage"``.

    Args:
        path: a file, told by its first bytes; or a folder, archive or glob pattern, where one DICOM file decides, and
            without any the first file that is an image. A folder without images is taken for DICOM.

    Raises:
        InputError: nothing is there (``E-MISSING``), nothing is in it (``E-EMPTY``), or its format is unknown
            (``E-FORMAT``).
    """
    gathered = gather(path)
    if not gathered.single:
        kinds = dict.fromkeys(kind_of(file) for file in gathered.files)
        return next((kind for kind in ("dicom", *kinds) if kind in kinds and kind not in ("", "archive")), "dicom")
    path = gathered.files[0]
    start = _first_bytes(path)
    if not start:
        raise InputError("E-EMPTY", "a file without any bytes", mend="Fetch the file again.", file=path.name)
    return _by_content(start, path) or _by_name(path)


def kind_of(file: Path) -> str:
    """Format of one of many files: as `sniff`, or ``"archive"``, or empty for anything else; nothing is raised."""
    try:
        with file.open("rb", buffering=0) as stream:
            start = stream.read(4096)
        if starts_archive(start):
            return "archive"
        start = _inflated(start, file)
        return _by_content(start, file) or (_by_name(file) if start else "")
    except OSError:
        return ""
    except InputError:
        return "nifti" if file.name.lower().endswith(".nii.gz") else ""


def _first_bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            start = stream.read(4096)
    except OSError as error:
        raise InputError("E-READ", error.strerror or "the system refuses to read it", file=path.name) from error
    return _inflated(start, path)


def _inflated(start: bytes, path: Path) -> bytes:
    if start[:2] != b"\x1f\x8b":
        return start
    try:
        return zlib.decompressobj(wbits=31).decompress(start, 1024)
    except zlib.error as error:
        raise InputError("E-CRC", "the gzip stream is damaged", mend="Fetch it again.", file=path.name) from error


def _by_content(start: bytes, path: Path) -> str:
    if start[344:348] in (b"n+1\0", b"ni1\0") or start[4:8] in (b"n+2\0", b"ni2\0"):
        return "nifti"
    bare = start[:2] in (b"\x08\0", b"\x02\0") and not path.name.lower().endswith(_PAIR)  # or voxels of 8 and 2
    if start[128:132] == b"DICM" or bare:
        return "dicom"
    if start.startswith(b"NRRD000"):
        return "nrrd"
    return "metaimage" if b"ElementType" in start and b"NDims" in start else ""


def _by_name(path: Path) -> str:
    """The reader that can say best what is wrong with a file of unknown content."""
    name = path.name.lower()
    if name.endswith((".nii", ".nii.gz", *_PAIR)):
        return "nifti"
    if name.endswith((".dcm", ".ima")):
        return "dicom"
    wanted = "NIfTI, a DICOM series, NRRD or MetaImage"
    mend = "Convert it with the program that wrote it; unpack an archive that is no zip or tar yourself."
    raise InputError("E-FORMAT", "unknown content", wanted=wanted, mend=mend, file=path.name)


def target_format(path: Path, *, like: Path | None, format: str | None) -> str:
    """Format to write: the ending of the path decides, then `format`, then what `like` is.

    Args:
        path: where to write.
        like: the source.
        format: ``"nifti"`` or ``"dicom"`` for a folder, or the format of the ending.

    Raises:
        SettingsError: ``E-OUTFORMAT``, the three leave the format open or contradict each other.
    """
    name = path.name.lower()
    ending = next((kind for end, kind in _ENDINGS.items() if name.endswith(end)), None)
    wanted = "a name ending in .nii, .nii.gz, .nrrd or .mha, or a folder"
    if format not in (None, "nifti", "dicom", "nrrd", "metaimage"):
        raise SettingsError("E-OUTFORMAT", f"format {format!r}", wanted="nifti or dicom", attribute="format")
    if ending is None and name.endswith(_NOT_WRITTEN):
        mend = "For DICOM name a folder; for everything else take one of these endings."
        raise SettingsError("E-OUTFORMAT", f"output name {path.name!r}", wanted=wanted, mend=mend)
    if ending is not None:
        if format not in (None, ending):
            found, mend = f"format {format} and the name {path.name!r}", "DICOM is written into a folder; name one."
            mend = mend if format == "dicom" else "Leave the format out, or change the ending."
            raise SettingsError("E-OUTFORMAT", found, wanted="a name that fits the format", mend=mend)
        return ending
    if format in ("nifti", "dicom"):
        return str(format)
    if format is None and like is not None and sniff(like) == "dicom":
        return "dicom"
    mend = f"Name a file such as {path.name}.nii.gz, or pass --format nifti for a folder."
    found = f"the folder {path.name!r} and {f'format {format}' if format else 'no format'}"
    wanted = "a name ending in .nii, .nii.gz, .nrrd or .mha, or for a folder the format nifti or dicom"
    raise SettingsError("E-OUTFORMAT", found, wanted=wanted, mend=mend)
