"""Figures of image quality with their intervals, from what `image_quality.py measure` wrote.

Scans are the unit: sharpness, noise and resolution are read on the scans' curves added up, their 95 % intervals come
from a bootstrap over scans; what bias the copies leave is taken out by centring the drawn figures on the figure itself,
as `medidiff.metrics.measured` does. For d′ that will not do: a bootstrap sample holds places twice, two thirds of them
at most are distinct, and the covariance of a Hotelling observer's channels is then nearly singular (of 24 places in 3
scans intervals were found that did not hold their own value). Its intervals come from leaving out a scan at a time
(jackknife, Efron & Stein 1981, with Student's t of as many scans less one), which never shows a place twice.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from quality_bench import OBSERVERS
from scipy import stats

from medidiff.errors import InputError, SettingsError
from medidiff.metrics.edges import EdgeSpread, falls_to, modulation
from medidiff.metrics.noise_power import NoisePower
from medidiff.metrics.observers import detectability
from medidiff.metrics.resolution import FIXED, FIXED_TRUTH, ShellCorrelation, bits, resolution

__all__ = ["ANATOMY", "FREQUENCIES", "Figure", "Group", "curves", "dprimes", "figures", "groups"]

Array = NDArray[np.float64]
ANATOMY = ("unknown", "known")
FREQUENCIES = np.linspace(0, 0.55, 56)  # cycles per mm
_SHARES = (0.2, 0.3, 0.4)  # cycles per mm at which the transfer is told
_PERCENTILES = (2.5, 97.5)
_FREEDOM = 4  # places more than channels that d′ needs


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure with its 95 % interval; None where there is none, such as a frequency that is never reached."""

    value: float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Group:
    """What one method did at one task: a record a scan, as it was written."""

    task: str
    method: str
    records: tuple[dict[str, Any], ...]

    @property
    def setup(self) -> dict[str, Any]:
        """Of the first scan; the seed of all others."""
        return dict(self.records[0]["setup"])


