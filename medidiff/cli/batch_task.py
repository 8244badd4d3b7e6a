"""One case of a batch: what ``medidiff denoise`` or ``superresolve`` does, with names and a seed of the case's own."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from medidiff.batch.cases import Case
from medidiff.batch.job import FOLDER, Job
from medidiff.batch.metrics import OUT_OF_SCOPE
from medidiff.batch.records import Done, Records
from medidiff.batch.worker import Outcome
from medidiff.cli.describe import shown
from medidiff.cli.engine_options import EngineOptions
from medidiff.cli.restoring import prepared, restored, written
from medidiff.cli.session import read_options
from medidiff.cli.verbs import Denoise, Restoring, Superresolve
from medidiff.errors import InputError, OutputError, PriorError
from medidiff.io import Reading, find
from medidiff.io.files.atomic import output_errors, sha256
from medidiff.io.own import refuse_foreign
from medidiff.io.sidecar import record_path
from medidiff.prior import Prior, prior_sha256
from medidiff.restore import Posterior

__all__ = ["RestoreTask", "options_of"]

_WORDS = {"denoise": "denoised", "superresolve": "superresolved", "joint": "superresolved"}
_OWN = ("source", "out", "scan", "seed", "record", "dry_run", "json", "device")  # that each case, or machine, has
_ASKED = ("spread", "interval", "draw", "format")  # that each case turns into names


class RestoreTask:
    """Restores cases, all with the same options.

    Args:
        job: what is done.
        root: the output folder.
        device: as ``--device``.
    """

    def __init__(self, job: Job, root: Path, *, device: str = "auto") -> None:
        self.job, self.root, self.device = job, root, device
        self._priors: dict[str, Prior] = {}

    # ------------------------------------------------------------------------------------------------------ the input

    def fingerprint(self, case: Case) -> str:
        """SHA-256 of the bytes that the result depends on, or of what can be seen of files that cannot be read."""
        path = Path(case.input)
        try:
            scan = find(path, read_options(self._verb(case))).only(case.scan, file=path.name)
            return _combined([sha256(file) for file in scan.files], path)
        except Exception:  # whatever it was, the case is refused for it, and that needs a fingerprint
            return hashlib.sha256("\n".join(_seen(path)).encode("utf-8", "surrogateescape")).hexdigest()

    def _verb(self, case: Case) -> Restoring:
        """The command line of the case alone."""
        options = {name: value for name, value in self.job.options.items() if name not in _ASKED}
        options |= {name: tuple(value) for name, value in options.items() if isinstance(value, list)}
        asked = self.job.options
        words: dict[str, Any] = {"source": Path(case.input), "out": self._place(case, _WORDS[self.job.task])}
        words |= {name: self._place(case, name) for name in ("spread", "draw") if asked.get(name)}
        if asked.get("interval") is not None:
            words["interval"] = (asked["interval"], self._place(case, "lower"), self._place(case, "upper"))
        kind = Denoise if self.job.task == "denoise" else Superresolve
        words |= {"scan": case.scan, "seed": case.seed(self.job.seed), "format": asked["format"], "device": self.device}
        return kind(**options, **words)

    def _place(self, case: Case, kind: str) -> Path:
        return self.root / case.result(kind, "" if self.job.options["format"] == "dicom" else ".nii.gz")

    # -------------------------------------------------------------------------------------------------------- the work

    def run(self, case: Case) -> Outcome:
        """Read, restore and write one case.

        Raises:
            MedidiffError: the case is refused, or nothing can be written.
        """
        verb = self._verb(case)
        reading = _read(verb, case)
        plan = prepared(verb, reading, load=self._load)
        told = [case.plain(sentence) for sentence in (*reading.decisions, *plan.chosen)]
        for place in verb.outputs.values():
            with output_errors(place.name):
                refuse_foreign(place)
        posterior = _without_machine(restored(verb, plan, told=told))
        before = Records(self.root, self.root / FOLDER).done(case.name)
        made = {} if before is None else {self.root / name: digest for name, digest in before.files.items()}
        for place in verb.outputs.values():
            with output_errors(place.name):
                _make_room(place, made, folder=verb.format == "dicom")
        if before is not None:
            _drop_companions(self.root, before, list(verb.outputs.values()))
        files = dict(written(verb, posterior))
        prior = posterior.provenance.prior.get("name", "")
        return Outcome(
            _combined(reading.sha256, Path(case.input)),
            prior,
            {name: shown(paths) for name, paths in files.items()},
            [path for paths in files.values() for path in paths],
            _metrics(plan.reading, posterior),
            tuple(case.plain(sentence) for sentence in posterior.provenance.decisions),
        )

    def _load(self, source: str) -> Prior:
        """A prior, read once; refused when it is not the one that the batch began with."""
        if source not in self._priors:
            prior = Prior.load(source)
            if prior_sha256(source) != self.job.priors.get(prior.card.name):
                mend = "Start the batch again: what was done with the other prior is then done anew."
                raise PriorError(
                    "E-WEIGHTS", "not the prior that the batch began with", mend=mend, file=prior.card.name
                )
            self._priors[source] = prior
        return self._priors[source]


def _read(verb: Restoring, case: Case) -> Reading:
    path = Path(case.input)
    try:
        return find(path, read_options(verb)).only(case.scan, file=path.name).load()
    except OSError as error:
        found = error.strerror or "the system refuses to read it"
        raise InputError("E-READ", found, mend="Check the disk and the rights.", file=path.name) from error


def _combined(digests: Any, path: Path) -> str:
    """One hash of those of a scan's files, and of the JSON file beside it, which says modality and thickness."""
    beside = record_path(path)
    try:
        more = [sha256(beside)] if path.is_file() and beside.is_file() else []
    except OSError:
        more = []
    return hashlib.sha256(" ".join([*digests, *more]).encode()).hexdigest()


