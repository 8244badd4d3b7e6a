"""Names: what may be written down, what may be written to, and what never reaches a terminal."""

from __future__ import annotations

import re

import pytest

from medidiff.errors import InputError, OutputError, printable
from medidiff.io.files.names import inside, output_name, safe_label

NEUTRAL = [
    *("IM0003.dcm", "T1w.nii.gz", "t1-brain.nii.gz", "slice_07.dcm", "0001.dcm", "IM00001234", "IM-0001-0012.dcm"),
    *("sub-01_ses-02_T1w.nii.gz", "Series 3", "scan.nrrd", "IM0003.dcm frame 5", "DICOMDIR", "noisy.mha", "CT.1.ima"),
]
REVEALING = [
    *("Doe^Jane.dcm", "Mueller_Hans_T1w.nii.gz", "19700131.dcm", "1970-01-31.nii", "4711007.dcm", "ID4711.dcm"),
    *("01-02-1970.dcm", "jane", "scan of Jane Doe.nii.gz", "IM0001-Doe.dcm", "010203.dcm", "MRN 12345.zip", "T1w.doe"),
    *("Jürgen.nii.gz", "=cmd().nii", "\x1b[31mIM1.dcm", "IM1.dcm\n", "IM\u202e1.dcm", "\udcff.dcm", "", ".."),
]
HOSTILE = [
    *("../../etc/passwd", "/etc/passwd", "C:\\x", "CON", "con.nii", "NUL", "LPT1", "a\0b", "x" * 300, "ü" * 300),
    *("name.", "name. . .", ".hidden", "-rf", "\u202egpj.exe", "a\u200bb", "", " ", "a/b", "a\nb", "\udcff", "~", "*?"),
]


@pytest.mark.parametrize("name", NEUTRAL)
def test_a_neutral_name_is_its_own_label(name):
    assert safe_label(name) == name
    assert safe_label(f"/home/Jane Doe/{name}") == name


@pytest.mark.parametrize("name", REVEALING)
def test_any_other_name_becomes_a_hash(name):
    label = safe_label(name)
    assert re.fullmatch(r"file-[0-9a-f]{8}(\.[a-z.]+)?", label)
    assert safe_label(f"C:\\scans\\{name}") in (label, safe_label("scans"))
    assert label == safe_label(name)
    assert label != safe_label(name + "x")


@pytest.mark.parametrize("text", [*HOSTILE, *REVEALING])
def test_an_output_name_is_safe_anywhere(text, tmp_path):
    name = output_name(text, ending=".dcm")
    assert re.fullmatch(r"[A-Za-z0-9._-]{1,80}\.dcm", name)
    assert not name.startswith((".", "-"))
    stem = output_name(text)
    assert stem == stem.rstrip(". ")
    assert stem.upper().split(".")[0] not in {"CON", "NUL", "PRN", "AUX", "LPT1"}
    assert inside(tmp_path, name).parent == tmp_path.resolve()
    (tmp_path / name).write_text("x")


def test_different_texts_give_different_names():
    texts = [*HOSTILE, "scan", "Scan", "SCAN", "scan.", "sc\u00e4n", "sca\u0308n", "x" * 301]
    names = [output_name(text).lower() for text in texts]
    assert len(set(names)) == len(texts)


@pytest.mark.parametrize(
    "name", ["../x", "a/../../x", "/etc/passwd", "C:\\x", "C:x", "\\\\host\\x", "a\0", "..", "~/.."]
)
def test_a_name_that_leads_out_is_refused(name, tmp_path):
    with pytest.raises(OutputError, match="E-OUTSIDE") as caught:
        inside(tmp_path, name)
    assert "\0" not in str(caught.value)
    with pytest.raises(InputError, match="E-OUTSIDE"):
        inside(tmp_path, name, error=InputError)


def test_a_link_that_leads_out_is_refused(tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "other").mkdir()
    (root / "in").mkdir()
    (root / "link").symlink_to(tmp_path / "other")
    (root / "inner").symlink_to(root / "in")
    assert inside(root, "inner/x") == (root / "in" / "x").resolve()
    with pytest.raises(OutputError, match="E-OUTSIDE"):
        inside(root, "link/x")


@pytest.mark.parametrize(
    "wild", ["\x1b[31m", "a\nb", "a\rb", "\x07", "\x9b31m", "\u202e", "\u200b", "\udcff", "\u2028", "\0"]
)
def test_a_message_is_one_printable_line(wild):
    error = InputError("E-X", f"found {wild}", wanted=wild, mend=wild, file=f"{wild}.dcm", attribute=wild)
    for text in (str(error), printable(wild)):
        assert text.isprintable()
        text.encode("utf-8")
    assert printable("Größe 3 µm × 2, 日本") == "Größe 3 µm × 2, 日本"
