"""How close an image is to a reference, with fixed definitions. The only door of scikit-image.

Every function takes (I, J, K) arrays on one grid and a mask, and returns one float. Nothing is guessed: the mask and,
where the definition has one, the data range (the brightness called 100 %, see `medidiff.anatomy.tissue_maximum`) must
be given. Sums run in float64.

========= ============================================================================= ======== =========
metric    definition, over the voxels v of the mask M                                   best     unit
========= ============================================================================= ======== =========
`psnr`    10 log10(range² / mean (x - r)²)                                              infinity dB
`ssim`    mean of the 3-D SSIM map                                                      1        none
`nrmse`   ‖x - r‖ / ‖r‖                                                                 0        none
`mae`     mean |x - r|                                                                  0        image's
`hfen`    ‖LoG x - LoG r‖ / ‖LoG r‖, LoG of 1.5 voxels                                  0        none
========= ============================================================================= ======== =========

`psnr`, `nrmse` and `mae` do not see voxels outside the mask. `ssim` and `hfen` look through a window, so voxels outside
count where they lie within its reach (5 and 6 voxels along an axis); at the border of the array both mirror the image.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from skimage.metrics import structural_similarity

from medidiff.errors import InputError, SettingsError

__all__ = ["hfen", "mae", "nrmse", "psnr", "ssim"]

_SIGMA_VOXELS = 1.5  # of both windows
_SSIM_TRUNCATE = 3.5  # window radius = round(3.5 * 1.5) = 5 voxels
_SSIM_WINDOW = 11
_LOG_TRUNCATE = 4.0  # radius 6 voxels

_Array = NDArray[np.float64]


def psnr(image: ArrayLike, reference: ArrayLike, *, mask: ArrayLike, data_range: float) -> float:
    """Peak signal-to-noise ratio inside a mask, in dB; infinite when the two are equal there.

    Args:
        image: (I, J, K), what is judged.
        reference: (I, J, K), what it should be, in the same unit.
        mask: (I, J, K), true where it counts.
        data_range: the peak, in the unit of the images, above 0.

    Raises:
        InputError: shapes differ, the mask is empty, or a voxel is not finite.
        SettingsError: the data range is not a finite number above 0.

    Example:
        >>> zeros, all_of_it = np.zeros((2, 2, 2)), np.ones((2, 2, 2), bool)
        >>> round(psnr(zeros + 0.1, zeros, mask=all_of_it, data_range=1.0), 6)
        20.0
    """
    x, r, inside = _checked(image, reference, mask)
    peak = _checked_range(data_range)
    error = float(np.mean((x - r)[inside] ** 2))
    return 10 * math.log10(peak**2 / error) if error > 0 else math.inf


def ssim(image: ArrayLike, reference: ArrayLike, *, mask: ArrayLike, data_range: float) -> float:
    """Structural similarity: the full 3-D map, averaged inside a mask.

    Wang et al. 2004 (doi 10.1109/TIP.2003.819861), eq. 13, K1 = 0.01, K2 = 0.03, in three dimensions: Gaussian window
    of 1.5 voxels cut at 3.5 standard deviations (11 voxels a side), population covariance, the image mirrored at the
    border of the array. No border is cut off; the mask says what counts.

    Args:
        image: (I, J, K), at least 11 voxels along each axis.
        reference: (I, J, K), in the same unit.
        mask: (I, J, K), true where it counts.
        data_range: the dynamic range L, in the unit of the images, above 0.

    Raises:
        InputError: shapes differ or are too small, the mask is empty, or a voxel is not finite.
        SettingsError: the data range is not a finite number above 0.
    """
    x, r, inside = _checked(image, reference, mask)
    peak = _checked_range(data_range)
    if min(x.shape) < _SSIM_WINDOW:
        wanted = f"at least {_SSIM_WINDOW} along each axis, the window of SSIM"
        mend = "Take thicker slabs: fewer voxels cannot be scored."
        raise InputError("E-SHAPE", f"a volume of {' x '.join(map(str, x.shape))} voxels", wanted=wanted, mend=mend)
    _, similarity = structural_similarity(  # type: ignore[no-untyped-call]
        x,
        r,
        data_range=peak,
        gaussian_weights=True,
        sigma=_SIGMA_VOXELS,
        truncate=_SSIM_TRUNCATE,
        use_sample_covariance=False,
        full=True,
    )
    return float(np.mean(similarity[inside]))


def nrmse(image: ArrayLike, reference: ArrayLike, *, mask: ArrayLike) -> float:
    """Root-mean-square error over the reference's root mean square, inside a mask.

    Args:
        image: (I, J, K), what is judged.
        reference: (I, J, K), in the same unit; not zero everywhere in the mask.
        mask: (I, J, K), true where it counts.

    Raises:
        InputError: shapes differ, the mask is empty, a voxel is not finite, or the reference is zero in the mask.
    """
    x, r, inside = _checked(image, reference, mask)
    return _ratio((x - r)[inside], r[inside])


def mae(image: ArrayLike, reference: ArrayLike, *, mask: ArrayLike) -> float:
    """Mean absolute error inside a mask, in the unit of the images (HU for CT).

    Args:
        image: (I, J, K), what is judged.
        reference: (I, J, K), in the same unit.
        mask: (I, J, K), true where it counts.

    Raises:
        InputError: shapes differ, the mask is empty, or a voxel is not finite.
    """
    x, r, inside = _checked(image, reference, mask)
    return float(np.mean(np.abs(x - r)[inside]))


def hfen(image: ArrayLike, reference: ArrayLike, *, mask: ArrayLike) -> float:
    """High-frequency error norm: how much of the fine detail is wrong, as a share of the detail there is.

    Ravishankar & Bresler 2011 (doi 10.1109/TMI.2010.2090538), section IV, in three dimensions and normalised by the
    reference: both images pass a Laplacian of Gaussian of 1.5 voxels cut at 4 standard deviations. 0 is perfect; an
    image without any detail scores 1, and noise can score more.

    Args:
        image: (I, J, K), what is judged.
        reference: (I, J, K), in the same unit; not flat around the mask.
        mask: (I, J, K), true where it counts.

    Raises:
        InputError: shapes differ, the mask is empty, a voxel is not finite, or the reference has no detail in the mask.
    """
    x, r, inside = _checked(image, reference, mask)
    error, detail = _log(x - r), _log(r)  # the filter is linear
    return _ratio(error[inside], detail[inside])


def _log(image: _Array) -> _Array:
    # The sampled kernel does not quite sum to 0, and a constant must not count as detail: its share is taken away.
    rest = ndimage.gaussian_laplace(np.ones((1, 1, 1)), _SIGMA_VOXELS, truncate=_LOG_TRUNCATE)
    smooth = ndimage.gaussian_filter(image, _SIGMA_VOXELS, truncate=_LOG_TRUNCATE)
    return np.asarray(ndimage.gaussian_laplace(image, _SIGMA_VOXELS, truncate=_LOG_TRUNCATE) - rest * smooth)


def _ratio(error: _Array, reference: _Array) -> float:
    norm = float(np.linalg.norm(reference))
    if norm <= 0:
        raise InputError("E-FLAT", "a reference that is zero inside the mask", wanted="something to compare with")
    return float(np.linalg.norm(error)) / norm


def _checked(image: ArrayLike, reference: ArrayLike, mask: ArrayLike) -> tuple[_Array, _Array, NDArray[np.bool_]]:
    x, r, inside = np.asarray(image), np.asarray(reference), np.asarray(mask)
    if x.ndim != 3 or x.shape != r.shape or x.shape != inside.shape:
        found = f"image {x.shape}, reference {r.shape}, mask {inside.shape}"
        raise InputError("E-SHAPE", found, wanted="three arrays (I, J, K) of one shape")
    if x.dtype.kind not in "biuf" or r.dtype.kind not in "biuf" or inside.dtype != np.bool_:
        found = f"image {x.dtype}, reference {r.dtype}, mask {inside.dtype}"
        raise InputError("E-DTYPE", found, wanted="real numbers and a mask of true and false")
    if not inside.any():
        raise InputError("E-MASK", "a mask without a voxel", wanted="at least one voxel that counts")
    x, r = x.astype(np.float64), r.astype(np.float64)
    if not (np.isfinite(x).all() and np.isfinite(r).all()):
        raise InputError("E-NONFINITE", "voxels that are not finite", mend="Replace NaN and infinity first.")
    return x, r, inside


def _checked_range(data_range: float) -> float:
    if not (math.isfinite(data_range) and data_range > 0):
        raise SettingsError("E-DATARANGE", f"a data range of {data_range}", wanted="a finite number above 0")
    return float(data_range)
