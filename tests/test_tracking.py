import ast
import dataclasses
import getpass
import importlib
import json
import logging
import math
import platform
import shutil
import sqlite3
import time
from pathlib import Path

import pytest
import torch
from pydicom.valuerep import DSfloat, PersonName
from training_cases import write_case

import medidiff.training
from medidiff import store, tracking
from medidiff.errors import SettingsError
from medidiff.tracking import export_run, log_metrics, track
from medidiff.training.recipe import read_recipe
from medidiff.training.run import Finished, Started, Step, Validated

STEPS = 10
NAMES = ("noisy", "denoised", "clean")


@pytest.fixture
def out(empty_store, tmp_path):
    """A run's folder with an empty database in it."""
    folder = tmp_path / "out"
    folder.mkdir()
    shutil.copy(empty_store, folder / "mlflow.db")
    return folder


@pytest.fixture
def client(out):
    return tracking._client(f"sqlite:///{out / 'mlflow.db'}")


@pytest.fixture
def recipe(tmp_path):
    """Of a run whose data lie at an absolute path."""
    path = write_case(tmp_path, data__root=str(tmp_path / "scans"))
    return read_recipe(path)


def loss_at(images):
    return 1.0 / images


def run_of(recipe, folder, *, start=0, stop=2 * STEPS, fingerprint="f" * 64, loss=loss_at):
    """The events of a training run from `start` images seen to `stop`, two a step."""
    yield Started(recipe, start, 2, fingerprint)
    for images in range(start + 2, stop + 1, 2):
        yield Step(images, loss(images), 1e-3, 0.5)
        if images % 10 == 0:
            yield Validated(images, {"psnr_db_noise_3": 30.0 + images}, dict.fromkeys(NAMES, torch.zeros(4, 4, 4)))
    if stop == 2 * STEPS:
        card = folder / "tiny.json"
        card.write_text("{}", encoding="utf-8")
        card.with_suffix(".safetensors").write_bytes(b"weights")
        yield Finished(stop, card)


def tracked(events, out, **options):
    return list(track(events, run_file=out / "mlflow-run.txt", every=4, **options))


def only_run(client):
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    assert len(runs) == 1
    return runs[0]


def history(client, run, name):
    return {point.step: point.value for point in client.get_metric_history(run.info.run_id, name)}


def everything_told(client):
    """Every parameter, tag, name and artifact path of every run, as text."""
    told = []
    for run in client.search_runs([e.experiment_id for e in client.search_experiments()]):
        told += [run.info.run_name, run.info.user_id, *run.data.metrics]
        told += [part for table in (run.data.params, run.data.tags) for pair in table.items() for part in pair]
        told += [artifact.path for artifact in client.list_artifacts(run.info.run_id)]
    return told


# What is logged


def test_events_pass_unchanged(recipe, out):
    events = list(run_of(recipe, out))
    assert all(a is b for a, b in zip(tracked(iter(events), out), events, strict=True))


def test_metrics_stand_at_the_images_that_were_seen(recipe, out, client):
    tracked(run_of(recipe, out), out)
    run = only_run(client)
    means = {end: (loss_at(end - 2) + loss_at(end)) / 2 for end in range(4, 21, 4)}
    assert history(client, run, "loss") == pytest.approx(means)
    for name in ("gradient", "rate", "waiting", "images_per_second"):
        assert set(history(client, run, name)) == set(means)
    assert history(client, run, "validation/psnr_db_noise_3") == {10: 40.0, 20: 50.0}
    assert run.info.status == "FINISHED"


def test_throughput_and_waiting_are_told(recipe, out, client):
    def slow():
        for event in run_of(recipe, out, stop=12):
            time.sleep(0.05 if isinstance(event, Step) else 0.0)
            yield dataclasses.replace(event, waiting=0.25) if isinstance(event, Step) else event

    tracked(slow(), out)
    run = only_run(client)
    assert history(client, run, "waiting") == {4: 0.25, 8: 0.25, 12: 0.25}
    assert all(0 < speed < 2 / 0.05 for speed in history(client, run, "images_per_second").values())


def test_the_recipe_the_data_and_the_environment_are_told(recipe, out, client):
    tracked(run_of(recipe, out), out, device="cpu")
    data = only_run(client).data
    assert data.params["fit.rate"] == "0.002"
    assert data.params["model.channels"] == "4, 8"
    assert data.params["data.sources.0.pattern"] == "first.nii.gz"
    assert data.tags["data_fingerprint"] == "f" * 64
    assert data.tags["environment.torch"] == torch.__version__
    assert data.tags["environment.threads"] == "1"
    for name in ("python", "monai", "medidiff", "device"):
        assert data.tags[f"environment.{name}"]


