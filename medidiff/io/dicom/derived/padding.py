"""The scanner's padding value, from the source's header into the new image: same mask, same value on the next read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medidiff.io.dicom.derived.stored import Scale
from medidiff.io.dicom.headers.header import Header

__all__ = ["Padding", "padding_of"]


@dataclass(frozen=True, slots=True)
class Padding:
    """What a source image holds where nothing was measured.

    Args:
        value: the padding value in real units.
        low: lowest real value that counts as padding.
        high: highest real value that counts as padding.
    """

    value: float
    low: float
    high: float

    def put(self, values: NDArray[Any], mask: NDArray[np.bool_]) -> NDArray[Any]:
        """A slice whose padding voxels hold padding values; those that do already keep theirs."""
        wrong = mask & ~self.covers(values)
        if not wrong.any():
            return values
        fits = values.dtype.kind == "f" or (float(self.value).is_integer() and _fits(self.value, values.dtype))
        changed = values.copy() if fits else values.astype(np.float64)
        changed[wrong] = self.value
        return changed

    def covers(self, values: NDArray[Any]) -> NDArray[np.bool_]:
        """Where a slice holds padding values."""
        slack = 1e-6 * max(abs(self.low), abs(self.high))
        return np.asarray((values >= self.low - slack) & (values <= self.high + slack))


def _fits(value: float, dtype: np.dtype[Any]) -> bool:
    return bool(np.iinfo(dtype).min <= value <= np.iinfo(dtype).max)


def padding_of(header: Header, scale: Scale) -> Padding | None:
    """The padding that an image declares; None when it declares none.

    Args:
        header: of the source image.
        scale: the source's own.
    """
    if not header.padding:
        return None
    ends = [_signed(value, header) * scale.slope + scale.intercept for value in header.padding]
    return Padding(ends[0], min(ends), max(ends))


def _signed(pattern: int, header: Header) -> int:
    """A stored bit pattern as the number that it means in the pixels."""
    allocated, signed = header.bits[0], header.bits[3]
    number: int = pattern & (2**allocated - 1)
    return number - 2**allocated if signed and number >= 2 ** (allocated - 1) else number
