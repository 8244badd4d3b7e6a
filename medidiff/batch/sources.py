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

__all__ = ["case_at", "cases_of", "is_bids", "is_manifest"]

_FILES = ("nifti", "nrrd", "metaimage", "archive")
_ENDING = re.compile(r"(\.nii\.gz|\.nii|\.nrrd|\.nhdr|\.mha|\.mhd|\.hdr|\.tar\.gz|\.tgz|\.tar|\.zip)\Z", re.IGNORECASE)
_HALF = re.compile(r"\.(img|img\.gz|raw|zraw)\Z", re.IGNORECASE)  # the voxels of another file
_BIDS = re.compile(r"sub-[A-Za-z0-9+]+(_[a-zA-Z]+-[A-Za-z0-9+]+)*_(?P<suffix>[A-Za-z0-9]+)\.nii(\.gz)?")
_NO_SCANS = ("defacemask", "mask", "dseg", "probseg")
_KINDS = re.compile("denoised|superresolved|spread|draw|lower|upper")
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
    if is_manifest(source):
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


def is_manifest(source: Path) -> bool:
    """Whether a path is a file that lists scans."""
    return source.is_file() and source.name.lower().endswith(_MANIFESTS)


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
    """Files that are scans, and the topmost folders that hold DICOM files by themselves, in the order of names.

    A folder of DICOM files stands for all those below it; scans of other kinds in and below it stand for themselves.
    Folders that cannot be opened come last, to be refused when their turn comes.
    """
    own = None if out is None else os.path.realpath(out)
    shut: list[Path] = []
    covered: set[Path] = set()  # whose DICOM files are those of a folder above
    links = _Links(root)
    for folder, children, names in os.walk(root, onerror=lambda e: shut.append(Path(e.filename)), followlinks=True):
        here = Path(folder)
        if own == os.path.realpath(folder) or _is_file(here / _BATCH / "settings.json"):
            children.clear()  # results, also those of another batch
            continue
        children[:] = [name for name in sorted(children) if not name.startswith(".") and links.follows(here / name)]
        files = [here / name for name in sorted(names) if not name.startswith(".") and not _HALF.search(name)]
        kinds = {file: _kind(file) for file in files}
        within = here.parent in covered and not here.is_symlink()
        dicom, scans = "dicom" in kinds.values(), [file for file, kind in kinds.items() if kind in _FILES]
        if dicom or within:
            covered.add(here)
        if dicom and not within:
            yield here
        yield from scans
        if files and not (scans or dicom or within or children):
            yield here  # nothing in it is known: refused when its turn comes
    yield from sorted(shut)


class _Links:
    """Which links to folders are followed: those that lead out of the input, to what is not met there anyway.

    Args:
        root: of the input.
    """

    def __init__(self, root: Path) -> None:
        self._root = Path(os.path.realpath(root))
        self._targets: set[Path] = set()
        self._followed: set[Path] = set()

    def follows(self, folder: Path) -> bool:
        """Whether a folder is walked into; one that is no link always is."""
        if not os.path.islink(folder):  # noqa: PTH114 # that of a path raises where the folder around is closed
            return True
        target, home = Path(os.path.realpath(folder)), Path(os.path.realpath(folder.parent))
        around = {target, *target.parents}
        if self._root in around or target in (self._root, *self._root.parents) or target in (home, *home.parents):
            return False
        if self._followed & set(folder.parents) and self._targets & around:
            return False  # a link in what a link led to: in a circle otherwise
        self._targets.add(target)
        self._followed.add(folder)
        return True


def _kind(file: Path) -> str:
    """Format by content, and for a file whose content says nothing by its name: it may be a scan that was damaged."""
    name, there = file.name.lower(), _is_file(file)
    kind = kind_of(file) if there else ""
    if kind in (*_FILES, "dicom"):
        return kind
    if there is False and not file.is_symlink():
        return ""  # a pipe, a device
    if there is False and not file.suffix:
        return "nifti"  # a link that leads nowhere, to a folder of scans for all one knows
    return "nifti" if _ENDING.search(name) else "dicom" if name.endswith((".dcm", ".ima")) else ""


def _is_file(path: Path) -> bool | None:
    """Whether it is one; None where the system does not tell."""
    try:
        return path.is_file()
    except OSError:
        return None


