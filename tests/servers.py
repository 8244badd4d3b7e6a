"""Servers that tests talk to: started by `.ci/servers` on loopback, and never missed in silence."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / ".ci" / "servers"
TRIED = "MEDIDIFF_WITHOUT_SERVERS"  # set by .ci/run: what it could not install, in the script's words
MISSING = SCRIPT.with_name("missing")  # the same, kept by `.ci/servers install`


def require(name: str) -> None:
    """Skip where `.ci/servers install` has tried to install this server and could not; fail where nobody has tried."""
    why = _script("missing", name).strip()
    if not why:
        return
    kept = MISSING.read_text("utf-8") if MISSING.is_file() else ""
    if why in os.environ.get(TRIED, kept):
        pytest.skip(f"could not be installed: {why}")
    pytest.fail(f"{why}. Run: bash .ci/servers install (or set {TRIED}='{why}' to go without)", pytrace=False)


@contextmanager
def serving(name: str, folder: Path) -> Iterator[dict[str, str]]:
    """Run a server in a folder; yields the environment of its clients."""
    require(name)
    _script("start", name, str(folder))
    try:
        yield dict(line.split("=", 1) for line in (folder / "env").read_text("utf-8").splitlines())
    finally:
        _script("stop", str(folder))


def _script(*words: str) -> str:
    done = subprocess.run(["bash", str(SCRIPT), *words], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, f"{words}: {done.stderr}"
    return done.stdout
