"""What a scan says beyond its answer and beyond its noise, to be given back to the answer: `unexplained`, `on_average`.

For the former the residual is cut into bands, the differences of its averages over blobs of growing size, and of each
band those places are kept that noise hardly reaches: thresholding in the significant support of a multiresolution
transform (Starck & Murtagh 1994, A&A 288:342), with the sizes that the report looks for. For the latter it is averaged
over so many voxels that hardly any noise is left.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import torch
from torch import Tensor

from medidiff.trust.holding import Evidence
from medidiff.trust.report import DIAMETERS_MM, tissue
from medidiff.trust.residual import Kernel, averaged, blurred, darkened, gaussian_kernel, standardised

__all__ = ["on_average", "unexplained"]

_FARTHEST = 4.0  # standard deviations: what is further off is a spike, and no blob is to be made of it


def unexplained(evidence: Evidence, answer: Tensor, *, beyond: float) -> tuple[Tensor, Tensor]:
    """The part of the residual in the tissue that noise does not explain, and where the tissue is.

    Both are (1, 1, I, J, K), the former in the unit of the scan.

    Args:
        evidence: what was measured.
        answer: (1, 1, X, Y, Z) on the grid that the operator sees, in the unit of the scan.
        beyond: standard deviations of what noise does in a band.
    """
    deviates, inside, level = _residual(evidence, answer)
    # Rounded, so that a geometry that went through a file's single precision gives the same bits.
    kernels = [gaussian_kernel([round(d / 4 / s, 4) for s in evidence.geometry.spacing_mm]) for d in DIAMETERS_MM]
    means = [blurred(deviates, kernel) for kernel in kernels]
    found = _further(means[-1], beyond * _gain(kernels[-1]))
    for (fine, narrow), (coarse, wide) in itertools.pairwise(zip(means, kernels, strict=True)):
        found += _further(fine - coarse, beyond * _gain(narrow, wide))
    return (torch.where(inside, found, 0) * level)[None, None], inside[None, None]


def on_average(evidence: Evidence, answer: Tensor, *, voxels: float) -> Tensor:
    """The residual in the tissue with its fine detail left out; (1, 1, I, J, K) in the unit of the scan.

    White noise keeps ``(2 √π s)⁻³`` of its power there, with s voxels along every axis: 0.7 % with 1.5.

    Args:
        evidence: what was measured.
        answer: (1, 1, X, Y, Z) on the grid that the operator sees, in the unit of the scan.
        voxels: standard deviation of the Gaussian that leaves detail out.
    """
    deviates, inside, level = _residual(evidence, answer)
    mean = averaged(deviates.clamp(-_FARTHEST, _FARTHEST), inside, gaussian_kernel([voxels] * 3))
    return (torch.where(inside, mean, 0) * level)[None, None]


def _residual(evidence: Evidence, answer: Tensor) -> tuple[Tensor, Tensor, float | Tensor]:
    """Deviates of the scan from the answer in the tissue, where that is, (I, J, K), and the level of the noise."""
    scan, seen = evidence.scan[0, 0], evidence.operator(answer)[0, 0]
    level = evidence.level[0, 0] if isinstance(evidence.level, Tensor) else evidence.level
    inside = tissue(scan, seen, measured=evidence.measured, air=evidence.air)
    dark = evidence.rician and darkened(scan, seen, level, inside=inside)
    deviates = standardised(scan, seen, level, rician=evidence.rician, darkened=dark)
    return torch.where(inside, deviates, 0), inside, level


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
