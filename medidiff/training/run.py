"""A whole training run: data, resume, loop, validation, checkpoint, and the prior at the end."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch

from medidiff.diffusion.denoiser import restoration_loss
from medidiff.errors import SettingsError
from medidiff.io.files.names import safe_pattern
from medidiff.prior import Card, Prior
from medidiff.prior.card import Measures
from medidiff.training.checks import denoise_scores
from medidiff.training.coarse import train_coarse
from medidiff.training.coarse_recipe import CoarseRecipe, read_any
from medidiff.training.contrast import Pair, Pairs, contrast_scores, curve_of, load_pairs
from medidiff.training.contrast_recipe import ContrastRecipe
from medidiff.training.fit import FitState, Loss
from medidiff.training.heads import read_heads
from medidiff.training.loop import Event, Finished, Started, Step, Validated, go_on, resume
from medidiff.training.pack import is_pack, read_pack
from medidiff.training.patches import Patches, Scan
from medidiff.training.recipe import DataRecipe, Recipe, licence_of
from medidiff.training.repeats import once, refuse_shared
from medidiff.training.stored import StoredScan

if TYPE_CHECKING:
    from medidiff.training.data import Found

__all__ = ["Event", "Finished", "Started", "Step", "Validated", "count_scans", "load_scans", "train", "train_contrast"]

S = TypeVar("S", Scan, StoredScan)


def train(
    recipe_path: Path,
    out: Path,
    *,
    data: Path | None = None,
    device: str = "cpu",
    autocast: torch.dtype | None = None,
    workers: int = 0,
    cache: Path | None = None,
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
        cache: folder that keeps the prepared scans, from which patches are then cut; without it they are prepared at
            every start and held in memory. It changes no patch.

    Yields:
        `Started`, then `Step` at each look at the loss and `Validated` now and then, and `Finished`.

    Raises:
        SettingsError: a broken recipe, missing data, a folder that holds another recipe's run, or a cache for a pack;
            ``E-SHARED``, a scan stands under ``train`` and ``validation``.
    """
    recipe = read_any(recipe_path)
    if cache is not None and (type(recipe) is not Recipe or is_pack(data)):
        found, wanted = "no single scans are prepared for this run", "the recipe of a fine prior, and scans"
        raise SettingsError("E-SETTING", found, wanted=wanted, attribute="--cache", mend="Leave it out.")
    if isinstance(recipe, CoarseRecipe):
        yield from train_coarse(recipe, recipe_path.parent, _pack_of_heads(data), out, device=device, autocast=autocast)
        return
    if isinstance(recipe, ContrastRecipe):
        yield from train_contrast(recipe, recipe_path.parent, out, data=data, device=device, autocast=autocast)
        return
    scans, weights, repeats = _training_scans(recipe, recipe_path.parent, data, cache)
    watched, _ = load_scans(recipe, recipe_path.parent, data, part="validation", most=recipe.validation.scans)
    refuse_shared((s.sha256 for s in scans), (s.sha256 for s in watched), recipe.data)
    fingerprint = _fingerprint(scans)
    state = FitState(recipe, device=device, autocast=autocast)
    start = _begin(state, recipe, recipe_path.parent)
    resume(state, recipe, out, fingerprint=fingerprint)
    published = _published(recipe)
    yield Started(published, state.images, len(scans), fingerprint, repeats)
    yield from go_on(
        state,
        Patches(scans, weights, recipe, device=device, workers=workers),
        recipe,
        out,
        fingerprint=fingerprint,
        loss=restoration_loss,
        every=recipe.validation.every,
        look=lambda: denoise_scores(state.average, watched, recipe),
        prior=lambda scores: Prior(state.average, _card(published, state.images, fingerprint, scores, start=start)),
    )


