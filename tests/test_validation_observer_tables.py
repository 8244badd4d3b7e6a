"""The tables of image quality come from kept figures alone, and leave out what was not measured."""

import importlib
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parent.parent / "validation"


@pytest.fixture
def tables(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("observer_tables")


def result(**figures):
    finding = importlib.import_module("findings").Finding
    measures = ("mtf50", "transfer_30", "fsc_truth_05_mm", "fsc_pair_0143_mm", "noise_percent")
    told = {
        f"{name}{end}/denoise/{method}": {1: value}
        for method, offset in (("noisy", 0.0), ("medidiff", 1.0))
        for name in measures
        for end, value in (("", 5 + offset), ("_low", 4 + offset), ("_high", 6 + offset))
    }
    return {"image-quality": finding({"command": "python validation/image_quality.py", "scans": "1 2"}, told | figures)}


def dprimes(observer="hotelling"):
    signals = [f"{size} mm {contrast} sigma" for size in (3, 5, 7, 9) for contrast in (1, 3)]
    told = {f"dprime/denoise/noisy/{observer}/{signal}": {1: 2.0} for signal in signals}
    told |= {f"dprime/denoise/medidiff/{observer}/{signal}": {1: 1.0} for signal in signals}
    told |= {f"dprime_ratio/denoise/medidiff/{observer}/{signal}": {1: 0.5} for signal in signals}
    ends = (("_low", 0.25), ("_high", 0.75))
    return told | {f"dprime_ratio{end}/denoise/medidiff/{observer}/{signals[0]}": {1: value} for end, value in ends}


def test_a_row_for_each_method_that_was_measured_with_its_interval(tables):
    made = tables.image_quality(result())
    assert [row[:2] for row in made.rows] == [("9 % noise", "noisy"), ("9 % noise", "medidiff")]
    assert made.rows[1][2:4] == ("6.000 [5.000, 7.000]", "6.00 [5.00, 7.00]")


def test_the_first_method_has_a_value_and_the_others_a_ratio(tables):
    made = tables.detectability(result(**dprimes()))
    assert [row[2] for row in made.rows] == ["Hotelling"] * 2
    assert made.rows[0][3:] == ("2.00",) * 8
    assert made.rows[1][3:5] == ("×0.50 [0.25, 0.75]", "×0.50")


def test_a_signal_of_too_few_places_is_an_empty_cell(tables):
    told = dprimes()
    del (
        told["dprime/denoise/noisy/hotelling/9 mm 3 sigma"],
        told["dprime_ratio/denoise/medidiff/hotelling/9 mm 3 sigma"],
    )
    made = tables.detectability(result(**told))
    assert [row[-1] for row in made.rows] == ["", ""]


def test_figures_that_are_missing_are_an_error_and_no_empty_table(tables):
    with pytest.raises(KeyError, match="image-quality"):
        tables.image_quality({})
