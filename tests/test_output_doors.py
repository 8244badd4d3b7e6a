"""Outputs by unusual doors: loops of links, the folder at hand, an empty name, a stdout that is full or closed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import dicom_cases as cases
import pytest

import medidiff.cli as cli
import medidiff.io as mio
from medidiff.errors import OutputError
from medidiff.io.files import atomic
from tests.cli_cases import everything, refused


@pytest.fixture
def source(tmp_path) -> Path:
    cases.series(tmp_path / "series")
    return tmp_path / "series"


def command(*words: object, folder: Path, **how: object) -> subprocess.Popen[bytes]:
    root = str(Path(mio.__file__).parents[2])
    argv = [sys.executable, "-m", "medidiff", *map(str, words)]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | how
    return subprocess.Popen(argv, cwd=folder, env=os.environ | {"PYTHONPATH": root}, **streams)  # type: ignore[call-overload]


@pytest.mark.parametrize("words", [["loop/x.nii"], ["loop", "--format", "dicom"], ["loop/x", "--format", "dicom"]])
def test_a_loop_of_links_is_an_output_that_cannot_be_written(source, tmp_path, capsys, words):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    before = everything(tmp_path)
    assert "E-OUT" in refused(["convert", source, tmp_path / words[0], *words[1:]], capsys, 5)
    assert everything(tmp_path) == before


def test_a_loop_at_the_name_itself_is_replaced(source, tmp_path):
    (tmp_path / "loop.nii").symlink_to(tmp_path / "loop.nii")
    assert mio.read(mio.write(mio.read(source), tmp_path / "loop.nii")[0]).shape == cases.SHAPE


def test_the_folder_at_hand_may_be_the_output(source, tmp_path, capsys, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert cli.main(["convert", str(source), ".", "--format", "dicom"]) == 0
    assert mio.read(tmp_path / "here").geometry == mio.read(source).geometry
    capsys.readouterr()
    assert "E-EXISTS" in refused(["convert", source, ".", "--format", "dicom"], capsys, 5)


def test_an_empty_name_is_no_path(source, tmp_path, capsys):
    assert "an empty name" in refused(["convert", "", tmp_path / "a.nii"], capsys, 2)
    assert "an empty name" in refused(["convert", source, ""], capsys, 2)


def test_a_full_stdout_is_no_traceback(source, tmp_path):
    with Path("/dev/full").open("wb") as full, command("convert", source, "a.nii", folder=tmp_path, stdout=full) as run:
        said = run.communicate()[1].decode()
    assert run.returncode == 5
    assert "E-OUT: stdout" in said
    assert "Traceback" not in said
    assert mio.read(tmp_path / "a.nii").shape == cases.SHAPE


def test_closed_streams_are_no_failure(source, tmp_path):
    program = "import sys; sys.stdout = sys.stderr = None; from medidiff.cli import main; sys.exit(main(sys.argv[1:]))"
    root = str(Path(mio.__file__).parents[2])
    argv = [sys.executable, "-c", program, "convert", str(source), str(tmp_path / "a.nii")]
    assert subprocess.run(argv, env=os.environ | {"PYTHONPATH": root}, timeout=60, check=False).returncode == 0
    assert mio.read(tmp_path / "a.nii").shape == cases.SHAPE


# -- folders appear whole ----------------------------------------------------------------------------------------------


def test_an_empty_folder_is_filled_by_one_rename(tmp_path):
    target = tmp_path / "out"
    target.mkdir(mode=0o750)
    with atomic.staging_folder(target) as stage:
        (stage / "a").write_bytes(b"a")
        assert stage.parent == tmp_path
        assert list(target.iterdir()) == []
    assert [place.name for place in target.iterdir()] == ["a"]
    assert target.stat().st_mode & 0o777 == 0o750
    assert [place.name for place in tmp_path.iterdir()] == ["out"]


def test_two_runs_into_one_new_folder_never_mix(tmp_path):
    target = tmp_path / "out"
    stage = ExitStack()
    (stage.enter_context(atomic.staging_folder(target)) / "a").write_bytes(b"slow")
    with atomic.staging_folder(target) as fast:
        (fast / "a").write_bytes(b"fast")
    with pytest.raises(OutputError, match="E-OUT"):
        stage.close()
    assert (target / "a").read_bytes() == b"fast"
    assert [place.name for place in tmp_path.iterdir()] == ["out"]


@pytest.fixture(scope="module")
def seconds(tmp_path_factory) -> float:
    """How long a conversion takes here."""
    folder = tmp_path_factory.mktemp("first")
    cases.series(folder / "series")
    started = time.monotonic()
    with command("convert", folder / "series", "first", "--format", "dicom", folder=folder) as run:
        run.communicate()
    return time.monotonic() - started


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("share", [0.5, 0.8])
def test_a_killed_conversion_leaves_a_whole_series_or_none(source, seconds, tmp_path, how, share):
    (tmp_path / "out").mkdir()
    with command("convert", source, "out", "--format", "dicom", folder=tmp_path) as run:
        time.sleep(seconds * share)
        run.send_signal(how)
        assert b"Traceback" not in run.communicate()[1] or how == signal.SIGINT
    if not list((tmp_path / "out").glob("*.dcm")):
        with command("convert", source, "out", "--format", "dicom", folder=tmp_path) as run:
            assert b"E-" not in run.communicate()[1]
    assert len(mio.read_scan(tmp_path / "out").files) == cases.SHAPE[2]
    assert not [place for place in tmp_path.rglob(".medidiff-*") if run.returncode == 0]
