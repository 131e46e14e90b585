"""Metrics against known answers: codes that are the factors, that are constant, that hold them twice."""

import functools
import warnings

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
from scipy import stats
from sklearn.exceptions import ConvergenceWarning

from separationfactor_lab import metrics

IMAGES = 2000


@pytest.fixture(scope="module")
def factors():
    """Three independent factors of 4, 5 and 6 values."""
    generator = np.random.default_rng(0)
    return np.stack([generator.integers(size, size=IMAGES) for size in (4, 5, 6)], axis=1)


@pytest.fixture(scope="module")
def identity(factors):
    return factors + 0.01 * np.random.default_rng(1).normal(size=factors.shape)


@pytest.fixture(scope="module")
def rotated(identity):
    """Every dimension holds some of every factor."""
    rotation = np.array([[2, -1, 2], [2, 2, -1], [-1, 2, 2]]) / 3
    return (identity - identity.mean(axis=0)) / identity.std(axis=0) @ rotation


CONSTANT = np.ones((IMAGES, 3))
DISENTANGLEMENT = {
    "mig": metrics.mig,
    "sap": metrics.sap,
    "disentanglement": lambda codes, factors: metrics.dci(codes, factors).disentanglement,
    "completeness": lambda codes, factors: metrics.dci(codes, factors).completeness,
    "informativeness": lambda codes, factors: metrics.dci(codes, factors).informativeness,
    "modularity": metrics.modularity,
    "explicitness": metrics.explicitness,
    "factor_vae": metrics.factor_vae_score,
    "beta_vae": metrics.beta_vae_score,
    "irs": metrics.irs,
}


# name: what an identity code has, a constant one, and one that holds each factor twice; and the tolerance.
@pytest.mark.parametrize(
    ("name", "of_identity", "of_constant", "of_twice", "tolerance"),
    [
        ("mig", 1, 0, 0, 0.02),
        ("disentanglement", 1, 0, 1, 0.02),
        ("completeness", 1, 0, 1 - np.log(2) / np.log(6), 0.06),
        ("informativeness", 1, 0.206, 1, 0.05),
        ("modularity", 1, 0, 1, 0.02),
        ("factor_vae", 1, 0, 1, 0.02),
        ("beta_vae", 1, 1 / 3, 1, 0.02),
        ("irs", 1, 0, 1, 0.03),
    ],
)
def test_known_answers(name, of_identity, of_constant, of_twice, tolerance, factors, identity):
    score = DISENTANGLEMENT[name]
    twice = np.hstack([identity, identity])
    assert score(identity, factors) == pytest.approx(of_identity, abs=tolerance)
    assert score(CONSTANT, factors) == pytest.approx(of_constant, abs=tolerance)
    assert score(twice, factors) == pytest.approx(of_twice, abs=tolerance)


def test_sap_of_continuous_factors():
    generator = np.random.default_rng(2)
    factors = generator.normal(size=(IMAGES, 3))
    assert metrics.sap(factors, factors, continuous=True) == pytest.approx(1, abs=0.01)
    assert metrics.sap(np.hstack([factors, factors]), factors, continuous=True) == pytest.approx(0, abs=0.01)
    assert metrics.sap(CONSTANT, factors, continuous=True) == 0
    # R^2 of a dimension that is half noise is a half.
    noisy = factors + generator.normal(size=factors.shape)
    assert metrics.sap(noisy, factors, continuous=True) == pytest.approx(0.5, abs=0.05)
    assert metrics.sap(factors[:, :1], factors[:, :1], continuous=True) == pytest.approx(1, abs=0.01)


def test_sap_of_discrete_factors():
    binary = np.random.default_rng(2).integers(2, size=(IMAGES, 3))
    # A useless dimension guesses half of a binary factor.
    assert metrics.sap(binary, binary) == pytest.approx(0.5, abs=0.05)
    assert metrics.sap(np.hstack([binary, binary]), binary) == pytest.approx(0, abs=0.01)
    assert metrics.sap(CONSTANT, binary) == 0


def test_dci_of_continuous_factors():
    factors = np.random.default_rng(2).normal(size=(IMAGES, 3))
    score = metrics.dci(factors, factors, continuous=[True] * 3)
    assert score.disentanglement == pytest.approx(1, abs=0.02)
    assert score.completeness == pytest.approx(1, abs=0.02)
    assert score.informativeness == pytest.approx(1, abs=0.02)
    assert metrics.dci(CONSTANT, factors, continuous=True) == metrics.DCI(0, 0, 0)


