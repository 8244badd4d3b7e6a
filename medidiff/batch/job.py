"""The folder of a batch, and the settings that all its cases share.

::

    OUTPUT/                   the results
    └── .medidiff/
        ├── settings.json     task, options and their hash, priors and theirs; written last of what begins a batch
        ├── manifest.jsonl    every case
        ├── leases/           who works on what
        ├── done/ refused/    what became of each case
        ├── journal/          what each worker did when, for progress and throughput; nothing depends on it
        ├── metrics/          what a tracking store has not taken yet
        ├── pulled/           whole series that an archive has sent
        └── report.json .txt  the last report

256 sub-folders by a hash keep ``leases``, ``done`` and ``refused`` small.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from medidiff.batch.cases import Case, Manifest, write_manifest
from medidiff.batch.journal import latest_ns
from medidiff.batch.leases import Leases
from medidiff.batch.records import Done, Records, Refused
from medidiff.errors import InputError, OutputError
from medidiff.io.files.atomic import output_errors, partial_name, remove_stale, sync, write_file

__all__ = ["FOLDER", "Batch", "Job", "Listing", "alone", "pulled"]

FOLDER = ".medidiff"
_LARGEST = 2**22  # bytes
_MEND = "Give the folder that 'medidiff batch' wrote into; a damaged batch is begun anew in another folder."

Listing = Callable[[], Iterable[Case]]


@dataclass(frozen=True, slots=True)
class Job:
    """What is done to every case.

    Args:
        task: ``"denoise"``, ``"superresolve"`` or ``"joint"``.
        source: absolute path of the input; ``pacs:NODE?HASH`` for a question to an archive.
        options: all that have an effect on a result, as JSON values.
        priors: SHA-256 of each prior that a case may get, by name.
        seed: of the batch.
    """

    task: str
    source: str
    options: Mapping[str, Any]
    priors: Mapping[str, str]
    seed: int

    @property
    def config_sha256(self) -> str:
        """Of the task, the options and the seed; priors count by themselves, and where the input lies does not."""
        text = json.dumps([self.task, self.options, self.seed], sort_keys=True, allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()

    def prior_sha256(self, name: str) -> str:
        """Of one prior; without a name of all that a case may get."""
        if name:
            return self.priors.get(name, "")
        return hashlib.sha256(json.dumps(dict(self.priors), sort_keys=True).encode()).hexdigest()

    def differences(self, other: Job) -> list[str]:
        """What another job has that this one has not, as words for a message."""
        names = sorted({*self.options, *other.options})
        found = [name for name in names if self.options.get(name) != other.options.get(name)]
        for name in ("task", "source", "seed"):
            if getattr(self, name) != getattr(other, name):
                found.insert(0, {"source": "input"}.get(name, name))
        return found


class Batch:
    """A batch on the disk.

    Args:
        root: the output folder.
        lease_limit_s: as for `Leases`.
    """

    def __init__(self, root: Path, *, lease_limit_s: float = 120.0) -> None:
        self.root, self.folder = root, root / FOLDER
        self.records = Records(root, self.folder)
        self.leases = Leases(self.folder / "leases", limit_s=lease_limit_s)
        self.job, digest = self._read()
        self._config = self.job.config_sha256.encode()
        self._priors = [self.job.prior_sha256(name).encode() for name in (*self.job.priors, "")]
        self.manifest = Manifest(self.folder / "manifest.jsonl")
        if self.manifest.sha256 != digest:
            found = "the manifest is not that which the batch began with"
            raise InputError("E-BATCH", found, mend=_MEND, file="manifest.jsonl")

    @staticmethod
    def is_there(root: Path) -> bool:
        """Whether a folder holds a batch."""
        return (root / FOLDER / "settings.json").is_file()

    @classmethod
    def begin(cls, root: Path, job: Job, cases: Listing, *, go_on: bool = False, lease_limit_s: float = 120.0) -> Batch:
        """Begin a batch, or join the one that is there.

        Args:
            root: the output folder.
            job: what is to be done.
            cases: called for the cases when there is no manifest yet.
            go_on: whether to take on a batch of other settings; what was done with those is then done anew.
            lease_limit_s: as for `Leases`.

        Raises:
            OutputError: ``E-EXISTS``, a batch of other settings is there; or the folder cannot be written.
            InputError: ``E-BATCH``, what is there is damaged; ``E-MANIFEST``, the cases cannot be.
        """
        folder = root / FOLDER
        with output_errors(root.name):
            folder.mkdir(parents=True, exist_ok=True)
            for name in ("leases", "done", "refused", "journal", "metrics", "logs"):
                (folder / name).mkdir(exist_ok=True)
            sync(root)
        with alone(folder):
            return cls._begin(root, job, cases, go_on=go_on, lease_limit_s=lease_limit_s)

    @classmethod
    def _begin(cls, root: Path, job: Job, cases: Listing, *, go_on: bool, lease_limit_s: float) -> Batch:
        folder = root / FOLDER
        if not cls.is_there(root):
            manifest = folder / "manifest.jsonl"
            write_manifest(manifest, cases())
            _write(folder, job, Manifest(manifest).sha256)
        batch = cls(root, lease_limit_s=lease_limit_s)
        if _is_one_place(job.source, batch.job.source):
            job = replace(job, source=batch.job.source)
        if batch.job == job:
            return batch
        different = job.differences(batch.job)
        if "input" in different:
            mend = "Choose another folder: a batch keeps its cases."
            raise OutputError("E-EXISTS", "a batch of another input", mend=mend, file=root.name)
        if different and not go_on:
            found = f"a batch of other settings ({', '.join(different)})"
            mend = "Choose another folder; or --continue, which does again what was done with the other settings."
            raise OutputError("E-EXISTS", found, mend=mend, file=root.name)
        _write(folder, job, batch.manifest.sha256)
        return cls(root, lease_limit_s=lease_limit_s)

    def _read(self) -> tuple[Job, str]:
        path = self.folder / "settings.json"
        try:
            if path.stat().st_size > _LARGEST:
                raise ValueError
            fields = json.loads(path.read_bytes())
            config = fields.pop("config_sha256")
            digest = str(fields.pop("manifest_sha256"))
            job = Job(**fields)
            if job.config_sha256 != config:
                raise ValueError
        except FileNotFoundError as error:
            raise InputError("E-BATCH", "no batch in this folder", mend=_MEND, file=self.root.name) from error
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise InputError("E-BATCH", "the settings of the batch are damaged", mend=_MEND, file=path.name) from error
        return job, digest

    def settled(self, case: str, since_ns: int) -> type[Done | Refused] | None:
        """As `Records.settled`, with these settings and priors: a run of older ones may still be under way."""
        return self.records.settled(case, since_ns, fits=self._fits)

    def _fits(self, record: bytes) -> bool:
        return self._config in record and any(prior in record for prior in self._priors)

    def now_ns(self) -> int:
        """A moment after all that was settled: the time that the file system of the batch has, unless it was set back.

        Raises:
            OutputError: the system refuses.
        """
        place = self.folder / partial_name(".now")
        with output_errors(place.name):
            try:
                place.touch()
                now = place.stat().st_mtime_ns
            finally:
                place.unlink(missing_ok=True)
        latest = max(latest_ns(self.folder / "journal"), self.records.latest_ns())
        return now if latest <= now else latest + 1

    def part(self, parts: int, number: int) -> range:
        """Numbers of the cases of one of several parts, which are as good as equal."""
        return range(number, len(self.manifest), parts)

    def sweep(self) -> None:
        """Remove what killed runs have left in the batch's own folder; never anything of a living process."""
        for folder, children, names in os.walk(self.folder):
            if any(name.startswith(".medidiff-") for name in (*children, *names)):
                remove_stale(Path(folder))
            if Path(folder).parent == pulled(self.root):  # a study: its series are whole, and may be many files
                children.clear()
        self.leases.sweep()


def pulled(root: Path) -> Path:
    """Where the series lie that an archive has sent, ``STUDY/SERIES`` below it.

    Args:
        root: the output folder.
    """
    return root / FOLDER / "pulled"


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """One process at a time, where the file system has locks; the system lets go of it when the process ends."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _is_one_place(source: str, other: str) -> bool:
    """Whether two spellings of an input, one through a link or ``..`` perhaps, mean one place that is there."""
    try:
        return Path(source).samefile(other)
    except (OSError, ValueError):
        return False


def _write(folder: Path, job: Job, manifest_sha256: str) -> None:
    about = asdict(job) | {"config_sha256": job.config_sha256, "manifest_sha256": manifest_sha256}
    text = json.dumps(about, indent=2, sort_keys=True, allow_nan=False) + "\n"

    def write(name: Path) -> None:
        name.chmod(0o600)  # the input's path may name a patient
        name.write_text(text, encoding="utf-8")

    write_file(folder / "settings.json", write)
