"""Prepared scans on the disk: the same patches as from memory, and never those of another scan or preparation."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import pickle

import numpy as np
import pytest
import torch
from training_cases import phantom, write_case

from medidiff import io
from medidiff.errors import SettingsError
from medidiff.io.sidecar import record_path
from medidiff.training import cache as caching
from medidiff.training.cache import cache_key, stored_scans
from medidiff.training.data import Found, find_scans, load_scan
from medidiff.training.pack import write_pack
from medidiff.training.patches import Patches
from medidiff.training.recipe import LowDose, read_recipe
from medidiff.training.run import Step, train
from medidiff.training.slabs import Slab
from medidiff.training.stored import StoredScan
from medidiff.volume import Volume

NUMBERS = range(24)


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    return write_case(tmp_path_factory.mktemp("case"))


@pytest.fixture(scope="module")
def recipe(case):
    return read_recipe(case)


@pytest.fixture
def own(tmp_path):
    """A case of one's own, to be spoilt: its recipe, and the scans that it names."""
    recipe = read_recipe(write_case(tmp_path))
    return recipe, named(recipe, tmp_path)


def named(recipe, folder):
    return find_scans(recipe.data, folder=folder, root=None, part="train")


def same(one, other):
    """Whether two batches are the same to the last bit."""
    pairs = [(one.x, other.x), (one.sigma, other.sigma), (one.state, other.state)]
    pairs += [
        (getattr(one.condition, name), getattr(other.condition, name)) for name in ("image", "certainty", "noise")
    ]
    return all(torch.equal(a, b) for a, b in pairs)


# The same patches


@pytest.fixture(scope="module")
def zoomed(recipe):
    """Views of all kinds, that reach over the border too."""
    return dataclasses.replace(recipe, degradation=dataclasses.replace(recipe.degradation, zoomed=0.5))


@pytest.fixture(scope="module")
def in_memory(case, zoomed):
    return Patches([load_scan(each, zoomed) for each in named(zoomed, case.parent)], (0.7, 0.3), zoomed)


@pytest.fixture(scope="module")
def stored(case, zoomed, tmp_path_factory):
    return stored_scans(named(zoomed, case.parent), zoomed, tmp_path_factory.mktemp("cache"))


def test_patches_from_the_disk_are_those_from_memory(stored, zoomed, in_memory):
    assert all(isinstance(scan, StoredScan) for scan in stored)
    assert same(Patches(stored, (0.7, 0.3), zoomed).batch(NUMBERS), in_memory.batch(NUMBERS))


def test_processes_that_cut_ahead_change_nothing(stored, zoomed, in_memory):
    lists = [[0, 1], [], [2, 3, 4]]
    batches = list(Patches(stored, (0.7, 0.3), zoomed, workers=1).batches(lists))
    assert batches[1] is None
    assert same(batches[0], in_memory.batch(lists[0]))
    assert same(batches[2], in_memory.batch(lists[2]))


def test_a_cut_that_forgets_how_the_cube_is_held_is_noticed(stored, zoomed, in_memory, monkeypatch):
    """The negative."""
    cut = StoredScan.cut
    monkeypatch.setattr(StoredScan, "cut", lambda self, corner, order, side: cut(self, corner, order.sort()[0], side))
    assert not same(Patches(stored, (0.7, 0.3), zoomed).batch(NUMBERS), in_memory.batch(NUMBERS))


def test_a_run_from_the_disk_is_the_run_from_memory(case, tmp_path):
    runs = [list(train(case, tmp_path / name, cache=cache)) for name, cache in ways(tmp_path)]
    (first, *ours), (other, *theirs) = runs
    assert first.data_fingerprint == other.data_fingerprint
    assert [e for e in ours if isinstance(e, Step)] == [e for e in theirs if isinstance(e, Step)]
    one, two = ((tmp_path / name / "tiny.safetensors").read_bytes() for name in ("memory", "disk"))
    assert one == two


def ways(folder):
    return (("memory", None), ("disk", folder / "cache"))


@pytest.fixture(scope="module")
def low_dose(tmp_path_factory):
    """Two small CT scans and a recipe with the noise of two doses."""
    folder = tmp_path_factory.mktemp("ct")
    table = {"doses": [0.1, 0.5], "views": 16, "share": 0.7}
    path = write_case(folder, modality="CT", low_dose=table, degradation={"zoomed": 0.0})
    for number, name in enumerate(("first", "second")):
        volume = phantom(number)
        hounsfield = (volume.data[0].astype(np.int16) * 2 - 1000).astype(np.int16)
        io.write(Volume(hounsfield, volume.geometry, modality="CT"), folder / "scans" / f"{name}.nii.gz")
    return read_recipe(path), folder