def test_explicitness_finds_what_is_linear(identity):
    binary = (np.random.default_rng(2).normal(size=(IMAGES, 2)) > 0).astype(int)
    noise = 0.01 * np.random.default_rng(3).normal(size=binary.shape)
    assert metrics.explicitness(binary + noise, binary) == pytest.approx(1, abs=0.01)
    assert metrics.explicitness(np.hstack([binary, binary]), binary) == pytest.approx(1, abs=0.01)
    assert metrics.explicitness(CONSTANT, binary) == 0.5


@pytest.mark.parametrize("name", ["mig", "sap", "disentanglement", "completeness", "modularity", "irs"])
def test_a_rotation_entangles(name, factors, identity, rotated):
    score = DISENTANGLEMENT[name]
    assert score(rotated, factors) < 0.7 * score(identity, factors)


def test_a_one_hot_class_is_ten_factors_or_its_argmax():
    """As a single factor it scores near 0, though the code is perfect."""
    labels = np.random.default_rng(0).integers(10, size=IMAGES)
    codes = 10 * metrics.one_vs_rest(labels) + np.random.default_rng(1).normal(size=(IMAGES, 10))
    single = labels[:, np.newaxis]
    assert metrics.mig(codes, single) < 0.05
    assert metrics.sap(codes, single) < 0.05
    assert metrics.dci(codes, single).completeness < 0.2

    assert metrics.mig(codes, metrics.one_vs_rest(labels)) > 0.75
    assert metrics.sap(codes, metrics.one_vs_rest(labels)) > 0.3
    assert metrics.dci(codes, metrics.one_vs_rest(labels)).completeness > 0.95
    assert metrics.dci(codes, metrics.one_vs_rest(labels)).disentanglement > 0.95

    collapsed = codes.argmax(axis=1)[:, np.newaxis]
    assert metrics.mig(collapsed, single) > 0.99
    assert metrics.dci(collapsed, single).completeness == 1


def test_one_vs_rest():
    np.testing.assert_array_equal(metrics.one_vs_rest([5, 2, 5]), [[0, 1], [1, 0], [0, 1]])


def test_mutual_information_is_in_nats():
    coin = np.arange(IMAGES)[:, np.newaxis] % 2
    assert metrics.mutual_information(coin, coin)[0, 0] == pytest.approx(np.log(2))


# The likelihood


def test_bernoulli_log_likelihood():
    images = np.array([[1.0, 0.0, 0.3]])
    p = np.array([[0.9, 0.2, 0.5]])
    logits = np.log(p / (1 - p))
    expected = np.log(0.9) + np.log(0.8) + np.log(0.5)
    np.testing.assert_allclose(metrics.bernoulli_log_likelihood(images, logits), [expected])
    # Large logits neither overflow nor lose precision.
    np.testing.assert_allclose(metrics.bernoulli_log_likelihood([[1.0, 0.0]], [[-1000.0, -1000.0]]), [-1000])
    with pytest.raises(ValueError, match="must have the same shape"):
        metrics.bernoulli_log_likelihood(images, logits[0])


def test_gaussian_kl():
    assert metrics.gaussian_kl(0.0, 0.0) == 0
    z = np.random.default_rng(0).normal(1.5, 0.5, 200_000)
    by_sampling = np.mean(stats.norm.logpdf(z, 1.5, 0.5) - stats.norm.logpdf(z))
    assert metrics.gaussian_kl(1.5, 2 * np.log(0.5)) == pytest.approx(by_sampling, rel=0.02)


def test_importance_weighted_nll():
    """Of x ~ N(z, 1) with the prior as q, whose log p(x) is known: x ~ N(0, 2)."""
    x = np.array([0.5, -2.0])
    z = np.random.default_rng(0).normal(size=(100_000, 2))
    log_weights = stats.norm.logpdf(x, z)
    exact = -stats.norm.logpdf(x, scale=np.sqrt(2)).mean()
    assert metrics.importance_weighted_nll(log_weights) == pytest.approx(exact, abs=0.01)
    # The bound falls with the number of samples; that of one sample is the negative ELBO.
    few = np.mean([metrics.importance_weighted_nll(log_weights[i : i + 5]) for i in range(0, 5000, 5)])
    assert exact < few < -log_weights.mean()
    assert metrics.importance_weighted_nll(log_weights[:1]) == pytest.approx(-log_weights[0].mean())
    with pytest.raises(ValueError, match="must have shape"):
        metrics.importance_weighted_nll(log_weights[0])


