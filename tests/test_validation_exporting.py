"""The command that measures exports writes real data sets, each in a process of its own."""

import importlib
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parent.parent / "validation"


@pytest.fixture
def command(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("exporting")


def test_a_table_has_a_row_for_each_format_and_count(command, capsys):
    command.main(["--formats", "bids", "--counts", "1", "2", "--shape", "8", "9", "10"])
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in capsys.readouterr().out.splitlines()[2:]]
    assert [row[:2] for row in rows] == [["bids", "1"], ["bids", "2"]]
    assert all(30 < float(row[5]) < 2000 for row in rows)


def test_the_head_has_all_tissues_and_air(command):
    image, labels = command.head((16, 18, 20))
    assert set(labels.ravel()) == {0, 1, 2, 3}
    assert image[labels == 0].max() == 0
    assert labels[8, 9, 10] == 3


def test_a_data_set_that_does_not_verify_is_no_measurement(command, monkeypatch, tmp_path):
    monkeypatch.setattr(command, "verify_data_set", _spoil(command.verify_data_set))
    with pytest.raises(Exception, match="E-DATASET"):
        command.measured("msd", 1, (8, 9, 10), tmp_path / "set")


def _spoil(verify):
    def spoiled(folder):
        (folder / "extra.txt").write_text("?")
        return verify(folder)

    return spoiled
