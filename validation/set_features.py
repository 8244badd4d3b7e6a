"""Which features suit a kernel distance: how far each fault stands out from what real scans differ by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from brains import Brain, rows
from set_figures import KINDS, standardised

from medidiff.metrics.kernel import mean_discrepancy, polynomial_kernel

__all__ = ["CANDIDATES", "separations", "table"]

CANDIDATES: dict[str, tuple[str, ...]] = {
    "random convolutions": ("features",),
    "radiomics of three tissues": ("radiomics",),
    "power spectrum (dB)": ("levels",),
    "layout": ("layout",),
    "a kernel of each, averaged": KINDS,
}
"""Fields of `Brain` by what they are called in the table."""


def separations(
    train: Sequence[Brain],
    sets: Mapping[str, Sequence[Brain]],
    halved: Sequence[Brain],
    *,
    halvings: int,
    seed: int = 0,
) -> dict[str, dict[str, float]]:
    """By candidate and set, the KID against the training scans in standard deviations of real-against-real KID.

    The standard deviation is that over halvings of all real scans; 2 is chance, 10 is plain.
    """
    found: dict[str, dict[str, float]] = {}
    for candidate, fields in CANDIDATES.items():
        found[candidate] = {}
        for name, judged in sets.items():
            pool = [*halved, *judged]
            values = [standardised(rows(pool, field), len(halved)) for field in fields]
            kernel = np.mean([polynomial_kernel(each) for each in values], axis=0)
            rng = np.random.default_rng(seed)
            floors = []
            for _ in range(halvings):
                mixed, size = rng.permutation(len(halved)), len(halved) // 2
                floors.append(mean_discrepancy(kernel, mixed[:size], mixed[size : 2 * size]))
            places = np.array([next(p for p, other in enumerate(halved) if other is brain) for brain in train])
            value = mean_discrepancy(kernel, places, np.arange(len(halved), len(pool)))
            found[candidate][name] = value / float(np.std(floors))
    return found


def table(found: Mapping[str, Mapping[str, float]]) -> str:
    """A row for each candidate, a column for each set."""
    names = list(next(iter(found.values())))
    lines = ["| features of the kernel | " + " | ".join(names) + " |", "|---|" + "--:|" * len(names)]
    for candidate, values in found.items():
        lines.append(f"| {candidate} | " + " | ".join(f"{values[name]:.1f}" for name in names) + " |")
    return "\n".join(lines) + "\n"
