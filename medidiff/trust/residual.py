"""What a scan says against an answer: the residual in units of the noise, and its average over places of a size.

Where an answer is right, the scan less what the scanner would see of it is noise. `standardised` turns every voxel of
it into a number that is standard normal then, magnitude noise included; `matched` looks for blobs in it, with a filter
that keeps noise standard normal at every size. What stands out there was added to the answer or taken from it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from scipy import special
from torch import Tensor

__all__ = [
    "Kernel",
    "averaged",
    "blurred",
    "darkened",
    "gaussian_kernel",
    "heat_kernel",
    "matched",
    "rician_information",
    "rician_mean",
    "standardised",
]

_HIGHEST, _STEP = 8.0, 0.1  # of the signal in the table, in noise levels; above, the law is normal to a hundredth
_REACH, _FINE = 8.0, 0.05  # of the value about the signal
_MOST = 8.2  # standard deviations that the table tells apart
_CLIPPED = 1e-4  # of the voxels at the lowest value; fewer hold it by chance
_EMPTY, _FEWEST = 1.5, 300  # noise levels of signal at most, and voxels at least, where a dark law is read
_DARKEST = 0.9  # noise levels: a magnitude without any signal has 1.18 in the middle
_DARK = 2.5  # noise levels: what is brighter follows the law all the same

Kernel = tuple[tuple[float, ...], ...]
"""Weights along each axis, an odd number of each; the filter is their product."""


@lru_cache(maxsize=1)
def _rice() -> Tensor:
    """(signal, value less signal) the normal deviate with the probability that Rician noise of level 1 stays below.

    From the density ``r exp(-(r² + s²)/2) I0(r s)`` (Rice 1944), summed from either end, so that both tails are exact.
    """
    signals = np.arange(0, _HIGHEST + _STEP / 2, _STEP)[:, None]
    values = np.arange(0, _HIGHEST + 2 * _REACH, _FINE / 10)[None]
    middles = (values[:, 1:] + values[:, :-1]) / 2
    mass = middles * np.exp(-((middles - signals) ** 2) / 2) * special.i0e(middles * signals) * (_FINE / 10)
    below, above = mass.cumsum(1), mass[:, ::-1].cumsum(1)[:, ::-1]
    with np.errstate(divide="ignore"):
        lower, upper = special.ndtri(below), -special.ndtri(np.minimum(above, 1))
    deviate = np.where(below < 0.5, lower, np.concatenate([upper[:, 1:], np.full_like(signals, np.inf)], axis=1))
    deviate = np.clip(np.nan_to_num(deviate, posinf=_MOST, neginf=-_MOST), -_MOST, _MOST)
    offsets = np.arange(-_REACH, _REACH + _FINE / 2, _FINE)
    rows = [np.interp(s + offsets, values[0, 1:], row) for s, row in zip(signals[:, 0], deviate, strict=True)]
    return torch.from_numpy(np.asarray(rows, dtype=np.float32))


def darkened(scan: Tensor, seen: Tensor, level: float | Tensor, *, inside: Tensor) -> bool:
    """Whether a magnitude is darker than noise alone makes it where it holds next to no signal.

    Most scanners lower their background, by filters or by how coils are combined. There is no law for that, but with
    Rice's every answer would be too bright where it is dark, however dark it is.

    Args:
        scan: (I, J, K) what was measured.
        seen: (I, J, K) what the scanner would see of the answer without noise.
        level: standard deviation of the noise in either channel, above 0, broadcasts to the scan.
        inside: (I, J, K) where it is read.
    """
    empty = inside & (_highest(seen / level) < _EMPTY)  # next to nothing around it: not where noise alone made it dark
    return int(empty.sum()) >= _FEWEST and float((scan / level)[empty].median()) < _DARKEST


def _highest(image: Tensor) -> Tensor:
    """The highest of a voxel and the six that touch it."""
    image = image[None, None]
    sides = [[3 if other == axis else 1 for other in range(3)] for axis in range(3)]
    pooled = [F.max_pool3d(image, side, stride=1, padding=[n // 2 for n in side]) for side in sides]
    return torch.stack(pooled).amax(0)[0, 0]


def standardised(scan: Tensor, seen: Tensor, level: float | Tensor, *, rician: bool, darkened: bool = False) -> Tensor:
    """The residual of every voxel as a standard normal deviate, if `seen` is what the scanner saw.

    Where many voxels hold the lowest value, it is where the scanner cut the values off: such a voxel says that its
    signal lies there or below. It speaks against a brighter answer alone, by as much as if the noise were Gaussian. No
    magnitude is below 0, so of magnitudes all that lies there was cut off, or made by a resampling.

    Args:
        scan: (I, J, K) what was measured.
        seen: (I, J, K) what the scanner would see of the answer without noise.
        level: standard deviation of the noise, of either channel for magnitudes; above 0, broadcasts to the scan.
        rician: whether the scan is a magnitude.
        darkened: whether what is dark in it is darker than noise. There its law is unknown, between Rice's and a normal
            one about the signal, and only what neither explains counts.
    """
    plain = (scan - seen) / level
    law = _magnitudes(scan, seen, level) if rician else plain
    if darkened:
        law = torch.where(scan < _DARK * level, law.clamp_min(0) + plain.clamp_max(0), law)  # one of them is 0
    lowest = scan <= (scan.min().clamp_min(0) if rician else scan.min())
    if int(lowest.sum()) < max(2, _CLIPPED * lowest.numel()):
        return law
    return torch.where(lowest, plain.clamp_max(0), law)


def _magnitudes(scan: Tensor, seen: Tensor, level: float | Tensor) -> Tensor:
    """The deviates of Rician noise."""
    signal, offset = (seen / level).clamp_min(0), (scan - seen.clamp_min(0)) / level
    table = _rice().to(scan)
    row = (signal / _STEP).clamp_max(len(table) - 1.001)
    column = ((offset + _REACH) / _FINE).clamp(0, table.shape[1] - 1.001)
    i, j = row.long(), column.long()
    u, v = row - i, column - j
    near = (1 - u) * ((1 - v) * table[i, j] + v * table[i, j + 1])
    near += u * ((1 - v) * table[i + 1, j] + v * table[i + 1, j + 1])
    # A strong signal: mean s + 1/(2s), variance 1 - 1/(2s²) (Gudbjartsson & Patz 1995, expanded).
    strong = signal.clamp_min(1)
    far = (offset - 0.5 / strong) / (1 - 0.5 / strong.square()).sqrt()
    return torch.where(signal < _HIGHEST, near, far)


def rician_mean(signal: Tensor, level: float | Tensor) -> Tensor:
    """Mean of the magnitude of a signal with noise of a level in both channels (Koay & Basser 2006)."""
    quarter = (signal.clamp_min(0) / level).square() / 4
    bessel = (1 + 2 * quarter) * torch.special.i0e(quarter) + 2 * quarter * torch.special.i1e(quarter)
    mean: Tensor = level * math.sqrt(math.pi / 2) * bessel
    return mean


def rician_information(signal: Tensor, level: float | Tensor) -> Tensor:
    """What a magnitude says of its signal, as a share of what Gaussian noise of the level would let it say.

    ``g² σ² / v`` with the slope g of the mean over the signal and the variance v of the magnitude, which are 1 and σ²
    of Gaussian noise: near 1 from five noise levels on, 0 where there is no signal.
    """
    ratio = (signal.clamp_min(0) / level).clamp_max(_HIGHEST)  # above, 1 to a hundredth
    quarter = ratio.square() / 4
    slope = math.sqrt(math.pi / 8) * ratio * (torch.special.i0e(quarter) + torch.special.i1e(quarter))
    variance = 2 + ratio.square() - rician_mean(ratio, 1.0).square()
    share: Tensor = slope.square() / variance
    return share


def gaussian_kernel(widths_voxels: Sequence[float]) -> Kernel:
    """A Gaussian of the given standard deviation along each axis, cut at three of them; its weights sum to 1."""
    kernel = []
    for width in widths_voxels:
        reach = math.ceil(3 * width) if width > 0.2 else 0  # a narrower one is one voxel
        weights = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * max(width, 0.2) ** 2))
        kernel.append(tuple(float(w) for w in weights / weights.sum()))
    return tuple(kernel)


def heat_kernel(width_voxels: float) -> Kernel:
    """A Gaussian along every axis that has just this standard deviation on a grid, also where it is under a voxel.

    ``exp(-s²) I_n(s²)`` (Lindeberg 1990): one of s after one of t is one of sqrt(s² + t²), and all of them multiply a
    spatial frequency ω by ``exp(-s² (1 - cos ω))``.
    """
    reach = math.ceil(4 * width_voxels) + 1 if width_voxels > 0 else 0
    weights = special.ive(np.abs(np.arange(-reach, reach + 1)), width_voxels**2)
    return (tuple(float(w) for w in weights / weights.sum()),) * 3


def blurred(image: Tensor, kernel: Kernel) -> Tensor:
    """(I, J, K) an image filtered along each axis; zero beyond its ends."""
    out = image
    for axis, weights in enumerate(kernel):
        if len(weights) == 1:
            continue
        old, middle = out.movedim(axis, 0), len(weights) // 2
        new = weights[middle] * old
        for shift in range(1, min(middle, len(old) - 1) + 1):
            new[shift:].add_(old[:-shift], alpha=weights[middle + shift])
            new[:-shift].add_(old[shift:], alpha=weights[middle - shift])
        out = new.movedim(0, axis)
    return out


def averaged(image: Tensor, inside: Tensor, kernel: Kernel) -> Tensor:
    """(I, J, K) an image filtered from its voxels inside alone; what lies beyond them or the ends is not taken for 0.

    ``Σ K x / Σ K``, both sums over the voxels inside (Knutsson & Westin 1993); 0 where none is near.

    Args:
        image: (I, J, K) x.
        inside: (I, J, K) true where it counts.
        kernel: K, of weights above 0.
    """
    near = blurred(inside.to(image.dtype), kernel)
    return blurred(torch.where(inside, image, 0), kernel) / near.clamp_min(1e-12)


def matched(deviates: Tensor, inside: Tensor, kernel: Kernel) -> Tensor:
    """(I, J, K) the filtered deviates, standard normal again for white noise; 0 outside.

    ``Σ K z / sqrt(Σ K²)``, both sums over the voxels inside: the best test for an addition of the shape of K.

    Args:
        deviates: (I, J, K) of every voxel.
        inside: (I, J, K) true where they are heeded.
        kernel: K.
    """
    power: Kernel = tuple(tuple(w * w for w in weights) for weights in kernel)
    total = blurred(torch.where(inside, deviates, 0), kernel)
    size = blurred(inside.to(deviates.dtype), power)
    return torch.where(inside, total * size.clamp_min(1e-12).rsqrt(), 0)
