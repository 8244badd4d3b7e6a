"""A watch on an archive in memory: each study once, when settled; handed on at least once, whatever is killed."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

import medidiff.cli as cli
import medidiff.pacs.watch as watch_module
from medidiff.errors import InputError, OutputError, SettingsError
from medidiff.pacs import Handing, Rules, Wanted, Watch
from medidiff.pacs.instances import describe
from medidiff.pacs.state import Entry, State
from tests.pacs_cases import HASTY, Shelf, failing, study_of

WANTED = Wanted(dates="20200101-")


class Killed(BaseException):
    """As SIGKILL: nothing after it runs."""


class Bench:
    """A watch on a shelf, with a clock that only the test moves, and a state that can be opened again."""

    def __init__(self, folder, shelf: Shelf) -> None:
        self.folder, self.shelf, self.now, self.handed = folder / "tree", shelf, 1000.0, []
        self.folder.mkdir()

    def look(self, *, settle: float = 0.0, hand=None, new_only: bool = False, failures: int = 5):
        """One look of a watch that was just started."""
        state = State(self.folder / "state.jsonl")
        try:
            taken = hand or (lambda path: self.handed.append(path.name))
            rules = Rules(HASTY, taken, settle_seconds=settle, most_failures=failures, clock=lambda: self.now)
            watch = Watch(self.shelf, WANTED, self.folder, state, rules)
            if new_only:
                watch.pass_over()
            return watch.poll()
        finally:
            state.close()


@pytest.fixture
def files(tmp_path):
    return study_of(tmp_path / "in", slices=3)


@pytest.fixture
def bench(files, tmp_path):
    return Bench(tmp_path, Shelf(files))


def test_a_study_is_pulled_and_handed_on_once(bench, files, tmp_path):
    uid = describe(files[0], name="x").study
    assert [each.folder.name for each in bench.look().handed] == [uid]
    for _ in range(3):
        assert bench.look().handed == []
    assert bench.handed == [uid]
    for file in study_of(tmp_path / "second", slices=1):
        bench.shelf.add(file)
    bench.look()
    assert len(bench.handed) == 2


def test_a_study_that_still_grows_is_left_to_settle(bench, files, tmp_path):
    bench.shelf = Shelf(files[:1])
    assert bench.look(settle=60).waiting == 1
    bench.now += 59
    assert bench.look(settle=60).waiting == 1
    bench.shelf.add(files[1])
    bench.now += 59
    assert bench.look(settle=60).waiting == 1  # it has grown: the time begins anew
    bench.now += 61
    polled = bench.look(settle=60)
    assert polled.handed[0].instances == 2


def test_an_archive_that_does_not_count_is_counted(bench, monkeypatch):
    studies = bench.shelf.studies
    monkeypatch.setattr(bench.shelf, "studies", lambda wanted: [type(s)(s.uid) for s in studies(wanted)])
    bench.look(settle=60)
    bench.now += 61
    assert len(bench.look(settle=60).handed) == 1


def test_what_is_there_already_can_be_left_aside(bench, tmp_path):
    assert bench.look(new_only=True).handed == []
    for file in study_of(tmp_path / "second", slices=1):
        bench.shelf.add(file)
    assert len(bench.look(new_only=True).handed) == 1  # the second start passes nothing over
    assert len(bench.handed) == 1


@pytest.mark.parametrize("moment", ["before the pull", "in the pull", "in the command", "after the command"])
def test_a_watch_that_is_killed_hands_on_at_least_once(moment, bench, files, monkeypatch):
    ran: list[str] = []
    kill = [True]

    def trouble(method: str) -> None:
        if method == {"before the pull": "series", "in the pull": "sent"}.get(moment) and kill[0]:
            raise Killed

    def hand(path) -> None:
        assert len(list(path.rglob("*.dcm"))) == 3
        if moment == "in the command" and kill[0]:
            raise Killed
        ran.append(path.name)

    bench.shelf.trouble = trouble
    if moment == "after the command":
        put = State.put

        def die(self, entry: Entry) -> None:
            if entry.step == "handed" and kill[0]:
                raise Killed
            put(self, entry)

        monkeypatch.setattr(State, "put", die)
    with pytest.raises(Killed):
        bench.look(hand=hand)
    kill[0] = False
    bench.look(hand=hand)
    bench.look(hand=hand)
    assert len(ran) == (2 if moment == "after the command" else 1)
    fetched = bench.shelf.asked.count("fetch")
    assert fetched == (2 if moment == "in the pull" else 1)


def test_a_study_that_comes_partly_is_not_handed_on(bench, files):
    bench.shelf.lost = {describe(files[1], name="x").uid}
    polled = bench.look()
    assert [error.code for error in polled.failed] == ["E-PACS-WARNING"]
    assert bench.handed == []
    bench.shelf.lost = set()
    assert len(bench.look().handed) == 1


def test_a_study_that_fails_too_often_is_left_alone(bench, files):
    bench.shelf.lost = {describe(files[1], name="x").uid}
    for _ in range(3):
        bench.look(failures=3)
    asked = len(bench.shelf.asked)
    polled = bench.look(failures=3)
    assert (polled.left, polled.failed) == (1, [])
    assert bench.shelf.asked[asked:] == ["studies"]


def test_a_command_that_fails_gets_the_study_again_without_a_second_pull(bench):
    codes = [3, 0]

    def hand(path) -> None:
        Handing.parse(f"{sys.executable} -c 'import sys; sys.exit({codes.pop(0)})'")(path)

    assert [error.code for error in bench.look(hand=hand).failed] == ["E-PACS-COMMAND"]
    assert len(bench.look(hand=hand).handed) == 1
    assert bench.shelf.asked.count("fetch") == 1


def test_a_fault_that_passes_does_not_end_a_watch_and_another_does(bench):
    bench.shelf.trouble = failing("E-PACS-REACH", times=3, method="fetch")
    with pytest.raises(InputError, match="E-PACS-REACH"):
        _all(bench, failing("E-PACS-REACH", times=9, method="studies"))
    bench.shelf.trouble = failing("E-PACS-TIMEOUT", times=3)
    assert [error.code for error in bench.look().failed] == ["E-PACS-TIMEOUT"]
    bench.shelf.trouble = failing("E-PACS-LOGIN")
    with pytest.raises(InputError, match="E-PACS-LOGIN"):
        bench.look()
    bench.shelf.trouble = lambda method: None
    assert len(bench.look().handed) == 1


def _all(bench, trouble) -> None:
    bench.shelf.trouble = trouble
    bench.look()


def test_a_command_is_run_without_a_shell(tmp_path, capfd):
    script = "import sys; print(sys.argv[1:])"
    folder = tmp_path / "1.2.3; echo no"
    Handing.parse(f'{sys.executable} -c "{script}" --in={{study}} "a b"')(folder)
    out, err = capfd.readouterr()
    assert out == ""
    assert err.strip() == str([f"--in={folder}", "a b"])
    assert Handing.parse("program").words == ("program", "{study}")


def test_a_command_that_takes_too_long_is_ended_with_all_that_it_started(tmp_path):
    script = tmp_path / "slow.sh"
    script.write_text(f"sleep 300 & echo $! >{tmp_path}/child; wait\n")
    with pytest.raises(OutputError, match="did not end within"):
        Handing.parse(f"sh {script}", limit_seconds=0.5)(tmp_path)
    child = int((tmp_path / "child").read_text())
    end = time.monotonic() + 30
    while Path(f"/proc/{child}").exists() and _state(child) != "Z":
        assert time.monotonic() < end, "what the command had started lives on"
        time.sleep(0.02)


def _state(process: int) -> str:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"


def test_a_command_that_does_not_listen_is_ended_all_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(watch_module, "_GRACE_SECONDS", 0.3)
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(300)"
    with pytest.raises(OutputError, match="E-PACS-COMMAND"):
        Handing.parse(f'{sys.executable} -c "{deaf}"', limit_seconds=1.0)(tmp_path)


def test_an_interrupted_watch_takes_its_command_with_it(tmp_path, monkeypatch):
    ended: list[int] = []

    def interrupted(self, timeout=None):
        if not ended:
            ended.append(self.pid)
            raise KeyboardInterrupt
        return original(self, timeout)

    original = subprocess.Popen.wait
    monkeypatch.setattr(subprocess.Popen, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Handing.parse("sleep 300")(tmp_path)
    assert not Path(f"/proc/{ended[0]}").exists()


def test_the_limit_is_an_option_of_the_watch(tmp_path, monkeypatch, capsys):
    limits: list[float | None] = []
    monkeypatch.setattr(Handing, "__call__", lambda self, folder: limits.append(self.limit_seconds))
    monkeypatch.setattr("medidiff.cli.pacs.open_archive", lambda node: Shelf(study_of(tmp_path / "in", slices=1)))
    words = [
        "pacs",
        "watch",
        "A@127.0.0.1:1",
        str(tmp_path / "tree"),
        "--modality",
        "MR",
        "--looks",
        "1",
        "--settle",
        "0",
    ]
    for number, extra in enumerate(([], ["--run-limit", "7"], ["--run-limit", "0"])):
        words[3] = str(tmp_path / f"tree-{number}")
        assert cli.main([*words, "--run", "true", *extra]) == 0
    assert limits == [14_400.0, 7.0, None]
    assert cli.main([*words, "--run", "true", "--run-limit", "-1"]) == 2
    assert "--run-limit" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "  ", "'unclosed"])
def test_a_command_that_is_none(text):
    with pytest.raises(SettingsError, match="E-SETTING"):
        Handing.parse(text)


def test_a_command_that_cannot_be_started(tmp_path):
    with pytest.raises(OutputError, match="E-PACS-COMMAND"):
        Handing.parse(str(tmp_path / "nothing"))(tmp_path)
