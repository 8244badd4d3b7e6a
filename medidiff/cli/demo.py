"""``medidiff demo``: the bundled sample scan, made worse in known ways, restored, and measured against what it was."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from medidiff.anatomy import foreground, tissue_maximum
from medidiff.cli.evaluate import scored
from medidiff.cli.screen import Report, Screen
from medidiff.cli.session import Session
from medidiff.cli.verbs import Demo
from medidiff.errors import SettingsError
from medidiff.io import read, write
from medidiff.io.files.atomic import write_file
from medidiff.metrics.peers import best_gaussian, cubic_spline, nonlocal_means
from medidiff.physics import Degradation, Noise, Separable, identity, slices
from medidiff.prior import Prior
from medidiff.report import Look, comparison
from medidiff.restore import Posterior, Settings, denoise, superresolve
from medidiff.version import __version__
from medidiff.volume import Geometry, Provenance, Volume

__all__ = ["run"]

_SAMPLE = "sample/t1-brain.nii.gz"
_STEPS = 2  # a draw: half of the default, so that a laptop is done in two minutes
_THICK_NOISE_PERCENT = 1.0  # thick slices collect more signal, so their noise is low

_Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class _Truth:
    """The sample scan, and how images are measured against it."""

    scan: Volume
    mask: NDArray[np.bool_]
    peak: float

    @classmethod
    def load(cls) -> _Truth:
        with as_file(files("medidiff").joinpath(_SAMPLE)) as path:
            scan = read(path)
        image = scan.data[0].astype(np.float32)
        mask = foreground(image)
        return cls(Volume(image, scan.geometry, "MR"), mask, tissue_maximum(image, mask))

    @property
    def image(self) -> _Array:
        data: _Array = self.scan.data[0]
        return data

    def observed(self, operator: Separable, *, level: float, geometry: Geometry, seed: int) -> Volume:
        """The scan as an operator and Rician noise of a level, in stored units, leave it."""
        generator = torch.Generator().manual_seed(seed)
        y = Degradation(operator, Noise("rician", level)).observe(torch.from_numpy(self.image.copy()), generator)
        return Volume(y.numpy(), geometry, "MR")


@dataclass(frozen=True, slots=True, eq=False)
class _Rival:
    """One image that is compared: its name, its voxels on the sample's grid, how long it took, what to know of it."""

    name: str
    image: _Array
    seconds: float = 0.0
    note: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """One half of the demo: the scan made worse, and its rivals; what was measured first, the prior's answer last."""

    task: str
    measured: Volume
    level: float
    posterior: Posterior
    rivals: tuple[_Rival, ...]


def run(verb: Demo, session: Session) -> None:
    """Run both parts, print one table, and write scans, pictures and ``table.json``.

    Raises:
        SettingsError: an option out of range.
        PriorError: no such prior.
    """
    screen = Screen(verb.json)
    settings = _settings(verb)
    truth = _Truth.load()
    rows: list[dict[str, Any]] = []
    with screen.progress("demo") as report:
        for make, names in (
            (_denoising, ("noisy", "denoised", "spread")),
            (_superresolution, ("thick", "superresolved")),
        ):
            part = make(verb, truth, settings, report)
            _write(part, verb, names, session)
            picture = verb.out / f"{part.posterior.provenance.task}.png"
            rows += [_row(part, rival, truth) for rival in part.rivals]
            _draw(picture, part, truth, rows[-len(part.rivals) :])
            session.outputs([picture])
    table = {"rows": rows, "settings": _told(verb), "data_range": truth.peak, "voxels": int(truth.mask.sum())}
    text = json.dumps(table, indent=2, allow_nan=False) + "\n"
    write_file(verb.out / "table.json", lambda path: path.write_text(text, encoding="utf-8"))
    session.outputs([verb.out / "table.json"])
    if verb.json:
        screen.document(table | {"out": verb.out})
        return
    _show(rows, screen)
    screen.lines({"scans, pictures and table.json are in": verb.out})


def _settings(verb: Demo) -> dict[str, Any]:
    """Arguments of `denoise` and `superresolve`, checked, with the prior loaded once."""
    rules = (
        ("--noise-percent", verb.noise_percent, 0.1 <= verb.noise_percent <= 50, "0.1 to 50"),
        ("--factor", verb.factor, verb.factor in (2, 3, 4, 6, 8), "2, 3, 4, 6 or 8"),
        ("--draws", verb.draws, verb.draws >= 2, "2 or more"),
    )
    for name, value, good, wanted in rules:
        if not good:
            raise SettingsError("E-SETTING", f"{value}", wanted=wanted, attribute=name)
    settings: dict[str, Any] = {"draws": verb.draws, "steps": _STEPS, "seed": verb.seed, "device": verb.device}
    Settings(**settings)
    return settings | {"prior": Prior.load(verb.prior)}


def _told(verb: Demo) -> dict[str, Any]:
    names = ("noise_percent", "factor", "draws", "seed", "prior", "device")
    fixed = {"steps": _STEPS, "thick_noise_percent": _THICK_NOISE_PERCENT, "version": __version__}
    return {name: getattr(verb, name) for name in names} | fixed


# --------------------------------------------------------------------------------------------------- the two parts


