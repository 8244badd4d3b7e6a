"""Laws of the preconditioned denoiser, for the network F = 0, for F = 1, and for any F."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from medidiff.diffusion import Condition, Preconditioned, diffuse, observe, restoration_loss
from medidiff.diffusion.denoiser import _LOSS_FLOOR, NOISE_FLOOR, local_mean
from medidiff.errors import SettingsError
from medidiff.physics import nothing, resample, slices

DATA, DETAIL = 0.5, 0.15
SIGMAS = [0.01, 0.3, 2.0, 80.0]
SIZE = (2, 1, 6, 5, 4)


class Constant(nn.Module):
    """F that has learnt nothing, and remembers what it was shown."""

    def __init__(self, value):
        super().__init__()
        self.value, self.seen = value, []

    def forward(self, x, c_noise):
        self.seen.append((x, c_noise))
        return torch.full_like(x[:, :1], self.value)


class Mixing(nn.Module):
    """F of which only the shape is sensible: a convolution of all channels, scaled by the level."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv3d(Preconditioned.channels, 1, 3, padding=1)
        chance = torch.Generator().manual_seed(3)
        for weight in self.parameters():
            weight.data = 0.2 * torch.randn(weight.shape, generator=chance)
        self.requires_grad_(False)

    def forward(self, x, c_noise):
        return self.conv(x) * (1 + c_noise).reshape(-1, 1, 1, 1, 1)


def wrapped(backbone, kind=Preconditioned):
    return kind(backbone, sigma_data=DATA, sigma_detail=DETAIL)


def normal(generator, size=SIZE):
    return torch.randn(size, generator=generator)


def measured(generator, certainty=1.0, noise=0.1):
    return Condition(normal(generator), torch.tensor(certainty), torch.tensor(noise))


# --- F = 0: the best linear guess -----------------------------------------------------------------------------------


def is_the_gaussian_posterior_mean(denoiser, generator):
    """x₀ ~ N(0, σ_d²), y = x₀ + σ_y n₁, x_σ = x₀ + σ n₂: ``E[x₀ | x_σ, y]`` from the joint covariance of all three."""
    for sigma in SIGMAS:
        for noise in (0.01, 0.1, 1.0):
            seen = measured(generator, noise=noise)
            x = normal(generator)
            both = torch.full((2, 2), DATA**2, dtype=torch.float64) + torch.tensor([sigma**2, noise**2]).diag()
            weight = torch.linalg.solve(both, torch.full((2,), DATA**2, dtype=torch.float64))
            wanted = weight[0] * x + weight[1] * seen.image
            torch.testing.assert_close(denoiser(x, torch.tensor(sigma), seen), wanted, rtol=1e-4, atol=1e-5)


def test_without_a_network_it_is_exact_for_gaussian_images(generator):
    is_the_gaussian_posterior_mean(wrapped(Constant(0.0)), generator)


class TrustsTwice(Preconditioned):
    def precision(self, sigma, condition):
        total, seen = super().precision(sigma, condition)
        return total + seen, 2 * seen


class Deaf(Preconditioned):
    def forward(self, x, sigma, condition=None):
        return super().forward(x, sigma, None)


@pytest.mark.parametrize("kind", [TrustsTwice, Deaf])
def test_weighing_the_measurement_wrongly_breaks_that(kind, generator):
    with pytest.raises(AssertionError):
        is_the_gaussian_posterior_mean(wrapped(Constant(0.0), kind), generator)


def test_a_coarse_measurement_counts_by_its_certainty(generator):
    seen, x = measured(generator, certainty=0.25, noise=0.1), normal(generator)
    precision = 0.25 / (0.25 * 0.1**2 + 0.75 * DETAIL**2)
    wanted = (x / 0.09 + seen.image * precision) / (1 / 0.09 + precision + DATA**-2)
    torch.testing.assert_close(wrapped(Constant(0.0))(x, torch.tensor(0.3), seen), wanted)


def test_noise_below_the_floor_is_taken_for_the_floor(generator):
    image, x = normal(generator), normal(generator)
    none, floor = (Condition(image, torch.tensor(1.0), torch.tensor(n)) for n in (0.0, NOISE_FLOOR))
    network = wrapped(Mixing())
    assert torch.equal(network(x, torch.tensor(0.3), none), network(x, torch.tensor(0.3), floor))


# --- nothing measured: EDM ------------------------------------------------------------------------------------------


def is_edm_when_nothing_is_measured(kind, generator):
    """c_skip, c_out, c_in of Karras et al. 2022, table 1; c_in is times σ_d."""
    x, silent = normal(generator), Constant(0.0)
    for sigma in SIGMAS:
        level = torch.tensor(sigma)
        skip = wrapped(silent, kind)(x, level)
        torch.testing.assert_close(skip, x * DATA**2 / (sigma**2 + DATA**2))
        out = wrapped(Constant(1.0), kind)(x, level) - skip
        torch.testing.assert_close(
            out, torch.full_like(x, sigma * DATA / math.hypot(sigma, DATA)), rtol=1e-4, atol=1e-5
        )
        torch.testing.assert_close(silent.seen[-1][0][:, :1], x * DATA / math.hypot(sigma, DATA))


