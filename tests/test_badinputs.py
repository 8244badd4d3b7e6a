"""Every bad input gets what it must: read right by the ramp oracle, or refused with the right words."""

from __future__ import annotations

import warnings
from dataclasses import replace

import badinputs
import pytest
from badinputs.build import Plan, made, setting, without
from badinputs.case import Case, judge

import medidiff.io as mio
from medidiff.errors import InputError
from medidiff.volume import Geometry, Volume

GOOD = Case("good", made(), (Plan().truth(),))
GAP = Case("gap", made(edit=without(2)), (), "E-GAP", says=("S001.dcm",))


@pytest.mark.parametrize("case", badinputs.DICOM, ids=str)
def test_dicom(tmp_path, case):
    assert judge(case, case.make(tmp_path)) == ""


@pytest.mark.parametrize("case", badinputs.NIFTI, ids=str)
def test_nifti(tmp_path, case):
    assert judge(case, case.make(tmp_path)) == ""


def test_each_case_has_a_name_of_its_own():
    for table in (badinputs.DICOM, badinputs.NIFTI):
        assert len({str(case) for case in table}) == len(table)
        assert all(case.truth or case.code for case in table)


# -- the judge itself: what breaks the law is noticed ------------------------------------------------------------------


def test_the_judge_is_content_with_a_good_reader(tmp_path):
    assert judge(GOOD, GOOD.make(tmp_path / "good")) == ""
    assert judge(GAP, GAP.make(tmp_path / "gap")) == ""


@pytest.mark.parametrize("broken", ["flip", "transpose", "shift", "slope", "cut"])
def test_the_judge_notices_a_wrong_volume(tmp_path, monkeypatch, broken):
    path = GOOD.make(tmp_path)
    scan = mio.read(path)
    data, affine = scan.data[0], scan.geometry.affine.copy()
    if broken == "flip":
        data = data[::-1]
    elif broken == "transpose":
        data = data.transpose(1, 0, 2)
    elif broken == "shift":
        affine[1, 3] += 0.01
    elif broken == "slope":
        data = data * 1.001
    else:
        data = data[:, :, :-1]
    wrong = Volume(data, Geometry(data.shape, affine))
    monkeypatch.setattr(mio, "read", lambda path, options=None: wrong)
    assert ("not (9, 8, 6)" if broken == "cut" else "SILENTLY WRONG") in judge(GOOD, path)


def test_the_judge_notices_what_should_have_been_refused(tmp_path):
    assert "not refused with E-GAP" in judge(GAP, GOOD.make(tmp_path))
    assert "E-2D" in judge(GOOD, made(edit=without(0, 1, 2, 3, 4))(tmp_path / "one"))


@pytest.mark.parametrize(
    ("refusal", "noticed"),
    [
        (InputError("E-TILT", "S001.dcm", mend="x"), "another code"),
        (InputError("E-GAP", "a file", mend="x"), "does not say 'S001.dcm'"),
        (InputError("E-GAP", "S001.dcm of SECRET^NAME", mend="x"), "leaks 'SECRET'"),
        (InputError("E-GAP", "S001.dcm"), "no mend"),
    ],
)
def test_the_judge_notices_a_bad_message(tmp_path, monkeypatch, refusal, noticed):
    def refuse(path, options=None):
        raise refusal

    monkeypatch.setattr(mio, "read", refuse)
    assert noticed in judge(GAP, GAP.make(tmp_path))


def test_the_judge_notices_a_file_without_account(tmp_path, monkeypatch):
    path = GOOD.make(tmp_path)
    (path / "notes.txt").write_text("a note")
    found = mio.find(path)
    assert judge(GOOD, path) == ""
    monkeypatch.setattr(mio, "find", lambda path, options=None: replace(found, skipped=()))
    assert "7 files seen, 6 used, 0 skipped" in judge(GOOD, path)
    monkeypatch.setattr(mio, "find", lambda path, options=None: found)
    assert "is not skipped once" in judge(replace(GOOD, skipped=("other",)), path)


def test_the_judge_notices_scans_that_are_mixed_up(tmp_path):
    two = Case("two", made(), (Plan().truth(), Plan("MR").truth()))
    series = badinputs.dicom_series._two_series(tmp_path)
    assert judge(two, series) == ""
    swapped = replace(two, truth=(Plan().truth(), Plan("MR", bias=9.0).truth()))
    assert "fits no truth" in judge(swapped, series)


def test_the_judge_hears_warnings(tmp_path, monkeypatch):
    path, find = GOOD.make(tmp_path), mio.find

    def loud(path, options=None):
        warnings.warn("SECRET", stacklevel=1)
        return find(path, options)

    monkeypatch.setattr(mio, "find", loud)
    assert "warned" in judge(GOOD, path)


def test_generated_series_are_whole(tmp_path):
    """The generator's own negative: an edit reaches the file."""
    path = made(edit=setting(2, RescaleSlope="2"))(tmp_path)
    assert "SILENTLY WRONG" in judge(GOOD, path)
