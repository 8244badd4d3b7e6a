"""Siemens mosaics: every slice in its place, against the ramp and against nibabel."""

from __future__ import annotations

import gzip
import struct
import warnings
from dataclasses import replace
from pathlib import Path

import dicom_cases as cases
import nibabel
import numpy as np
import pytest
from pydicom.dataset import Dataset

import medidiff.io as mio
from medidiff.errors import InputError
from medidiff.io.dicom.series import mosaic
from medidiff.io.dicom.series.mosaic import csa_values

NICOM = Path(nibabel.__file__).parent / "nicom" / "tests" / "data"


def csa(values: dict[str, list[str]], *, second: bool = True) -> bytes:
    """A CSA header of either layout."""
    out = b"SV10\x04\x03\x02\x01" if second else b""
    out += struct.pack("<II", len(values), 77)
    first = 6
    for name, texts in values.items():
        out += struct.pack("<64si4s3i", name.encode(), len(texts), b"FD\0\0", 3, first, 77)
        for text in [*texts, *[""] * (first - len(texts))]:
            raw = text.encode() + b"\0" if text else b""
            length = len(raw)
            out += struct.pack("<4i", length, length, 77, length) if second else struct.pack("<4i", length + 6, 0, 0, 0)
            out += raw + bytes(-length % 4)
    return out


def write(file: Path, *, axes=cases.AXIAL, sign=1.0, count=5, layout=True, edit=None) -> Path:
    """The MR ramp as one mosaic; with `sign` -1 its slices are stored from the last to the first."""
    slices = [cases.image(k, modality="MR", axes=axes) for k in range(count)][:: int(sign)]
    ds, side = slices[0], int(np.ceil(np.sqrt(count)))
    rows, columns = cases.SHAPE[1], cases.SHAPE[0]
    whole = np.zeros((rows * side, columns * side), int)
    for n, part in enumerate(slices):
        r, c = divmod(n, side)
        whole[r * rows : (r + 1) * rows, c * columns : (c + 1) * columns] = cases.pixels(part)
    corner = np.array(ds.ImagePositionPatient, float)
    back = np.asarray(axes[0]) * 0.75 * columns + np.asarray(axes[1]) * 0.5 * rows
    ds.ImagePositionPatient = [f"{v:.10g}" for v in corner - back * (side - 1) / 2]
    ds.ImageType, ds.SpacingBetweenSlices = ["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"], "2.5"
    ds.Rows, ds.Columns = whole.shape
    cases.set_pixels(ds, whole)
    normal = sign * np.cross(*axes)
    block = ds.private_block(0x0029, "SIEMENS CSA HEADER", create=True)
    values = {
        "EchoLinePosition": ["1"],
        "NumberOfImagesInMosaic": [str(count)],
        "SliceNormalVector": [f"{v:.8f}" for v in normal],
    }
    block.add_new(0x10, "OB", csa(values, second=layout))
    if edit is not None:
        edit(ds)
    return cases.save(ds, file)


@pytest.mark.parametrize("layout", [True, False])
@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("axes", [cases.AXIAL, cases.OBLIQUE])
def test_the_ramp_survives(tmp_path, axes, sign, layout):
    file = write(tmp_path / "mosaic.dcm", axes=axes, sign=sign, layout=layout)
    reading = mio.read_scan(file)
    assert reading.volume.shape == cases.SHAPE
    assert cases.ramp_error(reading.volume, cases.truth(axes)) < 1e-4
    assert reading.files == (file,)


def test_a_reader_that_forgets_the_shift_fails_the_ramp(tmp_path, monkeypatch):
    file = write(tmp_path / "mosaic.dcm")
    tiles = mosaic._tiles

    def naive(header, count, normal):
        made = tiles(header, count, normal)
        off = np.subtract(header.position_mm, made[0].position_mm)
        return [replace(part, position_mm=tuple(np.add(part.position_mm, off))) for part in made]

    monkeypatch.setattr(mosaic, "_tiles", naive)
    assert cases.ramp_error(mio.read(file), cases.truth()) > 1


