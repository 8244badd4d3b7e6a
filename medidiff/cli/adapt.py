"""``medidiff adapt``: read noisy scans, adapt a prior to them, write it."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

from medidiff.cli.describe import geometry
from medidiff.cli.screen import Screen
from medidiff.cli.session import Session
from medidiff.cli.verbs import Adapt
from medidiff.io.files.atomic import output_errors
from medidiff.prior import Prior
from medidiff.training.adapt import Adapted, AdaptSettings, adapt, beginning
from medidiff.volume import Volume

__all__ = ["run"]


def run(verb: Adapt, session: Session) -> None:
    """Adapt a prior to noisy scans.

    Raises:
        SettingsError: an option out of range.
        InputError: a scan cannot be read, must not be guessed at, or is not MR; or the prior is not for MR.
        OutputError: the prior cannot be written.
        PriorError: the prior to begin with is missing or broken, or training diverged.
    """
    screen = Screen(verb.json)
    names = ("noise", "noise_level", "patches", "minutes", "seed", "device")
    settings: dict[str, Any] = {name: getattr(verb, name) for name in names}
    AdaptSettings(**settings)
    volumes = [session.read(path).volume for path in dict.fromkeys(verb.scans)]
    prior, decisions = beginning(volumes, verb.name, verb.prior)
    settings["prior"] = prior
    session.prior(prior.card.name, prior.card.weights_sha256)
    if verb.dry_run:
        _show_plan(verb, volumes, prior, decisions=decisions, screen=screen)
        return
    started = time.monotonic()
    with screen.progress("adapt") as report:
        made = adapt(volumes, verb.name, progress=report, **settings)
    session.account.decisions(made.decisions)
    with output_errors(f"{verb.name}.json"):
        card = made.prior.save(verb.out)
    session.outputs(list(verb.outputs.values()))
    _show_result(made, card, seconds=time.monotonic() - started, screen=screen)


def _show_plan(verb: Adapt, volumes: list[Volume], prior: Prior, *, decisions: list[str], screen: Screen) -> None:
    level = "estimated" if verb.noise_level is None else verb.noise_level
    begins = f"{prior.card.name}, {prior.card.images} images seen, sha256 {prior.card.weights_sha256[:12]}"
    if screen.json:
        plan: dict[str, Any] = {"task": "adapt", "dry_run": True, "files": verb.outputs}
        plan |= {"scans": [geometry(volume.geometry) for volume in volumes], "patches": verb.patches}
        plan |= {"noise": {"kind": verb.noise, "level": level}, "minutes": verb.minutes, "seed": verb.seed}
        plan |= {"prior": {"name": prior.card.name, "sha256": prior.card.weights_sha256}}
        screen.document(plan | {"decisions": decisions})
        return
    for sentence in decisions:
        screen.note(sentence)
    shown = {f"scan {number}": volume for number, volume in enumerate(volumes, 1)}
    limits = f"{verb.patches} patches, {verb.minutes:g} minutes"
    screen.lines(
        {"plan": "adapt (nothing is written)"}
        | shown
        | {"prior": begins, "noise": f"{verb.noise}, level {level}", "at most": limits}
        | {f"write {name}": path for name, path in verb.outputs.items()}
    )


def _show_result(made: Adapted, card: Path, *, seconds: float, screen: Screen) -> None:
    if screen.json:
        found = None if made.comparison is None else dataclasses.asdict(made.comparison)
        result = {"changed": made.changed, "patches": made.patches, "held_back": found, "seconds": seconds}
        screen.document({"task": "adapt", "card": card} | result | {"decisions": made.decisions})
        return
    for sentence in made.decisions:
        screen.note(sentence)
    state = "adapted" if made.changed else "as it was, no gain"
    screen.lines({"wrote prior": card, "weights": state, "patches": made.patches, "seconds": f"{seconds:.1f}"})
