"""`medidiff synthesize` from the command line to a data set that verifies: gate, drops, restarts, refusals."""

from __future__ import annotations

import json
from multiprocessing import active_children

import numpy as np
import pytest
from test_synthesis import label_map
from whole_cases import QUICK, small_cascade

from medidiff import cli, io
from medidiff.cli import synthesize
from medidiff.export import open_stored, verify_data_set
from medidiff.gates import Verdict
from medidiff.synthesis import Cascade, Request

HASTE = ["--spacing", "4", "--device", "cpu"]
REASON = ["--without-gate", "a test of the command line"]


@pytest.fixture
def card(tmp_path):
    """The small cascade on disk."""
    cascade = small_cascade()
    folder = tmp_path / "priors"
    for prior in (cascade.coarse, *cascade.finer):
        prior.save(folder)
    return folder / "tiny-coarse.json"


@pytest.fixture(autouse=True)
def one_step(monkeypatch):
    monkeypatch.setattr(synthesize, "Cascade", lambda prior, device: Cascade(prior, device=device, effort=QUICK))


class Gate:
    """A gate that flags chosen cases, in the order in which it sees them."""

    by_voxels = False

    def __init__(self, flagged=()):
        self.flagged, self.seen = set(flagged), 0
        self.index = FakeIndex()

    def check(self, volume):
        flagged, self.seen = self.seen in self.flagged, self.seen + 1
        return Verdict(flagged, True, 1, "embedding", 0.9 if flagged else 0.1, 0.5, "")


class FakeIndex:
    sha256, hashes, thresholds, calibration = "0" * 64, ("1" * 64,), {"embedding": 0.5}, {}


@pytest.fixture
def gated(monkeypatch):
    def use(flagged=()):
        gate = Gate(flagged)
        monkeypatch.setattr(synthesize, "_index", lambda verb: gate.index)
        monkeypatch.setattr(synthesize, "CopyGate", lambda index, scans: gate)
        return gate

    return use


