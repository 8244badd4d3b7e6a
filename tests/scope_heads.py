"""What the tests of scope share: a head that needs no data, and ways to spoil it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy import ndimage

import medidiff.trust
from medidiff.trust.reference import Reference
from medidiff.volume import Geometry, Volume

SHIPPED = Path(medidiff.trust.__file__).parent / "fine-t1.scope.json"
SIDE_MM = 2.0


def shipped() -> Reference:
    return Reference.load(SHIPPED)


def brain(noise: float = 0.03, *, seed: int = 0) -> Volume:
    """The mean brain at 2 mm, in units of some scanner, white matter at about 1000, with Rician noise."""
    image = ndimage.zoom(shipped().template.image, 4.0 / SIDE_MM, order=1, grid_mode=True, mode="nearest")
    clean = (700 * image).astype(np.float32)
    rng = np.random.default_rng(seed)
    real, other = (1000 * noise * rng.standard_normal(clean.shape, dtype=np.float32) for _ in range(2))
    return Volume(np.hypot(clean + real, other), Geometry.regular(clean.shape, spacing_mm=(SIDE_MM,) * 3), "MR")


def _upside_down(image: np.ndarray) -> np.ndarray:
    return np.flip(image, (1, 2)).copy()


def _swapped(image: np.ndarray) -> np.ndarray:
    out = image.copy()
    out[..., 20:34], out[..., 44:58] = image[..., 44:58], image[..., 20:34]
    return out


def _blocks(image: np.ndarray) -> np.ndarray:
    """Every block of 8 x 8 x 8 voxels shifted in brightness, as a lossy code leaves them."""
    rng = np.random.default_rng(1)
    steps = rng.normal(0, 60, [-(-n // 8) for n in image.shape])
    shift = np.kron(steps, np.ones((8, 8, 8)))[tuple(slice(n) for n in image.shape)]
    return (image + shift * (image > 300)).astype(np.float32)


def _windowed(image: np.ndarray) -> np.ndarray:
    return np.rint(np.clip(image / 850, 0, 1) * 255).astype(np.uint8)


def _ghosts(image: np.ndarray) -> np.ndarray:
    return (image + 0.35 * np.roll(image, image.shape[1] // 2, 1)).astype(np.float32)


def _shaded(image: np.ndarray) -> np.ndarray:
    return (image * np.exp(np.linspace(-1.5, 1.5, image.shape[0]))[:, None, None]).astype(np.float32)


def _rounded_window(image: np.ndarray) -> np.ndarray:
    """The whole range on 256 grey levels, brought back to the scan's units and rounded to these."""
    top = np.rint(image.max())
    return np.rint(np.rint(image / image.max() * 255) / 255 * top).astype(np.int16)


def _smoothed(image: np.ndarray) -> np.ndarray:
    """A little, after noise: what is left looks like that of a quiet scan."""
    return ndimage.gaussian_filter(_noisier(image), 0.6)


def _shrunk(image: np.ndarray) -> np.ndarray:
    """Wiener's filter in windows of 3 x 3 x 3 voxels: more is left of the noise here than there."""
    noisy = _noisier(image)
    mean = ndimage.uniform_filter(noisy, 3)
    power = np.maximum(ndimage.uniform_filter(noisy * noisy, 3) - mean * mean, 1e-6)
    return mean + np.maximum(power - 70.0**2, 0) / np.maximum(power, 70.0**2) * (noisy - mean)


def _noisier(image: np.ndarray) -> np.ndarray:
    rng = np.random.default_rng(3)
    real, other = (63 * rng.standard_normal(image.shape, dtype=np.float32) for _ in range(2))
    return np.hypot(image + real, other)


def _blank(image: np.ndarray) -> np.ndarray:
    out = image.copy()
    out[..., 38:41] = 0
    return out


def _wave(image: np.ndarray) -> np.ndarray:
    rng = np.random.default_rng(2)
    return np.abs(rng.standard_normal(image.shape) * 500).astype(np.float32)


def _zero_filled(image: np.ndarray) -> np.ndarray:
    """The outer half of k-space along two axes is empty, as in a scan interpolated in plane by its scanner."""
    spectrum = np.fft.fftn(image)
    for axis in (0, 1):
        n = image.shape[axis]
        np.moveaxis(spectrum, axis, 0)[np.abs(np.fft.fftfreq(n)) > 0.25] = 0
    return np.abs(np.fft.ifftn(spectrum)).astype(np.float32)


def _spike(image: np.ndarray) -> np.ndarray:
    """One wrong sample of k-space, and its conjugate: stripes of a twelfth of the brightness."""
    x, y, z = np.indices(image.shape)
    return np.abs(image + 80 * np.cos(1.1 * x + 0.7 * y + 0.4 * z)).astype(np.float32)


def _flair(image: np.ndarray) -> np.ndarray:
    """Fluid dark, grey matter a trace brighter than white, with noise."""
    return _noisier(np.interp(image, (0, 300, 450, 600, 900, 1050), (0, 200, 800, 1000, 960, 930)).astype(np.float32))


FAULTS: dict[str, tuple[Callable[[np.ndarray], np.ndarray], str]] = {
    "upside down": (_upside_down, "upright"),
    "front to back": (lambda image: np.flip(image, 1).copy(), "upright"),
    "denoised": (lambda image: ndimage.gaussian_filter(image, 1.2), "quiet"),
    "swapped slabs": (_swapped, "jump"),
    "slices twice": (lambda image: image[..., np.arange(image.shape[2]) // 2 * 2], "twice"),
    "inverted": (lambda image: np.clip(1100 - image, 0, None), "air"),
    "contrast of T2": (lambda image: np.where(image > 250, 1600 - image, image), "fluid"),
    "contrast of FLAIR": (_flair, "order"),
    "windowed": (_windowed, "eight"),
    "windowed, then rounded": (_rounded_window, "eight"),
    "smoothed after noise": (_smoothed, "linked"),
    "shrunk after noise": (_shrunk, "patchy"),
    "slices blank": (_blank, "jump"),
    "clipped": (lambda image: np.minimum(image, 700), "top"),
    "noise": (_wave, "match"),
    "lossy blocks": (_blocks, "blocky"),
    "zero-filled": (_zero_filled, "cliff"),
    "spike": (_spike, "spike"),
    "ghosts": (_ghosts, "ghost"),
    "shading": (_shaded, "shading"),
}
"""What is done to the head, and the sign that must lie beyond its limit."""
