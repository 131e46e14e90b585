"""The reference CVAE: its objective against NumPy, its options, its methods, saving, and repeatability."""

import doctest
import json
import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.stats import norm

import oracle
from conftest import needs_native
from separationfactor.models import ConditionalVAE, conditional_vae

pytestmark = pytest.mark.usefixtures("deterministic")

SHAPE = (8, 8, 1)


def data(count=24, classes=3, shape=SHAPE, seed=0):
    """Images that differ by class: a bright band whose place is the label's, and noise."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, count).astype("int32")
    images = 0.3 * rng.random((count, *shape))
    for image, label in zip(images, labels, strict=True):
        image[2 * label : 2 * label + 2] += 0.7
    return images.astype("float32"), labels


def make(classes=3, shape=SHAPE, *, compiled=True, run_eagerly=False, seed=1, **arguments):
    """Returns a model. If it takes few steps, running them eagerly is faster than tracing."""
    keras.utils.set_random_seed(1)
    model = ConditionalVAE(shape, classes, seed=seed, **arguments)
    if compiled:
        model.compile(keras.optimizers.Adam(1e-2), run_eagerly=run_eagerly)
    return model


def fit(model, epochs=1, **arguments):
    images, labels = data(classes=model.num_classes, shape=model.image_shape)
    return model.fit(images, labels, epochs=epochs, batch_size=8, verbose=0, shuffle=False, **arguments)


OPTIONS = {
    "label": {},
    "predicted": {"condition": "predicted"},
    "predicted, hard": {"condition": "predicted", "hard": True},
    "predicted, stopped": {"condition": "predicted", "stop_gradient": True},
    "concat": {"combine": "concat", "latent_dim": 5},
    "trainable factors": {"trainable_factors": True},
    "no factor": {"separation_factor": 0, "suppression_factor": 0},
    "two classes kept": {"k": 2},
    "beta": {"beta": 4.0},
    "tf": {"implementation": "tf"},
    "flow": {"posterior": "iaf"},
    "pixels": {"decoder": "pixelcnn"},
}


# The objective


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


@pytest.mark.parametrize("options", OPTIONS)
def test_the_loss_is_the_formulas(options):
    """Every term from the networks' outputs, in NumPy and float64."""
    model = make(run_eagerly=True, **OPTIONS[options])
    images, labels = data()
    x = images.astype(np.float64)
    # The sample of z that the step will draw, and the noise by which it makes pixels black or white.
    seeds = keras.random.SeedGenerator(1)
    noise = keras.random.normal((24, model.latent_dim), seed=seeds).numpy()
    pixel_noise = keras.random.uniform(images.shape, seed=seeds).numpy()

    def negative_elbo(class_vector):
        mean, log_variance, *context = (
            each.numpy().astype(np.float64)
            for each in model.encoder([images, class_vector.astype("float32")], training=False)
        )
        z = mean + np.exp(log_variance / 2) * noise
        kl = 0.5 * (np.exp(log_variance) + mean**2 - 1 - log_variance).sum(-1).mean()
        if context:
            log_q = norm.logpdf(z, mean, np.exp(log_variance / 2)).sum(-1)
            z, log_determinant = (each.numpy() for each in model.flow(z.astype("float32"), *context))
            kl = (log_q - log_determinant - norm.logpdf(z).sum(-1)).mean()
        separation = OPTIONS[options].get("separation_factor", 10.0)
        suppression = OPTIONS[options].get("suppression_factor", 0.25)
        code = oracle.separate(class_vector, OPTIONS[options].get("k", 1), separation, suppression)
        latent = z + code if model.combine == "add" else np.concatenate([z, code], -1)
        image_logits = model.decoder(latent.astype("float32"), training=False)
        if model.pixel_cnn is not None:
            image_logits = model.pixel_cnn((pixel_noise < images).astype("float32"), image_logits)
        pixels = sigmoid(image_logits.numpy().astype(np.float64))
        # -E log p(x | z, y), targets first: the black and white parts of a grey pixel.
        return -(x * np.log(pixels) + (1 - x) * np.log1p(-pixels)).sum((1, 2, 3)).mean(), kl

    logits = model.classifier(images, training=False).numpy().astype(np.float64)
    probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    one_hot = np.eye(3)[labels]
    class_vector = one_hot if model.condition == "label" else probabilities
    if model.hard:
        class_vector = np.eye(3)[probabilities.argmax(-1)]
    classifier_loss = -np.log(probabilities[np.arange(24), labels]).mean()
    trained_reconstruction, trained_kl = negative_elbo(class_vector)
    # The bound is at the label, whatever the loss takes for it.
    reconstruction, kl = negative_elbo(one_hot)

    result = model.evaluate(images, labels, batch_size=24, verbose=0, return_dict=True)
    expected = {
        "reconstruction": reconstruction,
        "kl": kl,
        "negative_elbo": reconstruction + kl,
        "classifier_loss": classifier_loss,
        "classifier_accuracy": (logits.argmax(-1) == labels).mean(),
        "loss": trained_reconstruction + model.beta * trained_kl + classifier_loss,
    }
    assert result.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(result[name], value, rtol=2e-5, err_msg=name)


