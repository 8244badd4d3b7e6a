"""Prepared scans on the disk, cut where a patch needs them: memory does not grow with their number.

Each scan is prepared once, by the process whose turn it is, and kept as a safetensors file whose name is a hash of all
that it depends on: the bytes of the files that it is read from, what the recipe asks of it, and the software that
prepares. So a file that is found under its name is the right one, whatever happened to dates and names meanwhile; what
changed has another name. A file that is cut off or altered is noticed at the start and made again. Nothing is pickled.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, distributed

from medidiff.errors import SettingsError
from medidiff.io import sources
from medidiff.io.files.atomic import make_folder, sha256, write_file
from medidiff.io.sidecar import record_path
from medidiff.training.data import Found, load_scan
from medidiff.training.degrade import cut_side
from medidiff.training.patches import Scan
from medidiff.training.processes import sum_over_processes
from medidiff.training.recipe import Recipe
from medidiff.training.stored import BROKEN, StoredScan, TissueVoxels

__all__ = ["cache_key", "stored_scans"]

_LIBRARIES = ("nibabel", "numpy", "scikit-image", "scipy", "simpleitk", "torch")  # all that a prepared voxel depends on
_Hash = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class _About(BaseModel):
    """What a file of the cache says of itself."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    key: _Hash
    body: _Hash
    sha256: _Hash
    levels: tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...] = Field(max_length=32)


def stored_scans(found: Sequence[Found], recipe: Recipe, folder: Path) -> list[StoredScan]:
    """The scans that a recipe names, prepared in a folder; those that are there already are only looked at.

    Each process of a ``torchrun`` hashes and prepares its share. Where the folder is not shared between the machines of
    a run, the processes of each prepare what is missing there.

    Args:
        found: the scans.
        recipe: what is asked of them.
        folder: of the cache; made where there is none.

    Raises:
        InputError: a scan cannot be read.
        OutputError: the folder cannot be written, or its disk is full.
    """
    make_folder(folder)
    rank, world = (distributed.get_rank(), distributed.get_world_size()) if distributed.is_initialized() else (0, 1)
    keys = [""] * len(found)
    for number in range(rank, len(found), world):
        keys[number] = cache_key(found[number], recipe)
        if _look(folder, keys[number], whole=True) is None:
            _write(folder, keys[number], load_scan(found[number], recipe))
    keys = _of_all_processes(keys, world)
    for number in _rotated(len(found), rank):  # elsewhere than the others, so that two seldom do the same work
        if _look(folder, keys[number]) is None:
            _write(folder, keys[number], load_scan(found[number], recipe))
    return [_there(folder, key) for key in keys]


def cache_key(found: Found, recipe: Recipe) -> str:
    """A hash of all that a prepared scan depends on.

    Args:
        found: which scan, and which of its slices.
        recipe: its modality, its voxels, the doses with the seed of their noise, and where a patch fits into a slab.

    Raises:
        InputError: the scan cannot be found.
    """
    files = [*sources(found.path), record_path(found.path)]
    told = {
        "files": [sha256(file) if file.is_file() else "" for file in files],
        "slab": [found.slab.first, found.slab.end],
        "spacing_mm": recipe.data.spacing_mm,
        "modality": recipe.modality,
        "cut": cut_side(recipe.fit.patch, recipe.degradation) if found.slab.end is not None else 0,
        "low_dose": None if recipe.low_dose is None else [repr(recipe.low_dose), recipe.seed],
        "software": _software(),
    }
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


@functools.cache
def _software() -> str:
    """A hash of this package's source and of the versions of the libraries that prepare scans."""
    digest = hashlib.sha256(" ".join(version(name) for name in _LIBRARIES).encode())
    home = Path(__file__).parents[1]
    for file in sorted(home.rglob("*.py")):
        digest.update(f"\n{file.relative_to(home)}\n".encode() + file.read_bytes())
    return digest.hexdigest()


def _write(folder: Path, key: str, scan: Scan) -> None:
    tensors = {"image": scan.image.half().contiguous(), "centres": scan.centres.contiguous()}
    if scan.noise is not None:
        tensors["noise"] = scan.noise.contiguous()
    about = _About(key=key, body=_body(tensors), sha256=scan.sha256, levels=scan.levels)
    content = save(tensors, {"scan": about.model_dump_json()})
    write_file(_path(folder, key), lambda partial: partial.write_bytes(content))


def _body(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tuple(tensor.shape)}".encode() + tensor.numpy().tobytes())
    return digest.hexdigest()


def _path(folder: Path, key: str) -> Path:
    return folder / f"{key}.safetensors"


def _look(folder: Path, key: str, *, whole: bool = False) -> StoredScan | None:
    """The file of a key, if it is there and what it should be; with every byte of it looked at if `whole`."""
    path = _path(folder, key)
    try:
        with safe_open(path, framework="pt") as file:
            about = _About.model_validate_json((file.metadata() or {}).get("scan", ""))
            parts = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            kinds = {name: (part.get_dtype(), tuple(part.get_shape())) for name, part in parts.items()}
            if about.key != key or (whole and _body({name: file.get_tensor(name) for name in kinds}) != about.body):
                return None
        (_, (i, j, k)), (_, (count, _)) = kinds["image"], kinds["centres"]
    except (*BROKEN, ValidationError, LookupError):
        return None
    wanted = {"image": ("F16", (i, j, k)), "centres": ("I16", (count, 3))}
    wanted |= {"noise": ("F16", (len(about.levels), i, j, k))} if about.levels else {}
    if kinds != wanted or not count:
        return None
    return StoredScan(path, (i, j, k), TissueVoxels(path, count), about.sha256, about.levels)


def _there(folder: Path, key: str) -> StoredScan:
    found = _look(folder, key)
    if found is None:
        mend = "Run the same command again, and let nothing else write there."
        raise SettingsError("E-CACHE", "a prepared scan is gone or broken", attribute="--cache", mend=mend)
    return found


def _of_all_processes(keys: list[str], world: int) -> list[str]:
    """The keys that each process found, put together."""
    if world == 1:
        return keys
    numbers = torch.tensor([list(bytes.fromhex(key)) if key else [0] * 32 for key in keys], dtype=torch.int32)
    sum_over_processes(numbers)
    return [bytes(row).hex() for row in numbers.tolist()]


def _rotated(count: int, first: int) -> Iterator[int]:
    return ((first + number) % count for number in range(count))
