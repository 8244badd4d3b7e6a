"""The figures about sets of brains, each with its interval and its floor, and how they read in a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from brains import AIR, EDGES, TISSUES, Brain, rows
from numpy.typing import NDArray

from medidiff.metrics.diversity import mean_similarity, similarities
from medidiff.metrics.frechet import frechet
from medidiff.metrics.kernel import mean_discrepancy, polynomial_kernel
from medidiff.metrics.measured import Cases, Measured, Statistic, measure
from medidiff.metrics.neighbours import distances, neighbourhood
from medidiff.metrics.spectrum import band_difference_db
from medidiff.metrics.tissues import wasserstein

__all__ = [
    "FIGURES",
    "Figure",
    "Likeness",
    "Shells",
    "compared",
    "condition_figures",
    "held",
    "markdown",
    "metric_names",
    "standardised",
]

NEIGHBOUR = 3  # few cases: at the fifth nearly every ball holds something
SHRINKAGE = 0.5
KINDS = ("features", "radiomics", "levels", "layout")
"""Of features, fields of `Brain`: KID averages a kernel of each, and neighbours are near in all of them together."""
BANDS = ((0.0125, 0.1), (0.1, 0.2), (0.2, 0.35), (0.35, 0.5))  # cycles per mm
MOST_FLOORS, MOST_UNLIKE = 2.0, 0.05
_PAIRED = 48  # cases of a set whose MS-SSIM is read: pairs grow with the square


@dataclass(frozen=True, slots=True)
class Figure:
    """How a figure is called, read and judged.

    Args:
        name: in tables.
        digits: after the point.
        matched: whether it depends on the number of cases and is read at the floor's.
        centre: of the floor, as in `measure`.
        target: what is aimed at, ``"2 floors"``, ``"0.05"`` or empty.
    """

    name: str
    digits: int = 3
    matched: bool = True
    centre: str = "mean"
    target: str = ""


@dataclass(frozen=True, slots=True)
class Shells:
    """Where spectra were read, in cycles per mm, and the bands that are told of them.

    Args:
        edges: of the shells.
        bands: lowest and highest frequency of each.
    """

    edges: tuple[float, ...] = EDGES
    bands: tuple[tuple[float, float], ...] = BANDS

    @property
    def figures(self) -> tuple[Figure, ...]:
        """All figures, in the order of tables."""
        return (
            Figure("KID", 4, matched=False, centre="rms", target="2 floors"),
            Figure("MS-SSIM in the set", 3, matched=False, target="0.05"),
            Figure("precision"),
            Figure("recall"),
            Figure("density"),
            Figure("coverage"),
            *(Figure(_power(band), 2, matched=False, centre="rms") for band in self.bands),
            Figure("spectra apart (dB)", 2),
            *(Figure(f"Wasserstein of {tissue} (ml)", 1) for tissue in (*TISSUES, "brain")),
            Figure("radiomic Fréchet", 2),
            Figure("FID (biased)", 1),
        )


def _power(band: tuple[float, float]) -> str:
    return f"power {band[0]:g} to {band[1]:g} per mm (dB)"


_FINE = Shells()
FIGURES = _FINE.figures


def compared(
    real: Sequence[Brain],
    judged: Sequence[Brain],
    *,
    halved: Sequence[Brain],
    resamples: int,
    halvings: int,
    seed: int = 0,
    likeness: Likeness | None = None,
    shells: Shells = _FINE,
) -> dict[str, Measured]:
    """All figures of a set against real scans.

    Args:
        real: to compare with; any of them may be in `halved` too.
        judged: the set.
        halved: the real scans that floors are read on.
        resamples: bootstrap draws.
        halvings: of the floor.
        seed: of all random choices.
        likeness: keeps the MS-SSIM of sets that come again.
        shells: of the spectra that were kept.

    Raises:
        SettingsError: ``E-CASES``, too few scans.
    """
    pool = [*halved, *(brain for brain in real if all(brain is not other for other in halved)), *judged]
    places = {id(brain): place for place, brain in enumerate(pool)}
    numbers = [[places[id(brain)] for brain in part] for part in (real, judged, halved)]
    paired = numbers[1][:_PAIRED]
    alike = (likeness or Likeness()).between([numbers[2], paired], pool)
    statistics = _statistics(pool, len(halved), alike, shells)
    return {
        figure.name: measure(
            statistics[figure.name],
            numbers[0],
            paired if figure.target == "0.05" else numbers[1],
            halved=numbers[2],
            matched=figure.matched,
            centre="rms" if figure.centre == "rms" else "mean",
            resamples=resamples,
            halvings=halvings,
            seed=seed,
        )
        for figure in shells.figures
    }


def _statistics(pool: Sequence[Brain], fixed: int, alike: NDArray[np.float64], shells: Shells) -> dict[str, Statistic]:
    """The figures as functions of cases of a pool; features are standardised by its first `fixed` cases."""
    kinds = {name: standardised(rows(pool, name), fixed) for name in KINDS}
    features, textures = kinds["features"], kinds["radiomics"]
    kernel = np.mean([polynomial_kernel(values) for values in kinds.values()], axis=0)
    distance = distances(np.column_stack([values / np.sqrt(values.shape[1]) for values in kinds.values()]))
    spectra, volumes = rows(pool, "spectrum"), rows(pool, "volumes")
    volumes = np.column_stack((volumes, volumes.sum(axis=1)))
    found: dict[str, Statistic] = {
        "KID": lambda a, b: mean_discrepancy(kernel, a, b),
        "MS-SSIM in the set": lambda a, b: mean_similarity(alike, b),
        "spectra apart (dB)": lambda a, b: float(np.sqrt(np.square(band_difference_db(spectra[a], spectra[b])).mean())),
        "radiomic Fréchet": lambda a, b: frechet(textures[a], textures[b], shrinkage=SHRINKAGE),
        "FID (biased)": lambda a, b: frechet(features[a], features[b]),
    }
    for share in ("precision", "recall", "density", "coverage"):
        found[share] = lambda a, b, share=share: _share(distance, a, b, share)
    middles = (np.asarray(shells.edges[1:]) + np.asarray(shells.edges[:-1])) / 2
    for band in shells.bands:
        inside = (middles >= band[0]) & (middles < band[1])
        found[_power(band)] = lambda a, b, inside=inside: float(
            band_difference_db(spectra[a], spectra[b])[inside].mean()
        )
    for column, tissue in enumerate((*TISSUES, "brain")):
        found[f"Wasserstein of {tissue} (ml)"] = lambda a, b, c=column: wasserstein(volumes[a, c], volumes[b, c])
    return found


def _share(distance: NDArray[np.float64], real: Cases, judged: Cases, name: str) -> float:
    """One of the four shares; a bootstrap draw of very few different cases has nearer neighbours only."""
    k = min(NEIGHBOUR, len(np.unique(real)) - 1, len(np.unique(judged)) - 1)
    return float(getattr(neighbourhood(distance, real, judged, k=k), name)) if k else 0.0


class Likeness:
    """MS-SSIM between the scans of each set that was asked for, read once."""

    def __init__(self) -> None:
        self.known: dict[tuple[int, ...], tuple[Sequence[Brain], NDArray[np.float64]]] = {}

    def of(self, brains: Sequence[Brain]) -> NDArray[np.float64]:
        """(n, n) table of a set; the set is kept, so that its scans stay who they are."""
        key = tuple(map(id, brains))
        if key not in self.known:
            scans = [brain.coarse for brain in brains]
            found = similarities(scans, masks=[scan > AIR for scan in scans], data_range=1.0)
            self.known[key] = list(brains), found
        return self.known[key][1]

    def between(self, groups: Sequence[Sequence[int]], pool: Sequence[Brain]) -> NDArray[np.float64]:
        """(n, n) table of a pool, known within each group of its places."""
        table = np.full((len(pool), len(pool)), np.nan)
        for group in groups:
            table[np.ix_(group, group)] = self.of([pool[place] for place in group])
        return table


def standardised(features: NDArray[np.float64], fixed: int) -> NDArray[np.float64]:
    """Features with zero mean and unit spread over the first `fixed` rows; those that do not vary there are dropped."""
    spread = features[:fixed].std(axis=0)
    kept = spread > 1e-9 * np.abs(features[:fixed]).max()
    return (features[:, kept] - features[:fixed, kept].mean(axis=0)) / spread[kept]


def held(figure: Figure, found: Measured) -> str:
    """Whether a target is met, in words; empty where there is none."""
    if figure.target == "2 floors":
        return (
            f"{'met' if found.value <= MOST_FLOORS * found.floor else 'missed'}: {found.value / found.floor:.1f} floors"
        )
    if figure.target == "0.05":
        apart = found.value - found.floor
        return f"{'met' if abs(apart) <= MOST_UNLIKE else 'missed'}: {apart:+.3f}"
    return ""


def markdown(found: Mapping[str, Measured], heading: str) -> str:
    """The table of one comparison."""
    lines = [
        heading,
        "",
        "| figure | value | 95 % interval | floor: real against real | its range | n real, judged, half | target |",
        "|---|--:|--:|--:|--:|--:|---|",
    ]
    for figure in FIGURES:
        m, d = found[figure.name], figure.digits
        cells = (
            figure.name,
            f"{m.value:.{d}f}",
            f"{m.low:.{d}f} to {m.high:.{d}f}",
            f"{m.floor:.{d}f}",
            f"{m.floor_low:.{d}f} to {m.floor_high:.{d}f}",
            f"{m.n_real}, {m.n_synthetic}, {m.n_floor}",
            held(figure, m),
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def metric_names(found: Mapping[str, Measured], tail: str) -> dict[str, float]:
    """The figures and floors under names that MLflow takes."""
    out = {}
    for name, m in found.items():
        plain = "".join(c if c.isalnum() and c.isascii() else "_" for c in name.lower().replace("é", "e")).strip("_")
        out[f"{plain}_{tail}"], out[f"{plain}_floor_{tail}"] = m.value, m.floor
    return out


# ---------------------------------------------------------------------------------------------------- conditions


def condition_figures(
    brains: Sequence[Brain], *, resamples: int = 500, seed: int = 0
) -> dict[str, tuple[float, float, float, int]]:
    """What age and sex, asked or told, have to do with the tissue: value, interval over cases, and number of cases.

    Slope of the CSF share per decade of age, difference of the brain's volume between men and women, and, where maps
    came with the scans, the Dice overlap of each tissue with what the classifier finds in the image.
    """
    ages, volumes = np.array([brain.age for brain in brains]), rows(brains, "volumes")
    share, total = volumes[:, 0] / volumes.sum(axis=1), volumes.sum(axis=1)
    sexes = np.array([brain.sex for brain in brains])
    aged, sexed = np.flatnonzero(np.isfinite(ages)), np.flatnonzero(sexes != "")
    found = {}

    def slope(cases: Cases) -> float:
        return float(10 * np.polyfit(ages[cases], 100 * share[cases], 1)[0])

    def difference(cases: Cases) -> float:
        men = sexes[cases] == "M"
        return float(total[cases][men].mean() - total[cases][~men].mean())

    if aged.size > 2 and np.ptp(ages[aged]) > 0:
        found["CSF share per decade of age (% points)"] = _interval(
            slope, aged, lambda c: np.ptp(ages[c]) > 0, resamples, seed
        )
    if len(set(sexes[sexed])) == 2:
        whole = lambda c: len(set(sexes[c])) == 2  # noqa: E731
        found["brain volume, men less women (ml)"] = _interval(difference, sexed, whole, resamples, seed)
    mapped = np.array([place for place, brain in enumerate(brains) if brain.overlap.size])
    for column, tissue in enumerate(TISSUES if mapped.size > 1 else ()):
        values = np.array([brains[place].overlap[column] for place in mapped])
        every = np.arange(mapped.size)
        found[f"Dice of {tissue} with the map"] = _interval(
            lambda c, v=values: float(v[c].mean()), every, lambda c: True, resamples, seed
        )
    return found


def _interval(
    figure: Callable[[Cases], float], cases: Cases, whole: Callable[[Cases], bool], resamples: int, seed: int
) -> tuple[float, float, float, int]:
    """A figure with the percentiles of its bootstrap; draws on which it is not defined are drawn again."""
    rng, drawn = np.random.default_rng(seed), []
    while len(drawn) < resamples:
        chosen = rng.choice(cases, cases.size)
        if whole(chosen):
            drawn.append(figure(chosen))
    low, high = np.percentile(drawn, (2.5, 97.5))
    return figure(cases), float(low), float(high), int(cases.size)