def test_the_metrics_average_over_examples_and_not_over_batches():
    model = make(run_eagerly=True)
    images, labels = data(24)
    whole = model.evaluate(images, labels, batch_size=24, verbose=0, return_dict=True)
    parts = model.evaluate(images, labels, batch_size=7, verbose=0, return_dict=True)
    for name in ("kl", "classifier_loss", "classifier_accuracy"):  # what no sample of z is in
        np.testing.assert_allclose(parts[name], whole[name], rtol=1e-5)


def test_a_code_equal_to_the_prior_has_no_divergence():
    model = make(run_eagerly=True)
    head = model.encoder.get_layer("mean")
    for layer in (head, model.encoder.get_layer("log_variance")):
        layer.set_weights([np.zeros_like(weight) for weight in layer.get_weights()])
    assert model.evaluate(*data(), verbose=0, return_dict=True)["kl"] == 0


def test_the_log_variance_is_any_number_and_no_softmax():
    model = make()
    _, log_variance = model.encode(*data())
    log_variance = log_variance.numpy()
    assert log_variance.min() < 0 < log_variance.max()
    assert not np.allclose(log_variance.sum(-1), 1)
    assert model.encoder.get_layer("log_variance").activation is keras.activations.linear


# Training


@pytest.fixture(scope="module", params=OPTIONS)
def trained_with(request, deterministic):
    """The options of a model, the model after six epochs, and the history of these."""
    options = OPTIONS[request.param]
    model = make(**options)
    return options, model, fit(model, epochs=6).history


def test_training_lowers_the_loss(trained_with):
    losses = trained_with[2]["loss"]
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]


@needs_native
@pytest.mark.parametrize("trained_with", [name for name in OPTIONS if name != "tf"], indirect=True)
def test_both_implementations_train_to_the_same_bits(trained_with):
    options, _, history = trained_with
    assert fit(make(implementation="tf", **options), epochs=6).history == history


def test_a_saved_model_goes_on_as_the_same(trained_with, tmp_path):
    _, model, _ = trained_with
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    images, labels = data(6, seed=2)
    np.testing.assert_array_equal(loaded.swap(images, labels), model.swap(images, labels))
    # The optimizer and the seed generator are saved too, so training goes the same way.
    assert fit(loaded, epochs=2).history == fit(model, epochs=2).history


@pytest.mark.parametrize("jit_compile", [False, "auto"])
def test_training_eagerly_and_in_graphs(jit_compile):
    losses = []
    for eagerly in (False, True):
        model = make(compiled=False)
        model.compile(keras.optimizers.Adam(1e-2), run_eagerly=eagerly, jit_compile=jit_compile)
        losses.append(fit(model).history["loss"])
    np.testing.assert_allclose(*losses, rtol=1e-5)


def test_every_weight_is_trained_and_the_statistics_move():
    model = make(trainable_factors=True)
    before = {weight.path: weight.numpy() for weight in model.weights}
    fit(model, epochs=3)
    still = {weight.path for weight in model.weights if np.array_equal(weight.numpy(), before[weight.path])}
    # With one-hot labels the other classes' entries are zero, and no suppression changes them.
    assert still == {model.separation.suppression.path}
    moved = [weight for weight in model.non_trainable_weights if "moving" in weight.path]
    assert len(moved) == 4


