"""From what a user names to cases: all that could be a scan, in one order, under names that tell of nobody."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from medidiff.batch.cases import Manifest, case_name, neutral, write_manifest
from medidiff.batch.sources import cases_of, is_bids
from medidiff.errors import InputError
from medidiff.io import ReadOptions, write
from medidiff.volume import Geometry, Volume
from tests import dicom_cases

READ = ReadOptions()


def scan(path: Path) -> Path:
    data = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
    return write(Volume(data, Geometry.regular((3, 4, 5)), "MR"), path)[0]


def found(source: Path, **how) -> dict[str, str]:
    """Path of each input below the source, and where its result goes."""
    cases = cases_of(source, READ, **how)
    return {f"{Path(c.input).relative_to(source)}#{c.scan}": c.output for c in cases}


def test_every_file_of_a_tree_that_could_be_a_scan_is_a_case(tmp_path):
    for name in ("b/T1w.nii.gz", "a/scan-2.nrrd", "a/scan-10.nii", "T2w.mha"):
        scan(tmp_path / name)
    (tmp_path / "a" / "broken.nii.gz").write_bytes(b"")
    (tmp_path / "a" / "readme.txt").write_text("words")
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "notes").write_text("no scan at all")
    assert found(tmp_path) == {
        "T2w.mha#0": "T2w_{kind}",
        "a/broken.nii.gz#0": f"{_hash('a')}/{_hash('broken')}_{{kind}}",
        "a/scan-10.nii#0": f"{_hash('a')}/scan-10_{{kind}}",
        "a/scan-2.nrrd#0": f"{_hash('a')}/scan-2_{{kind}}",
        "b/T1w.nii.gz#0": f"{_hash('b')}/T1w_{{kind}}",
        "c#0": f"{_hash('c')}_{{kind}}",
    }


def _hash(part: str) -> str:
    assert neutral(part).startswith("case-")
    return neutral(part)


def test_a_folder_of_dicom_files_is_as_many_cases_as_it_holds_scans(tmp_path):
    dicom_cases.series(tmp_path / "sub-1" / "ser-1", modality="MR")
    (tmp_path / "sub-2").mkdir()
    (tmp_path / "sub-2" / "IM0001.dcm").write_bytes(b"remains of something")
    outputs = found(tmp_path)
    assert outputs == {"sub-1/ser-1#1": "sub-1/ser-1/scan-01_{kind}", "sub-2#0": "sub-2_{kind}"}
    assert found(tmp_path / "sub-1" / "ser-1") == {".#1": "ser-1/scan-01_{kind}"}


@pytest.mark.parametrize("home", ["", "sub-1"], ids=["input", "subject"])
def test_a_dicom_file_hides_no_other_scan_beside_or_below_it(home, tmp_path):
    dicom_cases.series(tmp_path / home, modality="MR")
    dicom_cases.series(tmp_path / home / "ser-2", modality="MR")
    for name in ("T1w.nii.gz", "ses-1/T2w.nii", "ses-1/deep/FLAIR.nrrd", "ser-2/T1w.mha"):
        scan(tmp_path / home / name)
    (tmp_path / home / "broken.nii.gz").write_bytes(b"")
    (tmp_path / home / "notes").mkdir()
    (tmp_path / home / "notes" / "readme.txt").write_text("words")
    files = {name for name in found(tmp_path) if name.removesuffix("#0").endswith((".gz", ".nii", ".nrrd", ".mha"))}
    places = {f"{home}/" * bool(home) + name for name in ("T1w.nii.gz", "broken.nii.gz", "ses-1/T2w.nii")}
    places |= {f"{home}/" * bool(home) + name for name in ("ses-1/deep/FLAIR.nrrd", "ser-2/T1w.mha")}
    assert files == {f"{place}#0" for place in places}
    assert set(found(tmp_path)) - files == {f"{home or '.'}#1", f"{home or '.'}#2"}


def test_names_of_people_stand_in_the_manifest_alone(tmp_path):
    scan(tmp_path / "in" / "DOE^JANE 19700131" / "T1w.nii.gz")
    (case,) = cases_of(tmp_path / "in", READ)
    assert "DOE" in case.input
    assert "DOE" not in case.name + case.output
    assert "1970" not in case.name + case.output


def test_results_that_would_share_a_name_get_one_each(tmp_path):
    for name in ("T1w.nii.gz", "T1w.nrrd", "T2w.nii"):
        scan(tmp_path / name)
    outputs = list(found(tmp_path).values())
    assert len({output.casefold() for output in outputs}) == 3
    assert outputs[-1] == "T2w_{kind}"


def test_a_name_depends_on_the_place_below_the_input_alone(tmp_path):
    for home in ("one", "two"):
        scan(tmp_path / home / "sub-1" / "T1w.nii.gz")
    scan(tmp_path / "two" / "another.nii")
    (one,), two = cases_of(tmp_path / "one", READ), cases_of(tmp_path / "two", READ)
    assert one.name in {case.name for case in two}
    assert case_name(("a", "b-c"), 0) != case_name(("a-b", "c"), 0)
    assert case_name(("a",), 1) != case_name(("a",), 2)


def test_results_are_not_inputs(tmp_path):
    scan(tmp_path / "T1w.nii")
    scan(tmp_path / "out" / "T1w_denoised.nii.gz")
    scan(tmp_path / "other" / "T1w_denoised.nii.gz")
    (tmp_path / "other" / ".medidiff").mkdir()
    (tmp_path / "other" / ".medidiff" / "settings.json").write_text("{}")
    assert list(found(tmp_path, out=tmp_path / "out")) == ["T1w.nii#0"]


def test_links_are_followed_where_they_lead_out_and_never_in_a_circle(tmp_path):
    home, away = tmp_path / "in", tmp_path / "away"
    scan(home / "sub-1" / "T1w.nii")
    scan(away / "ses-1" / "T1w.nii")
    for link, target in {
        home / "sub-2": away,
        home / "sub-3": away / "ses-1",
        home / "sub-1" / "up": home,
        home / "sub-1" / "top": tmp_path,
        home / "again": home / "sub-1",
        away / "back": home,
        away / "ses-1" / "self": away,
    }.items():
        link.symlink_to(target)
    assert sorted(found(home)) == ["sub-1/T1w.nii#0", "sub-2/ses-1/T1w.nii#0", "sub-3/T1w.nii#0"]


def test_links_that_lead_nowhere_are_cases(tmp_path):
    scan(tmp_path / "T1w.nii")
    for name in ("T2w.nii.gz", "sub-9", "loop.nii", "notes.txt", ".hidden"):
        (tmp_path / name).symlink_to("loop.nii" if name == "loop.nii" else tmp_path / "unmounted" / name)
    assert sorted(found(tmp_path)) == ["T1w.nii#0", "T2w.nii.gz#0", "loop.nii#0", "sub-9#0"]


def test_what_the_system_refuses_to_open_is_a_case(tmp_path, monkeypatch):
    for name in ("sub-1/T1w.nii", "sub-2/T1w.nii", "sub-3/T1w.nii"):
        scan(tmp_path / name)
    opened, told, asked = os.scandir, os.stat, os.lstat  # whoever runs as root may open everything

    def shut(path, *args, **more):
        if str(path).endswith("sub-2"):
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *args, **more)

    def closed(function):
        def call(path, *args, **more):
            if "sub-3/" in str(path):
                raise PermissionError(13, "Permission denied", str(path))
            return function(path, *args, **more)

        return call

    (tmp_path / "sub-3" / "ses-1").mkdir()
    monkeypatch.setattr(os, "scandir", shut)
    monkeypatch.setattr(os, "stat", closed(told))
    monkeypatch.setattr(os, "lstat", closed(asked))
    assert list(found(tmp_path)) == ["sub-1/T1w.nii#0", "sub-3/T1w.nii#0", "sub-2#0"]


def test_a_bids_data_set_keeps_its_names(tmp_path):
    (tmp_path / "dataset_description.json").write_text('{"Name": "x", "BIDSVersion": "1.10.0"}')
    for name in (
        "sub-01/anat/sub-01_T1w.nii.gz",
        "sub-02/ses-a/anat/sub-02_ses-a_acq-fast_FLAIR.nii.gz",
        "sub-02/ses-a/anat/sub-02_ses-a_desc-x_mask.nii.gz",
        "sub-02/ses-a/func/sub-02_ses-a_task-rest_bold.nii.gz",
        "derivatives/other/sub-01/anat/sub-01_T1w.nii.gz",
        "sub-03/anat/sub-03_acq-a+b_T1w.nii.gz",
        "sub-03/anat/notbids.nii.gz",
        "sub-03/anat/._notbids.nii.gz",
    ):
        scan(tmp_path / name)
    (tmp_path / "sub-03" / "anat" / "notbids.nii.gz.part").write_bytes(b"half")
    assert is_bids(tmp_path)
    assert found(tmp_path) == {
        "sub-01/anat/sub-01_T1w.nii.gz#0": "sub-01/anat/sub-01_desc-{kind}_T1w",
        "sub-02/ses-a/anat/sub-02_ses-a_acq-fast_FLAIR.nii.gz#0": (
            "sub-02/ses-a/anat/sub-02_ses-a_acq-fast_desc-{kind}_FLAIR"
        ),
        "sub-03/anat/notbids.nii.gz#0": f"sub-03/anat/{_hash('notbids')}_{{kind}}",
        "sub-03/anat/sub-03_acq-a+b_T1w.nii.gz#0": "sub-03/anat/sub-03_acq-a+b_desc-{kind}_T1w",
    }
    write_manifest(tmp_path / "manifest.jsonl", cases_of(tmp_path, READ))
    assert list(found(tmp_path, only=["sub-01"])) == ["sub-01/anat/sub-01_T1w.nii.gz#0"]
    with pytest.raises(InputError, match="E-NOIMAGES"):
        cases_of(tmp_path, READ, only=["09"])


def test_a_folder_of_a_bids_data_set_that_cannot_be_opened_is_a_case(tmp_path, monkeypatch):
    (tmp_path / "dataset_description.json").write_text('{"Name": "x", "BIDSVersion": "1.10.0"}')
    scan(tmp_path / "sub-01" / "anat" / "sub-01_T1w.nii.gz")
    scan(tmp_path / "sub-02" / "ses-a" / "anat" / "sub-02_ses-a_T1w.nii.gz")
    opened = os.scandir

    def shut(path, *args, **more):
        if str(path).endswith("ses-a/anat"):
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *args, **more)

    monkeypatch.setattr(os, "scandir", shut)
    assert list(found(tmp_path)) == ["sub-01/anat/sub-01_T1w.nii.gz#0", "sub-02/ses-a/anat#0"]


def test_a_manifest_names_its_cases(tmp_path):
    scan(tmp_path / "a.nii")
    table = tmp_path / "list.csv"
    table.write_text("input,id,scan,output\na.nii,first,,\nb.nii,,2,deep/er.nii.gz\n")
    first, second = cases_of(table, READ)
    assert (first.name, first.output, first.scan) == ("first", "first_{kind}", 0)
    assert (Path(second.input), second.output, second.scan) == (tmp_path / "b.nii", "deep/er_{kind}", 2)
    lines = tmp_path / "list.jsonl"
    lines.write_text(
        "".join(json.dumps(row) + "\n" for row in ({"input": "a.nii", "id": "first"}, {"input": "/b.nii"}))
    )
    first_too, absolute = cases_of(lines, READ)
    assert first_too == first
    assert absolute.input == "/b.nii"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("x.csv", "path\na.nii\n"),
        ("x.csv", "input,age\na.nii,3\n"),
        ("x.csv", "input\n\n,\n"),
        ("x.csv", "input,scan\na.nii,many\n"),
        ("x.csv", "input,scan\na.nii,-1\n"),
        ("x.csv", 'input\n"a.nii\nb.nii\n'),
        ("x.csv", "input,input\na.nii,b.nii\n"),
        ("x.jsonl", '{"input": "a.nii", "input": "b.nii"}\n'),
        ("x.jsonl", '{"input": "\\ud800.nii"}\n'),
        ("x.jsonl", '{"input": "a.nii", "output": "\\ud800"}\n'),
        ("x.jsonl", "{"),
        ("x.jsonl", "[1]\n"),
        ("x.jsonl", '{"input": 3}\n'),
        ("x.jsonl", "[" * 200_000),
        ("x.csv", "input,output\na.nii,denoised_{kind}\nb.nii,{kind}_denoised\n"),
    ],
)
def test_a_broken_manifest_is_refused(name, text, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match="E-MANIFEST"):
        cases_of(tmp_path / name, READ)


def test_a_manifest_may_have_come_from_a_spreadsheet(tmp_path):
    table = tmp_path / "list.csv"
    text = '\ufeffid,scan,input\r\n\r\nA1,,"b c, d.nii"\r\nB2,2,Müller/é.nii\r\n\r\n'
    table.write_bytes(text.encode())
    first, second = cases_of(table, READ)
    assert (first.name, first.input, first.scan) == ("A1", str(tmp_path / "b c, d.nii"), 0)
    assert (second.name, second.input, second.scan) == ("B2", str(tmp_path / "Müller" / "é.nii"), 2)


def test_places_outside_the_manifests_folder_are_places_of_their_own(tmp_path):
    table = tmp_path / "list.csv"
    table.write_text(f"input\na/x.nii\n../a/x.nii\n{tmp_path}/a/x.nii\n/a/x.nii\n")
    cases = cases_of(table, READ)
    write_manifest(tmp_path / "manifest.jsonl", cases)
    assert len({case.name for case in cases}) == len({case.output for case in cases}) == 4


def test_outputs_that_are_one_file_are_not_two(tmp_path):
    table = tmp_path / "list.csv"
    table.write_text("input,output\na.nii,x/y\nb.nii,x/./y\n")
    with pytest.raises(InputError, match="E-MANIFEST"):
        write_manifest(tmp_path / "manifest.jsonl", cases_of(table, READ))


@pytest.mark.parametrize(("make", "code"), [(False, "E-MISSING"), (True, "E-NOIMAGES")])
def test_an_input_of_nothing_is_refused(make, code, tmp_path):
    place = tmp_path / "in"
    if make:
        place.mkdir()
    with pytest.raises(InputError, match=code):
        cases_of(place, READ)


def test_a_manifest_is_read_as_it_was_written(tmp_path):
    for number in range(5):
        scan(tmp_path / "in" / f"scan-{number}.nii")
    cases = cases_of(tmp_path / "in", READ)
    write_manifest(tmp_path / "manifest.jsonl", cases)
    manifest = Manifest(tmp_path / "manifest.jsonl")
    assert len(manifest) == 5
    assert list(manifest) == cases
    assert manifest[1:3] == cases[1:3]
