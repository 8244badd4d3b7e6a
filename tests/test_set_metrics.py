"""Laws of the figures about sets of scans; each with an instance that breaks it."""

import numpy as np
import pytest

from medidiff.errors import InputError, SettingsError
from medidiff.metrics.frechet import frechet
from medidiff.metrics.kernel import kid, mean_discrepancy, polynomial_kernel
from medidiff.metrics.measured import measure
from medidiff.metrics.neighbours import density_coverage, distances, expected_coverage, neighbourhood

WIDTH = 6


def normal(rng, count, *, shift=0.0, scale=1.0):
    return rng.normal(shift, scale, (count, WIDTH))


def biased_kid(real, synthetic):
    """The V-statistic: each case is also compared with itself."""
    kernel, count = polynomial_kernel(np.concatenate((real, synthetic))), len(real)
    return kernel[:count, :count].mean() + kernel[count:, count:].mean() - 2 * kernel[:count, count:].mean()


def average(figure, count, repeats=300):
    rng = np.random.default_rng(0)
    drawn = [figure(normal(rng, count), normal(rng, count)) for _ in range(repeats)]
    return np.mean(drawn), np.std(drawn) / np.sqrt(repeats)


@pytest.mark.parametrize("count", [5, 20])
def test_kid_is_zero_on_average_for_one_distribution_whatever_the_count(count):
    mean, error = average(kid, count)
    assert abs(mean) < 4 * error
    biased, error = average(biased_kid, count)
    assert biased > 10 * error  # the negative: a biased estimate is not


def test_kid_grows_with_a_shift_of_the_mean_and_with_a_change_of_spread():
    rng = np.random.default_rng(1)
    found = [kid(normal(rng, 60), normal(rng, 60, shift=shift)) for shift in (0.0, 0.5, 1.0, 2.0)]
    assert np.all(np.diff(found) > 0)
    assert kid(normal(rng, 60), normal(rng, 60, scale=0.3)) > 10 * abs(found[0])


def test_kid_is_the_sum_over_pairs_by_hand():
    rng = np.random.default_rng(2)
    x, y = normal(rng, 3), normal(rng, 4)

    def k(a, b):
        return (a @ b / WIDTH + 1) ** 3

    within_x = sum(k(x[i], x[j]) for i in range(3) for j in range(3) if i != j) / 6
    within_y = sum(k(y[i], y[j]) for i in range(4) for j in range(4) if i != j) / 12
    between = sum(k(a, b) for a in x for b in y) / 12
    assert kid(x, y) == pytest.approx(within_x + within_y - 2 * between)


def test_a_case_that_is_drawn_twice_makes_no_pair_with_itself():
    kernel = polynomial_kernel(normal(np.random.default_rng(3), 8))
    cases, others = np.array([0, 1, 2]), np.array([4, 5, 6])
    assert mean_discrepancy(kernel, np.repeat(cases, 2), others) == pytest.approx(
        mean_discrepancy(kernel, cases, others)
    )


def test_frechet_is_that_of_the_gaussians():
    rng = np.random.default_rng(4)
    x = normal(rng, 400)
    assert frechet(x, x + 2.0) == pytest.approx(4 * WIDTH)
    assert frechet(x, 3 * x - 2 * x.mean(axis=0)) == pytest.approx(4 * x.var(axis=0, ddof=1).sum())
    first, second = np.cov(x.T), np.cov((x @ np.diag(np.arange(1, 7))).T)
    values = np.linalg.eigvals(first @ second).real
    wanted = np.trace(first) + np.trace(second) - 2 * np.sqrt(values).sum()
    means = x.mean(axis=0) - (x @ np.diag(np.arange(1, 7))).mean(axis=0)
    assert frechet(x, x @ np.diag(np.arange(1, 7))) == pytest.approx(wanted + means @ means)


def test_frechet_is_biased_on_few_cases_and_shrinkage_regularises_it():
    few, many = average(frechet, 7, 60)[0], average(frechet, 200, 20)[0]
    assert few > 5 * many  # which is why it is never printed without its floor
    shrunk = average(lambda a, b: frechet(a, b, shrinkage=0.5), 7, 60)[0]
    assert shrunk < few
    rng = np.random.default_rng(5)
    line = normal(rng, 50)
    diagonal = frechet(line, 2 * line, shrinkage=1.0)
    apart = np.square(line.mean(axis=0)).sum()
    assert diagonal == pytest.approx(line.var(axis=0, ddof=1).sum() + apart)


def test_expected_coverage_holds_for_one_distribution_and_falls_under_mode_collapse():
    mean, error = average(lambda a, b: density_coverage(a, b, k=3).coverage, 15)
    assert abs(mean - expected_coverage(15, 15, k=3)) < 4 * error
    mean, error = average(lambda a, b: density_coverage(a, b, k=3).density, 15)
    assert abs(mean - 1) < 4 * error
    collapsed, _ = average(lambda a, b: density_coverage(a, a[:1] + 0.01 * b, k=3).coverage, 15, 40)
    assert collapsed < 0.5 * expected_coverage(15, 15, k=3)


