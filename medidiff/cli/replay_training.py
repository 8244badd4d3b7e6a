"""The half of ``medidiff replay`` that trains: a prior made again from its recipe and its data, and compared."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from medidiff.cli.replay_versions import refuse_versions
from medidiff.cli.screen import Screen
from medidiff.cli.travel_verbs import Replay
from medidiff.errors import InputError, OutputError, PriorError, SettingsError
from medidiff.prior.prior import read_card_text
from medidiff.training.run import Finished, Started, Step, train

__all__ = ["RECIPE", "replay_training"]

RECIPE = "recipe.toml"
_ENVIRONMENT = "environment."
_COUNTED = ("medidiff", "monai", "python", "torch")  # versions that have an effect on the weights


def replay_training(verb: Replay, kept: Path, tags: Mapping[str, str], screen: Screen) -> None:
    """Train again what a run in MLflow trained.

    Args:
        verb: what was typed.
        kept: folder with the run's artifacts.
        tags: of the run.
        screen: where it shows.

    Raises:
        SettingsError: ``E-REPLAY``, the run is not finished or its recipe is another one; ``E-REPLAY-VERSION``.
        InputError: ``E-REPLAY-INPUT``, other training data.
        OutputError: ``E-REPLAY-BYTES``, another prior came of it.
    """
    wanted = _wanted_weights(kept)
    versions = {name: tags[f"{_ENVIRONMENT}{name}"] for name in _COUNTED if f"{_ENVIRONMENT}{name}" in tags}
    refuse_versions(versions)
    recipe = verb.recipe or kept / RECIPE
    command = f"medidiff train {verb.recipe or RECIPE} -o {verb.into}" + (f" --data {verb.data}" if verb.data else "")
    if verb.dry_run:
        screen.lines({"plan": f"{command} (nothing is written)"})
        return
    found = ""
    with screen.progress("replay") as report:
        device = tags.get(f"{_ENVIRONMENT}device", "cpu")
        for event in train(recipe, verb.into, data=verb.data, device=device):
            if isinstance(event, Started):
                _refuse_others(event, tags, recipe)
                total = event.recipe.fit.images
            elif isinstance(event, Step):
                report(event.images, total, f"loss {event.loss:.4f}")
            elif isinstance(event, Finished):
                found = _sha256_of(event.card)
    if found != wanted:
        mend = "Another number of threads, processor or device rounds in another way; what was made is kept."
        raise OutputError("E-REPLAY-BYTES", "weights with other bytes", mend=mend)
    told = {"task": "replay", "verb": "train", "command": command, "weights_sha256": found, "out": verb.into}
    if screen.json:
        screen.document(told)
    else:
        screen.lines({"same bytes": f"weights {found[:12]}", "as": command, "wrote": verb.into})


def _wanted_weights(kept: Path) -> str:
    cards = sorted((kept / "prior").glob("*.json"))
    if len(cards) != 1 or not (kept / RECIPE).is_file():
        mend = "Choose a run of 'medidiff train' that was finished, and logged by this version."
        raise SettingsError("E-REPLAY", "a run without its recipe or its prior", mend=mend, attribute="RUN")
    return _sha256_of(cards[0])


def _sha256_of(card: Path) -> str:
    """What a card, fine or coarse, says of its weights."""
    try:
        return str(json.loads(read_card_text(card))["weights_sha256"])
    except (ValueError, LookupError, TypeError) as error:
        raise PriorError("E-CARD", "no card of a prior", file=card.name, mend="Fetch it again.") from error


def _refuse_others(started: Started, tags: Mapping[str, str], recipe: Path) -> None:
    """Refuse a recipe that, as it is published, is not the one of the run, and other data."""
    text = json.dumps(started.recipe.to_dict(), sort_keys=True)
    if hashlib.sha256(text.encode()).hexdigest() != tags.get("recipe_sha256"):
        mend = "Name the recipe that it was trained from with --recipe."
        raise SettingsError("E-REPLAY", "another recipe", attribute="--recipe", mend=mend, file=recipe.name)
    if started.data_fingerprint != tags.get("data_fingerprint"):
        mend = "Name the data that it was trained on with --data."
        raise InputError("E-REPLAY-INPUT", f"{started.scans} scans with other voxels", mend=mend, attribute="--data")
