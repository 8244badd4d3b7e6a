"""The same scan under several names counts once in training, and stands on one side of a split only."""

from __future__ import annotations

import dataclasses
import gzip
from pathlib import Path

import numpy as np
import pytest
import torch
from training_cases import PREPARE, phantom, script, write_case
from whole_cases import COARSE_TINY, ball, plain_atlas

from medidiff import io
from medidiff.cli.screen import Screen
from medidiff.cli.train import _Watch
from medidiff.errors import SettingsError
from medidiff.io.text.toml import to_toml
from medidiff.training import run
from medidiff.training.data import find_scans
from medidiff.training.heads import write_heads
from medidiff.training.pack import read_pack
from medidiff.training.recipe import read_recipe
from medidiff.training.repeats import once
from medidiff.training.run import train
from medidiff.volume import Geometry, Volume

SOURCE = {"pattern": "{subject}.nii.gz", "licence": "none", "split": "own"}
BRIEF = {"images": 4, "batch": 2, "patch": 12, "rate": 2e-3, "warmup": 2, "ema": 8.0}


def disguised(volume: Volume, path: Path) -> None:
    """The same voxels in other bytes: as float32, moved in the room, packed less."""
    affine = volume.geometry.affine.copy()
    affine[:3, 3] += 7.0
    io.write(Volume(volume.data[0].astype(np.float32), Geometry(volume.shape, affine), "MR"), path)
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()), 1))


def case(folder: Path, **parts: list[str]) -> Path:
    """A recipe on `first`, its copies `again0` and so on in other bytes, `second` and `third`, by a split."""
    recipe = write_case(folder, data__split="split.toml", data__sources=[SOURCE], fit=BRIEF, validation__every=4)
    for number in range(3):
        disguised(phantom(0), folder / "scans" / f"again{number}.nii.gz")
    io.write(phantom(2), folder / "scans" / "third.nii.gz")
    (folder / "split.toml").write_text(to_toml({"own": {"test": []} | parts}), encoding="utf-8")
    return recipe


REPEATED = ["first", "again0", "second", "again1", "again2"]


def test_what_comes_first_is_kept():
    assert once(["a1", "b1", "a2", "c1", "b2"], lambda text: text[0]) == ["a1", "b1", "c1"]


@pytest.mark.parametrize("cached", [False, True])
def test_a_scan_under_four_names_trains_as_one(cached, tmp_path):
    cache = tmp_path / "cache" if cached else None
    plain = case(tmp_path / "plain", train=["first", "second"], validation=["third"])
    copies = case(tmp_path / "copies", train=REPEATED, validation=["third"])
    runs = [list(train(path, path.parent / "out", cache=cache)) for path in (plain, copies)]
    assert [(events[0].scans, events[0].repeats) for events in runs] == [(2, 0), (2, 3)]
    weights = [(path.parent / "out" / "tiny.safetensors").read_bytes() for path in (plain, copies)]
    assert weights[0] == weights[1]


def test_counted_by_its_names_it_trains_otherwise(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "once", lambda scans, sha256: [*scans])
    first, *_ = train(case(tmp_path, train=REPEATED, validation=["third"]), tmp_path / "out")
    assert (first.scans, first.repeats) == (5, 0)


def test_the_user_is_told(tmp_path, capsys):
    first = next(train(case(tmp_path, train=REPEATED, validation=["third"]), tmp_path / "out"))
    for event in (first, dataclasses.replace(first, repeats=0)):
        _Watch(4, lambda *words: None, Screen(json=False)).take(event)
    told = capsys.readouterr().err.splitlines()
    assert told[0].endswith("2 scans; 3 more are the same as one of them and do not count")
    assert told[1].endswith("2 scans")


def test_a_pack_holds_a_scan_once(tmp_path, capsys):
    recipe = case(tmp_path, train=REPEATED, validation=["third"])
    pack = tmp_path / "pack.safetensors"
    assert script(PREPARE, recipe, pack, "--tracking", f"sqlite:///{tmp_path / 'runs.db'}") == 0
    assert "packed 2 for train, 1 for validation, 3 repeats left out" in capsys.readouterr().out
    assert len(read_pack(pack, part="train")[0]) == 2


def test_a_scan_on_both_sides_of_the_split_is_refused_whatever_its_name(tmp_path, capsys):
    recipe = case(tmp_path, train=["first", "second"], validation=["again0"])
    with pytest.raises(SettingsError, match=r"E-SHARED.*1 scans.*voxel for voxel") as refusal:
        next(train(recipe, tmp_path / "out"))
    assert "again" not in str(refusal.value)
    assert script(PREPARE, recipe, tmp_path / "pack.safetensors") != 0
    assert "E-SHARED" in capsys.readouterr().err
    assert not (tmp_path / "pack.safetensors").exists()


def test_a_recipe_without_a_split_may_watch_what_it_trains_on(tmp_path):
    assert next(train(write_case(tmp_path), tmp_path / "out")).scans == 2


@pytest.mark.parametrize(
    ("one", "other"), [("validation", "test"), ("train", "test"), ("train", "validation"), ("train", "spare")]
)
@pytest.mark.parametrize("entries", [("p", "p"), ("p", "p[3:9]"), ("p[0:4]", "p[3:9]"), ("p[3:9]", "p")])
def test_a_subject_in_two_parts_is_refused(one, other, entries, tmp_path):
    parts = {"train": ["a"], "validation": ["b"]}
    for part, entry in zip((one, other), entries, strict=True):
        parts[part] = [*parts.get(part, []), entry]
    recipe = read_recipe(case(tmp_path, **parts))
    with pytest.raises(SettingsError, match=rf"E-SHARED.*1 subjects.*'{one}'|E-SHARED.*1 subjects.*'{other}'"):
        find_scans(recipe.data, folder=tmp_path, root=None, part="train")


def test_slabs_that_do_not_meet_may_serve_two_parts(tmp_path):
    parts = {"train": ["first[0:4]"], "validation": ["first[4:8]"], "test": ["first[9:12]"]}
    recipe = read_recipe(case(tmp_path, **parts))
    assert len(find_scans(recipe.data, folder=tmp_path, root=None, part="train")) == 1


def heads_recipe(folder: Path) -> Path:
    path = folder / "coarse.toml"
    path.write_text(to_toml(COARSE_TINY))
    return path


def test_a_head_that_was_packed_four_times_trains_as_one(tmp_path):
    recipe, weights = heads_recipe(tmp_path), []
    for name, numbers in (("plain", (0, 1)), ("copies", (0, 0, 1, 0, 0))):
        pack = tmp_path / f"{name}.safetensors"
        write_heads(pack, {"train": [ball(n) for n in numbers], "validation": [ball(2)]}, plain_atlas())
        first, *_ = train(recipe, tmp_path / name, data=pack)
        assert (first.scans, first.repeats) == (2, len(numbers) - 2)
        saved = torch.load(tmp_path / name / "checkpoint.pt", weights_only=True)["state"]["network"]
        weights.append(torch.cat([tensor.flatten().double() for tensor in saved.values()]))
    assert torch.equal(*weights)


def test_a_head_on_both_sides_is_refused(tmp_path):
    pack = tmp_path / "heads.safetensors"
    write_heads(pack, {"train": [ball(0), ball(1)], "validation": [ball(1)]}, plain_atlas())
    with pytest.raises(SettingsError, match="E-SHARED"):
        next(train(heads_recipe(tmp_path), tmp_path / "out", data=pack))
