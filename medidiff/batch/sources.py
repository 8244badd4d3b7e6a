"""From what a user names to cases: a folder tree, a BIDS data set, a CSV or JSONL manifest, or a single path.

Whatever could be a scan becomes a case, also what cannot be read: it is refused when its turn comes, with the reason,
so that nothing goes by unseen. The order is that of the names; the result is the same on every machine.
"""

from __future__ import annotations

import csv
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from medidiff.batch.cases import KIND, Case, case_name, neutral
from medidiff.errors import InputError
from medidiff.io import ReadOptions, find
from medidiff.io.files.formats import kind_of

__all__ = ["case_at", "cases_of", "is_bids"]

_FILES = ("nifti", "nrrd", "metaimage", "archive")
_ENDING = re.compile(r"(\.nii\.gz|\.nii|\.nrrd|\.nhdr|\.mha|\.mhd|\.hdr|\.tar\.gz|\.tgz|\.tar|\.zip)\Z", re.IGNORECASE)
_HALF = re.compile(r"\.(img|img\.gz|raw|zraw)\Z", re.IGNORECASE)  # the voxels of another file
_BIDS = re.compile(r"sub-[A-Za-z0-9]+(_[a-z]+-[A-Za-z0-9]+)*_(?P<suffix>[A-Za-z0-9]+)\.nii(\.gz)?")
_NO_SCANS = ("defacemask", "mask", "dseg", "probseg")
_BATCH = ".medidiff"
_MANIFESTS = (".csv", ".tsv", ".jsonl")
_COLUMNS = ("input", "id", "scan", "output")


def cases_of(source: Path, options: ReadOptions, *, out: Path | None = None, only: Sequence[str] = ()) -> list[Case]:
    """Every case of an input, in order.

    Args:
        source: a folder, a BIDS data set, a CSV, TSV or JSONL manifest, or a scan.
        options: how scans are read; a scan number chooses one of every place that holds several.
        out: the output folder, which is not looked into.
        only: subjects of a BIDS data set, without ``sub-``; all when empty.

    Raises:
        InputError: ``E-MISSING``, nothing is there; ``E-NOIMAGES``, nothing in it could be a scan; ``E-MANIFEST``, a
            manifest is broken.
    """
    if not source.exists():
        raise InputError("E-MISSING", "no such file or folder", mend="Check the path.", file=source.name)
    if source.is_file() and source.name.lower().endswith(_MANIFESTS):
        found = list(_listed(source))
    elif source.is_dir() and is_bids(source):
        found = list(_bids(source, only))
    else:
        places = [source] if source.is_file() else _places(source, out)
        home = source.parent if source.is_file() else source
        found = [case for place in places for case in _of_place(place, home, options)]
    if not found:
        mend = "Give a folder of scans, a BIDS data set, or a CSV or JSONL manifest."
        raise InputError("E-NOIMAGES", "nothing in it could be a scan", mend=mend, file=source.name)
    return list(_apart(found))


def is_bids(source: Path) -> bool:
    """Whether a folder is a BIDS data set."""
    return (source / "dataset_description.json").is_file() and any(source.glob("sub-*"))


def _apart(cases: Sequence[Case]) -> Iterator[Case]:
    """Cases whose results would have one name get a hash in it, all of them: the order has no say."""
    outputs = Counter(case.output.casefold() for case in cases)
    for case in cases:
        if outputs[case.output.casefold()] == 1:
            yield case
        else:
            yield replace(case, output=case.output.replace(KIND, f"{case.name[-16:]}_{KIND}"))


# ---------------------------------------------------------------------------------------------------------------- trees


def _places(root: Path, out: Path | None) -> Iterator[Path]:
    """Files that are scans, and the topmost folders that hold DICOM files by themselves, in the order of names."""
    own = None if out is None else os.path.realpath(out)
    for folder, children, names in os.walk(root):
        here = Path(folder)
        if own == os.path.realpath(folder) or (here / _BATCH / "settings.json").is_file():
            children.clear()  # results, also those of another batch
            continue
        children[:] = sorted(name for name in children if not name.startswith("."))
        files = [here / name for name in sorted(names) if not name.startswith(".") and not _HALF.search(name)]
        kinds = {file: _kind(file) for file in files}
        if any(kind == "dicom" for kind in kinds.values()) and here != root:
            children.clear()
            yield here
            continue
        scans = [file for file, kind in kinds.items() if kind in (*_FILES, "dicom")]
        yield from scans if here != root or "dicom" not in kinds.values() else _loose(root, kinds, children)
        if files and not scans and not children:
            yield here  # nothing in it is known: refused when its turn comes


def _loose(root: Path, kinds: Mapping[Path, str], children: list[str]) -> Iterator[Path]:
    """DICOM files lie in the input folder itself: it is one place, with all that is below it."""
    children.clear()
    yield root
    yield from (file for file, kind in kinds.items() if kind == "archive")


def _kind(file: Path) -> str:
    """Format by content, and for a file whose content says nothing by its name: it may be a scan that was damaged."""
    if not file.is_file():
        return ""
    kind = kind_of(file)
    if kind in (*_FILES, "dicom"):
        return kind
    name = file.name.lower()
    return "nifti" if _ENDING.search(name) else "dicom" if name.endswith((".dcm", ".ima")) else ""


