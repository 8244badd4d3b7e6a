"""The training run of a coarse prior: from a pack of heads to a prior that draws whole heads."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from medidiff.diffusion.atlas import Atlas, Expected
from medidiff.diffusion.backbone import MAPS, Backbone, BackboneShape
from medidiff.diffusion.denoiser import Preconditioned
from medidiff.diffusion.draws import generators_for
from medidiff.diffusion.samplers import dpmpp_2m
from medidiff.diffusion.sigma import karras
from medidiff.diffusion.start import informed
from medidiff.diffusion.whole import Asked, WholeDenoiser, whole_loss
from medidiff.errors import PriorError
from medidiff.io.files.names import safe_pattern
from medidiff.prior import Prior
from medidiff.prior.asking import Vocabulary
from medidiff.prior.coarse import CoarseCard, CoarsePrior, whole_backbone
from medidiff.training.coarse_recipe import CoarseRecipe
from medidiff.training.fit import FitState
from medidiff.training.heads import LABELS, Heads, about, read_atlas, read_heads
from medidiff.training.loop import CHECKPOINT, Event, Looked, Started, go_on, resume
from medidiff.training.recipe import licence_of
from medidiff.training.repeats import once, refuse_shared

__all__ = ["begin_with", "train_coarse"]

_LOOKS = 2  # varied views of each validation head
_DRAWS = 2  # heads that are drawn to be looked at


def train_coarse(
    recipe: CoarseRecipe,
    folder: Path,
    pack: Path,
    out: Path,
    *,
    device: str = "cpu",
    autocast: torch.dtype | None = None,
) -> Iterator[Event]:
    """Train a coarse prior, or go on with one, as `medidiff.training.run.train` does.

    Args:
        recipe: of the run.
        folder: where the recipe lies.
        pack: of heads, from ``pipelines/prepare.py``.
        out: folder for the checkpoint and the prior.
        device: where to compute.
        autocast: type that the network computes in on a GPU.

    Raises:
        SettingsError: no such pack, or a folder that holds another recipe's run; ``E-SHARED``, a head stands under
            ``train`` and ``validation``.
    """
    packed, watched = (read_heads(pack, part=part) for part in ("train", "validation"))
    trained = once(packed, lambda head: head.sha256)
    refuse_shared((head.sha256 for head in trained), (head.sha256 for head in watched), recipe.data)
    vocabulary, fingerprint = about(trained)
    atlas = read_atlas(pack)
    heads = Heads(trained, atlas, recipe, vocabulary, device=device)
    begin = _start(recipe, folder) if recipe.start and not (out / CHECKPOINT).is_file() else None
    denoiser = _untrained(recipe, vocabulary, atlas, autocast, begin)
    state = FitState(recipe, device=device, denoiser=denoiser)
    resume(state, recipe, out, fingerprint=fingerprint)
    published = _published(recipe)
    yield Started(published, state.images, len(trained), fingerprint, len(packed) - len(trained))
    a, b, c = atlas.centre.shape[1:]
    views = Heads(watched, atlas, recipe, vocabulary, device=device)
    sources = tuple(f"{source.pattern} ({source.licence})" for source in published.data.sources)

    def prior(scores: dict[str, float]) -> CoarsePrior:
        card = CoarseCard(
            kind="coarse",
            name=recipe.name,
            summary=recipe.summary,
            modality=recipe.modality,
            vocabulary=vocabulary,
            labels=LABELS,
            shape=recipe.data.shape,
            spacing_mm=recipe.data.spacing_mm,
            channels=recipe.model.channels,
            blocks=recipe.model.blocks,
            sigma=recipe.fit.sigma,
            finer=recipe.finer,
            knots=(a, b, c),
            heads=len(trained),
            images=state.images,
            licence=licence_of(recipe.licence, (source.licence for source in published.data.sources)),
            sources=sources,
            data_fingerprint=fingerprint,
            recipe=published.to_dict(),
            metrics=scores,
            limits=recipe.limits,
        )
        return CoarsePrior(_whole(state.average), card)

    yield from go_on(
        state,
        heads,
        recipe,
        out,
        fingerprint=fingerprint,
        loss=whole_loss,
        every=recipe.watch.every,
        look=lambda: _look(_whole(state.average), views, recipe),
        prior=prior,
    )


def _untrained(
    recipe: CoarseRecipe, vocabulary: Vocabulary, atlas: Atlas, autocast: torch.dtype | None, start: Prior | None = None
) -> WholeDenoiser:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        shape = BackboneShape(recipe.model.channels, recipe.model.blocks)
        backbone = whole_backbone(shape, 1 + len(LABELS), vocabulary)
    if start is not None:
        begin_with(backbone, start)
    return WholeDenoiser(backbone, atlas, autocast=autocast)


def begin_with(backbone: Backbone, start: Prior) -> None:
    """Take over the weights of a fine prior; what it does not have, channels of tissue and told numbers, starts at 0.

    Raises:
        PriorError: ``E-START``, the prior has another width or depth.
    """
    own = backbone.state_dict()
    for name, weight in start.denoiser.backbone.state_dict().items():
        grown = own[name].zero_() if name in own else weight.new_zeros(())
        if grown.ndim != weight.ndim or any(n < m for n, m in zip(grown.shape, weight.shape, strict=True)):
            found = f"the prior '{start.card.name}', of another width or depth"
            raise PriorError("E-START", found, wanted="the same channels and blocks", attribute="start")
        if name == "stem.conv.weight":
            _grow_stem(grown, weight)
        else:
            grown[tuple(slice(0, n) for n in weight.shape)] = weight
    backbone.load_state_dict(own)


def _grow_stem(grown: Tensor, weight: Tensor) -> None:
    """The stem reads the image's channels first, and certainty and noise where the maps that modulate begin."""
    image, read = 8 * (Preconditioned.channels - MAPS), WholeDenoiser.inputs(1 + len(LABELS))
    grown[:, :image] = weight[:, :image]
    grown[:, 8 * read : 8 * (read + MAPS)] = weight[:, image:]


