"""The command that measures synthetic sets: what it reads, what it finds in planted sets, and what it refuses."""

import dataclasses
import importlib
import json
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from medidiff import io
from medidiff.volume import Geometry, Volume

FOLDER = Path(__file__).resolve().parent.parent / "validation"
SMALL = Geometry.regular((96, 96, 96))


@pytest.fixture
def brains(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    module = importlib.import_module("brains")
    monkeypatch.setattr(module, "FRAME", SMALL)
    return module


@pytest.fixture
def figures(brains):
    return importlib.import_module("set_figures")


@pytest.fixture
def command(brains):
    return importlib.import_module("synthesis")


@pytest.fixture
def corruptions(brains):
    return importlib.import_module("corruptions").CORRUPTIONS


def head(shape=(96, 96, 96), seed=0):
    """Three nested shells as bright as CSF, grey and white matter, with a little noise."""
    grid = np.stack(np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in shape), indexing="ij"))
    radius = np.sqrt((grid**2).sum(0))
    scan = np.select([radius < 22, radius < 30, radius < 36], [0.9, 0.6, 0.3], 0.0)
    noise = np.random.default_rng(seed).normal(0, 0.02, shape)
    return np.where(radius < 36, scan + noise, 0).astype(np.float32)


def made(brains, seed, *, shift=0.0, volume=0.0, map_too=False):
    """What is kept of a scan, drawn at random instead of measured."""
    rng = np.random.default_rng(seed)
    coarse = ndimage.gaussian_filter(rng.normal(size=(48, 48, 48)), 2) * 3 + 0.5
    return brains.Brain(
        coarse=coarse.astype(np.float32),
        labels=rng.integers(0, 4, (48, 48, 48)).astype(np.uint8),
        mosaic=np.clip(rng.normal(0.5, 0.2, (192, 192)), 0, 1).astype(np.float32),
        features=rng.normal(shift, 1, 12),
        spectrum=np.exp(rng.normal(shift, 0.2, len(brains.EDGES) - 1)),
        radiomics=rng.normal(shift, 1, 33),
        volumes=np.array([300.0, 600, 500]) + rng.normal(0, 20, 3) + volume,
        overlap=np.array([0.7, 0.8, 0.9]) if map_too else np.empty(0),
        age=float(20 + seed % 40),
        sex="FM"[seed % 2],
    )


def test_three_shells_are_three_tissues(brains):
    found = brains.describe(head())
    wanted = 4 / 3 * np.pi * np.array([36**3 - 30**3, 30**3 - 22**3, 22**3]) / 1000
    assert found.volumes == pytest.approx(wanted, rel=0.25)  # thin shells: much of them is partial volume
    assert found.mosaic.shape == (192, 192)


def test_bright_vessels_do_not_cost_the_grey_matter(brains):
    scan = brains.halved(head())
    scan[22:26, 22:26, 22:26] = 2.5
    found = np.bincount(brains.label(scan).ravel())
    assert found[1:] == pytest.approx(np.bincount(brains.label(brains.halved(head())).ravel())[1:], rel=0.05)


def test_a_scan_without_three_tissues_is_refused(brains):
    with pytest.raises(brains.InputError, match="E-LABELS"):
        brains.label(np.where(head()[::2, ::2, ::2] > 0.05, 0.9, 0).astype(np.float32))


def test_any_orientation_comes_to_the_same_frame_and_a_framed_scan_stays(brains):
    scan = Volume(head()[None] * 700, SMALL)
    there = brains.framed(scan)
    assert np.percentile(there[there > 0.05], 99) == pytest.approx(1, abs=0.05)
    affine = SMALL.affine.copy()
    affine[0] *= -1
    turned = Volume(np.ascontiguousarray(scan.data[:, ::-1]), Geometry(SMALL.shape, affine))
    found = brains.framed(turned)
    assert np.corrcoef(found.ravel(), there.ravel())[0, 1] > 0.99
    wider = Geometry.regular(SMALL.shape, spacing_mm=(1.00001, 1.0, 1.0))  # as some headers have it
    assert np.allclose(brains.framed(Volume(scan.data, wider)), there)


def write_set(folder, *, with_map=True, shape=(96, 96, 96)):
    anat = folder / "sub-syn000000" / "anat"
    anat.mkdir(parents=True)
    grid = Geometry.regular(shape)
    io.write(Volume(head(shape) * 500, grid, modality="MR"), anat / "sub-syn000000_T1w.nii.gz")
    if with_map:
        scan = head(shape)
        table = np.select([scan > 0.75, scan > 0.45, scan > 0.1], [3, 2, 1], 0).astype(np.uint8)
        io.write(Volume(table, grid, modality="MR"), anat / "sub-syn000000_dseg.nii.gz")
    (folder / "participants.tsv").write_text("participant_id\tage\tsex\nsub-syn000000\t44\tF\n")


