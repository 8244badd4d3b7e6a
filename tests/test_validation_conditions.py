"""What a coarse prior makes of what it is asked: a planted effect is found, and none where the request is not heard."""

import importlib
from pathlib import Path

import numpy as np
import pytest
from whole_cases import ball

from medidiff.case import TISSUES, Case
from medidiff.volume import Geometry, Provenance, Volume

FOLDER = Path(__file__).resolve().parent.parent / "validation"
RECORD = Provenance(task="synthesize", version="0", settings={}, prior={}, seed=0, environment={}, synthetic=True)


@pytest.fixture
def conditions(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("conditions")


def case(request, number: int, *, deaf: bool = False) -> Case:
    """100 voxels of each tissue a case, 10 more of white matter for a man, and one more of CSF a decade."""
    rng = np.random.default_rng(number)
    counts = 100 + rng.integers(-20, 20, 3)
    if not deaf:
        counts[2] += 10 * (request.sex == "M")
        counts[0] += round(((request.age or 20.0) - 20.0) / 10)
    labels = np.zeros(1000, np.uint8)
    labels[: counts.sum()] = np.repeat([1, 2, 3], counts)
    grid = Geometry.regular((10, 10, 10), spacing_mm=(10.0, 10.0, 10.0))
    scan = Volume(labels.reshape(1, 10, 10, 10).astype(np.float32), grid, "MR")
    return Case(number, scan, RECORD, scan.with_data(labels.reshape(1, 10, 10, 10)), TISSUES, {})


def test_a_planted_effect_is_found_to_the_voxel(conditions):
    sex, age = conditions.effects(case, (20.0, 60.0), spacing_mm=4.0, pairs=12)
    assert sex[1:4] == pytest.approx((10.0, 10.0, 10.0))  # a voxel is a millilitre
    assert age[2] > 0
    assert age[1] == pytest.approx(0.22, abs=0.05)  # 4 of about 300 voxels in 4 decades, of which a third is CSF


def test_who_does_not_hear_the_request_has_no_effect(conditions):
    rows = conditions.effects(lambda r, n: case(r, n, deaf=True), (20.0, 60.0), spacing_mm=4.0, pairs=12)
    assert [row[1:4] for row in rows] == [(0.0, 0.0, 0.0)] * 2


def drawn(labels: np.ndarray) -> Case:
    noise = np.random.default_rng(0).normal(0, 0.08, labels.shape)  # the classifier cannot start on cleaner classes
    image = np.array([0, 0.3, 0.6, 0.95], np.float32)[labels] + noise
    scan = Volume((image * (labels > 0)).astype(np.float32)[None], Geometry.regular(labels.shape), "MR")
    return Case(0, scan, RECORD, scan.with_data(labels[None]), TISSUES, {})


def test_a_map_that_is_followed_overlaps_and_one_that_is_not_does_not(conditions):
    maps = [(ball(seed).shares.numpy() > 0).T.astype(np.uint8) @ np.array([1, 2, 3], np.uint8) for seed in range(3)]
    followed = conditions.followed(lambda request, number: drawn(request.tissue.data[0]), maps)
    deaf = conditions.followed(lambda request, number: drawn(maps[(number + 1) % 3]), maps)
    assert all(row[1] > 0.9 for row in followed[:3])
    assert all(one[1] < other[1] - 0.03 for one, other in zip(deaf[:3], followed[:3], strict=True))
    assert followed[3:] == deaf[3:]


def test_an_interval_shrinks_with_the_cases(conditions):
    values = np.random.default_rng(1).normal(2.0, 1.0, 400)
    few, many = (conditions.paired(values[:n]) for n in (10, 400))
    assert many[1] < 2.0 < many[2]
    assert few[2] - few[1] > 3 * (many[2] - many[1])


def test_too_few_pairs_are_refused(conditions, capsys):
    assert conditions.main(["--pairs", "1"]) != 0
    assert "E-SETTING" in capsys.readouterr().err
