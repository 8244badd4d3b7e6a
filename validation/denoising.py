"""Score denoising on scans that no prior has seen: `python validation/denoising.py --help`.

Each scan of the committed test split is scaled to a tissue maximum of 1 and taken as the truth; Rician noise of a known
level is added; every method is told the level. PSNR and SSIM are those of `medidiff.metrics`, inside the foreground of
the whole noise-free scan, with a data range of 1. Each peer runs in its best setting for each scan (see `peers.py`);
the prior has no setting. The truth has noise of its own (about 2 % of white matter in ds002748); a method that removes
it is marked down for that, at 3 % above all.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
import tomllib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from peers import PEERS, Array, Candidate

from medidiff import io
from medidiff.anatomy import foreground, tissue_maximum
from medidiff.errors import InputError, MedidiffError, SettingsError
from medidiff.metrics import psnr, ssim
from medidiff.physics import Noise
from medidiff.version import __version__
from medidiff.volume import Geometry, Volume

if TYPE_CHECKING:
    from medidiff.prior import Prior

_HERE = Path(__file__).resolve().parent
_NOISY, _OURS = "noisy input", "medidiff"


@dataclass(frozen=True, slots=True, eq=False)
class Truth:
    """A noise-free scan, tissue maximum 1, and where it counts; both (I, J, K)."""

    image: Array
    mask: NDArray[np.bool_]
    geometry: Geometry


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


def scored_scans(data: Path, split: Path, folder: str) -> dict[int, Path]:
    """The files of the test subjects of one folder, by their place in the split, from 1."""
    table = tomllib.loads(split.read_text(encoding="utf-8")).get(folder)
    if table is None:
        raise SettingsError("E-SPLIT", f"no folder '{folder}' in the split", attribute="--set", file=split.name)
    scans = {}
    for number, subject in enumerate(table["test"], start=1):
        found = sorted((data / folder).rglob(f"{subject}_T1w.nii.gz"))
        if len(found) != 1:
            raise InputError("E-DATA", f"{len(found)} files for test scan {number}", wanted="one", attribute="--data")
        scans[number] = found[0]
    return scans


def truth(path: Path, crop: int) -> Truth:
    """A scan as the reference; mask and scale come from all of it, also where only a central cube is scored."""
    scan = io.read(path)
    whole = scan.data[0]
    mask = foreground(whole)
    scaled = (whole / tissue_maximum(whole, mask)).astype(np.float32)
    sides = [min(crop, n) if crop else n for n in scaled.shape]
    starts = [(n - side) // 2 for n, side in zip(scaled.shape, sides, strict=True)]
    box = tuple(slice(a, a + side) for a, side in zip(starts, sides, strict=True))
    image = np.ascontiguousarray(scaled[box])
    affine = scan.geometry.affine.copy()
    affine[:3, 3] = scan.geometry.world(starts)
    return Truth(image, mask[box], Geometry((sides[0], sides[1], sides[2]), affine))


def ours(noisy: Array, level: float, *, geometry: Geometry, prior: Prior) -> list[Candidate]:
    """The posterior mean of the prior, as `medidiff denoise` gives it."""
    from medidiff.restore import denoise  # the network: only for those who ask

    volume = Volume(noisy, geometry, modality="MR")

    def run() -> Array:
        return np.asarray(denoise(volume, noise="rician", noise_level=level, prior=prior).mean.data[0])

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
        noisy = Noise("rician", level).apply(torch.from_numpy(reference.image), generator).numpy()
        methods = {_NOISY: [Candidate("", partial(np.copy, noisy))]}
        methods |= {name: PEERS[name](noisy, level) for name in options.peers}
        if prior is not None:
            methods[_OURS] = ours(noisy, level, geometry=reference.geometry, prior=prior)
        for name, candidates in methods.items():
            score = Score(number, percent, name, *best(candidates, reference))
            print(f"scan {number}  {percent:g} %  {name:12} {score.psnr_db:6.2f} dB  {score.ssim:.3f}", file=sys.stderr)
            scores.append(score)
    return scores


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
        decibels, similarities = _spread([s.psnr_db for s in group], 2), _spread([s.ssim for s in group], 4)
        seconds = np.mean([s.seconds for s in group])
        lines.append(f"| {percent:g} % | {method} | {decibels} | {similarities} | {seconds:.1f} | {settings} |")
    return "\n".join(lines) + "\n"


def _spread(values: Sequence[float], digits: int) -> str:
    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    return f"{np.mean(values):.{digits}f} ± {np.std(values, ddof=1):.{digits}f}"


def log_table(scores: Sequence[Score], params: dict[str, str], artifacts: Sequence[Path], uri: str | None) -> None:
    """Send the means to MLflow, and the table with them."""
    from medidiff.tracking import log_metrics

    means = {}
    for percent, method in dict.fromkeys((s.level_percent, s.method) for s in scores):
        group = [s for s in scores if (s.level_percent, s.method) == (percent, method)]
        tail = f"{method.replace(' ', '_')}_noise_{percent:g}"
        means[f"psnr_db_{tail}"] = float(np.mean([s.psnr_db for s in group]))
        means[f"ssim_{tail}"] = float(np.mean([s.ssim for s in group]))
    log_metrics("denoising", params, means, artifacts=artifacts, uri=uri)


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    shared = os.environ.get("MEDIDIFF_DATA") or _HERE.parent.parent / "shared" / "data"
    out = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    out.add_argument("--data", type=Path, default=Path(shared), help="folder of the shared data")
    out.add_argument("--split", type=Path, default=_HERE / "split.toml", help="which subject serves what")
    out.add_argument("--set", default="t1-ds002748", help="folder of the data to score")
    out.add_argument(
        "--scans", type=int, nargs="*", default=[], help="places in the split to score, from 1; all if empty"
    )
    out.add_argument(
        "--levels", type=float, nargs="+", default=[3.0, 9.0, 15.0], help="noise, %% of the tissue maximum"
    )
    out.add_argument("--crop", type=int, default=0, help="side of the central cube in voxels; 0 for the whole scan")
    out.add_argument(
        "--peers", nargs="*", choices=sorted(PEERS), default=["gaussian", "nlmeans"], help="whom to compare"
    )
    out.add_argument(
        "--prior", default="", help="bundled name or path, empty for the default; 'none' scores the peers alone"
    )
    out.add_argument("--threads", type=int, default=1, help="of torch; the peers run on one")
    out.add_argument(
        "--out", type=Path, default=Path("out/validation"), help="folder for denoising.md and denoising.json"
    )
    out.add_argument(
        "--mlflow", default="", help="tracking URI; empty for medidiff's own store, 'none' for no tracking"
    )
    return out


def _load(name: str) -> Prior | None:
    if name == "none":
        return None
    from medidiff.prior import DEFAULT_PRIOR, Prior

    return Prior.load(name or DEFAULT_PRIOR)


def run(options: argparse.Namespace) -> str:
    """Score, write both files, log; returns the table."""
    if min(options.levels) <= 0 or options.crop < 0 or options.threads < 1:
        raise SettingsError("E-SETTING", "a level, crop or number of threads out of range", wanted="levels above 0")
    torch.set_num_threads(options.threads)
    prior = _load(options.prior)
    files = scored_scans(options.data, options.split, options.set)
    if not set(options.scans) <= set(files):
        raise SettingsError("E-SETTING", f"{options.scans}", wanted=f"1 to {len(files)}", attribute="--scans")
    places = options.scans or list(files)
    scores = [s for n in places for s in score_scan(n, truth(files[n], options.crop), options, prior)]
    region = f"central {options.crop}³ voxels" if options.crop else "whole scan"
    table = markdown(scores, f"Denoising, {len(places)} test scans of {options.set}, {region}, mean ± sd over scans.")
    params = {
        "version": __version__,
        "set": options.set,
        "region": region,
        "scans": " ".join(map(str, places)),
        "split_sha256": hashlib.sha256(options.split.read_bytes()).hexdigest(),
        "prior": "none" if prior is None else f"{prior.card.name} {prior.card.weights_sha256}",
        "dipy": version("dipy"),
    }
    options.out.mkdir(parents=True, exist_ok=True)
    written = [options.out / "denoising.md", options.out / "denoising.json"]
    written[0].write_text(table, encoding="utf-8")
    record = json.dumps({"params": params, "scores": [asdict(s) for s in scores]}, indent=2, allow_nan=False)
    written[1].write_text(record, encoding="utf-8")
    if options.mlflow != "none":
        log_table(scores, params, written, options.mlflow or None)
    return table


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0, or the exit code of the refusal."""
    try:
        print(run(parser().parse_args(arguments)))
    except MedidiffError as refusal:
        print(refusal, file=sys.stderr)
        return refusal.exit_code
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
