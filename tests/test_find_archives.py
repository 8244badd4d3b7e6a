"""Scans inside zip and tar archives, and archives that mean harm."""

from __future__ import annotations

import gc
import io
import stat
import tarfile
import zipfile
from pathlib import Path

import dicom_cases as cases
import numpy as np
import pytest

import medidiff.io as mio
from medidiff.errors import InputError
from medidiff.io.files import archives
from medidiff.io.files.walk import gather


def zipped(file: Path, members: dict[str, bytes], *, method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file


def tarred(file: Path, members: dict[str, bytes], *, mode: str = "w") -> Path:
    with tarfile.open(file, mode) as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return file


def members(tmp_path: Path, **kwargs) -> dict[str, bytes]:
    return {f"study/{file.name}": file.read_bytes() for file in cases.series(tmp_path / "plain", **kwargs)}


def refused(path: Path, code: str) -> str:
    with pytest.raises(InputError) as caught:
        mio.read(path)
    assert caught.value.code == code, caught.value
    return str(caught.value)


@pytest.fixture
def folders(tmp_path, monkeypatch) -> Path:
    """Where the private folders of archives appear."""
    home = tmp_path / "private"
    home.mkdir()
    monkeypatch.setattr(archives.tempfile, "tempdir", str(home))
    return home


@pytest.mark.parametrize("kind", ["zip", "stored zip", "tar", "tar.gz", "misnamed"])
def test_an_archive_reads_like_its_folder(tmp_path, folders, kind):
    content = {**members(tmp_path), "study/notes.txt": b"no image"}
    if kind in ("tar", "tar.gz"):
        file = tarred(tmp_path / f"a.{kind}", content, mode="w:gz" if kind == "tar.gz" else "w")
    else:
        method = zipfile.ZIP_STORED if kind == "stored zip" else zipfile.ZIP_DEFLATED
        file = zipped(tmp_path / ("a.dcm" if kind == "misnamed" else "a.zip"), content, method=method)
    reading = mio.read_scan(file)
    assert cases.ramp_error(reading.volume, cases.truth()) < 1e-9
    assert reading.volume.geometry == mio.read(tmp_path / "plain").geometry
    assert len(reading.files) + len(reading.skipped) == len(content)
    assert {entry.file for entry in reading.skipped} == {"notes.txt"}
    assert mio.fingerprint(file) == mio.fingerprint(tmp_path / "plain")
    assert mio.sources(file) == (file,)
    assert mio.inspect(file).series[0].shape == reading.volume.shape
    gc.collect()
    assert list(folders.iterdir()) == []


def test_members_live_as_long_as_what_was_found(tmp_path, folders):
    found = mio.find(zipped(tmp_path / "a.zip", members(tmp_path)))
    scan = found.scans[0]
    del found
    gc.collect()
    (folder,) = folders.iterdir()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert cases.ramp_error(scan.load().volume, cases.truth()) < 1e-9
    del scan
    gc.collect()
    assert list(folders.iterdir()) == []


def test_nothing_is_left_when_an_archive_is_refused(tmp_path, folders):
    content = members(tmp_path)
    file = zipped(tmp_path / "a.zip", content, method=zipfile.ZIP_STORED)
    cases.patch(file, b"\x01\x02", b"\x01\x03")
    refused(file, "E-ARCHIVE")
    assert list(folders.iterdir()) == []


@pytest.mark.parametrize("name", ["../../out.dcm", "/out.dcm", "C:\\out.dcm", "..\\..\\out.dcm", "a/../../../out.dcm"])
@pytest.mark.parametrize("pack", [zipped, tarred])
def test_names_lead_nowhere(tmp_path, folders, name, pack):
    content = list(members(tmp_path).items())
    file = pack(tmp_path / "a.zip", dict([*content[:4], (name, content[4][1])]))
    before = sorted(tmp_path.rglob("*"))
    reading = mio.read_scan(file)
    assert cases.ramp_error(reading.volume, cases.truth()) < 1e-9
    assert "out.dcm" in {file.name for file in reading.files}
    assert sorted(tmp_path.rglob("*")) == before
    assert not Path("/out.dcm").exists()


def test_one_name_twice_loses_no_slice(tmp_path, folders):
    content = list(members(tmp_path).values())
    zipped(tmp_path / "a.zip", {f"{n}.dcm": image for n, image in enumerate(content)}, method=zipfile.ZIP_STORED)
    packed = (tmp_path / "a.zip").read_bytes()
    for n in range(1, len(content)):
        packed = packed.replace(f"{n}.dcm".encode(), b"0.dcm")
    (tmp_path / "a.zip").write_bytes(packed)
    assert cases.ramp_error(mio.read(tmp_path / "a.zip"), cases.truth()) < 1e-9


def test_links_and_devices_are_skipped(tmp_path, folders):
    content = members(tmp_path)
    file = tarred(tmp_path / "a.tar", content)
    with tarfile.open(file, "a") as archive:
        for name, kind, target in (("link", tarfile.SYMTYPE, "/etc/passwd"), ("pipe", tarfile.FIFOTYPE, "")):
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = kind, target
            archive.addfile(entry)
    zipped(tmp_path / "b.zip", content)
    with zipfile.ZipFile(tmp_path / "b.zip", "a") as archive:
        link = zipfile.ZipInfo("link")
        link.create_system, link.external_attr = 3, 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    for path, names in ((file, {"link", "pipe"}), (tmp_path / "b.zip", {"link"})):
        reading = mio.read_scan(path)
        assert {entry.file for entry in reading.skipped} == names
        assert cases.ramp_error(reading.volume, cases.truth()) < 1e-9


@pytest.mark.parametrize("kind", ["zip", "lying zip", "tar.gz", "long name"])
def test_bombs_are_refused_before_they_fill_the_disk(tmp_path, folders, monkeypatch, kind):
    monkeypatch.setattr("medidiff.io.files.limits._FREE", 2**20)
    monkeypatch.setattr("medidiff.io.files.limits._MAX_RATIO", 50)
    zeros = {"IM0.dcm": bytes(2**25)}
    if kind.endswith("zip"):
        file = zipped(tmp_path / "a.zip", zeros)
        if kind == "lying zip":  # declares a small member; the reader stops at what is declared, and its sum is wrong
            cases.patch(file, (2**25).to_bytes(4, "little"), (2**10).to_bytes(4, "little"))
        refused(file, "E-ARCHIVE" if kind == "lying zip" else "E-BOMB")
    elif kind == "tar.gz":
        refused(tarred(tmp_path / "a.tar.gz", zeros, mode="w:gz"), "E-BOMB")
    else:
        file = tarred(tmp_path / "a.tar.gz", {"x" * 2**21: b""}, mode="w:gz")
        refused(file, "E-ARCHIVE")
    assert list(folders.iterdir()) == []


def test_too_many_members_and_locked_archives(tmp_path, folders, monkeypatch):
    file = zipped(tmp_path / "a.zip", {str(n): b"" for n in range(20)})
    content = bytearray(file.read_bytes())
    monkeypatch.setattr(archives, "MAX_MEMBERS", 10)
    assert "members" in refused(file, "E-ARCHIVE")
    assert "members" in refused(tarred(tmp_path / "a.tar", {str(n): b"" for n in range(20)}), "E-ARCHIVE")
    monkeypatch.undo()
    for mark, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):  # set the bit of encryption in every header
        start = content.find(mark)
        while start >= 0:
            content[start + at] |= 1
            start = content.find(mark, start + 1)
    file.write_bytes(bytes(content))
    assert "password" in refused(file, "E-ARCHIVE")


