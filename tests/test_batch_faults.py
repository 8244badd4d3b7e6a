"""Killed, refused by the system or out of space at any moment: nothing is corrupt, nothing finished is lost.

These are the sizes of every run of the suite; ``validation/faults.py`` does all moments.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from medidiff.batch import records
from medidiff.batch.leases import Leases
from medidiff.batch.status import status_of
from tests.batch_cases import SIZE, Copying, begin, make_inputs, tree, work
from tests.batch_faults import (
    ERRORS,
    STEPS,
    WRITING,
    counted,
    faults_after,
    faults_of_a_crowd,
    full_at,
    killed_at,
    refused_at,
    run,
)

KILLS, REFUSALS, SIZES = 25, 40, 20


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    return make_inputs(tmp_path_factory.mktemp("inputs") / "in", 3, broken=[1])


@pytest.fixture(scope="module")
def whole(cases, tmp_path_factory):
    """The tree of an unbroken run."""
    root = tmp_path_factory.mktemp("whole") / "out"
    run(root, cases)
    return tree(root)


def spread(count: int, most: int) -> list[int]:
    """Moments from the first to the last, evenly."""
    return sorted({1 + round(k * (count - 1) / (most - 1)) for k in range(most)})


def test_killed_before_and_after_whatever_reaches_the_disk(cases, whole, tmp_path):
    count = counted(lambda: run(tmp_path / "out", cases), names=STEPS, twice=True)
    assert count > 60
    for moment in spread(count, KILLS):
        root = tmp_path / f"out-{moment}"
        assert killed_at(root, cases, moment) == -9, moment
        assert faults_after(root, cases, whole, tmp_path / "log") == [], moment
        shutil.rmtree(root)


@pytest.mark.parametrize("contents", [(b"content", b"broken"), (b"broken", b"content")], ids=["refused", "mended"])
def test_killed_while_the_record_of_a_case_changes_its_kind(contents, tmp_path):
    (case,) = cases = make_inputs(tmp_path / "in", 1)
    source, begun = Path(case.input), tmp_path / "begun"
    source.write_bytes(contents[0])
    run(begun, cases)
    source.write_bytes(contents[1])
    shutil.copytree(begun, tmp_path / "whole")
    count = counted(lambda: run(tmp_path / "whole", cases), names=STEPS, twice=True)
    whole = records_of(tmp_path / "whole")
    assert len(whole) == 1
    for moment in range(1, count + 1):
        root = tmp_path / f"out-{moment}"
        shutil.copytree(begun, root)
        assert killed_at(root, cases, moment) == -9, moment
        run(root, cases)
        assert records_of(root) == whole, moment


def records_of(root: Path) -> dict[str, bytes]:
    return {name: data for name, data in tree(root).items() if "/done/" in name or "/refused/" in name}


def test_a_system_that_refuses_to_write_ends_the_run_and_harms_nothing(cases, whole, tmp_path):
    count = counted(lambda: run(tmp_path / "out", cases), names=WRITING, twice=False)
    ends = set()
    for number, moment in enumerate(spread(count, REFUSALS)):
        root = tmp_path / f"out-{moment}"
        ends.add(refused_at(root, cases, moment, ERRORS[number % len(ERRORS)]))
        assert faults_after(root, cases, whole, tmp_path / "log") == [], moment
        shutil.rmtree(root)
    assert 3 in ends
    assert ends <= {0, 3}


def test_a_disk_that_is_full_ends_the_run_and_harms_nothing(cases, whole, tmp_path):
    ends = []
    for size in spread(SIZE + 200, SIZES):
        root = tmp_path / f"out-{size}"
        ends.append(full_at(root, cases, size))
        assert faults_after(root, cases, whole, tmp_path / "log") == [], size
        shutil.rmtree(root)
    assert ends[0] == 3
    assert set(ends) <= {0, 3}


def test_results_that_are_spoiled_after_their_record_are_found_out(cases, whole, tmp_path, monkeypatch):
    """A broken instance: a task whose files are not yet whole when it says that they are, and records on trust."""
    run_case = Copying.run

    def hasty(self, case):
        outcome = run_case(self, case)
        outcome.files[0].write_bytes(b"half")
        return outcome

    monkeypatch.setattr(Copying, "run", hasty)
    run(tmp_path / "out", cases)
    monkeypatch.setattr(Copying, "run", run_case)
    monkeypatch.setattr(records.Done, "is_whole", lambda self, root: True)
    assert any("corrupt" in fault for fault in faults_after(tmp_path / "out", cases, whole, tmp_path / "log"))


def test_eight_processes_on_one_output_do_each_case_once(tmp_path):
    cases = make_inputs(tmp_path / "in", 24)
    run(tmp_path / "whole", cases)
    whole = tree(tmp_path / "whole")
    for turn in range(3):
        assert faults_of_a_crowd(tmp_path / f"out-{turn}", cases, whole, tmp_path / f"log-{turn}") == []


def test_a_crowd_without_leases_would_be_found_out(tmp_path, monkeypatch):
    """A broken instance: every process takes every case."""
    cases = make_inputs(tmp_path / "in", 24)
    run(tmp_path / "whole", cases)
    take = Leases.take
    monkeypatch.setattr(Leases, "take", lambda self, case, **how: take(self, f"{case}-{os.getpid()}", **how))
    faults = faults_of_a_crowd(tmp_path / "out", cases, tree(tmp_path / "whole"), tmp_path / "log")
    assert any("done more than once" in fault for fault in faults)


def test_of_a_hundred_cases_with_seven_broken_ninety_three_are_done(tmp_path):
    broken = (0, 13, 14, 50, 77, 98, 99)
    batch = begin(tmp_path / "out", make_inputs(tmp_path / "in", 100, broken))
    log = tmp_path / "log"
    work(batch, log)
    status = status_of(batch)
    assert (status.done, dict(status.refused), status.left) == (93, {"E-FORMAT": 7}, 0)
    assert len(list((tmp_path / "out").glob("sub-*/*.bin"))) == 93
    states = [state for state, _ in work(batch, log)]
    assert (states.count("kept"), states.count("refused")) == (93, 7)
    assert len(log.read_text().split()) == 100
