"""Refusals that need a damaged stream, a missing device or an unwilling system to be met."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pydicom
import pytest
import torch
from pydicom.encaps import encapsulate
from pydicom.uid import RLELossless

from medidiff.errors import InputError, SettingsError
from medidiff.io import ReadOptions, read, write
from medidiff.restore import Settings
from medidiff.volume import Geometry, Volume
from tests import dicom_cases

SHAPE = (5, 6, 7)


def nifti(path: Path) -> Path:
    return write(Volume(np.ones(SHAPE, np.int16), Geometry(SHAPE, np.eye(4))), path)[0]


def test_a_stream_that_goes_on_behind_the_voxels_is_a_bomb(tmp_path):
    plain = nifti(tmp_path / "a.nii").read_bytes()
    bomb = tmp_path / "bomb.nii.gz"
    bomb.write_bytes(gzip.compress(plain + bytes(2**24 + 2**20), compresslevel=1))
    with pytest.raises(InputError, match=r"E-BOMB: bomb\.nii\.gz"):
        read(bomb)
    bomb.write_bytes(gzip.compress(plain + bytes(1000)))
    assert read(bomb).shape == SHAPE


def test_pixels_that_no_decoder_understands(tmp_path):
    for file in dicom_cases.series(tmp_path / "rle"):
        dataset = pydicom.dcmread(file)
        dataset.file_meta.TransferSyntaxUID = RLELossless
        dataset.PixelData = encapsulate([b"\x02" + b"\xff" * 99])
        dicom_cases.save(dataset, file, syntax=RLELossless)
    with pytest.raises(InputError, match=r"E-DECODE: \S+\.dcm PixelData"):
        read(tmp_path / "rle")


def test_a_system_that_refuses(tmp_path, monkeypatch):
    file = nifti(tmp_path / "a.nii")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(InputError, match=r"E-READ: a\.nii: Permission denied"):
        read(file)


def test_a_scan_number_that_is_not_there(tmp_path):
    file = nifti(tmp_path / "a.nii")
    assert read(file, ReadOptions(scan=1)).shape == SHAPE
    with pytest.raises(InputError, match=r"E-SCAN.*wanted: 1"):
        read(file, ReadOptions(scan=2))


def test_a_device_that_is_not_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SettingsError, match=r"E-DEVICE.*--device auto"):
        Settings(device="cuda")
