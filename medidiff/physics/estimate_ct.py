"""How much noise is in a CT: the spread inside small discs of soft tissue, as most of them have it.

The noise of a CT is not white: the reconstruction kernel takes the highest frequencies out, and what `estimate_noise`
reads there is a share of the level that depends on the kernel. So the whole spread is measured instead, after
Christianson et al. 2015 (doi 10.2214/AJR.14.13613): the standard deviation in a disc of 6 mm round each voxel of soft
tissue, of which the *mode* over the scan is taken. Discs that hold a vessel, a border of fat or a streak have more, and
lie in the tail. What varies more slowly than the disc is wide is not seen.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medidiff.errors import InputError
from medidiff.volume import Geometry

__all__ = ["axial_slices", "estimate_noise_ct"]

_RADIUS_MM = 3.0
_RADIUS_VOXELS = 3.0  # at least: in a smaller disc correlated noise looks like a change of brightness
_SOFT_HU = (-10.0, 110.0)  # muscle, vessels and organs; fat lies below -50
_SMOOTHING_MM = 2.5  # standard deviation of the filter that tissue is told by: noise must not choose the voxels
_SMOOTHING_VOXELS = 2.0  # at least
_FEWEST = 1000  # discs; fewer do not show where most of them lie
_BINS = 200
_BIN_SMOOTHING = 4.0  # bins


def axial_slices(geometry: Geometry) -> tuple[int, tuple[float, float]]:
    """The axis of a grid along the patient, and the two voxel sides in mm across it."""
    along = next(axis for axis, end in enumerate(geometry.orientation) if end in "IS")
    one, two = (size for axis, size in enumerate(geometry.spacing_mm) if axis != along)
    return along, (one, two)


def estimate_noise_ct(hounsfield: NDArray[Any], *, side_mm: float, measured: NDArray[np.bool_] | None = None) -> float:
    """Standard deviation in HU of the noise in soft tissue, whatever its correlation.

    Args:
        hounsfield: (I, J, K), slices along K.
        side_mm: of the voxels of a slice; the mean of the two where they differ.
        measured: (I, J, K), true where the scanner measured; None for everywhere.

    Raises:
        InputError: ``E-NOISELEVEL``, there is too little soft tissue to read it in.
    """
    disc = _disc(max(_RADIUS_MM / side_mm, _RADIUS_VOXELS))
    smoothing = max(_SMOOTHING_MM / side_mm, _SMOOTHING_VOXELS)
    spreads = []
    for k in range(hounsfield.shape[-1]):
        slice_ = np.asarray(hounsfield[..., k], dtype=np.float64)
        soft = _soft(slice_, smoothing) if measured is None else _soft(slice_, smoothing) & measured[..., k]
        spreads.append(_spread(slice_, disc)[ndimage.binary_erosion(soft, disc > 0)])
    spread = np.concatenate(spreads)
    if spread.size < _FEWEST:
        found = f"{spread.size} places of even soft tissue in the CT"
        mend = "Give the level with --noise-level: the standard deviation in HU of a region that should be even."
        raise InputError("E-NOISELEVEL", found, wanted=f"at least {_FEWEST}", mend=mend)
    return _mode(spread)


def _disc(radius: float) -> NDArray[np.float64]:
    reach = int(radius)
    i, j = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    return np.asarray(i**2 + j**2 <= radius**2, dtype=np.float64)


def _soft(slice_: NDArray[np.float64], smoothing: float) -> NDArray[np.bool_]:
    smooth = ndimage.gaussian_filter(slice_, smoothing)
    return np.asarray((smooth > _SOFT_HU[0]) & (smooth < _SOFT_HU[1]))


def _spread(slice_: NDArray[np.float64], disc: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sample standard deviation in the disc round each voxel."""
    count = disc.sum()
    mean, square = (ndimage.correlate(each, disc / count) for each in (slice_, slice_**2))
    return np.asarray(np.sqrt(np.maximum(square - mean**2, 0) * count / (count - 1)))


def _mode(spread: NDArray[np.float64]) -> float:
    """The most frequent value, from a smoothed histogram; 0 where nothing varies."""
    top = float(np.percentile(spread, 99))
    if top <= 0:
        return 0.0
    counts, edges = np.histogram(spread, bins=_BINS, range=(0, top))
    best = int(ndimage.gaussian_filter1d(counts.astype(np.float64), _BIN_SMOOTHING).argmax())
    return float(edges[best] + edges[best + 1]) / 2
