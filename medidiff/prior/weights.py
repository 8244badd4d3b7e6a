"""Weights from a file that nobody vouches for: safetensors only, and every size known before anything is allocated."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load

from medidiff.errors import PriorError

__all__ = ["LARGEST_BYTES", "read_weights", "refuse_unlike"]

LARGEST_BYTES = 256 * 2**20
_LARGEST_HEADER = 2**20  # bytes; a network of a thousand tensors needs a tenth
_TYPES = {"F16", "BF16", "F32"}


def read_weights(path: Path, *, sha256: str) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file, after size, hash, header and numbers were checked.

    Args:
        path: the file.
        sha256: what its bytes must hash to.

    Raises:
        PriorError: ``E-PRIOR``, it is not there; ``E-WEIGHTS``, it is broken, too large or another one.
    """
    if not path.is_file():
        mend = "Put the .safetensors file of the same name beside the card."
        raise PriorError("E-PRIOR", "the weights beside the card are missing", file=path.name, mend=mend)
    if path.stat().st_size > LARGEST_BYTES:
        raise PriorError("E-WEIGHTS", f"{path.stat().st_size} bytes", wanted=f"<= {LARGEST_BYTES}", file=path.name)
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != sha256:
        raise PriorError(
            "E-WEIGHTS",
            "weights whose SHA-256 is not the card's",
            file=path.name,
            mend="Fetch card and weights again; they belong together.",
        )
    _check_header(data, path.name)
    try:
        weights: dict[str, torch.Tensor] = load(data)
    except (SafetensorError, ValueError, RuntimeError, LookupError) as error:
        raise _broken(path.name) from error
    broken = [name for name, tensor in weights.items() if not bool(torch.isfinite(tensor).all())]
    if broken:
        raise PriorError(
            "E-WEIGHTS", f"{len(broken)} tensors with non-finite numbers, first {broken[0][:80]}", file=path.name
        )
    return weights


def refuse_unlike(wanted: Mapping[str, torch.Tensor], found: Mapping[str, torch.Tensor], *, file: str) -> None:
    """Refuse weights whose names or shapes are not those of a network.

    Args:
        wanted: of the network; only the shapes are looked at.
        found: the weights.
        file: name for the message.

    Raises:
        PriorError: ``E-WEIGHTS``.
    """
    shapes = [{name: tensor.shape for name, tensor in each.items()} for each in (wanted, found)]
    odd = sorted(name for name in {**wanted, **found} if shapes[0].get(name) != shapes[1].get(name))
    if odd:
        raise PriorError("E-WEIGHTS", f"{len(odd)} tensors unlike the card's network, first {odd[0][:80]}", file=file)


def _broken(name: str, found: str = "not a safetensors file") -> PriorError:
    return PriorError("E-WEIGHTS", found, mend="Fetch it again.", file=name)


def _check_header(data: bytes, name: str) -> None:
    """Refuse a header that is too long, no plain JSON, or names a tensor twice or of a type that is no float."""
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > min(_LARGEST_HEADER, len(data) - 8):
        raise _broken(name, f"not a safetensors file: a header of {length} bytes, {len(data)} in all")
    try:
        entries = json.loads(data[8 : 8 + length], object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise _broken(name) from error
    if not isinstance(entries, dict):
        raise _broken(name)
    entries.pop("__metadata__", None)
    if not all(isinstance(entry, dict) and entry.get("dtype") in _TYPES for entry in entries.values()):
        raise _broken(name, "tensors that are not floats of 16 or 32 bits")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name that stands twice")
    return found
