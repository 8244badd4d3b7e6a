"""Score blind noise estimation on real scans with added noise: `python validation/noise_estimation.py --help`.

Three questions, three tables, every figure a signed error in percent:

1. *Real scans.* Rician noise of a known level `a` is added; the truth is sqrt(own^2 + a^2), where `own` is what the
   same method says of the untouched scan, since nobody knows the noise a scan came with.
2. *Scans whose own noise is gone*: blurred (Gaussian, 1.5 voxels; no noise left, little structure) and halved (means of
   2x2x2; structure is rougher at half the resolution, and a good part of the own noise is still there). The truth is
   `a` alone; halved scans are also judged as in 1, which tells what was their own noise from what was taken for noise.
3. *Traps*: air, rounding, small crops, thick slices, noise that varies, noise that was blurred or interpolated after it
   arose. The truth is `a`, or its mean for noise that varies.

100 % is the 99th percentile inside the foreground; SNR is the mean of the foreground over the true level. Peers: DIPY's
`estimate_sigma` and the classical Haar estimate (Donoho's median of the finest diagonal band over the whole volume),
both without a correction for Rician noise. scikit-image's estimate is of the second kind and needs PyWavelets.
"""

from __future__ import annotations

import argparse
import os
import sys
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from dipy.denoise.noise_estimate import estimate_sigma
from numpy.typing import NDArray
from scipy import ndimage

from medidiff import io
from medidiff.anatomy import foreground, tissue_maximum
from medidiff.errors import InputError, MedidiffError
from medidiff.physics import Noise
from medidiff.physics.estimate import estimate_noise, estimate_noise_map

Array = NDArray[np.float32]
Method = Callable[[Array], float]

_SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
_SCANS = (
    *(f"t1-ds002748/sub-{n}/anat/*_T1w.nii.gz" for n in (60, 61, 63, 64, 65, 66, 67, 69, 70, 71)),
    "t1-head/*_T1w.nii.gz",
    "ms-open/mni/patient19/[TF]*.nii.gz",
    "ms-open/thick/patient03/study2_FLAIR.nii.gz",
    "ms-open/thick/patient03/study2_T1W.nii.gz",
)
_LAW_SNR, _LAW_PERCENT = 5.0, 10.0  # the promise: at most 10 % of error at SNR 5 and above


