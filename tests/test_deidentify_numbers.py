"""Text where numbers belong leaves with a de-identified object; true numbers stay."""

from __future__ import annotations

import dicom_cases as cases
import pydicom
import pytest
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag

import medidiff.io as mio
from medidiff import cli
from medidiff.io.dicom.privacy.numbers import is_number
from tests import planted

WORDS = ("ZEUGDECIMAL", "ZEUGWHOLE", "ZEUGAT", "ZEUGFD", "ZEUGUS")
PLANTS = (
    (0x00180081, "DS", b"ZEUGDECIMAL "),
    (0x00180087, "DS", b"3\\ZEUGDECIMAL"),
    (0x00180091, "IS", b"ZEUGWHOLE "),
    (0x00280009, "AT", b"ZEUGAT  "),
    (0x00189073, "FD", b"ZEUGFD  "),
    (0x00181310, "US", b"ZEUGUS  "),
)


def test_no_text_hides_in_a_number(tmp_path, capsys):
    def edit(ds, k: int) -> None:
        for tag, vr, value in PLANTS:
            ds[tag] = RawDataElement(Tag(tag), vr, len(value), value, 0, False, True)

    files = cases.series(tmp_path / "in", modality="MR", edit=edit)
    assert planted.found_in(files[0].read_bytes(), WORDS) == list(WORDS)  # they were there
    cases.series(tmp_path / "plain", modality="MR")
    words = ["deidentify", tmp_path / "in", tmp_path / "out", "--key", tmp_path / "key", "--new-key"]
    assert cli.main([str(word) for word in words]) == 0
    for file in (tmp_path / "out").rglob("*"):
        if file.is_file():
            assert planted.found_in(file.read_bytes(), WORDS) == []
    for file in (tmp_path / "out").rglob("*.dcm"):
        assert not {tag for tag, *_ in PLANTS} & set(pydicom.dcmread(file).keys())
    assert mio.read(tmp_path / "out").geometry.distance_mm(mio.read(tmp_path / "plain").geometry) < 1e-9


@pytest.mark.parametrize(
    ("vr", "values", "stays"),
    [
        ("DS", ["1.5", "-2e-3", ".5", ""], True),
        ("DS", ["nan"], False),
        ("DS", ["1,5"], False),
        ("IS", [" 12 "], True),
        ("IS", ["1.5"], False),
        ("FD", ["0.0", "1e-9", "35000.5"], True),
        ("FD", ["6e-154"], False),
        ("FL", ["1e20"], False),
        ("US", ["512", "512"], True),
        ("US", ["17754", "18261", "8224"], False),
        ("SS", ["-5", "7", "9"], True),
        ("AT", ["(0054,0010)"], True),
        ("AT", ["(455A,4755)"], False),
        ("OW", ["x"], True),
    ],
)
def test_what_a_number_is(vr, values, stays):
    assert is_number(vr, values) is stays
