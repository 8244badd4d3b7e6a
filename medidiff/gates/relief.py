"""What is a brain's own: its difference from the mean brain, without contrast, bias field, size and pose."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medidiff.errors import InputError
from medidiff.gates.align import Mean, affine, laid_over, misfit
from medidiff.gates.brain import Array, brain_of
from medidiff.volume import Volume

__all__ = ["Relief", "relief_of"]

_BLUR_VOXELS = 3.0  # 12 mm: slower changes are bias field and contrast
_FLOOR = 0.05  # of a local standard deviation of ranks
_FEWEST = 50  # voxels in the brain


@dataclass(frozen=True, slots=True, eq=False)
class Relief:
    """A brain's difference from the mean, on the mean's grid.

    Args:
        values: (I, J, K), about 1 in size; 0 outside the brain and where the scan shows none.
        present: (I, J, K), where it shows any.
        agreement: correlation with the mean brain, without sign.
        misfit: distance from the mean brain before the deformation, 0 to 1.5.
    """

    values: Array
    present: NDArray[np.bool_]
    agreement: float
    misfit: float

    @property
    def mirrored(self) -> Relief:
        """The relief of the scan with left and right exchanged, as the mean is symmetrical."""
        return Relief(self.values[::-1], self.present[::-1], self.agreement, self.misfit)


def relief_of(volume: Volume, mean: Mean) -> Relief:
    """The relief of a scan.

    Brightness becomes its rank among the brain's voxels (so every rising change of it is undone, and a falling one is
    turned), the mean is subtracted, and what is left is freed of slow changes and divided by its local spread.

    Raises:
        InputError: ``E-UNJUDGED``, no single scan of a head's size with tissue in it.
    """
    brain = brain_of(volume)
    matrix = affine(brain, mean)
    mask, image = laid_over(brain, mean, matrix)
    present = (mask > 0.5) & mean.inside
    if present.sum() < _FEWEST:
        raise InputError("E-UNJUDGED", "no tissue where the mean brain is", wanted="a brain-extracted T1w scan")
    ranks = np.empty(int(present.sum()), dtype=np.float32)
    ranks[np.argsort(image[present], kind="stable")] = (np.arange(ranks.size) + 0.5) / ranks.size
    agreement = float(np.corrcoef(ranks, mean.image[present])[0, 1])
    ranks = 1 - ranks if agreement < 0 else ranks
    values = np.zeros(mean.image.shape, dtype=np.float32)
    values[present] = 0.5 + ranks - mean.image[present]
    return Relief(_flattened(values, present), present, abs(agreement), misfit(brain, mean, matrix))


def _flattened(values: Array, present: NDArray[np.bool_]) -> Array:
    """Values without slow changes, in units of their local spread."""
    share = np.maximum(_blurred(present.astype(np.float32)), 1e-3)
    flat = np.where(present, values - _blurred(values) / share, 0)
    spread = np.sqrt(np.maximum(_blurred(flat**2) / share, 0))
    return np.where(present, flat / np.maximum(spread, _FLOOR), 0).astype(np.float32)


def _blurred(values: Array) -> Array:
    return np.asarray(ndimage.gaussian_filter(values, _BLUR_VOXELS, mode="constant"), dtype=np.float32)
