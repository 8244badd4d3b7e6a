"""Leases: one holder at a time, and exactly one heir of a dead one."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import time
import warnings
from pathlib import Path

import pytest

from medidiff.batch import leases as module
from medidiff.batch.host import Holder
from medidiff.batch.leases import Leases
from medidiff.errors import OutputError
from tests.batch_cases import ended, forked, killed


def take_and_die(folder: Path, case: str = "case-1") -> None:
    """A process takes a case and is killed before it gives it back."""
    ready = folder / "ready"

    def hold() -> None:
        assert Leases(folder).take(case) is not None
        ready.touch()
        time.sleep(60)

    process = forked(hold)
    while not ready.exists():
        assert os.waitpid(process, os.WNOHANG) == (0, 0), "it could not take the case"
        time.sleep(0.005)
    ready.unlink()
    killed(process)


def written(folder: Path, case: str = "case-1", **changed) -> Path:
    """The lease of a process that never was here, or has other traits."""
    lease = Leases(folder).take(case)
    fields = json.loads(lease.path.read_text()) | changed
    lease.path.write_text(json.dumps(fields))
    return lease.path


def grow_old(path: Path, seconds: float) -> None:
    then = path.stat().st_mtime - seconds
    os.utime(path, (then, then))


def test_a_case_has_one_holder_until_it_is_given_back(tmp_path):
    mine, theirs = Leases(tmp_path), Leases(tmp_path)
    lease = mine.take("case-1")
    assert theirs.take("case-1") is None
    assert theirs.take("case-2") is not None
    assert mine.held() == 2
    lease.release()
    again = theirs.take("case-1")
    assert again is not None
    assert again.deaths == 0
    again.release()
    assert mine.held() == 1


def test_nothing_is_left_when_all_is_given_back(tmp_path):
    take_and_die(tmp_path)
    lease = Leases(tmp_path).take("case-1")
    lease.release()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_the_case_of_a_killed_process_is_taken_at_once_and_its_deaths_are_counted(tmp_path):
    for _ in range(3):
        take_and_die(tmp_path)
        assert Leases(tmp_path).take("case-1", from_the_dead=False) is None
    lease = Leases(tmp_path).take("case-1")
    assert lease.deaths == 3
    assert Leases(tmp_path).held() == 1


def test_a_process_that_is_dead_but_not_buried_is_dead(tmp_path):
    process = forked(lambda: Leases(tmp_path).take("case-1"))
    while Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
        time.sleep(0.005)
    lease = Leases(tmp_path).take("case-1")
    assert lease is not None
    assert lease.deaths == 1
    assert ended(process) == 0


def test_a_process_number_that_was_given_anew_is_another_process(tmp_path):
    path = written(tmp_path, started=Holder.here().started - 1)
    assert Leases(tmp_path).take("case-1").deaths == 1
    assert path.exists()  # the chain begins with it


def test_another_machines_lease_is_dead_when_nobody_touches_it(tmp_path):
    path = written(tmp_path, machine="elsewhere", process=1)
    assert Leases(tmp_path, limit_s=100).take("case-1") is None
    grow_old(path, 90)
    assert Leases(tmp_path, limit_s=100).take("case-1") is None
    grow_old(path, 20)
    assert Leases(tmp_path, limit_s=100).take("case-1").deaths == 1


def test_a_living_process_of_this_machine_is_never_dead(tmp_path):
    path = written(tmp_path)
    grow_old(path, 10_000)
    assert Leases(tmp_path, limit_s=100).take("case-1") is None


def test_a_beat_keeps_a_lease_young(tmp_path):
    lease = Leases(tmp_path).take("case-1")
    grow_old(lease.path, 500)
    before = lease.path.stat().st_mtime
    lease.beat()
    assert lease.path.stat().st_mtime > before + 400
    lease.path.unlink()
    lease.beat()  # of one that is gone: nothing happens
    assert not lease.path.exists()


NO_LEASES = (
    *("", "{", '{"token": "x"}', "[1]", "[" * 4096, "\0\1"),
    '{"token": "x", "machine": "m", "process": 1e999, "started": 1}',
    '{"token": "../../x", "machine": "m", "process": 1, "started": 1}',
    json.dumps({"token": "x" * 300, "machine": "m", "process": 1, "started": 1}),
    json.dumps({"token": "x", "machine": Holder.here().machine, "process": 0, "started": 1}),
    json.dumps({"token": "x", "machine": Holder.here().machine, "process": -1, "started": 1}),
)


@pytest.mark.parametrize("text", NO_LEASES, ids=range(len(NO_LEASES)))
def test_a_lease_that_was_cut_is_dead_only_when_it_is_old(text, tmp_path):
    path = written(tmp_path)
    path.write_text(text)
    assert Leases(tmp_path, limit_s=100).take("case-1") is None
    grow_old(path, 200)
    assert Leases(tmp_path, limit_s=100).take("case-1").deaths == 1


def make_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def make_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


def make_secret(path: Path) -> None:
    path.chmod(0)


@pytest.mark.parametrize("make", [make_folder, make_link, make_secret])
def test_what_cannot_be_opened_in_the_place_of_a_lease_keeps_nobody_waiting_for_ever(make, tmp_path, monkeypatch):
    path = written(tmp_path, machine="elsewhere")
    make(path)
    open_ = Path.open

    def opened(place: Path, *args, **more):  # whoever runs as root may read everything
        if place.exists() and not place.stat().st_mode & 0o777:
            raise PermissionError(13, "Permission denied")
        return open_(place, *args, **more)

    monkeypatch.setattr(Path, "open", opened)
    assert Leases(tmp_path, limit_s=100).take("case-1") is None
    os.utime(path, (1, 1), follow_symlinks=False)
    lease = Leases(tmp_path, limit_s=100).take("case-1")
    assert lease.deaths == 1
    lease.release()


def test_a_lease_from_the_future_is_dead_when_it_was_not_touched_while_it_was_watched(tmp_path):
    path = written(tmp_path, machine="elsewhere", process=1)
    leases = Leases(tmp_path, limit_s=0.2)
    until = time.monotonic() + 0.6
    future = 10_000.0
    while time.monotonic() < until:  # its holder lives, and its clock is wrong
        grow_old(path, -future)
        future = 1.0
        assert leases.take("case-1") is None
        time.sleep(0.02)
    until = time.monotonic() + 20
    while (lease := leases.take("case-1")) is None:
        assert time.monotonic() < until, "it is waited for until its time has come"
        time.sleep(0.02)
    assert lease.deaths == 1


def test_one_who_was_taken_for_dead_does_not_give_back_what_is_anothers(tmp_path):
    slow = Leases(tmp_path).take("case-1")
    fields = json.loads(slow.path.read_text())
    slow.path.write_text(json.dumps(fields | {"machine": "elsewhere"}))
    grow_old(slow.path, 1000)
    heir = Leases(tmp_path).take("case-1")
    assert slow.is_lost()
    slow.release()
    assert Leases(tmp_path).take("case-1") is None
    heir.release()
    assert Leases(tmp_path).take("case-1") is not None


def test_without_links_a_lease_is_still_made_once(tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(1, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    assert Leases(tmp_path).take("case-1") is not None
    assert Leases(tmp_path).take("case-1") is None


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="E-OUT"):
        Leases(tmp_path / "file").take("case-1")


def test_what_is_left_of_a_chain_without_a_beginning_is_swept(tmp_path):
    take_and_die(tmp_path)
    take_and_die(tmp_path)
    heirs = sorted(tmp_path.rglob("*.lease"), key=lambda path: len(path.name))
    heirs[0].unlink()  # killed between the two, while it gave the case back
    living = Leases(tmp_path).take("case-2")
    Leases(tmp_path).sweep()
    assert list(tmp_path.rglob("*.lease")) == [living.path]


# --- exactly one heir -----------------------------------------------------------------------------------------------


def racing(take: object, folder: Path, monkeypatch) -> list[object]:
    """Two find the same dead lease; the second takes it just before the first does. Who holds the case."""
    path = written(folder, machine="elsewhere", process=1)
    grow_old(path, 1000)
    holders: list[object] = []
    made, first = module._made, [True]

    def interrupted(own: Path, place: Path) -> bool:
        if first[0]:
            first[0] = False
            holders.append(take(Leases(folder)))
        return made(own, place)

    monkeypatch.setattr(module, "_made", interrupted)
    holders.append(take(Leases(folder)))
    return [lease for lease in holders if lease is not None]


def careless(leases: Leases) -> object:
    """A broken instance: whoever finds a dead lease removes it and makes a new one."""
    root = leases.folder / module.shard("case-1") / "case-1.lease"
    own = root.with_name(f"own-{id(leases)}")
    token = os.urandom(8).hex()
    own.write_text(json.dumps({"token": token} | dataclasses.asdict(Holder.here())))
    if not leases._is_dead(module._chain(root)[-1], own.stat().st_mtime):
        return None
    module._made(own, root.with_name(f"moment-{token}"))  # the moment in which the other one is faster
    root.unlink()
    return token if module._made(own, root) else None


def test_of_two_that_find_a_dead_lease_one_gets_the_case(tmp_path, monkeypatch):
    assert len(racing(lambda leases: leases.take("case-1"), tmp_path, monkeypatch)) == 1


def test_removing_a_dead_lease_would_give_the_case_to_both(tmp_path, monkeypatch):
    assert len(racing(careless, tmp_path, monkeypatch)) == 2


def _race(number: int, folder: Path, barrier: object, wins: object, rounds: int) -> None:
    for turn in range(rounds):
        barrier.wait()
        lease = Leases(folder).take(f"case-{turn}")
        if lease is not None:
            wins[turn] += 1
        barrier.wait()  # held until all have tried
        if lease is not None and turn % 2:
            lease.release()


def test_of_eight_processes_one_gets_each_dead_case(tmp_path):
    rounds, processes = 20, 8
    for turn in range(rounds):
        path = written(tmp_path, f"case-{turn}", process=2**22 - 1, started=1)
        assert path.exists()
    context = multiprocessing.get_context("fork")
    barrier, wins = context.Barrier(processes), context.Array("i", rounds)
    crew = [context.Process(target=_race, args=(n, tmp_path, barrier, wins, rounds)) for n in range(processes)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        for each in crew:
            each.start()
    for each in crew:
        each.join()
    assert [each.exitcode for each in crew] == [0] * processes
    assert list(wins) == [1] * rounds
