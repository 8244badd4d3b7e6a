"""Pictures of results, as PNG files.

Figures are built as `matplotlib.figure.Figure` objects and never through pyplot, so nothing global is set and no
display is needed. Nothing on a picture identifies a patient: it shows voxels, panel names, and what the caller writes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.text import Text
from numpy.typing import ArrayLike, NDArray

from medidiff.errors import InputError, OutputError, SettingsError
from medidiff.showing.drawing import DIM, FONT, FOOTER, INK, PAPER, blank, edge_letters, number, on_picture
from medidiff.views import PLANES, Field, View, grey_window, symmetric_reach
from medidiff.volume import Geometry

__all__ = ["Look", "comparison", "montage"]

_SCALE_BAR_MM = 50.0
_APART = 0.3  # inches between words that must not touch

_Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Look:
    """How a comparison is drawn.

    Args:
        radiological: the patient's right on the left of the picture, the front of a sagittal slice on the left too;
            false is the neurological convention, its mirror image.
        at_mm: world point (RAS+) that all three planes pass through; the middle of the tissue when left out.
        window: black and white of the image panels, in their unit; from 0 (or lower, as in CT) to the brightest tissue
            when left out, but not to that of a bright scalp (`medidiff.views.grey_window`).
        units: unit of the voxels, for the colour bars.
        column_inches: width of a panel.
        dpi: pixels per inch.
    """

    radiological: bool = True
    at_mm: tuple[float, float, float] | None = None
    window: tuple[float, float] | None = None
    units: str = ""
    column_inches: float = 2.5
    dpi: int = 160


def comparison(
    path: str | Path,
    panels: Mapping[str, ArrayLike],
    *,
    geometry: Geometry,
    signed: Collection[str] = ("removed",),
    spread: Collection[str] = ("uncertainty",),
    captions: Mapping[str, str] | None = None,
    title: str = "",
    look: Look | None = None,
) -> Path:
    """Write one picture with a row per plane and a column per panel, all at one scale in mm.

    Args:
        path: a PNG file; overwritten.
        panels: name to (I, J, K) array, drawn in this order. Image panels share one grey window.
        geometry: the grid of every panel.
        signed: names of panels that are differences: grey is 0, the scale is symmetric.
        spread: names of panels that are standard deviations: colour, from 0.
        captions: a short second line under the name of a panel, such as its PSNR.
        title: one line above everything.
        look: convention, position, window and size.

    Returns:
        The path written.

    Raises:
        InputError: a panel does not fit the grid or is not finite.
        SettingsError: there is no panel, or the window is empty.
        OutputError: the file is no PNG or cannot be written.
    """
    target, look = _png(path), look or Look()
    volumes = _checked_panels(panels, geometry)
    kinds = {name: _SIGNED if name in signed else _SPREAD if name in spread else _IMAGE for name in volumes}
    quiet = _mean([volumes[n] for n in volumes if kinds[n] is _IMAGE] or list(volumes.values()))
    field = Field.around(quiet, geometry, at_mm=look.at_mm)
    scales = {kind: _limits(kind, [volumes[n] for n in volumes if kinds[n] is kind], field, look) for kind in _KINDS}
    planes = field.views(quiet, geometry, radiological=look.radiological)
    page = _Page.fit(planes, len(volumes), title=title, captions=captions or {}, look=look)
    for column, (name, volume) in enumerate(volumes.items()):
        kind = kinds[name]
        shown = field.views(volume, geometry, radiological=look.radiological)
        images = [page.panel(row, column, shown[row], kind=kind, limits=scales[kind]) for row in range(len(PLANES))]
        page.column_name(column, name, (captions or {}).get(name))
        if name == next(n for n in volumes if kinds[n] is kind):  # one bar a kind, under the first of it
            page.colour_bar(column, images[0], f"{kind.label} ({look.units or 'a.u.'})")
    page.footer(geometry, look)
    return _save(page.figure, target, look.dpi)


def montage(
    path: str | Path,
    images: Mapping[str, ArrayLike],
    *,
    columns: int = 4,
    window: tuple[float, float] | None = None,
    title: str = "",
    inches: float = 1.8,
) -> Path:
    """Write a plain grid of pictures in one grey window, row by row.

    Args:
        path: a PNG file; overwritten.
        images: name to (rows, columns) picture with row 0 on top, or to an (I, J, K) volume in RAS order, of which the
            middle axial slice is shown with the front up and the patient's left on the left.
        columns: pictures in a row, at least 1.
        window: black and white; the 0.5th and 99.5th percentile of all pictures when left out.
        title: one line above everything.
        inches: side of a picture, at 120 pixels to the inch.

    Raises:
        InputError: a picture has another number of axes or is not finite.
        SettingsError: there is no picture, no column, or the window is empty.
        OutputError: the file is no PNG or cannot be written.
    """
    target = _png(path)
    pictures = {name: _flat(np.asarray(image, dtype=np.float32)) for name, image in images.items()}
    if not pictures or columns < 1:
        found = f"{len(pictures)} pictures in {columns} columns"
        raise SettingsError("E-MONTAGE", found, wanted="at least one of each")
    values = np.concatenate([picture.ravel() for picture in pictures.values()])
    low, high = _window(window if window else (np.percentile(values, 0.5), np.percentile(values, 99.5)))
    rows = -(-len(pictures) // columns)
    cell, label, top = inches, 0.24, 0.45 if title else 0.1
    width, height = columns * cell, rows * (cell + label) + top
    figure = blank(width, height, Figure)
    _text(figure, 0.08 / width, 1 - 0.24 / height, title, size=10, weight="bold", va="center")
    for n, (name, picture) in enumerate(pictures.items()):
        left, bottom = (n % columns) * cell, height - top - (n // columns + 1) * (cell + label)
        axes = figure.add_axes(((left + 0.02) / width, bottom / height, (cell - 0.04) / width, cell / height))
        axes.set_axis_off()
        axes.imshow(picture, cmap="gray", vmin=low, vmax=high, interpolation="auto")
        _text(figure, (left + cell / 2) / width, (bottom + cell + label / 2) / height, name, size=7.5, ha="center")
    return _save(figure, target, 120)


# ------------------------------------------------------------------------------------------------- what is shown


def _checked_panels(panels: Mapping[str, ArrayLike], geometry: Geometry) -> dict[str, _Array]:
    if not panels:
        raise SettingsError("E-PANELS", "a comparison without panels", wanted="at least one")
    volumes = {name: np.asarray(panel, dtype=np.float32) for name, panel in panels.items()}
    for name, volume in volumes.items():
        if volume.shape != geometry.shape:
            raise InputError("E-SHAPE", f"panel '{name}' of shape {volume.shape}", wanted=f"{geometry.shape}")
        if not np.isfinite(volume).all():
            raise InputError("E-NONFINITE", f"panel '{name}' with voxels that are not finite")
    return volumes


def _mean(volumes: list[_Array]) -> _Array:
    total = volumes[0].copy()
    for volume in volumes[1:]:  # one at a time: a stack of whole heads would not be kind to memory
        total += volume
    return total / np.float32(len(volumes))


def _flat(image: _Array) -> _Array:
    if image.ndim not in (2, 3) or image.size == 0 or not np.isfinite(image).all():
        found = f"a picture of shape {image.shape}"
        raise InputError("E-SHAPE", found, wanted="(rows, columns) or (I, J, K), finite and not empty")
    return image if image.ndim == 2 else image[:, :, image.shape[2] // 2].T[::-1]


# ------------------------------------------------------------------------------------------------- windows and colours


@dataclass(frozen=True, slots=True)
class _Kind:
    """A way to turn numbers into brightness or colour."""

    colours: str
    label: str


_IMAGE = _Kind("gray", "intensity")
_SIGNED = _Kind("gray", "difference")
_SPREAD = _Kind("magma", "standard deviation")
_KINDS = (_IMAGE, _SIGNED, _SPREAD)


def _limits(kind: _Kind, volumes: list[_Array], field: Field, look: Look) -> tuple[float, float]:
    if not volumes:
        return 0.0, 1.0
    tissue = np.stack([volume[field.mask] for volume in volumes])
    if kind is _SIGNED:
        reach = symmetric_reach(tissue)
        return -reach, reach
    if kind is _SPREAD:
        return 0.0, symmetric_reach(tissue)
    return grey_window(_mean(volumes), field.mask) if look.window is None else _window(look.window)


def _window(window: tuple[float, float]) -> tuple[float, float]:
    low, high = float(window[0]), float(window[1])
    if not (np.isfinite(low) and np.isfinite(high) and low <= high):
        raise SettingsError("E-WINDOW", f"a window from {low} to {high}", wanted="two finite numbers, black first")
    return (low, high) if low < high else (low, low + 1.0)


# ------------------------------------------------------------------------------------------------------------ the page


@dataclass(frozen=True, slots=True, eq=False)
class _Page:
    """A dark sheet on which every panel has one scale in mm; lengths are in inches from the lower left corner."""

    figure: Figure
    width: float
    height: float
    top: float
    names: float
    column: float
    rows: tuple[float, ...]
    per_mm: float

    _LEFT = 0.42
    _RIGHT = 0.12
    _BOTTOM = 0.95
    _GAP = 0.07

    @classmethod
    def fit(cls, views: list[View], columns: int, *, title: str, captions: Mapping[str, str], look: Look) -> _Page:
        per_mm = look.column_inches / max(shown.size_mm[0] for shown in views)
        heights = tuple(shown.size_mm[1] * per_mm for shown in views)
        names = 0.52 if captions else 0.32
        top = names + (0.42 if title else 0.0)
        width = cls._LEFT + columns * (look.column_inches + cls._GAP) - cls._GAP + cls._RIGHT
        height = top + sum(heights) + cls._GAP * (len(views) - 1) + cls._BOTTOM
        page = cls(blank(width, height, Figure), width, height, top, names, look.column_inches, heights, per_mm)
        page.figure.set_dpi(look.dpi)  # words are measured as they will be drawn
        page.text(cls._LEFT, height - 0.28, title, size=13, weight="bold", va="center")
        for row, plane in enumerate(PLANES):
            middle = page.bottom_of(row) + heights[row] / 2
            name = page.text(
                cls._LEFT / 2, middle, plane.name, size=10, color=DIM, rotation=90, ha="center", va="center"
            )
            long = name.get_window_extent().height / look.dpi
            name.set(size=10 * min(1.0, heights[row] / long))  # beside a thin row no longer than it is high
        return page

    def text(self, x: float, y: float, words: str, **style: str | float) -> Text:
        return _text(self.figure, x / self.width, y / self.height, words, **style)

    def axes(self, left: float, bottom: float, width: float, height: float) -> Axes:
        box = (left / self.width, bottom / self.height, width / self.width, height / self.height)
        return self.figure.add_axes(box)

    def left_of(self, column: int) -> float:
        return self._LEFT + column * (self.column + self._GAP)

    def bottom_of(self, row: int) -> float:
        return self.height - self.top - sum(self.rows[: row + 1]) - row * self._GAP

    def panel(self, row: int, column: int, shown: View, *, kind: _Kind, limits: tuple[float, float]) -> AxesImage:
        width, height = (mm * self.per_mm for mm in shown.size_mm)
        left = self.left_of(column) + (self.column - width) / 2
        axes = self.axes(left, self.bottom_of(row), width, height)
        axes.set_axis_off()
        low, high = limits
        image = axes.imshow(shown.pixels, cmap=kind.colours, vmin=low, vmax=high, aspect="auto", interpolation="auto")
        edge_letters(axes, shown)
        if (row, column) == (0, 0):
            _scale_bar(axes, shown.size_mm)
        return image

    def column_name(self, column: int, name: str, caption: str | None) -> None:
        x, y = self.left_of(column) + self.column / 2, self.height - self.top
        self.text(x, y + self.names - 0.16, name, size=11, weight="bold", ha="center", va="center")
        self.text(x, y + 0.14, caption or "", size=8.5, color=DIM, ha="center", va="center")

    def colour_bar(self, column: int, image: AxesImage, label: str) -> None:
        width = self.column * 0.7
        axes = self.axes(self.left_of(column) + (self.column - width) / 2, self._BOTTOM - 0.24, width, 0.09)
        bar = self.figure.colorbar(image, cax=axes, orientation="horizontal")
        bar.outline.set_visible(False)
        low, high = image.get_clim()
        middle = [0.0] if min(-low, high) * width > _APART * (high - low) else []  # not over the label of an end
        ticks = [low, *middle, high]
        bar.set_ticks(ticks, labels=[number(tick) for tick in ticks])
        axes.tick_params(length=0, pad=3, labelsize=7.5, labelcolor=DIM, labelfontfamily=FONT)
        axes.set_xlabel(label, fontsize=8, color=DIM, labelpad=1, fontfamily=FONT)

    def footer(self, geometry: Geometry, look: Look) -> None:
        side = "left" if look.radiological else "right"
        name = "Radiological" if look.radiological else "Neurological"
        spacing = " × ".join(f"{s:.3g}" for s in geometry.spacing_mm)
        note = f"{name} convention: the patient's right is on the {side}  ·  voxels {spacing} mm"
        mark = self.text(self._LEFT, 0.16, FOOTER, size=8, color=INK, va="center")
        told = self.text(self.width - self._RIGHT, 0.16, note, size=8, color=DIM, ha="right", va="center")
        long, longer = (words.get_window_extent().width / self.figure.dpi for words in (mark, told))
        if long + longer + 2 * _APART <= self.width - self._LEFT - self._RIGHT:
            return
        room = 0.95 * (self.width - self._LEFT / 2 - self._RIGHT)  # a narrow page: the lines stand above each other
        for words, y, own in ((mark, 0.24, long), (told, 0.09, longer)):
            words.set(x=self._LEFT / 2 / self.width, y=y / self.height, ha="left", size=8 * min(1.0, room / own))


def _scale_bar(axes: Axes, size_mm: tuple[float, float]) -> None:
    length = _SCALE_BAR_MM / size_mm[0]
    if length > 0.6:  # a small volume: no bar rather than one that covers it
        return
    axes.plot((0.04, 0.04 + length), (0.035, 0.035), transform=axes.transAxes, color=INK, linewidth=1.4)
    axes.text(0.04, 0.05, "5 cm", color=INK, fontsize=7.5, va="bottom", **on_picture(axes))


def _text(figure: Figure, x: float, y: float, words: str, **style: str | float) -> Text:
    font: dict[str, Any] = {"color": INK, "fontfamily": FONT} | style
    return figure.text(x, y, words, fontdict=font)


def _png(path: str | Path) -> Path:
    target = Path(path)
    if target.suffix.lower() != ".png":
        raise SettingsError("E-OUTFORMAT", f"a picture that ends in '{target.suffix}'", wanted=".png", file=target.name)
    if not target.parent.is_dir():
        raise OutputError("E-OUT", "no such folder", mend="Make the folder first.", file=target.name)
    return target


def _save(figure: Figure, target: Path, dpi: int) -> Path:
    try:
        figure.savefig(target, format="png", dpi=dpi, facecolor=PAPER, metadata={"Software": "medidiff"})
    except OSError as error:
        raise OutputError("E-OUT", error.strerror or "it cannot be written", file=target.name) from error
    return target
