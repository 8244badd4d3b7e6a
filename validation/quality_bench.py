"""What image quality is read on: a scan as the truth, known signals at known places in it, and edges of its anatomy.

Each signal has one shape for its size (a smooth, slightly flattened blob of `inserted`), so that an observer can know
it; it is darker than the white matter that it lies in. Everything follows from the place of the scan in the split.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from inserted import TISSUES, Lesion, lesions, share, tissues
from numpy.typing import NDArray
from scipy import ndimage
from scoring import Array, Truth

from medidiff.errors import InputError
from medidiff.metrics.edges import EdgeSpread, clean, distances, edge_spread, surface
from medidiff.metrics.noise_power import noise_power
from medidiff.metrics.observers import difference_of_gaussians, eye_filtered, laguerre_gauss, responses
from medidiff.metrics.resolution import shell_correlation
from medidiff.metrics.shells import hann

__all__ = ["OBSERVERS", "Bench", "Sample", "bench", "read_pair", "read_signals"]

OBSERVERS: Mapping[str, tuple[int, int]] = {  # columns of the responses of a sample
    "Hotelling, differences of Gaussians": (0, 7),
    "Hotelling, Laguerre-Gauss": (7, 12),
    "non-prewhitening with eye filter": (12, 13),
}
_LAGUERRE_WIDTH = 1.5  # of the signal's diameter
_ROOM_MM = 6.0  # added to the diameter when places are sought
_BOX_MM = 11.0  # half a side of what an observer sees around a signal
_SHAPE_SEED = 7  # of the one shape
_SMOOTHING_VOXELS = 0.5  # of the truth, before its edges are looked for
_SIDES = 0.3  # how far both sides may be from fluid and white matter, as a share of the step between them
_RIPPLE, _NEAR_MM, _REACH_MM = 0.25, 1.5, 4.0
_BIN_MM, _SPREAD_MM = 0.2, 4.0
_ALONG, _WITHIN = 0.8, 0.4  # of the normal along the third axis: edges across it, and edges that it lies within
_TAPER = 0.5  # share of each axis over which the window rises and falls


@dataclass(frozen=True, slots=True, eq=False)
class Bench:
    """A truth and what is looked at in it.

    Args:
        truth: the scan, tissue maximum 1.
        signals: of each layout, so far apart that no observer sees two at once.
        patterns: (I, J, K) of each layout, the share of each voxel that its signals fill.
        distance_mm: by direction of the normal, the distance of each voxel to a clean edge between fluid and white
            matter; NaN elsewhere.
    """

    truth: Truth
    signals: tuple[tuple[Lesion, ...], ...]
    patterns: tuple[Array, ...]
    distance_mm: Mapping[str, NDArray[np.float64]]

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Of the voxels."""
        return self.truth.geometry.spacing_mm

    def with_signals(self, layout: int, amount: float) -> Array:
        """The truth, darker by an amount in the signals of one layout."""
        return np.asarray(self.truth.image - np.float32(amount) * self.patterns[layout])


@dataclass(frozen=True, slots=True)
class Sample:
    """One signal at one contrast in one realisation of the noise, with and without it.

    Args:
        scan: place in the split.
        place: number of the signal within its scan.
        realisation: of the noise.
        diameter_mm: of the ball of its volume.
        sigmas: contrast over the noise level.
        present: (13,) responses of the observers' channels.
        absent: (13,) the same without the signal.
        recovered: share of the contrast that is found, by least squares.
    """

    scan: int
    place: int
    realisation: int
    diameter_mm: float
    sigmas: float
    present: tuple[float, ...]
    absent: tuple[float, ...]
    recovered: float


def bench(number: int, truth: Truth, *, sizes_mm: Sequence[float], each: int, layouts: int) -> Bench:
    """Place signals in a truth and find its clean edges.

    Args:
        number: place of the scan in the split, which all chance follows from.
        truth: the scan.
        sizes_mm: diameters.
        each: signals of each size in a layout, as far as there is room.
        layouts: sets of places.

    Raises:
        InputError: ``E-MASK``, the truth has no room for a signal, or no clean edge.
    """
    spacing, shape = truth.geometry.spacing_mm, truth.geometry.shape
    half = _half(spacing)
    inner = np.zeros_like(truth.mask)
    inner[tuple(slice(max(0, h - 4), n - max(0, h - 4)) for h, n in zip(half, shape, strict=True))] = True
    wanted = [(size + _ROOM_MM, 0.3) for size in sizes_mm for _ in range(each)]
    found, patterns = [], []
    for layout in range(layouts):
        placed = lesions(
            truth.image, truth.mask & inner, spacing, wanted=wanted, seed=100 * number + layout, inside=("white",)
        )
        signals = tuple(
            dataclasses.replace(one, seed=_SHAPE_SEED, diameter_mm=one.diameter_mm - _ROOM_MM)
            for one in placed
            if all(h <= c < n - h for c, h, n in zip(one.centre, half, shape, strict=True))
        )
        found.append(signals)
        patterns.append(
            sum((share(shape, spacing, one, irregularity=0) for one in signals), np.zeros(shape, np.float32))
        )
    edges = _edges(truth)
    if not all(found) or not np.isfinite(edges["all"]).any():
        raise InputError("E-MASK", "no room for a signal, or no clean edge", wanted="a larger piece of a brain")
    return Bench(truth, tuple(found), tuple(patterns), edges)


def _half(spacing: Sequence[float]) -> tuple[int, int, int]:
    first, second, third = (math.ceil(_BOX_MM / step - 0.01) for step in spacing)  # 0.99999 mm is 1 mm
    return first, second, third