def test_the_noise_of_doses_is_kept_too(low_dose, tmp_path):
    recipe, folder = low_dose
    found = named(recipe, folder)
    memory = Patches([load_scan(each, recipe) for each in found], (0.7, 0.3), recipe)
    disk = Patches(stored_scans(found, recipe, tmp_path), (0.7, 0.3), recipe)
    assert same(disk.batch(NUMBERS), memory.batch(NUMBERS))
    disk._plans.scans = tuple(dataclasses.replace(scan, levels=scan.levels[:1]) for scan in disk._plans.scans)
    assert not same(disk.batch(NUMBERS), memory.batch(NUMBERS))  # the negative: the noise of another dose


def test_nothing_of_a_scan_is_held_in_memory(stored):
    for scan in stored:
        held = [getattr(scan, each.name) for each in dataclasses.fields(scan)]
        assert not [part for part in held if isinstance(part, torch.Tensor)]
        assert len(pickle.dumps(scan)) < 1000  # as it goes to the processes that cut ahead


# What a prepared scan depends on


def test_a_second_start_prepares_nothing(own, tmp_path, monkeypatch):
    recipe, found = own
    first = stored_scans(found, recipe, tmp_path / "cache")
    monkeypatch.setattr(caching, "load_scan", lambda *words: pytest.fail("prepared again"))
    assert stored_scans(found, recipe, tmp_path / "cache") == first


def rewritten(path, seed):
    """Other voxels under the same name and of the same date."""
    stamps = {file: file.stat() for file in (path, record_path(path))}
    io.write(phantom(seed), path)
    for file, stamp in stamps.items():
        os.utime(file, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))


def test_a_scan_that_changed_under_its_name_is_prepared_again(own, tmp_path):
    recipe, found = own
    before = stored_scans(found, recipe, tmp_path / "cache")
    rewritten(found[0].path, seed=5)
    after = stored_scans(found, recipe, tmp_path / "cache")
    assert (after[0].sha256, after[1]) == (load_scan(found[0], recipe).sha256, before[1])
    assert after[0].sha256 != before[0].sha256


def test_a_key_made_of_names_and_dates_is_fooled(own, tmp_path, monkeypatch):
    """The negative: what is usual elsewhere."""

    def dated(path):
        return hashlib.sha256(f"{path.name} {path.stat().st_mtime_ns}".encode()).hexdigest()

    recipe, found = own
    monkeypatch.setattr(caching, "sha256", dated)
    before = stored_scans(found, recipe, tmp_path / "cache")
    rewritten(found[0].path, seed=5)
    assert stored_scans(found, recipe, tmp_path / "cache") == before
    assert before[0].sha256 != load_scan(found[0], recipe).sha256


def test_the_record_beside_a_scan_counts(own, tmp_path):
    recipe, (found, _) = own
    record = found.path.with_name("first.json")
    keys = {cache_key(found, recipe)}
    record.write_text(json.dumps({"Modality": "CT"}), encoding="utf-8")
    keys.add(cache_key(found, recipe))
    record.unlink()
    keys.add(cache_key(found, recipe))
    assert len(keys) == 3  # it was written with a record of its own


SAME = {
    "rate": {"fit": {"rate": 1e-4}},
    "seed without doses": {"seed": 99},
    "patch without slabs": {"fit": {"patch": 16}},
}
OTHER = {
    "spacing": {"data": {"spacing_mm": 2.0}},
    "modality": {"modality": "CT"},
    "doses": {"modality": "CT", "low_dose": LowDose((0.5,))},
}


def replaced(recipe, entries):
    for name, value in entries.items():
        value = dataclasses.replace(getattr(recipe, name), **value) if isinstance(value, dict) else value
        recipe = dataclasses.replace(recipe, **{name: value})
    return recipe


@pytest.mark.parametrize("entries", SAME.values(), ids=SAME)
def test_what_does_not_touch_a_prepared_scan_keeps_it(entries, own):
    recipe, (found, _) = own
    assert cache_key(found, replaced(recipe, entries)) == cache_key(found, recipe)


@pytest.mark.parametrize("entries", OTHER.values(), ids=OTHER)
def test_what_a_recipe_asks_of_a_scan_is_part_of_its_name(entries, own):
    recipe, (found, _) = own
    assert cache_key(found, replaced(recipe, entries)) != cache_key(found, recipe)


