"""What a pipeline did to a cohort, as one MLflow run: settings, scores over the cases, refusals, throughput, a picture.

Cases have numbers and refusals have codes: no name of a file or of a person goes into the run, and `medidiff.tracking`
refuses settings that look like one.
"""

from __future__ import annotations

import argparse
import csv
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from medidiff.errors import MedidiffError
from medidiff.report import montage
from medidiff.tracking import log_metrics, public

PICTURES = 24
DONE, PARTLY, NOTHING = 0, 7, 8  # exit codes, as of `medidiff`


class Cohort:
    """Takes note of case after case.

    Args:
        name: of the pipeline, and of its MLflow run.
        settings: of the recipe; nested mappings of numbers and texts.

    Raises:
        SettingsError: ``E-PRIVATE``, a setting that not anyone may read; so a run is refused before it begins.
    """

    def __init__(self, name: str, settings: Mapping[str, object]) -> None:
        self.name, self.settings, self.started = name, public(settings), time.monotonic()
        self.scores: list[dict[str, float]] = []
        self.refusals: Counter[str] = Counter()
        self.pictures: dict[str, ArrayLike] = {}
        self.extra: dict[str, float] = {}

    @property
    def number(self) -> int:
        """Of the case at hand, from 1."""
        return len(self.scores) + self.refusals.total() + 1

    @contextmanager
    def case(self) -> Iterator[dict[str, float]]:
        """A case, and where its scores go; one that medidiff refuses is counted by its code, and the rest goes on."""
        scores: dict[str, float] = {"case": float(self.number)}
        try:
            yield scores
        except MedidiffError as refusal:
            self.refusals[refusal.code] += 1
            print(f"{self.name}: {refusal}", file=sys.stderr)
        else:
            self.scores.append(scores)

    @property
    def has_room(self) -> bool:
        """Whether there is room in the picture."""
        return len(self.pictures) < PICTURES

    def show(self, **images: ArrayLike) -> None:
        """Keep (I, J, K) images of the case at hand for the picture, as long as there is room in it."""
        if len(self.pictures) + len(images) <= PICTURES:
            self.pictures |= {f"case {self.number}: {name}": image for name, image in images.items()}

    def table(self, path: Path) -> None:
        """Write the scores, a line for each case that was not refused."""
        with path.open("w", encoding="utf-8", newline="") as file:
            rows = csv.DictWriter(file, list(self.scores[0]) if self.scores else ["case"])
            rows.writeheader()
            rows.writerows(self.scores)

    def metrics(self) -> dict[str, float]:
        """Over all cases: how many, how fast, and of each score its mean, median and central 90 %."""
        cases, seconds = len(self.scores), time.monotonic() - self.started
        found = {"cases": float(cases), "refusals": float(self.refusals.total()), "seconds": seconds}
        found["cases_per_minute"] = 60 * cases / max(seconds, 1e-9)
        found |= self.extra | {f"refusals/{code.lower()}": float(count) for code, count in self.refusals.items()}
        for name in dict.fromkeys(name for scores in self.scores for name in scores if name != "case"):
            values = np.array([scores[name] for scores in self.scores if name in scores])
            low, median, high = np.percentile(values, (5, 50, 95))
            found |= {f"{name}/mean": float(values.mean()), f"{name}/median": float(median)}
            found |= {f"{name}/p05": float(low), f"{name}/p95": float(high)}
        return found

    def log(self, uri: str | None, home: Path, *, columns: int = 4) -> int:
        """Leave the MLflow run in a store, mlflow.db of a folder when None; say what is in it; return the exit code."""
        metrics, kept = self.metrics(), []
        uri = uri or f"sqlite:///{(home / 'mlflow.db').resolve()}"
        with tempfile.TemporaryDirectory() as folder:
            if self.pictures:
                kept = [montage(Path(folder) / "montage.png", self.pictures, columns=columns, title=self.name)]
            log_metrics(self.name, self.settings, metrics, artifacts=kept, uri=uri, experiment="medidiff-pipelines")
        for name, value in metrics.items():
            print(f"{name:<32} {value:.4g}")
        return DONE if not self.refusals else PARTLY if self.scores else NOTHING


def options(description: str | None) -> argparse.ArgumentParser:
    """A parser with what all pipelines take."""
    out = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    out.add_argument("recipe", type=Path, help="TOML recipe; pipelines/recipes has one for each pipeline")
    out.add_argument("--tracking", metavar="URI", help="MLflow store; mlflow.db beside the output when left out")
    return out
