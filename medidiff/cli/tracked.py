"""``--tracking`` of a restoring run: MLflow is told what its record says, so that it can be made again from its id."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from medidiff.cli.screen import Screen
from medidiff.cli.session import Session
from medidiff.cli.shared import BUNDLED
from medidiff.cli.verbs import Restoring
from medidiff.io.record import Run

__all__ = ["EXPERIMENT", "RECORD", "run", "wrote_dicom"]

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
    again = "DICOM output is not replayed" if wrote_dicom(told) else f"'{_command(verb, found)}' makes it again"
    Screen(verb.json).note(f"MLflow run {found}: {again}")


def wrote_dicom(told: Run) -> bool:
    """Whether a run wrote DICOM, whose UIDs are new at every write."""
    return any(str(line.get("file", "")).lower().endswith(".dcm") for line in told.of("output"))


def _command(verb: Restoring, run_id: str) -> str:
    """What makes it again; words in capitals stand for paths, and for a store that could hold a password."""
    words = ["medidiff replay", run_id, "-o NEWFOLDER --input IN"]
    if verb.prior is not None and {"/", "\\", "."} & set(verb.prior):
        words.append("--prior CARD")
    if verb.intervals is not None and str(verb.intervals[0]) != BUNDLED:
        words.append("--calibration FILE")
    usual = {"sqlite:///mlflow.db", f"sqlite:///{Path('mlflow.db').resolve()}"}
    return " ".join(words if verb.tracking in usual else [*words, "--tracking STORE"])


def _about(told: Run) -> tuple[str, dict[str, Any]]:
    """Name and parameters of the run in MLflow: what a person would look for."""
    (start,) = told.of("start")
    inputs = [line["sha256"] for line in told.of("input") if line["used"]]
    options = {name: value for name, value in start["options"].items() if value is not None}
    params = {"version": start["version"], "config_sha256": start["config_sha256"], "options": options}
    params |= {f"prior_{key}": line[key] for line in told.of("prior") for key in ("name", "sha256")}
    return start["verb"], params | {"inputs": len(inputs), "first_input_sha256": inputs[0]}
