"""The command that measures variants: what it counts, and what it calls an error."""

import importlib
from pathlib import Path

import numpy as np
import pytest
from small_prior import small_prior

from medidiff.volume import Geometry, Volume

FOLDER = Path(__file__).resolve().parent.parent / "validation"


@pytest.fixture
def command(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("augmentation")


@pytest.fixture
def clean(command):
    image, labels = command.head((32, 34, 36))
    return command.Truth(image, labels > 0, Geometry.regular(image.shape))


def test_every_kind_is_measured_and_a_prior_costs_most(command, clean):
    settings = {"prior": small_prior(), "cases": [command.invented((16, 16, 16))], "tissue_maximum": 1.0}
    found = command.costs(Volume(clean.image, clean.geometry, "MR"), settings, variants=1)
    assert len(found) == 4
    assert min(found.values()) > 0
    assert found["restored, the plan of restore"] > found["degraded"]


def test_the_first_call_is_not_counted(command):
    import time

    def call(number):
        end = time.process_time() + (0.2 if number == 0 else 0.01)
        while time.process_time() < end:
            pass

    assert command.seconds(call, 3) == pytest.approx(0.01, abs=0.02)


def test_an_error_is_that_of_the_tissue_in_percent(command, clean, monkeypatch):
    class Exact:
        image = None

    def scan_again(x, *_, **__):
        Exact.image = x + 0.05
        return Exact

    numbers = iter(np.tile([0.03, -0.03], 100))
    monkeypatch.setattr(command, "scan_again", scan_again)
    monkeypatch.setattr(command, "drawn", lambda scanned, *_, **__: scanned.image - 0.05 + next(numbers))
    found = command.errors(clean, small_prior(), variants=2)
    assert found["degraded"] == pytest.approx(5, rel=1e-3)
    assert found["draw"] == pytest.approx(3, rel=1e-3)
    assert found["draw: spread"] == pytest.approx(3 * 2**0.5, rel=1e-3)


def test_sides_too_small_for_a_head_are_refused(command):
    assert command.main(["--sides", "16"]) == 2