@dataclass(frozen=True, slots=True, eq=False)
class Scan:
    """A scan (I, J, K) and whether its background was cut away, so that noise must not be added there."""

    name: str
    image: Array
    extracted: bool

    def own(self) -> dict[str, float]:
        """What each method says of the untouched scan, in image units."""
        return {method: call(self.image) for method, call in METHODS.items()}

    def blurred(self) -> Scan:
        """Without its noise, and without most of its structure."""
        image = ndimage.gaussian_filter(self.image, 1.5) * ((self.image != 0) | (not self.extracted))
        return replace(self, image=image)

    def halved(self) -> Scan:
        """Means of 2x2x2 voxels."""
        i, j, k = (n // 2 for n in self.image.shape)
        image = self.image[: 2 * i, : 2 * j, : 2 * k].reshape(i, 2, j, 2, k, 2).mean(axis=(1, 3, 5), dtype=np.float32)
        return replace(self, image=image)


@dataclass(frozen=True, slots=True)
class Row:
    """One scan at one level: the level and its truth in percent of the tissue maximum, errors in percent by method."""

    scan: str
    case: str
    level: float
    snr: float
    errors: dict[str, float]


def haar_diagonal(image: Array) -> float:
    """Median size of the diagonal band of one level of the 3D Haar transform, as a standard deviation."""
    for axis in range(3):
        n = image.shape[axis] // 2 * 2
        even, odd = (image.take(range(start, n, 2), axis=axis) for start in (0, 1))
        image = (odd - even) / np.float32(np.sqrt(2))
    return float(np.median(np.abs(image[image != 0]))) / 0.6745


METHODS: dict[str, Method] = {
    "medidiff": estimate_noise,
    "DIPY": lambda image: float(estimate_sigma(image, N=1)[0]),
    "Haar": haar_diagonal,
}


def noisy(image: Array, level: float | Array, key: str) -> Array:
    """One observation with Rician noise, the same for the same key; exact zeros of extracted brains stay zero."""
    generator = torch.Generator().manual_seed(zlib.crc32(key.encode()))
    sigma = level if isinstance(level, float) else torch.from_numpy(level)
    return Noise("rician", sigma).apply(torch.from_numpy(image), generator).numpy()


def load(path: Path) -> Scan:
    """The first channel, cut to the box of its non-zero voxels."""
    data = io.read(path).data[0].astype(np.float32)
    box = ndimage.find_objects((data != 0).astype(np.int8))[0]
    name = f"{path.parent.name}/{path.name.removesuffix('.nii.gz')}"
    return Scan(name, np.ascontiguousarray(data[box]), not {"t1-head", "thick"} & set(path.parts))


def score(scan: Scan, case: str, levels: Iterable[float], *, own: Mapping[str, float]) -> list[Row]:
    """Rows of one scan; `own` is the level in image units that each method's truth starts from."""
    name, image, keep = scan.name, scan.image, (scan.image != 0) | (not scan.extracted)
    inside = foreground(image)
    top, mean = tissue_maximum(image, inside), float(image[inside].mean())
    rows = []
    for level in levels:
        sigma = level / 100 * top
        seen = noisy(image, sigma, f"{name} {case} {level}") * keep
        truth = {method: float(np.hypot(own.get(method, 0.0), sigma)) for method in METHODS}
        errors = {method: 100 * (call(seen) / truth[method] - 1) for method, call in METHODS.items()}
        rows.append(Row(name, case, level, mean / truth["medidiff"], errors))
    return rows


def traps(scan: Scan, level: float) -> Iterator[tuple[str, float, float]]:
    """(trap, error in percent, standard deviation of what noise is left in percent of what was added)."""
    name, image = scan.name, scan.image
    inside = foreground(image)
    sigma = level / 100 * tissue_maximum(image, inside)
    seen = noisy(image, sigma, name)
    centre = [slice(int(c) - 16, int(c) + 16) for c in ndimage.center_of_mass(inside)]
    i, j, k = centre

    def result(trap: str, found: float, noise: Array | None = None) -> tuple[str, float, float]:
        return trap, 100 * (found / sigma - 1), 100.0 if noise is None else 100 * float(noise.std()) / sigma

    yield result("air around (Rayleigh)", estimate_noise(seen))
    yield result("background set to exactly 0", estimate_noise(seen * inside))
    yield result("rounded to steps of the level", estimate_noise(np.round(seen / sigma) * sigma))
    yield result("crop of 32x32x32", estimate_noise(seen[i, j, k]))
    yield result("crop of 16x16x16", estimate_noise(seen[i, j, k][8:24, 8:24, 8:24]))
    yield result("one slice", estimate_noise(seen[:, :, k.start : k.start + 1]))
    thick = image[:, :, : image.shape[2] // 4 * 4].reshape(*image.shape[:2], -1, 4).mean(axis=3)
    yield result("slices 4 voxels thick", estimate_noise(noisy(thick, sigma, name)))
    ramp = np.linspace(0.5, 1.5, image.shape[0], dtype=np.float32)[:, None, None] * np.ones_like(image) * sigma
    uneven = noisy(image, ramp, name) * inside
    yield result("level from 50 to 150 %: one number", estimate_noise(uneven) / float(ramp[inside].mean()) * sigma)
    mapped = estimate_noise_map(uneven).numpy()
    yield result("level from 50 to 150 %: map, worst 5 %", sigma * (1 + _worst(mapped[inside] / ramp[inside])))
    for width in (0.3, 0.5, 0.7):
        late, quiet = (ndimage.gaussian_filter(x, width) for x in (seen, image))
        yield result(f"blurred afterwards, {width} voxels", estimate_noise(late), (late - quiet)[inside])
    for order, word in ((1, "linear"), (3, "cubic")):
        late, quiet, cover = (ndimage.zoom(x, 1.5, order=o) for x, o in ((seen, order), (image, order), (inside, 0)))
        yield result(f"enlarged 1.5 times afterwards, {word}", estimate_noise(late), (late - quiet)[cover])


def _worst(ratio: Array) -> float:
    """Error that 95 % of the voxels stay below."""
    return float(np.quantile(np.abs(ratio - 1), 0.95))


def table(title: str, rows: Sequence[Row]) -> Iterator[str]:
    """Errors of our method by scan and level, then the mean and worst size of every method's errors by level."""
    levels = sorted({row.level for row in rows})
    by_scan: dict[str, dict[float, Row]] = defaultdict(dict)
    for row in rows:
        by_scan[row.scan][row.level] = row
    yield f"\n{title}\nerror of medidiff in % (SNR); levels in % of the tissue maximum"
    yield f"{'scan':30}" + "".join(f"{level:>14g}" for level in levels)
    for scan, cells in by_scan.items():
        yield f"{scan:30}" + "".join(f"{cells[v].errors['medidiff']:+7.1f} ({cells[v].snr:4.1f})" for v in levels)
    for method in METHODS:
        sizes = [np.abs([row.errors[method] for row in rows if row.level == level]) for level in levels]
        yield f"{method + ': mean | worst':30}" + "".join(f"{s.mean():6.1f} |{s.max():6.1f}" for s in sizes)
    counted = [abs(row.errors["medidiff"]) for row in rows if row.snr >= _LAW_SNR]
    if counted:
        kept = sum(size <= _LAW_PERCENT for size in counted)
        spread = f"mean {np.mean(counted):.1f} %, worst {max(counted):.1f} %"
        yield f"SNR >= 5: {kept} of {len(counted)} within {_LAW_PERCENT:g} %, {spread}"


def run(options: argparse.Namespace) -> Iterator[str]:
    """The lines of the report."""
    paths = [path for pattern in options.scans for path in sorted(options.data.glob(pattern))]
    if not paths:
        raise InputError("E-DATA", "no scan", wanted=", ".join(options.scans), attribute="--data")
    rows: list[Row] = []
    yield f"{'own level, % of the maximum':30}" + "".join(f"{method:>10}" for method in METHODS)
    for scan in map(load, paths):
        own, top = scan.own(), tissue_maximum(scan.image, foreground(scan.image))
        yield f"{scan.name:30}" + "".join(f"{100 * own[method] / top:10.2f}" for method in METHODS)
        rows += score(scan, "real", options.levels, own=own)
        rows += score(scan.blurred(), "blurred", options.levels[::3], own={})
        half = scan.halved()
        rows += score(half, "halved", options.levels, own={})
        rows += score(half, "halved (own noise counted)", options.levels, own=half.own())
    for case in dict.fromkeys(row.case for row in rows):
        yield from table(f"{case} scans", [row for row in rows if row.case == case])
    yield f"\ntraps at {options.trap_level:g} %, blurred scan"
    yield f"{'':44} error %   noise left %"
    for trap, error, left in traps(load(paths[0]).blurred(), options.trap_level):
        yield f"{trap:44}{error:+8.1f}{left:15.0f}"


def parser() -> argparse.ArgumentParser:
    """What the command understands."""
    out = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    shared = Path(os.environ.get("MEDIDIFF_DATA", _SHARED))
    out.add_argument("--data", type=Path, default=shared, help="folder of the shared data")
    out.add_argument("--scans", nargs="+", default=list(_SCANS), help="patterns below the folder")
    out.add_argument("--levels", nargs="+", type=float, default=[3, 5, 9, 12, 15, 20], help="%% of tissue maximum")
    out.add_argument("--trap-level", type=float, default=9.0, help="%% of tissue maximum")
    return out


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the report; 0 when it could be made."""
    try:
        for line in run(parser().parse_args(arguments)):
            print(line, flush=True)
    except MedidiffError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
