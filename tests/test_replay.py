"""`replay`: a run made again from its record or its MLflow id gives the same bytes, or is refused."""

from __future__ import annotations

import dataclasses
import json
import shutil
import socket
import tomllib
import typing
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from small_prior import small_prior
from training_cases import write_case

import medidiff.cli as cli
from medidiff import store
from medidiff.cli.replaying import _again
from medidiff.cli.tracked import _command, wrote_dicom
from medidiff.cli.travel_verbs import Replay
from medidiff.cli.verbs import VERBS, Denoise
from medidiff.io import write
from medidiff.io.record import read_record
from medidiff.io.text.toml import to_toml
from medidiff.training.recipe import read_recipe
from tests.cli_cases import ball, document, everything, refused


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """An empty MLflow database; making one takes seconds, copying it does not."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    store.client_of(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="module")
def home(template, tmp_path_factory):
    """A scan that was super-resolved, with all outputs, and told to MLflow."""
    home = tmp_path_factory.mktemp("replay")
    shutil.copy(template, home / "mlflow.db")
    small_prior().save(home / "prior")
    write(ball((12, 10, 8)), home / "in" / "scan.nii.gz")
    out = home / "out"
    words = ["superresolve", home / "in" / "scan.nii.gz", out / "mean.nii.gz", "--spacing", "0.9", "1.1", "1"]
    words += ["--spread", out / "spread.nii", "--interval", "0.9", out / "lower.nii.gz", out / "upper.nii.gz"]
    words += ["--draw", out / "draw.nii.gz", "--draws", "2", "--steps", "1", "--seed", "5", "--noise-level", "40.5"]
    words += ["--residual", out / "residual.nii.gz", "--report", out / "report.html"]
    words += ["--prior", home / "prior" / "tiny.json", "--tracking", uri(home)]
    assert cli.main([str(word) for word in words]) == 0
    return home


def uri(home: Path) -> str:
    return f"sqlite:///{home / 'mlflow.db'}"


def run_id(home: Path, experiment: str) -> str:
    client = store.client_of(uri(home))
    (run,) = client.search_runs([client.get_experiment_by_name(experiment).experiment_id])
    return run.info.run_id


def asked(home: Path, run: object, into: Path, **changed: object) -> list[object]:
    options = {"input": home / "in" / "scan.nii.gz", "prior": home / "prior" / "tiny.json", "tracking": uri(home)}
    words = [word for name, value in (options | changed).items() if value is not None for word in (f"--{name}", value)]
    return ["replay", run, "-o", into, *words]


@pytest.fixture(scope="module")
def record(home):
    return home / "out" / "mean.record.jsonl"


# --- restoring runs --------------------------------------------------------------------------------------------------


def scans(folder: Path) -> dict[str, bytes]:
    return {name: data for name, data in everything(folder).items() if not name.endswith(".jsonl")}


def test_a_record_is_replayed_to_the_same_bytes(home, record, tmp_path, capsys):
    told = document(asked(home, record, tmp_path / "again"), capsys)
    assert told["files"] == len(scans(home / "out")) == 13
    assert scans(tmp_path / "again") == scans(home / "out")


def test_an_mlflow_id_is_replayed_to_the_same_bytes(home, tmp_path, capsys):
    found = run_id(home, "medidiff-restorations")
    assert cli.main([str(word) for word in asked(home, found, tmp_path / "again")]) == 0
    assert "same bytes" in capsys.readouterr().out
    assert scans(tmp_path / "again") == scans(home / "out")


def test_what_mlflow_holds_names_no_place(home):
    client = store.client_of(uri(home))
    data = client.get_run(run_id(home, "medidiff-restorations")).data
    assert str(home) not in json.dumps([data.params, data.tags])
    assert data.params["options.seed"] == "5"
    assert len(data.params["prior_sha256"]) == 64


def test_every_option_comes_back(home, record):
    (run,) = read_record(record)
    options = run.of("start")[0]["options"]
    again = _again(Replay(run="", into=Path("x"), input=Path("scan.nii.gz")), options, "superresolve")
    assert again.outputs == {
        "mean": Path("x/mean.nii.gz"),
        "spread": Path("x/spread.nii"),
        "lower": Path("x/lower.nii.gz"),
        "upper": Path("x/upper.nii.gz"),
        "draw": Path("x/draw.nii.gz"),
        "residual": Path("x/residual.nii.gz"),
    }
    assert again.report == Path("x/report.html")
    for name in ("draws", "steps", "seed", "noise_level", "on_gap", "assume_affine", "profile", "thickness"):
        assert getattr(again, name) == options[name], name
    assert again.spacing == tuple(options["spacing"])


def paths_in(value: object) -> list[Path]:
    values = value if isinstance(value, tuple) else (value,)
    return [part for part in values if isinstance(part, Path)]


@pytest.mark.parametrize("name", ["denoise", "superresolve"])
def test_no_option_is_written_outside_of_the_new_folder(name):
    """Each option that holds a path, by its type, so that a new one is met here."""
    hints = typing.get_type_hints(VERBS[name])
    asked = Replay(run="", into=Path("into"), input=Path("scan.nii.gz"), calibration=Path("own.json"))
    needed = {"out": "out.nii.gz"} | ({"spacing": [1, 1, 1]} if name == "superresolve" else {})
    labels = {"interval": [0.9, "a.nii", "b.nii"], "intervals": ["c.json", "a.nii", "b.nii"]}
    options = [option for option, hint in hints.items() if "Path" in str(hint)]
    assert {"spread", "interval", "intervals", "draw", "residual", "report", "record"} <= set(options)
    for option in options:
        again = _again(
            asked, needed | {option: labels.get(option, "here.html" if option == "report" else "a.nii")}, name
        )
        found = [path for field in dataclasses.fields(again) for path in paths_in(getattr(again, field.name))]
        outside = {path for path in found if path.parent != Path("into")}
        assert outside - {Path("scan.nii.gz"), Path("own.json")} == set(), option
        assert paths_in(getattr(again, option)) or option == "record", option


def test_the_bundled_calibration_needs_no_option(tmp_path, capsys):
    """From a record that keeps the word, and from one of before, which holds its hash."""
    write(dataclasses.replace(ball((7, 7, 7)), data=np.full((7, 7, 7), 7.0, np.float32)), tmp_path / "scan.nii.gz")
    words = ["denoise", tmp_path / "scan.nii.gz", tmp_path / "out" / "b.nii.gz", "--intervals", "bundled"]
    words += [tmp_path / "out" / "lower.nii.gz", tmp_path / "out" / "upper.nii.gz"]
    assert cli.main([str(word) for word in words]) == 0
    record = tmp_path / "out" / "b.record.jsonl"
    start = json.loads(record.read_text(encoding="utf-8").splitlines()[0])
    named, *bounds = start["options"]["intervals"]
    assert named == "bundled"
    before = start["options"] | {"intervals": ["file-4c4164b5", *bounds]}
    other = changed(record, tmp_path / "before.jsonl", start={"options": before})
    capsys.readouterr()
    for number, run in enumerate((record, other)):
        words = ["replay", run, "-o", tmp_path / f"again{number}", "--input", tmp_path / "scan.nii.gz"]
        assert document(words, capsys)["files"] == 6
    own = changed(record, tmp_path / "own.jsonl", start={"options": before | {"intervals": ["own.json", *bounds]}})
    words = ["replay", own, "-o", tmp_path / "again", "--input", tmp_path / "scan.nii.gz"]
    assert "--calibration" in refused(words, capsys, code=2)


def test_a_page_is_replayed_and_nothing_at_hand_is_overwritten(home, record, tmp_path, capsys, monkeypatch):
    """With a scan that is called otherwise, and a file at hand of the name that each output had."""
    for ending in ("nii.gz", "json"):
        shutil.copy(home / "in" / f"scan.{ending}", tmp_path / f"MUSTER^Frida.{ending}")
    names = [name for name in scans(home / "out") if "/" not in name]
    for name in names:
        (tmp_path / name).write_text("mine", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    words = asked(home, record, Path("again"), input="MUSTER^Frida.nii.gz")
    assert document(words, capsys)["files"] == 13
    assert (tmp_path / "again" / "report.html").read_bytes() == (home / "out" / "report.html").read_bytes()
    assert {(tmp_path / name).read_text(encoding="utf-8") for name in names} == {"mine"}


def test_a_run_that_wrote_dicom_is_refused(home, record, tmp_path, capsys):
    other = changed(record, tmp_path / "other.jsonl", output={"file": "IM0001.dcm"})
    assert "UIDs are new at every write" in refused(asked(home, other, tmp_path / "again"), capsys, code=2)
    assert wrote_dicom(read_record(other)[0])
    assert not wrote_dicom(read_record(record)[0])


def test_a_training_record_and_a_folder_without_a_store_say_what_to_name(home, record, tmp_path, capsys, monkeypatch):
    other = changed(record, tmp_path / "other.jsonl", start={"verb": "train"})
    assert "mlflow-run.txt" in refused(asked(home, other, tmp_path / "again"), capsys, code=2)
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    assert "no mlflow.db" in refused(asked(home, "0" * 32, tmp_path / "again", tracking=None), capsys, code=2)
    words = asked(home, "0" * 32, tmp_path / "again", tracking="sqlite:///none.db")
    assert "no such SQLite file" in refused(words, capsys, code=2)
    assert list((tmp_path / "empty").iterdir()) == []


def test_the_command_that_is_told_has_what_it_needs():
    words = {"source": Path("a.nii"), "out": Path("b.nii"), "tracking": "sqlite:///mlflow.db"}
    assert _command(Denoise(**words), "1") == "medidiff replay 1 -o NEWFOLDER --input IN"
    words |= {"tracking": "https://user:secret@host", "prior": "x/tiny.json"}
    bounds = (Path("own.json"), Path("l.nii"), Path("u.nii"))
    told = _command(Denoise(**words, intervals=bounds), "1")
    assert told.endswith("--input IN --prior CARD --calibration FILE --tracking STORE")


def places_without_a_store(folder: Path) -> list[str]:
    (folder / "folder").mkdir()
    (folder / "notes.db").write_text("no database, but some lines that somebody wrote", encoding="utf-8")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    files = [f"sqlite:///{folder / name}" for name in ("absent/mlflow.db", "folder", "notes.db")]
    return ["foo://bar", f"http://127.0.0.1:{port}", str(folder / "folder"), *files]


def test_a_store_that_cannot_be_used_is_refused_before_the_work(home, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.toml").write_text("", encoding="utf-8")
    places = places_without_a_store(tmp_path)
    before = everything(tmp_path)
    scan, card = home / "in" / "scan.nii.gz", home / "prior" / "tiny.json"
    commands = [
        ["denoise", scan, "out/mean.nii.gz", "--prior", card],
        ["denoise", scan, "out/mean.nii.gz", "--prior", card, "--dry-run"],
        ["superresolve", scan, "out/mean.nii.gz", "--spacing", "1", "1", "1", "--prior", card],
        ["train", "tiny.toml", "-o", "out"],
        ["prior", "export", card, "out", "--format", "pyfunc"],
    ]
    for place in places:
        for words in commands if place.endswith("absent/mlflow.db") else commands[:1]:
            assert "E-MLFLOW" in refused([*words, "--tracking", place], capsys, code=2), (place, words[0])
    found = {name: data for name, data in everything(tmp_path).items() if not name.endswith(".record.jsonl")}
    assert found == before
    assert not (tmp_path / "absent").exists()


def test_a_store_in_the_folder_that_the_run_makes_is_allowed_and_not_made_early(tmp_path):
    store.refuse_store(f"sqlite:///{tmp_path / 'out' / 'mlflow.db'}", made=tmp_path / "out" / "mean.nii.gz")
    store.refuse_store(f"sqlite:///{tmp_path / 'mlflow.db'}")
    assert list(tmp_path.iterdir()) == []


def test_a_page_that_was_changed_is_told(home, record, tmp_path, capsys):
    lines = [json.loads(line) for line in record.read_text(encoding="utf-8").splitlines()]
    told = [line | {"sha256": "0" * 64} if line.get("file") == "report.html" else line for line in lines]
    (tmp_path / "other.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in told), encoding="utf-8")
    assert cli.main([str(word) for word in asked(home, tmp_path / "other.jsonl", tmp_path / "again")]) == 5
    assert "1 of 13 files" in capsys.readouterr().err


def test_a_plan_writes_nothing(home, record, tmp_path, capsys):
    words = [*asked(home, record, tmp_path / "again"), "--dry-run"]
    assert cli.main([str(word) for word in words]) == 0
    assert "superresolve again" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def changed(record: Path, into: Path, **entries: object) -> Path:
    """A record whose lines of some kinds have other entries."""
    lines = [json.loads(line) for line in record.read_text(encoding="utf-8").splitlines()]
    into.write_text(
        "".join(f"{json.dumps(line | entries.get(line['kind'], {}))}\n" for line in lines), encoding="utf-8"
    )
    return into


def test_another_scan_is_refused(home, record, tmp_path, capsys):
    image = nib.load(home / "in" / "scan.nii.gz")
    numbers = np.asarray(image.dataobj).copy()
    numbers[0, 0, 0] += 1
    nib.save(nib.Nifti1Image(numbers, image.affine), tmp_path / "other.nii.gz")
    words = asked(home, record, tmp_path / "again", input=tmp_path / "other.nii.gz")
    assert "E-REPLAY-INPUT" in refused(words, capsys, code=4)
    assert "E-REPLAY:" in refused(asked(home, record, tmp_path / "again", input=None), capsys, code=2)
    assert not (tmp_path / "again").exists()


def test_another_prior_is_refused(home, record, tmp_path, capsys):
    other = small_prior()
    other.denoiser.backbone.head.conv.bias.add_(1.0)
    card = other.save(tmp_path / "prior")
    assert "E-REPLAY-PRIOR" in refused(asked(home, record, tmp_path / "again", prior=card), capsys, code=6)
    assert not (tmp_path / "again").exists()


@pytest.mark.parametrize("start", [{"version": "0.0.9"}, {"environment": {"torch": "1.0"}}])
def test_other_versions_are_refused(start, home, record, tmp_path, capsys):
    other = changed(record, tmp_path / "other.jsonl", start=start)
    assert "E-REPLAY-VERSION" in refused(asked(home, other, tmp_path / "again"), capsys, code=2)


def test_a_run_of_another_kind_is_refused(home, record, tmp_path, capsys):
    other = changed(record, tmp_path / "other.jsonl", start={"verb": "convert"})
    assert "E-REPLAY:" in refused(asked(home, other, tmp_path / "again"), capsys, code=2)
    strange = changed(record, tmp_path / "strange.jsonl", start={"options": {"out": "mean.nii.gz", "magic": 1}})
    assert "E-REPLAY:" in refused(asked(home, strange, tmp_path / "again"), capsys, code=2)
    lines = [
        line for line in record.read_text(encoding="utf-8").splitlines(keepends=True) if '"output"' not in line[:18]
    ]
    (tmp_path / "killed.jsonl").write_text("".join(lines), encoding="utf-8")
    assert "E-REPLAY:" in refused(asked(home, tmp_path / "killed.jsonl", tmp_path / "again"), capsys, code=2)
    assert "E-REPLAY:" in refused(asked(home, "nothing", tmp_path / "again"), capsys, code=2)
    assert "E-MLFLOW" in refused(asked(home, "0" * 32, tmp_path / "again"), capsys, code=2)
    assert "E-SETTING" in refused([*asked(home, record, tmp_path / "again"), "--number", 2], capsys, code=2)


def test_other_bytes_are_told(home, record, tmp_path, capsys):
    other = changed(record, tmp_path / "other.jsonl", output={"sha256": "0" * 64})
    assert cli.main([str(word) for word in asked(home, other, tmp_path / "again")]) == 5
    assert "E-REPLAY-BYTES" in capsys.readouterr().err
    assert "E-EXISTS" in refused(asked(home, record, tmp_path / "again"), capsys, code=5)


# --- training runs ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(template, tmp_path_factory):
    """A tiny prior that was trained and told to MLflow."""
    home = tmp_path_factory.mktemp("trained")
    shutil.copy(template, home / "mlflow.db")
    recipe = write_case(home)
    assert cli.main(["train", str(recipe), "-o", str(home / "out"), "--tracking", uri(home)]) == 0
    return home


def again(home: Path, into: Path, **changed: object) -> list[object]:
    return asked(home, run_id(home, "medidiff"), into, **({"input": None, "prior": None} | changed))


def test_a_training_run_is_replayed_to_the_same_bytes(trained, tmp_path, capsys):
    told = document(again(trained, tmp_path / "again", data=trained / "scans"), capsys)
    weights = [folder / "tiny.safetensors" for folder in (trained / "out", tmp_path / "again")]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    assert told["command"].startswith("medidiff train recipe.toml -o ")
    assert told["weights_sha256"] == json.loads((trained / "out" / "tiny.json").read_text("utf-8"))["weights_sha256"]


def test_other_data_or_another_recipe_are_refused(trained, tmp_path, capsys):
    shutil.copytree(trained / "scans", tmp_path / "scans")
    shutil.copy(tmp_path / "scans" / "first.nii.gz", tmp_path / "scans" / "second.nii.gz")
    words = again(trained, tmp_path / "again", data=tmp_path / "scans")
    assert "E-REPLAY-INPUT" in refused(words, capsys, code=4)
    other = write_case(tmp_path / "case", seed=8)
    words = again(trained, tmp_path / "again", data=trained / "scans", recipe=other)
    assert "E-REPLAY:" in refused(words, capsys, code=2)
    assert not (tmp_path / "again").exists()


def test_another_prior_that_comes_of_it_is_told(trained, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("medidiff.cli.replay_training._wanted_weights", lambda kept: "0" * 64)
    assert cli.main([str(word) for word in again(trained, tmp_path / "x", data=trained / "scans")]) == 5
    assert "E-REPLAY-BYTES" in capsys.readouterr().err


def test_a_training_plan_is_the_command(trained, tmp_path, capsys):
    words = [*again(trained, tmp_path / "x", data=trained / "scans"), "--dry-run"]
    assert cli.main([str(word) for word in words]) == 0
    assert "medidiff train recipe.toml -o" in capsys.readouterr().out
    assert not (tmp_path / "x").exists()


def test_a_recipe_survives_as_toml(tmp_path):
    recipe = read_recipe(write_case(tmp_path))
    (tmp_path / "again.toml").write_text(to_toml(recipe.to_dict()), encoding="utf-8")
    assert read_recipe(tmp_path / "again.toml") == recipe
    assert tomllib.loads(to_toml({"a": {"b": [1, 2.5]}, "c": [{"d": "é\n"}], "e": True})) == {
        "a": {"b": [1, 2.5]},
        "c": [{"d": "é\n"}],
        "e": True,
    }
    assert tomllib.loads(to_toml({"a": [float("inf"), -float("inf")]})) == {"a": [float("inf"), -float("inf")]}
