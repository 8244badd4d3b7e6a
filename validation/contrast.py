"""Score a drawn contrast on people that no prior was trained on: `python validation/contrast.py --help`.

The test subjects of the recipe's split are drawn from their measured contrast by the prior and by a regression network
(`contrast_rivals.py` trains both), and by two ways that need no network: *histogram matching* gives the scan the
brightness of the training subjects' sought contrast, rank by rank, and *brightness alone* puts each voxel at the mean
that the training subjects have at its brightness, which is where both networks start from.

PSNR, SSIM and MAE are those of `medidiff.metrics` in the tissue, tissue maximum 1. *Fitted* PSNR allows each answer one
gain and one offset, because the scale of a contrast is arbitrary and bright lesions move it. *Power* is that of the
answer less that of the true scan, in dB, in bands of spatial frequency: a blur is negative. *Lesion contrast kept* is
the brightness of lesions over the white matter around them, as a share of the true one, over all lesions of at least 8
voxels. Its interval resamples lesions, that of a PSNR difference blocks of 24 mm: with one test subject neither says
anything of other people.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from contrast_rivals import KINDS, parser_of_data, recipe_of, spent
from findings import finding, series
from numpy.typing import NDArray
from scipy import ndimage
from scoring import Array, ended, save

from medidiff.anatomy import foreground
from medidiff.errors import SettingsError
from medidiff.io import read
from medidiff.metrics import mae, psnr, ssim
from medidiff.metrics.spectrum import radial_power
from medidiff.prior import Card, Prior
from medidiff.report import montage
from medidiff.training.contrast import Pair, curve_of, in_one_frame, load_pairs
from medidiff.training.contrast_recipe import ContrastRecipe
from medidiff.training.data import find_scans
from medidiff.translation import translate
from medidiff.volume import Geometry, Volume

Mask = NDArray[np.bool_]
BANDS = (0.03, 0.1, 0.15, 0.25)  # cycles per mm
_LARGEST_MM = 0.5 / BANDS[-1]
_MARGIN = 6  # voxels about the tissue that are drawn
_FEWEST = 8  # voxels of a lesion that is judged
_GAP, _REACH = 1, 3  # voxels between a lesion and the ring about it, and to the ring's end
_BLOCK = 12  # voxels
_RESAMPLES = 2000
_POWER = tuple(f"power_db_{low:g}_to_{high:g}" for low, high in pairwise(BANDS))
_FIGURES = ("psnr_db", "fitted_db", "ssim", "mae", *_POWER, "kept", "kept_low", "kept_high", "lesions")


@dataclass(frozen=True, slots=True, eq=False)
class Person:
    """One subject in both contrasts, cut to the tissue; all (I, J, K)."""

    sought: Array
    measured: Array
    tissue: Mask
    lesions: Mask


@dataclass(frozen=True, slots=True)
class Row:
    """How one way did on one subject; the subject is named by its place in the split."""

    subject: int
    method: str
    psnr_db: float
    fitted_db: float
    ssim: float
    mae: float
    power_db: tuple[float, ...]
    kept: tuple[float, float, float]
    lesions: int


def person(pair: Pair, lesions: Array) -> Person:
    """A pair as it is scored."""
    tissue = foreground(pair.measured.numpy())
    at = np.argwhere(tissue)
    low, high = np.maximum(at.min(0) - _MARGIN, 0), at.max(0) + 1 + _MARGIN
    box = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    sought, measured = (np.ascontiguousarray(each.numpy()[box]) for each in (pair.sought, pair.measured))
    return Person(sought, measured, tissue[box], np.asarray(lesions[box] > 0.5))


def rank_matched(measured: Array, tissue: Mask, like: Array) -> Array:
    """The scan with the brightness of `like`, rank by rank in the tissue; air stays 0.

    Args:
        measured: (I, J, K).
        tissue: (I, J, K).
        like: (N,) brightness of tissue in the contrast that is sought.
    """
    shares = np.linspace(0, 1, 257)
    known, wanted = np.quantile(measured[tissue], shares), np.quantile(like, shares)
    return np.where(tissue, np.interp(measured, known, wanted), 0).astype(np.float32)


def ways(
    who: Person, train: Sequence[Pair], priors: Mapping[str, Prior], recipe: ContrastRecipe, *, steps: int
) -> dict[str, Array]:
    """Every answer by its name."""
    like = np.concatenate([pair.sought.numpy()[foreground(pair.measured.numpy())] for pair in train])
    curve = curve_of(train)
    answers = {
        "histogram matching": rank_matched(who.measured, who.tissue, like),
        "brightness alone": curve.mean(torch.from_numpy(who.measured)).numpy(),
    }
    side = recipe.data.spacing_mm
    scan = Volume(who.measured, Geometry.regular(who.measured.shape, spacing_mm=[side] * 3), recipe.modality)
    to = recipe.contrasts[0]
    if "regression" in priors:
        answers["regression"] = translate(scan, to=to, prior=priors["regression"]).mean.data[0]
    if "diffusion" in priors:
        posterior = translate(scan, to=to, prior=priors["diffusion"], draws=2, steps=steps)
        answers["diffusion, posterior mean"] = posterior.mean.data[0]
        answers["diffusion, one draw"] = posterior.draws[0].data[0]
        answers["diffusion, another draw"] = posterior.draws[1].data[0]
    return answers


def fitted(image: Array, truth: Array, tissue: Mask) -> Array:
    """The image with the gain and offset that bring it closest to the truth in the tissue."""
    gain, offset = np.polyfit(image[tissue].astype(np.float64), truth[tissue].astype(np.float64), 1)
    return (gain * image + offset).astype(np.float32)


def power(image: Array, tissue: Mask, side: float) -> NDArray[np.float64]:
    """Power in each band, in dB."""
    return 10 * np.log10(radial_power(np.where(tissue, image, 0), spacing_mm=[side] * 3, edges=BANDS))


def lesion_contrasts(who: Person, images: Sequence[Array]) -> NDArray[np.float64]:
    """(images, lesions) brightness of each lesion less that of the white matter around it, times its voxels.

    White matter is what is brighter in a T1-weighted scan than the median of the tissue. Lesions without any are left
    out.
    """
    labels, _ = ndimage.label(who.lesions)
    free = who.tissue & ~ndimage.binary_dilation(who.lesions, iterations=_GAP)
    white = free & (who.measured > np.median(who.measured[who.tissue]))
    found = []
    for number, box in enumerate(ndimage.find_objects(labels), start=1):
        wide = tuple(slice(max(side.start - _REACH, 0), side.stop + _REACH) for side in box)
        lesion = labels[wide] == number
        ring = ndimage.binary_dilation(lesion, iterations=_REACH) & white[wide]
        if lesion.sum() >= _FEWEST and ring.any():
            found.append([lesion.sum() * float(x[wide][lesion].mean() - x[wide][ring].mean()) for x in images])
    return np.asarray(found, np.float64).reshape(-1, len(images)).T


def kept(drawn: NDArray[np.float64], true: NDArray[np.float64]) -> tuple[float, float, float]:
    """Share of the lesions' contrast that is kept, and its 95 % interval over lesions; NaN without lesions."""
    if not len(true):
        return (np.nan,) * 3
    chosen = np.random.default_rng(0).integers(len(true), size=(_RESAMPLES, len(true)))
    shares = drawn[chosen].sum(1) / true[chosen].sum(1)
    low, high = np.quantile(shares, (0.025, 0.975))
    return float(drawn.sum() / true.sum()), float(low), float(high)


