"""`validation/contrast.py`: each score on answers whose score is known, and both commands from end to end."""

import importlib
import json
from pathlib import Path

import numpy as np
import pytest
from contrast_cases import lesions, write_pairs
from scipy import ndimage
from training_cases import phantom

FOLDER = Path(__file__).resolve().parent.parent / "validation"


@pytest.fixture
def contrast(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("contrast")


@pytest.fixture
def who(contrast):
    """A person whose lesions are 0.3 brighter than the rest, which has a texture."""
    scan = phantom(0)
    measured = np.asarray(scan.data[0] / 700, np.float32)
    tissue, marked = measured > 0.3, lesions(scan).data[0] > 0
    texture = np.random.default_rng(0).normal(0, 0.02, measured.shape)
    sought = np.where(tissue, 0.5 + texture + 0.3 * marked, 0).astype(np.float32)
    return contrast.Person(sought, measured, tissue, marked)


def shares(contrast, who, image) -> float:
    true, drawn = contrast.lesion_contrasts(who, [who.sought, image])
    return contrast.kept(drawn, true)[0]


def test_lesions_that_are_drawn_are_kept_and_those_left_out_are_lost(contrast, who):
    assert shares(contrast, who, who.sought) == pytest.approx(1.0)
    assert shares(contrast, who, who.sought - 0.15 * who.lesions) == pytest.approx(0.5, abs=0.02)
    assert shares(contrast, who, who.sought - 0.3 * who.lesions) == pytest.approx(0.0, abs=0.05)
    assert np.isnan(contrast.kept(np.zeros(0), np.zeros(0))).all()


def test_a_blur_lacks_power_and_noise_has_too_much(contrast, who):
    truth = contrast.power(who.sought, who.tissue, 1.0)
    blurred = contrast.power(ndimage.gaussian_filter(who.sought, 1.0), who.tissue, 1.0) - truth
    noisy = contrast.power(who.sought + np.random.default_rng(1).normal(0, 0.5, who.sought.shape), who.tissue, 1.0)
    assert blurred[-1] < -1
    assert (noisy - truth)[-1] > 1


def test_a_gain_and_an_offset_are_fitted_away_and_noise_is_not(contrast, who):
    changed = 2 * who.sought + 0.1
    assert np.allclose(contrast.fitted(changed, who.sought, who.tissue), who.sought, atol=1e-4)
    noisy = changed + np.random.default_rng(1).normal(0, 0.3, changed.shape).astype(np.float32)
    assert not np.allclose(contrast.fitted(noisy, who.sought, who.tissue), who.sought, atol=1e-2)


def test_a_gain_in_decibels_has_the_sign_of_the_better_answer(contrast, who):
    rng = np.random.default_rng(1)
    near, far = (who.sought + rng.normal(0, sd, who.sought.shape) for sd in (0.05, 0.1))
    gain, low, high = contrast.gain_db(near, far, who)
    assert gain == pytest.approx(6.0, abs=0.3)
    assert low < gain < high
    assert contrast.gain_db(far, near, who)[0] == pytest.approx(-gain)


def test_ranks_are_matched_in_the_tissue(contrast, who):
    like = np.random.default_rng(2).gamma(3, 0.1, 5000).astype(np.float32)
    matched = contrast.rank_matched(who.measured + who.sought, who.tissue, like)
    wanted = np.quantile(like, [0.1, 0.5, 0.9])
    assert np.allclose(np.quantile(matched[who.tissue], [0.1, 0.5, 0.9]), wanted, atol=0.02)
    assert not np.allclose(np.quantile(who.measured[who.tissue], [0.1, 0.5, 0.9]), wanted, atol=0.02)
    assert not matched[~who.tissue].any()


def test_both_rivals_are_trained_and_scored_on_people_left_out(contrast, tmp_path, capsys):
    rivals = importlib.import_module("contrast_rivals")
    recipe, runs, out = write_pairs(tmp_path), tmp_path / "runs", tmp_path / "out"
    shared = ["--recipe", str(recipe), "--data", str(tmp_path / "scans")]
    for kind in rivals.KINDS:
        assert rivals.main([kind, *shared, "--out", str(runs)]) == 0
    first = {kind: rivals.spent(runs / kind) for kind in rivals.KINDS}
    assert min(first.values()) > 0
    scored = [*shared, "--runs", str(runs), "--lesions", "{subject}/lesions.nii.gz", "--steps", "2", "--out", str(out)]
    assert contrast.main(scored) == 0
    record = json.loads((out / "contrast.json").read_text())
    assert {row["method"] for row in record["rows"]} == {
        "histogram matching",
        "brightness alone",
        "regression",
        "diffusion, posterior mean",
        "diffusion, one draw",
        "diffusion, another draw",
    }
    assert {row["lesions"] for row in record["rows"]} == {2}
    assert record["trained"]["regression"]["images"] == record["trained"]["diffusion"]["images"] == 8
    assert (out / "contrast-1.png").stat().st_size > 1000
    assert "1 test subjects, 1 trained on" in (out / "contrast.md").read_text()
    assert contrast.main([*scored, "--runs", str(tmp_path / "nowhere")]) == 6
    write_pairs(tmp_path, data={"spacing_mm": 0.0})
    assert contrast.main(scored) == 2
    capsys.readouterr()
