"""Identifiers planted in headers, extensions, comments and names reach no byte that is written, printed or logged.

Every entry point runs, on scans that work and on scans that do not. A file's own name may be shown to the person who
typed it; it is never written. The one output that holds identity is a DICOM series that belongs to the source's study.
"""

from __future__ import annotations

import gzip
import logging
import socket
import struct
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch

from medidiff import cli, io
from medidiff.errors import MedidiffError
from medidiff.prior import Card, Prior, build_denoiser
from tests import dicom_cases, planted
from tests.training_cases import changed, phantom, to_toml

HEADER = ("PLANTDESCRIP", "PLANTAUX", "PLANTINTENT", "PLANTDB", "PLANTEXTENSION", "PLANTKEY", "PLANTVALUE", "PLANTNRRD")
NAMES = ("PLANTFOLDER", "PLANTFILE", "1937-04-19", "PLANTSUBJECT")
SECRETS = (*planted.SECRETS, *HEADER)


@pytest.fixture(scope="module")
def prior(tmp_path_factory) -> str:
    card = Card("tiny", "untrained", "MR", ("T1w",), (4, 8), (1, 1, 1), 0.35, 0.12, (0.004, 0.25), 0, "CC0", (), "")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return str(Prior(build_denoiser(card), card).save(tmp_path_factory.mktemp("prior")))


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Nothing connects anywhere, and nothing listens."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network was touched")

    for name in ("connect", "connect_ex", "bind", "listen"):
        monkeypatch.setattr(socket.socket, name, refuse)


class Watch:
    """What a command says and writes."""

    def __init__(self, out: Path, capfd, caplog, recwarn) -> None:
        self.out, self.capfd, self.caplog, self.recwarn = out, capfd, caplog, recwarn
        out.mkdir(exist_ok=True)

    def command(self, *words: object) -> int:
        code = cli.main([str(word) for word in words])
        assert code in (0, *range(2, 9)), words
        self.check()
        return code

    def check(self, *, identity: tuple[str, ...] = ()) -> None:
        said = "".join(self.capfd.readouterr())
        assert planted.found_in(said.encode("utf-8", "surrogateescape"), SECRETS) == []
        logged = self.caplog.text + "".join(str(each.message) for each in self.recwarn.list)
        assert planted.found_in(logged.encode(), (*SECRETS, *NAMES)) == []
        for file in self.out.rglob("*"):
            name = str(file.relative_to(self.out)).encode()
            assert planted.found_in(name, (*SECRETS, *NAMES)) == []
            if file.is_file() and file.suffix not in identity:
                content = file.read_bytes()
                content += gzip.decompress(content) if content[:2] == b"\x1f\x8b" else b""
                assert planted.found_in(content, (*SECRETS, *NAMES)) == [], file.name


@pytest.fixture
def watch(tmp_path, capfd, caplog, recwarn) -> Watch:
    caplog.set_level(logging.DEBUG)
    return Watch(tmp_path / "out", capfd, caplog, recwarn)


@pytest.fixture
def home(tmp_path) -> Path:
    folder = tmp_path / "PLANTFOLDER 1937-04-19"
    folder.mkdir()
    return folder


def series(folder: Path, *, edit: dicom_cases.Edit | None = None, slices: range = range(5)) -> Path:
    def plant(ds, k: int) -> object:
        trailing = ds.PixelData
        planted.plant(ds)
        ds.PixelData = trailing
        return None if edit is None else edit(ds, k)

    files = dicom_cases.series(folder, modality="MR", edit=plant, slices=slices)
    for number, file in enumerate(files):
        file.rename(folder / f"PLANTFILE 1937-04-19 {number}.dcm")
    return folder


def nifti(file: Path, *, bad: bool = False) -> Path:
    volume = phantom(0)
    data = volume.data[0].astype(np.float32)
    if bad:
        data[0, 0, 0] = np.nan
    image = nib.Nifti1Image(data, volume.geometry.affine)
    head = image.header
    head["descrip"], head["aux_file"], head["intent_name"], head["db_name"] = HEADER[:4]
    head.extensions.append(nib.nifti1.Nifti1Extension("comment", b"PLANTEXTENSION"))
    head.set_xyzt_units("mm")
    nib.save(image, file)
    file.with_name(file.name.split(".")[0] + ".json").write_text('{"PatientName": "PLANTKEY"}')
    return file


def other(file: Path) -> Path:
    volume = phantom(1)
    image = sitk.GetImageFromArray(np.ascontiguousarray(volume.data[0].T))
    image.SetMetaData("PLANTKEY", "PLANTVALUE")
    image.SetMetaData("NRRD_measurement frame", "PLANTNRRD")
    image.SetMetaData("Comment", "PLANTVALUE")
    sitk.WriteImage(image, str(file))
    return file


