"""A server that is missing is never missed in silence."""

from __future__ import annotations

import pytest
from servers import TRIED, require

WHY = "slurm: no program slurmctld (Debian: slurm-wlm munge)"


@pytest.fixture
def says(monkeypatch, tmp_path):
    def put(why: str, tried: str | None) -> None:
        monkeypatch.setattr("servers._script", lambda *words: why if words == ("missing", "slurm") else "")
        monkeypatch.setattr("servers.MISSING", tmp_path / "missing")
        monkeypatch.delenv(TRIED, raising=False)
        if tried is not None:
            monkeypatch.setenv(TRIED, tried)

    return put


def test_one_that_is_there_is_used(says):
    says("", None)
    require("slurm")


@pytest.mark.parametrize("tried", [None, "", "orthanc: no program Orthanc"])
def test_one_that_nobody_tried_to_install_fails_the_test(says, tried):
    says(f"{WHY}\n", tried)
    with pytest.raises(pytest.fail.Exception, match=r"\.ci/servers install"):
        require("slurm")


def test_one_that_could_not_be_installed_is_skipped_with_the_reason(says):
    says(f"{WHY}\n", f"orthanc: no program Orthanc\n{WHY}")
    with pytest.raises(pytest.skip.Exception, match="slurmctld"):
        require("slurm")


@pytest.mark.parametrize(("kept", "outcome"), [(WHY, pytest.skip.Exception), ("orthanc: no", pytest.fail.Exception)])
def test_what_an_earlier_install_could_not_get_is_remembered(says, tmp_path, kept, outcome):
    says(f"{WHY}\n", None)
    (tmp_path / "missing").write_text(f"{kept}\n", encoding="utf-8")
    with pytest.raises(outcome, match="slurmctld"):
        require("slurm")
