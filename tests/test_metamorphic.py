"""What does not change a scan does not change what is read: names, folders, encodings, and files beside."""

from __future__ import annotations

import random
import tempfile
import zipfile
from copy import deepcopy
from functools import cache
from pathlib import Path

import dicom_cases
import numpy as np
import pytest
from badinputs import build
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

import medidiff.io as mio
from medidiff.errors import InputError
from medidiff.volume import Volume

PLAN = build.Plan(axes=build.OBLIQUE, shape=(34, 33, 5), bias=-1000)
PLAIN = {
    "explicit": ExplicitVRLittleEndian,
    "implicit": ImplicitVRLittleEndian,
    "big endian": ExplicitVRBigEndian,
    "deflated": DeflatedExplicitVRLittleEndian,
}
PACKED = {"RLE": RLELossless, "JPEG-LS": JPEGLSLossless, "JPEG 2000": JPEG2000Lossless}
JUNK = {
    "notes.txt": b"a note",
    "empty": b"",
    "Thumbs.db": bytes(range(256)) * 4,
    "picture.jpg": b"\xff\xd8\xff\xe0" + bytes(500),
    "scan.json": b'{"SeriesDescription": "x"}',
    ".DS_Store": b"\0\0\0\1Bud1" + bytes(100),
    "scan.nii": bytes(2000),
}


@cache
def _encoded(syntax: str) -> tuple[bytes, ...]:
    """The files of the series in one encoding, in spatial order."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images = deepcopy(list(_images()))
        for k, ds in enumerate(images):
            if syntax == "big endian":
                ds.PixelData = dicom_cases.pixels(ds).astype(">u2").tobytes()
            dicom_cases.save(ds, folder / f"{k}", syntax=PLAIN.get(syntax, ExplicitVRLittleEndian))
        files = sorted(folder.iterdir())
        if syntax in PACKED:
            dicom_cases.compress(files, PACKED[syntax])
        return tuple(file.read_bytes() for file in files)


@cache
def _images() -> tuple[Dataset, ...]:
    return tuple(build.slices(PLAN))


@cache
def plainly() -> Volume:
    """The series as it is read from five well-named files."""
    with tempfile.TemporaryDirectory() as name:
        _lay(Path(name), dict(zip("abcde", _encoded("explicit"), strict=True)))
        return mio.read(name)


def _lay(folder: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        assert not Path(name).is_absolute()
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def same(scan: Volume) -> bool:
    """Whether a scan is the series, to the last bit."""
    return (
        scan.geometry == plainly().geometry
        and scan.data.dtype == plainly().data.dtype
        and np.array_equal(scan.data, plainly().data)
        and (scan.modality, scan.units) == (plainly().modality, plainly().units)
    )


names = st.lists(
    st.text(
        st.characters(codec="utf-8", exclude_characters="/\0", exclude_categories=("Cs",)), min_size=1, max_size=12
    ),
    min_size=5,
    max_size=5,
    unique_by=str.casefold,
).filter(lambda found: not any(name.startswith(".") for name in found))
folders = st.lists(st.sampled_from([".", "a", "a/b", "0/1/2", "ä ö", "b.dcm"]), min_size=5, max_size=5)
junk = st.sets(st.sampled_from(sorted(JUNK)))


@settings(max_examples=40, deadline=None, derandomize=True, database=None, phases=[Phase.generate])
@given(names=names, folders=folders, junk=junk, order=st.permutations(range(5)), syntax=st.sampled_from(sorted(PLAIN)))
def test_names_folders_encodings_and_junk_change_nothing(names, folders, junk, order, syntax):
    files = _encoded(syntax)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name) / "scan"
        _lay(root, {f"{folders[n]}/{n} {names[n]}": files[k] for n, k in enumerate(order)})
        _lay(root, {f"{folders[0]}/{name}": JUNK[name] for name in junk})
        assert same(mio.read(root))
        found = mio.find(root)
        assert {entry.file for entry in found.skipped} == junk


@pytest.mark.parametrize("syntax", PACKED)
def test_compression_changes_nothing(tmp_path, syntax):
    _lay(tmp_path, dict(zip("edcba", _encoded(syntax), strict=True)))
    assert same(mio.read(tmp_path))


def test_each_slice_may_have_an_encoding_of_its_own(tmp_path):
    kinds = (*PLAIN, "RLE")
    _lay(tmp_path, {f"{k}.dcm": _encoded(kind)[k] for k, kind in enumerate(kinds)})
    assert same(mio.read(tmp_path))


@pytest.mark.parametrize("packing", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_an_archive_changes_nothing(tmp_path, packing):
    with zipfile.ZipFile(tmp_path / "scan.zip", "w", packing) as archive:
        for k, content in enumerate(reversed(_encoded("explicit"))):
            archive.writestr(f"a/{k % 2}/{k}", content)
        archive.writestr("a/notes.txt", b"a note")
    assert same(mio.read(tmp_path / "scan.zip"))


@pytest.mark.parametrize("seed", range(3))
def test_the_order_in_which_files_were_made_changes_nothing(tmp_path, seed):
    files = list(enumerate(_encoded("explicit")))
    random.Random(seed).shuffle(files)
    _lay(tmp_path, {f"IM{k}": content for k, content in files})
    assert same(mio.read(tmp_path))


# -- what does change a scan is noticed --------------------------------------------------------------------------------


@pytest.mark.parametrize("broken", ["swap", "drop", "value", "place"])
def test_a_change_of_content_is_noticed(tmp_path, broken):
    files = list(_encoded("explicit"))
    images = deepcopy(list(_images()))
    if broken == "swap":
        images[1].PixelData, images[2].PixelData = images[2].PixelData, images[1].PixelData
    elif broken == "value":
        images[3].RescaleIntercept = "-1023"
    elif broken == "place":
        for ds in images:
            ds.ImagePositionPatient = [float(v) + 0.01 for v in ds.ImagePositionPatient]
    for k, ds in enumerate(images):
        files[k] = dicom_cases.save(ds, tmp_path / "one" / f"{k}").read_bytes()
    if broken == "drop":
        (tmp_path / "one" / "4").unlink()
    assert not same(mio.read(tmp_path / "one"))


def test_a_slice_lost_on_the_way_is_refused(tmp_path):
    files = dict(zip("abcde", _encoded("explicit"), strict=True))
    del files["c"]
    _lay(tmp_path, files)
    with pytest.raises(InputError, match="E-GAP"):
        mio.read(tmp_path)
