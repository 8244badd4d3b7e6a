"""The image quality commands, on a made-up brain small enough for every push, with a network of random weights."""

import importlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage
from small_prior import small_prior

from medidiff import io
from medidiff.volume import Geometry, Volume

FOLDER = Path(__file__).resolve().parent.parent / "validation"
SHAPE = (64, 60, 62)
LEVEL = 0.04
NOISY = ("--tasks", "denoise", "--methods", "noisy")
FEW = ["--crop", "56", "--sizes", "3", "5", "--each", "4", "--layouts", "1", "--sigmas", "2", "--level", "4"]


@pytest.fixture(scope="module")
def command():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        found = importlib.import_module("image_quality")
        prior = small_prior()
        patch.setattr(found, "load_prior", lambda name: prior)
        yield found


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Two test scans: white matter in grey, two ventricles in it, fine texture; and the split that names them."""
    home = tmp_path_factory.mktemp("study")
    grid = np.stack(np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in SHAPE), indexing="ij"))
    radius = np.sqrt((grid**2).sum(0))
    for number in (1, 2):
        image = np.full(SHAPE, 900.0)
        for side in (-1, 1):
            away = (grid - np.reshape((14.3 * side, 1.17, 0.41), (3, 1, 1, 1))) / np.reshape((1, 1, 2), (3, 1, 1, 1))
            image[np.sqrt((away**2).sum(0)) < 7.3] = 350.0
        image = ndimage.gaussian_filter(image, 0.6)
        image = np.where(radius < 26, image, np.where(radius < 29, 650.0, 0.0))
        image += 6 * ndimage.gaussian_filter(np.random.default_rng(number).normal(size=SHAPE), 1) / 0.2 * (image > 100)
        place = home / "data" / "set" / f"sub-0{number}" / "anat"
        place.mkdir(parents=True)
        volume = Volume(image.astype(np.float32), Geometry.regular(SHAPE), "MR")
        io.write(volume, place / f"sub-0{number}_T1w.nii.gz")
    (home / "split.toml").write_text('[set]\ntrain = []\ntest = ["sub-01", "sub-02"]\n')
    return ["--data", str(home / "data"), "--split", str(home / "split.toml"), "--set", "set"]


def measured(command, study, out, *more):
    code = command.main(["measure", *study, *FEW, "--out", str(out), *more])
    return code, {path.stem: json.loads(path.read_text()) for path in sorted(out.glob("*-*-*.json"))}


@pytest.fixture(scope="module")
def folder(command, study, tmp_path_factory):
    """The noisy input of both scans, measured once."""
    out = tmp_path_factory.mktemp("noisy")
    assert measured(command, study, out, *NOISY)[0] == 0
    return out


@pytest.fixture
def copied(folder, tmp_path):
    return Path(shutil.copytree(folder, tmp_path / "out"))


def test_noisy_input_is_what_was_put_in(folder):
    """White noise of the level told, no blur, contrasts whole, the truth as near as two results let it be."""
    assert sorted(path.stem for path in folder.iterdir()) == ["denoise-noisy-1", "denoise-noisy-2"]
    record = json.loads((folder / "denoise-noisy-1.json").read_text())
    power = record["nps"]
    variance = np.dot(power["density"], power["volumes"])
    assert np.sqrt(variance) == pytest.approx(LEVEL, rel=0.05)
    assert np.std(power["density"][8:25]) / np.mean(power["density"][8:25]) < 0.15
    assert {s["diameter_mm"] for s in record["samples"]} == {3, 5}
    assert all(s["recovered"] == pytest.approx(1, abs=0.05) for s in record["samples"])
    curve = record["fsc"]["all"]
    pair, truth = np.array(curve["pair"]), np.array(curve["truth"]).mean(axis=0)
    assert truth[5:20] ** 2 == pytest.approx(pair[5:20], abs=0.12)
    edge = record["edges"]["all"]
    after, before = (np.array(edge[key]) / edge["counts"] for key in ("sums", "truth"))
    assert after == pytest.approx(before, abs=0.02)


def test_no_file_tells_who_it_was(folder):
    assert "sub-0" not in "".join(path.read_text() for path in folder.iterdir())


def test_it_goes_on_where_it_was_cut_off(command, study, copied):
    first, second = copied / "denoise-noisy-1.json", copied / "denoise-noisy-2.json"
    whole, before = second.read_text(), first.stat().st_mtime_ns
    second.unlink()
    measured(command, study, copied, *NOISY)
    assert first.stat().st_mtime_ns == before
    when = {"seconds": 0, "told": {}}
    assert json.loads(second.read_text()) | when == json.loads(whole) | when
    code, again = measured(command, study, copied, *NOISY, "--scans", "1", "--sigmas", "3")
    assert code == 0
    assert again["denoise-noisy-1"]["setup"]["sigmas"] == [3]  # other settings: measured anew
    assert command.main(["report", "--out", str(copied)]) == 2  # and no report of both together


def test_what_a_network_and_a_spline_make_of_it(command, study, tmp_path):
    code, found = measured(command, study, tmp_path, "--scans", "1", "--device", "cpu", "--sizes", "5")
    assert code == 0
    assert set(found) == {"denoise-noisy-1", "denoise-medidiff-1", "slices-spline-1", "slices-medidiff-1"}
    fine, thick = (
        np.array(found[name]["fsc"][region]["truth"]).mean()
        for name, region in (("slices-spline-1", "first"), ("slices-spline-1", "third"))
    )
    assert thick < fine  # across thick slices less is known than within them
    setups = {name: record["setup"] for name, record in found.items()}
    assert setups["slices-spline-1"]["factor"] == 3
    assert setups["denoise-medidiff-1"]["prior"].startswith("tiny ")
    assert setups["denoise-noisy-1"]["prior"] == ""


def test_a_report_is_made_of_the_files_alone(command, study, copied, tmp_path, monkeypatch):
    """A blur in place of a method: the tables see what it loses of sharpness and of noise."""
    denoising, findings = command.denoising, importlib.import_module("findings")

    def blurring(bench, level, method, *, prior, device):
        noisy = denoising(bench, level, "noisy", prior=prior, device=device)[""]
        return {"": lambda image, seed: ndimage.gaussian_filter(noisy(image, seed), 1.0)}

    monkeypatch.setattr(command, "denoising", blurring)
    measured(command, study, copied, "--tasks", "denoise", "--methods", "nlmeans")
    assert command.main(["report", "--out", str(copied), "--draws", "20"]) == 0
    record = json.loads((copied / "image_quality.json").read_text())["denoise"]
    before, after = (record["figures"][name] for name in ("noisy", "nlmeans"))
    assert after["noise_percent"][0] < 0.5 * before["noise_percent"][0]
    assert after["noise_frequency"][0] < before["noise_frequency"][0]
    assert after["mtf50"][0] < 0.85 * before["mtf50"][0]
    wanted = np.exp(-2 * (np.pi * 1.0 * 0.3) ** 2)
    assert after["transfer_30"][0] == pytest.approx(wanted, abs=0.06)
    assert before["transfer_30"][0] == pytest.approx(1, abs=0.06)
    kept = findings.keep(copied / "image_quality.json", "image-quality", folder=tmp_path / "results")
    found = findings.read(kept)
    assert found.of("noise_percent", "denoise", "nlmeans") == [after["noise_percent"][0]]
    assert found.params["part"] == "test"
    assert found.params["command"].startswith("python validation/image_quality.py measure --")
    text = (copied / "image_quality.md").read_text()
    assert "| NLMEANS (DIPY) |" in text
    assert (copied / "image_quality.png").stat().st_size > 10_000
    assert "sub-0" not in text


def group_of(tables, method, absent, step, places):
    """Responses to places of scans, (scans, places, realisations, channels), and the same with a step for a signal."""
    records = []
    for scan, seen in enumerate(absent):
        samples = [
            {
                "scan": scan,
                "place": place,
                "realisation": n,
                "diameter_mm": 5.0,
                "sigmas": 2.0,
                "present": list(seen[place, n] + step),
                "absent": list(seen[place, n]),
                "recovered": 1.0,
            }
            for place in range(places)
            for n in range(2)
        ]
        setup = {"sizes_mm": [5.0], "sigmas": [2.0]}
        records.append({"setup": setup, "samples": samples, "scan": scan})
    return tables.Group("denoise", method, tuple(records))


def test_dprime_of_files_is_that_of_their_samples(command):
    """Made-up responses of 40 places: a ratio of 2 by construction, an interval round it; none where places are few."""
    tables = importlib.import_module("quality_tables")
    absent = np.random.default_rng(0).normal(size=(4, 12, 2, 13))

    def group(method, step, places=12):
        return group_of(tables, method, absent, step, places)

    rows = tables.dprimes([group("noisy", 0.5), group("medidiff", 1.0)], "noisy")
    eye = {(r["method"], r["anatomy"]): r for r in rows if r["observer"] == "non-prewhitening with eye filter"}
    for anatomy in tables.ANATOMY:
        value, low, high = eye["medidiff", anatomy]["dprime"]
        assert low < value < high
        assert value == pytest.approx(1.0, abs=0.35)
        assert eye["medidiff", anatomy]["ratio"][0] == pytest.approx(2, rel=0.05)
    few = tables.dprimes([group("noisy", 0.5, places=2)], "noisy")
    assert [r["dprime"] for r in few if r["observer"].startswith("Hotelling, diff")] == [[None] * 3] * 2


def test_intervals_of_dprime_hold_the_value_and_mostly_the_truth(command):
    """Seven channels at six places of each of six scans: d' is 1.5 by construction (95 % of 120 such sets hold it)."""
    tables = importlib.import_module("quality_tables")
    held = 0
    for seed in range(40):
        absent = np.random.default_rng(seed).normal(size=(6, 6, 2, 13))
        rows = tables.dprimes([group_of(tables, "noisy", absent, 1.5 / np.sqrt(7), 6)], "noisy")
        told = {row["anatomy"]: row["dprime"] for row in rows if row["observer"].startswith("Hotelling, diff")}
        value, low, high = told["unknown"]
        assert low < value < high
        held += low < 1.5 < high
    assert 36 <= held < 40


def test_one_scan_has_no_interval(command):
    tables = importlib.import_module("quality_tables")
    absent = np.random.default_rng(0).normal(size=(1, 40, 2, 13))
    (row, *_) = tables.dprimes([group_of(tables, "noisy", absent, 0.5, 40)], "noisy")
    assert row["dprime"][0] > 0
    assert row["dprime"][1:] == [None, None]


@pytest.mark.parametrize("broken", ["measure --crop 8", "measure --sigmas 0", "measure --factor 1", "report --draws 2"])
def test_broken_settings_are_refused(command, broken, capsys):
    assert command.main(broken.split()) == 2
    assert capsys.readouterr().err.startswith("E-SETTING")


def test_an_empty_folder_is_refused(command, tmp_path, capsys):
    assert command.main(["report", "--out", str(tmp_path)]) == 4
    assert capsys.readouterr().err.startswith("E-NOIMAGES")
