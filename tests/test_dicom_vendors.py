"""Private gradients, dimensions that only the file declares, scales of real values, and compressed bits that lie."""

from __future__ import annotations

import warnings
from copy import deepcopy

import dicom_cases
import numpy as np
import pydicom
import pytest
import world_ramp
from pydicom.dataset import Dataset
from pydicom.uid import JPEG2000Lossless, JPEGExtended12Bit, JPEGLSLossless
from world_ramp import Grid

import medidiff.io as mio
from medidiff.errors import InputError

DIRECTIONS = ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (0.7, 0.7, 0), (0, 0.7, 0.7), (0.7, 0, 0.7))


def _ge(ds, number):
    ds.add_new(0x00430010, "LO", "GEMS_PARM_01")
    ds.add_new(0x00431039, "IS", [1000 if number else 0, 8, 0, 0])
    ds.add_new(0x00190010, "LO", "GEMS_ACQU_01")
    for tag, part in zip((0x001910BB, 0x001910BC, 0x001910BD), DIRECTIONS[number], strict=True):
        ds.add_new(tag, "DS", str(part))


def _philips(ds, number):
    ds.add_new(0x20010010, "LO", "Philips Imaging DD 001")
    ds.add_new(0x20011003, "FL", 1000.0 if number else 0.0)
    ds.add_new(0x20050010, "LO", "Philips MR Imaging DD 001")
    for tag, part in zip((0x200510B0, 0x200510B1, 0x200510B2), DIRECTIONS[number], strict=True):
        ds.add_new(tag, "FL", float(part))


def _siemens(ds, number):
    ds.add_new(0x00190010, "LO", "SIEMENS MR HEADER")
    ds.add_new(0x0019100C, "IS", 1000 if number else 0)
    if number:
        ds.add_new(0x0019100E, "FD", [float(part) for part in DIRECTIONS[number]])


@pytest.mark.parametrize("vendor", [_ge, _philips, _siemens])
def test_directions_tell_volumes_apart(tmp_path, vendor):
    volumes = [world_ramp.images(Grid(shape=(5, 4, 3)), plus=20.0 * n) for n in range(7)]
    for number, volume in enumerate(volumes):
        for ds in volume:
            vendor(ds, number)
    made = world_ramp.joined(*volumes)
    order = np.random.default_rng(1).permutation(len(made)).tolist()
    scans = mio.find(world_ramp.saved(tmp_path, made, order=order)).scans
    read = [scan.load() for scan in scans]
    assert sorted(min(range(7), key=lambda n: world_ramp.error(r.volume, plus=20.0 * n)) for r in read) == [*range(7)]
    assert all(min(world_ramp.error(r.volume, plus=20.0 * n) for n in range(7)) < 0.02 for r in read)
    assert not any("?" in sentence for r in read for sentence in r.decisions)


@pytest.mark.parametrize("apart", [0.5, 3])
@pytest.mark.parametrize(("name", "values"), [("EchoTime", ("5", "10")), ("DiffusionBValue", (0.0, 1000.0))])
def test_interleaved_stacks_of_two_kinds_are_not_one_volume(tmp_path, name, values, apart):
    one, two = (world_ramp.images(Grid(), places=[n + start for n in range(3)]) for start in (0, apart))
    for made, value in zip((one, two), values, strict=True):
        for ds in made:
            setattr(ds, name, value)
    made = world_ramp.joined(one, two)
    with pytest.raises(InputError, match=rf"E-4D.*2 kinds of images.*{name}"):
        mio.read(world_ramp.saved(tmp_path, made))


def test_acquisitions_may_be_one_volume(tmp_path):
    made = world_ramp.images(Grid())
    for number, ds in enumerate(made):
        ds.AcquisitionNumber, ds.AcquisitionTime = str(number % 2 + 1), f"1200{number:02d}"
    assert world_ramp.error(mio.read(world_ramp.saved(tmp_path, made))) < 0.02


# -- enhanced files ----------------------------------------------------------------------------------------------------


def _enhanced(volumes, edit):
    """One file of the frames of several volumes, mixed."""
    frames = [(n, k, ds) for n, volume in enumerate(volumes) for k, ds in enumerate(volume)]
    frames = [frames[n] for n in np.random.default_rng(3).permutation(len(frames))]
    whole = deepcopy(frames[0][2])
    whole.SOPClassUID, whole.NumberOfFrames = "1.2.840.10008.5.1.4.1.1.4.1", len(frames)
    whole.PerFrameFunctionalGroupsSequence, whole.SharedFunctionalGroupsSequence = [], [Dataset()]
    whole.PixelData = b"".join(ds.PixelData for _, _, ds in frames)
    for n, k, ds in frames:
        group = Dataset()
        group.PlanePositionSequence = [dicom_cases._part(ds, "ImagePositionPatient")]
        group.PlaneOrientationSequence = [dicom_cases._part(ds, "ImageOrientationPatient")]
        group.PixelMeasuresSequence = [dicom_cases._part(ds, "PixelSpacing")]
        group.PixelValueTransformationSequence = [dicom_cases._part(ds, "RescaleSlope", "RescaleIntercept")]
        edit(group, n, k)
        whole.PerFrameFunctionalGroupsSequence.append(group)
    for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleSlope", "RescaleIntercept"):
        delattr(whole, name)
    return whole