def groups(folder: Path) -> list[Group]:
    """All files of a folder by task and method, scans ascending.

    Raises:
        InputError: ``E-NOIMAGES``, there are none.
        SettingsError: ``E-SETTING``, the scans of a method were measured with several settings.
    """
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for path in sorted(folder.glob("*-*-*.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        found.setdefault((record["setup"]["task"], record["setup"]["method"]), []).append(record)
    if not found:
        raise InputError("E-NOIMAGES", "no figures", wanted="files of `image_quality.py measure`", file=folder.name)
    for (task, method), records in found.items():
        if any(record["setup"] != records[0]["setup"] for record in records):
            several, mend = f"{task} by {method} in several settings", "Measure them again."
            raise SettingsError("E-SETTING", several, wanted="one", mend=mend, file=folder.name)
    return [
        Group(task, method, tuple(sorted(records, key=lambda r: int(r["scan"]))))
        for (task, method), records in sorted(found.items())
    ]


def _spread(records: Sequence[dict[str, Any]], direction: str, which: str) -> EdgeSpread:
    parts = [record["edges"][direction] for record in records]
    counts, sums = (np.sum([part[key] for part in parts], axis=0) for key in ("counts", which))
    return EdgeSpread(np.asarray(parts[0]["distance_mm"]), sums, counts)


def _correlation(records: Sequence[dict[str, Any]], region: str, which: str) -> ShellCorrelation:
    """The mean curve; of correlations with the truth also over both realisations."""
    parts = [record["fsc"][region] for record in records]
    rows = np.concatenate([np.atleast_2d(part[which]) for part in parts])
    frequencies, counts = (np.mean([part[key] for part in parts], axis=0) for key in ("frequencies", "counts"))
    return ShellCorrelation(frequencies, rows.mean(axis=0), counts, float(parts[0]["nyquist"]))


def _noise(records: Sequence[dict[str, Any]]) -> NoisePower:
    parts = [record["nps"] for record in records]
    means = [np.mean([part[key] for part in parts], axis=0) for key in ("frequencies", "density", "volumes")]
    return NoisePower(means[0], means[1], means[2])


def curves(group: Group, direction: str, region: str) -> dict[str, tuple[Array, Array]]:
    """Curves for a picture, name to (x, y): the MTF of the edges and of the truth's, both correlations, noise power."""
    records = group.records
    pair, truth = (_correlation(records, region, which) for which in ("pair", "truth"))
    noise = _noise(records)
    return {
        "mtf": (FREQUENCIES, modulation(_spread(records, direction, "sums"), FREQUENCIES)),
        "mtf of the truth": (FREQUENCIES, modulation(_spread(records, direction, "truth"), FREQUENCIES)),
        "pair": (pair.frequencies, pair.correlation),
        "truth": (truth.frequencies, truth.correlation),
        "noise": (noise.frequencies, noise.density),
    }


def _read(records: Sequence[dict[str, Any]], direction: str, region: str) -> dict[str, float]:
    after, before = (modulation(_spread(records, direction, which), FREQUENCIES) for which in ("sums", "truth"))
    pair, truth = (_correlation(records, region, which) for which in ("pair", "truth"))
    noise = _noise(records)
    told = {
        "mtf50": falls_to(0.5, FREQUENCIES, after),
        "mtf10": falls_to(0.1, FREQUENCIES, after),
        "mtf50_truth": falls_to(0.5, FREQUENCIES, before),
        "mtf10_truth": falls_to(0.1, FREQUENCIES, before),
        "fsc_pair_0143_mm": _mm(resolution(pair, FIXED)),
        "fsc_pair_half_bit_mm": _mm(resolution(pair, bits(pair.counts, 0.5, halves=False))),
        "fsc_pair_one_bit_mm": _mm(resolution(pair, bits(pair.counts, 1, halves=False))),
        "fsc_truth_05_mm": _mm(resolution(truth, FIXED_TRUTH)),
        "fsc_truth_half_bit_mm": _mm(resolution(truth, bits(truth.counts, 0.5, against_truth=True))),
        "fsc_truth_one_bit_mm": _mm(resolution(truth, bits(truth.counts, 1, against_truth=True))),
        "noise_percent": 100 * math.sqrt(float(noise.variance)),
        "noise_frequency": float(noise.mean_frequency),
    }
    for share in _SHARES:
        at = int(np.argmin(np.abs(FREQUENCIES - share)))
        told[f"transfer_{100 * share:.0f}"] = float(after[at] / before[at])
    return told


def _mm(frequency: float) -> float:
    return 1 / frequency if frequency > 0 else math.inf


def figures(group: Group, direction: str, region: str, *, draws: int) -> dict[str, Figure]:
    """Sharpness, noise and resolution of a method with intervals over scans.

    Args:
        group: its records.
        direction: of the edges, ``all``, ``across`` or ``within``.
        region: of the correlations, ``all``, ``first`` or ``third``.
        draws: of the bootstrap.
    """
    records = group.records
    told = _read(records, direction, region)
    rng = np.random.default_rng(0)
    drawn = [
        _read([records[n] for n in rng.integers(len(records), size=len(records))], direction, region)
        for _ in range(draws if len(records) > 1 else 0)
    ]
    return {name: _figure(value, [each[name] for each in drawn]) for name, value in told.items()}


def _figure(value: float, drawn: Sequence[float]) -> Figure:
    if not math.isfinite(value):
        return Figure(None)
    finite = np.asarray([each for each in drawn if math.isfinite(each)])
    if finite.size < 2 or finite.size < 0.9 * len(drawn):
        return Figure(value)
    low, high = np.percentile(finite, _PERCENTILES) - finite.mean() + value
    return Figure(value, float(low), float(high))


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """Responses to one size at one contrast: (places, realisations, channels) with and without the signal."""

    keys: tuple[tuple[int, int], ...]
    present: Array
    absent: Array
    recovered: Array

    def at(self, index: NDArray[np.intp]) -> Seen:
        """Some places, perhaps more than once."""
        keys = tuple(self.keys[n] for n in index)
        return Seen(keys, self.present[index], self.absent[index], self.recovered[index])


def _seen(group: Group, size: float, sigmas: float) -> Seen:
    rows: dict[tuple[int, int], list[dict[str, Any]]] = {}
    for record in group.records:
        for sample in record["samples"]:
            if (sample["diameter_mm"], sample["sigmas"]) == (size, sigmas):
                rows.setdefault((sample["scan"], sample["place"]), []).append(sample)
    keys = tuple(sorted(rows))
    each = [sorted(rows[key], key=lambda s: int(s["realisation"])) for key in keys]
    present, absent = (np.array([[s[k] for s in place] for place in each]) for k in ("present", "absent"))
    return Seen(keys, present, absent, np.array([[s["recovered"] for s in place] for place in each]))


def _dprime(seen: Seen, columns: tuple[int, int], anatomy: str) -> float:
    """d′; with unknown anatomy the root mean square of that of each realisation, in which all places differ."""
    first, last = columns
    present, absent = seen.present[..., first:last], seen.absent[..., first:last]
    places, realisations, count = present.shape
    if anatomy == "known":
        names = np.repeat(np.arange(places), realisations)
        pair = (present.reshape(-1, count), absent.reshape(-1, count))
        return detectability(*pair, groups=names).value
    squares = [detectability(present[:, n], absent[:, n]).value ** 2 for n in range(realisations)]
    return math.sqrt(float(np.mean(squares)))


def dprimes(found: Sequence[Group], base: str) -> list[dict[str, Any]]:
    """d′ of each method of one task for each signal and observer, and its ratio to that of one method.

    Args:
        found: the groups of one task.
        base: the method that ratios are to; they are read on the places that both saw.

    Returns:
        A row for each method, observer, knowledge of the anatomy, size and contrast, with figures as three numbers
        (value, low, high); a method that ratios are to has none.
    """
    setup = found[0].setup
    by_name = {group.method: group for group in found}
    rows: list[dict[str, Any]] = []
    for size in setup["sizes_mm"]:
        for sigmas in setup["sigmas"]:
            seen = {name: _seen(group, size, sigmas) for name, group in by_name.items()}
            for name, mine in seen.items():
                shared = sorted(set(mine.keys) & set(seen[base].keys))
                ours = _chosen(mine, shared)
                both = [ours, ours if name == base else _chosen(seen[base], shared)]
                for observer, columns in OBSERVERS.items():
                    for anatomy in ANATOMY:
                        row = {
                            "method": name,
                            "observer": observer,
                            "anatomy": anatomy,
                            "size_mm": size,
                            "sigmas": sigmas,
                            "places": len(mine.keys),
                            "recovered": float(mine.recovered.mean()) if mine.keys else None,
                        }
                        rows.append(row | _told(mine, both, columns, anatomy))
    return rows


def _chosen(seen: Seen, keys: Sequence[tuple[int, int]]) -> Seen:
    places = {key: n for n, key in enumerate(seen.keys)}
    return seen.at(np.array([places[key] for key in keys], dtype=np.intp))


def _told(mine: Seen, both: Sequence[Seen], columns: tuple[int, int], anatomy: str) -> dict[str, Any]:
    enough = 2 * (columns[1] - columns[0] + _FREEDOM)  # so that half of the places, a scan of two, can be left out
    none: dict[str, Any] = {"dprime": [None] * 3, "ratio": [None] * 3}
    if len(mine.keys) < enough:
        return none

    def value(seen: Seen) -> float:
        return _dprime(seen, columns, anatomy)

    def ratio(pair: Sequence[Seen]) -> float:
        first, second = (value(seen) for seen in pair)
        return first / second if second > 0 else math.inf

    told = _with_interval(lambda index: value(mine.at(index)), mine.keys)
    if both[0] is both[1] or len(both[0].keys) < enough:
        return none | {"dprime": told}
    against = _with_interval(lambda index: ratio([seen.at(index) for seen in both]), both[0].keys)
    return {"dprime": told, "ratio": against}


def _with_interval(value: Callable[[NDArray[np.intp]], float], keys: Sequence[tuple[int, int]]) -> list[float | None]:
    """A figure above 0 of some places and its 95 % interval, from its logarithm with a scan left out at a time."""
    of = np.array([scan for scan, _ in keys])
    scans = np.unique(of)
    figure = value(np.arange(len(keys)))
    without = np.array([value(np.flatnonzero(of != scan)) for scan in scans] if scans.size > 1 else [])
    if not math.isfinite(figure):
        return [None] * 3
    if not without.size or not all(math.isfinite(each) and each > 0 for each in (figure, *without)):
        return [figure, None, None]
    logs = np.log(without)
    reach = stats.t.ppf(0.975, scans.size - 1) * math.sqrt((scans.size - 1) * float(logs.var()))
    return [figure, figure * math.exp(-reach), figure * math.exp(reach)]
