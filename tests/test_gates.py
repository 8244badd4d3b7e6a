"""The copy gate on invented people: copies are caught, strangers are not, and a gate that is broken fails the law."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from scipy import ndimage

from medidiff.errors import InputError, PriorError, SettingsError
from medidiff.gates import CopyGate, Embedding, GateReport, Index, Verdict, build_index, hash_of
from medidiff.gates.align import Mean
from medidiff.gates.index import MEASURES
from medidiff.gates.relief import Relief, relief_of
from medidiff.gates.thresholds import far_quantile
from medidiff.volume import Geometry, Volume
from tests.gate_cases import bent, noisy, person, rotated, scan

PEOPLE = range(8)
STRANGERS = range(100, 103)

COPIES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "other units": lambda x: 700 * x,
    "flip": lambda x: x[::-1],
    "rotation": lambda x: rotated(x, 9),
    "shift": lambda x: np.pad(x, [(9, 0), (0, 5), (3, 0)]),
    "crop": lambda x: x[:, 14:],
    "noise": lambda x: noisy(x, 0.15),
    "gamma": lambda x: x**0.6,
    "elastic": lambda x: bent(x, 2.5),
    "inverted": lambda x: np.where(x > 0, 1.8 - x, 0),
    "upside down": lambda x: x[:, :, ::-1],
    "half of two": lambda x: np.concatenate([x[:40], person(1)[40:]]),
}


def with_skull() -> np.ndarray:
    wide = np.pad(person(100), 12)
    return np.maximum(wide, 1.2 * (ndimage.binary_dilation(wide > 0, iterations=9) & (wide == 0)))


NO_BRAINS: dict[str, Callable[[], np.ndarray]] = {
    "skull": with_skull,
    "noise": lambda: np.random.default_rng(0).random((80, 96, 80)),
    "nothing": lambda: np.zeros((80, 96, 80)),
    "a crumb": lambda: np.pad(np.ones((5, 5, 5)), 20),
    "NaN": lambda: np.full((20, 20, 20), np.nan),
    "half a stranger": lambda: person(100)[40:],
    "a field without end": lambda: np.pad(person(100), [(150, 150), (0, 0), (0, 0)]),
}


@pytest.fixture(scope="module", autouse=True)
def remembered() -> Iterator[None]:
    """The relief of each volume is made once, as most tests look at the same people."""
    made: dict[str, Relief] = {}

    def once(volume: Volume, mean: Mean) -> Relief:
        sha256 = hash_of(volume) + repr(volume.geometry)
        if sha256 not in made:
            made[sha256] = relief_of(volume, mean)
        return made[sha256]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("medidiff.gates.index.relief_of", once)
        patch.setattr("medidiff.gates.gate.relief_of", once)
        yield


@pytest.fixture(scope="module")
def index() -> Index:
    return build_index(scan(person(number)) for number in PEOPLE)


@pytest.fixture(scope="module")
def gate(index) -> CopyGate:
    return CopyGate(index)


# --- the laws: each returns its faults ------------------------------------------------------------------------------


def missed(gate: CopyGate, kind: str) -> list[str]:
    """Copies of person 0 that pass or are laid at another scan's door."""
    verdict = gate.check(scan(COPIES[kind](person(0))))
    right = verdict.flagged and verdict.nearest in ((1, 2) if kind == "half of two" else (1,))
    return [] if right else [f"{kind}: {verdict.reason}"]


def alarmed(gate: CopyGate) -> list[str]:
    """Strangers who do not pass."""
    verdicts = [gate.check(scan(person(number))) for number in STRANGERS]
    return [verdict.reason for verdict in verdicts if not verdict.passed]


# --- the gate keeps them --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", COPIES)
def test_a_copy_is_caught(gate, kind):
    assert missed(gate, kind) == []


def test_a_stranger_passes(gate):
    assert alarmed(gate) == []


def test_the_same_voxels_are_known_by_their_hash(gate):
    verdict = gate.check(scan(person(3)))
    assert (verdict.flagged, verdict.nearest, verdict.measure) == (True, 4, "hash")


def test_any_grid_will_do(gate):
    turned = person(0).transpose(2, 0, 1)[:, ::-1, :]
    affine = np.zeros((4, 4))
    affine[2, 0], affine[0, 1], affine[1, 2], affine[3, 3] = 2, -2, 2, 1
    verdict = gate.check(Volume(np.ascontiguousarray(turned), Geometry(turned.shape, affine), "MR"))
    assert verdict.flagged
    assert verdict.score == pytest.approx(1, abs=0.02)