def test_dimensions_tell_volumes_apart_where_nothing_else_does(tmp_path):
    def edit(group, n, k):
        group.FrameContentSequence = [Dataset()]
        group.FrameContentSequence[0].DimensionIndexValues = [k + 1, n + 1]

    volumes = [world_ramp.images(Grid(turn=world_ramp.turned(4)), plus=20.0 * n) for n in range(3)]
    dicom_cases.save(_enhanced(volumes, edit), tmp_path / "whole")
    read = [scan.load().volume for scan in mio.find(tmp_path).scans]
    assert [world_ramp.error(volume, plus=20.0 * n) < 0.02 for n, volume in enumerate(read)] == 3 * [True]


@pytest.mark.parametrize("same", [True, False])
def test_scales_of_real_values_must_be_one(tmp_path, same):
    def edit(group, n, k):
        mapping = Dataset()
        mapping.RealWorldValueSlope, mapping.RealWorldValueIntercept = 0.5 if same else 0.5 + k, 0.0
        group.RealWorldValueMappingSequence = [mapping]
        del group.PixelValueTransformationSequence

    dicom_cases.save(_enhanced([world_ramp.images(Grid())], edit), tmp_path / "whole")
    if same:
        assert mio.read(tmp_path).units == ""
    else:
        with pytest.raises(InputError, match=r"E-BADRESCALE.*7 scales"):
            mio.read(tmp_path)


# -- compressed --------------------------------------------------------------------------------------------------------


def _relabelled(folder, *, bits=0):
    made = world_ramp.images(Grid(shape=(40, 36, 3)))
    for file in sorted(world_ramp.saved(folder, made).iterdir()):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dicom_cases.compress([file], JPEG2000Lossless if bits != 11 else JPEGLSLossless)
            ds = pydicom.dcmread(file)
            ds.BitsStored, ds.HighBit = bits or 16, (bits or 16) - 1
            ds.save_as(file)
    return folder


@pytest.mark.parametrize("bits", [8, 11, 12])
def test_decoded_numbers_fit_the_bits_that_are_declared(tmp_path, bits):
    with pytest.raises(InputError, match=f"E-DECODE.*more than the {bits} bits"):
        mio.read(_relabelled(tmp_path, bits=bits))


def test_as_many_bits_as_needed_will_do(tmp_path):
    assert world_ramp.error(mio.read(_relabelled(tmp_path))) < 0.02


@pytest.mark.parametrize(("bits", "code"), [(12, "E-NODECODER"), (8, "E-DECODE")])
def test_twelve_bits_of_extended_jpeg_have_no_decoder_and_are_no_damage(tmp_path, bits, code):
    made = world_ramp.images(Grid(shape=(40, 36, 3)))
    for ds in made:
        ds.BitsStored, ds.HighBit = bits, bits - 1
        if bits == 8:
            ds.BitsAllocated = 8
        ds.PixelData = pydicom.encaps.encapsulate([b"\xff\xd8 no stream \xff\xd9"])
        ds["PixelData"].VR = "OB"
        ds["PixelData"].is_undefined_length = True
    with pytest.raises(InputError, match=code):
        mio.read(world_ramp.saved(tmp_path, made, syntax=JPEGExtended12Bit))


def test_a_signed_stream_needs_a_signed_header(tmp_path):
    grid = Grid(shape=(40, 36, 3), signed=True)
    for file in sorted(world_ramp.saved(tmp_path, world_ramp.images(grid)).iterdir()):
        dicom_cases.compress([file], JPEG2000Lossless)
    assert world_ramp.error(mio.read(tmp_path)) < 0.02
    for file in sorted(tmp_path.iterdir()):
        ds = pydicom.dcmread(file)
        ds.PixelRepresentation = 0
        ds["SmallestImagePixelValue"].VR = "US"
        ds.save_as(file)
    with pytest.raises(InputError, match=r"E-DECODE.*signed numbers"):
        mio.read(tmp_path)


def test_a_hardly_turned_slice_is_told_by_how_much(tmp_path):
    made = world_ramp.images(Grid())
    made[2].ImageOrientationPatient = [1, 2e-4, 0, -2e-4, 1, 0]
    with pytest.raises(InputError, match=r"E-ORIENTATION.*turned by 0\.0115 degrees"):
        mio.read(world_ramp.saved(tmp_path, made))


@pytest.mark.parametrize("where", [0, 3, 6])
def test_a_slice_that_calls_itself_a_localiser_is_a_slice(tmp_path, where):
    grid = Grid()
    made = world_ramp.images(grid)
    made[where].ImageType = ["DERIVED", "PRIMARY", "LOCALIZER"]
    reading = mio.read_scan(world_ramp.saved(tmp_path, made))
    assert reading.skipped == ()
    assert world_ramp.error(reading.volume) < 0.02
    assert reading.volume.shape == grid.shape
