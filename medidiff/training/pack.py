"""Clean scans packed into one file, so that a machine that trains needs neither the scans nor the code that reads them.

A pack is a safetensors file: half-precision images at network scale, tissue masks, and for each scan its part of the
split, its weight and the hash of the image it was made from. No name of a file, subject or folder goes into it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from medidiff.errors import SettingsError
from medidiff.training.patches import Scan

__all__ = ["is_pack", "read_pack", "write_pack"]

_ENDING = ".safetensors"


class _About(BaseModel):
    model_config = ConfigDict(extra="forbid")
    part: str = Field(pattern="^(train|validation)$")
    weight: float = Field(gt=0, allow_inf_nan=False)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


def is_pack(path: Path | None) -> bool:
    """Whether a data path names a pack instead of a folder."""
    return path is not None and path.suffix == _ENDING


def write_pack(path: Path, parts: Mapping[str, Sequence[tuple[Scan, float]]]) -> None:
    """Pack scans and their weights, by the part of the split (``"train"``, ``"validation"``) that they are of."""
    tensors: dict[str, torch.Tensor] = {}
    about: list[dict[str, object]] = []
    for part, scans in parts.items():
        for scan, weight in scans:
            number = f"{len(about):04d}"
            mask = torch.zeros(scan.image.shape, dtype=torch.bool)
            mask[scan.centres.long().unbind(1)] = True
            tensors |= {f"{number}.image": scan.image.half().contiguous(), f"{number}.mask": mask}
            about.append(_About(part=part, weight=weight, sha256=scan.sha256).model_dump())
    temporary = path.with_name(f".{path.name}.part")
    save_file(tensors, temporary, metadata={"scans": json.dumps(about)})
    temporary.replace(path)


def read_pack(path: Path, *, part: str) -> tuple[list[Scan], list[float]]:
    """The scans of one part, and how often a patch is to come from each.

    Raises:
        SettingsError: ``E-PACK``, it is no pack, or a broken one.
    """
    scans, weights = [], []
    try:
        with safe_open(path, framework="pt") as file:
            listed = TypeAdapter(list[_About]).validate_json((file.metadata() or {}).get("scans", ""))
            for number, about in enumerate(listed):
                if about.part != part:
                    continue
                image, mask = (file.get_tensor(f"{number:04d}.{name}") for name in ("image", "mask"))
                if image.ndim != 3 or image.shape != mask.shape or not (image.isfinite().all() and mask.any()):
                    raise ValueError
                scans.append(Scan(image, mask.nonzero().to(torch.int16), about.sha256))
                weights.append(about.weight)
    except (OSError, SafetensorError, ValidationError, ValueError) as error:
        mend = "Make it again with pipelines/prepare.py."
        raise SettingsError("E-PACK", "no pack of scans, or a broken one", mend=mend, file=path.name) from error
    return scans, weights
