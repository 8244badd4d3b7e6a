"""Sparing memory: denoiser in, denoiser out that takes smaller tiles when the memory runs out.

The tiles have halos as long as the network's reach, so the answer is that of larger ones; only rounding differs.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from medidiff.diffusion.condition import Condition
from medidiff.diffusion.denoiser import Denoiser
from medidiff.diffusion.tiling import Tiled, cheapest_tile
from medidiff.errors import InputError

__all__ = ["Sparing", "is_out_of_memory"]

_SAID = ("can't allocate memory", "not enough memory", "out of memory")  # by torch, of a CPU and of other devices


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that there is not enough memory, of the machine or of a GPU."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _SAID)


class Sparing:
    """A denoiser that is shown one tile at a time, and smaller ones once the memory has run out.

    Args:
        denoiser: D, as for `Tiled`.
        sizes: voxels of the volume along each axis.
        voxels: that D is shown at once, as long as there is memory for it.
        halo: as for `Tiled`.
    """

    def __init__(self, denoiser: Denoiser, sizes: Sequence[int], *, voxels: int, halo: int) -> None:
        self.denoiser, self.sizes, self.halo = denoiser, tuple(sizes), halo
        self.tiled = self._cut(voxels)
        self.decisions: list[str] = []

    def _cut(self, voxels: int) -> Tiled:
        return Tiled(self.denoiser, cheapest_tile(self.sizes, voxels=voxels, halo=self.halo), self.halo)

    def _shown(self, tiled: Tiled) -> int:
        """Voxels that D is shown at once."""
        return math.prod(min(n, tile) for n, tile in zip(self.sizes, tiled.tile, strict=True))

    def __call__(self, x: Tensor, sigma: Tensor, condition: Condition | None = None) -> Tensor:
        """(B, 1, I, J, K) answer of D.

        Raises:
            InputError: ``E-MEMORY``, there is not enough for the smallest tiles.
        """
        again = False  # the smallest tiles are tried twice: what other work has held may be free by then
        while True:
            try:
                return self.tiled(x, sigma, condition)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                again = self._shrink(again, error)
            gc.collect()
            if x.device.type == "cuda":
                torch.cuda.empty_cache()

    def _shrink(self, again: bool, error: BaseException) -> bool:
        """Take smaller tiles; whether there are none, and the same are tried once more."""
        shown = self._shown(self.tiled)
        for part in (2, 4, 8):  # a halo may need so much that half the voxels is no smaller tile
            smaller = self._cut(shown // part)
            if self._shown(smaller) < shown:
                self.tiled = smaller
                self.decisions.append(f"the memory ran out; tiles of {self._shown(smaller)} voxels instead of {shown}")
                return False
        if again:
            found, wanted = f"not enough memory for {shown} voxels at once", "memory for the smallest tiles"
            mend = "Use a machine with more memory, or fewer workers."
            raise InputError("E-MEMORY", found, wanted=wanted, mend=mend) from error
        return True
