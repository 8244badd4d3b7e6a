"""The operator by which one grid is seen from another that covers the same box: `seen_through`."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from medidiff.errors import SettingsError
from medidiff.physics.profile import PROFILES, Slices
from medidiff.physics.separable import Separable, sampling
from medidiff.volume import Geometry

__all__ = ["FINER", "refuse_coarser", "seen_through"]

FINER = 1e-4  # relative: a target spacing this little below the source's is the source's
_RCOND = 1e-6  # of overlapping slices even what they hardly tell apart was measured, and is not contradicted


def refuse_coarser(target: Geometry, source: Geometry) -> None:
    """Refuse a target that is coarser than the scan, and say which sizes would do for all axes.

    Raises:
        SettingsError: ``E-TARGET``.
    """
    sizes = list(zip(target.spacing_mm, source.spacing_mm, strict=True))
    coarser = [held / wanted < 1 - FINER for wanted, held in sizes]
    if not any(coarser):
        return
    found = " and ".join(f"{sizes[axis][0]:.4g} mm along axis {axis}" for axis in range(3) if coarser[axis])
    line = " ".join("own" if worse else f"{wanted:.4g}" for worse, (wanted, _) in zip(coarser, sizes, strict=True))
    raise SettingsError(
        "E-TARGET",
        f"{found}, coarser than the scan",
        wanted=f"at most {' x '.join(f'{held:.4g}' for _, held in sizes)} mm",
        mend=f"Give {line}: 'own' keeps the scan's own size along an axis.",
        attribute="--spacing",
    )


def seen_through(target: Geometry, source: Geometry, slices: Slices | None = None) -> Separable:
    """The operator of a scan that sees each fine voxel axis in boxes as long as its own voxels, or in its slices.

    Args:
        target: the fine grid.
        source: that of the scan, parallel to it and nowhere finer.
        slices: how the scan sees the axis across its slices; in boxes when left out.

    Raises:
        SettingsError: ``E-TARGET``, the target is coarser than the scan along an axis.
    """
    refuse_coarser(target, source)
    first = target.index(source.world(np.zeros(3)))
    matrices: list[Tensor | None] = []
    for axis in range(3):
        factor = source.spacing_mm[axis] / target.spacing_mm[axis]
        same = abs(factor - 1) <= FINER and target.shape[axis] == source.shape[axis]
        size, count = target.shape[axis], source.shape[axis]
        seen: dict[str, Any] = {}
        if slices is not None and axis == slices.axis:
            width = slices.thickness_mm / target.spacing_mm[axis]
            seen = {"thickness": width, "profile": PROFILES[slices.profile]}
        matrices.append(
            None if same else sampling(size, factor=max(factor, 1.0), offset=float(first[axis]), count=count, **seen)
        )
    return Separable((matrices[0], matrices[1], matrices[2]), rcond=_RCOND)
