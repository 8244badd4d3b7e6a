"""The label map of a drawn scan: what the coarse prior drew, seen sharp through the scan's own brightness."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["labelled"]

_SURE = 0.6  # share of a tissue above which a voxel tells how bright that tissue is
_LEAST_SPREAD = 0.03  # of a tissue's brightness, of white matter's
_AIR = 0.1  # brightness and share of tissue below which a voxel is background


def labelled(image: Tensor, shares: Tensor) -> Tensor:
    """The most likely tissue of each voxel.

    Bayes' rule for each voxel: the share of each tissue is its prior, and each tissue's brightness is normal, with the
    mean and the spread of the voxels that are mostly it. This is one step of expectation maximisation (Dempster et al.
    1977) from the drawn shares.

    Args:
        image: (I, J, K) scan at network scale.
        shares: (L, I, J, K) share of each tissue on the same grid, e.g. interpolated from the coarse frame.

    Returns:
        (I, J, K) uint8, 0 for background, then 1 to L.
    """
    likely = []
    for share in shares:
        weight = torch.where(share >= min(_SURE, float(share.max())), share, 0.0)
        total = weight.sum().clamp_min(1e-6)
        mean = (weight * image).sum() / total
        spread = ((weight * (image - mean).square()).sum() / total).sqrt().clamp_min(_LEAST_SPREAD)
        likely.append(share.clamp_min(1e-6).log() - spread.log() - 0.5 * ((image - mean) / spread).square())
    label = torch.stack(likely).argmax(0) + 1
    background = (shares.sum(0) < 0.5) & (image < _AIR) | (shares.sum(0) < _AIR)
    return torch.where(background, 0, label).to(torch.uint8)
