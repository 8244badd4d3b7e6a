"""Laws of where a draw starts: the state must hold as much noise as its level says, and no less than it admits."""

from __future__ import annotations

import math

import pytest
import torch
from gaussian import MEAN, SPREAD, clean_images, exact, is_a_state_at

from medidiff.diffusion import Condition, bridge, diffuse, from_noise, generators_for, heun, informed, karras

START = 1.5


def test_a_bridge_adds_the_noise_that_the_measurement_lacks(generator):
    clean = clean_images(generator)
    y = clean + 0.9 * torch.randn(clean.shape, dtype=torch.float64, generator=generator)
    seen = Condition(y, torch.tensor(1.0), torch.tensor(0.9))
    is_a_state_at(START, bridge(seen, START, generators_for(1, range(2))), clean)
    unaware = Condition(y, torch.tensor(1.0), torch.tensor(0.0))
    with pytest.raises(AssertionError):
        is_a_state_at(START, bridge(unaware, START, generators_for(1, range(2))), clean)


def test_a_bridge_below_the_measurement_is_the_measurement(generator):
    clean = clean_images(generator)
    seen = Condition(clean, torch.tensor(1.0), torch.tensor(0.9))
    assert torch.equal(bridge(seen, 0.5, generators_for(1, range(2))), clean)


def test_a_bridge_from_nothing_starts_from_noise_and_detail(generator):
    nothing = Condition.null(clean_images(generator))
    x = bridge(nothing, START, generators_for(1, range(2)), sigma_detail=SPREAD)
    assert x.std().item() == pytest.approx(math.hypot(START, SPREAD), rel=0.02)
    without = bridge(nothing, START, generators_for(1, range(2)))
    assert torch.equal(without, from_noise(x.shape, START, generators_for(1, range(2)), dtype=torch.float64))


def test_a_bridge_knows_certain_voxels_from_uncertain_ones(generator):
    certainty = torch.tensor([1.0, 0.25, 0.0]).reshape(1, 1, 3, 1, 1)
    seen = Condition(torch.zeros(1, 1, 3, 200, 200), certainty, torch.tensor(0.6))
    x = bridge(seen, 1.0, generators_for(1, [0]), sigma_detail=SPREAD)
    wanted = [math.sqrt(1 - 0.36), math.sqrt(1 - 0.36 + 0.75 * SPREAD**2), math.sqrt(1 + SPREAD**2)]
    assert x.std(dim=(0, 1, 3, 4)).tolist() == pytest.approx(wanted, rel=0.02)


def test_an_informed_start_is_too_narrow_by_the_factor_it_names():
    grid = karras(64, 0.002, START)
    mean = torch.full((4, 1, 20, 20, 20), MEAN)
    draws = heun(exact, informed(mean, grid[0], generators_for(3, range(4))), grid)
    factor = START / math.hypot(START, SPREAD)
    assert draws.mean().item() == pytest.approx(MEAN, abs=0.01)
    assert draws.std().item() == pytest.approx(SPREAD * factor, rel=0.02)
    assert draws.std().item() != pytest.approx(SPREAD, rel=0.02)


def test_starts_at_infinity_tell_nothing(generator):
    clean = clean_images(generator)
    for x in (
        informed(clean, math.inf, generators_for(0, range(2))),
        bridge(Condition(clean, torch.tensor(1.0), torch.tensor(0.1)), math.inf, generators_for(0, range(2))),
        diffuse(clean, torch.tensor(math.inf), generator),
    ):
        assert torch.equal(x, torch.zeros_like(clean))
