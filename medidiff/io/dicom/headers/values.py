"""Header values as text and numbers, without the interpretation that drops or refuses what is slightly illegal."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset

from medidiff.errors import InputError
from medidiff.io.files.checks import REFETCH

__all__ = ["Values", "tag_of"]

_SHOWN = 64  # characters of a broken number that a message quotes
_BINARY = {"FD": "d", "FL": "f", "US": "H", "SS": "h", "UL": "L", "SL": "l"}


@cache
def tag_of(keyword: str) -> int:
    """The tag of a standard attribute."""
    tag = tag_for_keyword(keyword)
    if tag is None:
        raise KeyError(keyword)
    return int(tag)


@cache
def _kind_of(keyword: str) -> str:
    return dictionary_VR(keyword)


@dataclass(frozen=True, slots=True)
class Values:
    """Values of one data set, by keyword; or by tag for private ones.

    Args:
        file: name for messages.
        raw: bytes by tag, of a file's outline.
        dataset: a parsed data set, instead of `raw`.
        big: whether the numbers in `raw` are stored big end first.
    """

    file: str
    raw: Mapping[int, bytes] = field(default_factory=dict)
    dataset: Dataset | None = None
    big: bool = False

    def stored(self, key: str | int) -> Any:
        """What is stored: bytes, or whatever pydicom has made of it already; None when missing."""
        tag = key if isinstance(key, int) else tag_of(key)
        if self.dataset is None:
            return self.raw.get(tag)
        if tag not in self.dataset:
            return None
        element = self.dataset.get_item(tag)
        raw = isinstance(element, RawDataElement) and not (isinstance(key, str) and dictionary_VR(key) == "SQ")
        return element.value if raw and element is not None else self.dataset[tag].value

    def text(self, key: str | int, *, kind: str = "") -> str:
        """A short value as text, several joined by backslashes; empty when missing.

        Args:
            key: keyword, or tag of a private element.
            kind: VR of a private element that is stored in binary.
        """
        value = self.stored(key)
        if isinstance(value, bytes):
            code = _BINARY.get(kind or (_kind_of(key) if isinstance(key, str) else ""), "")
            if code and len(value) % struct.calcsize(f"<{code}") == 0 and not _is_text(value):
                count = len(value) // struct.calcsize(f"<{code}")
                return "\\".join(f"{v:.9g}" for v in struct.unpack(f"{'>' if self.big else '<'}{count}{code}", value))
            return value.decode("latin-1").strip(" \0")
        if value is None or isinstance(value, (str, int, float)):
            return str(value if value is not None else "")
        return "\\".join(str(part) for part in value)

    def integer(self, keyword: str) -> int | None:
        """A binary or decimal integer; None when missing or no integer."""
        value = self.stored(keyword)
        if isinstance(value, bytes) and len(value) in (2, 4) and _kind_of(keyword) != "IS":
            return int.from_bytes(value, "big" if self.big else "little")
        if isinstance(value, int):
            return value
        number = self.number(keyword)
        return int(number) if number is not None and number.is_integer() else None

    def number(self, key: str | int) -> float | None:
        """A number that is only compared or counted with, so that a broken one may be ignored."""
        try:
            value = float(self.text(key))
        except ValueError:
            return None
        return value if math.isfinite(value) else None

    def decimals(self, keyword: str, *, count: int) -> tuple[float, ...] | None:
        """Decimal strings as numbers; strings longer than DICOM's 16 characters are common and read as they stand.

        Args:
            keyword: the attribute.
            count: how many numbers it must hold.

        Raises:
            InputError: ``E-BADDS``, no numbers or not so many; ``E-NONFINITE``.
        """
        text = self.text(keyword)
        if not text.strip("\\ "):
            return None
        try:
            values = tuple(float(part) for part in text.split("\\"))
        except ValueError:
            plain = len(text) <= _SHOWN and not set(text) - set("0123456789.,+-eE\\ ")
            shown = f"the bytes '{text}'" if plain else f"{len(text)} bytes of other text"
            wanted = "decimal numbers with a point, separated by backslashes"
            raise _broken("E-BADDS", shown, wanted=wanted, attribute=keyword, file=self.file) from None
        if not all(math.isfinite(v) for v in values):
            raise _broken(
                "E-NONFINITE", "a value that is not finite", wanted="numbers", attribute=keyword, file=self.file
            )
        if len(values) != count:
            raise _broken("E-BADDS", f"{len(values)} values", wanted=str(count), attribute=keyword, file=self.file)
        return values


def _broken(code: str, found: str, *, wanted: str, attribute: str, file: str) -> InputError:
    return InputError(code, found, wanted=wanted, mend=REFETCH, file=file, attribute=attribute)


def _is_text(value: bytes) -> bool:
    """Whether these are written numbers; the bytes of a binary one may be printable too, as those of 0.7 are."""
    text = value.rstrip(b"\0")
    return bool(text) and not set(text) - set(b"0123456789.+-eE\\ ")
