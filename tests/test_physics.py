"""Laws of the operators and of the noise. Each law is a function, and a deliberately broken instance must fail it."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from medidiff.errors import SettingsError
from medidiff.physics import (
    Degradation,
    Noise,
    Separable,
    boxes,
    gaussian_profile,
    identity,
    nothing,
    resample,
    rician_correction,
    sampling,
    slices,
)

SHAPE = (6, 7, 9)

OPERATORS = {
    "identity": identity(),
    "slices": slices(9, factor=3.0),
    "non-integer slices": slices(9, factor=2.5),
    "gap": slices(9, factor=3.0, thickness=2.0),
    "overlap": slices(9, factor=2.0, thickness=3.0),
    "off centre": slices(9, factor=2.0, offset=-0.5, count=5),
    "Gaussian profile": slices(9, factor=2.0, profile=gaussian_profile),
    "first axis": slices(6, factor=1.5, axis=0),
    "three axes": resample(SHAPE, factors=(1.5, 2.0, 2.7)),
    "one axis kept": resample(SHAPE, factors=(2.0, 1.0, 3.3)),
}
WITH_NOTHING = OPERATORS | {"nothing": nothing(SHAPE)}


def each(operators):
    return pytest.mark.parametrize("operator", operators.values(), ids=operators)


def dense(operator):
    """The same operator as one matrix, from the Kronecker product of its axes."""
    full = [
        torch.eye(n, dtype=torch.float64) if m is None else m for m, n in zip(operator.matrices, SHAPE, strict=True)
    ]
    return torch.kron(torch.kron(full[0], full[1]), full[2])


def normal(shape, generator):
    return torch.randn(tuple(shape), dtype=torch.float64, generator=generator)


def measured_shape(operator):
    return operator(torch.zeros(SHAPE, dtype=torch.float64)).shape


# --- the laws -------------------------------------------------------------------------------------------------------


def applies_its_matrix(operator, generator):
    x = normal(SHAPE, generator)
    torch.testing.assert_close(operator(x).flatten(), dense(operator) @ x.flatten())


def adjoint_is_the_transpose(operator, generator):
    y = normal(measured_shape(operator), generator)
    torch.testing.assert_close(operator.adjoint(y).flatten(), dense(operator).mT @ y.flatten())


def pinv_is_moore_penrose(operator, generator):
    y = normal(measured_shape(operator), generator)
    torch.testing.assert_close(operator.pinv(y).flatten(), torch.linalg.pinv(dense(operator)) @ y.flatten())


def smoothest_explains_y(operator, generator):
    y = operator(normal(SHAPE, generator))
    torch.testing.assert_close(operator(operator.smoothest(y)), y)


def roughness(operator, x):
    """Squared first and second differences along the axes that the operator acts on."""
    dims = [dim for dim, matrix in enumerate(operator.matrices) if matrix is not None]
    return sum(float(x.diff(n=order, dim=dim).square().sum()) for order in (1, 2) for dim in dims)


def no_unseen_change_is_smoother(operator, x, generator):
    for size in (1e-3, 1e-2, 1e-1):
        change = normal(SHAPE, generator)
        unseen = size * (change - operator.pinv(operator(change)))
        assert min(roughness(operator, x + unseen), roughness(operator, x - unseen)) > 0.999 * roughness(operator, x)


def certainty_is_the_share_that_is_fixed(operator):
    matrix = dense(operator)
    share = operator.certainty(SHAPE)
    torch.testing.assert_close(share.flatten(), (torch.linalg.pinv(matrix) @ matrix).diagonal())
    assert share.min() >= -1e-12
    assert share.max() <= 1 + 1e-12


def consistency_is_the_least_squares_answer(operator, generator):
    x, y = normal(SHAPE, generator), normal(measured_shape(operator), generator)
    matrix, sigma_y, sigma_x = dense(operator), 0.3, 0.7
    normal_matrix = matrix.mT @ matrix / sigma_y**2 + torch.eye(x.numel(), dtype=torch.float64) / sigma_x**2
    wanted = torch.linalg.solve(normal_matrix, matrix.mT @ y.flatten() / sigma_y**2 + x.flatten() / sigma_x**2)
    got = operator.consistent(x, y, sigma_y=sigma_y, sigma_x=sigma_x)
    torch.testing.assert_close(got.flatten(), wanted)


def without_noise_the_answer_explains_y(operator, generator):
    x, y = normal(SHAPE, generator), operator(normal(SHAPE, generator))
    torch.testing.assert_close(operator(operator.consistent(x, y, sigma_y=0.0, sigma_x=1.0)), y)


# --- operators that keep them, and one that breaks each -------------------------------------------------------------


@each(WITH_NOTHING)
def test_the_operator_agrees_with_dense_algebra(operator, generator):
    applies_its_matrix(operator, generator)
    adjoint_is_the_transpose(operator, generator)
    pinv_is_moore_penrose(operator, generator)
    smoothest_explains_y(operator, generator)
    certainty_is_the_share_that_is_fixed(operator)
    consistency_is_the_least_squares_answer(operator, generator)
    without_noise_the_answer_explains_y(operator, generator)


class Broken(Separable):
    """Plausible mistakes: the adjoint of a mean taken for its transpose times the factor, and so on."""

    def __call__(self, x):
        return super().__call__(x.roll(1, dims=-1))

    def adjoint(self, y):
        return super().pinv(y)

    def pinv(self, y):
        return super().adjoint(y)

    def certainty(self, shape):
        return torch.ones(tuple(shape), dtype=torch.float64)

    def consistent(self, x, y, *, sigma_y, sigma_x):
        return x + Separable.adjoint(self, y - Separable.__call__(self, x))


ONE_AXIS = {name: OPERATORS[name] for name in ("slices", "non-integer slices", "gap", "Gaussian profile", "first axis")}


@each(ONE_AXIS)
def test_nothing_that_explains_y_is_smoother(operator, generator):
    y = operator(normal(SHAPE, generator))
    no_unseen_change_is_smoother(operator, operator.smoothest(y), generator)


def test_the_staircase_is_not_the_smoothest(generator):
    operator = OPERATORS["slices"]
    x = operator.pinv(operator(torch.linspace(0, 1, 9, dtype=torch.float64).expand(SHAPE)))
    towards = operator.smoothest(operator(x)) - x
    assert roughness(operator, x + 0.1 * towards) < 0.999 * roughness(operator, x)


@pytest.mark.parametrize(
    "law",
    [
        applies_its_matrix,
        adjoint_is_the_transpose,
        pinv_is_moore_penrose,
        smoothest_explains_y,
        lambda operator, _: certainty_is_the_share_that_is_fixed(operator),
        consistency_is_the_least_squares_answer,
        without_noise_the_answer_explains_y,
    ],
)
def test_a_broken_operator_breaks_the_law(law, generator):
    with pytest.raises(AssertionError):
        law(Broken(OPERATORS["three axes"].matrices), generator)


def test_leading_dimensions_and_type_are_kept(generator):
    operator = OPERATORS["three axes"]
    x = normal((2, 1, *SHAPE), generator)
    torch.testing.assert_close(operator(x)[1, 0], operator(x[1, 0]))
    assert operator.pinv(operator(x.float())).dtype == torch.float32


def test_an_estimate_without_error_is_not_moved(generator):
    x, operator = normal(SHAPE, generator), OPERATORS["slices"]
    y = normal(measured_shape(operator), generator)
    assert torch.equal(operator.consistent(x, y, sigma_y=0.1, sigma_x=0.0), x)


def test_identity_and_nothing_say_so(generator):
    x = normal(SHAPE, generator)
    assert identity().is_identity
    assert torch.equal(identity()(x), x)
    assert nothing(SHAPE).measures_nothing
    assert nothing(SHAPE)(x).numel() == 0
    assert nothing(SHAPE).pinv(nothing(SHAPE)(x)).abs().max() == 0
    assert nothing(SHAPE).smoothest(nothing(SHAPE)(x)).abs().max() == 0
    assert nothing(SHAPE).certainty(SHAPE).max() == 0
    assert not OPERATORS["gap"].is_identity
    assert not OPERATORS["gap"].measures_nothing


@each(OPERATORS)
def test_flat_stays_flat(operator):
    torch.testing.assert_close(operator(torch.ones(SHAPE)), torch.ones(tuple(measured_shape(operator))))


def test_slices_of_whole_voxels_are_means(generator):
    x = normal(SHAPE, generator)
    torch.testing.assert_close(slices(9, factor=3.0)(x), x.reshape(6, 7, 3, 3).mean(-1))
    torch.testing.assert_close(slices(9, factor=3.0).certainty(SHAPE), torch.full(SHAPE, 1 / 3, dtype=torch.float64))


def test_a_gap_is_seen_by_no_slice():
    share = slices(9, factor=3.0, thickness=1.0).certainty(SHAPE)[0, 0]
    assert share.tolist() == [0, 1, 0] * 3


def test_a_gaussian_slice_has_its_thickness_as_full_width_at_half_maximum():
    row = sampling(101, factor=20.0, count=1, profile=gaussian_profile)[0]
    torch.testing.assert_close(row[40] / row[50], torch.tensor(0.5, dtype=torch.float64), rtol=0, atol=0.01)


@pytest.mark.parametrize(
    ("factor", "thickness"), [(0.5, None), (math.nan, None), (math.inf, None), (2.0, 0.0), (2.0, -1.0)]
)
def test_a_factor_that_makes_no_sense_is_refused(factor, thickness):
    with pytest.raises(SettingsError, match="E-FACTOR"):
        sampling(9, factor=factor, thickness=thickness)


# --- noise ----------------------------------------------------------------------------------------------------------

LEVEL = 0.2
SIGNALS = (0.0, 0.1, 0.5, 2.0)
MANY = 100_000


def within_five_standard_errors(samples, expected):
    """Whether the mean of independent samples is what it should be; wrong by chance once in two million."""
    error = samples.std() / math.sqrt(samples.numel())
    assert abs(samples.mean() - expected) <= 5 * error + 1e-12


def gaussian_has_its_moments(noise, generator):
    for signal in SIGNALS:
        y = noise.apply(torch.full((MANY,), signal, dtype=torch.float64), generator)
        within_five_standard_errors(y, signal)
        within_five_standard_errors((y - signal).square(), LEVEL**2)


def rician_has_its_second_moment(noise, generator):
    for signal in SIGNALS:
        y = noise.apply(torch.full((MANY,), signal, dtype=torch.float64), generator)
        assert y.min() >= 0
        within_five_standard_errors(y.square(), signal**2 + 2 * LEVEL**2)


def poisson_has_variance_in_proportion_to_the_mean(noise, generator):
    for signal in SIGNALS:
        y = noise.apply(torch.full((MANY,), signal, dtype=torch.float64), generator)
        within_five_standard_errors(y, signal)
        within_five_standard_errors((y - signal).square(), signal * LEVEL**2)


LAWS = {
    "gaussian": gaussian_has_its_moments,
    "rician": rician_has_its_second_moment,
    "poisson": poisson_has_variance_in_proportion_to_the_mean,
}


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("kind", LAWS)
def test_noise_keeps_its_own_law_and_no_other(kind, law, generator):
    noise = Noise(kind, LEVEL)
    if kind == law:
        LAWS[law](noise, generator)
    else:
        with pytest.raises(AssertionError):
            LAWS[law](noise, generator)


@pytest.mark.parametrize("kind", LAWS)
def test_a_wrong_level_breaks_the_law(kind, generator):
    with pytest.raises(AssertionError):
        LAWS[kind](Noise(kind, 1.03 * LEVEL), generator)


def spread_follows_the_map(noise, level, generator):
    y = noise.apply(torch.ones((MANY, *level.shape), dtype=torch.float64), generator) - 1
    for place in range(level.numel()):
        within_five_standard_errors(y[:, place].square(), level[place] ** 2)


@pytest.mark.parametrize("kind", ["gaussian", "poisson"])
def test_the_level_may_vary_over_the_image(kind, generator):
    level = torch.tensor([0.0, 0.05, 0.3], dtype=torch.float64)
    spread_follows_the_map(Noise(kind, level), level, generator)
    with pytest.raises(AssertionError):
        spread_follows_the_map(Noise(kind, float(level.mean())), level, generator)


def test_a_rician_level_may_vary_over_the_image(generator):
    level = torch.tensor([0.0, 0.05, 0.3], dtype=torch.float64)
    y = Noise("rician", level).apply(torch.ones((MANY, 3), dtype=torch.float64), generator)
    for place in range(3):
        within_five_standard_errors(y[:, place].square(), 1 + 2 * level[place] ** 2)


def test_the_rician_correction_removes_the_bias_where_there_is_signal(generator):
    x = torch.full((MANY,), 1.0, dtype=torch.float64)
    y = Noise("rician", LEVEL).apply(x, generator)
    before, after = y.mean() - 1, rician_correction(y, LEVEL).mean() - 1
    assert before > 0.015
    assert abs(after) < before / 10


@pytest.mark.parametrize("kind", LAWS)
def test_no_noise_is_an_exact_copy(kind, generator):
    x = torch.rand((3, 4, 5), generator=generator)
    y = Noise(kind, 0.0).apply(x, generator)
    assert torch.equal(y, x)
    assert y.data_ptr() != x.data_ptr()


@pytest.mark.parametrize(("kind", "level"), [("speckle", 0.1), ("rician", -0.1), ("rician", math.nan)])
def test_noise_that_makes_no_sense_is_refused(kind, level):
    with pytest.raises(SettingsError, match="E-NOISE"):
        Noise(kind, level)


def test_a_degradation_is_the_operator_and_then_the_noise():
    x = torch.rand(SHAPE, generator=torch.Generator().manual_seed(1))
    scanner = Degradation(slices(9, factor=3.0), Noise("rician", 0.1))
    y = scanner.observe(x, torch.Generator().manual_seed(2))
    assert torch.equal(y, scanner.noise.apply(scanner.operator(x), torch.Generator().manual_seed(2)))
    assert not torch.equal(y, scanner.observe(x, torch.Generator().manual_seed(3)))


def test_boxes_are_the_means_of_the_voxels_in_them():
    x = torch.randn((1, 1, 8, 6, 4), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert torch.allclose(boxes((4, 3, 2), (8, 6, 4))(x), functional.avg_pool3d(x, 2))
    three_to_two = boxes((2, 3, 2), (3, 3, 2))(x[..., :3, :3, :2])
    assert torch.allclose(three_to_two[..., 0, :, :], (x[..., 0, :3, :2] + x[..., 1, :3, :2] / 2) / 1.5)
