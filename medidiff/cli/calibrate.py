"""``medidiff calibrate``: restore scans whose truth is known, judge the answers, write what intervals must reach."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medidiff.applying import voxels_sha256
from medidiff.calibrating import Degraded, answered, degraded, judged, paired, twins
from medidiff.cli.calibrate_verbs import Calibrate
from medidiff.cli.screen import Screen
from medidiff.cli.session import Session
from medidiff.errors import MedidiffError, OutputError, SettingsError
from medidiff.io import Reading
from medidiff.io.files.atomic import output_errors, refuse_source, write_file
from medidiff.prior import Prior, fitting_prior
from medidiff.settings import Settings
from medidiff.trust import Calibration, Case, Made, is_calibration, needed
from medidiff.trust.cases import case_from_json, case_to_json
from medidiff.version import __version__

__all__ = ["run"]

_LEVELS, _RANGE, _FACTORS = (3.0, 9.0, 15.0), (1.0, 2.0), (2.0, 3.0, 4.0)


@dataclass(frozen=True, slots=True)
class _Group:
    """One way in which all patients' scans are degraded: a range of noise, as a share, and a slice thickness."""

    noise: tuple[float, float]
    factor: float

    @property
    def words(self) -> str:
        low, high = (f"{100 * each:g}" for each in self.noise)
        noise = f"{low} % noise" if low == high else f"{low} to {high} % noise"
        return noise if self.factor == 1 else f"slices x{self.factor:g}, {noise}"


def run(verb: Calibrate, session: Session) -> None:
    """Make a calibration.

    Raises:
        SettingsError: ``E-PATIENTS``, too few patients, or one twice; ``E-SETTING``, an option out of range;
            ``E-OUTFORMAT``, OUT is no name of a JSON file; ``E-CALIBRATION``, no interval is wide enough.
        InputError: a scan cannot be read or must not be guessed at; ``E-GRID``, a pair does not lie on one grid.
        OutputError: OUT cannot be written.
        PriorError: the prior is missing or broken.
    """
    screen = Screen(verb.json)
    groups = _groups(verb)
    _refuse(verb)
    readings = [session.read(path) for path in verb.scans]
    names = [voxels_sha256(reading.volume.data) for reading in readings]
    partners = [session.read(path) for path in verb.degraded] if verb.degraded else [None] * len(readings)
    for each in (readings, [partner for partner in partners if partner is not None]):
        if found := twins([reading.volume for reading in each]):
            told = f"the same scan twice, as numbers {found[0] + 1} and {found[1] + 1}"
            raise SettingsError("E-PATIENTS", told, wanted="one scan of each patient")
    for path, clean, partner in zip(verb.scans, readings, partners, strict=True):
        if partner is not None:
            _in_register(path, clean, partner, verb)
    prior, chosen = fitting_prior(readings[0].volume, verb.prior)
    session.prior(prior.card.name, prior.card.weights_sha256)
    if verb.dry_run:
        _show_plan(verb, groups, len(readings), prior=prior, screen=screen)
        return
    session.account.decisions(chosen)
    session.begin()
    kept = _Kept(verb.out.with_name(f"{verb.out.name}.cases.jsonl"), _key(verb, groups, prior, readings, partners))
    todo = [(number, group) for group in range(len(groups)) for number in range(len(readings))]
    made: Made | None = None
    with screen.progress("calibrate") as report:
        for done, (number, group) in enumerate(todo):
            if (names[number], group) not in kept.cases:
                worse = _worse(
                    verb, readings[number], partners[number], groups[group], seed=_seed(verb, names[number], group)
                )
                how = _settings(verb, prior, worse)
                posterior = answered(readings[number].volume, worse, task=verb.task, settings=how)
                kept.add(judged(readings[number].volume, posterior, worse, patient=names[number], group=group))
            report(done + 1, len(todo), "")
    made = Made(verb.task, prior.card.name, prior.card.weights_sha256, verb.draws, verb.steps, verb.noise, False)
    held = Calibration.fit(
        [kept.cases[names[number], group] for number, group in todo],
        made,
        share=verb.share,
        cap=1.0 if verb.no_cap else None,
        origin="pairs" if verb.degraded else "degraded",
        version=__version__,
    )
    write_file(verb.out, lambda place: place.write_text(held.to_json(), encoding="utf-8"))
    kept.remove()
    session.outputs([verb.out])
    _show_result(verb, held, groups, screen)