def test_pictures_card_and_weights_are_kept(recipe, out, client):
    def draw(pictures, path):
        path.write_bytes(bytes(len(pictures)))

    tracked(run_of(recipe, out), out, draw=draw)
    run_id = only_run(client).info.run_id
    kept = [file.path for folder in ("pictures", "prior") for file in client.list_artifacts(run_id, folder)]
    assert kept == [
        "pictures/noisy-denoised-clean-00000010.png",
        "pictures/noisy-denoised-clean-00000020.png",
        "prior/tiny.json",
        "prior/tiny.safetensors",
    ]
    assert (out / "mlflow-artifacts" / run_id / "artifacts" / "prior" / "tiny.safetensors").is_file()


@pytest.mark.parametrize("resumed_at", [4, 8, 10])
def test_a_resumed_run_is_continued_and_tells_nothing_twice(resumed_at, recipe, out, client):
    """Killed after 10 images, with a checkpoint at 4, 8 or 10 of them."""
    events = track(run_of(recipe, out), run_file=out / "mlflow-run.txt", every=2)
    for event in events:
        if isinstance(event, Step) and event.images == 10:
            events.close()
    assert only_run(client).info.status == "KILLED"
    list(track(run_of(recipe, out, start=resumed_at), run_file=out / "mlflow-run.txt", every=2))
    run = only_run(client)
    points = client.get_metric_history(run.info.run_id, "loss")
    assert [(point.step, point.value) for point in points] == [(n, loss_at(n)) for n in range(2, 21, 2)]
    assert set(history(client, run, "validation/psnr_db_noise_3")) >= {20}
    assert run.info.status == "FINISHED"


@pytest.mark.parametrize("change", ["recipe", "data", "file"])
def test_another_recipe_or_other_data_is_another_run(change, recipe, out, client, tmp_path):
    tracked(run_of(recipe, out, stop=8), out)
    if change == "file":
        (out / "mlflow-run.txt").write_text("no such run", encoding="utf-8")
    other = read_recipe(write_case(tmp_path, seed=8)) if change == "recipe" else recipe
    tracked(run_of(other, out, stop=8, fingerprint=("e" if change == "data" else "f") * 64), out)
    assert len(client.search_runs([e.experiment_id for e in client.search_experiments()])) == 2


def test_a_run_that_fails_is_marked_and_its_error_passes(recipe, out, client):
    def failing():
        yield from run_of(recipe, out, stop=8)
        raise ValueError("diverged")

    with pytest.raises(ValueError, match="diverged"):
        tracked(failing(), out)
    assert only_run(client).info.status == "FAILED"


def test_numbers_that_are_not_finite_are_skipped_and_counted(recipe, out, client):
    tracked(run_of(recipe, out, loss=lambda images: math.inf if images == 8 else loss_at(images)), out)
    run = only_run(client)
    assert set(history(client, run, "loss")) == {4, 12, 16, 20}
    assert run.data.tags["skipped_non_finite"] == "1"


# What is not


def test_no_path_user_or_host_is_told(recipe, out, client, tmp_path):
    assert recipe.data.root.startswith("/")
    tracked(run_of(recipe, out), out)
    told = everything_told(client)
    assert len(told) > 50
    for secret in (str(tmp_path), str(Path.home()), platform.node()):
        assert not [text for text in told if secret in text]
    assert not [text for text in told if text == getpass.getuser() or text.startswith("/")]


def test_a_new_store_does_not_hold_the_folder_at_hand(tmp_path, monkeypatch):
    """The negative: MLflow puts it there. The place of the store itself is in it, or its artifacts would be lost."""
    here = tmp_path / "DOE^JANE" / "1970-01-31"
    here.mkdir(parents=True)
    monkeypatch.chdir(here)
    path = tmp_path / "kept" / "mlflow.db"
    log_metrics("one", {}, {"score": 1.0}, uri=f"sqlite:///{path}")
    data = path.read_bytes()
    assert not [text for text in (b"DOE", b"JANE", b"1970-01-31", b"01-31") if text in data]
    assert (tmp_path / "kept" / "mlflow-artifacts").as_uri().encode() in data
    (tmp_path / "usual").mkdir()
    monkeypatch.setattr(store, "_make_neutral", lambda uri: None)
    store.client_of(f"sqlite:///{tmp_path / 'usual' / 'mlflow.db'}")
    assert b"DOE^JANE/1970-01-31" in (tmp_path / "usual" / "mlflow.db").read_bytes()