def test_active_units():
    means = np.random.default_rng(0).normal(size=(1000, 4)) * [1, 0.2, 0.05, 0]
    assert metrics.active_units(means) == 2


@pytest.mark.parametrize(("separation", "accuracy"), [(1, 0.34), (2, 0.67), (3, 0.90), (4, 0.98), (5, 0.998)])
def test_the_bayes_accuracy_of_the_prior(separation, accuracy):
    assert metrics.prior_bayes_accuracy(separation, 10) == pytest.approx(accuracy, abs=0.006)


def test_the_bayes_accuracy_of_no_separation_is_guessing():
    assert metrics.prior_bayes_accuracy(0, 10) == pytest.approx(0.1)


# The class


def test_expected_calibration_error():
    # Eight of ten right, at a confidence of 0.8, and all wrong at 0.6.
    sure = np.tile([0.8, 0.2], (10, 1))
    labels = np.array([0] * 8 + [1] * 2)
    assert metrics.expected_calibration_error(sure, labels) == pytest.approx(0)
    unsure = np.tile([0.6, 0.4], (10, 1))
    both = np.concatenate([sure, unsure])
    assert metrics.expected_calibration_error(both, np.append(labels, np.ones(10, int))) == pytest.approx(0.3)
    assert metrics.expected_calibration_error([[1.0, 0.0]], [0]) == 0
    assert metrics.expected_calibration_error([[1.0, 0.0]], [1]) == 1


@pytest.mark.parametrize("probe", ["linear", "mlp"])
def test_leakage(probe):
    generator = np.random.default_rng(0)
    labels = np.repeat(np.arange(10), 100)
    noise = generator.normal(size=(1000, 10))
    assert metrics.leakage(noise, labels, probe) < 0.2
    assert metrics.leakage(noise + 10 * metrics.one_vs_rest(labels), labels, probe) > 0.99
    with pytest.raises(ValueError, match="probe must be one of"):
        metrics.leakage(noise, labels, "tree")


def test_an_mlp_finds_what_a_line_does_not():
    codes = np.random.default_rng(0).uniform(-1, 1, size=(2000, 2))
    exclusive = (codes[:, 0] * codes[:, 1] > 0).astype(int)
    # The best line cuts off a corner, which is right for two thirds.
    assert metrics.leakage(codes, exclusive, "linear") < 0.7
    assert metrics.leakage(codes, exclusive, "mlp") > 0.9


def test_clusters():
    labels = np.repeat(np.arange(4), 50)
    noise = np.random.default_rng(0).normal(size=(200, 4))
    apart = noise + 100 * metrics.one_vs_rest(labels)
    assert metrics.silhouette(apart, labels) > 0.9
    assert abs(metrics.silhouette(noise, labels)) < 0.1
    assert metrics.knn_accuracy(apart, labels) == 1
    assert metrics.knn_accuracy(noise, labels) < 0.5


# Errors


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: metrics.mig(np.ones(3), np.ones((3, 1))), "codes must have shape"),
        (lambda: metrics.mig(np.full((3, 1), np.nan), np.ones((3, 1))), "codes must be finite"),
        (lambda: metrics.mig(np.ones((3, 1)), np.ones((4, 1))), r"factors must have shape \(3, factors\)"),
        (lambda: metrics.irs(np.eye(3), [[0, 1], [0, 2], [0, 3]]), "a constant factor in column 0"),
        (lambda: metrics.modularity(np.eye(3), [[0], [1], [2]]), "at least 2 factors"),
        (lambda: metrics.factor_vae_score(np.eye(3), [[0], [1], [2]]), "at least 2 factors"),
        (lambda: metrics.leakage(np.eye(3), [0.0, 1.0, 2.0]), "labels must be one integer"),
    ],
)
def test_errors(call, match):
    with pytest.raises(ValueError, match=match):
        call()


