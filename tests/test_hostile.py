"""Hostile priors, checkpoints, cards and recipes: nothing in them runs, each is refused with a code."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from medidiff.cli import main
from medidiff.errors import MedidiffError, PriorError
from medidiff.prior import Card, Prior, build_denoiser
from medidiff.training.checkpoint import read_checkpoint
from medidiff.training.data import find_scans
from medidiff.training.recipe import read_recipe
from tests.training_cases import changed, to_toml, write_case

CARD = Card("tiny", "untrained", "MR", (), (4, 8), (1, 1, 1), 0.35, 0.12, (0.004, 0.25), 0, "CC0", (), "")
MOST_BYTES = 64 * 2**20  # of Python's own memory while one hostile file is refused


class Bomb:
    """What a pickle can do: make a file when it is loaded."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self):
        return os.mknod, (str(self.canary),)


@pytest.fixture
def canary(tmp_path):
    """A file that must never appear."""
    file = tmp_path / "canary"
    yield file
    assert not file.exists()


def refused(action: Callable[[], object], code: str) -> str:
    """The message of a coded refusal that took little memory."""
    tracemalloc.start()
    try:
        with pytest.raises(MedidiffError) as caught:
            action()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < MOST_BYTES
    assert caught.value.code.startswith(code)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 700
    return str(caught.value)


# ----------------------------------------------------------------------------------------------------------- priors


def header(entries: object, *, length: int | None = None) -> bytes:
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text


def entry(shape: list, offsets: list, dtype: str = "F32") -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def zeros(change: Callable[[dict], object]) -> bytes:
    weights = {name: torch.zeros(w.shape) for name, w in build_denoiser(CARD).backbone.state_dict().items()}
    change(weights)
    return save(weights)


def first(weights: dict) -> str:
    return sorted(weights)[0]


