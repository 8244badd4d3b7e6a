"""A process without medidiff that uses what was exported; run by test_travel.py, it prints what it found as JSON.

    python travel_process.py FOLDER

FOLDER holds `bundle`, `model`, `mlflow.db`, `denoiser.pt2`, `told.npz` (the arguments of the last) and `scans`.
"""

from __future__ import annotations

import hashlib
import json
import os
import runpy
import sys
from pathlib import Path

sys.modules["medidiff"] = None  # type: ignore[assignment] # from here on it cannot be imported
FOUND: dict[str, object] = {}
HOME = Path(sys.argv[1])


def refused(action, kind: type[Exception]) -> bool:
    """Whether something is refused."""
    try:
        action()
    except kind:
        return True
    return False


def bundle() -> None:
    import torch
    from monai.bundle import verify_metadata, verify_net_in_out

    os.chdir(HOME / "bundle")
    sys.path.insert(0, "")
    files = {"meta_file": "configs/metadata.json", "config_file": "configs/inference.json", "device": "cpu", "n": 2}
    schema = "configs/metadata.schema.json"
    verify_metadata(meta_file="configs/metadata.json", filepath=schema)
    metadata = json.loads(Path("configs/metadata.json").read_text(encoding="utf-8"))
    FOUND["metadata_without"] = {}
    for name in ("authors", "network_data_format", "monai_version"):
        Path("less.json").write_text(json.dumps({k: v for k, v in metadata.items() if k != name}), encoding="utf-8")
        lacks = refused(lambda: verify_metadata(meta_file="less.json", filepath=schema), ValueError)
        FOUND["metadata_without"][name] = lacks
    level = {"c_noise": torch.zeros(1)}
    verify_net_in_out("network_def", extra_forward_args=level, **files)
    wrong = {"_meta_#network_data_format#outputs#pred#num_channels": 2}
    FOUND["another_number_of_channels"] = refused(
        lambda: verify_net_in_out("network_def", extra_forward_args=level, **files, **wrong), ValueError
    )
    options = {
        "config_file": files["config_file"],
        "dataset_dir": str(HOME / "scans"),
        "output_dir": str(HOME / "eval"),
    }
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    sys.argv = ["monai.bundle", "run", *words, "--noise_level", "50.0", "--draws", "2", "--device", "cpu"]
    runpy.run_module("monai.bundle", run_name="__main__", alter_sys=True)


def pyfunc() -> None:
    import mlflow
    import numpy as np

    scan = np.load(HOME / "scan.npz")
    asked = {"image": scan["image"], "affine": scan["affine"]}
    mlflow.set_tracking_uri(f"sqlite:///{HOME / 'mlflow.db'}")
    for name, place in {"folder": str(HOME / "model"), "registered": "models:/medidiff-tiny/1"}.items():
        model = mlflow.pyfunc.load_model(place)
        answer = model.predict(asked, params={"noise_level": 50.0, "draws": 2, "seed": 3})
        FOUND[f"pyfunc_{name}_scope"] = answer.pop("scope")
        FOUND[f"pyfunc_{name}"] = {key: hashlib.sha256(value.tobytes()).hexdigest() for key, value in answer.items()}
        FOUND[f"pyfunc_{name}_type"] = str(answer["mean"].dtype)
    FOUND["estimated"] = hashlib.sha256(model.predict(asked)["mean"].tobytes()).hexdigest()
    wrong = asked | {"image": asked["image"].astype(np.float64)}
    FOUND["another_type_is_refused"] = refused(lambda: model.predict(wrong), mlflow.exceptions.MlflowException)


def archive() -> None:
    import numpy as np
    import torch

    program = torch.export.load(HOME / "denoiser.pt2")
    told = np.load(HOME / "told.npz")
    count = len({name.partition("_")[0] for name in told})
    for case in range(count):
        arguments = [torch.from_numpy(told[f"{case}_{number}"]) for number in range(6)]
        np.save(HOME / f"answer_{case}.npy", program.module()(*arguments).numpy())
    odd = [each[..., :9] if each.ndim == 5 else each for each in arguments]
    FOUND["nine_voxels_are_refused"] = refused(lambda: program.module()(*odd), Exception)


if __name__ == "__main__":
    bundle()
    pyfunc()
    archive()
    FOUND["medidiff"] = sorted(name for name, module in sys.modules.items() if name.startswith("medidiff.") and module)
    (HOME / "found.json").write_text(json.dumps(FOUND), encoding="utf-8")
