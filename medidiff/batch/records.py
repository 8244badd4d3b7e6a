"""What became of each case: one small file that is written last, and believed while all that it says is still true.

A record of a finished case names the hashes of what it was made from and of every file that was made. It holds no time
and no machine, so that the same case has the same record wherever and whenever it was done. A record that was cut or
changed does not fit its own hash, and counts as none.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any, TypeVar

from medidiff.batch.shards import shard
from medidiff.errors import MedidiffError
from medidiff.io.files.atomic import output_errors, sha256, sync, write_file

__all__ = ["Basis", "Done", "Records", "Refused", "record_bytes"]

_LARGEST = 2**24  # bytes; thousands of slices
_OWN_HASH = "record_sha256"
_Kind = TypeVar("_Kind", "Done", "Refused")


@dataclass(frozen=True, slots=True)
class Basis:
    """All that a result depends on; a case is done again when any of it has changed.

    Args:
        input_sha256: of the bytes that were read.
        config_sha256: of the settings that have an effect.
        prior: name of the prior; empty when none was chosen.
        prior_sha256: of its card and weights.
    """

    input_sha256: str
    config_sha256: str
    prior: str
    prior_sha256: str


@dataclass(frozen=True, slots=True)
class Done:
    """A finished case.

    Args:
        case: its name.
        basis: what it was made from.
        results: the main file of each result (``"mean"``, ``"spread"``), below the output folder; a folder for DICOM.
        files: SHA-256 of every file that was written, below the output folder.
        metrics: numbers about the case.
        decisions: what was chosen or repaired, as sentences.
    """

    case: str
    basis: Basis
    results: Mapping[str, str]
    files: Mapping[str, str]
    metrics: Mapping[str, float] = field(default_factory=dict)
    decisions: tuple[str, ...] = ()

    def is_whole(self, root: Path) -> bool:
        """Whether every file is there and as it was written.

        Args:
            root: the output folder.
        """
        try:
            return bool(self.files) and all(sha256(root / name) == digest for name, digest in self.files.items())
        except OSError:
            return False


@dataclass(frozen=True, slots=True)
class Refused:
    """A case that cannot be done.

    Args:
        case: its name.
        basis: what was refused.
        code: of the error.
        message: the whole of it, without names that could be a patient's.
        mend: what helps.
    """

    case: str
    basis: Basis
    code: str
    message: str
    mend: str


class Records:
    """The records of a batch.

    Args:
        root: the output folder.
        folder: where the records lie.
    """

    def __init__(self, root: Path, folder: Path) -> None:
        self.root, self.folder = root, folder

    def _place(self, kind: type[Done | Refused], case: str) -> Path:
        return self.folder / kind.__name__.lower() / shard(case) / f"{case}.json"

    def done(self, case: str) -> Done | None:
        """The record of a finished case; None where there is none that is whole."""
        return _read(self._place(Done, case), Done)

    def refused(self, case: str) -> Refused | None:
        """The record of a refused case; None where there is none that is whole."""
        return _read(self._place(Refused, case), Refused)

    def put(self, record: Done | Refused, since_ns: int = 0) -> None:
        """Write a record; it is on the disk when this returns, and so is every file that it names.

        Args:
            record: of the case.
            since_ns: the moment from which the run counts, see `settled`.

        Raises:
            OutputError: the system refuses.
        """
        if isinstance(record, Done):
            self._sync_folders(record)
        place = self._place(type(record), record.case)
        with output_errors(place.name):
            if not place.parent.is_dir():
                place.parent.mkdir(parents=True, exist_ok=True)
                sync(place.parent.parent)
        text = record_bytes(record)
        write_file(place, lambda name: name.write_bytes(text))
        _be_after(place, since_ns)
        self._drop_other(record)

    def _sync_folders(self, record: Done) -> None:
        """Have the names of the results put on the disk, up to the output folder; their bytes are there already."""
        folders = {self.root}
        for name in record.files:
            folders.update(parent for parent in (self.root / name).parents if parent.is_relative_to(self.root))
        for folder in sorted(folders, reverse=True):
            with output_errors(folder.name):
                sync(folder)

    def confirm(self, record: Done | Refused, since_ns: int = 0) -> None:
        """Mark a record as one that was found to be true just now; see `settled`.

        A record of the other kind is an older one, which a worker that was killed has left.

        Args:
            record: of the case.
            since_ns: the moment from which the run counts.

        Raises:
            OutputError: the system refuses.
        """
        place = self._place(type(record), record.case)
        try:
            os.utime(place)
        except PermissionError:  # it is another person's, in a folder that is open to both
            write_file(place, lambda name: name.write_bytes(record_bytes(record)))
        except OSError:
            pass  # whoever looks next confirms it again
        _be_after(place, since_ns)
        self._drop_other(record)

    def _drop_other(self, record: Done | Refused) -> None:
        other = self._place(Refused if isinstance(record, Done) else Done, record.case)
        with output_errors(other.name), suppress(FileNotFoundError):
            other.unlink()

    def settled(
        self, case: str, since_ns: int, *, fits: Callable[[bytes], bool] | None = None
    ) -> type[Done | Refused] | None:
        """How a case was settled after a moment: written or confirmed by anybody; None when it was not.

        Args:
            case: its name.
            since_ns: the moment, in the file system's own time.
            fits: whether a record that was is one of those that count; all when left out.
        """
        for kind in (Done, Refused):
            with suppress(OSError):
                place = self._place(kind, case)
                if place.stat().st_mtime_ns > since_ns and (fits is None or fits(place.read_bytes())):
                    return kind
        return None

    def latest_ns(self) -> int:
        """When a record was written last; 0 before the first."""
        times = [0]
        for kind, number in product((Done, Refused), range(256)):
            with suppress(OSError):
                times.append((self.folder / kind.__name__.lower() / f"{number:02x}").stat().st_mtime_ns)
        return max(times)

    def names(self) -> Iterator[tuple[set[str], set[str]]]:
        """Names of the cases that are recorded as done, and as refused, one sub-folder after the other."""
        for number in range(256):
            done, refused = (_cases(self.folder / kind / f"{number:02x}") for kind in ("done", "refused"))
            yield done, refused - done


def _be_after(place: Path, moment_ns: int) -> None:
    """Give a record a time after a moment, also where the clock was set back; one that has none is looked at again."""
    with suppress(OSError):
        if place.stat().st_mtime_ns < moment_ns:
            os.utime(place, ns=(moment_ns + 1, moment_ns + 1))


def _cases(folder: Path) -> set[str]:
    try:
        names = [entry.name for entry in os.scandir(folder)]
        return {name[:-5] for name in names if name.endswith(".json") and not name.startswith(".")}
    except OSError:
        return set()


def record_bytes(record: Done | Refused) -> bytes:
    """What stands in a record's file: its fields as JSON, and the hash of them."""
    fields = dataclasses.asdict(record)
    return _json(fields | {_OWN_HASH: hashlib.sha256(_json(fields)).hexdigest()}) + b"\n"


def _json(fields: Mapping[str, Any]) -> bytes:
    return json.dumps(fields, sort_keys=True, allow_nan=False, indent=1).encode()


def _read(path: Path, kind: type[_Kind]) -> _Kind | None:
    try:
        if path.stat().st_size > _LARGEST:
            return None
        fields = json.loads(path.read_bytes())
        digest = fields.pop(_OWN_HASH)
        if hashlib.sha256(_json(fields)).hexdigest() != digest or fields["case"] != path.name[:-5]:
            return None
        tuples = {"decisions": tuple(fields["decisions"])} if kind is Done else {}
        return kind(**fields | tuples | {"basis": Basis(**fields["basis"])})
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, MedidiffError):
        return None
