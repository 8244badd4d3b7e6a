"""A prior as a MONAI bundle: a folder that ``python -m monai.bundle run`` denoises scans with, without medidiff.

The layout is that of MONAI's bundle specification, with safetensors in the place of a pickle::

    NAME/  configs/  metadata.json  inference.json  metadata.schema.json
           models/   NAME.safetensors  NAME.json (the prior's card)
           scripts/  the code, carried out of medidiff, and what it knows of the scans that the prior is for
           docs/     README.md (the model card)  license.txt
           README.md
"""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

from medidiff.diffusion import Preconditioned
from medidiff.prior import Card, Prior
from medidiff.prior.sources import shown_sources
from medidiff.travel.carried import carry
from medidiff.travel.folder import new_folder
from medidiff.travel.readme import model_card, scope_usage
from medidiff.trust.reference import reference_files
from medidiff.version import __version__

__all__ = ["SCHEMA", "write_bundle"]

SCHEMA = Path(__file__).parent / "metadata.schema.json"
"""What MONAI's specification asks of a bundle's metadata, as a JSON schema: `monai.bundle` would fetch one."""

_SCHEMA_URL = "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"
_FIRE = "0.7.1"  # of the command line of `monai.bundle`; medidiff itself has no use for it
_NETWORK_INPUTS = (
    "diffusion state; zero for the posterior mean",
    "what was measured",
    "detail of the best linear guess about its local mean, in its standard deviations",
    "steps between slices, in the same unit",
    "certainty: the share of the voxel that the measurement fixes",
    "noise level, logarithmic",
)
_USAGE = """\
From the folder of this bundle (`pip install monai=={monai} torch safetensors pydantic scipy nibabel fire`):

```
python -m monai.bundle run --config_file configs/inference.json --dataset_dir DIR --output_dir DIR
```

Every `*.nii.gz` of `dataset_dir` is denoised to its posterior mean. `--noise_level 12.5` gives the noise's standard
deviation in the scan's units (estimated when left out), `--draws 8 --seed 1` adds the spread of posterior samples.
Beside each result lies a `*_scope.json`. {scope}
A config file of a bundle runs code: only run one from a source that you trust."""


_SCOPE_SAVED = {"_target_": "scripts.travel.entry.ScopeSaved", "output_dir": "@output_dir"}


def write_bundle(prior: Prior, out: Path) -> Path:
    """Write a fine prior as a MONAI bundle; returns the folder.

    Args:
        prior: any fine prior.
        out: a new folder.

    Raises:
        OutputError: ``E-EXISTS``, something is there; or the system refuses.
    """
    with new_folder(out) as folder:
        for name in ("configs", "models", "docs"):
            (folder / name).mkdir()
        saved = Prior.card_of(prior.save(folder / "models"))
        carried = carry("medidiff.travel.entry", "scripts", data=reference_files(saved))
        carried.write(folder / "scripts")
        readme = model_card(saved, usage=_USAGE.format(monai=version("monai"), scope=scope_usage(saved)))
        for place in (folder, folder / "docs"):
            (place / "README.md").write_text(readme, encoding="utf-8")
        licence = f"The weights: {saved.licence}. The code in scripts/: Apache-2.0.\n"
        (folder / "docs" / "license.txt").write_text(licence, encoding="utf-8")
        _write_json(folder / "configs" / "inference.json", _inference(saved))
        _write_json(folder / "configs" / "metadata.json", _metadata(saved, sorted(carried.needs)))
        (folder / "configs" / SCHEMA.name).write_bytes(SCHEMA.read_bytes())
    return out


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _inference(card: Card) -> dict[str, Any]:
    """The configuration that ``monai.bundle run`` parses; what a user may replace stands first."""
    settings = ("noise_level", "draws", "steps", "seed", "strict", "device")
    return {
        "imports": ["$import glob"],
        "bundle_root": ".",
        "dataset_dir": "$@bundle_root + '/scans'",
        "output_dir": "$@bundle_root + '/eval'",
        "modality": card.modality,
        "noise_level": None,
        "draws": 0,
        "steps": 4,
        "seed": 0,
        "strict": False,
        "device": "auto",
        "datalist": "$sorted(glob.glob(@dataset_dir + '/*.nii.gz'))",
        "network_def": {
            "_target_": "scripts.diffusion.backbone.Backbone",
            "inputs": Preconditioned.channels,
            "shape": {
                "_target_": "scripts.diffusion.backbone.BackboneShape",
                "channels": list(card.channels),
                "blocks": list(card.blocks),
            },
        },
        "preprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "LoadImaged", "keys": "image", "reader": "NibabelReader", "ensure_channel_first": True},
            ],
        },
        "inferer": {
            "_target_": "scripts.travel.entry.Denoised",
            "card": f"$@bundle_root + '/models/{card.name}.json'",
            "modality": "@modality",
        }
        | {name: f"@{name}" for name in settings},
        "network": "$@inferer.prior.denoiser",
        "postprocessing": {
            "_target_": "Compose",
            "transforms": [_saved("pred", "denoised"), _saved("spread", "spread"), _SCOPE_SAVED],
        },
        "dataset": {
            "_target_": "Dataset",
            "data": "$[{'image': name} for name in @datalist]",
            "transform": "@preprocessing",
        },
        "run": ["$[@postprocessing(@inferer(item)) for item in @dataset]"],
    }


