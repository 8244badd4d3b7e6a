"""A figure about two sets of cases with its interval and its floor: `measure` and `Measured`.

A set of scans is small, so a figure alone says little. Each comes with

* an *interval*: the bootstrap over cases (a case is the unit, never a voxel or a pair), 95 %. A case that is drawn
  twice is still one case: statistics get the case's number and leave pairs of copies out. What bias the copies leave
  is taken out by centring the drawn figures on the figure itself;
* a *floor*: the same figure for two disjoint halves of the real cases, over many random halvings. No synthetic set
  can be asked to be nearer to the real cases than these are to one another.

A statistic that depends on the number of cases (all but the unbiased ones do) is read at one size for the figure and
for its floor (`matched`); its interval is then that of sets of that size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from medidiff.errors import SettingsError

__all__ = ["Cases", "Measured", "Statistic", "measure"]

Cases = NDArray[np.intp]
Statistic = Callable[[Cases, Cases], float]
"""Numbers of real and of judged cases to a figure; a number may stand there twice."""

_LEVEL = (2.5, 97.5)  # percentiles of a 95 % interval


@dataclass(frozen=True, slots=True)
class Measured:
    """A figure about a synthetic set.

    Args:
        value: the figure.
        low: lower end of its 95 % interval over cases.
        high: upper end.
        n_real: real cases that it compares with.
        n_synthetic: synthetic cases that were judged.
        floor: the figure of two halves of the real cases.
        floor_low: 2.5th percentile of that over halvings.
        floor_high: 97.5th percentile.
        n_floor: cases in each half.
    """

    value: float
    low: float
    high: float
    n_real: int
    n_synthetic: int
    floor: float
    floor_low: float
    floor_high: float
    n_floor: int


def measure(
    statistic: Statistic,
    real: Sequence[int] | Cases,
    synthetic: Sequence[int] | Cases,
    *,
    halved: Sequence[int] | Cases | None = None,
    matched: bool = False,
    centre: Literal["mean", "rms"] = "mean",
    resamples: int = 200,
    halvings: int = 100,
    seed: int = 0,
) -> Measured:
    """Read a statistic of two sets, its interval over cases, and its floor.

    Args:
        statistic: takes the numbers of real and of judged cases.
        real: numbers of the real cases to compare with.
        synthetic: numbers of the cases to judge.
        halved: real cases that the floor is read on; `real` when None.
        matched: whether both sets are cut to the size of the floor's halves, at random and many times, and the mean is
            reported: for a statistic whose expectation depends on the number of cases.
        centre: what the floor is over the halvings: ``"mean"``, or ``"rms"`` (root mean square) for a statistic that
            is 0 on average where nothing differs, whose mean would be no floor.
        resamples: bootstrap draws.
        halvings: of the real cases.
        seed: of all random choices.

    Raises:
        SettingsError: ``E-CASES``, fewer than 2 cases to judge or to compare with, or fewer than 4 to halve.
    """
    reals, judged = np.asarray(real, dtype=np.intp), np.asarray(synthetic, dtype=np.intp)
    pool = reals if halved is None else np.asarray(halved, dtype=np.intp)
    if min(reals.size, judged.size) < 2 or pool.size < 4 or resamples < 2 or halvings < 1:
        found = f"{reals.size} real cases, {judged.size} to judge, {pool.size} to halve"
        raise SettingsError("E-CASES", found, wanted="at least 2, 2 and 4", mend="Give more scans.")
    size = min(pool.size // 2, reals.size, judged.size) if matched else pool.size // 2
    rng = np.random.default_rng(seed)
    floors = []
    for _ in range(halvings):
        mixed = rng.permutation(pool)
        floors.append(statistic(mixed[:size], mixed[size : 2 * size]))
    sizes = (size, size) if matched else (reals.size, judged.size)
    if matched:
        cut = [(rng.permutation(reals)[:size], rng.permutation(judged)[:size]) for _ in range(halvings)]
        value = float(np.mean([statistic(*pair) for pair in cut]))
    else:
        value = statistic(reals, judged)
    drawn = [statistic(rng.choice(reals, sizes[0]), rng.choice(judged, sizes[1])) for _ in range(resamples)]
    low, high = np.percentile(drawn, _LEVEL) - np.mean(drawn) + value
    middle = float(np.mean(floors)) if centre == "mean" else float(np.sqrt(np.mean(np.square(floors))))
    under, over = np.percentile(floors, _LEVEL)
    return Measured(
        value=value,
        low=float(low),
        high=float(high),
        n_real=int(sizes[0]),
        n_synthetic=int(sizes[1]),
        floor=middle,
        floor_low=float(under),
        floor_high=float(over),
        n_floor=size,
    )
