"""What becomes of lesions, and whether what was made up is flagged: `python validation/lesions.py --help`.

Lesions of known size and contrast (`inserted.py`) are put into scans that no prior has seen, and structures are taken
out of them. The scans get noise, and are denoised or super-resolved. Then, for each method:

* *recovered*: what is left of a lesion's contrast, by least squares on its shape; *ring*: the same, its mean less that
  of the ring about it, as a reader measures it; *error*: the root mean square error in it, in its own contrasts;
* *returned*: the share of a structure that was taken out and that the answer shows all the same; 0 is none;
* *invented*: blobs of the answer of a contrast that the truth has less than half of (`lesion_measures.invented`).

*What the slices hold* is no method, but the most of a lesion that thick slices tell without noise (`in_slices`).

And of the flags of medidiff (`medidiff.trust`): flags of answers as they are, and the area under the ROC curve of the
largest deviate at places where something was planted in the answer, or a lesion taken out of it, against places where
nothing was done.

    python validation/lesions.py score --crop 96 --device cuda --out runs/lesions       # cubic B-spline and medidiff
    python validation/lesions.py score --crop 96 --methods bm4d --out runs/lesions      # where bm4d is installed
    python validation/lesions.py report --crop 96 --out runs/lesions                    # lesions.md and lesions.json

`score` goes on where it was stopped: each scan, task and method is a line of ``lesions.jsonl``.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import scoring
import torch
from findings import slug
from inserted import Array, Lesion, inserted, lesions, removed, share
from lesion_measures import BLOBS_MM, fate, invented, returned, strongest_near
from lesion_summary import PEERS, figures_of, markdown, worse
from scoring import Truth, chosen_scans, load_prior, truth
from superresolution import Measured, Task, classical, measure

from medidiff.errors import SettingsError
from medidiff.metrics import psnr
from medidiff.physics import Noise, identity
from medidiff.trust import Examined, examined, tissue
from medidiff.volume import Volume

if TYPE_CHECKING:
    from medidiff.prior import Prior

SLICES = "what the slices hold"
METHODS = ("noisy", SLICES, "cubic B-spline", "bm4d", "medidiff")
DIAMETERS_MM, SIGMAS = (3.0, 5.0, 7.0, 10.0, 15.0), (1.0, 2.0, 3.0, 4.0, 6.0)
INVENTED_SIGMAS = (1.0, 2.0, 3.0)
_GONE_MM = (6.0, 6.0, 8.0, 8.0, 10.0, 10.0)  # structures that are taken out
_ADDED_MM, _ADDED_SIGMAS = (3.0, 5.0, 8.0, 12.0), (3.0, 4.0, 5.0, 6.0)  # planted in answers
_FACTOR = 3.0  # slices of super-resolution are so many voxels thick


@dataclass(frozen=True, slots=True, eq=False)
class Planted:
    """A noise-free scan with lesions, and without some structures.

    Args:
        without: (I, J, K) the scan as it was.
        image: (I, J, K) with all that was done to it.
        found: lesions, with the share of each voxel that they fill.
        gone: (I, J, K) what each structure that was taken out added.
    """

    without: Array
    image: Array
    found: tuple[tuple[Lesion, Array], ...]
    gone: tuple[Array, ...]


def planted(reference: Truth, level: float, *, seed: int) -> Planted:
    """Plant lesions of every size and contrast, then take structures out elsewhere; all apart from one another."""
    spacing = reference.geometry.spacing_mm
    wanted = [(d, k * level) for d in DIAMETERS_MM for k in SIGMAS]
    # What is taken out is placed with the lesions; a contrast above all others tells it from them.
    mark = 1e3 * level
    places = lesions(
        reference.image, reference.mask, spacing, wanted=[*wanted, *((d, mark) for d in _GONE_MM)], seed=seed
    )
    image, found, gone = reference.image.copy(), [], []
    for place in places:
        filled = share(reference.image.shape, spacing, place)
        if abs(place.contrast) >= mark:
            before = image
            image = removed(image, filled, reference.mask, seed=place.seed)
            gone.append(before - image)
            continue
        image = inserted(image, filled, place.contrast)
        found.append((place, filled))
    return Planted(reference.image, image, tuple(found), tuple(gone))


# ------------------------------------------------------------------------------------------------------- what is asked


@dataclass(frozen=True, slots=True)
class Question:
    """A task at a noise level.

    Args:
        name: for the table: a noise level in %, or that and ``x3``.
        percent: noise, % of the tissue maximum.
        thick: whether the scan is measured in slices three voxels thick.
    """

    name: str
    percent: float
    thick: bool

    def observe(self, image: Array, reference: Truth, *, seed: int) -> Measured:
        """A noisy scan of an image on the grid of the reference."""
        if self.thick:
            return measure(replace(reference, image=image), Task((1.0, 1.0, _FACTOR), self.percent), seed=seed)
        level = self.percent / 100
        generator = torch.Generator().manual_seed(seed)
        scan = Noise("rician", level).apply(torch.from_numpy(image), generator).numpy()
        return Measured(Volume(scan, reference.geometry, modality="MR"), identity(), level)


def questions(arguments: argparse.Namespace) -> list[Question]:
    """What the options ask for."""
    found = [Question(f"{level:g} %", level, False) for level in arguments.levels]
    return found + [Question(f"x3, {level:g} %", level, True) for level in arguments.thick]


Way = Callable[[Measured, Planted], Array]
"""What a method makes of a scan; only `SLICES` looks at what was planted."""


def answering(method: str, question: Question, reference: Truth, prior: Prior | None, device: str) -> Way | None:
    """How a method answers a question; None where it cannot."""
    if method == "medidiff" and prior is not None:
        from medidiff.restore import Settings, restore

        def ours(measured: Measured, what: Planted) -> Array:
            settings = Settings(prior=prior, noise="rician", noise_level=measured.level, device=device)
            task = "superresolve" if question.thick else "denoise"
            answer = restore(measured.scan, reference.geometry, measured.operator, task=task, settings=settings)
            return np.asarray(answer.mean.data[0])

        return ours
    if method == "bm4d" and not question.thick:
        from peers import bm4d_peer

        return lambda measured, _: bm4d_peer(measured.scan.data[0], measured.level)[0].run()
    if method == "cubic B-spline" and question.thick:
        return lambda measured, _: classical(measured, reference.geometry)[method]()
    if method == "noisy" and not question.thick:
        return lambda measured, _: np.asarray(measured.scan.data[0])
    if method == SLICES and question.thick:
        return in_slices
    return None


def in_slices(measured: Measured, what: Planted) -> Array:
    """The truth, and of what was planted what the slices hold of it, without noise: its projection ``A⁺ A``.

    Whatever an answer has of a lesion beyond that was not measured, but assumed between the slices.
    """
    change = torch.from_numpy(what.image - what.without)[None, None]
    return what.without + measured.operator.pinv(measured.operator(change))[0, 0].numpy()


# ------------------------------------------------------------------------------------------------------ what is scored


def scored(answer: Array, what: Planted, reference: Truth, question: Question) -> dict[str, Any]:
    """The fate of every lesion and structure, and what was invented.

    In slices three voxels thick only blobs at least two slices across are looked for: no smaller one is resolved.
    """
    spacing, level = reference.geometry.spacing_mm, question.percent / 100
    rows = [
        {
            "diameter_mm": lesion.diameter_mm,
            "voxels": lesion.diameter_mm / float(np.mean(spacing)),
            "sigmas": round(lesion.contrast / level, 2),
            "tissue": lesion.tissue,
            **fate(answer, what.without, what.image, filled, lesion),
        }
        for lesion, filled in what.found
    ]
    gone = [
        {
            "norm_sigmas": float(np.sqrt(np.square(d, dtype=np.float64).sum())) / level,
            "returned": returned(answer, what.image, d),
        }
        for d in what.gone
    ]
    sizes = [size for size in BLOBS_MM if not question.thick or size >= 2 * _FACTOR * spacing[2]]
    counts = {
        f"{k:g}": invented(answer, what.image, reference.mask, spacing, least=k * level, sizes_mm=sizes)
        for k in INVENTED_SIGMAS
    }
    quality = psnr(answer, what.image, mask=reference.mask, data_range=1.0)
    return {"lesions": rows, "gone": gone, "invented": counts, "psnr_db": quality}


def flagged(
    clean: tuple[Measured, Array], ill: tuple[Measured, Array], what: Planted, reference: Truth, *, seed: int
) -> dict[str, Any]:
    """Deviates where something was planted in an answer, where a lesion was taken out of one, and where nothing was.

    Args:
        clean: the scan without lesions and its answer.
        ill: the scan with them and its answer, of the same noise.
        what: the lesions.
        reference: the truth.
        seed: of the places.
    """
    (scan, answer), (sick, found) = clean, ill
    level, spacing = scan.level, reference.geometry.spacing_mm
    wanted = [(d, k * level) for d in _ADDED_MM for k in _ADDED_SIGMAS]
    places = lesions(reference.image, reference.mask, spacing, wanted=[*wanted, *wanted], seed=seed)
    added, others = places[::2], places[1::2]
    changed = answer.copy()
    for lesion in added:
        changed = inserted(changed, share(answer.shape, spacing, lesion), lesion.contrast)
    without = found.copy()
    for _, filled in what.found:
        without = np.where(filled > 0, answer, without)
    report, _ = _judged(scan, answer)
    _, maps = _judged(scan, changed)
    _, lost = _judged(sick, without)

    def row(lesion: Lesion, deviates: torch.Tensor) -> dict[str, float]:
        at = reference.geometry.world(lesion.centre)
        z = strongest_near(deviates, scan.scan.geometry, at, lesion.diameter_mm)
        return {"diameter_mm": lesion.diameter_mm, "sigmas": round(abs(lesion.contrast) / level, 2), "z": z}

    return {
        "flags": len(report.flags) + report.more,
        "p": report.p,
        "blur_voxels": report.blur_voxels,
        "added": [row(lesion, maps) for lesion in added],
        "others": [row(lesion, maps) for lesion in others],
        "removed": [row(lesion, lost) for lesion, _ in what.found if abs(lesion.contrast) > 2.5 * level],
    }


def _judged(measured: Measured, answer: Array) -> tuple[Examined, torch.Tensor]:
    scan = torch.from_numpy(np.array(measured.scan.data[0]))
    seen = measured.operator(torch.from_numpy(np.array(answer))[None, None])[0, 0]
    found = examined(
        scan, seen, level=measured.level, rician=True, geometry=measured.scan.geometry, inside=tissue(scan, seen)
    )
    if found is None:
        raise SettingsError("E-SETTING", "a scan with hardly any tissue", wanted="a larger --crop", attribute="--crop")
    return found


def lines(
    number: int, reference: Truth, arguments: argparse.Namespace, prior: Prior | None, done: set[str]
) -> Iterator[dict[str, Any]]:
    """What is not done yet, of one scan."""
    for place, question in enumerate(questions(arguments)):
        ways = {m: answering(m, question, reference, prior, arguments.device) for m in arguments.methods}
        todo = [m for m, way in ways.items() if way is not None and f"{number}/{question.name}/{m}" not in done]
        if not todo:
            continue
        seed = 1000 * number + place
        what = planted(reference, question.percent / 100, seed=seed)
        ill = question.observe(what.image, reference, seed=seed)
        for method in todo:
            way = ways[method]
            assert way is not None  # `todo` has no others
            start = time.perf_counter()
            answer = way(ill, what)
            line = {
                "key": f"{number}/{question.name}/{method}",
                "scan": number,
                "task": question.name,
                "method": method,
                "seconds": time.perf_counter() - start,
                **scored(answer, what, reference, question),
            }
            if method == "medidiff":
                well = question.observe(reference.image, reference, seed=seed)
                line |= flagged((well, way(well, what)), (ill, answer), what, reference, seed=seed + 500)
            yield line


def score(arguments: argparse.Namespace) -> str:
    """Score what is not done yet; returns how much there is."""
    torch.set_num_threads(arguments.threads)
    prior = load_prior(arguments.prior) if "medidiff" in arguments.methods else None
    path = arguments.out / "lesions.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    done = {line["key"] for line in read_lines(path)}
    about = {"prior": "none" if prior is None else f"{prior.card.name} {prior.card.weights_sha256}"}
    for number, file in chosen_scans(arguments).items():
        reference = truth(file, arguments.crop)
        for line in lines(number, reference, arguments, prior, done):
            with path.open("a", encoding="utf-8") as stream:
                # A line that a killed run left in the middle must not swallow this one.
                stream.write("" if whole(path) else "\n")
                stream.write(json.dumps(line | about | where(arguments), allow_nan=False) + "\n")
            print(f"{line['key']}: {line['psnr_db']:.2f} dB, {line['seconds']:.1f} s", file=sys.stderr)
    return f"{len(list(read_lines(path)))} lines in {path.name}"


def where(arguments: argparse.Namespace) -> dict[str, str]:
    """On which machine a line was measured."""
    from findings import machine

    from medidiff.settings import compute_device

    return {f"at.{key}": value for key, value in machine(str(compute_device(arguments.device))).items()}


def whole(path: Path) -> bool:
    """Whether a file is empty or ends with a line."""
    return not path.stat().st_size or path.read_bytes().endswith(b"\n")


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The lines that are whole; of a killed run the last one may not be."""
    for text in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            yield json.loads(text)
        except ValueError:
            continue


