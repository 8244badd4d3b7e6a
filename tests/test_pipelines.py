"""The pipelines: each does its work on a small cohort and leaves an MLflow run that says how it went, and of nobody."""

from __future__ import annotations

import csv
import importlib
import re
import shutil
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from training_cases import to_toml, write_case
from whole_cases import QUICK, small_cascade

from medidiff import io, tracking
from medidiff.cli import synthesize as verb
from medidiff.export import open_stored, verify_data_set
from medidiff.synthesis import Cascade
from medidiff.training.pack import read_pack
from medidiff.volume import Geometry, Volume

PIPELINES = Path(__file__).parents[1] / "pipelines"
SAMPLE = Path(__file__).parents[1] / "medidiff" / "sample" / "t1-brain.nii.gz"
SCRIPTS = ("prepare", "train", "restore", "synthesize", "evaluate")
RECIPES = sorted((PIPELINES / "recipes" / "cohorts").glob("*.toml"))


@pytest.fixture(scope="module")
def scripts():
    """The scripts as modules."""
    sys.path.insert(0, str(PIPELINES))
    try:
        yield {name: importlib.import_module(name) for name in SCRIPTS}
    finally:
        sys.path.remove(str(PIPELINES))
        for name in (*SCRIPTS, "cohort", "heads"):
            sys.modules.pop(name, None)


@pytest.fixture
def store(empty_store, tmp_path):
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


def recipe_of(folder, **entries):
    path = folder / "cohort.toml"
    path.write_text(to_toml(entries), encoding="utf-8")
    return path


class Left:
    """The one run of a store, or that of a number, the latest first."""

    def __init__(self, uri, number=None):
        self.client = tracking._client(uri)
        runs = self.client.search_runs([e.experiment_id for e in self.client.search_experiments()])
        (self.run,) = runs if number is None else [runs[number]]
        self.metrics, self.params = self.run.data.metrics, self.run.data.params

    def files(self, folder=None):
        found = self.client.list_artifacts(self.run.info.run_id, folder)
        return [each.path for part in found for each in (self.files_in(part) if part.is_dir else [part])]

    def files_in(self, part):
        return self.client.list_artifacts(self.run.info.run_id, part.path)

    def told(self):
        """Every word of it."""
        tags = {key: value for key, value in self.run.data.tags.items() if key != "mlflow.log-model.history"}
        return " ".join([*self.files(), *self.params, *self.params.values(), *self.metrics, *tags, *tags.values()])


def of_nobody(left, folder):
    told = left.told()
    return not any(word in told for word in (str(folder), "first.nii", "second.nii", "broken", "t1-brain"))


# What each of them leaves


def test_prepare_packs_and_leaves_a_run(scripts, store, tmp_path):
    case, pack = write_case(tmp_path), tmp_path / "pack.safetensors"
    assert scripts["prepare"].main([str(case), str(pack), "--tracking", store]) == 0
    assert len(read_pack(pack, part="train")[0]) == 2
    left = Left(store)
    assert (left.metrics["cases"], left.metrics["refusals"], left.params["recipe"]) == (4, 0, "tiny")
    assert left.metrics["megavoxels/mean"] == pytest.approx(22 * 26 * 24 / 1e6)
    assert left.metrics["cases_per_minute"] > 0
    assert left.files() == ["montage.png"]
    assert of_nobody(left, tmp_path)


@pytest.mark.parametrize("without", [False, True])
def test_prepare_packs_no_part_of_a_cohort_unless_asked_to(without, scripts, store, tmp_path, capsys):
    case, pack = write_case(tmp_path), tmp_path / "pack.safetensors"
    (tmp_path / "scans" / "second.nii.gz").write_bytes(b"no scan")
    words = [str(case), str(pack), "--tracking", store, *(["--without-refused"] if without else [])]
    assert scripts["prepare"].main(words) == 7
    assert pack.exists() == without
    left = Left(store)
    assert (left.metrics["cases"], left.metrics["refusals"]) == (2, 2)
    code = re.search(r"prepare: (E-[A-Z0-9]+)", capsys.readouterr().err)[1]
    assert left.metrics[f"refusals/{code.lower()}"] == 2
    assert of_nobody(left, tmp_path)


