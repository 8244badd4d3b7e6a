"""Where a brain lies in a scan, and which way up: the mean brain is looked for in all 24 ways to lie along the axes.

Each way is tried at every shift at once, by the normalised cross-correlation of the mean brain and what surrounds it
with what the field of view shows of it (Padfield, IEEE Trans. Image Process. 21:2670, 2012, eq. 17 to 21), and the best
of each is refined with its tilt and size by Gauss-Newton. Neither a skull nor a tilted or cut field of view matters
much. The way that the header says is then refined on finer cubes, deep in the brain and from several sizes and heights,
since a mean brain takes the skull for its own surface at first. A mirror image is found as well as a brain, since the
mean brain is symmetrical.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from medidiff.trust.coarse import Array, Field

__all__ = ["GRID", "SIDE_MM", "Matrix", "Pose", "Template", "find_pose"]

GRID = (40, 48, 40)
SIDE_MM = 4.0
_UNIT_MM = 50.0  # of coordinates, so that angles, zooms and shifts are numbers of one size
_LEAST_SEEN = (0.65, 0.35)  # of the mean brain that a field of view must show; the second where it cannot show that
_LEAST_DEEP = 0.5  # the same of what lies deep in it, at most
_STEPS, _FEW_STEPS = 8, 4
_DEEP = 2  # cubes of 4 mm below the surface
_SMALLER = (1.0, 0.9, 0.8)  # than found at first: where the search deep in the brain starts
_HIGHER_MM = (-16.0, 0.0, 16.0)
_ZOOM = (0.86, 1.16)  # adults lie within 0.90 to 1.12; a wider range lets the mean brain take a skull for itself
_TILT = 0.6  # radians from an axis
_DAMPING = 0.02
_BEST = 5  # ways that are refined, beside that of the header
_WITHIN = 0.9  # of the brains

Matrix = NDArray[np.float64]
_TURNS = [
    turn
    for order in itertools.permutations(range(3))
    for signs in itertools.product((1, -1), repeat=3)
    if round(np.linalg.det(turn := np.eye(3)[list(order)] * np.asarray(signs)[:, None])) == 1
]


@dataclass(frozen=True, eq=False)
class Template:
    """The mean brain, symmetrical, on a grid of cubes of 4 mm, first axis to the right, then front and head.

    Args:
        image: (I, J, K) mean rank of brightness in the brain, from 0.5 (darkest in T1w) to 1.5; 0 outside.
        mask: (I, J, K) share of brains that have tissue there.
        sides: (3, I/2, J, K) weights by which the shapes of a brain's halves differ (`medidiff.trust.halves`); None
            where nobody has measured them.
    """

    image: Array
    mask: Array
    sides: Array | None = None

    @cached_property
    def coarse(self) -> tuple[Array, Array]:
        """Image, and where it is compared, in cubes of 8 mm."""
        image, mask = (_halved(values) for values in (self.image, self.mask))
        return image, ndimage.binary_dilation(mask > 0.5).astype(np.float32)

    @cached_property
    def points(self) -> Points:
        """Where it is compared at 8 mm."""
        image, near = self.coarse
        return _points(image, near > 0, 2 * SIDE_MM)

    @cached_property
    def deep_points(self) -> Points:
        """Deep in the brain, at 4 mm."""
        return _points(self.image, ndimage.binary_erosion(self.within, iterations=_DEEP), SIDE_MM)

    @cached_property
    def inside(self) -> tuple[NDArray[np.float64], Array]:
        """Places (N, 3) in mm from the middle and the image (N,), in the brain, at 4 mm."""
        return self.all_places[self.within], self.image[self.within]

    @cached_property
    def within(self) -> NDArray[np.bool_]:
        """(I, J, K) where nearly every brain has tissue, the same on both sides."""
        inner = self.mask > _WITHIN
        return np.asarray(inner & inner[::-1])

    @cached_property
    def all_places(self) -> NDArray[np.float64]:
        """(I, J, K, 3) places in mm from the middle."""
        return _places(self.image.shape, SIDE_MM)


Points = tuple[NDArray[np.float64], Array, Array]
"""Places (N, 3) in mm from the middle, the image (N,) and its slope (N, 3)."""


def _points(image: Array, where: NDArray[np.bool_], side_mm: float) -> Points:
    slope = np.stack(np.gradient(ndimage.gaussian_filter(image, 0.5), side_mm), axis=-1)
    return _places(image.shape, side_mm)[where], image[where], slope[where].astype(np.float32)


def _halved(values: Array) -> Array:
    i, j, k = (n // 2 for n in values.shape)
    return np.asarray(values.reshape(i, 2, j, 2, k, 2).mean(axis=(1, 3, 5)), dtype=np.float32)


def _places(shape: tuple[int, ...], side_mm: float) -> NDArray[np.float64]:
    axes = [(np.arange(n) - (n - 1) / 2) * side_mm for n in shape]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)


@dataclass(frozen=True, slots=True, eq=False)
class Pose:
    """Where the mean brain fits best.

    Args:
        match: correlation with the mean brain, lying as the header says, in cubes of 8 mm.
        other: the best in any other of the 24 ways.
        matrix: (4, 4) from the mean brain's places in mm to the world, as the header says, refined deep in the brain.
        shown: share of the mean brain that the field of view reaches, where it fits as a whole.
        part: whether the field of view is too small to show most of a brain.
    """

    match: float
    other: float
    matrix: Matrix
    shown: float
    part: bool


def find_pose(fine: Field, template: Template) -> Pose | None:
    """Look for a brain; None where the field of view shows too little of one to tell.

    Args:
        fine: the scan, in cubes of 4 mm.
        template: the mean brain.
    """
    field = fine.halved()
    tried = ((least, _starts(field, template, least)) for least in _LEAST_SEEN)
    least, starts = next(((least, starts) for least, starts in tried if starts is not None), (0.0, None))
    if starts is None:
        return None
    asked = next(number for number, turn in enumerate(_TURNS) if np.array_equal(turn, np.eye(3)))
    best = sorted(range(len(starts)), key=lambda number: -starts[number][0])[:_BEST]
    found = {number: _refined(field, template.points, starts[number][1], least) for number in {asked, *best}}
    others = [match for number, (match, _) in found.items() if number != asked]
    others += [match for number, (match, _) in enumerate(starts) if number not in found]
    match, matrix = found[asked]
    places = template.points[0]
    _, seen = field.at(places @ matrix[:3, :3].T + matrix[:3, 3])
    matrix = _deepened(fine, template, matrix, min(least, _LEAST_DEEP), about=starts[asked][1])
    return Pose(match, max(others), matrix, float(seen.mean()), part=least < max(_LEAST_SEEN))


def _deepened(field: Field, template: Template, start: Matrix, least: float, *, about: Matrix) -> Matrix:
    """The place where what lies deep in the brain fits best, of several near a start.

    Dark may stand for bright: in another contrast than the mean brain's the place is the same.
    """
    up = start[:3, 2] / np.linalg.norm(start[:3, 2])
    found = []
    for smaller, higher in itertools.product(_SMALLER, _HIGHER_MM):
        near = start @ np.diag([smaller, smaller, smaller, 1.0])
        near[:3, 3] += higher * up
        near = _bounded(near, start, about)
        found.append(_refined(field, template.deep_points, near, least, about=about, steps=_FEW_STEPS, either=True))
    match, matrix = max(found, key=lambda each: each[0])
    return start if match <= -1 else _refined(field, template.deep_points, matrix, least, about=about, either=True)[1]


def _starts(field: Field, template: Template, least: float) -> list[tuple[float, Matrix]] | None:
    """Best correlation and place of each way to lie, at whole cubes."""
    image, near = template.coarse
    side = max(image.shape)
    cube = [((side - n) // 2, side - n - (side - n) // 2) for n in image.shape]
    image, near = np.pad(image, cube), np.pad(near, cube)
    shape = [fft.next_fast_len(n + side - 1, real=True) for n in field.image.shape]
    seen = field.seen
    shown = field.image * seen
    # Of the scan: whether it is seen, its brightness and its square; the same of the template where it is compared.
    scan = fft.rfftn(np.stack([seen, shown, shown * shown]), shape, axes=(1, 2, 3))
    found = []
    for turn in _TURNS:
        mean, where = (_turned(values, turn) for values in (image, near))
        wanted = np.conj(fft.rfftn(np.stack([where, where * mean, where * mean * mean]), shape, axes=(1, 2, 3)))
        pairs = [scan[0] * wanted[0], scan[0] * wanted[1], scan[0] * wanted[2]]
        pairs += [scan[1] * wanted[0], scan[1] * wanted[1], scan[2] * wanted[0]]
        sums = fft.irfftn(np.stack(pairs), shape, axes=(1, 2, 3))
        count = np.maximum(sums[0], 1e-3)
        _, t, tt, s, st, ss = sums / count
        spread = np.sqrt(np.maximum(ss - s * s, 1e-4) * np.maximum(tt - t * t, 1e-4))
        match = np.where(sums[0] >= least * near.sum(), (st - s * t) / spread, -1.0)
        place = np.array(np.unravel_index(int(match.argmax()), match.shape))
        value = float(match[tuple(place)])
        if value <= -1:
            return None
        shift = np.where(place >= field.image.shape, place - np.asarray(shape), place)
        matrix = np.eye(4)
        matrix[:3, :3] = turn.T
        matrix[:3, 3] = field.origin_mm + field.side_mm * (shift + (side - 1) / 2)
        found.append((value, matrix))
    return found


def _turned(values: Array, turn: NDArray[np.float64]) -> Array:
    """Values on a cube of voxels, turned; what was at x from the middle is then at ``turn.T @ x``."""
    order = np.abs(turn).argmax(axis=0)
    signs = turn.sum(axis=0)
    return values.transpose(order)[tuple(slice(None, None, int(sign)) for sign in signs)]


def _refined(
    field: Field,
    points: Points,
    start: Matrix,
    least: float,
    *,
    about: Matrix | None = None,
    steps: int = _STEPS,
    either: bool = False,
) -> tuple[float, Matrix]:
    """Gauss-Newton from a start over shift, tilt and three zooms, in the inverse compositional form.

    Tilt is bounded about the start, or about another place. With `either`, the match is the size of the correlation,
    whatever its sign.
    """
    places, wanted, slope = points
    x = places / _UNIT_MM
    tilts = [slope[:, c] * x[:, b] - slope[:, b] * x[:, c] for b, c in ((1, 2), (2, 0), (0, 1))]
    change = np.concatenate([slope, np.stack(tilts, axis=1), slope * x], axis=1)
    matrix = start
    best = _match(field, places, wanted, start, least, either), start
    for _ in range(steps):
        image, seen = field.at(places @ matrix[:3, :3].T + matrix[:3, 3])
        off = _explained(image, wanted, seen) - wanted
        weighted = change * seen[:, None]
        normal = weighted.T @ change
        step = np.linalg.solve(normal + _DAMPING * np.diag(np.diag(normal)) + 1e-6 * np.eye(9), weighted.T @ off)
        matrix = _bounded(matrix @ np.linalg.inv(_moved(step)), start, start if about is None else about)
        best = max(best, (_match(field, places, wanted, matrix, least, either), matrix), key=lambda each: each[0])
    return best


def _explained(image: Array, wanted: Array, seen: Array) -> Array:
    """The scan's brightness as the straight line of it that is nearest to the template's."""
    total = max(float(seen.sum()), 1e-3)
    a, b = float((seen * image).sum()) / total, float((seen * wanted).sum()) / total
    spread = float((seen * (image - a) ** 2).sum())
    slope = float((seen * (image - a) * (wanted - b)).sum()) / max(spread, 1e-6)
    return np.asarray(b + slope * (image - a), dtype=np.float32)


def _match(
    field: Field, places: NDArray[np.float64], wanted: Array, matrix: Matrix, least: float, either: bool
) -> float:
    """Correlation where the field of view reaches; -1 where it shows too little."""
    image, seen = field.at(places @ matrix[:3, :3].T + matrix[:3, 3])
    total = float(seen.sum())
    if total < least * len(places):
        return -1.0
    a, b = image - (seen * image).sum() / total, wanted - (seen * wanted).sum() / total
    spread = float(np.sqrt(max((seen * a * a).sum() * (seen * b * b).sum(), 1e-12)))
    match = float((seen * a * b).sum()) / spread
    return abs(match) if either else match


def _moved(step: NDArray[np.float64]) -> Matrix:
    """(4, 4) map of a step: a shift in mm, then tilts and zooms in units."""
    matrix = np.eye(4)
    matrix[:3, 3] = step[:3]
    a, b, c, i, j, k = step[3:] / _UNIT_MM
    matrix[:3, :3] += np.array([[i, -c, b], [c, j, -a], [-b, a, k]])
    return matrix


def _bounded(matrix: Matrix, start: Matrix, about: Matrix) -> Matrix:
    """The map with zooms of heads; the start where it is turned farther from `about` than half way to the next way."""
    left, zooms, right = np.linalg.svd(matrix[:3, :3])
    turn = left @ right
    first, _, last = np.linalg.svd(about[:3, :3])
    angle = np.arccos(np.clip((np.trace(turn @ (first @ last).T) - 1) / 2, -1, 1))
    if angle > _TILT:
        return start
    matrix = matrix.copy()
    matrix[:3, :3] = left @ np.diag(np.clip(zooms, *_ZOOM)) @ right
    return matrix
