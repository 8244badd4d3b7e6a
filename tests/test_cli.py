"""The command line: what it accepts, what it refuses in one line, and that what it writes is where the scan was."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import medidiff.cli as cli
import medidiff.cli.demo as demo
import medidiff.cli.restoring as restoring
import medidiff.cli.screen as screens
import medidiff.cli.train as training
from medidiff.anatomy import foreground, tissue_maximum
from medidiff.cli.options import parse
from medidiff.cli.verbs import VERBS, Denoise, Restoring
from medidiff.errors import SettingsError
from medidiff.io import read, write
from medidiff.metrics import hfen, nrmse, psnr, ssim
from medidiff.prior import DEFAULT_PRIOR, Card, Prior, build_denoiser
from medidiff.restore import Settings
from medidiff.volume import Geometry, Volume
from tests import dicom_cases

SHAPE = (20, 18, 16)


@pytest.fixture(scope="session")
def prior(tmp_path_factory) -> str:
    """The card of an untrained network: what it answers is of no matter here."""
    card = Card("tiny", "untrained", "MR", ("T1w",), (4, 8), (1, 1, 1), 0.35, 0.12, (0.004, 0.25), 0, "CC0", (), "")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return str(Prior(build_denoiser(card), card).save(tmp_path_factory.mktemp("prior")))


def ball(shape: tuple[int, int, int] = SHAPE, *, noise: float = 0.05, seed: int = 0) -> Volume:
    """A bright ball with a dark core on an oblique, anisotropic grid."""
    grid = np.moveaxis(np.indices(shape), 0, -1) - (np.array(shape) - 1) / 2
    distance = np.linalg.norm(grid / np.array(shape), axis=-1)
    image = np.where(distance < 0.4, np.where(distance < 0.15, 400.0, 1000.0), 0.0)
    image = np.abs(image + 1000 * noise * np.random.default_rng(seed).standard_normal(shape))
    turn = np.linalg.qr(np.array([[1.0, 0.1, 0.0], [-0.1, 1.0, 0.2], [0.0, -0.2, 1.0]]))[0] * (0.9, 1.1, 2.0)
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = turn, (-12.5, 7.25, 31.0)
    return Volume(image.astype(np.float32), Geometry(shape, affine), "MR")


@pytest.fixture
def scan(tmp_path) -> Path:
    return write(ball(), tmp_path / "in" / "scan.nii.gz")[0]


def refused(argv: list[object], capsys, code: int) -> str:
    """The one line on stderr of a command that must fail with an exit code; nothing may be on stdout."""
    assert cli.main([str(word) for word in argv]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("medidiff: E-")
    return err


def document(argv: list[object], capsys) -> dict:
    """The JSON on stdout of a command that must succeed, with nothing before or after it."""
    assert cli.main([*(str(word) for word in argv), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def everything(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


# --------------------------------------------------------------------------------------------------------- parsing


def parsed(*words: str) -> object:
    return parse(words, VERBS, version="0", epilog="")


def test_a_verb_is_its_dataclass():
    verb = parsed(
        "denoise", "a b", "-".join(["out", "x.nii"]), "--noise-level", "3", "--interval", ".9", "l.nii", "u.nii"
    )
    assert verb == Denoise(
        source=Path("a b"), out=Path("out-x.nii"), noise_level=3.0, interval=(0.9, Path("l.nii"), Path("u.nii"))
    )
    assert verb.wanted_draws == 8
    assert list(verb.outputs) == ["mean", "lower", "upper"]
    assert parsed("superresolve", "--spacing", "1", "0.5", "-2", "a", "b").spacing == (1.0, 0.5, -2.0)


def test_the_defaults_are_the_librarys():
    ours = {f.name: f.default for f in dataclasses.fields(Restoring)}
    library = {f.name: f.default for f in dataclasses.fields(Settings)}
    for name in ("noise", "noise_level", "steps", "seed", "device"):
        assert ours[name] == library[name], name
    assert ours["prior"] == DEFAULT_PRIOR
    assert parsed("denoise", "a", "b").wanted_draws == library["draws"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "no verb"),
        (("denois", "a", "b"), "Did you mean denoise?"),
        (("denoise", "a", "b", "--nosie", "rician"), "Did you mean --noise?"),
        (("denoise", "a", "b", "--draw=3", "--spraed=x"), "Did you mean --spread?"),
        (("denoise", "a"), "OUT"),
        (("denoise", "a", "b", "c"), "unrecognized arguments: c"),
        (("denoise", "a", "b", "--noise", "poisson"), "rician or gaussian"),
        (("denoise", "a", "b", "--noise-level", "loud"), "wanted: a number"),
        (("denoise", "a", "b", "--draws", "1.5"), "wanted: a whole number"),
        (("superresolve", "a", "b"), "--spacing"),
        (("superresolve", "a", "b", "--spacing", "1", "1"), "3 arguments"),
        (("train", "a.toml"), "--out"),
    ],
)
def test_a_broken_command_line_is_one_line(words, says, capsys):
    assert says in refused(list(words), capsys, code=2)


@pytest.mark.parametrize("verb", VERBS)
def test_every_argument_is_explained(verb, capsys):
    assert cli.main([verb, "--help"]) == 0
    shown = capsys.readouterr().out
    for field in dataclasses.fields(VERBS[verb]):
        assert field.name.replace("_", "-") in shown or field.name in ("source", "path")
    assert "exit codes:" in shown


def test_version(capsys):
    assert cli.main(["--version"]) == 0
    assert "research use only" in capsys.readouterr().out


def test_help_and_light_verbs_import_nothing_heavy(scan, tmp_path):
    code = f"""