def test_precision_does_not_see_mode_collapse_and_recall_does():
    rng = np.random.default_rng(6)
    real = normal(rng, 40)
    copies = real[:1] + 0.001 * normal(rng, 40)
    found = density_coverage(real, copies, k=3)
    assert found.precision == 1  # the negative: precision alone would let it pass
    assert found.recall < 0.1
    far = density_coverage(real, normal(rng, 40, shift=9), k=3)
    assert (far.precision, far.recall, far.density, far.coverage) == (0, 0, 0, 0)


def test_one_outlier_fools_precision_more_than_density():
    rng = np.random.default_rng(7)
    real = np.concatenate((normal(rng, 39), np.full((1, WIDTH), 40.0)))
    between = normal(rng, 40, shift=20)
    found = density_coverage(real, between, k=3)
    assert found.precision > 0.9
    assert found.density < 0.5


def test_a_case_that_is_drawn_twice_is_not_its_own_neighbour():
    distance = distances(normal(np.random.default_rng(8), 12))
    cases, others = np.arange(6), np.arange(6, 12)
    once, twice = (neighbourhood(distance, c, others, k=2) for c in (cases, np.repeat(cases, 2)))
    assert (once.precision, once.recall, once.coverage) == (twice.precision, twice.recall, twice.coverage)
    counted = np.sort(distance[:6, :6][np.repeat(cases, 2)][:, np.repeat(cases, 2)], axis=1)[:, 2]
    assert (counted < np.sort(distance[:6, :6], axis=1)[:, 2].repeat(2)).all()  # the negative: copies as neighbours


def of(rows):
    kernel = polynomial_kernel(rows)
    return lambda a, b: mean_discrepancy(kernel, a, b)


def test_the_interval_covers_what_a_huge_set_shows():
    rng = np.random.default_rng(9)
    truth = kid(normal(rng, 3000), normal(rng, 3000, shift=0.6))
    held, repeats = 0, 60
    for seed in range(repeats):
        rows = np.concatenate((normal(rng, 24), normal(rng, 24, shift=0.6)))
        found = measure(of(rows), range(24), range(24, 48), resamples=80, halvings=5, seed=seed)
        held += found.low <= truth <= found.high
    assert held / repeats >= 0.8
    assert held < repeats  # the negative: an interval as wide as the world would always hold it


def test_the_floor_is_that_of_two_real_halves():
    rng = np.random.default_rng(10)
    rows = np.concatenate((normal(rng, 30), normal(rng, 20, shift=2)))
    found = measure(of(rows), range(30), range(30, 50), centre="rms")
    assert found.floor_low < 0 < found.floor_high
    assert found.value > 10 * found.floor > 0
    assert (found.n_real, found.n_synthetic, found.n_floor) == (30, 20, 15)
    real = measure(of(rows), range(15), range(15, 30), halved=range(30), centre="rms")
    assert abs(real.value) < 3 * real.floor


def test_a_biased_figure_is_read_at_the_size_of_its_floor():
    rng = np.random.default_rng(11)
    ratios, uneven = [], []
    for _ in range(8):
        rows = normal(rng, 60)

        def figure(a, b, rows=rows):
            return frechet(rows[a], rows[b])

        found = measure(figure, range(40), range(40, 60), matched=True, resamples=2, halvings=20)
        assert (found.n_real, found.n_synthetic, found.n_floor) == (20, 20, 20)
        ratios.append(found.value / found.floor)
        few = measure(figure, range(40), range(40, 45), resamples=2, halvings=20)
        uneven.append(few.value / few.floor)
    assert np.mean(ratios) == pytest.approx(1, abs=0.25)
    assert np.mean(uneven) > 1.5  # the negative: five cases against a floor of twenty


def test_the_same_seed_gives_the_same_figures():
    rows = normal(np.random.default_rng(12), 20)
    one, two, other = (measure(of(rows), range(10), range(10, 20), seed=seed) for seed in (0, 0, 1))
    assert one == two
    assert one != other


@pytest.mark.parametrize("sizes", [(1, 5, 8), (5, 1, 8), (5, 5, 3)])
def test_too_few_cases_are_refused(sizes):
    real, judged, pool = map(range, sizes)
    with pytest.raises(SettingsError, match="E-CASES"):
        measure(lambda a, b: 0.0, real, judged, halved=pool)


def test_broken_features_are_refused():
    with pytest.raises(InputError, match="E-SHAPE"):
        kid(np.ones((3, 2)), np.ones((3, 4)))
    with pytest.raises(InputError, match="E-SHAPE"):
        frechet(np.ones((1, 2)), np.ones((3, 2)))
    with pytest.raises(InputError, match="E-NONFINITE"):
        kid(np.full((3, 2), np.nan), np.ones((3, 2)))
    with pytest.raises(SettingsError, match="E-CASES"):
        density_coverage(np.ones((3, 2)), np.ones((3, 2)), k=3)
    with pytest.raises(SettingsError, match="E-SETTING"):
        frechet(np.ones((3, 2)), np.ones((3, 2)), shrinkage=1.5)
