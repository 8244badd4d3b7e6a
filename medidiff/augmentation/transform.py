"""`RandVariantd`: variants of a scan among the transforms of MONAI.

::

    Compose(
        [
            LoadImaged(("image", "label"), ensure_channel_first=True),
            RandCropByPosNegLabeld(("image", "label"), "label", (96, 96, 96)),
            RandVariantd(prob=0.5, shares={"degraded": 0.8, "restored": 0.2}),
            NormalizeIntensityd("image"),
        ]
    )
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.data.meta_tensor import MetaTensor
from monai.transforms.transform import MapTransform, RandomizableTransform
from monai.utils.type_conversion import convert_to_dst_type
from numpy.typing import NDArray
from torch.utils.data import get_worker_info

from medidiff.augmentation.variants import KINDS, Kind, VariantSettings, augment
from medidiff.errors import InputError
from medidiff.settings import require
from medidiff.training.chance import Chance
from medidiff.volume import Geometry, Volume

__all__ = ["MEASURED", "RandVariantd"]

MEASURED = "measured"
"""The mark of an item that was left as it is."""


class RandVariantd(RandomizableTransform, MapTransform):
    """Turn the scan of an item into a degraded, restored or synthetic variant of it, now and then.

    Shape, affine, type of container and device of scan and label map stay as they are; a scan of whole numbers becomes
    float32. A degraded or restored variant leaves the label map alone; a synthetic one brings its own, with the numbers
    of `medidiff.case.TISSUES`. It belongs after cropping, because its cost is that of the voxels it is given, and
    before intensities are normalised, because air must be 0.

    The stream of variants follows from `set_random_state`, and in a process of a data loader from its seed as well: so
    each process and each epoch has another, also with PyTorch's own loader, and all follow from the loader's generator.

    Every item is marked: ``item[mark]`` is the kind of variant or "measured", ``item[mark + "_record"]`` is the
    provenance as JSON, empty for a measured item.

    Args:
        image: key of the scan: (C, I, J, K), a tensor with or without an affine, or an array.
        label: key of its label map, (1, I, J, K); None when the items have none.
        prob: share of the items that become variants.
        shares: of the variants, by kind; only their proportions count.
        settings: how variants are made.
        modality: of the scans, DICOM's word.
        mark: key under which an item says what it is.
        allow_missing_keys: whether items may lack scan or label map.

    Raises:
        SettingsError: ``E-SETTING``, a probability or shares that are none.
        PriorError: ``E-PRIOR``, synthetic variants are wanted, but there are neither cases nor a coarse prior.
    """

    def __init__(
        self,
        image: Hashable = "image",
        label: Hashable | None = "label",
        *,
        prob: float = 0.5,
        shares: Mapping[Kind, float] | None = None,
        settings: VariantSettings | None = None,
        modality: str = "MR",
        mark: str = "variant",
        allow_missing_keys: bool = False,
    ) -> None:
        shares = {"degraded": 1.0} if shares is None else shares
        good = set(shares) <= set(KINDS) and all(0 <= s < float("inf") for s in shares.values())
        wanted = f"shares of {', '.join(KINDS)}, one above 0"
        require(
            [
                ("prob", prob, 0 <= prob <= 1, "0 to 1"),
                ("shares", dict(shares), good and sum(shares.values()) > 0, wanted),
            ]
        )
        RandomizableTransform.__init__(self, prob)
        MapTransform.__init__(self, [image] if label is None else [image, label], allow_missing_keys)
        self.image, self.label, self.mark, self.modality = image, label, mark, modality
        self.shares = tuple(float(shares.get(kind, 0.0)) for kind in KINDS)
        self.settings = settings or VariantSettings()
        if prob > 0 and shares.get("synthetic", 0.0) > 0:
            self.settings.require_cases()
        self._kind, self._seed = KINDS[0], 0

    def randomize(self, data: Any = None) -> None:
        """Draw whether an item becomes a variant, of which kind, and from which seed."""
        worker = get_worker_info()
        chance = Chance(int(self.R.randint(2**31)), 0 if worker is None else worker.seed)
        self._do_transform = chance.happens(self.prob)
        self._kind, self._seed = KINDS[chance.pick(self.shares)], chance.below(2**62)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The item, or a variant of it.

        Raises:
            KeyError: the item lacks a key.
            InputError: ``E-SHAPE``, a scan that is not (C, I, J, K); ``E-LABELS``, a label map of another shape; and as
                `augment`.
        """
        item = dict(data)
        present = list(self.key_iterator(item))
        self.randomize()
        item[self.mark], item[f"{self.mark}_record"] = MEASURED, ""
        if not self._do_transform or self.image not in present:
            return item
        image = item[self.image]
        variant = augment(_volume(image, self.modality), self._kind, seed=self._seed, **_fields(self.settings))
        if self._kind == "synthetic" and self.label in present:
            item[self.label] = _labels_like(item[self.label], variant.labels, image)
        item[self.image] = convert_to_dst_type(np.array(variant.image.data), image, dtype=_real(image))[0]
        item[self.mark], item[f"{self.mark}_record"] = variant.kind, variant.provenance.to_json()
        return item


def _fields(settings: VariantSettings) -> dict[str, Any]:
    return {name: getattr(settings, name) for name in settings.__slots__}


def _volume(image: Any, modality: str) -> Volume:
    """A scan of MONAI as ours; voxels of 1 mm along the world's axes where it has no affine."""
    data = _numbers(image)
    if data.ndim != 4:
        raise InputError("E-SHAPE", f"a scan of shape {data.shape}", wanted="(C, I, J, K)")
    shape: tuple[int, int, int] = data.shape[1:]
    affine = image.affine.cpu().numpy() if isinstance(image, MetaTensor) else np.eye(4)
    return Volume(data, Geometry(shape, affine), modality)


def _numbers(image: Any) -> NDArray[Any]:
    tensor = image.as_tensor() if isinstance(image, MetaTensor) else image
    return tensor.detach().cpu().numpy() if isinstance(tensor, torch.Tensor) else np.asarray(tensor)


def _real(image: Any) -> torch.dtype | np.dtype[Any]:
    """The type of the variant of a scan: its own where that holds fractions."""
    if isinstance(image, torch.Tensor):
        return image.dtype if image.is_floating_point() else torch.float32
    return image.dtype if image.dtype.kind == "f" else np.dtype(np.float32)


def _labels_like(stale: Any, labels: Volume | None, image: Any) -> Any:
    """The label map of a synthetic variant in the container of the one that it replaces."""
    wanted = (1, *image.shape[1:])
    if tuple(stale.shape) != wanted:
        raise InputError("E-LABELS", f"a label map of shape {tuple(stale.shape)}", wanted=f"{wanted}, as the scan")
    if labels is None:
        raise InputError("E-LABELS", "a synthetic case without a label map", wanted="one for items that have one")
    return convert_to_dst_type(np.array(labels.data), stale)[0]
