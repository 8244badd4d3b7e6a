"""The laws of exported data sets: the same bytes, whole or absent, bounded memory, marked, and nobody's."""

from __future__ import annotations

import dataclasses
import datetime
import getpass
import platform
import signal
import subprocess
import sys
import tracemalloc
from pathlib import Path

import export_cases as cases
import numpy as np
import pytest
from export_cases import ABOUT, NUMBERS, REPORT

from medidiff.cli.verbs import Export
from medidiff.errors import InputError, OutputError, SettingsError
from medidiff.export import FORMATS, DataSetWriter, open_data_set, open_stored, verify_data_set

EXACT = [name for name in FORMATS if name != "dicom"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> dict[str, Path]:
    """A data set in each format; not to be changed."""
    home = tmp_path_factory.mktemp("sets")
    return {name: cases.written(home / name, name) for name in FORMATS}


def test_the_command_line_offers_the_formats_that_there_are():
    import typing

    hints = typing.get_type_hints(Export)
    assert typing.get_args(hints["format"]) == FORMATS
    assert FORMATS[0] == "bids"


@pytest.mark.parametrize("name", FORMATS)
def test_a_whole_data_set_verifies(name, whole):
    found = verify_data_set(whole[name])
    assert found.problems == ()
    assert (found.format, found.cases, found.gates) == (name, 4, "hold")
    assert found.files == len(cases.tree(whole[name]))
    done = subprocess.run(["sha256sum", "--strict", "-c", "SHA256SUMS"], cwd=whole[name], capture_output=True)
    assert done.returncode == 0


@pytest.mark.parametrize("name", FORMATS)
def test_the_same_cases_give_the_same_bytes_in_any_order(name, whole, tmp_path):
    assert cases.tree(cases.written(tmp_path / "again", name, numbers=NUMBERS[::-1])) == cases.tree(whole[name])


def test_other_cases_give_other_bytes(whole, tmp_path):
    other = cases.written(tmp_path / "other", "bids", numbers=(0, 1, 2, 36))
    assert cases.tree(other) != cases.tree(whole["bids"])


@pytest.mark.parametrize("name", EXACT)
def test_cases_come_back_as_they_were(name, whole):
    stored = open_stored(whole[name])
    assert stored.about == ABOUT
    again = list(stored.cases(NUMBERS))
    assert [each.number for each in again] == list(NUMBERS)
    for each in again:
        before = cases.case(each.number)
        assert each.image.data.dtype == np.float32
        assert np.array_equal(each.image.data, before.image.data)
        assert np.array_equal(each.labels.data, before.labels.data)
        assert each.image.geometry == before.image.geometry
        assert (each.asked, each.provenance, each.label_names) == (before.asked, before.provenance, before.label_names)


def test_dicom_does_not_pretend_to_keep_a_scan_exactly(whole):
    with pytest.raises(InputError, match="E-DATASET: dicom: dicom, which does not keep a scan exactly"):
        open_stored(whole["dicom"]).cases(NUMBERS)


# --- killed and run again -------------------------------------------------------------------------------------------

KILLED = """
import os, signal, sys
sys.path.insert(0, {tests!r})
import export_cases as cases
import {module} as module
from medidiff.export import open_data_set
keep, count = module.{function}, 0
def deadly(*args, **kwargs):
    global count
    count += 1
    if count == {at}:
        os.kill(os.getpid(), signal.SIGKILL)
    return keep(*args, **kwargs)
module.{function} = deadly
writer = open_data_set({out!r}, {name!r}, cases.ABOUT)
cases.add(writer, cases.NUMBERS)
writer.close(cases.REPORT)
"""


@pytest.mark.parametrize(
    ("name", "module", "function", "at", "there"),
    [
        ("bids", "medidiff.io.nifti.write", "_verify", 4, 1),  # the label map of the second case, not yet renamed
        ("webdataset", "medidiff.export.layout", "write_json", 3, 2),  # the record of the third
        ("webdataset", "medidiff.export.shards", "write_file", 2, 4),  # the second shard
        ("dicom", "medidiff.export.dicom", "write_labels", 2, 1),
        ("bids", "medidiff.export.writer", "write_sums", 1, 4),  # all but the checksums
    ],
)
def test_killed_and_run_again_gives_the_same_data_set(name, module, function, at, there, whole, tmp_path):
    out = tmp_path / "out"
    words = {"tests": str(Path(__file__).parent), "module": module, "function": function, "at": at}
    script = KILLED.format(out=str(out), name=name, **words)
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -signal.SIGKILL
    left = {each.kind for each in verify_data_set(out).problems}
    assert ("missing" if function == "write_sums" else "incomplete") in left
    leftovers = list(out.rglob(".medidiff-*"))
    assert bool(leftovers) == (function in ("_verify", "write_labels"))
    for place in leftovers:  # as if it had been on another machine, whose runs are not asked for
        place.rename(place.with_name(f".medidiff-00000000-{place.name.split('-', 2)[2]}"))
    writer = open_data_set(out, name, ABOUT)
    assert not writer.is_whole
    assert len(writer.numbers()) == there
    drawn: list[int] = []
    for number in NUMBERS:
        if not writer.has(number):
            drawn.append(number)
            writer.add(cases.case(number))
    writer.close(REPORT)
    assert drawn == list(NUMBERS[there:])
    assert cases.tree(out) == cases.tree(whole[name])


def test_a_whole_data_set_is_left_as_it_is(whole, tmp_path):
    before = {name: (whole["bids"] / name).stat().st_mtime_ns for name in cases.tree(whole["bids"])}
    writer = open_data_set(whole["bids"], "bids", ABOUT)
    assert writer.is_whole
    cases.add(writer, NUMBERS)
    writer.close(REPORT)
    assert {name: (whole["bids"] / name).stat().st_mtime_ns for name in before} == before
    with pytest.raises(OutputError, match="E-EXISTS"):
        writer.add(cases.case(3))


@pytest.mark.parametrize("change", [{"seed": 8}, {"count": 5}, {"title": "Others"}])
def test_another_request_does_not_go_on_with_a_data_set(change, whole):
    with pytest.raises(OutputError, match="E-EXISTS"):
        open_data_set(whole["bids"], "bids", dataclasses.replace(ABOUT, **change))
    with pytest.raises(OutputError, match="E-EXISTS"):
        open_data_set(whole["bids"], "msd", ABOUT)


def test_a_folder_with_something_else_in_it_is_left_alone(tmp_path):
    (tmp_path / "letter.txt").write_text("to keep")
    with pytest.raises(OutputError, match="E-EXISTS"):
        open_data_set(tmp_path, "bids", ABOUT)
    assert cases.tree(tmp_path) == {"letter.txt": b"to keep"}


# --- what is refused ------------------------------------------------------------------------------------------------


REFUSED = {"refusal": "9 of 10 samples are like a training scan", "flagged": 9, "worst": float("nan")}


@pytest.mark.parametrize("report", [None, {}, REFUSED, {"refusal": None}])
def test_nothing_leaves_without_gates_that_hold(report, tmp_path):
    writer = open_data_set(tmp_path / "out", "msd", ABOUT)
    writer.add(cases.case(0))
    with pytest.raises(SettingsError, match="E-UNGATED"):
        writer.close(report)
    assert verify_data_set(tmp_path / "out").problems
    writer.close(report, override="a planted\ncopy")
    found = verify_data_set(tmp_path / "out")
    assert (found.problems, found.gates) == ((), "overridden")
    card = (tmp_path / "out" / "README.md").read_text("utf-8")
    assert f"The gates {'were not run' if report is None else 'do not hold'}.** Why the data set" in card
    assert "left all the same: a planted copy" in card


def test_the_override_of_the_report_itself_counts(tmp_path):
    writer = open_data_set(tmp_path / "out", "msd", ABOUT)
    writer.add(cases.case(0))
    writer.close({**REFUSED, "override": "a demonstration"})
    assert verify_data_set(tmp_path / "out").gates == "overridden"


def test_a_case_of_another_kind_is_refused(tmp_path):
    writer = open_data_set(tmp_path / "out", "bids", ABOUT)
    good = cases.case(0)
    ct = dataclasses.replace(good, image=dataclasses.replace(good.image, modality="CT"))
    for bad in (cases.case(0, labels=False), dataclasses.replace(good, asked={"contrast": "T2w"}), ct):
        with pytest.raises(InputError, match="E-CASE"):
            writer.add(bad)
    assert writer.numbers() == []
    with pytest.raises(InputError, match="E-DATASET"):
        writer.close(REPORT)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("nnunet", {"label_names": ()}),
        ("msd", {"label_names": ()}),
        ("bids", {"contrast": "T9w"}),
        ("zip", {}),
    ],
)
def test_a_format_that_cannot_hold_the_data_set_says_so(name, change, tmp_path):
    with pytest.raises(SettingsError, match="E-EXPORT"):
        open_data_set(tmp_path / "out", name, dataclasses.replace(ABOUT, **change))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "change",
    [
        {"title": " "},
        {"title": "two\nlines"},
        {"count": 0},
        {"licence": ""},
        {"contrast": "../up"},
        {"label_names": ("only",)},
        {"asked": {"age": float("nan")}},
        {"asked": {"age": object()}},
    ],
)
def test_a_description_that_cannot_be_is_refused(change):
    with pytest.raises(SettingsError, match="E-EXPORT"):
        dataclasses.replace(ABOUT, **change)


