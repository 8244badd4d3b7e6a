"""Lossy compression leaves its mark for ever: the flags of a derived image say what its source went through."""

from __future__ import annotations

import math
from collections.abc import Iterable

from pydicom.dataset import Dataset

from medidiff.io.dicom.derived.modules import decimal
from medidiff.io.dicom.headers.header import Header

__all__ = ["add_lossy"]

_METHODS = {  # transfer syntax -> LossyImageCompressionMethod, C.7.6.1.1.5.1
    "1.2.840.10008.1.2.4.50": "ISO_10918_1",
    "1.2.840.10008.1.2.4.51": "ISO_10918_1",
    "1.2.840.10008.1.2.4.81": "ISO_14495_1",
    "1.2.840.10008.1.2.4.91": "ISO_15444_1",
    "1.2.840.10008.1.2.4.203": "ISO_15444_15",
}
_REVERSIBLE_TOO = ("1.2.840.10008.1.2.4.91", "1.2.840.10008.1.2.4.203")  # "00" in the header is believed for these


def add_lossy(image: Dataset, sources: Iterable[Header]) -> None:
    """Set flag, ratio and method when any source image was compressed with loss; leave them as they are otherwise.

    Args:
        image: the new image, holding what its nearest source says itself.
        sources: all images of the source.
    """
    stated = str(image.get("LossyImageCompression") or "")
    marked = [h for h in sources if h.syntax in _METHODS and not (h.syntax in _REVERSIBLE_TOO and stated == "00")]
    if stated != "01" and not marked:
        return
    image.LossyImageCompression = "01"
    if not image.get("LossyImageCompressionRatio"):
        image.LossyImageCompressionRatio = decimal(_ratio(marked[0]) if marked else 1.0)
    if not image.get("LossyImageCompressionMethod"):
        image.LossyImageCompressionMethod = _METHODS[marked[0].syntax] if marked else None


def _ratio(header: Header) -> float:
    """Bytes of the pixels for one byte of the file, to three digits."""
    pixels = math.prod(header.shape) * header.frames * header.bits[0] / 8
    return float(f"{max(pixels / max(header.file.stat().st_size, 1), 1.0):.3g}")
