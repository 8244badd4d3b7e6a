"""Identity stays inside the DICOM objects of the source's study, whatever `convert` is asked for."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from medidiff import cli
from tests import dicom_cases, planted

NAMES = (*planted.SECRETS, "PLANTFOLDER")


def plant(ds, k: int) -> None:
    pixels = ds.PixelData
    planted.plant(ds)
    ds.PixelData = pixels


@pytest.fixture
def source(tmp_path) -> Path:
    dicom_cases.series(tmp_path / "PLANTFOLDER", modality="MR", edit=plant)
    return tmp_path / "PLANTFOLDER"


@pytest.mark.parametrize(
    ("name", "words", "gap"),
    [
        ("a.nii.gz", ["--on-gap", "resample"], True),
        ("a.nrrd", ["--on-gap", "resample", "--json"], True),
        ("a", ["--on-gap", "resample", "--format", "dicom"], True),
        ("a", ["--all"], False),
        ("a", ["--all", "--format", "dicom"], False),
        ("a", ["--all", "--format", "metaimage", "--json"], False),
        ("a", ["--like", "SOURCE", "--format", "dicom"], False),
    ],
)
def test_conversion_tells_nothing_outside_dicom(source, tmp_path, capfd, name, words, gap):
    if gap:
        sorted(source.iterdir())[2].unlink()
    out, given = tmp_path / "out", source
    if "--like" in words:
        given = tmp_path / "x.nii.gz"
        assert cli.main(["convert", str(source), str(given)]) == 0
    argv = ["convert", str(given), str(out / name), *(str(source) if word == "SOURCE" else word for word in words)]
    assert cli.main(argv) == 0
    assert planted.found_in("".join(capfd.readouterr()).encode(), planted.SECRETS) == []
    written = [file for file in out.rglob("*") if file.is_file()]
    assert len(written) >= 3
    for file in written:
        assert planted.found_in(str(file.relative_to(out)).encode(), NAMES) == []
        if file.suffix != ".dcm":
            content = file.read_bytes()
            content += gzip.decompress(content) if content[:2] == b"\x1f\x8b" else b""
            assert planted.found_in(content, NAMES) == [], file.name