def _saved(key: str, postfix: str) -> dict[str, Any]:
    return {
        "_target_": "SaveImaged",
        "keys": key,
        "output_dir": "@output_dir",
        "output_postfix": postfix,
        "separate_folder": False,
        "resample": False,
        "output_dtype": "float32",
        "allow_missing_keys": True,
    }


def _metadata(card: Card, needs: list[str]) -> dict[str, Any]:
    needed = {name: version(name) for name in needs if name not in ("monai", "numpy", "torch")}
    tensor: dict[str, Any] = {
        "type": "image",
        "modality": card.modality,
        "dtype": "float32",
        "spatial_shape": ["4*n"] * 3,
    }
    tensor |= {"is_patch_data": True, "value_range": []}
    return {
        "schema": _SCHEMA_URL,
        "version": __version__,
        "changelog": {__version__: f"exported by medidiff {__version__}, weights {card.weights_sha256[:12]}"},
        "monai_version": version("monai"),
        "pytorch_version": version("torch").partition("+")[0],
        "numpy_version": version("numpy"),
        "required_packages_version": needed | {"nibabel": version("nibabel"), "fire": _FIRE},
        "optional_packages_version": {},
        "name": card.name,
        "task": "Denoising of three-dimensional medical scans with a diffusion prior",
        "description": card.summary or f"A diffusion prior for {card.modality}",
        "authors": "The medidiff authors",
        "copyright": f"The medidiff authors; weights under {card.licence}",
        "data_source": "; ".join(shown_sources(card.sources)),
        "data_type": "nibabel",
        "image_classes": "single channel, stored units",
        "pred_classes": "single channel, the posterior mean in the scan's stored units",
        "eval_metrics": dict(card.metrics),
        "intended_use": card.intended_use,
        "references": ["Karras et al. 2022, arXiv 2206.00364"],
        "network_data_format": {
            "inputs": {
                "image": tensor
                | {"format": "magnitude", "num_channels": Preconditioned.channels}
                | {"channel_def": {str(number): name for number, name in enumerate(_NETWORK_INPUTS)}},
            },
            "outputs": {
                "pred": tensor
                | {"format": "magnitude", "num_channels": 1}
                | {"channel_def": {"0": "what the best linear guess lacks, in its standard deviations"}},
            },
        },
        "extra_forward_args": {"c_noise": "(B,) logarithm of the diffusion level, 0 for the posterior mean"},
    }
