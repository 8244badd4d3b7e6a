"""De-identification: what is refused, what is left out, and what a person is told to look at."""

from __future__ import annotations

import json
import os
import stat
import zlib
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import DeflatedExplicitVRLittleEndian

from medidiff import cli
from medidiff.errors import InputError, OutputError, SettingsError
from medidiff.io.dicom.privacy import deidentify as module
from medidiff.io.dicom.privacy.deidentify import DeidentifyOptions, Key, deidentify, new_key, read_key
from tests import dicom_cases
from tests.planted import found_in

KEY = Key(b"0123456789abcdef-not-secret")
SR, PDF, SC, US = (f"1.2.840.10008.5.1.4.1.1.{end}" for end in ("88.11", "104.1", "7", "6.1"))


def one(folder: Path, **values: object) -> Path:
    """A folder with one CT image whose attributes are changed."""

    def edit(ds: Dataset, k: int) -> None:
        for name, value in values.items():
            setattr(ds, name, value)

    dicom_cases.series(folder, slices=range(1), edit=edit)
    return folder


def reasons(folder: Path, out: Path, **options: object) -> list[str]:
    """Why files of a folder were left out, a good image beside them."""
    dicom_cases.series(folder, slices=range(1))
    done = deidentify(folder, out, key=KEY, options=DeidentifyOptions(**options))
    assert len(done.files) == 1
    return [each.reason for each in done.skipped]


# ------------------------------------------------------------------------------------------------------------- the key


def test_a_new_key_is_random_and_for_its_owner_only(tmp_path):
    first, second = new_key(tmp_path / "a"), new_key(tmp_path / "b")
    assert first.secret != second.secret
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o600
    assert read_key(tmp_path / "a") == first
    with pytest.raises(SettingsError, match="E-KEY"):
        new_key(tmp_path / "a")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SettingsError, match="E-KEY"):
        new_key(tmp_path / "link")
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("content", [b"", b"short", b"\0" * 64, b"ab" * 40, b" " * 40, b"0123456789abcde", b"x" * 5000])
def test_a_weak_key_is_refused(content, tmp_path):
    (tmp_path / "key").write_bytes(content)
    (tmp_path / "key").chmod(0o600)
    with pytest.raises(SettingsError, match="E-KEY"):
        read_key(tmp_path / "key")


def test_a_key_that_is_no_private_file_is_refused(tmp_path):
    new_key(tmp_path / "key")
    (tmp_path / "key").chmod(0o644)
    os.mkfifo(tmp_path / "pipe", 0o600)
    for name, says in (("key", "others may read"), ("pipe", "regular"), ("none", "no such"), ("", "regular")):
        with pytest.raises(SettingsError, match=says):
            read_key(tmp_path / name)


# -------------------------------------------------------------------------------------------------- what is left out


@pytest.mark.parametrize("sop_class", [SR, PDF, "1.2.3.4.5", "1.2.840.10008.5.1.4.1.1.9.1.1"])
def test_an_object_that_is_no_picture_is_left_out(sop_class, tmp_path):
    ds = dicom_cases.image(0)
    ds.SOPClassUID = sop_class
    ds.ContentSequence = [Dataset()]
    ds.ContentSequence[0].TextValue = "SECRET"
    dicom_cases.save(ds, tmp_path / "in" / "report.dcm")
    with pytest.raises(InputError, match="E-DEIDENTIFY"):
        deidentify(tmp_path / "in", tmp_path / "alone", key=KEY)
    assert not (tmp_path / "alone").exists()
    (reason,) = reasons(tmp_path / "in", tmp_path / "out")
    assert reason.startswith("E-DEIDENTIFY")


def test_text_in_the_pixels_is_refused_unless_allowed(tmp_path):
    source = one(tmp_path / "in", BurnedInAnnotation="YES")
    with pytest.raises(InputError, match=r"E-BURNEDIN.*--allow-burned-in"):
        deidentify(source, tmp_path / "out", key=KEY)
    done = deidentify(source, tmp_path / "out", key=KEY, options=DeidentifyOptions(allow_burned_in=True))
    assert any("burned into" in sentence for sentence in done.decisions)


@pytest.mark.parametrize(("sop_class", "modality"), [(SC, "OT"), (US, "US")])
def test_pictures_that_may_hold_text_are_named(sop_class, modality, tmp_path):
    done = deidentify(one(tmp_path / "in", SOPClassUID=sop_class, Modality=modality), tmp_path / "out", key=KEY)
    assert any("burned into" in sentence for sentence in done.decisions)


@pytest.mark.parametrize(("part", "warned"), [("HEAD", True), ("BRAIN", True), ("", True), ("KNEE", False)])
def test_a_head_can_be_recognised(part, warned, tmp_path):
    done = deidentify(one(tmp_path / "in", BodyPartExamined=part), tmp_path / "out", key=KEY)
    assert any("deface" in sentence for sentence in done.decisions) == warned


