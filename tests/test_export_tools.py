"""Exported data sets are opened by the tools of their formats, and hold there what was drawn."""

from __future__ import annotations

import dataclasses
import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import export_cases as cases
import highdicom
import nibabel as nib
import numpy as np
import pydicom
import pytest
from dicom_written import validate
from export_cases import ABOUT, NUMBERS

from medidiff.export import FORMATS
from medidiff.io import inspect, read
from medidiff.io.dicom.synthetic import Study, image_name, is_marked_dicom

OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> dict[str, Path]:
    home = tmp_path_factory.mktemp("sets")
    return {name: cases.written(home / name, name) for name in FORMATS}


def ran(script: str, *arguments: object, home: Path) -> dict:
    """What a script prints as its last line, in a process of its own: these tools warn, log and look for a network."""
    words = [sys.executable, "-W", "ignore", "-c", script, *map(str, arguments)]
    environment = {**os.environ, **OFFLINE, "HF_HOME": str(home)}
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=environment, cwd=home)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def same(image: np.ndarray, number: int, role: str = "image") -> bool:
    return np.array_equal(image, getattr(cases.case(number), role).data[0])


# --- BIDS -----------------------------------------------------------------------------------------------------------


def bids_errors(root: Path) -> list[str]:
    tool = Path(sys.executable).with_name("bids-validator-deno")
    done = subprocess.run([tool, "--format", "json", root], capture_output=True, text=True, check=False)
    issues = json.loads(done.stdout)["issues"]["issues"]
    return [f"{each['code']} {each.get('location')}" for each in issues if each["severity"] == "error"]


def test_the_bids_validator_finds_no_error(whole):
    assert bids_errors(whole["bids"]) == []
    assert bids_errors(whole["bids"] / "derivatives" / "labels") == []


def test_the_bids_validator_would_find_one(tmp_path):
    root = cases.written(tmp_path / "bids", "bids", numbers=(0,))
    (root / "sub-syn000000" / "anat" / "extra.nii.gz").write_bytes(b"")
    (root / ".bidsignore").unlink()
    assert len(bids_errors(root)) > 1


def test_the_participants_tell_what_was_asked_for(whole):
    lines = (whole["bids"] / "participants.tsv").read_text("utf-8").splitlines()
    assert lines[0].split("\t") == ["participant_id", "age", "sex", "contrast", "synthetic"]
    assert lines[1].split("\t") == ["sub-syn000000", "n/a", "n/a", "T1w", "true"]
    assert lines[4].split("\t") == ["sub-syn000035", "55", "M", "T1w", "true"]


# --- nnU-Net, Decathlon ---------------------------------------------------------------------------------------------


def test_nnunet_raw_is_as_its_documentation_asks(whole):
    """The rules of nnU-Net 2 (documentation/dataset_format.md) and of its `verify_dataset_integrity`."""
    root = whole["nnunet"]
    told = json.loads((root / "dataset.json").read_text("utf-8"))
    assert told["channel_names"] == {"0": "T1w"}
    assert told["labels"] == {"background": 0, "CSF": 1, "gray matter": 2, "white matter": 3}
    images = sorted((root / "imagesTr").glob(f"*{told['file_ending']}"))
    labels = sorted((root / "labelsTr").glob(f"*{told['file_ending']}"))
    assert len(images) == len(labels) == told["numTraining"] == len(NUMBERS)
    for image, label, number in zip(images, labels, NUMBERS, strict=True):
        assert image.name == label.name.replace(".nii.gz", "_0000.nii.gz")
        scan, mask = nib.load(image), nib.load(label)
        assert np.array_equal(scan.affine, mask.affine)
        assert set(np.unique(mask.dataobj)) <= set(told["labels"].values())
        assert same(np.asarray(scan.dataobj), number)
        assert same(np.asarray(mask.dataobj), number, "labels")


def test_monai_reads_the_decathlon(whole):
    from monai.data import load_decathlon_datalist

    found = load_decathlon_datalist(str(whole["msd"] / "dataset.json"), is_segmentation=True, data_list_key="training")
    assert len(found) == len(NUMBERS)
    for each, number in zip(found, NUMBERS, strict=True):
        assert same(np.asarray(nib.load(each["image"]).dataobj), number)
        assert same(np.asarray(nib.load(each["label"]).dataobj), number, "labels")


