"""A share that was counted, with its interval."""

from __future__ import annotations

from scipy import stats

__all__ = ["wilson"]


def wilson(hits: int, n: int) -> tuple[float, float]:
    """95 % interval of a share (Wilson, JASA 22:209, 1927)."""
    found = stats.binomtest(hits, n).proportion_ci(0.95, method="wilson")
    return float(found.low), float(found.high)
