"""Completing images: the parts of an image, both models' terms and estimates against NumPy, and saving."""

import json

import keras
import numpy as np
import pytest
from scipy.special import expit, logsumexp
from scipy.stats import norm

from separationfactor.models import CompletionBaseline, CompletionVAE
from separationfactor.models.completion import observed_pixels

pytestmark = pytest.mark.usefixtures("deterministic")

SHAPE = (4, 6, 1)


def data(count=64, seed=0):
    """The left half is one of four. The right half equals it or its negative, at random."""
    halves = np.random.default_rng(9).random((4, 4, 3, 1)) < 0.5
    rng = np.random.default_rng(seed)
    left = halves[rng.integers(0, 4, count)]
    negative = rng.random((count, 1, 1, 1)) < 0.5
    return np.concatenate([left, left ^ negative], axis=2).astype("float32")


def make_baseline(quadrants=2):
    keras.utils.set_random_seed(1)
    baseline = CompletionBaseline(SHAPE, quadrants, hidden_units=32)
    baseline.compile(keras.optimizers.Adam(1e-2))
    return baseline


def make(quadrants=2, seed=1):
    model = CompletionVAE(make_baseline(quadrants), latent_dim=2, seed=seed)
    model.compile(keras.optimizers.Adam(1e-2))
    return model


def fit(model, epochs=1):
    return model.fit(data(), epochs=epochs, batch_size=16, verbose=0, shuffle=False).history


def parts(images, quadrants):
    observed = observed_pixels(SHAPE, quadrants).ravel()
    pixels = images.reshape(len(images), -1).astype(np.float64)
    return pixels[:, observed], pixels[:, ~observed]


def log_bernoulli(pixels, logits):
    p = expit(logits)
    return (pixels * np.log(p) + (1 - pixels) * np.log1p(-p)).sum(-1)


def test_the_quadrants():
    corners = [observed_pixels((28, 28, 1), quadrants)[::27, ::27, 0].tolist() for quadrants in (1, 2, 3)]
    assert corners == [
        [[False, False], [True, False]],
        [[True, False], [True, False]],
        [[True, True], [True, False]],
    ]
    assert [observed_pixels((28, 28, 1), quadrants).sum() for quadrants in (1, 2, 3)] == [196, 392, 588]
    assert observed_pixels((5, 7, 3), 2).sum() == 5 * 3 * 3


@pytest.mark.parametrize("quadrants", [1, 2, 3])
def test_the_baseline(quadrants):
    baseline, images = make_baseline(quadrants), data()
    observed, missing = parts(images, quadrants)
    logits = baseline.network(observed.astype("float32")).numpy().astype(np.float64)
    result = baseline.evaluate(images, verbose=0, return_dict=True)
    np.testing.assert_allclose(result["loss"], -log_bernoulli(missing, logits).mean(), rtol=1e-5)
    completed = baseline.predict(images, verbose=0)
    seen = observed_pixels(SHAPE, quadrants)
    np.testing.assert_array_equal(completed[:, seen], images[:, seen])
    np.testing.assert_allclose(completed[:, ~seen], expit(logits), rtol=1e-5)
    # The model does not read missing pixels.
    np.testing.assert_array_equal(baseline.predict(np.where(seen, images, -7), verbose=0), completed)


@pytest.mark.parametrize("quadrants", [1, 3])
def test_the_cvaes_terms(quadrants):
    model, images = make(quadrants), data()
    noise = keras.random.normal((64, 2), seed=keras.random.SeedGenerator(1)).numpy()
    observed, missing = (part.astype("float32") for part in parts(images, quadrants))
    guess = expit(model.baseline.network(observed).numpy())
    prior_mean, prior_log_variance = (each.numpy().astype(float) for each in model.prior([observed, guess]))
    mean, log_variance = (each.numpy().astype(float) for each in model.recognition([observed, missing]))
    z = mean + np.exp(log_variance / 2) * noise
    logits = model.generation([observed, z.astype("float32")]).numpy().astype(float)
    variance_ratio = np.exp(log_variance - prior_log_variance)
    squares = (mean - prior_mean) ** 2 / np.exp(prior_log_variance)
    kl = 0.5 * (variance_ratio + squares - 1 - np.log(variance_ratio)).sum(-1).mean()
    reconstruction = -log_bernoulli(missing, logits).mean()
    result = model.evaluate(images, batch_size=64, verbose=0, return_dict=True)
    np.testing.assert_allclose(result["kl"], kl, rtol=1e-4)
    np.testing.assert_allclose(result["reconstruction"], reconstruction, rtol=1e-4)
    np.testing.assert_allclose(result["loss"], reconstruction + kl, rtol=1e-4)


