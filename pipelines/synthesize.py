"""Make a synthetic data set and say what is in it: `python pipelines/synthesize.py RECIPE OUT [--count N]`.

As `medidiff synthesize`, with its gate, its restarts and its refusals; the cases of the finished set are then read
back, and their volumes of tissue, their brightness and the gate's verdicts become the metrics of an MLflow run.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from cohort import Cohort, options

from medidiff import cli
from medidiff.case import Case
from medidiff.errors import MedidiffError
from medidiff.export import open_stored
from medidiff.training.recipe import STRICT, read_as


@dataclass(frozen=True)
class SynthesizeRecipe:
    """What is asked of all cases; the entries are the options of `medidiff synthesize`."""

    __pydantic_config__ = STRICT
    prior: str = "coarse-t1"
    count: int = 1
    seed: int = 0
    format: Literal["bids", "nnunet", "msd", "webdataset", "huggingface"] = "bids"  # those that give scans back
    contrast: str = ""
    age: float | None = None
    sex: Literal["F", "M", ""] = ""
    spacing: float = 1.0
    guidance: float = 1.0
    licence: str = "CC-BY-4.0"
    without_gate: str = ""

    def words(self, out: Path) -> list[str]:
        """The command line."""
        given = {name: value for name, value in asdict(self).items() if value not in ("", None)}
        options = [part for name, value in given.items() for part in (f"--{name.replace('_', '-')}", str(value))]
        return ["synthesize", str(out), *options, "--json"]


def measured(case: Case) -> dict[str, float]:
    """Millilitres of each tissue, and how bright the tissue is."""
    millilitres = float(np.prod(case.image.geometry.spacing_mm)) / 1000
    found = {"tissue_brightness": float(case.image.data[case.image.data > 0].mean())}
    if case.labels is not None:
        counts = np.bincount(case.labels.data.ravel(), minlength=len(case.label_names))
        for name, count in list(zip(case.label_names, counts, strict=True))[1:]:
            found[f"{name.lower().replace(' ', '_')}_ml"] = millilitres * float(count)
    return found


def told(words: Sequence[str]) -> tuple[int, dict[str, float]]:
    """The exit code of a command of medidiff, and what it told in JSON."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        code = cli.main(words)
    return code, json.loads(said.getvalue()) if code == 0 else {}


def main(words: Sequence[str] | None = None) -> int:
    """Run the command; 0, or the exit code of `medidiff synthesize`."""
    parser = options(__doc__)
    parser.add_argument("out", type=Path, help="folder of the data set; mlflow.db lies beside it")
    parser.add_argument("--count", type=int, help="scans that are to pass the gate, instead of the recipe's")
    parser.add_argument("--prior", help="coarse prior, a name or a card, instead of the recipe's")
    chosen = parser.parse_args(words)
    try:
        recipe = read_as(chosen.recipe, lambda table: SynthesizeRecipe)
        recipe = replace(recipe, count=chosen.count or recipe.count, prior=chosen.prior or recipe.prior)
        public = {name: value for name, value in asdict(recipe).items() if value is not None}
        cohort = Cohort("synthesize", public | {"prior": Path(recipe.prior).stem})
        code, result = told(recipe.words(chosen.out))
        if code:
            return code
        stored = open_stored(chosen.out)
        for case in stored.cases(stored.numbers):
            with cohort.case() as scores:
                scores |= measured(case)
                cohort.show(image=case.image.data[0])
        cohort.extra = {name: float(result[name]) for name in ("judged", "like_a_training_scan", "not_to_be_judged")}
        return cohort.log(chosen.tracking, chosen.out.parent)
    except MedidiffError as refusal:
        print(refusal, file=sys.stderr)
        return refusal.exit_code


if __name__ == "__main__":
    raise SystemExit(main())
