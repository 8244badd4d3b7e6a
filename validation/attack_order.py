"""The attack's scans that lie otherwise than they say, and those whose slabs stand in another order.

See `attack_scans.py` for what is common to all parts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from attack_scans import Array, Case, Rng, Scan, chosen, random, rician, rim

__all__ = ["pose", "slabs"]

Named = Iterator[tuple[str, Scan]]

_POSED = (
    "brain 1",
    "brain 2",
    "brain 3",
    "brain 4",
    "brain 5",
    "brain 6",
    "head 1",
    "resampled 1",
    "clinical 1, study 1",
    "clinical 1, study 2",
    "clinical 2, study 2",
)
_TURNED_MORE = ("brain 1", "brain 2", "brain 5", "head 1", "resampled 1", "clinical 1, study 2", "clinical 2, study 2")
_CUT_UP = ("brain 1", "head 1", "resampled 1", "clinical 2, study 2")


# ------------------------------------------------------------------------------------------------------------- the pose


def pose(data: Path, asked: Sequence[str] | None) -> Iterator[Case]:
    """Mirrored, then upside down or turned; random numbers run through both."""
    for person, scan in chosen(data, _POSED, asked):
        rng = random(person.seed, 1)
        for case, made in _mirrored(scan, rng):
            yield "mirrored", case, person.name, made
        for case, made in _turned(scan, rng, more=person.name in _TURNED_MORE):
            yield "upside down", case, person.name, made


def _mirrored(scan: Scan, rng: Rng) -> Named:
    other = scan.flipped("L")
    yield "as is", other
    yield "noise 5%", other.noisy(5, rng)
    yield "noise 10%", other.noisy(10, rng)
    yield "bias 20%", other.uneven(0.2, rng)
    if not scan.in_slices:
        yield "thick 3", other.averaged(scan.axis("S"), 3)
        yield "thick 5", other.averaged(scan.axis("S"), 5)
        yield "thick 3 sag", other.averaged(scan.axis("L"), 3)
    yield "header x negated", _negated(scan, 0)
    yield "cut to a slab", _slab(other, *rim(other.image))


def _turned(scan: Scan, rng: Rng, *, more: bool) -> Named:
    down = scan.flipped("S")
    yield "flip z", down
    yield "flip y", scan.flipped("A")
    yield "rot180 y-z", scan.flipped("S", "A")
    yield "rot180 x-z", scan.flipped("S", "L")
    yield "rot180 x-y", scan.flipped("A", "L")
    yield "flip xyz", scan.flipped("L", "A", "S")
    yield "flip z + noise 10%", down.noisy(10, rng)
    yield "flip z + noise 15%", down.noisy(15, rng)
    if more:
        for worlds, word in (("SA", "y-z"), ("SL", "x-z"), ("AL", "x-y")):
            yield f"rot90 {word}", _quarter_turn(scan, scan.axis(worlds[0]), scan.axis(worlds[1]))
        axis = scan.axis("S")
        if not scan.in_slices:
            yield "flip z thick 5", down.averaged(axis, 5)
            yield "flip z thick 6 + noise", down.averaged(axis, 6).noisy(9, rng)
        low, high = rim(scan.flipped("L").image)
        yield "flip z cut slab", _slab(down, low, high)
        quarter = (high[axis] - low[axis]) // 4
        middle = low[axis] + quarter, high[axis] - quarter
        yield "flip z middle half", down.between(axis, *middle)
        yield "rotated 180 in-plane middle half", scan.flipped("A", "L").between(axis, *middle)
    yield "header z negated", _negated(scan, 2)


def _slab(scan: Scan, low: Array, high: Array) -> Scan:
    """Without the lowest quarter and the upper 15 % of the head."""
    axis = scan.axis("S")
    size = high[axis] - low[axis]
    return scan.between(axis, low[axis] + int(size * 0.25), high[axis] - int(size * 0.15))


def _negated(scan: Scan, world: int) -> Scan:
    """An affine with one of the patient's axes the other way round."""
    affine = scan.affine.copy()
    affine[world] *= -1
    return Scan(scan.image, affine)


