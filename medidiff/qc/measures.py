"""What is measured of a restored scan without a reference: `Pair` and `Measures`.

A reference is hardly ever at hand, so a result is held against the scan that it was made from. What was changed should
be noise: as large as the noise, without structure and without a mean. What is left should agree with the scan, keep its
brightness along the slices and stay within its range.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from medidiff.anatomy import tissue_maximum
from medidiff.errors import InputError
from medidiff.metrics.spectrum import radial_power
from medidiff.physics import Separable
from medidiff.physics.profile import slice_axis
from medidiff.prepare import readable, without_padding
from medidiff.prepare.level import estimate_level
from medidiff.views import Field, Upright
from medidiff.volume import Geometry, Volume

__all__ = ["SAME_GRID_MM", "Measures", "Pair", "Spectrum", "measure"]

SAME_GRID_MM = 1e-3
_TAPER_VOXELS = 7  # side of the box that softens the edge of the tissue before a spectrum is read
_SHELLS = 32
_AROUND_VOXELS = 8  # of air that is kept round the tissue when noise is estimated
_FEWEST = 50  # voxels of tissue in a slice whose mean is read
_SMALLEST = 0.1  # of the largest slice's tissue; the caps of a head are half air

_Image = NDArray[np.float32]
NoiseKind = Literal["rician", "gaussian"]


@dataclass(frozen=True, slots=True, eq=False)
class Pair:
    """A scan before and after, on the grid of the answer.

    Args:
        before: the scan as it was measured.
        after: the answer.
        shown: (I, J, K) the scan on the grid of the answer; interpolated where that is another one.
        answer: (I, J, K) the answer.
        field: which tissue is looked at.
        inside: (I, J, K), true where tissue was measured: neither padding nor filled.
    """

    before: Volume
    after: Volume
    shown: _Image
    answer: _Image
    field: Field
    inside: NDArray[np.bool_]

    @classmethod
    def of(cls, before: Volume, after: Volume) -> Pair:
        """Both on one grid.

        Raises:
            InputError: ``E-4D``, several channels; ``E-NONFINITE``; ``E-GRID``, grids that are turned or apart.
        """
        for volume in (before, after):
            if volume.data.shape[0] != 1:
                found = f"{volume.data.shape[0]} channels"
                raise InputError("E-4D", found, wanted="one", mend="Give a file of one number a voxel.")
            if not np.isfinite(volume.data).all():
                raise InputError("E-NONFINITE", "voxels that are not finite", mend="Mask or mend them first.")
        shown = _on_grid(before, after.geometry)
        answer = without_padding(after)[0].astype(np.float32)
        field = Field.around(answer, after.geometry)
        inside = field.mask & _read(after)
        return cls(before, after, shown, answer, field, inside if inside.any() else field.mask)

    @property
    def interpolated(self) -> bool:
        """Whether the scan had to be brought to the grid of the answer."""
        return self.before.geometry.distance_mm(self.after.geometry) > SAME_GRID_MM

    @property
    def change(self) -> _Image:
        """(I, J, K) what was done: the answer less the scan."""
        return self.answer - self.shown

    @property
    def stored_box(self) -> tuple[slice, slice, slice]:
        """The box of the tissue in stored voxels of the grid of the answer."""
        reach = [np.flatnonzero(self.field.mask.any(axis=tuple(a for a in range(3) if a != axis))) for axis in range(3)]
        i, j, k = (
            slice(max(0, int(r[0]) - _AROUND_VOXELS), min(n, int(r[-1]) + 1 + _AROUND_VOXELS))
            for r, n in zip(reach, self.after.shape, strict=True)
        )
        return i, j, k

    @property
    def geometry(self) -> Geometry:
        """The grid of the answer."""
        return self.after.geometry


def _on_grid(before: Volume, grid: Geometry) -> _Image:
    image: _Image = without_padding(before)[0].astype(np.float32)
    if before.geometry.distance_mm(grid) <= SAME_GRID_MM:
        return image
    low, high = (before.geometry.world(np.array(end)) for end in ((-0.5,) * 3, np.array(before.shape) - 0.5))
    middle = grid.index((low + high) / 2)
    if (middle < -0.5).any() or (middle > np.array(grid.shape) - 0.5).any():
        found, mend = "two scans that lie apart", "Give a result and the scan that it was made from."
        raise InputError("E-GRID", found, wanted="grids that cover the same box", mend=mend)
    from medidiff.metrics.peers import cubic_spline

    return cubic_spline(image, np.linalg.inv(before.geometry.affine) @ grid.affine, shape=grid.shape)


@dataclass(frozen=True, slots=True)
class Spectrum:
    """Power in shells of spatial frequency, of the tissue alone.

    Args:
        frequency: (N,) middle of each shell, in cycles per mm.
        power: (N,) density in squared intensity times mm³.
    """

    frequency: tuple[float, ...]
    power: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Measures:
    """What was measured; all in stored units, inside the tissue, and None where it cannot be read.

    Args:
        tissue: brightness called 100 %.
        voxels: of the tissue.
        noise_before: estimated level of the scan.
        noise_after: estimated level of the answer.
        mean: of the change.
        deviation: standard deviation of the change.
        correlation: of the change with itself, one voxel on, along I, J and K.
        residual: root mean square of the scan less what its operator sees of the answer.
        slices_before: mean of the tissue in each slice of the scan; None where a slice has too little of it.
        slices_after: the same of the answer, as the scanner would see it.
        axis: voxel axis across the slices.
        range_before: lowest and highest value of the tissue; of the whole scan where the answer has another grid.
        range_after: of the answer's tissue.
        outside: share of the answer's tissue that lies more than three noise levels beyond the scan's range.
        spectrum_before: of the scan, on its own grid's frequencies.
        spectrum_after: of the answer.
        voxel_mm3: volume of a voxel of the scan.
        spread: mean standard deviation of the draws.
    """

    tissue: float
    voxels: int
    noise_before: float | None
    noise_after: float | None
    mean: float
    deviation: float
    correlation: tuple[float, float, float]
    residual: float
    slices_before: tuple[float | None, ...]
    slices_after: tuple[float | None, ...]
    axis: int
    range_before: tuple[float, float]
    range_after: tuple[float, float]
    outside: float
    spectrum_before: Spectrum
    spectrum_after: Spectrum
    voxel_mm3: float
    spread: float | None


def measure(
    pair: Pair, *, kind: NoiseKind = "rician", operator: Separable | None = None, spread: _Image | None = None
) -> Measures:
    """Measure a scan against its answer.

    Args:
        pair: both.
        kind: law of the scan's noise; what is left in an answer is taken to be Gaussian.
        operator: by which the scan sees the grid of the answer; the identity when None.
        spread: (I, J, K) standard deviation of the draws.
    """
    inside, change = pair.inside, pair.change
    there, moved = pair.answer[inside], change[inside].astype(np.float64)
    near = pair.stored_box
    level = _level(pair.before if pair.interpolated else _part(pair.before, near), kind)
    own = _own(pair)
    lowest, highest = float(own.min()), float(own.max())
    margin = 3 * (level or 0.0)
    beyond = (there < lowest - margin) | (there > highest + margin)
    axis, window, seen = slice_axis(pair.before), _window(pair), _seen(pair, operator)
    slices_before, slices_after = _along_slices(pair, seen, axis)
    return Measures(
        tissue=_tissue(pair.shown, inside),
        voxels=int(inside.sum()),
        noise_before=level,
        noise_after=_level(_part(pair.after, near), "gaussian"),
        mean=float(moved.mean()),
        deviation=float(moved.std()),
        correlation=_correlation(change, inside),
        residual=_residual(pair, seen),
        slices_before=slices_before,
        slices_after=slices_after,
        axis=axis,
        range_before=(lowest, highest),
        range_after=(float(there.min()), float(there.max())),
        outside=float(beyond.mean()),
        spectrum_before=_spectrum(pair.shown, pair, window),
        spectrum_after=_spectrum(pair.answer, pair, window),
        voxel_mm3=float(np.prod(pair.before.geometry.spacing_mm)),
        spread=None if spread is None else float(spread[inside].mean(dtype=np.float64)),
    )


def _part(volume: Volume, box: tuple[slice, slice, slice]) -> Volume:
    """The voxels of a box: what lies far from the tissue only costs time."""
    affine = volume.geometry.affine.copy()
    affine[:3, 3] = volume.geometry.world([side.start for side in box])
    data = volume.data[(slice(None), *box)]
    padding, filled = (None if mask is None else mask[box] for mask in (volume.padding, volume.filled))
    grid = Geometry((data.shape[1], data.shape[2], data.shape[3]), affine)
    return dataclasses.replace(volume, data=data, geometry=grid, padding=padding, filled=filled)


def _read(volume: Volume) -> NDArray[np.bool_]:
    """(I, J, K), true where a scan or an answer is read."""
    found = readable(volume)
    return np.ones(volume.shape, dtype=bool) if found is None else found


def _own(pair: Pair) -> NDArray[Any]:
    """Values as the scan has them, never those that a spline makes between them, which overshoot."""
    if not pair.interpolated:
        return pair.shown[pair.inside]
    values: NDArray[Any] = without_padding(pair.before)[0][_read(pair.before)]
    return values


def _tissue(image: _Image, inside: NDArray[np.bool_]) -> float:
    try:
        return tissue_maximum(image, inside)
    except InputError:  # nothing above 0
        return float(np.ptp(image[inside])) or 1.0


def _level(volume: Volume, kind: NoiseKind) -> float | None:
    """The estimated level; None for a CT without enough soft tissue to read it in."""
    try:
        return estimate_level(volume, without_padding(volume)[0].astype(np.float32), kind=kind)
    except InputError as error:
        if error.code != "E-NOISELEVEL":
            raise
        return None


def _correlation(change: _Image, inside: NDArray[np.bool_]) -> tuple[float, float, float]:
    """Pearson's correlation of neighbours along each axis, both of them tissue; 0 where nothing varies."""
    found = []
    for axis in range(3):
        moved, mask = np.moveaxis(change, axis, 0), np.moveaxis(inside, axis, 0)
        both = mask[1:] & mask[:-1]
        one, next_ = (part[both].astype(np.float64) for part in (moved[:-1], moved[1:]))
        varies = one.size > 1 and one.std() > 0 and next_.std() > 0
        found.append(float(np.corrcoef(one, next_)[0, 1]) if varies else 0.0)
    return found[0], found[1], found[2]


