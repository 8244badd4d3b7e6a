"""The one writer under faults: at every step the old file stays whole, and no temporary stays behind."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from nifti_cases import grid, ramp

import medidiff.io as mio
from medidiff.errors import InputError, OutputError
from medidiff.io.files import atomic
from medidiff.volume import Volume

ENDINGS = (".nii", ".nii.gz", ".nrrd", ".mha")
OLD = Volume(ramp().astype(np.int16), grid())
NEW = OLD.with_data(OLD.data[0] + 1)


def refusing(number: int, code: int = errno.EIO):
    """A function of the system that fails when it is called for the nth time, and works otherwise."""
    calls = []

    def wrap(real):
        def fail(*args, **kwargs):
            calls.append(args)
            if len(calls) == number:
                raise OSError(code, os.strerror(code))
            return real(*args, **kwargs)

        return fail

    return wrap


def names(folder: Path) -> list[str]:
    return sorted(place.name for place in folder.iterdir())


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize(
    ("function", "number", "code"),
    [("open", 2, "E-OUT"), ("fsync", 1, "E-OUT"), ("replace", 1, "E-OUT")],
    ids=["creating", "fsync", "rename"],
)
def test_a_step_that_fails_leaves_what_was_there(tmp_path, monkeypatch, ending, function, number, code):
    file = mio.write(OLD, tmp_path / f"a{ending}")[0]
    before, content = names(tmp_path), file.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(atomic.os, function, refusing(number)(getattr(os, function)))
        with pytest.raises(OutputError, match=code):
            mio.write(NEW, file)
    assert file.read_bytes() == content
    assert names(tmp_path) == before
    mio.write(NEW, file)  # the fault gone, the same command works
    assert np.array_equal(mio.read(file).data, NEW.data)


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_disk_that_fills_up_leaves_what_was_there(tmp_path, monkeypatch, ending):
    file = mio.write(OLD, tmp_path / f"a{ending}")[0]
    before, content = names(tmp_path), file.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(atomic.os, "fsync", refusing(1, errno.ENOSPC)(os.fsync))
        with pytest.raises(OutputError, match=r"E-DISK.*MiB free"):
            mio.write(NEW, file)
    assert (file.read_bytes(), names(tmp_path)) == (content, before)


def test_a_disk_that_is_too_small_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(atomic.shutil, "disk_usage", lambda place: SimpleNamespace(free=100))
    with pytest.raises(OutputError, match=r"E-DISK.*0.0 MiB free \(wanted: "):
        mio.write(OLD, tmp_path / "a.nii")
    assert names(tmp_path) == []
    monkeypatch.undo()
    atomic.refuse_full(tmp_path, 1, file="a.nii")


def test_compressed_voxels_are_not_refused_for_their_plain_size(tmp_path, monkeypatch):
    zeros = Volume(np.zeros((64, 64, 64), np.int16), type(OLD.geometry).regular((64, 64, 64)))
    monkeypatch.setattr(atomic.shutil, "disk_usage", lambda place: SimpleNamespace(free=50_000))
    assert mio.write(zeros, tmp_path / "a.nii.gz")[0].stat().st_size < 50_000
    with pytest.raises(OutputError, match="E-DISK"):
        mio.write(zeros, tmp_path / "a.nii")


@pytest.mark.parametrize("fault", [InputError("E-CRC", "damaged"), OutputError("E-VERIFY", "differs")])
def test_what_cannot_be_read_again_is_not_kept(tmp_path, fault):
    target = tmp_path / "a.bin"
    target.write_bytes(b"old")

    def verify(name: Path) -> None:
        assert name.read_bytes() == b"new"
        raise fault

    with pytest.raises(OutputError, match="E-VERIFY"):
        atomic.write_file(target, lambda name: name.write_bytes(b"new"), verify=verify)
    assert (target.read_bytes(), names(tmp_path)) == (b"old", ["a.bin"])


@pytest.mark.parametrize("ending", ENDINGS)
def test_bytes_that_change_on_the_way_to_the_disk_are_noticed(tmp_path, monkeypatch, ending):
    real = atomic.sync

    def damage(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[-12] ^= 4
        path.write_bytes(content)
        real(path)

    monkeypatch.setattr(atomic, "sync", damage)
    with pytest.raises(OutputError, match="E-VERIFY"):
        mio.write(OLD, tmp_path / f"a{ending}")
    assert names(tmp_path) == []


def test_a_link_is_replaced_and_never_followed(tmp_path):
    (tmp_path / "other.nii").write_bytes(b"precious")
    (tmp_path / "a.nii").symlink_to(tmp_path / "other.nii")
    file = mio.write(OLD, tmp_path / "a.nii")[0]
    assert not file.is_symlink()
    assert (tmp_path / "other.nii").read_bytes() == b"precious"


def test_a_folder_reached_through_a_link_is_fine(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    mio.write(OLD, tmp_path / "link" / "a.nii")
    assert names(tmp_path / "real") == ["a.json", "a.nii"]


def test_a_folder_that_is_exchanged_during_the_run_is_refused(tmp_path):
    home, other = tmp_path / "home", tmp_path / "other"
    home.mkdir()
    other.mkdir()

    def exchange(name: Path) -> None:
        name.write_bytes(b"new")
        home.rename(tmp_path / "moved")
        home.symlink_to(other)
        (other / name.name).write_bytes(b"planted")

    with pytest.raises(OutputError, match=r"E-OUT.*exchanged"):
        atomic.write_file(home / "a.bin", exchange)
    assert "a.bin" not in names(other)
    assert names(tmp_path / "moved") == []


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="E-OUT"):
        mio.write(OLD, tmp_path / "file" / "a.nii")


def test_sources_are_safe_as_record_and_mask_too(tmp_path):
    source = mio.write(OLD, tmp_path / "b_filled.nii")[0]
    content = source.read_bytes()
    filled = np.zeros(OLD.shape, bool)
    filled[0, 0, 0] = True
    made = Volume(OLD.data, OLD.geometry, filled=filled)
    with pytest.raises(OutputError, match="E-OVERWRITE"):
        mio.write(made, tmp_path / "b.nii", like=source)
    with pytest.raises(OutputError, match="E-OVERWRITE"):  # a foreign file where the mask would go
        mio.write(made, tmp_path / "b.nii")
    assert source.read_bytes() == content


# -- killed runs -------------------------------------------------------------------------------------------------------

_KILLED = """
import os, sys, time
from pathlib import Path
from medidiff.io.files import atomic
def write(name):
    name.write_bytes(b"half")
    print(name.name, flush=True)
    time.sleep(60)