import sys, time
from medidiff.cli import main
main(['--help']); main(['denoise', '--help'])
light = set(sys.modules) & {{'torch', 'monai', 'numpy', 'rich', 'pydicom'}}
seconds = time.process_time()
main(['info', {str(scan)!r}]); main(['convert', {str(scan)!r}, {str(tmp_path / "again.nii")!r}])
heavy = set(sys.modules) & {{'torch', 'monai', 'mlflow', 'matplotlib', 'skimage'}}
print(sorted(light), sorted(heavy), seconds < 1.0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[] [] True"
    assert read(tmp_path / "again.nii").geometry.distance_mm(read(scan).geometry) < 1e-6


# ------------------------------------------------------------------------------------------------------- exit codes


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--noise-level", "0"), "--noise-level"),
        (("--noise-level", "nan"), "--noise-level"),
        (("--draws", "1"), "--draws"),
        (("--steps", "0"), "--steps"),
        (("--seed", "-1"), "--seed"),
        (("--draws", "0", "--draw", "d.nii"), "--draws"),
        (("--interval", "1.2", "l.nii", "u.nii"), "--interval"),
        (("--spread", "OUT"), "one place"),
        (("--format", "dicom"), "E-OUTFORMAT"),
    ],
)
def test_settings_out_of_range_are_code_2(options, says, scan, prior, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out = str(tmp_path / "out.nii.gz")
    words = [out if word == "OUT" else word for word in options]
    assert says in refused(["denoise", scan, out, "--prior", prior, *words], capsys, code=2)
    assert not Path(out).exists()


def test_a_coarser_grid_is_code_2_also_in_a_dry_run(scan, prior, tmp_path, capsys):
    words = ["superresolve", scan, tmp_path / "out.nii", "--spacing", 1, 1, 5, "--prior", prior]
    assert "coarser" in refused(words, capsys, code=2)
    assert "coarser" in refused([*words, "--dry-run"], capsys, code=2)


def test_what_cannot_be_read_is_code_4(prior, tmp_path, capsys):
    (tmp_path / "text.nii").write_text("no scan")
    for name, fault in (("nothing.nii.gz", "E-MISSING"), ("text.nii", "E-FORMAT"), ("", "E-NOIMAGES")):
        assert fault in refused(["convert", tmp_path / name, tmp_path / "out.nii"], capsys, code=4)
        assert fault in refused(["denoise", tmp_path / name, tmp_path / "out.nii", "--prior", prior], capsys, code=4)
    assert "E-MISSING" in refused(["info", tmp_path / "nothing.nii.gz"], capsys, code=4)
    assert document(["info", tmp_path / "text.nii"], capsys)["series"][0]["problem"].startswith("E-FORMAT")


def test_no_such_prior_is_code_6(scan, tmp_path, capsys):
    assert "E-PRIOR" in refused(["denoise", scan, tmp_path / "o.nii", "--prior", "nope"], capsys, code=6)


def test_outputs_are_checked_before_a_prior_is_loaded(scan, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(restoring.Prior, "load", lambda *_: pytest.fail("a prior was loaded"))
    (tmp_path / "file").write_text("")
    foreign = tmp_path / "theirs.json"
    foreign.write_text("{}")
    before = everything(tmp_path)
    assert "E-OVERWRITE" in refused(["denoise", scan, scan], capsys, code=5)
    assert "E-OVERWRITE" in refused(["denoise", scan, tmp_path / "o.nii", "--spread", scan], capsys, code=5)
    assert "E-OVERWRITE" in refused(["denoise", scan, tmp_path / "theirs.nii"], capsys, code=5)
    assert "E-OUT" in refused(["denoise", scan, tmp_path / "file" / "o.nii"], capsys, code=5)
    assert "E-OUT" in refused(["train", "recipe.toml", "-o", tmp_path / "file"], capsys, code=5)
    assert everything(tmp_path) == before


def test_a_closed_folder_is_code_5(scan, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("os.access", lambda *_: False)  # root may write everywhere
    assert "cannot be written" in refused(["convert", scan, tmp_path / "o.nii"], capsys, code=5)


def test_an_interrupt_is_130_and_a_bug_keeps_its_traceback(scan, monkeypatch, capsys):
    def fail(error: type[BaseException]) -> None:
        raise error

    monkeypatch.setattr("medidiff.cli.info.run", lambda _: fail(KeyboardInterrupt))
    assert cli.main(["info", str(scan)]) == 130
    assert capsys.readouterr().err.count("\n") == 1
    monkeypatch.setattr("medidiff.cli.info.run", lambda _: fail(ZeroDivisionError))
    with pytest.raises(ZeroDivisionError):
        cli.main(["info", str(scan)])


# ------------------------------------------------------------------------------------------------------ restoration


def test_denoise_keeps_the_grid_and_says_how_it_was_made(scan, prior, tmp_path, capsys):
    out = tmp_path / "deep" / "out.nii.gz"
    told = document(["denoise", scan, out, "--noise-level", 50, "--prior", prior], capsys)
    assert read(out).geometry.distance_mm(read(scan).geometry) < 1e-6
    record = json.loads((tmp_path / "deep" / "out.json").read_text())
    assert record["Provenance"]["inputs"] == [hashlib.sha256(scan.read_bytes()).hexdigest()]
    assert record["Provenance"] == told["provenance"]
    assert record["Description"] == "medidiff denoised (research use only)"
    assert told["files"] == {"mean": str(out)}


def test_superresolve_reaches_the_grid_that_was_asked_for(scan, prior, tmp_path, capsys):
    out = tmp_path / "out.nii"
    assert cli.main(["superresolve", str(scan), str(out), "--spacing", "0.9", "1.1", "1", "--prior", prior]) == 0
    assert "estimated" in capsys.readouterr().err
    wanted = read(scan).geometry.with_spacing((0.9, 1.1, 1.0))
    assert read(out).geometry.distance_mm(wanted) < 1e-5  # NIfTI keeps the affine in float32


def test_spread_interval_and_draw_on_request(scan, prior, tmp_path, capsys):
    mean, spread, lower, upper, draw = (tmp_path / f"{name}.nii" for name in ("m", "s", "l", "u", "d"))
    words = ["--noise-level", 50, "--prior", prior, "--draws", 2, "--steps", 1]
    wanted = ["--spread", spread, "--interval", 0.9, lower, upper, "--draw", draw]
    told = document(["denoise", scan, mean, *words, *wanted], capsys)
    assert set(told["files"]) == {"mean", "spread", "lower", "upper", "draw"}
    m, s, low, high = (read(path).data for path in (mean, spread, lower, upper))
    np.testing.assert_allclose((high - low) / 2, 1.6449 * s, rtol=1e-2, atol=1e-2)  # the 95 % point of a Gaussian
    np.testing.assert_allclose((high + low) / 2, m, atol=1e-2)
    again = document(["denoise", scan, mean, *words, "--draw", draw], capsys)
    assert again["provenance"]["settings"]["draws"] == 2
    assert json.loads((tmp_path / "s.json").read_text())["Provenance"]["task"] == "denoise spread"


@pytest.mark.parametrize("extra", [[], ["--json"]])
def test_a_dry_run_tells_the_plan_and_writes_nothing(extra, scan, prior, tmp_path, capsys):
    before = everything(tmp_path)
    words = ["superresolve", scan, tmp_path / "new" / "o.nii", "--spacing", 0.9, 1.1, 1, "--prior", prior, "--dry-run"]
    assert cli.main([*map(str, words), *extra]) == 0
    shown = capsys.readouterr().out
    for fact in ("estimated", "rician", "tiny", "o.nii", "cpu"):
        assert fact in shown
    if extra:
        plan = json.loads(shown)
        assert plan["output"]["shape"] == [20, 18, 32]
        assert plan["files"] == {"mean": str(tmp_path / "new" / "o.nii")}
    assert everything(tmp_path) == before
    assert not (tmp_path / "new").exists()


def test_a_dicom_series_becomes_a_series_and_no_name_leaves_it(prior, tmp_path, capsys):
    source, out, plain = tmp_path / "study", tmp_path / "derived", tmp_path / "plain"
    dicom_cases.series(source, modality="MR")
    words = ["--noise-level", "5", "--prior", prior]
    assert cli.main(["info", str(source)]) == 0
    assert cli.main(["denoise", str(source), str(out), *words, "--dry-run"]) == 0
    assert cli.main(["denoise", str(source), str(out), *words]) == 0
    assert cli.main(["denoise", str(source), str(plain), *words, "--format", "nifti", "--json"]) == 0
    assert cli.main(["denoise", str(source), str(source / "inside"), *words]) == 5
    assert cli.main(["denoise", str(source), str(out), *words]) == 5  # two series would mix
    said = "".join(capsys.readouterr())
    assert read(out).geometry.distance_mm(read(source).geometry) < 1e-4
    assert len(list(out.glob("*.dcm"))) == len(list(source.glob("*.dcm")))
    (nifti,) = plain.glob("*.nii.gz")
    assert read(nifti).geometry.distance_mm(read(source).geometry) < 1e-6
    records = "".join(path.read_text() for path in tmp_path.rglob("*.json"))
    for secret in dicom_cases.SECRETS:
        assert secret not in said + records
    assert any(b"SECRET^NAME" in path.read_bytes() for path in out.glob("*.dcm"))  # the study's own series keeps it


def test_dicom_needs_a_dicom_source(scan, tmp_path, capsys):
    assert "E-LIKE" in refused(["convert", scan, tmp_path / "out", "--format", "dicom"], capsys, code=2)
    assert "E-OUTFORMAT" in refused(["convert", scan, tmp_path / "out"], capsys, code=2)


# --------------------------------------------------------------------------------------------------- the other verbs


def test_info_is_json_and_text(scan, capsys):
    (series,) = document(["info", scan], capsys)["series"]
    assert series["shape"] == list(SHAPE)
    assert cli.main(["info", str(scan)]) == 0
    assert "20 x 18 x 16" in capsys.readouterr().out


def test_evaluate_is_the_metrics(scan, tmp_path, capsys):
    truth, image = read(scan).data[0], ball(seed=1).data[0]
    result = write(ball(seed=1), tmp_path / "result.nii")[0]
    scores = document(["evaluate", result, scan, "--input", scan], capsys)["scores"]
    mask = foreground(truth)
    peak = tissue_maximum(truth, mask)
    assert scores["result"] == {
        "psnr_db": psnr(image, truth, mask=mask, data_range=peak),
        "ssim": ssim(image, truth, mask=mask, data_range=peak),
        "nrmse": nrmse(image, truth, mask=mask),
        "hfen": hfen(image, truth, mask=mask),
    }
    assert scores["input"]["psnr_db"] is None  # infinite, which JSON cannot say
    assert cli.main(["evaluate", str(result), str(scan)]) == 0
    assert f"{scores['result']['psnr_db']:.2f}" in capsys.readouterr().out


def test_evaluate_uses_a_mask_and_refuses_another_grid(scan, tmp_path, capsys):
    volume = read(scan)
    half = np.zeros(SHAPE, np.uint8)
    half[5:12, 5:12, 5:12] = 1
    mask = write(volume.with_data(half), tmp_path / "mask.nii")[0]
    assert document(["evaluate", scan, scan, "--mask", mask], capsys)["voxels"] == 7**3
    affine = volume.geometry.affine.copy()
    for shift, fine in ((5e-4, True), (2e-3, False)):
        affine[0, 3] = volume.geometry.affine[0, 3] + shift
        moved = write(Volume(volume.data, Geometry(SHAPE, affine)), tmp_path / "moved.nii")[0]
        if fine:
            document(["evaluate", moved, scan], capsys)
        else:
            assert "E-GRID" in refused(["evaluate", moved, scan], capsys, code=4)
    small = write(ball((16, 16, 16)), tmp_path / "small.nii")[0]
    assert "E-GRID" in refused(["evaluate", small, scan], capsys, code=4)


RECIPE = """
name = "tiny"
summary = "A test."
[data]
[[data.sources]]
pattern = "scan.nii.gz"
licence = "CC0"
[model]
channels = [4, 8]
blocks = [1, 1, 1]
[fit]
images = 4
patch = 16
[validation]
every = 4
levels = [0.1]
crop = 16
scans = 1
"""


def test_train_tracks_shows_and_resumes(scan, tmp_path, capsys, monkeypatch):
    told = {}
    monkeypatch.setattr(training, "track", lambda events, **words: told.update(words) or events)
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(RECIPE)
    words = [
        "train",
        recipe,
        "-o",
        tmp_path / "run",
        "--data",
        scan.parent,
        "--device",
        "cpu",
        "--tracking",
        "sqlite:///t.db",
    ]
    plan = document([*words, "--dry-run"], capsys)
    assert plan["scans"] == {"train": 1, "validation": 1}
    assert not (tmp_path / "run").exists()
    result = document(words, capsys)
    assert result["images"] == 4
    assert set(result["scores"]) == {"psnr_db_noise_10", "ssim_noise_10"}
    assert told["uri"] == "sqlite:///t.db"
    assert Prior.load(result["card"]).card.images == 4
    assert cli.main([str(word) for word in words]) == 0
    assert "goes on after 4 images" in capsys.readouterr().err


def test_a_broken_recipe_is_one_line(tmp_path, capsys):
    recipe = tmp_path / "bad.toml"
    recipe.write_text(RECIPE.replace("images = 4", "images = 0"))
    assert "fit.images" in refused(["train", recipe, "-o", tmp_path / "run"], capsys, code=2)
    assert "E-RECIPE" in refused(["train", tmp_path / "none.toml", "-o", tmp_path / "run"], capsys, code=2)


def test_demo_compares_and_leaves_scans_and_pictures(prior, tmp_path, capsys, monkeypatch):
    truth = demo._Truth.load()
    scan = truth.scan
    cut = (slice(40, 88), slice(60, 108), slice(24, 48))
    affine = scan.geometry.affine.copy()
    affine[:3, 3] = scan.geometry.world((40, 60, 24))
    small = Volume(scan.data[0][cut], Geometry((48, 48, 24), affine), "MR")
    monkeypatch.setattr(demo._Truth, "load", lambda: dataclasses.replace(truth, scan=small, mask=truth.mask[cut]))
    table = document(["demo", "-o", tmp_path / "out", "--prior", prior, "--draws", 2], capsys)
    names = {"denoised", "noisy", "spread", "superresolved", "thick"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *(f"{name}.nii.gz" for name in names),
        *(f"{name}.json" for name in names),
        *("denoise.png", "superresolve.png", "table.json"),
    }
    for name in names - {"thick"}:
        assert read(tmp_path / "out" / f"{name}.nii.gz").geometry.distance_mm(small.geometry) < 1e-4
    assert read(tmp_path / "out" / "thick.nii.gz").geometry.spacing_mm[2] == pytest.approx(3.0, abs=1e-4)
    images = [row["image"] for row in table["rows"]]
    assert images == ["noisy", "Gaussian", "non-local means", "medidiff", "thick slices", "cubic B-spline", "medidiff"]
    score = {row["image"]: row["psnr_db"] for row in table["rows"]}
    assert score["noisy"] < min(score["Gaussian"], score["non-local means"])
    assert score["thick slices"] < score["cubic B-spline"]
    assert "--factor" in refused(["demo", "-o", tmp_path / "out", "--factor", 5], capsys, code=2)


def test_the_demos_thick_slices_lead_back_to_the_samples_grid():
    fine = demo._Truth.load().scan.geometry
    for factor in (2, 3, 4, 6, 8):
        across, down, apart = fine.spacing_mm
        coarse = fine.with_spacing((across, down, apart * factor))
        assert coarse.with_spacing(fine.spacing_mm).distance_mm(fine) < 1e-6


# ------------------------------------------------------------------------------------------------------------ screen


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("json_wanted", "stream", "seen"), [(False, _Terminal, 1), (True, _Terminal, 0), (False, io.StringIO, 0)]
)
def test_a_bar_only_where_someone_can_see_it(json_wanted, stream, seen, monkeypatch):
    monkeypatch.setattr(screens, "_PATIENCE_SECONDS", 0.0)
    monkeypatch.setattr(sys, "stderr", stream())
    with screens.Screen(json_wanted).progress("counting sheep") as report:
        for done in range(3):
            report(done, 2)
            time.sleep(0.1)
    assert ("counting sheep" in sys.stderr.getvalue()) == bool(seen)


def test_a_table_is_plain_without_a_terminal(capsys):
    screens.Screen().table("title", ["name", "value"], [["a", "1"], ["b", "22"]])
    shown = capsys.readouterr().out
    assert shown.isascii()
    assert [line.split() for line in shown.splitlines()] == [["title"], ["name", "value"], ["a", "1"], ["b", "22"]]


def test_settings_errors_are_what_the_parser_raises():
    with pytest.raises(SettingsError, match="E-USAGE"):
        parsed("info")
