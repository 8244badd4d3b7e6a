"""`RandVariantd` among the transforms of MONAI: random states, containers, geometry, data loaders."""

from __future__ import annotations

import collections
import dataclasses
import pickle
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from augment_cases import LOUD, corner_case, scan_and_tissue
from monai.data import DataLoader as MonaiLoader
from monai.data import Dataset, MetaTensor, list_data_collate
from monai.transforms import Compose, EnsureTyped, Flipd, RandGaussianNoised
from small_prior import small_prior
from torch.utils.data import DataLoader

import medidiff as md
from medidiff.augmentation import KINDS, RandVariantd, VariantSettings
from medidiff.errors import InputError, PriorError, SettingsError
from medidiff.volume import Provenance

SCAN, TISSUE = scan_and_tissue(24)
LOUDLY = VariantSettings(scanners=LOUD, tissue_maximum=800.0, prior=small_prior(), cases=[corner_case()])


def item(dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    """One item as MONAI loads it."""
    affine = torch.from_numpy(SCAN.geometry.affine.copy())
    image = MetaTensor(torch.tensor(SCAN.data, dtype=dtype), affine=affine, meta={"told": "kept"})
    return {"image": image, "label": MetaTensor(torch.tensor(TISSUE.data), affine=affine), "name": "7"}


def always(kind: str, **options: Any) -> RandVariantd:
    """Every item becomes a variant of one kind."""
    return RandVariantd(**{"prob": 1.0, "shares": {kind: 1.0}, "settings": LOUDLY} | options)


def voxels(made: Mapping[str, Any]) -> bytes:
    return np.asarray(made["image"]).tobytes()


# --- what becomes of an item ----------------------------------------------------------------------------------------


def test_with_probability_zero_it_is_the_identity():
    """The negative stands beside it: with probability one it is not."""
    given = item()
    kept = RandVariantd(prob=0.0, settings=LOUDLY).set_random_state(0)(given)
    assert kept["image"] is given["image"]
    assert kept["label"] is given["label"]
    assert (kept["variant"], kept["variant_record"], kept["name"]) == ("measured", "", "7")
    changed = always("degraded").set_random_state(0)(given)
    assert voxels(changed) != voxels(given)
    assert set(given) == {"image", "label", "name"}


@pytest.mark.parametrize("kind", ["degraded", "restored"])
def test_the_label_map_is_untouched(kind):
    given = item()
    made = always(kind).set_random_state(1)(given)
    assert made["label"] is given["label"]
    assert made["variant"] == kind
    assert not Provenance.from_json(made["variant_record"]).synthetic


def test_a_synthetic_variant_brings_its_label_map():
    given = item()
    made = always("synthetic").set_random_state(1)(given)
    assert made["label"].dtype == given["label"].dtype
    assert set(made["label"].unique().tolist()) == {0, 1}
    label, image = (np.asarray(made[key]) for key in ("label", "image"))
    assert image[label == 1].min() >= 399
    assert image[label == 0].max() <= 401
    assert Provenance.from_json(made["variant_record"]).synthetic
    alone = always("synthetic", label=None)({"image": given["image"]})
    assert set(alone) == {"image", "variant", "variant_record"}


@pytest.mark.parametrize("kind", KINDS)
def test_geometry_and_container_are_kept(kind):
    given = Compose([EnsureTyped(("image", "label")), Flipd(("image", "label"), 0)])(item())
    made = always(kind).set_random_state(1)(given)
    for key in ("image", "label"):
        assert isinstance(made[key], MetaTensor)
        assert made[key].shape == given[key].shape
        assert torch.equal(made[key].affine, given[key].affine)
        assert len(made[key].applied_operations) == len(given[key].applied_operations) > 0
    assert made["image"].meta["told"] == "kept"


@pytest.mark.parametrize(
    ("image", "kind", "dtype"),
    [
        (SCAN.data.astype(np.int16), np.ndarray, np.float32),
        (SCAN.data.astype(np.float64), np.ndarray, np.float64),
        (torch.tensor(SCAN.data, dtype=torch.int16), torch.Tensor, torch.float32),
        (torch.tensor(SCAN.data, dtype=torch.float16), torch.Tensor, torch.float16),
    ],
)
def test_arrays_and_tensors_stay_what_they_are(image, kind, dtype):
    made = always("degraded", label=None)({"image": image})["image"]
    assert type(made) is kind
    assert made.dtype == dtype
    assert tuple(made.shape) == SCAN.data.shape


def test_a_variant_is_that_of_augment():
    transform = always("degraded").set_random_state(5)
    made = transform(item())
    record = Provenance.from_json(made["variant_record"])
    plain = md.augment(SCAN, seed=record.seed, scanners=LOUD, tissue_maximum=800.0)
    assert np.array_equal(plain.image.data, np.asarray(made["image"]))


def test_kinds_come_as_often_as_their_shares_say():
    transform = RandVariantd(prob=0.5, shares={"degraded": 3.0, "synthetic": 1.0}, settings=LOUDLY).set_random_state(0)
    counts: collections.Counter[str] = collections.Counter()
    for _ in range(2000):
        transform.randomize()
        counts[transform._kind if transform._do_transform else "measured"] += 1
    assert [counts[name] / 2000 for name in ("measured", "degraded", "synthetic", "restored")] == pytest.approx(
        [0.5, 0.375, 0.125, 0.0], abs=0.04
    )


# --- random states --------------------------------------------------------------------------------------------------


def test_it_follows_the_random_state_of_compose():
    pipeline = Compose([always("degraded"), always("degraded")])
    first, again = (voxels(pipeline.set_random_state(3)(item())) for _ in range(2))
    other = voxels(pipeline.set_random_state(4)(item()))
    assert first == again
    assert first != other
    assert voxels(pipeline(item())) != other  # the stream goes on


def test_a_pickled_transform_goes_on_with_the_same_stream():
    transform = always("degraded").set_random_state(3)
    transform(item())
    copy = pickle.loads(pickle.dumps(transform))
    assert voxels(copy(item())) == voxels(transform(item()))


def test_a_named_prior_is_not_pickled():
    named = always("restored", settings=VariantSettings())
    assert len(pickle.dumps(named)) < 10_000
    assert len(pickle.dumps(always("restored"))) > 10_000


def loaded(transform: Any, *, seed: int, kind: Any = DataLoader) -> list[bytes]:
    """The scans of a data set of two equal items in two epochs, each made in a process of its own."""
    data = Dataset([item(), item()], Compose([transform]).set_random_state(0))
    loader = kind(data, batch_size=1, num_workers=2, generator=torch.Generator().manual_seed(seed), collate_fn=list)
    return [voxels(batch[0]) for _ in range(2) for batch in loader]


@pytest.mark.parametrize("kind", [DataLoader, MonaiLoader])
def test_each_process_and_each_epoch_has_a_stream_of_its_own(kind):
    transform = always("degraded")
    first = loaded(transform, seed=1, kind=kind)
    assert len(set(first)) == 4
    assert loaded(transform, seed=1, kind=kind) == first
    assert loaded(transform, seed=2, kind=kind) != first


def test_a_transform_that_knows_of_no_processes_repeats_itself():
    plain = RandGaussianNoised("image", prob=1.0, std=80.0)
    assert len(set(loaded(plain, seed=1))) == 1


def test_items_of_all_kinds_go_into_one_batch():
    shares = dict.fromkeys(KINDS, 1.0)
    transform = RandVariantd(prob=0.7, shares=shares, settings=LOUDLY)
    pipeline = Compose([transform]).set_random_state(2)
    batch = list_data_collate([pipeline(item()) for _ in range(12)])
    assert batch["image"].shape == (12, 1, 24, 24, 24)
    assert set(batch["variant"]) == {"measured", *KINDS}
    for kind, record in zip(batch["variant"], batch["variant_record"], strict=True):
        assert (record == "") == (kind == "measured")


# --- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "broken",
    [
        {"prob": 1.5},
        {"prob": float("nan")},
        {"shares": {"blurred": 1.0}},
        {"shares": {}},
        {"shares": {"degraded": -1.0}},
    ],
)
def test_shares_that_are_none_are_refused(broken):
    with pytest.raises(SettingsError, match="E-SETTING"):
        RandVariantd(**broken)


def test_synthetic_variants_without_a_cascade_are_refused_at_once():
    nowhere = VariantSettings(cascade="no-such-prior")
    with pytest.raises(PriorError, match="E-PRIOR"):
        RandVariantd(shares={"synthetic": 1.0}, settings=nowhere)
    RandVariantd(shares={"degraded": 1.0}, settings=nowhere)


def test_items_that_do_not_fit_are_refused():
    with pytest.raises(KeyError):
        always("degraded")({"image": item()["image"]})
    always("degraded", allow_missing_keys=True)({"image": item()["image"]})
    with pytest.raises(InputError, match="E-SHAPE"):
        always("degraded", label=None)({"image": torch.zeros((1, 8, 8))})
    with pytest.raises(InputError, match="E-LABELS"):
        always("synthetic")(item() | {"label": torch.zeros((2, 24, 24, 24))})
    bare = dataclasses.replace(LOUDLY, cases=[dataclasses.replace(corner_case(), labels=None)])
    with pytest.raises(InputError, match="E-LABELS"):
        always("synthetic", settings=bare)(item())
