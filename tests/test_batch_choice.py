"""How many workers of how many threads: as asked for, one for each GPU, or what the first cases say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from medidiff.batch.journal import Event, Tail
from medidiff.batch.status import Pace
from medidiff.cli import batch_choice
from medidiff.cli.batch_choice import chosen
from medidiff.cli.batch_input import Input
from medidiff.cli.batch_verbs import BatchDenoise

SINCE = 7


def verb(**how) -> BatchDenoise:
    return BatchDenoise(source=Input("in"), out=Path("out"), device="cpu", **how)


def choose(folder: Path, cases: int, seconds: tuple[float, float] = (1.0, 1.0), **how):
    """The choice where a case takes so long with all threads, and with one thread."""
    lines = [json.dumps(vars_of(Event("case", "done", "", each, 9.0))) for each in seconds]
    script = f"""[ "$OMP_NUM_THREADS" = 1 ] && line='{lines[1]}' || line='{lines[0]}'
    echo "$line" >> {folder}/{SINCE}-$$.jsonl"""
    pace, tail = Pace(cases), Tail(folder, SINCE)

    def watch(running: object) -> None:
        running.wait(0.01)
        pace.take(tail.new())

    return chosen(
        verb(**how), cases, command=["sh", "-c", script], logs=folder, watch=watch, tail=tail, pace=pace
    ), pace


def vars_of(event: Event) -> dict[str, object]:
    return {name: getattr(event, name) for name in event.__slots__}


@pytest.fixture(autouse=True)
def two_processors(monkeypatch):
    monkeypatch.setattr(batch_choice, "processors", lambda: 2)
    monkeypatch.setattr(batch_choice, "_memory", lambda: 2**40)


@pytest.mark.parametrize(
    ("seconds", "workers", "threads"),
    [((1.0, 3.0), 1, 2), ((1.0, 1.5), 2, 1)],  # two of 3 s are 1.5 s a case, two of 1.5 s are 0.75
)
def test_the_first_cases_say_what_is_faster(seconds, workers, threads, tmp_path):
    choice, pace = choose(tmp_path, 100, seconds)
    assert (choice.workers, choice.threads) == (workers, threads)
    assert f"{seconds[0]:.3g} s a case in one process of 2 threads" in choice.reason
    assert pace.settled == 3  # they are done with that


def test_what_is_asked_for_is_not_measured(tmp_path):
    choice, pace = choose(tmp_path, 100, workers=5)
    assert (choice.workers, choice.threads, pace.settled) == (5, 1, 0)
    assert choose(tmp_path, 100, threads=4)[0].threads == 4
    assert choose(tmp_path, 100, workers=1)[0].threads is None  # the command itself


def test_few_cases_little_memory_and_gpus_need_no_measurement(tmp_path, monkeypatch):
    choice, pace = choose(tmp_path, 15)
    assert (choice.workers, choice.threads, pace.settled) == (2, 1, 0)
    monkeypatch.setattr(batch_choice, "_memory", lambda: 5 * 2**30)
    assert choose(tmp_path, 100)[0].workers == 1
    monkeypatch.setattr(batch_choice, "_gpus", lambda verb: 3)
    choice, _ = choose(tmp_path, 100)
    assert (choice.workers, choice.gpus) == (3, 3)
    assert choose(tmp_path, 2)[0].workers == 2


def test_where_nothing_was_computed_one_thread_each_is_taken(tmp_path):
    pace, tail = Pace(100), Tail(tmp_path, SINCE)

    def watch(running: object) -> None:
        running.wait(0.01)

    choice = chosen(verb(), 100, command=["true"], logs=tmp_path, watch=watch, tail=tail, pace=pace)
    assert (choice.workers, choice.threads) == (2, 1)
    assert "nothing was computed" in choice.reason
