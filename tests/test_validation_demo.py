"""What the demo prints is kept as it is, and nothing is where it did not end well."""

import importlib
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROWS = [
    {
        "task": task,
        "image": image,
        "psnr_db": 20.0 + n,
        "ssim": 0.7,
        "nrmse": 0.1,
        "hfen": 0.2,
        "seconds": n,
        "note": "x",
    }
    for task, images in (
        ("denoise, 9 % Rician noise", ("noisy", "Gaussian", "non-local means", "medidiff")),
        ("super-resolve, slices x3", ("thick slices", "cubic B-spline", "medidiff")),
    )
    for n, image in enumerate(images)
]


@pytest.fixture
def demo(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "validation"))
    return importlib.import_module("demo")


def ends(demo, monkeypatch, code):
    def main(words):
        (Path(words[2]) / "table.json").write_text(json.dumps({"rows": ROWS}))
        return code

    monkeypatch.setattr(demo.cli, "main", main)


def test_the_kept_demo_makes_the_readmes_table(demo, tmp_path, monkeypatch):
    ends(demo, monkeypatch, 0)
    assert demo.main(["--out", str(tmp_path)]) == 0
    findings, tables = importlib.import_module("findings"), importlib.import_module("tables")
    findings.keep(tmp_path / "demo.json", "demo", folder=tmp_path / "results")
    table = tables.demo(tables.Results(tmp_path / "results"))
    assert table.rows[0] == ("denoise, 9 % Rician noise", "noisy", "20.00", "**0.700**", "")
    assert table.rows[3] == ("", "medidiff", "**23.00**", "**0.700**", "3.0")
    assert table.rows[6] == ("", "medidiff", "**22.00**", "**0.700**", "2.0")
    assert "`python validation/demo.py`" in table.note


def test_a_demo_that_fails_leaves_nothing(demo, tmp_path, monkeypatch, capsys):
    ends(demo, monkeypatch, 6)
    assert demo.main(["--out", str(tmp_path / "out")]) == 2
    assert "the demo did not end well" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
