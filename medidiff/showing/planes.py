"""Three planes of an exhibit: where they are cut, how bright they are, and numbers that cannot go wrong.

Whatever a volume holds, this is quick and ends well: what decides is read from at most 64 voxels a side, evenly spaced,
and numbers that are not finite are shown dark and counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medidiff.anatomy import foreground
from medidiff.errors import InputError, SettingsError
from medidiff.showing.rich import Exhibit
from medidiff.views import PLANES, SOFT_TISSUE_HU, Upright, View, grey_window, symmetric_reach

__all__ = ["Strip", "convention", "strips"]

_FEW = 64  # voxels a side that decide where to cut and how bright to be
_MOST = 512  # pixels a side of a slice
_HUGE = 1e150  # beyond, differences and squares overflow

_Numbers = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Strip:
    """Three planes of one panel.

    Args:
        name: of the panel.
        views: axial, coronal and sagittal; finite numbers, at most 512 a side.
        window: the numbers shown darkest and brightest.
        spread: whether it is shown in colour.
        notes: what was met on the way, as sentences.
    """

    name: str
    views: tuple[View, ...]
    window: tuple[float, float]
    spread: bool
    notes: tuple[str, ...]

    def levels(self, shown: View) -> _Numbers:
        """The pixels of a view between 0, the darkest, and 1."""
        low, high = self.window
        levels: _Numbers = (np.clip(shown.pixels, low, high) - low) / (high - low)
        return levels


def strips(
    exhibit: Exhibit,
    *,
    at_mm: Sequence[float] | None = None,
    window: tuple[float, float] | None = None,
    radiological: bool = True,
) -> tuple[Strip, ...]:
    """Three planes of each panel, cut at one place; grey ones have one window.

    Args:
        exhibit: what to show.
        at_mm: (3,) RAS+ world point that the planes pass through; the middle of the tissue when left out.
        window: of the grey panels; when left out soft tissue for CT, else the tissue's.
        radiological: the patient's right on the left of the picture.

    Raises:
        InputError: ``E-SHAPE``, a panel does not fit the grid.
        SettingsError: ``E-WINDOW``, a window that is none.
    """
    volumes = [Upright.of(panel.data, exhibit.geometry) for panel in exhibit.panels]
    few = [_few(volume.data) for volume in volumes]
    tissue = _tissue(few[0])
    at = volumes[0].index(at_mm) if at_mm is not None else _middle(tissue, volumes[0].data.shape)
    grey = _checked(window) if window else _grey(few[0], tissue, exhibit.modality)
    found = []
    for panel, volume, numbers in zip(exhibit.panels, volumes, few, strict=True):
        limits = (0.0, _reach(numbers[tissue])) if panel.spread else grey
        views = tuple(_plain(volume.cut(plane, at, radiological=radiological), limits[0]) for plane in PLANES)
        found.append(Strip(panel.name, views, limits, panel.spread, _notes(numbers)))
    return tuple(found)


def convention(radiological: bool) -> str:
    """Which side is which, as a sentence."""
    name, side = ("Radiological", "left") if radiological else ("Neurological", "right")
    return f"{name} convention: the patient's right is on the {side}."


def _few(data: NDArray[Any]) -> _Numbers:
    """Evenly spaced voxels, at most 64 a side; NaN where a number is not finite."""
    steps = tuple(slice(None, None, -(-n // _FEW)) for n in data.shape)
    numbers = data[steps].astype(np.float64)
    numbers[~np.isfinite(numbers)] = np.nan
    return np.clip(numbers, -_HUGE, _HUGE)


def _tissue(few: _Numbers) -> NDArray[np.bool_]:
    """Where the tissue is, or else all that is finite, or else everything."""
    finite = np.isfinite(few)
    if not finite.any():
        return np.ones_like(finite)
    try:
        with np.errstate(over="ignore"):  # too large for float32, which is then refused as not finite
            found = foreground(np.where(finite, few, few[finite].min())) & finite
    except InputError:
        return finite
    return found if found.any() else finite


def _middle(tissue: NDArray[np.bool_], shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Upright index of the middle of the tissue, in voxels of the volume."""
    middle = []
    for axis, (n, few) in enumerate(zip(shape, tissue.shape, strict=True)):
        counts = tissue.sum(axis=tuple(other for other in range(3) if other != axis))
        place = float(counts @ np.arange(few)) / float(counts.sum())
        middle.append(min(n - 1, round(place * -(-n // _FEW))))
    x, y, z = middle
    return x, y, z


def _grey(few: _Numbers, tissue: NDArray[np.bool_], modality: str) -> tuple[float, float]:
    if modality == "CT":
        return SOFT_TISSUE_HU
    finite = tissue & np.isfinite(few)
    return grey_window(few, finite) if finite.any() else (0.0, 1.0)


def _reach(tissue: _Numbers) -> float:
    finite = tissue[np.isfinite(tissue)]
    return symmetric_reach(finite) if finite.size else 1.0


def _checked(window: tuple[float, float]) -> tuple[float, float]:
    low, high = (min(max(float(edge), -_HUGE), _HUGE) if np.isfinite(edge) else np.nan for edge in window)
    if not low < high:
        found = f"a window from {window[0]} to {window[1]}"
        raise SettingsError("E-WINDOW", found, wanted="two finite numbers, black first")
    return low, high


def _plain(shown: View, dark: float) -> View:
    """A view with at most 512 finite numbers a side."""
    down, across = (-(-n // _MOST) for n in shown.pixels.shape)
    pixels = shown.pixels[::down, ::across].astype(np.float64)
    pixels = np.clip(np.where(np.isfinite(pixels), pixels, dark), -_HUGE, _HUGE)
    return View(pixels, shown.size_mm, shown.left, shown.right, shown.top, shown.bottom)


def _notes(few: _Numbers) -> tuple[str, ...]:
    wild = np.isnan(few)
    if wild.all():
        return ("No voxel that was looked at is a finite number.",)
    notes = []
    if wild.any():
        notes.append(f"{100 * wild.mean():.2g} % of the voxels that were looked at are not finite, and shown dark.")
    values = few[~wild]
    if values.min() == values.max():
        notes.append(f"Every voxel that was looked at holds {values.flat[0]:.6g}.")
    return tuple(notes)
