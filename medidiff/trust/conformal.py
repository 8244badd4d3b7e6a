"""Conformal risk control over patients: how wide intervals must be to miss no more than a share of a new one.

Angelopoulos, Bates, Fisch, Lei, Schuster, "Conformal Risk Control", ICLR 2024 (arXiv 2208.02814), theorem 1. A
patient's loss at reach λ is the share of the voxels (or blocks) outside ``m ± λ u``, at most B. It falls with λ, and
patients are exchangeable. Of n patients with mean loss R(λ) take::

    λ̂ = the least λ with  (n R(λ) + B) / (n + 1) ≤ α          then  E[loss of a new patient at λ̂] ≤ α

*The bound B.* A loss is at most 1, but with B = 1 and ten patients the rule wants 99 % coverage of them to promise
90 %: it prepares for a new patient who is missed altogether. Losses are therefore capped: ``min(share outside, B)``
with ``B = 2 α`` unless said otherwise. The theorem holds for the capped loss as it stands; what it says is "on average
over patients at least 90 % of the voxels are inside, where a patient with more than 20 % outside counts as 20 %". With
B = 1 it says so without the last clause. Expected coverage is then about ``1 - α + (B - α)/n``.

*How many patients.* Without a cap nothing can be promised from fewer than ``⌈1/α⌉ - 1``: 9 for 90 %. The cap would
allow fewer, but a few patients say nothing of the one in ten who is otherwise, so the number is kept.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from medidiff.errors import SettingsError
from medidiff.trust.tally import REACHES

__all__ = ["cap_of", "controlled", "needed"]


def needed(share: float) -> int:
    """Fewest patients from whom a share of coverage can be promised.

    Example:
        >>> needed(0.8), needed(0.9), needed(0.95)
        (4, 9, 19)
    """
    return max(2, math.ceil(1 / (1 - share) - 1e-9) - 1)


def cap_of(share: float) -> float:
    """B unless said otherwise: twice what may be missed."""
    return min(1.0, 2 * (1 - share))


def controlled(outside: NDArray[np.float64], *, share: float, cap: float) -> float:
    """λ̂, the least of `REACHES` that keeps the risk.

    Args:
        outside: (n, 1024) by patient, the share of scores above each of `REACHES`.
        share: that is to be inside, 1 - α.
        cap: B.

    Raises:
        SettingsError: ``E-PATIENTS``, too few patients; ``E-CALIBRATION``, no interval is wide enough.
    """
    patients, alpha = len(outside), 1 - share
    if patients < needed(share):
        found, wanted = f"{patients} patients for {share:.4g} coverage", f"at least {needed(share)}"
        raise SettingsError("E-PATIENTS", found, wanted=wanted, mend="Add patients, or ask for a smaller share.")
    risk = (np.minimum(outside, cap).sum(axis=0) + cap) / (patients + 1)
    kept = np.flatnonzero(risk <= alpha + 1e-12)
    if not kept.size:
        found = "errors so far beyond the spread of the draws that no interval holds them"
        raise SettingsError("E-CALIBRATION", found, mend="Check that clean and degraded scans belong together.")
    return float(REACHES[kept[0]])
