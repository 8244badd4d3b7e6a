"""A process without medidiff that asks exports whether a scan is in scope; run by test_travel_scope.py.

    python travel_scope_process.py FOLDER

FOLDER holds `noise.npy`, the bundle `bundle`, and the pyfuncs `first` and `second`, whose code is not the same. What
was found goes to `found.json`.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from functools import partial
from pathlib import Path

sys.modules["medidiff"] = None  # type: ignore[assignment] # from here on it cannot be imported
HOME = Path(sys.argv[1])


def error_of(action) -> str:
    """The refusal's text; empty where there is none."""
    try:
        action()
    except Exception as error:
        return str(error)
    return ""


def bundle(noise) -> dict[str, object]:
    import numpy as np
    import torch
    from monai.data import MetaTensor

    os.chdir(HOME / "bundle")
    sys.path.insert(0, "")
    entry = importlib.import_module("scripts.travel.entry")
    item = {"image": MetaTensor(torch.from_numpy(noise[None]), meta={"filename_or_obj": "in/noise.nii.gz"})}
    item["image"].affine = torch.from_numpy(np.eye(4))
    asked = {"card": "models/fine-t1.json", "modality": "MR", "noise_level": 50.0, "device": "cpu"}
    answer = entry.Denoised(**asked)(item)
    entry.ScopeSaved(HOME / "eval")(answer)
    return {"scope": answer["scope"], "strict": error_of(lambda: entry.Denoised(**asked, strict=True)(item))}


def pyfuncs(noise) -> dict[str, object]:
    import mlflow
    import numpy as np

    asked = {"image": noise, "affine": np.eye(4)}
    models = {name: mlflow.pyfunc.load_model(str(HOME / name)) for name in ("first", "second")}
    found: dict[str, object] = {}
    for name, model in models.items():
        package = type(model.unwrap_python_model().prior).__module__.partition(".")[0]
        found[name] = {
            "package": package,
            "version": sys.modules[f"{package}.version"].__version__,
            "scope": model.predict(asked, params={"noise_level": 50.0})["scope"],
            "strict": error_of(partial(model.predict, asked, params={"noise_level": 50.0, "strict": True})),
        }
    return found


if __name__ == "__main__":
    import numpy as np

    scan = np.load(HOME / "noise.npy")
    told = {"bundle": bundle(scan), **pyfuncs(scan)}
    (HOME / "found.json").write_text(json.dumps(told), encoding="utf-8")