@pytest.mark.parametrize("name", ["bids", "webdataset", "huggingface", "dicom"])
def test_labels_are_optional(name, tmp_path):
    about = dataclasses.replace(ABOUT, label_names=())
    out = cases.written(tmp_path / "out", name, numbers=(0, 3), about=about, labels=False)
    assert verify_data_set(out).problems == ()
    assert not [each for each in cases.tree(out) if "label" in each or "dseg" in each]
    if name != "dicom":
        assert [each.labels for each in open_stored(out).cases((0, 3))] == [None, None]


# --- memory ---------------------------------------------------------------------------------------------------------

LARGE = (48, 48, 48)
ONE_CASE = 5 * 48**3  # bytes: float32 and uint8


def peak(out: Path, name: str, count: int) -> int:
    """Most bytes held while a data set of that many cases is written."""
    tracemalloc.start()
    try:
        writer = open_data_set(out, name, dataclasses.replace(ABOUT, count=count))
        for number in range(count):
            writer.add(cases.case(number, shape=LARGE))
        writer.close(REPORT)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", ["bids", "webdataset"])
def test_memory_does_not_grow_with_the_count(name, tmp_path):
    peak(tmp_path / "warm", name, 1)
    assert peak(tmp_path / "many", name, 12) - peak(tmp_path / "few", name, 3) < ONE_CASE / 2


