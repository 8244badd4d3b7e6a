"""Clean scans packed into one file, so that a machine that trains needs neither the scans nor the code that reads them.

A pack is a safetensors file: half-precision images at network scale, tissue masks, and for each scan its part of the
split, the number of its source in the recipe, its weight and the hash of the image it was made from. No name of a file,
subject or folder goes into it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from medidiff.errors import SettingsError
from medidiff.io.files.atomic import write_file
from medidiff.training.patches import Scan

__all__ = ["is_pack", "read_pack", "write_pack"]

_ENDING = ".safetensors"


class _About(BaseModel):
    model_config = ConfigDict(extra="forbid")
    part: str = Field(pattern="^(train|validation)$")
    source: int = Field(ge=0)
    weight: float = Field(gt=0, allow_inf_nan=False)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


def is_pack(path: Path | None) -> bool:
    """Whether a data path names a pack instead of a folder."""
    return path is not None and path.suffix == _ENDING


def write_pack(path: Path, parts: Mapping[str, Sequence[tuple[Scan, float, int]]]) -> None:
    """Pack scans, by the part of the split (``"train"``, ``"validation"``) that they are of.

    Args:
        path: file to write.
        parts: of each part the scans, their weights, and the numbers of their sources in the recipe, from 0.

    Raises:
        SettingsError: ``E-PACK``, a scan has simulated noise, which a pack does not hold.
        OutputError: the system refuses to write; nothing half is left.
    """
    if any(scan.noise is not None for scans in parts.values() for scan, *_ in scans):
        mend = "Train from the scans themselves, or pack with a recipe without low_dose."
        raise SettingsError("E-PACK", "a pack cannot hold the simulated noise of lower doses", mend=mend)
    tensors: dict[str, torch.Tensor] = {}
    about: list[dict[str, object]] = []
    for part, scans in parts.items():
        for scan, weight, source in scans:
            number = f"{len(about):04d}"
            mask = torch.zeros(scan.image.shape, dtype=torch.bool)
            mask[scan.centres.long().unbind(1)] = True
            tensors |= {f"{number}.image": scan.image.half().contiguous(), f"{number}.mask": mask}
            about.append(_About(part=part, source=source, weight=weight, sha256=scan.sha256).model_dump())
    metadata = {"scans": json.dumps(about)}
    write_file(path, lambda partial: partial.write_bytes(save(tensors, metadata)))


def read_pack(path: Path, *, part: str, source: int | None = None) -> tuple[list[Scan], list[float]]:
    """The scans of one part, and how often a patch is to come from each.

    Args:
        path: the pack.
        part: ``"train"`` or ``"validation"``.
        source: number of the one source of the recipe that is wanted, from 0; None for all.

    Raises:
        SettingsError: ``E-PACK``, it is no pack, a broken one, or it holds no scan of this part and source.
    """
    scans, weights = [], []
    try:
        with safe_open(path, framework="pt") as file:
            listed = TypeAdapter(list[_About]).validate_json((file.metadata() or {}).get("scans", ""))
            for number, about in enumerate(listed):
                if about.part != part or source not in (None, about.source):
                    continue
                image, mask = (file.get_tensor(f"{number:04d}.{name}") for name in ("image", "mask"))
                if image.ndim != 3 or image.shape != mask.shape or not (image.isfinite().all() and mask.any()):
                    raise ValueError
                scans.append(Scan(image, mask.nonzero().to(torch.int16), about.sha256))
                weights.append(about.weight)
    except (OSError, SafetensorError, ValidationError, ValueError) as error:
        mend = "Make it again with pipelines/prepare.py."
        raise SettingsError("E-PACK", "no pack of scans, or a broken one", mend=mend, file=path.name) from error
    if not scans:
        mend = "Make it again with pipelines/prepare.py, from a recipe that names scans of this part."
        raise SettingsError("E-PACK", f"no scan of the part '{part}' in the pack", mend=mend, file=path.name)
    return scans, weights
