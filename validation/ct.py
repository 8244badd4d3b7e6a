"""Score low-dose CT on a slab that the prior was not trained on: `python validation/ct.py --help`.

The test slab of `split.toml` is the truth, with the noise of its own full dose. A lower dose is simulated in the
projections (`medidiff.physics.lowdose`; window and overlap are those whose noise is correlated as the scan's own), and
every method is told the standard deviation of what that added inside the body. RMSE in HU, and PSNR and SSIM as a
reader sees them: both images clipped to a display window, whose width is the data range, inside lung or soft tissue.
Each peer runs in the best of its settings, chosen by its RMSE on the very slab that is scored; the prior has none.

One patient: the slabs share anatomy, scanner and protocol. This shows that the way works, not how well on others.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial

import numpy as np
import scoring
import torch
from dipy.denoise.nlmeans import nlmeans
from findings import finding, series
from numpy.typing import NDArray
from peers import Array, Candidate
from scipy import ndimage
from scoring import load_prior
from skimage.restoration import denoise_tv_chambolle

from medidiff.anatomy import foreground
from medidiff.errors import SettingsError
from medidiff.metrics import psnr, ssim
from medidiff.physics.estimate import estimate_noise
from medidiff.physics.estimate_ct import axial_slices, estimate_noise_ct
from medidiff.physics.lowdose import Beam, lower_dose
from medidiff.report import montage
from medidiff.volume import Volume

Mask = NDArray[np.bool_]

_INPUT, _OURS, _ESTIMATED = "low dose", "medidiff", "medidiff, level estimated"
_WINDOWS = {"lung": (-1350.0, 150.0), "soft": (-160.0, 240.0)}  # -600 ± 750 and 40 ± 200 HU
_LUNG_HU = -500.0  # smoothed; above it lies fat, below it lung and airway
_BONE_HU = 300.0
_EVEN_HU = (0.0, 100.0)  # muscle and vessels, where nearly all of the fine structure is noise
_NLMEANS = (("classic", 1, 3, 1.0), ("classic", 1, 3, 1.4), ("classic", 2, 3, 1.0), ("blockwise", 1, 2, 1.4))
_TV = (0.3, 0.6, 1.0, 1.5, 2.0, 3.0)
_GAUSSIAN = (0.5, 0.7, 0.9, 1.1, 1.4, 1.8)
_FIGURES = ("rmse_lung", "rmse_soft", "psnr_lung", "psnr_soft", "ssim_lung", "ssim_soft", "seconds")


@dataclass(frozen=True, slots=True)
class Score:
    """How one method did at one dose."""

    dose: float
    method: str
    setting: str
    rmse_lung: float
    rmse_soft: float
    psnr_lung: float
    psnr_soft: float
    ssim_lung: float
    ssim_soft: float
    seconds: float


def regions(hounsfield: Array) -> dict[str, Mask]:
    """Lung and soft tissue of a scan, slice by slice what the body encloses."""
    smooth = ndimage.gaussian_filter(hounsfield, (1.5, 1.5, 0.5))
    body = foreground(hounsfield)
    body = np.stack([ndimage.binary_fill_holes(body[..., k]) for k in range(body.shape[-1])], axis=-1)
    return {"lung": body & (smooth < _LUNG_HU), "soft": body & (smooth >= _LUNG_HU) & (smooth < _BONE_HU)}


def rmse(image: Array, reference: Array, mask: Mask) -> float:
    """Root mean square error in a mask, HU."""
    return float(np.sqrt(np.mean(np.square(image[mask].astype(np.float64) - reference[mask]))))


def neighbours(image: Array, mask: Mask) -> tuple[float, float]:
    """Correlation of the fine structure of a slice with that one voxel further, along its two axes."""
    fine = image - ndimage.gaussian_filter(image, (3, 3, 0))
    inside = ndimage.binary_erosion(mask, np.ones((7, 7, 1)))
    i = inside[1:] & inside[:-1]
    j = inside[:, 1:] & inside[:, :-1]
    along_i, along_j = np.corrcoef(fine[1:][i], fine[:-1][i]), np.corrcoef(fine[:, 1:][j], fine[:, :-1][j])
    return float(along_i[0, 1]), float(along_j[0, 1])


def gaussian(noisy: Array, level: float) -> list[Candidate]:
    """A Gaussian filter of several widths."""
    return [Candidate(f"{w:g} voxels", partial(ndimage.gaussian_filter, noisy, w)) for w in _GAUSSIAN]


def total_variation(noisy: Array, level: float) -> list[Candidate]:
    """Total variation of scikit-image (Chambolle 2004), its weight in units of the noise level."""

    def run(weight: float) -> Array:
        return np.asarray(denoise_tv_chambolle(noisy, weight=weight * level), dtype=np.float32)

    return [Candidate(f"weight {w:g} sigma", partial(run, w)) for w in _TV]


def nlmeans_peer(noisy: Array, level: float) -> list[Candidate]:
    """DIPY's non-local means for Gaussian noise; lifted above 0, which it takes for background."""

    def run(method: str, patch: int, block: int, factor: float) -> Array:
        lift = 100.0 - float(noisy.min())
        answer = nlmeans(
            noisy.astype(np.float64) + lift,
            sigma=level * factor,
            patch_radius=patch,
            block_radius=block,
            rician=False,
            num_threads=1,
            method=method,
        )
        return np.asarray(answer - lift, dtype=np.float32)

    return [Candidate("{} {}/{}, {:g} sigma".format(*s), partial(run, *s)) for s in _NLMEANS]