def test_every_file_is_accounted_for(tmp_path):
    folder = tmp_path / "in"
    (files,) = [dicom_cases.series(folder)]
    (folder / "sub").mkdir()
    (folder / "sub" / "Jane Doe.txt").write_text("SECRET")
    (folder / "empty").touch()
    (folder / "twin.dcm").write_bytes(files[0].read_bytes())
    (folder / "cut.dcm").write_bytes(files[1].read_bytes()[:-40])
    (folder / "header.dcm").write_bytes(files[2].read_bytes()[:300])
    (folder / "link.dcm").symlink_to(files[0])
    (folder / "loop").symlink_to(folder)
    os.mkfifo(folder / "pipe.dcm")
    done = deidentify(folder, tmp_path / "out", key=KEY)
    seen = sum(1 for path in folder.rglob("*") if not path.is_dir() or path.is_symlink())
    assert len(done.files) == 5
    assert len(done.files) + len(done.skipped) == seen
    told = [each.reason for each in done.skipped]
    assert sum("E-DUPUID" in reason for reason in told) == 2  # the twin, and the link to a file beside it
    assert sum("E-TRUNC" in reason for reason in told) == 2
    assert found_in(repr(done).encode(), [*dicom_cases.SECRETS, "Jane"]) == []


def test_endless_sequences_are_no_crash(tmp_path):
    ds = dicom_cases.image(0)
    deep = Dataset()
    deep.PatientName = "SECRET^DEEP"
    for _ in range(150):
        outer = Dataset()
        outer.ReferencedImageSequence = Sequence([deep])
        deep = outer
    ds.SourceImageSequence = [deep]
    file = dicom_cases.save(ds, tmp_path / "in" / "deep.dcm")
    done = deidentify(file, tmp_path / "out", key=KEY)
    assert "SourceImageSequence" not in pydicom.dcmread(done.files[0])
    undefined = b"\x08\x00\x40\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff" * 5000
    content = file.read_bytes()
    (tmp_path / "in" / "endless.dcm").write_bytes(content[: content.index(b"\x08\x00\x08\x00CS")] + undefined)
    file.unlink()
    (reason,) = reasons(tmp_path / "in", tmp_path / "again")
    assert "E-TRUNC" in reason


def test_a_deflate_bomb_is_not_inflated(tmp_path):
    file = dicom_cases.save(dicom_cases.image(0), tmp_path / "in.dcm", syntax=DeflatedExplicitVRLittleEndian)
    content = file.read_bytes()
    start = 144 + int.from_bytes(content[140:144], "little")
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    inner = zlib.decompressobj(-zlib.MAX_WBITS).decompress(content[start:]) + bytes(300 * 2**20)
    file.write_bytes(content[:start] + packer.compress(inner) + packer.flush())
    with pytest.raises(InputError, match="E-BOMB"):
        deidentify(file, tmp_path / "out", key=KEY)


def test_a_huge_file_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_LARGEST", 1000)
    with pytest.raises(InputError, match="E-SIZE"):
        deidentify(one(tmp_path / "in"), tmp_path / "out", key=KEY)


# ------------------------------------------------------------------------------------------------------------ the place


def test_the_output_is_a_new_folder_outside_the_source(tmp_path):
    source = one(tmp_path / "in")
    before = [(file.name, file.read_bytes()) for file in source.iterdir()]
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    for out, says in ((source / "out", "E-OVERWRITE"), (source, "E-OVERWRITE"), (tmp_path / "full", "E-EXISTS")):
        with pytest.raises(OutputError, match=says):
            deidentify(source, out, key=KEY)
    with pytest.raises(InputError, match="E-MISSING"):
        deidentify(tmp_path / "none", tmp_path / "out", key=KEY)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="E-NOIMAGES"):
        deidentify(tmp_path / "empty", tmp_path / "out", key=KEY)
    assert [(file.name, file.read_bytes()) for file in source.iterdir()] == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "full", "in"]


def test_a_profile_with_a_hole_is_noticed(tmp_path, monkeypatch):
    """The last check does not trust the profile: it searches the bytes that were written."""
    monkeypatch.setattr(module, "clean", lambda source, **_: source)
    with pytest.raises(OutputError, match="E-LEAK"):
        deidentify(one(tmp_path / "in", PatientID="LONG-ID-4711007"), tmp_path / "out", key=KEY)
    assert not (tmp_path / "out").exists()


# ----------------------------------------------------------------------------------------------------- the command line


def test_the_command(tmp_path, capsys):
    source = one(tmp_path / "in")
    words = ["deidentify", str(source), str(tmp_path / "out"), "--key", str(tmp_path / "key")]
    assert cli.main(words) == 2
    assert "E-KEY" in capsys.readouterr().err
    assert cli.main([*words, "--new-key", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert len(told["files"]) == 1
    assert (tmp_path / "out" / told["files"][0]).is_file()
    secret = (tmp_path / "key").read_text().strip()
    words[2] = str(tmp_path / "again")
    assert cli.main(words) == 0
    out, err = capsys.readouterr()
    assert "1 files" in out
    assert "deface" in err
    assert (tmp_path / "again" / told["files"][0]).read_bytes() == (tmp_path / "out" / told["files"][0]).read_bytes()
    written = b"".join(f.read_bytes() for f in tmp_path.rglob("*") if f.is_file() and f.name != "key")
    assert secret not in out + err + json.dumps(told)
    assert secret.encode() not in written
