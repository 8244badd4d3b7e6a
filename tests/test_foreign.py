"""Nothing is replaced that medidiff did not write, and that is told before a network is asked for; its own may be."""

from __future__ import annotations

import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

import medidiff.cli as cli
import medidiff.io as mio
from medidiff.errors import OutputError
from medidiff.io.own import is_own
from tests.cli_cases import ball, document, everything, refused
from tests.nifti_cases import nifti

SCANS = ("theirs.nii", "theirs.nii.gz", "theirs.nrrd", "theirs.mha")


def theirs(path: Path) -> Path:
    """A scan of another program, with no record beside it."""
    if path.name.endswith((".nii", ".nii.gz")):
        nib.save(nib.Nifti1Image(np.full((4, 5, 6), 7, np.int16), np.eye(4)), path)
    else:
        sitk.WriteImage(sitk.GetImageFromArray(np.full((6, 5, 4), 7, np.int16)), str(path))
    return path


@pytest.fixture
def no_prior(monkeypatch):
    monkeypatch.setattr("medidiff.prior.Prior.load", lambda *_: pytest.fail("a prior was loaded"))


@pytest.mark.parametrize("name", SCANS)
@pytest.mark.parametrize("verb", [["denoise"], ["superresolve", "--spacing", 0.9, 1.1, 1], ["convert"]])
def test_a_scan_of_another_program_is_never_replaced(verb, name, ball_file, tmp_path, capsys, no_prior):
    place = theirs(tmp_path / name)
    before = everything(tmp_path)
    said = refused([verb[0], ball_file, place, *verb[1:]], capsys, 5)
    assert f"E-OVERWRITE: {name}: a file that medidiff did not write" in said
    assert everything(tmp_path) == before


@pytest.mark.parametrize("option", ["--spread", "--draw", "--residual"])
def test_nor_is_one_at_another_output(option, ball_file, tmp_path, capsys, no_prior):
    place = theirs(tmp_path / "theirs.nii.gz")
    before = everything(tmp_path)
    assert "E-OVERWRITE" in refused(["denoise", ball_file, tmp_path / "o.nii", option, place], capsys, 5)
    bounds = ["--interval", 0.9, tmp_path / "l.nii", place]
    assert "E-OVERWRITE" in refused(["denoise", ball_file, tmp_path / "o.nii", *bounds], capsys, 5)
    assert everything(tmp_path) == before


@pytest.mark.parametrize("name", SCANS)
def test_nor_is_a_text_that_has_the_name_of_a_scan(name, ball_file, tmp_path, capsys, no_prior):
    (tmp_path / name).write_text("my notes")
    assert "E-OVERWRITE" in refused(["denoise", ball_file, tmp_path / name], capsys, 5)
    assert (tmp_path / name).read_text() == "my notes"


def test_a_file_without_any_bytes_is_replaced(ball_file, tmp_path, capsys):
    (tmp_path / "o.nii").touch()
    document(["convert", ball_file, tmp_path / "o.nii"], capsys)
    assert mio.read(tmp_path / "o.nii").shape == mio.read(ball_file).shape


@pytest.mark.parametrize("name", ["o.nii", "o.nii.gz", "o.nrrd", "o.mha"])
def test_a_result_of_its_own_is_replaced_with_its_record_or_without(name, ball_file, card, tmp_path, capsys):
    words = ["--prior", card, "--noise-level", 50]
    document(["convert", ball_file, tmp_path / name], capsys)
    assert is_own(tmp_path / name)
    document(["denoise", ball_file, tmp_path / name, *words], capsys)
    first = (tmp_path / name).read_bytes()
    (tmp_path / "o.json").unlink()  # as where a run was killed between the two
    document(["denoise", ball_file, tmp_path / name, *words], capsys)
    assert (tmp_path / name).read_bytes() == first


def test_a_record_of_its_own_does_not_make_a_scan_its_own(ball_file, tmp_path, capsys, no_prior):
    document(["convert", ball_file, tmp_path / "o.nii.gz"], capsys)
    theirs(tmp_path / "o.nii.gz")
    before = (tmp_path / "o.nii.gz").read_bytes()
    assert "E-OVERWRITE" in refused(["denoise", ball_file, tmp_path / "o.nii.gz"], capsys, 5)
    assert (tmp_path / "o.nii.gz").read_bytes() == before


@pytest.mark.parametrize("name", ["o.nii.gz", "o.mha"])
def test_a_damaged_result_is_known_by_its_record(name, ball_file, tmp_path, capsys):
    document(["convert", ball_file, tmp_path / name], capsys)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(b"\x1f\x8b" + bytes(40))
    document(["convert", ball_file, tmp_path / name], capsys)
    assert (tmp_path / name).read_bytes() == whole