def test_inference_does_not_move_the_statistics():
    model = make()
    fit(model)
    before = [weight.numpy() for weight in model.classifier.non_trainable_weights]
    images, labels = data()
    model.evaluate(images, labels, verbose=0)
    model.swap(images, labels)
    for weight, value in zip(model.classifier.non_trainable_weights, before, strict=True):
        np.testing.assert_array_equal(weight, value)


@pytest.mark.parametrize(
    ("options", "reaches"),
    [
        ({}, False),
        ({"condition": "predicted"}, True),
        ({"condition": "predicted", "hard": True}, True),
        ({"condition": "predicted", "stop_gradient": True}, False),
    ],
    ids=str,
)
def test_whether_the_decoders_gradient_reaches_the_classifier(options, reaches):
    model = make(**options)
    images, labels = data()
    with tf.GradientTape(persistent=True) as tape:
        terms = model._terms((images, labels), training=False)
    weights = model.classifier.trainable_weights
    of_loss, of_classifier = (tape.gradient(terms[name], weights) for name in ("loss", "classifier_loss"))
    for one, other in zip(of_loss, of_classifier, strict=True):
        assert np.array_equal(one, other) != reaches


def test_a_seed_repeats_a_run_and_another_does_not():
    weights = []
    for seed in (1, 1, 2):
        model = make(seed=seed, run_eagerly=True)
        fit(model, epochs=2)
        weights.append(np.concatenate([weight.numpy().ravel() for weight in model.trainable_weights]))
    np.testing.assert_array_equal(weights[0], weights[1])
    assert not np.array_equal(weights[0], weights[2])


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision(policy):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        model = make()
        losses = fit(model, epochs=6).history["loss"]
        assert model.separation.compute_dtype == policy.removeprefix("mixed_")
    finally:
        keras.config.set_dtype_policy(before)
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]


# What a trained model can do


@pytest.fixture(scope="module")
def trained(deterministic):
    model = make()
    fit(model, epochs=40)
    return model


def brightest_band(images):
    return np.asarray(images)[..., 0].mean(-1).reshape(-1, 4, 2).mean(-1).argmax(-1)


def test_the_model_learns_what_it_is_for(trained):
    images, labels = data(50, seed=5)
    assert (trained.classify(images).numpy().argmax(-1) == labels).mean() > 0.9
    assert (brightest_band(trained.reconstruct(images)) == labels).mean() > 0.9
    other = (labels + 1) % 3
    assert (brightest_band(trained.swap(images, other)) == other).mean() > 0.9
    assert (brightest_band(trained.generate(other)) == other).mean() > 0.9


def test_methods_agree_with_each_other(trained):
    images, labels = data(5, seed=3)
    mean, _ = trained.encode(images, labels)
    decoded = trained.decode(mean, labels).numpy()
    np.testing.assert_array_equal(trained.reconstruct(images, labels), decoded)
    np.testing.assert_array_equal(trained.swap(images, labels, labels), decoded)
    np.testing.assert_allclose(trained.predict(images, verbose=0), trained.reconstruct(images), atol=1e-6)
    assert decoded.shape == images.shape
    assert decoded.min() >= 0
    assert decoded.max() <= 1


@pytest.mark.parametrize("options", ["flow", "pixels"])
def test_the_options_learn_what_the_model_is_for(options):
    model = make(**OPTIONS[options])
    fit(model, epochs=60)
    images, labels = data(50, seed=5)
    other = (labels + 1) % 3
    swapped = model.swap(images, other, labels).numpy()
    assert (brightest_band(swapped) == other).mean() > 0.9
    assert (brightest_band(model.generate(other, seed=1)) == other).mean() > 0.9
    # An image's swap does not depend on the other images of the batch.
    np.testing.assert_allclose(model.swap(images[7:8], other[7:8], labels[7:8])[0], swapped[7], atol=1e-5)
    mean, log_variance = model.encode(images, labels)
    np.testing.assert_allclose(model.decode(mean, labels), model.reconstruct(images, labels), atol=1e-5)
    assert log_variance.shape == (50, 3)