def train_contrast(
    recipe: ContrastRecipe,
    folder: Path,
    out: Path,
    *,
    data: Path | None = None,
    device: str = "cpu",
    autocast: torch.dtype | None = None,
    loss: Loss = restoration_loss,
) -> Iterator[Event]:
    """Train a prior that draws one contrast given a scan in another, or go on with one, as `train` does.

    Where the split lists no validation subject the run is watched on the training scans, and its scores say ``fit``.

    Args:
        recipe: of the run.
        folder: where the recipe lies.
        out: folder for the checkpoint and the prior.
        data: data folder instead of the recipe's.
        device: where to compute.
        autocast: type that the network computes in on a GPU.
        loss: what is made small.

    Raises:
        SettingsError: ``E-PACK``, the data are a pack; otherwise as `train`.
        InputError: ``E-GRID``, the two scans of a person lie on different grids.
    """
    if data is not None and is_pack(data):
        mend = "Name the data folder with --data."
        raise SettingsError("E-PACK", "a pack, which holds no pairs of contrasts", mend=mend, file=data.name)
    named, watched = (load_pairs(recipe, folder, data, part=part) for part in ("train", "validation"))
    pairs = once(named, lambda pair: pair.sha256)
    refuse_shared((s.sha256 for s in pairs), (s.sha256 for s in watched), recipe.data)
    if not pairs:
        mend = "List subjects under 'train' in the recipe's split."
        raise SettingsError("E-DATA", "no scans of the part 'train'", mend=mend, file=recipe.data.split)
    curve, fingerprint = curve_of(pairs), _fingerprint(pairs)
    state = FitState(recipe, device=device, autocast=autocast)
    start = _begin(state, recipe, folder)
    resume(state, recipe, out, fingerprint=fingerprint)
    published = _published(recipe)
    measures = Measures(recipe.measured.contrast, curve, recipe.data.spacing_mm)
    looked, part = (watched, "validation") if watched else (pairs, "fit")

    def prior(scores: dict[str, float]) -> Prior:
        card = _card(published, state.images, fingerprint, scores, start=start)
        ends = (min(curve.spreads), max(curve.spreads))
        return Prior(state.average, dataclasses.replace(card, measures=measures, noise=ends))

    yield Started(published, state.images, len(pairs), fingerprint, len(named) - len(pairs))
    yield from go_on(
        state,
        Pairs(pairs, curve, recipe, device=device),
        recipe,
        out,
        fingerprint=fingerprint,
        loss=loss,
        every=recipe.validation.every,
        look=lambda: contrast_scores(state.average, looked, curve, recipe, name=part),
        prior=prior,
    )


def _fingerprint(scans: Sequence[Scan] | Sequence[StoredScan] | Sequence[Pair]) -> str:
    return hashlib.sha256("".join(sorted(s.sha256 for s in scans)).encode()).hexdigest()


def _pack_of_heads(data: Path | None) -> Path:
    if data is None or not is_pack(data):
        mend = "Make a pack with pipelines/prepare.py, and name it with --data."
        raise SettingsError("E-PACK", "a coarse prior is trained from a pack of heads", mend=mend)
    return data


def _published(recipe: Recipe) -> Recipe:
    """The recipe as cards and logs may show it: people name files and folders after patients."""
    data = recipe.data
    sources = tuple(dataclasses.replace(source, pattern=safe_pattern(source.pattern)) for source in data.sources)
    root, split = safe_pattern(data.root), safe_pattern(data.split)
    shown = dataclasses.replace(recipe, data=dataclasses.replace(data, sources=sources, root=root, split=split))
    if not isinstance(shown, ContrastRecipe):
        return shown
    patterns = tuple(safe_pattern(pattern) for pattern in shown.measured.patterns)
    return dataclasses.replace(shown, measured=dataclasses.replace(shown.measured, patterns=patterns))


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
    from medidiff.training.data import load_scan  # with a pack, none of the readers need be installed

    sources = recipe.data.sources if source is None else (recipe.data.sources[source],)
    found = _named(dataclasses.replace(recipe.data, sources=sources), folder, data, part=part)[:most]
    return [load_scan(each, recipe) for each in found], [each.weight for each in found]


def _training_scans(
    recipe: Recipe, folder: Path, data: Path | None, cache: Path | None
) -> tuple[Sequence[Scan] | Sequence[StoredScan], list[float], int]:
    if cache is None:
        return _different(*load_scans(recipe, folder, data, part="train"))
    from medidiff.training.cache import stored_scans

    found = _named(recipe.data, folder, data, part="train")
    return _different(stored_scans(found, recipe, cache), [each.weight for each in found])


def _different(scans: Sequence[S], weights: Sequence[float]) -> tuple[list[S], list[float], int]:
    """Each scan once, with its weight, and how many more there are."""
    pairs = once(zip(scans, weights, strict=True), lambda pair: pair[0].sha256)
    return [scan for scan, _ in pairs], [weight for _, weight in pairs], len(scans) - len(pairs)


def _named(recipe: DataRecipe, folder: Path, data: Path | None, *, part: str) -> list[Found]:
    from medidiff.training.data import find_scans

    found = find_scans(recipe, folder=folder, root=data, part=part)
    if not found:
        mend = f"List subjects under '{part}' in the recipe's split."
        raise SettingsError("E-DATA", f"no scans of the part '{part}'", mend=mend, file=recipe.split)
    return found


def count_scans(recipe: Recipe | CoarseRecipe, folder: Path, data: Path | None, *, part: str) -> int:
    """How many scans a run would load, without loading those of a folder."""
    if isinstance(recipe, CoarseRecipe):
        return len(read_heads(_pack_of_heads(data), part=part))
    if data is not None and is_pack(data):
        return len(read_pack(data, part=part)[0])
    from medidiff.training.data import find_scans

    return len(find_scans(recipe.data, folder=folder, root=data, part=part))


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
        licence=licence_of(recipe.licence, (source.licence for source in recipe.data.sources)),
        limits=recipe.limits,
        sources=tuple(f"{source.pattern} ({source.licence})" for source in recipe.data.sources),
        data_fingerprint=fingerprint,
        recipe=recipe.to_dict() | {"data": dataclasses.asdict(dataclasses.replace(recipe.data, root=""))},
        metrics=scores,
    )
