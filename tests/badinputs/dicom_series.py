"""Which slices belong together: several series, times, echoes and kinds in one, localisers, and files that are none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import dicom_cases
from pydicom.config import IGNORE
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from badinputs.build import SAGITTAL, Plan, dropping, made, slices, write
from badinputs.case import Case, Truth

GOOD, MR = Plan(), Plan("MR")
LATER = 2500.0  # of a second volume at the same places


def uids() -> dict[str, str]:
    """UIDs for volumes that share a series."""
    return {"study": generate_uid(), "series": generate_uid(), "frame": generate_uid()}


def volumes(mark: Callable[[Dataset, int, int], object], *, count: int = 2, plan: Plan = MR, interleaved: bool = True):
    """A case's `make`: several volumes in one series; `mark(image, volume, k)` tells them apart or leaves one out."""

    def make(folder: Path) -> Path:
        shared = uids()
        sets = [slices(replace(plan, bias=plan.shift + LATER * n), uids=shared) for n in range(count)]
        order = [(n, k) for k in range(6) for n in range(count)] if interleaved else None
        images = []
        for n, k in order or [(n, k) for n in range(count) for k in range(6)]:
            ds = sets[n][k]
            ds.InstanceNumber = str(len(images) + 1)
            if mark(ds, n, k) is not False:
                images.append(ds)
        return write(folder, images)

    return make


def truths(count: int = 2, plan: Plan = MR) -> tuple[Truth, ...]:
    """Those of `volumes`."""
    return tuple(replace(plan, bias=plan.shift + LATER * n).truth() for n in range(count))


def marking(*each: dict) -> Callable[[Dataset, int, int], None]:
    """A `mark` that sets attributes by volume."""

    def mark(ds: Dataset, n: int, k: int) -> None:
        for name, value in each[n].items():
            setattr(ds, name, value)

    return mark


def _times(ds: Dataset, n: int, k: int) -> None:
    ds.TemporalPositionIdentifier, ds.NumberOfTemporalPositions = str(n + 1), "3"


def _ge_times(ds: Dataset, n: int, k: int) -> None:
    """As GE does: the number of times is told, which one is not; the trigger and the clock tell them apart."""
    ds.NumberOfTemporalPositions, ds.TriggerTime, ds.AcquisitionTime = "3", str(500 * n), f"12000{n}"


def _clock_only(ds: Dataset, n: int, k: int) -> None:
    ds.AcquisitionTime, ds.ContentTime = f"1200{n}{k}.5", f"1200{n}{k}.9"


def _nothing(ds: Dataset, n: int, k: int) -> None:
    """Two volumes that no attribute tells apart."""


def _one_time_short(ds: Dataset, n: int, k: int) -> bool:
    _times(ds, n, k)
    return (n, k) != (1, 3)


def _b_values(ds: Dataset, n: int, k: int) -> None:
    ds.add_new(0x00189087, "FD", (0.0, 1000.0)[n])


def _two_series(folder: Path) -> Path:
    write(folder / "a", slices(GOOD))
    write(folder / "b", slices(MR))
    return folder


def _two_series_mixed(folder: Path) -> Path:
    first, second = slices(MR), slices(replace(MR, bias=LATER))
    return write(folder, [ds for pair in zip(first, second, strict=True) for ds in pair])


def _scout(shared: dict, plan: Plan, *, flag: bool) -> Dataset:
    scout = slices(replace(plan, axes=SAGITTAL), uids=shared)[0]
    if flag:
        scout.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    return scout


def _with_localiser(*, flag: bool) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        shared = uids()
        return write(folder, [*slices(GOOD, uids=shared), _scout(shared, GOOD, flag=flag)])

    return make


def _localiser_and_two_stacks(folder: Path) -> Path:
    shared = uids()
    axial, upright = slices(GOOD, uids=shared), slices(replace(GOOD, axes=SAGITTAL), uids=shared)
    scout = slices(replace(GOOD, axes=((1, 0, 0), (0, 0, -1))), uids=shared)[0]
    scout.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    return write(folder, [scout, *axial, *upright])


def _junk(folder: Path) -> Path:
    write(folder, slices(GOOD))
    (folder / "empty.dcm").touch()
    (folder / "notes.dcm").write_text("SECRET notes, not a scan")
    (folder / "Thumbs.db").write_bytes(bytes(range(256)) * 8)
    (folder / ".DS_Store").write_bytes(b"\0\0\0\1Bud1" + bytes(200))
    (folder / "page.html").write_text("<html>SECRET</html>")
    return folder


def _dicomdir(folder: Path) -> Path:
    write(folder, slices(GOOD))
    listing = dicom_cases.image(0)
    listing.SOPClassUID = "1.2.840.10008.1.3.10"
    entry = Dataset()
    entry.DirectoryRecordType = "IMAGE"
    entry.add(DataElement("ReferencedFileID", "CS", ["..", "..", "SECRET"], validation_mode=IGNORE))
    listing.DirectoryRecordSequence = [entry]
    del listing.PixelData
    dicom_cases.save(listing, folder / "DICOMDIR")
    return folder


