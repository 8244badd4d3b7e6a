"""A scan of one value has nothing to restore: it passes through, finite, recorded, and without a prior."""

from __future__ import annotations

import json

import numpy as np
import pytest

from medidiff.cli import main
from medidiff.errors import InputError
from medidiff.io import read, write
from medidiff.restore import denoise, superresolve
from medidiff.volume import Geometry, Volume

SHAPE = (8, 9, 6)


def scan(value: float, modality: str = "MR") -> Volume:
    return Volume(np.full(SHAPE, value, np.float32), Geometry.regular(SHAPE, spacing_mm=(1, 1, 3)), modality)


@pytest.mark.parametrize("modality", ["MR", "CT", "OT"])
@pytest.mark.parametrize("value", [0, 7.5, -1024])
@pytest.mark.parametrize("draws", [0, 2])
def test_a_constant_scan_passes_through(modality, value, draws):
    for answer in (
        denoise(scan(value, modality), prior="absent", draws=draws, keep_draws=draws),
        superresolve(scan(value, modality), (1, 1, 1), prior="absent", draws=draws, keep_draws=draws),
    ):
        assert (answer.mean.data == value).all()
        assert len(answer.draws) == draws
        assert (answer.std is None) if draws == 0 else (answer.std.data == 0).all()
        assert (answer.residual.data == 0).all()
        assert answer.residual.geometry == scan(value).geometry
        assert answer.provenance.prior == {}
        assert f"every voxel is {value:g}; it was passed through" in answer.provenance.decisions[0]


def test_a_scan_that_is_nearly_constant_does_not():
    data = np.full(SHAPE, 7.0, np.float32)
    data[3, 4, 2] = 8
    with pytest.raises(InputError, match="E-NONFINITE"):
        denoise(Volume(np.full(SHAPE, np.nan), Geometry.regular(SHAPE), "MR"))
    with pytest.raises(InputError, match="E-FLAT"):  # nothing but background: no tissue to scale by
        denoise(Volume(data, Geometry.regular(SHAPE), "MR"), prior="absent")


@pytest.mark.parametrize("verb", [["denoise"], ["superresolve", "--spacing", "1", "1", "1"]])
@pytest.mark.parametrize("bounds", [["--interval", "0.9"], ["--intervals", "bundled"]])
def test_every_output_is_written(verb, bounds, tmp_path):
    source = write(scan(7), tmp_path / "a.nii.gz")[0]
    words = [verb[0], source, tmp_path / "out" / "b.nii.gz", *verb[1:]]
    for name in ("spread", "residual", "draw"):
        words += [f"--{name}", tmp_path / "out" / f"{name}.nii.gz"]
    words += [*bounds, tmp_path / "out" / "lower.nii.gz", tmp_path / "out" / "upper.nii.gz"]
    words += ["--report", tmp_path / "out" / "page.html"]
    assert main([str(word) for word in words]) == 0
    found = {path.name.split(".")[0]: read(path).data for path in (tmp_path / "out").glob("*.nii.gz")}
    assert found.keys() == {"b", "spread", "residual", "draw", "lower", "upper"}
    assert not any(found[name].any() for name in ("spread", "residual"))
    assert all((found[name] == 7).all() for name in ("b", "draw", "lower", "upper"))


def test_quantiles_of_a_constant_scan_are_its_value():
    answer = denoise(scan(7), prior="absent", draws=12, quantiles=(0.05, 0.95))
    assert all((each.data == 7).all() for each in answer.quantiles.values())


def test_the_command_line_says_so(tmp_path, capsys):
    source = write(scan(7), tmp_path / "a.nii.gz")[0]
    assert main(["denoise", str(source), str(tmp_path / "b.nii.gz")]) == 0
    said = "".join(capsys.readouterr())
    assert "passed through" in said
    assert said.count("every voxel is 7") == 1
    assert (read(tmp_path / "b.nii.gz").data == 7).all()
    record = json.loads((tmp_path / "b.json").read_text())
    assert "passed through" in " ".join(record["Provenance"]["decisions"])
