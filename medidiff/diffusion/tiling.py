"""Tiling: denoiser in, denoiser out whose memory is bounded by a tile and not by the volume.

The volume is cut into cores that neither overlap nor leave a gap. The denoiser sees each core with a halo of real
neighbours round it, and only the core of its answer is kept; so nothing is blended, and where the halo is at least the
denoiser's reach the result *is* that of the whole volume. Tiles begin on multiples of the network's stride, for
otherwise it would fold other voxels together than it does in the whole volume.

A halo costs: of a cube of 256 voxels with a halo of 52 on each side, a fifth is core. So few large tiles are better
than many small ones, and an axis is better left whole than cut; `cheapest_tile` weighs that for a volume.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from medidiff.diffusion.condition import Condition
from medidiff.diffusion.denoiser import Denoiser
from medidiff.errors import SettingsError

__all__ = ["Tiled", "cheapest_tile"]

_MOST_PARTS = 64  # that an axis is cut into: of the longest axis of any scan, 32,768 voxels, these are 512 long


@dataclass(frozen=True, slots=True)
class Tiled:
    """A denoiser that is shown one tile at a time.

    Args:
        denoiser: D, in which an answer depends on nothing beyond its reach.
        tile: largest number of voxels along I, J and K that D is shown at once, halo included; rounded down to the
            multiple. An axis that fits is not cut.
        halo: neighbours that D is shown on each side of a core, in voxels; rounded up to the multiple. For equality
            with the whole volume take the reach of D: that of its backbone and one more for the preconditioning.
        multiple: stride of the network.

    Raises:
        SettingsError: a tile that leaves no core between its halos.
    """

    denoiser: Denoiser
    tile: tuple[int, int, int]
    halo: int
    multiple: int = 4

    def __post_init__(self) -> None:
        if self.multiple < 1 or self.halo < 0 or len(self.tile) != 3:
            raise SettingsError("E-TILE", f"tile {self.tile}, halo {self.halo}", wanted="three sizes and a halo >= 0")
        step = self.multiple
        halo, tile = -(-self.halo // step) * step, tuple(n // step * step for n in self.tile)
        if min(tile) < 2 * halo + step:
            raise SettingsError(
                "E-TILE",
                f"tile {self.tile} with a halo of {halo} voxels on each side",
                wanted=f"at least {2 * halo + step} voxels along each axis",
                mend="Take a larger tile, or a smaller halo at some cost in accuracy.",
            )
        object.__setattr__(self, "halo", halo)
        object.__setattr__(self, "tile", tile)

    def __call__(self, x: Tensor, sigma: Tensor, condition: Condition | None = None) -> Tensor:
        """(B, 1, I, J, K) answer of D, computed tile by tile; in one go when the volume fits in one tile."""
        sizes = x.shape[-3:]
        if all(n <= tile for n, tile in zip(sizes, self.tile, strict=True)):
            return self.denoiser(x, sigma, condition)
        answer = torch.empty_like(x)
        for spans in product(*(self._spans(n, tile) for n, tile in zip(sizes, self.tile, strict=True))):
            core, seen, inside = (tuple(each) for each in zip(*spans, strict=True))
            told = None if condition is None else condition.map(lambda image, seen=seen: image[..., *seen])  # type: ignore[misc]
            answer[..., *core] = self.denoiser(x[..., *seen], sigma, told)[..., *inside]
        return answer

    def count(self, sizes: Sequence[int]) -> int:
        """Tiles that a volume of this size takes, so calls of D for each call of this."""
        return math.prod(len(list(self._spans(n, tile))) for n, tile in zip(sizes, self.tile, strict=True))

    def _spans(self, size: int, tile: int) -> Iterator[tuple[slice, slice, slice]]:
        """Along one axis: (core in the volume, what D is shown, core within that), covering every voxel once."""
        if size <= tile:
            yield slice(0, size), slice(0, size), slice(0, size)
            return
        start = 0
        while start < size:
            low = max(start - self.halo, 0)
            high = min(low + tile, size)
            stop = size if high == size else high - self.halo
            yield slice(start, stop), slice(low, high), slice(start - low, stop - low)
            start = stop


def cheapest_tile(sizes: Sequence[int], *, voxels: int, halo: int, multiple: int = 4) -> tuple[int, int, int]:
    """The tile that shows a denoiser the fewest voxels in all, among those of at most so many voxels.

    An axis of n voxels in p parts shows ``n + 2 (p - 1) halo`` of them, whatever its tiles' length.

    Args:
        sizes: voxels of the volume along each axis.
        voxels: of a tile, halo included. Where no tile with a core is that small, the smallest is taken.
        halo: as for `Tiled`.
        multiple: as for `Tiled`.

    Example:
        >>> cheapest_tile((512, 512, 100), voxels=320**3, halo=50)
        (512, 512, 120)
        >>> cheapest_tile((512, 512, 512), voxels=320**3, halo=50)
        (308, 308, 308)
    """
    halo = -(-halo // multiple) * multiple
    smallest = 2 * halo + 4 * multiple
    ways = [_ways(size, halo, multiple, smallest) for size in sizes]
    found: list[tuple[int, tuple[int, int, int]]] = []
    for (shown_i, i), (shown_j, j) in product(*ways[:2]):
        fitting = next(((shown, k) for shown, k in ways[2] if i * j * k <= voxels), None)
        if fitting is not None:
            found.append((shown_i * shown_j * fitting[0], (i, j, fitting[1])))
    best = min(found)[1] if found else (smallest, smallest, smallest)
    return max(best[0], smallest), max(best[1], smallest), max(best[2], smallest)  # beyond a short axis lies nothing


def _ways(size: int, halo: int, multiple: int, smallest: int) -> list[tuple[int, int]]:
    """How an axis may be cut, coarsest first: the voxels that are shown in all, and the length of a tile."""
    found = []
    for parts in range(1, _MOST_PARTS + 1):
        shown = size + 2 * (parts - 1) * halo
        length = -(-shown // (parts * multiple)) * multiple
        if parts > 1 and length < smallest:
            break
        found.append((shown, length))
    return found