class _Seen(NamedTuple):
    """What the scanner would see of an answer on another grid, and where that is mostly tissue; both (i, j, k)."""

    image: _Image
    inside: NDArray[np.bool_]


def _seen(pair: Pair, operator: Separable | None) -> _Seen | None:
    """None where the scan has the grid of its answer."""
    if operator is None or operator.is_identity:
        return None
    image, inside = (
        operator(torch.from_numpy(part)[None, None])[0, 0].numpy()
        for part in (pair.answer, pair.inside.astype(np.float32))
    )
    return _Seen(image, (inside > 0.5) & _read(pair.before))


def _residual(pair: Pair, seen: _Seen | None) -> float:
    """rms(A x - y) where the scan can be read, in tissue where the grid is the scan's own."""
    if seen is None:
        left: NDArray[Any] = pair.change[pair.inside]
    else:
        left = (seen.image - without_padding(pair.before)[0])[_read(pair.before)]
    return math.sqrt(float(np.mean(np.square(left, dtype=np.float64))))


def _along_slices(
    pair: Pair, seen: _Seen | None, axis: int
) -> tuple[tuple[float | None, ...], tuple[float | None, ...]]:
    """Means of the tissue in each slice of the scan, before and after.

    A finer answer is brought back to the scan's slices. Between them it has more anatomy than an interpolation shows,
    above all where the head ends, and that is no drift.
    """
    if seen is None:
        before, after, inside = pair.shown, pair.answer, pair.inside
    else:
        before, after, inside = without_padding(pair.before)[0], seen.image, seen.inside
    return _by_slice(before, inside, axis), _by_slice(after, inside, axis)


