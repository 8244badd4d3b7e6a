"""From a path to every scan it holds, whatever the path is: the rules of `medidiff.io.find`.

A file, a folder with its sub-folders, a zip or tar archive, or a glob pattern is first turned into a list of files, of
which content decides, never the name. Then:

* where there is any CT, MR or PT image, the path holds DICOM; NIfTI, NRRD and MetaImage files beside it are skipped,
  for they are mostly made from the images and would list every scan twice;
* else every NIfTI, NRRD and MetaImage file is a scan of its own, in order of folder and name;
* whatever is left is skipped, with the reason.

Each file seen belongs to a scan or was skipped, and a `Reading` accounts for all of them. The members of an archive
live as long as something found in it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from medidiff.errors import InputError
from medidiff.io.contents import Skipped
from medidiff.io.files.formats import kind_of, sniff
from medidiff.io.files.walk import Gathered, gather
from medidiff.io.options import ReadOptions
from medidiff.io.reading import Found, Reading, Scan

__all__ = ["find_scans"]

_WORDS = {"nifti": "a NIfTI file", "nrrd": "an NRRD file", "metaimage": "a MetaImage file"}


def find_scans(path: Path, options: ReadOptions) -> Found:
    """Every scan at a path.

    Args:
        path: a file, folder, archive or glob pattern.
        options: which repairs are allowed.

    Raises:
        InputError: nothing is there, nothing in it is a scan, or the format is unknown.
    """
    gathered = gather(path)
    found = _find_one(gathered.files[0], options) if gathered.single else _find_many(gathered, options)
    found = replace(found, skipped=(*gathered.skipped, *found.skipped))
    if not found.scans:
        raise _no_images(gathered.name, found.skipped)
    return replace(found, scans=tuple(_accounted(scan, found, gathered) for scan in found.scans))


def _find_one(file: Path, options: ReadOptions) -> Found:
    kind = sniff(file)
    if kind != "dicom":
        return _reader(kind)(file, options)
    from medidiff.io.dicom.read import find_dicom

    return find_dicom((file,), options)


def _reader(kind: str) -> Callable[[Path, ReadOptions], Found]:
    if kind == "nifti":
        from medidiff.io.nifti.file import find_nifti

        return find_nifti
    from medidiff.io.sitk import find_sitk

    return partial(find_sitk, format=kind)


def _find_many(gathered: Gathered, options: ReadOptions) -> Found:
    kinds = {file: kind_of(file) for file in gathered.files}
    others = {file: _reader(kind)(file, options).scans for file, kind in kinds.items() if kind in _WORDS}
    second = {file for file, scans in others.items() for scan in scans if scan.files[0] != file in scan.files}
    others = {file: scans for file, scans in others.items() if file not in second}  # a pair is one scan, not two
    claimed = {file for scans in others.values() for scan in scans for file in scan.files} | set(others)
    archives = [file for file, kind in kinds.items() if kind == "archive"]
    dicom, images = _dicom([file for file in kinds if file not in claimed and kinds[file] != "archive"], options)
    skipped = [Skipped(file.name, "an archive among other files, which is not opened") for file in archives]
    if images or not others:
        beside = [Skipped(file.name, f"{_WORDS[kinds[file]]} beside DICOM images") for file in others]
        parts = [Skipped(file.name, "part of such a file") for file in claimed if file not in others]
        return replace(dicom, skipped=(*dicom.skipped, *skipped, *beside, *parts))
    scans = tuple(scan for file in others for scan in others[file])
    formats = {kinds[file] for file in others}
    remains = [Skipped(file.name, "the remains of a DICOM file") for scan in dicom.scans for file in scan.files]
    format = formats.pop() if len(formats) == 1 else "mixed"
    return Found(format, scans, (*dicom.skipped, *skipped, *remains))


def _dicom(files: Sequence[Path], options: ReadOptions) -> tuple[Found, bool]:
    """What is DICOM among some files, and whether any of it is an image, however broken, rather than mere remains."""
    if not files:
        return Found("dicom", ()), False
    from medidiff.io.dicom.read import find_dicom

    found = find_dicom(files, options)
    return found, any(scan.summary.modality != "OT" for scan in found.scans)


def _no_images(name: str, skipped: Sequence[Skipped]) -> InputError:
    kinds = Counter(entry.reason for entry in skipped).most_common(3)
    text = f"no CT, MR or PT image among {len(skipped)} file{'s' * (len(skipped) != 1)}"
    if not skipped:
        text = "nothing is in it"
    if kinds:
        text += ": " + "; ".join(f"{count} x {reason}" for reason, count in kinds)
    mend = "Give the folder that holds the slices of a CT, MR or PET series, or an image file."
    return InputError("E-NOIMAGES", text, wanted="a DICOM series, NIfTI, NRRD or MetaImage", mend=mend, file=name)


@dataclass(frozen=True, slots=True)
class _Load:
    """Reads a scan and accounts for every other file seen; it holds on to the folder of an archive's members."""

    scan: Scan
    others: tuple[Skipped, ...]
    gathered: Gathered

    def __call__(self) -> Reading:
        return replace(self.scan.load(), skipped=self.others)


def _accounted(scan: Scan, found: Found, gathered: Gathered) -> Scan:
    used = set(scan.files)
    elsewhere = dict.fromkeys(file for other in found.scans for file in other.files if file not in used)
    others = (*found.skipped, *(Skipped(file.name, "part of another scan") for file in elsewhere))
    return replace(scan, load=_Load(scan, others, gathered))