def test_dicom_through_every_verb(home, watch, prior):
    source, out = series(home), watch.out
    assert watch.command("info", source) == 0
    assert watch.command("info", source, "--json") == 0
    for name in ("a.nii.gz", "b.nrrd", "c.mha", "d.nii"):
        assert watch.command("convert", source, out / name) == 0
    assert watch.command("convert", source, out / "json.nii.gz", "--json") == 0
    page = ("--report", out / "e.html")
    assert watch.command("denoise", source, out / "e.nii.gz", "--prior", prior, "--device", "cpu", *page) == 0
    assert watch.command("qc", source, out / "e.nii.gz", "-o", out / "qc.html", "--record", out / "qc.jsonl") == 0
    plan = ("--spacing", "0.75", "0.5", "1.25", "--prior", prior, "--device", "cpu")
    assert watch.command("superresolve", source, out / "f.nii.gz", *plan, "--json") == 0
    assert watch.command("evaluate", out / "a.nii.gz", source, "--mask", out / "a.nii.gz") in (0, 2, 4)
    words = ("--key", out.parent / "key", "--new-key", "--json")
    assert watch.command("deidentify", source, out / "clean", *words) == 0


def test_identity_is_kept_where_it_was_asked_for_and_nowhere_else(home, watch):
    assert cli.main(["convert", str(series(home)), str(watch.out / "series"), "--format", "dicom"]) == 0
    files = list((watch.out / "series").glob("*.dcm"))
    assert planted.found_in(files[0].read_bytes(), ["PLANTMANN"]) == ["PLANTMANN"]
    private = [secret for secret in SECRETS if secret.startswith(("PLANTPRIV", "PLANTOVER", "PLANTICON", "PLANTCOMM"))]
    assert planted.found_in(files[0].read_bytes(), private) == []
    watch.check(identity=(".dcm",))


@pytest.mark.parametrize("make", [nifti, other], ids=["nifti", "other"])
@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd", ".mha"])
def test_other_formats_through_every_verb(make, ending, home, watch, prior):
    if (make is nifti) != (ending == ".nii.gz"):
        return
    source, out = make(home / f"PLANTFILE 1937-04-19{ending}"), watch.out
    for words in (("info", source), ("info", source, "--json")):
        assert watch.command(*words) == 0
    for name in ("a.nii.gz", "b.nrrd", "c.mha"):
        assert watch.command("convert", source, out / name) == 0
    assert watch.command("denoise", source, out / "e.nii.gz", "--prior", prior, "--device", "cpu", "--json") == 0
    words = ("--spacing", "1", "1", "0.5", "--prior", prior, "--device", "cpu", "--spread", out / "s.nii.gz")
    assert watch.command("superresolve", source, out / "f.nii.gz", *words) == 0
    assert watch.command("evaluate", out / "e.nii.gz", source, "--json") == 0


def gap(ds, k: int) -> object:
    return k != 2


def tilt(ds, k: int) -> None:
    x, y, z = (float(v) for v in ds.ImagePositionPatient)
    ds.ImagePositionPatient = [x, y + 0.8 * k, z]


def uneven(ds, k: int) -> None:
    x, y, z = (float(v) for v in ds.ImagePositionPatient)
    ds.ImagePositionPatient = [x, y, z + 0.4 * k * k]


def cut(ds, k: int) -> None:
    ds.PixelData = ds.PixelData[:-20] if k == 2 else ds.PixelData


def comma(ds, k: int) -> None:
    ds.add(pydicom_text(0x00280030, "DS", "0,5\\PLANTMANN"))


def charset(ds, k: int) -> None:
    ds.SpecificCharacterSet = "PLANTSET"


def colour(ds, k: int) -> None:
    ds.PhotometricInterpretation, ds.SamplesPerPixel = "PLANTMANN", 3


def pydicom_text(tag: int, vr: str, text: str):
    from pydicom.dataelem import RawDataElement
    from pydicom.tag import Tag

    return RawDataElement(Tag(tag), vr, len(text), text.encode(), 0, False, True)


FAILURES = (gap, tilt, uneven, cut, comma, charset, colour)


@pytest.mark.parametrize("edit", FAILURES, ids=[f.__name__ for f in FAILURES])
def test_a_broken_series_tells_nothing(edit, home, watch, prior):
    source = series(home, edit=edit)
    for words in (
        ("info", source),
        ("info", source, "--json"),
        ("convert", source, watch.out / "a.nii.gz"),
        ("convert", source, watch.out / "a.nii.gz", "--json"),
        ("denoise", source, watch.out / "b.nii.gz", "--prior", prior, "--device", "cpu"),
        ("deidentify", source, watch.out / "clean", "--key", watch.out.parent / "key", "--new-key"),
    ):
        watch.command(*words)
    for options in (io.ReadOptions(), io.ReadOptions(on_gap="resample", on_spacing="resample", on_tilt="resample")):
        for action in (io.find, io.inspect, io.read_scan, io.fingerprint):
            try:
                answer = repr(action(source, options))
            except MedidiffError as error:
                answer = str(error)
            assert planted.found_in(answer.replace(str(source), "").encode(), SECRETS) == []
    watch.check()