def _by_slice(image: _Image, inside: NDArray[np.bool_], axis: int) -> tuple[float | None, ...]:
    others = tuple(other for other in range(3) if other != axis)
    counts = inside.sum(axis=others)
    sums = np.where(inside, image, 0).sum(axis=others, dtype=np.float64)
    enough = max(_FEWEST, _SMALLEST * counts.max())
    return tuple(float(s / n) if n >= enough else None for s, n in zip(sums, counts, strict=True))


def _window(pair: Pair) -> NDArray[np.float32]:
    """The tissue's box, upright: 1 inside the tissue and softly down to 0 at its edge."""
    mask = Upright.of(pair.inside, pair.geometry).data[pair.field.box]
    inward = ndimage.uniform_filter(mask.astype(np.float32), _TAPER_VOXELS, mode="constant")
    return np.asarray(np.sin(np.float32(np.pi / 2) * np.clip(2 * inward - 1, 0, 1)) ** 2, dtype=np.float32)


def _spectrum(image: _Image, pair: Pair, window: NDArray[np.float32]) -> Spectrum:
    """Radial power of the tissue less its mean under a soft window, per unit of the window's power.

    White noise of level σ then has a density of σ² ΔV whatever the shape of the tissue.
    """
    upright = Upright.of(image, pair.geometry)
    power = float(np.mean(np.square(window, dtype=np.float64)))
    end = 0.5 / max(upright.spacing_mm)
    start = 1.0 / max(n * s for n, s in zip(window.shape, upright.spacing_mm, strict=True))
    shells = min(_SHELLS, int(0.9 * (end - start) / start))  # each wider than the longest side's frequencies lie apart
    if shells < 1 or power == 0:
        return Spectrum((), ())
    shown = upright.data[pair.field.box]
    centred = (shown - np.average(shown, weights=window)) * window
    edges = [float(edge) for edge in np.linspace(start, end, shells + 1)]
    density = radial_power(centred, spacing_mm=upright.spacing_mm, edges=edges) / power
    middles = tuple((low + high) / 2 for low, high in itertools.pairwise(edges))
    return Spectrum(middles, tuple(float(d) for d in density))
