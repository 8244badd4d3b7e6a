"""Slabs of one scan: what they are called, where they lie, and that none of them shares a slice with another."""

from __future__ import annotations

import tomllib
from pathlib import Path

import numpy as np
import pytest

from medidiff.errors import SettingsError
from medidiff.training.slabs import Slab, cut_slab, read_slab
from medidiff.volume import Geometry, Volume

SPLIT = Path(__file__).parents[1] / "validation" / "split.toml"
GUARD = 4  # slices between slabs: twice the thickness of the overlapping slices of ct-lung


def volume() -> Volume:
    data = np.arange(3 * 4 * 10, dtype=np.float32).reshape(3, 4, 10)
    mask = np.zeros(data.shape, dtype=bool)
    mask[..., 5] = True
    return Volume(data, Geometry.regular(data.shape, spacing_mm=(1, 1, 2.5)), "CT", "HU", padding=mask, filled=~mask)


def test_entries_are_read():
    assert read_slab("sub-01") == Slab("sub-01")
    assert read_slab("LungFCP-01-0001[16:48]") == Slab("LungFCP-01-0001", 16, 48)


@pytest.mark.parametrize(
    "text", ["a[3]", "a[4:4]", "a[5:2]", "a[1:2", "[1:2]", "", "a[-1:2]", "a[1:2]b", "a[1:2][3:4]"]
)
def test_entries_that_mean_nothing_are_refused(text):
    with pytest.raises(SettingsError) as caught:
        read_slab(text)
    assert caught.value.code == "E-SPLIT"


def test_a_slab_lies_where_its_slices_do():
    whole, part = volume(), cut_slab(volume(), Slab("a", 4, 7))
    assert np.array_equal(part.data, whole.data[..., 4:7])
    assert np.allclose(part.geometry.world([1, 2, 0]), whole.geometry.world([1, 2, 4]))
    assert np.array_equal(part.padding, whole.padding[..., 4:7])
    assert np.array_equal(part.filled, whole.filled[..., 4:7])
    assert cut_slab(whole, Slab("a")) is whole


def test_slices_that_are_not_there_are_refused():
    with pytest.raises(SettingsError, match="of a scan of 10"):
        cut_slab(volume(), Slab("a", 4, 11))


def too_near(split: dict[str, list[str]]) -> list[tuple[Slab, Slab]]:
    """Pairs of slabs of one subject with fewer than GUARD slices between them."""
    slabs = [read_slab(text) for part in split.values() for text in part]
    pairs = [(a, b) for n, a in enumerate(slabs) for b in slabs[n + 1 :] if a.subject == b.subject]
    return [
        (a, b)
        for a, b in pairs
        if a.end is None or b.end is None or (a.first < b.end + GUARD and b.first < a.end + GUARD)
    ]


def test_no_part_of_the_split_touches_another():
    split = tomllib.loads(SPLIT.read_text(encoding="utf-8"))
    assert {len(part) for part in split["ct-lung"].values()} == {1}
    for parts in split.values():
        assert too_near(parts) == []


@pytest.mark.parametrize("other", ["a[8:20]", "a[12:20]", "a[0:3]", "a"])
def test_parts_that_touch_are_caught(other):
    assert too_near({"train": ["a[3:10]"], "test": [other]}) != []
    assert too_near({"train": ["a[3:10]"], "test": ["a[14:20]", "b"]}) == []
