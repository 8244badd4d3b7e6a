"""How well a known signal is detected at a known place: d′ of model observers.

An observer sees an image g only through a few linear responses ``v = U g`` and decides by a weighted sum of them
(Barrett & Myers 2004, Foundations of Image Science, ch. 13). With mean responses that differ by Δ between images with
and without the signal, and covariance S within each class,

    channelised Hotelling    d′² = Δᵀ S⁻¹ Δ,             the best weights for its channels;
    non-prewhitening         d′  = Δ / √S,               one response: the signal, seen through the eye's filter.

Channels: differences of Gaussians (Abbey & Barrett 2001, doi 10.1364/JOSAA.18.000473) or Laguerre-Gauss functions
(Gallas & Barrett 2003, doi 10.1364/JOSAA.20.001725; of the radius in a volume: Platisa et al. 2011, doi
10.1364/JOSAA.28.001145). Eye filter: Burgess 1994 (doi 10.1364/JOSAA.11.001237).

Δ and S come from finite samples, and the plain d′² of the Hotelling observer is then too large: for normal responses it
is Hotelling's T², whose mean is known. `detectability` takes that bias out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import fft, special

from medidiff.errors import InputError, SettingsError
from medidiff.metrics.shells import spacing_of

__all__ = ["Detectability", "detectability", "difference_of_gaussians", "eye_filtered", "laguerre_gauss", "responses"]

_BURGESS_POWER = 1.3
_PEAK_CYCLES_PER_DEGREE = 4.0

_Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Detectability:
    """What an observer achieves.

    Attributes:
        value: d′ without the bias of finite samples; 0 where less is left than that bias.
        plain: d′ as the samples have it, too large.
        pairs: of images, with and without the signal.
        freedom: effective degrees of freedom ν of the covariance.
    """

    value: float
    plain: float
    pairs: int
    freedom: float


def difference_of_gaussians(
    shape: Sequence[int],
    spacing_mm: Sequence[float],
    *,
    lowest: float = 0.015,
    ratio: float = 1.6,
    passband: float = 1.67,
    count: int = 7,
) -> _Array:
    """Channels that pass bands of spatial frequency, centred in a box.

    ``C_j(f) = exp(-½ (f / (Q σ_j))²) - exp(-½ (f / σ_j)²)`` with ``σ_j = σ₀ α^j`` (Abbey & Barrett 2001), here in
    cycles per mm and in three dimensions.

    Args:
        shape: (I, J, K) of the box, odd: the middle voxel is the middle of the signal.
        spacing_mm: of its voxels.
        lowest: σ₀ in cycles per mm.
        ratio: α, above 1.
        passband: Q, above 1.
        count: of channels.

    Returns:
        (count, I, J, K), each of Euclidean norm 1.

    Raises:
        SettingsError: ``E-SETTING``, a number out of range, or a box whose sides are not odd.
    """
    if not (lowest > 0 and ratio > 1 and passband > 1 and count >= 1):
        found = f"{count} channels from {lowest:g} by {ratio:g}, Q {passband:g}"
        raise SettingsError("E-SETTING", found, wanted="at least 1, above 0, 1 and 1", attribute="channels")
    radius = _frequency(shape, spacing_mm)
    widths = lowest * ratio ** np.arange(count)
    bands = [np.exp(-((radius / (passband * w)) ** 2) / 2) - np.exp(-((radius / w) ** 2) / 2) for w in widths]
    return _normed(np.stack([_centred_kernel(band, shape) for band in bands]))


def laguerre_gauss(shape: Sequence[int], spacing_mm: Sequence[float], *, width_mm: float, count: int = 5) -> _Array:
    """Channels ``exp(-π r² / a²) L_j(2π r² / a²)`` around the middle of a box.

    Args:
        shape: (I, J, K) of the box, odd.
        spacing_mm: of its voxels.
        width_mm: a, about as wide as the signal.
        count: of channels, j from 0.

    Returns:
        (count, I, J, K), each of Euclidean norm 1.

    Raises:
        SettingsError: ``E-SETTING``, a number out of range, or a box whose sides are not odd.
    """
    if not (width_mm > 0 and count >= 1):
        raise SettingsError("E-SETTING", f"{count} channels of {width_mm:g} mm", wanted="above 0", attribute="channels")
    spacing, sides = spacing_of(spacing_mm), _odd(shape)
    axes = np.ix_(*((np.arange(n) - n // 2) * d for n, d in zip(sides, spacing, strict=True)))
    square = np.asarray(sum(np.square(axis) for axis in axes)) / width_mm**2
    envelope = np.exp(-np.pi * square)
    return _normed(np.stack([envelope * special.eval_laguerre(j, 2 * np.pi * square) for j in range(count)]))


def eye_filtered(
    signal: ArrayLike, spacing_mm: Sequence[float], *, magnification: float = 3.0, distance_mm: float = 500.0
) -> _Array:
    """The template of a non-prewhitening observer with eye filter: the signal, filtered twice.

    ``E(f) = f^1.3 exp(-c f²)`` in cycles per degree, c such that the eye sees best at 4 (Burgess 1994); the observer
    filters the image and its memory of the signal, so the template is ``E² signal``. The box should reach well beyond
    the signal, since the filter is wide.

    Args:
        signal: (I, J, K), the known signal, sides odd.
        spacing_mm: of its voxels.
        magnification: mm on the screen for a mm in the patient.
        distance_mm: from the eye to the screen.

    Returns:
        (I, J, K), of Euclidean norm 1.

    Raises:
        SettingsError: ``E-SETTING``, a number out of range, or a box whose sides are not odd.
        InputError: ``E-FLAT``, no signal.
    """
    if not (magnification > 0 and distance_mm > 0):
        found = f"magnification {magnification:g}, distance {distance_mm:g} mm"
        raise SettingsError("E-SETTING", found, wanted="above 0", attribute="magnification")
    volume = np.asarray(signal, dtype=np.float64)
    degrees = _frequency(volume.shape, spacing_mm) * (math.pi / 180 * distance_mm / magnification)
    decay = _BURGESS_POWER / (2 * _PEAK_CYCLES_PER_DEGREE**2)
    eye = degrees**_BURGESS_POWER * np.exp(-decay * degrees**2)
    template = fft.irfftn(fft.rfftn(volume) * eye**2, s=volume.shape)
    if np.ptp(volume) == 0:
        raise InputError("E-FLAT", "a signal of one value", wanted="something to detect")
    return np.asarray(_normed(np.asarray(template)[None])[0])


def responses(channels: ArrayLike, images: ArrayLike) -> _Array:
    """What an observer's channels say of images: (n, channels).

    Args:
        channels: (channels, I, J, K).
        images: (n, I, J, K), the signal's place in the middle.

    Raises:
        InputError: ``E-SHAPE``, boxes of other shapes.
    """
    table, stack = np.asarray(channels, dtype=np.float64), np.asarray(images, dtype=np.float64)
    if table.ndim != 4 or stack.ndim != 4 or table.shape[1:] != stack.shape[1:]:
        raise InputError("E-SHAPE", f"channels {table.shape}, images {stack.shape}", wanted="(n, I, J, K) of one box")
    return np.asarray(stack.reshape(len(stack), -1) @ table.reshape(len(table), -1).T)


def detectability(present: ArrayLike, absent: ArrayLike, *, groups: ArrayLike | None = None) -> Detectability:
    """d′ of the Hotelling observer of some responses (with one response: of that template).

    The images may come in pairs that differ by the signal alone. With T = Δᵀ S⁻¹ Δ of the samples, S the mean
    covariance of both classes with ν degrees of freedom, C that of the pairs' differences, n pairs and p responses,

        E[T] = ν / (ν - p - 1) (d′² + tr(S⁻¹ C) / n)

    for normal responses, here solved for d′². Unpaired images have C = 2 S and ν = 2 (n - 1), and this is the mean of
    Hotelling's T²; where both classes of a pair tell the same, ν = n - 1. In between ν = 2 (n - 1) / (1 + ρ²), with ρ²
    the mean squared correlation between both classes' whitened responses.

    Args:
        present: (n, p), responses to images with the signal.
        absent: (n, p), to the same images without it.
        groups: (n,), pairs of one group show one place of one patient: what differs between groups (anatomy) is then
            known to the observer and does not count as noise. None: all of it is noise.

    Raises:
        InputError: ``E-SHAPE``, not as many of both; ``E-NONFINITE``; ``E-FLAT``, responses that do not vary.
        SettingsError: ``E-CASES``, fewer than p + 3 degrees of freedom.
    """
    one, none = np.asarray(present, dtype=np.float64), np.asarray(absent, dtype=np.float64)
    if one.ndim != 2 or one.shape != none.shape or not one.size:
        raise InputError("E-SHAPE", f"responses {one.shape} and {none.shape}", wanted="(pairs, channels), both alike")
    if not (np.isfinite(one).all() and np.isfinite(none).all()):
        raise InputError("E-NONFINITE", "responses that are not finite")
    pairs, count = one.shape
    names = np.zeros(pairs, dtype=np.intp) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    if names.shape != (pairs,):
        raise InputError("E-SHAPE", f"groups of shape {names.shape}", wanted=f"({pairs},)")
    freedom = pairs - int(names.max()) - 1
    if freedom < count + 3:
        found, mend = f"{pairs} pairs in {int(names.max()) + 1} groups", "Take more images or fewer channels."
        raise SettingsError("E-CASES", found, wanted=f"{count + 3} degrees of freedom for {count} channels", mend=mend)
    inside = [_within(each, names) for each in (one, none)]
    spread = (inside[0].T @ inside[0] + inside[1].T @ inside[1]) / (2 * freedom)
    scales, axes = np.linalg.eigh(spread)
    if not scales[0] > scales[-1] * count * np.finfo(np.float64).eps:
        raise InputError("E-FLAT", "channels that do not vary, or tell the same", wanted="independent channels")
    step, inverse = (one - none).mean(axis=0), (axes / scales) @ axes.T
    plain = float(step @ inverse @ step)
    crossed = inside[0].T @ inside[1] / freedom
    shared = float(np.trace(inverse @ crossed @ inverse @ crossed.T)) / count
    effective = 2 * freedom / (1 + min(shared, 1.0))
    apart = one - none - step
    change = apart.T @ apart / (pairs - 1)  # covariance of the differences, whose mean Δ is
    shrink = (effective - count - 1) / effective
    square = shrink * (plain - float(np.trace(inverse @ change)) / pairs)
    return Detectability(math.sqrt(max(square, 0.0)), math.sqrt(plain), pairs, effective)


def _within(table: _Array, names: NDArray[np.intp]) -> _Array:
    """Responses less the mean of their group."""
    counts = np.bincount(names)[:, None]
    sums = np.stack([np.bincount(names, weights=column) for column in table.T], axis=1)
    return np.asarray(table - (sums / counts)[names])


def _odd(shape: Sequence[int]) -> tuple[int, int, int]:
    sides = tuple(int(n) for n in shape)
    if len(sides) != 3 or any(n < 3 or n % 2 == 0 for n in sides):
        raise SettingsError("E-SETTING", f"a box of {sides}", wanted="three odd sides, at least 3", attribute="shape")
    return sides[0], sides[1], sides[2]


def _frequency(shape: Sequence[int], spacing_mm: Sequence[float]) -> _Array:
    """Radius of the half spectrum's frequencies, cycles per mm."""
    sides, spacing = _odd(shape), spacing_of(spacing_mm)
    steps = [fft.fftfreq(n, d) for n, d in zip(sides[:2], spacing[:2], strict=True)]
    axes = np.ix_(*steps, fft.rfftfreq(sides[2], spacing[2]))
    return np.asarray(np.sqrt(sum(np.square(axis) for axis in axes)))


def _centred_kernel(band: _Array, shape: Sequence[int]) -> _Array:
    return np.asarray(fft.fftshift(fft.irfftn(band, s=tuple(shape))))


def _normed(channels: _Array) -> _Array:
    norms = np.sqrt(np.square(channels).sum(axis=(-3, -2, -1), keepdims=True))
    return np.asarray(channels / norms)
