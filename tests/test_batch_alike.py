"""Case order, parts, restarts, the number of workers and the engine change no byte of any result."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import medidiff.cli as cli
from medidiff.io import write
from tests.cli_cases import ball

CASES = 4


@pytest.fixture(scope="module")
def scans(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("scans")
    for number in range(CASES):
        write(ball((10, 9, 8), seed=number), folder / f"scan-{number}.nii.gz")
    return folder


def listed(scans: Path, name: str, order: range) -> Path:
    manifest = scans / name
    rows = [{"input": f"scan-{n}.nii.gz", "id": f"case-{n}"} for n in order]
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return manifest


def ran(manifest: Path, out: Path, card: str, *words: str) -> dict[str, bytes]:
    """The results of a batch and the records of its cases, as they are when the command has ended."""
    asked = ["batch", "denoise", str(manifest), str(out), "--prior", card, "--draws", "2", "--spread", "--draw"]
    assert cli.main([*asked, "--device", "cpu", *words]) == 0
    return found(out)


def found(out: Path) -> dict[str, bytes]:
    files = [path for path in out.rglob("*") if path.is_file() and ".medidiff" not in path.parts]
    files += (out / ".medidiff" / "done").rglob("*.json")
    return {str(path.relative_to(out)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def alone(scans, tmp_path_factory, card) -> dict[str, bytes]:
    """By this process, one after the other."""
    return ran(listed(scans, "forward.jsonl", range(CASES)), tmp_path_factory.mktemp("alone"), card, "--workers", "1")


def test_the_results_are_those_that_were_asked_for(alone):
    kinds = [name for name in alone if name.endswith(".nii.gz")]
    assert len(kinds) == 3 * CASES
    assert len(set(alone.values())) == len(alone)


def test_order_parts_restarts_and_the_number_of_workers(scans, alone, tmp_path, card):
    manifest = listed(scans, "backward.jsonl", range(CASES - 1, -1, -1))
    first = ran(manifest, tmp_path, card, "--workers", "1", "-num_parts", "4", "-part_id", "1")
    assert len([name for name in first if name.startswith(".medidiff")]) == 1
    assert ran(manifest, tmp_path, card, "--workers", "2") == alone


def test_tasks_of_dask(scans, alone, tmp_path, card):
    manifest = listed(scans, "forward.jsonl", range(CASES))
    assert ran(manifest, tmp_path, card, "--engine", "dask", "--workers", "2", "--threads", "1") == alone
    assert json.loads((tmp_path / ".medidiff" / "report.json").read_text())["engine"] == "dask"


def test_another_seed_is_seen(scans, alone, tmp_path, card):
    manifest = listed(scans, "forward.jsonl", range(CASES))
    other = ran(manifest, tmp_path, card, "--workers", "1", "--seed", "1")
    assert other.keys() == alone.keys()
    drawn = [name for name in other if "draw" in name and name.endswith(".nii.gz")]
    assert drawn
    assert all(other[name] != alone[name] for name in drawn)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--engine", "pigeon"), "local, slurm or dask"),
        (("--address", "tcp://127.0.0.1:9"), "--engine dask"),
        (("--partition", "long"), "--engine slurm"),
        (("--engine", "slurm", "--time", "1"), "2 minutes"),
        (("--engine", "dask", "--address", "tcp://127.0.0.1:9", "--jobqueue", "slurm"), "one of them"),
    ],
)
def test_what_an_engine_has_not_is_refused_before_anything_is_written(scans, tmp_path, card, words, says, capsys):
    manifest = listed(scans, "forward.jsonl", range(CASES))
    out = tmp_path / "out"
    assert cli.main(["batch", "denoise", str(manifest), str(out), "--prior", card, *words]) == 2
    assert says in capsys.readouterr().err
    assert not out.exists()