def test_a_set_is_read_with_its_maps_and_what_was_asked_for(brains, tmp_path):
    write_set(tmp_path / "set")
    (found,) = brains.synthetic_brains(tmp_path / "set", count=0, cache=tmp_path / "kept")
    assert (found.age, found.sex) == (44, "F")
    assert (found.overlap > 0.85).all()
    again = brains.synthetic_brains(tmp_path / "set", count=1, cache=tmp_path / "kept")[0]
    assert np.array_equal(again.features, found.features)
    kept = next((tmp_path / "kept").iterdir())
    assert "syn" not in kept.name
    with np.load(kept, allow_pickle=False) as held:
        changed = dict(held) | {"features": np.zeros(3)}
    np.savez(kept, **changed)
    assert (
        brains.synthetic_brains(tmp_path / "set", count=1, cache=tmp_path / "kept")[0].features.sum() == 0
    )  # it is used


def test_a_set_says_which_priors_drew_it(brains, tmp_path):
    assert brains.drawn_by(None) == brains.drawn_by(tmp_path) == "none"
    told = {"About": {"priors": [{"name": "a", "sha256": "1", "licence": "x"}, {"name": "b", "sha256": "2"}]}}
    (tmp_path / "medidiff.json").write_text(json.dumps(told))
    assert brains.drawn_by(tmp_path) == "a 1, b 2"


def test_an_empty_set_and_a_map_off_the_grid_are_refused(brains, tmp_path):
    with pytest.raises(brains.InputError, match="E-NOIMAGES"):
        brains.synthetic_brains(tmp_path, count=0, cache=None)
    write_set(tmp_path / "set", shape=(90, 90, 90))
    with pytest.raises(brains.InputError, match="E-LABELS"):
        brains.synthetic_brains(tmp_path / "set", count=0, cache=None)


def test_where_parts_lie_is_read_once_of_a_scan_and_anew_of_another(brains):
    brain = made(brains, 0)
    assert brain.layout is brain.layout
    other = dataclasses.replace(brain, labels=np.roll(brain.labels, 5, axis=0))
    assert not np.array_equal(other.layout, brain.layout)


@pytest.mark.parametrize("name", ["blur", "noise", "contrast", "warp", "seam"])
def test_each_fault_changes_tissue_and_leaves_the_air(corruptions, name):
    scan = head()
    changed = corruptions[name](scan, 1)
    assert changed.dtype == np.float32
    assert np.abs(changed - scan)[scan > 0.1].mean() > 0.005
    assert np.abs(changed[:4, :4, :4]).max() < 1e-6
    assert np.array_equal(changed, corruptions[name](scan, 1))


def compare(figures, real, judged, **more):
    return figures.compared(real, judged, halved=real, resamples=10, halvings=10, **more)


def test_a_set_like_the_real_one_is_at_the_floor_and_another_is_not(brains, figures):
    real, likeness = [made(brains, seed) for seed in range(16)], figures.Likeness()
    same = compare(figures, real, [made(brains, seed) for seed in range(100, 112)], likeness=likeness)
    shifted = [made(brains, seed, shift=1.5, volume=60) for seed in range(100, 112)]
    other = compare(figures, real, shifted, likeness=likeness)
    assert set(same) == {figure.name for figure in figures.FIGURES}
    for name in ("KID", "FID (biased)", "radiomic Fréchet", "spectra apart (dB)", "Wasserstein of brain (ml)"):
        assert abs(same[name].value) < 3 * same[name].floor, name
        assert other[name].value > 2 * other[name].floor, name
    assert other["coverage"].value < other["coverage"].floor_low
    kid = figures.FIGURES[0]
    assert figures.held(kid, other["KID"]).startswith("missed")


def test_one_scan_over_and_over_is_seen(brains, figures):
    real, likeness = [made(brains, seed) for seed in range(12)], figures.Likeness()
    copies = [dataclasses.replace(real[3]) for _ in range(12)]
    found = compare(figures, real, copies, likeness=likeness)
    alike = next(figure for figure in figures.FIGURES if figure.target == "0.05")
    assert found[alike.name].value == pytest.approx(1, abs=1e-4)
    assert figures.held(alike, found[alike.name]).startswith("missed")
    fair = compare(figures, real, [made(brains, seed) for seed in range(100, 112)], likeness=likeness)
    assert figures.held(alike, fair[alike.name]).startswith("met")
    assert found["recall"].value < fair["recall"].value / 2
    assert found["precision"].value == 1  # which alone would let it pass


