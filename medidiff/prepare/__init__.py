"""Bijective changes: made before the network, undone after it, from their own record."""

from medidiff.prepare.intensity import IntensityScale, fit_intensity
from medidiff.prepare.masks import put_back, readable, without_padding

__all__ = ["IntensityScale", "fit_intensity", "put_back", "readable", "without_padding"]