@pytest.mark.parametrize("damage", ["nan", "cut", "crc", "magic", "empty"])
def test_a_broken_nifti_tells_nothing(damage, home, watch, prior):
    file = nifti(home / "PLANTFILE 1937-04-19.nii.gz", bad=damage == "nan")
    content = bytearray(file.read_bytes())
    raw = gzip.decompress(content)
    changes = {
        "cut": lambda: gzip.compress(raw[:2000]),
        "crc": lambda: bytes(content[:-8]) + struct.pack("<I", 1) + bytes(content[-4:]),
        "magic": lambda: gzip.compress(raw[:344] + b"JUNK" + raw[348:]),
        "empty": lambda: b"",
    }
    if damage in changes:
        file.write_bytes(changes[damage]())
    for words in (
        ("info", file),
        ("convert", file, watch.out / "a.nii.gz"),
        ("denoise", file, watch.out / "b.nii.gz", "--prior", prior, "--device", "cpu"),
        ("evaluate", file, file),
    ):
        watch.command(*words)


def test_training_writes_no_name(home, watch):
    nifti(home / "PLANTSUBJECT 1937-04-19.nii.gz")
    sources = [{"pattern": "PLANTSUBJECT 1937-04-19.nii.gz", "licence": "none"}]
    recipe = home / "PLANTFILE.toml"
    recipe.write_text(to_toml(changed(data__root=".", data__sources=sources, fit__images=4, validation__every=4)))
    out = watch.out / "run"
    assert watch.command("train", recipe, "-o", out, "--device", "cpu") == 0
    assert watch.command("train", recipe, "-o", out, "--device", "cpu", "--json") == 0
    recipe.write_text(recipe.read_text() + "\n[more]\nPLANTKEY = 'PLANTVALUE'\n")
    assert watch.command("train", recipe, "-o", out) == 2
    assert watch.command("train", recipe.with_name("none.toml"), "-o", out) == 2


def test_the_password_of_a_tracking_server_is_never_shown(home, watch, capfd):
    nifti(home / "scan.nii.gz")
    recipe = home / "tiny.toml"
    sources = [{"pattern": "scan.nii.gz", "licence": "none"}]
    recipe.write_text(to_toml(changed(data__root=".", data__sources=sources, fit__images=4, validation__every=4)))
    server = "https://user:PLANTVALUE@localhost:9/PLANTKEY"
    assert watch.command("train", recipe, "-o", watch.out / "run", "--device", "cpu", "--tracking", server) == 2


def test_names_that_steer_a_terminal_are_shown_as_text(home, capfd):
    wild = home / "\x1b[31mred\n=cmd() \u202e<b>.nii.gz"
    nifti(wild)
    for words in (["info", str(wild)], ["convert", str(wild), str(home / "\x1b[2Ja.nii.gz")], ["info", f"{wild}x"]):
        cli.main(words)
        said = "".join(capfd.readouterr())
        assert all(line.isprintable() for line in said.split("\n"))
    cli.main(["convert", str(wild), str(home / "b.nii.gz"), "--json"])
    assert all(line.isprintable() for line in capfd.readouterr().out.split("\n"))


def test_a_missing_prior_and_a_broken_option_tell_nothing(home, watch):
    source = series(home)
    assert watch.command("denoise", source, watch.out / "a.nii.gz", "--prior", "none") == 6
    assert watch.command("denoise", source, watch.out / "a.nii.gz", "--noise", "none") == 2
    assert watch.command("superresolve", source, watch.out / "a.nii.gz", "--spacing", "-1", "1", "1") == 2
    assert watch.command("convert", source, source / "inside") in (2, 5)


def test_what_is_planted_would_be_found(home, watch):
    """The search itself: a copy of the source among the outputs is noticed, by name and by content."""
    file = nifti(home / "PLANTFILE 1937-04-19.nii.gz")
    (watch.out / "copy.nii.gz").write_bytes(file.read_bytes())
    with pytest.raises(AssertionError):
        watch.check()
    (watch.out / "copy.nii.gz").rename(watch.out / "PLANTFILE.txt")
    (watch.out / "PLANTFILE.txt").write_text("")
    with pytest.raises(AssertionError):
        watch.check()
