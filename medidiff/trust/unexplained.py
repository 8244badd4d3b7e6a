"""What a scan says beyond its answer and beyond its noise: `unexplained`, to be given back to the answer.

The residual is cut into bands, the differences of its averages over blobs of growing size, and of each band those
places are kept that noise hardly reaches: thresholding in the significant support of a multiresolution transform
(Starck & Murtagh 1994, A&A 288:342), with the sizes that the report looks for.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import torch
from torch import Tensor

from medidiff.trust.holding import Evidence
from medidiff.trust.report import DIAMETERS_MM, tissue
from medidiff.trust.residual import Kernel, blurred, gaussian_kernel, standardised

__all__ = ["unexplained"]


def unexplained(evidence: Evidence, answer: Tensor, *, beyond: float) -> tuple[Tensor, Tensor]:
    """The part of the residual in the tissue that noise does not explain, and where the tissue is.

    Both are (1, 1, I, J, K), the former in the unit of the scan.

    Args:
        evidence: what was measured.
        answer: (1, 1, X, Y, Z) on the grid that the operator sees, in the unit of the scan.
        beyond: standard deviations of what noise does in a band.
    """
    scan, seen = evidence.scan[0, 0], evidence.operator(answer)[0, 0]
    level = evidence.level[0, 0] if isinstance(evidence.level, Tensor) else evidence.level
    inside = tissue(scan, seen, measured=evidence.measured, air=evidence.air)
    deviates = torch.where(inside, standardised(scan, seen, level, rician=evidence.rician), 0)
    # Rounded, so that a geometry that went through a file's single precision gives the same bits.
    kernels = [gaussian_kernel([round(d / 4 / s, 4) for s in evidence.geometry.spacing_mm]) for d in DIAMETERS_MM]
    means = [blurred(deviates, kernel) for kernel in kernels]
    found = _further(means[-1], beyond * _gain(kernels[-1]))
    for (fine, narrow), (coarse, wide) in itertools.pairwise(zip(means, kernels, strict=True)):
        found += _further(fine - coarse, beyond * _gain(narrow, wide))
    return (torch.where(inside, found, 0) * level)[None, None], inside[None, None]


def _further(band: Tensor, least: float) -> Tensor:
    return torch.where(band.abs() > least, band, 0)


def _gain(kernel: Kernel, less: Kernel | None = None) -> float:
    """Standard deviation of white noise of 1 that was filtered, with one kernel or with the difference of two."""
    power = math.prod(_product(w, w) for w in kernel)
    if less is None:
        return math.sqrt(power)
    both = math.prod(_product(a, b) for a, b in zip(kernel, less, strict=True))
    return math.sqrt(max(power - 2 * both + math.prod(_product(w, w) for w in less), 0.0))


def _product(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    """Inner product of two sets of weights about the same middle."""
    size = max(len(one), len(other))
    a, b = (np.pad(np.asarray(w), (size - len(w)) // 2) for w in (one, other))
    return float(a @ b)
