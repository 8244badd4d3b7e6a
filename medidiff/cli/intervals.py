"""``--intervals`` of ``denoise`` and ``superresolve``: the calibration that is named, and for which answers it is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medidiff.cli.shared import BUNDLED
from medidiff.errors import SettingsError
from medidiff.prior import Prior
from medidiff.trust import BUNDLED_CALIBRATIONS, Calibration, Made

__all__ = ["bundled_for", "made_by", "read_calibration"]

_LARGEST = 2**20  # bytes


def read_calibration(path: Path, *, task: str) -> Calibration:
    """The calibration of a file; of medidiff's own where the name is ``bundled``.

    Raises:
        SettingsError: ``E-CALIBRATION``, there is no such file, or it is none.
    """
    bundled = str(path) == BUNDLED
    place = BUNDLED_CALIBRATIONS / f"{task}.json" if bundled else path
    try:
        with place.open("rb") as stream:
            data = stream.read(_LARGEST + 1)
    except OSError as error:
        found = f"no bundled calibration for {task}" if bundled else error.strerror or "it cannot be read"
        mend = "Make one with 'medidiff calibrate'"
        mend += "." if bundled else ", or take medidiff's own with the word bundled."
        raise SettingsError("E-CALIBRATION", found, mend=mend, file=place.name) from error
    if len(data) > _LARGEST:
        raise SettingsError("E-CALIBRATION", f"over {_LARGEST} bytes", wanted="a calibration", file=place.name)
    return Calibration.from_json(data.decode("utf-8", "replace"), file=place.name)


def bundled_for(weights_sha256: str) -> tuple[Calibration, ...]:
    """The bundled calibrations of a prior, by the SHA-256 of its weights; none for a prior that has none."""
    tasks = sorted(file.stem for file in BUNDLED_CALIBRATIONS.glob("*.json"))
    held = [read_calibration(Path(BUNDLED), task=task) for task in tasks]
    return tuple(each for each in held if each.made.prior_sha256 == weights_sha256)


def made_by(settings: Mapping[str, Any], prior: Prior, *, task: Any) -> Made:
    """How answers will be made, before they are."""
    card = prior.card
    how = {name: settings[name] for name in ("draws", "steps", "noise", "noise_varies")}
    return Made(task=task, prior=card.name, prior_sha256=card.weights_sha256, **how)
