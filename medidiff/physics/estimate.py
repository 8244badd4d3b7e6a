"""How much noise is in a scan that nobody described: one level, or a slowly varying map of it.

White noise fills every frequency alike, anatomy hardly reaches the corner of k-space where all three axes oscillate. So
the scan is filtered with the second difference along every axis, and the spread of what is left is read where it can be
trusted: off the masked or clipped background, in bright tissue, where the smoothed scan is flat. Three choices keep the
answer honest:

* brightness and flatness are judged on the *smoothed* scan, which shares no frequencies with the residual; choosing
  voxels therefore does not choose quiet ones;
* the spread is a truncated second moment: few outliers (edges, vessels) do not move it, and it is smooth where the
  median of a quantised scan would jump;
* magnitude noise is narrower than the noise of its channels where the signal is weak; each voxel is corrected with the
  variance ratio of Koay and Basser, at its own signal level.

What is measured is the *white* part. A scan that was interpolated or smoothed after its noise arose has an empty corner
and its level comes out too low, not too high: a denoiser that is told this number does too little rather than harm.
"""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage, special

from medidiff.errors import InputError, SettingsError

__all__ = ["dark_noise", "estimate_noise", "estimate_noise_map"]

_Kind = Literal["rician", "gaussian"]
Image = torch.Tensor | NDArray[Any]
_Array = NDArray[np.float32]
_Mask = NDArray[np.bool_]

_ENOUGH = 1000  # voxels; fewer give a level that is itself uncertain by more than about 5 %
_FLAT_SHARE = 0.25  # share of bright voxels, the flattest ones, in which the residual is read
_FAINT = 2.5  # noise levels; where the signal is stronger, the laws of magnitudes differ by less than a quarter
_ALIKE = 7.35  # voxels whose residual says as much of the variance as one alone: sum of its squared correlations
_LEVEL_SLOPE = 0.0167  # squared gradient of the smoothed scan that half of all voxels have in white noise of level 1
_BRIGHT = 0.6  # of the way from nothing to the brighter voxels; what is darker is air, bone or fluid
_CUT = 2.5  # residuals beyond this many standard deviations are taken for structure
_ROUNDS = 40  # every fixed point below converges in fewer
_BLOCK = 8  # voxels along each side of the blocks a map is built from
_MEDIAN_OF_NORMAL = 0.6744897501960817  # median of |z|, z standard normal


def estimate_noise(image: Image, *, kind: _Kind = "rician", measured: _Mask | None = None) -> float:
    """Standard deviation of the white noise in a scan, found from the scan alone.

    For ``"rician"`` it is the level of the two Gaussian channels before the magnitude was taken. The background
    (constant patches at zero or at the lowest value) is never read, so brain-extracted scans and scans in air give the
    same answer. The estimate is deterministic. Noise that was blurred or interpolated is not seen in full (see above).

    Args:
        image: (I, J, K) one channel in any unit; an axis of fewer than three voxels is not filtered.
        kind: law of the noise, ``"rician"`` for magnitude MR, ``"gaussian"`` for signed data and CT.
        measured: (I, J, K), true where the scanner measured; nothing is read within two voxels of the rest. None for
            everywhere.

    Returns:
        The level in image units; 0.0 for a volume without noise, constant volumes included.

    Raises:
        InputError: the image is not a finite three-dimensional array of real numbers.
        SettingsError: the kind is unknown.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> scan = np.hypot(100 + 5 * rng.standard_normal((32, 32, 32)), 5 * rng.standard_normal((32, 32, 32)))
        >>> abs(estimate_noise(scan) - 5) < 0.5
        True
    """
    voxels = _checked(image, kind)
    signal, residual = _signal(voxels), _residual(voxels)
    where = _readable(voxels, signal, measured)
    level = _level(residual[where], signal[where] if kind == "rician" else None)
    return math.sqrt(max(level**2 - _step(voxels[where]) ** 2 / 12, 0.0))


