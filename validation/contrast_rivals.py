"""Train what `contrast.py` compares: `python validation/contrast_rivals.py diffusion|regression --help`.

*diffusion* is the recipe as it stands, what `medidiff train` makes of it. *regression* is the same network, begun with
the same weights and shown the same patches as often, that answers in one evaluation and is trained by the squared
error: what a plain image-to-image network is. Equal size, equal patches, and equal time but for drawing the noise.

The same command goes on where it was killed. CPU seconds are summed over all calls, lost work included.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from scoring import ended
from torch import Tensor

from medidiff.diffusion.condition import Condition
from medidiff.diffusion.denoiser import Preconditioned
from medidiff.errors import SettingsError
from medidiff.training.coarse_recipe import read_any
from medidiff.training.contrast_recipe import ContrastRecipe
from medidiff.training.loop import Step, Validated
from medidiff.training.run import train_contrast

KINDS = ("diffusion", "regression")
SECONDS = "cpu-seconds.json"
_HERE = Path(__file__).resolve().parent
RECIPE = _HERE.parent / "pipelines" / "recipes" / "contrast-flair.toml"


def squared_error(denoiser: Preconditioned, x: Tensor, condition: Condition, *, sigma: Tensor, state: Tensor) -> Tensor:
    """Mean squared error of each image, (B,); arguments as for `restoration_loss`."""
    error: Tensor = denoiser(state, sigma, condition) - x
    return error.square().flatten(1).mean(1)


def recipe_of(path: Path, kind: str) -> ContrastRecipe:
    """The recipe of one rival.

    Raises:
        SettingsError: the file is no recipe of a contrast prior.
    """
    recipe = read_any(path)
    if not isinstance(recipe, ContrastRecipe):
        raise SettingsError("E-RECIPE", "the recipe of another kind of prior", wanted="contrast", file=path.name)
    if kind == "diffusion":
        return recipe
    return dataclasses.replace(
        recipe,
        name=f"{recipe.name}-regression",
        fit=dataclasses.replace(recipe.fit, posterior_mean=1.0),
        measured=dataclasses.replace(recipe.measured, nothing=0.0),
    )


def spent(folder: Path) -> float:
    """CPU seconds that training in a folder has taken so far."""
    path = folder / SECONDS
    return float(json.loads(path.read_text())["seconds"]) if path.is_file() else 0.0


def run(arguments: argparse.Namespace) -> str:
    """Train one rival to its end; returns a line about it."""
    recipe, folder = recipe_of(arguments.recipe, arguments.kind), arguments.out / arguments.kind
    before, start = spent(folder), time.process_time()
    more = {} if arguments.kind == "diffusion" else {"loss": squared_error}
    scores: dict[str, float] = {}
    images = 0
    for event in train_contrast(recipe, arguments.recipe.parent, folder, data=arguments.data, **more):
        if isinstance(event, Validated):
            scores = event.scores
        if isinstance(event, Step):
            images = event.images
            folder.mkdir(parents=True, exist_ok=True)
            (folder / SECONDS).write_text(json.dumps({"seconds": before + time.process_time() - start}))
            print(f"{arguments.kind}: {event.images} patches, loss {event.loss:.4f}", file=sys.stderr, flush=True)
    told = ", ".join(f"{name} {value:.4g}" for name, value in scores.items())
    return f"{arguments.kind}: {images} patches, {spent(folder):.0f} CPU seconds, {told}"


def parser_of_data(description: str) -> argparse.ArgumentParser:
    """A parser with the options that training and scoring share."""
    shared = os.environ.get("MEDIDIFF_DATA") or _HERE.parent.parent / "shared" / "data"
    out = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    out.add_argument("--recipe", type=Path, default=RECIPE, help="of the diffusion prior")
    out.add_argument("--data", type=Path, default=Path(shared), help="folder of the shared data")
    return out


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    out = parser_of_data(__doc__)
    out.add_argument("kind", choices=KINDS)
    out.add_argument("--out", type=Path, default=Path("runs/contrast"), help="folder for both runs")
    return out


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0, or the exit code of the refusal."""
    return ended(run, parser(), arguments)


if __name__ == "__main__":
    raise SystemExit(main())
