"""Refuse early what could not be written at the end: the outputs are checked before a network is loaded."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from medidiff.cli.session import FOLDER_RECORD, Session
from medidiff.cli.verbs import Adapt, Convert, Demo, Restoring, Superresolve, Train
from medidiff.errors import OutputError, SettingsError
from medidiff.io import SeriesSummary, find
from medidiff.io.files.atomic import output_errors, refuse_full, refuse_source, resolved, sha256
from medidiff.io.files.formats import sniff, target_format
from medidiff.io.own import refuse_foreign
from medidiff.io.sidecar import record_path, refuse_foreign_record, stored_provenance
from medidiff.volume import Geometry

__all__ = ["format_of", "like_of", "refuse_page", "run"]

_VOXEL_BYTES = 4  # results are floats of 32 bits, and the series of a DICOM study has 2 bytes and its headers
_SHOWN = ("noisy.nii.gz", "thick.nii.gz", "denoise.png", "superresolve.png", "table.json")  # what every demo writes
_PACKED = 3  # by about this factor their compressed files are smaller


def run(verb: Convert | Restoring | Train | Adapt | Demo, session: Session) -> None:
    """Check every place that a verb writes to, and the store that is told.

    Raises:
        InputError: the source is not there or is no scan.
        SettingsError: the format of an output is open, two outputs share a name, or the store cannot be used.
        OutputError: an output is the source or a file that medidiff did not write, or cannot be written.
    """
    if isinstance(verb, Train | Adapt | Demo):
        if isinstance(verb, Adapt):
            _refuse_prior(verb)
        if isinstance(verb, Demo):
            _refuse_shown(verb)
        if isinstance(verb, Train):
            _refuse_store(verb)
        _refuse_folder(verb.out, session)
        return
    contents = session.find(verb.source)
    if isinstance(verb, Convert) and verb.all:
        if verb.out.name.lower().endswith((".nii", ".nii.gz", ".nrrd", ".mha")):
            mend = "Name a folder, or leave --all out and choose a scan with --scan N."
            raise SettingsError(
                "E-SETTING", f"a file name for all scans, {verb.out.name!r}", attribute="OUT", mend=mend
            )
        _refuse_folder(verb.out, session)
        return
    scan = contents.only(verb.scan, file=verb.source.name)
    files = scan.files
    _refuse_shared(verb.outputs)
    like = like_of(verb)
    kinds = [target_format(path, like=like, format=format_of(verb, path)) for path in verb.outputs.values()]
    if dict(zip(verb.outputs, kinds, strict=True)).get("residual") == "dicom":
        found, mend = "standard deviations of the noise as DICOM", "Name a file, residual.nii.gz for instance."
        raise SettingsError("E-OUTFORMAT", found, wanted="NIfTI, NRRD or MetaImage", attribute="--residual", mend=mend)
    if "dicom" in kinds and like != verb.source:
        _refuse_several(like)
    for kind, path in zip(kinds, verb.outputs.values(), strict=True):
        with output_errors(path.name):
            if kind == "dicom":
                _refuse_series(path, like)
            else:
                refuse_source(path, files)
                _refuse_record(path)
                refuse_foreign(path)
                _refuse_origin(path, verb.source)
        _refuse_closed(path)
    if isinstance(verb, Restoring):
        if verb.report is not None:
            refuse_page(verb.report, files)
        _refuse_crowded(verb, scan.summary)
        _refuse_store(verb)
    session.begin(later=kinds[0] == "dicom")


def _refuse_store(verb: Restoring | Train) -> None:
    if verb.tracking is None:
        return
    from medidiff.store import refuse_store

    refuse_store(verb.tracking, made=verb.out)


def format_of(verb: Convert | Restoring, path: Path) -> str | None:
    """``--format`` is about OUT; another output that names a file says its format itself."""
    return None if path != verb.out and path.suffix else verb.format


def like_of(verb: Convert | Restoring) -> Path:
    """The source whose study a DICOM result joins."""
    return (verb.like if isinstance(verb, Convert) else None) or verb.source


def _refuse_several(like: Path) -> None:
    """Refuse a path for ``--like`` that holds more than the one series whose study is joined; --scan is about IN."""
    count = len(find(like).scans)
    if count != 1:
        mend = "Name the folder that holds only the series whose study the result joins."
        raise SettingsError(
            "E-LIKE", f"{count} scans", wanted="one series", mend=mend, file=like.name, attribute="--like"
        )


def _refuse_folder(path: Path, session: Session) -> None:
    _refuse_file(path)
    _refuse_closed(path)
    session.begin()


def _refuse_shared(outputs: dict[str, Path]) -> None:
    records: dict[Path, list[str]] = {}
    for name, path in outputs.items():
        records.setdefault(resolved(record_path(path)), []).append("OUT" if name in ("mean", "scan") else name)
    for record, names in records.items():
        if len(names) == 1:
            continue
        found = f"the outputs {', '.join(names)} would be written to one place, or share the record {record.name}"
        raise SettingsError("E-SETTING", found, mend="Give each output its own name.")


def _refuse_series(path: Path, source: Path) -> None:
    if sniff(source) != "dicom":
        mend = "Name a .nii.gz file, give a DICOM series as input, or, with convert, name one with --like SOURCE."
        raise SettingsError("E-LIKE", "DICOM output without a DICOM source", attribute="--format", mend=mend)
    _refuse_file(path)
    home, place = resolved(source if source.is_dir() else source.parent), resolved(path)
    if place == home or (source.is_dir() and home in place.parents):
        mend = "Choose a folder outside the source series."
        raise OutputError("E-OVERWRITE", "the output folder is the source's or inside it", file=path.name, mend=mend)
    if path.is_dir() and any(_is_dicom(file) for file in path.iterdir()):
        mend = "Choose a new folder, so that two series never mix."
        raise OutputError("E-EXISTS", "the folder holds DICOM files", file=path.name, mend=mend)


def _is_dicom(file: Path) -> bool:
    if not file.is_file():
        return False
    with file.open("rb") as stream:
        return stream.read(132)[128:] == b"DICM"


def _refuse_record(path: Path) -> None:
    if path.suffix:
        if path.is_dir():
            raise OutputError("E-OUT", "a folder stands where the file would go", file=path.name, mend="Name a file.")
        refuse_foreign_record(record_path(path))
    else:
        _refuse_file(path)


def _refuse_origin(path: Path, source: Path) -> None:
    """Refuse to write over what the source was made from: IN and OUT were probably exchanged."""
    made = stored_provenance(source) if source.is_file() and path.is_file() else None
    if made is not None and sha256(path) in made.inputs:
        mend = "Choose another output name; perhaps IN and OUT are exchanged."
        raise OutputError("E-OVERWRITE", "the input was made from this file", mend=mend, file=path.name)


def _refuse_file(path: Path) -> None:
    if path.exists() and not path.is_dir():
        raise OutputError("E-OUT", "a file stands where the folder would go", file=path.name, mend="Name a folder.")


def refuse_page(path: Path, sources: Sequence[Path] = ()) -> None:
    """Refuse a name for a report that is no page, or where none can be written.

    Raises:
        SettingsError: ``E-OUTFORMAT``, it does not end in .html.
        OutputError: it is a source or no page of medidiff, or cannot be written.
    """
    if path.suffix.lower() not in (".html", ".htm"):
        raise SettingsError("E-OUTFORMAT", f"a page that ends in '{path.suffix}'", wanted=".html", file=path.name)
    if path.is_dir():
        raise OutputError("E-OUT", "a folder stands where the page would go", file=path.name, mend="Name a file.")
    with output_errors(path.name):
        refuse_source(path, sources)
        refuse_foreign(path)
    _refuse_closed(path)


def _refuse_prior(verb: Adapt) -> None:
    """Refuse to write over a prior: it may be the one that this one begins with."""
    for path in verb.outputs.values():
        if path.exists():
            mend = "Choose another --name, or another folder."
            raise OutputError("E-EXISTS", "there is a prior of this name", file=path.name, mend=mend)


def _refuse_shown(verb: Demo) -> None:
    """Refuse a folder where a file of the demo would replace one that an earlier demo did not write."""
    if (verb.out / FOLDER_RECORD).is_file():
        return
    for name in _SHOWN:
        if (verb.out / name).exists():
            found, mend = "a file that medidiff did not write stands there", "Choose another folder."
            raise OutputError("E-OVERWRITE", found, mend=mend, file=name)


def _refuse_crowded(verb: Restoring, scan: SeriesSummary) -> None:
    """Refuse a disk that is too full for the results before hours are spent on them; the writers look again."""
    if not scan.shape:
        return
    grid = Geometry(scan.shape, np.array(scan.affine))  # type: ignore[arg-type] # three, or none
    if isinstance(verb, Superresolve):
        sides = zip(verb.spacing, grid.spacing_mm, strict=True)
        grid = grid.with_spacing([held if side == "own" else min(side, held) for side, held in sides])
    plain = math.prod(grid.shape) * _VOXEL_BYTES
    needed: Counter[Path] = Counter()
    for path in verb.outputs.values():
        needed[_home(path)] += plain if path.name.lower().endswith(".nii") else plain // _PACKED
    for home, count in needed.items():
        with output_errors(verb.out.name):
            refuse_full(home, count, file=verb.out.name)


def _home(path: Path) -> Path:
    """The nearest existing folder."""
    return path if path.is_dir() else next(parent for parent in path.absolute().parents if parent.exists())


def _refuse_closed(path: Path) -> None:
    """Refuse a path whose nearest existing folder cannot be written, or is none."""
    home = _home(path)
    if not home.is_dir():
        raise OutputError("E-OUT", f"'{home.name}' is not a folder", file=path.name, mend="Choose another place.")
    if not os.access(home, os.W_OK | os.X_OK):
        raise OutputError(
            "E-OUT", f"folder '{home.name}' cannot be written", file=path.name, mend="Choose another place."
        )
