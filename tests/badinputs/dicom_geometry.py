"""Where slices lie: gaps, uneven and drifting steps, doubles, tilt, and the attributes that say so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from badinputs.build import (
    OBLIQUE,
    SAGITTAL,
    Plan,
    both,
    dropping,
    made,
    moving,
    patched,
    setting,
    slices,
    without,
    write,
)
from badinputs.case import Case
from medidiff.io import ReadOptions

IPP, IOP, SPACING = "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"
GAP, EVEN = ReadOptions(on_gap="resample"), ReadOptions(on_spacing="resample")
SHEAR, UPRIGHT = ReadOptions(on_tilt="shear"), ReadOptions(on_tilt="resample")
BOTH = ReadOptions(on_gap="resample", on_spacing="resample")
GOOD, SIX = Plan(), (9, 8, 6)


def uneven(*places: float, **how: object) -> Plan:
    """A series whose slices lie at these steps, its pixels true to their places."""
    return Plan(places=places, **how)


def _rounded(digits: int):
    def edit(ds: Dataset, k: int) -> None:
        ds.ImagePositionPatient = [f"{float(v):.{digits}f}" for v in ds.ImagePositionPatient]

    return edit


def _coarse_cosines(digits: int):
    def edit(ds: Dataset, k: int) -> None:
        ds.ImageOrientationPatient = [f"{float(v):.{digits}f}" for v in ds.ImageOrientationPatient]

    return edit


def _numbers(order):
    def edit(ds: Dataset, k: int) -> None:
        ds.InstanceNumber = str(order[k])

    return edit


def _repeat_slice(folder: Path, *, change=None) -> Path:
    images = slices(GOOD)
    again = slices(GOOD)[2]
    again.SeriesInstanceUID, again.FrameOfReferenceUID = images[0].SeriesInstanceUID, images[0].FrameOfReferenceUID
    again.StudyInstanceUID = images[0].StudyInstanceUID
    if change is not None:
        change(again)
    return write(folder, [*images, again])


def _copied(folder: Path) -> Path:
    write(folder, slices(GOOD))
    (folder / "copy.dcm").write_bytes((folder / "S002.dcm").read_bytes())
    return folder


def _other_pixels(ds: Dataset) -> None:
    ds.PixelData = bytes(len(ds.PixelData))


def _jitter(amount: float) -> tuple[float, ...]:
    return tuple((np.arange(6) + amount * np.array((0, 1, -1, -1, 1, 0))).tolist())


FINE = Plan(spacing=(0.33, 0.33, 0.33))
TILT = Plan(drift=(0.0, 0.8))
DRIFT = Plan(drift=(0.2, 0.0))

CASES = (
    Case("good CT", made(), (GOOD.truth(units="HU"),)),
    Case("good MR", made(Plan("MR")), (Plan("MR").truth(units=""),)),
    Case("oblique", made(Plan(axes=OBLIQUE)), (Plan(axes=OBLIQUE).truth(within=0.01),)),
    Case("sagittal", made(Plan(axes=SAGITTAL)), (Plan(axes=SAGITTAL).truth(),)),
    Case("two slices only", made(uneven(0, 1)), (uneven(0, 1).truth(),)),
    Case(
        "missing slice",
        made(edit=without(2)),
        (GOOD.truth(filled=1),),
        "E-GAP",
        GAP,
        ("S001.dcm", "S003.dcm", "6.4", "3.2", "--on-gap"),
    ),
    Case(
        "second slice missing", made(edit=without(1)), (GOOD.truth(filled=1),), "E-GAP", GAP, ("S000.dcm", "S002.dcm")
    ),
    Case(
        "two missing in a row",
        made(edit=without(2, 3)),
        (GOOD.truth(filled=2),),
        "E-GAP",
        GAP,
        ("S001.dcm", "S004.dcm"),
    ),
    Case("two missing apart", made(edit=without(1, 4)), (GOOD.truth(filled=2),), "E-GAP", GAP),
    Case("every second missing once", made(edit=without(1, 3)), (GOOD.truth(filled=2),), "E-GAP", GAP),
    Case(
        "oblique with a gap",
        made(Plan(axes=OBLIQUE), without(3)),
        (Plan(axes=OBLIQUE).truth(filled=1, within=0.01),),
        "E-GAP",
        GAP,
        ("S002.dcm", "S004.dcm"),
    ),
    Case(
        "gap in a stack numbered backwards",
        made(edit=both(_numbers(range(9, 0, -1)), without(2))),
        (GOOD.truth(filled=1),),
        "E-GAP",
        GAP,
        ("S001.dcm", "S003.dcm"),
    ),
    Case(
        "step 1.009 times", made(uneven(0, 1, 2, 3.009, 4.009, 5.009)), (uneven(0, 1, 2, 3, 4, 5.009).truth(within=4),)
    ),
    Case(
        "step 1.02 times",
        made(uneven(0, 1, 2, 3.02, 4.02, 5.02)),
        (GOOD.truth(within=0.51, filled=None, size=None),),
        "E-SPACING",
        EVEN,
        ("S002.dcm", "S003.dcm"),
    ),
    Case(
        "step 1.5 times",
        made(uneven(0, 1, 2, 3.5, 4.5, 5.5)),
        (GOOD.truth(within=1.01, filled=None, size=None),),
        "E-SPACING",
        EVEN,
        ("S002.dcm", "S003.dcm", "4.8", "3.2", "--on-spacing"),
    ),
    Case(
        "step 2 times",
        made(uneven(0, 1, 2, 4, 5, 6)),
        (GOOD.truth(filled=1, size=(9, 8, 7)),),
        "E-GAP",
        GAP,
        ("S002.dcm", "S003.dcm"),
    ),
    Case(
        "step 2.02 times", made(uneven(0, 1, 2, 4.02, 5.02, 6.02)), (), "E-GAP|E-SPACING", says=("S002.dcm", "S003.dcm")
    ),
    Case("step half", made(uneven(0, 1, 2, 2.5, 3.5, 4.5)), (), "E-SPACING|E-GAP", says=("mm",)),
    Case("two spacings, dense then wide", made(uneven(0, 1, 2, 3, 5, 7)), (), "E-GAP|E-SPACING"),
    Case(
        "gap and uneven spacing",
        made(uneven(0, 1, 2.3, 4.3, 5.3, 6.3)),
        (GOOD.truth(within=1.01, filled=None, size=None),),
        "E-SPACING|E-GAP",
        BOTH,
    ),
    Case("spacing drifts by 3 % a slice", made(uneven(0, 1, 2.03, 3.09, 4.18, 5.3)), (), "E-SPACING"),
    Case("spacing drifts slowly beyond 1 %", made(uneven(*np.cumsum(1.004 ** np.arange(9)).tolist())), (), "E-SPACING"),
    Case("jitter of 0.2 %", made(uneven(*_jitter(0.002))), (GOOD.truth(within=2),)),
    Case("jitter of 10 %", made(uneven(*_jitter(0.1))), (), "E-SPACING", says=("mm",)),
    Case("positions with 2 decimals at 0.33 mm", made(FINE, _rounded(2)), (FINE.truth(within=6),)),
    Case(
        "positions with 3 decimals, oblique",
        made(Plan(axes=OBLIQUE), _rounded(3)),
        (Plan(axes=OBLIQUE).truth(within=0.6),),
    ),
    Case(
        "cosines with 6 decimals",
        made(Plan(axes=OBLIQUE), _coarse_cosines(6)),
        (Plan(axes=OBLIQUE).truth(within=0.01),),
    ),
    Case("cosines with 2 decimals", made(Plan(axes=OBLIQUE), _coarse_cosines(2)), (), "E-BADIOP", says=(IOP,)),
    Case("a single slice out of line", made(edit=moving((1.5, 0, 0), 3)), (), "E-SPACING", says=("S003.dcm",)),
    Case("a single slice far along", made(edit=moving((0, 0, 500), 5)), (), "E-GAP|E-SPACING", says=("S005.dcm",)),
    Case(
        "gantry tilt, sheared",
        made(TILT),
        (TILT.truth(within=0.51),),
        "E-TILT",
        SHEAR,
        ("14.04", "--on-tilt"),
    ),
    Case(
        "gantry tilt, resampled",
        made(TILT),
        (TILT.truth(within=0.51, filled=None, padding=None, size=None),),
        "E-TILT",
        UPRIGHT,
    ),
    Case("drift in plane, sheared", made(DRIFT), (DRIFT.truth(within=0.51),), "E-TILT", SHEAR),
    Case("tilt and a gap", made(TILT, without(2)), (), "E-TILT|E-GAP"),
    Case(
        "tilt and a gap, both mended",
        made(TILT, without(2)),
        (TILT.truth(within=1.01, filled=1),),
        "E-TILT|E-GAP",
        ReadOptions(on_tilt="shear", on_gap="resample"),
    ),
    Case("slight tilt of 0.3 degrees", made(Plan(drift=(0.0, 0.0168))), (), "E-TILT"),
    Case("copy with the same UID", _copied, (GOOD.truth(),), skipped=("copy.dcm",)),
    Case("copy under another UID", _repeat_slice, (), "E-DUPPOS", says=("S002.dcm", "S006.dcm")),
    Case(
        "other pixels at one position",
        lambda folder: _repeat_slice(folder, change=_other_pixels),
        (),
        "E-DUPPOS",
        says=("S002.dcm", "S006.dcm"),
    ),
    Case("double and gap", made(edit=moving((0, 0, 3.2), 2)), (), "E-DUPPOS|E-GAP", says=("S002.dcm", "S003.dcm")),
    Case("nearly one position", made(edit=moving((0, 0, 3.195), 2)), (), "E-DUPPOS|E-SPACING|E-GAP"),
    Case("no position on one", made(edit=dropping(IPP, where=3)), (), "E-NOIPP", says=("S003.dcm", IPP)),
    Case(
        "no position at all",
        made(edit=dropping(IPP)),
        (),
        "E-NOIPP",
        says=(IPP, "--assume-spacing"),
    ),
    Case("no orientation", made(edit=dropping(IOP)), (), "E-NOIOP", says=(IOP,)),
    Case("no orientation on one", made(edit=dropping(IOP, where=4)), (), "E-NOIOP", says=(IOP, "S004.dcm")),
    Case("no pixel spacing", made(edit=dropping(SPACING)), (), "E-NOSPACING", says=(SPACING,)),
    Case(
        "imager spacing only",
        made(edit=both(setting(ImagerPixelSpacing=["0.9", "0.7"]), dropping(SPACING))),
        (GOOD.truth(),),
        "E-NOSPACING",
        ReadOptions(imager_spacing=True),
        (SPACING, "--imager-spacing"),
    ),
    Case("spacing 0", made(edit=setting(PixelSpacing=["0", "0"])), (), "E-BADSPACING", says=(SPACING,)),
    Case(
        "spacing negative", made(edit=setting(2, PixelSpacing=["-0.9", "0.7"])), (), "E-BADSPACING", says=("S002.dcm",)
    ),
    Case("spacing infinite", made(edit=setting(PixelSpacing=["1e400", "0.7"])), (), "E-NONFINITE", says=(SPACING,)),
    Case(
        "position NaN",
        patched(made(), "S002.dcm", lambda b: b.replace(b"-198.5", b"nan   ")),
        (),
        "E-NONFINITE",
        says=("S002.dcm", IPP),
    ),
    Case(
        "cosines not of unit length",
        made(edit=setting(ImageOrientationPatient=[1.01, 0, 0, 0, 1, 0])),
        (),
        "E-BADIOP",
        says=(IOP,),
    ),
    Case("cosines all 0", made(edit=setting(ImageOrientationPatient=[0, 0, 0, 0, 0, 0])), (), "E-BADIOP", says=(IOP,)),
    Case(
        "mixed pixel spacing", made(edit=setting(4, PixelSpacing=["0.9", "0.8"])), (), "E-MIXSPACING", says=(SPACING,)
    ),
    Case("two frames of reference", made(edit=setting(4, FrameOfReferenceUID=generate_uid)), (), "E-FOR"),
    Case("numbers reversed", made(edit=_numbers(range(6, 0, -1))), (GOOD.truth(),)),
    Case("numbers shuffled", made(edit=_numbers((4, 1, 6, 2, 5, 3))), (GOOD.truth(),)),
    Case("numbers all equal", made(edit=_numbers((1, 1, 1, 1, 1, 1))), (GOOD.truth(),)),
    Case("numbers missing", made(edit=dropping("InstanceNumber")), (GOOD.truth(),)),
    Case(
        "thickness, spacing and location lie",
        made(edit=setting(SliceThickness="99", SpacingBetweenSlices="-4", SliceLocation="0")),
        (GOOD.truth(),),
    ),
    Case("one slice", made(edit=without(0, 1, 2, 4, 5)), (), "E-2D", says=("S003.dcm",)),
    Case("origin at 10 million mm", made(Plan(origin=(1e7, -1e7, 1e7))), (Plan(origin=(1e7, -1e7, 1e7)).truth(),)),
)