def test_a_seed_repeats_a_score(factors, rotated):
    for name in ("sap", "disentanglement", "factor_vae", "beta_vae"):
        assert DISENTANGLEMENT[name](rotated, factors) == DISENTANGLEMENT[name](rotated, factors)


# Disentanglement of codes that are not perfect


@pytest.mark.parametrize("values", [2, 6, 10, 30])
@pytest.mark.parametrize("scale", [1, 1e-7, 1e7])
def test_sap_of_a_factor_of_any_number_of_values(values, scale):
    factor = np.random.default_rng(0).integers(values, size=(IMAGES, 1))
    noise = np.random.default_rng(1).normal(size=(IMAGES, 1))
    codes = np.hstack([factor, noise])
    assert metrics.sap(scale * codes, factor) == pytest.approx(1 - 1 / values, abs=0.04)
    assert metrics.sap(scale * factor, factor) == 1
    # Values in another order than the dimension's need as many thresholds.
    shuffled = np.random.default_rng(2).permutation(values)[factor]
    assert metrics.sap(scale * codes, shuffled) == pytest.approx(1 - 1 / values, abs=0.04)


def test_sap_weighs_all_values_alike():
    """A dimension that always predicts the most frequent value scores at most a half."""
    rare = (np.arange(IMAGES) % 20 == 0).astype(int)[:, np.newaxis]
    noise = np.random.default_rng(0).normal(size=(IMAGES, 1))
    assert metrics.sap(np.hstack([rare, noise]), rare) == pytest.approx(0.5, abs=0.08)


def test_dci_of_noisy_codes():
    """Each dimension depends on one factor alone, so noise takes informativeness and nothing else."""
    generator = np.random.default_rng(0)
    factors = np.stack([generator.integers(size, size=8000) for size in (5, 4, 3, 6)], axis=1)
    score = metrics.dci(factors + generator.normal(size=factors.shape), factors)
    assert score.disentanglement > 0.85
    assert score.completeness > 0.85
    # Of unit noise about whole numbers, the best guess of k values is right for 1 - (2 - 2 / k) Phi(-1/2).
    best = np.mean([1 - (2 - 2 / k) * stats.norm.cdf(-0.5) for k in (5, 4, 3, 6)])
    assert score.informativeness == pytest.approx(best, abs=0.04)


def test_dci_of_noisy_continuous_factors():
    generator = np.random.default_rng(0)
    factors = generator.normal(size=(IMAGES, 3))
    score = metrics.dci(factors + generator.normal(size=factors.shape), factors, continuous=True)
    assert score.disentanglement > 0.85
    assert score.completeness > 0.85
    # R^2 is at most a half.
    assert score.informativeness == pytest.approx(0.45, abs=0.08)


@pytest.mark.parametrize("quantile", [0.99, 1])
def test_irs_of_an_identity_code(quantile):
    generator = np.random.default_rng(0)
    discrete = generator.integers(7, size=(IMAGES, 3))
    assert metrics.irs(discrete, discrete, quantile=quantile) == 1
    assert metrics.irs(0.1 * discrete - 3, discrete, quantile=quantile) == 1
    # Within a bin, a factor moves by half the bin's width.
    continuous = generator.uniform(size=(IMAGES, 3))
    for bins in (10, 20):
        score = metrics.irs(continuous, continuous, bins, quantile)
        assert score == pytest.approx(1 - 1 / bins, abs=0.01)


def test_irs_is_not_negative():
    # One image of each value is on the other's side, twice as far from its value's mean as any is from all's.
    factor = np.repeat([0, 1], 100)
    codes = np.where(factor, 1.0, -1.0)
    codes[[0, 100]] *= -1
    assert metrics.irs(codes[:, np.newaxis], factor[:, np.newaxis], quantile=1) == 0


# What scores do not depend on


@pytest.mark.parametrize(
    ("scale", "shift"), [(1e-7, 0), (1e-12, 0), (1e9, 0), (1, 1e6), (1e-3, 1e6), (-1, 0)]
)
@pytest.mark.parametrize("name", DISENTANGLEMENT)
def test_scale_and_shift_change_no_score(name, scale, shift):
    generator = np.random.default_rng(0)
    factors = np.stack([generator.integers(size, size=400) for size in (3, 4)], axis=1)
    codes = factors @ [[1, 0.3], [0, 1]] + 0.5 * generator.normal(size=(400, 2))
    score = DISENTANGLEMENT[name]
    # Where a dimension is turned around, thresholds and bins are on the other side of ties.
    tolerance = 0.05 if scale < 0 else 1e-3
    assert score(scale * codes + shift, factors) == pytest.approx(score(codes, factors), abs=tolerance)


