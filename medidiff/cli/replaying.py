"""``medidiff replay``: a run made again from its record or its id in MLflow, and its bytes compared."""

from __future__ import annotations

import dataclasses
import sys
import tempfile
import typing
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, redirect_stdout
from importlib import import_module
from pathlib import Path
from typing import Any

from medidiff.cli.options import parse
from medidiff.cli.replay_training import replay_training
from medidiff.cli.replay_versions import refuse_versions
from medidiff.cli.screen import Screen
from medidiff.cli.session import Session
from medidiff.cli.shared import BUNDLED
from medidiff.cli.tracked import RECORD, wrote_dicom
from medidiff.cli.travel_verbs import Replay
from medidiff.cli.verbs import VERBS, Denoise, Superresolve
from medidiff.errors import InputError, MedidiffError, OutputError, PriorError, SettingsError
from medidiff.io.files.names import safe_label
from medidiff.io.record import Run, read_record
from medidiff.prior import fitting_prior
from medidiff.version import __version__

__all__ = ["run"]

_VERBS = ("denoise", "superresolve")
_LEFT_OUT = ("source", "out", "record", "tracking", "json", "dry_run")
_BUNDLED_BEFORE = safe_label(BUNDLED)  # as records held the word at first: hashed, as if it named a file
_ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha", ".html")


def run(verb: Replay, session: Session) -> None:
    """Make a run's result again.

    Raises:
        SettingsError: ``E-REPLAY``, it cannot be made again here; ``E-REPLAY-VERSION``, it ran with other versions.
        InputError: ``E-REPLAY-INPUT``, the scan or the training data are others.
        PriorError: ``E-REPLAY-PRIOR``, the prior is another one.
        OutputError: ``E-REPLAY-BYTES``, the result is another one.
    """
    screen = Screen(verb.json)
    if verb.into.exists() and (not verb.into.is_dir() or any(verb.into.iterdir())):
        raise OutputError("E-EXISTS", "something is there already", mend="Choose a new folder.", file=verb.into.name)
    path = Path(verb.run)
    if path.is_file():
        runs = read_record(path)
        if not 0 <= verb.number <= len(runs):
            raise SettingsError("E-SETTING", f"{verb.number}", wanted=f"0 to {len(runs)}", attribute="--number")
        _restoring(verb, runs[verb.number - 1], screen)
        return
    with _fetched(verb) as (folder, tags):
        if (folder / RECORD).is_file():
            _restoring(verb, read_record(folder / RECORD)[0], screen)
        else:
            replay_training(verb, folder, tags, screen)


@contextmanager
def _fetched(verb: Replay) -> Iterator[tuple[Path, Mapping[str, str]]]:
    """The artifacts and tags of a run in MLflow."""
    from medidiff.store import fetch_run

    if verb.tracking is None and not Path("mlflow.db").is_file():
        mend = "Go to the folder that holds it, or name the store with --tracking."
        raise SettingsError("E-MLFLOW", "no mlflow.db in this folder", mend=mend)
    store = verb.tracking or f"sqlite:///{Path('mlflow.db').resolve()}"
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder), fetch_run(store, verb.run, Path(folder))


def _restoring(verb: Replay, told: Run, screen: Screen) -> None:
    start = _start(told)
    refuse_versions(start["environment"] | {"medidiff": start.get("version")})
    if verb.input is None:
        raise SettingsError("E-REPLAY", "a scan is needed", attribute="--input", mend="Name the scan that IN was.")
    again = _again(verb, start["options"], start["verb"])
    inner = Session(again, called=str(start["options"].get("source", "")))
    _refuse_input(told, inner.read(again.source).sha256, verb.input.name)
    _refuse_prior(told, again, inner)
    if verb.dry_run:
        screen.lines({"plan": f"{start['verb']} again (nothing is written)", "write": verb.into})
        return
    verb.into.mkdir(parents=True, exist_ok=True)
    try:
        with redirect_stdout(sys.stderr) if verb.json else nullcontext():  # stdout is for one document
            for stage in again.stages:
                import_module(stage).run(again, inner)
    except MedidiffError as error:
        inner.finish(error.exit_code, "refused", error)
        raise
    made = inner.told()
    inner.finish(0, "done")
    same = _compared(told, made)
    _show(screen, {"task": "replay", "verb": start["verb"], "files": same, "out": verb.into})


def _show(screen: Screen, told: Mapping[str, Any]) -> None:
    if screen.json:
        screen.document(told)
        return
    screen.lines({"same bytes": f"{told['files']} files of {told['verb']}", "wrote": told["out"]})


