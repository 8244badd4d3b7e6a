"""A whole training run: data, resume, loop, validation, checkpoint, and the prior at the end."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, distributed

from medidiff.errors import SettingsError
from medidiff.io.files.names import safe_pattern
from medidiff.prior import Card, Prior
from medidiff.training.checkpoint import read_checkpoint
from medidiff.training.checks import denoise_scores
from medidiff.training.fit import FitState, Step, fit
from medidiff.training.pack import is_pack, read_pack
from medidiff.training.patches import Patches, Scan
from medidiff.training.recipe import Recipe, read_recipe

__all__ = ["Event", "Finished", "Started", "Step", "Validated", "count_scans", "load_scans", "train"]

CHECKPOINT = "checkpoint.pt"
_SECONDS_BETWEEN_CHECKPOINTS = 120.0


@dataclass(frozen=True, slots=True)
class Started:
    """The run is ready to go, from `images` seen so far."""

    recipe: Recipe
    images: int
    scans: int
    data_fingerprint: str


@dataclass(frozen=True, slots=True)
class Validated:
    """The averaged weights were scored: names and values, and (I, J, K) cubes to look at (noisy, denoised, clean)."""

    images: int
    scores: dict[str, float]
    pictures: Sequence[Tensor]


@dataclass(frozen=True, slots=True)
class Finished:
    """The prior was written; `card` is the path of its card."""

    images: int
    card: Path


Event = Started | Step | Validated | Finished


def train(
    recipe_path: Path,
    out: Path,
    *,
    data: Path | None = None,
    device: str = "cpu",
    autocast: torch.dtype | None = None,
    workers: int = 0,
) -> Iterator[Event]:
    """Train a prior, or go on with one: the same call resumes from the last checkpoint in `out`.

    The length of the run (`fit.images`, `fit.cooldown`) may be changed between two calls; everything else is the
    run's own.

    Every process of a ``torchrun`` calls this alike; only the first one writes and yields more than its steps.

    Args:
        recipe_path: TOML recipe.
        out: folder for the checkpoint and the prior.
        data: data folder instead of the recipe's, or a pack of its scans.
        device: where to compute.
        autocast: type that the network computes in on a GPU, e.g. ``torch.bfloat16``.
        workers: processes that draw patches ahead; they change nothing but the speed.

    Yields:
        `Started`, then `Step` at each look at the loss and `Validated` now and then, and `Finished`.

    Raises:
        SettingsError: a broken recipe, missing data, or a folder that holds another recipe's run.
    """
    recipe = read_recipe(recipe_path)
    scans, weights = load_scans(recipe, recipe_path.parent, data, part="train")
    watched, _ = load_scans(recipe, recipe_path.parent, data, part="validation", most=recipe.validation.scans)
    fingerprint = hashlib.sha256("".join(sorted(s.sha256 for s in scans)).encode()).hexdigest()
    state = FitState(recipe, device=device, autocast=autocast)
    start = _begin(state, recipe, recipe_path.parent)
    _resume(state, recipe, out, fingerprint=fingerprint)
    first = not distributed.is_initialized() or distributed.get_rank() == 0
    yield Started(_published(recipe), state.images, len(scans), fingerprint)
    scores: dict[str, float] = {}
    saved, looked = time.monotonic(), state.images
    patches = Patches(scans, weights, recipe, device=device, workers=workers)
    for step in fit(state, patches, recipe.fit):
        yield step
        last = step.images >= recipe.fit.images
        if first and (last or step.images // recipe.validation.every > looked // recipe.validation.every):
            looked = step.images
            scores, pictures = denoise_scores(state.average, watched, recipe)
            yield Validated(step.images, scores, pictures)
        if first and (last or time.monotonic() - saved > _SECONDS_BETWEEN_CHECKPOINTS):
            # The prior first: a run killed between the two goes on from the older checkpoint and writes both again.
            Prior(state.average, _card(_published(recipe), step.images, fingerprint, scores, start=start)).save(out)
            _save(state, recipe, out, fingerprint=fingerprint)
            saved = time.monotonic()
    if first:
        yield Finished(state.images, out / f"{recipe.name}.json")


def _published(recipe: Recipe) -> Recipe:
    """The recipe as cards and logs may show it: people name files and folders after patients."""
    data = recipe.data
    sources = tuple(dataclasses.replace(source, pattern=safe_pattern(source.pattern)) for source in data.sources)
    shown = {name: safe_pattern(value) for name, value in (("root", data.root), ("split", data.split))}
    return dataclasses.replace(recipe, data=dataclasses.replace(data, sources=sources, **shown))


def _begin(state: FitState, recipe: Recipe, folder: Path) -> Card | None:
    """Give the run the weights that its recipe names; returns their card."""
    if not recipe.start:
        return None
    path = folder / recipe.start
    prior = Prior.load(path if path.with_suffix(".json").is_file() else recipe.start)
    state.begin_with(prior.denoiser.backbone.state_dict())
    return prior.card


def load_scans(
    recipe: Recipe, folder: Path, data: Path | None, *, part: str, most: int | None = None, source: int | None = None
) -> tuple[list[Scan], list[float]]:
    """The clean scans of one part of the split, and how often a patch is to come from each.

    Args:
        recipe: which sources.
        folder: where the recipe lies.
        data: data folder instead of the recipe's, or a pack.
        part: ``"train"`` or ``"validation"``.
        most: scans to load, the first ones.
        source: number of the one source of the recipe that is wanted, from 0; None for all.

    Raises:
        SettingsError: there are none, or some are missing.
    """
    if data is not None and is_pack(data):
        scans, weights = read_pack(data, part=part, source=source)
        return scans[:most], weights[:most]
    from medidiff.training.data import find_scans, load_scan  # with a pack, none of the readers need be installed

    sources = recipe.data.sources if source is None else (recipe.data.sources[source],)
    chosen = dataclasses.replace(recipe.data, sources=sources)
    found = find_scans(chosen, folder=folder, root=data, part=part)[:most]
    if not found:
        mend = f"List subjects under '{part}' in the recipe's split."
        raise SettingsError("E-DATA", f"no scans of the part '{part}'", mend=mend, file=recipe.data.split)
    return [load_scan(each, recipe) for each in found], [each.weight for each in found]


def count_scans(recipe: Recipe, folder: Path, data: Path | None, *, part: str) -> int:
    """How many scans `load_scans` would load, without loading those of a folder."""
    if data is not None and is_pack(data):
        return len(read_pack(data, part=part)[0])
    from medidiff.training.data import find_scans

    return len(find_scans(recipe.data, folder=folder, root=data, part=part))


def _resume(state: FitState, recipe: Recipe, out: Path, *, fingerprint: str) -> None:
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


def _identity(recipe: Recipe) -> str:
    """A hash of what must not change between two calls of one run; the text itself holds names of scans."""
    return hashlib.sha256(_told(recipe).encode()).hexdigest()


def _told(recipe: Recipe) -> str:
    """All of a recipe but how long the run is to be."""
    return repr(dataclasses.replace(recipe, fit=dataclasses.replace(recipe.fit, images=1, cooldown=0.0)))


def _save(state: FitState, recipe: Recipe, out: Path, *, fingerprint: str) -> None:
    out.mkdir(parents=True, exist_ok=True)
    temporary = out / f".{CHECKPOINT}.part"
    with temporary.open("wb") as file:
        torch.save({"recipe": _identity(recipe), "data": fingerprint, "state": state.state_dict()}, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(out / CHECKPOINT)


def _card(recipe: Recipe, images: int, fingerprint: str, scores: dict[str, float], *, start: Card | None) -> Card:
    return Card(
        name=recipe.name,
        summary=recipe.summary,
        modality=recipe.modality,
        contrasts=recipe.contrasts,
        channels=recipe.model.channels,
        blocks=recipe.model.blocks,
        sigma_data=recipe.model.sigma_data,
        sigma_detail=recipe.model.sigma_detail,
        noise=recipe.degradation.noise,
        images=images + (start.images if start else 0),
        start={"name": start.name, "sha256": start.weights_sha256, "images": start.images} if start else {},
        licence=recipe.licence,
        limits=recipe.limits,
        sources=tuple(f"{source.pattern} ({source.licence})" for source in recipe.data.sources),
        data_fingerprint=fingerprint,
        recipe=recipe.to_dict() | {"data": dataclasses.asdict(dataclasses.replace(recipe.data, root=""))},
        metrics=scores,
    )
