"""Augmentation for trainers: variants of a scan, made on the fly.

========== ======================================================================= ========================
kind       the image                                                               the label map
========== ======================================================================= ========================
degraded   the scan as a worse scanner would have given it, on the scan's own grid that of the scan
restored   a posterior draw of a prior, from the degraded scan                     that of the scan
synthetic  a scan of nobody, drawn by a cascade                                    the one drawn with it
========== ======================================================================= ========================

Each is a function of the seed and its number alone. `augment` makes one; `RandVariantd` does it among the transforms of
MONAI, for one item in so many.
"""

from medidiff.augmentation.transform import RandVariantd
from medidiff.augmentation.variants import KINDS, Kind, Variant, VariantSettings, augment

__all__ = ["KINDS", "Kind", "RandVariantd", "Variant", "VariantSettings", "augment"]
