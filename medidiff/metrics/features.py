"""Features of whole scans for comparing sets: fixed random convolutions over four scales, trained by nobody.

Random filters with a rectifier and pooling are a known good description of texture (Ustyuzhaninov et al. 2017,
arXiv:1606.00021; Saxe et al. 2011), need no weights but a seed, favour no generator, and cannot have seen a training
scan. `docs/decisions.md` has what they were chosen over, and by which figure.

At 1, 2, 4 and 8 mm each: 16 filters of 3³ voxels of unit norm that answer neither a constant nor a ramp (else the
steps between tissues drown all else), absolute value, 2³ means, 32 filters over all of them, absolute value. Of every
response two numbers inside the foreground: the mean of its logarithm, in which the many voxels of weak response count,
where noise and blur show; and the logarithm of its standard deviation, which the edges between tissues make. 384
features, which describe texture and contrast at each scale and hardly where anything lies.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn import functional

from medidiff.errors import InputError

__all__ = ["FEATURE_SEED", "random_features"]

FEATURE_SEED = 20180101
"""What the filters are drawn from; another number is another measure."""

_SCALES, _FIRST, _SECOND = 4, 16, 32
_SMALLEST = 64  # voxels along an axis: four at the coarsest response
_FLOOR = 0.005  # of a response, before the logarithm; a quarter of the noise of a good scan


def random_features(image: ArrayLike, mask: ArrayLike, *, seed: int = FEATURE_SEED) -> NDArray[np.float64]:
    """One row of features of a scan.

    Args:
        image: (I, J, K) at 1 mm, tissue maximum 1, at least 64 voxels along each axis.
        mask: (I, J, K) foreground.
        seed: of the filters.

    Returns:
        (features,), float64; the same bytes for the same scan, machine and version of torch.

    Raises:
        InputError: ``E-SHAPE``, ``E-NONFINITE`` or ``E-MASK``, too small, not finite, or an empty mask.
    """
    volume, inside = np.asarray(image, dtype=np.float32), np.asarray(mask, dtype=bool)
    if volume.ndim != 3 or min(volume.shape) < _SMALLEST:
        raise InputError("E-SHAPE", f"a scan of shape {volume.shape}", wanted=f"(I, J, K), at least {_SMALLEST} each")
    if not np.isfinite(volume).all():
        raise InputError("E-NONFINITE", "voxels that are not finite")
    if inside.shape != volume.shape or not inside.any():
        raise InputError("E-MASK", f"mask of {int(inside.sum())} voxels", wanted=f"{volume.shape}, not empty")
    box = tuple(slice(int(a.min()), int(a.max()) + 1) for a in np.nonzero(inside))
    x = torch.tensor(volume[box])[None, None]
    m = torch.tensor(inside[box], dtype=torch.float32)[None, None]
    with torch.inference_mode():
        found = torch.cat(list(_statistics(x, m, torch.Generator().manual_seed(seed))))
    return np.asarray(found.double().numpy())


def _statistics(x: Tensor, m: Tensor, generator: torch.Generator) -> Iterator[Tensor]:
    for scale in range(_SCALES):
        if scale:
            x, m = functional.avg_pool3d(x, 2, ceil_mode=True), functional.avg_pool3d(m, 2, ceil_mode=True)
        first = functional.conv3d(x, _filters(_FIRST, 1, generator), padding=1).abs_()
        smaller, there = functional.avg_pool3d(first, 2, ceil_mode=True), functional.avg_pool3d(m, 2, ceil_mode=True)
        yield from _pooled(first, m)
        yield from _pooled(functional.conv3d(smaller, _filters(_SECOND, _FIRST, generator), padding=1).abs_(), there)


def _filters(out: int, into: int, generator: torch.Generator) -> Tensor:
    """(out, into, 3, 3, 3) filters of unit norm; those on one channel are orthogonal to constants and ramps."""
    drawn = torch.randn((out, into * 27), generator=generator)
    steps = torch.tensor([-1.0, 0.0, 1.0])
    ramps = torch.stack([torch.ones(3, 3, 3), *torch.meshgrid(steps, steps, steps, indexing="ij")]).flatten(1)
    plain = (ramps if into == 1 else torch.ones(1, 27)).repeat(1, into)
    basis = plain / plain.norm(dim=1, keepdim=True)
    drawn = drawn - drawn @ basis.T @ basis
    filters: Tensor = drawn / drawn.norm(dim=1, keepdim=True)
    return filters.reshape(out, into, 3, 3, 3)


def _pooled(response: Tensor, m: Tensor) -> Iterator[Tensor]:
    """Two numbers of each channel in the foreground, (channels,) each; the response is used up."""
    weight, flat = (m / m.sum()).flatten(), response[0].flatten(1)
    mean = flat @ weight
    yield torch.log(((flat - mean[:, None]).square_() @ weight).sqrt() + _FLOOR)
    yield flat.add_(_FLOOR).log_() @ weight
