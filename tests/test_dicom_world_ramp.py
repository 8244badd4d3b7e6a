"""Random good series come out right; with one fault or two they are refused, or right, and never wrong."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path

import numpy as np
import pytest
import world_ramp
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, generate_uid
from world_ramp import Grid

import medidiff.io as mio
from medidiff.errors import InputError

SETTINGS = settings(deadline=None, derandomize=True, database=None, phases=[Phase.generate])
sizes = st.tuples(st.integers(2, 11), st.integers(2, 11), st.integers(4, 9))
distances = st.floats(0.3, 3.0).map(lambda v: round(v, 3))
grids = st.builds(
    Grid,
    turn=st.integers(0, 10_000).map(world_ramp.turned) | st.just(np.eye(3)),
    shape=sizes,
    spacing=st.tuples(distances, distances, distances),
    origin=st.tuples(*3 * [st.floats(-300, 300).map(lambda v: round(v, 2))]),
    slope=st.sampled_from([0.01, 0.02, 0.05]),
    signed=st.booleans(),
    modality=st.sampled_from(["CT", "MR", "PT"]),
)


@settings(SETTINGS, max_examples=60)
@given(grid=grids, seed=st.integers(0, 999), syntax=st.sampled_from([ExplicitVRLittleEndian, ImplicitVRLittleEndian]))
def test_any_good_series_holds_the_ramp(grid, seed, syntax):
    made = world_ramp.images(grid)
    order = random.Random(seed).sample(range(len(made)), len(made))
    with tempfile.TemporaryDirectory() as folder:
        scan = mio.read(world_ramp.saved(Path(folder), made, order=order, syntax=syntax))
    assert world_ramp.error(scan) < 0.55 * grid.slope
    assert scan.geometry.shape == grid.shape
    assert scan.geometry.distance_mm(world_ramp.truth(grid)) < 1e-5


# -- one fault, and two ------------------------------------------------------------------------------------------------


def _drop(made, k, grid):
    del made[k]


def _again(made, k, grid):
    made.append(world_ramp.joined([made[k]])[0])
    made[-1].SeriesInstanceUID, made[-1].SOPInstanceUID = made[0].SeriesInstanceUID, generate_uid()


def _moved(made, k, grid):
    made[k].ImagePositionPatient = [float(v) + 0.4 * grid.spacing[2] for v in made[k].ImagePositionPatient]


def _sideways(made, k, grid):
    first = np.array([float(v) for v in made[k].ImagePositionPatient]) + 0.05 * grid.spacing[2] * grid.turn[:, 0]
    made[k].ImagePositionPatient = [f"{v:.8f}" for v in first]


def _bent(made, k, grid):
    made[k].ImageOrientationPatient = list(np.roll([float(v) for v in made[k].ImageOrientationPatient], 3))


def _unplaced(made, k, grid):
    del made[k].ImagePositionPatient


def _resized(made, k, grid):
    made[k].PixelSpacing = [float(v) * 1.01 for v in made[k].PixelSpacing]


def _unscaled(made, k, grid):
    del made[k].RescaleSlope


def _narrow(made, k, grid):
    made[k].Columns -= 1


def _elsewhere(made, k, grid):
    made[k].FrameOfReferenceUID = generate_uid()


def _another_class(made, k, grid):
    made[k].SOPClassUID = "1.2.840.10008.5.1.4.1.1.7"


def _another_kind(made, k, grid):
    made[k].Modality = "US"


def _coloured(made, k, grid):
    made[k].PhotometricInterpretation = "RGB"


def _text(made, k, grid):
    made[k].ImageType = ["DERIVED", "SECONDARY", "LOCALIZER"]


def _fewer(made, k, grid):
    made[k].PixelData = made[k].PixelData[:-2]


FAULTS = (
    *(_drop, _again, _moved, _sideways, _bent, _unplaced, _resized, _unscaled, _narrow),
    *(_elsewhere, _another_class, _another_kind, _coloured, _text, _fewer),
)
ENDS = {_drop}  # what takes a slice from an end, and leaves what anybody would call a good series


@settings(SETTINGS, max_examples=120)
@given(
    grid=grids,
    faults=st.lists(st.sampled_from(FAULTS), min_size=1, max_size=2),
    where=st.lists(st.integers(0, 99), min_size=2, max_size=2),
)
def test_faults_are_refused_or_the_volume_is_right(grid, faults, where):
    made = world_ramp.images(grid)
    for fault, at in zip(faults, where, strict=False):
        fault(made, 1 + at % (len(made) - 2) if fault in ENDS else at % len(made), grid)
    with tempfile.TemporaryDirectory() as folder:
        try:
            reading = mio.read_scan(world_ramp.saved(Path(folder), made))
        except InputError:
            return
    assert world_ramp.error(reading.volume) < 0.55 * grid.slope
    assert reading.volume.shape == grid.shape


def test_the_law_notices_a_wrong_volume(tmp_path):
    grid = Grid()
    made = world_ramp.images(grid)
    for name in ("PixelData", "RescaleIntercept"):
        one, two = made[2][name], made[3][name]
        made[2][name], made[3][name] = two, one
    assert world_ramp.error(mio.read(world_ramp.saved(tmp_path, made))) > 1


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_one(tmp_path, fault):
    grid = Grid(modality="CT")
    made = world_ramp.images(grid)
    fault(made, 3, grid)
    if fault is _text:  # it is a slice in every other respect
        assert mio.read(world_ramp.saved(tmp_path, made)).shape == grid.shape
    else:
        with pytest.raises(InputError):
            mio.read(world_ramp.saved(tmp_path, made))
