"""A prior as an MLflow pyfunc: loaded by `mlflow.pyfunc.load_model` in any process, with or without medidiff.

The model is code (models from code), its weights are safetensors among the artifacts: there is no pickle in it. It may
be registered in a store, under the name ``medidiff-NAME``.
"""

from __future__ import annotations

import dataclasses
import logging
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from medidiff.errors import SettingsError
from medidiff.prior import Card, Prior
from medidiff.store import keep_quiet, register_folder
from medidiff.travel.carried import Carried, carry
from medidiff.travel.folder import new_folder
from medidiff.travel.readme import model_card, scope_usage
from medidiff.trust.reference import reference_files

__all__ = ["PACKAGE", "write_pyfunc"]

PACKAGE = "medidiff_carried"
"""How the name of the package of code that travels with a model begins; a hash of what is in it follows, so that models
of several versions, and of several priors, keep apart in one process."""

_SERVED = "travel/served.py"
_USAGE = """\
```python
import mlflow

model = mlflow.pyfunc.load_model("PATH")  # or models:/medidiff-{name}/1
answer = model.predict({{"image": values, "affine": affine}}, params={{"noise_level": 12.5}})["mean"]
```

`values` are (I, J, K) float32 in the scan's stored units, `affine` leads from voxels to RAS+ mm. A noise level of 0 is
estimated. With `draws` of 2 or more the answer has a `"spread"` beside the posterior mean. {scope}"""


def write_pyfunc(prior: Prior, out: Path, *, register: str | None = None) -> str | None:
    """Write a fine prior as an MLflow model; returns its registered version, if it was to be registered.

    Args:
        prior: any fine prior.
        out: a new folder.
        register: MLflow store whose registry takes the model, e.g. ``sqlite:///mlflow.db``.

    Raises:
        OutputError: ``E-EXISTS``, something is there; or the system refuses.
        SettingsError: ``E-MLFLOW``, the store cannot be used; the folder is written all the same.
    """
    with new_folder(out) as folder, tempfile.TemporaryDirectory() as scratch:
        _save(prior, folder, Path(scratch))
    if register is None:
        return None
    return register_folder(register, out, name=f"medidiff-{prior.card.name}")


def _carried(card: Card) -> tuple[str, Carried]:
    """The package's name, and what is in it."""
    plain = carry("medidiff.travel.served", PACKAGE, data=reference_files(card))
    name = f"{PACKAGE}_{plain.digest[:12]}"
    sources = {path: text.replace(PACKAGE, name) for path, text in plain.sources.items()}
    return name, dataclasses.replace(plain, sources=sources)


def _save(prior: Prior, folder: Path, scratch: Path) -> None:
    """Lay out what MLflow is given, and have it save that."""
    card = Prior.card_of(prior.save(scratch / "prior"))
    package, carried = _carried(card)
    sources = dict(carried.sources)
    served = scratch / "served.py"
    served.write_text(sources.pop(_SERVED), encoding="utf-8")
    dataclasses.replace(carried, sources=sources).write(scratch / package)
    pins = [f"{name}=={version(name).partition('+')[0]}" for name in sorted(carried.needs)]
    keep_quiet()
    with warnings.catch_warnings(), _importable(scratch, package):
        warnings.simplefilter("ignore")  # MLflow's, about its own dependencies and the lack of type hints
        import mlflow.pyfunc

        logging.getLogger("mlflow").setLevel(logging.ERROR)
        try:
            mlflow.pyfunc.save_model(
                folder,
                python_model=str(served),
                code_paths=[str(scratch / package)],
                artifacts={"prior": str(scratch / "prior")},
                signature=_signature(card.modality),
                input_example=_example(),
                pip_requirements=pins,
            )
        except mlflow.exceptions.MlflowException as error:
            raise SettingsError("E-MLFLOW", f"MLflow cannot save the model ({type(error).__name__})") from error
    usage = _USAGE.format(name=card.name, scope=scope_usage(card))
    (folder / "README.md").write_text(model_card(card, usage=usage), encoding="utf-8")


@contextmanager
def _importable(folder: Path, package: str) -> Iterator[None]:
    """Let MLflow import the code that travels, which it does once when it saves; nothing of it is left behind."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        for name in [name for name in sys.modules if name.partition(".")[0] == package]:
            del sys.modules[name]


def _signature(modality: str) -> Any:
    from mlflow.models import ModelSignature
    from mlflow.types import DataType, ParamSchema, ParamSpec, Schema, TensorSpec

    image, affine = (
        TensorSpec(np.dtype(np.float32), (-1, -1, -1), "image"),
        TensorSpec(np.dtype(float), (4, 4), "affine"),
    )
    params = (
        ("modality", DataType.string, modality),
        ("noise_level", DataType.double, 0.0),
        ("draws", DataType.long, 0),
        ("steps", DataType.long, 4),
        ("seed", DataType.long, 0),
        ("strict", DataType.boolean, False),
    )
    return ModelSignature(
        inputs=Schema([image, affine]),
        outputs=Schema([TensorSpec(np.dtype(np.float32), (-1, -1, -1), "mean")]),
        params=ParamSchema([ParamSpec(*each) for each in params]),
    )


def _example() -> dict[str, Any]:
    """A ball in air: nobody's scan."""
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, 8)] * 3, indexing="ij"))
    return {"image": 1000 * ((grid**2).sum(0) < 0.7).astype(np.float32), "affine": np.eye(4)}