def test_doses_slabs_and_software_are_part_of_the_name(own, monkeypatch):
    recipe, (found, _) = own
    dosed = replaced(recipe, OTHER["doses"])
    assert cache_key(found, dosed) != cache_key(found, replaced(dosed, {"seed": 99}))
    slab = Found(found.path, found.weight, Slab("first", 2, 20))
    keys = [cache_key(each, recipe) for each in (found, slab, Found(found.path, 1.0, Slab("first", 3, 20)))]
    keys += [cache_key(slab, replaced(recipe, SAME["patch without slabs"]))]
    monkeypatch.setattr(caching, "_software", lambda: "another version")
    keys += [cache_key(found, recipe)]
    assert len(set(keys)) == 5
    assert cache_key(Found(found.path, 0.1, found.slab), recipe) == keys[-1]  # how often it is drawn is another matter


def test_the_software_is_told_by_its_source(monkeypatch, tmp_path):
    (tmp_path / "training").mkdir()
    monkeypatch.setattr(caching, "__file__", str(tmp_path / "training" / "cache.py"))
    digests = []
    for text in ("x = 1\n", "x = 2\n"):
        (tmp_path / "training" / "data.py").write_text(text, encoding="utf-8")
        digests.append(caching._software.__wrapped__())
    monkeypatch.setattr(caching, "version", lambda name: "0")
    digests.append(caching._software.__wrapped__())
    assert len(set(digests)) == 3


# Files that are not what they should be


def flipped(content):
    place = len(content) - 7
    return content[:place] + bytes([content[place] ^ 16]) + content[place + 1 :]


FAULTS = {
    "cut off": lambda content: content[:-100],
    "empty": lambda content: b"",
    "a bit flipped": flipped,
    "a pickle": lambda content: pickle.dumps({"image": [1, 2, 3]}),
    "no description": lambda content: content.replace(b'"scan"', b'"scam"', 1),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_broken_file_is_made_again(fault, own, tmp_path):
    recipe, found = own
    good = stored_scans(found, recipe, tmp_path / "cache")
    content = good[0].path.read_bytes()
    good[0].path.write_bytes(fault(content))
    assert stored_scans(found, recipe, tmp_path / "cache") == good
    assert good[0].path.read_bytes() == content


def test_a_file_that_is_not_looked_at_whole_is_believed(own, tmp_path, monkeypatch):
    """The negative."""
    recipe, found = own
    good = stored_scans(found, recipe, tmp_path / "cache")
    spoilt = flipped(good[0].path.read_bytes())
    good[0].path.write_bytes(spoilt)
    look = caching._look
    monkeypatch.setattr(caching, "_look", lambda folder, key, whole=False: look(folder, key))
    stored_scans(found, recipe, tmp_path / "cache")
    assert good[0].path.read_bytes() == spoilt


def test_the_scan_of_another_key_is_not_believed(own, tmp_path):
    recipe, found = own
    one, other = stored_scans(found, recipe, tmp_path / "cache")
    content = one.path.read_bytes()
    one.path.write_bytes(other.path.read_bytes())
    assert stored_scans(found, recipe, tmp_path / "cache") == [one, other]
    assert one.path.read_bytes() == content


def test_a_file_that_is_gone_during_the_run_is_named(own, tmp_path):
    recipe, found = own
    stored = stored_scans(found, recipe, tmp_path / "cache")
    patches = Patches(stored, (0.7, 0.3), recipe)
    for scan in stored:
        scan.path.unlink()
    with pytest.raises(SettingsError, match="E-CACHE"):
        patches.batch([0])


def test_a_cache_that_others_empty_is_refused(own, tmp_path, monkeypatch):
    monkeypatch.setattr(caching, "_write", lambda *words: None)
    with pytest.raises(SettingsError, match="E-CACHE"):
        stored_scans(own[1], own[0], tmp_path / "cache")


def test_no_name_of_a_scan_is_in_the_cache(own, tmp_path):
    recipe, found = own
    stored = stored_scans(found, recipe, tmp_path / "cache")
    names = [path.name for path in (tmp_path / "cache").iterdir()]
    assert sorted(names) == sorted(f"{cache_key(each, recipe)}.safetensors" for each in found)
    assert not [scan for scan in stored if b"first" in scan.path.read_bytes() or b"second" in scan.path.read_bytes()]


def test_a_pack_needs_no_cache(own, tmp_path):
    recipe, found = own
    path = tmp_path / "pack.safetensors"
    write_pack(path, {part: [(load_scan(found[0], recipe), 1.0, 0)] for part in ("train", "validation")})
    with pytest.raises(SettingsError, match="E-SETTING") as caught:
        next(train(tmp_path / "tiny.toml", tmp_path / "out", data=path, cache=tmp_path / "cache"))
    assert caught.value.attribute == "--cache"
    assert not (tmp_path / "cache").exists()
