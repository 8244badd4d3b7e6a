"""What is drawn where somebody can see it."""

from __future__ import annotations

import io
import sys
import time

import pytest

import medidiff.cli.screen as screens


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("json_wanted", "stream", "seen"), [(False, _Terminal, 1), (True, _Terminal, 0), (False, io.StringIO, 0)]
)
def test_a_bar_only_where_someone_can_see_it(json_wanted, stream, seen, monkeypatch):
    monkeypatch.setattr(screens, "_PATIENCE_SECONDS", 0.0)
    monkeypatch.setattr(sys, "stderr", stream())
    with screens.Screen(json_wanted).progress("counting sheep") as report:
        for done in range(3):
            report(done, 2)
            time.sleep(0.1)
    assert ("counting sheep" in sys.stderr.getvalue()) == bool(seen)


def test_a_table_is_plain_without_a_terminal(capsys):
    screens.Screen().table("title", ["name", "value"], [["a", "1"], ["b", "22"]])
    shown = capsys.readouterr().out
    assert shown.isascii()
    assert [line.split() for line in shown.splitlines()] == [["title"], ["name", "value"], ["a", "1"], ["b", "22"]]
