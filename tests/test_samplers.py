"""Laws of sigma grids and samplers, judged by a denoiser that is exact: what they should reach is known exactly."""

from __future__ import annotations

import math

import pytest
import torch
from gaussian import MEAN, SPREAD, exact

from medidiff.diffusion import (
    GRIDS,
    SAMPLERS,
    Condition,
    ancestral,
    cosine,
    ddpm_alpha_bar,
    dpmpp_2m,
    euler,
    from_alpha_bar,
    from_noise,
    generators_for,
    heun,
    karras,
    log_linear,
    noise_like,
)
from medidiff.diffusion.sigma import alpha_bar_from_sigma, sigma_from_alpha_bar, steps_of
from medidiff.errors import SettingsError

TOP, BOTTOM = 80.0, 0.002


def flow(x, top, sigma=0.0):
    return MEAN + (x - MEAN) * math.sqrt((SPREAD**2 + sigma**2) / (SPREAD**2 + top**2))


def state(value=1.0, size=1):
    return torch.full((size, 1, 2, 2, 2), value, dtype=torch.float64)


# --- grids ----------------------------------------------------------------------------------------------------------


def is_a_grid(sigmas, steps):
    assert sigmas.dtype == torch.float64
    assert sigmas.shape == (steps + 1,)
    assert sigmas[-1] == 0
    assert bool((sigmas.diff() < 0).all())


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("steps", [1, 2, 3, 40])
def test_grids_go_from_the_top_to_nothing(name, steps):
    sigmas = GRIDS[name](steps, BOTTOM, TOP)
    is_a_grid(sigmas, steps)
    assert sigmas[0].item() == pytest.approx(TOP)
    if steps > 1:
        assert sigmas[-2].item() == pytest.approx(BOTTOM)
    with pytest.raises(AssertionError):
        is_a_grid(sigmas.flip(0), steps)


def test_each_grid_is_even_in_its_own_measure():
    def even(measure):
        return bool((measure[:-1].diff().std() < 1e-9 * measure[:-1].diff().mean().abs()).item())

    grids = {"karras": karras, "log": log_linear, "cosine": cosine}
    measures = {"karras": lambda s: s ** (1 / 7), "log": torch.log, "cosine": torch.atan}
    for grid, make in grids.items():
        for measure, of in measures.items():
            assert even(of(make(20, BOTTOM, TOP))) == (grid == measure)


@pytest.mark.parametrize(
    ("steps", "low", "high"), [(0, 0.1, 1), (5, 0, 1), (5, 1, 1), (5, 2, 1), (5, 0.1, math.inf), (5, math.nan, 1)]
)
@pytest.mark.parametrize("name", GRIDS)
def test_grids_that_make_no_sense_are_refused(name, steps, low, high):
    with pytest.raises(SettingsError, match="E-S"):
        GRIDS[name](steps, low, high)


def test_rho_must_be_positive():
    with pytest.raises(SettingsError, match="rho"):
        karras(5, 0.1, 1.0, rho=0.0)


@pytest.mark.parametrize(
    "levels", [[1.0, 0.5], [0.0], [1.0, 1.0, 0.0], [1.0, 2.0, 0.0], [math.nan, 1.0, 0.0], [[1.0, 0.0]]]
)
@pytest.mark.parametrize("name", SAMPLERS)
def test_samplers_refuse_what_is_no_grid(name, levels):
    with pytest.raises(SettingsError, match="E-SIGMA"):
        SAMPLERS[name](exact, state(), torch.tensor(levels))


def test_sigma_and_alpha_bar_are_two_words_for_one_thing():
    sigma = torch.tensor([0.01, 1.0, 30.0], dtype=torch.float64)
    torch.testing.assert_close(sigma_from_alpha_bar(alpha_bar_from_sigma(sigma)), sigma)


def test_a_ddpm_schedule_becomes_a_grid():
    alpha_bar = ddpm_alpha_bar("linear", 1000)
    is_a_grid(from_alpha_bar(1000, alpha_bar), 1000)
    few = from_alpha_bar(10, alpha_bar)
    is_a_grid(few, 10)
    torch.testing.assert_close(few[[0, -2]], sigma_from_alpha_bar(alpha_bar[[-1, 0]]))
    for steps in (0, 1001):
        with pytest.raises(SettingsError, match="E-STEPS"):
            from_alpha_bar(steps, alpha_bar)


# --- order of convergence -------------------------------------------------------------------------------------------


def error_of(sampler, steps, denoiser=exact):
    """Distance from the exact answer, whose last step is also to D."""
    x, bottom, top = state(3.0), 0.05, 5.0
    wanted = exact(flow(x, top, bottom), bottom)
    return float((sampler(denoiser, x, karras(steps, bottom, top)) - wanted).abs().max())


def converges_with(sampler, order):
    """Twice the steps, an error smaller by 2^order."""
    few, many = error_of(sampler, 128), error_of(sampler, 256)
    assert math.log2(few / many) == pytest.approx(order, abs=0.15)