def test_the_flows_moments_are_those_of_many_samples():
    model = make(posterior="iaf")
    fit(model, epochs=20)
    images, labels = data(1)
    posterior = model.encoder([np.repeat(images, 20000, 0), np.eye(3)[np.repeat(labels, 20000)]])
    samples, _ = model._sample(tf.random.stateless_normal((20000, 3), (1, 2)), *posterior)
    mean, log_variance = model.encode(images, labels)
    deviation = samples.numpy().std(0)
    np.testing.assert_allclose(mean[0], samples.numpy().mean(0), atol=0.3 * deviation.max())
    np.testing.assert_allclose(np.exp(log_variance[0] / 2), deviation, rtol=0.35)


@pytest.mark.parametrize("options", ["flow", "pixels"])
def test_the_mean_log_weight_is_the_elbo(options):
    model = make(**OPTIONS[options])
    images, labels = data(2)
    # Black and white already, so that all draws of the pixels are the same.
    images, labels = np.repeat(images > 0.5, 4000, 0).astype("float32"), np.repeat(labels, 4000)
    bound = model.evaluate(images, labels, batch_size=8000, verbose=0, return_dict=True)["negative_elbo"]
    np.testing.assert_allclose(np.mean(model.log_weights(images, labels)), -bound, rtol=5e-3)


def test_generated_pixels_are_drawn_anew_for_each_image():
    model = make(decoder="pixelcnn")
    images = model.generate([0, 0], seed=1).numpy()
    np.testing.assert_array_equal(images, model.generate([0, 0], seed=1))
    assert not np.array_equal(images, model.generate([0, 0], seed=2))
    assert not np.array_equal(images[0], images[1])


def test_pixels_are_drawn_by_one_noise_or_by_each_images_own():
    model = make(decoder="pixelcnn")
    images = np.repeat(data(1)[0], 2, axis=0)
    z, labels = np.zeros((2, model.latent_dim), "float32"), [1, 1]
    for draw in (
        lambda **seed: model.decode(z, labels, **seed),
        lambda **seed: model.swap(images, labels, **seed),
    ):
        one, two = draw().numpy()
        # Up to rounding, which on some processors depends on an image's place in the batch.
        np.testing.assert_allclose(one, two, rtol=1e-6)
        one, two = draw(seed=1).numpy()
        assert not np.array_equal(one, two)
        np.testing.assert_array_equal(draw(seed=1), [one, two])
        assert not np.array_equal(draw(seed=2)[0], one)


def test_a_traversal_keeps_the_class_and_moves_one_dimension(trained):
    values = (-2.0, 0.0, 2.0)
    images = trained.traverse([2, 0], values).numpy()
    assert images.shape == (2, 3, 3, *SHAPE)
    for row, label in enumerate([2, 0]):
        assert (brightest_band(images[row].reshape(-1, *SHAPE)) == label).all()
        for dimension in range(3):
            z = np.zeros((3, 3), "float32")
            z[:, dimension] = values
            np.testing.assert_allclose(
                images[row, dimension], trained.decode(z, [label] * 3), rtol=1e-5, atol=1e-6
            )
    start = np.array([[0.5, -1.0, 2.0]], "float32")
    through = trained.traverse([1], [-1.0], z=start).numpy()
    np.testing.assert_allclose(through[0, 1, 0], trained.decode(start, [1])[0], rtol=1e-5, atol=1e-6)


