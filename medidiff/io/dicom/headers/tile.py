"""Where one slice of a mosaic lies in the stored image."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Tile"]


@dataclass(frozen=True, slots=True)
class Tile:
    """One slice of a mosaic.

    Args:
        row: first row of the slice in the stored image.
        column: first column.
        whole: rows and columns of the stored image.
    """

    row: int
    column: int
    whole: tuple[int, int]