# --- WebDataset, Hugging Face, Croissant ----------------------------------------------------------------------------

WEBDATASET = """
import glob, json, sys, webdataset
shards = sorted(glob.glob(sys.argv[1] + "/shards/*.tar"))
for number, sample in enumerate(webdataset.WebDataset(shards, shardshuffle=False)):
    for key in ("image.nii.gz", "labels.nii.gz"):
        open(f"{sample['__key__']}.{key}", "wb").write(sample[key])
decoded = [(s["__key__"], s["json"]["Case"], s["json"]["Synthetic"])
           for s in webdataset.WebDataset(shards, shardshuffle=False).decode()]
print(json.dumps(decoded))
"""


def test_webdataset_reads_its_shards(whole, tmp_path):
    found = ran(WEBDATASET, whole["webdataset"], home=tmp_path)
    assert found == [[f"syn{number:06d}", number, True] for number in NUMBERS]
    assert len(list((whole["webdataset"] / "shards").iterdir())) == 2
    for number in NUMBERS:
        raw = (tmp_path / f"syn{number:06d}.image.nii.gz").read_bytes()
        assert gzip.decompress(raw)[:2] != b"\x1f\x8b"  # packed once, not twice
        assert same(np.asarray(nib.load(tmp_path / f"syn{number:06d}.image.nii.gz").dataobj), number)
        assert same(np.asarray(nib.load(tmp_path / f"syn{number:06d}.labels.nii.gz").dataobj), number, "labels")


HUGGING_FACE = """
import json, sys, datasets, numpy
rows = []
for found in (datasets.load_dataset("niftifolder", data_dir=sys.argv[1] + "/data"), datasets.load_dataset(sys.argv[1])):
    total = lambda image: float(numpy.asarray(image.dataobj).sum(dtype="f8"))
    rows.append([(r["case"], r["age"], r["sex"], r["synthetic"], total(r["image"]), total(r["labels"]))
                 for r in found["train"]])
print(json.dumps(rows))
"""


def test_hugging_face_loads_the_folder(whole, tmp_path):
    plain, with_card = ran(HUGGING_FACE, whole["huggingface"], home=tmp_path)
    assert plain == with_card
    for row, number in zip(plain, NUMBERS, strict=True):
        made = cases.case(number)
        told = [made.name, made.asked.get("age"), made.asked.get("sex"), True]
        assert row[:4] == told
        assert row[4] == pytest.approx(float(made.image.data.astype("f8").sum()))
        assert row[5] == int(made.labels.data.sum())


CROISSANT = """
import json, sys, logging, mlcroissant
logging.disable()
out = []
for path in sys.argv[1:]:
    found = mlcroissant.Dataset(jsonld=path)
    text = lambda value: value.decode() if isinstance(value, bytes) else value
    rows = [{key.split("/")[1]: text(value) for key, value in row.items()} for row in found.records("cases")]
    out.append([len(found.metadata.issues.errors), len(found.metadata.distribution), rows])
print(json.dumps(out))
"""


def test_mlcroissant_validates_and_reads_every_description(whole, tmp_path):
    found = ran(CROISSANT, *(whole[name] / "croissant.json" for name in FORMATS), home=tmp_path)
    for name, (errors, kinds, rows) in zip(FORMATS, found, strict=True):
        assert errors == 0
        assert kinds == (2 if name == "webdataset" else 4)
        assert [row["sex"] for row in rows] == [None, "M", "F", "M"]
        assert {row["synthetic"] for row in rows} == {"True"}


def test_mlcroissant_would_refuse_a_broken_description(whole, tmp_path):
    told = json.loads((whole["bids"] / "croissant.json").read_text("utf-8"))
    del told["distribution"][0]["sha256"], told["distribution"][0]["encodingFormat"]
    (tmp_path / "croissant.json").write_text(json.dumps(told))
    with pytest.raises(AssertionError, match="ValidationError"):
        ran(CROISSANT, tmp_path / "croissant.json", home=tmp_path)