@pytest.mark.parametrize("method", ["importance", "monte_carlo"])
def test_the_estimate_is_the_formulas(method):
    model, images = make(), data(5)
    observed, missing = (part.astype("float32") for part in parts(images, 2))
    guess = expit(model.baseline.network(observed).numpy())
    prior = [each.numpy().astype(float) for each in model.prior([observed, guess])]
    posterior = prior
    if method == "importance":
        posterior = [each.numpy().astype(float) for each in model.recognition([observed, missing])]
    seeds, log_weights = keras.random.SeedGenerator(1), []
    for _ in range(3):
        noise = keras.random.normal((5, 2), seed=seeds).numpy()
        z = posterior[0] + np.exp(posterior[1] / 2) * noise
        logits = model.generation([observed, z.astype("float32")]).numpy().astype(float)
        log_densities = [norm.logpdf(z, m, np.exp(v / 2)).sum(-1) for m, v in (prior, posterior)]
        log_weights.append(log_bernoulli(missing, logits) + log_densities[0] - log_densities[1])
    expected = -(logsumexp(log_weights, axis=0) - np.log(3))
    np.testing.assert_allclose(model.conditional_nll(images, 3, method), expected, rtol=1e-4)


@pytest.fixture(scope="module")
def trained(deterministic):
    baseline = make_baseline()
    fit(baseline, epochs=30)
    model = CompletionVAE(baseline, latent_dim=2, seed=1)
    model.compile(keras.optimizers.Adam(1e-2))
    before = [weight.numpy() for weight in model.baseline.weights]
    fit(model, epochs=60)
    for weight, was in zip(model.baseline.weights, before, strict=True):
        np.testing.assert_array_equal(weight, was)
    return model


def test_the_cvae_knows_both_completions_where_the_baseline_knows_none(trained):
    images = data()
    estimates = {
        method: np.mean(trained.conditional_nll(images, 200, method))
        for method in ("importance", "monte_carlo")
    }
    baseline = trained.baseline.evaluate(images, verbose=0)
    bound = np.mean([trained.evaluate(images, verbose=0, return_dict=True)["loss"] for _ in range(10)])
    # The baseline knows nothing of the right half's twelve pixels, the CVAE all but the one bit.
    assert baseline > 11 * np.log(2)
    assert 0.4 < estimates["importance"] < 3
    assert estimates["importance"] < bound
    # Both estimate the same number.
    np.testing.assert_allclose(estimates["monte_carlo"], estimates["importance"], rtol=0.2)


def test_completions_keep_what_is_observed_and_differ(trained):
    images = data(6)
    completed = trained.complete(images, samples=20, seed=3).numpy()
    seen = observed_pixels(SHAPE, 2)
    assert completed.shape == (20, 6, *SHAPE)
    np.testing.assert_array_equal(completed[..., seen], np.broadcast_to(images[:, seen], (20, 6, 12)))
    np.testing.assert_array_equal(completed, trained.complete(images, samples=20, seed=3))
    assert completed[..., ~seen].std(0).mean() > 0.2
    np.testing.assert_array_equal(trained.complete(np.where(seen, images, -7), 20, seed=3), completed)
    assert trained.predict(images, verbose=0).shape == images.shape


def test_a_saved_model_goes_on_as_the_same(tmp_path):
    model = make()
    fit(model)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(data()), model(data()))
    assert loaded.baseline.trainable_weights == []
    assert fit(loaded, epochs=2) == fit(model, epochs=2)


def test_config_round_trip():
    for model in (make_baseline(), make()):
        config = type(model).from_config(model.get_config()).get_config()
        assert json.loads(json.dumps(config)) == json.loads(json.dumps(model.get_config()))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: CompletionBaseline(SHAPE, 4), r"`quadrants` must be one of \(1, 2, 3\).*quadrants=4"),
        (lambda: CompletionBaseline((4, 1, 1)), "`image_shape` must be at least 2 x 2 pixels"),
        (lambda: CompletionBaseline(SHAPE, hidden_units=0), "`hidden_units` must be a positive integer"),
        (lambda: CompletionVAE(None), "`baseline` must be a `CompletionBaseline`. Received: baseline=None"),
        (lambda: CompletionVAE(make_baseline(), 0), "`latent_dim` must be a positive integer"),
        (lambda: CompletionVAE(make_baseline(), seed=0.5), "`seed` must be an integer or `None`"),
        (lambda: make_baseline().fit(data(), np.zeros(64)), "images alone"),
        (lambda: make().conditional_nll(data(), 0), "`samples` must be a positive integer"),
        (lambda: make().conditional_nll(data(), 1, "exact"), "`method` must be one of .*method=exact"),
        (lambda: make().complete(data(), 0), "`samples` must be a positive integer"),
        (lambda: make().complete(data()[:, :3]), r"shape \(batch, 4, 6, 1\)"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()
