"""Series from real scanners, held to the reference NIfTI beside them; read from the folder of `validation/DATA.md`.

The data are not part of the repository. What is there is read; `test_what_was_found` says what that was, so that a run
without them is no silent success.
"""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import medidiff.io as mio
from medidiff.errors import InputError
from medidiff.volume import Geometry, Volume

_SHARED = Path(__file__).resolve().parent.parent.parent / "shared" / "data"
ROOT = Path(os.environ.get("MEDIDIFF_DATA") or _SHARED) / "dicom"
_GOOD = (
    "failing/slicecount/001",
    "ge/anatomical/001",
    "ge/anatomical/001_implicit",
    "generic/compressed/001",
    "generic/compressed_j2k/001",
    "generic/compressed_jpeg/001",
    "generic/compressed_jpegls/001",
    "generic/compressed_rle/001",
    "hitachi/anatomical/001",
    "hitachi/anatomical/001_implicit",
    "hyperfine/anatomical/001",
    "siemens/anatomical/001",
    "siemens/anatomical/001_implicit",
    "siemens_multiframe/anatomical/001",
)
_REFUSED = {
    "failing/gantrytilting/001": "E-TILT",
    "failing/notavolume/001": "E-DUPPOS|E-4D",
    "failing/sliceorientation/001": "E-ORIENTATION|E-MULTISERIES",
    "ge/anatomical/001_single_slice": "E-2D",
}
GOOD = [name for name in _GOOD if (ROOT / name).is_dir()]
REFUSED = {name: code for name, code in _REFUSED.items() if (ROOT / name).is_dir()}


def reference(name: str) -> Volume:
    """The NIfTI that its authors give for a series."""
    image = nib.load(ROOT / f"{name}_ground_truth.nii.gz")
    data = np.asanyarray(image.dataobj)
    return Volume(data.reshape(data.shape[:3]), Geometry(data.shape[:3], image.affine))


def difference(scan: Volume, truth: Volume) -> tuple[float, float]:
    """Largest distance of voxel centres, mm, and largest difference of values, after axes are turned to agree."""
    turn = scan.geometry.directions.T @ truth.geometry.directions
    order = np.abs(turn).argmax(axis=0)  # axis of the scan for each axis of the truth
    signs = [int(np.sign(turn[a, t])) for t, a in enumerate(order)]
    affine, data = scan.geometry.affine.copy(), scan.data[0]
    affine[:3, :3] = affine[:3, :3][:, order]
    data = data.transpose(order)
    for axis, sign in enumerate(signs):
        if sign < 0:
            affine[:3, 3] += affine[:3, axis] * (data.shape[axis] - 1)
            affine[:3, axis] *= -1
            data = np.flip(data, axis)
    if data.shape != truth.shape:
        return float("inf"), float("inf")
    apart = Geometry(data.shape, affine).distance_mm(truth.geometry)
    return apart, float(np.abs(data.astype(float) - truth.data[0]).max())


def test_what_was_found():
    """All of the data, or none of it; pytest -s prints which."""
    there = [name for name in (*_GOOD, *_REFUSED) if (ROOT / name).is_dir()]
    print(f"\n{len(there)} of {len(_GOOD) + len(_REFUSED)} real series in {ROOT.name}: {', '.join(there) or 'none'}")  # noqa: T201
    assert len(there) in (0, len(_GOOD) + len(_REFUSED))


class TestRealSeries:
    """Collected where the data are."""

    __test__ = bool(GOOD)

    @pytest.mark.parametrize("name", GOOD)
    def test_same_voxels_at_the_same_places(self, name):
        apart, unlike = difference(mio.read(ROOT / name), reference(name))
        assert apart < 0.01
        assert unlike <= 1e-3

    @pytest.mark.parametrize("name", GOOD[:1])
    @pytest.mark.parametrize("broken", ["flip", "shift", "value"])
    def test_the_comparison_notices_what_is_wrong(self, name, broken):
        scan, truth = mio.read(ROOT / name), reference(name)
        data, affine = scan.data[0].copy(), scan.geometry.affine.copy()
        if broken == "flip":
            data = data[::-1]
        elif broken == "shift":
            affine[1, 3] += 0.1
        else:
            data[3, 4, 1] += 1
        apart, unlike = difference(Volume(data, Geometry(scan.shape, affine)), truth)
        assert apart > 0.05 or unlike > 0.5

    def test_compressed_variants_are_equal(self):
        variants = [name for name in GOOD if name.startswith("generic/")]
        for one, other in itertools.pairwise(mio.read(ROOT / name) for name in variants):
            assert one.geometry == other.geometry
            assert np.array_equal(one.data, other.data)

    @pytest.mark.parametrize(("name", "code"), REFUSED.items())
    def test_what_is_no_volume_is_refused(self, name, code):
        with pytest.raises(InputError) as caught:
            mio.read(ROOT / name)
        assert caught.value.code in code.split("|")
        assert caught.value.mend

    @pytest.mark.parametrize("name", [name for name in REFUSED if "tilt" in name])
    def test_gantry_tilt_is_read_where_an_option_says_so(self, name):
        sheared = mio.read_scan(ROOT / name, mio.ReadOptions(on_tilt="shear"))
        upright = mio.read_scan(ROOT / name, mio.ReadOptions(on_tilt="resample"))
        assert not sheared.volume.geometry.is_orthogonal
        assert upright.volume.geometry.is_orthogonal
        assert sheared.decisions
        assert upright.decisions

    @pytest.mark.parametrize("name", [*GOOD, *REFUSED])
    def test_every_file_is_accounted_for(self, name):
        found = mio.find(ROOT / name)
        used = {file for scan in found.scans for file in scan.files}
        assert len([f for f in (ROOT / name).rglob("*") if f.is_file()]) == len(used) + len(found.skipped)
