"""What each stage leaves out: planted losses of power are found in their shell, and none where nothing is lost."""

import importlib
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import fourier_gaussian

from medidiff.volume import Geometry, Volume

FOLDER = Path(__file__).resolve().parent.parent / "validation"


@pytest.fixture
def stage_power(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("stage_power")


def scan(seed: int) -> np.ndarray:
    """(40, 48, 40) noise inside a ball, air outside."""
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in (40, 48, 40)), indexing="ij")
    ball = sum(np.square(axis) for axis in axes) < 0.6
    return (ball * np.random.default_rng(seed).normal(0.5, 0.2, ball.shape)).astype(np.float32)


class Stages:
    """A cascade whose stages give back a real scan, blurred."""

    def __init__(self, *, blur: float):
        self.blur, self.device = blur, torch.device("cpu")

    def made(self, number):
        return np.fft.ifftn(fourier_gaussian(np.fft.fftn(scan(number)), self.blur)).real.astype(np.float32)

    def draw(self, request, number, *, seed):
        image = self.made(number).reshape(20, 2, 24, 2, 20, 2).mean(axis=(1, 3, 5))
        image = image.reshape(10, 2, 12, 2, 10, 2).mean(axis=(1, 3, 5))
        case = type("Case", (), {})()
        case.image = Volume(image[None], Geometry.regular(image.shape, spacing_mm=(4.0,) * 3), "MR")
        return case

    def refined(self, image, shape, *, stage, number, seed):
        assert tuple(2 * n for n in image.shape[-3:]) == shape
        made = torch.from_numpy(self.made(number))[None, None]
        return made if shape == (40, 48, 40) else torch.nn.functional.avg_pool3d(made, 2)


SCANS = [scan(number) for number in range(3)]


@pytest.mark.parametrize("stage", ["coarse", "middle", "fine"])
def test_a_stage_that_loses_nothing_lacks_nothing(stage_power, stage):
    found = stage_power.measured(Stages(blur=0.0), SCANS, stage, draws=3, seed=0)
    assert found.shape == (3, 4)
    np.testing.assert_allclose(found.mean(axis=0), 0.0, atol=0.1)


@pytest.mark.parametrize("stage", ["coarse", "middle", "fine"])
def test_a_blur_is_found_and_grows_with_frequency(stage_power, stage):
    stages = Stages(blur=1.0)
    lost = -stage_power.measured(stages, SCANS, stage, draws=3, seed=0).mean(axis=0)
    assert lost[-1] > lost[1] + 0.3
    assert lost[-1] > 0.5


def test_a_blur_costs_what_its_transfer_function_says(stage_power):
    lost = -stage_power.measured(Stages(blur=0.5), SCANS, "fine", draws=0, seed=0).mean(axis=0)
    frequency = 2 * np.pi * 0.5 * 0.9  # of the last shell, radians per mm
    assert lost[-1] == pytest.approx(10 * np.log10(np.exp((0.5 * frequency) ** 2)), rel=0.1)


def test_the_table_shows_every_stage_and_sampler(stage_power):
    rows = [stage_power.Row("fine", "heun", np.array([0.0, -0.1, -1.06, -2.98]), np.zeros(4), 2)]
    assert stage_power.table_of(rows).splitlines()[-1] == (
        "| fine | heun | +0.00 ± 0.00 | -0.10 ± 0.00 | -1.06 ± 0.00 | -2.98 ± 0.00 | 2 |"
    )
