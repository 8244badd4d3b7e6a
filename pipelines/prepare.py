"""Pack the scans of a recipe into one file: `python pipelines/prepare.py RECIPE PACK.safetensors [--data DIR]`.

`medidiff train RECIPE -o DIR --data PACK.safetensors` then trains where neither the scans nor the readers are. For a
coarse prior the pack holds whole heads with their tissue and the atlas of the training heads (`heads.py`). Nothing is
packed when a scan is refused, unless --without-refused leaves it out; the MLflow run counts the refusals either way.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import heads
from cohort import NOTHING, PARTLY, Cohort, options

from medidiff.errors import MedidiffError, SettingsError
from medidiff.training.coarse_recipe import CoarseRecipe, read_any
from medidiff.training.contrast_recipe import ContrastRecipe
from medidiff.training.data import Found, find_scans, load_scan
from medidiff.training.heads import Head, write_heads
from medidiff.training.pack import is_pack, write_pack
from medidiff.training.patches import Scan
from medidiff.training.recipe import Recipe
from medidiff.training.repeats import refuse_shared

PARTS: tuple[heads.Part, heads.Part] = ("train", "validation")


def scans(recipe: Recipe, folder: Path, data: Path | None, *, part: str) -> Iterator[Callable[[], Any]]:
    """The scans of one part, each with its weight and the number of its source when it is called for."""
    for number, source in enumerate(recipe.data.sources):
        found = find_scans(replace(recipe.data, sources=(source,)), folder=folder, root=data, part=part)
        if not found:
            raise SettingsError("E-DATA", f"no scans of the part '{part}'", file=recipe.data.split)
        yield from (partial(_loaded, each, recipe, number) for each in found)


def _loaded(found: Found, recipe: Recipe, source: int) -> tuple[Scan, float, int]:
    return load_scan(found, recipe), found.weight, source


def prepared(recipe: Recipe | CoarseRecipe, folder: Path, data: Path | None, cohort: Cohort) -> dict[heads.Part, Any]:
    """All different scans that can be prepared, by part."""
    parts: dict[heads.Part, dict[str, Any]] = {part: {} for part in PARTS}
    for part in PARTS:
        if isinstance(recipe, CoarseRecipe):
            loads: Iterator[Callable[[], Any]] = heads.scans(recipe, folder, data, part=part)
        else:
            loads = scans(recipe, folder, data, part=part)
        for load in loads:
            with cohort.case() as scores:
                found = load()
                scan = found if isinstance(found, Head) else found[0]
                image, scores["repeat"] = scan.image, float(parts[part].setdefault(scan.sha256, found) is not found)
                scores["megavoxels"], scores["brightness"] = image.numel() / 1e6, float(image.float().mean())
                cohort.show(**{part: image.float().numpy()})
    refuse_shared(parts["train"], parts["validation"], recipe.data)
    return {part: list(found.values()) for part, found in parts.items()}


def main(words: Sequence[str] | None = None) -> int:
    """Run the command; 0, or an exit code of `medidiff`."""
    parser = options(__doc__)
    parser.add_argument("pack", type=Path, help="file to write, .safetensors")
    parser.add_argument("--data", type=Path, help="data folder instead of the recipe's")
    parser.add_argument("--without-refused", action="store_true", help="pack the rest when a scan is refused")
    chosen = parser.parse_args(words)
    try:
        if not is_pack(chosen.pack):
            found, mend = "a pack whose name does not end in .safetensors", "Name a .safetensors file."
            raise SettingsError("E-OUTFORMAT", found, mend=mend, file=chosen.pack.name)
        recipe, folder = read_any(chosen.recipe), chosen.recipe.parent
        if isinstance(recipe, ContrastRecipe):
            mend = "Train from the data folder itself."
            raise SettingsError("E-PACK", "a pack holds no pairs of contrasts", mend=mend, file=chosen.recipe.name)
        cohort = Cohort("prepare", {"recipe": recipe.name, "without_refused": chosen.without_refused})
        parts = prepared(recipe, folder, chosen.data, cohort)
        code = cohort.log(chosen.tracking, chosen.pack.parent)
        if code == NOTHING or (code == PARTLY and not chosen.without_refused):
            return code
        if isinstance(recipe, CoarseRecipe):
            shaped, atlas = heads.with_shapes(parts, recipe)
            write_heads(chosen.pack, shaped, atlas)
        else:
            write_pack(chosen.pack, parts)
    except MedidiffError as refusal:
        print(refusal, file=sys.stderr)
        return refusal.exit_code
    counts = ", ".join(f"{len(found)} for {part}" for part, found in parts.items())
    repeats = f"{n:.0f} repeats left out, " if (n := sum(s["repeat"] for s in cohort.scores)) else ""
    print(f"packed {counts}, {repeats}{chosen.pack.stat().st_size / 2**20:.0f} MiB")
    return code


if __name__ == "__main__":
    raise SystemExit(main())
