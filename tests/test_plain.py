"""Refusals in a notebook: one line that names the notebook's setting, and the cells below do not run."""

import subprocess
import sys

import nbformat
import pytest

from medidiff.errors import InputError, MedidiffError
from medidiff.showing.plain import Refused, plainly

HERE = "Here --scan N is SERIES = N."


def refused(error, here=HERE):
    with pytest.raises(Refused) as caught, plainly(here):
        raise error
    return caught.value


def test_a_refusal_is_its_message_and_what_its_options_are_called_here():
    several = InputError("E-MULTISERIES", "2 scans", mend="Choose one with --scan N.")
    found = refused(several)
    assert str(found) == f"{several} {HERE}"
    assert found.__suppress_context__
    assert str(refused(several, "")) == str(several)
    missing = InputError("E-MISSING", "no such file", mend="Check the path.")
    assert str(refused(missing)) == str(missing)  # no option: nothing to translate


def test_a_refusal_without_an_option_says_what_else_to_change_here():
    shifted = InputError("E-SCALE", "whole regions below 0", mend="Give the scan as it was.")
    option = InputError("E-NOISELEVEL", "no tissue", mend="Give the level with --noise-level.")
    for error, more in ((shifted, "The scan is SCAN."), (option, HERE)):
        with pytest.raises(Refused) as caught, plainly(HERE, otherwise="The scan is SCAN."):
            raise error
        assert str(caught.value) == f"{error} {more}"


def test_what_is_no_refusal_is_left_alone():
    with plainly(HERE):
        kept = 1
    assert kept == 1
    with pytest.raises(ZeroDivisionError), plainly(HERE):
        kept / 0
    assert not issubclass(Refused, MedidiffError)


@pytest.mark.parametrize("plain", [True, False])
def test_a_notebook_shows_one_line_and_stops(plain, tmp_path):
    lines = ["import medidiff as md", "from medidiff.showing.plain import plainly"]
    read = "md.read('nowhere.nii')"
    cells = ["\n".join([*lines, f"with plainly():\n    {read}" if plain else read]), "print('went on')"]
    path = tmp_path / "n.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells]), path)
    run = subprocess.run(
        [sys.executable, "-c", "from nbclient.cli import main; main()", "--inplace", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode != 0
    assert "went on" not in run.stdout + run.stderr
    assert "E-MISSING" in run.stderr
    assert ("finding.py" in run.stderr) != plain  # a line of the traceback