# --- DICOM ----------------------------------------------------------------------------------------------------------


def test_dciodvfy_finds_no_error(whole):
    files = sorted(whole["dicom"].rglob("syn000001/**/*.dcm"))
    assert len(files) > 10
    assert validate(files, source=whole["dicom"] / "syn000002") == []


def test_dicom_keeps_values_places_and_labels(whole):
    for number in NUMBERS[:2]:
        made, home = cases.case(number), whole["dicom"] / f"syn{number:06d}"
        volume = read(home / "image")
        index = np.argwhere(np.ones(volume.shape, bool))
        there = np.rint(made.image.geometry.index(volume.geometry.world(index))).astype(int)
        assert np.abs(made.image.geometry.world(there) - volume.geometry.world(index)).max() < 1e-3
        values = made.image.data[0][tuple(there.T)]
        assert np.abs(volume.data[0].ravel() - values).max() <= 1.01e-5  # half of the slope 2e-5
        mask = made.labels.data[0][tuple(there.T)].reshape(volume.shape)
        segments = highdicom.seg.segread(home / "labels.dcm")
        sources = [pydicom.dcmread(home / "image" / image_name(k)).SOPInstanceUID for k in range(volume.shape[2])]
        again = segments.get_pixels_by_source_instance(sources, combine_segments=True)
        assert np.array_equal(again.transpose(2, 1, 0), mask)
        assert [segments.get_segment_description(n).segment_label for n in (1, 2, 3)] == list(ABOUT.label_names[1:])


def test_dicom_says_that_it_is_synthetic_and_whose_it_is_not(whole):
    for file in whole["dicom"].rglob("*.dcm"):
        image = pydicom.dcmread(file)
        assert (image.SyntheticData, image.PatientIdentityRemoved, image.ContentQualification) == (
            "YES",
            "YES",
            "RESEARCH",
        )
        assert str(image.PatientName) == f"Synthetic^{image.PatientID}"
        assert not image.PatientBirthDate
        assert not image.StudyDate
        purpose = image.ContributingEquipmentSequence[0].PurposeOfReferenceCodeSequence[0]
        assert (purpose.CodeValue, purpose.CodeMeaning) == ("109100", "Synthesizing Equipment")
        uids = [e.value for e in image.iterall() if e.VR == "UI" and not str(e.value).startswith("1.2.840.10008.")]
        assert uids
        assert all(str(uid).startswith("2.25.") and uid.is_valid for uid in uids)
        assert {e.value for e in image.iterall() if e.VR in ("DA", "TM", "DT")} <= {None, "", "19000101", "000000"}
    second = pydicom.dcmread(whole["dicom"] / "syn000035" / "image" / "IM0001.dcm")
    assert (second.PatientAge, second.PatientSex) == ("055Y", "M")
    assert inspect(whole["dicom"] / "syn000000").series[0].modality == "MR"


def test_uids_follow_from_the_data_set_and_the_number(tmp_path, whole):
    def uids(root: Path, name: str) -> set[str]:
        files = (root / name).rglob("*.dcm")
        return {str(e.value) for f in files for e in pydicom.dcmread(f) if e.VR == "UI" and "2.25" in str(e.value)}

    other = cases.written(tmp_path / "other", "dicom", numbers=(0,), about=dataclasses.replace(ABOUT, seed=8))
    first = uids(whole["dicom"], "syn000000")
    assert len(first) > 12
    assert not first & uids(whole["dicom"], "syn000001")
    assert not first & uids(other, "syn000000")
    study = Study(cases.case(0), "key", "T1w", "brain", "CC0-1.0")
    assert study.uid("a") == study.uid("a") != study.uid("b")


def test_a_damaged_dicom_file_is_not_marked(whole):
    import io

    raw = next(whole["dicom"].rglob("*.dcm")).read_bytes()
    assert is_marked_dicom(io.BytesIO(raw))
    assert not is_marked_dicom(io.BytesIO(raw[:200]))
    assert not is_marked_dicom(io.BytesIO(b""))