def test_methods_that_inflate_without_a_cap_are_refused(tmp_path, folders):
    file = zipped(tmp_path / "a.zip", {"a": bytes(1000)}, method=zipfile.ZIP_BZIP2)
    refused(file, "E-ARCHIVE")


def test_an_archive_of_nothing_and_an_archive_in_a_folder(tmp_path, folders):
    refused(zipped(tmp_path / "empty.zip", {}), "E-NOIMAGES")
    cases.series(tmp_path / "both")
    zipped(tmp_path / "both" / "copy.zip", {"a": b"b"})
    (entry,) = mio.inspect(tmp_path / "both").skipped
    assert entry.file == "copy.zip"
    assert "archive" in entry.reason


def test_the_oracle_notices_members_in_the_wrong_place(tmp_path, folders):
    """Negative: two slices whose pixels are swapped inside an archive fail the law that the tests above rest on."""
    content = list(members(tmp_path).values())
    one, two = (image[-84:] for image in content[1:3])
    content[1], content[2] = content[1][:-84] + two, content[2][:-84] + one
    scan = mio.read(zipped(tmp_path / "a.zip", {f"{n}.dcm": image for n, image in enumerate(content)}))
    assert cases.ramp_error(scan, cases.truth()) > 50


def test_gathered_members_keep_the_order_of_folders_and_names(tmp_path, folders):
    file = zipped(tmp_path / "a.zip", {"b/2": b"x", "a/1": b"x", "b/1": b"x"})
    gathered = gather(file)
    assert [path.name for path in gathered.files] == ["1", "2", "1"]
    assert np.all([path.is_file() for path in gathered.files])


@pytest.mark.parametrize("pack", [zipped, tarred])
def test_empty_members_cost_no_files(tmp_path, folders, pack):
    many = {f"empty/{number}": b"" for number in range(2000)}
    file = pack(tmp_path / "a.bin", {**many, **members(tmp_path)})
    found = mio.find(file)
    assert mio.read(file).shape == cases.SHAPE
    assert [entry.reason for entry in found.skipped] == ["no bytes in it"] * 2000
    assert sum(place.is_file() for place in folders.rglob("*")) == cases.SHAPE[2]


@pytest.mark.parametrize(
    ("field", "value"),
    [(28, b"\0\0"), (42, b"\xff\xff\xff\x7f"), (20, b"\xff\xff\xff\x7f"), (30, b"\x40\x9c"), (8, b"\x40\0")],
    ids=["name", "place", "size", "extra", "encryption"],
)
def test_a_directory_that_lies_is_a_damaged_archive(tmp_path, folders, field, value):
    file = zipped(tmp_path / "a.zip", {"x": b"0" * 40}, method=zipfile.ZIP_STORED)
    content = bytearray(file.read_bytes())
    entry = content.index(b"PK\1\2")
    content[entry + field : entry + field + len(value)] = value
    file.write_bytes(content)
    with pytest.raises(InputError) as caught:
        mio.find(file)
    assert caught.value.code in ("E-ARCHIVE", "E-NOIMAGES")


def test_a_directory_before_the_first_byte_is_a_damaged_archive(tmp_path, folders):
    file = zipped(tmp_path / "a.zip", members(tmp_path))
    content = bytearray(file.read_bytes())
    end = content.index(b"PK\5\6")
    content[end + 16 : end + 20] = b"\xf0\xff\xff\xff"
    file.write_bytes(content)
    refused(file, "E-ARCHIVE")


def test_another_compression_says_what_to_do(tmp_path, folders):
    assert "Unpack it yourself" in refused(
        zipped(tmp_path / "a.zip", members(tmp_path), method=zipfile.ZIP_BZIP2), "E-ARCHIVE"
    )
