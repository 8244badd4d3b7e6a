"""What a calibration asks of a scan and its answer: `seen_of` and `made_of`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from medidiff.physics.estimate import dark_noise
from medidiff.prepare import readable
from medidiff.question import Question
from medidiff.trust import Made, Seen, signs_of
from medidiff.volume import Provenance

__all__ = ["made_of", "seen_of"]

_PLANES = {"LR": "sagittal", "PA": "coronal", "IS": "axial"}  # of slices, by where their normal points


def seen_of(question: Question, alone: Tensor, error: NDArray[np.float32], *, places: int) -> Seen:
    """All that a calibration asks of a scan and its answer.

    Signs are those of the answer alone, (I, J, K) at network scale: what the scan gave back to it would hide that the
    two are at odds.
    """
    operator, slices, target = question.operator, question.slices, question.target
    own = question.volume.geometry.spacing_mm
    factor = max(coarse / fine for coarse, fine in zip(own, target.spacing_mm, strict=True))
    thick = factor if slices is None else slices.thickness_mm / target.spacing_mm[slices.axis]
    thick = max(thick, 1.0) if operator.is_identity else thick
    y = question.y.cpu()[0, 0]
    return Seen(
        question.level,
        thick,
        factor,
        target.spacing_mm,
        signs_of(y, alone, error, operator=operator, level=question.level),
        question.scope.outside,
        dark=_dark(question, y),
        places=places,
        **_slicing(question),
    )


def _dark(question: Question, y: Tensor) -> tuple[float, float] | None:
    """How the noise of a scan, at network scale, is in its dark places, as a share of what its law says."""
    level = question.levels[0, 0] if isinstance(question.levels, Tensor) else question.level
    kind = question.settings.noise or "rician"
    return dark_noise(y, level, kind=kind, measured=readable(question.volume)) if question.level > 0 else None


def _slicing(question: Question) -> dict[str, Any]:
    """How a scan's slices lie and what they see, where they are thicker than the answer's."""
    if question.operator.is_identity:
        return {}
    slices, geometry = question.slices, question.volume.geometry
    sides = zip(geometry.spacing_mm, question.target.spacing_mm, strict=True)
    factors = [coarse / fine for coarse, fine in sides]
    axis = int(np.argmax(factors)) if slices is None else slices.axis
    plane = next(word for ends, word in _PLANES.items() if geometry.orientation[axis] in ends)
    along = max(factor for place, factor in enumerate(factors) if place != axis)
    return {"in_plane": along, "profile": "box" if slices is None else slices.profile, "plane": plane}


def made_of(record: Provenance) -> Made:
    """How an answer was made, as far as a calibration must match it."""
    how = {name: record.settings[name] for name in ("draws", "steps", "noise", "noise_varies")}
    task: Any = record.task
    return Made(task=task, prior=record.prior["name"], prior_sha256=record.prior["sha256"], **how)
