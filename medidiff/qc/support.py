"""How a scan sees its result, as far as the record tells, and what it says of it: `operator_of`, `support_of`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from medidiff.physics import Separable, identity
from medidiff.physics.estimate import estimate_noise_map
from medidiff.physics.profile import ProfileName, Slices
from medidiff.physics.seeing import seen_through
from medidiff.prepare import readable, without_padding
from medidiff.qc.measures import NoiseKind, Pair
from medidiff.trust import Evidence, Examined, held

__all__ = ["number", "operator_of", "support_of"]

_AIRY_HU = -500.0  # between lung and fat


def operator_of(pair: Pair, told: Mapping[str, Any]) -> Separable | None:
    """How the scan sees the result: as the record says, or in slices that touch each other."""
    if not pair.interpolated:
        return None
    said = told.get("slices")
    slices = Slices.of(pair.before)
    if isinstance(said, Mapping) and number(said.get("thickness_mm")):
        profile: ProfileName = "gaussian" if said.get("profile") == "gaussian" else "box"
        slices = Slices.of(pair.before, thickness_mm=number(said.get("thickness_mm")), profile=profile)
    return seen_through(pair.after.geometry, pair.before.geometry, slices)


def support_of(pair: Pair, told: Mapping[str, Any], *, kind: NoiseKind, level: float | None) -> Examined | None:
    """What the scan says of the result; None where it says nothing.

    Args:
        pair: both.
        told: settings of the record.
        kind: law of the scan's noise.
        level: of the scan's noise, in stored units; None where it is not known.
    """
    if not level:
        return None
    scan = torch.from_numpy(np.array(without_padding(pair.before), dtype=np.float32))[None]
    noise: float | torch.Tensor = level
    if told.get("noise_varies"):
        found = estimate_noise_map(scan[0, 0], kind=kind, measured=readable(pair.before))
        noise = (found * (level / float(found.mean()))).clamp_min(1e-3 * level)[None, None] if found.any() else level
    evidence = Evidence(
        scan,
        operator_of(pair, told) or identity(),
        level=noise,
        rician=kind == "rician",
        geometry=pair.before.geometry,
        measured=readable(pair.before),
        air=_AIRY_HU if pair.before.modality == "CT" else None,
    )
    return held(evidence, torch.from_numpy(pair.answer)[None, None]).report


def number(value: Any) -> float | None:
    """A finite number above 0, or None."""
    good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value > 0
    return float(value) if good else None
