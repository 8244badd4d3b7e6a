"""When a set of invented scans may leave."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from medidiff.errors import OutputError
from medidiff.gates import MEASURES, GateReport, Verdict, require_index
from medidiff.gates.thresholds import LARGEST_SHARE, LEVEL, too_many

GATE = SimpleNamespace(
    index=SimpleNamespace(
        sha256="0" * 64, hashes=("1" * 64,), thresholds=dict.fromkeys(MEASURES, 0.4), calibration={"scans": 1}
    ),
    by_voxels=False,
)


def verdicts(passed: int, flagged: int = 0, unjudged: int = 0) -> list[Verdict]:
    def one(*, flagged: bool, judged: bool) -> Verdict:
        return Verdict(flagged, judged, 1, "embedding", 0.5, 0.4, "a reason")

    return (
        [one(flagged=False, judged=True)] * passed
        + [one(flagged=True, judged=True)] * flagged
        + [one(flagged=False, judged=False)] * unjudged
    )


def report(*counts: int, override: str = "") -> GateReport:
    return GateReport.of(GATE, verdicts(*counts), override=override)


@pytest.mark.parametrize("counts", [(20,), (188, 12), (180, 20), (97, 3), (5, 1), (1, 0, 5)])
def test_a_set_with_no_more_alarms_than_chance_leaves(counts):
    report(*counts).require()


@pytest.mark.parametrize("counts", [(179, 21), (0, 3), (6, 4), (50, 50), (0, 1), (0, 0, 4), (0,)])
def test_a_set_with_more_does_not(counts):
    with pytest.raises(OutputError, match="E-COPIES"):
        report(*counts).require()


def test_the_limit_is_where_false_alarms_end():
    """At most one honest set of a hundred is refused, whatever its size."""
    from scipy import stats

    for n in (1, 3, 10, 50, 200, 1000):
        limit = next(k for k in range(n + 2) if k > n or too_many(k, n))
        assert stats.binom.sf(limit - 1, n, LARGEST_SHARE) < LEVEL
        assert limit > LARGEST_SHARE * n
    assert not too_many(0, 0)


def test_an_override_is_recorded_and_what_it_overrode_too():
    told = report(0, 5, override="shown to the data protection officer")
    told.require()
    record = json.loads(json.dumps(told.to_mapping()))
    assert record["override"] == "shown to the data protection officer"
    assert record["refusal"] == "5 of 5 samples are like a training scan"
    with pytest.raises(OutputError, match="E-COPIES"):
        report(0, 5, override="  ").require()


def test_without_an_index_nothing_leaves_unless_somebody_says_why():
    require_index(object())
    with pytest.raises(OutputError, match="E-NOINDEX"):
        require_index(None)
    with pytest.raises(OutputError, match="E-NOINDEX"):
        GateReport.without_index(3, override="")
    told = GateReport.without_index(3, override="trained on phantoms")
    told.require()
    assert told.refusal == "no index of the training scans"
    assert told.to_mapping()["checked"] == 0
    with pytest.raises(OutputError, match="E-NOINDEX"):
        GateReport(1, 0, 0).require()


def test_the_record_counts_what_was_dropped():
    record = json.loads(json.dumps(report(7, 1, 2).to_mapping()))
    assert (record["checked"], record["flagged"], record["unjudged"]) == (10, 1, 2)
    assert (record["dropped"], record["passed"]) == (3, 7)
    assert len(record["verdicts"]) == 10
    assert record["index_sha256"] == "0" * 64
    assert set(record["thresholds"]) == set(MEASURES)
