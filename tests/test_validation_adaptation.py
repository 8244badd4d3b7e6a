"""The study of adaptation scores what it says: the gain against the truth, on subjects of the test part alone."""

import importlib
from pathlib import Path

import numpy as np
import pytest

from medidiff.errors import SettingsError
from medidiff.io import write
from tests.small_prior import small_prior
from tests.test_adapt import world_scan

FOLDER = Path(__file__).resolve().parent.parent / "validation"


@pytest.fixture
def command(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("adaptation")


@pytest.fixture
def data(tmp_path):
    scan, clean = world_scan(size=40)
    for _, _, name in importlib.import_module("adaptation").CASES.values():
        write(scan.with_data(clean[None]), tmp_path / "data" / name)
    return tmp_path / "data"


def test_a_run_scores_each_case_and_level(command, data, tmp_path, monkeypatch, capsys):
    from medidiff.training import adapt

    monkeypatch.setattr(adapt, "_BETWEEN_LOOKS", 4)
    monkeypatch.setattr(adapt, "_RATE", 5e-3)
    card = small_prior().save(tmp_path)
    words = [
        "--data",
        data,
        "--cases",
        "T2",
        "FLAIR",
        "--levels",
        9,
        "--patches",
        8,
        "--prior",
        card,
        "--out",
        tmp_path,
    ]
    assert command.main([str(word) for word in words]) == 0
    table = (tmp_path / "adaptation.md").read_text()
    assert "| T2 | 9 % |" in table
    assert "| FLAIR | 9 % |" in table
    assert capsys.readouterr().out.startswith("Adapting tiny to one noisy scan each")


def test_the_gain_and_the_worst_case_are_told(command):
    words = {"level_percent": 9.0, "noisy_db": 20.0, "expected_gain_db": 0.4, "patches": 75, "seconds": 60.0}
    better = command.Score(case="T2", zero_shot_db=27.0, adapted_db=27.5, changed=True, **words)
    kept = command.Score(case="T1", zero_shot_db=30.0, adapted_db=30.0, changed=False, **words)
    table = command.markdown([better, kept], "")
    assert "| T2 | 9 % | 20.00 | 27.00 | 27.50 | +0.50 | +0.40 | 75 | 60 |" in table
    assert "| 30.00 | kept |" in table
    assert f"Gain 0.25 ± {np.std([0.5, 0.0], ddof=1):.2f} dB, the worst +0.00 dB." in table


def test_a_subject_that_is_trained_on_is_refused(command, tmp_path):
    split = tmp_path / "split.toml"
    split.write_text('[ms-open]\ntrain = ["patient19"]\ntest = []\n')
    with pytest.raises(SettingsError, match="E-SPLIT"):
        command.tested("T2", data=tmp_path, split=split)
    assert command.tested("T2", data=tmp_path, split=FOLDER / "split.toml").name == "T2.nii.gz"


def test_blurred_noise_has_its_level_and_neighbours(command):
    still = np.full((40, 40, 40), 5.0, np.float32)
    for blur, low, high in ((0.0, -0.03, 0.03), (0.5, 0.2, 0.4)):
        noise = command.observed(still, 0.1, blur=blur, seed=1) - still
        assert noise.std() == pytest.approx(0.1, rel=0.02)
        assert low < np.corrcoef(noise[1:].ravel(), noise[:-1].ravel())[0, 1] < high


@pytest.mark.parametrize("broken", [["--blur", "-1"], ["--levels", "-1"], ["--prior", "none"]], ids=" ".join)
def test_broken_settings_are_refused(command, broken, capsys):
    assert command.main(broken) == 2
    assert capsys.readouterr().err.startswith("E-SETTING")
