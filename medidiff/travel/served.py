"""The model that MLflow serves, as code and not as a pickle: denoising from named arrays.

`medidiff.travel.pyfunc` copies this file, its imports pointed at the code that travels with it. It is not imported
otherwise: it names its model to MLflow as soon as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel

from medidiff.prior.prior import Prior
from medidiff.travel.entry import denoised

__all__ = ["Served"]


class Served(PythonModel):
    """Denoises one scan a call.

    The input is ``{"image": (I, J, K) float32 stored values, "affine": (4, 4) float64 to RAS+ mm}``, the answer
    ``{"mean": (I, J, K) float32, "scope": {"verdict": ...}}``, and ``"spread"`` beside them where draws were asked for.
    `scope` says whether the scan is of the kind that the prior is for, as in a provenance of medidiff.
    """

    prior: Prior

    def load_context(self, context: Any) -> None:
        """Load the prior that lies among the artifacts."""
        (card,) = Path(context.artifacts["prior"]).glob("*.json")
        self.prior = Prior.load(card)

    # MLflow reads a hint of `model_input` as a schema, and knows none for named arrays.
    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN201
        """The answer to one scan; `params` are those of the signature, a noise level of 0 is estimated."""
        settings: dict[str, Any] = dict(params or {})
        settings["noise_level"] = settings.get("noise_level") or None
        scan: Mapping[str, Any] = model_input
        answer = denoised(self.prior, np.asarray(scan["image"]), np.asarray(scan["affine"]), **settings)
        told = {"mean": answer.mean.data[0], "scope": dict(answer.provenance.scope)}
        return told if answer.std is None else told | {"spread": answer.std.data[0]}


set_model(Served())