WEIGHTS = {
    "huge header length": lambda: header({}, length=2**63),
    "negative header length": lambda: header({}, length=2**64 - 1),
    "header of 100 MB": lambda: header(b" " * 100_000_000),
    "header longer than the file": lambda: header({"a": entry([1], [0, 4])}, length=4000),
    "not JSON": lambda: header(b"{'a': __import__('os').system('touch canary')}"),
    "nested without end": lambda: header(b"[" * 500_000),
    "a list": lambda: header([1, 2, 3]),
    "a name twice": lambda: (
        header(b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32"}}') + b"1234"
    ),
    "overlapping offsets": lambda: header({"a": entry([2], [0, 8]), "b": entry([2], [4, 12])}) + bytes(12),
    "offsets beyond the end": lambda: header({"a": entry([2**40], [0, 2**42])}) + bytes(8),
    "negative offsets": lambda: header({"a": entry([1], [-4, 0])}) + bytes(4),
    "negative shape": lambda: header({"a": entry([-1, -4], [0, 16])}) + bytes(16),
    "overflowing shape": lambda: header({"a": entry([2**62, 4, 4], [0, 0])}),
    "a type that lies": lambda: header({"a": entry([4], [0, 4], "F32")}) + bytes(4),
    "a type that is none": lambda: header({"a": entry([1], [0, 4], "PICKLE")}) + bytes(4),
    "a type that grows": lambda: header({"a": entry([8], [0, 8], "I8")}) + bytes(8),
    "hidden bytes": lambda: header({"a": entry([1], [4, 8])}) + bytes(8),
    "a pickle": lambda: pickle.dumps(Bomb(Path("canary"))),
    "a zip": lambda: b"PK\x03\x04" + bytes(100),
    "NaN": lambda: zeros(lambda w: w[first(w)].fill_(float("nan"))),
    "infinity": lambda: zeros(lambda w: w[first(w)].fill_(float("inf"))),
    "a tensor missing": lambda: zeros(lambda w: w.pop(first(w))),
    "a tensor more": lambda: zeros(lambda w: w.update({"x" * 5000: torch.zeros(1)})),
    "another shape": lambda: zeros(lambda w: w.update({first(w): torch.zeros(3, 3)})),
}


@pytest.mark.parametrize("make", WEIGHTS.values(), ids=WEIGHTS)
def test_hostile_weights_are_refused(make, tmp_path, canary, monkeypatch):
    monkeypatch.chdir(tmp_path)
    card = Prior(build_denoiser(CARD), CARD).save(tmp_path)
    data = make()
    card.with_suffix(".safetensors").write_bytes(data)
    values = json.loads(card.read_text()) | {"weights_sha256": hashlib.sha256(data).hexdigest()}
    card.write_text(json.dumps(values))
    del data
    if make is WEIGHTS["header of 100 MB"]:
        with pytest.raises(PriorError, match="E-WEIGHTS"):
            Prior.load(card)
    else:
        refused(lambda: Prior.load(card), "E-WEIGHTS")


CARDS = {
    "path in the name": {"name": "../../escaped"},
    "control characters in the name": {"name": "a\x1b[2Jb"},
    "class": {"__class__": "os.system"},
    "MONAI target": {"_target_": "os.system", "command": "touch canary"},
    "MONAI expression": {"sigma_data": "$__import__('os').mknod('canary')"},
    "infinite": {"sigma_data": float("inf")},
    "not a number": {"sigma_detail": float("nan")},
    "huge network": {"channels": [10**9, 10**9]},
    "huge integer": {"images": 10**5000},
    "network of another size": {"channels": [1024, 1024], "blocks": [64, 64, 64]},
}


@pytest.mark.parametrize("change", CARDS.values(), ids=CARDS)
def test_hostile_cards_are_refused(change, tmp_path, canary, monkeypatch):
    monkeypatch.chdir(tmp_path)
    card = Prior(build_denoiser(CARD), CARD).save(tmp_path)
    text = card.read_text().rstrip().rstrip("}")
    more = ", ".join(
        f"{json.dumps(k)}: {'1' + '0' * 5000 if v == 10**5000 else json.dumps(v)}" for k, v in change.items()
    )
    for key in change:
        text = "\n".join(line for line in text.splitlines() if not line.startswith(f'  "{key}": ') or "[" in line)
    card.write_text(f"{text.rstrip().rstrip(',')}, {more}}}")
    refused(lambda: Prior.load(card), "E-")


@pytest.mark.parametrize(
    "content", [b"\xff\xfe", b"[" * 100_000, b"", b"{}", b"null", b" " * (2**20 + 1), b"!!python/x"]
)
def test_a_card_that_is_none_is_refused(content, tmp_path):
    card = Prior(build_denoiser(CARD), CARD).save(tmp_path)
    card.write_bytes(content)
    refused(lambda: Prior.load(card), "E-CARD")


# -------------------------------------------------------------------------------------------------------- checkpoints


def state() -> dict:
    one = {"w": torch.zeros(2)}
    return {"images": 0, "network": one, "average": one, "optimizer": {"state": {}, "param_groups": []}}


def archive(file: Path, members: dict[str, bytes], **how: object) -> None:
    with zipfile.ZipFile(file, "w", **how) as opened:
        for name, data in members.items():
            opened.writestr(name, data)


def saved(file: Path, canary: Path, **entries: object) -> None:
    torch.save({"recipe": "r", "data": "d", "state": state()} | entries, file)


def with_state(file: Path, **entries: object) -> None:
    torch.save({"recipe": "r", "data": "d", "state": state() | entries}, file)


def repacked(file: Path, canary: Path, **how: object) -> None:
    saved(file, canary)
    with zipfile.ZipFile(file) as opened:
        members = {name: opened.read(name) for name in opened.namelist()}
    archive(file, members, **how)


def twice(file: Path, canary: Path) -> None:
    saved(file, canary)
    with zipfile.ZipFile(file, "a") as opened, pytest.warns(UserWarning, match="Duplicate"):
        opened.writestr(opened.namelist()[0], pickle.dumps(Bomb(canary)))


def zip_bomb(file: Path, canary: Path) -> None:
    archive(file, {"x/data.pkl": bytes(50_000_000), "x/version": b"3"}, compression=zipfile.ZIP_DEFLATED)


def shared_storage(file: Path, canary: Path) -> None:
    with_state(file, network={"w": torch.zeros(1).expand(10**9)})


CHECKPOINTS = {
    "a bomb": lambda f, c: saved(f, c, state=Bomb(c)),
    "a bomb deep inside": lambda f, c: with_state(f, network={"w": [Bomb(c)]}),
    "a bomb beside": lambda f, c: saved(f, c, more=Bomb(c)),
    "a plain pickle": lambda f, c: f.write_bytes(pickle.dumps(Bomb(c))),
    "a pickle of protocol 0": lambda f, c: f.write_bytes(pickle.dumps(Bomb(c), protocol=0)),
    "the old format": lambda f, c: torch.save({"state": Bomb(c)}, f, _use_new_zipfile_serialization=False),
    "the old format, harmless": lambda f, c: torch.save({"a": 1}, f, _use_new_zipfile_serialization=False),
    "a zip with a bomb": lambda f, c: archive(f, {"x/data.pkl": pickle.dumps(Bomb(c)), "x/version": b"3"}),
    "compressed": lambda f, c: repacked(f, c, compression=zipfile.ZIP_DEFLATED),
    "a zip bomb": zip_bomb,
    "a member twice": twice,
    "path in the zip": lambda f, c: archive(f, {"../../canary": b"x", "x/data.pkl": b"x"}),
    "no pickle in the zip": lambda f, c: archive(f, {"x/version": b"3"}),
    "an empty zip": lambda f, c: archive(f, {}),
    "empty": lambda f, c: f.touch(),
    "one number shown as a billion": shared_storage,
    "a whole module": lambda f, c: torch.save(torch.nn.Linear(2, 2), f),
    "a list": lambda f, c: torch.save([1, 2], f),
    "no state": lambda f, c: saved(f, c, state=None),
    "a state of words": lambda f, c: with_state(f, network="os.system"),
    "NaN": lambda f, c: with_state(f, average={"w": torch.tensor([float("nan")])}),
    "infinite moments": lambda f, c: with_state(f, optimizer={"state": {0: {"first": torch.tensor([float("inf")])}}}),
    "cut": lambda f, c: (saved(f, c), f.write_bytes(f.read_bytes()[:-30])),
}


@pytest.mark.parametrize("make", CHECKPOINTS.values(), ids=CHECKPOINTS)
def test_hostile_checkpoints_are_refused(make, tmp_path, canary):
    file = tmp_path / "checkpoint.pt"
    make(file, canary)
    refused(lambda: read_checkpoint(file), "E-CHECKPOINT")


def test_an_honest_checkpoint_is_read(tmp_path, canary):
    saved(tmp_path / "checkpoint.pt", canary)
    assert read_checkpoint(tmp_path / "checkpoint.pt")["recipe"] == "r"


# ----------------------------------------------------------------------------------------------------------- recipes

RECIPES = {
    "MONAI expression": changed(seed="$__import__('os').mknod('canary')"),
    "MONAI target": changed(model___target_="os.mknod", model__path="canary"),
    "class": changed(__class__="os"),
    "YAML tag": "!!python/object/apply:os.mknod [canary]\n",
    "absolute start": changed(start="/etc/passwd"),
    "absolute split": changed(data__split="/dev/zero"),
    "drive": changed(data__split="C:\\split.toml"),
    "nested without end": "a = " + "[" * 20_000,
    "a number of 5,000 digits": "seed = " + "9" * 5000,
    "not a number": "name = 'tiny'\nseed = nan\n",
    "infinite rate": changed(fit__rate=1e999),
    "a huge batch": changed(fit__batch=10**9),
    "a huge network": changed(model__channels=[10**9, 10**9]),
    "a deep network": changed(model__blocks=[10**6, 1, 1]),
    "a huge patch": changed(fit__patch=4 * 10**6),
    "endless levels": changed(validation__levels=[0.1] * 10_000),
    "a long text": changed(summary="x" * 100_000),
    "a path for a name": changed(name="../escaped"),
    "a file without end": "x = 1\n" * 400_000,
    "no text": b"\xff\xfe\0\0",
}


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_hostile_recipes_are_refused(recipe, tmp_path, canary, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "hostile.toml"
    text = to_toml(recipe).replace("Infinity", "inf") if isinstance(recipe, dict) else recipe
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    refused(lambda: read_recipe(file), "E-RECIPE")


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "/etc/passwd", "a/../../x.nii", "C:\\x.nii", "~/../../x", "link/x.nii"]
)
def test_scans_lie_inside_the_data_folder(name, tmp_path):
    (tmp_path / "scans").mkdir()
    (tmp_path / "scans" / "link").symlink_to(tmp_path)
    sources = [{"pattern": name, "licence": "none"}]
    recipe = read_recipe(write_case(tmp_path, data__sources=sources))
    refused(lambda: find_scans(recipe.data, folder=tmp_path, root=None, part="train"), "E-OUTSIDE")