def test_when_nothing_is_measured_it_is_edm(generator):
    is_edm_when_nothing_is_measured(Preconditioned, generator)


class Impatient(Preconditioned):
    def precision(self, sigma, condition):
        total, seen = super().precision(sigma, condition)
        return total * 1.05, seen


def test_another_precision_is_not_edm(generator):
    with pytest.raises(AssertionError):
        is_edm_when_nothing_is_measured(Impatient, generator)


def test_certainty_0_and_no_condition_are_the_same(generator):
    x, network = normal(generator), wrapped(Mixing())
    seen = Condition(torch.zeros_like(x), torch.tensor(0.0), torch.tensor(0.3))  # the noise of nothing says nothing
    assert torch.equal(network(x, torch.tensor(0.4), seen), network(x, torch.tensor(0.4)))
    assert torch.equal(network(x, torch.tensor(0.4), Condition.null(x)), network(x, torch.tensor(0.4)))


# --- σ = ∞ ----------------------------------------------------------------------------------------------------------


def infinity_is_the_limit(denoiser, generator):
    seen, noise = measured(generator), normal(generator)
    far = torch.tensor(1e6)
    limit = denoiser(far * noise, far, seen)
    for x in (torch.zeros(SIZE), noise):
        torch.testing.assert_close(denoiser(x, torch.tensor(math.inf), seen), limit, rtol=1e-4, atol=1e-4)


class Telling(Mixing):
    """F that answers by its first channel, σ_d x c_in."""

    def forward(self, x, c_noise):
        return x[:, :1]


def test_infinity_is_the_limit_of_large_sigma(generator):
    infinity_is_the_limit(wrapped(Constant(0.0)), generator)
    told = wrapped(Constant(1.0))
    told(torch.zeros(SIZE), torch.tensor(math.inf), measured(generator))
    channels, level = told.backbone.seen[-1]
    assert channels[:, 0].abs().max() == 0
    assert bool(channels.isfinite().all())
    assert level.tolist() == [0.0, 0.0]


def test_at_infinity_the_state_tells_nothing(generator):
    seen, network = measured(generator), wrapped(Mixing())
    answers = [network(x, torch.tensor(math.inf), seen) for x in (torch.zeros(SIZE), normal(generator))]
    assert torch.equal(answers[0], answers[1])
    assert bool(answers[0].isfinite().all())
    finite = [network(x, torch.tensor(10.0), seen) for x in (torch.zeros(SIZE), normal(generator))]
    assert not torch.allclose(finite[0], finite[1])


def test_a_network_that_keeps_hearing_the_state_has_no_such_limit(generator):
    with pytest.raises(AssertionError):
        infinity_is_the_limit(wrapped(Telling()), generator)


# --- batches, diffusion, loss, condition ----------------------------------------------------------------------------


def answers_each_image_by_itself(denoiser, generator):
    levels = torch.tensor([0.2, math.inf])
    seen, x = measured(generator), normal(generator)
    together = denoiser(x, levels, seen)
    for image in range(2):
        one = slice(image, image + 1)
        alone = denoiser(x[one], levels[image], seen.map(lambda t, one=one: t[one]))
        torch.testing.assert_close(alone, together[one], rtol=1e-5, atol=1e-6)


def test_each_image_of_a_batch_is_answered_by_itself(generator):
    answers_each_image_by_itself(wrapped(Mixing()), generator)

    class Averaging(Mixing):
        def forward(self, x, c_noise):
            return super().forward(x, c_noise.mean().expand_as(c_noise))

    with pytest.raises(AssertionError):
        answers_each_image_by_itself(wrapped(Averaging()), generator)


def is_of_about_unit_size(numbers):
    assert 0.1 < numbers.std() < 5
    assert numbers.abs().max() < 8


def test_the_network_sees_numbers_of_about_unit_size(generator):
    clean = DATA * torch.randn((1, 1, 24, 24, 24), generator=generator)
    seen = Condition(clean + 0.1 * normal(generator, clean.shape), torch.tensor(1.0), torch.tensor(0.1))
    for sigma in SIGMAS:
        backbone, state = Constant(0.0), diffuse(clean, torch.tensor(sigma), generator)
        wrapped(backbone)(state, torch.tensor(sigma), seen)
        channels, level = backbone.seen[-1]
        for channel in channels[0, :3]:
            is_of_about_unit_size(channel)
        assert channels[0, 3:].abs().max() < 8
        assert -5 < level.item() <= 0
    with pytest.raises(AssertionError):
        is_of_about_unit_size(state)


def test_diffusion_adds_noise_of_each_level(generator):
    clean = torch.randn((3, 1, 30, 30, 30), dtype=torch.float64, generator=generator)
    noise = diffuse(clean, torch.tensor([0.1, 2.0, math.inf]), generator) - clean
    assert noise[0].std().item() == pytest.approx(0.1, rel=0.03)
    assert noise[1].std().item() == pytest.approx(2.0, rel=0.03)
    assert torch.equal(noise[2], -clean[2])


