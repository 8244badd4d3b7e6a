"""`info`: what a path holds."""

from __future__ import annotations

import json

from pydicom import DataElement, config

import medidiff.cli as cli
from tests import dicom_cases
from tests.cli_cases import SHAPE, document


def test_info_is_json_and_text(ball_file, capsys):
    (series,) = document(["info", ball_file], capsys)["series"]
    assert series["shape"] == list(SHAPE)
    assert cli.main(["info", str(ball_file)]) == 0
    assert "20 x 18 x 16" in capsys.readouterr().out


def test_info_lists_scans_problems_and_what_was_left_out(tmp_path, capsys):
    dicom_cases.series(tmp_path / "a", modality="MR")
    dicom_cases.series(tmp_path / "b", edit=lambda _, k: k != 2)
    for number in range(5):
        (tmp_path / f"file{number}.txt").write_text("text")
    assert cli.main(["info", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    lines = [line.split() for line in shown.splitlines()]
    assert [line[-1] for line in lines[1:3]] == ["read", "E-GAP"]
    assert "problem" in shown
    assert "--on-gap resample" in shown
    assert "5 files are no part of a scan" in shown
    assert "file2.txt, ..." in shown
    assert "file3.txt" not in shown
    told = document(["info", tmp_path], capsys)
    assert [each["scan"] for each in told["series"]] == [1, 2]
    assert len(told["skipped"]) == 5
    assert not list(tmp_path.rglob("*.jsonl"))


def test_the_scans_of_a_study_are_told_apart_by_their_timing_and_never_by_a_name(tmp_path, capsys):
    for name, number, echo, inversion in (("a", 4, "9.2", ""), ("b", 7, "122", "2500")):

        def timed(ds, k, number=number, echo=echo, inversion=inversion):
            ds.SeriesNumber, ds.EchoTime, ds.SeriesDescription = number, echo, "SMITH T2"
            ds.add(DataElement("FlipAngle", "DS", "NaN", validation_mode=config.IGNORE))
            if inversion:
                ds.InversionTime = inversion

        dicom_cases.series(tmp_path / name, modality="MR", edit=timed)
    one, two = (dict(map(tuple, s["details"])) for s in document(["info", tmp_path], capsys)["series"])
    assert (one["series"], one["TE"]) == ("4", "9.2 ms")
    assert (two["series"], two["TE"], two["TI"]) == ("7", "122 ms", "2500 ms")
    assert "TI" not in one
    assert "flip angle" not in one
    assert cli.main(["denoise", str(tmp_path), str(tmp_path / "out.nii.gz")]) == 4
    said = capsys.readouterr().err
    assert "series 7, TE 122 ms, TI 2500 ms" in said
    assert "SMITH" not in said


def test_a_file_of_many_frames_says_its_series_number(tmp_path, capsys):
    """The number stands beside the frames, not in them."""
    dicom_cases.enhanced(tmp_path / "a.dcm", edit=lambda ds: setattr(ds, "SeriesNumber", 12))
    dicom_cases.enhanced(tmp_path / "b.dcm", edit=lambda ds: setattr(ds, "SeriesNumber", None))
    one, two = (dict(map(tuple, s["details"])) for s in document(["info", tmp_path], capsys)["series"])
    assert one["series"] == "12"
    assert "series" not in two


def test_a_repair_is_tried(tmp_path, capsys):
    dicom_cases.series(tmp_path / "b", edit=lambda _, k: k != 2)
    (series,) = document(["info", tmp_path / "b", "--on-gap", "resample"], capsys)["series"]
    assert series["problem"] == ""
    assert series["shape"] == list(dicom_cases.SHAPE)


def test_header_text_cannot_break_a_line(tmp_path, capsys):
    def evil(dataset, k):
        dataset.add(DataElement("Modality", "CS", "MR\x1b[31m\nFORGED", validation_mode=config.IGNORE))

    dicom_cases.series(tmp_path / "a", modality="MR", edit=evil)
    (tmp_path / "new\nline\x1b[0m.txt").write_text("text")
    assert cli.main(["info", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert "\nFORGED" not in shown


def test_no_name_of_a_patient_in_a_file_name_is_shown(tmp_path, capsys):
    source = tmp_path / "study"
    dicom_cases.series(source, edit=lambda _, k: k != 2)  # with a gap, so that a problem names files, too
    for number, file in enumerate(sorted(source.iterdir())):
        file.rename(source / f"Doe_Jane_{number}.dcm")
    (source / "copy Doe.dcm").write_bytes((source / "Doe_Jane_0.dcm").read_bytes())
    (source / "Doe notes.txt").write_text("Jane")
    assert cli.main(["info", str(source)]) == 0
    said = capsys.readouterr()
    assert "first file" in said.out
    assert "file-" in said.out
    assert "E-GAP" in said.out
    told = json.dumps(document(["info", source], capsys))
    for text in (said.out, said.err, told):
        assert "Doe" not in text
        assert "Jane" not in text
