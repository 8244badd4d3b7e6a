"""Denoise or super-resolve a cohort: `python pipelines/restore.py RECIPE OUT INPUT`.

As `medidiff batch`: each scan of a folder tree, BIDS data set or manifest is done once or refused, whatever is killed,
and the same command goes on. The MLflow run then gets the numbers that the batch keeps of its cases, the refusals by
their code, and pictures of the results.
"""

from __future__ import annotations

import contextlib
import io as text
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from cohort import Cohort, options

from medidiff import cli, io
from medidiff.batch.job import Batch
from medidiff.errors import MedidiffError
from medidiff.training.recipe import STRICT, read_as

FINISHED = (0, 7, 8)  # exit codes of a batch that came to its end


@dataclass(frozen=True)
class RestoreRecipe:
    """What to do; the entries are the options of `medidiff batch denoise` and `medidiff batch superresolve`."""

    __pydantic_config__ = STRICT
    task: Literal["denoise", "superresolve"] = "denoise"
    prior: str = ""
    spacing: tuple[float, float, float] | None = None
    draws: int = 0
    seed: int = 0
    workers: int = 1

    def words(self, source: Path, out: Path) -> list[str]:
        """The command line."""
        entries = {name: value for name, value in asdict(self).items() if name != "task" and value not in ("", None)}
        found = ["batch", self.task, str(source), str(out), "--json"]
        for name, value in entries.items():
            found += [f"--{name}", *map(str, value if isinstance(value, tuple) else (value,))]
        return found


def noted(batch: Batch, cohort: Cohort) -> None:
    """Put down every case of a batch."""
    for done, refused in batch.records.names():
        for record in filter(None, map(batch.records.done, sorted(done))):
            with cohort.case() as scores:
                scores |= record.metrics
                if cohort.has_room and "mean" in record.results:
                    cohort.show(restored=io.read(batch.root / record.results["mean"]).data[0])
        cohort.refusals.update(each.code for each in filter(None, map(batch.records.refused, sorted(refused))))


def main(words: Sequence[str] | None = None) -> int:
    """Run the command; 0, or an exit code of `medidiff`."""
    parser = options(__doc__)
    parser.add_argument("out", type=Path, help="folder of the results; mlflow.db lies beside it")
    parser.add_argument("source", metavar="INPUT", type=Path, help="folder tree, BIDS data set, manifest or file")
    chosen = parser.parse_args(words)
    try:
        recipe = read_as(chosen.recipe, lambda table: RestoreRecipe)
        cohort = Cohort("restore", {name: value for name, value in asdict(recipe).items() if value not in ("", None)})
        with contextlib.redirect_stdout(text.StringIO()) as said:
            code = cli.main(recipe.words(chosen.source, chosen.out))
        if code not in FINISHED:
            return code
        run = json.loads(said.getvalue() or "{}").get("run", {"computed": 0, "kept": 0, "cases_per_hour": 0.0})
        cohort.extra |= {name: float(run[name]) for name in ("computed", "kept")}  # kept: of an earlier command
        cohort.extra["cases_per_minute"] = run["cases_per_hour"] / 60
        noted(Batch(chosen.out), cohort)
        return cohort.log(chosen.tracking, chosen.out.parent)
    except MedidiffError as refusal:
        print(refusal, file=sys.stderr)
        return refusal.exit_code


if __name__ == "__main__":
    raise SystemExit(main())
