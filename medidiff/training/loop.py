"""What every training run does, whatever it trains: go on from its checkpoint, look now and then, keep the prior."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, distributed

from medidiff.errors import SettingsError
from medidiff.training.checkpoint import read_checkpoint
from medidiff.training.coarse_recipe import CoarseRecipe
from medidiff.training.fit import Batches, FitState, Loss, Step, fit
from medidiff.training.recipe import Recipe

__all__ = ["CHECKPOINT", "Event", "Finished", "Looked", "Started", "Step", "Validated", "go_on", "resume"]

CHECKPOINT = "checkpoint.pt"
_SECONDS_BETWEEN_CHECKPOINTS = 120.0
AnyRecipe = Recipe | CoarseRecipe
Looked = tuple[dict[str, float], Mapping[str, Tensor]]


@dataclass(frozen=True, slots=True)
class Started:
    """The run is ready to go, from `images` seen so far.

    `repeats` more scans are the same as one of the `scans`, and count once with it.
    """

    recipe: AnyRecipe
    images: int
    scans: int
    data_fingerprint: str
    repeats: int = 0


@dataclass(frozen=True, slots=True)
class Validated:
    """The averaged weights were scored: names and values, and (I, J, K) cubes to look at, by name."""

    images: int
    scores: dict[str, float]
    pictures: Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class Finished:
    """The prior was written; `card` is the path of its card."""

    images: int
    card: Path


Event = Started | Step | Validated | Finished


class _Saved(Protocol):
    """A prior that can be written into a folder."""

    def save(self, folder: Path) -> Path: ...


def go_on(
    state: FitState,
    batches: Batches,
    recipe: AnyRecipe,
    out: Path,
    *,
    fingerprint: str,
    loss: Loss,
    every: int,
    look: Callable[[], Looked],
    prior: Callable[[dict[str, float]], _Saved],
) -> Iterator[Event]:
    """Train from `state` to the end of the recipe; checkpoint and prior are kept every two minutes and at the end.

    Args:
        state: where to start from; advanced in place.
        batches: what to train on.
        recipe: of the run.
        out: folder for the checkpoint and the prior.
        fingerprint: of the training data.
        loss: of a batch.
        every: images between two looks.
        look: scores the averaged weights.
        prior: the averaged weights with a card that holds the latest scores.

    Yields:
        `Step` at each look at the loss, `Validated` now and then, and `Finished`; but for its steps, only in the first
        process of a ``torchrun``.
    """
    first = not distributed.is_initialized() or distributed.get_rank() == 0
    scores: dict[str, float] = {}
    saved, looked = time.monotonic(), state.images
    for step in fit(state, batches, recipe.fit, loss=loss):
        yield step
        last = step.images >= recipe.fit.images
        if first and (last or step.images // every > looked // every):
            looked = step.images
            scores, pictures = look()
            yield Validated(step.images, scores, pictures)
        if first and (last or time.monotonic() - saved > _SECONDS_BETWEEN_CHECKPOINTS):
            # The prior first: a run killed between the two goes on from the older checkpoint and writes both again.
            prior(scores).save(out)
            _save(state, recipe, out, fingerprint=fingerprint)
            saved = time.monotonic()
    if first:
        yield Finished(state.images, out / f"{recipe.name}.json")


def resume(state: FitState, recipe: AnyRecipe, out: Path, *, fingerprint: str) -> None:
    """Go on from the checkpoint of a folder, if it holds one.

    Raises:
        SettingsError: ``E-RUN``, it is of another recipe or of other data.
        PriorError: ``E-CHECKPOINT``, it is broken.
    """
    path = out / CHECKPOINT
    if not path.is_file():
        return
    saved = read_checkpoint(path)
    same = saved["recipe"] in (_identity(recipe), _told(recipe))  # version 0.1 kept the text before it kept the hash
    same_data = saved["data"] == fingerprint
    if not same:
        raise SettingsError("E-RUN", "the folder holds the run of another recipe", mend="Train into another folder.")
    if not same_data:
        found, mend = "the folder holds a run on other scans", "Train into another folder, or give the same data."
        raise SettingsError("E-RUN", found, attribute="--data", mend=mend)
    state.load_state_dict(saved["state"])


def _identity(recipe: AnyRecipe) -> str:
    """A hash of what must not change between two calls of one run; the text itself holds names of scans."""
    return hashlib.sha256(_told(recipe).encode()).hexdigest()


def _told(recipe: AnyRecipe) -> str:
    """All of a recipe but how long the run is to be."""
    return repr(dataclasses.replace(recipe, fit=dataclasses.replace(recipe.fit, images=1, cooldown=0.0)))


def _save(state: FitState, recipe: AnyRecipe, out: Path, *, fingerprint: str) -> None:
    out.mkdir(parents=True, exist_ok=True)
    temporary = out / f".{CHECKPOINT}.part"
    with temporary.open("wb") as file:
        torch.save({"recipe": _identity(recipe), "data": fingerprint, "state": state.state_dict()}, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(out / CHECKPOINT)
