"""MLflow as a listener. It listens to a training run, or takes the scores of a validation.

`track` stands between the training generator and its consumer and passes every event on: the loop never hears of it,
and a store that fails in mid-run costs one warning. What is written is public by construction: no user, no host, names
in lower case (a DICOM keyword is not), numbers and short texts without absolute paths or the look of header fields.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import platform
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, runtime_checkable

from medidiff.errors import OutputError, SettingsError
from medidiff.io.text.toml import to_toml
from medidiff.store import client_of as _client
from medidiff.store import open_experiment as _open
from medidiff.store import store_errors as _store

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from torch import Tensor

__all__ = ["export_run", "log_metrics", "public", "track"]

Event = TypeVar("Event")
Draw = Callable[[Mapping[str, "Tensor"], Path], object]
_BATCH = 1000  # metrics that MLflow takes in one call; of parameters it takes a tenth
_NEUTRAL = {"mlflow.user": "medidiff", "mlflow.source.name": "medidiff", "mlflow.source.type": "LOCAL"}
_CURVES = ("loss", "gradient", "waiting", "rate", "images_per_second")
_NAME = re.compile(r"[a-z][a-z0-9_./ -]{0,249}")
_PRIVATE = {
    "an absolute path": re.compile(r"(^|[\s\"'=:(,;])(/\w|~[/\w]|[A-Za-z]:[\\/]\w|\\\\\w|file:)"),
    "a DICOM UID": re.compile(r"\b\d+(\.\d+){4,}\b"),
    "a DICOM date": re.compile(r"\b(19|20)\d\d(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])\b"),
    "a DICOM person name": re.compile(r"\w\^"),
    "a DICOM tag": re.compile(r"\b[0-9A-Fa-f]{4},[0-9A-Fa-f]{4}\b"),
    "more than one line": re.compile(r"[\r\n]"),
}


def track(
    events: Iterator[Event],
    *,
    run_file: Path,
    uri: str | None = None,
    experiment: str = "medidiff",
    device: str = "cpu",
    every: int = 50,
    draw: Draw | None = None,
) -> Iterator[Event]:
    """Pass a training run's events on and log each on the way; a resumed training continues its MLflow run.

    A run is continued when `run_file` names one of the same recipe and the same data; what it already holds is not
    logged again. Curves have one point every so many images: the mean over the steps since the last point.

    Args:
        events: of `medidiff.training.run.train`; told apart by what they carry.
        run_file: small text file beside the checkpoint that keeps the run's id.
        uri: MLflow store, ``sqlite:///file.db`` or a server; by default ``mlflow.db`` beside `run_file`.
        experiment: name of the MLflow experiment.
        device: where the training computes.
        every: images between two points of the curves.
        draw: writes a run's pictures to a PNG file; without it none are kept.

    Raises:
        SettingsError: the store cannot be opened at the start, or a setting of the recipe must not be published.
    """
    log = _TrainingLog(uri, experiment, run_file, device=device, every=every, draw=draw)
    status = "KILLED"
    try:
        for event in events:
            log.take(event)
            yield event
        status = "FINISHED"
    except Exception:
        status = "FAILED"
        raise
    finally:
        log.close(status)


def log_metrics(
    name: str,
    params: Mapping[str, object],
    metrics: Mapping[str, float | Mapping[int, float]],
    *,
    artifacts: Sequence[Path] = (),
    uri: str | None = None,
    experiment: str = "medidiff-validation",
) -> str:
    """Log one finished evaluation as an MLflow run; returns the run's id.

    Args:
        name: of the run.
        params: settings; plain numbers and texts, nested mappings allowed.
        metrics: scores, each one number or, where there are several cases, a number for each case; the cases become
            the steps of the metric. What is not finite is counted in the tag ``skipped_non_finite`` and left out.
        artifacts: files to keep with it.
        uri: MLflow store; by default ``mlflow.db`` in the current folder.
        experiment: name of the MLflow experiment.

    Raises:
        SettingsError: the store cannot be used, or a name or value must not be published.
    """
    told = public(params)
    cases = {key: value if isinstance(value, Mapping) else {0: value} for key, value in metrics.items()}
    scores = {_public_name(key): {int(n): float(each) for n, each in found.items()} for key, found in cases.items()}
    with _store():
        client, home = _open(uri or f"sqlite:///{Path('mlflow.db').resolve()}", experiment, folder=Path())
        run = _Run(client, client.create_run(home, run_name=_public("name", name), tags=_NEUTRAL).info.run_id)
        run.describe(told, _environment("cpu"))
        for key, found in scores.items():
            for case in sorted(found):
                run.metric(key, found[case], case)
        run.keep("", *artifacts)
        run.close("FINISHED")
    return run.id


def public(settings: Mapping[str, object]) -> dict[str, str]:
    """Settings as one level of names and texts; ``E-PRIVATE``, with `SettingsError`, where not anyone may read them."""
    return {key: _public(key, value) for key, value in _flat(settings).items()}


def export_run(uri: str, run_id: str, path: Path) -> None:
    """Write a run of a store to a JSON file: parameters, tags, each metric as ``[images, value, seconds since start]``.

    Raises:
        SettingsError: the store holds no such run, or the run holds what must not be published.
        OutputError: the file cannot be written.
    """
    with _store():
        client = _client(uri)
        run = client.get_run(run_id)
        curves = {key: client.get_metric_history(run_id, key) for key in run.data.metrics}
    start = run.info.start_time
    tags = {key: value for key, value in run.data.tags.items() if not key.startswith("mlflow.")}
    record = {
        "name": _public("name", run.info.run_name),
        "status": run.info.status,
        "params": {key: _public(key, value) for key, value in run.data.params.items()},
        "tags": {key: _public(key, value) for key, value in tags.items()},
        "metrics": {k: sorted([p.step, p.value, (p.timestamp - start) // 1000] for p in c) for k, c in curves.items()},
    }
    try:
        path.write_text(json.dumps(record, sort_keys=True, allow_nan=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise OutputError("E-OUT", "the run cannot be written there", file=path.name) from error


@runtime_checkable
class _Started(Protocol):
    recipe: Any
    images: int
    scans: int
    data_fingerprint: str


@runtime_checkable
class _Step(Protocol):
    images: int
    loss: float
    rate: float
    gradient: float
    waiting: float


@runtime_checkable
class _Validated(Protocol):
    images: int
    scores: dict[str, float]
    pictures: Mapping[str, Tensor]


@runtime_checkable
class _Finished(Protocol):
    card: Path


class _Run:
    """An MLflow run that is written to in batches; what the store does not take is kept and offered again."""

    def __init__(self, client: MlflowClient, run_id: str) -> None:
        self.client, self.id, self.skipped = client, run_id, 0
        self.waiting: list[tuple[str, float, int, int]] = []
        known = client.get_run(run_id).data.metrics
        self.last = {key: max(point.step for point in client.get_metric_history(run_id, key)) for key in known}

    def metric(self, name: str, value: float, images: int) -> None:
        """Note a score, unless it is not a finite number or the run held it before a restart."""
        if not math.isfinite(value):  # a database would store infinity as 1.8e308
            self.skipped += 1
        elif images > self.last.get(name, -1):
            self.last[name] = images
            self.waiting.append((name, value, int(time.time() * 1000), images))

    def flush(self) -> None:
        """Hand over what was noted."""
        from mlflow.entities import Metric

        while self.waiting:
            self.client.log_batch(self.id, metrics=[Metric(*each) for each in self.waiting[:_BATCH]])
            del self.waiting[:_BATCH]

    def describe(self, params: Mapping[str, str], tags: Mapping[str, str]) -> None:
        """Log parameters, which stay as first told, and tags, which are those of the latest start."""
        from mlflow.entities import Param, RunTag

        entries = [Param(*pair) for pair in params.items()]
        self.client.log_batch(self.id, tags=[RunTag(*pair) for pair in tags.items()])
        for start in range(0, len(entries), _BATCH // 10):
            self.client.log_batch(self.id, params=entries[start : start + _BATCH // 10])

    def keep(self, folder: str, *files: Path) -> None:
        """Copy files to the run's artifacts."""
        for file in files:
            self.client.log_artifact(self.id, str(file), folder)

    def close(self, status: str) -> None:
        """Hand over the rest and end the run."""
        self.flush()
        if self.skipped:
            self.client.set_tag(self.id, "skipped_non_finite", str(self.skipped))
        self.client.set_terminated(self.id, status)


