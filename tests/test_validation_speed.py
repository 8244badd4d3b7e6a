"""The speed command measures whole processes and relates them to medidiff in the same run."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest

from medidiff import io
from medidiff.errors import SettingsError
from medidiff.prior import DEFAULT_PRIOR, Prior
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


def test_an_answer_of_medidiff_that_is_marked_out_of_scope_is_a_measurement(command):
    ended = [sys.executable, "-c", "raise SystemExit(3)"]
    assert command.measured("medidiff", ended, threads=1).wall_s > 0
    ended[-1] = "raise SystemExit(2)"
    with pytest.raises(SettingsError, match="E-PEER: --methods: medidiff ended with 2"):
        command.measured("medidiff", ended, threads=1)


def test_ratios_are_to_medidiff(command):
    runs = [command.Run("medidiff", 10.0, 20.0, 2.0, 5.0), command.Run("bm4d", 250.0, 500.0, 1.0, 240.0)]
    assert "| bm4d | 250.0 | 25.00 | 240.0 | 48.00 | 500.0 | 25.00 | 1.00 |" in command.markdown(runs, "")


@pytest.fixture
def work(command, tmp_path):
    clean = np.zeros((32, 32, 32), np.float32)
    clean[4:28, 4:28, 4:28] = 1000
    scan = Volume(command.noisy(clean, 50.0), Geometry.regular(clean.shape), "MR")
    io.write(scan, tmp_path / "noisy.nii.gz")
    return command.Work(tmp_path / "noisy.nii.gz", tmp_path, 50.0, 1)


@pytest.mark.parametrize("method", ["medidiff", "nlmeans"])
def test_a_process_reads_denoises_tells_its_seconds_and_writes(command, work, method):
    assert command.main(work.inside(method)[2:]) == 0
    scan, answer = (io.read(work.folder / name).data[0] for name in ("noisy.nii.gz", f"{method}.nii.gz"))
    middle = (slice(10, 22),) * 3
    assert answer[middle].std() < 0.5 * scan[middle].std()
    assert 0 < work.seconds(method) < 60


def test_the_command_line_is_what_a_user_types(command, work, tmp_path):
    from medidiff.cli import main

    words = command.Work(work.source, tmp_path / "out", 50.0, 1).whole("medidiff")
    assert words[1:3] == ["-m", "medidiff"]
    assert main([*words[3:], "--dry-run"]) == 0
    assert work.whole("nlmeans") == work.inside("nlmeans")
    device = command.Work(work.source, tmp_path, 50.0, 1, "cuda", "a prior").whole("medidiff")
    assert device[-4:] == ["--device", "cuda", "--prior", "a prior"]


def test_the_roofline_counts_every_operation_of_the_network(command, capsys):
    told = command.roofline(40, device="cpu", threads=1, prior="")
    seconds, operations, share = (float(told.split(word)[0].split()[-1]) for word in (" s for", " T operations", "%"))
    network = Prior.load(DEFAULT_PRIOR).denoiser.backbone
    half, quarter = (
        [w for w in network.parameters() if w.ndim == 5 and tuple(w.shape[:2]) == (n, n)] for n in (48, 96)
    )
    assert half
    blocks = sum(w.numel() for w in half) * 20**3 + sum(w.numel() for w in quarter) * 10**3
    assert 2 * blocks / 1e12 < operations < 2 * 1.6 * blocks / 1e12 + 0.01
    assert seconds > 0
    assert share > 0


def test_a_small_head_is_refused(command):
    assert command.main(["--side", "16"]) == 2
