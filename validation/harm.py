"""Measure what denoising must not do: `python validation/harm.py --help`.

Each scan of the committed split is denoised as it is, its own noise level estimated, and once more with noise added,
its level told. Then, in the foreground:

* *kept*: PSNR of the answer against its own input, tissue maximum 1. A scan at its own level should come back nearly as
  it was.
* *transfer*: a plane wave of small amplitude is added to the scan; the share of it that the difference of both answers
  holds, at 1/8 and 1/4 cycles per voxel (a quarter and a half of Nyquist). It is the MTF in anatomy, for details of
  that amplitude: 1 is unchanged.
* *region mean*: the largest change of the mean of 1,000 neighbouring voxels, in % of that mean.
* *white*: correlation of what was removed with its neighbour along each axis, the largest; 0 is white.
* *anatomy*: correlation of what was removed with the fine detail of the scan (its Laplacian of Gaussian); 0 is none.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np
import scoring
import torch
from findings import finding, series
from numpy.typing import NDArray
from scipy import ndimage
from scoring import Array, Truth, chosen_scans, load_prior, spread, truth

from medidiff.errors import SettingsError
from medidiff.metrics import psnr
from medidiff.physics import Noise
from medidiff.volume import Volume

if TYPE_CHECKING:
    from medidiff.prior import Prior

_REGION = 10  # voxels a side, so 1,000 in all
_DETAIL_SIGMA = 1.0  # voxels
_FREQUENCIES = (0.125, 0.25)  # cycles per voxel
_BY = ("added_percent",)
_FIGURES = ("kept_db", "transfer_eighth", "transfer_quarter", "region_mean_percent", "white", "anatomy")


@dataclass(frozen=True, slots=True)
class Harm:
    """What was measured on one scan at one added noise level; the scan is named by its place in the split."""

    scan: int
    added_percent: float
    kept_db: float
    transfer_eighth: float
    transfer_quarter: float
    region_mean_percent: float
    white: float
    anatomy: float


def wave(shape: tuple[int, ...], frequency: float) -> Array:
    """A plane wave of amplitude 1, oblique to all axes alike, (I, J, K)."""
    direction = np.ones(3) / np.sqrt(3)
    along = np.tensordot(direction, np.indices(shape), axes=1)
    return np.asarray(np.cos(2 * np.pi * frequency * along), dtype=np.float32)


def transferred(difference: Array, added: Array, mask: NDArray[np.bool_]) -> float:
    """The share of an added pattern that a difference holds, inside a mask."""
    return float((difference * added)[mask].sum() / np.square(added)[mask].sum())


def region_change(after: Array, before: Array, mask: NDArray[np.bool_]) -> float:
    """Largest change of the mean over cubes of 1,000 voxels that lie wholly inside the mask, in %."""
    inside = ndimage.minimum_filter(mask, _REGION, mode="constant")
    means = [ndimage.uniform_filter(image.astype(np.float64), _REGION)[inside] for image in (after, before)]
    return float(100 * np.abs(means[0] / means[1] - 1).max())


def neighbour_correlation(removed: Array, mask: NDArray[np.bool_]) -> float:
    """Correlation of voxels with their next neighbours, along the axis where it is largest."""
    found = []
    for axis in range(3):
        pairs = np.moveaxis(removed, axis, 0), np.moveaxis(mask, axis, 0)
        both = pairs[1][1:] & pairs[1][:-1]
        found.append(float(np.corrcoef(pairs[0][1:][both], pairs[0][:-1][both])[0, 1]))
    return max(found, key=abs)


def detail_correlation(removed: Array, image: Array, mask: NDArray[np.bool_]) -> float:
    """Correlation of what was removed with the fine detail of a scan that is free of that noise."""
    return float(np.corrcoef(removed[mask], ndimage.gaussian_laplace(image, _DETAIL_SIGMA)[mask])[0, 1])


def measure(number: int, reference: Truth, percent: float, prior: Prior, *, amplitude: float) -> Harm:
    """Denoise one scan with and without the waves, and compare."""
    from medidiff.restore import denoise

    scan, told = reference.image, None
    if percent:
        generator = torch.Generator().manual_seed(1000 * number + round(10 * percent))
        scan = Noise("rician", percent / 100).apply(torch.from_numpy(reference.image), generator).numpy()
        told = percent / 100

    def answer(image: Array) -> Array:
        volume = Volume(image, reference.geometry, modality="MR")
        return np.asarray(denoise(volume, noise="rician", noise_level=told, prior=prior).mean.data[0])

    clean = answer(scan)
    shares = []
    for frequency in _FREQUENCIES:
        added = amplitude * wave(scan.shape, frequency) * reference.mask
        shares.append(transferred(answer(scan + added) - clean, added, reference.mask))
    removed = scan - clean
    return Harm(
        scan=number,
        added_percent=percent,
        kept_db=psnr(clean, scan, mask=reference.mask, data_range=1.0),
        transfer_eighth=shares[0],
        transfer_quarter=shares[1],
        region_mean_percent=region_change(clean, scan, reference.mask),
        white=neighbour_correlation(removed, reference.mask),
        anatomy=detail_correlation(removed, reference.image, reference.mask),
    )


def markdown(found: Sequence[Harm], heading: str) -> str:
    """The table: a row per added level, mean ± standard deviation over scans."""
    lines = [
        heading,
        "",
        "| added noise | kept (dB) | transfer at 1/8 | transfer at 1/4 | region mean (%) | white | anatomy |",
        "|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for percent in dict.fromkeys(harm.added_percent for harm in found):
        group = [harm for harm in found if harm.added_percent == percent]
        cells = " | ".join(spread([getattr(harm, name) for harm in group], 3) for name in _FIGURES)
        lines.append(f"| {f'{percent:g} %' if percent else 'none'} | {cells} |")
    return "\n".join(lines) + "\n"


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    out = scoring.options(__doc__.splitlines()[0], writes="harm.md and harm.json")
    out.add_argument(
        "--levels", type=float, nargs="*", default=[0.0, 3.0], help="added noise, %% of the tissue maximum"
    )
    out.add_argument("--amplitude", type=float, default=0.05, help="of the waves, share of the tissue maximum")
    return out


def run(arguments: argparse.Namespace) -> str:
    """Measure and write both files; returns the table."""
    prior = load_prior(arguments.prior)
    if prior is None or min([*arguments.levels, 0.0]) < 0 or arguments.amplitude <= 0 or arguments.threads < 1:
        found = "no prior, or a level, amplitude or number of threads out of range"
        raise SettingsError("E-SETTING", found, wanted="levels from 0, an amplitude above 0")
    torch.set_num_threads(arguments.threads)
    found = []
    for number, file in chosen_scans(arguments).items():
        reference = truth(file, arguments.crop)
        for percent in arguments.levels:
            found.append(measure(number, reference, percent, prior, amplitude=arguments.amplitude))
            print(found[-1], file=sys.stderr)
    scans, where = len({harm.scan for harm in found}), scoring.region(arguments)
    table = markdown(found, f"Harm, {scans} {arguments.part} scans of {arguments.set}, {where}.")
    params = {
        "set": f"{arguments.set} {arguments.contrast}",
        "part": arguments.part,
        "region": where,
        "prior": f"{prior.card.name} {prior.card.weights_sha256}",
    }
    record = {"harm": [asdict(harm) for harm in found]}
    told = finding("harm", parser(), arguments, params=params, figures=series(record["harm"], by=_BY, values=_FIGURES))
    scoring.save(arguments.out, "harm", table=table, record=record, finding=told)
    return table


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0, or the exit code of the refusal."""
    return scoring.ended(run, parser(), arguments)


if __name__ == "__main__":
    raise SystemExit(main())
