"""An exported prior judges its scans as medidiff does; and two exports in one process keep to their own code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from small_prior import small_prior

from medidiff.prior import Prior
from medidiff.restore import denoise
from medidiff.travel import carried
from medidiff.travel.bundle import write_bundle
from medidiff.travel.carried import carry
from medidiff.travel.pyfunc import PACKAGE, _carried, write_pyfunc
from medidiff.trust.reference import reference_files
from medidiff.volume import Geometry, Volume

REFERENCE = ["trust/fine-t1.scope.json", "trust/fine-t1.scope.safetensors"]


def noise() -> np.ndarray:
    """What no prior is for."""
    return np.random.default_rng(0).gamma(2, 100, (48, 48, 48)).astype(np.float32)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """`fine-t1` as a bundle and a pyfunc, a small prior with other code, and what a process made of them."""
    home = tmp_path_factory.mktemp("travel-scope")
    np.save(home / "noise.npy", noise())
    write_bundle(Prior.load("fine-t1"), home / "bundle")
    write_pyfunc(Prior.load("fine-t1"), home / "first")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(carried, "_VERSION", '__version__ = "0.0.9"\n')
        write_pyfunc(small_prior(), home / "second")
    script = Path(__file__).with_name("travel_scope_process.py")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(script), str(home)], env=environment, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (home / "stderr.txt").write_text(done.stderr, encoding="utf-8")
    return home


@pytest.fixture(scope="module")
def found(home):
    return json.loads((home / "found.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def wanted():
    """What medidiff itself says of the scan."""
    scan = Volume(noise(), Geometry(noise().shape, np.eye(4)), "MR")
    return denoise(scan, prior="fine-t1", noise_level=50.0).provenance.scope


@pytest.mark.parametrize("place", ["bundle", "first"])
def test_an_export_says_what_medidiff_says(place, found, wanted):
    assert wanted["verdict"] == "outside"
    assert found[place]["scope"] == wanted


@pytest.mark.parametrize("place", ["bundle", "first"])
def test_strict_refuses_a_scan_that_is_out_of_scope(place, found):
    assert "E-SCOPE" in found[place]["strict"]


def test_a_bundle_writes_the_verdict_and_warns(home, wanted):
    assert json.loads((home / "eval" / "noise_scope.json").read_text(encoding="utf-8")) == wanted
    assert "OUT OF SCOPE of the prior 'fine-t1': the scan " in (home / "stderr.txt").read_text(encoding="utf-8")


def test_a_prior_without_a_reference_says_that_nothing_was_judged(home, found):
    assert found["second"]["scope"] == {"verdict": "unjudged", "prior": "tiny"}
    assert found["second"]["strict"] == ""
    assert "always `unjudged`" in (home / "second" / "README.md").read_text(encoding="utf-8")
    for place in ("bundle", "first"):
        assert "`E-SCOPE`" in (home / place / "README.md").read_text(encoding="utf-8")


def test_two_exports_in_one_process_keep_to_their_own_code(found):
    assert found["first"]["package"] != found["second"]["package"]
    assert all(found[place]["package"].startswith(f"{PACKAGE}_") for place in ("first", "second"))
    assert found["second"]["version"] == "0.0.9" != found["first"]["version"]


def test_the_package_is_what_carrying_it_under_its_name_makes():
    card = Prior.card_of("fine-t1")
    name, made = _carried(card)
    assert made == carry("medidiff.travel.served", name, data=reference_files(card))
    assert all(PACKAGE not in text.replace(name, "") for text in made.sources.values())


def test_the_packages_name_tells_of_all_that_is_in_it():
    """The negative: what comes with the prior counts, as two priors of one version would share it otherwise."""
    files = reference_files(Prior.card_of("fine-t1"))
    bare, full = (carry("medidiff.errors", "x", data=data) for data in ((), files))
    assert sorted(full.data) == REFERENCE
    assert bare.data == {}
    assert reference_files(Prior.card_of("fine-ct")) == ()
    assert bare.digest != full.digest == carry("medidiff.errors", "x", data=files).digest
