"""The project's own coarse prior among the alternatives: `medidiff train` for so many CPU-seconds, and its draws.

A recipe counts heads, not seconds. So a first short run tells what a head costs; the recipe is then given as many heads
as the rest of the time allows and goes on from there, its rate falling to 0 at the end as it always does. Counted is
what one unbroken run takes: its start, every step, and its last look. The atlas was found when the heads were packed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from alternative_training import clock
from scoring import Array

from medidiff.errors import SettingsError
from medidiff.io.files.atomic import make_folder, write_file
from medidiff.synthesis import Cascade, Request
from medidiff.training.coarse_recipe import CoarseRecipe, read_any
from medidiff.training.run import Event, Finished, Step, train

__all__ = ["Progress", "drawer", "train_own"]

_PROBE = {"cpu": 10, "cuda": 40}  # steps that tell what a head costs; the first ones on a GPU are slow
_RECIPE, _PROGRESS = "recipe.toml", "progress.json"
_NEVER = 10**6  # heads between two looks: only the last is looked at
_POINT = 10  # steps of a point of the loss curve


@dataclass(frozen=True, slots=True)
class Progress:
    """What is kept of a run between two calls.

    Args:
        budget: CPU-seconds of the run.
        images: heads that it trains on in all; 0 until it is known.
        seen: heads so far.
        seconds: CPU time so far, as the head of the module counts it.
        curve: points of the loss curve: heads seen, seconds, part, mean loss.
        card: name of the prior's card, once it is whole.
    """

    budget: float
    images: int = 0
    seen: int = 0
    seconds: float = 0.0
    curve: tuple[tuple[int, float, str, float], ...] = ()
    card: str = ""


def train_own(
    recipe: Path, pack: Path, out: Path, *, seconds: float, start: bool, device: str = "cpu"
) -> Iterator[Event]:
    """Train the recipe's prior for a time, or go on; `out` then holds its card, weights and ``progress.json``.

    Args:
        recipe: of a coarse prior.
        pack: of heads.
        out: folder of the run.
        seconds: CPU time.
        start: whether it begins with the weights that the recipe names; else from chance.
        device: where to compute, on a GPU in bfloat16, whose seconds are those of the clock.

    Raises:
        SettingsError: ``E-RUN``, the folder holds a run of another length; ``E-RECIPE``, no recipe of a coarse prior.
    """
    make_folder(out)
    kept = out / _PROGRESS
    progress = _read(kept) if kept.is_file() else Progress(seconds)
    if progress.budget != seconds:
        raise SettingsError("E-RUN", f"the folder holds a run of {progress.budget:g} s", mend="Name another folder.")
    plain = read_any(recipe)
    if not isinstance(plain, CoarseRecipe):
        raise SettingsError("E-RECIPE", "no recipe of a coarse prior", file=recipe.name)
    if not progress.images:
        probe = _PROBE[device] * plain.fit.batch
        meter = _Meter(Progress(seconds), kept, whole=False, now=clock(device))
        yield from meter.watched(_run(recipe, pack, out, images=probe, start=start, device=device))
        spent = meter.progress.seconds
        more = max(int((seconds - meter.other - spent) / spent * probe), 0) // plain.fit.batch * plain.fit.batch
        progress = replace(meter.progress, images=probe + more, card="")
        _write(kept, progress)
    if not progress.card:
        meter = _Meter(progress, kept, whole=True, now=clock(device))
        yield from meter.watched(_run(recipe, pack, out, images=progress.images, start=start, device=device))


def _run(recipe: Path, pack: Path, out: Path, *, images: int, start: bool, device: str) -> Iterator[Event]:
    """The events of `medidiff train` on the recipe with another number of heads, and looked at only at the end."""
    text = recipe.read_text(encoding="utf-8")
    for entry, value in (("images", images), ("every", _NEVER)):
        text = re.sub(rf"(?m)^{entry} = \d+$", f"{entry} = {value}", text)
    if not start:
        text = re.sub(r'(?m)^start = ".*"$', 'start = ""', text)
    place = out / _RECIPE
    write_file(place, lambda partial: partial.write_text(text, encoding="utf-8"))
    changed = read_any(place)
    if not isinstance(changed, CoarseRecipe) or changed.fit.images != images or (changed.start and not start):
        raise SettingsError("E-RECIPE", "images or start on no line of their own", file=recipe.name)
    return train(place, out, data=pack, device=device, autocast=None if device == "cpu" else torch.bfloat16)


class _Meter:
    """Passes the events of a run on, counts their CPU time and keeps what came of it.

    Args:
        progress: before the run.
        kept: file of the progress.
        whole: whether to count what is not a step, the start and the last look.
        now: the clock.
    """

    def __init__(self, progress: Progress, kept: Path, *, whole: bool, now: Callable[[], float]) -> None:
        self.progress, self.kept, self.whole, self.now = progress, kept, whole, now
        self.other = 0.0
        self.window: list[float] = []

    def watched(self, events: Iterator[Event]) -> Iterator[Event]:
        """The same events."""
        mark = self.now()
        for event in events:
            passed = self.now() - mark
            step = isinstance(event, Step)
            self.other += 0.0 if step else passed
            if step or self.whole:
                self.progress = replace(self.progress, seconds=self.progress.seconds + passed)
            if isinstance(event, Step):
                self._step(event)
            elif isinstance(event, Finished):
                self.progress = replace(self.progress, card=event.card.name)
                _write(self.kept, self.progress)
            yield event
            mark = self.now()

    def _step(self, event: Step) -> None:
        self.window.append(event.loss)
        if len(self.window) < _POINT:
            return
        point = (event.images, round(self.progress.seconds, 2), "denoiser", float(np.mean(self.window)))
        self.window.clear()
        self.progress = replace(self.progress, seen=event.images, curve=(*self.progress.curve, point))
        _write(self.kept, self.progress)


def _read(path: Path) -> Progress:
    found = json.loads(path.read_text(encoding="utf-8"))
    return Progress(**found | {"curve": tuple(tuple(point) for point in found["curve"])})


def _write(path: Path, progress: Progress) -> None:
    write_file(path, lambda partial: partial.write_text(json.dumps(asdict(progress)), encoding="utf-8"))


def drawer(card: Path, *, seed: int, device: str = "cpu") -> Callable[[int], Array]:
    """Draws heads in voxels of 4 mm by number from a coarse prior, which is told nothing.

    Args:
        card: of the prior.
        seed: of the draws.
        device: where to compute.
    """
    cascade = Cascade(card, device=device)
    request = Request(spacing_mm=cascade.coarse.card.spacing_mm)

    def draw(number: int) -> Array:
        return np.asarray(cascade.draw(request, number, seed=seed).image.data[0], dtype=np.float32)

    return draw
