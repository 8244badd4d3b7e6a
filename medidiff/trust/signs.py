"""What can be seen of a scan and its answer without the truth: whether it is like those of a calibration.

A calibration holds for patients that are exchangeable with those that it was made on. Nothing can prove that of a new
scan, but other noise, another contrast or another sharpness can be seen, and then nothing is claimed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import special
from torch import Tensor

from medidiff.anatomy import foreground
from medidiff.errors import InputError
from medidiff.physics import Separable

__all__ = ["LAW", "MEANINGS", "follows_law", "signs_of", "strange"]

MEANINGS: Mapping[str, str] = {
    "residual": "what the answer leaves of the scan, over the noise level",
    "correlation": "how much neighbours share of that",
    "spread": "the expected error, over the noise level",
    "contrast": "the range of the tissue's brightness",
    "middle": "the middle of the tissue's brightness",
    "sharpness": "the steps between neighbours",
}
LAW = (0.7, 1.5)
"""What `medidiff.physics.estimate.dark_noise` must leave out on either side for a law to be believed: in
validation scans with air the ratio is 0.84 to 1.00 by the right law, at most 0.67 or at least 2.1 by others
(``docs/decisions.md``)."""
_LEAST = 0.01  # standard deviation of a sign from patient to patient: those of a few may be alike by chance
_FALSE_ALARMS = 0.05  # of scans like those of the calibration, over all signs
_TINY = 1e-12


@torch.no_grad()
def signs_of(
    y: Tensor, mean: Tensor, error: NDArray[np.float32], *, operator: Separable, level: float
) -> dict[str, float]:
    """The signs of one scan and its answer; empty where the answer shows no tissue.

    Args:
        y: (i, j, k) the scan, tissue maximum 1.
        mean: (I, J, K) the answer.
        error: (I, J, K) of `medidiff.trust.tally.expected_error`.
        operator: A.
        level: σ_y.
    """
    answer = mean.numpy()
    try:
        mask = foreground(answer)
    except InputError:
        return {}
    inside = torch.from_numpy(mask)
    seen = inside if operator.is_identity else operator(inside.to(mean)) > 0.5
    residual = (y - operator(mean)).masked_fill(~seen, 0.0).double()
    power = float(residual.square().sum()) + _TINY
    shared = [
        float((residual.narrow(axis, 1, n - 1) * residual.narrow(axis, 0, n - 1)).sum()) / power
        for axis, n in enumerate(residual.shape)
        if n > 1
    ]
    dark, middle, bright = np.quantile(answer[mask], (0.1, 0.5, 0.9))
    steps = [np.square(np.diff(answer, axis=axis)).ravel() for axis in range(3)]
    both = [(mask.take(range(1, n), axis) & mask.take(range(n - 1), axis)).ravel() for axis, n in enumerate(mask.shape)]
    step = np.sqrt(np.mean(np.concatenate([each[where] for each, where in zip(steps, both, strict=True)])))
    return {
        "residual": float(np.log(np.sqrt(power / max(int(seen.sum()), 1)) / level)),
        "correlation": float(np.mean(shared)) if shared else 0.0,
        "spread": float(np.log((np.median(error[mask]) + _TINY) / level)),
        "contrast": float(np.log(max(bright - dark, _TINY))),
        "middle": float(middle),
        "sharpness": float(np.log((step + _TINY) / max(bright - dark, _TINY))),
    }


def follows_law(dark: tuple[float, float] | None) -> bool:
    """Whether the noise in dark places is what its law says, and not what another says; not where too little is dark.

    Args:
        dark: of `medidiff.physics.estimate.dark_noise`.
    """
    return dark is not None and LAW[0] <= dark[0] and dark[1] <= LAW[1]


def strange(
    found: Mapping[str, float], mean: Mapping[str, float], std: Mapping[str, float], *, patients: int
) -> list[str]:
    """Names of the signs that lie where those of a calibration's patients would not, the strangest first.

    A sign is strange outside Student's prediction interval for one more patient, ``mean ± t √(1 + 1/n) std``, which one
    scan in twenty leaves that is like them, if signs are Gaussian.

    Args:
        found: the signs of the scan.
        mean: of the patients.
        std: their standard deviation, with n - 1.
        patients: n, at least 2.
    """
    reach = special.stdtrit(patients - 1, 1 - _FALSE_ALARMS / len(mean) / 2) * np.sqrt(1 + 1 / patients)
    off = {name: abs(found[name] - mean[name]) / max(std[name], _LEAST) / reach for name in mean if name in found}
    return sorted((name for name, size in off.items() if not size <= 1), key=lambda name: -off[name])


def means(patients: Sequence[Mapping[str, float]]) -> tuple[dict[str, float], dict[str, float]]:
    """Mean and standard deviation (n - 1) of each sign over patients."""
    each = {name: np.array([signs[name] for signs in patients]) for name in MEANINGS}
    return {n: float(v.mean()) for n, v in each.items()}, {n: float(v.std(ddof=1)) for n, v in each.items()}