def test_voxels_are_compared_where_the_scans_are_at_hand(index):
    gate = CopyGate(index, [scan(person(number)) for number in reversed(PEOPLE)])
    assert gate.by_voxels
    assert missed(gate, "elastic") == []
    verdict = gate.check(scan(person(100)))
    assert verdict.passed, verdict.reason
    blind = dataclasses.replace(
        index, thresholds=dict(index.thresholds) | {"embedding": 1.0, "embedding of a half": 1.0}
    )
    by_voxels = CopyGate(blind, [scan(person(number)) for number in PEOPLE]).check(scan(noisy(person(5), 0.1)))
    assert (by_voxels.flagged, by_voxels.nearest) == (True, 6)
    assert by_voxels.measure.startswith("voxels")


@pytest.mark.parametrize("kind", NO_BRAINS)
def test_what_is_no_brain_cannot_be_judged_and_has_not_passed(gate, kind):
    verdict = gate.check(scan(NO_BRAINS[kind]()))
    assert not verdict.passed
    assert not verdict.judged
    assert verdict.reason.startswith("cannot be judged")


def test_a_training_scan_without_a_brain_is_refused_by_its_number():
    with pytest.raises(InputError, match="E-UNJUDGED: training scan 2") as refusal:
        build_index([scan(person(0)), scan(np.zeros((30, 30, 30)))])
    assert refusal.value.code == "E-UNJUDGED"


# --- a broken gate does not -----------------------------------------------------------------------------------------


def test_without_its_threshold_the_gate_misses_copies(index):
    open_gate = CopyGate(dataclasses.replace(index, thresholds=dict.fromkeys(index.thresholds, 1.0)))
    assert missed(open_gate, "noise") != []


def test_with_a_threshold_of_nothing_the_gate_stops_strangers(index):
    shut = CopyGate(dataclasses.replace(index, thresholds=dict.fromkeys(index.thresholds, 0.01)))
    assert alarmed(shut) != []


def test_a_permuted_index_lays_copies_at_the_wrong_door(index):
    permuted = CopyGate(dataclasses.replace(index, embeddings=np.roll(index.embeddings, 3, axis=0)))
    assert missed(permuted, "noise") != []


def test_an_index_of_shuffled_numbers_misses_copies(index):
    shuffled = np.random.default_rng(0).permuted(index.embeddings, axis=2)
    assert missed(CopyGate(dataclasses.replace(index, embeddings=shuffled)), "noise") != []


def test_without_the_mirror_a_flip_is_a_stranger(monkeypatch):
    embedding = Embedding.shipped()
    relief = relief_of(scan(person(0)), embedding.mean)
    known = embedding.embed(relief)[None]
    flipped = relief.mirrored
    assert embedding.likenesses(flipped, known)["embedding"] == pytest.approx(1)
    monkeypatch.setattr(Relief, "mirrored", property(lambda self: self))
    assert embedding.likenesses(flipped, known)["embedding"] < 0.3


# --- the index ------------------------------------------------------------------------------------------------------


def test_an_index_comes_back_and_is_the_same_file(index, tmp_path):
    path = index.save(tmp_path / "made" / "a.index.safetensors")
    again = Index.load(path)
    assert again.hashes == index.hashes
    assert again.thresholds == index.thresholds
    assert np.abs(again.embeddings - index.embeddings).max() < 1e-3
    assert again.sha256 == index.sha256
    assert again.save(tmp_path / "b.index.safetensors").read_bytes() == path.read_bytes()


def test_an_index_holds_no_scan(index, tmp_path):
    size = index.save(tmp_path / "a.index.safetensors").stat().st_size
    assert size < 2200 * len(PEOPLE) + 1024  # 1,024 numbers in half precision and a hash each, from 600,000 voxels
    assert index.hashes == tuple(hash_of(scan(person(number))) for number in PEOPLE)


@pytest.mark.parametrize(
    "damage", [lambda data: data[:100], lambda data: data.replace(b"hashes", b"hushes"), lambda data: b""]
)
def test_a_broken_index_is_refused(index, tmp_path, damage):
    path = index.save(tmp_path / "a.index.safetensors")
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(PriorError, match="E-INDEX"):
        Index.load(path)


