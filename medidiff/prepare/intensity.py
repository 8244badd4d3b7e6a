"""Bring a scan's numbers to the scale that the network knows, and back, from one record."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medidiff.anatomy import foreground, tissue_maximum
from medidiff.errors import InputError
from medidiff.prepare.masks import readable, without_padding
from medidiff.volume import Volume

__all__ = ["IntensityScale", "fit_intensity", "looks_like_hounsfield", "with_filler_marked"]

_HU_AIR = -1024.0
_HU_SPAN = 2048.0  # air to dense bone becomes 0 … 1; nothing is clipped
_HU_FILLER = -1500.0  # no noise in air goes so far below -1000: what is lower fills the corners round the field of view
_HU_AIRY = (-1100.0, -700.0)  # air and lung
_HU_FAT_END = -500.0  # between lung and fat
_FEWEST_AIRY, _MOSTLY = 0.01, 0.6  # shares of all voxels, and of those below fat
_SMOOTH = 2.0  # voxels, of a Gaussian: noise about 0 as strong as a quarter of the tissue maximum is 0.01 of it then
_BELOW = 0.05  # of the brightest: no smoothed magnitude or phase-corrected image lies so far below 0


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
        return _changed(stored, lambda plane: (plane - self.offset) / self.gain)

    def undo(self, scaled: NDArray[np.floating]) -> NDArray[np.float32]:
        """Network scale to stored numbers."""
        return _changed(scaled, lambda plane: plane * self.gain + self.offset)


def _changed(values: NDArray[Any], change: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> NDArray[np.float32]:
    """Values changed in float64 and rounded to float32; a plane at a time, so that no volume is held in float64."""
    values = np.asarray(values)
    answer = np.empty_like(values, dtype=np.float32)
    if values.ndim < 2:
        answer[...] = change(values.astype(np.float64))
        return answer
    slowest = int(np.argmax([stride * (n > 1) for stride, n in zip(values.strides, values.shape, strict=True)]))
    for plane, out in zip(np.moveaxis(values, slowest, 0), np.moveaxis(answer, slowest, 0), strict=True):
        out[...] = change(plane.astype(np.float64))
    return answer


def fit_intensity(volume: Volume) -> IntensityScale:
    """The scale on which this scan's tissue reaches about 1.

    CT has a scale of its own, Hounsfield units, which is kept: ``(HU + 1024) / 2048``, so that air is 0, water 0.5 and
    1024 HU is 1. Both numbers are powers of two: up to 3072 HU, whole HU and steps down to 2^-12 HU come back bit for
    bit, finer ones to 2^-13 HU. Nothing is clipped, metal included. Everything else has arbitrary units: 0 stays 0 and
    the 99th percentile of the tissue becomes 1. Padding and what a repair has filled in have no say.

    Raises:
        InputError: the scan is constant, shows no tissue, or has voxels that are not finite; ``E-SCALE``, its values
            were shifted, so that their 0 is not that of the signal.
    """
    image, where = without_padding(volume)[0], readable(volume)
    if not np.isfinite(image).all():
        raise InputError("E-NONFINITE", "voxels that are not finite numbers", mend="Mend or mask them first.")
    if volume.modality == "CT":
        return IntensityScale(_HU_AIR, _HU_SPAN)
    _refuse_shifted(image, volume)
    tissue = foreground(image, measured=where)
    if where is not None and (tissue & where).any():
        tissue &= where
    return IntensityScale(0.0, float(tissue_maximum(image, tissue)))


def _refuse_shifted(image: NDArray[Any], volume: Volume) -> None:
    """Refuse values below 0 over whole regions: z-scores, a range of -1 to 1, phases, inversion recovery with a sign.

    Noise about 0 and what a resampling leaves below it is gone where neighbours are averaged.
    """
    if float(image.min()) >= 0:
        return
    smooth = ndimage.gaussian_filter(np.asarray(image, dtype=np.float32), _SMOOTH, truncate=2.0)
    low, high = (float(each) for each in np.quantile(smooth, (0.01, 0.99)))
    if low < -_BELOW * abs(high):
        found = f"whole regions at {low:.3g}, where 99 % of the scan lies below {high:.3g}"
        mend = "Give the scan as it was before its values were shifted (z-score, -1 to 1), or add what brings air to 0."
        if volume.modality == "OT" and looks_like_hounsfield(volume):
            mend = 'It looks like a CT: a JSON file beside the scan with "Modality": "CT" says that it is one.'
        raise InputError("E-SCALE", found, wanted="signal from 0 on", mend=mend)


def with_filler_marked(volume: Volume) -> Volume:
    """A CT whose corners outside the field of view are marked as padding, where its file does not mark them.

    Scanners fill them with one value far below air (-2000, -2048, -3024 HU). No other voxel holds that value, and none
    is measured there. Everything else is returned as it is.
    """
    if volume.modality != "CT" or volume.padding is not None:
        return volume
    lowest = volume.data.min()
    if not lowest <= _HU_FILLER:
        return volume
    return dataclasses.replace(volume, padding=(volume.data == lowest).all(axis=0))


def looks_like_hounsfield(volume: Volume) -> bool:
    """Whether the numbers of a scan that does not say its modality are those of a CT.

    True where at least a hundredth of the voxels is darker than fat can be, and most of these hold what air and lung
    do, from -1100 to -700 HU. Phase images of MR are spread evenly instead; magnitude images have nothing below 0.
    """
    dark = volume.data[volume.data < _HU_FAT_END]
    dark = dark[dark > dark.min()] if dark.size and dark.min() <= _HU_FILLER else dark
    if dark.size < _FEWEST_AIRY * volume.data.size or not dark.size:
        return False
    return bool(((dark >= _HU_AIRY[0]) & (dark <= _HU_AIRY[1])).mean() >= _MOSTLY)