def estimate_noise_map(
    image: Image, *, kind: _Kind = "rician", smoothness_voxels: float = 16.0, measured: _Mask | None = None
) -> torch.Tensor:
    """Level of the noise at every voxel, where it varies slowly (parallel imaging, intensity correction, CT).

    Blocks of voxels are read like the whole scan in `estimate_noise`, then smoothed over their neighbours with the
    number of readable voxels as weight; where nothing can be read the level of the whole scan stands in.

    Args:
        image: (I, J, K) one channel in any unit.
        kind: law of the noise, as in `estimate_noise`.
        smoothness_voxels: standard deviation in voxels of the Gaussian that smooths the map, above 0.
        measured: as in `estimate_noise`.

    Returns:
        (I, J, K) float32 levels in image units, on the device of the image.

    Raises:
        InputError: the image is not a finite three-dimensional array of real numbers.
        SettingsError: the kind is unknown or the smoothness is not above 0.
    """
    if not (math.isfinite(smoothness_voxels) and smoothness_voxels > 0):
        raise SettingsError(
            "E-SMOOTHNESS", f"smoothness of {smoothness_voxels} voxels", wanted="a finite value above 0"
        )
    voxels = _checked(image, kind)
    device = image.device if isinstance(image, torch.Tensor) else torch.device("cpu")
    signal, residual = _signal(voxels), _residual(voxels)
    where = _readable(voxels, signal, measured)
    overall = _level(residual[where], signal[where] if kind == "rician" else None)
    level = np.full(voxels.shape, overall, dtype=np.float32)
    size, quantum = np.full_like(level, np.nan), _step(voxels[where]) ** 2 / 12
    # The Rician correction needs the level it leads to; four rounds settle it to below 1 %.
    for _ in range(4 if overall > 0 else 0):
        spread = np.sqrt(_ratio(signal[where] / level[where])) if kind == "rician" else np.float32(1)
        size[where] = np.abs(residual[where]) / spread
        level = _local_level(size, overall=overall, smoothness_voxels=smoothness_voxels)
        level *= _scale(size[where] / level[where])  # small blocks see more structure; the whole scan knows better
    return torch.from_numpy(np.sqrt(np.maximum(level**2 - quantum, 0.0)).astype(np.float32)).to(device)


def dark_noise(
    image: Image, level: float | torch.Tensor, *, kind: _Kind = "rician", measured: _Mask | None = None
) -> tuple[float, float] | None:
    """Variance of the noise where a scan is dark, over what the law leads one to expect there at a level.

    The laws of magnitudes agree in bright tissue, from where a level is estimated. In air one magnitude has the mean
    1.25 σ and the variance 0.43 σ²; the mean of two, with the same level in tissue, 1.77 σ and 0.43 σ², where a single
    one of this mean has 0.70 σ²; the root of the sum of squares of two coils 1.88 σ and 0.47 σ²; real values 0 and σ².
    Read where the smoothed scan is at most 2.5 levels and as flat as noise makes it.

    Args:
        image: (I, J, K) one channel in any unit.
        level: σ in image units, above 0; a number or (I, J, K).
        kind: law of the noise that is held against the scan.
        measured: as in `estimate_noise`.

    Returns:
        Two standard errors to either side of the ratio, which is about 1 where the noise follows the law (0.94 in air,
        since the core that is read of a magnitude's is not quite normal); None with fewer than 1000 voxels to read.

    Raises:
        InputError: the image is not a finite three-dimensional array of real numbers.
        SettingsError: the kind is unknown.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> one, two = (np.hypot(*rng.standard_normal((2, 32, 32, 32))) for _ in range(2))
        >>> [low > 0.7 for low, high in (dark_noise(one, 1.0), dark_noise((one + two) / 2, 0.5**0.5))]
        [True, False]
    """
    voxels = _checked(image, kind)
    size = np.asarray(level.detach().cpu() if isinstance(level, torch.Tensor) else level, dtype=np.float32)
    signal = _signal(voxels)
    where = _inside(voxels, measured) & (signal <= _FAINT * size) & (_slope(signal) <= _LEVEL_SLOPE * size**2)
    if where.sum() < _ENOUGH:
        return None
    size = np.broadcast_to(size, voxels.shape)[where]
    expected = size**2 * (_ratio(signal[where] / size) if kind == "rician" else 1)
    rounding = _step(voxels[where]) ** 2 / 12 * float(np.mean(1 / expected))
    found = max(_scale(_residual(voxels)[where] / np.sqrt(expected)) ** 2 - rounding, 0.0)
    reach = 2 * math.sqrt(2 * _ALIKE / len(expected))
    return found * (1 - reach), found * (1 + reach)


