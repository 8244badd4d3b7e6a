"""Numbers that are numbers: text where a number belongs does not stay."""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Sequence

from pydicom.datadict import dictionary_has_tag

__all__ = ["is_number"]

_DECIMAL = re.compile(r" *[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d{1,3})? *")
_WHOLE = re.compile(r" *[-+]?\d{1,12} *")
_RANGES = {"FD": (1e-30, 1e30), "FL": (1e-12, 1e12)}  # letters taken for floats mostly lie outside
_CODES = {"US": "H", "SS": "h", "UL": "L", "SL": "l"}
_LEAST_BYTES = 6  # of letters that are taken for whole numbers; fewer are as likely to be numbers


def is_number(vr: str, values: Sequence[str]) -> bool:
    """Whether the values of a numeric attribute may stay.

    Args:
        vr: the value representation.
        values: as text.
    """
    if vr in ("DS", "IS"):
        form = _DECIMAL if vr == "DS" else _WHOLE
        return all(form.fullmatch(value) or not value.strip() for value in values)
    if vr in _RANGES:
        return all(_is_plausible(value, *_RANGES[vr]) for value in values)
    if vr == "AT":
        return all(_is_tag(value) for value in values)
    return vr not in _CODES or not _spells(_CODES[vr], values)


def _is_plausible(value: str, least: float, most: float) -> bool:
    try:
        size = abs(float(value))
    except ValueError:
        return False
    return size == 0 or math.isnan(size) or least <= size <= most


def _is_tag(value: str) -> bool:
    digits = re.sub(r"[(), ]", "", value)
    return re.fullmatch(r"[0-9a-fA-F]{8}", digits) is not None and dictionary_has_tag(int(digits, 16))


def _spells(code: str, values: Sequence[str]) -> bool:
    """Whether whole numbers are letters, in either byte order."""
    try:
        raw = struct.pack(f"<{len(values)}{code}", *(int(value) for value in values))
    except (ValueError, struct.error):
        return True
    return len(raw) >= _LEAST_BYTES and all(32 <= byte < 127 for byte in raw)