class _TrainingLog:
    """What `track` does with each event; nothing but the start can fail."""

    def __init__(
        self, uri: str | None, experiment: str, run_file: Path, *, device: str, every: int, draw: Draw | None
    ) -> None:
        self.uri = f"sqlite:///{(run_file.parent / 'mlflow.db').resolve()}" if uri is None else uri
        self.experiment, self.run_file, self.device, self.every, self.draw = experiment, run_file, device, every, draw
        self.window: list[tuple[float, float, float]] = []
        self.run: _Run | None = None
        self.warned = False

    def take(self, event: object) -> None:
        """Log one event."""
        if isinstance(event, _Started):
            with _store():
                self.run, self.point = self._start(event), (time.monotonic(), event.images)
        elif isinstance(event, _Step):
            self._guarded(lambda run: self._step(run, event))
        elif isinstance(event, _Validated):
            self._guarded(lambda run: self._validated(run, event))
        elif isinstance(event, _Finished):
            self._guarded(lambda run: run.keep("prior", event.card, event.card.with_suffix(".safetensors")))

    def close(self, status: str) -> None:
        """End the run; a training that goes on later opens it again."""
        self._guarded(lambda run: run.close(status))

    def _guarded(self, action: Callable[[_Run], None]) -> None:
        try:
            if self.run is not None:
                action(self.run)
        except Exception as error:  # whatever MLflow, its database or its server raise: the training is worth more
            if not self.warned:
                logging.getLogger(__name__).warning("MLflow failed (%s); training goes on", type(error).__name__)
            self.warned = True

    def _start(self, event: _Started) -> _Run:
        recipe = event.recipe.to_dict()
        params = {key: _public(key, _relative(value)) for key, value in _flat(recipe).items()}
        digest = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()
        same = {"recipe_sha256": digest, "data_fingerprint": event.data_fingerprint}
        client, home = _open(self.uri, self.experiment, folder=self.run_file.parent)
        run_id = self._previous(client, same)
        if run_id is None:
            run_id = client.create_run(home, run_name=recipe["name"], tags=_NEUTRAL | same).info.run_id
            self.run_file.parent.mkdir(parents=True, exist_ok=True)
            self.run_file.write_text(f"{run_id}\n", encoding="utf-8")
        run = _Run(client, run_id)
        run.describe(params, {**_environment(self.device), "data_scans": str(event.scans)})
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "recipe.toml"
            path.write_text(to_toml(_shown(recipe)), encoding="utf-8")
            run.keep("", path)
        return run

    def _previous(self, client: MlflowClient, same: Mapping[str, str]) -> str | None:
        """The run that the file names, if the store has it and it is of the same recipe and data."""
        from mlflow.exceptions import MlflowException

        if not self.run_file.is_file():
            return None
        run_id = self.run_file.read_text(encoding="utf-8").strip()
        with suppress(MlflowException):
            if same.items() <= client.get_run(run_id).data.tags.items():
                client.update_run(run_id, status="RUNNING")
                return run_id
        return None

    def _step(self, run: _Run, event: _Step) -> None:
        self.window.append((event.loss, event.gradient, event.waiting))
        then, seen = self.point
        if event.images // self.every > seen // self.every:
            self.point = time.monotonic(), event.images
            means = [sum(part) / len(self.window) for part in zip(*self.window, strict=True)]
            self.window.clear()
            speed = (event.images - seen) / max(self.point[0] - then, 1e-9)
            for name, value in zip(_CURVES, (*means, event.rate, speed), strict=True):
                run.metric(name, value, event.images)
            run.flush()

    def _validated(self, run: _Run, event: _Validated) -> None:
        for name, value in event.scores.items():
            run.metric(f"validation/{_public_name(name)}", value, event.images)
        run.flush()
        if self.draw is None or not event.pictures:
            return
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"{'-'.join(event.pictures)}-{event.images:08d}.png"
            self.draw(event.pictures, path)
            run.keep("pictures", path)