def tree(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def run(card, out, *more):
    return cli.main(["synthesize", str(out), "--prior", str(card), *HASTE, *more])


def test_what_passes_the_gate_becomes_a_data_set_that_verifies(card, tmp_path, gated, capsys):
    gated(flagged={1})
    assert run(card, tmp_path / "out", "--count", "25", "--age", "30", "--sex", "F", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["cases"], told["judged"], told["like_a_training_scan"]) == (25, 26, 1)
    verify_data_set(tmp_path / "out").refuse("out")
    stored = open_stored(tmp_path / "out")
    assert list(stored.numbers) == [0, *range(2, 26)]
    gates = stored.gates()
    assert gates["Holds"]
    assert gates["Report"]["flagged"] == 1
    case = next(iter(stored.cases([2])))
    assert dict(case.asked) == {"contrast": "T1w", "age": 30.0, "sex": "F"}
    assert not (tmp_path / "out.verdicts.jsonl").exists()


def test_a_killed_run_goes_on_and_ends_as_if_it_had_not_been(card, tmp_path, gated, monkeypatch):
    gated(flagged={0})
    assert run(card, tmp_path / "whole", "--count", "24") == 0
    gate = gated(flagged={0})
    draw = Cascade.draw

    def killed(self, request, number, **rest):
        if number == 9:
            raise KeyboardInterrupt
        return draw(self, request, number, **rest)

    monkeypatch.setattr(Cascade, "draw", killed)
    assert run(card, tmp_path / "killed", "--count", "24") == 130
    ledger = tmp_path / "killed.verdicts.jsonl"
    ledger.write_text(ledger.read_text() + '\n{"key": "torn')
    drawn = []
    monkeypatch.setattr(
        Cascade,
        "draw",
        lambda self, request, number, **rest: drawn.append(number) or draw(self, request, number, **rest),
    )
    assert run(card, tmp_path / "killed", "--count", "24") == 0
    assert drawn == list(range(9, 25))
    assert gate.seen == 25
    assert tree(tmp_path / "killed") == tree(tmp_path / "whole")


def test_a_set_of_copies_is_refused(card, tmp_path, gated, capsys):
    gated(flagged=range(100))
    assert run(card, tmp_path / "out", "--count", "8") == 5
    assert "E-COPIES" in capsys.readouterr().err
    assert not (tmp_path / "out" / "SHA256SUMS").exists()


def test_without_an_index_nothing_leaves_unless_somebody_says_why(card, tmp_path, capsys):
    assert run(card, tmp_path / "out", "--count", "1") == 5
    assert "E-NOINDEX" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert run(card, tmp_path / "out", "--count", "1", *REASON) == 0
    assert open_stored(tmp_path / "out").gates()["Report"]["override"] == REASON[1]


def test_the_same_seed_is_the_same_data_set_and_another_is_another(card, tmp_path):
    for name, seed in (("a", "3"), ("b", "3"), ("c", "4")):
        assert run(card, tmp_path / name, "--count", "2", "--seed", seed, *REASON) == 0
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    assert tree(tmp_path / "a") != tree(tmp_path / "c")


def test_a_map_and_another_format_go_through(card, tmp_path):
    io.write(label_map(), tmp_path / "map.nii.gz")
    more = ("--tissue", str(tmp_path / "map.nii.gz"), "--format", "nnunet", *REASON)
    assert run(card, tmp_path / "out", "--count", "1", "--spacing", "1", *more) == 0
    case = next(iter(open_stored(tmp_path / "out").cases([0])))
    assert np.array_equal(case.labels.data, label_map().data)


class DarkGate(Gate):
    """A gate that flags what is darker than most, whoever draws it and when."""

    def __init__(self, limit):
        super().__init__()
        self.limit = limit

    def check(self, volume):
        flagged = float(volume.data.mean()) < self.limit
        return Verdict(flagged, True, 1, "embedding", 0.9 if flagged else 0.1, 0.5, "")


def gated_by(monkeypatch, gate):
    monkeypatch.setattr(synthesize, "_index", lambda verb: gate.index)
    monkeypatch.setattr(synthesize, "CopyGate", lambda index, scans: gate)


def test_workers_change_no_byte_also_where_the_gate_drops_scans(card, tmp_path, monkeypatch, capsys):
    cascade, request = Cascade(card, device="cpu", effort=QUICK), Request(contrast="T1w", spacing_mm=4.0)
    means = [float(cascade.draw(request, n, seed=0).image.data.mean()) for n in range(24)]
    gated_by(monkeypatch, DarkGate(sum(sorted(means)[:2]) / 2))
    told = []
    for name, more in (("one", ()), ("two", ("--workers", "2", "--threads", "1"))):
        assert run(card, tmp_path / name, "--count", "24", "--json", *more) == 0
        told.append(json.loads(capsys.readouterr().out))
    assert told[0]["like_a_training_scan"] >= 1
    assert tree(tmp_path / "one") == tree(tmp_path / "two")


def test_a_worker_that_is_killed_ends_the_command_and_the_next_one_goes_on(card, tmp_path, monkeypatch, capsys):
    assert run(card, tmp_path / "whole", "--count", "6", *REASON) == 0
    put, before = synthesize._Ledger.put, set(active_children())

    def kill(self, number, verdict):
        put(self, number, verdict)
        for process in set(active_children()) - before:
            process.kill()

    monkeypatch.setattr(synthesize._Ledger, "put", kill)
    assert run(card, tmp_path / "killed", "--count", "6", "--workers", "2", *REASON) == 5
    assert "E-WORKERS" in capsys.readouterr().err
    assert not set(active_children()) - before
    assert run(card, tmp_path / "killed", "--count", "6", *REASON) == 0
    assert tree(tmp_path / "killed") == tree(tmp_path / "whole")


@pytest.mark.parametrize(
    ("more", "code"),
    [
        (["--age", "90"], "E-ASKED"),
        (["--contrast", "FLAIR"], "E-ASKED"),
        (["--count", "0"], "E-SETTING"),
        (["--workers", "0"], "E-SETTING"),
        (["--threads", "0"], "E-SETTING"),
        (["--field", "300", "300", "300"], "E-ASKED"),
    ],
)
def test_what_cannot_be_had_is_refused_before_anything_is_written(card, tmp_path, capsys, more, code):
    assert run(card, tmp_path / "out", *REASON, *more) == 2
    assert code in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_dry_run_writes_nothing(card, tmp_path, capsys):
    assert run(card, tmp_path / "out", "--count", "5", "--dry-run", "--json", *REASON) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["scans"], told["gate"]) == (5, "none")
    assert not (tmp_path / "out").exists()


def test_a_prior_that_is_not_there_is_refused(tmp_path, capsys):
    assert run(tmp_path / "none.json", tmp_path / "out", *REASON) == 6
    assert "E-PRIOR" in capsys.readouterr().err
