"""How the power of scans is spread over spatial frequencies, and by how many dB two sets differ: `radial_power`.

A blurred set lacks power at high frequencies, a noisy or chequered one has too much; neither need show in features that
were learned on sharp scans.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import fft

from medidiff.errors import InputError, SettingsError

__all__ = ["band_difference_db", "radial_power"]

_Array = NDArray[np.float64]


def radial_power(image: ArrayLike, *, spacing_mm: Sequence[float], edges: Sequence[float]) -> _Array:
    """Power spectral density averaged over shells of spatial frequency.

    ``|DFT x|² ΔV / N`` of the image without its mean, so that the numbers do not depend on the grid (white noise of
    variance σ² has a density of σ² ΔV everywhere). No window: a scan must fall to 0 before the border of its array, as
    brain-extracted ones do.

    Args:
        image: (I, J, K).
        spacing_mm: of the voxels.
        edges: of the shells in cycles per mm, ascending, at least two, the last at most the smallest Nyquist frequency.

    Returns:
        One density a shell, in squared intensity times mm³.

    Raises:
        InputError: ``E-SHAPE`` or ``E-NONFINITE``, no volume of finite numbers.
        SettingsError: ``E-SETTING``, edges that are no shells on this grid.
    """
    volume = np.asarray(image, dtype=np.float32)
    if volume.ndim != 3 or volume.size == 0:
        raise InputError("E-SHAPE", f"data of shape {volume.shape}", wanted="(I, J, K)")
    if not np.isfinite(volume).all():
        raise InputError("E-NONFINITE", "voxels that are not finite")
    shells = np.asarray(edges, dtype=np.float64)
    nyquist = 0.5 / max(spacing_mm)
    if shells.ndim != 1 or shells.size < 2 or (np.diff(shells) <= 0).any() or shells[-1] > nyquist + 1e-9:
        found, wanted = f"{shells.size} edges", f"ascending, at least two, at most {nyquist:.3g} cycles per mm"
        raise SettingsError("E-SETTING", found, wanted=wanted, attribute="edges")
    power = np.square(np.abs(fft.fftn(volume - volume.mean()))).astype(np.float64)
    power *= float(np.prod(spacing_mm)) / volume.size
    axes = [fft.fftfreq(n, d) for n, d in zip(volume.shape, spacing_mm, strict=True)]
    radius = np.sqrt(sum(np.square(axis) for axis in np.ix_(*axes)))
    shell = np.digitize(radius, shells).ravel()
    counts = np.bincount(shell, minlength=shells.size + 1)[1 : shells.size]
    sums = np.bincount(shell, weights=power.ravel(), minlength=shells.size + 1)[1 : shells.size]
    if not counts.all():
        raise SettingsError("E-SETTING", "a shell without a frequency", wanted="wider shells", attribute="edges")
    return np.asarray(sums / counts)


def band_difference_db(real: ArrayLike, synthetic: ArrayLike) -> _Array:
    """By how many dB the spectra of a set lie above those of the real cases; mean over cases of the level in dB.

    Args:
        real: (m, shells), as from `radial_power`, above 0.
        synthetic: (n, shells).

    Returns:
        One signed difference a shell; 0 is none.

    Raises:
        InputError: ``E-SHAPE``, the shells differ; ``E-NONFINITE``, a density is not above 0.
    """
    first, second = np.asarray(real, dtype=np.float64), np.asarray(synthetic, dtype=np.float64)
    if first.ndim != 2 or second.ndim != 2 or first.shape[1] != second.shape[1]:
        raise InputError("E-SHAPE", f"spectra of shapes {first.shape} and {second.shape}", wanted="(cases, shells)")
    if not (np.isfinite(first).all() and np.isfinite(second).all() and min(first.min(), second.min()) > 0):
        raise InputError("E-NONFINITE", "a density that is not a finite number above 0")
    return np.asarray(10 * (np.log10(second).mean(axis=0) - np.log10(first).mean(axis=0)))
