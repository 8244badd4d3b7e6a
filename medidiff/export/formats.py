"""The formats by name; each is imported when it is asked for."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from medidiff.errors import SettingsError
from medidiff.export.about import About
from medidiff.export.layout import Layout

__all__ = ["FORMATS", "layout_of"]

_CLASSES = {
    "bids": ("bids", "Bids"),
    "nnunet": ("trainers", "NnUNet"),
    "msd": ("trainers", "Decathlon"),
    "webdataset": ("shards", "WebDataset"),
    "huggingface": ("trainers", "HuggingFace"),
    "dicom": ("dicom", "Dicom"),
}
FORMATS = tuple(_CLASSES)
"""What a data set can be written as; the first is the default."""


def layout_of(format: str, root: Path, about: About) -> Layout:
    """A data set in a format.

    Raises:
        SettingsError: ``E-EXPORT``, there is no such format.
    """
    if format not in _CLASSES:
        raise SettingsError("E-EXPORT", f"format {format!r}", wanted=", ".join(FORMATS), attribute="--format")
    module, name = _CLASSES[format]
    layout: Layout = getattr(import_module(f"medidiff.export.{module}"), name)(root, about)
    return layout
