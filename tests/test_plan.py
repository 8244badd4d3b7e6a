"""Laws of a plan: its draws are spread as the posterior is, and it is what restoration draws with."""

from __future__ import annotations

import pytest
import torch
from gaussian import MEAN, SPREAD, exact
from small_prior import small_prior

from medidiff import restore as restoration
from medidiff.diffusion import SAMPLERS, Condition, Plan, Turned, generators_for, observe
from medidiff.errors import SettingsError
from medidiff.physics import identity
from medidiff.prepare import fit_intensity
from medidiff.restore import Settings, denoise
from medidiff.volume import Geometry, Volume


def spread_of_draws(plan):
    mean = torch.full((4, 1, 16, 16, 16), MEAN)
    draws = plan.draw(exact, mean, condition=Condition.null(mean), generators=generators_for(0, range(4)))
    assert draws.mean().item() == pytest.approx(MEAN, abs=0.05)
    return draws.std().item()


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("start", ["informed", "bridge"])
def test_draws_are_spread_as_the_posterior_is(sampler, start):
    plan = Plan(steps=64, sampler=sampler, start=start, sigma_start=10 * SPREAD, sigma_end=SPREAD / 100)
    assert spread_of_draws(plan) == pytest.approx(SPREAD, rel=0.08)
    one = Plan(steps=1, sampler=sampler, start=start, sigma_start=10 * SPREAD)  # the negative: a mean has no spread
    assert spread_of_draws(one) < 0.2 * SPREAD


def test_a_bridge_starts_from_what_was_measured_and_not_from_the_mean():
    seen = Condition(torch.full((1, 1, 8, 8, 8), MEAN), torch.tensor(1.0), torch.tensor(0.1))
    for start, alike in (("bridge", True), ("informed", False)):
        plan = Plan(start=start)
        draws = [
            plan.draw(exact, seen.image + off, condition=seen, generators=generators_for(0, [0])) for off in (0, 1)
        ]
        assert torch.equal(*draws) == alike


def test_restoration_draws_by_the_plan(monkeypatch):
    monkeypatch.setattr(restoration, "averages_lost", lambda x, evidence: torch.zeros_like(x))  # added to every draw
    image = 0.8 + 0.05 * torch.randn((12, 12, 12), generator=torch.Generator().manual_seed(0))
    volume, prior = Volume(image.numpy(), Geometry.regular((12, 12, 12)), "MR"), small_prior()
    answer = denoise(volume, prior=prior, noise_level=0.05, draws=2, keep_draws=2, steps=3, seed=5)
    scale = fit_intensity(volume)
    condition = observe(torch.from_numpy(scale.apply(volume.data))[None], identity(), 0.05 / scale.gain)
    denoiser = Turned(prior.denoiser)
    mean = denoiser(torch.zeros_like(condition.image), torch.tensor(torch.inf), condition)

    def drawn(plan):
        made = plan.draw(denoiser, mean, condition=condition, generators=generators_for(5, [1]))
        return torch.tensor(scale.undo(made[0].numpy()))

    wanted = torch.tensor(answer.draws[1].data)
    torch.testing.assert_close(drawn(Plan(steps=3)), wanted)
    assert Settings().steps == Plan().steps
    with pytest.raises(AssertionError):  # the negative: other levels, another draw
        torch.testing.assert_close(drawn(Plan(steps=3, sigma_start=0.3)), wanted)


@pytest.mark.parametrize("broken", [{"sampler": "dpm"}, {"start": "cold"}])
def test_names_that_are_unknown_are_refused(broken):
    with pytest.raises(SettingsError, match="E-SETTING"):
        Plan(**broken)


@pytest.mark.parametrize("broken", [{"steps": 0}, {"sigma_end": 0.6}, {"rho": 0.0}])
def test_numbers_that_make_no_grid_are_refused(broken):
    with pytest.raises(SettingsError, match="E-S"):
        spread_of_draws(Plan(**broken))
