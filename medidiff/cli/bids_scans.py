"""The anatomical scans of a BIDS data set, and where a derivative of each belongs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from medidiff.errors import InputError, OutputError
from medidiff.io.files.atomic import make_folder, write_file
from medidiff.version import __version__

__all__ = ["BIDS_VERSION", "SUFFIXES", "BidsScan", "describe", "drop_orphans", "labels", "scans"]

BIDS_VERSION = "1.10.0"
SUFFIXES = ("T1w", "T2w", "PDw", "FLAIR", "T2starw", "inplaneT1", "inplaneT2")
_DESCRIPTIONS = {"denoise": "denoised", "superresolve": "superresolved"}
_NAME = re.compile(r"(?P<stem>sub-[A-Za-z0-9]+(?:_[a-zA-Z]+-[A-Za-z0-9+]+)*)_(?P<suffix>[A-Za-z0-9]+)\.nii(?:\.gz)?")


@dataclass(frozen=True, slots=True)
class BidsScan:
    """One scan of a data set.

    Args:
        path: of its file.
        folder: of its file, relative to the data set.
        stem: its name up to the suffix, e.g. ``sub-01_ses-1_acq-mprage``.
        suffix: what it is, e.g. ``T1w``.
    """

    path: Path
    folder: Path
    stem: str
    suffix: str

    def derivative(self, task: str) -> Path:
        """Where the derivative of a task lies, relative to the derived data set."""
        return self.folder / f"{self.stem}_desc-{_DESCRIPTIONS[task]}_{self.suffix}.nii.gz"


def labels(words: Sequence[str], prefix: str) -> tuple[str, ...]:
    """Labels as they were typed, with or without their prefix (``sub-``), without it."""
    return tuple(word.removeprefix(f"{prefix}-") for word in words)


def scans(
    root: Path, *, participants: Sequence[str] = (), sessions: Sequence[str] = (), suffixes: Sequence[str] = SUFFIXES
) -> list[BidsScan]:
    """The scans of a data set, in the order of their names.

    Args:
        root: of the data set.
        participants: labels without ``sub-``; all when empty.
        sessions: labels without ``ses-``; all, and none, when empty.
        suffixes: kinds of scan.

    Raises:
        InputError: ``E-BIDS``, no data set, or a participant that is not in it; ``E-NOIMAGES``, no such scan.
    """
    if not (root / "dataset_description.json").is_file():
        mend = "Name the folder in which the sub-* folders lie."
        raise InputError("E-BIDS", "no dataset_description.json", wanted="a BIDS data set", mend=mend, file=root.name)
    for label in participants:
        if not (root / f"sub-{label}").is_dir():
            raise InputError("E-BIDS", "no folder of a participant that was asked for", attribute="--participant-label")
    folders = [root / f"sub-{label}" for label in participants] or sorted(root.glob("sub-*"))
    found = [
        scan for folder in dict.fromkeys(folders) for scan in _of(folder, root, sessions) if scan.suffix in suffixes
    ]
    if not found:
        wanted = " or ".join(suffixes)
        raise InputError("E-NOIMAGES", "no scan of this kind in the data set", wanted=wanted, file=root.name)
    return found


def _of(folder: Path, root: Path, sessions: Sequence[str]) -> Iterator[BidsScan]:
    """The scans of one participant."""
    homes = [folder / f"ses-{label}" for label in sessions] or [folder, *sorted(folder.glob("ses-*"))]
    for home in homes:
        for path in sorted((home / "anat").glob("*.nii*")):
            name = _NAME.fullmatch(path.name)
            if name is not None:
                yield BidsScan(path, path.parent.relative_to(root), name["stem"], name["suffix"])


def describe(root: Path, source: Path, *, task: str, suffixes: Sequence[str]) -> None:
    """Write what makes a folder of derivatives a data set of its own.

    Args:
        root: of the derived data set.
        source: of the data set that it comes from.
        task: ``"denoise"`` or ``"superresolve"``.
        suffixes: kinds of scan in it.

    Raises:
        InputError: ``E-BIDS``, the description of `source` cannot be read.
        OutputError: ``E-EXISTS``, the folder is a data set of another program; or the system refuses.
    """
    told = _told(source / "dataset_description.json")
    place = root / "dataset_description.json"
    if place.exists() and '"medidiff"' not in json.dumps(_told(place).get("GeneratedBy")):
        mend = "Choose a folder of its own."
        raise OutputError("E-EXISTS", "the data set of another program", file=place.name, mend=mend)
    about = f"{task}; research use only, not for diagnosis"
    origin = {name: told[name] for name in ("DatasetDOI",) if isinstance(told.get(name), str)}
    description: dict[str, object] = {
        "Name": f"medidiff {task} of {told.get('Name') or 'a data set without a name'}",
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "medidiff", "Version": __version__, "Description": about}],
        "SourceDatasets": [
            {"URL": origin["DatasetDOI"]} if origin else {"Version": str(told.get("DatasetVersion", "n/a"))}
        ],
    }
    if isinstance(told.get("License"), str):
        description["License"] = told["License"]
    make_folder(root)
    _write(place, description)
    for suffix in suffixes:  # by inheritance true of every scan below
        _write(root / f"{suffix}.json", {"SkullStripped": False})
    readme = (
        f"# {description['Name']}\n\nMade by medidiff {__version__} ({about}). Each scan has its record beside it.\n"
    )
    write_file(root / "README.md", lambda name: name.write_text(readme, "utf-8"))
    write_file(root / ".bidsignore", lambda name: name.write_text("".join(f"{line}\n" for line in _IGNORED), "utf-8"))


def drop_orphans(root: Path, chosen: Sequence[BidsScan], task: str) -> None:
    """Remove what `describe` says of a kind of scan of which every one was refused: it belongs to no file.

    Args:
        root: of the derived data set.
        chosen: scans of the source.
        task: ``"denoise"`` or ``"superresolve"``.
    """
    there = {scan.suffix for scan in chosen if (root / scan.derivative(task)).is_file()}
    for suffix in {scan.suffix for scan in chosen} - there:
        (root / f"{suffix}.json").unlink(missing_ok=True)


_IGNORED = ("*.jsonl", "batch.json", "group.*", "report", "refused")


def _told(path: Path) -> dict[str, object]:
    try:
        told = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError("E-BIDS", "a description that is no JSON", file=path.name) from error
    if not isinstance(told, dict):
        raise InputError("E-BIDS", "a description that is no JSON object", file=path.name)
    return told


def _write(path: Path, content: object) -> None:
    text = json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    write_file(path, lambda name: name.write_text(text, "utf-8"))
