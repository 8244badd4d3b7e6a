"""``medidiff convert``: the same scan in another format, or every scan of a path."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medidiff.cli.describe import geometry, shown
from medidiff.cli.places import format_of, like_of
from medidiff.cli.screen import Screen
from medidiff.cli.session import Session, load, read_options
from medidiff.cli.verbs import Convert
from medidiff.errors import InputError, MedidiffError, OutputError, SettingsError
from medidiff.io import Reading, ReadOptions, Scan, write
from medidiff.io.account import Used
from medidiff.io.files.atomic import refuse_source
from medidiff.io.files.formats import target_format
from medidiff.version import __version__
from medidiff.volume import Provenance

__all__ = ["run"]

_PARTIAL = 7
_HOPELESS = ("E-DISK", "E-OUT")  # what meets one scan will meet the others
_ENDINGS = {"nifti": ".nii.gz", "nrrd": ".nrrd", "metaimage": ".mha", "dicom": ""}


def run(verb: Convert, session: Session) -> int:
    """Read, and write again.

    Returns:
        0, or 7 when --all met scans that were refused beside others that were not.

    Raises:
        SettingsError: ``E-SETTING``, one scan and all of them are asked for.
        InputError: the scan cannot be read; with --all, none of the scans can.
        OutputError: it cannot be written.
    """
    screen = Screen(verb.json)
    if verb.all and verb.scan:
        raise SettingsError("E-SETTING", "--all together with --scan", wanted="one of the two", attribute="--all")
    if verb.all:
        return _every(verb, session, screen)
    reading = session.read(verb.source)
    place = verb.out
    if not verb.dry_run:
        place = _written(verb, reading, session, path=verb.out, options=read_options(verb))
    if verb.json:
        plan = {"task": "convert", "dry_run": verb.dry_run, "grid": geometry(reading.volume.geometry)}
        screen.document(plan | {"files": {"scan": place}, "decisions": list(reading.decisions)})
        return 0
    for sentence in reading.decisions:
        screen.note(sentence)
    screen.lines({"grid": reading.volume.geometry, "would write" if verb.dry_run else "wrote": place})
    return 0


_DEFAULTS = dataclasses.asdict(ReadOptions())


def _written(verb: Convert, reading: Reading, session: Session, *, path: Path, options: ReadOptions) -> Path:
    settings = {name: value for name, value in dataclasses.asdict(options).items() if value != _DEFAULTS[name]}
    decisions = session.account.told(reading.decisions)
    record = Provenance("convert", __version__, inputs=reading.sha256, settings=settings, decisions=decisions)
    found, form = session.find(verb.source), format_of(verb, path)
    kind = target_format(path, like=like_of(verb), format=form)
    refuse_source(path, (file for scan in found.scans for file in scan.files))
    template = kind == "dicom" or (kind == found.format and len(found.scans) == 1)  # what the result is modelled on
    like = like_of(verb) if template else None
    files = write(
        reading.volume,
        path,
        like=like,
        provenance=record,
        format=form,
        options=options if like == verb.source else None,
    )
    session.outputs(files)
    return shown(files)


def _every(verb: Convert, session: Session, screen: Screen) -> int:
    """Each scan of the path, one after the other; one that is refused does not keep the others from being written."""
    found = session.find(verb.source)
    done: dict[int, dict[str, Any]] = {}
    used: dict[int, Used] = {}
    refused: dict[int, MedidiffError] = {}
    for number, scan in enumerate(found.scans, 1):
        try:
            reading = load(scan, verb.source)
            place = path = verb.out / _name(number, scan, verb.format)
            if not verb.dry_run:
                options = dataclasses.replace(read_options(verb), scan=number)
                place = _written(verb, reading, session, path=path, options=options)
        except (InputError, OutputError) as error:
            if error.code in _HOPELESS:
                raise
            refused[number] = error
            session.account.refusal(error, scan=number)
            continue
        used[number] = Used.of(reading)
        done[number] = {"scan": number, "file": place, "decisions": used[number].decisions}
        done[number] |= {"grid": geometry(reading.volume.geometry)}
    session.account.files(found, used, refused)
    if not done:
        raise _nothing(refused, file=verb.source.name)
    _show(verb, done, refused, screen=screen)
    return _PARTIAL if refused else 0


def _name(number: int, scan: Scan, form: str | None) -> str:
    """A name that tells nothing of the patient, and is different for each scan of a path."""
    modality = re.sub(r"[^A-Za-z0-9]", "", scan.summary.modality)[:8] or "OT"
    return f"scan-{number:02d}-{modality}{_ENDINGS[form or 'nifti']}"


def _nothing(refused: Mapping[int, MedidiffError], *, file: str) -> InputError:
    reasons = "; ".join(f"{number}: {str(error).rstrip('.')}" for number, error in list(refused.items())[:4])
    found = f"all of the {len(refused)} scans are refused ({reasons})" if len(refused) > 1 else reasons
    return InputError("E-NOTHING", found, mend="'medidiff info' lists each scan with what helps.", file=file)


def _show(
    verb: Convert, done: Mapping[int, dict[str, Any]], refused: Mapping[int, MedidiffError], *, screen: Screen
) -> None:
    if verb.json:
        problems = [{"scan": number, "problem": str(error)} for number, error in refused.items()]
        document = {"task": "convert", "dry_run": verb.dry_run, "scans": list(done.values()), "refused": problems}
        screen.document(document)
        return
    for number, error in refused.items():
        screen.note(f"scan {number} is left out: {error}")
    word = "would write" if verb.dry_run else "wrote"
    screen.lines({f"{word} scan {number}": told["file"] for number, told in done.items()})
