"""Noisy scans to adapt to, and the parts of them that no training patch touches: these decide.

Some cubes of each scan are held back. Half of them are *watched*, to find out when to stop; the other half *decide*
once, at the end, whether the new weights are better than the old ones. Both weights see the same noise on the same
voxels, so their errors are compared block by block, which takes out nearly all that makes each of them uncertain.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as nnf

from medidiff.anatomy import foreground
from medidiff.diffusion.condition import observe
from medidiff.diffusion.denoiser import Denoiser
from medidiff.errors import InputError
from medidiff.physics import identity
from medidiff.physics.estimate import estimate_noise
from medidiff.prepare import fit_intensity, readable, without_padding
from medidiff.training.chance import Chance
from medidiff.training.recorrupt import Kind, Recorrupted, recorrupt
from medidiff.volume import Volume

__all__ = ["Comparison", "Judge", "NoisyScan", "noisy_scan", "posterior_mean"]

_SIDES = tuple(range(40, 7, -4))  # of held-back cubes and of training patches, in voxels; the largest that fit
_CUBES = 6
_HELD_SHARE = 0.3  # of the tissue, at most
_LEAST_TISSUE = 0.5  # share of a held-back cube
_LEAST_CENTRES = 0.1  # share of the tissue that training patches must be able to be centred on
_TRIES = 60
_LEAST_HALVED = 24  # voxels along an axis, so that half of them show the noise
_CONTEXT = 12  # voxels round a held-back cube that the network is shown
_BLOCK = 8  # side of the blocks whose errors are compared, in voxels
_STANDARD_ERRORS = 3.0  # by how many a change must be below 0 to be believed

_Array = NDArray[np.intp]


@dataclass(frozen=True, slots=True, eq=False)
class NoisyScan:
    """A scan without a clean reference, at network scale.

    Args:
        image: (I, J, K) float32, tissue maximum about 1.
        tissue: (I, J, K) booleans: where errors count.
        level: σ of its noise, in image units, as told or estimated.
        estimated: σ as the scan shows it.
        colours: how much noisier the scan is estimated to be when every other voxel is left out, along each axis. 1 for
            white noise; above where neighbours share noise, since fewer of them remain; structure adds a little.
        gain: stored units that are 1 in the image.
        patch: sides of training patches, none larger than the scan.
        starts: (N, 3) first voxels of patches that touch no held-back cube; none when the scan is too small.
        cubes: (C, 2, 3) first and past-the-last voxels of the held-back cubes.
        sha256: of the image's bytes.
    """

    image: Tensor
    tissue: Tensor
    level: float
    estimated: float
    colours: tuple[float, ...]
    gain: float
    patch: tuple[int, ...]
    starts: _Array
    cubes: _Array
    sha256: str

    @property
    def shared(self) -> float:
        """Share of the noise's variance that the neighbours of a voxel tell, as far as `colours` show it.

        Second differences of noise whose next neighbours correlate by ρ have ``1 - 4ρ/3`` of its variance, and with
        every other voxel left out all of it. What is left of the noise once all others are known is ``(1 - 4ρ²)^½`` for
        each axis (one over the mean of the inverse spectrum ``1 + 2ρ cos ω``).
        """
        left = 1.0
        for colour in self.colours:
            correlation = min(0.75 * (1 - max(colour, 1.0) ** -2), 0.49)
            left *= math.sqrt(1 - 4 * correlation**2)
        return 1 - left


@dataclass(frozen=True, slots=True)
class Comparison:
    """How the error of some weights differs from that of the first ones, on held-back voxels.

    Of the prior's own mean, before it has its scan's averages (`medidiff.agreeing`).

    Args:
        change: of the mean squared error, in units of the noise variance; below 0 is better.
        error: standard error of the change.
        allowance: what of the change noise that neighbours share could feign. A prior that learns to keep all of the
            share s that they tell seems better by s, and is worse by s: a change below -2 s cannot come of that alone.
        before: mean squared error of the first weights, same units, as far as it can be told.
    """

    change: float
    error: float
    allowance: float
    before: float

    @property
    def better(self) -> bool:
        """Whether the weights are better beyond doubt."""
        return self.change < -_STANDARD_ERRORS * self.error - self.allowance

    @property
    def gain_db(self) -> float:
        """The same as a gain of PSNR; NaN where the error before cannot be told."""
        after = self.before + self.change
        return 10 * math.log10(self.before / after) if self.before > 0 and after > 0 else math.nan


def noisy_scan(volume: Volume, *, kind: Kind, level: float | None, seed: int) -> NoisyScan:
    """Bring a scan to network scale, and hold some of it back.

    Args:
        volume: (1, I, J, K) scan.
        kind: law of its noise.
        level: σ in stored units; estimated when None.
        seed: what the choice of the held-back cubes comes from.

    Raises:
        InputError: more than one channel, no tissue, or voxels that are not finite.
    """
    if volume.data.shape[0] != 1:
        raise InputError("E-4D", f"{volume.data.shape[0]} channels", wanted="one", mend="Give them one by one.")
    scale, where = fit_intensity(volume), readable(volume)
    image = scale.apply(without_padding(volume)[0])
    tissue = foreground(image, measured=where)
    if where is not None:
        tissue &= where
    estimated, colours = _noise(image, where, kind)
    cubes = _held_back(tissue, Chance(seed, -1))  # 0 and above are the patches
    patch, starts = _patches(tissue, cubes)
    return NoisyScan(
        image=torch.from_numpy(image),
        tissue=torch.from_numpy(tissue),
        level=estimated if level is None else level / scale.gain,
        estimated=estimated,
        colours=colours,
        gain=scale.gain,
        patch=patch,
        starts=starts,
        cubes=cubes,
        sha256=hashlib.sha256(np.ascontiguousarray(image).tobytes()).hexdigest(),
    )


def _noise(image: NDArray[np.float32], where: NDArray[np.bool_] | None, kind: Kind) -> tuple[float, tuple[float, ...]]:
    """Estimated level, and by what factor it is higher with half of the voxels along each axis that is long enough."""
    whole = estimate_noise(image, kind=kind, measured=where)
    halves = [
        estimate_noise(image[half], kind=kind, measured=None if where is None else where[half])
        for axis in range(3)
        if image.shape[axis] >= _LEAST_HALVED
        for half in [tuple(slice(None, None, 2 if each == axis else 1) for each in range(3))]
    ]
    return whole, tuple(half / whole if whole > 0 else math.inf for half in halves)


def _held_back(tissue: NDArray[np.bool_], chance: Chance) -> _Array:
    """(C, 2, 3) cubes of mostly tissue that do not overlap; none where the scan is too small for two."""
    inside = np.argwhere(tissue)
    room = _HELD_SHARE * len(inside) / _CUBES
    sizes = [np.minimum(side, tissue.shape) for side in _SIDES]
    fitting = [size for size in sizes if math.prod(size.tolist()) <= room]
    if not fitting:
        return np.zeros((0, 2, 3), np.intp)
    size, found = fitting[0], list[_Array]()
    for _ in range(_TRIES):
        start = np.clip(inside[chance.below(len(inside))] - size // 2, 0, np.array(tissue.shape) - size)
        box = np.stack([start, start + size])
        share = tissue[tuple(slice(a, b) for a, b in box.T)].mean()
        if share >= _LEAST_TISSUE and not any(bool(_overlap(start[None], size, other)[0]) for other in found):
            found.append(box)
        if len(found) == _CUBES:
            break
    return np.stack(found) if len(found) > 1 else np.zeros((0, 2, 3), np.intp)


def _overlap(starts: _Array, size: _Array, box: _Array) -> NDArray[np.bool_]:
    """(N,) which boxes of one size share a voxel with another box."""
    return np.asarray(((starts < box[1]) & (starts + size > box[0])).all(axis=1))


def _patches(tissue: NDArray[np.bool_], cubes: _Array) -> tuple[tuple[int, ...], _Array]:
    """Sides of the patches and the places where they may start; the largest for which there is enough room."""
    inside = np.argwhere(tissue)
    for side in _SIDES if len(cubes) else ():
        size = np.minimum(side, tissue.shape)
        starts = np.clip(inside - size // 2, 0, np.array(tissue.shape) - size)
        free = ~np.logical_or.reduce([_overlap(starts, size, box) for box in cubes])
        if free.mean() >= _LEAST_CENTRES:
            return tuple(size.tolist()), starts[free]
    return (), np.zeros((0, 3), np.intp)


def posterior_mean(denoiser: Denoiser, noisy: Recorrupted) -> Tensor:
    """What a denoiser makes of the noisier scan, in one evaluation."""
    z = noisy.noisier
    return denoiser(torch.zeros_like(z), torch.tensor(torch.inf, device=z.device), observe(z, identity(), noisy.told))


@dataclass(frozen=True, slots=True, eq=False)
class _Exhibit:
    """A held-back cube with its surround, made noisier once."""

    noisy: Recorrupted
    core: tuple[slice, ...]
    tissue: Tensor

    def errors(self, denoiser: Denoiser) -> Tensor:
        """(2, blocks) sums over the tissue of each block, in units of the noise variance.

        First the squared residuals, then what of them is the noise's own, as far as that can be told.
        """
        with torch.no_grad():
            answer = posterior_mean(denoiser, self.noisy)
            both = (self.noisy.residual(answer).square(), self.noisy.floor(answer))
        scaled = (part[0, 0][self.core].cpu() / self.noisy.level**2 * self.tissue for part in both)
        return torch.stack([_block_sums(part) for part in scaled])

    def counts(self) -> Tensor:
        """(blocks,) voxels of tissue."""
        return _block_sums(self.tissue.float())


def _block_sums(values: Tensor) -> Tensor:
    padded = nnf.pad(values, [p for n in reversed(values.shape) for p in (0, -n % _BLOCK)])
    return nnf.avg_pool3d(padded[None].double(), _BLOCK).flatten() * _BLOCK**3


class Judge:
    """Compares weights with the first ones on held-back cubes.

    Args:
        scans: what was held back of them.
        denoiser: the first weights.
        share: how much noisier the scans are made, see `recorrupt`.
        kind: law of the noise.
        part: 0 for the cubes that are watched, 1 for those that decide.
        seed: what the added noise comes from.
        device: where to compute.
    """

    def __init__(
        self,
        scans: Sequence[NoisyScan],
        denoiser: Denoiser,
        *,
        share: float,
        kind: Kind,
        part: int,
        seed: int,
        device: torch.device | str = "cpu",
    ) -> None:
        cubes = [(scan, box) for scan in scans for box in scan.cubes[part::2]]
        self._exhibits = [
            _exhibit(scan, box, share=share, kind=kind, device=device, chance=Chance(seed, -2 - 2 * number - part))
            for number, (scan, box) in enumerate(cubes)
        ]
        self._counts = torch.cat([exhibit.counts() for exhibit in self._exhibits])
        shared = sum(
            scan.shared * float(exhibit.counts().sum())
            for (scan, _), exhibit in zip(cubes, self._exhibits, strict=True)
        )
        self._allowance = 2 * shared / float(self._counts.sum())
        self._first, self._floor = self._errors(denoiser)

    def _errors(self, denoiser: Denoiser) -> Tensor:
        return torch.cat([exhibit.errors(denoiser) for exhibit in self._exhibits], dim=1)

    def compare(self, denoiser: Denoiser) -> Comparison:
        """Other weights against the first ones."""
        some = self._counts > 0
        counts, first = self._counts[some], self._first[some]
        total = counts.sum()
        difference = self._errors(denoiser)[0, some] - first
        change = difference.sum() / total
        scatter = (difference - change * counts).square().sum()
        error = (scatter * len(counts) / max(len(counts) - 1, 1)).sqrt() / total
        before = (first - self._floor[some]).sum() / total
        return Comparison(float(change), float(error), self._allowance, float(before))


def _exhibit(
    scan: NoisyScan, box: _Array, *, share: float, kind: Kind, device: torch.device | str, chance: Chance
) -> _Exhibit:
    low = np.maximum(box[0] - _CONTEXT, 0)
    high = np.minimum(box[1] + _CONTEXT, scan.image.shape)
    seen = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    core = tuple(slice(int(a), int(b)) for a, b in zip(box[0] - low, box[1] - low, strict=True))
    y = scan.image[seen][None, None].to(device)
    noisy = recorrupt(y, scan.level, share=share, kind=kind, generator=chance.generator)
    return _Exhibit(noisy, core, scan.tissue[seen][core])
