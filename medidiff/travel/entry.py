"""Denoising from arrays, and as a dictionary transform: the entry of what travels.

Everything that this module imports is carried with it (`medidiff.travel.carried`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike

from medidiff.prior.prior import Prior
from medidiff.restore import Posterior, denoise
from medidiff.volume import Geometry, Volume

__all__ = ["Denoised", "denoised"]


def denoised(prior: Prior, image: ArrayLike, affine: ArrayLike, *, modality: str = "OT", **settings: Any) -> Posterior:
    """What `medidiff.denoise` answers for a scan that is given as numbers.

    Args:
        prior: loaded.
        image: (I, J, K) or (1, I, J, K) stored values.
        affine: (4, 4) voxel index to RAS+ world, in mm.
        modality: ``"MR"``, ``"CT"``, ``"PT"``, or ``"OT"`` where nobody says.
        settings: other fields of `medidiff.restore.Settings`.

    Raises:
        MedidiffError: as `medidiff.denoise`.
    """
    data = np.asarray(image)
    shape = data.shape[-3:]
    units = "HU" if modality == "CT" else ""
    geometry = Geometry((shape[0], shape[1], shape[2]), np.asarray(affine, dtype=np.float64))
    return denoise(Volume(data, geometry, modality, units), prior=prior, **settings)


class Denoised:
    """A dictionary transform, as MONAI composes them: adds the denoised scan, and the spread of its draws if any.

    Args:
        card: path of the prior's card, with its weights beside it.
        image: key of the scan, a (1, I, J, K) `MetaTensor`, or any tensor with an ``affine``.
        pred: key of the posterior mean, a tensor like the scan.
        spread: key of the draws' standard deviation.
        settings: `modality`, and the fields of `medidiff.restore.Settings`.

    Raises:
        PriorError: the card or the weights are missing or broken.
    """

    def __init__(
        self, card: str | Path, *, image: str = "image", pred: str = "pred", spread: str = "spread", **settings: Any
    ) -> None:
        self.prior = Prior.load(Path(card))
        self.image, self.pred, self.spread, self.settings = image, pred, spread, settings

    def __call__(self, data: Mapping[Any, Any]) -> dict[Any, Any]:
        """The entries, and the answer beside them; the scan itself stays as it is."""
        scan = data[self.image]
        numbers, affine = torch.as_tensor(scan).detach().cpu(), torch.as_tensor(scan.affine).cpu()
        answer = denoised(self.prior, numbers.numpy(), affine.numpy(), **self.settings)
        added = {self.pred: _like(scan, answer.mean)}
        if answer.std is not None:
            added[self.spread] = _like(scan, answer.std)
        return {**data, **added}


def _like(scan: torch.Tensor, answer: Volume) -> torch.Tensor:
    """A volume as a tensor that tells of its grid what the scan does."""
    tensor = scan.clone().to(torch.float32)
    tensor[...] = torch.from_numpy(np.array(answer.data))
    return tensor