def _of_place(place: Path, home: Path, options: ReadOptions) -> Iterator[Case]:
    """The cases of one place: each scan in it, or the place itself where what is in it cannot be told."""
    parts = place.relative_to(home).parts or (place.name,)
    if options.scan or (place.is_file() and not _holds_several(place)):
        yield case_at(place, parts, options.scan, single=place.is_file())
        return
    try:
        count = len(find(place, options).scans)
    except InputError:
        yield case_at(place, parts, 0, single=True)
        return
    for number in range(1, count + 1):
        yield case_at(place, parts, number, single=False)


def _holds_several(file: Path) -> bool:
    return kind_of(file) in ("archive", "dicom")


def case_at(place: Path, parts: Sequence[str], scan: int, *, single: bool) -> Case:
    """The case of a scan at a place.

    Args:
        place: file or folder.
        parts: folders and name below the input, of which the names of case and results are made.
        scan: its number there; 0 for the only one.
        single: whether the place holds, or counts as, one scan.
    """
    folders, stem = [neutral(part) for part in parts[:-1]], neutral(_ENDING.sub("", parts[-1]))
    last = f"{stem}_{KIND}" if single else f"{stem}/scan-{max(scan, 1):02d}_{KIND}"
    return Case(case_name(parts, scan), str(place.absolute()), scan, "/".join((*folders, last)))


# ----------------------------------------------------------------------------------------------------------------- BIDS


def _bids(root: Path, only: Sequence[str]) -> Iterator[Case]:
    """The anatomical scans of a BIDS data set, under their BIDS names with ``desc-``."""
    wanted = {label.removeprefix("sub-") for label in only}
    subjects = sorted(path for path in root.glob("sub-*") if path.is_dir())
    missing = wanted - {path.name.removeprefix("sub-") for path in subjects}
    if missing:
        mend = "Check the labels of the participants."
        raise InputError("E-NOIMAGES", f"{len(missing)} of the subjects named are not there", mend=mend, file=root.name)
    for subject in subjects:
        if wanted and subject.name.removeprefix("sub-") not in wanted:
            continue
        files = [*subject.glob("anat/*.nii*"), *subject.glob("ses-*/anat/*.nii*")]
        for file in sorted(files):
            name = _BIDS.fullmatch(file.name)
            if name is None or name["suffix"] in _NO_SCANS:
                continue
            parts = file.relative_to(root).parts
            stem = _ENDING.sub("", file.name).removesuffix(name["suffix"])
            output = "/".join((*parts[:-1], f"{stem}desc-{KIND}_{name['suffix']}"))
            yield Case(_bids_name(parts), str(file.absolute()), 0, output)


def _bids_name(parts: Sequence[str]) -> str:
    """BIDS labels are pseudonyms by their standard, and may be written down."""
    stem = _ENDING.sub("", parts[-1])[:80]
    return f"{stem}-{case_name(parts, 0)[-16:]}"


# ------------------------------------------------------------------------------------------------------------ manifests


def _listed(path: Path) -> Iterator[Case]:
    for number, row in enumerate(_rows(path), 1):
        unknown = [str(key) for key in row if key not in _COLUMNS]
        value = row.get("input")
        if unknown or not isinstance(value, str) or not value:
            wanted = "columns input, and if needed id, scan and output"
            raise _broken(path, f"row {number} has no input, or a column that is not known", wanted)
        place = path.parent / value
        scan, parts = row.get("scan") or 0, tuple(PurePosixPath(value).parts)
        try:
            scan = int(str(scan))
        except ValueError:
            scan = -1
        if scan < 0:
            raise _broken(path, f"row {number} has a scan that is no number", "a number from 1, or 0 for the only scan")
        case = case_at(place, [part for part in parts if part not in ("/", "..", ".")], scan, single=scan == 0)
        name, output = row.get("id") or case.name, row.get("output")
        if row.get("id"):
            case = replace(case, name=str(name), output=f"{name}_{KIND}")
        if output:
            text = _ENDING.sub("", str(output))
            case = replace(case, output=text if KIND in text else f"{text}_{KIND}")
        yield case


def _rows(path: Path) -> Iterable[Mapping[str, object]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            if path.suffix.lower() == ".jsonl":
                rows = [json.loads(line) for line in stream if line.strip()]
            else:
                rows = list(csv.DictReader(stream, delimiter="\t" if path.suffix.lower() == ".tsv" else ","))
    except OSError as error:
        raise InputError("E-READ", error.strerror or "the system refuses", file=path.name) from error
    except (ValueError, csv.Error) as error:
        raise _broken(path, "a line that is no JSON, or text that is not UTF-8", "UTF-8 text") from error
    if not all(isinstance(row, dict) for row in rows):
        raise _broken(path, "a line that is no JSON object", "one JSON object a line")
    return rows


def _broken(path: Path, found: str, wanted: str) -> InputError:
    return InputError("E-MANIFEST", found, wanted=wanted, mend="Correct the manifest.", file=path.name)
