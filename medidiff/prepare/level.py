"""The noise level of a scan, read in the way that befits its modality: `estimate_level`."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from medidiff.physics.estimate import estimate_noise
from medidiff.physics.estimate_ct import axial_slices, estimate_noise_ct
from medidiff.prepare.masks import readable
from medidiff.volume import Volume

__all__ = ["estimate_level"]


def estimate_level(
    volume: Volume, image: torch.Tensor | NDArray[Any], *, kind: Literal["rician", "gaussian"], gain: float = 1.0
) -> float:
    """Standard deviation of the noise in a scan, found from the scan alone.

    The noise of a CT is not white, and is read from the scan in Hounsfield units; all other noise is read from `image`.

    Args:
        volume: the scan.
        image: (I, J, K) its numbers, divided by `gain`; padding may hold anything.
        kind: law of the noise of an image that is no CT.
        gain: stored units that are 1 in `image`.

    Returns:
        The level in units of `image`.

    Raises:
        InputError: ``E-NOISELEVEL``, a CT with too little soft tissue.
    """
    measured = readable(volume)
    if volume.modality != "CT":
        return estimate_noise(image, kind=kind, measured=measured)
    along, sides_mm = axial_slices(volume.geometry)
    slices = np.moveaxis(volume.data[0], along, -1)
    measured = None if measured is None else np.moveaxis(measured, along, -1)
    return estimate_noise_ct(slices, side_mm=math.sqrt(math.prod(sides_mm)), measured=measured) / gain