def test_train_leaves_a_prior_and_its_curves(scripts, store, tmp_path):
    case = write_case(tmp_path, fit__images=100, fit__batch=50, fit__patch=8)
    words = [str(case), str(tmp_path / "out"), "--tracking", store, "--device", "cpu", "--cache", str(tmp_path / "c")]
    assert scripts["train"].main(words) == 0
    left = Left(store)
    assert {"loss", "waiting", "images_per_second"} < set(left.metrics)
    assert "prior/tiny.safetensors" in left.files()
    assert any(name.startswith("pictures/") for name in left.files())
    assert scripts["train"].main([str(tmp_path / "none.toml"), str(tmp_path / "out")]) == 2


def test_evaluate_scores_a_cohort_before_and_after(scripts, store, tmp_path, capsys):
    recipe = recipe_of(tmp_path, prior="fine-t1", levels=[0.09], crop=32)
    broken = tmp_path / "broken.nii.gz"
    broken.write_bytes(b"no scan")
    words = [str(recipe), str(tmp_path / "out"), str(broken), str(SAMPLE), "--tracking", store]
    assert scripts["evaluate"].main(words) == 7
    left = Left(store)
    assert (left.metrics["cases"], left.metrics["refusals"]) == (1, 1)
    for metric, better in (("psnr_db", 1), ("ssim", 1), ("nrmse", -1), ("hfen", -1)):
        before, after = (left.metrics[f"{name}/noise_9/{metric}/mean"] for name in ("input", "result"))
        assert better * (after - before) > 0
    (row,) = csv.DictReader((tmp_path / "out" / "scores.csv").read_text(encoding="utf-8").splitlines())
    assert float(row["case"]) == 2
    assert float(row["result/noise_9/psnr_db"]) == pytest.approx(left.metrics["result/noise_9/psnr_db/mean"])
    assert left.files() == ["montage.png"]
    assert of_nobody(left, tmp_path)


def test_evaluate_of_nothing_usable_says_so(scripts, store, tmp_path):
    broken = tmp_path / "broken.nii.gz"
    broken.write_bytes(b"no scan")
    recipe = recipe_of(tmp_path, prior="fine-t1")
    assert scripts["evaluate"].main([str(recipe), str(tmp_path / "out"), str(broken), "--tracking", store]) == 8
    assert Left(store).files() == []


@pytest.fixture
def cohort(tmp_path):
    """Two cuts of the bundled sample and a file that is no scan."""
    folder, scan = tmp_path / "cohort", io.read(SAMPLE)
    folder.mkdir()
    for name, first in (("first", 60), ("second", 70)):
        cut = np.ascontiguousarray(scan.data[0][first : first + 40, 70:110, 20:60])
        io.write(Volume(cut, Geometry.regular(cut.shape), "MR"), folder / f"{name}.nii.gz")
    (folder / "broken.nii.gz").write_bytes(b"no scan")
    return folder


@pytest.mark.parametrize(("entries", "depth"), [({}, 40), ({"task": "superresolve", "spacing": [1.0, 1.0, 0.5]}, 80)])
def test_restore_leaves_a_result_for_each_scan_and_a_code_for_each_other(entries, depth, scripts, store, cohort):
    recipe, out = recipe_of(cohort.parent, prior="fine-t1", **entries), cohort.parent / "out"
    words = [str(recipe), str(out), str(cohort), "--tracking", store]
    assert scripts["restore"].main(words) == 7
    left = Left(store)
    assert (left.metrics["cases"], left.metrics["refusals"]) == (2, 1)
    assert any(name.endswith("/median") for name in left.metrics)
    results = sorted(out.glob("*.nii.gz"))
    assert [io.read(path).shape[2] for path in results] == [depth] * 2
    assert left.files() == ["montage.png"]
    assert of_nobody(left, cohort.parent)
    before = [path.read_bytes() for path in results]
    assert scripts["restore"].main(words) == 7  # again: nothing is made anew
    assert [path.read_bytes() for path in results] == before
    assert (left.metrics["computed"], left.metrics["kept"]) == (2, 0)
    assert left.metrics["cases_per_minute"] > 0
    again = Left(store, number=0)  # the latest
    assert (again.metrics["cases"], again.metrics["computed"], again.metrics["kept"]) == (2, 0, 2)
    assert again.metrics["cases_per_minute"] == 0


