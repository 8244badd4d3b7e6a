"""The scoring command, on a made-up scan small enough for every push."""

import importlib
import json
from pathlib import Path

import numpy as np
import pytest

from medidiff import io
from medidiff.errors import SettingsError
from medidiff.volume import Geometry, Volume

FOLDER = Path(__file__).resolve().parent.parent / "validation"


@pytest.fixture
def denoising(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("denoising")


@pytest.fixture
def peers(denoising):
    return importlib.import_module("peers")


@pytest.fixture
def study(tmp_path):
    """A data folder with one test scan, a smooth ball of tissue, and the split that names it."""
    shape, rng = (26, 28, 24), np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in shape), indexing="ij"))
    tissue = 600 + 200 * np.sin(grid[0] / 2) * np.cos(grid[1] / 3)
    scan = np.where((grid**2).sum(0) < 110, tissue, 0) + rng.normal(0, 1, shape)
    place = tmp_path / "data" / "set" / "sub-02" / "anat"
    place.mkdir(parents=True)
    volume = Volume(scan.astype(np.float32), Geometry.regular(shape), modality="MR")
    io.write(volume, place / "sub-02_T1w.nii.gz")
    split = tmp_path / "split.toml"
    split.write_text('[set]\ntrain = ["sub-01"]\ntest = ["sub-02"]\n')
    return ["--data", str(tmp_path / "data"), "--split", str(split), "--set", "set", "--prior", "none"]


def score(denoising, study, out, *more):
    code = denoising.main([*study, "--mlflow", "none", "--levels", "12", "--out", str(out), *more])
    return code, {s["method"]: s for s in json.loads((out / "denoising.json").read_text())["scores"]}


def test_the_command_writes_a_table_in_which_the_peers_beat_the_noise(denoising, study, tmp_path):
    code, scores = score(denoising, study, tmp_path / "out")
    assert code == 0
    assert scores["noisy input"]["psnr_db"] == pytest.approx(18.5, abs=1)  # 20 log10(1 / 0.12)
    for peer in ("gaussian", "nlmeans"):
        assert scores[peer]["psnr_db"] > scores["noisy input"]["psnr_db"] + 3
        assert scores[peer]["ssim"] > scores["noisy input"]["ssim"]
    table = (tmp_path / "out" / "denoising.md").read_text()
    assert "| 12 % | nlmeans |" in table
    assert "sub-02" not in table + (tmp_path / "out" / "denoising.json").read_text()


def test_the_same_command_gives_the_same_scores(denoising, study, tmp_path):
    one, two = (score(denoising, study, tmp_path / n, "--peers", "gaussian")[1]["gaussian"] for n in "ab")
    cropped = score(denoising, study, tmp_path / "c", "--peers", "gaussian", "--crop", "16")[1]["gaussian"]
    assert one["psnr_db"] == two["psnr_db"]
    assert one["psnr_db"] != cropped["psnr_db"]


def test_the_best_candidate_is_taken(denoising, peers, study):
    reference = denoising.truth(next(iter(Path(study[1]).rglob("*.nii.gz"))), 0)
    close, far = (peers.Candidate(f"{e}", lambda e=e: reference.image + np.float32(e)) for e in (0.01, 0.3))
    assert denoising.best([far, close, far], reference)[:2] == ("0.01", pytest.approx(40, abs=1e-3))
    assert denoising.best([far], reference)[0] == "0.3"


@pytest.mark.parametrize("signal", [0.0, 0.5, 2.0, 10.0, 60.0])
def test_the_mean_of_rician_noise_is_traced_back_to_its_signal(peers, signal):
    rng = np.random.default_rng(0)
    level, count = 3.0, 400_000
    y = np.hypot(signal + level * rng.normal(size=count), level * rng.normal(size=count))
    average = np.array([y.mean()])
    assert peers.unbiased(average, level)[0] == pytest.approx(signal, abs=0.05 if signal > 1 else 0.5)
    if signal < 5:
        assert average[0] > signal + 0.5  # the negative: without it, the bias is there


def test_the_settings_of_a_peer_differ_from_one_another(peers):
    for peer in (peers.gaussian, peers.nlmeans_peer):
        settings = [c.setting for c in peer(np.ones((4, 4, 4), np.float32), 0.1)]
        assert len(set(settings)) == len(settings)


@pytest.mark.parametrize(
    "broken",
    [["--levels", "0"], ["--crop", "-1"], ["--threads", "0"], ["--scans", "2"], ["--set", "no-such"]],
    ids=" ".join,
)
def test_broken_settings_are_refused_in_one_line(denoising, study, tmp_path, capsys, broken):
    assert denoising.main([*study, "--mlflow", "none", "--out", str(tmp_path), *broken]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_peer_that_is_not_installed_is_named(peers, monkeypatch):
    monkeypatch.setattr(peers.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SettingsError, match="bm4d is not installed"):
        peers.bm4d_peer(np.ones((4, 4, 4), np.float32), 0.1)


def test_every_figure_of_every_scan_is_logged_and_kept_for_the_repository(denoising, study, monkeypatch, tmp_path):
    logged = {}
    tracking = type(
        "Tracking", (), {"log_metrics": staticmethod(lambda *given, **named: logged.update(given=given, named=named))}
    )
    monkeypatch.setitem(denoising.sys.modules, "medidiff.tracking", tracking)
    words = [*study, "--levels", "12", "--peers", "gaussian", "--crop", "16", "--out", str(tmp_path)]
    assert denoising.main(words) == 0
    name, params, figures = logged["given"]
    kept = json.loads((tmp_path / "denoising.json").read_text())
    assert name == "denoising"
    assert params == kept["finding"]["params"]
    assert params["command"].startswith("python validation/denoising.py --set set --crop 16 --levels 12")
    assert str(tmp_path) not in str(params)
    for score in kept["scores"]:
        assert figures[f"psnr_db/12/{score['method']}"] == {1: score["psnr_db"]}
    assert {name.split("/")[0] for name in figures} == {"psnr_db", "ssim", "seconds"}
    assert logged["named"] == {"artifacts": [tmp_path / f"denoising.{kind}" for kind in ("md", "json")], "uri": None}


def test_noise_can_vary_and_its_level_be_estimated(denoising, study, tmp_path):
    _, plain = score(denoising, study, tmp_path / "plain")
    _, varying = score(denoising, study, tmp_path / "varying", "--varying", "--told", "estimated")
    assert varying["noisy input"]["psnr_db"] != plain["noisy input"]["psnr_db"]
    assert varying["noisy input"]["psnr_db"] == pytest.approx(plain["noisy input"]["psnr_db"] - 0.35, abs=0.5)  # 13/12
    assert varying["nlmeans"]["psnr_db"] > varying["noisy input"]["psnr_db"] + 2
    assert "varying noise, level estimated" in (tmp_path / "varying" / "denoising.md").read_text()


def test_a_contrast_that_is_not_there_is_refused(denoising, study, tmp_path, capsys):
    assert denoising.main([*study, "--contrast", "FLAIR", "--out", str(tmp_path)]) != 0
    assert "E-DATA" in capsys.readouterr().err