def test_conditions_are_found_where_they_are(brains, figures):
    def aged(seed, slope):
        brain = made(brains, seed, map_too=True)
        share = 0.2 + slope * (brain.age - 40) / 10
        return dataclasses.replace(
            brain, volumes=np.array([share, 0.5, 0.5 - share]) * (1200 + 100 * (brain.sex == "M"))
        )

    found = figures.condition_figures([aged(seed, 0.02) for seed in range(30)])
    value, low, high, count = found["CSF share per decade of age (% points)"]
    assert value == pytest.approx(2)
    assert low == pytest.approx(2)
    assert count == 30
    assert found["brain volume, men less women (ml)"][0] == pytest.approx(100)
    assert found["Dice of white matter with the map"][0] == pytest.approx(0.9)
    value, low, high, _ = figures.condition_figures([made(brains, seed) for seed in range(30)])[
        "CSF share per decade of age (% points)"
    ]
    assert low < 0 < high  # the negative: where there is none, none is found
    unknown = [dataclasses.replace(made(brains, seed), age=float("nan"), sex="") for seed in range(5)]
    assert figures.condition_figures(unknown) == {}


@pytest.fixture
def planted(brains, command, monkeypatch):
    """The command on made-up brains: 8 to train on, 3 and 5 unseen, and a set to judge."""
    counts = {"train": range(8), "validation": range(8, 11), "test": range(11, 16)}

    def real(data, split, folder, *, part, cache, change=None):
        return [made(brains, seed, shift=1.5 * (change is not None)) for seed in counts[part]]

    monkeypatch.setattr(command, "real_brains", real)
    synthetic = [made(brains, seed, map_too=True) for seed in range(200, 208)]
    monkeypatch.setattr(command, "synthetic_brains", lambda folder, count, cache: synthetic)
    return ["--mlflow", "none", "--resamples", "10", "--halvings", "10"]


def test_the_command_writes_tables_pictures_and_a_key(command, planted, tmp_path):
    out = tmp_path / "out"
    assert command.main([str(tmp_path), *planted, "--out", str(out), "--grid", "6", "--blind"]) == 0
    record = json.loads((out / "synthesis.json").read_text())
    assert set(record["figures"]) == {"synthetic against train", "synthetic against unseen"}
    row = record["figures"]["synthetic against train"]["KID"]
    assert {"value", "low", "high", "floor", "n_real", "n_synthetic", "target"} <= set(row)
    table = (out / "synthesis.md").read_text()
    assert table.count("| KID |") == 2
    assert "| synthetic | Dice of CSF with the map |" in table
    key = json.loads((out / "blind-key.json").read_text())
    assert sorted(key.values()) == ["real"] * 6 + ["synthetic"] * 6
    assert list(key.values()) != sorted(key.values())
    assert (out / "grid.png").stat().st_size > 10_000
    assert (out / "blind.png").stat().st_size > 10_000


def test_the_features_that_see_a_fault_are_told_from_those_that_do_not(brains):
    features = importlib.import_module("set_features")
    real = [made(brains, seed) for seed in range(24)]
    like, other = ([made(brains, seed) for seed in range(start, start + 12)] for start in (100, 200))
    other = [dataclasses.replace(brain, radiomics=brain.radiomics + 1) for brain in other]
    found = features.separations(real[:12], {"like": like, "other": other}, real, halvings=30)
    assert found["radiomics of three tissues"]["other"] > 10
    assert abs(found["random convolutions"]["other"]) < 4
    assert all(abs(values["like"]) < 4 for values in found.values())
    assert features.table(found).count("\n") == 2 + len(features.CANDIDATES)


def test_the_self_check_finds_the_faults_and_no_fault_in_real_scans(command, planted, tmp_path):
    out = tmp_path / "out"
    assert command.main(["--self-check", *planted, "--faults", "blur", "--grid", "0", "--out", str(out)]) == 0
    found = json.loads((out / "self-check.json").read_text())["figures"]
    kid = {name: rows["KID"]["value"] / rows["KID"]["floor"] for name, rows in found.items()}
    assert kid["unseen against train"] < 2 < kid["blur against train"]
    assert found["one scan against train"]["MS-SSIM in the set"]["value"] == pytest.approx(1, abs=1e-4)
    assert not (out / "grid.png").exists()


@pytest.mark.parametrize(
    "broken",
    [[], ["x", "--self-check"], ["x", "--count", "-1"], ["x", "--threads", "0"], ["x", "--seed", "-1"]],
    ids=" ".join,
)
def test_broken_settings_are_refused_in_one_line(command, broken, capsys):
    assert command.main([*broken, "--mlflow", "none"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