def _groups(verb: Calibrate) -> list[_Group]:
    """Ways in which scans are degraded; a single one for pairs that were measured."""
    percent = verb.noise_percent
    if verb.degraded is not None:
        if percent is not None or verb.factors is not None:
            found = "--degraded together with --noise-percent or --factors"
            raise SettingsError("E-SETTING", found, wanted="measured pairs, or simulated ones")
        return [_Group((0.0, 0.0), 1.0)]
    if percent is not None and not all(0 < p < 100 for p in percent):
        raise SettingsError(
            "E-SETTING", f"{min(percent):g}", wanted="above 0 and below 100", attribute="--noise-percent"
        )
    if verb.task == "denoise":
        if verb.factors is not None:
            raise SettingsError("E-SETTING", "factors to denoise", wanted="--task superresolve", attribute="--factors")
        return [_Group((p / 100, p / 100), 1.0) for p in sorted(set(percent or _LEVELS))]
    ends = percent or _RANGE
    factors = sorted(set(verb.factors or _FACTORS))
    if factors[0] <= 1:
        raise SettingsError("E-SETTING", f"{factors[0]:g}", wanted="above 1", attribute="--factors")
    return [_Group((min(ends) / 100, max(ends) / 100), factor) for factor in factors]


def _refuse(verb: Calibrate) -> None:
    """Refuse what can be known to end badly before any scan is read."""
    Settings(noise=verb.noise, draws=verb.draws, steps=verb.steps, seed=verb.seed, device=verb.device)
    if verb.draws < 2:
        raise SettingsError("E-SETTING", f"{verb.draws}", wanted="2 to 1000", attribute="--draws")
    if not 0.5 <= verb.share <= 0.99:
        raise SettingsError("E-SETTING", f"{verb.share:g}", wanted="a share from 0.5 to 0.99", attribute="--share")
    if len(verb.scans) < needed(verb.share):
        found, wanted = f"{len(verb.scans)} patients for a share of {verb.share:g}", f"at least {needed(verb.share)}"
        raise SettingsError("E-PATIENTS", found, wanted=wanted, mend="Add patients, or ask for a smaller --share.")
    if verb.degraded is not None and len(verb.degraded) != len(verb.scans):
        found, wanted = f"{len(verb.degraded)} degraded scans", f"{len(verb.scans)}, one for each clean scan"
        raise SettingsError("E-PATIENTS", found, wanted=wanted, mend="Give them in the order of the clean scans.")
    if verb.out.suffix.lower() != ".json" or verb.out.is_dir():
        found = f"a calibration that ends in '{verb.out.suffix}'"
        raise SettingsError("E-OUTFORMAT", found, wanted=".json", file=verb.out.name)
    with output_errors(verb.out.name):
        refuse_source(verb.out, [*verb.scans, *(verb.degraded or ())])
        if verb.out.is_file() and verb.out.stat().st_size and not is_calibration(verb.out.read_bytes()):
            mend = "Choose another name, or move that file away."
            raise OutputError("E-OVERWRITE", "a file that is no calibration", mend=mend, file=verb.out.name)
        verb.out.absolute().parent.mkdir(parents=True, exist_ok=True)


def _in_register(path: Path, clean: Reading, partner: Reading, verb: Calibrate) -> None:
    try:
        paired(clean.volume, partner.volume, task=verb.task)
    except MedidiffError as error:
        raise error.about(path.name) from error


def _worse(verb: Calibrate, clean: Reading, partner: Reading | None, group: _Group, *, seed: int) -> Degraded:
    if partner is not None:
        return paired(clean.volume, partner.volume, task=verb.task)
    low, high = (math.log(each) for each in group.noise)
    noise = math.exp(np.random.default_rng(seed).uniform(low, high))
    return degraded(clean.volume, noise=noise, factor=group.factor, law=verb.noise, seed=seed)


def _seed(verb: Calibrate, name: str, group: int) -> int:
    """Of the noise of one patient at one level: that of the command, and which they are."""
    digest = hashlib.sha256(f"{verb.seed} {name} {group}".encode()).digest()
    return int.from_bytes(digest[:7], "big")


def _settings(verb: Calibrate, prior: Prior, worse: Degraded) -> Settings:
    return Settings(
        prior=prior,
        noise=verb.noise,
        noise_level=worse.level,
        draws=verb.draws,
        steps=verb.steps,
        seed=verb.seed,
        device=verb.device,
    )