def _checked(image: Image, kind: str) -> _Array:
    """The image as a new or shared (I, J, K) float32 array."""
    if kind not in get_args(_Kind):
        raise SettingsError("E-NOISE", f"noise kind {kind!r}", wanted=" or ".join(get_args(_Kind)))
    if isinstance(image, torch.Tensor):
        image = image.detach().cpu()
        image = image.float() if image.is_floating_point() else image  # NumPy knows no bfloat16
    array = np.asarray(image)
    if array.ndim != 3 or array.size == 0 or array.dtype.kind not in "biuf":
        raise InputError("E-DIM", f"{array.dtype} image of shape {array.shape}", wanted="real numbers, (I, J, K)")
    voxels = array.astype(np.float32, copy=False)
    if not np.isfinite(voxels).all():
        raise InputError("E-NONFINITE", "voxels that are not finite", mend="replace NaN and infinity before estimating")
    return voxels


def _signal(voxels: _Array) -> _Array:
    """What the scan would be without noise, to within a blur of one voxel."""
    return np.asarray(ndimage.gaussian_filter(voxels, 1.0, mode="nearest"))


def _residual(voxels: _Array) -> _Array:
    """Second difference along each axis of at least three voxels, scaled so that white noise keeps its level.

    The integer weights (1, -2, 1) make it exactly zero where the scan is constant; their norm is the root of 6. The
    outermost voxels have no second difference and are set to 0 (`_readable` leaves them out).
    """
    out = voxels
    for axis in _long_axes(voxels):
        old = np.moveaxis(out, axis, 0)
        out = np.zeros_like(voxels)
        np.moveaxis(out, axis, 0)[1:-1] = (old[:-2] - 2 * old[1:-1] + old[2:]) / np.float32(math.sqrt(6))
    return out


def _long_axes(voxels: NDArray[Any]) -> list[int]:
    return [axis for axis in range(3) if voxels.shape[axis] >= 3]


def _readable(voxels: _Array, signal: _Array, measured: _Mask | None) -> _Mask:
    """Voxels whose residual is noise: inside, bright and flat, the first two or one only where a scan has too few."""
    inside = _inside(voxels, measured)
    bright = inside & (signal > _tissue_threshold(signal[inside])) if inside.any() else inside
    for candidates in (bright, inside):
        if candidates.sum() >= _ENOUGH / _FLAT_SHARE:
            slope = _slope(signal)
            return candidates & (slope <= np.quantile(slope[candidates], _FLAT_SHARE))
    return inside


def _inside(voxels: _Array, measured: _Mask | None) -> _Mask:
    """Voxels with a residual, off what is masked out, clipped or was not measured."""
    inside = ~_near_background(voxels)
    if measured is not None:
        if measured.shape != voxels.shape:
            raise InputError("E-MASK", f"a mask of shape {measured.shape}", wanted=f"{voxels.shape}")
        inside &= ndimage.minimum_filter(measured.view(np.uint8), 5, mode="nearest") > 0
    for axis in _long_axes(voxels):
        np.moveaxis(inside, axis, 0)[[0, -1]] = False
    return inside


def _tissue_threshold(signal: _Array) -> float:
    """Intensity that air stays below and most tissue exceeds, on the way from nothing to the brighter half."""
    nothing = min(0.0, float(signal.min()))  # signed data such as CT have theirs below zero
    above = float(signal[signal >= signal.mean()].mean())
    return nothing + _BRIGHT * (above - nothing)


def _near_background(voxels: _Array) -> _Mask:
    """Two voxels around patches of 2x2x2 that hold exactly zero or exactly the lowest value (padding, clipped air)."""
    found = np.zeros(voxels.shape, dtype=bool)
    for value in {0.0, float(voxels.min())}:
        patch = voxels == value
        for axis in range(3):
            along = np.moveaxis(patch, axis, 0)
            patch = np.moveaxis(along[:-1] & along[1:] if len(along) > 1 else along, 0, axis)
        for axis, n in enumerate(voxels.shape if patch.any() else ()):
            wide = np.moveaxis(np.pad(patch, [(3, 3) if a == axis else (0, 0) for a in range(3)]), axis, 0)
            grown = wide[:n].copy()
            for start in range(1, 6):
                grown |= wide[start : start + n]
            patch = np.moveaxis(grown, 0, axis)
        if patch.any():
            found |= patch
    return found


def _slope(signal: _Array) -> _Array:
    """Squared gradient of the smoothed scan per voxel step, up to a constant factor."""
    total = np.zeros_like(signal)
    for axis in range(3):
        if signal.shape[axis] > 1:
            total += np.gradient(signal, axis=axis) ** 2
    return total


