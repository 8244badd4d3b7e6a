"""`validation/batch_throughput.py`: its scans differ, and it counts what is outside the task and nothing else."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from medidiff.io import read

sys.path.insert(0, str(Path(__file__).parents[1] / "validation"))
import batch_throughput


@pytest.fixture
def scans(tmp_path) -> Path:
    folder = tmp_path / "scans"
    folder.mkdir()
    batch_throughput.make_scans(folder, 4, 12)
    return folder


def test_every_scan_is_another(scans):
    made = [read(path) for path in sorted(scans.glob("*.nii.gz"))]
    assert {scan.geometry.shape for scan in made} == {(12, 12, 12)}
    assert len({scan.data.tobytes() for scan in made}) == 4


@pytest.mark.parametrize(("inside", "outside"), [(0.05, 0.0), (0.05, 0.1)])
def test_the_overhead_is_what_is_outside_the_task(scans, tmp_path, card, monkeypatch, inside, outside):
    run, settled = batch_throughput.RestoreTask.run, batch_throughput.Worker._settle

    def slow_run(*words):
        time.sleep(inside)
        return run(*words)

    def slow_settle(*words):
        time.sleep(outside)
        return settled(*words)

    monkeypatch.setattr(batch_throughput.RestoreTask, "run", slow_run)
    monkeypatch.setattr(batch_throughput.Worker, "_settle", slow_settle)
    told = batch_throughput.overhead(scans, tmp_path / "out", "--prior", card)
    assert told["seconds_a_case"] >= inside
    assert told["overhead_wall_percent"] >= 100 * outside / told["seconds_a_case"] * 0.99
    assert told["overhead_wall_percent"] > 0
