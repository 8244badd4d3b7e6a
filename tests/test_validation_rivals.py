"""The rivals: what they are given, that they train, go on and are scored, and that broken files are refused."""

import importlib
import itertools
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from small_prior import small_prior
from training_cases import phantom, script, write_case

from medidiff import io
from medidiff.errors import PriorError
from medidiff.metrics.peers import cubic_spline
from medidiff.volume import Volume

FOLDER = Path(__file__).resolve().parent.parent / "validation"


@pytest.fixture
def rivals(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("rivals")


@pytest.fixture
def about(rivals):
    return rivals.About("regression", "slices", (4, 8), (1, 1, 1))


def test_the_matrix_of_the_spline_is_the_spline(rivals):
    x = torch.rand((5, 4, 24), generator=torch.Generator().manual_seed(0))
    for shift in range(3):
        seen, back, covered = rivals.spline(24, shift)
        y = x @ seen.mT
        index = np.diag([1.0, 1.0, 1 / 3, 1.0])
        index[2, 3] = -(shift + 1) / 3
        wanted = cubic_spline(y, index, shape=tuple(x.shape))
        np.testing.assert_allclose(y @ back.mT, wanted, atol=1e-5)
        assert covered == slice(shift, shift + 3 * y.shape[-1])
        np.testing.assert_allclose(y[..., 0], x[..., shift : shift + 3].mean(-1), atol=1e-6)
    assert not np.allclose(y @ back.mT, (y @ rivals.spline(24, 0)[1][:, :7].mT), atol=1e-3)  # the phase matters


def test_what_a_rival_is_given_in_training_is_what_it_is_given_in_scoring(rivals, monkeypatch):
    """One scan, no noise: the matrix of training and the grids of scoring come to the same image."""
    scores = importlib.import_module("rival_scores")
    scan = phantom(0, shape=(24, 36, 24))
    image = (scan.data[0] / 700).astype(np.float32)
    reference = scores.Truth(image, image > 0, scan.geometry)
    for module in (rivals, scores):
        monkeypatch.setattr(module, "THICK_LEVEL", 1e-6)
    _, _, _, scored = scores._asked("slices", 1, reference)
    x = torch.from_numpy(image)[None, None]
    trained, _ = rivals.measure(x, "slices", torch.Generator().manual_seed(0))
    np.testing.assert_allclose(scored, trained, atol=1e-4)


@pytest.mark.parametrize("kind", ["regression", "ddpm"])
def test_a_rival_trains_and_goes_on_where_it_was(rivals, tmp_path, monkeypatch, kind, capsys):
    monkeypatch.setattr(rivals, "_CHANNELS", (8, 8, 16))
    recipe = write_case(tmp_path)
    command = ["train", "--kind", kind, "--recipe", str(recipe), "--data", str(tmp_path / "scans")]
    command += ["--minutes", "0.01", "--batch", "2", "--out", str(tmp_path / "out")]
    said = []
    for _ in range(2):
        assert rivals.main(command) == 0
        said.append(json.loads(capsys.readouterr().out))
    assert 0 < said[0]["patches"] < said[1]["patches"]
    found, rival = rivals.load_rival(next((tmp_path / "out").iterdir()))
    assert found.patches == said[1]["patches"]
    fresh = rivals.build(found)
    assert any(not torch.equal(a, b) for a, b in zip(rival.parameters(), fresh.parameters(), strict=True))
    assert [p.suffix for p in (tmp_path / "out").iterdir()] == [".safetensors"]


def test_a_rival_that_diverges_between_two_looks_is_not_saved(rivals, tmp_path, monkeypatch, capsys):
    """The loss is looked at in the first step and in the 51st; these runs end before that."""
    recipe, loss = write_case(tmp_path), rivals._loss
    command = ["train", "--kind", "regression", "--recipe", str(recipe), "--data", str(tmp_path / "scans")]
    command += ["--minutes", "1", "--batch", "2", "--out", str(tmp_path / "out")]
    for broken, code in ((1.0, 0), (float("nan"), 6)):
        seconds = itertools.count(0, 10)
        monkeypatch.setattr(rivals, "time", SimpleNamespace(monotonic=seconds.__next__))
        monkeypatch.setattr(rivals, "_loss", lambda *of, by=broken: loss(*of) * (by if of[3] % 10 else 1.0))
        assert rivals.main(command) == code
        assert ("E-DIVERGED" in capsys.readouterr().err) == (code != 0)
        assert rivals.load_rival(tmp_path / "out" / "regression-slices.safetensors")[0].patches == 10


def test_a_regression_learns_what_the_spline_lacks(rivals, about):
    """The loss falls below the spline's own on one batch, and stays there when the rate is 0."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    x = torch.rand((2, 1, 12, 12, 12), generator=generator).round()
    given, covered = rivals.measure(x, "slices", generator)
    before = torch.nn.functional.mse_loss(given[..., covered], x[..., covered])
    for base, learns in ((2e-3, True), (0.0, False)):
        rival = rivals.build(about)
        optimizer = rivals.Muon(rival.parameters(), lr=base)
        for _ in range(60):
            loss = rival.loss(x, given, covered, generator)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        assert bool(loss < 0.95 * before) == learns


def test_the_noise_of_a_known_image_is_found_and_ddim_gives_it_back(rivals, monkeypatch):
    """A network that knows the image predicts its noise exactly: no loss, and any number of steps ends at the image."""
    rival = rivals.Ddpm()
    image = torch.rand((1, 1, 8, 8, 8), generator=torch.Generator().manual_seed(0))
    schedule = rivals.DDPMScheduler(rivals._TIMES, "scaled_linear_beta", **rivals._BETAS).alphas_cumprod

    class Exact(torch.nn.Module):
        def forward(self, shown, timesteps):
            kept = schedule[timesteps].reshape(-1, 1, 1, 1, 1)
            return (shown[:, :1] - kept.sqrt() * image) / (1 - kept).sqrt()

    rival.net = Exact()
    generator = torch.Generator().manual_seed(1)
    assert float(rival.loss(image, image, slice(None), generator)) < 1e-4
    assert float(rival.loss(image + 0.1, image, slice(None), generator)) > 1e-3
    for steps in (1, 10):
        torch.testing.assert_close(rival.answer(image, generator, steps), image, atol=1e-2, rtol=0)


def test_the_rate_rises_stays_and_falls_to_nothing(rivals):
    assert rivals.rate(2.0, 0.0) < 0.2
    assert rivals.rate(2.0, 0.5) == 2.0
    assert rivals.rate(2.0, 1.0) == 0.0


def test_weights_of_another_rival_or_of_none_are_refused(rivals, about, tmp_path):
    path = tmp_path / "rival.safetensors"
    rivals.save_rival(rivals.build(about), about, path)
    assert rivals.load_rival(path)[0] == about
    with pytest.raises(PriorError, match="E-START"):
        rivals._begun(replace(about, task="noise"), path, 0)
    for data in (b"", path.read_bytes()[:-9], b"\x80\x04."):
        path.write_bytes(data)
        with pytest.raises(PriorError, match="E-WEIGHTS"):
            rivals.load_rival(path)


@pytest.fixture
def study(tmp_path):
    """A data folder with one test scan, and the split that names it."""
    place = tmp_path / "data" / "set" / "sub-02" / "anat"
    place.mkdir(parents=True)
    scan = phantom(3, shape=(40, 38, 42))
    io.write(Volume(scan.data, scan.geometry, "MR"), place / "sub-02_T1w.nii.gz")
    (tmp_path / "split.toml").write_text('[set]\ntrain = []\ntest = ["sub-02"]\n')
    command = ["score", "--data", str(tmp_path / "data"), "--split", str(tmp_path / "split.toml"), "--set", "set"]
    return [*command, "--crop", "36", "--out", str(tmp_path / "out")]


def test_every_method_is_scored_on_the_questions_that_it_answers(rivals, about, study, tmp_path, monkeypatch):
    scores = importlib.import_module("rival_scores")
    monkeypatch.setattr(scores, "apart", scores._scored)  # here, for the time it saves
    rivals.save_rival(rivals.build(about), about, tmp_path / "a.safetensors")
    prior = small_prior().save(tmp_path / "prior")
    assert rivals.main([*study, "--prior", str(prior), "--weights", str(tmp_path / "a.safetensors")]) == 0
    told = json.loads((tmp_path / "out" / "rivals.json").read_text())["rivals"]
    found = {(s["task"], s["method"]): s for each in told for s in each["scores"]}
    assert len(found) == 2 + 4 + 1
    # a fresh regression adds nothing to the spline that it is given
    assert found["slices", "regression"]["psnr_db"] == pytest.approx(found["slices", "cubic B-spline"]["psnr_db"])
    assert found["noise", "noisy input"]["psnr_db"] != found["slices", "cubic B-spline"]["psnr_db"]
    assert "sub-02" not in (tmp_path / "out" / "rivals.md").read_text()


def test_a_method_answers_from_a_process_of_its_own(rivals, study, tmp_path, monkeypatch):
    scores = importlib.import_module("rival_scores")
    monkeypatch.setattr(scores, "_scored", None)  # in this one nothing can answer
    assert script(FOLDER / "rivals.py", *study, "--prior", "none") == 0
    (given,) = json.loads((tmp_path / "out" / "rivals.json").read_text())["rivals"]
    assert 0.1 < given["peak_gib"] < 4
    assert {s["method"] for s in given["scores"]} == {"noisy input", "cubic B-spline"}


@pytest.mark.parametrize(
    ("broken", "code"), [(["--minutes", "0"], 2), (["--batch", "0"], 2), (["--rate", "-1"], 2)], ids=str
)
def test_broken_settings_of_training_are_refused(rivals, tmp_path, capsys, broken, code):
    command = ["train", "--kind", "ddpm", "--data", str(tmp_path), "--out", str(tmp_path), *broken]
    assert rivals.main(command) == code
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("broken", [["--crop", "40"], ["--steps", "0"], ["--draws", "0"]], ids=" ".join)
def test_broken_settings_of_scoring_are_refused(rivals, capsys, broken):
    assert rivals.main(["score", *broken]) == 2
    assert capsys.readouterr().err.startswith("E-SETTING")