def report(arguments: argparse.Namespace) -> str:
    """Write the table and the figures of what was scored; returns the table."""
    from findings import finding, series

    found = list(read_lines(arguments.out / "lesions.jsonl"))
    if not found:
        raise SettingsError("E-SETTING", "no lines in lesions.jsonl", mend="Run 'score' first.", attribute="--out")
    order = {name: place for place, name in enumerate(METHODS)}
    found.sort(
        key=lambda line: (
            line["task"].startswith("x"),
            len(line["task"]),
            line["task"],
            order[line["method"]],
            line["scan"],
        )
    )
    region, numbers = scoring.region(arguments), sorted({line["scan"] for line in found})
    heading = (
        f"Lesions, {len(numbers)} {arguments.part} scans of {arguments.set}, {region}; means over lesions and scans."
    )
    table = markdown(found, heading)
    rows = [figures_of(line) for line in found]
    values = sorted({name for row in rows for name in row} - {"scan", "task", "method"})
    figures = series(rows, by=("task", "method"), values=values)
    for task in dict.fromkeys(line["task"] for line in found):
        for peer in PEERS:
            for name, value in worse(found, task, peer).items():
                figures[f"against_{name}/{slug(task)}/{slug(peer)}"] = {1: value}
    ours = next((line for line in found if line["method"] == "medidiff"), found[0])
    about = {
        "set": arguments.set,
        "part": arguments.part,
        "region": region,
        "scans": " ".join(map(str, numbers)),
        "prior": ours["prior"],
        "peers": "; ".join(sorted({f"{line['method']} on {line['at.machine']}" for line in found} - {""})),
    }
    asked = argparse.Namespace(**{name: value for name, value in vars(arguments).items() if name != "verb"})
    told = finding("lesions", parser(), asked, params=about, figures=figures)
    about["command"] = told.params["command"].replace("lesions.py", "lesions.py score")
    at = {key.removeprefix("at."): value for key, value in ours.items() if key.startswith("at.")}
    told = replace(told, params=dict(told.params) | at | about)
    written = scoring.save(arguments.out, "lesions", table=table, record={"lines": found}, finding=told)
    if arguments.mlflow != "none":
        from medidiff.tracking import log_metrics

        log_metrics("lesions", told.params, told.figures, artifacts=written, uri=arguments.mlflow or None)
    return table


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    out = scoring.options(__doc__.splitlines()[0], writes="lesions.jsonl, lesions.md and lesions.json")
    out.add_argument("verb", choices=("score", "report"), help="measure, or make the table of what was measured")
    out.add_argument("--levels", type=float, nargs="*", default=[3.0, 9.0, 15.0], help="noise to remove, %% of tissue")
    out.add_argument("--thick", type=float, nargs="*", default=[3.0], help="noise of slices three voxels thick")
    out.add_argument(
        "--methods",
        nargs="+",
        choices=METHODS,
        default=["noisy", SLICES, "cubic B-spline", "medidiff"],
        help="what is scored",
    )
    out.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="of the network")
    out.add_argument("--mlflow", default="none", help="tracking URI; empty for medidiff's own store")
    return out


def run(arguments: argparse.Namespace) -> str:
    """Score or report."""
    if min([1.0, *arguments.levels, *arguments.thick]) <= 0 or arguments.crop < 0 or arguments.threads < 1:
        raise SettingsError("E-SETTING", "a level, crop or number of threads out of range", wanted="levels above 0")
    return score(arguments) if arguments.verb == "score" else report(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; 0, or the exit code of the refusal."""
    return scoring.ended(run, parser(), arguments)


if __name__ == "__main__":
    raise SystemExit(main())
