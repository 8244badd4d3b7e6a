"""A checkpoint from a file that nobody vouches for: tensors and plain values, every size known before it is loaded."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from medidiff.errors import PriorError

__all__ = ["read_checkpoint"]

_LARGEST_BYTES = 2**32  # weights, their mean and two moments of the largest prior take half of it
_LARGEST_TABLE = 2**24  # bytes of the pickle that names the tensors
_PARTS = {"recipe": str, "data": str, "state": dict}


def read_checkpoint(path: Path) -> dict[str, Any]:
    """What ``torch.save`` wrote, without running anything that the file asks for.

    Raises:
        PriorError: ``E-CHECKPOINT``, it is no plain uncompressed archive, too large, holds more than tensors and
            plain values, or numbers that are not finite.
    """
    try:
        _check_archive(path)
        saved = torch.load(path, map_location="cpu", weights_only=True)
        if not (isinstance(saved, dict) and all(isinstance(saved.get(name), kind) for name, kind in _PARTS.items())):
            raise ValueError
        if not all(bool(torch.isfinite(tensor).all()) for tensor in _tensors(saved["state"])):
            raise ValueError
    except Exception as error:  # a foreign pickle makes the loader raise nearly anything
        found = "a checkpoint that cannot be read"
        raise PriorError("E-CHECKPOINT", found, file=path.name, mend="Remove it.") from error
    return saved


def _check_archive(path: Path) -> None:
    """Refuse other formats than the archive of ``torch.save``, and archives that grow when they are opened."""
    if path.stat().st_size > _LARGEST_BYTES:
        raise ValueError
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    names = [member.filename for member in members]
    if len(set(names)) < len(names) or any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise ValueError
    if sum(member.file_size for member in members) > path.stat().st_size:
        raise ValueError
    if any(member.file_size > _LARGEST_TABLE for member in members if member.filename.endswith(".pkl")):
        raise ValueError


def _tensors(state: dict[str, Any]) -> Iterator[torch.Tensor]:
    """The tensors of weights and optimiser; each takes no more memory than the file has bytes for it."""
    tables = [state["network"], state["average"], *state["optimizer"]["state"].values()]
    for value in (value for table in tables for value in table.values()):
        if isinstance(value, torch.Tensor):
            if value.numel() * value.element_size() > value.untyped_storage().nbytes():
                raise ValueError
            yield value
