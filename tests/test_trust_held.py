"""What the scan says of an answer stands in its record, on the scan's grid and in the scan's units."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from small_prior import small_prior

from medidiff.errors import InputError
from medidiff.physics.seeing import seen_through
from medidiff.restore import denoise, superresolve
from medidiff.trust import Evidence, held
from medidiff.volume import Geometry, Provenance, Volume

LEVEL = 40.0
FINE = Geometry.regular((44, 40, 36), spacing_mm=(1.0, 1.0, 1.0))
THICK = FINE.with_spacing((1.0, 1.0, 3.0))


def ball(centre, diameter) -> np.ndarray:
    place = np.indices(FINE.shape) - np.array(centre)[:, None, None, None]
    return np.clip(diameter / 2 - np.sqrt(np.square(place).sum(0)) + 0.5, 0, 1).astype(np.float32)


def tensor(image) -> torch.Tensor:
    return torch.from_numpy(np.asarray(image, dtype=np.float32))[None, None]


def measured() -> tuple[torch.Tensor, torch.Tensor]:
    """A fine head, and its scan in thick slices."""
    head = tensor(900 * ball((21.5, 19.5, 17.5), 32))
    clean = seen_through(FINE, THICK)(head)
    rng = torch.Generator().manual_seed(3)
    noise = LEVEL * torch.randn(2, *clean.shape, generator=rng)
    return head, torch.hypot(clean + noise[0], noise[1])


def judged(answer, scan, **other):
    how = {name: other.pop(name) for name in ("measured", "air") if name in other}
    evidence = Evidence(scan, seen_through(FINE, THICK), level=LEVEL, rician=True, geometry=THICK, **how)
    return held(evidence, answer, **other)


def test_a_fine_answer_is_judged_as_its_thick_scan_sees_it() -> None:
    head, scan = measured()
    right = judged(head, scan)
    assert right.residual.shape == THICK.shape
    assert right.report.flags == ()
    place = (20, 24, 16)
    added = judged(head + 5 * LEVEL * tensor(ball(place, 6)), scan)
    assert [flag.kind for flag in added.report.flags] == ["added"]
    assert np.linalg.norm(np.array(added.report.flags[0].centre_mm) - FINE.world(place)) < 3
    worst = np.unravel_index(np.abs(added.residual).argmax(), THICK.shape)
    assert np.linalg.norm(THICK.world(worst) - FINE.world(place)) < 3
    assert added.residual[worst] < 0  # the answer is brighter


def test_the_report_is_in_the_units_of_the_scan() -> None:
    head, scan = measured()
    answer = head + 5 * LEVEL * tensor(ball((20, 24, 16), 6))
    plain, scaled = judged(answer, scan).report, judged(answer, scan, gain=1000.0).report
    assert scaled.level == 1000 * plain.level
    assert scaled.flags[0].amount == pytest.approx(1000 * plain.flags[0].amount)
    assert scaled.flags[0].z == plain.flags[0].z


@pytest.mark.parametrize("cut", [np.s_[:, :, 1:], np.s_[0], np.s_[:, :8], np.s_[..., ::3]])
def test_an_answer_of_another_shape_is_refused_and_named(cut) -> None:
    head, scan = measured()
    other = torch.cat([head] * 9, dim=1)[cut]
    for words in ((other, None), (head, other)):
        with pytest.raises(InputError, match="E-SHAPE") as refused:
            judged(words[0], scan, deviation=words[1])
        assert str(tuple(other.shape)) in str(refused.value)


def test_what_was_not_measured_is_not_held_against_anyone() -> None:
    head, scan = measured()
    place = (20, 24, 16)
    answer = head + 5 * LEVEL * tensor(ball(place, 6))
    measured_ = np.ones(THICK.shape, dtype=bool)
    measured_[12:29, 16:33] = False
    assert judged(answer, scan, measured=measured_).report.flags == ()
    nothing = judged(answer, scan, measured=np.zeros(THICK.shape, dtype=bool))
    assert nothing.record == {}
    assert "could not be read" in nothing.sentences[0]
    assert not nothing.residual.any()


def test_a_full_gpu_is_no_reason_to_say_nothing(monkeypatch) -> None:
    head, scan = measured()
    wanted = judged(head, scan)
    calls = []

    def full(*words, **others):
        calls.append(words)
        if len(calls) == 1:
            raise torch.OutOfMemoryError
        return real(*words, **others)

    from medidiff.trust import holding

    real = holding.examined
    monkeypatch.setattr(holding, "examined", full)
    assert judged(head, scan).report == wanted.report
    assert len(calls) == 2


@pytest.fixture(scope="module")
def restored():
    """A scan, and the answer of a prior that knows nothing."""
    head, _ = measured()
    scan = head[0, 0].numpy() + LEVEL * np.random.default_rng(0).normal(size=FINE.shape).astype(np.float32)
    volume = Volume(scan, FINE, "MR")
    return volume, denoise(volume, prior=small_prior(), noise="gaussian", noise_level=LEVEL, draws=2, steps=1)


def test_the_record_of_an_answer_says_what_its_scan_says(restored) -> None:
    scan, answer = restored
    told = answer.provenance.support
    assert told["level"] == pytest.approx(LEVEL)
    assert 0 <= told["outside"] <= 1
    assert {scale["diameter_mm"] for scale in told["scales"]} == {0.0, 3.0, 6.0, 12.0}
    assert answer.residual.geometry == scan.geometry
    peak = max(abs(scale["peak"]) for scale in told["scales"])
    assert float(np.abs(answer.residual.data).max()) == pytest.approx(peak, rel=1e-2)
    said = [s for s in answer.provenance.decisions if "over the tissue as a whole" in s]
    assert bool(said) is told["everywhere"] is True  # the answer of a prior that has learned nothing
    assert answer.answer.seen.places >= 1


def test_the_record_survives_and_older_ones_are_read(restored) -> None:
    record = restored[1].provenance
    assert Provenance.from_json(record.to_json()) == record
    older = json.loads(record.to_json())
    del older["support"]
    assert Provenance.from_json(json.dumps(older)) == dataclasses.replace(record, support={})


def test_super_resolution_is_held_against_its_slices() -> None:
    _, scan = measured()
    volume = Volume(scan[0, 0].numpy(), THICK, "MR")
    sharp = superresolve(volume, (1, 1, 1), prior=small_prior(), noise_level=LEVEL)
    assert sharp.residual.geometry == THICK
    assert sharp.provenance.support["voxels"] > 1000
    assert sharp.provenance.support["outside"] is None


def test_a_scan_quieter_than_the_prior_knows_is_judged_by_what_the_prior_was_told() -> None:
    """The prior takes its lowest level for noise, so an answer without that much is no contradiction."""
    prior = small_prior()
    low = prior.card.noise[0]
    head = 900 * ball((21.5, 19.5, 17.5), 32)
    rng = np.random.default_rng(0)
    quiet = np.hypot(head + rng.normal(0, 0.5, head.shape), rng.normal(0, 0.5, head.shape)).astype(np.float32)
    told, known = (
        denoise(Volume(quiet, FINE, "MR"), prior=prior, noise_level=level).provenance.support["level"]
        for level in (0.5, 60.0)
    )
    assert told == pytest.approx(low * 900, rel=0.1)
    assert known == pytest.approx(60, rel=1e-6)
