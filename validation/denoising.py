"""Score denoising on scans that no prior has seen: `python validation/denoising.py --help`.

Each scan of the committed test split is scaled to a tissue maximum of 1 and taken as the truth; Rician noise of a known
level is added; every method is told the level, or with ``--told estimated`` what medidiff estimates from the noise.
With ``--varying`` the level grows along the first axis from half to one and a half of its mean, which is what the
peers are told; medidiff estimates how it is spread. PSNR and SSIM are those of `medidiff.metrics`, inside the
foreground of the whole noise-free scan, with a data range of 1. Each peer runs in its best setting for each scan (see
`peers.py`); the prior has no setting. The truth has noise of its own (about 2 % of white matter in ds002748); a method
that removes it is marked down for that, at 3 % above all.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import scoring
import torch
from findings import finding, series
from peers import PEERS, Array, Candidate
from scoring import Truth, chosen_scans, load_prior, spread, truth

from medidiff.errors import SettingsError
from medidiff.metrics import psnr, ssim
from medidiff.physics import Noise
from medidiff.physics.estimate import estimate_noise
from medidiff.volume import Geometry, Volume

if TYPE_CHECKING:
    from medidiff.prior import Prior

_NOISY, _OURS = "noisy input", "medidiff"


@dataclass(frozen=True, slots=True)
class Score:
    """How one method did on one scan at one level; the scan is named by its place in the split."""

    scan: int
    level_percent: float
    method: str
    setting: str
    psnr_db: float
    ssim: float
    seconds: float


def ours(noisy: Array, level: float, *, geometry: Geometry, prior: Prior, varies: bool) -> list[Candidate]:
    """The posterior mean of the prior, as `medidiff denoise` gives it."""
    from medidiff.restore import denoise  # the network: only for those who ask

    volume = Volume(noisy, geometry, modality="MR")

    def run() -> Array:
        restored = denoise(volume, noise="rician", noise_level=level, noise_varies=varies, prior=prior)
        return np.asarray(restored.mean.data[0])

    return [Candidate("posterior mean", run)]


def best(candidates: Sequence[Candidate], reference: Truth) -> tuple[str, float, float, float]:
    """Setting, PSNR, SSIM and seconds of the candidate with the best PSNR."""
    chosen: tuple[float, float, str, Array] | None = None
    for candidate in candidates:
        start = time.perf_counter()
        answer = candidate.run()
        seconds = time.perf_counter() - start
        decibel = psnr(answer, reference.image, mask=reference.mask, data_range=1.0)
        if chosen is None or decibel > chosen[0]:
            chosen = decibel, seconds, candidate.setting, answer
    if chosen is None:
        raise ValueError("no candidates")
    decibel, seconds, setting, answer = chosen
    return setting, decibel, ssim(answer, reference.image, mask=reference.mask, data_range=1.0), seconds


def score_scan(number: int, reference: Truth, options: argparse.Namespace, prior: Prior | None) -> list[Score]:
    """All methods at all levels on one scan; the noise depends on nothing but the place in the split and the level."""
    scores = []
    for percent in options.levels:
        level = percent / 100
        generator = torch.Generator().manual_seed(1000 * number + round(10 * percent))
        there = level * (_ramp(reference.image.shape) if options.varying else torch.ones(()))
        noisy = Noise("rician", there).apply(torch.from_numpy(reference.image), generator).numpy()
        level = estimate_noise(noisy) if options.told == "estimated" else level
        methods = {_NOISY: [Candidate("", partial(np.copy, noisy))]}
        methods |= {name: PEERS[name](noisy, level) for name in options.peers}
        if prior is not None:
            methods[_OURS] = ours(noisy, level, geometry=reference.geometry, prior=prior, varies=options.varying)
        for name, candidates in methods.items():
            score = Score(number, percent, name, *best(candidates, reference))
            print(f"scan {number}  {percent:g} %  {name:12} {score.psnr_db:6.2f} dB  {score.ssim:.3f}", file=sys.stderr)
            scores.append(score)
    return scores


def _ramp(shape: tuple[int, ...]) -> torch.Tensor:
    """From a half to one and a half along the first axis, as a share of the mean."""
    return torch.linspace(0.5, 1.5, shape[0])[:, None, None]


def markdown(scores: Sequence[Score], heading: str) -> str:
    """The table: a row per method and level, mean ± standard deviation over scans."""
    lines = [
        heading,
        "",
        "| noise | method | PSNR in dB | SSIM | seconds | settings taken |",
        "|--:|---|--:|--:|--:|---|",
    ]
    for percent, method in dict.fromkeys((s.level_percent, s.method) for s in scores):
        group = [s for s in scores if (s.level_percent, s.method) == (percent, method)]
        settings = "; ".join(dict.fromkeys(s.setting for s in group))
        decibels, similarities = spread([s.psnr_db for s in group], 2), spread([s.ssim for s in group], 4)
        seconds = np.mean([s.seconds for s in group])
        lines.append(f"| {percent:g} % | {method} | {decibels} | {similarities} | {seconds:.1f} | {settings} |")
    return "\n".join(lines) + "\n"


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    out = scoring.options(__doc__.splitlines()[0], writes="denoising.md and denoising.json")
    out.add_argument(
        "--levels", type=float, nargs="+", default=[3.0, 9.0, 15.0], help="noise, %% of the tissue maximum"
    )
    out.add_argument(
        "--peers", nargs="*", choices=sorted(PEERS), default=["gaussian", "nlmeans"], help="whom to compare"
    )
    out.add_argument("--told", choices=("given", "estimated"), default="given", help="the noise level that is told")
    out.add_argument("--varying", action="store_true", help="noise that grows along the first axis, by ±50 %%")
    out.add_argument(
        "--mlflow", default="", help="tracking URI; empty for medidiff's own store, 'none' for no tracking"
    )
    return out


def run(options: argparse.Namespace) -> str:
    """Score, write both files, log; returns the table."""
    if min(options.levels) <= 0 or options.crop < 0 or options.threads < 1:
        raise SettingsError("E-SETTING", "a level, crop or number of threads out of range", wanted="levels above 0")
    torch.set_num_threads(options.threads)
    prior = load_prior(options.prior)
    files = chosen_scans(options)
    scores = [s for n, file in files.items() for s in score_scan(n, truth(file, options.crop), options, prior)]
    where = scoring.region(options)
    noise = f"{'varying' if options.varying else 'stationary'} noise, level {options.told}"
    heading = (
        f"Denoising, {len(files)} {options.part} scans of {options.set}, {options.contrast}, {where}, {noise}, "
        "mean ± sd over scans."
    )
    table = markdown(scores, heading)
    params = {
        "set": f"{options.set} {options.contrast}",
        "part": options.part,
        "noise": noise,
        "region": where,
        "scans": " ".join(map(str, files)),
        "split_sha256": hashlib.sha256(options.split.read_bytes()).hexdigest(),
        "prior": "none" if prior is None else f"{prior.card.name} {prior.card.weights_sha256}",
    }
    record = {"scores": [asdict(s) for s in scores]}
    figures = series(record["scores"], by=("level_percent", "method"), values=("psnr_db", "ssim", "seconds"))
    found = finding("denoising", parser(), options, params=params, figures=figures)
    written = scoring.save(options.out, "denoising", table=table, record=record, finding=found)
    if options.mlflow != "none":
        from medidiff.tracking import log_metrics

        log_metrics("denoising", found.params, found.figures, artifacts=written, uri=options.mlflow or None)
    return table


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0, or the exit code of the refusal."""
    return scoring.ended(run, parser(), arguments)


if __name__ == "__main__":
    raise SystemExit(main())
