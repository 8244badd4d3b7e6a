"""A prior set to work: on its device, tile by tile, and what the record says of scan and machine."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from medidiff.diffusion import Counted, Sparing
from medidiff.prior import Prior
from medidiff.settings import Settings

__all__ = ["environment", "on_device", "tiled", "voxels_sha256"]


def on_device(prior: Prior, device: torch.device) -> Prior:
    """The same prior on a device, in half precision where that is a GPU."""
    prior.denoiser.to(device).autocast = torch.bfloat16 if device.type == "cuda" else None
    return prior


def tiled(prior: Prior, sizes: Sequence[int], settings: Settings) -> Sparing:
    """The prior's denoiser, shown no more voxels at once than settings and memory allow, its evaluations counted.

    Args:
        prior: on its device.
        sizes: (3,) voxels along each axis.
        settings: tile, draws and steps, and whom to tell of the progress.
    """
    counted = Counted(prior.denoiser, settings.progress)
    sparing = Sparing(counted, sizes, voxels=settings.tile**3, halo=prior.halo)
    counted.total = sparing.tiled.count(sizes) * (1 + settings.draws * settings.steps)
    return sparing


def voxels_sha256(data: NDArray[Any]) -> str:
    """SHA-256 of numbers in the order of their indices, in hexadecimal; a plane at a time, whatever lies in memory."""
    digest = hashlib.sha256()
    for channel in data:
        for plane in channel:
            digest.update(plane.tobytes())
    return digest.hexdigest()


def environment(settings: Settings) -> dict[str, str]:
    """Versions, device and threads, for the record."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "device": str(settings.place()),
        "threads": str(torch.get_num_threads()),
    }
