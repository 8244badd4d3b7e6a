"""What every figure of the package is drawn with: colours, a dark sheet, and the letters at the edges of a slice."""

from __future__ import annotations

from typing import Any, TypeVar

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from medidiff.views import View

__all__ = ["DIM", "FONT", "FOOTER", "INK", "MARK", "PAPER", "blank", "edge_letters", "number", "on_picture"]

INK, DIM, MARK, PAPER = "#eceff1", "#90979d", "#f2c66d", "#000000"
FOOTER = "medidiff  ·  Research use only, not for diagnosis"
FONT = "DejaVu Sans"  # comes with matplotlib: the picture is the same on every machine

F = TypeVar("F", bound=Figure)


def blank(width: float, height: float, kind: type[F]) -> F:
    """A dark figure of a size in inches, made without pyplot."""
    figure = kind(figsize=(width, height), facecolor=PAPER)
    figure.set_layout_engine("none")  # whatever the user's matplotlibrc says
    FigureCanvasAgg(figure)
    return figure


def edge_letters(axes: Axes, shown: View) -> None:
    """Write at each edge of a slice which way it faces."""
    left, right = (shown.left, 0.02, 0.5, "left", "center"), (shown.right, 0.98, 0.5, "right", "center")
    top, bottom = (shown.top, 0.5, 0.985, "center", "top"), (shown.bottom, 0.5, 0.015, "center", "bottom")
    for letter, x, y, ha, va in (left, right, top, bottom):
        axes.text(x, y, letter, ha=ha, va=va, color=MARK, fontsize=8, weight="bold", **on_picture(axes))


def on_picture(axes: Axes) -> dict[str, Any]:
    """Writing on a picture: placed by shares of the panel, with a dark edge so that it reads on white too."""
    edge = [withStroke(linewidth=2.2, foreground=PAPER)]
    return {"transform": axes.transAxes, "fontfamily": FONT, "path_effects": edge}


def number(value: float) -> str:
    """A number at the end of a scale."""
    return f"{value:.0f}" if 100 <= abs(value) < 1e6 else f"{value:.3g}"
