"""An MLflow store: opened quietly, without telemetry, user or host; what a run in it holds, and what it registers."""

from __future__ import annotations

import logging
import os
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from medidiff.errors import MedidiffError, SettingsError

if TYPE_CHECKING:
    from mlflow import MlflowClient

__all__ = ["client_of", "fetch_run", "keep_quiet", "open_experiment", "refuse_store", "register_folder", "store_errors"]

_RUN = re.compile(r"[0-9a-f]{32}")
_EXPORTS = "medidiff-exports"
_SQLITE = "sqlite:///"


@contextmanager
def store_errors() -> Iterator[None]:
    """Turn whatever MLflow raises into one line; its own words could hold a path or a password."""
    try:
        yield
    except MedidiffError:
        raise
    except Exception as error:
        wanted = "sqlite:///file.db or https://server"
        raise SettingsError("E-MLFLOW", f"MLflow cannot use it ({type(error).__name__})", wanted=wanted) from error


def keep_quiet() -> None:
    """Tell MLflow, before it is imported, to send no telemetry and to draw no bars."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"  # it is on by default
    os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"


def client_of(uri: str) -> MlflowClient:
    """MLflow's client, quiet and without telemetry."""
    keep_quiet()
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # a training must not wait minutes for a lost server
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # MLflow's, about its own dependencies
        from mlflow import MlflowClient
        from mlflow.telemetry import set_telemetry_client

        # MONAI imports MLflow, perhaps before telemetry was turned off above: this looks again.
        set_telemetry_client()  # type: ignore[no-untyped-call]
        logging.getLogger("mlflow").setLevel(logging.WARNING)
        _make_neutral(uri)
        return MlflowClient(tracking_uri=uri)


def _make_neutral(uri: str) -> None:
    """Make a new SQLite store without the folder at hand in it, which MLflow puts into its experiment 'Default'."""
    path = Path(uri.removeprefix(_SQLITE))
    if not uri.startswith(_SQLITE) or (path.is_file() and path.stat().st_size > 0):
        return
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    elsewhere = "mlflow-artifacts:/"  # a place that MLflow does not make absolute
    made = SqlAlchemyStore(uri, elsewhere)  # type: ignore[no-untyped-call]
    with made.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE experiments SET artifact_location = 'mlruns/0' WHERE experiment_id = 0")


def refuse_store(uri: str, *, made: Path | None = None) -> None:
    """Refuse a store that could not be told, before hours are spent on what it is to be told; nothing is made.

    Args:
        uri: as it was given.
        made: what the work writes, the folder of which it makes.

    Raises:
        SettingsError: ``E-MLFLOW``, no store, none that answers, or an SQLite file where none can be.
    """
    if uri.startswith(_SQLITE):
        path = Path(uri.removeprefix(_SQLITE).partition("?")[0]).absolute()
        _refuse_place(path, () if made is None else (made.absolute(), *made.absolute().parents))
        if not path.exists() or path.stat().st_size == 0:
            return  # it is made when there is something to tell
    with store_errors():
        client_of(uri).search_experiments(max_results=1)


def _refuse_place(path: Path, made: Sequence[Path]) -> None:
    """Refuse an SQLite file where none can be; what lies there by itself is for MLflow to judge."""
    mend = "Name a file in a folder that is there."
    if path.is_dir():  # MLflow would try for minutes
        raise SettingsError("E-MLFLOW", "a folder stands where the SQLite file would go", mend=mend)
    if not path.parent.is_dir():
        if path.parent not in made:
            raise SettingsError("E-MLFLOW", "the folder of the SQLite file does not exist", mend=mend)
    elif not os.access(path.parent, os.W_OK | os.X_OK) or (path.exists() and not os.access(path, os.W_OK)):
        raise SettingsError("E-MLFLOW", "the SQLite file or its folder cannot be written", mend=mend)


def open_experiment(uri: str, experiment: str, *, folder: Path) -> tuple[MlflowClient, str]:
    """The client and the experiment's id; artifacts lie beside a local database, or where a server puts them."""
    place = None
    if not uri.startswith(("http:", "https:")):
        folder = Path(uri.removeprefix(_SQLITE)).parent if uri.startswith(_SQLITE) else folder
        folder.mkdir(parents=True, exist_ok=True)
        place = (folder / "mlflow-artifacts").resolve().as_uri()
    client = client_of(uri)
    found = client.get_experiment_by_name(experiment)
    return client, found.experiment_id if found else client.create_experiment(experiment, artifact_location=place)


def fetch_run(uri: str, run_id: str, folder: Path) -> Mapping[str, str]:
    """Copy the artifacts of a run into a folder; returns its tags.

    Raises:
        SettingsError: ``E-REPLAY``, no id of a run; ``E-MLFLOW``, the store has no such run.
    """
    if not _RUN.fullmatch(run_id):
        mend = "Name the .record.jsonl beside a result, or a run by its id in MLflow."
        raise SettingsError("E-REPLAY", "neither a file nor the id of a run", mend=mend, attribute="RUN")
    if uri.startswith(_SQLITE) and not Path(uri.removeprefix(_SQLITE).partition("?")[0]).is_file():
        raise SettingsError("E-MLFLOW", "there is no such SQLite file", mend="Name the store that holds the run.")
    with store_errors():
        client = client_of(uri)
        tags: dict[str, str] = client.get_run(run_id).data.tags
        for artifact in client.list_artifacts(run_id):
            if artifact.path != "pictures":
                client.download_artifacts(run_id, artifact.path, str(folder))
    return tags


def register_folder(uri: str, folder: Path, *, name: str) -> str:
    """Keep a saved model in a store and register it; returns its address, ``models:/NAME/VERSION``.

    Raises:
        SettingsError: ``E-MLFLOW``, the store cannot be used.
    """
    with store_errors():
        client, home = open_experiment(uri, _EXPORTS, folder=Path())
        run = client.create_run(home, run_name=name)
        client.log_artifacts(run.info.run_id, str(folder), "model")
        if not client.search_registered_models(f"name = '{name}'"):
            client.create_registered_model(name)
        source = f"{run.info.artifact_uri}/model"
        made = client.create_model_version(name, source, run.info.run_id)
        client.set_terminated(run.info.run_id)
    return f"models:/{name}/{made.version}"