def test_the_default_experiment_can_be_used(out, client, tmp_path, monkeypatch):
    """By others: MLflow keeps its artifacts below the folder that it runs in, as it does of itself."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "note.txt").write_text("note", encoding="utf-8")
    run_id = client.create_run("0").info.run_id
    client.log_artifact(run_id, "note.txt")
    assert [each.path for each in client.list_artifacts(run_id)] == ["note.txt"]
    assert (tmp_path / "mlruns" / "0" / run_id / "artifacts" / "note.txt").is_file()


def test_mlflows_own_client_would_tell(out, tmp_path, monkeypatch):
    """The negative: the usual way of starting a run tells who ran which file, which is why it is not used."""
    import mlflow

    monkeypatch.setattr(mlflow.tracking.fluent, "_last_active_run_id", mlflow.tracking.fluent._last_active_run_id)
    mlflow.set_tracking_uri(f"sqlite:///{out / 'mlflow.db'}")
    mlflow.create_experiment("usual", artifact_location=(tmp_path / "artifacts").as_uri())
    with mlflow.start_run(experiment_id=mlflow.get_experiment_by_name("usual").experiment_id) as run:
        assert run.data.tags["mlflow.user"] == getpass.getuser()


def test_telemetry_ends_where_mlflow_was_imported_before(out, monkeypatch):
    """As MONAI does."""
    telemetry = importlib.import_module("mlflow.telemetry.client")
    monkeypatch.setattr(telemetry, "_MLFLOW_TELEMETRY_CLIENT", Quiet())
    assert telemetry.get_telemetry_client() is not None
    tracking._client(f"sqlite:///{out / 'mlflow.db'}")
    assert telemetry.get_telemetry_client() is None


class Quiet:
    """A telemetry client that sends nothing."""

    def _clean_up(self):
        pass


PRIVATE = {
    "path": "/home/someone/scan.nii.gz",
    "path in a sentence": "from /data/scan.nii.gz",
    "windows path": "C:\\scans\\one.nii",
    "home": "~/scans",
    "uri": "file:///scans",
    "uid": "1.2.840.113619.2.55.3",
    "date": "19700131",
    "person": "Doe^Jane",
    "tag": "(0010,0010)",
    "lines": "one\ntwo",
    "pydicom name": PersonName("Jane"),
    "pydicom number": DSfloat("1.5"),
    "object": Path("scan.nii.gz"),
    "nothing": None,
}


@pytest.mark.parametrize("value", PRIVATE.values(), ids=PRIVATE)
def test_private_values_are_refused_and_not_repeated(value, out):
    uri = f"sqlite:///{out / 'mlflow.db'}"
    with pytest.raises(SettingsError, match="E-PRIVATE") as caught:
        log_metrics("scores", {"input": value}, {"psnr_db": 30.0}, uri=uri)
    assert str(value) not in str(caught.value)
    assert caught.value.attribute == "input"


@pytest.mark.parametrize("name", ["PatientName", "(0010,0010)", "00100010", "/home/scan", "a\nb", ""])
def test_names_from_a_header_are_refused(name, out):
    uri = f"sqlite:///{out / 'mlflow.db'}"
    for params, metrics in (({name: 1}, {}), ({}, {name: 1.0})):
        with pytest.raises(SettingsError, match="E-PRIVATE"):
            log_metrics("scores", params, metrics, uri=uri)


PUBLIC = [
    "t1-head/{subject}_T1w.nii.gz",
    "../../../shared/data",
    "MIT and Apache-2.0, see validation/DATA.md",
    "CC0, OpenNeuro ds002748 v1.0.5",
    "https://openneuro.org/datasets/ds002748",
    "2.13.0+cpu",
    "1/2",
    20240229,
    1e-3,
    True,
    (48, 96),
]


@pytest.mark.parametrize("value", PUBLIC, ids=str)
def test_the_guard_lets_ordinary_settings_pass(value):
    """The negative: what recipes hold is not refused."""
    assert tracking._public("input", value)


def test_a_recipe_with_a_private_text_is_refused_at_the_start(out, tmp_path):
    recipe = read_recipe(write_case(tmp_path, summary="trained on /home/someone/scans"))
    with pytest.raises(SettingsError, match=r"E-PRIVATE: summary"):
        tracked(run_of(recipe, out), out)


# A store that fails


@pytest.mark.parametrize("method", ["log_batch", "log_artifact", "set_terminated"])
def test_a_store_that_fails_in_the_middle_costs_one_warning(method, recipe, out, client, monkeypatch, caplog):
    def fail(*args, **kwargs):
        raise OSError("disk full: /secret/place")

    events = list(run_of(recipe, out))
    passed = track(iter(events), run_file=out / "mlflow-run.txt", every=4)
    assert next(passed) is events[0]
    monkeypatch.setattr(type(client), method, fail)
    with caplog.at_level(logging.WARNING):
        assert list(passed) == events[1:]
    warnings = [record.getMessage() for record in caplog.records if record.name == "medidiff.tracking"]
    assert len(warnings) == 1
    assert "secret" not in warnings[0]


def test_nothing_is_lost_when_the_store_comes_back(recipe, out, client, monkeypatch):
    log, calls = type(client).log_batch, []

    def stumble(self, *args, **kwargs):
        calls.append(kwargs.get("metrics"))
        if calls[-1] and sum(map(bool, calls)) in (2, 3):
            raise sqlite3.OperationalError("database is locked")
        return log(self, *args, **kwargs)

    monkeypatch.setattr(type(client), "log_batch", stumble)
    tracked(run_of(recipe, out), out)
    assert set(history(client, only_run(client), "loss")) == {4, 8, 12, 16, 20}


def test_pictures_that_cannot_be_drawn_do_not_stop_the_run(recipe, out, client):
    def draw(pictures, path):
        raise RuntimeError("no fonts")

    assert len(tracked(run_of(recipe, out), out, draw=draw)) == 1 + STEPS + 2 + 1
    assert only_run(client).info.status == "FINISHED"


@pytest.mark.parametrize(
    "uri", ["file:///tmp/mlruns", "nonsense://user:password@host/db", "sqlite:////proc/none/mlflow.db"]
)
def test_a_store_that_cannot_be_opened_is_refused_at_the_start(uri, recipe, out):
    with pytest.raises(SettingsError, match="E-MLFLOW") as caught:
        tracked(run_of(recipe, out), out, uri=uri)
    assert "password" not in str(caught.value)
    assert "\n" not in str(caught.value)


# Evaluations and the exported run


def test_scores_of_an_evaluation_are_logged(out, client, tmp_path):
    table = tmp_path / "table.csv"
    table.write_text("a,b\n", encoding="utf-8")
    scores = {"psnr_db": 30.0, "best": math.inf}
    uri = f"sqlite:///{out / 'mlflow.db'}"
    run_id = log_metrics("scores", {"noise": {"level": 0.03}}, scores, artifacts=[table], uri=uri)
    run = client.get_run(run_id)
    assert (run.data.params, run.data.metrics) == ({"noise.level": "0.03"}, {"psnr_db": 30.0})
    assert run.data.tags["skipped_non_finite"] == "1"
    assert [file.path for file in client.list_artifacts(run_id)] == ["table.csv"]
    assert run.info.status == "FINISHED"


def test_an_exported_run_holds_all_of_it_and_nothing_private(recipe, out, client, tmp_path):
    tracked(run_of(recipe, out), out)
    run = only_run(client)
    path = tmp_path / "run.json"
    export_run(f"sqlite:///{out / 'mlflow.db'}", run.info.run_id, path)
    text = path.read_text(encoding="utf-8")
    record = json.loads(text)
    assert record["params"] == run.data.params
    assert {images: value for images, value, _ in record["metrics"]["loss"]} == history(client, run, "loss")
    assert all(seconds >= 0 for _, _, seconds in record["metrics"]["loss"])
    assert (record["name"], record["status"]) == ("tiny", "FINISHED")
    assert str(tmp_path) not in text
    assert "mlflow." not in " ".join(record["tags"])


def test_a_run_that_others_logged_is_exported_only_when_it_is_public(out, client, tmp_path):
    experiment = client.create_experiment("other", artifact_location=out.as_uri())
    run_id = client.create_run(experiment, run_name="other", tags={"input": "/home/someone/scan.nii"}).info.run_id
    uri = f"sqlite:///{out / 'mlflow.db'}"
    with pytest.raises(SettingsError, match="E-PRIVATE"):
        export_run(uri, run_id, tmp_path / "run.json")
    with pytest.raises(SettingsError, match="E-MLFLOW"):
        export_run(uri, "0" * 32, tmp_path / "run.json")
    assert not (tmp_path / "run.json").exists()


# Who knows whom


def imports_of(path):
    """Every module that a file imports, at its top or inside a function."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def test_training_has_never_heard_of_mlflow():
    files = sorted(Path(medidiff.training.__file__).parent.glob("*.py"))
    assert len(files) > 5
    known = {name for path in files for name in imports_of(path)}
    assert not [name for name in known if "mlflow" in name or "tracking" in name]
    assert "mlflow" in set(imports_of(Path(tracking.__file__)))  # the negative: the search finds it where it is


def test_tracking_imports_mlflow_only_when_it_is_used():
    light = ("medidiff.errors", "medidiff.io.text.toml", "medidiff.store")
    for module in (tracking, store):
        tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
        top = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
        names = {name for node in top for name in imports_of_node(node)}
        assert not [name for name in names if name.split(".")[0] in ("mlflow", "torch")]
        assert not [name for name in names if name.startswith("medidiff.") and name not in light]


def imports_of_node(node):
    return [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