def gain_db(better: Array, worse: Array, who: Person) -> tuple[float, float, float]:
    """PSNR of one answer less that of another, and its 95 % bootstrap interval over blocks of one person."""
    blocks = np.ravel_multi_index(tuple(np.argwhere(who.tissue).T // _BLOCK), [64] * 3)
    errors = [np.bincount(blocks, np.square(each - who.sought)[who.tissue], 64**3) for each in (better, worse)]
    used = np.flatnonzero(np.bincount(blocks, minlength=64**3))
    first, second = (each[used] for each in errors)
    chosen = np.random.default_rng(0).integers(len(used), size=(_RESAMPLES, len(used)))
    gains = 10 * np.log10(second[chosen].sum(1) / first[chosen].sum(1))
    low, high = np.quantile(gains, (0.025, 0.975))
    return float(10 * np.log10(second.sum() / first.sum())), float(low), float(high)


def judge(number: int, who: Person, answers: Mapping[str, Array], side: float) -> list[Row]:
    """All scores of one subject."""
    contrasts = lesion_contrasts(who, [who.sought, *answers.values()])
    truth = power(who.sought, who.tissue, side)
    rows = []
    for (name, image), lesions in zip(answers.items(), contrasts[1:], strict=True):
        about = {"mask": who.tissue, "data_range": 1.0}
        rows.append(
            Row(
                subject=number,
                method=name,
                psnr_db=psnr(image, who.sought, **about),
                fitted_db=psnr(fitted(image, who.sought, who.tissue), who.sought, **about),
                ssim=ssim(image, who.sought, **about),
                mae=mae(image, who.sought, mask=who.tissue),
                power_db=tuple(float(each) for each in power(image, who.tissue, side) - truth),
                kept=kept(lesions, contrasts[0]),
                lesions=contrasts.shape[1],
            )
        )
    return rows


def markdown(rows: Sequence[Row], gains: Sequence[str], heading: str) -> str:
    """The table: a row per subject and way."""
    bands = [f"{low:g} to {high:g}" for low, high in pairwise(BANDS)]
    columns = ["subject", "method", "PSNR", "fitted PSNR (dB)", "SSIM", "MAE (%)"]
    columns += [f"power {band} per mm (dB)" for band in bands]
    lines = [heading, "", f"| {' | '.join([*columns, 'lesion contrast kept (95 %, n lesions)'])} |"]
    lines.append(f"|{'--:|' * (len(columns) + 1)}")
    for row in rows:
        share = "none" if not row.lesions else "{:.2f} ({:.2f} to {:.2f}, {})".format(*row.kept, row.lesions)
        cells = [str(row.subject), row.method, f"{row.psnr_db:.2f}", f"{row.fitted_db:.2f}", f"{row.ssim:.3f}"]
        cells += [f"{100 * row.mae:.1f}", *(f"{each:+.1f}" for each in row.power_db), share]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", *gains]) + "\n"


def picture(path: Path, who: Person, answers: Mapping[str, Array], names: tuple[str, str]) -> None:
    """Two axial slices of the scan, the truth and every answer: the one with most lesions, and one 20 mm above."""
    most = int(np.argmax(who.lesions.sum(axis=(0, 1)))) if who.lesions.any() else who.sought.shape[2] // 2
    shown = {f"{names[0]} (measured)": who.measured, f"{names[1]} (true)": who.sought, **answers}
    levels = [most, min(most + 10, who.sought.shape[2] - 1)]
    tiles = {f"{name}{' ' * n}": image[:, :, k : k + 1] for n, k in enumerate(levels) for name, image in shown.items()}
    montage(path, tiles, columns=len(shown), window=(0.0, 1.1))


def lesion_maps(recipe: ContrastRecipe, arguments: argparse.Namespace) -> list[Array]:
    """Share of lesion in every voxel of the test subjects' grids; zero where no map is named."""
    if not arguments.lesions:
        return []
    maps = []
    for source, measured in zip(recipe.data.sources, recipe.measured.patterns, strict=True):
        both = []
        for pattern in (measured, arguments.lesions):
            sources = (dataclasses.replace(source, pattern=pattern),)
            data = dataclasses.replace(recipe.data, sources=sources)
            both.append(find_scans(data, folder=arguments.recipe.parent, root=arguments.data, part="test"))
        for scan, lesions in zip(*both, strict=True):
            volumes = [read(found.path) for found in (scan, lesions)]
            maps.append(in_one_frame(volumes, recipe.data.spacing_mm, file=lesions.path.name)[1])
    return maps


def run(arguments: argparse.Namespace) -> str:
    """Score and write table, record and picture; returns the table."""
    recipe = recipe_of(arguments.recipe, "diffusion")
    if not 0 < recipe.data.spacing_mm <= _LARGEST_MM:
        found, wanted = f"{recipe.data.spacing_mm:g}", f"above 0, at most {_LARGEST_MM:g}"
        raise SettingsError("E-RECIPE", found, wanted=wanted, attribute="data.spacing_mm", file=arguments.recipe.name)
    places = {kind: arguments.runs / kind for kind in arguments.kinds}
    cards = {kind: folder / f"{recipe_of(arguments.recipe, kind).name}.json" for kind, folder in places.items()}
    priors = {kind: Prior.load(card) for kind, card in cards.items()}
    train, test = (load_pairs(recipe, arguments.recipe.parent, arguments.data, part=p) for p in ("train", "test"))
    if not (train and test):
        raise SettingsError("E-DATA", "no pair to train or to test with", mend="List subjects in the recipe's split.")
    maps = lesion_maps(recipe, arguments) or [np.zeros(tuple(pair.sought.shape), np.float32) for pair in test]
    side, rows, gains = recipe.data.spacing_mm, list[Row](), list[str]()
    names = (recipe.measured.contrast, recipe.contrasts[0])
    for number, (pair, lesions) in enumerate(zip(test, maps, strict=True), start=1):
        who = person(pair, lesions)
        answers = ways(who, train, priors, recipe, steps=arguments.steps)
        rows += judge(number, who, answers, side)
        gains += differences(number, who, answers)
        arguments.out.mkdir(parents=True, exist_ok=True)
        picture(arguments.out / f"contrast-{number}.png", who, answers, names)
        print(f"subject {number} scored", file=sys.stderr)
    heading = f"{names[1]} from {names[0]}, {len(test)} test subjects, {len(train)} trained on, voxels of {side:g} mm."
    told = {kind: {"images": _own_images(p.card), "cpu_seconds": spent(places[kind])} for kind, p in priors.items()}
    lines = [f"{kind}: {each['images']} patches, {each['cpu_seconds']:.0f} CPU seconds" for kind, each in told.items()]
    table = markdown(rows, [*gains, *lines], heading)
    record = {"rows": [asdict(row) for row in rows], "differences": gains, "trained": told, "steps": arguments.steps}
    about = {
        "set": ", ".join(source.pattern for source in recipe.data.sources),
        "part": "test",
        "region": f"voxels of {side:g} mm",
        "scans": " ".join(str(number) for number, _ in enumerate(test, start=1)),
        "prior": "none",
        "trained": "; ".join(lines),
    }
    figures = series(map(_figures, rows), by=("method",), values=_FIGURES, case="subject")
    found = finding("contrast", parser(), arguments, params=about, figures=figures)
    save(arguments.out, "contrast", table=table, record=record, finding=found)
    return table


def _figures(row: Row) -> dict[str, object]:
    """A row with a name for every number."""
    power = dict(zip(_POWER, row.power_db, strict=True))
    kept = dict(zip(("kept", "kept_low", "kept_high"), row.kept, strict=True))
    return asdict(row) | power | kept


def _own_images(card: Card) -> int:
    """Patches of this run, without those of the prior that it began with."""
    return card.images - int(card.start.get("images", 0))


def differences(number: int, who: Person, answers: Mapping[str, Array]) -> list[str]:
    """The posterior mean against every other single answer, in words."""
    ours = "diffusion, posterior mean"
    others = [name for name in answers if name != ours and ours in answers]
    gains = {name: gain_db(answers[ours], answers[name], who) for name in others}
    words = {name: "{:+.2f} dB ({:+.2f} to {:+.2f})".format(*gain) for name, gain in gains.items()}
    return [f"subject {number}: PSNR of the posterior mean less that of {name}: {word}" for name, word in words.items()]


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    out = parser_of_data(__doc__)
    out.add_argument("--runs", type=Path, default=Path("runs/contrast"), help="folder of both runs")
    out.add_argument("--kinds", nargs="*", choices=KINDS, default=list(KINDS), help="which of them are scored")
    out.add_argument("--lesions", default="ms-open/mni/{subject}/lesions.nii.gz", help="masks; empty for none")
    out.add_argument("--steps", type=int, default=8, help="of a draw")
    out.add_argument("--out", type=Path, default=Path("out/validation"), help="folder for the table and the pictures")
    return out


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0, or the exit code of the refusal."""
    return ended(run, parser(), arguments)


if __name__ == "__main__":
    raise SystemExit(main())