def _start(recipe: CoarseRecipe, folder: Path) -> Prior:
    path = folder / recipe.start
    return Prior.load(path if path.with_suffix(".json").is_file() else recipe.start)


def _whole(module: nn.Module) -> WholeDenoiser:
    assert isinstance(module, WholeDenoiser)
    return module


def _published(recipe: CoarseRecipe) -> CoarseRecipe:
    """The recipe as cards and logs may show it: people name files and folders after patients."""
    data = recipe.data
    sources = tuple(
        dataclasses.replace(each, pattern=safe_pattern(each.pattern), participants=safe_pattern(each.participants))
        for each in data.sources
    )
    shown = dataclasses.replace(data, sources=sources, root="", split=safe_pattern(data.split))
    return dataclasses.replace(recipe, data=shown)


def _look(denoiser: WholeDenoiser, views: Heads, recipe: CoarseRecipe) -> Looked:
    """Root mean square errors of validation heads at some levels, image and tissue apart, and two free draws."""
    scores: dict[str, float] = {}
    with torch.no_grad():
        looks = [views.state(number) for number in range(_LOOKS * len(views.heads))]
        for level in recipe.watch.levels:
            errors = _errors(denoiser, looks, level, told=views.vocabulary.numbers)
            for name, part in (("image", errors[:, 0]), ("tissue", errors[:, 1:])):
                scores[f"rmse_{name}_sigma_{100 * level:g}"] = float(part.square().mean().sqrt())
        shapes = [denoiser.atlas.drawn((None, None), generator) for generator in generators_for(0, range(_DRAWS))]
        expected = Expected.of([denoiser.atlas.expected(knots) for knots in shapes])
        draws = _draws(denoiser, Asked.nothing(expected, views.vocabulary.numbers), recipe)
    pictures = {f"drawn {number}": draw[0].cpu() for number, draw in enumerate(draws, 1)}
    pictures |= {f"atlas {number}": mean[0].cpu() for number, mean in enumerate(expected.mean, 1)}
    return scores, pictures | {"held back": looks[0][0][0].cpu()}


def _errors(denoiser: WholeDenoiser, looks: Sequence[tuple[Tensor, Expected]], level: float, *, told: int) -> Tensor:
    generators = generators_for(0, range(len(looks)))
    errors = []
    for generator, (state, expected) in zip(generators, looks, strict=True):
        noisy = informed(state[None], level, [generator])
        errors.append(denoiser(noisy, torch.tensor(level), Asked.nothing(expected, told)) - state)
    return torch.cat(errors)


def _draws(denoiser: WholeDenoiser, asked: Asked, recipe: CoarseRecipe) -> Sequence[Tensor]:
    low, high = recipe.fit.sigma
    sigmas = karras(recipe.watch.steps, low, high)
    start = informed(asked.expected.mean, high, generators_for(0, range(len(asked.told))))
    return list(dpmpp_2m(denoiser, start, sigmas, condition=asked))  # type: ignore[arg-type] # its condition is another
