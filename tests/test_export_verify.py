"""`verify_data_set` finds what was done to a data set: each kind of damage alone, with the other checks satisfied."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import export_cases as cases
import pytest

from medidiff.case import MARK
from medidiff.errors import InputError
from medidiff.export import FORMATS, Problem, open_data_set, open_stored, verify_data_set
from medidiff.export.marks import is_marked

PICKED = {  # a scan, its label map and a record of each format
    "bids": (
        "sub-syn000001/anat/sub-syn000001_T1w.nii.gz",
        "derivatives/labels/sub-syn000001/anat/sub-syn000001_dseg.nii.gz",
        "sub-syn000001/anat/sub-syn000001_T1w.json",
    ),
    "nnunet": ("imagesTr/syn000001_0000.nii.gz", "labelsTr/syn000001.nii.gz", "records/syn000001.json"),
    "msd": ("imagesTr/syn000001.nii.gz", "labelsTr/syn000001.nii.gz", "records/syn000001.json"),
    "webdataset": ("shards/000000.tar", "shards/000001.tar"),
    "huggingface": ("data/images/syn000001.nii", "data/labels/syn000001.nii", "records/syn000001.json"),
    "dicom": ("syn000001/image/IM0003.dcm", "syn000001/labels.dcm", "syn000001/record.json"),
}
COMMON = ("README.md", "croissant.json", "gates.json", "medidiff.json")
TABLES = {"bids": "participants.tsv", "huggingface": "data/metadata.csv"}
FILES = [(name, file) for name, files in PICKED.items() for file in (*files, TABLES.get(name, "cases.tsv"))]
FILES += [("bids", file) for file in (*COMMON, ".bidsignore", "participants.json", "dataset_description.json")]
FILES += [("bids", "derivatives/labels/dseg.tsv"), ("msd", "dataset.json"), ("nnunet", "dataset.json")]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> dict[str, Path]:
    home = tmp_path_factory.mktemp("sets")
    return {name: cases.written(home / name, name, numbers=(1, 35), shape=(7, 9, 8)) for name in FORMATS}


@pytest.fixture
def copy(whole, tmp_path):
    return lambda name: Path(shutil.copytree(whole[name], tmp_path / name))


def problems(root: Path) -> set[tuple[str, str]]:
    return {(each.kind, each.file) for each in verify_data_set(root).problems}


def test_every_file_of_every_format_is_marked(whole):
    for root in whole.values():
        assert [file for file in cases.tree(root) if not is_marked(root / file)] == []


@pytest.mark.parametrize(("name", "file"), FILES)
def test_a_removed_mark_is_found(name, file, copy):
    root = copy(name)
    before = (root / file).read_bytes()
    cases.unmark(root / file)
    assert (root / file).read_bytes() != before
    cases.resum(root)
    assert problems(root) == {("unmarked", file)}


def test_the_mark_of_the_checksums_themselves_is_missed(copy):
    root = copy("bids")
    cases.unmark(root / "SHA256SUMS")
    assert ("unmarked", "SHA256SUMS") in problems(root)


def test_a_shard_without_its_comment_is_found(copy):
    root = copy("webdataset")
    shard = root / "shards" / "000000.tar"
    shard.write_bytes(shard.read_bytes().replace(MARK.encode(), b"X" * len(MARK)))
    assert not is_marked(shard)


def test_a_record_of_a_scan_that_is_not_synthetic_is_found(copy):
    root = copy("bids")
    path = root / PICKED["bids"][2]
    fields = json.loads(path.read_text("utf-8"))
    fields["Provenance"]["synthetic"] = False
    path.write_text(json.dumps(fields), "utf-8")
    cases.resum(root)
    assert problems(root) == {("unmarked", PICKED["bids"][2])}


@pytest.mark.parametrize("name", FORMATS)
def test_a_flipped_byte_is_found(name, copy):
    for file in (*PICKED[name], *COMMON[:2]):
        root = copy(name)
        raw = bytearray((root / file).read_bytes())
        raw[len(raw) // 2] ^= 1
        (root / file).write_bytes(raw)
        assert ("changed", file) in problems(root)
        shutil.rmtree(root)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("extra", ["notes.txt", "{home}/patient.nii.gz", ".hidden"])
def test_an_extra_file_is_found(name, extra, copy):
    root = copy(name)
    file = extra.format(home=Path(PICKED[name][0]).parent.as_posix())
    (root / file).write_text(MARK)
    cases.resum(root)
    assert ("unknown", file) in problems(root)


@pytest.mark.parametrize(("name", "file"), [each for each in FILES if each[1] not in ("medidiff.json", "gates.json")])
def test_a_missing_file_is_found(name, file, copy):
    root = copy(name)
    (root / file).unlink()
    assert problems(root) == {("missing", file)}
    cases.without_line(root, file)
    assert problems(root) == {("missing", file)}


def test_a_case_that_is_gone_with_its_lines_is_found(copy):
    root = copy("msd")
    for file in PICKED["msd"]:
        (root / file).unlink()
    cases.resum(root)
    assert problems(root) == {("missing", file) for file in PICKED["msd"]}


def test_a_file_without_a_checksum_is_found(copy):
    root = copy("msd")
    cases.without_line(root, PICKED["msd"][0])
    assert problems(root) == {("changed", PICKED["msd"][0])}


def test_a_link_in_the_place_of_a_scan_is_found(copy, tmp_path):
    root = copy("msd")
    scan = root / PICKED["msd"][0]
    scan.rename(tmp_path / "elsewhere.nii.gz")
    scan.symlink_to(tmp_path / "elsewhere.nii.gz")
    assert ("changed", PICKED["msd"][0]) in problems(root)


def test_gates_that_say_nothing_are_found(copy):
    root = copy("bids")
    gates = json.loads((root / "gates.json").read_text("utf-8"))
    (root / "gates.json").write_text(json.dumps(gates | {"Holds": False}), "utf-8")
    cases.resum(root)
    assert problems(root) == {("ungated", "")}
    (root / "gates.json").unlink()
    assert problems(root) == {("ungated", ""), ("missing", "gates.json")}


def test_a_data_set_that_was_never_finished_is_found(tmp_path):
    writer = open_data_set(tmp_path / "out", "bids", cases.ABOUT)
    writer.add(cases.case(0))
    assert ("incomplete", "") in problems(tmp_path / "out")


@pytest.mark.parametrize(
    "manifest",
    [
        "",
        "[]",
        "{}",
        '{"Format": "bids", "Cases": [1, 0], "About": {}}',
        '{"Format": "../x", "Cases": [0], "About": {}}',
        '{"Format": "bids", "Cases": [true], "About": {}}',
        '{"Format": "bids", "Cases": [0], "About": {"title": "x"}}',
        '{"Format": "bids", "Cases": [0], "About": 3}',
    ],
)
def test_a_manifest_that_is_none_is_refused(manifest, copy):
    root = copy("bids")
    (root / "medidiff.json").write_text(manifest)
    with pytest.raises(InputError, match="E-DATASET"):
        verify_data_set(root)


def test_a_folder_that_is_no_data_set_is_refused(tmp_path):
    with pytest.raises(InputError, match="E-DATASET"):
        verify_data_set(tmp_path)
    with pytest.raises(InputError, match="E-MISSING"):
        verify_data_set(tmp_path / "nowhere")


def test_a_record_of_another_case_is_refused(copy):
    root = copy("bids")
    one, two = (root / f"sub-{n}/anat/sub-{n}_T1w.json" for n in ("syn000001", "syn000035"))
    two.write_bytes(one.read_bytes())
    with pytest.raises(InputError, match="E-DATASET"):
        list(open_stored(root).cases((35,)))


def test_a_shard_without_a_case_is_refused(copy):
    root = copy("webdataset")
    shutil.copy(root / "shards/000000.tar", root / "shards/000001.tar")
    with pytest.raises(InputError, match="E-DATASET"):
        list(open_stored(root).cases((35,)))
    (root / "shards/000001.tar").write_bytes(b"no tar" * 200)
    with pytest.raises(InputError, match="E-DATASET"):
        list(open_stored(root).cases((35,)))


def test_a_problem_is_a_sentence():
    assert str(Problem("changed", "a.nii.gz")) == "a.nii.gz: the file is not what the checksums say"
    assert str(Problem("incomplete")) == "the data set was never finished"
