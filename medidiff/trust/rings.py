"""Up to which frequency an answer and its scan agree, window by window: scanning Fourier shell correlation.

In every window of a scan the correlation of the scan with what it should see of the answer is read in shells of spatial
frequency (Harauz & van Heel 1986; Koho et al. 2019, Nature Communications 10:3103, for one image and its noise). Where
the answer is the truth, a shell with the powers P of the answer and N of the noise has a correlation of
sqrt(P / (P + N)). An answer with power that it does not share with the scan has less: *support* is the correlation
found over that one, at most 1.

It is capped because an answer is made from its scan, and more is no merit. Truth, posterior draw and posterior mean m
of a scan y all share the power ``E<y, m> = E<y, E[x | y]> = E<y, x>`` of the truth with it, and a mean has less power
than the truth by the variance V of the posterior. Its correlation is thus at least sqrt(1 + V / P) times
sqrt(P / (P + N)). The three powers at hand do not tell a mean to which detail of the power V was added from a draw,
which is right: support falls below 1 where more than that was added.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from medidiff.volume import Geometry

__all__ = ["Rings", "scanned"]

_SIDE_MM = 24.0
_FEWEST, _MOST = 6, 48  # voxels along a side of a window
_SHELLS = 6
_BATCH = 64  # windows at once
_TISSUE = 0.6  # of a window that must be heeded
_RESOLVED = 0.5  # correlation down to which a shell counts as resolved
_MOST_WINDOWS = 1500
_TINY = 1e-30


@dataclass(frozen=True, slots=True)
class Rings:
    """What the windows show.

    Args:
        windows: how many were read.
        edges: (M + 1,) ends of the shells, in cycles per mm.
        correlation: (M,) median over windows; noise that the answer kept counts in it.
        support: (M,) median over windows of the correlation over the least that a right answer has, at most 1.
        least: the lowest support of a window, averaged over its shells by their power.
        least_at_mm: (3,) middle of that window in the patient, RAS+.
        resolution_mm: median of the finest detail up to which the correlation stays above one half: how far the answer
            follows its scan.
    """

    windows: int
    edges: tuple[float, ...]
    correlation: tuple[float, ...]
    support: tuple[float, ...]
    least: float
    least_at_mm: tuple[float, float, float]
    resolution_mm: float


def scanned(scan: Tensor, seen: Tensor, level: float, *, inside: Tensor, geometry: Geometry) -> Rings | None:
    """Read the correlation in windows of 24 mm that overlap by half.

    Args:
        scan: (I, J, K) what was measured.
        seen: (I, J, K) what the noise makes of the answer on average.
        level: standard deviation of the noise.
        inside: (I, J, K) true in tissue.
        geometry: of the scan.

    Returns:
        None where the scan has no room for a window.
    """
    spacing = geometry.spacing_mm
    sides = [min(_MOST, round(_SIDE_MM / s), n) for s, n in zip(spacing, scan.shape, strict=True)]
    corners = _corners(inside, sides) if min(sides) >= _FEWEST else []
    if not corners:
        return None
    shells, edges = _shells(sides, spacing)
    shells, taper = shells.to(scan), _taper(sides).to(scan)
    found = []
    for start in range(0, len(corners), _BATCH):
        here, there = (_windows(image, corners[start : start + _BATCH], taper) for image in (scan, seen))
        found.append(_powers(here, there, shells))
    cross, here, there = (torch.cat(parts) for parts in zip(*found, strict=True))
    noise = level**2 * taper.square().sum() * shells.sum(1)
    right = there / (there + noise).clamp_min(_TINY)  # the share of a shell's power that is not noise
    correlation = cross / (here * there).clamp_min(_TINY).sqrt()
    support = (correlation / right.clamp_min(_TINY).sqrt()).clamp(-1, 1)
    overall = (support * right).sum(1) / right.sum(1).clamp_min(_TINY)
    worst = int(overall.argmin())
    middle = geometry.world([c + (n - 1) / 2 for c, n in zip(corners[worst], sides, strict=True)])
    x, y, z = (round(float(c), 1) for c in middle)
    return Rings(
        windows=len(corners),
        edges=tuple(round(e, 4) for e in edges),
        correlation=_medians(correlation),
        support=_medians(support),
        least=round(float(overall[worst]), 3),
        least_at_mm=(x, y, z),
        resolution_mm=round(_resolution(correlation, edges), 2),
    )


def _corners(inside: Tensor, sides: Sequence[int]) -> list[tuple[int, ...]]:
    """Where windows begin that are mostly tissue: every half side, further apart where there would be too many."""
    mask = inside.cpu().numpy()
    for apart in (0.5, 1.0, 2.0):
        steps = [max(1, int(apart * side)) for side in sides]
        starts = [range(0, n - side + 1, step) for n, side, step in zip(mask.shape, sides, steps, strict=True)]
        found = [
            corner
            for corner in itertools.product(*starts)
            if mask[tuple(slice(c, c + n) for c, n in zip(corner, sides, strict=True))].mean() >= _TISSUE
        ]
        if len(found) <= _MOST_WINDOWS:
            break
    return found[:_MOST_WINDOWS]


def _taper(sides: Sequence[int]) -> Tensor:
    """(I, J, K) a Hann window, so that the ends of a window make no edge."""
    one, two, three = (torch.hann_window(n + 2, periodic=False)[1:-1] for n in sides)
    return one[:, None, None] * two[:, None] * three


def _windows(image: Tensor, corners: Sequence[tuple[int, ...]], taper: Tensor) -> Tensor:
    """(N, I, J, K/2 + 1) spectra of the windows less their mean."""
    boxes = [tuple(slice(c, c + n) for c, n in zip(corner, taper.shape, strict=True)) for corner in corners]
    parts = torch.stack([image[box] for box in boxes])
    parts = parts - (parts * taper).sum((1, 2, 3), keepdim=True) / taper.sum()
    spectra: Tensor = torch.fft.rfftn(parts * taper, dim=(1, 2, 3))
    return spectra


def _shells(sides: Sequence[int], spacing_mm: Sequence[float]) -> tuple[Tensor, tuple[float, ...]]:
    """(M, F) how often each frequency of a real spectrum counts in each shell, and the ends of the shells."""
    along = [np.fft.fftfreq(n, s) for n, s in zip(sides[:2], spacing_mm[:2], strict=True)]
    last = np.fft.rfftfreq(sides[2], spacing_mm[2])
    frequency = np.sqrt(along[0][:, None, None] ** 2 + along[1][:, None] ** 2 + last**2)
    low, high = 1.5 / (max(n * s for n, s in zip(sides, spacing_mm, strict=True))), 0.5 / min(spacing_mm)
    edges = np.linspace(low, high, _SHELLS + 1)
    twice = np.full(frequency.shape, 2.0)  # of a real image only half the spectrum is kept
    twice[..., 0] = 1
    if sides[2] % 2 == 0:
        twice[..., -1] = 1
    rows = [
        np.where((frequency >= start) & (frequency < end), twice, 0).ravel() for start, end in itertools.pairwise(edges)
    ]
    return torch.from_numpy(np.stack(rows)).float(), tuple(float(e) for e in edges)


def _powers(one: Tensor, other: Tensor, shells: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(N, M) cross power and both powers of every window in every shell."""
    products = ((one * other.conj()).real, one.abs().square(), other.abs().square())
    cross, here, there = (product.flatten(1) @ shells.T for product in products)
    return cross, here, there


def _medians(values: Tensor) -> tuple[float, ...]:
    return tuple(round(float(v), 3) for v in values.median(0).values)


def _resolution(correlation: Tensor, edges: Sequence[float]) -> float:
    """Median over windows of the finest detail, in mm, before the correlation first falls below one half."""
    resolved = (correlation >= _RESOLVED).long().cumprod(1).sum(1)
    return float((1 / torch.tensor(edges, device=correlation.device)[resolved]).median())