ORDERS = {"euler": 1, "heun": 2, "dpmpp-2m": 2}


@pytest.mark.parametrize("name", ORDERS)
def test_order_of_convergence(name):
    converges_with(SAMPLERS[name], ORDERS[name])
    with pytest.raises(AssertionError):
        converges_with(SAMPLERS[name], 3 - ORDERS[name])


def test_heun_with_the_slope_of_the_wrong_end_is_of_order_1():
    def careless(denoiser, x, sigmas, **_):
        for now, then in steps_of(sigmas):
            ahead = denoiser(x, now) + then / now * (x - denoiser(x, now))
            if then > 0:
                slope = (x - denoiser(x, now)) / now + (x - denoiser(x, then)) / then  # x where it should say ahead
                ahead = x + (then - now) * slope / 2
            x = ahead
        return x

    with pytest.raises(AssertionError):
        converges_with(careless, 2)


def test_dpmpp_without_its_memory_is_of_order_1():
    with pytest.raises(AssertionError):
        converges_with(euler, 2)


def test_dpmpp_2m_needs_fewer_evaluations_than_heun_for_the_same_error():
    assert error_of(dpmpp_2m, 32) < error_of(heun, 16)


@pytest.mark.parametrize(("name", "evaluations"), [("euler", 8), ("heun", 15), ("dpmpp-2m", 8), ("ancestral", 8)])
def test_evaluations_are_as_promised(name, evaluations):
    seen = []

    def counting(x, sigma, condition=None):
        seen.append(float(sigma))
        return exact(x, sigma)

    SAMPLERS[name](counting, state(), karras(8, BOTTOM, TOP), generators=generators_for(0, [0]))
    assert len(seen) == evaluations
    assert min(seen) > 0


# --- where they land ------------------------------------------------------------------------------------------------


def lands_on_the_denoiser(sampler):
    answers = []

    def remembering(x, sigma, condition=None):
        answers.append(exact(x, sigma))
        return answers[-1]

    x = noise_like(torch.zeros(2, 1, 3, 3, 3), generators_for(1, range(2))) * TOP
    got = sampler(remembering, x, karras(5, BOTTOM, TOP), generators=generators_for(2, range(2)))
    assert torch.equal(got, answers[-1])


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_last_step_lands_on_the_denoiser(name):
    lands_on_the_denoiser(SAMPLERS[name])


def test_a_sampler_that_stops_short_does_not():
    def short(denoiser, x, sigmas, **_):
        for now, then in steps_of(sigmas):
            x = denoiser(x, now) + max(then, 0.001) / now * (x - denoiser(x, now))  # a little noise is left
        return x

    with pytest.raises(AssertionError):
        lands_on_the_denoiser(short)


@pytest.mark.parametrize("name", SAMPLERS)
def test_from_infinity_one_step_gives_the_posterior_mean(name):
    grid = torch.tensor([math.inf, 0.0], dtype=torch.float64)
    x = from_noise((2, 1, 3, 3, 3), math.inf, generators_for(0, range(2)))
    assert torch.equal(x, torch.zeros_like(x))
    torch.testing.assert_close(SAMPLERS[name](exact, x, grid), torch.full_like(x, MEAN))


@pytest.mark.parametrize("name", SAMPLERS)
def test_no_state_holds_the_noise_for_a_step_from_infinity(name):
    with pytest.raises(SettingsError, match="infinite"):
        SAMPLERS[name](exact, state(), torch.tensor([math.inf, 1.0, 0.0]))


# --- spread of draws ------------------------------------------------------------------------------------------------


def draws_have_the_true_spread(sampler, steps, tolerance=0.03):
    x = from_noise((4, 1, 30, 30, 30), TOP, generators_for(5, range(4)))
    draws = sampler(exact, x, karras(steps, BOTTOM, TOP), generators=generators_for(6, range(4)))
    assert draws.mean().item() == pytest.approx(MEAN, abs=tolerance * SPREAD)
    assert draws.std().item() == pytest.approx(SPREAD, rel=tolerance)


@pytest.mark.parametrize(("name", "steps"), [("heun", 32), ("dpmpp-2m", 32), ("euler", 160), ("ancestral", 320)])
def test_draws_have_the_true_spread(name, steps):
    draws_have_the_true_spread(SAMPLERS[name], steps)


def test_too_few_steps_of_a_first_order_sampler_do_not():
    with pytest.raises(AssertionError):
        draws_have_the_true_spread(euler, 12)