def _key(
    verb: Calibrate,
    groups: Sequence[_Group],
    prior: Prior,
    scans: Sequence[Reading],
    partners: Sequence[Reading | None],
) -> str:
    """What finished cases depend on: files and their headers with them."""
    told: dict[str, Any] = {"task": verb.task, "noise": verb.noise, "draws": verb.draws, "steps": verb.steps}
    told |= {"seed": verb.seed, "prior": prior.card.weights_sha256, "groups": [dataclasses.astuple(g) for g in groups]}
    told |= {"pairs": [[_told_of(clean), _told_of(partner)] for clean, partner in zip(scans, partners, strict=True)]}
    return hashlib.sha256(json.dumps(told | {"version": __version__}, sort_keys=True).encode()).hexdigest()


def _told_of(reading: Reading | None) -> list[Any]:
    """A scan with all of its header that an answer depends on."""
    if reading is None:
        return []
    volume = reading.volume
    place = [volume.geometry.affine.tolist(), volume.modality, volume.units, volume.thickness_mm]
    return [voxels_sha256(volume.data), list(reading.sha256), *place]


class _Kept:
    """Finished cases, each put on the disk when it is done, so that a run that was broken off goes on.

    Args:
        place: JSON lines, the first of which says what the others depend on.
        key: that.
    """

    def __init__(self, place: Path, key: str) -> None:
        self.place, self.key = place, key
        self.cases: dict[tuple[str, int], Case] = {}
        with output_errors(place.name):
            lines = place.read_text(encoding="utf-8").split("\n") if place.is_file() else []
        if lines and lines[0] == key:
            whole = lines[1:-1]  # what follows the last line break was cut
            for case in map(case_from_json, whole):
                self.cases[case.patient, case.group] = case
        text = "".join(f"{line}\n" for line in (key, *map(case_to_json, self.cases.values())))
        write_file(place, lambda temporary: temporary.write_text(text, encoding="utf-8"))

    def add(self, case: Case) -> None:
        """Keep one more."""
        with output_errors(self.place.name, self.place.parent), self.place.open("a", encoding="utf-8") as stream:
            stream.write(f"{case_to_json(case)}\n")
            stream.flush()
            os.fsync(stream.fileno())
        self.cases[case.patient, case.group] = case

    def remove(self) -> None:
        """The calibration is written: they are not needed any more."""
        with output_errors(self.place.name):
            self.place.unlink(missing_ok=True)


def _show_plan(verb: Calibrate, groups: Sequence[_Group], patients: int, *, prior: Prior, screen: Screen) -> None:
    evaluations = 1 + verb.draws * verb.steps
    words = ["measured pairs"] if verb.degraded else [group.words for group in groups]
    plan: dict[str, Any] = {"task": verb.task, "patients": patients, "scans": words, "share": verb.share}
    plan |= {"answers": patients * len(groups), "evaluations": evaluations, "prior": prior.card.name}
    if screen.json:
        screen.document({"task": "calibrate", "dry_run": True, "file": verb.out} | {"plan": plan})
        return
    shown = {"plan": f"calibrate {verb.task} (nothing is written)", "patients": patients, "scans": "; ".join(words)}
    work = f"{plan['answers']} of {evaluations} network evaluations each"
    screen.lines(shown | {"answers": work, "prior": prior.card.name, "share": verb.share, "write": verb.out})


def _show_result(verb: Calibrate, held: Calibration, groups: Sequence[_Group], screen: Screen) -> None:
    if screen.json:
        screen.document({"task": "calibrate", "file": verb.out, "calibration": json.loads(held.to_json())})
        return
    rows = list(_rows(held))
    screen.table("calibration", ["noise, %", "slices", "voxels", "8 mm regions"], rows)
    cap = "no cap" if held.cap == 1 else f"a patient with more than {100 * held.cap:.4g} % outside counts as that"
    screen.lines({"wrote": verb.out, "patients": held.patients, "share": f"{held.share:g}, {cap}"})


def _rows(held: Calibration) -> Iterator[list[str]]:
    """How far the bounds reach, in expected errors, at each level or thickness."""
    for node in held.nodes:
        reach = [f"{node.reaches[size]:.2f}" if size in node.reaches else "" for size in (0, 8)]
        yield [f"{100 * node.noise:.3g}", f"x{node.thickness:.3g}", *reach]
