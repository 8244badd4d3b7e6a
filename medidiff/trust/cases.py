"""Cases as JSON text, so that a calibration over hours can go on where it stopped: `case_to_json`, `case_from_json`."""

from __future__ import annotations

import dataclasses
import json

import numpy as np

from medidiff.errors import SettingsError
from medidiff.trust.nodes import Case, Seen
from medidiff.trust.tally import EDGES, REACHES, Tally

__all__ = ["case_from_json", "case_to_json", "tally_from_dict", "tally_to_dict"]


def tally_to_dict(counted: Tally) -> dict[str, object]:
    """A tally as JSON values."""
    curves = {str(size): curve.tolist() for size, curve in counted.outside.items()}
    return {
        "outside": curves,
        "squares": counted.squares.tolist(),
    }  # in full: a run that goes on ends with the same bytes


def tally_from_dict(values: object) -> Tally:
    """The tally that `tally_to_dict` wrote.

    Raises:
        SettingsError: ``E-CALIBRATION``, it is none.
    """
    try:
        held = dict(values)  # type: ignore[call-overload] # whatever it is, what goes wrong is caught
        outside = {int(size): np.asarray(curve, dtype=np.float64) for size, curve in held["outside"].items()}
        squares = np.asarray(held["squares"], dtype=np.float64)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise _broken() from error
    if squares.shape != (3, len(EDGES) - 1) or any(curve.shape != REACHES.shape for curve in outside.values()):
        raise _broken()
    return Tally(outside, squares)


def case_to_json(case: Case) -> str:
    """One line of JSON, without anything of the patient but a hash."""
    fields = {"patient": case.patient, "group": case.group, "seen": dataclasses.asdict(case.seen)}
    return json.dumps(fields | {"tally": tally_to_dict(case.tally)}, sort_keys=True, allow_nan=False)


def case_from_json(text: str) -> Case:
    """The case that `case_to_json` wrote.

    Raises:
        SettingsError: ``E-CALIBRATION``, it is none.
    """
    try:
        held = json.loads(text)
        seen = held["seen"]
        i, j, k = (float(side) for side in seen["spacing_mm"])
        dark = None if seen["dark"] is None else (float(seen["dark"][0]), float(seen["dark"][1]))
        told = Seen(**{**seen, "spacing_mm": (i, j, k), "dark": dark, "places": int(seen["places"])})
        return Case(str(held["patient"]), int(held["group"]), told, tally_from_dict(held["tally"]))
    except (IndexError, KeyError, TypeError, ValueError) as error:
        raise _broken() from error


def _broken() -> SettingsError:
    mend = "Remove the file of finished cases, and run the same command again."
    return SettingsError("E-CALIBRATION", "a finished case that cannot be read", mend=mend)