def test_a_subject_is_a_word_and_no_format(tmp_path):
    (tmp_path / "split.toml").write_text('[s]\ntrain = ["../../x"]\nvalidation = ["a"]\n')
    source = {"licence": "none", "split": "s"}
    for pattern, code in (("{subject}.nii", "E-OUTSIDE"), ("{subject.__class__}{0}", "E-DATA")):
        case = write_case(tmp_path, data__split="split.toml", data__sources=[source | {"pattern": pattern}])
        recipe = read_recipe(case)
        refused(lambda recipe=recipe: find_scans(recipe.data, folder=tmp_path, root=None, part="train"), code)


@pytest.mark.parametrize(
    "text", ["s = 1", "[s]\ntrain = 1", "[s]\ntrain = [1]", "a = " + "[" * 20_000, "x = 1\n" * 400_000]
)
def test_a_hostile_split_is_refused(text, tmp_path):
    recipe = read_recipe(write_case(tmp_path, data__split="split.toml"))
    (tmp_path / "split.toml").write_text(text)
    refused(lambda: find_scans(recipe.data, folder=tmp_path, root=None, part="train"), "E-SPLIT")
    (tmp_path / "split.toml").unlink()
    os.mkfifo(tmp_path / "split.toml")
    refused(lambda: find_scans(recipe.data, folder=tmp_path, root=None, part="train"), "E-SPLIT")


def test_a_training_meets_a_bomb_and_does_not_run_it(tmp_path, canary, capsys):
    case = write_case(tmp_path)
    (tmp_path / "run").mkdir()
    torch.save({"recipe": "r", "data": "d", "state": Bomb(canary)}, tmp_path / "run" / "checkpoint.pt")
    assert main(["train", str(case), "-o", str(tmp_path / "run"), "--device", "cpu"]) == 6
    assert "E-CHECKPOINT" in capsys.readouterr().err
