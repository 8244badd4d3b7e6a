"""Where a scan shows tissue, and how bright its tissue is: `foreground` and `tissue_maximum`.

Metrics are read inside the one, and "3 % noise" means 3 % of the other; `prepare` scales by it. Both are deterministic
functions of the voxels alone, with no setting to tune, so that two people always speak of one mask and one scale.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from medidiff.errors import InputError

__all__ = ["foreground", "tissue_maximum"]

_SMOOTHING_VOXELS = 1.5  # standard deviation: noise must not open holes in tissue, nor join air to it
_BINS = 256
_CLOSING_STEPS = (1, 2, 3)  # make a cube of 1 + 1 + 2 + 3 voxels a side for the closing: a narrower gap is bridged
_CEILING = 99.5  # percentile: a few bright vessels or fat voxels must not stretch the histogram
_TISSUE_PERCENTILE = 99.0


def foreground(image: ArrayLike, *, measured: ArrayLike | None = None) -> NDArray[np.bool_]:
    """The largest connected piece of tissue in a scan, without holes.

    Otsu's threshold (IEEE Trans. SMC 9:62, 1979, eq. 18) on the smoothed scan, the largest component that touches over
    faces, gaps up to six voxels wide closed (sulci and ventricles belong to the brain), and every cavity that does not
    reach the border of the scan. On a brain-extracted scan that is the brain; on a head, what the scalp encloses as far
    as the field of view lets it close.

    Args:
        image: (I, J, K) finite real numbers, any unit, tissue brighter than what surrounds it.
        measured: (I, J, K), true where the numbers may decide on the threshold; None for everywhere.

    Returns:
        (I, J, K) mask, true in tissue, never empty.

    Raises:
        InputError: not a volume of finite numbers, or all of one value.

    Example:
        >>> ball = np.zeros((9, 9, 9))
        >>> ball[2:7, 2:7, 2:7] = 1
        >>> bool(foreground(ball)[4, 4, 4]), bool(foreground(ball)[0, 0, 0])
        (True, False)
    """
    volume = _volume(image)
    where = Ellipsis if measured is None else np.asarray(measured, dtype=bool)
    if where is not Ellipsis and (where.shape != volume.shape or not where.any()):
        found = f"mask of shape {where.shape}, {int(where.sum())} voxels"
        raise InputError("E-MASK", found, wanted=f"{volume.shape}")
    # Clipped before smoothing: one wild voxel would otherwise become a bright blob.
    clipped = np.minimum(volume, np.percentile(volume[where], _CEILING))
    smooth = ndimage.gaussian_filter(clipped, _SMOOTHING_VOXELS, truncate=3.0)
    if smooth.min() >= smooth.max():
        raise InputError("E-FLAT", "all voxels have one value", wanted="tissue and background", mend="Check the scan.")
    return _filled(_closed(_largest(smooth > _otsu(smooth[where]))))


def tissue_maximum(image: ArrayLike, mask: ArrayLike) -> float:
    """The brightness called 100 %: the 99th percentile inside a mask, in the scan's own units.

    Args:
        image: (I, J, K) finite real numbers.
        mask: (I, J, K), true in tissue, as from `foreground`.

    Raises:
        InputError: the mask has another shape or is empty, or the tissue is not above 0.
    """
    volume, inside = _volume(image), np.asarray(mask, dtype=bool)
    if inside.shape != volume.shape or not inside.any():
        raise InputError(
            "E-MASK", f"mask of shape {inside.shape}, {int(inside.sum())} voxels", wanted=f"{volume.shape}"
        )
    scale = float(np.percentile(volume[inside], _TISSUE_PERCENTILE))
    if scale <= 0:
        raise InputError("E-SCALE", f"a tissue maximum of {scale:.4g}", wanted="above 0", mend="Shift the scan first.")
    return scale


def _volume(image: ArrayLike) -> NDArray[np.float32]:
    volume = np.asarray(image)
    if volume.ndim != 3 or volume.size == 0 or volume.dtype.kind not in "biuf":
        raise InputError("E-SHAPE", f"data of shape {volume.shape}, {volume.dtype}", wanted="(I, J, K) real numbers")
    volume = volume.astype(np.float32, copy=False)
    if not np.isfinite(volume).all():
        raise InputError("E-NONFINITE", "voxels that are not finite", mend="Replace NaN and infinity first.")
    return volume


def _otsu(values: NDArray[np.float32]) -> float:
    """The threshold with the largest variance between the two classes that it makes."""
    counts, edges = np.histogram(values, bins=_BINS)
    centres = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)[:-1]  # Otsu's omega(k) and mu(k), times the number of voxels
    first = np.cumsum(counts * centres)[:-1]
    total, mean = counts.sum(), (counts * centres).sum() / counts.sum()
    between = (mean * below - first) ** 2 / np.maximum(below * (total - below), 1)
    # Between two separate classes every threshold is as good: the middle of the plateau favours neither.
    best = np.flatnonzero(between >= between.max() * (1 - 1e-9))
    return float(edges[1:-1][best].mean())


def _largest(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    labels, _ = ndimage.label(mask)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return np.asarray(labels == sizes.argmax())


def _closed(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The mask after a morphological closing with a cube; padded, so that tissue cut by the field of view stays."""
    grown = np.pad(mask, sum(_CLOSING_STEPS))
    for join in (np.logical_or, np.logical_and):
        for axis in range(3):
            along = np.moveaxis(grown, axis, 0)
            for step in _CLOSING_STEPS:  # of two windows that overlap or touch, the one that holds both
                along = join(along[:-step], along[step:])
            grown = np.moveaxis(along, 0, axis)
    return grown


def _filled(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The mask with its cavities: all that the border of the array cannot reach through the background."""
    labels, count = ndimage.label(~mask)
    open_air = np.zeros(count + 1, dtype=bool)
    for axis in range(3):
        for side in (0, -1):
            open_air[np.unique(labels.take(side, axis=axis))] = True
    open_air[0] = False  # label 0 is the mask itself
    return np.asarray(~open_air[labels])
