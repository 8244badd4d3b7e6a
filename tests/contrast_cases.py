"""Three people in two contrasts, of which one is a known curve of the other, and the smallest recipe for them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
from training_cases import phantom, to_toml

from medidiff import io
from medidiff.physics.contrast import Curve
from medidiff.prior import Prior
from medidiff.prior.card import Measures
from medidiff.volume import Volume
from tests.small_prior import small_prior

PEOPLE = {"train": ["one"], "validation": [], "test": ["two"]}
CURVE = Curve(0.0, 1.25, (0.0, 0.8, 0.6), (0.02, 0.1, 0.05))
RECIPE = {
    "kind": "contrast",
    "name": "tiny-contrast",
    "summary": "A network of no use, for tests.",
    "contrasts": ["FLAIR"],
    "seed": 3,
    "data": {
        "root": "scans",
        "split": "split.toml",
        "spacing_mm": 1.0,
        "sources": [{"pattern": "{subject}/FLAIR.nii.gz", "split": "people", "licence": "none"}],
    },
    "measured": {"contrast": "T1w", "patterns": ["{subject}/T1.nii.gz"]},
    "model": {"channels": [4, 8], "blocks": [1, 1, 1]},
    "fit": {"images": 8, "batch": 2, "patch": 12, "rate": 2e-3, "warmup": 4, "ema": 8.0},
    "validation": {"every": 4, "levels": [], "crop": 16, "scans": 1},
}


def other(volume: Volume) -> Volume:
    """The same person in a contrast that is a bent, not a rising, curve of the first."""
    bright = np.asarray(volume.data[0], np.float64) / 700
    return volume.with_data((900 * bright * (1.6 - bright)).astype(np.int16))


def lesions(volume: Volume) -> Volume:
    """A map of two lesions."""
    marked = np.zeros(volume.shape, np.uint8)
    marked[8:11, 12:15, 10:13] = marked[13:16, 8:11, 12:15] = 1
    return volume.with_data(marked)


def recipe_text(**tables: dict[str, object]) -> str:
    """The recipe with entries of its tables, or whole entries, replaced."""
    values = json.loads(json.dumps(RECIPE))
    for name, entries in tables.items():
        values[name] = values[name] | entries if isinstance(entries, dict) and name in values else entries
    return to_toml(values)


def write_pairs(folder: Path, **tables: dict[str, object]) -> Path:
    """The scans, the split and the recipe; the path of the recipe."""
    for number, subject in enumerate(name for names in PEOPLE.values() for name in names):
        first = phantom(number)
        for name, volume in {"T1": first, "FLAIR": other(first), "lesions": lesions(first)}.items():
            io.write(volume, folder / "scans" / subject / f"{name}.nii.gz")
    (folder / "split.toml").write_text(to_toml({"people": PEOPLE}), encoding="utf-8")
    path = folder / "recipe.toml"
    path.write_text(recipe_text(**tables), encoding="utf-8")
    return path


def contrast_prior(spacing_mm: float = 0.0) -> Prior:
    """A small prior with random weights that draws FLAIR given T1."""
    plain = small_prior()
    measures = Measures("T1w", CURVE, spacing_mm)
    card = dataclasses.replace(plain.card, name="tiny-contrast", contrasts=("FLAIR",), measures=measures)
    return Prior(plain.denoiser, card)