def weighted_error(network, clean, seen, *, sigma, state):
    """The mean over voxels of Λ |D - x₀|², whose logarithm the loss is."""
    loss = restoration_loss(network, clean, seen, sigma=sigma, state=state)
    return (2 * loss).exp() - _LOSS_FLOOR


def has_edms_weight(network, generator):
    """λ(σ) = (σ² + σ_d²)/(σ σ_d)²: Karras et al. 2022, table 1."""
    clean, noise = normal(generator), normal(generator)
    for sigma in SIGMAS:
        levels, state = torch.full((2,), sigma), clean + sigma * noise
        error = (network(state, levels) - clean).square().flatten(1).mean(1)
        got = weighted_error(network, clean, Condition.null(clean), sigma=levels, state=state)
        torch.testing.assert_close(got, error * (sigma**2 + DATA**2) / (sigma * DATA) ** 2, rtol=1e-3, atol=1e-5)


def test_the_loss_has_edms_weight_when_nothing_is_measured(generator):
    has_edms_weight(wrapped(Constant(0.3)), generator)
    with pytest.raises(AssertionError):
        has_edms_weight(wrapped(Constant(0.3), Impatient), generator)


def test_the_error_of_a_network_that_knows_nothing_is_about_one_at_every_level(generator):
    clean = DATA * torch.randn((4, 1, 16, 16, 16), generator=generator)
    seen = Condition(clean + 0.1 * normal(generator, clean.shape), torch.tensor(1.0), torch.tensor(0.1))
    for sigma in (*SIGMAS, math.inf):
        levels = torch.full((4,), sigma)
        state = diffuse(clean, levels, generator)
        error = weighted_error(wrapped(Constant(0.0)), clean, seen, sigma=levels, state=state)
        assert error.mean().item() == pytest.approx(1.0, abs=0.05)
        worse = weighted_error(wrapped(Constant(1.0)), clean, seen, sigma=levels, state=state)
        assert worse.mean().item() == pytest.approx(2.0, abs=0.1)


def test_what_was_observed_is_told_on_the_fine_grid(generator):
    x = torch.rand((1, 1, 4, 4, 9), generator=generator)
    operator = slices(9, factor=3.0)
    seen = observe(operator(x), operator, 0.1)
    assert seen.image.shape == seen.certainty.shape == seen.noise.shape == x.shape
    torch.testing.assert_close(operator(seen.image), operator(x))
    torch.testing.assert_close(seen.certainty, torch.full_like(x, 1 / 3))
    torch.testing.assert_close(seen.noise, torch.full_like(x, 0.1))
    per_slice = observe(operator(x), operator, torch.tensor([0.1, 0.2, 0.3])).noise
    assert (per_slice[0, 0, 0, 0].diff() > 0).all()
    torch.testing.assert_close(operator(per_slice)[0, 0, 0, 0], torch.tensor([0.1, 0.2, 0.3]))


def test_observing_nothing_is_the_null_condition():
    operator = nothing((4, 5, 6))
    seen = observe(torch.zeros((1, 1, 0, 5, 6)), operator, 0.1)
    assert seen.image.shape == (1, 1, 4, 5, 6)
    assert seen.image.abs().max() == 0
    assert seen.certainty.max() == 0


def test_a_condition_is_mapped_as_one(generator):
    operator = resample((8, 8, 8), factors=(2.0, 1.0, 1.6))
    seen = observe(operator(torch.rand((1, 1, 8, 8, 8), generator=generator)), operator, 0.1)
    cropped = seen.map(lambda t: t[..., 2:6, :, 1:])
    assert torch.equal(cropped.image, seen.image[..., 2:6, :, 1:])
    assert torch.equal(cropped.certainty, seen.certainty[..., 2:6, :, 1:])
    assert torch.equal(cropped.noise, seen.noise[..., 2:6, :, 1:])


@pytest.mark.parametrize("shape", [(4, 4, 4), (1, 2, 4, 4, 4)])
def test_a_condition_of_another_shape_is_refused(shape):
    with pytest.raises(SettingsError, match="E-CONDITION"):
        Condition(torch.zeros(shape), torch.tensor(1.0), torch.tensor(0.1))


@pytest.mark.parametrize("shape", [(6, 5, 4), (6, 2, 5), (2, 2, 5), (1, 6, 2), (1, 1, 1), (2, 2, 2)])
def test_the_local_mean_is_that_of_the_neighbours_that_are_there(shape):
    x = torch.randn((2, 1, *shape), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    got = local_mean(x)
    assert got.shape == x.shape
    for place in torch.cartesian_prod(*(torch.arange(n) for n in shape)).reshape(-1, 3).tolist():
        near = x[(slice(None), slice(None), *(slice(max(at - 1, 0), at + 2) for at in place))]
        torch.testing.assert_close(got[(..., *place)], near.mean((2, 3, 4)))
