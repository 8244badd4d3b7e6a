"""Measure how far answers are from the truth and what their draws say of it: `python validation/calibration.py --help`.

    python validation/calibration.py --data DATA --device cuda --workers 3 --out runs/calibration     # resumable
    python validation/calibration_report.py runs/calibration                                          # from its JSON

Validation and test subjects of ds002748 are restored with draws: with Rician noise of 3, 9 and 15 %, and from slices 2,
3 and 4 times as thick with noise between 1 and 2 %. Some test subjects are restored once more with lesions put in
(`inserted.py`), and shifted: another gamma, blurred, unevenly bright, or with a wrong noise level told. Scans of other
sites and contrasts are shifted by nature. Each subject at each setting is one JSON file in ``OUT/raw``, which is not
made again; nothing else is kept. The noise level is told, as in `denoising.py`.

A file holds the scores of `medidiff.trust.tally`, the signs of `medidiff.trust.signs`, and Spearman's correlation of
the absolute error with the expected error, voxel by voxel and between root mean squares in blocks of 4 and 8 mm, in the
tissue of the answer. Tables, figures and MLflow runs are made of the files by `calibration_report.py`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

import inserted
import numpy as np
import scoring
import torch
from numpy.typing import NDArray
from scipy import ndimage, stats
from scoring import Array, Truth, scored_scans, truth

from medidiff.calibrating import Degraded, Task, answered, degraded, judged
from medidiff.errors import SettingsError
from medidiff.settings import Settings
from medidiff.trust.cases import case_to_json
from medidiff.trust.tally import block_shape, blocks, judged_mask, scale_of, share_above
from medidiff.volume import Volume

if TYPE_CHECKING:
    from medidiff.prior import Prior
    from medidiff.trust import Answer

__all__ = ["SETTINGS", "Job", "Setting", "jobs"]

_LESIONS = tuple((d, c) for d in (3.0, 5.0, 8.0, 12.0, 15.0) for c in (0.1, 0.2, 0.3, 0.4))  # mm, of the tissue maximum
_BLOCKS_MM = (4, 8)
_SAMPLE = 100_000  # voxels that the correlation is read from
_TOLD = 0.7  # of the noise level, where a wrong one is told


@dataclass(frozen=True, slots=True)
class Setting:
    """How scans are degraded.

    Args:
        name: in file names and tables.
        task: what the prior is asked.
        percent: range of the Rician noise, % of the tissue maximum; each subject's is drawn from it.
        factor: thickness of the slices in voxels.
        change: to the truth before it is degraded, or ``told``; empty for none.
        group: of the calibration that it belongs to.
    """

    name: str
    task: Task
    percent: tuple[float, float]
    factor: float = 1.0
    change: str = ""
    group: int = 0


_PLAIN = (
    Setting("n9", "denoise", (9, 9), group=3),
    Setting("f3", "superresolve", (1, 2), 3.0, group=1),
    Setting("n3", "denoise", (3, 3), group=2),
    Setting("n15", "denoise", (15, 15), group=4),
    Setting("f2", "superresolve", (1, 2), 2.0, group=0),
    Setting("f4", "superresolve", (1, 2), 4.0, group=2),
    Setting("n1", "denoise", (1, 1), group=1),
    Setting("n0.5", "denoise", (0.5, 0.5), group=0),
)
_CHANGED = (
    Setting("n9-lesions", "denoise", (9, 9), change="lesions", group=3),
    Setting("f3-lesions", "superresolve", (1, 2), 3.0, change="lesions", group=1),
    *(
        Setting(f"n9-{change}", "denoise", (9, 9), change=change, group=3)
        for change in ("gamma", "blur", "bias", "told")
    ),
    *(Setting(f"f3-{change}", "superresolve", (1, 2), 3.0, change=change, group=1) for change in ("gamma", "blur")),
)
SETTINGS = {setting.name: setting for setting in (*_PLAIN, *_CHANGED)}
_FOREIGN = (  # folder, part, contrast; the split's parts are kept, for nothing is tuned on them
    ("t1-head", "test", "T1w"),
    ("t1-head", "train", "T1w"),
    ("ms-open/mni", "test", "T1w"),
    ("ms-open/mni", "test", "T2w"),
    ("ms-open/mni", "test", "FLAIR"),
)
_SHIFTED = 3  # test subjects that are shifted by hand


@dataclass(frozen=True, slots=True)
class Job:
    """One subject at one setting.

    Args:
        part: ``validation``, ``test``, or ``foreign``.
        name: of the subject: its place in the split; for foreign ones also set and contrast.
        path: its scan.
        number: that the noise is seeded by.
        setting: how it is degraded.
    """

    part: str
    name: str
    path: Path
    number: int
    setting: Setting

    @property
    def file(self) -> str:
        """Of its figures."""
        return f"{self.part}-{self.name}-{self.setting.name}.json"


def jobs(options: argparse.Namespace) -> Iterator[Job]:
    """What is to be measured, one setting after the other, so that a run that is broken off has whole settings."""
    own = [
        (part, str(place), path, 100 * (part == "test") + place)
        for part in ("validation", "test")
        for place, path in scored_scans(options.data, options.split, "t1-ds002748", part=part).items()
    ]
    foreign = [
        ("foreign", f"{folder.split('/')[0]}-{part}-{contrast}-{place}", path, 1000 + 10 * row + place)
        for row, (folder, part, contrast) in enumerate(_FOREIGN)
        for place, path in scored_scans(options.data, options.split, folder, part=part, contrast=contrast).items()
    ]
    for setting in SETTINGS.values():
        chosen = own if not setting.change else [each for each in own if each[0] == "test"]
        if setting.change not in ("", "lesions"):
            chosen = chosen[:_SHIFTED]
        if setting.name in ("n9", "f3"):
            chosen = [*chosen, *foreign]
        for part in options.parts if setting.name in options.settings else ():
            found = [Job(*each, setting) for each in chosen if each[0] == part]
            yield from found[: options.few or None]


@lru_cache(maxsize=1)
def _prior(name: str) -> Prior:
    prior = scoring.load_prior(name)
    if prior is None:
        raise SettingsError("E-SETTING", "no prior", wanted="a prior", attribute="--prior")
    return prior


def changed(reference: Truth, change: str) -> Array:
    """The truth as another site would have it, tissue maximum about 1."""
    image = reference.image
    if change == "gamma":
        return np.asarray(np.maximum(image, 0) ** 0.6, dtype=np.float32)
    if change == "blur":
        return np.asarray(ndimage.gaussian_filter(image, 0.8), dtype=np.float32)
    if change == "bias":
        ramp = np.linspace(0.6, 1.4, image.shape[1], dtype=np.float32)
        return np.asarray(image * ramp[None, :, None])
    return image


def with_lesions(reference: Truth, seed: int) -> tuple[Array, dict[float, NDArray[np.bool_]]]:
    """The truth with lesions, and by diameter the voxels that they fill."""
    image, spacing = reference.image, reference.geometry.spacing_mm
    filled: dict[float, NDArray[np.bool_]] = {}
    for lesion in inserted.lesions(image, reference.mask, spacing, wanted=_LESIONS, seed=seed):
        part = inserted.share(reference.image.shape, spacing, lesion)
        image = inserted.inserted(image, part, lesion.contrast)
        before = filled.get(lesion.diameter_mm, np.zeros(image.shape, dtype=bool))
        filled[lesion.diameter_mm] = before | (part > 0.5)
    return image, filled


def measured(job: Job, options: argparse.Namespace) -> dict[str, object]:
    """The figures of one subject at one setting."""
    setting, reference = job.setting, truth(job.path, options.crop)
    rng = np.random.default_rng(job.number)
    image, lesions = (
        with_lesions(reference, job.number) if setting.change == "lesions" else (changed(reference, setting.change), {})
    )
    clean = Volume(image, reference.geometry, "MR")
    noise = float(np.exp(rng.uniform(*np.log(setting.percent)))) / 100
    worse = degraded(clean, noise=noise, factor=setting.factor, seed=1000 * job.number + round(10 * setting.percent[0]))
    told = worse.level if setting.change != "told" else _TOLD * (worse.level or 0)
    prior = _prior(options.prior)
    how = Settings(
        prior=prior, noise="rician", noise_level=told, draws=options.draws, steps=options.steps, device=options.device
    )
    began = time.perf_counter()
    posterior = answered(clean, worse, task=setting.task, settings=how)
    seconds = time.perf_counter() - began
    answer = posterior.answer
    assert answer is not None
    case = judged(clean, posterior, worse, patient=f"{job.number:064x}", group=setting.group)
    return {
        "part": job.part,
        "name": job.name,
        "setting": asdict(setting),
        "crop": options.crop,
        "case": json.loads(case_to_json(case)),
        "made": None if answer.made is None else asdict(answer.made),
        "figures": figures(clean, answer, worse),
        "lesions": lesion_curves(clean, answer, lesions),
        "seconds": seconds,
        "device": posterior.provenance.environment["device"],
    }


def figures(clean: Volume, answer: Answer, worse: Degraded) -> dict[str, float]:
    """Correlations, and the raw sizes of error and expectation, as shares of the tissue maximum."""
    assert answer.seen is not None
    gain, mask = np.float32(answer.level / answer.seen.noise), judged_mask(answer.mean, worse.operator)
    off = (clean.data[0] - answer.mean.data[0]) / gain
    error = answer.error.data[0] / gain
    pick = np.random.default_rng(0).permutation(int(mask.sum()))[:_SAMPLE]
    found = {
        "spearman": float(stats.spearmanr(np.abs(off[mask])[pick], error[mask][pick]).statistic),
        "rms_error": float(np.sqrt(np.mean(np.square(off[mask], dtype=np.float64)))),
        "rms_expected": float(np.sqrt(np.mean(np.square(error[mask], dtype=np.float64)))),
        "bias": float(np.mean(off[mask], dtype=np.float64)),
    }
    for size in _BLOCKS_MM:
        shape = block_shape(size, clean.geometry.spacing_mm)
        count, squares, expected = (
            blocks(np.where(mask, each, 0).astype(np.float64), shape) for each in (np.ones_like(off), off**2, error**2)
        )
        there = count > 0.5 * np.prod(shape)
        found[f"spearman_{size}_mm"] = float(stats.spearmanr(squares[there], expected[there]).statistic)
    return found


def lesion_curves(clean: Volume, answer: Answer, lesions: dict[float, NDArray[np.bool_]]) -> dict[str, object]:
    """By diameter in mm: voxels in lesions, and the share of them whose score is above each reach."""
    off = np.abs(clean.data[0] - answer.mean.data[0]) / scale_of(answer.error.data[0], answer.level)
    return {
        f"{diameter:g}": {"voxels": int(where.sum()), "outside": [round(float(v), 6) for v in share_above(off[where])]}
        for diameter, where in sorted(lesions.items())
    }


def do(job: Job, options: argparse.Namespace) -> str:
    """Measure and keep one job; what it came to, for whoever watches."""
    torch.set_num_threads(options.threads)
    found = measured(job, options)
    place = options.out / "raw" / job.file
    partial = place.with_suffix(".partial")
    partial.write_text(json.dumps(found, allow_nan=False), encoding="utf-8")
    partial.replace(place)
    told = found["figures"]
    assert isinstance(told, dict)
    shown = "  ".join(f"{name} {value:.3f}" for name, value in told.items())
    return f"{job.file[:-5]:34} {found['seconds']:6.1f} s  {shown}"


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    shared = scoring.options("", writes="")
    out = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    out.add_argument("--data", type=Path, default=shared.get_default("data"), help="folder of the shared data")
    out.add_argument("--split", type=Path, default=shared.get_default("split"), help="which subject serves what")
    out.add_argument("--out", type=Path, default=Path("runs/calibration"), help="folder; files go into OUT/raw")
    out.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where the network computes")
    out.add_argument("--workers", type=int, default=1, help="processes; they share the device")
    out.add_argument("--threads", type=int, default=1, help="of torch, in each process")
    out.add_argument("--crop", type=int, default=0, help="side of the central cube in voxels; 0 for the whole scan")
    out.add_argument("--draws", type=int, default=8, help="for each answer")
    out.add_argument("--steps", type=int, default=4, help="evaluations for each draw")
    out.add_argument("--prior", default="", help="bundled name or path; empty for the default")
    parts = ("validation", "test", "foreign")
    out.add_argument("--parts", nargs="+", choices=parts, default=parts, help="whom to measure")
    out.add_argument("--settings", nargs="+", choices=list(SETTINGS), default=list(SETTINGS), help="at what")
    out.add_argument("--few", type=int, default=0, help="so many subjects of each part, for a trial; 0 for all")
    return out


def run(options: argparse.Namespace) -> str:
    """Measure what is not there yet."""
    if min(options.workers, options.threads, options.steps, options.draws - 1) < 1 or options.crop < 0:
        raise SettingsError("E-SETTING", "workers, threads, steps, draws or crop out of range", wanted="1, and 2 draws")
    (options.out / "raw").mkdir(parents=True, exist_ok=True)
    todo = [job for job in jobs(options) if not (options.out / "raw" / job.file).is_file()]
    began = time.perf_counter()
    if options.workers == 1:
        for job in todo:
            print(do(job, options), file=sys.stderr, flush=True)
    else:
        with ProcessPoolExecutor(options.workers, mp_context=get_context("spawn")) as pool:
            for done in as_completed([pool.submit(do, job, options) for job in todo]):
                print(done.result(), file=sys.stderr, flush=True)
    return f"{len(todo)} measured in {time.perf_counter() - began:.0f} s; now: python validation/calibration_report.py"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0, or the exit code of the refusal."""
    return scoring.ended(run, parser(), arguments)


if __name__ == "__main__":
    raise SystemExit(main())
