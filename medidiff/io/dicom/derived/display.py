"""A window for the first look at a new CT or MR series."""

from __future__ import annotations

from typing import Any

import numpy as np
from pydicom.dataset import Dataset

from medidiff.io.dicom.derived.stored import Storage, Values

__all__ = ["window_of"]

_SAMPLES = 200_000  # voxels are enough for two percentiles
_SHARES = (1.0, 99.5)  # percent: black and white of an MR image


def window_of(first: Dataset, values: Values, storage: Storage, *, modality: str) -> tuple[float, float] | None:
    """Centre and width, the same for the whole series; None when a viewer would do better by itself.

    In CT the numbers mean the same as in the source, so its own first window holds. In MR the window follows the new
    values. A rescaled MR series gets none, because viewers that ignore the rescale would show it black; nor does PET.

    Args:
        first: header of the first source image.
        values: slice by slice.
        storage: how they are stored.
        modality: ``"CT"``, ``"MR"`` or ``"PT"``.
    """
    if modality == "CT":
        return _own_window(first) or (40.0, 400.0)
    if modality != "MR" or any(scale.is_rescaled for scale in storage.scales):
        return None
    count = len(storage.scales)
    size = values(0).size
    step = max(1, count * size // _SAMPLES)
    sample = np.concatenate([np.ravel(values(k))[k % step :: step].astype(np.float64) for k in range(count)])
    low, high = (float(value) for value in np.percentile(sample, _SHARES))
    return float(round((low + high) / 2)), float(max(round(high - low), 1))


def _own_window(first: Dataset) -> tuple[float, float] | None:
    centre, width = (_first(first.get(name)) for name in ("WindowCenter", "WindowWidth"))
    if centre is None or width is None or width < 1:
        return None
    return centre, width


def _first(value: Any) -> float | None:
    many = value is not None and not isinstance(value, (str, int, float))
    try:
        number = float(value[0] if many else value)
    except (TypeError, ValueError, IndexError):
        return None
    return number if np.isfinite(number) else None