def _seen(path: Path) -> list[str]:
    """What can be seen of files that are no scan: bytes of a single file, names, sizes and times of a folder's."""
    try:
        if path.is_file():
            return [sha256(path)]
        files = sorted(file for file in path.rglob("*") if file.is_file())
        return [f"{file.relative_to(path)} {(about := file.stat()).st_size} {about.st_mtime_ns}" for file in files]
    except (OSError, ValueError) as error:  # a path with a NUL
        return [type(error).__name__]


def _without_machine(posterior: Posterior) -> Posterior:
    """Without what differs from one worker to the next and has no effect: the number of threads."""
    made = posterior.provenance
    environment = {name: value for name, value in made.environment.items() if name != "threads"}
    return dataclasses.replace(posterior, provenance=dataclasses.replace(made, environment=environment))


def _make_room(place: Path, made: Mapping[Path, str], *, folder: bool) -> None:
    """Remove what is ours and is to be made again, but no writer would replace.

    That is a series, for a folder of DICOM files is never written into; and a JSON record that was damaged, which
    looks like somebody else's.

    Args:
        place: where a result goes.
        made: SHA-256 of each file that an earlier run wrote for this case.
        folder: whether the result is one.
    """
    if place.exists() and place.is_dir() != folder:
        number = errno.ENOTDIR if folder else errno.EISDIR
        raise OSError(number, os.strerror(number))
    if not folder:
        beside = record_path(place)
        if beside in made and beside.is_file() and sha256(beside) != made[beside]:
            beside.unlink()
        return
    record = place / "provenance.json"
    whole = (
        path for path, digest in made.items() if place in path.parents and path.is_file() and sha256(path) == digest
    )
    if any(whole) or (record.is_file() and b'"medidiff"' in record.read_bytes()):
        shutil.rmtree(place)
    elif record.is_file():
        mend = "Choose another output folder."
        raise OutputError("E-OVERWRITE", "a folder that medidiff did not write", mend=mend, file=place.name)


def _drop_companions(root: Path, before: Done, places: Sequence[Path]) -> None:
    """Remove the spread, draw and bounds of an earlier result that is made anew without them: they are none of its own.

    Args:
        root: the output folder.
        before: what was made; results that stay, for they have other names, keep theirs.
        places: where the results go.
    """
    if not any(_is_of(root / before.results.get("mean", ""), place) for place in places):
        return
    for name, digest in before.files.items():
        path = root / name
        if not any(_is_of(path, place) for place in places) and path.is_file() and sha256(path) == digest:
            with output_errors(path.name):
                path.unlink()
            with suppress(OSError):  # not empty
                path.parent.rmdir()


def _is_of(path: Path, place: Path) -> bool:
    """Whether a file is a result, is its record, or lies in its folder."""
    return path in (place, record_path(place)) or place in path.parents


def _metrics(reading: Reading, posterior: Posterior) -> Mapping[str, float]:
    """Numbers about one case: the noise level that was told, what was removed, contradicted places, its scope."""
    before, after = reading.volume, posterior.mean
    found = {"noise_level": float(posterior.provenance.settings["noise_level"]), "voxels": float(after.data[0].size)}
    if before.geometry == after.geometry:
        removed = before.data.astype(np.float64) - after.data
        if before.filled is not None:
            removed = removed[:, ~before.filled]
        found["removed_rms"] = float(np.sqrt(np.mean(np.square(removed))))
    if posterior.provenance.support:
        found["contradicted_places"] = float(posterior.provenance.contradicted)
    if (score := posterior.provenance.scope.get("score")) is not None:
        found |= {"scope_score": float(score), OUT_OF_SCOPE: float(posterior.out_of_scope)}
    return found


def options_of(verb: Any) -> dict[str, Any]:
    """What of a batch's options has an effect on results, as JSON values."""
    left_out = {*_OWN, *(f.name for f in dataclasses.fields(EngineOptions))}
    left_out |= {"go_on", "retry_failed", "config", "workers", "threads", "num_parts", "part_id", "tracking"}
    options = {f.name: getattr(verb, f.name) for f in dataclasses.fields(verb) if f.name not in left_out}
    options |= {"draws": verb.wanted_draws, "steps": verb.wanted_steps}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in options.items()}