def test_no_index_of_another_embedding_or_of_other_scans_is_used(index):
    with pytest.raises(PriorError, match="E-INDEX"):
        CopyGate(dataclasses.replace(index, embedding_sha256="0" * 64))
    with pytest.raises(PriorError, match=r"E-INDEX.*not in the index"):
        CopyGate(index, [scan(person(100))])
    with pytest.raises(PriorError, match=r"E-INDEX.*1 of 8"):
        CopyGate(index, [scan(person(0))])


def test_a_scan_that_stands_twenty_times_is_one_person(index):
    again = build_index([scan(person(number)) for number in PEOPLE] + [scan(person(2) * (2 + n)) for n in range(3)])
    assert again.calibration == {"scans": 11, "people": 8, "held_out": 0}
    assert again.thresholds == pytest.approx(dict(index.thresholds), abs=1e-3)
    assert missed(CopyGate(again), "elastic") == []


def test_few_people_get_the_thresholds_that_were_shipped():
    few = build_index([scan(person(0)), scan(person(1))])
    assert few.thresholds == pytest.approx(dict(Embedding.shipped().thresholds))


def test_a_threshold_of_few_people_is_drawn_to_the_shipped_one():
    from medidiff.gates.index import _threshold

    values = list(np.linspace(0.2, 0.3, 10))
    own, shipped = far_quantile(values), 0.37
    assert _threshold(values, [], None) == pytest.approx(min(own, 0.6))
    assert _threshold(values, [], shipped) == pytest.approx((10 * own + 20 * shipped) / 30)
    assert _threshold(values * 100, [], shipped) == pytest.approx(far_quantile(values * 100), abs=0.01)
    assert _threshold(values[:7], [], shipped) == shipped
    assert _threshold(values, [0.5], shipped) == 0.5
    assert _threshold(values, [0.9], shipped) == 0.6  # no higher than what counts as one person


def test_no_held_out_scan_is_flagged_by_the_index_that_it_calibrated(monkeypatch):
    def nearest(queries, known, vectors, network, *, apart=None):
        return {name: [0.55] if apart is None else [] for name in MEASURES}

    monkeypatch.setattr("medidiff.gates.index._nearest", nearest)
    index = build_index([scan(person(0)), scan(person(1))], held_out=[scan(person(100))])
    assert index.thresholds == dict.fromkeys(MEASURES, 0.55)
    assert max(Embedding.shipped().thresholds.values()) < 0.55


@pytest.mark.parametrize("kind", ["other units", "elastic"])
def test_a_held_out_scan_that_is_a_training_scan_is_refused(kind):
    """It would raise every threshold to what counts as one person, and copies that are less alike would pass."""
    copy = scan(COPIES[kind](person(0)))
    with pytest.raises(SettingsError, match=r"E-SHARED.*held-out scan 2 is like training scan 1"):
        build_index([scan(person(0)), scan(person(1))], held_out=[scan(person(100)), copy])


def test_the_quantile_is_that_of_a_gumbel_distribution_and_minds_no_odd_pair():
    values = np.random.default_rng(0).gumbel(0.2, 0.03, size=20_000)
    assert far_quantile(values, 0.01) == pytest.approx(np.quantile(values, 0.99), abs=0.005)
    assert far_quantile([*values[:24], 0.9], 0.01) == pytest.approx(far_quantile(values[:24], 0.01), abs=0.04)
    assert np.quantile([*values[:24], 0.9], 0.99) > 0.5  # what a plain quantile would have done


def test_a_broken_embedding_is_refused(tmp_path):
    with pytest.raises(PriorError, match="E-EMBEDDING"):
        Embedding.load(tmp_path / "none.json")
    (tmp_path / "odd.json").write_text('{"summary": "x"}')
    with pytest.raises(PriorError, match="E-EMBEDDING"):
        Embedding.load(tmp_path / "odd.json")


# --- a data set -----------------------------------------------------------------------------------------------------


def test_a_prior_that_knows_one_scan_by_heart_is_refused(gate):
    draws = [scan(0.9 * noisy(person(6), 0.05, seed) + 0.1 * person(seed)) for seed in range(3)]
    report = GateReport.of(gate, map(gate.check, draws))
    assert (report.flagged, report.passed) == (3, 0)
    assert report.refusal


def verdict(*, flagged: bool = False, judged: bool = True) -> Verdict:
    return Verdict(flagged, judged, 1, "embedding", 0.5, 0.4, "a reason")


def test_a_verdict_survives_json(gate):
    import json

    told = gate.check(scan(person(101)))
    assert Verdict.from_mapping(json.loads(json.dumps(told.to_mapping()))) == told
