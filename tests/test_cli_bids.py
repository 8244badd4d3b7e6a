"""``medidiff-bids``: called as BIDS-Apps are, writes a valid derived data set, repeats nothing, loses nothing."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import nibabel
import numpy as np
import pytest
from small_prior import small_prior

import medidiff as md
from medidiff.cli.bids import main
from medidiff.version import __version__

SCANS = ("sub-01/anat/sub-01_T1w", "sub-02/ses-a/anat/sub-02_ses-a_T1w", "sub-02/ses-b/anat/sub-02_ses-b_FLAIR")


@pytest.fixture(scope="module")
def prior(tmp_path_factory) -> str:
    return str(small_prior().save(tmp_path_factory.mktemp("prior")))


@pytest.fixture
def raw(tmp_path) -> Path:
    root = tmp_path / "raw"
    for number, name in enumerate(SCANS):
        path = root / f"{name}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        voxels = np.random.default_rng(number).normal(300, 20, (12, 14, 16)).astype(np.int16)
        voxels[:3] = 5
        image = nibabel.Nifti1Image(voxels, np.diag([1.0, 1.0, 2.0, 1.0]))
        image.header.set_xyzt_units("mm")
        nibabel.save(image, path)
        path.with_name(path.name.replace(".nii.gz", ".json")).write_text('{"MagneticFieldStrength": 3}')
    about = {"Name": "Heads", "BIDSVersion": "1.10.0", "License": "CC0-1.0", "Authors": ["A. Nobody"]}
    (root / "dataset_description.json").write_text(json.dumps(about))
    (root / "README").write_text("Three heads of nobody, for tests.\n" * 5)
    return root


def run(raw: Path, out: Path, prior: str, *words: str, level: str = "participant") -> int:
    validation = () if "--validate" in words else ("--skip-bids-validation",)
    options = (word for word in words if word != "--validate")
    return main([str(raw), str(out), level, "--prior", prior, "--n-cpus", "1", *validation, *options])


def tree(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def issues(root: Path) -> set[str]:
    tool = Path(sys.executable).with_name("bids-validator-deno")
    done = subprocess.run([tool, "--format", "json", root], capture_output=True, text=True, check=False)
    found = json.loads(done.stdout)["issues"]["issues"]
    return {f"{each['code']} {each.get('location')}" for each in found if each["severity"] == "error"}


def rows(out: Path) -> dict[str, dict[str, str]]:
    with (out / "group.tsv").open(newline="") as stream:
        return {row["scan"]: row for row in csv.DictReader(stream, delimiter="\t")}


def test_a_data_set_becomes_a_valid_derived_one_and_nothing_is_done_twice(raw, tmp_path, prior, capsys):
    out, before = tmp_path / "out", tree(raw)
    assert run(raw, out, prior, "--validate") == 0
    first = tree(out)
    assert run(raw, out, prior, level="group") == 0
    assert "3 done" in capsys.readouterr().out
    assert issues(out) == set()
    assert tree(raw) == before
    for name in SCANS:
        stem, _, suffix = name.rpartition("_")
        record = json.loads((out / f"{stem}_desc-denoised_{suffix}.json").read_text())
        assert record["Provenance"]["inputs"] == list(md.io.fingerprint(raw / f"{name}.nii.gz"))
    about = json.loads((out / "dataset_description.json").read_text())
    assert (about["DatasetType"], about["License"]) == ("derivative", "CC0-1.0")
    assert about["GeneratedBy"][0]["Name"] == "medidiff"
    assert about["GeneratedBy"][0]["Version"] == __version__
    assert run(raw, out, prior) == 0
    assert capsys.readouterr().out.count("done before") == 3
    assert {name: data for name, data in tree(out).items() if not name.startswith("group.")} == first
    assert rows(out)["sub-02_ses-a_T1w"]["session_id"] == "ses-a"
    assert float(rows(out)["sub-01_T1w"]["noise_level"]) > 0


def test_the_validator_would_find_a_file_that_does_not_belong(raw, tmp_path, prior):
    out = tmp_path / "out"
    run(raw, out, prior, "--participant-label", "01")
    (out / "sub-01" / "anat" / "extra.nii.gz").write_bytes(b"")
    (out / "T1w.json").unlink()
    assert {issue.split()[0] for issue in issues(out)} >= {"SIDECAR_KEY_REQUIRED"}
    assert len(issues(out)) > 1


def test_what_is_asked_for_is_what_the_python_function_gives(raw, tmp_path, prior):
    out = tmp_path / "out"
    assert (
        run(raw, out, prior, "--participant-label", "sub-01", "--task", "superresolve", "--spacing", "1", "1", "1") == 0
    )
    answer = md.superresolve(md.read(raw / f"{SCANS[0]}.nii.gz"), (1, 1, 1), prior=prior).mean
    written = md.read(out / "sub-01/anat/sub-01_desc-superresolved_T1w.nii.gz")
    np.testing.assert_array_equal(written.data, answer.data)
    np.testing.assert_array_equal(written.geometry.affine, answer.geometry.affine)


@pytest.mark.parametrize(
    ("words", "made"),
    [
        (("--participant-label", "sub-02"), 2),
        (("--participant_label", "01", "02"), 3),
        (("--participant-label", "02", "--session-label", "b"), 1),
        (("--suffix", "FLAIR"), 1),
    ],
)
def test_only_what_is_chosen_is_done(raw, tmp_path, prior, words, made):
    assert run(raw, tmp_path / "out", prior, *words) == 0
    assert len(list((tmp_path / "out").rglob("*_desc-denoised_*.nii.gz"))) == made


CHANGES = {
    "a bit flipped in the result": lambda raw, path: _flip(path),
    "the result cut": lambda raw, path: path.write_bytes(path.read_bytes()[:-7]),
    "no result": lambda raw, path: path.unlink(),
    "no record": lambda raw, path: path.with_name("sub-01_desc-denoised_T1w.json").unlink(),
    "a record cut": lambda raw, path: path.with_name("sub-01_desc-denoised_T1w.json").write_text('{"Prov'),
    "another scan": lambda raw, path: shutil.copy(raw / f"{SCANS[2]}.nii.gz", raw / f"{SCANS[0]}.nii.gz"),
}


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 8
    path.write_bytes(data)


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_is_not_as_it_was_is_done_again(raw, tmp_path, prior, change, capsys):
    out = tmp_path / "out"
    words = ("--participant-label", "01")
    assert run(raw, out, prior, *words) == 0
    before, path = tree(out), out / "sub-01/anat/sub-01_desc-denoised_T1w.nii.gz"
    change(raw, path)
    capsys.readouterr()
    assert run(raw, out, prior, *words) == 0
    assert "T1w: done\n" in capsys.readouterr().out
    assert (tree(out) == before) == (change is not CHANGES["another scan"])


def test_another_seed_or_prior_is_another_question(raw, tmp_path, prior, capsys):
    words = ("--participant-label", "01")
    run(raw, tmp_path / "out", prior, *words)
    capsys.readouterr()
    run(raw, tmp_path / "out", prior, *words, "--seed", "1")
    assert "done before" not in capsys.readouterr().out


def test_a_scan_that_is_refused_keeps_no_other_from_being_done(raw, tmp_path, prior, capsys):
    out, broken = tmp_path / "out", raw / f"{SCANS[1]}.nii.gz"
    whole = broken.read_bytes()
    broken.write_bytes(whole[:200])
    assert run(raw, out, prior) == 7
    assert run(raw, out, prior, level="group") == 7
    assert "2 done, 1 refused" in capsys.readouterr().out
    row = rows(out)["sub-02_ses-a_T1w"]
    assert row["state"] == "refused"
    assert row["code"].startswith("E-")
    assert issues(out) == set()
    assert run(raw, out, prior, "--participant-label", "02", "--session-label", "a") == 8
    broken.write_bytes(whole)
    assert run(raw, out, prior) == 0
    assert run(raw, out, prior, level="group") == 0
    assert not list((out / "refused").iterdir())


def test_a_scan_that_is_refused_after_it_was_done_stands_among_the_refused(raw, tmp_path, prior, capsys):
    out, broken = tmp_path / "out", raw / f"{SCANS[0]}.nii.gz"
    words = ("--participant-label", "sub-01")
    assert run(raw, out, prior, *words) == 0
    broken.write_bytes(broken.read_bytes()[:200])
    assert run(raw, out, prior, *words) == 8
    assert run(raw, out, prior, *words, level="group") == 7
    assert "1 refused" in capsys.readouterr().out
    assert "E-" in (out / "group.html").read_text()
    assert run(raw, out, prior, *words, "--task", "superresolve", "--spacing", "1", "1", "1", level="group") == 7
    assert "1 missing" in capsys.readouterr().out  # what one task refused says nothing of the other


def test_the_group_level_makes_the_page_of_the_cohort(raw, tmp_path, prior, capsys):
    out = tmp_path / "out"
    broken = raw / f"{SCANS[2]}.nii.gz"
    broken.write_bytes(broken.read_bytes()[:200])
    run(raw, out, prior)
    assert run(raw, out, prior, level="group") == 7
    page = (out / "group.html").read_text()
    for name in SCANS:
        assert Path(name).name in page
    assert ("E-" in page, "report/" in page, (out / "report").exists()) == (True, False, False)
    assert run(raw, out, prior, "--reports", level="group") == 7
    page = (out / "group.html").read_text()
    reports = {path.name: path for path in (out / "report").glob("*.html")}
    assert set(reports) == {f"{Path(name).name}.html" for name in SCANS[:2]}
    assert all(f'href="report/{name}"' in page for name in reports)
    assert "not checked" in page  # the one that was refused
    assert issues(out) == set()
    made = {name: path.stat().st_mtime_ns for name, path in reports.items()}
    reports["sub-01_T1w.html"].write_text("cut")
    assert run(raw, out, prior, "--reports", level="group") == 7
    again = {name: path.stat().st_mtime_ns for name, path in reports.items()}
    assert {name for name in made if made[name] != again[name]} == {"sub-01_T1w.html"}
    assert reports["sub-01_T1w.html"].read_text() != "cut"


def test_what_was_never_done_is_missing(raw, tmp_path, prior):
    assert run(raw, tmp_path / "out", prior, level="group") == 7
    assert {row["state"] for row in rows(tmp_path / "out").values()} == {"missing"}


def test_a_data_set_that_is_not_valid_is_refused_unless_it_is_trusted(raw, tmp_path, prior, capsys):
    (raw / "sub-01" / "anat" / "notes.txt").write_text("no")
    words = ("--participant-label", "01")
    assert run(raw, tmp_path / "out", prior, "--validate", *words) == 4
    assert "E-BIDS" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert run(raw, tmp_path / "out", prior, *words) == 0


def test_without_a_validator_it_says_so(raw, tmp_path, prior, capsys, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    assert run(raw, tmp_path / "out", prior, "--validate", "--participant-label", "01") == 0
    assert "not validated" in capsys.readouterr().err


BROKEN_CALLS = {
    "no data set": (lambda raw: (raw / "description").mkdir() or raw / "description", (), 4, "E-BIDS"),
    "an unknown participant": (lambda raw: raw, ("--participant-label", "09"), 4, "E-BIDS"),
    "a description that is no JSON": (
        lambda raw: (raw / "dataset_description.json").write_text("{") and raw,
        (),
        4,
        "E-BIDS",
    ),
    "a description that is a list": (
        lambda raw: (raw / "dataset_description.json").write_text("[]") and raw,
        (),
        4,
        "E-BIDS",
    ),
    "no such scan": (lambda raw: raw, ("--suffix", "PDw"), 8, "E-NOIMAGES"),
    "no spacing": (lambda raw: raw, ("--task", "superresolve"), 2, "E-SETTING"),
    "a spacing without a use": (lambda raw: raw, ("--spacing", "1", "1", "1"), 2, "E-SETTING"),
    "no threads": (lambda raw: raw, ("--n-cpus", "0"), 2, "E-SETTING"),
    "a seed below 0": (lambda raw: raw, ("--seed", "-1"), 2, "E-SETTING"),
    "an unknown option": (lambda raw: raw, ("--colour",), 2, "E-USAGE"),
    "no prior": (lambda raw: raw, ("--prior", "/nowhere.json"), 6, "E-"),
}


@pytest.mark.parametrize(("source", "words", "code", "says"), BROKEN_CALLS.values(), ids=BROKEN_CALLS)
def test_a_call_that_cannot_be_is_refused_in_one_line(raw, tmp_path, prior, source, words, code, says, capsys):
    assert run(source(raw), tmp_path / "out", prior, *words) == code
    said = capsys.readouterr().err.strip()
    assert says in said
    assert len(said.splitlines()) == 1


def test_nothing_is_written_into_the_data_set(raw, prior, capsys):
    for out in (raw, raw / "sub-01", raw / "derivatives"):
        assert run(raw, out, prior) == 2
    assert "derivatives/medidiff" in capsys.readouterr().err
    assert run(raw, raw / "derivatives" / "medidiff", prior, "--participant-label", "01") == 0


def test_the_data_set_of_another_program_is_left_alone(raw, tmp_path, prior, capsys):
    out = tmp_path / "out"
    out.mkdir()
    about = json.dumps({"Name": "x", "BIDSVersion": "1.10.0", "GeneratedBy": [{"Name": "another"}]})
    (out / "dataset_description.json").write_text(about)
    assert run(raw, out, prior) == 5
    assert "E-EXISTS" in capsys.readouterr().err
    assert {name: data.decode() for name, data in tree(out).items()} == {"dataset_description.json": about}


def test_temporary_files_go_where_they_should(raw, tmp_path, prior, monkeypatch):
    monkeypatch.setenv("TMPDIR", "")
    monkeypatch.setattr(tempfile, "tempdir", None)
    assert run(raw, tmp_path / "out", prior, "-w", str(tmp_path / "work"), "--participant-label", "01") == 0
    assert tempfile.gettempdir() == str(tmp_path / "work")
    assert list((tmp_path / "work").iterdir()) == []


def test_version_and_help_are_what_bids_apps_have(capsys):
    assert main(["--version"]) == 0
    assert __version__ in capsys.readouterr().out
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    for word in (
        "bids_dir",
        "output_dir",
        "participant",
        "group",
        "--participant-label",
        "--skip-bids-validation",
        "-w",
    ):
        assert word in shown


def test_help_is_instant():
    code = "import sys; import medidiff.cli.bids as b; b.main(['--help']); raise SystemExit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0