def test_synthesize_tells_what_is_in_the_set(scripts, store, tmp_path, monkeypatch):
    cascade, quick = small_cascade(), QUICK
    for prior in (cascade.coarse, *cascade.finer):
        prior.save(tmp_path / "priors")
    monkeypatch.setattr(verb, "Cascade", lambda prior, device: Cascade(prior, device="cpu", effort=quick))
    recipe = recipe_of(tmp_path, count=5, spacing=4.0, without_gate="a test of the pipeline")
    prior = ["--prior", str(tmp_path / "priors" / "tiny-coarse.json"), "--count", "2"]
    assert scripts["synthesize"].main([str(recipe), str(tmp_path / "set"), "--tracking", store, *prior]) == 0
    verify_data_set(tmp_path / "set").refuse("set")
    left = Left(store)
    assert (left.metrics["cases"], left.metrics["judged"], left.params["prior"]) == (2, 0, "tiny-coarse")
    stored = open_stored(tmp_path / "set")
    case = next(iter(stored.cases([0])))
    first, second = (float((each.labels.data == 3).sum()) * 0.064 for each in stored.cases([0, 1]))
    assert case.label_names[3] == "white matter"
    assert left.metrics["white_matter_ml/mean"] == pytest.approx((first + second) / 2)
    assert left.files() == ["montage.png"]
    assert of_nobody(left, tmp_path)


def test_synthesize_refuses_as_the_command_does(scripts, store, tmp_path):
    recipe = recipe_of(tmp_path, count=1, prior="no-such-prior")
    assert scripts["synthesize"].main([str(recipe), str(tmp_path / "set"), "--tracking", store]) == 6


# The table of a cohort


def test_a_cohort_knows_its_mean_and_its_tails(scripts):
    cohort = sys.modules["cohort"].Cohort("test", {})
    for number in range(101):
        with cohort.case() as scores:
            scores["score"] = float(number)
    found = cohort.metrics()
    assert [found[f"score/{name}"] for name in ("mean", "median", "p05", "p95")] == [50, 50, 5, 95]
    assert not [name for name in found if name.startswith("case/")]  # a number is no score


def test_a_bug_is_not_counted_as_a_refusal(scripts):
    """The negative: only what medidiff refuses is left behind."""
    cohort = sys.modules["cohort"].Cohort("test", {})
    with pytest.raises(ZeroDivisionError), cohort.case():
        1 / 0  # noqa: B018
    assert not cohort.refusals


@pytest.mark.parametrize("entries", [{"prior": "/home/someone/prior"}, {"prior": "Doe^Jane"}])
def test_a_recipe_with_a_private_text_leaves_no_run(entries, scripts, store, tmp_path, capsys):
    recipe = recipe_of(tmp_path, **entries, levels=[0.09])
    (tmp_path / "broken.nii.gz").write_bytes(b"no scan")
    words = [str(recipe), str(tmp_path / "out"), str(tmp_path / "broken.nii.gz"), "--tracking", store]
    assert scripts["evaluate"].main(words) == 2
    assert "E-PRIVATE" in capsys.readouterr().err


# How they are found


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_script_says_how_it_is_used(name, scripts, capsys):
    with pytest.raises(SystemExit) as ended:
        scripts[name].main(["--help"])
    assert ended.value.code == 0
    assert "--tracking" in capsys.readouterr().out


def lacking(text, names):
    """Scripts without their command in a text."""
    return [name for name in names if f"python pipelines/{name}.py " not in text]


def test_every_script_is_short_and_stands_in_the_readme():
    text = (PIPELINES / "README.md").read_text(encoding="utf-8")
    assert not lacking(text, SCRIPTS)
    assert lacking(text.replace("pipelines/evaluate.py", ""), SCRIPTS) == ["evaluate"]  # the negative
    assert max(len((PIPELINES / f"{name}.py").read_text(encoding="utf-8").splitlines()) for name in SCRIPTS) <= 100


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_committed_recipes_of_cohorts_are_read(path, scripts):
    name = path.stem.split("-")[0]
    kind = getattr(scripts[name], f"{name.capitalize()}Recipe")
    assert scripts[name].read_as(path, lambda table: kind) == kind(**_typed(tomllib.loads(path.read_text("utf-8"))))
    assert f"pipelines/{name}.py pipelines/recipes/cohorts/{path.name}" in path.read_text("utf-8")


def _typed(table):
    return {name: tuple(value) if isinstance(value, list) else value for name, value in table.items()}