BROKEN = {
    "no CSA": lambda ds: [ds.__delitem__(e.tag) for e in list(ds) if e.tag.group == 0x29],
    "empty CSA": lambda ds: setattr(_block(ds), "value", b""),
    "cut CSA": lambda ds: setattr(_block(ds), "value", _block(ds).value[:300]),
    "noise for a CSA": lambda ds: setattr(_block(ds), "value", b"SV10" + bytes(range(256)) * 4),
    "no count": lambda ds: setattr(_block(ds), "value", csa({"SliceNormalVector": ["0", "0", "1"]})),
    "a count that does not fit": lambda ds: _count(ds, "26"),
    "no tile": lambda ds: _count(ds, "0"),
    "another normal": lambda ds: _count(ds, "5", normal=("0", "1", "0")),
    "no distance": lambda ds: delattr(ds, "SpacingBetweenSlices"),
}


def _block(ds: Dataset):
    return ds.private_block(0x0029, "SIEMENS CSA HEADER")[0x10]


def _count(ds: Dataset, number: str, normal=("0", "0", "1")) -> None:
    values = {"NumberOfImagesInMosaic": [number], "SliceNormalVector": list(normal)}
    _block(ds).value = csa(values)


@pytest.mark.parametrize("name", BROKEN)
def test_what_cannot_be_placed_is_refused_with_the_mend(tmp_path, name):
    file = write(tmp_path / "mosaic.dcm", edit=BROKEN[name])
    with pytest.raises(InputError) as caught:
        mio.read(file)
    assert caught.value.code == "E-MOSAIC"
    assert "dcm2niix" in caught.value.mend
    assert not any(secret in str(caught.value) for secret in cases.SECRETS)


def test_two_mosaics_are_two_volumes(tmp_path):
    def at(time: int):
        def edit(ds: Dataset) -> None:
            ds.SeriesInstanceUID = ds.FrameOfReferenceUID = "1.2.3"
            ds.InstanceNumber = ds.AcquisitionNumber = str(time)
            ds.AcquisitionTime = f"12000{time}"

        return edit

    for time in (1, 2):
        write(tmp_path / f"{time}.dcm", edit=at(time))
    volumes = [scan.load().volume for scan in mio.find(tmp_path).scans]
    assert len(volumes) == 2
    assert all(cases.ramp_error(volume, cases.truth()) < 1e-4 for volume in volumes)


@pytest.mark.parametrize("name", ["csa2_b0.bin", "csa2_b1000.bin", "csa_str_valid.bin"])
def test_headers_read_as_nibabel_reads_them(name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from nibabel.nicom import csareader

    raw = (NICOM / name).read_bytes()
    reference = csareader.read(raw)["tags"]
    assert set(csa_values(raw)) == set(reference)
    for tag, values in csa_values(raw).items():
        theirs = [v for v in reference[tag]["items"] if v != ""]
        assert len(values) == len(theirs)
        if theirs and isinstance(theirs[0], float):
            assert [float(v) for v in values] == theirs


@pytest.mark.parametrize("name", ["siemens_dwi_0.dcm.gz", "siemens_dwi_1000.dcm.gz"])
def test_a_real_mosaic_lies_where_nibabel_puts_it(tmp_path, name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from nibabel.nicom.dicomwrappers import wrapper_from_file

        file = tmp_path / "real.dcm"
        file.write_bytes(gzip.decompress((NICOM / name).read_bytes()))
        reference = wrapper_from_file(file)
        values, affine = np.asarray(reference.get_data()), np.diag((-1, -1, 1, 1)) @ reference.affine
    scan = mio.read(file)
    assert scan.shape == (values.shape[1], values.shape[0], values.shape[2])
    index = np.moveaxis(np.indices(scan.shape), 0, -1)
    theirs = scan.geometry.world(index) - affine[:3, 3]
    theirs = np.linalg.solve(affine[:3, :3], theirs[..., None])[..., 0]
    assert np.abs(theirs - np.rint(theirs)).max() < 1e-3
    assert np.array_equal(values[tuple(np.moveaxis(np.rint(theirs).astype(int), -1, 0))], scan.data[0])
