"""``--tracking`` of a restoring run: MLflow is told what its record says, so that it can be made again from its id."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from medidiff.cli.screen import Screen
from medidiff.cli.session import Session
from medidiff.cli.verbs import Restoring
from medidiff.io.record import Run

__all__ = ["EXPERIMENT", "RECORD", "run"]

EXPERIMENT, RECORD = "medidiff-restorations", "record.jsonl"


def run(verb: Restoring, session: Session) -> None:
    """Tell MLflow of a run that is done.

    Raises:
        SettingsError: ``E-MLFLOW``, the store fails although `places` found it fit; the results are written.
    """
    told = session.told()
    if verb.tracking is None or verb.dry_run or told is None:
        return
    from medidiff.tracking import log_metrics

    with tempfile.TemporaryDirectory() as folder:
        record = Path(folder) / RECORD
        record.write_text("".join(f"{json.dumps(line)}\n" for line in told.lines), encoding="utf-8")
        name, params = _about(told)
        found = log_metrics(name, params, {}, artifacts=[record], uri=verb.tracking, experiment=EXPERIMENT)
    Screen(verb.json).note(f"MLflow run {found}: 'medidiff replay {found}' makes it again")


def _about(told: Run) -> tuple[str, dict[str, Any]]:
    """Name and parameters of the run in MLflow: what a person would look for."""
    (start,) = told.of("start")
    inputs = [line["sha256"] for line in told.of("input") if line["used"]]
    options = {name: value for name, value in start["options"].items() if value is not None}
    params = {"version": start["version"], "config_sha256": start["config_sha256"], "options": options}
    params |= {f"prior_{key}": line[key] for line in told.of("prior") for key in ("name", "sha256")}
    return start["verb"], params | {"inputs": len(inputs), "first_input_sha256": inputs[0]}
