"""Adapt the prior to noisy scans of other contrasts and score it: `python validation/adaptation.py --help`.

Each scan is scaled to a tissue maximum of 1 and taken as the truth; Rician noise of a known level is added, and the
prior is adapted to that one noisy scan, which is then denoised with the prior as it was (*zero-shot*) and as it has
become. PSNR is that of `medidiff.metrics` in the foreground of the noise-free scan, with a data range of 1. *Expected*
is the gain that the command itself tells, which has never seen the truth. Only subjects of the test part are scored.
With `--blur` the noise of both channels is smoothed, as in a scan that was interpolated: there is nothing to learn from
it, and the prior must stay as it was; its level is then estimated.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
import tomllib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import scoring
import torch
from findings import finding, series
from scipy import ndimage
from scoring import Array, Truth, load_prior, spread, truth

from medidiff.errors import SettingsError
from medidiff.metrics import psnr
from medidiff.physics import Noise
from medidiff.volume import Volume

if TYPE_CHECKING:
    from medidiff.prior import Prior

# What is shifted, which table of the split holds the subject, and where the scan lies.
CASES = {
    "T2": ("ms-open", "patient19", "ms-open/mni/patient19/T2.nii.gz"),
    "FLAIR": ("ms-open", "patient19", "ms-open/mni/patient19/FLAIR.nii.gz"),
    "T1 of MS": ("ms-open", "patient19", "ms-open/mni/patient19/T1.nii.gz"),
    "T1 head": ("t1-head", "skyra", "t1-head/skyra_T1w.nii.gz"),
}

_FIGURES = ("noisy_db", "zero_shot_db", "adapted_db", "expected_gain_db", "patches", "seconds")


@dataclass(frozen=True, slots=True)
class Score:
    """How one scan fared at one level; the scan is named by its contrast."""

    case: str
    level_percent: float
    noisy_db: float
    zero_shot_db: float
    adapted_db: float
    expected_gain_db: float | None
    changed: bool
    patches: int
    seconds: float

    @property
    def gain_db(self) -> float:
        """What adapting was worth."""
        return self.adapted_db - self.zero_shot_db


def tested(case: str, *, data: Path, split: Path) -> Path:
    """The file of a case, whose subject must be one that no prior is trained on."""
    table, subject, name = CASES[case]
    if subject not in tomllib.loads(split.read_text(encoding="utf-8"))[table]["test"]:
        raise SettingsError("E-SPLIT", f"the subject of {case} is not in part 'test'", file=split.name)
    return data / name


def observed(image: Array, level: float, *, blur: float, seed: int) -> Array:
    """A scan with Rician noise of this level, smoothed by a Gaussian of so many voxels."""
    generator = torch.Generator().manual_seed(seed)
    if not blur:
        return Noise("rician", level).apply(torch.from_numpy(image), generator).numpy()
    channels = [ndimage.gaussian_filter(torch.randn(image.shape, generator=generator).numpy(), blur) for _ in range(2)]
    real, imaginary = (level * channel / channel.std() for channel in channels)
    return np.hypot(image + real, imaginary)


def score(case: str, reference: Truth, percent: float, prior: Prior, options: argparse.Namespace) -> Score:
    """Adapt to one noisy scan, and denoise it with both priors."""
    from medidiff.restore import denoise
    from medidiff.training.adapt import adapt

    level = percent / 100
    noisy = observed(reference.image, level, blur=options.blur, seed=round(10 * percent))
    volume = Volume(noisy, reference.geometry, modality="MR")
    told = None if options.estimate or options.blur else level

    def decibel(image: Array) -> float:
        return psnr(image, reference.image, mask=reference.mask, data_range=1.0)

    def answer(which: Prior) -> float:
        return decibel(np.asarray(denoise(volume, noise_level=told, prior=which).mean.data[0]))

    start = time.perf_counter()
    made = adapt(volume, "adapted", prior=prior, noise_level=told, patches=options.patches, minutes=options.minutes)
    seconds = time.perf_counter() - start
    zero_shot = answer(prior)
    expected = math.nan if made.comparison is None else made.comparison.gain_db
    return Score(
        case=case,
        level_percent=percent,
        noisy_db=decibel(noisy),
        zero_shot_db=zero_shot,
        adapted_db=answer(made.prior) if made.changed else zero_shot,
        expected_gain_db=expected if math.isfinite(expected) else None,
        changed=made.changed,
        patches=made.patches,
        seconds=seconds,
    )


def markdown(scores: Sequence[Score], heading: str) -> str:
    """The table: a row per case and level, and how the gains spread over all."""
    lines = [
        heading,
        "",
        "| scan | noise | noisy | zero-shot | adapted (dB) | gain | expected | patches | seconds |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for each in scores:
        expected = "" if each.expected_gain_db is None else f"{each.expected_gain_db:+.2f}"
        gain = f"{each.gain_db:+.2f}" if each.changed else "kept"
        lines.append(
            f"| {each.case} | {each.level_percent:g} % | {each.noisy_db:.2f} | {each.zero_shot_db:.2f} | "
            f"{each.adapted_db:.2f} | {gain} | {expected} | {each.patches} | {each.seconds:.0f} |"
        )
    gains = [each.gain_db for each in scores]
    return "\n".join([*lines, "", f"Gain {spread(gains, 2)} dB, the worst {min(gains):+.2f} dB."]) + "\n"


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    out = scoring.options(__doc__.splitlines()[0], writes="adaptation.md and adaptation.json")
    out.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES), help="what is scored")
    out.add_argument(
        "--levels", type=float, nargs="+", default=[5.0, 9.0, 15.0], help="noise, %% of the tissue maximum"
    )
    out.add_argument("--patches", type=int, default=600, help="training patches at most")
    out.add_argument("--minutes", type=float, default=10.0, help="time at most for adapting to a scan")
    out.add_argument("--blur", type=float, default=0.0, help="standard deviation in voxels that smooths the noise")
    out.add_argument("--estimate", action="store_true", help="estimate the noise level instead of telling it")
    return out


def run(options: argparse.Namespace) -> str:
    """Score, write both files; returns the table."""
    prior = load_prior(options.prior)
    if prior is None or min(options.levels) <= 0 or options.crop < 0 or options.threads < 1 or options.blur < 0:
        found = "no prior, or a level, crop, blur or number of threads out of range"
        raise SettingsError("E-SETTING", found, wanted="levels above 0")
    torch.set_num_threads(options.threads)
    scores = []
    for case in options.cases:
        reference = truth(tested(case, data=options.data, split=options.split), options.crop)
        for percent in options.levels:
            scores.append(score(case, reference, percent, prior, options))
            print(scores[-1], file=sys.stderr)
    table = markdown(scores, f"Adapting {prior.card.name} to one noisy scan each, {scoring.region(options)}.")
    record = {"scores": [asdict(each) for each in scores]}
    about = {"part": "test", "region": scoring.region(options)}
    about |= {"set": "ms-open, t1-head", "prior": f"{prior.card.name} {prior.card.weights_sha256}"}
    figures = series(record["scores"], by=("case", "level_percent"), values=_FIGURES)
    found = finding("adaptation", parser(), options, params=about, figures=figures)
    scoring.save(options.out, "adaptation", table=table, record=record, finding=found)
    return table


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0, or the exit code of the refusal."""
    return scoring.ended(run, parser(), arguments)


if __name__ == "__main__":
    raise SystemExit(main())