def _denoising(verb: Demo, truth: _Truth, settings: dict[str, Any], report: Report) -> _Part:
    level = verb.noise_percent / 100 * truth.peak
    noisy = truth.observed(identity(), level=level, geometry=truth.scan.geometry, seed=verb.seed)
    image: _Array = noisy.data[0]
    report(0, 1, "classical filters")
    start = time.monotonic()
    smooth, width = best_gaussian(image, truth.image, mask=truth.mask, level=level)
    middle = time.monotonic()
    means = nonlocal_means(image, level=level, rician=True)
    end = time.monotonic()
    clock = _Clock(report, "denoise", evaluations=1 + verb.draws * _STEPS)
    posterior = denoise(noisy, noise_level=level, progress=clock, **settings)
    rivals = (
        _Rival("noisy", image),
        _Rival("Gaussian", smooth, middle - start, f"the best of ten widths for this scan, {width:g} voxels"),
        _Rival("non-local means", means, end - middle),
        _Rival("medidiff", posterior.mean.data[0], clock.seconds),
    )
    return _Part(f"denoise, {verb.noise_percent:g} % Rician noise", noisy, level, posterior, rivals)


def _superresolution(verb: Demo, truth: _Truth, settings: dict[str, Any], report: Report) -> _Part:
    level = _THICK_NOISE_PERCENT / 100 * truth.peak
    fine = truth.scan.geometry
    across, down, apart = fine.spacing_mm
    coarse = fine.with_spacing((across, down, apart * verb.factor))
    operator = slices(fine.shape[2], factor=float(verb.factor))
    thick = truth.observed(operator, level=level, geometry=coarse, seed=verb.seed + 1)
    start = time.monotonic()
    index = np.linalg.inv(coarse.affine) @ fine.affine
    spline = cubic_spline(thick.data[0], index, shape=fine.shape)
    end = time.monotonic()
    clock = _Clock(report, "super-resolve", evaluations=1 + verb.draws * _STEPS)
    posterior = superresolve(thick, fine.spacing_mm, noise_level=level, progress=clock, **settings)
    rivals = (
        _Rival("thick slices", thick.data[0].repeat(verb.factor, axis=2)),
        _Rival("cubic B-spline", spline, end - start),
        _Rival("medidiff", posterior.mean.data[0], clock.seconds),
    )
    return _Part(f"super-resolve, slices x{verb.factor}", thick, level, posterior, rivals)


class _Clock:
    """Hands progress on, and notes how long the posterior mean took, which is the first of the evaluations."""

    def __init__(self, report: Report, name: str, *, evaluations: int) -> None:
        self.report, self.name, self.evaluations = report, name, evaluations
        self.start, self.seconds = time.monotonic(), 0.0

    def __call__(self, done: int, total: int) -> None:
        if not self.seconds and done * self.evaluations >= total:
            self.seconds = time.monotonic() - self.start
        self.report(done, total, self.name)


# ------------------------------------------------------------------------------------------------- what is left behind


def _write(part: _Part, verb: Demo, names: Sequence[str], session: Session) -> None:
    """The measured scan, the answer, and its spread when a name is there for it, as NIfTI with their records."""
    settings = {"level": part.level, "kind": "rician", "task": part.task}
    seed = verb.seed + int(names[0] == "thick")
    record = Provenance(task=f"demo {names[0]}", version=__version__, settings=settings, seed=seed)
    volumes = (part.measured, part.posterior.mean, part.posterior.std)
    for name, volume in zip(names, volumes, strict=False):
        if volume is not None:
            provenance = record if volume is part.measured else part.posterior.provenance
            session.outputs(write(volume, verb.out / f"{name}.nii.gz", provenance=provenance))


def _row(part: _Part, rival: _Rival, truth: _Truth) -> dict[str, Any]:
    scores = scored(rival.image, truth.image, mask=truth.mask, peak=truth.peak)
    return {"task": part.task, "image": rival.name, **scores, "seconds": rival.seconds, "note": rival.note}


def _draw(path: Path, part: _Part, truth: _Truth, rows: Sequence[Mapping[str, Any]]) -> None:
    """Before, classical, after, what changed, uncertainty and reference, in three planes."""
    before, classical, ours = part.rivals[0], part.rivals[-2], part.rivals[-1]
    removing = part.posterior.provenance.task == "denoise"
    change = before.image - ours.image if removing else ours.image - classical.image
    named = {"before": before.image, classical.name: classical.image, "medidiff": ours.image}
    named["removed" if removing else "added"] = change
    if part.posterior.std is not None:
        named["uncertainty"] = part.posterior.std.data[0]
    score = {row["image"]: f"{row['psnr_db']:.1f} dB" for row in rows}
    captions = {name: score[name] for name in named if name in score}
    captions["before"] = f"{before.name}, {score[before.name]}"
    if not removing:
        captions["added"] = "medidiff - B-spline"
    comparison(
        path,
        named | {"reference": truth.image},
        geometry=truth.scan.geometry,
        signed=("removed", "added"),
        captions=captions,
        title=part.task[0].upper() + part.task[1:],
        look=Look(),
    )


def _show(rows: Sequence[Mapping[str, Any]], screen: Screen) -> None:
    lines = []
    for number, row in enumerate(rows):
        first = number == 0 or rows[number - 1]["task"] != row["task"]
        seconds = f"{row['seconds']:.1f}" if row["seconds"] else ""
        lines.append(
            [row["task"] if first else "", row["image"], f"{row['psnr_db']:.2f}", f"{row['ssim']:.4f}", seconds]
        )
    screen.table("The sample scan, scored in its tissue", ["", "image", "PSNR (dB)", "SSIM", "seconds"], lines, words=2)
    for row in rows:
        if row["note"]:
            screen.note(f"{row['image']}: {row['note']}")