atomic.write_file(Path(sys.argv[1]), write)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_what_a_killed_run_leaves_is_removed_by_the_next(tmp_path, how):
    file = mio.write(OLD, tmp_path / "a.nii")[0]
    content = file.read_bytes()
    with subprocess.Popen([sys.executable, "-c", _KILLED, str(file)], stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        partial = run.stdout.readline().strip()
        atomic.make_folder(tmp_path)
        assert partial in names(tmp_path)  # its process is alive
        run.send_signal(how)
        run.wait()
    assert file.read_bytes() == content
    mio.write(NEW, tmp_path / "b.nii")
    assert names(tmp_path) == ["a.json", "a.nii", "b.json", "b.nii"]


def test_only_our_own_stale_temporaries_are_removed(tmp_path):
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    ours = f".medidiff-{atomic._host()}-{dead.stdout.strip()}-{'ab' * 6}"
    theirs = f".medidiff-{'0' * 8}-1-{'ab' * 6}"
    kept = [
        theirs + ".nii",
        ".medidiff-notes.txt",
        ".other",
        f".medidiff-{atomic._host()}-{os.getpid()}-{'ab' * 6}.nii",
    ]
    for name in (*kept, ours + ".nii.gz"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / ours).mkdir()
    (tmp_path / (theirs + ".mha")).write_bytes(b"x")
    yesterday = time.time() - 100_000
    os.utime(tmp_path / (theirs + ".mha"), (yesterday, yesterday))
    (tmp_path / (ours + ".nrrd")).symlink_to(tmp_path / ".other")
    atomic.make_folder(tmp_path)
    assert names(tmp_path) == sorted([*kept, ours + ".nrrd"])