PEERS: Mapping[str, Callable[[Array, float], list[Candidate]]] = {
    "gaussian": gaussian,
    "tv": total_variation,
    "nlmeans": nlmeans_peer,
}


def best(candidates: Sequence[Candidate], reference: Array, mask: Mask) -> tuple[Array, str, float]:
    """Answer, setting and seconds of the candidate with the smallest error in the mask."""
    answers = []
    for candidate in candidates:
        start = time.perf_counter()
        answer = candidate.run()
        answers.append((rmse(answer, reference, mask), candidate.setting, time.perf_counter() - start, answer))
    _, setting, seconds, answer = min(answers, key=lambda each: each[0])
    return answer, setting, seconds


def scored(answer: Array, reference: Array, masks: Mapping[str, Mask]) -> dict[str, float]:
    """RMSE, PSNR and SSIM of an answer in both windows."""
    scores = {}
    for name, (black, white) in _WINDOWS.items():
        seen, wanted = (np.clip(each, black, white) for each in (answer, reference))
        scores[f"rmse_{name}"] = rmse(answer, reference, masks[name])
        scores[f"psnr_{name}"] = psnr(seen, wanted, mask=masks[name], data_range=white - black)
        scores[f"ssim_{name}"] = ssim(seen, wanted, mask=masks[name], data_range=white - black)
    return scores


def score_dose(scan: Volume, dose: float, options: argparse.Namespace) -> tuple[list[Score], dict[str, Array], str]:
    """All methods at one dose: scores, what each answered, and a line on the noise."""
    reference = np.asarray(scan.data[0], dtype=np.float32)
    masks = regions(reference)
    body = masks["lung"] | masks["soft"]
    low = lower_dose(scan, dose, seed=options.seed, beam=_beam(options))
    noisy = np.asarray(low.data[0])
    level = float((noisy - reference)[body].std())
    line = f"Dose {dose:g}: {_about(reference, noisy, body=body, soft=masks['soft'], scan=scan)}"
    scores, answers = [], {}
    methods = {_INPUT: [Candidate("", partial(np.copy, noisy))]}
    methods |= {name: PEERS[name](noisy, level) for name in options.peers}
    if options.prior != "none":
        for name, told in ((_OURS, level), (_ESTIMATED, None)):
            methods[name] = [Candidate("posterior mean", partial(_ours, low, told, options.prior))]
    for name, candidates in methods.items():
        answer, setting, seconds = best(candidates, reference, body)
        answers[name] = answer
        scores.append(Score(dose, name, setting, **scored(answer, reference, masks), seconds=seconds))
        print(f"dose {dose:g}  {name:25} {scores[-1].rmse_lung:6.1f} {scores[-1].rmse_soft:6.1f} HU", file=sys.stderr)
    return scores, answers, line


def _about(reference: Array, noisy: Array, *, body: Mask, soft: Mask, scan: Volume) -> str:
    """What the dose adds, whether it is correlated as the scan's own noise is, and what the estimates make of it."""
    added = noisy - reference
    side_mm = math.sqrt(math.prod(axial_slices(scan.geometry)[1]))
    own, found = (estimate_noise_ct(x, side_mm=side_mm) for x in (reference, noisy))
    smooth = ndimage.gaussian_filter(reference, (1.5, 1.5, 0))
    even = soft & (smooth > _EVEN_HU[0]) & (smooth < _EVEN_HU[1])
    ours, theirs = ("{:.2f} and {:.2f}".format(*neighbours(x, even)) for x in (added, reference))
    return (
        f"{added[body].std():.1f} HU added inside the body, {added[soft].std():.1f} in soft tissue. Neighbours in "
        f"even tissue correlate by {ours} ({theirs} in the scan itself). Estimated level: {own:.1f} HU at "
        f"full dose, {found:.1f} at this one, {estimate_noise(noisy, kind='gaussian'):.1f} when taken for white."
    )


def _ours(low: Volume, told: float | None, name: str) -> Array:
    from medidiff.restore import denoise

    return np.asarray(denoise(low, noise_level=told, prior=load_prior(name or "fine-ct")).mean.data[0])


