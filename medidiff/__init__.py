"""medidiff: denoise and super-resolve medical scans with conditional 3D diffusion models. Research use only.

    >>> import medidiff as md
    >>> scan = md.read("study/T1w/")                           # doctest: +SKIP
    >>> clean = md.denoise(scan)                               # doctest: +SKIP
    >>> md.write(clean.mean, "out/", like="study/T1w/", provenance=clean.provenance)  # doctest: +SKIP

Names are looked up when they are first used, so that importing the package loads neither torch nor MONAI.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any

# MONAI imports MLflow, whose telemetry starts with it; nothing may leave a hospital's machine unasked.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

_HOME = {
    "Cascade": "medidiff.synthesis",
    "Geometry": "medidiff.volume",
    "MedidiffError": "medidiff.errors",
    "Posterior": "medidiff.restore",
    "Prior": "medidiff.prior",
    "ProgressBar": "medidiff.showing.progress",
    "Provenance": "medidiff.volume",
    "RandVariantd": "medidiff.augmentation",
    "Request": "medidiff.synthesis",
    "Volume": "medidiff.volume",
    "__version__": "medidiff.version",
    "adapt": "medidiff.training.adapt",
    "augment": "medidiff.augmentation",
    "denoise": "medidiff.restore",
    "example_study": "medidiff.io.dicom.example",
    "inspect": "medidiff.io",
    "read": "medidiff.io",
    "superresolve": "medidiff.restore",
    "write": "medidiff.io",
}

__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'medidiff' has no attribute '{name}'")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(_HOME)
