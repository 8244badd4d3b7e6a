"""Turning shows a denoiser the worst resolved axis last, and changes nothing else."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch

from medidiff.diffusion import Condition, Turned, worst_last
from medidiff.errors import SettingsError
from medidiff.physics import identity, nothing, resample, slices

SHAPE = (4, 6, 8)
ORDERS = list(permutations(range(3)))


def lopsided(x, sigma, condition=None):
    """A denoiser that treats the axes differently, so that turning shows."""
    ramp = torch.linspace(1, 2, x.shape[-1], dtype=x.dtype)
    return x * ramp + (0 if condition is None else condition.image.cumsum(-2) * condition.certainty * condition.noise)


@pytest.fixture
def told(generator):
    maps = (torch.rand((2, 1, *SHAPE), generator=generator, dtype=torch.float64) for _ in range(3))
    return Condition(*maps)


@pytest.fixture
def x(generator):
    return torch.randn((2, 1, *SHAPE), generator=generator, dtype=torch.float64)


def by_hand(denoiser, x, condition, axes):
    """Turn, ask, turn back, with einsum's own words for the axes."""
    names = "".join("ijk"[axis] for axis in axes)
    turned = condition.map(lambda part: torch.einsum(f"bcijk->bc{names}", part).contiguous())
    answer = denoiser(torch.einsum(f"bcijk->bc{names}", x).contiguous(), torch.tensor(1.0), turned)
    return torch.einsum(f"bc{names}->bcijk", answer)


@pytest.mark.parametrize("axes", ORDERS, ids=str)
def test_turning_shows_the_axes_in_another_order_and_turns_the_answer_back(axes, x, told):
    answer = Turned(lopsided, axes)(x, torch.tensor(1.0), told)
    assert torch.equal(answer, by_hand(lopsided, x, told, axes))
    if axes != (0, 1, 2):
        assert not torch.allclose(answer, lopsided(x, torch.tensor(1.0), told))  # the negative: the order matters


def test_turning_without_a_condition(x):
    answer = Turned(lopsided, (2, 0, 1))(x, torch.tensor(1.0))
    assert torch.equal(answer.permute(0, 1, 4, 2, 3), lopsided(x.permute(0, 1, 4, 2, 3), torch.tensor(1.0)))


def test_the_usual_order_is_the_identity(x, told):
    assert torch.equal(Turned(lopsided)(x, torch.tensor(1.0), told), lopsided(x, torch.tensor(1.0), told))


@pytest.mark.parametrize(
    ("operator", "wanted"),
    [
        (identity(), (0, 1, 2)),
        (nothing(SHAPE), (1, 2, 0)),
        (slices(8, factor=2.0), (0, 1, 2)),
        (slices(4, factor=2.0, axis=0), (1, 2, 0)),
        (slices(6, factor=3.0, axis=1), (0, 2, 1)),
        (resample(SHAPE, factors=(2.0, 3.0, 1.0)), (2, 0, 1)),
    ],
    ids=["identity", "nothing", "last", "first", "middle", "two"],
)
def test_the_worst_axis_comes_last(operator, wanted):
    assert worst_last(operator, SHAPE) == wanted


@pytest.mark.parametrize("axes", [(0, 1, 1), (1, 2, 3)])
def test_an_axis_twice_is_refused(axes):
    with pytest.raises(SettingsError, match="E-AXES"):
        Turned(lopsided, axes)