@pytest.mark.parametrize("name", ["disentanglement", "informativeness", "sap"])
def test_the_scale_of_continuous_factors_changes_no_score(name):
    generator = np.random.default_rng(0)
    factors = generator.normal(size=(400, 2))
    codes = factors + 0.5 * generator.normal(size=(400, 2))
    scores = {
        "sap": lambda factors: metrics.sap(codes, factors, continuous=True),
        "disentanglement": lambda factors: metrics.dci(codes, factors, continuous=True).disentanglement,
        "informativeness": lambda factors: metrics.dci(codes, factors, continuous=True).informativeness,
    }
    assert scores[name](1e-12 * factors + 1e-9) == pytest.approx(scores[name](factors), abs=1e-3)


@pytest.mark.parametrize("name", ["factor_vae", "irs", "disentanglement", "modularity", "sap"])
def test_a_constant_that_floats_round_is_constant(name, factors):
    # The mean of such numbers differs after rounding.
    constant = np.full((IMAGES, 2), 0.1)
    assert (constant.var(axis=0) > 0).all()
    assert DISENTANGLEMENT[name](constant, factors) == 0


# Few images, rare classes, constants


def test_a_value_of_one_image_leaves_the_other_values_scores(factors, identity):
    """It cannot be both learned and tested. With every seed it is in one of the halves."""
    labels = factors[:, 0].copy()
    labels[0] = 4
    binary = (factors[:, :1] > 1).astype(int)
    for seed in range(6):
        noise = np.random.default_rng(seed).normal(size=(IMAGES, 1))
        codes = np.hstack([labels[:, np.newaxis], noise])
        assert metrics.sap(codes, labels[:, np.newaxis], seed=seed) == pytest.approx(0.75, abs=0.04)
        # As the value of a factor of its own, it leaves out that factor.
        one_vs_rest = metrics.one_vs_rest(labels)
        assert metrics.explicitness(one_vs_rest, one_vs_rest, seed=seed) == pytest.approx(1)
        assert metrics.sap(binary, np.hstack([binary, one_vs_rest[:, 4:]]), seed=seed) == 1


def test_each_class_with_two_images_or_more_is_learned_and_tested():
    labels = np.repeat(np.arange(6), [1, 2, 2, 2, 2, 5])
    for seed in range(5):
        train, test, *_ = metrics._halves(labels, labels, seed)
        assert set(train) - {0} == set(test) - {0} == {1, 2, 3, 4, 5}


@pytest.mark.parametrize("probe", ["linear", "mlp"])
def test_leakage_of_few_images(probe):
    generator = np.random.default_rng(0)
    single = np.zeros(10, int)
    assert metrics.leakage(generator.normal(size=(10, 3)), single, probe) == 1
    # A class of one image is found where it is not tested, and costs an image where it is.
    labels = np.repeat(np.arange(3), 300)
    labels[0] = 3
    codes = 100.0 * metrics.one_vs_rest(labels)
    for seed in range(4):
        assert metrics.leakage(codes, labels, probe, seed) >= 1 - 1 / 450
    # No image of a class that was learned is left to be tested.
    assert metrics.leakage(np.eye(6), np.arange(6), probe) == 0


def test_neighbours_and_clusters_of_few_images():
    codes = np.array([[0.0], [0.1], [10.0], [10.1]])
    assert metrics.knn_accuracy(codes, [0, 0, 1, 1], neighbours=1) == 1
    # All of the half are neighbours.
    assert metrics.knn_accuracy(np.zeros((3, 1)), [0, 0, 0]) == 1
    assert metrics.silhouette(codes, [0, 1, 2, 3]) == 0
    assert metrics.silhouette(np.ones((4, 2)), [0, 0, 1, 1]) == 0
    # An image alone counts 0, and one at 0 has a = 0.1 and b = 10.
    assert metrics.silhouette(codes[:3], [0, 0, 1]) == pytest.approx((1 - 0.1 / 10 + 1 - 0.1 / 9.9) / 3)


