"""The disk is looked at before a network is loaded, for all that a command will write there."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from medidiff.io.files import atomic
from tests.cli_cases import SHAPE, document, everything, refused

PLAIN = 4 * SHAPE[0] * SHAPE[1] * SHAPE[2]  # bytes of one result


@pytest.fixture
def disk(monkeypatch):
    """Says how many bytes are free."""

    def free(count: int) -> None:
        monkeypatch.setattr(atomic.shutil, "disk_usage", lambda place: SimpleNamespace(free=count))

    return free


@pytest.fixture(autouse=True)
def no_prior(monkeypatch):
    """To ask for the weights is a failure of its own code, 6."""
    monkeypatch.setattr("medidiff.prior.Prior.load", lambda name: pytest.fail("a prior was loaded"))


def test_a_full_disk_is_told_before_the_prior_is_loaded(ball_file, disk, tmp_path, capsys):
    disk(PLAIN - 1)
    before = everything(tmp_path)
    said = refused(["denoise", ball_file, tmp_path / "new" / "o.nii", "--prior", "none"], capsys, 5)
    assert said.startswith("medidiff: E-DISK")
    assert "MiB free" in said
    assert everything(tmp_path) == before


def test_all_outputs_are_counted_together(ball_file, disk, tmp_path, capsys):
    words = ["denoise", ball_file, tmp_path / "o.nii", "--prior", "none"]
    disk(2 * PLAIN - 1)
    assert "E-DISK" in refused([*words, "--spread", tmp_path / "s.nii"], capsys, 5)
    with pytest.raises(pytest.fail.Exception):
        document(words, capsys)


def test_the_finer_grid_and_compression_are_counted(ball_file, disk, tmp_path, capsys):
    words = ["--prior", "none", "--spacing", 0.9, 1.1, 1]
    disk(2 * PLAIN - 1)
    assert "E-DISK" in refused(["superresolve", ball_file, tmp_path / "o.nii", *words], capsys, 5)
    with pytest.raises(pytest.fail.Exception):
        document(["superresolve", ball_file, tmp_path / "o.nii.gz", *words], capsys)


@pytest.mark.parametrize("spacing", ["1e-320", "1e-300", "1e-30", "1e-9"])
def test_a_spacing_that_no_disk_could_hold(spacing, ball_file, tmp_path, capsys):
    words = ["superresolve", ball_file, tmp_path / "o.nii", "--prior", "none", "--spacing", spacing, spacing, spacing]
    assert "E-TARGET" in refused(words, capsys, 2)
