"""``medidiff denoise`` and ``medidiff superresolve``: read, restore, write."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medidiff.cli.describe import geometry, shown
from medidiff.cli.intervals import made_by, read_calibration
from medidiff.cli.places import format_of
from medidiff.cli.qc import reported
from medidiff.cli.restoring_options import RestoringOptions
from medidiff.cli.screen import Screen
from medidiff.cli.session import Session, read_options
from medidiff.cli.verbs import Restoring, Superresolve
from medidiff.errors import InputError, SettingsError
from medidiff.io import Kind, Reading, write
from medidiff.physics import Slices
from medidiff.physics.seeing import refuse_coarser
from medidiff.prepare import with_filler_marked
from medidiff.prior import Prior, fitting_prior
from medidiff.restore import Posterior, Settings, denoise, foresee, refines, superresolve
from medidiff.trust import Calibration, Claim, scope_of
from medidiff.volume import Geometry, Volume

__all__ = ["Prepared", "prepared", "restored", "run", "settings_of", "verb_name", "written"]

_OUT_OF_SCOPE = 3
_WORDS = {"denoise": "denoised", "superresolve": "super-resolved"}
_STORED: dict[str, Kind] = {"spread": "spread", "lower": "lower", "upper": "upper"}
_KINDS = {
    "spread": "standard deviation",
    "lower": "lower bound",
    "upper": "upper bound",
    "draw": "one draw",
    "residual": "deviation of the scan from it in standard deviations of the noise",
}


def run(verb: Restoring, session: Session) -> int:
    """Restore one scan.

    Returns:
        0, or 3 when the scan is not of the kind that the prior is for.

    Raises:
        SettingsError: an option out of range.
        InputError: the scan cannot be read, or must not be guessed at.
        OutputError: a result cannot be written.
        PriorError: the prior is missing, broken or does not fit.
    """
    screen = Screen(verb.json)
    _settings(verb)
    reading = session.read(verb.source)
    with _naming(verb.source):
        plan = prepared(verb, reading)
        card = plan.settings["prior"].card
        session.prior(card.name, card.weights_sha256)
        if verb.dry_run:
            _show_plan(verb, plan, screen=screen)
            return 0
    started = time.monotonic()
    with _naming(verb.source), screen.progress(verb_name(verb)) as report:
        told = [*session.account.told(plan.reading.decisions), *plan.chosen]
        posterior = restored(verb, plan, told=told, progress=lambda done, total: report(done, total, ""))
    session.account.decisions(posterior.provenance.decisions)
    files = {}
    for name, paths in written(verb, posterior):
        session.outputs(paths)
        files[name] = shown(paths)
    if page := reported(verb, plan.reading.volume, posterior, session):
        files["report"] = page
    claim = None if (calibration := _calibration(verb)) is None else posterior.claim(calibration)
    _show_result(posterior, files, claim=claim, seconds=time.monotonic() - started, screen=screen)
    return _OUT_OF_SCOPE if posterior.out_of_scope else 0


@contextmanager
def _naming(source: Path) -> Iterator[None]:
    """Name the scan in a refusal that knows of no file."""
    try:
        yield
    except InputError as error:
        if error.file:
            raise
        raise error.about(source.name) from error


@dataclass(frozen=True, slots=True)
class Prepared:
    """A scan that may be restored: it was read, and nothing speaks against it.

    Args:
        reading: the scan, labelled as the command line says.
        grid: of the answer.
        slices: how they were taken, where that matters.
        settings: arguments of `medidiff.restore.Settings`, the prior among them.
        chosen: what was decided about the prior, as sentences.
    """

    reading: Reading
    grid: Geometry
    slices: Slices | None
    settings: Mapping[str, Any]
    chosen: Sequence[str]


def prepared(verb: Restoring, reading: Reading, *, load: Callable[[str], Prior] | None = None) -> Prepared:
    """Refuse what cannot be restored, and choose the prior.

    Args:
        verb: what was typed.
        reading: the scan.
        load: reads a prior by name or path, `Prior.load` without.

    Raises:
        SettingsError: an option out of range.
        InputError: the scan must not be guessed at, or no prior fits it.
        PriorError: the prior is missing or broken.
    """
    settings = _settings(verb)
    reading = _labelled(reading, verb)
    volume = reading.volume
    grid = _target(verb, volume.geometry)
    slices = _slices(verb, volume, grid)
    settings["noise"] = Settings(noise=verb.noise).for_scan(volume).noise
    settings["prior"], chosen = fitting_prior(volume, verb.prior, load=load)
    if (calibration := _calibration(verb)) is not None:
        calibration.refuse_unlike(made_by(settings, settings["prior"], task=verb_name(verb)))
    return Prepared(reading, grid, slices, settings, chosen)


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
    share = None if verb.interval is None else verb.interval[0]
    if verb.interval is not None and verb.intervals is not None:
        found = "--interval together with --intervals"
        raise SettingsError("E-SETTING", found, wanted="one kind of bounds", mend="Leave one out.")
    calibration = _calibration(verb)
    draws, steps = verb.wanted_draws, verb.wanted_steps
    if calibration is not None:
        draws = draws if verb.draws is not None else calibration.made.draws
        steps = steps if verb.steps is not None else calibration.made.steps
    settings = settings_of(verb, draws=draws, steps=steps, needs_draws=verb.outputs_of_draws, share=share)
    return settings | {"keep_draws": int(verb.draw is not None)}


def _calibration(verb: Restoring) -> Calibration | None:
    return None if verb.intervals is None else read_calibration(verb.intervals[0], task=verb_name(verb))


def settings_of(
    verb: RestoringOptions, *, draws: int, steps: int, needs_draws: bool, share: float | None
) -> dict[str, Any]:
    """The options as arguments of `medidiff.restore.Settings`, checked.

    Args:
        verb: what was typed.
        draws: how many are wanted.
        steps: network evaluations for each.
        needs_draws: whether an output is made of them.
        share: of the posterior between the bounds that are asked for.

    Raises:
        SettingsError: an option out of range.
    """
    names = ("noise", "noise_level", "noise_varies", "seed", "strict", "device")
    settings = {name: getattr(verb, name) for name in names} | {"draws": draws, "steps": steps}
    Settings(**settings)
    if needs_draws and draws == 0:
        found, mend = "no draws, but an output that is made of them", "Leave --draws out, or ask for 2 or more."
        raise SettingsError("E-SETTING", found, attribute="--draws", mend=mend)
    if share is not None and not 0 < share < 1:
        raise SettingsError("E-SETTING", f"{share:g}", wanted="a share between 0 and 1", attribute="--interval")
    return settings


def restored(
    verb: Restoring, plan: Prepared, *, told: Sequence[str], progress: Callable[[int, int], None] | None = None
) -> Posterior:
    """The answer; its provenance tells the bytes that were read, and what was decided before.

    Args:
        verb: what was typed.
        plan: the scan.
        told: what was decided before, as it may be written down.
        progress: as in `medidiff.restore.Settings`.

    Raises:
        MedidiffError: as `medidiff.restore.restore`.
    """
    settings: dict[str, Any] = {**plan.settings, "progress": progress}
    if isinstance(verb, Superresolve):
        how: dict[str, Any] = {"thickness_mm": verb.thickness, "profile": verb.profile}
        posterior = superresolve(plan.reading.volume, verb.spacing, **how, **settings)
    else:
        posterior = denoise(plan.reading.volume, **settings)
    made = posterior.provenance
    claims = () if (calibration := _calibration(verb)) is None else (posterior.claim(calibration).sentence,)
    before = [each for each in told if not any(later.startswith(each) for later in made.decisions)]  # and goes on
    decisions = tuple(dict.fromkeys((*before, *made.decisions, *claims)))
    provenance = dataclasses.replace(made, inputs=plan.reading.sha256, decisions=decisions)
    return dataclasses.replace(posterior, provenance=provenance)


def written(verb: Restoring, posterior: Posterior) -> Iterator[tuple[str, list[Path]]]:
    """Write what was asked for, one output after the other.

    Yields:
        Name of the output, and its files.

    Raises:
        OutputError: it cannot be written.
    """
    volumes: dict[str, Volume | None] = {"mean": posterior.mean, "spread": posterior.std}
    volumes["residual"] = posterior.residual
    if verb.interval is not None:
        volumes["lower"], volumes["upper"] = posterior.interval(verb.interval[0])
    if (calibration := _calibration(verb)) is not None:
        volumes["lower"], volumes["upper"] = posterior.interval(calibrated=calibration)
    if posterior.draws:
        volumes["draw"] = posterior.draws[0]
    for name, path in verb.outputs.items():
        volume = volumes[name]
        assert volume is not None  # `_settings` refused what asks for draws without draws
        yield name, _write(volume, path, verb=verb, name=name, posterior=posterior)


def _write(volume: Volume, path: Path, *, verb: Restoring, name: str, posterior: Posterior) -> list[Path]:
    provenance = posterior.provenance
    description = f"medidiff {_WORDS[provenance.task]} (research use only)"
    if name != "mean":
        share = _share(verb, posterior) if name in ("lower", "upper") else ""
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
        kind=_STORED.get(name, "scan"),
    )


def _share(verb: Restoring, posterior: Posterior) -> str:
    """What the bounds hold, and that it is not claimed where a calibration is not for the scan."""
    if (calibration := _calibration(verb)) is None:
        return "" if verb.interval is None else f" {verb.interval[0]:g}"
    claimed = posterior.claim(calibration).claimed
    return f" {calibration.share:g}{'' if claimed else ', not claimed'}"


def _show_plan(verb: Restoring, plan: Prepared, *, screen: Screen) -> None:
    volume, grid, slices, settings = plan.reading.volume, plan.grid, plan.slices, plan.settings
    card = settings["prior"].card
    level = "estimated" if verb.noise_level is None else verb.noise_level
    asked = Settings(**settings)
    device = str(asked.place())
    files = verb.outputs | ({} if verb.report is None else {"report": verb.report})
    scope = scope_of(with_filler_marked(volume), card) if foresee(volume, settings=asked) else None
    refused = verb.strict and scope is not None and scope.outside
    document = {
        "task": verb_name(verb),
        "dry_run": True,
        "input": {"modality": volume.modality, "units": volume.units} | geometry(volume.geometry),
        "output": geometry(grid),
        "noise": {"kind": settings["noise"], "level": level, "varies": verb.noise_varies},
        "prior": {"name": card.name, "sha256": card.weights_sha256, "images": card.images},
        "scope": None if scope is None else scope.record() | {"refused": refused},
        "settings": {name: settings[name] for name in ("draws", "steps", "seed")} | {"device": device},
        "files": files,
    }
    if slices is not None:
        document["slices"] = slices.record()
    if verb.json:
        screen.document(document)
        return
    samples = f"{settings['draws']} of {settings['steps']} steps, seed {verb.seed}" if settings["draws"] else "none"
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
        | ({} if scope is None else {"scope": f"{scope.sentence}{'; --strict refuses it' if refused else ''}"})
        | ({} if slices is None else {"slices": slices.sentence.removeprefix("slices ")})
        | {f"write {name}": path for name, path in files.items()}
    )


def _target(verb: Restoring, source: Geometry) -> Geometry:
    """The grid of the answer; refuses a spacing as `superresolve` does, but before the prior is loaded."""
    if not isinstance(verb, Superresolve):
        return source
    target = source.with_spacing(verb.spacing)
    refuse_coarser(target, source)
    return target


def _slices(verb: Restoring, volume: Volume, grid: Geometry) -> Slices | None:
    """How the slices were taken, where it matters; refuses a thickness that cannot be before the prior is loaded."""
    if not isinstance(verb, Superresolve) or not refines(volume, grid):
        return None
    return Slices.of(volume, thickness_mm=verb.thickness, profile=verb.profile)


def _show_result(
    posterior: Posterior, files: dict[str, Path], *, claim: Claim | None, seconds: float, screen: Screen
) -> None:
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
            | ({} if claim is None else {"intervals": dataclasses.asdict(claim)})
        )
        return
    for sentence in record.decisions:
        screen.note(sentence)
    screen.lines({f"wrote {name}": path for name, path in files.items()} | {"seconds": f"{seconds:.1f}"})