def _environment(device: str) -> dict[str, str]:
    import torch

    place = {"python": platform.python_version(), "device": device, "threads": str(torch.get_num_threads())}
    versions = {name: version(name) for name in ("medidiff", "monai", "mlflow", "torch")}
    return {f"environment.{key}": value for key, value in (place | versions).items()}


def _flat(value: object, name: str = "") -> dict[str, object]:
    """Nested settings as one level, ``{"fit": {"rate": 1}}`` as ``{"fit.rate": 1}``; lists of tables are numbered."""
    if isinstance(value, list | tuple) and any(isinstance(part, Mapping) for part in value):
        value = dict(enumerate(value))
    if not isinstance(value, Mapping):
        return {name: value}
    return {key: x for inner, part in value.items() for key, x in _flat(part, f"{name}.{inner}".lstrip(".")).items()}


def _shown(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe with only the last part of an absolute path."""
    return {key: _shown(each) if isinstance(each, Mapping) else _relative(each) for key, each in recipe.items()}


def _relative(value: object) -> object:
    """A setting as it is, but only the last part of an absolute path."""
    paths = (PurePosixPath(value), PureWindowsPath(value)) if isinstance(value, str) else ()
    return next((path.name for path in paths if path.is_absolute()), value)


def _public_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise SettingsError("E-PRIVATE", "a name that may come from a header", wanted="lower case, digits and _ . / -")
    return name


def _public(name: str, value: object) -> str:
    """The value as text; refused unless it is a number or a text without a path or the look of a DICOM header."""
    attribute = _public_name(name)
    values = value if isinstance(value, list | tuple) else (value,)
    if any(type(part) not in (str, int, float, bool) for part in values):  # exactly: pydicom's types derive from them
        raise SettingsError("E-PRIVATE", "a value that is neither number nor text", attribute=attribute)
    texts = [part for part in values if isinstance(part, str)]
    for what in (what for what, pattern in _PRIVATE.items() if any(map(pattern.search, texts))):
        raise SettingsError("E-PRIVATE", f"a value with {what}", attribute=attribute, mend="Logs are public: drop it.")
    return ", ".join(str(part) for part in values)
