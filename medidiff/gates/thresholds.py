"""Where likeness begins: thresholds from brains that are known to be different people's."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats

__all__ = ["FALSE_ALARMS", "FEWEST", "LARGEST_SHARE", "LEVEL", "SAME", "SHIPPED_PEOPLE", "far_quantile", "too_many"]

SAME = 0.6
"""Whole-brain likeness from which two training scans count as one subject's when thresholds are made."""

FALSE_ALARMS = 0.001
"""Chance aimed at that an unseen brain is above the threshold of one measure; there are up to four."""

LARGEST_SHARE = 0.06
"""False alarms that the gate may have in all; what is above it by more than chance is copying."""

LEVEL = 0.01
"""Chance at which a set is refused although no more than that share of its samples are like a training scan."""

FEWEST = 8
"""Different people that a threshold can be made from; with fewer, those shipped with the embedding hold."""

SHIPPED_PEOPLE = 20
"""As many people stand behind a shipped threshold when one is made from others."""


def far_quantile(nearest: Sequence[float], chance: float = FALSE_ALARMS) -> float:
    """The likeness that an unseen brain exceeds with the given chance.

    The likeness to the nearest of many is a maximum, so a Gumbel distribution is fitted, by median and quartiles: one
    odd pair in the training data must not move the threshold.

    Args:
        nearest: of each known-different brain, the likeness to the nearest scan.
        chance: of a false alarm.
    """
    low, middle, high = np.percentile(nearest, (25, 50, 75))
    scale = (high - low) / (np.log(np.log(4)) - np.log(np.log(4 / 3)))
    place = middle + scale * np.log(np.log(2))
    return float(place - scale * np.log(-np.log1p(-chance)))


def too_many(flagged: int, checked: int) -> bool:
    """Whether more samples are like training scans than false alarms explain (one-sided binomial test).

    Example:
        >>> too_many(20, 200), too_many(21, 200), too_many(3, 3)
        (False, True, True)
    """
    return bool(checked and stats.binom.sf(flagged - 1, checked, LARGEST_SHARE) < LEVEL)
