"""What synthetic scans are worth to a segmenter: good ones help where there are few, wrong ones do harm."""

import importlib
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from medidiff import io
from medidiff.volume import Geometry, Volume

FOLDER = Path(__file__).resolve().parent.parent / "validation"
SHAPE = (48, 48, 48)


@pytest.fixture
def segmenter(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    module = importlib.import_module("segmenter")
    monkeypatch.setattr(module, "_PATCH", 40)  # the planted balls fit, and it costs half of 48
    return module


@pytest.fixture
def utility(segmenter):
    return importlib.import_module("utility")


def planted(segmenter, seed, *, wrong=False):
    """Nested balls round a random centre; with labels in the wrong order if wanted."""
    rng = np.random.default_rng(seed)
    grid = np.indices(SHAPE) - 23.5 - rng.uniform(-3, 3, (3, 1, 1, 1))
    radius = np.sqrt((grid**2).sum(0))
    labels = np.select([radius < 9, radius < 14, radius < 18], [3, 2, 1], 0).astype(np.uint8)
    image = np.array([0, 0.35, 0.65, 0.95])[labels] + rng.normal(0, 0.03, SHAPE)
    return segmenter.Pair(image.astype(np.float32), np.array([0, 2, 3, 1], np.uint8)[labels] if wrong else labels)


def test_right_maps_teach_and_wrong_maps_do_not(segmenter):
    torch.set_num_threads(1)
    test = planted(segmenter, 99)
    found = {}
    for wrong in (False, True):
        pairs = [planted(segmenter, seed, wrong=wrong) for seed in range(3)]
        found[wrong] = segmenter.score(segmenter.train([pairs], steps=16, seed=0), test)
    assert np.mean(found[False].dice) > np.mean(found[True].dice) + 0.25
    assert np.mean(found[False].surface_mm) < np.mean(found[True].surface_mm)


def test_the_same_seed_trains_the_same_network(segmenter):
    pairs = [planted(segmenter, 0)]
    one, two, other = (segmenter.score(segmenter.train([pairs], steps=2, seed=seed), pairs[0]) for seed in (0, 0, 1))
    assert one == two
    assert one != other


def test_each_set_gives_as_many_patches_whatever_its_size(segmenter):
    bright, dark = (segmenter.Pair(np.full(SHAPE, v, np.float32), np.zeros(SHAPE, np.uint8)) for v in (1.0, 0.0))
    rng = np.random.default_rng(0)
    means = [segmenter._batch([[bright] * 50, [dark]], rng, False)[0].mean().item() for _ in range(60)]
    assert np.mean(means) == pytest.approx(0.5, abs=0.12)


def test_augmentation_moves_scan_and_map_alike(segmenter):
    labels = np.roll(planted(segmenter, 0).labels, (-7, 5, 6), axis=(0, 1, 2))
    scan = torch.tensor(labels, dtype=torch.float32)[None, None]
    for seed in range(4):
        image, table = segmenter._augmented(scan, scan.clone(), np.random.default_rng(seed))
        assert np.corrcoef(image.flatten(), table.flatten())[0, 1] > 0.95
        assert set(table.unique().tolist()) <= {0.0, 1.0, 2.0, 3.0}
        assert not torch.equal(table, scan)
    assert np.corrcoef(image.flatten(), scan.flatten())[0, 1] < 0.95  # the negative: a map that stayed behind


def test_surfaces_that_are_moved_are_that_far_apart(segmenter):
    radius = np.sqrt(((np.indices(SHAPE) - 23.5) ** 2).sum(0))
    assert segmenter.surface_distance_mm(radius < 12, radius < 12) == 0
    assert segmenter.surface_distance_mm(radius < 12, radius < 15) == pytest.approx(2 * 3, abs=0.5)
    assert segmenter.surface_distance_mm(radius < 12, radius < 0) == pytest.approx(np.sqrt(3) * 96)


def scores(segmenter, means):
    """Two seeds of four subjects with the given mean Dice of each subject."""
    return [[segmenter.Score((m + e,) * 3, (1.0, 2.0, 3.0)) for m in means] for e in (-0.01, 0.01)]


def test_a_gain_is_told_from_none_by_pairs(segmenter, utility):
    hard = np.array([0.2, 0.4, 0.6, 0.8])  # subjects differ far more than arms do
    found = {
        "real": scores(segmenter, hard),
        "real + synthetic": scores(segmenter, hard + np.array([0.02, 0.03, 0.02, 0.03])),
        "synthetic": scores(segmenter, hard - 0.1),
        "real, augmented": scores(segmenter, hard + np.array([0.03, -0.03, 0.02, -0.02])),
    }
    rows = {row["arm"]: row for row in utility.summary(found)}
    assert [utility.verdict(rows[name]) for name in found] == ["", "gain", "loss", "none shown"]
    assert rows["real + synthetic"]["gain"][0] == pytest.approx(0.025)
    low, high = rows["real"]["dice mean"][1:]
    assert high - low > 0.3  # the negative: unpaired, the intervals of all arms overlap
    assert rows["real"]["surface white matter (mm)"][0] == pytest.approx(3)


def test_few_real_subjects_are_compared_with_as_few(utility):
    assert {arm.name: utility.control_of(arm) for arm in utility.ARMS}["few real + synthetic"] == "few real"
    assert utility.control_of(utility.ARMS[0]) == "real"


def test_most_of_eight_voxels_decide(utility):
    fine = np.zeros((4, 2, 2), np.uint8)
    fine[0], fine[1, 0] = 2, 2  # six of eight
    fine[2], fine[3, 0, 0] = 3, 1  # four of eight against three of nothing
    assert utility.majority(fine).ravel().tolist() == [2, 3]


def test_stand_ins_are_new_scans_whose_maps_fit(segmenter, utility):
    pair = planted(segmenter, 0)
    first, second = utility.warped_pairs([pair], 2)
    assert set(np.unique(first.labels)) == {0, 1, 2, 3}
    for made in (first, second):
        assert np.mean(made.labels != pair.labels) > 0.02
        means = [made.image[made.labels == label].mean() for label in range(4)]
        assert means == pytest.approx([0, 0.35, 0.65, 0.95], abs=0.1)
    assert not np.array_equal(first.labels, second.labels)


@pytest.fixture
def study(segmenter, utility, monkeypatch):
    places = {"train": range(3), "test": range(90, 92)}

    def real(data, split, folder, *, part, cache):
        pairs = [planted(segmenter, seed) for seed in places[part]]
        return [SimpleNamespace(coarse=pair.image, labels=pair.labels) for pair in pairs]

    monkeypatch.setattr(utility, "real_brains", real)
    return ["--mlflow", "none", "--seeds", "1", "--arms", "real", "synthetic"]


def test_the_command_writes_a_table_and_what_a_report_carries(utility, study, tmp_path):
    code = utility.main(["--self-check", "--stand-ins", "2", "--steps", "1", *study, "--out", str(tmp_path)])
    assert code == 0
    record = json.loads((tmp_path / "utility.json").read_text())
    report = record["report"]
    assert report["measured"] == {"steps": 1, "seeds": 1, "real": 3, "synthetic": 2, "test": 2}
    assert set(report["dice"]) == {"real", "synthetic"}
    assert report["gain"]["synthetic"]["over"] == "real"
    assert report["gain"]["synthetic"]["verdict"] in ("gain", "loss", "none shown")
    assert json.loads(json.dumps(report)) == report
    assert "| synthetic |" in (tmp_path / "utility.md").read_text()
    kept = dict(record["finding"]["figures"])
    (arm,) = (row for row in record["arms"] if row["arm"] == "synthetic")
    assert [kept[f"{part}/synthetic/gain"][0][1] for part in ("value", "low", "high")] == arm["gain"]
    assert kept["value/real/dice mean"][0][1] == report["dice"]["real"][0]
    assert "value/real/gain" not in kept  # it is its own control


def test_the_minutes_say_how_many_steps(utility, study, tmp_path, monkeypatch):
    monkeypatch.setattr(utility, "seconds_a_step", lambda pairs: 12.0)
    assert utility.main(["--self-check", "--minutes", "1", *study, "--out", str(tmp_path)]) == 0
    assert json.loads((tmp_path / "utility.json").read_text())["params"]["steps"] == 2


def test_a_synthetic_set_is_read_with_its_maps(utility, monkeypatch, tmp_path):
    grid = Geometry.regular((64, 64, 64))
    for module in (utility, importlib.import_module("brains")):
        monkeypatch.setattr(module, "FRAME", grid)
    anat = tmp_path / "sub-syn000000" / "anat"
    anat.mkdir(parents=True)
    radius = np.sqrt(((np.indices(grid.shape) - 31.5) ** 2).sum(0))
    labels = np.select([radius < 12, radius < 18, radius < 25], [3, 2, 1], 0).astype(np.uint8)
    io.write(Volume(100.0 * labels.astype(np.float32), grid, modality="MR"), anat / "sub-syn000000_T1w.nii.gz")
    with pytest.raises(utility.InputError, match="E-LABELS"):
        utility.synthetic_pairs(tmp_path, 0)
    io.write(Volume(labels, grid, modality="MR"), anat / "sub-syn000000_dseg.nii.gz")
    (pair,) = utility.synthetic_pairs(tmp_path, 0)
    assert pair.image.shape == pair.labels.shape == (32, 32, 32)
    assert pair.image[pair.labels == 3].mean() == pytest.approx(1, abs=0.05)
    derived = tmp_path / "derivatives" / "labels" / "sub-syn000000" / "anat"  # where `medidiff export` puts them
    derived.mkdir(parents=True)
    (anat / "sub-syn000000_dseg.nii.gz").rename(derived / "sub-syn000000_dseg.nii.gz")
    assert np.array_equal(utility.synthetic_pairs(tmp_path, 0)[0].labels, pair.labels)
    with pytest.raises(utility.InputError, match="E-NOIMAGES"):
        utility.synthetic_pairs(tmp_path / "none", 0)


@pytest.mark.parametrize(
    "broken",
    [
        [],
        ["x", "--self-check"],
        ["x", "--seeds", "0"],
        ["x", "--steps", "-1"],
        ["x", "--minutes", "0"],
        ["x", "--arms"],
    ],
    ids=" ".join,
)
def test_broken_settings_are_refused_in_one_line(utility, broken, capsys):
    assert utility.main([*broken, "--mlflow", "none"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
