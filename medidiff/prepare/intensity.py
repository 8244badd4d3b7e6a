"""Bring a scan's numbers to the scale that the network knows, and back, from one record."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medidiff.anatomy import foreground, tissue_maximum
from medidiff.errors import InputError
from medidiff.prepare.masks import readable, without_padding
from medidiff.volume import Volume

__all__ = ["IntensityScale", "fit_intensity"]

_HU_AIR = -1024.0
_HU_SPAN = 2048.0  # air to dense bone becomes 0 … 1; nothing is clipped


@dataclass(frozen=True, slots=True)
class IntensityScale:
    """``scaled = (stored - offset) / gain``, exactly reversible up to float32.

    Args:
        offset: stored value that becomes 0.
        gain: stored units that become 1; above 0.
    """

    offset: float
    gain: float

    def apply(self, stored: NDArray[np.generic]) -> NDArray[np.float32]:
        """Stored numbers to network scale."""
        return ((np.asarray(stored, dtype=np.float64) - self.offset) / self.gain).astype(np.float32)

    def undo(self, scaled: NDArray[np.floating]) -> NDArray[np.float32]:
        """Network scale to stored numbers."""
        return (np.asarray(scaled, dtype=np.float64) * self.gain + self.offset).astype(np.float32)


def fit_intensity(volume: Volume) -> IntensityScale:
    """The scale on which this scan's tissue reaches about 1.

    CT has a scale of its own, Hounsfield units, which is kept: -1024 HU becomes 0 and 1024 HU becomes 1. Everything
    else has arbitrary units: 0 stays 0 and the 99th percentile of the tissue becomes 1. Padding and what a repair has
    filled in have no say.

    Raises:
        InputError: the scan is constant or shows no tissue.
    """
    if volume.modality == "CT":
        return IntensityScale(_HU_AIR, _HU_SPAN)
    image, where = without_padding(volume)[0], readable(volume)
    if not np.isfinite(image).all():
        raise InputError("E-NONFINITE", "voxels that are not finite numbers", mend="Mend or mask them first.")
    tissue = foreground(image, measured=where)
    if where is not None and (tissue & where).any():
        tissue &= where
    return IntensityScale(0.0, float(tissue_maximum(image, tissue)))
