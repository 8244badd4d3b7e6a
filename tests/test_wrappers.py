"""Laws of guidance, consistency and tiling: denoiser in, denoiser out, and the identity at zero strength."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from medidiff.diffusion import (
    ClassifierFree,
    Condition,
    Consistent,
    Preconditioned,
    Tiled,
    bridge,
    cheapest_tile,
    generators_for,
    heun,
    karras,
    observe,
    project,
)
from medidiff.diffusion.consistency import uncertainty
from medidiff.errors import SettingsError
from medidiff.physics import identity, nothing, resample, slices

SIZE = (2, 1, 6, 5, 8)
MEAN, SPREAD = 0.2, 0.6
LEVELS = [0.1, 1.0, math.inf]


class Counting:
    """Passes everything through to another denoiser, and remembers what it was shown."""

    def __init__(self, denoiser):
        self.denoiser, self.shown = denoiser, []

    def __call__(self, x, sigma, condition=None):
        self.shown.append((x, condition))
        return self.denoiser(x, sigma, condition)


def prior(x, sigma, condition=None):
    """E[x₀ | x_σ] for images N(μ, s²)."""
    precision = torch.as_tensor(sigma).to(x).reshape(-1, 1, 1, 1, 1).pow(-2)
    return (x * precision + MEAN / SPREAD**2) / (precision + SPREAD**-2)


def listening(x, sigma, condition=None):
    """A denoiser whose answer depends on its condition, so that guidance has something to exaggerate."""
    return prior(x, sigma) if condition is None else prior(x, sigma) + condition.image * condition.certainty


def normal(generator, size=SIZE, dtype=torch.float64):
    return torch.randn(size, dtype=dtype, generator=generator)


def seen_by(operator, generator):
    return observe(operator(normal(generator)), operator, 0.1)


# --- the identity at zero -------------------------------------------------------------------------------------------


def is_the_identity(wrap, generator):
    """The wrapped denoiser gives the same bytes, from one evaluation."""
    x, condition = normal(generator), Condition(normal(generator), torch.tensor(1.0), torch.tensor(0.1))
    for level in LEVELS:
        inner = Counting(listening)
        assert torch.equal(wrap(inner)(x, torch.tensor(level), condition), listening(x, torch.tensor(level), condition))
        assert len(inner.shown) == 1


OPERATOR = slices(8, factor=2.0)
Y = torch.linspace(0, 1, 120, dtype=torch.float64).reshape(1, 1, 6, 5, 4)

AT_ZERO = {
    "guidance": lambda d: ClassifierFree(d, 1.0),
    "consistency": lambda d: Consistent(d, Y, OPERATOR, 0.1, SPREAD, strength=0.0),
    "consistency with nothing": lambda d: Consistent(
        d, torch.zeros(1, 1, 0, 5, 8, dtype=torch.float64), nothing(SIZE[2:]), 0.0, SPREAD
    ),
    "tiling": lambda d: Tiled(d, (8, 8, 8), 0),
    "all three": lambda d: Consistent(
        Tiled(ClassifierFree(d, 1.0), (32, 32, 32), 12), Y, OPERATOR, 0.1, SPREAD, strength=0.0
    ),
}
NOT_ZERO = {
    "guidance": lambda d: ClassifierFree(d, 1.001),
    "consistency": lambda d: Consistent(d, Y, OPERATOR, 0.1, SPREAD, strength=0.001),
    "tiling": lambda d: Tiled(d, (8, 8, 4), 0),
}


@pytest.mark.parametrize("wrap", AT_ZERO.values(), ids=AT_ZERO)
def test_a_wrapper_is_the_identity_at_zero(wrap, generator):
    is_the_identity(wrap, generator)


@pytest.mark.parametrize("wrap", NOT_ZERO.values(), ids=NOT_ZERO)
def test_and_at_nothing_else(wrap, generator):
    with pytest.raises(AssertionError):
        is_the_identity(wrap, generator)


# --- guidance -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0, 3.0])
def test_guidance_moves_along_the_line_from_null_to_conditional(scale, generator):
    x, sigma, condition = normal(generator), torch.tensor(0.7), seen_by(identity(), generator)
    without, told = listening(x, sigma, Condition.null(x)), listening(x, sigma, condition)
    got = ClassifierFree(listening, scale)(x, sigma, condition)
    torch.testing.assert_close(got, (1 - scale) * without + scale * told)
    if scale != 1:
        assert not torch.allclose(got, told)


def test_without_a_condition_there_is_nothing_to_guide(generator):
    x, inner = normal(generator), Counting(listening)
    assert torch.equal(ClassifierFree(inner, 3.0)(x, torch.tensor(0.7)), prior(x, 0.7))
    assert len(inner.shown) == 1


@pytest.mark.parametrize("scale", [-1.0, math.nan, math.inf])
def test_a_guidance_scale_that_makes_no_sense_is_refused(scale):
    with pytest.raises(SettingsError, match="E-GUIDANCE"):
        ClassifierFree(prior, scale)


# --- consistency ----------------------------------------------------------------------------------------------------


def makes_the_exact_posterior_mean(wrap, generator):
    """E[x₀ | x_σ, y] of Gaussian images, from dense algebra, for a denoiser that was not told of y."""
    size, operator, noise = (3, 2, 8), resample((3, 2, 8), factors=(1.5, 1.0, 2.5)), 0.15
    full = [torch.eye(n).double() if m is None else m for m, n in zip(operator.matrices, size, strict=True)]
    a = torch.kron(torch.kron(full[0], full[1]), full[2])
    x = normal(generator, (1, 1, *size))
    y = operator(normal(generator, (1, 1, *size)))
    for level in LEVELS:
        precision = (level**-2 + SPREAD**-2) * torch.eye(a.shape[1]).double() + a.mT @ a / noise**2
        known = x.flatten() * level**-2 + MEAN / SPREAD**2 + a.mT @ y.flatten() / noise**2
        got = wrap(prior, y, operator, noise)(x, torch.tensor(level))
        torch.testing.assert_close(got.flatten(), torch.linalg.solve(precision, known))


def test_consistency_makes_a_prior_the_exact_posterior(generator):
    makes_the_exact_posterior_mean(lambda d, y, op, noise: Consistent(d, y, op, noise, SPREAD), generator)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda d, y, op, noise: Consistent(d, y, op, noise, 1.1 * SPREAD),
        lambda d, y, op, noise: Consistent(d, y, op, 1.1 * noise, SPREAD),
        lambda d, y, op, noise: Consistent(d, y, op, noise, SPREAD, strength=0.9),
        lambda d, y, op, noise: lambda x, sigma: project(d(x, sigma), y, op),
    ],
)
def test_weighing_wrongly_does_not(wrong, generator):
    with pytest.raises(AssertionError):
        makes_the_exact_posterior_mean(wrong, generator)


def explains_the_measurement(denoiser, operator, y, generator):
    for level in LEVELS:
        answer = denoiser(normal(generator), torch.tensor(level))
        torch.testing.assert_close(operator(answer), y.expand_as(operator(answer)))


@pytest.mark.parametrize("operator", [OPERATOR, slices(8, factor=2.3), slices(8, factor=3.0, thickness=2.0)])
def test_without_noise_every_answer_explains_the_measurement(operator, generator):
    y = operator(normal(generator))
    explains_the_measurement(Consistent(prior, y, operator, 0.0, SPREAD), operator, y, generator)
    with pytest.raises(AssertionError):
        explains_the_measurement(Consistent(prior, y, operator, 0.01, SPREAD), operator, y, generator)


def test_projecting_twice_is_projecting_once(generator):
    x, y = normal(generator), OPERATOR(normal(generator))
    once = project(x, y, OPERATOR)
    torch.testing.assert_close(OPERATOR(once), y)
    torch.testing.assert_close(project(once, y, OPERATOR), once)
    nearest = (once - x).square().sum()
    assert nearest < (OPERATOR.pinv(y) - x).square().sum()


def test_half_the_strength_is_half_the_correction(generator):
    x, y = normal(generator), OPERATOR(normal(generator))
    none, half, full = (
        Consistent(prior, y, OPERATOR, 0.0, SPREAD, strength=s)(x, torch.tensor(1.0)) for s in (0, 0.5, 1)
    )
    torch.testing.assert_close(half, (none + full) / 2)


def test_images_may_have_levels_of_their_own_and_share_a_measurement(generator):
    x, denoiser = normal(generator), Consistent(prior, Y, OPERATOR, 0.1, SPREAD)
    together = denoiser(x, torch.tensor([0.5, math.inf]))
    for image, level in enumerate((0.5, math.inf)):
        torch.testing.assert_close(denoiser(x[image : image + 1], torch.tensor(level)), together[image : image + 1])


def test_the_uncertainty_grows_from_nothing_to_the_spread():
    values = [uncertainty(sigma, SPREAD) for sigma in (1e-6, 0.1, SPREAD, 1e3, math.inf)]
    assert values == sorted(values)
    assert values[0] == pytest.approx(1e-6)
    assert values[2] == pytest.approx(SPREAD / math.sqrt(2))
    assert values[-1] == SPREAD


@pytest.mark.parametrize(
    ("sigma_y", "spread", "strength"), [(-0.1, 1, 1), (math.inf, 1, 1), (0.1, 0, 1), (0.1, 1, -0.1), (0.1, 1, 1.1)]
)
def test_consistency_settings_that_make_no_sense_are_refused(sigma_y, spread, strength):
    with pytest.raises(SettingsError, match="E-CONSISTENCY"):
        Consistent(prior, Y, OPERATOR, sigma_y, spread, strength)


# --- tiling ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def network(random_backbone):
    return Preconditioned(random_backbone((0, 1, 0), (4, 6)), sigma_data=0.5, sigma_detail=0.1)


def tiles_make_the_whole(tiled, network, size, generator):
    x = normal(generator, (1, 1, *size), torch.float32)
    condition = Condition(normal(generator, x.shape, torch.float32), torch.tensor(0.5), x.abs())
    for level in LEVELS:
        inner = Counting(network)
        got = tiled(inner)(x, torch.tensor(level), condition)
        assert len(inner.shown) > 1, "the volume must be cut"
        wanted = network(x, torch.tensor(level), condition)
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("tile", "size"),
    [((48, 64, 64), (97, 10, 6)), ((48, 44, 100), (53, 47, 11)), ((64, 64, 50), (5, 7, 70))],
)
def test_tiles_make_the_whole(network, tile, size, generator):
    reach = network.backbone.halo + 1
    tiles_make_the_whole(lambda d: Tiled(d, tile, reach), network, size, generator)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda d: Tiled(d, (48, 64, 64), 4),
        lambda d: Tiled(d, (47, 64, 64), 19, multiple=1),
    ],
    ids=["too small a halo", "off the stride"],
)
def test_too_small_a_halo_or_a_tile_off_the_stride_does_not(network, wrong, generator):
    with pytest.raises(AssertionError, match="not close"):
        tiles_make_the_whole(wrong, network, (97, 10, 6), generator)


def index_volume(size):
    """(1, 1, I, J, K) whose voxels know where they are: 10000 i + 100 j + k."""
    i, j, k = (torch.arange(n, dtype=torch.float64) for n in size)
    return (10000 * i[:, None, None] + 100 * j[:, None] + k)[None, None]


@pytest.mark.parametrize("size", [(37, 53, 11), (64, 20, 41), (1, 1, 21), (20, 20, 20)])
@pytest.mark.parametrize("halo", [0, 3, 8])
def test_tiles_cover_every_voxel_stay_within_their_size_and_begin_on_the_stride(size, halo):
    x = index_volume(size)
    inner = Counting(lambda x, sigma, condition: x)
    condition = Condition(x, torch.tensor(1.0), torch.tensor(0.1))
    tiled = Tiled(inner, (21, 22, 23), halo)
    assert torch.equal(tiled(x, torch.tensor(1.0), condition), x)
    assert len(inner.shown) == tiled.count(size)
    for shown, told in inner.shown:
        assert torch.equal(told.image, shown)
        assert all(n <= 20 for n in shown.shape[-3:]) or len(inner.shown) == 1
        first = int(shown[0, 0, 0, 0, 0])
        assert all(origin % 4 == 0 for origin in (first // 10000, first // 100 % 100, first % 100))


def test_halo_and_tile_are_rounded_to_the_stride():
    tiled = Tiled(prior, (30, 31, 32), 9)
    assert (tiled.halo, tiled.tile) == (12, (28, 28, 32))
    assert Tiled(prior, (30, 31, 32), 8).halo == 8


@pytest.mark.parametrize(
    ("tile", "halo", "multiple"), [((16, 64, 64), 8, 4), ((8, 8, 8), -1, 4), ((8, 8), 0, 4), ((8, 8, 8), 0, 0)]
)
def test_a_tile_without_a_core_is_refused(tile, halo, multiple):
    with pytest.raises(SettingsError, match="E-TILE"):
        Tiled(prior, tile, halo, multiple)


def test_tiling_reads_no_voxel_twice_that_it_keeps():
    """Cores neither overlap nor leave a gap."""
    for size, halo in itertools.product((21, 50, 64, 65), (0, 4)):
        cores = [core for core, _, _ in Tiled(prior, (20, 20, 20), halo)._spans(size, 20)]
        assert [i for core in cores for i in range(core.start, core.stop)] == list(range(size))


def shown(sizes, tile, halo):
    """Voxels that a denoiser is shown in all, and the most at once."""
    inner = Counting(lambda x, sigma, condition: x)
    x = torch.zeros((1, 1, *sizes))
    Tiled(inner, tile, halo)(x, torch.tensor(1.0))
    counts = [x.numel() for x, _ in inner.shown]
    return sum(counts), max(counts)


@pytest.mark.parametrize("sizes", [(64, 64, 64), (100, 90, 12), (61, 33, 130), (20, 20, 20)])
@pytest.mark.parametrize("side", [28, 36, 50, 80])
def test_the_cheapest_tile_fits_and_no_cube_is_cheaper(sizes, side):
    halo = 7
    tile = cheapest_tile(sizes, voxels=side**3, halo=halo)
    total, most = shown(sizes, tile, halo)
    assert most <= max(side, 2 * 8 + 16) ** 3
    assert total <= shown(sizes, (max(side // 4 * 4, 2 * 8 + 16),) * 3, halo)[0]


def test_a_cube_costs_more_where_a_volume_is_flat():
    """The law above has teeth: a cube as large shows more voxels than it must."""
    sizes, halo, voxels = (200, 200, 20), 8, 100 * 100 * 80
    assert cheapest_tile(sizes, voxels=voxels, halo=halo) == (200, 200, 32)
    cube = shown(sizes, (92, 92, 92), halo)[0]
    assert cube > 1.3 * shown(sizes, (200, 200, 32), halo)[0]


def test_a_tile_never_lacks_a_core():
    assert cheapest_tile((300, 300, 300), voxels=1, halo=7) == (32, 32, 32)


# --- all together ---------------------------------------------------------------------------------------------------


def test_no_sampler_ever_learns_of_them(network, generator):
    size, operator = (45, 8, 9), slices(9, factor=3.0)
    y = operator(torch.rand((1, 1, *size), generator=generator))
    condition = observe(y, operator, 0.05).map(lambda t: t.expand(2, -1, -1, -1, -1))
    reach = network.backbone.halo + 1
    denoiser = Consistent(Tiled(ClassifierFree(network, 1.5), (44, 44, 44), reach), y, operator, 0.0, 0.5)
    grid = karras(3, 0.02, 1.0)
    draws = heun(denoiser, bridge(condition, grid[0], generators_for(0, range(2))), grid, condition=condition)
    torch.testing.assert_close(operator(draws), y.expand(2, -1, -1, -1, -1), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(draws[0], draws[1])
