"""What becomes one scan, what becomes several, and what is refused because a split would be a guess."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import dicom_cases as cases
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

import medidiff.io as mio
from medidiff.errors import InputError

LATER = 3000  # of the second volume against the first, of the third against the second
Mark = Callable[[Dataset, int, int], object]


def volumes(folder: Path, mark: Mark, *, count: int = 2, shuffle: int = 0) -> Path:
    """Several MR volumes in one series; `mark(image, volume, k)` tells them apart or leaves one out."""
    uids = {"study": generate_uid(), "series": generate_uid(), "frame": generate_uid()}
    names = np.random.default_rng(shuffle).permutation(count * cases.SHAPE[2])
    for n in range(count):
        for k in range(cases.SHAPE[2]):
            ds = cases.image(k, modality="MR", uids=uids)
            cases.set_pixels(ds, cases.pixels(ds) + LATER * n)
            if mark(ds, n, k) is not False:
                cases.save(ds, folder / f"IM{names[n * cases.SHAPE[2] + k]:04d}")
    return folder


def setting(*each: dict) -> Mark:
    def mark(ds: Dataset, n: int, k: int) -> None:
        for name, value in each[n].items():
            setattr(ds, name, value)

    return mark


def shifts(path: Path) -> list[float]:
    """The shift of each scan against the ramp, in the order of the scans; refuses anything but the ramp."""
    found = []
    for scan in mio.find(path).scans:
        volume = scan.load().volume
        apart = volume.data[0] - cases.ramp(volume.geometry, cases.truth())
        assert np.ptp(apart) < 1e-6, "not one volume"
        found.append(float(apart.mean().round(3)))
    return found


def problem(path: Path, code: str) -> str:
    with pytest.raises(InputError) as caught:
        mio.read(path)
    message = str(caught.value)
    assert caught.value.code == code, message
    assert not any(secret in message for secret in cases.SECRETS), message
    return message


def _b_value(ds: Dataset, n: int, k: int) -> None:
    ds.add_new(0x00189087, "FD", (1000.0, 0.0, 500.0)[n])


def _siemens(ds: Dataset, n: int, k: int) -> None:
    ds.add_new(0x00190010, "LO", "SIEMENS MR HEADER")
    ds.add_new(0x0019100C, "IS", str((1000, 0, 500)[n]))


def _trigger(ds: Dataset, n: int, k: int) -> None:
    ds.TriggerTime, ds.AcquisitionTime = str((40, 0, 20)[n] + k / 10), f"12{k:02d}{n:02d}"


def _clock(ds: Dataset, n: int, k: int) -> None:
    ds.AcquisitionTime = f"12{(30, 10, 20)[n]:02d}{k:02d}.5"


TOLD = {
    "temporal position": setting(*({"TemporalPositionIdentifier": str(n)} for n in (30, 4, 7))),
    "echo": setting(*({"EchoNumbers": str(n), "EchoTime": f"{4.6 * n:.4g}"} for n in (3, 1, 2))),
    "echo time only": setting(*({"EchoTime": text} for text in ("13.8", "4.60", "9.2"))),
    "dixon": setting(*({"ImageType": ["DERIVED", "PRIMARY", "DIXON", kind]} for kind in ("WATER", "FAT", "IN_PHASE"))),
    "inversion": setting(*({"InversionTime": str(n)} for n in (900, 100, 400))),
    "acquisition": setting(*({"AcquisitionNumber": str(n)} for n in (3, 1, 2))),
    "b-value": _b_value,
    "b-value of a maker": _siemens,
    "trigger time, slice by slice": _trigger,
    "clock of the acquisition": _clock,
}


@pytest.mark.parametrize("name", TOLD)
def test_volumes_at_the_same_places_are_told_apart(tmp_path, name):
    wanted = [LATER, 2 * LATER, 0]  # by number, or in the order of the alphabet
    path = volumes(tmp_path, TOLD[name], count=3)
    assert shifts(path) == wanted
    for series in mio.inspect(path).series:
        assert any("one of 3 volumes at the same places, told apart by" in text for text in series.decisions)
    assert shifts(volumes(tmp_path / "again", TOLD[name], count=3, shuffle=1)) == wanted
    problem(path, "E-MULTISERIES")


def test_two_attributes_one_after_the_other(tmp_path):
    def mark(ds: Dataset, n: int, k: int) -> None:
        ds.EchoTime, ds.ImageType = str(5 * (1 + n // 2)), ["ORIGINAL", "PRIMARY", "MP"[n % 2]]

    path = volumes(tmp_path, mark, count=4)
    assert shifts(path) == [0, 2 * LATER, LATER, 3 * LATER]
    assert "ImageType ORIGINAL PRIMARY P and EchoTime 10" in mio.inspect(path).series[-1].decisions[0]
    assert "4: MR 7x6x5, 5 files, ImageType ORIGINAL PRIMARY P and EchoTime 10" in problem(path, "E-MULTISERIES")


def test_directions_of_one_b_value(tmp_path):
    def mark(ds: Dataset, n: int, k: int) -> None:
        ds.add_new(0x00189087, "FD", float(1000 * (n > 0)))
        if n:
            ds.add_new(0x00189089, "FD", np.eye(3)[n - 1].tolist())

    assert sorted(shifts(volumes(tmp_path, mark, count=4))) == [0, LATER, 2 * LATER, 3 * LATER]


def test_a_number_that_counts_slices_splits_nothing(tmp_path):
    def edit(ds: Dataset, k: int) -> None:
        ds.AcquisitionNumber, ds.EchoTime = str(k + 1), str(3 + k % 2)

    cases.series(tmp_path, modality="MR", edit=edit)
    assert shifts(tmp_path) == [0]


# -- a split that would be a guess -------------------------------------------------------------------------------------


def _one_short(ds: Dataset, n: int, k: int) -> bool:
    ds.TemporalPositionIdentifier = str(n + 1)
    return (n, k) != (1, 4)  # at the end, where the volume alone would look whole


def _crossed(ds: Dataset, n: int, k: int) -> None:
    ds.EchoNumbers, ds.AcquisitionNumber = str(n + 1), str((n + k) % 2 + 1)


def _slice_by_slice(ds: Dataset, n: int, k: int) -> None:
    ds.AcquisitionTime = f"12{k:02d}{n:02d}.0"


GUESSES = {
    "a volume lacks its last slice": ("E-GAP", _one_short, "TemporalPositionIdentifier 2"),
    "nothing tells them apart": ("E-4D", lambda ds, n, k: None, "2 images at each of 5 positions"),
    "two labels disagree": ("E-4D", _crossed, "EchoNumbers and AcquisitionNumber"),
    "a clock that runs back and forth": ("E-4D", _slice_by_slice, "no attribute"),
    "one image too many": ("E-DUPPOS", lambda ds, n, k: n == 0 or k == 2, "same position"),
}


@pytest.mark.parametrize("name", GUESSES)
def test_a_guess_is_refused(tmp_path, name):
    code, mark, said = GUESSES[name]
    assert said in problem(volumes(tmp_path, mark), code)


def test_the_image_too_many_is_named_with_what_differs(tmp_path):
    def mark(ds: Dataset, n: int, k: int) -> bool:
        ds.AcquisitionNumber = str(n + 1)
        return n == 0 or k == 2

    message = problem(volumes(tmp_path, mark), "E-DUPPOS")
    assert "AcquisitionNumber" in message
    assert message.count("IM00") == 2


# -- stacks of one series ----------------------------------------------------------------------------------------------


def test_two_stacks_of_different_orientation_are_two_scans(tmp_path):
    uids = {"study": generate_uid(), "series": generate_uid(), "frame": generate_uid()}
    for name, axes in (("a", cases.AXIAL), ("b", cases.OBLIQUE)):
        for k in range(cases.SHAPE[2]):
            cases.save(cases.image(k, axes=axes, uids=uids), tmp_path / f"{name}{k}")
    scans = [scan.load() for scan in mio.find(tmp_path).scans]
    assert [
        cases.ramp_error(s.volume, cases.truth(a)) < 1e-6
        for s, a in zip(scans, (cases.AXIAL, cases.OBLIQUE), strict=True)
    ]
    assert all("one of 2 stacks of its series" in " ".join(scan.decisions) for scan in scans)
    assert all(len(scan.files) == 5 and len(scan.skipped) == 5 for scan in scans)


@pytest.mark.parametrize(("degrees", "where"), [(0.5, 4), (0.5, 0), (90, 4), (90, 2)])
def test_a_turned_slice_of_the_stack_is_no_localiser(tmp_path, degrees, where):
    turn = np.radians(degrees)

    def edit(ds: Dataset, k: int) -> None:
        if k == where:
            ds.ImageOrientationPatient = [1, 0, 0, 0, f"{np.cos(turn):.12f}", f"{np.sin(turn):.12f}"]

    cases.series(tmp_path, edit=edit)
    assert f"IM{where:04d}.dcm" in problem(tmp_path, "E-ORIENTATION")


def test_three_single_images_are_no_stack(tmp_path):
    axes = ([1, 0, 0, 0, 1, 0], [0, 1, 0, 0, 0, -1], [1, 0, 0, 0, 0, -1])

    def edit(ds: Dataset, k: int) -> None:
        ds.ImageOrientationPatient = axes[k]

    cases.series(tmp_path, edit=edit, slices=range(3))
    assert "3 orientations" in problem(tmp_path, "E-2D")


# -- enhanced files ----------------------------------------------------------------------------------------------------


def _frames(times: int, mark: Callable[[Dataset, int], None]) -> Callable[[Dataset], None]:
    """Several volumes in one enhanced file: volume n lies `LATER` above the ramp, and `mark(group, n)` labels it."""

    def edit(ds: Dataset) -> None:
        first, size = list(ds.PerFrameFunctionalGroupsSequence), len(ds.PixelData)
        cells = np.frombuffer(ds.PixelData, "<u2")
        groups = [deepcopy(group) for _ in range(times) for group in first]
        for number, group in enumerate(groups):
            mark(group, number // len(first))
        ds.PerFrameFunctionalGroupsSequence, ds.NumberOfFrames = groups, len(groups)
        ds.PixelData = b"".join((cells + LATER * n).astype("<u2").tobytes() for n in range(times))
        assert len(ds.PixelData) == times * size

    return edit


def _content(**values) -> Callable[[Dataset, int], None]:
    def mark(group: Dataset, n: int) -> None:
        group.FrameContentSequence = [Dataset()]
        for name, each in values.items():
            setattr(group.FrameContentSequence[0], name, each[n])

    return mark


def test_an_enhanced_file_of_three_times_is_three_scans(tmp_path):
    edit = _frames(3, _content(TemporalPositionIndex=(3, 1, 2)))
    file = cases.enhanced(tmp_path / "a.dcm", order=(4, 2, 0, 1, 3), edit=edit)
    assert shifts(file) == [LATER, 2 * LATER, 0]
    reading = mio.find(file).scans[0].load()
    assert "TemporalPositionIndex 1" in " ".join(reading.decisions)
    assert (reading.files, reading.skipped) == ((file,), ())


def test_an_enhanced_file_whose_frames_nothing_tells_apart(tmp_path):
    cases.enhanced(tmp_path / "a.dcm", edit=_frames(2, lambda group, n: None))
    problem(tmp_path, "E-4D")


def test_two_enhanced_files_of_one_series_are_two_scans(tmp_path):
    uids = [generate_uid(), generate_uid()]

    def edit(ds: Dataset) -> None:
        ds.SOPInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = generate_uid(), *uids

    for name in "ab":
        cases.enhanced(tmp_path / name, edit=edit)
    assert shifts(tmp_path) == [0, 0]


def test_two_stacks_of_one_enhanced_file_are_two_scans(tmp_path):
    def mark(group: Dataset, n: int) -> None:
        _content(StackID=("1", "2"))(group, n)
        place = group.PlanePositionSequence[0]
        place.ImagePositionPatient = [
            float(v) + (100 * n if axis == 2 else 0) for axis, v in enumerate(place.ImagePositionPatient)
        ]

    file = cases.enhanced(tmp_path / "a.dcm", edit=_frames(2, mark))
    scans = [scan.load().volume for scan in mio.find(file).scans]
    apart = [scan.data[0] - cases.ramp(scan.geometry, cases.truth()) for scan in scans]
    assert np.allclose(apart[0], 0)
    assert np.allclose(apart[1], LATER - 100 * 100 / cases.SPACING[2])


# -- copies ------------------------------------------------------------------------------------------------------------


def test_an_image_again_with_other_remarks_is_kept_once(tmp_path):
    files = cases.series(tmp_path)
    again = pydicom.dcmread(files[1])
    again.PatientName, again.StudyDescription = "SECRET^OTHER", "another remark"
    again.save_as(tmp_path / "again.dcm")
    reading = mio.read_scan(tmp_path)
    assert cases.ramp_error(reading.volume, cases.truth()) < 1e-9
    (entry,) = reading.skipped
    assert entry.file == "again.dcm"
    assert "again" in entry.reason
    again.ImagePositionPatient = ["0", "0", "99"]
    again.save_as(tmp_path / "again.dcm")
    assert "again.dcm" in problem(tmp_path, "E-DUPPOS")


def test_a_damaged_file_of_no_known_series_is_held_against_each_of_its_folder(tmp_path):
    cases.series(tmp_path / "both" / "a")
    last = cases.series(tmp_path / "both" / "b", modality="MR")[-1]
    last.write_bytes(last.read_bytes()[:300])
    good, bad = mio.inspect(tmp_path / "both").series
    assert not good.problem
    assert "E-TRUNC" in bad.problem
    (tmp_path / "both" / "b" / "IM0004.dcm").rename(tmp_path / "both" / "stray.dcm")
    assert all("E-TRUNC" in series.problem for series in mio.inspect(tmp_path / "both").series)


def test_the_oracle_notices_volumes_that_are_mixed_up(tmp_path):
    """Negative: two images that carry each other's label fail the law that the tests above rest on."""

    def mark(ds: Dataset, n: int, k: int) -> None:
        ds.EchoTime = str(5 * (1 + (n if k != 3 else 1 - n)))

    with pytest.raises(AssertionError, match="not one volume"):
        shifts(volumes(tmp_path, mark))
