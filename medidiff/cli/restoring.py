"""``medidiff denoise`` and ``medidiff superresolve``: read, restore, write."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

from medidiff.cli.describe import geometry, shown
from medidiff.cli.places import format_of
from medidiff.cli.qc import reported
from medidiff.cli.screen import Screen
from medidiff.cli.session import Session, read_options
from medidiff.cli.verbs import Restoring, Superresolve
from medidiff.errors import InputError, SettingsError
from medidiff.io import Reading, write
from medidiff.physics import Slices
from medidiff.prior import fitting_prior
from medidiff.restore import Posterior, Settings, denoise, refines, superresolve
from medidiff.volume import Geometry, Volume

__all__ = ["run"]

_FINER = 1.0001  # a target spacing this little above the scan's is the scan's
_WORDS = {"denoise": "denoised", "superresolve": "super-resolved"}
_KINDS = {"spread": "standard deviation", "lower": "lower bound", "upper": "upper bound", "draw": "one draw"}


def run(verb: Restoring, session: Session) -> None:
    """Restore one scan.

    Raises:
        SettingsError: an option out of range.
        InputError: the scan cannot be read, or must not be guessed at.
        OutputError: a result cannot be written.
        PriorError: the prior is missing, broken or does not fit.
    """
    screen = Screen(verb.json)
    settings = _settings(verb)
    reading = _labelled(session.read(verb.source), verb)
    volume = reading.volume
    grid = _target(verb, volume.geometry)
    slices = _slices(verb, volume, grid)
    settings["noise"] = Settings(noise=verb.noise).for_scan(volume).noise
    prior, chosen = fitting_prior(volume, verb.prior)
    settings["prior"] = prior
    session.prior(prior.card.name, prior.card.weights_sha256)
    if verb.dry_run:
        _show_plan(verb, volume, grid, settings=settings, slices=slices, screen=screen)
        return
    started = time.monotonic()
    with screen.progress(verb_name(verb)) as report:
        settings["progress"] = lambda done, total: report(done, total, "")
        posterior = _restored(verb, reading, settings, chosen=[*session.account.told(reading.decisions), *chosen])
    session.account.decisions(posterior.provenance.decisions)
    files = _written(verb, posterior, session)
    if page := reported(verb, volume, posterior, session):
        files["report"] = page
    _show_result(posterior, files, seconds=time.monotonic() - started, screen=screen)


def _labelled(reading: Reading, verb: Restoring) -> Reading:
    """The scan with the modality that the command line gives it, where its file gives none."""
    stated = reading.volume.modality
    if verb.modality is None or verb.modality == stated:
        return reading
    if stated != "OT":
        mend = "Leave --modality out."
        raise InputError("E-MODALITY", f"a {stated} scan", wanted=verb.modality, attribute="--modality", mend=mend)
    units = reading.volume.units or ("HU" if verb.modality == "CT" else "")
    volume = dataclasses.replace(reading.volume, modality=verb.modality, units=units)
    told = f"{volume.modality}{f' in {units}' if units else ''}, as --modality says"
    return dataclasses.replace(reading, volume=volume, decisions=(*reading.decisions, told))


def verb_name(verb: Restoring) -> str:
    """The task, as the provenance calls it."""
    return "superresolve" if isinstance(verb, Superresolve) else "denoise"


def _settings(verb: Restoring) -> dict[str, Any]:
    """The options as arguments of `Settings`, checked."""
    names = ("noise", "noise_level", "noise_varies", "steps", "seed", "device")
    settings = {name: getattr(verb, name) for name in names} | {"draws": verb.wanted_draws}
    Settings(**settings)
    if len(verb.outputs) > 1 and verb.wanted_draws == 0:
        found, mend = "no draws, but an output that is made of them", "Leave --draws out, or ask for 2 or more."
        raise SettingsError("E-SETTING", found, attribute="--draws", mend=mend)
    if verb.interval is not None and not 0 < verb.interval[0] < 1:
        raise SettingsError(
            "E-SETTING", f"{verb.interval[0]:g}", wanted="a share between 0 and 1", attribute="--interval"
        )
    return settings


def _restored(verb: Restoring, reading: Reading, settings: dict[str, Any], *, chosen: list[str]) -> Posterior:
    """The answer; its provenance tells the bytes that were read, and what was decided before."""
    if isinstance(verb, Superresolve):
        how: dict[str, Any] = {"thickness_mm": verb.thickness, "profile": verb.profile}
        posterior = superresolve(reading.volume, verb.spacing, **how, **settings)
    else:
        posterior = denoise(reading.volume, **settings)
    made = posterior.provenance
    decisions = tuple(dict.fromkeys((*chosen, *made.decisions)))
    provenance = dataclasses.replace(made, inputs=reading.sha256, decisions=decisions)
    return dataclasses.replace(posterior, provenance=provenance)


def _written(verb: Restoring, posterior: Posterior, session: Session) -> dict[str, Path]:
    volumes: dict[str, Volume | None] = {"mean": posterior.mean, "spread": posterior.std}
    if verb.interval is not None:
        volumes["lower"], volumes["upper"] = posterior.interval(verb.interval[0])
    if posterior.draws:
        volumes["draw"] = posterior.draws[0]
    files = {}
    for name, path in verb.outputs.items():
        volume = volumes[name]
        assert volume is not None  # `_settings` refused what asks for draws without draws
        written = _write(volume, path, verb=verb, name=name, posterior=posterior)
        session.outputs(written)
        files[name] = shown(written)
    return files


def _write(volume: Volume, path: Path, *, verb: Restoring, name: str, posterior: Posterior) -> list[Path]:
    provenance = posterior.provenance
    description = f"medidiff {_WORDS[provenance.task]} (research use only)"
    if name != "mean":
        share = f" {verb.interval[0]:g}" if verb.interval and name in ("lower", "upper") else ""
        description = f"medidiff {_WORDS[provenance.task]}, {_KINDS[name]}{share} (research use only)"
        provenance = dataclasses.replace(provenance, task=f"{provenance.task} {name}")
    form = format_of(verb, path)
    return write(
        volume,
        path,
        like=verb.source,
        provenance=provenance,
        format=form,
        description=description,
        options=read_options(verb),
        kind="spread" if name == "spread" else "scan",
    )


def _show_plan(
    verb: Restoring,
    volume: Volume,
    grid: Geometry,
    *,
    settings: dict[str, Any],
    slices: Slices | None,
    screen: Screen,
) -> None:
    card = settings["prior"].card
    level = "estimated" if verb.noise_level is None else verb.noise_level
    device = str(Settings(**settings).place())
    files = verb.outputs | ({} if verb.report is None else {"report": verb.report})
    document = {
        "task": verb_name(verb),
        "dry_run": True,
        "input": {"modality": volume.modality, "units": volume.units} | geometry(volume.geometry),
        "output": geometry(grid),
        "noise": {"kind": settings["noise"], "level": level, "varies": verb.noise_varies},
        "prior": {"name": card.name, "sha256": card.weights_sha256, "images": card.images},
        "settings": {name: settings[name] for name in ("draws", "steps", "seed")} | {"device": device},
        "files": files,
    }
    if slices is not None:
        document["slices"] = slices.record()
    if verb.json:
        screen.document(document)
        return
    samples = f"{settings['draws']} of {verb.steps} steps, seed {verb.seed}" if settings["draws"] else "none"
    screen.lines(
        {
            "plan": f"{verb_name(verb)} (nothing is written)",
            "input": volume,
            "output": grid,
            "noise": f"{settings['noise']}, level {level}",
            "prior": f"{card.name}, {card.images} images seen, sha256 {card.weights_sha256[:12]}",
            "draws": samples,
            "device": device,
        }
        | ({} if slices is None else {"slices": slices.sentence.removeprefix("slices ")})
        | {f"write {name}": path for name, path in files.items()}
    )


def _target(verb: Restoring, source: Geometry) -> Geometry:
    """The grid of the answer; refuses a spacing as `superresolve` does, but before the prior is loaded."""
    if not isinstance(verb, Superresolve):
        return source
    target = source.with_spacing(verb.spacing)
    for axis, (wanted, held) in enumerate(zip(target.spacing_mm, source.spacing_mm, strict=True)):
        if wanted > held * _FINER:
            found = f"{wanted:.4g} mm along axis {axis}, coarser than the scan"
            mend = f"Give {held:.4g} to keep the scan's own size along this axis."
            raise SettingsError("E-TARGET", found, wanted=f"at most {held:.4g} mm", mend=mend, attribute="--spacing")
    return target


def _slices(verb: Restoring, volume: Volume, grid: Geometry) -> Slices | None:
    """How the slices were taken, where it matters; refuses a thickness that cannot be before the prior is loaded."""
    if not isinstance(verb, Superresolve) or not refines(volume, grid):
        return None
    return Slices.of(volume, thickness_mm=verb.thickness, profile=verb.profile)


def _show_result(posterior: Posterior, files: dict[str, Path], *, seconds: float, screen: Screen) -> None:
    record = posterior.provenance
    if screen.json:
        screen.document(
            {
                "task": record.task,
                "files": files,
                "output": geometry(posterior.mean.geometry),
                "seconds": seconds,
                "provenance": dataclasses.asdict(record),
            }
        )
        return
    for sentence in record.decisions:
        screen.note(sentence)
    screen.lines({f"wrote {name}": path for name, path in files.items()} | {"seconds": f"{seconds:.1f}"})