def _start(told: Run) -> Mapping[str, Any]:
    """The first line of a run that can be made again."""
    starts = told.of("start")
    if not starts or not told.of("output"):
        raise SettingsError("E-REPLAY", "a run that wrote nothing", mend="Choose a run that was done.")
    if starts[0].get("verb") == "train":
        mend = "Name its run in MLflow, by the id in mlflow-run.txt beside the prior, and the store with --tracking."
        raise SettingsError("E-REPLAY", "the record of a training run", wanted="its id in MLflow", mend=mend)
    if starts[0].get("verb") not in _VERBS:
        raise SettingsError(
            "E-REPLAY", f"a run of another verb, {str(starts[0].get('verb'))[:20]!r}", wanted=" or ".join(_VERBS)
        )
    if not all(isinstance(starts[0].get(entry), dict) for entry in ("options", "environment")):
        raise SettingsError(
            "E-REPLAY", "a record that lacks what was asked for, or with what", mend="Choose a whole one."
        )
    if wrote_dicom(told):
        mend = "Restore to NIfTI to replay."
        raise SettingsError("E-REPLAY", "a run that wrote DICOM; its UIDs are new at every write", mend=mend)
    return starts[0]


def _again(verb: Replay, options: Mapping[str, Any], name: str) -> Denoise | Superresolve:
    """The verb that a record tells of, its paths replaced; through the grammar, which refuses what cannot be."""
    if not {field.name for field in dataclasses.fields(VERBS[name])} >= options.keys():
        mend = "Use the version that it ran with."
        raise SettingsError("E-REPLAY", "options that this version does not know", mend=mend)
    words = [name, str(verb.input), str(_place(verb, options.get("out", ""), "mean"))]
    outputs = _outputs(VERBS[name])
    for option, value in options.items():
        if option not in _LEFT_OUT and value is not None and value is not False:
            words += [f"--{option.replace('_', '-')}", *_words(verb, option, value, outputs)]
    again = parse(words, VERBS, version=__version__, epilog="")
    assert isinstance(again, Denoise | Superresolve)  # `_start` refused the rest
    return again


def _outputs(kind: type) -> frozenset[str]:
    """Options that name one place to write to: each that is a path, as a scan to read stands without a flag."""
    hints = typing.get_type_hints(kind)
    return frozenset(field.name for field in dataclasses.fields(kind) if Path in _parts(hints[field.name]))


def _parts(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) or (hint,)


def _words(verb: Replay, option: str, value: Any, outputs: frozenset[str]) -> list[str]:
    """What stands behind an option on the command line."""
    if option == "interval":
        share, *bounds = value
        return [str(share), *(str(_place(verb, *each)) for each in zip(bounds, ("lower", "upper"), strict=True))]
    if option == "intervals":
        named, *bounds = value
        file = verb.calibration or (BUNDLED if named in (BUNDLED, _BUNDLED_BEFORE) else None)
        if file is None:
            mend = "Name the file with --calibration."
            raise SettingsError("E-REPLAY", "a run with calibrated intervals", wanted="its calibration", mend=mend)
        return [str(file), *(str(_place(verb, *each)) for each in zip(bounds, ("lower", "upper"), strict=True))]
    if option == "prior":
        return [str(verb.prior or value)]
    if option in outputs:
        return [str(_place(verb, value, option))]
    return [] if value is True else [str(part) for part in (value if isinstance(value, list) else [value])]


def _place(verb: Replay, label: str, stem: str) -> Path:
    """Where an output goes: under a name of ours, in the format that it had."""
    plain = ".html" if stem == "report" else ""  # a label tells no .htm
    ending = next((ending for ending in _ENDINGS if str(label).lower().endswith(ending)), plain)
    return verb.into / f"{stem}{ending}"


def _refuse_input(told: Run, found: tuple[str, ...], file: str) -> None:
    wanted = [str(line.get("sha256")) for line in told.of("input") if line.get("used")]
    if sorted(wanted) != sorted(found):
        mend = "Name the scan that was restored, with all of its files."
        raise InputError("E-REPLAY-INPUT", f"{len(found)} files with other bytes", mend=mend, file=file)


def _refuse_prior(told: Run, again: Denoise | Superresolve, inner: Session) -> None:
    volume = inner.read(again.source).volume
    prior, _ = fitting_prior(dataclasses.replace(volume, modality=again.modality or volume.modality), again.prior)
    wanted = [line.get("sha256") for line in told.of("prior")]
    if [prior.card.weights_sha256] != wanted:
        mend = "Name the prior that was used with --prior CARD."
        raise PriorError("E-REPLAY-PRIOR", f"another prior, '{prior.card.name}'", mend=mend)


def _compared(told: Run, made: Run | None) -> int:
    """How many files are the same, which all must be."""
    wanted = [line.get("sha256") for line in told.of("output")]
    found = [line.get("sha256") for line in made.of("output")] if made else []
    if wanted != found:
        odd = sum(a != b for a, b in zip(wanted, found, strict=False)) + abs(len(wanted) - len(found))
        mend = "Another number of threads, processor or device rounds in another way; what was made is kept."
        raise OutputError("E-REPLAY-BYTES", f"{odd} of {len(wanted)} files with other bytes", mend=mend)
    return len(wanted)