def _renamed(folder: Path) -> Path:
    write(folder, slices(GOOD))
    for file, name in zip(sorted(folder.iterdir()), ("zz", "10", "9", "a b", "ä;ö", "M.nii"), strict=True):
        file.rename(folder / name)
    return folder


def _nested_folders(folder: Path) -> Path:
    write(folder, slices(GOOD))
    for number, file in enumerate(sorted(folder.iterdir())):
        place = folder / f"{number % 2}" / "x" / f"{number % 3}"
        place.mkdir(parents=True, exist_ok=True)
        file.rename(place / "IM1")
    return folder


def _link_loop(folder: Path) -> Path:
    write(folder, slices(GOOD))
    (folder / "loop").symlink_to(folder, target_is_directory=True)
    return folder


def _link_outside(folder: Path) -> Path:
    write(folder / "outside", slices(MR))
    write(folder / "in", slices(GOOD))
    (folder / "in" / "link.dcm").symlink_to(folder / "outside" / "S000.dcm")
    return folder / "in"


def _nothing_there(folder: Path) -> Path:
    (folder / "inside").mkdir()
    return folder / "inside"


def _only_text(folder: Path) -> Path:
    (folder / "readme.dcm").write_text("nothing")
    return folder


DIXON = [{"ImageType": ["DERIVED", "PRIMARY", "DIXON", kind]} for kind in ("WATER", "FAT", "IN_PHASE", "OPP_PHASE")]
KINDS = [{"ImageType": ["ORIGINAL", "PRIMARY", kind, "NONE"]} for kind in ("M", "P")]
ECHOES = [{"EchoNumbers": str(n + 1), "EchoTime": f"{4.5 * (n + 1)}"} for n in range(2)]
ECHO_TIMES = [{"EchoNumbers": "1", "EchoTime": f"{4.5 * (n + 1)}"} for n in range(2)]
ACQUISITIONS = [{"AcquisitionNumber": str(n + 1)} for n in range(2)]

CASES = (
    Case("two series in one folder", _two_series, (GOOD.truth(), MR.truth())),
    Case("two series, files in turn", _two_series_mixed, truths()),
    Case("three times", volumes(_times, count=3), truths(3)),
    Case("three times, one after the other", volumes(_times, count=3, interleaved=False), truths(3)),
    Case("three times as GE writes them", volumes(_ge_times, count=3), truths(3)),
    Case("two times by the clock alone", volumes(_clock_only, interleaved=False), truths()),
    Case("two volumes that nothing tells apart", volumes(_nothing), (), "E-DUPPOS|E-4D", says=("S00",)),
    Case("a time that misses one slice", volumes(_one_time_short, count=3), (), "E-4D|E-GAP|E-MULTISERIES"),
    Case("two echoes in turn", volumes(marking(*ECHOES)), truths()),
    Case("two echoes by time alone", volumes(marking(*ECHO_TIMES)), truths()),
    Case("two b-values", volumes(_b_values), truths()),
    Case("two acquisitions", volumes(marking(*ACQUISITIONS)), truths()),
    Case("Dixon, four kinds", volumes(marking(*DIXON), count=4), truths(4)),
    Case("magnitude and phase", volumes(marking(*KINDS)), truths()),
    Case("localiser with its flag", _with_localiser(flag=True), (GOOD.truth(),), skipped=("S006.dcm",)),
    Case("localiser without a flag", _with_localiser(flag=False), (GOOD.truth(),), skipped=("S006.dcm",)),
    Case(
        "localiser and two stacks",
        _localiser_and_two_stacks,
        (GOOD.truth(), replace(GOOD, axes=SAGITTAL).truth()),
        skipped=("S000.dcm",),
    ),
    Case(
        "junk beside",
        _junk,
        (GOOD.truth(),),
        skipped=("empty.dcm", "notes.dcm", "Thumbs.db", ".DS_Store", "page.html"),
    ),
    Case("DICOMDIR that points outside", _dicomdir, (GOOD.truth(),), skipped=("DICOMDIR",)),
    Case("no ending, odd names", _renamed, (GOOD.truth(),)),
    Case("scattered over folders under one name", _nested_folders, (GOOD.truth(),)),
    Case("a link that loops", _link_loop, (GOOD.truth(),)),
    Case("a link to a file outside", _link_outside, (GOOD.truth(),), skipped=("link.dcm",)),
    Case("empty folder", _nothing_there, (), "E-NOIMAGES"),
    Case("only text", _only_text, (), "E-NOIMAGES"),
    Case("one slice alone, enhanced attributes missing", made(edit=lambda ds, k: k == 1), (), "E-2D"),
    Case("no acquisition number or time", made(edit=dropping("AcquisitionNumber", "AcquisitionTime")), (GOOD.truth(),)),
)
