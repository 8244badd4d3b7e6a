"""A value as a figure of matplotlib: a row for each panel, three planes side by side at one scale in mm."""

from __future__ import annotations

import io
from collections.abc import Sequence

from matplotlib.figure import Figure

from medidiff.showing.drawing import DIM, FONT, FOOTER, INK, PAPER, blank, edge_letters, number
from medidiff.showing.planes import Strip, convention, strips
from medidiff.showing.rich import Exhibit, facts
from medidiff.views import PLANES

__all__ = ["Picture", "figure"]

_INCHES, _ROW = 9.4, 3.4  # largest width and height of three planes
_LEFT, _RIGHT, _TOP, _BOTTOM, _GAP, _BETWEEN = 0.15, 0.95, 0.62, 0.42, 0.08, 0.34
_DPI = 110


class Picture(Figure):
    """A figure that a notebook shows by itself, pyplot or not."""

    def _repr_png_(self) -> bytes:
        stream = io.BytesIO()
        self.savefig(stream, format="png", dpi=_DPI, facecolor=PAPER)
        return stream.getvalue()


def figure(
    exhibit: Exhibit,
    *,
    at_mm: Sequence[float] | None = None,
    window: tuple[float, float] | None = None,
    radiological: bool = True,
) -> Picture:
    """Three planes of each panel.

    Args:
        exhibit: what to show.
        at_mm: (3,) RAS+ world point that the planes pass through; the middle of the tissue when left out.
        window: black and white of the grey panels.
        radiological: the patient's right on the left of the picture.

    Raises:
        SettingsError: ``E-WINDOW``, a window that is none.
    """
    shown = strips(exhibit, at_mm=at_mm, window=window, radiological=radiological)
    sizes = [view.size_mm for view in shown[0].views]
    spare = _GAP * (len(sizes) - 1)
    scale = min((_INCHES - spare) / sum(width for width, _ in sizes), _ROW / max(height for _, height in sizes))
    row = max(height for _, height in sizes) * scale
    width = _LEFT + max(sum(w for w, _ in sizes) * scale + spare, 4.5) + _RIGHT
    height = _TOP + len(shown) * row + (len(shown) - 1) * _BETWEEN + _BOTTOM
    page = blank(width, height, Picture)
    for place, strip in enumerate(shown):
        _row(page, strip, scale, exhibit.units, bottom=height - _TOP - (place + 1) * row - place * _BETWEEN, row=row)
    words = (
        (_LEFT, height - 0.2, exhibit.title, 11, INK, "left"),
        (_LEFT, 0.24, f"{facts(exhibit.geometry)}. {convention(radiological)}", 8, DIM, "left"),
        (_LEFT, 0.09, FOOTER, 8, INK, "left"),
    )
    for x, y, text, size, colour, side in words:
        page.text(x / width, y / height, text, fontsize=size, color=colour, ha=side, va="center", fontfamily=FONT)
    return page


def _row(page: Picture, strip: Strip, scale: float, units: str, *, bottom: float, row: float) -> None:
    width, height = page.get_size_inches()
    left = _LEFT
    for plane, view in zip(PLANES, strip.views, strict=True):
        wide, high = (mm * scale for mm in view.size_mm)
        box = (left / width, (bottom + (row - high) / 2) / height, wide / width, high / height)
        axes = page.add_axes(box, label=f"{strip.name} {plane.name}".strip())
        axes.set_axis_off()
        low, top = strip.window
        colours = "cividis" if strip.spread else "gray"
        image = axes.imshow(view.pixels, cmap=colours, vmin=low, vmax=top, aspect="auto", interpolation="auto")
        edge_letters(axes, view)
        left += wide + _GAP
    bar = page.colorbar(image, cax=page.add_axes((left / width, bottom / height, 0.1 / width, row / height)))
    bar.outline.set_visible(False)
    bar.set_ticks(list(strip.window), labels=[number(edge) for edge in strip.window])
    bar.ax.tick_params(length=0, labelsize=8, labelcolor=DIM, labelfontfamily=FONT)
    bar.set_label(units or "a.u.", size=8, color=DIM, fontfamily=FONT)
    title = (_LEFT / width, (bottom + row + 0.13) / height)
    page.text(*title, " ".join((strip.name, *strip.notes)), fontsize=9, color=DIM, va="center", fontfamily=FONT)
