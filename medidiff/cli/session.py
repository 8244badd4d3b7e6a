"""What the stages of one run share: the scans that were found, and the record of what became of them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import platform
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from medidiff.cli.batch_input import Input
from medidiff.cli.batch_verbs import Batching
from medidiff.cli.shared import BUNDLED
from medidiff.cli.verbs import Adapt, Deidentify, Demo, Export, Repairs, Synthesize, Train, Verb
from medidiff.errors import InputError, MedidiffError, OutputError, SettingsError
from medidiff.io import Found, Reading, ReadOptions, Scan, find
from medidiff.io.account import Account, Used, count_files
from medidiff.io.files.names import safe_label
from medidiff.io.record import RecordWriter, Run, read_record
from medidiff.io.sidecar import record_path
from medidiff.version import __version__

__all__ = ["FOLDER_RECORD", "Session", "environment", "load", "read_options"]

_FILES = (".nii", ".nii.gz", ".nrrd", ".mha")
FOLDER_RECORD = "medidiff.record.jsonl"
_BATCH_RECORD = "record.jsonl"
_NEVER = {"json", "dry_run", "record"}  # options without an effect on the result
_SECRET = ("tracking", "study", "series", "accession", "patient", "run")  # may hold a password, or name a patient
_PACKAGES = ("torch", "monai", "numpy", "nibabel", "pydicom", "highdicom", "SimpleITK", "pynetdicom")


def read_options(verb: Repairs) -> ReadOptions:
    """The repairs that a command line allows.

    Raises:
        SettingsError: a value out of range.
    """
    return ReadOptions(**{field.name: getattr(verb, field.name) for field in dataclasses.fields(ReadOptions)})


class Session:
    """One run of a verb: each path is looked at once, and everything that is read or written is put down.

    Args:
        verb: what was typed.
        called: what the source is called wherever that is written; the label of its own name when left out.
    """

    def __init__(self, verb: Verb, *, called: str = "") -> None:
        self.verb, self._called = verb, called
        self._record = RecordWriter()
        options = _told(verb)
        self.account = Account(self._record, (path.name for path in _paths(verb)))
        if called:
            self.account.call(verb.source.name, called)  # type: ignore[union-attr] # only what has a source is called
        self._record.line("start", version=__version__, verb=type(verb).__name__.lower(), **options)
        self._found: dict[Path, Found] = {}
        self._readings: dict[Path, Reading] = {}

    @property
    def keeps_a_record(self) -> bool:
        """Whether this run leaves one: not a dry run, nor the second process of a training run."""
        plans = getattr(self.verb, "dry_run", False) or os.environ.get("RANK", "0") != "0"
        return not plans and (getattr(self.verb, "record", None) is not None or hasattr(self.verb, "out"))

    def label(self, source: Path) -> str:
        """What the source is called on what is written."""
        return self._called or safe_label(source)

    # ------------------------------------------------------------------------------------------------------ scans

    def find(self, path: Path) -> Found:
        """All scans of a path, with the repairs that the command line allows.

        Raises:
            InputError: as `medidiff.io.find`.
        """
        if path not in self._found:
            seen = count_files(path)
            found = find(path, self._options)
            self.account.source(path, found, seen=seen)
            self._found[path] = found
        return self._found[path]

    def read(self, path: Path) -> Reading:
        """The one scan of a path that was asked for.

        Raises:
            InputError: as `medidiff.io.read_scan`.
        """
        if path in self._readings:
            return self._readings[path]
        found = self.find(path)
        scan = found.only(self._options.scan, file=path.name)
        number = self._options.scan or 1
        try:
            self._readings[path] = reading = load(scan, path)
        except InputError as error:
            self.account.files(found, {}, {number: error})
            raise
        self.account.files(found, {number: Used.of(reading)})
        return reading

    @property
    def _options(self) -> ReadOptions:
        return read_options(self.verb) if isinstance(self.verb, Repairs) else ReadOptions()

    # ----------------------------------------------------------------------------------------------------- record

    def begin(self, *, later: bool = False) -> None:
        """Give the record its place, once the outputs are known to be allowed.

        Args:
            later: whether the folder of the output appears only when it is whole.

        Raises:
            OutputError: the record cannot be written, or another run writes to the same output.
        """
        if not self.keeps_a_record or self._record.is_open:
            return
        chosen = getattr(self.verb, "record", None)
        if chosen is not None:
            self._record.open(chosen, alone=False)
        elif not later:
            place = self._place()
            _make(place.parent)
            self._record.open(place, alone=not isinstance(self.verb, Batching))

    def told(self) -> Run | None:
        """What the record says of this run up to now; None where it leaves none."""
        place = self._record.place
        return None if place is None else next(each for each in read_record(place) if each.run == self._record.run)

    def outputs(self, files: Sequence[Path]) -> None:
        """Put down the files that were written."""
        self.begin()
        self.account.outputs(files)

    def prior(self, name: str, sha256: str) -> None:
        """Put down the weights that are used."""
        self._record.line("prior", name=name, sha256=sha256)

    def quality(self, **found: Any) -> None:
        """Put down what a quality report found."""
        self._record.line("quality", **found)

    def finish(self, exit_code: int, ended: str, error: MedidiffError | None = None) -> None:
        """Put down how the run ended; one that failed early leaves a record where that does no harm.

        Raises:
            MedidiffError: ``E-CONSERVATION``, something was lost from sight; or the record cannot be written.
        """
        if error is not None:
            self.account.refusal(error)
        if not self._record.is_open and not isinstance(error, OutputError | SettingsError):
            self._open_after_all()
        try:
            self.account.close(exit_code, ended)
        finally:
            self._record.close()

    def _open_after_all(self) -> None:
        if not self.keeps_a_record:
            return
        place = getattr(self.verb, "record", None) or self._place()
        if not place.parent.is_dir():  # the output's folder was never made: beside it
            place = place.parent.with_name(f"{place.parent.name}.record.jsonl")
        with suppress(OutputError):
            self._record.open(place, alone=False)

    def _place(self) -> Path:
        if getattr(self.verb, "given_away", False):
            return self.verb.out.with_name(f"{self.verb.out.name}.record.jsonl")  # type: ignore[union-attr]
        out: Path = self.verb.out  # type: ignore[union-attr] # asked only of verbs that have one
        whole = isinstance(self.verb, Train | Adapt | Demo) or getattr(self.verb, "all", False)
        if isinstance(self.verb, Batching):  # several may work on one batch, and its folder holds results only
            return out / ".medidiff" / _BATCH_RECORD
        if isinstance(self.verb, Deidentify | Export | Synthesize):  # the folder is made to be given away
            return out.with_name(f"{out.name}.record.jsonl")
        if whole or not out.name.lower().endswith(_FILES):
            return out / FOLDER_RECORD
        return out.with_name(f"{record_path(out).stem}.record.jsonl")


def _make(folder: Path) -> None:
    from medidiff.io.files.atomic import output_errors

    with output_errors(folder.name):
        folder.mkdir(parents=True, exist_ok=True)


def load(scan: Scan, path: Path) -> Reading:
    """Read one scan that was found at a path.

    Raises:
        InputError: as `medidiff.io.read_scan`.
    """
    try:
        return scan.load()
    except OSError as error:
        found = error.strerror or "the system refuses to read it"
        raise InputError("E-READ", found, mend="Check the disk and the rights.", file=path.name) from error


def _paths(verb: Verb) -> list[Path]:
    values = [getattr(verb, field.name) for field in dataclasses.fields(verb)]
    parts = [part for value in values for part in (value if isinstance(value, tuple) else (value,))]
    return [part.path if isinstance(part, Input) else part for part in parts if _is_path(part)]


def _is_path(value: Any) -> bool:
    return isinstance(value, Path | Input)


def _told(verb: Verb) -> Mapping[str, Any]:
    """What the first line says of the options: paths as labels, no secret, and a hash of what has an effect."""
    options = {field.name: _plain(getattr(verb, field.name)) for field in dataclasses.fields(verb)}
    options |= {name: "given" for name in _SECRET if options.get(name) is not None}
    if (bounds := getattr(verb, "intervals", None)) is not None and str(bounds[0]) == BUNDLED:
        options["intervals"][0] = BUNDLED  # a word that names no file
    effective = {
        field.name: options[field.name]
        for field in dataclasses.fields(verb)
        if field.name not in _NEVER and not _is_path(getattr(verb, field.name))
    }
    text = json.dumps(effective, sort_keys=True)
    return {
        "options": options,
        "config_sha256": hashlib.sha256(text.encode()).hexdigest(),
        "seed": getattr(verb, "seed", None),
        "environment": environment(),
    }


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(part) for part in value]
    if isinstance(value, Path):
        return safe_label(value)
    if isinstance(value, Input):
        return "a question to an archive" if value.is_archive else safe_label(value.path)
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # JSON has no NaN
    return safe_label(value) if isinstance(value, str) and {"/", "\\"} & set(value) else value


def environment() -> dict[str, str]:
    """Versions of Python and of the packages that have an effect on a result."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found