def test_a_file_of_many_versions_of_nifti(tmp_path):
    for kind in (nib.Nifti1Image, nib.Nifti2Image):
        image = kind(np.zeros((4, 5, 6), np.int16), np.eye(4))
        nib.save(image, tmp_path / "a.nii")
        assert not is_own(tmp_path / "a.nii")
        image.header["descrip"] = b"medidiff; research use only"
        nib.save(image, tmp_path / "a.nii")
        assert is_own(tmp_path / "a.nii")


def test_in_and_out_exchanged(card, tmp_path, capsys, no_prior):
    source = nifti(tmp_path / "a.nii")
    before = source.read_bytes()
    document(["convert", source, tmp_path / "b.nii"], capsys)
    assert "E-OVERWRITE" in refused(["denoise", tmp_path / "b.nii", source, "--prior", card], capsys, 5)
    assert source.read_bytes() == before
    document(["convert", tmp_path / "b.nii", tmp_path / "c.nii"], capsys)  # both are medidiff's own
    said = refused(["denoise", tmp_path / "c.nii", tmp_path / "b.nii", "--prior", card], capsys, 5)
    assert "the input was made from this file" in said
    assert "exchanged" in said


def test_all_scans_of_a_path_leave_what_stands_in_the_folder(ball_file, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    place = theirs(tmp_path / "out" / "scan-01-MR.nii.gz")
    before = place.read_bytes()
    said = refused(["convert", ball_file, tmp_path / "out", "--all"], capsys, 8)
    assert "E-OVERWRITE" in said
    assert place.read_bytes() == before


@pytest.mark.parametrize("ending", [".html", ".htm"])
def test_a_page_of_another_program_is_never_replaced(ending, ball_file, tmp_path, capsys, no_prior):
    page = tmp_path / f"page{ending}"
    page.write_text("<!doctype html><p>my thesis</p>")
    before = everything(tmp_path)
    assert "E-OVERWRITE" in refused(["qc", ball_file, ball_file, "-o", page], capsys, 5)
    assert "E-OVERWRITE" in refused(["qc", ball_file.parent, "-o", page], capsys, 5)
    assert "E-OVERWRITE" in refused(["denoise", ball_file, tmp_path / "o.nii", "--report", page], capsys, 5)
    assert everything(tmp_path) == before


def test_a_page_of_its_own_is_replaced(ball_file, tmp_path, capsys):
    document(["convert", ball_file, tmp_path / "runs" / "o.nii"], capsys)
    for words in ([ball_file, ball_file], [tmp_path / "runs"], [ball_file, ball_file]):
        document(["qc", *words, "-o", tmp_path / "page.html"], capsys)
        assert is_own(tmp_path / "page.html")


@pytest.mark.parametrize("name", SCANS)
def test_python_replaces_its_own_and_nothing_else(name, tmp_path):
    place = theirs(tmp_path / name)
    before = everything(tmp_path)
    with pytest.raises(OutputError, match="E-OVERWRITE"):
        mio.write(ball(), place)
    assert everything(tmp_path) == before
    for seed in (0, 1):  # a cell that is run twice
        mio.write(ball(seed=seed), tmp_path / f"own-{name}")
    assert np.array_equal(mio.read(tmp_path / f"own-{name}").data, ball(seed=1).data)


def test_a_demo_leaves_what_stands_in_its_folder(tmp_path, capsys, no_prior):
    (tmp_path / "table.json").write_text('{"mine": 1}')
    assert "E-OVERWRITE: table.json" in refused(["demo", "-o", tmp_path], capsys, 5)
    assert everything(tmp_path) == {"table.json": b'{"mine": 1}'}


def test_a_batch_leaves_what_stands_in_its_folder(ball_file, card, tmp_path, capsys, monkeypatch):
    words = ["batch", "denoise", ball_file.parent, tmp_path / "out", "--prior", card, "--workers", 1]
    assert cli.main([*map(str, words), "--noise-level", "50", "--json"]) == 0
    (result,) = (tmp_path / "out").glob("*_denoised.nii.gz")
    shutil.rmtree(tmp_path / "out" / ".medidiff")
    theirs(result)
    before = result.read_bytes()
    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr("medidiff.cli.batch_task.restored", lambda *_, **__: pytest.fail("the network ran"))
        assert "E-OVERWRITE" in refused([*words, "--noise-level", 50], capsys, 8)
    assert result.read_bytes() == before