def _level(residual: _Array, signal: _Array | None) -> float:
    """Level at which the residuals, each divided by the narrowing of its own signal level, have that level.

    Args:
        residual: (N,) residuals.
        signal: (N,) signal of the same voxels, for Rician noise; None leaves the noise Gaussian.
    """
    level = _scale(residual)
    if signal is None or level == 0:
        return level
    for _ in range(_ROUNDS):
        before, level = level, _scale(residual / np.sqrt(_ratio(signal / level)))
        if abs(level - before) <= 1e-4 * level:
            break
    return level


def _scale(residual: NDArray[Any]) -> float:
    """Standard deviation of the normal core of the residuals, without the tails that structure makes.

    The second moment of what lies within c standard deviations, divided by what a normal law has there,
    1 - 2 c phi(c) / (2 Phi(c) - 1), repeated from the median until it agrees with itself.
    """
    if residual.size == 0:
        return 0.0
    size = np.abs(residual)
    level = float(np.median(size)) / _MEDIAN_OF_NORMAL
    density = math.exp(-(_CUT**2) / 2) / math.sqrt(2 * math.pi)
    kept = 1 - 2 * _CUT * density / math.erf(_CUT / math.sqrt(2))
    for _ in range(_ROUNDS):
        core = size[size <= _CUT * level]
        before, level = level, math.sqrt(float(np.mean(core**2, dtype=np.float64)) / kept)
        if abs(level - before) <= 1e-4 * level:
            break
    return level


def _rician_table() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and variance of a Rician magnitude in units of the channels' level and variance, at rising signal.

    Koay and Basser 2006 (doi 10.1016/j.jmr.2006.01.016), with t the signal in units of the level: mean beta(t) =
    sqrt(pi/8) exp(-t^2/4) ((2 + t^2) I0(t^2/4) + t^2 I1(t^2/4)) and variance xi(t) = 2 + t^2 - beta(t)^2.
    """
    t = np.concatenate([np.linspace(0, 8, 400), np.linspace(8.05, 60, 400)])
    beta = math.sqrt(math.pi / 8) * ((2 + t**2) * special.ive(0, t**2 / 4) + t**2 * special.ive(1, t**2 / 4))
    return beta, 2 + t**2 - beta**2


_BETA, _XI = _rician_table()


def _ratio(mean: NDArray[Any]) -> _Array:
    """Variance of the magnitude over that of the channels where the magnitude averages `mean` levels."""
    return np.asarray(np.interp(mean, _BETA, _XI), dtype=np.float32)


def _step(voxels: _Array) -> float:
    """Step between the stored values; its square over 12 is the variance that rounding added (Sheppard).

    Voxels of fine-grained data differ by so little that the correction vanishes.
    """
    values = np.unique(voxels[:: max(1, voxels.size // 200_000)])
    return float(np.diff(values).min()) if values.size > 1 else 0.0


def _local_level(size: _Array, *, overall: float, smoothness_voxels: float) -> _Array:
    """(I, J, K) level from the median of the sizes in each block (NaN where unreadable), smoothed over the blocks."""
    shape = size.shape
    block = [min(_BLOCK, n) for n in shape]
    grid = [-(-n // b) for n, b in zip(shape, block, strict=True)]
    whole = [g * b for g, b in zip(grid, block, strict=True)]
    rows = np.pad(size, [(0, w - n) for w, n in zip(whole, shape, strict=True)], constant_values=np.nan)
    rows = rows.reshape([n for pair in zip(grid, block, strict=True) for n in pair]).transpose(0, 2, 4, 1, 3, 5)
    rows = rows.reshape(math.prod(grid), -1)
    count = np.isfinite(rows).sum(axis=1).astype(np.float64)
    total = np.zeros(len(rows))
    total[count > 0] = (np.nanmedian(rows[count > 0], axis=1) / _MEDIAN_OF_NORMAL) ** 2 * count[count > 0]
    weight, total = (
        ndimage.gaussian_filter(part.reshape(grid), [smoothness_voxels / b for b in block], mode="nearest")
        for part in (count, total)
    )
    # One voxel of the overall level in every block decides only where nothing else was read.
    variance = torch.from_numpy((total + overall**2) / (weight + 1.0))
    full = torch.nn.functional.interpolate(variance[None, None], size=whole, mode="trilinear")[0, 0].numpy()
    return np.asarray(np.sqrt(full[: shape[0], : shape[1], : shape[2]]), dtype=np.float32)
