"""Priors that travel: in a process without medidiff they give what medidiff gives."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from small_prior import CARD, small_prior

import medidiff.cli as cli
from medidiff import store
from medidiff.cli.intervals import read_calibration
from medidiff.errors import MedidiffError, OutputError, PriorError
from medidiff.io import read, write
from medidiff.prior import Prior, build_denoiser
from medidiff.prior.sources import shown_sources
from medidiff.restore import denoise
from medidiff.travel import archive, carried
from medidiff.travel.archive import DenoiserGraph, deviation, example, write_archive
from medidiff.travel.bundle import SCHEMA, write_bundle
from medidiff.travel.carried import carry
from tests.batch_cases import ended, forked
from tests.cli_cases import ball, document, everything, refused

SIZES = ((1, (8, 8, 8)), (2, (12, 20, 16)), (3, (16, 8, 28)))
PARITY = 1e-5
ENDINGS = (".pkl", ".pt", ".pth")  # of files that are pickles unless they are empty, as one in an archive is


def lean_prior() -> Prior:
    """Every kind of layer once: to follow sizes through many blocks takes most of a minute."""
    card = dataclasses.replace(CARD, name="lean", blocks=(0, 1, 0))
    denoiser, chance = build_denoiser(card), torch.Generator().manual_seed(2)
    with torch.no_grad():
        for weight in denoiser.parameters():
            weight.add_(0.1 * torch.randn(weight.shape, generator=chance))
    return Prior(denoiser.eval().requires_grad_(False), card)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """What was exported, by the command line, and what a process without medidiff made of it."""
    home = tmp_path_factory.mktemp("travel")
    card = str(small_prior().save(home / "prior"))
    (home / "scans").mkdir()
    write(ball(), home / "scans" / "scan.nii.gz")
    scan = read(home / "scans" / "scan.nii.gz")
    np.savez(home / "scan.npz", image=scan.data[0].astype(np.float32), affine=scan.geometry.affine)
    uri = f"sqlite:///{home / 'mlflow.db'}"
    assert cli.main(["prior", "export", card, str(home / "bundle")]) == 0
    assert cli.main(["prior", "export", card, str(home / "model"), "--format", "pyfunc", "--tracking", uri]) == 0
    lean = str(lean_prior().save(home / "prior"))
    assert cli.main(["prior", "export", lean, str(home / "denoiser.pt2"), "--format", "torch"]) == 0
    told = {f"{n}_{m}": each.numpy() for n, size in enumerate(SIZES) for m, each in enumerate(example(*size, seed=n))}
    np.savez(home / "told.npz", **told)
    script = Path(__file__).with_name("travel_process.py")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(script), str(home)], env=environment, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return home


@pytest.fixture(scope="module")
def found(home):
    return json.loads((home / "found.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def answer(home):
    """What medidiff itself says of the scan."""
    scan = read(home / "scans" / "scan.nii.gz")
    prior = Prior.load(home / "prior" / "tiny.json")
    return {seed: denoise(scan, prior=prior, noise_level=50.0, draws=2, seed=seed) for seed in (0, 3)}


def sha256(numbers) -> str:
    return hashlib.sha256(np.ascontiguousarray(numbers).tobytes()).hexdigest()


# --- the code that travels ------------------------------------------------------------------------------------------


def imports_of_medidiff(sources) -> list[str]:
    """A law: nothing that travels needs what does not."""
    pattern = re.compile(r"^\s*(from|import) medidiff[. ]", re.MULTILINE)
    return [name for name, text in sources.items() if pattern.search(text)]


def test_what_travels_is_the_packages_own_code():
    found = carry("medidiff.travel.entry", "scripts")
    assert imports_of_medidiff(found.sources) == []
    assert imports_of_medidiff({"bad.py": "from medidiff.errors import InputError\n"}) == ["bad.py"]
    assert found.needs == {"monai", "numpy", "pydantic", "safetensors", "scipy", "torch"}
    root = Path(carried.__file__).parents[1]
    for name, text in found.sources.items():
        if not name.endswith(("__init__.py", "version.py")):
            own = (root / name).read_text(encoding="utf-8")
            assert without_imports(text) == without_imports(own), name
    assert not {name for name in found.sources if name.startswith(("io/", "cli/", "training/", "synthesis/"))}


def without_imports(text: str) -> str:
    import ast

    tree = ast.parse(text)
    tree.body = [node for node in tree.body if not isinstance(node, ast.Import | ast.ImportFrom)]
    return ast.unparse(tree)


@pytest.mark.parametrize(
    "line", ["import medidiff", "from . import errors", "from medidiff.io import nobody", "from medidiff import cli"]
)
def test_a_module_that_cannot_be_followed_is_refused(line, monkeypatch):
    monkeypatch.setattr(carried, "_source", lambda module: f"{line}\n")
    with pytest.raises(MedidiffError, match="E-CARRY"):
        carry("medidiff.travel.entry", "scripts")


def test_code_that_lacks_a_module_does_not_load(home, tmp_path):
    shutil.copytree(home / "bundle" / "scripts", tmp_path / "scripts")
    assert _loads(tmp_path)
    (tmp_path / "scripts" / "version.py").unlink()
    assert not _loads(tmp_path)


def _loads(folder: Path) -> bool:
    """Whether the code in a folder can be imported where there is no medidiff.

    In a copy of this process, in which torch and MONAI are there already; `travel_process.py` begins with nothing.
    """

    def action() -> None:
        for name in [name for name in sys.modules if name.partition(".")[0] in ("medidiff", "scripts")]:
            del sys.modules[name]
        sys.modules["medidiff"] = None
        sys.path.insert(0, str(folder))
        importlib.import_module("scripts.errors")
        importlib.import_module("scripts.version")

    return ended(forked(action)) == 0


# --- pickles ---------------------------------------------------------------------------------------------------------


def pickles(folder: Path) -> list[str]:
    """A law: nothing in a folder, or in an archive in it, is a pickle."""
    found = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        parts = {path.name: path.read_bytes()}
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as stream:
                parts |= {f"{path.name}/{name}": stream.read(name) for name in stream.namelist()}
        found += [name for name, data in parts.items() if data and (name.endswith(ENDINGS) or _is_pickled(data))]
    return found


def _is_pickled(data: bytes) -> bool:
    return data[:1] == b"\x80" and data[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05") and data.endswith(b".")


def test_nothing_that_travels_is_a_pickle(home, tmp_path):
    for name in ("bundle", "model"):
        assert pickles(home / name) == []
    shutil.copy(home / "denoiser.pt2", tmp_path / "denoiser.pt2")
    assert pickles(tmp_path) == []
    torch.save({"weight": torch.zeros(2)}, tmp_path / "model.bin")
    assert pickles(tmp_path) == ["model.bin/model/data.pkl"]


# --- MONAI bundle ----------------------------------------------------------------------------------------------------


def test_the_process_had_no_medidiff(found):
    assert found["medidiff"] == []


def test_a_bundle_gives_what_medidiff_gives(home, answer):
    for name, wanted in {"denoised": answer[0].mean, "spread": answer[0].std}.items():
        image = nib.load(home / "eval" / f"scan_{name}.nii.gz")
        assert np.array_equal(np.asarray(image.dataobj), wanted.data[0]), name
        assert np.allclose(image.affine, wanted.geometry.affine, atol=1e-5)
    assert not np.array_equal(answer[0].mean.data, answer[0].std.data)
    told = json.loads((home / "eval" / "scan_scope.json").read_text(encoding="utf-8"))
    assert told == answer[0].provenance.scope


def test_the_metadata_keep_the_specification_and_less_does_not(found):
    assert found["metadata_without"] == {"authors": True, "network_data_format": True, "monai_version": True}
    assert found["another_number_of_channels"]


def test_a_bundle_says_what_it_is(home):
    bundle = home / "bundle"
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text(encoding="utf-8"))
    card = Prior.card_of(bundle / "models" / "tiny.json")
    assert card == Prior.load(home / "prior" / "tiny.json").card
    assert metadata["intended_use"] == card.intended_use
    assert (bundle / "configs" / SCHEMA.name).read_bytes() == SCHEMA.read_bytes()
    readme = (bundle / "README.md").read_text(encoding="utf-8")
    assert readme.startswith("---\nlicense: apache-2.0\n")
    for part in ("Training data", "Licence", "Intended use", "Limits", "Metrics", "Calibration", card.weights_sha256):
        assert part in readme
    assert (bundle / "docs" / "README.md").read_text(encoding="utf-8") == readme


def test_weights_that_were_changed_are_refused_in_the_bundle(home, tmp_path):
    shutil.copytree(home / "bundle" / "models", tmp_path / "models")
    weights = tmp_path / "models" / "tiny.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    with pytest.raises(PriorError, match="E-WEIGHTS"):
        Prior.load(tmp_path / "models" / "tiny.json")


def test_the_same_prior_gives_the_same_bundle(home, tmp_path):
    write_bundle(Prior.load(home / "prior" / "tiny.json"), tmp_path / "again")
    kept = {
        name: data for name, data in everything(home / "bundle").items() if not re.search(r"__pycache__|less", name)
    }
    assert everything(tmp_path / "again") == kept


# --- MLflow pyfunc ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["folder", "registered"])
def test_a_pyfunc_gives_the_same_bytes(place, found, answer):
    told = {"mean": sha256(answer[3].mean.data[0]), "spread": sha256(answer[3].std.data[0])}
    assert found[f"pyfunc_{place}"] == told
    assert found[f"pyfunc_{place}_scope"] == answer[3].provenance.scope
    assert found[f"pyfunc_{place}_type"] == "float32"
    assert found[f"pyfunc_{place}"]["spread"] != sha256(answer[0].std.data[0])  # another seed


def test_a_noise_level_of_zero_is_estimated(found, home):
    scan = read(home / "scans" / "scan.nii.gz")
    wanted = denoise(scan, prior=Prior.load(home / "prior" / "tiny.json"))
    assert found["estimated"] == sha256(wanted.mean.data[0])


def test_a_pyfunc_has_a_signature_and_pins(found, home):
    assert found["another_type_is_refused"]
    pins = (home / "model" / "requirements.txt").read_text(encoding="utf-8").split()
    assert {pin.split("==")[0] for pin in pins} >= {"mlflow", "monai", "numpy", "pydantic", "safetensors", "torch"}
    assert all(re.fullmatch(r"[a-z]+==[0-9.]+", pin) for pin in pins)
    assert (home / "model" / "input_example.json").is_file()
    client = store.client_of(f"sqlite:///{home / 'mlflow.db'}")
    (model,) = client.search_registered_models()
    assert model.name == "medidiff-tiny"


# --- torch.export ----------------------------------------------------------------------------------------------------


def test_an_archive_answers_as_the_prior_for_every_size(home):
    prior = Prior.load(home / "prior" / "lean.json")
    for number, (images, shape) in enumerate(SIZES):
        with torch.no_grad():
            wanted = DenoiserGraph(prior.denoiser)(*example(images, shape, seed=number)).numpy()
        answer = np.load(home / f"answer_{number}.npy")
        assert answer.shape == (images, 1, *shape)
        assert np.abs(answer - wanted).max() <= PARITY * np.abs(wanted).max()
        turned = np.abs(answer[:, :, ::-1] - wanted).max()
        assert turned > PARITY * np.abs(wanted).max()  # the bound tells answers apart


def test_an_archive_takes_multiples_of_four_only(found):
    assert found["nine_voxels_are_refused"]


def test_an_archive_of_another_prior_is_not_written(home, tmp_path, monkeypatch):
    prior = Prior.load(home / "prior" / "lean.json")
    other = torch.export.load(home / "denoiser.pt2")
    with torch.no_grad():
        prior.denoiser.backbone.head.conv.bias.add_(0.1)
    assert deviation(other.module(), prior, 1, (8, 8, 8)) > PARITY
    monkeypatch.setattr(archive, "export_denoiser", lambda _: other)
    with pytest.raises(PriorError, match="E-PARITY"):
        write_archive(prior, tmp_path / "other.pt2")
    assert list(tmp_path.iterdir()) == []


# --- the command line and the card -----------------------------------------------------------------------------------


def test_a_place_that_is_taken_is_refused(home, tmp_path, capsys):
    card = home / "prior" / "tiny.json"
    for form, place in {"bundle": "bundle", "torch": "denoiser.pt2"}.items():
        assert "E-EXISTS" in refused(["prior", "export", card, home / place, "--format", form], capsys, code=5)
    assert "E-SETTING" in refused(["prior", "export", card, tmp_path / "x", "--format", "torch"], capsys, code=2)
    assert "E-SETTING" in refused(
        ["prior", "export", card, tmp_path / "x", "--tracking", "sqlite:///x"], capsys, code=2
    )
    assert not (tmp_path / "x").exists()


def test_an_export_that_fails_leaves_nothing(home, tmp_path, monkeypatch):
    prior = Prior.load(home / "prior" / "tiny.json")
    monkeypatch.setattr("medidiff.travel.bundle._metadata", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(OutputError, match="E-DISK"):
        write_bundle(prior, tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


def test_a_coarse_prior_does_not_travel(tmp_path, capsys):
    assert "E-TRAVEL" in refused(["prior", "export", "coarse-t1", tmp_path / "x"], capsys, code=6)
    assert "E-PRIOR" in refused(["prior", "export", "nobody", tmp_path / "x"], capsys, code=6)


@pytest.mark.parametrize("name", ["fine-t1", "fine-ct", "coarse-t1"])
def test_a_card_is_shown_section_by_section(name, capsys):
    card = document(["prior", "show", name], capsys)
    assert cli.main(["prior", "show", name]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    sources = shown_sources(card["sources"])  # with public folders by their names
    for part in (card["licence"], card["intended_use"], card["weights_sha256"], *card["limits"], *sources):
        assert " ".join(part.split()) in shown
    for title in ("Training data", "Metrics", "Calibration"):
        assert title in shown


@pytest.mark.parametrize(("name", "there"), [("fine-t1", True), ("fine-ct", False), ("coarse-t1", False)])
def test_a_card_names_the_bundled_calibrations_of_its_weights(name, there, capsys):
    assert cli.main(["prior", "show", name]) == 0
    shown = capsys.readouterr().out
    assert ("--intervals bundled" in shown, "do not take the spread" in shown) == (there, not there)
    for task in ("denoise", "superresolve") if there else ():
        held = read_calibration(Path("bundled"), task=task)
        assert f"intervals, {task} " in shown
        assert f"{100 * held.share:g} % of a patient's tissue inside" in shown
        assert f"like the {held.patients} that it was made on" in shown


def test_a_card_from_before_calibration_loads_and_says_so(home, capsys, tmp_path):
    old = json.loads((home / "prior" / "tiny.json").read_text(encoding="utf-8"))
    del old["calibration"]
    shutil.copy(home / "prior" / "tiny.safetensors", tmp_path / "old.safetensors")
    (tmp_path / "old.json").write_text(json.dumps(old), encoding="utf-8")
    assert Prior.load(tmp_path / "old.json").card.calibration == {}
    assert cli.main(["prior", "show", str(tmp_path / "old.json")]) == 0
    assert "never measured" in capsys.readouterr().out
    (tmp_path / "old.json").write_text(json.dumps(old | {"calibration": {"coverage_90": 0.894}}), encoding="utf-8")
    assert cli.main(["prior", "show", str(tmp_path / "old.json")]) == 0
    shown = capsys.readouterr().out
    assert "0.894" in shown
    assert "never measured" not in shown
