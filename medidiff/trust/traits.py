"""What is measured of a scan before it is restored: grain, k-space, grey levels, planes, anatomy, each as one number.

Every number is a ratio, so that neither units nor gain matter, and is None where a scan does not show enough for it.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, stats

from medidiff.anatomy import foreground
from medidiff.trust.coarse import Array, Coarse, Field, coarse, field_of
from medidiff.trust.grain import grain_numbers, grain_of, grain_traits
from medidiff.trust.halves import halves
from medidiff.trust.kernel import KernelRidge
from medidiff.trust.kspace import kspace_traits
from medidiff.trust.pose import SIDE_MM, Pose, Template, find_pose
from medidiff.volume import Volume

__all__ = ["asymmetry", "traits_of"]

_MOST_VOXELS = 1_500_000  # that are looked at one by one
_FEWEST_ML = 16.0  # of tissue: less is no part of a head
_CEILING = 1.3  # medians of the tissue
_BRIGHT = 0.45  # of the brightness called 100 %: what is darker is air, bone or fluid
_INVERTED = 1.5  # brightness of the border over that of the middle
_TOUCHED = 0.05  # of a face of the field of view
_GREY_LEVELS = 256
_FEWEST_LEVELS = 64  # of those that were rounded: of fewer, many lie near whole steps by chance
_WIDE_STEP = 3.0  # units from a level to the next: of narrower steps, rounded to whole units, nothing is left
_LARGE_PLANE = 0.3  # of the largest plane's tissue
_NEIGHBOURS = 4
_BLOCK = 8  # voxels of a JPEG block
_FEWEST_BLOCKS = 7  # along an axis: of fewer, the median step at one of the eight places is large by chance
_FEWEST_AIR = 1000  # cubes of 4 mm
_LITTLE = (0.70, 0.72)  # of the mean brain that is shown: of less, a crop that lies well may seem not to
_LOOSE_UPRIGHT, _LOOSE_FLUID = 0.16, 0.2  # by which crops of training heads were off, and as much more as the oddest
_LOOSE_ORDER = 0.15  # the same, by hand
_LOOSE_MATCH, _LOOSE_GREY = 0.15, 0.02  # the same of smaller parts, which show neither air nor how even a head is
_FEWEST_DEEP = 0.3  # of what lies deep in the brain
_FEWEST_SIDES = 0.6  # of what tells left from right
_WHITE, _GREY, _FLUID = 1.3, (0.75, 1.0), 0.62  # ranks of brightness in the mean brain


def traits_of(volume: Volume, template: Template, filters: KernelRidge | None = None) -> dict[str, float | None]:
    """All signs of a scan.

    Args:
        volume: (1, I, J, K) finite.
        template: the mean brain.
        filters: what tells the grain that filters leave (1) from a scanner's (-1); None where nobody has learned it.

    Raises:
        InputError: more than one channel, or voxels that are not finite.
    """
    blocks = coarse(volume)
    amount = math.log10(max(blocks.tissue_ml, 1e-3))
    found: dict[str, float | None] = {"tissue": amount, "whole": None if _cut(blocks.tissue) else amount}
    found |= {"across": _across(blocks)} | _levels(blocks)
    if blocks.tissue_ml < _FEWEST_ML:
        return found
    found |= _grain(blocks, filters) | kspace_traits(blocks) | _planes(blocks) | _grid(blocks)
    field = field_of(blocks, SIDE_MM, ceiling=_CEILING)
    pose = find_pose(field, template)
    return found | _anatomy(blocks, field, pose, template)


def _across(blocks: Coarse) -> float | None:
    """Logarithm of how far the tissue reaches from side to side or front to back in the patient, whichever is more."""
    if not blocks.tissue.any():
        return None
    places = blocks.geometry.world(np.argwhere(blocks.tissue))[:, :2]
    low, high = np.quantile(places, (0.005, 0.995), axis=0)
    return math.log10(max(float((high - low).max()), 1.0))


def _cut(tissue: NDArray[np.bool_]) -> bool:
    """Whether the tissue goes on beyond three or more faces of the field of view."""
    faces = [tissue.take(side, axis) for axis in range(3) for side in (0, -1)]
    return sum(bool(face.mean() > _TOUCHED) for face in faces) > 2


def _grain(blocks: Coarse, filters: KernelRidge | None) -> dict[str, float | None]:
    grain = grain_of(blocks)
    if grain is None:
        return dict.fromkeys(("quiet", "corner", "loud", "linked", "patchy", "filtered"))
    numbers = None if filters is None else grain_numbers(grain)
    return {**grain_traits(grain), "filtered": None if filters is None or numbers is None else filters(numbers)}


# --------------------------------------------------------------------------------------------------------- grey levels


def _levels(blocks: Coarse) -> dict[str, float | None]:
    """How the brightness is spread: what sticks at the top, whether 256 levels are filled, and how bright air is."""
    data, tissue = blocks.data, blocks.tissue
    if not tissue.any():
        return {"top": None, "eight": None, "air": None}
    image = blocks.image[blocks.box(_MOST_VOXELS)]
    bright = image[image > _BRIGHT * blocks.bright]
    top = (np.count_nonzero(bright == bright.max()) - 1) / bright.size if bright.size else 0.0  # one is always highest
    faces = np.concatenate([data.take(side, axis).ravel() for axis in range(3) for side in (0, -1)])
    edge = float(np.quantile(faces, 0.25))
    air: float | None = edge / max(float(np.median(data[tissue])), 1e-6)
    inner = data[tuple(slice(n // 4, n - n // 4) for n in data.shape)]
    if _cut(tissue) and edge < _INVERTED * max(float(np.median(inner)), 1e-6):
        air = None  # a part of a head shows no air
    return {"top": math.log10(max(top, 1e-5)), "eight": float(_fills_a_byte(blocks.image)), "air": air}


def _fills_a_byte(image: Array) -> bool:
    """Whether the values are 0 to 255 steps of one size, and reach both ends.

    Such steps may have been rounded to whole units since, each value by half a unit and the two ends, too.
    """
    low, high = float(image.min()), float(image.max())
    if high <= low:
        return False
    values = np.unique(image.reshape(-1)[:: max(1, image.size // 500_000)])
    if values.size > _GREY_LEVELS:
        return False
    steps = (values - low) * (255 / (high - low))
    whole = np.rint(steps)
    off = float(np.abs(steps - whole).max())
    rounded = values.size >= _FEWEST_LEVELS and high - low >= _WIDE_STEP * 255 and bool((values % 1 == 0).all())
    if off >= (255 / (high - low) if rounded else 1e-3):
        return False
    return bool(np.diff(np.unique(whole)).min(initial=255) < 2)


# -------------------------------------------------------------------------------------------------------------- planes


def _planes(blocks: Coarse) -> dict[str, float | None]:
    """How unlike its neighbours a plane is, along the axis where that is worst: jumps, and planes that stand twice."""
    box = blocks.box(_MOST_VOXELS)
    image = blocks.image[box] / np.float32(blocks.bright)
    jumps: list[float] = []
    twice: list[float] = []
    for axis in range(3):
        steps = [1 if other == axis else step for other, step in enumerate(blocks.steps)]
        planes = np.moveaxis(_means(image, steps), axis, 0)
        planes = planes.reshape(len(planes), -1)
        fine = np.moveaxis(image, axis, 0)
        change, repeated = _between(planes), _repeated(fine)
        if len(change) > 2 * _NEIGHBOURS:
            jumps.append(_worst(change))
            twice.append(repeated)
    if not jumps:
        return {"jump": None, "twice": None}
    return {"jump": math.log10(max(jumps)), "twice": max(twice)}


def _means(image: Array, steps: list[int]) -> Array:
    for axis, step in enumerate(steps):
        if step > 1 and image.shape[axis] >= step:
            along = np.moveaxis(image, axis, 0)
            count = len(along) // step
            total = along[: count * step : step].copy()
            for offset in range(1, step):
                total += along[offset : count * step : step]
            image = np.moveaxis(total / np.float32(step), 0, axis)
    return image


def _between(planes: Array) -> NDArray[np.float64]:
    """(N - 1,) root mean square change from plane to plane, where either shows tissue; NaN where little is shown."""
    tissue = planes > 0.3
    count = tissue.sum(axis=1)
    gain = np.where(count > 0, (planes * tissue).sum(axis=1) / np.maximum(count, 1), 1.0)
    even = planes / np.maximum(gain, 1e-3)[:, None]
    either = tissue[1:] | tissue[:-1]
    shared = either.sum(axis=1)
    power = (np.square(even[1:] - even[:-1]) * either).sum(axis=1) / np.maximum(shared, 1)
    large = np.maximum(count[1:], count[:-1]) >= _LARGE_PLANE * count.max()
    return np.where(large & (shared > 20), np.sqrt(power), np.nan)


def _worst(change: NDArray[np.float64]) -> float:
    """Largest change from plane to plane, over the median of its neighbourhood."""
    worst = 1.0
    for number in np.flatnonzero(np.isfinite(change)):
        near = change[max(0, number - _NEIGHBOURS) : number + _NEIGHBOURS + 1]
        near = near[np.isfinite(near)]
        if len(near) >= _NEIGHBOURS + 1:
            worst = max(worst, float(change[number] / max(float(np.median(near)), 1e-4)))
    return worst


def _repeated(fine: Array) -> float:
    """Share of neighbouring planes with tissue that are the same, voxel by voxel."""
    shown = (fine > 0.3).mean(axis=(1, 2))
    large = np.minimum(shown[1:], shown[:-1]) > _LARGE_PLANE * shown.max()
    if not large.any():
        return 0.0
    change = np.abs(fine[1:] - fine[:-1]).mean(axis=(1, 2))[large]
    return float((change < 0.1 * np.median(change)).mean()) if np.median(change) > 0 else 1.0


def _grid(blocks: Coarse) -> dict[str, float | None]:
    """How much larger steps are at every eighth plane than at the others: blocks of a lossy code."""
    image = blocks.image[blocks.box(_MOST_VOXELS)] / np.float32(blocks.bright)
    worst = None
    for axis in range(3):
        along = np.moveaxis(image, axis, 0)
        if len(along) < _FEWEST_BLOCKS * _BLOCK:
            continue
        # A step that neither neighbour continues: across it, less half of what goes on before and after.
        step = np.abs(along[2:-1] - along[1:-2] - (along[1:-2] - along[:-3] + along[3:] - along[2:-1]) / 2)
        tissue = along[1:-2] > 0.3
        count = tissue.sum(axis=(1, 2))
        sizes = (np.minimum(step, 0.2) * tissue).sum(axis=(1, 2)) / np.maximum(count, 1)
        sizes[count < _LARGE_PLANE * count.max()] = np.nan
        each = [sizes[phase::_BLOCK] for phase in range(_BLOCK)]
        if min(np.isfinite(part).sum() for part in each) < _FEWEST_BLOCKS:
            continue
        phases = np.array([float(np.nanmedian(part)) for part in each])
        ratio = float(phases.max() / max(float(np.median(phases)), 1e-6))
        worst = max(ratio, worst or 0.0)
    return {"blocky": None if worst is None else math.log10(worst)}


# ------------------------------------------------------------------------------------------------------------- anatomy


def _anatomy(blocks: Coarse, field: Field, pose: Pose | None, template: Template) -> dict[str, float | None]:
    names = ("match", "upright", "side", "order", "grey", "fluid", "shading", "ghost")
    if pose is None:
        return dict.fromkeys(names)
    loose = 1.0 if pose.part else float(np.clip((_LITTLE[1] - pose.shown) / (_LITTLE[1] - _LITTLE[0]), 0, 1))
    found: dict[str, Any] = {
        "match": pose.match + _LOOSE_MATCH * pose.part,
        "upright": pose.match - pose.other + _LOOSE_UPRIGHT * loose,
        "ghost": None if pose.part else _ghost(field),
    }
    order = _order(blocks, pose, template)
    found["order"] = None if order is None else order + _LOOSE_ORDER * loose
    places, wanted = template.inside
    image = _read(blocks, pose, places)
    seen = np.isfinite(image)
    white, grey, fluid = (
        seen & which for which in (wanted > _WHITE, (wanted > _GREY[0]) & (wanted < _GREY[1]), wanted < _FLUID)
    )
    if min(white.sum(), grey.sum(), fluid.sum()) < 50:
        return found | dict.fromkeys(("side", "grey", "fluid", "shading"))
    level = max(float(np.median(image[white])), 1e-6)
    found["side"] = _side(blocks, pose, template)
    found["grey"], found["fluid"] = (float(np.median(image[which])) / level for which in (grey, fluid))
    found["fluid"] -= _LOOSE_FLUID * loose
    found["grey"] -= _LOOSE_GREY * pose.part
    return found | {"shading": None if pose.part else _shading(image[white] / level, places[white])}


def _order(blocks: Coarse, pose: Pose, template: Template) -> float | None:
    """Spearman's correlation of the brightness with the mean brain's, deep in the brain; None where little is shown.

    There no skull, no scalp and no place that people fold in their own way has a say, and noise hardly any.
    """
    places, wanted, _ = template.deep_points
    image = _read(blocks, pose, places)
    seen = np.isfinite(image)
    if seen.mean() < _FEWEST_DEEP or np.ptp(image[seen]) == 0:
        return None
    return float(stats.spearmanr(image[seen], wanted[seen]).statistic)


def _read(blocks: Coarse, pose: Pose, places: NDArray[np.float64]) -> Array:
    """(N,) the scan at places of the mean brain; NaN beyond the field of view."""
    index = blocks.geometry.index(places @ pose.matrix[:3, :3].T + pose.matrix[:3, 3]).T
    return np.asarray(ndimage.map_coordinates(blocks.data, index, order=1, mode="constant", cval=np.nan))


def asymmetry(volume: Volume, template: Template) -> tuple[Array, Array] | None:
    """What `halves` finds of a scan; None where its pose cannot be told.

    Args:
        volume: (1, I, J, K) finite.
        template: the mean brain.
    """
    blocks = coarse(volume)
    pose = find_pose(field_of(blocks, SIDE_MM, ceiling=_CEILING), template)
    return None if pose is None else halves(blocks, pose.matrix, template)


def _side(blocks: Coarse, pose: Pose, template: Template) -> float | None:
    """How the halves differ, 1 in the middle of people, -1 in their mirror images; None where too little is shown.

    What is not shown is taken to differ as what is shown does.
    """
    if template.sides is None:
        return None
    shift, seen = halves(blocks, pose.matrix, template)
    weight = np.square(template.sides).sum(axis=0)
    share = float((weight * seen).sum()) / max(float(weight.sum()), 1e-12)
    return float((template.sides * shift).sum()) / share if share >= _FEWEST_SIDES else None


def _shading(image: Array, places: NDArray[np.float64]) -> float:
    """Brightest over darkest tenth of a quadratic through the logarithm of what should be of one brightness."""
    x = places / 50
    terms = np.stack([np.ones(len(x)), *x.T, *(x.T**2), x[:, 0] * x[:, 1], x[:, 0] * x[:, 2], x[:, 1] * x[:, 2]], 1)
    fitted = terms @ np.linalg.lstsq(terms, np.log(np.clip(image, 0.1, 4)), rcond=None)[0]
    low, high = np.quantile(fitted, (0.1, 0.9))
    return float(high - low)


def _ghost(field: Field) -> float | None:
    """How uneven the air is, in medians of the tissue."""
    inside = ndimage.binary_erosion(field.seen > 0.5, iterations=2)
    air = inside & ~ndimage.binary_dilation(foreground(field.image), iterations=3)
    if air.sum() < _FEWEST_AIR:
        return None
    soft = ndimage.uniform_filter(field.image, 3)[air]
    low, high = np.quantile(soft, (0.1, 0.95))
    return float(high - low)