def _edges(truth: Truth) -> dict[str, NDArray[np.float64]]:
    """Distances to clean edges between fluid and white matter: of all directions, across the third axis, within it."""
    spacing = truth.geometry.spacing_mm
    labels = tissues(truth.image, truth.mask)
    fluid, white = (float(np.median(truth.image[labels == TISSUES.index(t) + 1])) for t in ("fluid", "white"))
    smooth = ndimage.gaussian_filter(truth.image, _SMOOTHING_VOXELS)
    edge = surface(smooth, level=(fluid + white) / 2, spacing_mm=spacing)
    near = _SIDES * (white - fluid)
    good = clean(
        smooth,
        edge,
        dark=(fluid - near, fluid + near),
        bright=(white - near, white + near),
        ripple=_RIPPLE,
        near_mm=_NEAR_MM,
        reach_mm=_REACH_MM,
    )
    index = np.rint(edge.points_mm / spacing).astype(int)
    good &= truth.mask[tuple(index.T)]
    steep = np.abs(edge.normals[:, 2])
    chosen = {"all": good, "across": good & (steep > _ALONG), "within": good & (steep < _WITHIN)}
    return {
        name: distances(edge, which, shape=truth.image.shape, reach_mm=_SPREAD_MM)
        if which.any()
        else np.full(truth.image.shape, np.nan)
        for name, which in chosen.items()
    }


def known(size_mm: float, spacing: Sequence[float]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A signal of one size in the box that observers see, (I, J, K), and their channels, (13, I, J, K)."""
    centre = _half(spacing)
    box = (2 * centre[0] + 1, 2 * centre[1] + 1, 2 * centre[2] + 1)
    signal = share(box, spacing, Lesion(centre, size_mm, -1.0, "white", _SHAPE_SEED), irregularity=0).astype(np.float64)
    gauss = difference_of_gaussians(box, spacing)
    laguerre = laguerre_gauss(box, spacing, width_mm=_LAGUERRE_WIDTH * size_mm)
    return signal, np.concatenate([gauss, laguerre, eye_filtered(signal, spacing)[None]])


def read_signals(
    bench: Bench, *, scan: int, layout: int, realisation: int, sigmas: float, amount: float, images: tuple[Array, Array]
) -> list[Sample]:
    """What observers see of the signals of a layout.

    Args:
        bench: the truth with its signals.
        scan: place in the split.
        layout: which signals.
        realisation: of the noise.
        sigmas: contrast over the noise level.
        amount: contrast, in units of the truth.
        images: the result with the signals, and that without.
    """
    found = []
    scale = math.sqrt(float(np.prod(bench.spacing_mm)))  # a signal is then seen alike whatever the voxels
    shapes = {size: known(size, bench.spacing_mm) for size in {one.diameter_mm for one in bench.signals[layout]}}
    first = sum(len(others) for others in bench.signals[:layout])
    for place, one in enumerate(bench.signals[layout], start=first):
        i, j, k = (slice(c - h, c + h + 1) for c, h in zip(one.centre, _half(bench.spacing_mm), strict=True))
        filled, channels = shapes[one.diameter_mm]
        with_it, without = (image[i, j, k].astype(np.float64) for image in images)
        seen = responses(channels, np.stack([with_it, without])) * scale
        found.append(
            Sample(
                scan=scan,
                place=place,
                realisation=realisation,
                diameter_mm=one.diameter_mm,
                sigmas=sigmas,
                present=tuple(float(v) for v in seen[0]),
                absent=tuple(float(v) for v in seen[1]),
                recovered=float(((without - with_it) * filled).sum() / np.square(filled).sum() / amount),
            )
        )
    return found


def read_pair(bench: Bench, results: tuple[Array, Array]) -> dict[str, object]:
    """Resolution, noise power and edges of two results without signals, of two realisations of the noise.

    Returns:
        Lists of plain numbers by name: ``fsc`` by region (``all``, and cones along the first and third axis) with the
        correlation of both results and of each with the truth; ``nps``; ``edges`` by direction, of the results' mean
        and of the truth.
    """
    truth, spacing = bench.truth, bench.spacing_mm
    window = hann(truth.image.shape, taper=_TAPER)
    both = (np.stack(results), np.stack([truth.image, truth.image]))
    correlations = {}
    for name, axis in (("all", None), ("first", 0), ("third", 2)):
        pair = shell_correlation(*results, spacing_mm=spacing, window=window, axis=axis)
        true = shell_correlation(*both, spacing_mm=spacing, window=window, axis=axis)
        correlations[name] = {
            "frequencies": pair.frequencies.tolist(),
            "counts": pair.counts.tolist(),
            "nyquist": pair.nyquist,
            "pair": pair.correlation.tolist(),
            "truth": true.correlation.tolist(),
        }
    inside = window * ndimage.gaussian_filter(truth.mask.astype(np.float64), 1.5)
    power = noise_power(*results, spacing_mm=spacing, window=inside)
    mean = np.asarray((results[0] + results[1]) / 2, dtype=np.float32)
    edges = {}
    for name, distance in bench.distance_mm.items():
        found, true_one = (_spread(image, distance) for image in (mean, truth.image))
        edges[name] = {
            "distance_mm": found.distance_mm.tolist(),
            "counts": found.counts.tolist(),
            "sums": found.sums.tolist(),
            "truth": true_one.sums.tolist(),
        }
    return {
        "fsc": correlations,
        "nps": {
            "frequencies": power.frequencies.tolist(),
            "density": power.density.tolist(),
            "volumes": power.volumes.tolist(),
        },
        "edges": edges,
    }


def _spread(image: Array, distance: NDArray[np.float64]) -> EdgeSpread:
    return edge_spread(image, distance, bin_mm=_BIN_MM, reach_mm=_SPREAD_MM)
