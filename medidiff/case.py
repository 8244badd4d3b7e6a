"""A synthetic case: an invented scan, its label map, what was asked for and how it was made.

`synthesis` draws cases, `gates` judge them and `export` writes them; none of the three knows of another.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from medidiff.errors import InputError
from medidiff.volume import Provenance, Volume

__all__ = ["MARK", "TISSUES", "Case", "name_of"]

MARK = "SYNTHETIC: invented by medidiff, not a patient; research use only"
"""Stands in every file that leaves with a synthetic data set."""

TISSUES = ("background", "CSF", "gray matter", "white matter")
"""Names of the tissue labels by their number."""


@dataclass(frozen=True, slots=True)
class Case:
    """One invented subject.

    Args:
        number: of the case in its data set, from 0.
        image: (1, I, J, K) scan.
        labels: (1, I, J, K) whole numbers on the grid of `image`, in an unsigned type; None when there is no map.
        label_names: what each number of `labels` means, from 0.
        asked: what was asked for, e.g. ``{"contrast": "T1w", "age": 34.0, "sex": "F"}``, without what was left open.
        provenance: how it was made; always synthetic.

    Raises:
        InputError: a map on another grid or with unnamed labels, or a provenance that does not say synthetic.
    """

    number: int
    image: Volume
    provenance: Provenance
    labels: Volume | None = None
    label_names: tuple[str, ...] = TISSUES
    asked: Mapping[str, str | float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.number < 0:
            raise InputError("E-CASE", f"case number {self.number}", wanted="at least 0")
        if not self.provenance.synthetic:
            raise InputError("E-CASE", "a record that does not say synthetic", wanted="an invented scan")
        if self.labels is None:
            return
        if self.labels.geometry != self.image.geometry or self.labels.data.dtype.kind != "u":
            raise InputError(
                "E-CASE", "labels on another grid or in another type", wanted="whole numbers on the scan's"
            )
        if int(np.max(self.labels.data)) >= len(self.label_names):
            raise InputError("E-CASE", f"label {int(np.max(self.labels.data))}", wanted=", ".join(self.label_names))

    @property
    def name(self) -> str:
        """E.g. ``"syn000017"``; made from the number alone."""
        return name_of(self.number)


def name_of(number: int) -> str:
    """The name of the case of a number, also before it is drawn."""
    return f"syn{number:06d}"
