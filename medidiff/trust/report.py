"""The hallucination report of an answer: `examined`.

An answer is held against the scan that it was made from, through the operator by which the scanner saw it. All that
the scan can tell is whether it supports the answer: what it has no say in (detail finer than its voxels) is the
prior's, and no residual shows it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from medidiff.trust.blobs import MOST, Blob, Layer, Peak, apart, peaks
from medidiff.trust.residual import (
    averaged,
    blurred,
    darkened,
    gaussian_kernel,
    heat_kernel,
    matched,
    rician_information,
    rician_mean,
    standardised,
)
from medidiff.trust.rings import Rings, scanned
from medidiff.trust.significance import Lattice, chance_of_peak, chance_of_spread, discoveries, height_of, spread
from medidiff.volume import Geometry

__all__ = ["DIAMETERS_MM", "Examined", "Scale", "examined", "tissue"]

DIAMETERS_MM = (0.0, 3.0, 6.0, 12.0)
"""Of the blobs that are looked for; 0 is a voxel."""

_CHANCE = 0.01  # that noise alone raises a flag, in a whole scan
_WIDE, _SLIGHT = 1.5, 0.1  # times as wide as noise, and of its level: what differs by less over all tissue is let be
_FEWEST = 1000  # voxels; fewer say nothing reliable
_DARK = 0.1  # of the brightest tissue: what is darker is air
_DETAIL = 1.0  # voxels; the standard deviation of the blur whose Laplacian is the detail
_SHOWN = 3  # places that are put in words
_MARGIN = 3  # voxels to where nothing is heeded; nearer ones say nothing of a blur
_UNCERTAIN = 0.03  # standard error of the share of the Laplacian that is missing; more says nothing
_BLURRIEST = 3.0  # voxels; the most that is told
_ROUNDS, _CLOSE = 8, 1e-3  # of Newton's method at most, and the last step in voxels², 0.001 of a blur of half a voxel
_REACH = 1.6448536269514722  # standard deviations to either side that hold nine tenths of a normal law
_POOLED = 2.0  # voxels; the standard deviation of the Gaussian over which the variance of draws is averaged
_LEAST = 0.01  # of the variance of the noise; a residual is told no less


@dataclass(frozen=True, slots=True)
class Scale:
    """The residual at one size.

    Args:
        diameter_mm: of the blobs that are looked for; 0 is a voxel.
        spread: of the deviates where the answer is as the noise law says; 1 is white noise of the level told, less is
            noise that the answer has kept or an answer drawn to its scan.
        wide: whether it is more than half again as much as noise has, and more than a tenth of its level makes that is
            added to all of the tissue.
        peak: the deviate furthest from 0, in standard deviations of what noise does.
        p: probability that noise goes so far anywhere in the scan; where the residual is wide, that it is as wide.
        discovered: share of the tissue that the scan contradicts at a false discovery rate of 5 %.
    """

    diameter_mm: float
    spread: float
    wide: bool
    peak: float
    p: float
    discovered: float


@dataclass(frozen=True, slots=True)
class Examined:
    """What a scan says of its answer.

    Args:
        voxels: of tissue that were looked at.
        level: standard deviation of the noise, in the scan's units.
        scales: the residual at every size.
        p: probability that noise alone goes as far from 0 at any size, or is as wide.
        everywhere: whether the residual is wide at any size. Then single places can hardly be told: either the noise is
            stronger or smoother than told, or the answer is wrong over the tissue as a whole.
        flags: the places where both part, furthest first, at most 20.
        more: how many further places there are.
        blur_voxels: standard deviation of the Gaussian by which the answer is blurrier than its scan, at most 3;
            negative where it is sharper; None where the answer shows no detail.
        outside: share of the tissue whose scan lies outside the interval about the answer that nine tenths of it should
            lie in, were the answer the mean of a posterior as wide as told; None without a standard deviation.
        rings: agreement by spatial frequency; None where the scan has no room for a window.
    """

    voxels: int
    level: float
    scales: tuple[Scale, ...]
    p: float
    everywhere: bool
    flags: tuple[Blob, ...]
    more: int
    blur_voxels: float | None
    outside: float | None
    rings: Rings | None

    def scaled(self, gain: float) -> Examined:
        """The same report in units of which the scan has `gain` for each one."""
        flags = tuple(dataclasses.replace(flag, amount=gain * flag.amount) for flag in self.flags)
        return dataclasses.replace(self, level=gain * self.level, flags=flags)

    def record(self) -> dict[str, Any]:
        """The report as JSON values; flags in the order of their deviates, numbers to four digits."""
        told: dict[str, Any] = _short(dataclasses.asdict(self))
        return told

    @property
    def sentences(self) -> tuple[str, ...]:
        """What a reader must know, in words."""
        told = [self._everywhere] if self.everywhere else []
        for flag in self.flags[:_SHOWN]:
            what = f"something {'bright' if flag.bright else 'dark'} was {flag.kind}"
            told.append(
                f"the answer is {'darker' if flag.z > 0 else 'brighter'} than its scan supports, as if {what}, "
                f"{flag.diameter_mm:.0f} mm across at ({', '.join(f'{c:.0f}' for c in flag.centre_mm)}) mm: "
                f"{abs(flag.z):.1f} standard deviations of the noise"
            )
        left = len(self.flags[_SHOWN:]) + self.more
        if left:
            told.append(f"{left} further such places")
        return (*told,) if told else (self._nowhere,)

    @property
    def _everywhere(self) -> str:
        widest = max(self.scales, key=lambda scale: scale.spread)
        size = f"over {widest.diameter_mm:g} mm" if widest.diameter_mm else "from voxel to voxel"
        return (
            f"over the tissue as a whole scan and answer differ {widest.spread:.1f} times as much as noise of the "
            f"level told explains ({size}; p = {self.p:.2g}): it is stronger or smoother than told, or the answer is "
            "wrong everywhere"
        )

    @property
    def _nowhere(self) -> str:
        furthest = max(abs(scale.peak) for scale in self.scales)
        return (
            f"the scan contradicts the answer nowhere: largest residual {furthest:.1f} standard deviations of the "
            f"noise over {self.voxels} voxels (p = {self.p:.2g})"
        )


def tissue(
    scan: Tensor, seen: Tensor, *, measured: NDArray[np.bool_] | None = None, air: float | None = None
) -> Tensor:
    """Where a residual may be heeded: (I, J, K) bright enough, measured, and no padding or masked background.

    Args:
        scan: (I, J, K) what was measured.
        seen: (I, J, K) what the scanner would see of the answer.
        measured: (I, J, K) true where the scanner measured; None for everywhere.
        air: what is no brighter is air; None for a tenth of the brightest tissue.
    """
    smooth = blurred(seen, gaussian_kernel((1.5, 1.5, 1.5)))
    darkest = _DARK * _quantile(smooth, 0.99) if air is None else air
    inside = (smooth > darkest) & ~_constant(scan, darkest)
    if measured is not None:
        inside &= torch.from_numpy(np.ascontiguousarray(measured)).to(inside.device)
    return inside


def _short(value: Any) -> Any:
    """The same values with four digits: more say nothing, and the last ones differ between machines."""
    if isinstance(value, dict):
        return {key: _short(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_short(each) for each in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def _quantile(image: Tensor, share: float) -> float:
    values = image.flatten()[:: max(1, image.numel() // 200_000)]
    return float(values.kthvalue(max(1, round(share * values.numel()))).values)


def _constant(scan: Tensor, darkest: float) -> Tensor:
    """Two voxels around dark patches of one value: padding, or a background that was masked out."""
    image = scan.float()[None, None]
    low, high = -image, image
    for axis, n in enumerate(scan.shape):
        size = [3 if a == axis and n > 2 else 1 for a in range(3)]
        low, high = (F.max_pool3d(each, size, stride=1, padding=[s // 2 for s in size]) for each in (low, high))
    patch = ((high + low == 0) & ((image <= darkest) | (image == image.min()))).float()
    for axis, n in enumerate(scan.shape):
        size = [7 if a == axis and n > 2 else 1 for a in range(3)]
        patch = F.max_pool3d(patch, size, stride=1, padding=[s // 2 for s in size])
    return patch[0, 0] > 0


def examined(
    scan: Tensor,
    seen: Tensor,
    *,
    level: float | Tensor,
    rician: bool,
    geometry: Geometry,
    inside: Tensor,
    deviation: Tensor | None = None,
) -> tuple[Examined, Tensor] | None:
    """Hold an answer against its scan; both in any one unit.

    Where the noise is stronger or smoother than the level says, or the answer wrong over most of the tissue, the
    residual is wider than a normal law's at some size, and every deviate of that size is divided by its spread there:
    such a scan raises fewer flags, not more, and `Examined.everywhere` says so.

    Args:
        scan: (I, J, K) what was measured.
        seen: (I, J, K) what the scanner would see of the answer without noise.
        level: standard deviation of the noise, of either channel for magnitudes; a number or (I, J, K), above 0.
        rician: whether the scan is a magnitude.
        geometry: of the scan.
        inside: (I, J, K) where the residual is heeded, as from `tissue`.
        deviation: (I, J, K) standard deviation of the posterior of what the scanner sees.

    Returns:
        The report, and (I, J, K) the deviate furthest from 0 at any size; None where there are fewer than 1000 voxels,
        or no noise to compare with.
    """
    lattice = Lattice.of(inside)
    typical = float(level.mean() if isinstance(level, Tensor) else level)
    if lattice.points < _FEWEST or not typical > 0:
        return None
    dark = rician and darkened(scan, seen, level, inside=inside)
    deviates = standardised(scan, seen, level, rician=rician, darkened=dark)
    expected = rician_mean(seen, level) if rician else seen
    information = rician_information(seen, level).sqrt() if rician else 1.0
    residual = scan - expected
    white = max(1.0, spread(deviates[inside]))
    scales: list[Scale] = []
    found: list[Peak] = []
    strongest = torch.zeros_like(deviates)
    for diameter in DIAMETERS_MM:
        scale, layer = _at(diameter, deviates, inside, lattice, white=white, spacing=geometry.spacing_mm)
        scales.append(scale)
        found += peaks(layer, scan=scan, seen=expected, residual=residual, geometry=geometry)
        strongest = torch.where(layer.deviates.abs() > strongest.abs(), layer.deviates, strongest)
    places = apart(found, geometry.spacing_mm)
    flags = [peak.blob for peak in places if peak.blob is not None][:MOST]
    report = Examined(
        voxels=lattice.points,
        level=typical,
        scales=tuple(scales),
        p=min(1.0, len(scales) * min(scale.p for scale in scales)),
        everywhere=any(scale.wide for scale in scales),
        flags=tuple(flags),
        more=len(places) - len(flags),
        blur_voxels=_blur(scan, expected, inside, typical),
        outside=None if deviation is None else _outside(deviates, deviation / level * information, inside),
        rings=scanned(scan, expected, typical, inside=inside, geometry=geometry),
    )
    return report, strongest


def _at(
    diameter: float, deviates: Tensor, inside: Tensor, lattice: Lattice, *, white: float, spacing: Sequence[float]
) -> tuple[Scale, Layer]:
    """The residual at one size, standard normal for the noise that is there."""
    i, j, k = (diameter / 4 / s for s in spacing)  # the second moment of a ball of that diameter, and a little more
    kernel = gaussian_kernel((i, j, k))
    filtered = matched(deviates, inside, kernel)
    values = filtered[inside]
    width = spread(values)
    filtered = filtered / max(white, width)
    furthest = float(values[values.abs().argmax()]) / max(white, width)

    def chance(height: float) -> float:
        return chance_of_peak(height, lattice, kernel)

    gain = math.prod(sum(w * w for w in weights) for weights in kernel) ** -0.5  # of what is everywhere the same
    wide = width > math.hypot(_WIDE, _SLIGHT * gain)
    least = min(chance(abs(furthest)), chance_of_spread(width, lattice, kernel) if wide else 1.0)
    scale = Scale(
        diameter_mm=diameter,
        spread=round(width, 3),
        wide=wide,
        peak=round(furthest, 2),
        p=float(f"{least:.3g}"),
        discovered=float(f"{discoveries(values / max(white, width)):.3g}"),
    )
    beyond = height_of(_CHANCE / len(DIAMETERS_MM), chance)
    return scale, Layer(
        diameter, (i, j, k), filtered, beyond, lambda height: min(1.0, len(DIAMETERS_MM) * chance(height))
    )


def _blur(scan: Tensor, seen: Tensor, inside: Tensor, level: float) -> float | None:
    """How much blurrier the answer is than its scan: the s at which the scan, blurred by s, has as much detail as it.

    Both are held against one template, the Laplacian D of the smoothed answer. ``<G(s) scan - seen, D>`` falls with s
    and is convex in s², so Newton's method from 0 meets its root from below; ``d G(s) / d s²`` is half the Laplacian.
    Of an answer that is sharper, both change places. Only tissue is read, and D only well inside of it.
    """
    deep = _deep(inside)
    detail = _laplacian(averaged(seen, inside, heat_kernel(_DETAIL)))[deep].double()

    def along(image: Tensor) -> float:
        return float(image[deep].double() @ detail)

    power = along(_laplacian(seen))
    if not power > 0 or level * float(detail.norm()) > _UNCERTAIN * power:
        return None
    blurrier = along(scan - seen) >= 0
    sharp, soft = (scan, seen) if blurrier else (seen, scan)
    square = 0.0
    for _ in range(_ROUNDS):
        now = averaged(sharp, inside, heat_kernel(math.sqrt(square)))
        slope = along(_laplacian(now)) / 2
        step = along(now - soft) / slope if slope > 0 else math.inf
        square = min(max(square + step, 0.0), _BLURRIEST**2)
        if abs(step) < _CLOSE or square == _BLURRIEST**2:
            break
    return round(math.sqrt(square) if blurrier else -math.sqrt(square), 3)


def _laplacian(image: Tensor) -> Tensor:
    """The Laplacian with its sign turned; nothing along an axis at its ends."""
    out = torch.zeros_like(image)
    for axis in range(3):
        along, there = image.movedim(axis, 0), out.movedim(axis, 0)
        if len(along) > 2:
            there[1:-1] += 2 * along[1:-1] - along[:-2] - along[2:]
    return out


def _deep(inside: Tensor) -> Tensor:
    """Voxels inside with none that is not within the margin; beyond the ends nothing is missing."""
    size = 2 * _MARGIN + 1
    hole = (~inside).float()[None, None]
    for axis in range(3):
        along = [size if a == axis else 1 for a in range(3)]
        hole = F.max_pool3d(hole, along, stride=1, padding=[n // 2 for n in along])
    return hole[0, 0] == 0


def _outside(deviates: Tensor, told: Tensor, inside: Tensor) -> float:
    """Share of the tissue whose scan is further from the answer than nine tenths of it should be.

    The answer m was made from this very scan y and has kept some of its noise, so y is nearer to m than a new scan
    would be. With Tweedie's formula ``m = y + σ² ∇log p(y)`` and ``Var(x | y) = σ² + σ⁴ ∇²log p(y)``, and because
    ``E[(∇log p)²] = -E[∇²log p]``, ``E[(y - m)²] = σ² - E[Var(x | y)]`` for any law of x; a new scan would have the
    sum. Variances are averaged over neighbours, since a few draws say little of one voxel; of a mixture of normal laws
    about a tenth still lies beyond 1.645 of its standard deviations, where the share hardly depends on the tails.

    Args:
        deviates: (I, J, K) the residual, standard normal were the answer the truth.
        told: (I, J, K) standard deviation of the posterior, in those of what the noise leaves open.
        inside: (I, J, K) the tissue.
    """
    variance = 1 - averaged(told.square(), inside, gaussian_kernel((_POOLED,) * 3))
    beyond = deviates.abs() > _REACH * variance.clamp_min(_LEAST).sqrt()
    return round(float(beyond[inside].float().mean()), 4)
