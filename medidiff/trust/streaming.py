"""Draws that are met one at a time and never kept: mean, spread and quantiles in memory that does not grow with them.

Mean and spread are Welford's (Technometrics 4:419, 1962). Quantiles come from the draws themselves while there are at
most `PILOT` of them, and from a histogram of `BINS` equal bins at every voxel after that. Its range is `REACH` pilot
standard deviations about the pilot's mean, and its outermost bins reach as far as the lowest and the highest draw. An
order statistic lies in the bin that its rank falls into, so that an estimate is off by at most the width of a bin,
``2 REACH / BINS`` = a quarter of the pilot's spread, between the outermost bins; beyond, by at most the distance from
the range to the extreme draw.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from medidiff.errors import SettingsError

__all__ = ["BINS", "PILOT", "REACH", "Streamed"]

PILOT = 8
BINS = 32
REACH = 4.0
_MOST = torch.iinfo(torch.int16).max  # draws that 16 bits can count


class Streamed:
    """What is known of draws so far.

    Args:
        quantiles: whether they will be asked for; it takes 64 bytes a voxel more, 128 beyond 32,767 draws.

    Example:
        >>> seen = Streamed(quantiles=True)
        >>> for value in (1.0, 2.0, 6.0):
        ...     seen.add(torch.full((1, 1, 1, 1), value))
        >>> float(seen.mean), float(seen.quantile(0.5))
        (3.0, 2.0)
    """

    def __init__(self, *, quantiles: bool = False) -> None:
        self.count = 0
        self._mean = self._squares = torch.zeros(())
        self._pilot: list[Tensor] | None = [] if quantiles else None
        self._bins: _Bins | None = None

    def add(self, draw: Tensor) -> None:
        """Take one draw, (..., I, J, K), of the same shape as those before."""
        self.count += 1
        if self.count == 1:
            self._mean, self._squares = draw.clone(), torch.zeros_like(draw)
        else:
            off = draw - self._mean
            self._mean += off / self.count
            self._squares += off * (draw - self._mean)
        if self._bins is not None:
            self._bins.add(draw)
        elif self._pilot is not None and len(self._pilot) < PILOT:
            self._pilot.append(draw.clone())
        elif self._pilot is not None:
            self._bins = _Bins(torch.stack(self._pilot))
            self._bins.add(draw)
            self._pilot = None

    @property
    def mean(self) -> Tensor:
        """Of the draws."""
        return self._mean

    @property
    def std(self) -> Tensor:
        """Of the draws about their mean, with ``count - 1``; 0 for a single one."""
        return (self._squares / max(self.count - 1, 1)).sqrt()

    def about(self, centre: Tensor) -> Tensor:
        """Root mean square of what the draws differ by from another centre, ``√(Σ (d - c)² / count)``.

        Where draws come from ``p(x | y)``, it estimates the error of that centre, its bias included.
        """
        return (self._squares / self.count + (self._mean - centre).square()).sqrt()

    def quantile(self, share: float) -> Tensor:
        """The value below which a share of the draws lies at each voxel, between order statistics along a line.

        Raises:
            SettingsError: no draws, a share outside 0 to 1, or quantiles were not announced.
        """
        if not 0.0 <= share <= 1.0:
            raise SettingsError("E-SETTING", f"{share:g}", wanted="a share from 0 to 1", attribute="quantiles")
        if self._bins is not None:
            ordered: Callable[[int], Tensor] = self._bins.ordered
        elif self._pilot:
            ordered = torch.stack(self._pilot).sort(dim=0).values.__getitem__
        else:
            raise SettingsError("E-SETTING", "no draws to take quantiles of", attribute="quantiles")
        rank = share * (self.count - 1)
        low = ordered(math.floor(rank))
        return low + (rank - math.floor(rank)) * (ordered(math.ceil(rank)) - low)


class _Bins:
    """A histogram at every voxel, with the extremes.

    Args:
        pilot: (n, ..., I, J, K) the first draws, which set its range.
    """

    def __init__(self, pilot: Tensor) -> None:
        self._shape = pilot.shape[1:]
        centre, variance = pilot.mean(0), pilot.var(0)
        around = _neighbours(variance.reshape(-1, 1, *variance.shape[-3:]))
        reach = (
            REACH * torch.maximum(variance, around.reshape(variance.shape)).sqrt()
        )  # few draws may lie close by luck
        self._start, self._width = (centre - reach).flatten(), (2 * reach / BINS).flatten()
        self._lowest = self._highest = centre.flatten()
        self._count = 0
        self._counts = torch.zeros((BINS, centre.numel()), dtype=torch.int16, device=pilot.device)
        for draw in pilot:
            self.add(draw)

    def add(self, draw: Tensor) -> None:
        values = draw.flatten()
        self._lowest, self._highest = torch.minimum(self._lowest, values), torch.maximum(self._highest, values)
        place = ((values - self._start) / self._width).nan_to_num(0.0, BINS, 0.0).floor_().clamp_(0, BINS - 1).long()
        if self._count == _MOST:  # one more could be too many for a bin
            self._counts = self._counts.int()
        self._count += 1
        self._counts.scatter_add_(0, place[None], torch.ones_like(place[None], dtype=self._counts.dtype))

    def ordered(self, rank: int) -> Tensor:
        """The draw of this rank, from 0, at each voxel, as far as the bins tell."""
        below = torch.zeros_like(self._counts[0], dtype=torch.int32)
        found = torch.zeros_like(self._start)
        for number, count in enumerate(self._counts):
            here = (below <= rank) & (rank < below + count)
            low = self._lowest if number == 0 else self._start + number * self._width
            high = self._highest if number == BINS - 1 else self._start + (number + 1) * self._width
            inside = (rank - below + 0.5) / count.clamp_min(1)
            found = torch.where(here, low + inside * (high - low), found)
            below = below + count
        return torch.clamp(found, self._lowest, self._highest).reshape(self._shape)


def _neighbours(x: Tensor) -> Tensor:
    """The mean over a voxel and those beside it; along an axis of one or two voxels, each by itself."""
    window = [3 if side >= 3 else 1 for side in x.shape[-3:]]
    return F.avg_pool3d(x, window, 1, [side // 2 for side in window], count_include_pad=False)
