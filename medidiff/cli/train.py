"""``medidiff train``: consume a training run, track it, and show how it goes."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from medidiff.cli.screen import Report, Screen
from medidiff.cli.session import Session
from medidiff.cli.verbs import Train
from medidiff.errors import SettingsError
from medidiff.report import montage
from medidiff.tracking import track
from medidiff.training.coarse_recipe import CoarseRecipe, read_any
from medidiff.training.processes import Process, start_processes
from medidiff.training.recipe import Recipe
from medidiff.training.run import Event, Finished, Started, Step, Validated, count_scans, train

__all__ = ["run"]

_MOST_WORKERS = 256
_RUN_FILE = "mlflow-run.txt"
_LOSS_STEPS = 50.0  # the loss shown is a running mean over about so many steps
_SECONDS_BETWEEN_LINES = 60.0  # where there is no bar


def run(verb: Train, session: Session) -> None:
    """Train a prior, or go on with one; under ``torchrun`` only the first process tracks and shows.

    Raises:
        SettingsError: a broken recipe, missing data, or no such device.
        PriorError: the run diverged, or its checkpoint is broken.
    """
    screen = Screen(verb.json)
    recipe = read_any(verb.recipe)
    device = _device(verb)
    if verb.dry_run:
        _show_plan(verb, recipe, device=device, screen=screen)
        return
    with start_processes(device) as process:
        if not process.is_first:
            for _ in _events(verb, process):
                pass
            return
        with screen.progress(recipe.name) as report:
            watch = _Watch(recipe.fit.images, report, screen)
            for event in _events(verb, process):
                watch.take(event)
    watch.conclude()
    if watch.finished is not None:
        card = watch.finished.card
        session.outputs([card.with_suffix(".safetensors"), card])


def _device(verb: Train) -> str:
    if verb.device == "cuda" and not torch.cuda.is_available():
        raise SettingsError("E-DEVICE", "no CUDA device", attribute="--device", mend="Use --device auto.")
    return ("cuda" if torch.cuda.is_available() else "cpu") if verb.device == "auto" else verb.device


def _workers(verb: Train, device: str) -> int:
    """A GPU waits for its patches unless other processes draw them; on a CPU they would take its cores away."""
    if verb.workers is None:
        return max((os.cpu_count() or 1) - 2, 1) if device.startswith("cuda") else 0
    if not 0 <= verb.workers <= _MOST_WORKERS:
        raise SettingsError("E-SETTING", f"{verb.workers}", wanted=f"0 to {_MOST_WORKERS}", attribute="--workers")
    return verb.workers


def _events(verb: Train, process: Process) -> Iterator[Event]:
    wide = verb.precision == "float32" or (verb.precision == "auto" and not process.device.startswith("cuda"))
    workers = _workers(verb, process.device)
    events = train(
        verb.recipe,
        verb.out,
        data=verb.data,
        device=process.device,
        autocast=None if wide else torch.bfloat16,
        workers=workers,
        cache=verb.cache,
    )
    if not process.is_first:
        return events
    return track(
        events,
        run_file=verb.out / _RUN_FILE,
        uri=verb.tracking,
        device=process.device,
        draw=lambda pictures, path: montage(
            path, {name: cube.numpy() for name, cube in pictures.items()}, columns=len(pictures)
        ),
    )


@dataclass(slots=True)
class _Watch:
    """What is remembered of a run in order to show it."""

    total: int
    report: Report
    screen: Screen
    loss: float = math.nan
    scores: dict[str, float] = field(default_factory=dict)
    finished: Finished | None = None
    first: int = 0
    since: float = 0.0
    spoken: float = 0.0

    def take(self, event: Event) -> None:
        """Show one event."""
        if isinstance(event, Started):
            self.first, self.since, self.spoken = event.images, time.monotonic(), time.monotonic()
            state = f"goes on after {event.images} images" if event.images else "starts"
            repeats = f"; {event.repeats} more are the same as one of them and do not count" if event.repeats else ""
            self.screen.note(f"{event.recipe.name} {state}, {event.scans} scans{repeats}")
        elif isinstance(event, Step):
            self._step(event)
        elif isinstance(event, Validated):
            self.scores = event.scores
            words = ", ".join(f"{name} {value:.4g}" for name, value in event.scores.items())
            self.screen.note(f"{event.images} images: {words}")
        else:
            self.finished = event

    def _step(self, event: Step) -> None:
        old = event.loss if math.isnan(self.loss) else self.loss
        self.loss = old + (event.loss - old) / _LOSS_STEPS
        self.report(event.images, self.total, f"loss {self.loss:.4f}")
        if self.screen.draws_bars or time.monotonic() - self.spoken < _SECONDS_BETWEEN_LINES:
            return
        self.spoken = time.monotonic()
        left = (self.total - event.images) * (self.spoken - self.since) / max(event.images - self.first, 1)
        self.screen.note(f"{event.images} of {self.total} images, loss {self.loss:.4f}, {left / 60:.0f} minutes left")

    def conclude(self) -> None:
        """Print what the run left behind."""
        if self.finished is None:
            return
        card = self.finished.card
        if self.screen.json:
            result = {"images": self.finished.images, "loss": self.loss, "scores": self.scores, "card": card}
            self.screen.document({"task": "train"} | result)
            return
        self.screen.lines({"wrote prior": card, "images": self.finished.images} | self.scores)


def _show_plan(verb: Train, recipe: Recipe | CoarseRecipe, *, device: str, screen: Screen) -> None:
    folder = verb.recipe.parent
    scans = {part: count_scans(recipe, folder, verb.data, part=part) for part in ("train", "validation")}
    plan: dict[str, Any] = {"task": "train", "dry_run": True, "device": device, "scans": scans, "out": verb.out}
    if screen.json:
        screen.document(plan | {"recipe": recipe.to_dict()})
        return
    screen.lines(
        {
            "plan": f"train {recipe.name} (nothing is written)",
            "scans": f"{scans['train']} to train on, {scans['validation']} to watch",
            "images": f"{recipe.fit.images} {_seen(recipe)}, {recipe.fit.batch} a step",
            "network": f"{recipe.model.channels} channels, {recipe.model.blocks} blocks",
            "device": device,
            "write": verb.out,
        }
    )


def _seen(recipe: Recipe | CoarseRecipe) -> str:
    if isinstance(recipe, CoarseRecipe):
        return f"whole heads of {recipe.data.shape} voxels"
    return f"patches of {recipe.fit.patch} voxels"