def _beam(options: argparse.Namespace) -> Beam:
    return Beam(**{name: getattr(options, name) for name in ("photons", "electronic", "views", "window", "overlap")})


def pictures(scan: Volume, answers: Mapping[str, Array], dose: float, options: argparse.Namespace) -> None:
    """The middle slice in both windows: truth, what was seen, each answer, and below it what it removed."""
    k = scan.shape[2] // 2
    for name, window in _WINDOWS.items():
        grey = sum(window) / 2
        panels = {"full dose": scan.data[0][..., k]} | {n: a[..., k] for n, a in answers.items()}
        removed = {f"input - {n}": answers[_INPUT][..., k] - p + grey for n, p in panels.items() if n != _INPUT}
        shown = panels | {f"{_INPUT} - full dose": removed.pop("input - full dose")} | removed
        montage(
            options.out / f"ct-dose-{dose:g}-{name}.png",
            {n: np.asarray(p).T[::-1] for n, p in shown.items()},
            columns=len(panels),
            window=window,
            title=f"{dose:g} of the dose, {name} window; below: what each method removed (grey is 0)",
        )


def markdown(scores: Sequence[Score], heading: str, notes: Sequence[str]) -> str:
    """The table: a row per dose and method."""
    lines = [heading, "", *notes, ""]
    lines += ["| dose | method | RMSE lung, soft (HU) | PSNR lung, soft (dB) | SSIM lung, soft | seconds | setting |"]
    lines += ["|--:|---|--:|--:|--:|--:|---|"]
    for s in scores:
        cells = f"{s.rmse_lung:.1f}, {s.rmse_soft:.1f} | {s.psnr_lung:.2f}, {s.psnr_soft:.2f}"
        cells += f" | {s.ssim_lung:.3f}, {s.ssim_soft:.3f} | {s.seconds:.1f} | {s.setting}"
        lines.append(f"| {s.dose:g} | {s.method} | {cells} |")
    return "\n".join(lines) + "\n"


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    out = scoring.options(__doc__.splitlines()[0], writes="ct.md, ct.json and the pictures")
    out.set_defaults(set="ct-lung")
    out.add_argument("--doses", type=float, nargs="+", default=[0.25, 0.1], help="shares of the scan's dose")
    out.add_argument("--peers", nargs="*", choices=sorted(PEERS), default=sorted(PEERS), help="whom to compare")
    out.add_argument("--seed", type=int, default=1, help="of the simulated counts")
    out.add_argument(
        "--photons", type=float, default=Beam().photons, help="I0, a detector's counts through air in a view"
    )
    out.add_argument("--electronic", type=float, default=Beam().electronic, help="noise of the electronics in counts")
    out.add_argument("--views", type=int, default=Beam().views, help="over half a turn")
    out.add_argument("--window", default="cosine", help="on the ramp filter")
    out.add_argument("--overlap", type=int, default=2, help="slice thickness in slice distances")
    return out


def run(options: argparse.Namespace) -> str:
    """Score, write the table, the record and the pictures; returns the table."""
    if options.threads < 1:
        raise SettingsError("E-SETTING", f"{options.threads}", wanted="at least 1", attribute="--threads")
    torch.set_num_threads(options.threads)
    scan = scoring.scored_slab(options.data, options.split, options.set, part=options.part)
    options.out.mkdir(parents=True, exist_ok=True)
    scores, notes = [], []
    for dose in options.doses:
        found, answers, line = score_dose(scan, dose, options)
        scores += found
        notes.append(line)
        pictures(scan, answers, dose, options)
    beam = _beam(options)
    heading = (
        f"Low-dose CT, {options.part} slab of {options.set} ({scan.shape[2]} slices of one patient); "
        f"I0 {beam.photons:g}, electronic noise {beam.electronic:g} counts, {beam.views} views, {beam.window} window, "
        f"seed {options.seed}."
    )
    table = markdown(scores, heading, notes)
    params = {"beam": dataclasses.asdict(beam), "seed": options.seed, "prior": options.prior or "fine-ct"}
    record = {"params": params, "scores": [asdict(s) for s in scores]}
    figures = series(record["scores"], by=("dose", "method"), values=_FIGURES)
    prior = load_prior(options.prior or "fine-ct")
    about = {
        "set": options.set,
        "part": options.part,
        "region": f"{scan.shape[2]} slices of one patient",
        "prior": "none" if prior is None else f"{prior.card.name} {prior.card.weights_sha256}",
    }
    found = finding("ct", parser(), options, params=about, figures=figures)
    scoring.save(options.out, "ct", table=table, record=record, finding=found)
    return table


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0, or the exit code of the refusal."""
    return scoring.ended(run, parser(), arguments)


if __name__ == "__main__":
    raise SystemExit(main())