def ancestral_spread(steps, eta=1.0):
    """Standard deviation that `ancestral` must end with, from how each step shrinks the spread and adds to it."""
    variance = TOP**2
    for now, then in steps_of(karras(steps, BOTTOM, TOP)):
        fresh = min(float(eta * then * (1 - (then / now) ** 2).sqrt()), float(then))
        pull = SPREAD**2 / (SPREAD**2 + float(now) ** 2)
        kept = math.sqrt(float(then) ** 2 - fresh**2) / float(now)
        variance = (pull + kept * (1 - pull)) ** 2 * variance + fresh**2
    return math.sqrt(variance)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ancestral_has_the_spread_that_its_noise_gives(eta):
    x = from_noise((4, 1, 30, 30, 30), TOP, generators_for(5, range(4)))
    draws = ancestral(exact, x, karras(20, BOTTOM, TOP), generators=generators_for(6, range(4)), eta=eta)
    assert draws.std().item() == pytest.approx(ancestral_spread(20, eta), rel=0.015)
    assert draws.std().item() != pytest.approx(ancestral_spread(20, 1.0 - eta // 1), rel=0.015)


def test_ancestral_without_fresh_noise_is_euler():
    x = from_noise((1, 1, 4, 4, 4), TOP, generators_for(5, [0]))
    sigmas = karras(10, BOTTOM, TOP)
    torch.testing.assert_close(ancestral(exact, x, sigmas, eta=0.0), euler(exact, x, sigmas))
    with pytest.raises(AssertionError):
        torch.testing.assert_close(
            ancestral(exact, x, sigmas, generators=generators_for(0, [0]), eta=0.1), euler(exact, x, sigmas)
        )


@pytest.mark.parametrize("eta", [-0.1, math.nan, math.inf])
def test_an_eta_that_makes_no_sense_is_refused(eta):
    with pytest.raises(SettingsError, match="E-ETA"):
        ancestral(exact, state(), karras(3, BOTTOM, TOP), eta=eta)


# --- invariance -----------------------------------------------------------------------------------------------------


def draw(name, numbers, generators):
    x = from_noise((len(numbers), 1, 5, 6, 7), TOP, generators)
    return SAMPLERS[name](exact, x, karras(6, BOTTOM, TOP), generators=generators)


def does_not_depend_on_the_batch(name, make=generators_for):
    together = draw(name, range(4), make(11, range(4)))
    for number in range(4):
        assert torch.equal(draw(name, [number], make(11, [number]))[0], together[number])
    assert not torch.equal(together[0], together[1])


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_draw_does_not_depend_on_the_batch(name):
    does_not_depend_on_the_batch(name)


def test_one_generator_for_the_whole_batch_breaks_that():
    def shared(seed, draws):
        return [torch.Generator().manual_seed(seed)] * len(draws)

    with pytest.raises(AssertionError):
        does_not_depend_on_the_batch("ancestral", shared)


def does_not_depend_on_threads(sampler, denoiser):
    def draw_with(threads):
        torch.set_num_threads(threads)
        x = from_noise((2, 1, 40, 40, 40), TOP, generators_for(11, range(2)))
        return sampler(denoiser, x, karras(4, BOTTOM, TOP), generators=generators_for(12, range(2)))

    try:
        draws = [draw_with(threads) for threads in (1, 2, 3)]
    finally:
        torch.set_num_threads(1)
    assert torch.equal(draws[0], draws[1])
    assert torch.equal(draws[0], draws[2])


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_draw_does_not_depend_on_the_number_of_threads(name):
    does_not_depend_on_threads(SAMPLERS[name], exact)


def test_a_sum_over_the_whole_volume_breaks_that():
    with pytest.raises(AssertionError):
        does_not_depend_on_threads(heun, lambda x, sigma, condition: exact(x, sigma) + (x * x).mean().sqrt() / 100)


def test_the_global_generator_is_neither_read_nor_moved():
    before = torch.random.get_rng_state()
    for name in SAMPLERS:
        draw(name, range(2), generators_for(11, range(2)))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_another_seed_and_another_number_are_another_draw():
    zero = torch.zeros(1, 50)
    noises = [noise_like(zero, generators_for(seed, [number])) for seed in range(6) for number in range(6)]
    assert torch.stack(noises).unique(dim=0).shape[0] == 36


def test_generators_that_do_not_fit_are_refused():
    with pytest.raises(SettingsError, match="2 random generators for 3 images"):
        noise_like(torch.zeros(3, 1), generators_for(0, range(2)))
    for seed, draws in ((-1, [0]), (0, [-1])):
        with pytest.raises(SettingsError, match="E-SEED"):
            generators_for(seed, draws)


@pytest.mark.parametrize("name", SAMPLERS)
def test_type_is_kept_and_no_gradient_recorded(name):
    x = from_noise((1, 1, 3, 3, 3), TOP, generators_for(0, [0])).requires_grad_()
    got = SAMPLERS[name](exact, x, karras(3, BOTTOM, TOP), generators=generators_for(0, [0]))
    assert got.dtype == torch.float32
    assert not got.requires_grad


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_condition_reaches_the_denoiser(name):
    told, seen = Condition.null(state()), []

    def listening(x, sigma, condition=None):
        seen.append(condition)
        return exact(x, sigma)

    SAMPLERS[name](listening, state(), karras(3, BOTTOM, TOP), condition=told, generators=generators_for(0, [0]))
    assert all(condition is told for condition in seen)
