"""The denoisers that medidiff is measured against, each in the settings that suit it best.

A peer is a function `(noisy, level) -> candidates`: the ways to run it that are worth trying. The scorer runs all of
them and keeps the one with the best PSNR **on the very scan that is scored**, which no user could do: the peers are
given every advantage. All of them are told the true noise level, as the prior is.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
from dipy.denoise.nlmeans import nlmeans
from numpy.typing import NDArray
from scipy import ndimage
from scipy.special import i0e, i1e

from medidiff.errors import SettingsError

__all__ = ["PEERS", "Array", "Candidate", "bm4d_peer", "gaussian", "nlmeans_peer", "rician_mean", "unbiased"]

Array = NDArray[np.float32]

_GAUSSIAN_SIGMAS = (0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.9, 1.0, 1.2)
# DIPY 1.12: method, patch radius, block radius, factor on sigma. Of 34 settings tried on two T1 scans at 3, 9 and 15 %,
# DIPY's default (blockwise, 1, 2, 1.0) and larger patches and blocks among them, the best was always one of these.
_NLMEANS_SETTINGS = (("classic", 1, 3, 1.0), ("classic", 1, 2, 1.2), ("classic", 1, 2, 1.4), ("blockwise", 2, 2, 1.0))
_NLMEANS_GAIN = 1000.0  # scanner-like numbers; DIPY has absolute thresholds
_SNR = np.linspace(0, 40, 8001)


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to denoise one scan.

    Args:
        setting: what is special about it, for the table.
        run: does it.
    """

    setting: str
    run: Callable[[], Array]


def gaussian(noisy: Array, level: float) -> list[Candidate]:
    """A Gaussian filter of every width, with and without the Rician bias taken out (Koay & Basser 2006)."""

    def blurred(width: float, unbias: bool) -> Array:
        answer = np.asarray(ndimage.gaussian_filter(noisy, width))
        return unbiased(answer, level) if unbias else answer

    ways = ((width, unbias) for unbias in (False, True) for width in _GAUSSIAN_SIGMAS)
    return [
        Candidate(f"{w:g} voxels{', unbiased' if unbias else ''}", partial(blurred, w, unbias)) for w, unbias in ways
    ]


def nlmeans_peer(noisy: Array, level: float) -> list[Candidate]:
    """DIPY's non-local means with its Rician correction (Descoteaux et al. 2008; Coupé et al. 2008, 2012)."""

    def run(method: str, patch: int, block: int, factor: float) -> Array:
        scaled = np.asarray(noisy, dtype=np.float64) * _NLMEANS_GAIN
        answer = nlmeans(
            scaled,
            sigma=level * _NLMEANS_GAIN * factor,
            patch_radius=patch,
            block_radius=block,
            rician=True,
            num_threads=1,
            method=method,
        )
        return np.asarray(answer / _NLMEANS_GAIN, dtype=np.float32)

    return [Candidate("{} {}/{}, {:g} sigma".format(*s), partial(run, *s)) for s in _NLMEANS_SETTINGS]


def bm4d_peer(noisy: Array, level: float) -> list[Candidate]:
    """BM4D (Maggioni et al. 2013) with the Rician bias taken out of its answer; its licence is non-commercial.

    A variance-stabilising transform around it (Foi 2011) was within 0.1 dB at 3, 9 and 15 % and never better.

    Raises:
        SettingsError: it is not installed.
    """
    if importlib.util.find_spec("bm4d") is None:
        mend = "Install it if your use is non-commercial: pip install bm4d."
        raise SettingsError("E-PEER", "bm4d is not installed", attribute="--peers", mend=mend)
    from bm4d import bm4d

    return [Candidate("unbiased", lambda: unbiased(np.asarray(bm4d(noisy, level), dtype=np.float32), level))]


def rician_mean(signal: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean of Rician noise of level 1 on a signal: sqrt(π/2) L½(-ν²/2) (Rice 1944; Koay & Basser 2006)."""
    half = signal**2 / 2
    return np.asarray(np.sqrt(np.pi / 2) * ((1 + half) * i0e(half / 2) + half * i1e(half / 2)))


def unbiased(average: Array, level: float) -> Array:
    """The signal whose Rician mean is the average that a filter found; exact where the filter averaged perfectly."""
    ratio = np.asarray(average, dtype=np.float64) / level
    far = np.sqrt(np.maximum(ratio**2 - 1, 0))  # the inverse for a large signal
    near = np.interp(ratio, rician_mean(_SNR), _SNR)
    return np.asarray(level * np.where(ratio < _SNR[-1], near, far), dtype=np.float32)


PEERS: Mapping[str, Callable[[Array, float], list[Candidate]]] = {
    "gaussian": gaussian,
    "nlmeans": nlmeans_peer,
    "bm4d": bm4d_peer,
}
