"""Damaged bytes give a volume that can be explained or a proper refusal: 2,000 mutants of each format, always the same.

The command `python validation/fuzz.py` reads any number of others.
"""

from __future__ import annotations

import importlib
import multiprocessing
from pathlib import Path

import numpy as np
import pytest

from medidiff.volume import Geometry, Volume

FOLDER = Path(__file__).resolve().parent.parent / "validation"
SEED, COUNT = 20261125, 2000


@pytest.fixture
def fuzz(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("fuzz")


@pytest.mark.parametrize("kind", ["dicom", "nifti"])
def test_mutants_give_a_volume_or_a_refusal(fuzz, kind):
    tally = fuzz.run(kind, seed=SEED, count=COUNT)
    assert tally.faults == [], tally.report()
    assert tally.outcomes.total() == COUNT
    assert min(tally.outcomes["volume"], tally.outcomes["refused"]) > COUNT // 50  # both doors were tried
    assert len(tally.codes) > 8
    assert tally.peak <= fuzz.LIMIT_BYTES
    assert tally.slowest <= fuzz.LIMIT_S


def test_the_same_number_makes_the_same_mutant(fuzz):
    mutants = importlib.import_module("mutants")
    content = bytes(range(256)) * 8

    def make(n):
        return mutants.mutant("dicom", np.random.default_rng((SEED, n)), content)

    assert [make(n) for n in range(50)] == [make(n) for n in range(50)]
    assert len({make(n) for n in range(50)}) > 40


# -- what breaks the rule is noticed -----------------------------------------------------------------------------------


def _listen(fuzz, monkeypatch, *messages, hold=False):
    monkeypatch.setattr(fuzz, "START_S", 0.3)
    monkeypatch.setattr(fuzz, "WALL_S", 0.3)
    ours, theirs = multiprocessing.Pipe()
    for message in messages:
        theirs.send(message)
    if not hold:
        theirs.close()
    tally = fuzz.Tally()
    return fuzz._listen(ours, tally, 7), tally


def test_a_crash_is_counted_and_the_next_mutant_follows(fuzz, monkeypatch):
    number, tally = _listen(fuzz, monkeypatch, "gzip", ("volume", "", 0.1, 5), "plain")
    assert number == 9
    assert tally.outcomes == {"volume": 1, "crash": 1}
    assert tally.faults == [(8, "plain", "crash: the process ended")]


def test_a_hang_is_counted(fuzz, monkeypatch):
    number, tally = _listen(fuzz, monkeypatch, "plain", hold=True)
    assert (number, tally.outcomes) == (8, {"hang": 1})


def test_processor_time_counts_and_not_the_clock(fuzz):
    def spin():
        fuzz.resource.setrlimit(fuzz.resource.RLIMIT_CPU, (1, 5))
        while True:
            pass

    child = multiprocessing.get_context("fork").Process(target=spin, daemon=True)
    child.start()
    child.join(30)
    assert fuzz._overran(child)
    ours, theirs = multiprocessing.Pipe()
    theirs.send("plain")
    theirs.close()
    tally = fuzz.Tally()
    assert fuzz._listen(ours, tally, 7, overran=lambda: fuzz._overran(child)) == 8
    assert tally.outcomes == {"hang": 1}


def test_an_end_is_no_fault(fuzz, monkeypatch):
    number, tally = _listen(fuzz, monkeypatch, "plain", ("refused", "E-TRUNC", 0.2, 9), "done")
    assert (number, tally.faults, tally.peak, tally.codes) == (8, [], 9, {"E-TRUNC": 1})
    assert "E-TRUNC 1" in tally.report()


GOOD = Volume(np.arange(60.0).reshape(3, 4, 5), Geometry.regular((3, 4, 5)))


@pytest.mark.parametrize(
    ("volume", "slices", "made", "fault"),
    [
        (GOOD, True, b"", ""),
        (GOOD.with_data(np.where(GOOD.data == 7, np.nan, GOOD.data)), False, b"", "not finite"),
        (Volume(GOOD.data[..., :4], Geometry.regular((3, 4, 4))), True, b"", "shape (3, 4, 4)"),
        (Volume(GOOD.data[..., :4], Geometry.regular((3, 4, 4))), False, b"", ""),
        (GOOD.with_data(GOOD.data + (np.arange(5) == 2)), True, b"", ""),
        (GOOD.with_data(GOOD.data[..., ::-1]), True, b"", "differ"),
        (Volume(GOOD.data, Geometry.regular((3, 4, 5), spacing_mm=(1, 1, 2))), True, b"", "mm away"),
        (None, True, b"", "no volume"),
    ],
)
def test_a_volume_must_be_explained(fuzz, volume, slices, made, fault):
    found = fuzz._unexplained(volume, GOOD, slices, made)
    assert fault in found
    assert bool(fault) == bool(found)


def test_the_shape_that_a_header_states_counts(fuzz):
    content = bytearray(400)
    content[:4], content[344:347] = (348).to_bytes(4, "little"), b"n+1"
    content[40:56] = np.array([3, 3, 4, 6, 1, 1, 1, 1], "<i2").tobytes()
    assert "header says (3, 4, 6)" in fuzz._unexplained(GOOD, None, False, bytes(content))
    content[46:48] = b"\5\0"
    assert fuzz._unexplained(GOOD, None, False, bytes(content)) == ""


@pytest.mark.parametrize(
    ("note", "made", "right"),
    [
        ("a.dcm: not a DICOM file", b"noise" * 40, True),
        ("a.dcm: not a DICOM file", bytes(120) + b"DICM", False),
        ("a.dcm: not a DICOM file", b"\0 1.2.840.10008.5", False),
        ("a.dcm: a single image of another orientation", bytes(128) + b"DICM", True),
        ("a.dcm: no bytes in it", b"", False),
    ],
)
def test_what_may_be_set_aside(fuzz, note, made, right):
    assert fuzz._set_aside(note, made) is right


def test_the_command(fuzz, capsys):
    assert fuzz.main(["--kinds", "nifti", "--count", "12", "--seed", "1"]) == 0
    assert "12 mutants of seed 1" in capsys.readouterr().out


def test_a_code_must_be_catalogued(fuzz):
    assert fuzz._known("E-TRUNC")
    assert not fuzz._known("E-NO-SUCH-CODE")
