"""Task-based image quality, before and after: `python validation/image_quality.py measure --help`, then `report`.

    python validation/image_quality.py measure --device auto                       # noisy, spline and medidiff
    python validation/image_quality.py measure --methods nlmeans                   # a peer, on a CPU
    python validation/image_quality.py measure --methods bm4d --layouts 1          # another; hours
    python validation/image_quality.py report

Held-back scans are the truth, tissue maximum 1. Known signals, darker than the white matter they lie in, are put into
them (`quality_bench`). Two tasks: *denoise* adds Rician noise of a known level, of which a contrast of k σ speaks;
*slices* measures slices three times as thick (box profile) with noise and brings them back to the truth's grid. Each
scan is seen with two realisations of the noise, without signals and, in each layout and at each contrast, with them.

`measure` writes one JSON file for each task, method and scan, and leaves those alone that are there already and were
made with the same settings: cut off, it goes on. `report` makes tables and a picture from these alone, and
``image_quality.json``, of which ``python validation/report.py keep`` makes an MLflow run and a kept result.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import scoring
import torch
from findings import command, machine
from quality_bench import Bench, Sample, bench, read_pair, read_signals
from scoring import Array, chosen_scans, load_prior, truth
from superresolution import Task, classical, measure

from medidiff.errors import SettingsError
from medidiff.io.files.atomic import make_folder, write_file
from medidiff.physics import Noise
from medidiff.settings import Settings, compute_device
from medidiff.volume import Volume

if TYPE_CHECKING:
    from medidiff.prior import Prior

METHODS = {"denoise": ("noisy", "medidiff", "nlmeans", "bm4d"), "slices": ("spline", "medidiff")}
REALISATIONS = 2
_VERSION = 2  # of what a file holds

Way = Callable[[Array, int], Array]
"""A fine image without noise and a seed to what a method makes of its measurement."""


@dataclass(frozen=True, slots=True)
class Setup:
    """What the figures depend on, but for the scan; it stands in each file.

    Args:
        task: ``denoise`` or ``slices``.
        method: one of `METHODS`.
        setting: of a peer, chosen for the first scan.
        prior: name and weights of ours, or empty.
        set: folder of the scans, and their contrast.
        part: of the split.
        level: σ of the noise, share of the tissue maximum.
        factor: thickness of the slices, in voxels; 1 for none.
        crop: side of the cube.
        sizes_mm: of the signals.
        sigmas: contrasts.
        each: signals of each size in a layout.
        layouts: sets of places.
        version: of what a file holds.
    """

    task: str
    method: str
    setting: str
    prior: str
    set: str
    part: str
    level: float
    factor: float
    crop: int
    sizes_mm: tuple[float, ...]
    sigmas: tuple[float, ...]
    each: int
    layouts: int
    version: int = _VERSION


def denoising(bench: Bench, level: float, method: str, *, prior: Prior | None, device: str) -> dict[str, Way]:
    """The ways of one method to denoise, by setting; peers may have several."""

    def noisy(image: Array, seed: int) -> Array:
        return Noise("rician", level).apply(torch.from_numpy(image), torch.Generator().manual_seed(seed)).numpy()

    def ours(image: Array, seed: int) -> Array:
        from medidiff.restore import denoise

        scan = Volume(noisy(image, seed), bench.truth.geometry, modality="MR")
        answer = denoise(scan, noise="rician", noise_level=level, prior=prior, device=device)
        return np.asarray(answer.mean.data[0])

    if method == "noisy":
        return {"": noisy}
    if method == "medidiff":
        return {"": ours}
    from peers import PEERS  # the other denoisers: only for those who ask

    names = [candidate.setting for candidate in PEERS[method](np.zeros((8, 8, 8), np.float32), level)]

    def peer(place: int) -> Way:
        return lambda image, seed: PEERS[method](noisy(image, seed), level)[place].run()

    return {name: peer(place) for place, name in enumerate(names)}


def slicing(bench: Bench, setup: Setup, *, prior: Prior | None, device: str) -> dict[str, Way]:
    """The way of one method to bring thick slices back."""

    def run(image: Array, seed: int) -> Array:
        task = Task((1.0, 1.0, setup.factor), 100 * setup.level)
        fine = bench.truth.geometry
        measured = measure(dataclasses.replace(bench.truth, image=image), task, seed=seed)
        if setup.method == "spline":
            return classical(measured, fine)["cubic B-spline"]()
        from medidiff.restore import restore

        settings = Settings(prior=prior, noise_level=setup.level, device=device)
        answer = restore(measured.scan, fine, measured.operator, task="superresolve", settings=settings)
        return np.asarray(answer.mean.data[0])

    return {"": run}


def read_scan(number: int, what: Bench, setup: Setup, way: Way) -> dict[str, object]:
    """All figures of one scan."""
    start = time.perf_counter()
    seeds = [1000 * number + 10 * place + (setup.factor > 1) for place in range(REALISATIONS)]
    absent = [way(what.truth.image, seed) for seed in seeds]
    samples: list[Sample] = []
    for layout in range(setup.layouts):
        for sigmas in setup.sigmas:
            amount = sigmas * setup.level
            image = what.with_signals(layout, amount)
            for place, seed in enumerate(seeds):
                samples += read_signals(
                    what,
                    scan=number,
                    layout=layout,
                    realisation=place,
                    sigmas=sigmas,
                    amount=amount,
                    images=(way(image, seed), absent[place]),
                )
    found = read_pair(what, (absent[0], absent[1]))
    seconds = round(time.perf_counter() - start, 1)
    return found | {"samples": [dataclasses.asdict(each) for each in samples], "scan": number, "seconds": seconds}


def best_setting(ways: dict[str, Way], what: Bench, seed: int) -> str:
    """The setting with the smallest squared error in the foreground; the answer is known, which favours the peer."""
    if len(ways) == 1:
        return next(iter(ways))
    error = {
        name: float(np.square(way(what.truth.image, seed) - what.truth.image)[what.truth.mask].mean())
        for name, way in ways.items()
    }
    return min(error, key=lambda name: error[name])


def kept(path: Path, setup: Setup) -> str | None:
    """The setting of a file that holds what would be measured; None where none does."""
    if not path.is_file():
        return None
    held = json.loads(path.read_text(encoding="utf-8"))["setup"]
    same = held == json.loads(json.dumps(dataclasses.asdict(setup))) | {"setting": held["setting"]}
    return str(held["setting"]) if same else None


def run_measure(options: argparse.Namespace) -> str:
    """Measure what is not there yet; says how many files there are."""
    good = options.crop >= 32 and options.threads >= 1 and min(options.layouts, options.each) >= 1
    if not good or min(options.level, options.slice_level, *options.sigmas, *options.sizes) <= 0 or options.factor <= 1:
        raise SettingsError(
            "E-SETTING", "an option out of range", wanted="a crop from 32, levels and contrasts above 0"
        )
    torch.set_num_threads(options.threads)
    place = compute_device(options.device)
    prior = load_prior(options.prior) if "medidiff" in options.methods else None
    name = f"{prior.card.name} {prior.card.weights_sha256}" if prior is not None else ""
    make_folder(options.out)
    asked = command("image_quality", parser(), options)
    count, settings = 0, dict[tuple[str, str], str]()
    for number, file in chosen_scans(options).items():
        what: Bench | None = None
        for task, method in [(t, m) for t in options.tasks for m in options.methods if m in METHODS[t]]:
            thick = task == "slices"
            setup = Setup(
                task=task,
                method=method,
                setting="",
                prior=name if method == "medidiff" else "",
                set=f"{options.set} {options.contrast}",
                part=options.part,
                level=(options.slice_level if thick else options.level) / 100,
                factor=options.factor if thick else 1.0,
                crop=options.crop,
                sizes_mm=tuple(options.sizes),
                sigmas=tuple(options.sigmas),
                each=options.each,
                layouts=options.layouts,
            )
            path = options.out / f"{task}-{method}-{number}.json"
            count += 1
            held = kept(path, setup)
            if held is not None and settings.setdefault((task, method), held) == held:
                continue
            if what is None:
                what = bench(
                    number,
                    truth(file, options.crop),
                    sizes_mm=options.sizes,
                    each=options.each,
                    layouts=options.layouts,
                )
            ways = (
                slicing(what, setup, prior=prior, device=options.device)
                if thick
                else denoising(what, setup.level, method, prior=prior, device=options.device)
            )
            if (task, method) not in settings:
                settings[task, method] = best_setting(ways, what, 1000 * number)
            chosen = settings[task, method]
            found = read_scan(number, what, setup, ways[chosen])
            told = {"command": asked, **machine(place.type)}
            record = {"setup": dataclasses.asdict(dataclasses.replace(setup, setting=chosen)), "told": told, **found}
            text = json.dumps(record, allow_nan=False)
            write_file(path, partial(_written, text))
            print(f"{path.name}: {found['seconds']} s", file=sys.stderr)
    return f"{count} files in {options.out}"


def run_report(options: argparse.Namespace) -> str:
    """Make tables and a picture from what was measured; returns the tables."""
    from quality_report import report  # tables and pictures: not on the machine that measures

    return report(options.out, draws=options.draws)


def _written(text: str, path: Path) -> None:
    path.write_text(text, encoding="utf-8")


def parser() -> argparse.ArgumentParser:
    """The options of both verbs."""
    out = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    verbs = out.add_subparsers(dest="verb", required=True)
    shared = scoring.options("", writes="one JSON file for each task, method and scan")
    first = verbs.add_parser("measure", parents=[shared], conflict_handler="resolve", add_help=False)
    first.set_defaults(run=run_measure, parser=first, crop=96, out=Path("out/image-quality"))
    first.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="for the network")
    first.add_argument("--tasks", nargs="+", choices=sorted(METHODS), default=["denoise", "slices"])
    first.add_argument(
        "--methods",
        nargs="+",
        choices=sorted({name for names in METHODS.values() for name in names}),
        default=["noisy", "spline", "medidiff"],
    )
    first.add_argument("--level", type=float, default=9.0, help="noise to take out, %% of the tissue maximum")
    first.add_argument("--slice-level", type=float, default=3.0, help="noise of thick slices, in %%")
    first.add_argument("--factor", type=float, default=3.0, help="thickness of slices, in voxels")
    first.add_argument("--sizes", type=float, nargs="+", default=[3.0, 5.0, 7.0, 9.0], help="of signals, mm")
    first.add_argument("--sigmas", type=float, nargs="+", default=[1.0, 2.0, 3.0, 4.0], help="contrasts over the noise")
    first.add_argument("--each", type=int, default=6, help="signals of each size in a layout")
    first.add_argument("--layouts", type=int, default=2, help="sets of places")
    second = verbs.add_parser("report", formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    second.set_defaults(run=run_report)
    second.add_argument("--out", type=Path, default=Path("out/image-quality"), help="folder that was measured into")
    second.add_argument("--draws", type=int, default=200, help="of the bootstrap")
    return out


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0, or the exit code of the refusal."""
    return scoring.ended(lambda options: options.run(options), parser(), arguments)


if __name__ == "__main__":
    raise SystemExit(main())
