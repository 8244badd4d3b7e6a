"""Inputs that are out of reach, all of them, end a run: they refuse no case, and cost no finished one its record."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import medidiff.cli as cli
from medidiff.batch.inputs import Inputs
from medidiff.batch.job import Batch
from medidiff.batch.status import status_of
from medidiff.batch.worker import Worker
from medidiff.errors import InputError
from medidiff.io import write
from tests.batch_cases import Copying, begin, make_inputs, tree
from tests.cli_cases import ball, document, refused

COUNT = 3


class Reading(Copying):
    """Says of an input that is not there what a reader says."""

    def run(self, case):
        if not Path(case.input).exists():
            raise InputError("E-MISSING", "no such file", file=Path(case.input).name)
        return super().run(case)


def work(batch: Batch) -> None:
    Worker(batch, Reading(batch.root), since_ns=batch.now_ns()).work(range(len(batch.manifest)))


@pytest.fixture
def batch(tmp_path):
    batch = begin(tmp_path / "out", make_inputs(tmp_path / "in", COUNT))
    work(batch)
    return batch


def unmount(batch: Batch, *, leaving_a_folder: bool) -> Path:
    """Where the inputs are now."""
    home = Path(batch.manifest[0].input).parent
    away = home.rename(home.with_name("away"))
    if leaving_a_folder:
        home.mkdir()
    return away


@pytest.mark.parametrize("leaving_a_folder", [False, True])
def test_a_share_that_is_not_mounted_costs_no_finished_case(leaving_a_folder, batch):
    before = tree(batch.root)
    unmount(batch, leaving_a_folder=leaving_a_folder)
    with pytest.raises(InputError, match="E-INPUTS"):
        work(batch)
    assert tree(batch.root) == before
    assert (status_of(batch).done, status_of(batch).held) == (COUNT, 0)


def test_without_the_look_at_the_others_every_record_would_be_lost(batch, monkeypatch):
    """A broken instance: each missing input is believed to be a fault of its case."""
    unmount(batch, leaving_a_folder=False)
    monkeypatch.setattr(Inputs, "refuse_gone", lambda self: None)
    work(batch)
    assert (status_of(batch).done, dict(status_of(batch).refused)) == (0, {"E-MISSING": COUNT})


def test_a_share_that_goes_away_meanwhile_ends_the_run(tmp_path):
    batch = begin(tmp_path / "out", make_inputs(tmp_path / "in", COUNT))
    Path(batch.manifest[1].input).unlink()

    class Vanishing(Reading):
        def run(self, case):
            if case == batch.manifest[2]:
                unmount(batch, leaving_a_folder=True)
            return super().run(case)

    with pytest.raises(InputError, match="E-INPUTS"):
        Worker(batch, Vanishing(batch.root), since_ns=batch.now_ns()).work(range(COUNT))
    status = status_of(batch)
    assert (status.done, dict(status.refused), status.left) == (1, {"E-MISSING": 1}, 1)


def test_what_can_be_opened_counts_as_an_input(tmp_path, batch):
    (first, *_) = batch.manifest

    def seen(path: Path) -> bool:
        try:
            Inputs([type(first)("x", str(path), 0, "x_{kind}")]).refuse_gone()
        except InputError:
            return False
        return True

    (tmp_path / "empty").mkdir()
    (tmp_path / "nothing.nii").write_bytes(b"")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe")
    found = {name: seen(tmp_path / name) for name in ("in", "empty", "nothing.nii", "link", "pipe", "nul\0")}
    assert found == {"in": True, "empty": False, "nothing.nii": True, "link": False, "pipe": False, "nul\0": False}


@pytest.fixture
def words(card, tmp_path):
    for number in range(2):
        write(ball((10, 9, 8), seed=number), tmp_path / "in" / f"scan-{number}.nii.gz")
    words = ["batch", "denoise", tmp_path / "in", tmp_path / "out", "--prior", card, "--noise-level", "50"]
    return [*words, "--steps", "1", "--workers", "1"]


def test_a_command_and_a_worker_that_do_not_see_the_inputs_say_so(words, tmp_path, capsys):
    assert document(words, capsys)["done"] == 2
    (tmp_path / "in").rename(tmp_path / "away")
    assert "E-INPUTS" in refused(words, capsys, 4)
    assert "E-INPUTS" in refused(["batch", "work", tmp_path / "out"], capsys, 4)
    (tmp_path / "away").rename(tmp_path / "in")
    told = document(words, capsys)
    assert (told["done"], told["run"]["kept"]) == (2, 2)


def test_a_manifest_of_wrong_paths_begins_no_batch_and_can_be_corrected(words, tmp_path, capsys):
    table = words[2] = tmp_path / "list.csv"
    table.write_text("input\nscan-0.nii.gz\nscan-1.nii.gz\n")
    assert "E-INPUTS" in refused(words, capsys, 4)
    assert not Batch.is_there(tmp_path / "out")
    table.write_text("input\nin/scan-0.nii.gz\nscan-1.nii.gz\n")
    assert cli.main([*map(str, words)]) == 7
    capsys.readouterr()
    assert document(["batch", "status", tmp_path / "out"], capsys)["codes"] == {"E-MISSING": 1}


def test_a_manifest_that_has_changed_is_told_and_does_not_change_the_batch(words, tmp_path, capsys):
    table = words[2] = tmp_path / "list.csv"
    table.write_text("input\nin/scan-0.nii.gz\n")
    for _ in range(2):
        assert cli.main([*map(str, words)]) == 0
        assert capsys.readouterr().err == ""
    for text in ("input\nin/scan-0.nii.gz\nin/scan-1.nii.gz\n", "input\nin/scan-1.nii.gz\n", "input\n", "path\n1\n"):
        table.write_text(text)
        assert cli.main([*map(str, words)]) == 0
        assert "has changed since the batch began" in capsys.readouterr().err
    assert [case.input for case in Batch(tmp_path / "out").manifest] == [str(tmp_path / "in" / "scan-0.nii.gz")]
