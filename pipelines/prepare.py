"""Pack the scans of a recipe into one file: `python pipelines/prepare.py RECIPE PACK.safetensors [--data DIR]`.

`medidiff train RECIPE -o DIR --data PACK.safetensors` then trains where neither the scans nor the readers are.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from medidiff.errors import MedidiffError, SettingsError
from medidiff.training.pack import is_pack, write_pack
from medidiff.training.patches import Scan
from medidiff.training.recipe import Recipe, read_recipe
from medidiff.training.run import load_scans

PARTS = ("train", "validation")


def packed(recipe: Recipe, folder: Path, data: Path | None, *, part: str) -> list[tuple[Scan, float, int]]:
    """The scans of one part, their weights and the numbers of their sources."""
    found = []
    for source in range(len(recipe.data.sources)):
        scans, weights = load_scans(recipe, folder, data, part=part, source=source)
        found += [(scan, weight, source) for scan, weight in zip(scans, weights, strict=True)]
    return found


def main() -> int:
    """Run the command; 0, or the exit code of the refusal."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe", type=Path, help="TOML recipe")
    parser.add_argument("pack", type=Path, help="file to write, .safetensors")
    parser.add_argument("--data", type=Path, help="data folder instead of the recipe's")
    options = parser.parse_args()
    try:
        if not is_pack(options.pack):
            found, mend = "a pack whose name does not end in .safetensors", "Name a .safetensors file."
            raise SettingsError("E-OUTFORMAT", found, mend=mend, file=options.pack.name)
        recipe = read_recipe(options.recipe)
        parts = {part: packed(recipe, options.recipe.parent, options.data, part=part) for part in PARTS}
        write_pack(options.pack, parts)
    except MedidiffError as refusal:
        print(refusal, file=sys.stderr)
        return refusal.exit_code
    counts = ", ".join(f"{len(scans)} for {part}" for part, scans in parts.items())
    print(f"packed {counts}, {options.pack.stat().st_size / 2**20:.0f} MiB")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
