"""A value as HTML, for notebooks: a picture in a data URI and some escaped words. It asks nothing of the network."""

from __future__ import annotations

import base64
import io
from html import escape

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from medidiff.showing.planes import Strip, convention, strips
from medidiff.showing.rich import Exhibit, facts
from medidiff.views import SEQUENTIAL, View

__all__ = ["html"]

_WIDTH, _HEIGHT, _GAP = 780, 250, 6  # pixels, of three planes side by side
_MARK, _EDGE, _LETTERS = (0xF2, 0xC6, 0x6D), (0, 0, 0), 13
_SMALLEST = 48  # pixels a side of a slice on which letters still leave something to see
_FINE = "margin:0.15em 0;font-size:0.85em;opacity:0.75"
_PLACES = {"left": ("lm", 0.0, 0.5), "right": ("rm", 1.0, 0.5), "top": ("mt", 0.5, 0.0), "bottom": ("mb", 0.5, 1.0)}
_USE = "Research use only, not for diagnosis."


def html(exhibit: Exhibit) -> str:
    """The exhibit as a piece of HTML; the same one always gives the same text."""
    shown = strips(exhibit)
    lines = [f'<p style="margin:0.15em 0"><b>{escape(exhibit.title)}</b></p>', _fine(facts(exhibit.geometry) + ".")]
    for strip in shown:
        uri = "data:image/png;base64," + base64.b64encode(_png(strip)).decode("ascii")
        words = "Axial, coronal and sagittal slice" + (f": {strip.name}" if strip.name else "")
        picture = f'<img alt="{escape(words)}" src="{uri}" style="max-width:100%;display:block">'
        lines += [f'<div style="margin:0.3em 0">{picture}{_fine(_caption(strip, exhibit.units))}</div>']
    lines += [_fine(note) for note in (*exhibit.notes, f"{convention(True)} {_USE}")]
    return f'<div class="medidiff">{"".join(lines)}</div>'


def _fine(words: str) -> str:
    return f'<p style="{_FINE}">{escape(words)}</p>'


def _caption(strip: Strip, units: str) -> str:
    low, high = (f"{edge:.4g}" for edge in strip.window)
    unit = f" {units}" if units else ""
    scale = f"dark blue {low} to yellow {high}{unit}" if strip.spread else f"black {low} to white {high}{unit}"
    return " ".join([f"{strip.name}: {scale}." if strip.name else f"{scale[0].upper()}{scale[1:]}.", *strip.notes])


def _png(strip: Strip) -> bytes:
    """Three planes side by side at one scale in mm, as PNG."""
    widths, heights = zip(*(view.size_mm for view in strip.views), strict=True)
    scale = min((_WIDTH - 2 * _GAP) / sum(widths), _HEIGHT / max(heights))
    tiles = [_tile(strip, view, scale) for view in strip.views]
    total = sum(tile.width for tile in tiles) + _GAP * (len(tiles) - 1)
    height = max(tile.height for tile in tiles)
    sheet = Image.new("RGB", (total, height))
    left = 0
    for tile, view in zip(tiles, strip.views, strict=True):
        top = (height - tile.height) // 2
        sheet.paste(tile, (left, top))
        _letter(sheet, (left, top, tile.width, tile.height), view)
        left += tile.width + _GAP
    stream = io.BytesIO()
    sheet.save(stream, "PNG")
    return stream.getvalue()


def _tile(strip: Strip, view: View, scale: float) -> Image.Image:
    size = tuple(max(1, round(mm * scale)) for mm in view.size_mm)
    grey = np.rint(255 * strip.levels(view)).astype(np.uint8)
    larger = size[0] >= grey.shape[1] and size[1] >= grey.shape[0]  # voxels are then shown as they are
    way = Image.Resampling.NEAREST if larger else Image.Resampling.BILINEAR
    shown = Image.fromarray(grey).resize((size[0], size[1]), way)
    return Image.fromarray(_COLOURS[np.asarray(shown)]) if strip.spread else shown.convert("RGB")


def _colours() -> NDArray[np.uint8]:
    """(256, 3) the colours of a spread, from 0."""
    stops = np.asarray(SEQUENTIAL, dtype=np.float64)
    places = np.linspace(0, len(stops) - 1, 256)
    return np.stack([np.rint(np.interp(places, range(len(stops)), c)) for c in stops.T], axis=1).astype(np.uint8)


_COLOURS = _colours()


def _letter(sheet: Image.Image, box: tuple[int, int, int, int], view: View) -> None:
    left, top, width, height = box
    if min(width, height) < _SMALLEST:
        return
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(_LETTERS)
    for edge, (anchor, across, down) in _PLACES.items():
        place = (left + 4 + across * (width - 8), top + 4 + down * (height - 8))
        draw.text(place, getattr(view, edge), _MARK, font, anchor, stroke_width=2, stroke_fill=_EDGE)
