"""Metrics against known answers: codes that are the factors, that are constant, that hold them twice."""

import numpy as np
import pytest
from scipy import stats

from separationfactor import metrics

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
    # Far logits neither overflow nor lose what they say.
    np.testing.assert_allclose(metrics.bernoulli_log_likelihood([[1.0, 0.0]], [[-1000.0, -1000.0]]), [-1000])
    with pytest.raises(ValueError, match="must have one shape"):
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
    # The best a line can do is to cut off a corner: two thirds.
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
        (lambda: metrics.irs(np.eye(3), [[0, 1], [0, 2], [0, 3]]), "a constant one in column 0"),
        (lambda: metrics.modularity(np.eye(3), [[0], [1], [2]]), "at least 2 of them"),
        (lambda: metrics.factor_vae_score(np.eye(3), [[0], [1], [2]]), "at least 2 of them"),
        (lambda: metrics.leakage(np.eye(3), [0.0, 1.0, 2.0]), "labels must be one integer"),
    ],
)
def test_errors(call, match):
    with pytest.raises(ValueError, match=match):
        call()


def test_a_seed_repeats_a_score(factors, rotated):
    for name in ("sap", "disentanglement", "factor_vae", "beta_vae"):
        assert DISENTANGLEMENT[name](rotated, factors) == DISENTANGLEMENT[name](rotated, factors)