def test_a_writer_that_hoards_its_cases_is_seen(tmp_path, monkeypatch):
    hoard, keep = [], DataSetWriter.add
    monkeypatch.setattr(DataSetWriter, "add", lambda self, each: (hoard.append(each), keep(self, each)))
    peak(tmp_path / "warm", "bids", 1)
    few = peak(tmp_path / "few", "bids", 3)
    hoard.clear()
    assert peak(tmp_path / "many", "bids", 12) - few > 5 * ONE_CASE


# --- whose it is ----------------------------------------------------------------------------------------------------


def identifiers() -> list[bytes]:
    """What tells of this machine, its user, its folders and today."""
    today = datetime.datetime.now(tz=datetime.UTC).date()
    words = [platform.node(), getpass.getuser(), str(Path.home()), str(Path(__file__).parents[1]), "/tmp/", "pytest-"]
    days = [day.strftime(form) for day in (today, today - datetime.timedelta(1)) for form in ("%Y-%m-%d", "%Y%m%d")]
    return [word.encode() for word in (*words, *days) if len(word) > 3]


def found_in(root: Path) -> set[bytes]:
    return {word for _, raw in cases.contents(root) for word in identifiers() if word.lower() in raw.lower()}


@pytest.mark.parametrize("name", FORMATS)
def test_no_byte_tells_where_when_or_by_whom(name, whole):
    assert found_in(whole[name]) == set()


@pytest.mark.parametrize("name", FORMATS)
def test_an_identifier_that_was_let_in_would_be_found(name, tmp_path):
    leaky = cases.case(0)
    made = dataclasses.replace(leaky.provenance, settings={"data": str(tmp_path)})
    writer = open_data_set(tmp_path / "out", name, ABOUT)
    writer.add(dataclasses.replace(leaky, provenance=made))
    writer.close(REPORT)
    assert found_in(tmp_path / "out") != set()


@pytest.mark.parametrize("name", FORMATS)
def test_times_are_those_of_nobody(name, whole):
    for file, raw in cases.tree(whole[name]).items():
        if file.endswith(".gz"):
            assert raw[3:8] == b"\0\0\0\0\0", file  # no name, no time
