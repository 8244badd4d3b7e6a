"""Bijective changes: made before the network, undone after it, from their own record."""

from medidiff.prepare.intensity import IntensityScale, fit_intensity

__all__ = ["IntensityScale", "fit_intensity"]
