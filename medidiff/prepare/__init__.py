"""Bijective changes: made before the network, undone after it, from their own record."""

from medidiff.prepare.intensity import IntensityScale, fit_intensity, looks_like_hounsfield, with_filler_marked
from medidiff.prepare.masks import blank_background, put_back, readable, with_background, without_padding

__all__ = [
    "IntensityScale",
    "blank_background",
    "fit_intensity",
    "looks_like_hounsfield",
    "put_back",
    "readable",
    "with_background",
    "with_filler_marked",
    "without_padding",
]