def test_a_morph_goes_from_one_class_to_the_other(trained):
    z = np.full((2, 3), 0.3, "float32")
    images = trained.morph([0, 1], [2, 0], steps=5, z=z).numpy()
    assert images.shape == (2, 5, *SHAPE)
    np.testing.assert_allclose(images[:, 0], trained.decode(z, [0, 1]), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(images[:, -1], trained.decode(z, [2, 0]), rtol=1e-5, atol=1e-6)


def test_a_seed_repeats_samples(trained):
    labels = [0, 1, 2]
    np.testing.assert_array_equal(trained.generate(labels, seed=3), trained.generate(labels, seed=3))
    assert not np.array_equal(trained.generate(labels, seed=3), trained.generate(labels, seed=4))
    assert not np.array_equal(trained.generate(labels), trained.generate(labels))


@keras.saving.register_keras_serializable(package="tests")
class WithNetworksOfItsOwn(ConditionalVAE):
    """Linear networks; what the flow or the PixelCNN is given has sizes that the model's own do not have."""

    def make_classifier(self):
        images = keras.Input(self.image_shape)
        flat = keras.layers.Flatten()(images)
        return keras.Model(images, keras.layers.Dense(self.num_classes)(flat))

    def make_encoder(self):
        images, class_vector = keras.Input(self.image_shape), keras.Input((self.num_classes,))
        features = keras.layers.Concatenate()([keras.layers.Flatten()(images), class_vector])
        outputs = [keras.layers.Dense(self.latent_dim)(features) for _ in range(2)]
        return keras.Model(
            [images, class_vector], [*outputs, features] if self.posterior == "iaf" else outputs
        )

    def make_decoder(self):
        latent = keras.Input((self.latent_dim,))
        height, width, channels = self.image_shape
        shape = (height, width, channels if self.decoder_type == "convolutional" else 5)
        pixels = keras.layers.Dense(math.prod(shape))(latent)
        return keras.Model(latent, keras.layers.Reshape(shape)(pixels))


@pytest.mark.parametrize("options", ["label", "flow", "pixels"])
def test_a_subclass_may_have_networks_of_its_own(options, tmp_path):
    model = WithNetworksOfItsOwn(SHAPE, 3, seed=1, **OPTIONS[options])
    model.compile(keras.optimizers.Adam(1e-2))
    losses = fit(model, epochs=3).history["loss"]
    assert losses[-1] < losses[0]
    images, labels = data()
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert type(loaded) is WithNetworksOfItsOwn
    np.testing.assert_array_equal(
        loaded.swap(images, labels[::-1], labels), model.swap(images, labels[::-1], labels)
    )


@pytest.mark.parametrize(
    ("method", "options", "inputs", "outputs", "message"),
    [
        ("make_classifier", "label", [SHAPE], [(2,)], r"shapes \[\(3,\)\].*Received: \[\(2,\)\]"),
        ("make_encoder", "label", [SHAPE, (3,)], [(3,), (1,)], r"Received: \[\(3,\), \(1,\)\]"),
        ("make_encoder", "flow", [SHAPE, (3,)], [(3,), (3,)], r"shapes .*\(None,\).*Received: .*\(3,\)\]"),
        ("make_decoder", "label", [(3,)], [(8, 8, 3)], r"\[\(8, 8, 1\)\].*Received: \[\(8, 8, 3\)\]"),
        ("make_decoder", "pixels", [(3,)], [(8, 7, 5)], r"\(8, 8, None\).*Received: \[\(8, 7, 5\)\]"),
    ],
)
def test_networks_that_do_not_fit(method, options, inputs, outputs, message):
    def network(_):
        tensors = [keras.Input(shape) for shape in inputs]
        flat = keras.layers.Flatten()(tensors[0])
        ends = [keras.layers.Reshape(shape)(keras.layers.Dense(math.prod(shape))(flat)) for shape in outputs]
        return keras.Model(tensors, ends)

    with pytest.raises(ValueError, match=f"`{method}`.*{message}"):
        type("Wrong", (ConditionalVAE,), {method: network})(SHAPE, 3, **OPTIONS[options])


@pytest.mark.parametrize("shape", [(8, 8, 1), (7, 5, 1), (28, 28, 1), (10, 12, 3)])
def test_image_shapes(shape):
    model = make(2, shape)
    images, labels = np.random.default_rng(0).random((4, *shape)).astype("float32"), [0, 1, 0, 1]
    model.fit(images, np.array(labels), verbose=0)
    assert model.reconstruct(images).shape == (4, *shape)
    assert model.generate(labels).shape == (4, *shape)


# Saving


@pytest.mark.parametrize("name", ["classifier", "encoder", "decoder"])
def test_a_network_can_be_saved_by_itself(name, tmp_path):
    network = getattr(make(compiled=False), name)
    network.save(tmp_path / "network.keras")
    loaded = keras.models.load_model(tmp_path / "network.keras")
    inputs = [np.random.default_rng(0).random((2, *each.shape[1:]), "float32") for each in network.inputs]
    for output, same in zip(tf.nest.flatten(network(inputs)), tf.nest.flatten(loaded(inputs)), strict=True):
        np.testing.assert_array_equal(same, output)


@pytest.mark.parametrize("options", OPTIONS)
def test_config_round_trip(options):
    config = make(**OPTIONS[options], compiled=False, name="some").get_config()
    assert config == json.loads(json.dumps(config))
    assert ConditionalVAE.from_config(config).get_config() == config
    for name, value in OPTIONS[options].items():
        assert config[name] == value


def test_docstring_example():
    results = doctest.testmod(conditional_vae, globs={"np": np, **vars(conditional_vae)})
    assert results.attempted > 0
    assert results.failed == 0


# Errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_shape": (8, 8)}, "`image_shape` must be three positive integers"),
        ({"image_shape": (8, 8, 0)}, "`image_shape` must be three positive integers"),
        ({"num_classes": 1}, "`num_classes` must be an integer > 1. Received: num_classes=1"),
        ({"latent_dim": 0}, "`latent_dim` must be a positive integer"),
        ({"latent_dim": 4}, "`latent_dim` must be at least `num_classes`.*latent_dim=4, num_classes=10"),
        ({"combine": "sum"}, "`combine` must be one of .*'concat'.*combine=sum"),
        ({"condition": "none"}, "`condition` must be one of"),
        ({"posterior": "normal"}, "`posterior` must be one of .*'iaf'.*posterior=normal"),
        ({"decoder": "cnn"}, "`decoder` must be one of .*'pixelcnn'.*decoder=cnn"),
        ({"beta": -1}, "`beta` must not be negative"),
        ({"beta": "1"}, "`beta` must be a finite number"),
        ({"seed": 1.5}, "`seed` must be an integer or `None`"),
        ({"k": 11}, "`k` .*at most the size of axis -1"),
        ({"separation_factor": None}, "`separation_factor` must be a finite number"),
        ({"implementation": "gpu"}, "`implementation` must be one of"),
    ],
)
def test_argument_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        ConditionalVAE(**arguments)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda m, x: m.generate([3]), tf.errors.InvalidArgumentError, r"`labels` must be .*\[0, 3\)"),
        (lambda m, x: m.generate([-1]), tf.errors.InvalidArgumentError, r"`labels` must be .*\[0, 3\)"),
        (lambda m, x: m.generate([1.0]), ValueError, "`labels` must be integers.*float32"),
        (lambda m, x: m.generate(1), ValueError, "`labels` must be a vector"),
        (lambda m, x: m.swap(x, np.eye(3, dtype=int)), ValueError, r"`labels` must be a vector.*\(3, 3\)"),
        (lambda m, x: m.reconstruct(x[:, :4]), ValueError, r"shape \(batch, 8, 8, 1\).*\(24, 4, 8, 1\)"),
        (lambda m, x: m.classify(x[0]), ValueError, r"shape \(batch, 8, 8, 1\)"),
        (lambda m, x: m.encode((x * 255).astype("uint8")), ValueError, r"floats in \[0, 1\].*uint8"),
        (lambda m, x: m.fit(x), ValueError, "images and labels"),
        (
            lambda m, x: m.fit(x, np.zeros(24, int), sample_weight=np.ones(24)),
            ValueError,
            "without sample weights",
        ),
        (
            lambda m, x: m.fit(x, np.full(24, 7)),
            tf.errors.InvalidArgumentError,
            r"`labels` must be .*\[0, 3\)",
        ),
        (lambda m, x: m.traverse([0], 3.0), ValueError, "`values` must be a sequence"),
        (lambda m, x: m.morph([0], [1], steps=1), ValueError, "`steps` must be an integer > 1"),
    ],
)
def test_call_errors(trained, call, error, message):
    with pytest.raises(error, match=message):
        call(trained, data()[0])
