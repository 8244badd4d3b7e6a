"""``medidiff batch status`` and ``sync``: how far a batch is, and its figures for a tracking store."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from medidiff.batch.job import Batch
from medidiff.batch.metrics import cohort, sent, waiting
from medidiff.batch.quarantine import refused_cases
from medidiff.batch.status import speed_of, status_of
from medidiff.cli.batch_verbs import BatchStatus, BatchSync
from medidiff.cli.screen import Screen
from medidiff.cli.session import Session
from medidiff.errors import MedidiffError, SettingsError

__all__ = ["run", "show", "sync"]

MARK = "OUT OF SCOPE"
_PATIENCE_SECONDS = 120.0  # for a store


def run(verb: BatchStatus | BatchSync, session: Session) -> None:
    """Show how far a batch is, or hand its figures over.

    Raises:
        InputError: the folder holds no batch, or a damaged one.
        SettingsError: ``E-MLFLOW``, the store does not take the figures.
    """
    batch = Batch(verb.batch)
    if isinstance(verb, BatchSync):
        Screen().lines({"runs handed over": sync(batch, verb.tracking)})
        return
    counted = status_of(batch)
    status = counted.record() | {"speed": speed_of(batch, counted.left)}
    if verb.refused:
        listed = refused_cases(batch)
        status["refusals"] = [{"case": r.case, "code": r.code, "message": r.message, "mend": r.mend} for r in listed]
    if verb.scope:
        status |= _marked(batch)
    show(status, Screen(verb.json))


def _marked(batch: Batch) -> dict[str, Any]:
    """The finished cases whose scan was not of the kind that the prior is for, each with the reason."""
    records = (batch.records.done(name) for name in cohort(batch).out_of_scope)
    told = {r.case: next((d for d in r.decisions if d.startswith(MARK)), "") for r in records if r is not None}
    return {"out_of_scope": len(told), "marked": told}


def show(status: Mapping[str, Any], screen: Screen) -> None:
    """Print what became of the cases."""
    if screen.json:
        screen.document(status)
        return
    rows = [[name, str(status[name])] for name in ("cases", "done", "refused", "left", "held")]
    rows += [[f"refused: {code}", str(count)] for code, count in status["codes"].items()]
    if "out_of_scope" in status:
        rows.append(["done, but out of scope", str(status["out_of_scope"])])
    screen.table(f"batch {status['task']}", ("", "cases"), rows)
    speed = status.get("speed", {})
    if status["left"] and speed.get("cases_per_hour"):
        left = timedelta(seconds=speed["seconds_left"])
        screen.lines({"an hour": f"{speed['cases_per_hour']:,.1f}", "time left at this speed": str(left)})
    if status.get("marked"):
        screen.lines(status["marked"])
    if status.get("refusals"):
        screen.lines({each["case"]: each["message"] for each in status["refusals"]})
    run = status.get("run")
    if run:
        screen.lines({"computed": run["computed"], "kept": run["kept"], "an hour": f"{run['cases_per_hour']:,.1f}"})


def sync(batch: Batch, uri: str) -> int:
    """Hand a store what it has not taken yet.

    A store that does not answer is given two minutes; what it does with the figures after that is its own affair.

    Returns:
        How many runs it took.

    Raises:
        SettingsError: ``E-MLFLOW``, it does not take them.
    """
    taken: list[str] = []
    failed: list[MedidiffError] = []

    def hand_over() -> None:
        from medidiff.store import refuse_store
        from medidiff.tracking import log_metrics

        try:
            refuse_store(uri)
            for place, told in waiting(batch):
                taken.append(log_metrics(told.name, told.params, told.metrics, uri=uri, experiment="medidiff-batch"))
                sent(place)
        except MedidiffError as error:
            failed.append(error)

    thread = threading.Thread(target=hand_over, daemon=True)
    thread.start()
    thread.join(_PATIENCE_SECONDS)
    if thread.is_alive():
        found, mend = f"no answer in {_PATIENCE_SECONDS:.0f} s", "Try again when the store answers."
        raise SettingsError("E-MLFLOW", found, mend=mend, attribute="--tracking")
    if failed:
        raise failed[0]
    return len(taken)