def test_constants_have_no_information():
    constant, coin = np.full((10, 1), 0.1), np.arange(10)[:, np.newaxis] % 2
    both = np.hstack([constant, coin])
    np.testing.assert_allclose(metrics.mutual_information(both, both), [[0, 0], [0, np.log(2)]], atol=1e-15)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: metrics.silhouette(np.eye(3), [1, 1, 1]), "at least two classes"),
        (lambda: metrics.leakage(np.eye(1), [0]), "at least two images"),
        (lambda: metrics.knn_accuracy(np.eye(1), [0]), "at least two images"),
        (lambda: metrics.dci(np.eye(3), [[0], [1], [1]]), "at least four images"),
        (lambda: metrics.sap(np.eye(3), [[0], [1], [2]]), "in both halves"),
        (lambda: metrics.explicitness(np.eye(3), [[0], [1], [2]]), "in both halves"),
        (lambda: metrics.active_units([[np.inf]]), "codes must be finite"),
        (lambda: metrics.expected_calibration_error([[np.nan]], [0]), "probabilities must be finite"),
        *[
            (
                lambda score=score: score(np.eye(4), [[0, 1], [1, 1], [0, 1], [1, 1]]),
                "constant factor in column 1",
            )
            for score in DISENTANGLEMENT.values()
        ],
    ],
)
def test_what_is_undefined_has_an_error_of_its_own(call, match):
    with pytest.raises(metrics.UndefinedMetricError, match=match):
        call()


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda v: metrics.mig(v, v, bins=1), "`bins` must be an integer of at least 2"),
        (lambda v: metrics.dci(v, v, trees=0), "`trees` must be a positive integer"),
        (lambda v: metrics.factor_vae_score(v, v, votes=1), "`votes` must be an integer of at least 2"),
        (lambda v: metrics.factor_vae_score(v, v, batch=0), "`batch` must be a positive integer"),
        (lambda v: metrics.beta_vae_score(v, v, points=3), "`points` must be an integer of at least 4"),
        (lambda v: metrics.irs(v, v, quantile=1.5), "`quantile` must be in the range"),
        (lambda v: metrics.knn_accuracy(v, v[:, 0], neighbours=0), "`neighbours` must be a positive integer"),
        (lambda v: metrics.mig(v, v * np.nan), "factors must be finite"),
        (lambda v: metrics.expected_calibration_error(v[:0], []), "probabilities must have shape"),
    ],
)
def test_arguments_are_checked(call, match):
    with pytest.raises(ValueError, match=match):
        call(np.array([[0, 0], [0, 1], [1, 0], [1, 1]]))


@hypothesis.settings(max_examples=15, deadline=None, derandomize=True)
@hypothesis.given(
    images=st.integers(1, 12),
    dimensions=st.integers(1, 3),
    values=st.integers(1, 4),
    kind=st.sampled_from(["normal", "constant", "few"]),
    seed=st.integers(0, 100),
)
def test_any_small_input_has_a_value_in_range_or_none(images, dimensions, values, kind, seed):
    generator = np.random.default_rng(seed)
    codes = {
        "normal": generator.normal(size=(images, dimensions)),
        "constant": np.full((images, dimensions), 0.1),
        "few": generator.integers(2, size=(images, dimensions)),
    }[kind]
    factors = generator.integers(values, size=(images, 2))
    labels = factors[:, 0]
    # One of the three parts of DCI has the errors of all.
    names = set(DISENTANGLEMENT) - {"completeness", "informativeness"}
    scores = {name: functools.partial(DISENTANGLEMENT[name], codes, factors) for name in sorted(names)}
    scores |= {
        "sap of continuous factors": lambda: metrics.sap(codes, factors, continuous=True),
        "dci of continuous factors": lambda: metrics.dci(codes, factors, continuous=True).disentanglement,
        "leakage": lambda: metrics.leakage(codes, labels, seed=seed),
        "leakage to an mlp": lambda: metrics.leakage(codes, labels, "mlp", seed),
        "knn": lambda: metrics.knn_accuracy(codes, labels, seed=seed),
        "silhouette": lambda: (1 + metrics.silhouette(codes, labels)) / 2,
    }
    for name, score in scores.items():
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.simplefilter("ignore", ConvergenceWarning)
            try:
                value = score()
            except metrics.UndefinedMetricError:
                continue
        assert 0 <= value <= 1, name