def _of_place(place: Path, home: Path, options: ReadOptions) -> Iterator[Case]:
    """The cases of one place: each scan in it, or the place itself where what is in it cannot be told."""
    parts = place.relative_to(home).parts or (place.name,)
    single = bool(_is_file(place))
    if options.scan or (single and not _holds_several(place)):
        yield case_at(place, parts, options.scan, single=single)
        return
    try:
        count = len(find(place, options).scans)
    except (InputError, OSError):
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
        homes = [subject, *sorted(subject.glob("ses-*"))]
        for shut in filter(_is_shut, [*homes, *(home / "anat" for home in homes)]):
            yield case_at(shut, shut.relative_to(root).parts, 0, single=True)  # refused when its turn comes
        for file in sorted(file for home in homes for file in home.glob("anat/*.nii*")):
            name, parts = _BIDS.fullmatch(file.name), file.relative_to(root).parts
            if name is None:  # no name of the standard, and a scan for all one knows
                if _ENDING.search(file.name) and not file.name.startswith("."):
                    yield case_at(file, parts, 0, single=True)
                continue
            if name["suffix"] in _NO_SCANS:
                continue
            stem = _ENDING.sub("", file.name).removesuffix(name["suffix"])
            output = "/".join((*parts[:-1], f"{stem}desc-{KIND}_{name['suffix']}"))
            yield Case(_bids_name(parts), str(file.absolute()), 0, output)


def _is_shut(folder: Path) -> bool:
    """Whether a folder is there and cannot be opened."""
    try:
        os.scandir(folder).close()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return False


def _bids_name(parts: Sequence[str]) -> str:
    """BIDS labels are pseudonyms by their standard, and may be written down."""
    stem = _ENDING.sub("", parts[-1])[:80].replace("+", "-")
    return f"{stem}-{case_name(parts, 0)[-16:]}"


# ------------------------------------------------------------------------------------------------------------ manifests


def _listed(path: Path) -> Iterator[Case]:
    for number, row in enumerate(_rows(path), 1):
        unknown = [str(key) for key in row if key not in _COLUMNS]
        value = row.get("input")
        if unknown or not isinstance(value, str) or not value:
            wanted = "columns input, and if needed id, scan and output"
            raise _broken(path, f"row {number} has no input, or a column that is not known", wanted)
        if not _is_text(row):
            raise _broken(path, f"row {number} has half a character (a lone surrogate)", "UTF-8 text")
        place = path.parent / value
        scan, parts = row.get("scan") or 0, tuple(PurePosixPath(value).parts)
        try:
            scan = int(str(scan))
        except ValueError:
            scan = -1
        if scan < 0:
            raise _broken(path, f"row {number} has a scan that is no number", "a number from 1, or 0 for the only scan")
        case = case_at(place, [part for part in parts if part not in ("/", "..")], scan, single=scan == 0)
        case = replace(case, name=case_name(parts, scan))  # ../a and a are two
        name, output = row.get("id") or case.name, row.get("output")
        if row.get("id"):
            case = replace(case, name=str(name), output=f"{name}_{KIND}")
        if output:
            text = _ENDING.sub("", str(output))
            if _KINDS.search(text.replace(KIND, "")) and not text.endswith(KIND) and KIND in text:
                found = f"row {number} has an output in which {KIND} stands beside the name of a kind"
                raise _broken(path, found, f"{KIND} at the end, where no other output can mean the same file")
            case = replace(case, output=text if KIND in text else f"{text}_{KIND}")
        yield case


def _rows(path: Path) -> Iterable[Mapping[str, object]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            if path.suffix.lower() == ".jsonl":
                rows = [json.loads(line, object_pairs_hook=_once) for line in stream if line.strip()]
            else:  # strict: a quote that is not closed takes the rows after it for one name
                reader = csv.DictReader(stream, delimiter="\t" if path.suffix.lower() == ".tsv" else ",", strict=True)
                _once([(name, None) for name in reader.fieldnames or ()])
                rows = list(reader)
    except OSError as error:
        raise InputError("E-READ", error.strerror or "the system refuses", file=path.name) from error
    except (ValueError, csv.Error, RecursionError) as error:
        found = "a line that is no JSON, a quote that is not closed, a column named twice, or text that is not UTF-8"
        raise _broken(path, found, "UTF-8 text, each column once") from error
    if not all(isinstance(row, dict) for row in rows):
        raise _broken(path, "a line that is no JSON object", "one JSON object a line")
    return rows


def _once(pairs: Sequence[tuple[str, object]]) -> dict[str, object]:
    """Names and values; of a name that stands twice one value would go by unseen."""
    if len(dict(pairs)) < len(pairs):
        raise ValueError
    return dict(pairs)


def _is_text(row: Mapping[str, object]) -> bool:
    """Whether its values can be written down; JSON allows half of a character."""
    try:
        json.dumps(list(row.values()), ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _broken(path: Path, found: str, wanted: str) -> InputError:
    return InputError("E-MANIFEST", found, wanted=wanted, mend="Correct the manifest.", file=path.name)
