"""The whole suite runs on every core; a file that is named runs at once, in the process that was asked."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

FOLDER = Path(__file__).parent


def workers(config, *words):
    return config.hook.pytest_xdist_auto_num_workers(config=SimpleNamespace(args=[str(word) for word in words]))


@pytest.mark.parametrize(("cores", "wanted"), [(1, 0), (2, 2), (8, 8), (64, 8)])
def test_a_folder_is_shared_among_the_cores(pytestconfig, monkeypatch, cores, wanted):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(cores)))
    assert workers(pytestconfig, FOLDER) == wanted


@pytest.mark.parametrize("words", [("test_x.py",), ("test_x.py::test_y",), ("", "test_x.py")], ids=str)
def test_a_file_is_not(pytestconfig, monkeypatch, words):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1})
    assert workers(pytestconfig, *(FOLDER / word for word in words)) == 0


def test_each_process_has_one_thread():
    assert torch.get_num_threads() == 1
    assert os.environ["OMP_NUM_THREADS"]  # and whatever it starts has as many as the environment says
