"""Denoising from arrays, and as a dictionary transform: the entry of what travels.

Everything that this module imports is carried with it (`medidiff.travel.carried`).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike

from medidiff.prior.prior import Prior
from medidiff.restore import Posterior, denoise
from medidiff.volume import Geometry, Volume

__all__ = ["Denoised", "ScopeSaved", "denoised"]


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

    Under `scope` it adds whether the scan is of the kind that the prior is for; where not, a warning is logged as well.

    Args:
        card: path of the prior's card, with its weights beside it.
        image: key of the scan, a (1, I, J, K) `MetaTensor`, or any tensor with an ``affine``.
        pred: key of the posterior mean, a tensor like the scan.
        spread: key of the draws' standard deviation.
        scope: key of the verdict, a dictionary as the provenance has it.
        settings: `modality`, and the fields of `medidiff.restore.Settings`.

    Raises:
        PriorError: the card or the weights are missing or broken.
    """

    def __init__(
        self,
        card: str | Path,
        *,
        image: str = "image",
        pred: str = "pred",
        spread: str = "spread",
        scope: str = "scope",
        **settings: Any,
    ) -> None:
        self.prior = Prior.load(Path(card))
        self.image, self.pred, self.spread, self.scope, self.settings = image, pred, spread, scope, settings

    def __call__(self, data: Mapping[Any, Any]) -> dict[Any, Any]:
        """The entries, and the answer beside them; the scan itself stays as it is."""
        scan = data[self.image]
        numbers, affine = torch.as_tensor(scan).detach().cpu(), torch.as_tensor(scan.affine).cpu()
        answer = denoised(self.prior, numbers.numpy(), affine.numpy(), **self.settings)
        added: dict[Any, Any] = {self.pred: _like(scan, answer.mean), self.scope: dict(answer.provenance.scope)}
        if answer.out_of_scope:
            reasons = "; ".join(answer.provenance.scope["reasons"])
            name = self.prior.card.name
            logging.getLogger(__name__).warning("OUT OF SCOPE of the prior '%s': the scan %s", name, reasons)
        if answer.std is not None:
            added[self.spread] = _like(scan, answer.std)
        return {**data, **added}


class ScopeSaved:
    """A dictionary transform that writes the verdict on a scan beside its result, as ``NAME_scope.json``.

    Args:
        output_dir: the folder.
        pred: key of the posterior mean, whose metadata name the scan's file.
        scope: key of the verdict.
    """

    def __init__(self, output_dir: str | Path, *, pred: str = "pred", scope: str = "scope") -> None:
        self.folder, self.pred, self.scope = Path(output_dir), pred, scope

    def __call__(self, data: Mapping[Any, Any]) -> dict[Any, Any]:
        """The entries as they are."""
        name = Path(str(data[self.pred].meta["filename_or_obj"])).name
        stem = name.removesuffix(".gz").removesuffix(".nii")
        self.folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(data[self.scope], indent=2, allow_nan=False)
        partial = self.folder / f".{stem}_scope.json.part"
        partial.write_text(f"{text}\n", encoding="utf-8")
        partial.replace(self.folder / f"{stem}_scope.json")
        return dict(data)


def _like(scan: torch.Tensor, answer: Volume) -> torch.Tensor:
    """A volume as a tensor that tells of its grid what the scan does."""
    tensor = scan.clone().to(torch.float32)
    tensor[...] = torch.from_numpy(np.array(answer.data))
    return tensor
