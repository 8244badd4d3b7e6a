"""The speed command measures whole processes and relates them to medidiff in the same run."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest

from medidiff import io
from medidiff.errors import SettingsError
from medidiff.volume import Geometry, Volume

FOLDER = Path(__file__).resolve().parent.parent / "validation"


@pytest.fixture
def command(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("speed")


def test_a_process_is_measured_as_a_whole(command):
    work = "import time; x = bytearray(300 * 2**20); t = time.process_time()\nwhile time.process_time() < t + 0.3: pass"
    busy = command.measured("busy", [sys.executable, "-c", work], threads=1)
    idle = command.measured("idle", [sys.executable, "-c", "import time; time.sleep(0.3)"], threads=1)
    assert busy.cpu_s > 0.3 > idle.cpu_s
    assert min(busy.wall_s, idle.wall_s) > 0.3
    assert busy.peak_gib > 300 / 1024 > idle.peak_gib


def test_a_process_that_fails_is_no_measurement(command):
    with pytest.raises(SettingsError, match="E-PEER: --methods: odd ended with 3"):
        command.measured("odd", [sys.executable, "-c", "raise SystemExit(3)"], threads=1)


def test_ratios_are_to_medidiff(command):
    runs = [command.Run("medidiff", 10.0, 20.0, 2.0), command.Run("bm4d", 250.0, 500.0, 1.0)]
    assert "| bm4d | 250.0 | 25.00 | 500.0 | 25.00 | 1.00 |" in command.markdown(runs, "")


def test_a_peer_reads_denoises_and_writes(command, tmp_path):
    clean = np.zeros((16, 16, 16), np.float32)
    clean[4:12, 4:12, 4:12] = 1000
    scan = Volume(command.noisy(clean, 50.0), Geometry.regular(clean.shape), "MR")
    io.write(scan, tmp_path / "noisy.nii.gz")
    assert (
        command.main(["--peer", "nlmeans", *(str(tmp_path / n) for n in ("noisy.nii.gz", "out.nii.gz")), "50", "1"])
        == 0
    )
    answer = io.read(tmp_path / "out.nii.gz").data[0]
    inside = (slice(6, 10),) * 3
    assert answer[inside].std() < 0.5 * scan.data[0][inside].std()


def test_a_small_head_is_refused(command):
    assert command.main(["--side", "16"]) == 2
