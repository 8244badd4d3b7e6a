"""The grammar of the command line: what it accepts, and that each argument is explained."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import typing
from pathlib import Path

import pytest

import medidiff.cli as cli
from medidiff.cli.options import Option, parse
from medidiff.cli.session import read_options
from medidiff.cli.verbs import FAMILIES, VERBS, Convert, Denoise, Evaluate, Info, Repairs, Restoring, Superresolve
from medidiff.errors import SettingsError
from medidiff.io import ReadOptions, read
from medidiff.restore import Settings
from tests.cli_cases import refused


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
    for name in ("noise", "noise_level", "seed", "device", "prior"):
        assert ours[name] == library[name], name
    plain = parsed("denoise", "a", "b")
    assert (plain.wanted_draws, plain.wanted_steps) == (library["draws"], library["steps"])


def test_every_repair_of_the_library_is_an_option():
    ours = {f.name: (f.default, _choices(Repairs, f.name)) for f in dataclasses.fields(Repairs)}
    library = {f.name: (f.default, _choices(ReadOptions, f.name)) for f in dataclasses.fields(ReadOptions)}
    assert ours == library
    for verb in (Info, Convert, Denoise, Superresolve, Evaluate):
        assert issubclass(verb, Repairs)
    verb = parsed("info", "--on-gap", "resample", "--assume-spacing-mm", "2.5", "--imager-spacing", "--scan", "2", "a")
    assert read_options(verb) == ReadOptions(on_gap="resample", assume_spacing_mm=2.5, imager_spacing=True, scan=2)
    assert read_options(parsed("info", "a")) == ReadOptions()


def _choices(kind: type, name: str) -> tuple[str, ...]:
    hint = typing.get_type_hints(kind)[name]
    return typing.get_args(hint) if typing.get_origin(hint) is typing.Literal else (str(hint),)


def test_repairs_stand_together(capsys):
    assert cli.main(["convert", "--help"]) == 0
    shown = capsys.readouterr().out
    assert shown.index("\nrepairs (") < shown.index("  --on-gap") < shown.index("exit codes:")


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
    assert cli.main([*verb.split(), "--help"]) == 0
    shown = capsys.readouterr().out
    for field in dataclasses.fields(VERBS[verb]):
        assert field.name.replace("_", "-") in shown or field.name in ("source", "path", "go_on")
    assert "exit codes:" in shown


def test_every_verb_and_family_has_a_description(capsys):
    assert cli.main(["--help"]) == 0
    listed = capsys.readouterr().out
    assert set(FAMILIES) == {name.partition(" ")[0] for name in VERBS if " " in name}
    for name, about in FAMILIES.items():
        assert f"    {name}" in listed
        assert about in " ".join(listed.split())
        assert cli.main([name, "--help"]) == 0
        assert about in " ".join(capsys.readouterr().out.split())


def test_the_number_of_draws_names_every_option_that_decides_it(capsys):
    assert cli.main(["denoise", "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    said = shown[shown.index("--draws N ") :].partition("--steps")[0]
    for option in ("--spread", "--interval", "--draw", "--intervals"):
        assert f"{option} " in f"{said.replace(',', ' ')} "


def test_version(capsys):
    assert cli.main(["--version"]) == 0
    assert "research use only" in capsys.readouterr().out


def test_help_and_light_verbs_import_nothing_heavy(ball_file, tmp_path):
    code = f"""
import sys, time
from medidiff.cli import main
main(['--help']); main(['denoise', '--help'])
light = set(sys.modules) & {{'torch', 'monai', 'numpy', 'rich', 'pydicom'}}
seconds = time.process_time()
main(['info', {str(ball_file)!r}]); main(['convert', {str(ball_file)!r}, {str(tmp_path / "again.nii")!r}])
heavy = set(sys.modules) & {{'torch', 'monai', 'mlflow', 'matplotlib', 'skimage'}}
print(sorted(light), sorted(heavy), seconds < 1.0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[] [] True"
    assert read(tmp_path / "again.nii").geometry.distance_mm(read(ball_file).geometry) < 1e-6


def test_settings_errors_are_what_the_parser_raises():
    with pytest.raises(SettingsError, match="E-USAGE"):
        parsed("info")


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Part:
    """Do a part."""

    source: typing.Annotated[Path, Option("what", ("IN",), positional=True)]
    part: typing.Annotated[int, Option("which part", ("N",), ("-part_id", "--part-id"))] = 0


_FAMILY = {"heap do": _Part, "heap status": _Part, "other": _Part}


def family(*words: str) -> object:
    return parse(words, _FAMILY, version="0", epilog="the end")


def test_a_verb_may_have_two_words():
    assert family("heap", "do", "a", "-part_id", "3") == _Part(source=Path("a"), part=3)
    assert family("heap", "status", "a", "--part-id=2") == _Part(source=Path("a"), part=2)
    assert family("other", "a") == _Part(source=Path("a"))


@pytest.mark.parametrize("words", [("--help",), ("heap", "--help"), ("heap", "do", "-h")])
def test_the_help_of_two_words_names_both(words, capsys):
    with pytest.raises(SystemExit):
        family(*words)
    shown = capsys.readouterr().out
    assert ("do" in shown and "status" in shown) or "Do a part." in shown


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("heap",), "one of do, status"),
        (("heap", "stauts", "a"), "Did you mean heap status?"),
        (("heep", "do"), "Did you mean heap?"),
        (("heap", "do", "a", "--prat-id", "3"), "Did you mean --part-id?"),
        (("heap", "do"), "IN"),
        (("other",), "IN"),
    ],
)
def test_a_broken_line_of_two_words_names_the_nearest(words, says):
    with pytest.raises(SettingsError, match="E-USAGE") as refusal:
        family(*words)
    assert says in str(refusal.value)
