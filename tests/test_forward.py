"""The usual names: DDPM and DDIM against diffusers, step by step, and against our own samplers in another scale."""

from __future__ import annotations

import math

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from gaussian import clean_images, exact, is_a_state_at

from medidiff.diffusion import (
    ancestral,
    ddim,
    ddpm_alpha_bar,
    ddpm_ancestral,
    ddpm_betas,
    euler,
    from_alpha_bar,
    generators_for,
    noise_like,
    q_sample,
)
from medidiff.diffusion.sigma import alpha_bar_from_sigma, sigma_from_alpha_bar
from medidiff.errors import SettingsError


def oracle(scheduler_class, steps, x, seed, **step_options):
    """What diffusers makes of the exact denoiser."""
    scheduler = scheduler_class(beta_schedule="linear", prediction_type="sample", clip_sample=False)
    scheduler.set_timesteps(steps)
    scheduler.alphas_cumprod = ddpm_alpha_bar("linear", 1000)  # theirs to double precision
    generator = generators_for(seed, [0])[0]
    for t in scheduler.timesteps:
        left = scheduler.alphas_cumprod[t]
        clean = exact(x / left.sqrt(), sigma_from_alpha_bar(left))
        x = scheduler.step(clean, int(t), x, generator=generator, **step_options).prev_sample
    return x


def part_of(steps):
    """ᾱ at the times that diffusers visits."""
    scheduler = DDPMScheduler(beta_schedule="linear")
    scheduler.set_timesteps(steps)
    return ddpm_alpha_bar("linear", 1000)[scheduler.timesteps.flip(0)]


def unit_state():
    return noise_like(torch.zeros(1, 1, 4, 4, 4, dtype=torch.float64), generators_for(8, [0]))


def agrees(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-8)


@pytest.mark.parametrize("steps", [20, 1000])
def test_ddpm_ancestral_is_that_of_diffusers(steps):
    theirs = oracle(DDPMScheduler, steps, unit_state(), 9)
    agrees(ddpm_ancestral(exact, unit_state(), part_of(steps), generators=generators_for(9, [0])), theirs)
    with pytest.raises(AssertionError):
        agrees(ddpm_ancestral(exact, unit_state(), part_of(10), generators=generators_for(9, [0])), theirs)


@pytest.mark.parametrize("eta", [0.0, 0.7])
def test_ddim_is_that_of_diffusers(eta):
    theirs = oracle(DDIMScheduler, 20, unit_state(), 9, eta=eta)
    agrees(ddim(exact, unit_state(), part_of(20), generators=generators_for(9, [0]), eta=eta), theirs)
    with pytest.raises(AssertionError):
        agrees(ddim(exact, unit_state(), part_of(20), generators=generators_for(9, [0]), eta=eta + 0.1), theirs)


def test_ddpm_and_ddim_are_the_sigma_samplers_in_another_scale():
    alpha_bar = ddpm_alpha_bar("cosine", 1000)
    sigmas = from_alpha_bar(30, alpha_bar)
    visited = alpha_bar_from_sigma(sigmas[:-1]).flip(0)
    x_vp = unit_state()
    x_ve = x_vp * (1 + sigmas[0] ** 2).sqrt()
    torch.testing.assert_close(ddim(exact, x_vp, visited), euler(exact, x_ve, sigmas))
    ours = ancestral(exact, x_ve, sigmas, generators=generators_for(4, [0]))
    torch.testing.assert_close(ddpm_ancestral(exact, x_vp, visited, generators=generators_for(4, [0])), ours)
    torch.testing.assert_close(ddim(exact, x_vp, visited, generators=generators_for(4, [0]), eta=1.0), ours)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(ddim(exact, x_ve, visited), euler(exact, x_ve, sigmas))


@pytest.mark.parametrize(("kind", "theirs"), [("linear", "linear"), ("cosine", "squaredcos_cap_v2")])
def test_betas_are_those_of_diffusers(kind, theirs):
    wanted = DDPMScheduler(beta_schedule=theirs).betas.double()
    torch.testing.assert_close(ddpm_betas(kind, 1000), wanted, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("kind", ["linear", "cosine"])
def test_fewer_forward_steps_end_about_as_noisy(kind):
    few, many = (ddpm_alpha_bar(kind, steps)[-1].sqrt().item() for steps in (250, 1000))
    assert few < 0.01
    assert many < 0.01


def test_q_sample_is_the_forward_process_step_by_step(generator):
    betas, alpha_bar = ddpm_betas("linear", 50), ddpm_alpha_bar("linear", 50)
    clean = clean_images(generator)
    stepwise = clean
    for beta in betas[:21]:
        fresh = torch.randn(clean.shape, dtype=torch.float64, generator=generator)
        stepwise = (1 - beta).sqrt() * stepwise + beta.sqrt() * fresh
    noise = torch.randn(clean.shape, dtype=torch.float64, generator=generator)
    at_once = q_sample(clean, 20, alpha_bar, noise=noise)
    for x in (stepwise, at_once):
        is_a_state_at(float(sigma_from_alpha_bar(alpha_bar[20])), x / alpha_bar[20].sqrt(), clean)
    wrong = q_sample(clean, 25, alpha_bar, noise=noise)
    with pytest.raises(AssertionError):
        is_a_state_at(float(sigma_from_alpha_bar(alpha_bar[20])), wrong / alpha_bar[20].sqrt(), clean)
    each = q_sample(clean, torch.tensor([20, 3]), alpha_bar, noise=noise)
    torch.testing.assert_close(each[0], at_once[0])
    torch.testing.assert_close(each[1], q_sample(clean, 3, alpha_bar, noise=noise)[1])


def test_schedules_that_make_no_sense_are_refused():
    for kind, steps in (("square", 10), ("linear", 0)):
        with pytest.raises(SettingsError, match="E-BETAS"):
            ddpm_betas(kind, steps)
    for levels in ([], [0.5, 0.9], [1.5, 0.5], [0.5, 0.0], [math.nan]):
        with pytest.raises(SettingsError, match="E-BETAS"):
            ddim(exact, unit_state(), torch.tensor(levels))


@pytest.mark.parametrize("eta", [-0.1, 1.1, math.nan])
def test_an_eta_that_makes_no_sense_is_refused(eta):
    with pytest.raises(SettingsError, match="E-ETA"):
        ddim(exact, unit_state(), ddpm_alpha_bar("linear", 100), eta=eta)