def _quarter_turn(scan: Scan, i: int, j: int) -> Scan:
    """Turned in a plane by 90°: sizes of voxels go with the picture, directions stay with the axes."""
    size, affine = scan.spacing_mm, scan.affine.copy()
    affine[:, i] = scan.affine[:, i] / size[i] * size[j]
    affine[:, j] = scan.affine[:, j] / size[j] * size[i]
    return Scan(np.rot90(scan.image, 1, (i, j)), affine)


# ------------------------------------------------------------------------------------------------------------ the slabs


def slabs(data: Path, asked: Sequence[str] | None) -> Iterator[Case]:
    """Slabs changed for others, along each axis of each person."""
    for person, scan in chosen(data, _CUT_UP, asked):
        rng = random(person.seed, 2)
        low, high = rim(scan.image)
        for world in "SAL":
            axis = scan.axis(world)
            for case, planes in _exchanged(np.moveaxis(scan.image, axis, 0), int(low[axis]), int(high[axis]), rng):
                made = scan.showing(np.moveaxis(planes, 0, axis))
                yield "swapped slabs", f"{case} {world}", person.name, made
            if world == "S":
                for case, made in _upright(scan, axis, apart=planes, rng=rng):
                    yield "swapped slabs", case, person.name, made


def _exchanged(planes: Array, low: int, high: int, rng: Rng) -> Iterator[tuple[str, Array]]:
    """Halves, thirds and quarters of the array, then thin slabs of the head; the last case is `apart`."""
    yield "halves of the array", _halves(planes)
    count = len(planes)
    thirds = [planes[: count // 3], planes[count // 3 : 2 * count // 3], planes[2 * count // 3 :]]
    yield "thirds 2-1-3", np.concatenate([thirds[1], thirds[0], thirds[2]])
    yield "thirds 3-2-1", np.concatenate([thirds[2], thirds[1], thirds[0]])
    yield "quarters 1-3-2-4", _quarters(planes)
    thin = 10 if count > 100 else 4
    start = low + int((high - low) * rng.uniform(0.25, 0.45))
    yield "adjacent thin", _changed(planes, start, start + thin, thin)
    yield "apart", _changed(planes, low + int((high - low) * 0.25), low + int((high - low) * 0.6), 2 * thin)


def _upright(scan: Scan, axis: int, *, apart: Array, rng: Rng) -> Named:
    """More cases along the axis from foot to head; noise is drawn with that axis first."""
    planes = np.moveaxis(scan.image, axis, 0)
    named = {
        "halves + noise 10%": _halves(planes),
        "quarters 1-3-2-4 + noise 10%": _quarters(planes),
        "adjacent thin + noise 10%": apart,  # the tester's name; the slabs are those of `apart`
    }
    for case, each in named.items():
        noisy = scan.showing(np.moveaxis(rician(each, 10, rng), 0, axis))
        yield f"{case} S", noisy
    if scan.in_slices:
        return
    thick = scan.averaged(axis, 5)
    planes = np.moveaxis(thick.image, axis, 0)
    thirds = np.array_split(planes, 3)
    yield "thick 5 quarters 1-3-2-4", thick.showing(np.moveaxis(_quarters(planes), 0, axis))
    yield "thick 5 thirds 2-1-3", thick.showing(np.moveaxis(np.concatenate([thirds[1], thirds[0], thirds[2]]), 0, axis))
    yield "thick 5 halves", thick.showing(np.moveaxis(_halves(planes), 0, axis))


def _halves(planes: Array) -> Array:
    middle = len(planes) // 2
    return np.concatenate([planes[middle:], planes[:middle]])


def _quarters(planes: Array) -> Array:
    one, two, three, four = np.array_split(planes, 4)
    return np.concatenate([one, three, two, four])


def _changed(planes: Array, first: int, second: int, count: int) -> Array:
    """Two slabs of so many planes changed for each other."""
    made = planes.copy()
    made[first : first + count] = planes[second : second + count]
    made[second : second + count] = planes[first : first + count]
    return made
