"""What the models of images promise beyond their formulas: bounds, penalties, ranges, dtypes, any network."""

import itertools
import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from separationfactor.models import CompletionBaseline, CompletionVAE, ConditionalVAE, KSparseAutoencoder
from separationfactor.models.inverse_autoregressive_flow import InverseAutoregressiveFlow
from separationfactor.models.pixel_cnn import PixelCNN

SHAPE = (8, 8, 1)


def data(count=12, classes=3):
    rng = np.random.default_rng(0)
    return rng.random((count, *SHAPE)).astype("float32"), rng.integers(0, classes, count)


MODELS = {
    "label": lambda: ConditionalVAE(SHAPE, 3, seed=1),
    "predicted": lambda: ConditionalVAE(SHAPE, 3, seed=1, condition="predicted"),
    "flow": lambda: ConditionalVAE(SHAPE, 3, seed=1, posterior="iaf"),
    "pixels": lambda: ConditionalVAE(SHAPE, 3, seed=1, decoder="pixelcnn"),
    "baseline": lambda: CompletionBaseline(SHAPE, 2, 16),
    "completion": lambda: CompletionVAE(CompletionBaseline(SHAPE, 2, 16), 4, seed=1),
    "k-sparse": lambda: KSparseAutoencoder(SHAPE, 16, 4, input_dropout=0.1, seed=1),
}


def make(name, **compiled):
    """Returns a model. With `run_eagerly`, a single step takes a tenth of the time that tracing takes."""
    keras.utils.set_random_seed(1)
    model = MODELS[name]()
    model.compile(**({"optimizer": "sgd"} | compiled))
    return model


def inputs_of(model):
    images, labels = data()
    return (images, labels) if isinstance(model, ConditionalVAE) else (images,)


# The bound


class OfFourImages(ConditionalVAE):
    """Its classifier and its decoder know the four black and white images of 1 x 2 pixels."""

    IMAGES = np.array(list(itertools.product([0, 1], repeat=2)), "float32")

    def make_classifier(self):
        images = keras.Input(self.image_shape)
        logits = keras.layers.Dense(4, name="logits")(keras.layers.Flatten()(images))
        return keras.Model(images, logits)

    def make_encoder(self):
        images, class_vector = keras.Input(self.image_shape), keras.Input((4,))
        flat = keras.layers.Flatten()(images)
        prior = [keras.layers.Dense(4, kernel_initializer="zeros")(flat) for _ in range(2)]
        return keras.Model([images, class_vector], prior)

    def make_decoder(self):
        latent = keras.Input((4,))
        pixels = keras.layers.Dense(2, name="pixels")(latent)
        return keras.Model(latent, keras.layers.Reshape((1, 2, 1))(pixels))


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("condition", ["label", "predicted"])
def test_a_bound_spends_no_more_than_all_probability(condition, hard):
    """The sum over all images x of exp(-negative_elbo) is at most that of p(x | y), which is 1."""
    model = OfFourImages(
        (1, 2, 1),
        4,
        condition=condition,
        hard=hard,
        separation_factor=50.0,
        suppression_factor=0.0,
        seed=0,
    )
    signs = 2 * OfFourImages.IMAGES - 1
    model.classifier.get_layer("logits").set_weights([20 * signs.T, np.zeros(4)])
    model.decoder.get_layer("pixels").set_weights([0.5 * signs, np.zeros(2)])
    model.compile()
    images = OfFourImages.IMAGES.reshape(4, 1, 2, 1)
    np.testing.assert_array_equal(model.classify(images).numpy().argmax(-1), range(4))
    for label in range(4):
        labels = np.full(4, label)
        bounds = [
            model.evaluate(images[i : i + 1], labels[i : i + 1], verbose=0, return_dict=True)["negative_elbo"]
            for i in range(4)
        ]
        assert 0.9 < np.exp(-np.array(bounds)).sum() <= 1.001
        assert 0.9 < np.exp(model.log_weights(images, labels)).sum() <= 1.001


# A PixelCNN's black and white images


def test_a_black_and_white_image_depends_on_the_grey_one_alone():
    images, _ = data(3)
    drawn = ConditionalVAE._black_and_white(images).numpy()
    assert np.isin(drawn, (0, 1)).all()
    for order in ([2, 0, 1], [1], [0, 0]):
        np.testing.assert_array_equal(ConditionalVAE._black_and_white(images[order]), drawn[order])


def test_black_and_white_images_have_the_grey_ones_as_means():
    # Images that hardly differ. Each still has its own noise.
    images = 0.3 + 1e-5 * np.random.default_rng(0).random((4000, *SHAPE)).astype("float32")
    drawn = ConditionalVAE._black_and_white(images).numpy()
    np.testing.assert_allclose(drawn.mean(0), 0.3, atol=5 * math.sqrt(0.21 / 4000))
    np.testing.assert_allclose(drawn.mean((1, 2, 3)), 0.3, atol=5.5 * math.sqrt(0.21 / 64))


def test_log_weights_of_an_image_do_not_depend_on_the_batch():
    model = make("pixels")
    images, labels = data(2)
    together, alone = (
        np.mean([model.log_weights(images[part], labels[part]).numpy()[-1] for _ in range(40)])
        for part in (slice(0, 2), slice(1, 2))
    )
    # Another black and white image would be some nats apart, the sample of z is not.
    np.testing.assert_allclose(together, alone, atol=0.25)


# Random numbers


@pytest.mark.parametrize("name", ["label", "flow", "pixels", "completion"])
def test_drawing_from_a_seed_repeats_and_leaves_the_model_where_it_was(name):
    model, untouched = make(name, run_eagerly=True), make(name, run_eagerly=True)
    inputs = inputs_of(model)

    def evaluate(model):
        return model.evaluate(*inputs, verbose=0, return_dict=True)

    results = []
    for seed in (5, 5, 6):
        with model.drawing_from(seed):
            results.append(evaluate(model))
    assert results[0] == pytest.approx(results[1], rel=1e-6)
    assert results[0] != pytest.approx(results[2], rel=1e-6)
    assert evaluate(model) == pytest.approx(evaluate(untouched), rel=1e-6)
    with pytest.raises(KeyError), model.drawing_from(5):
        raise KeyError
    assert evaluate(model) == pytest.approx(evaluate(untouched), rel=1e-6)


# Penalties


@pytest.mark.parametrize("name", MODELS)
def test_regularizers_are_part_of_the_loss_and_trained_on(name):
    none, heavy = make(name, run_eagerly=True), make(name, run_eagerly=True)
    weight = heavy.trainable_weights[0]
    weight.regularizer = keras.regularizers.L2(0.5)
    penalty = 0.5 * np.square(weight.numpy()).sum()
    inputs = inputs_of(none)
    before, after = (model.test_on_batch(*inputs, return_dict=True) for model in (none, heavy))
    np.testing.assert_allclose(after.pop("loss") - before.pop("loss"), penalty, rtol=1e-4)
    assert after == before
    step = [(model.train_on_batch(*inputs), model.trainable_weights[0].numpy())[1] for model in (none, heavy)]
    # Its gradient is the weight, and the learning rate 0.01; batch normalization and the like stay the same.
    np.testing.assert_allclose(
        step[1] - step[0], -0.01 * make(name).trainable_weights[0], rtol=1e-2, atol=1e-6
    )


class Penalized(ConditionalVAE):
    """Its networks have penalties, and so has the model itself."""

    def make_classifier(self):
        images = keras.Input(self.image_shape)
        flat = keras.layers.Flatten()(images)
        flat = keras.layers.Lambda(lambda x: 0 * x + 1)(flat)
        flat = keras.layers.ActivityRegularization(l2=1.0)(flat)  # 64 ones an image
        return keras.Model(images, keras.layers.Dense(self.num_classes)(flat))

    def _terms(self, data, training):
        self.add_loss(tf.constant(1000.0))
        return super()._terms(data, training)


@pytest.mark.parametrize("condition", ["label", "predicted"])
@pytest.mark.parametrize("eagerly", [False, True])
def test_activity_penalties_and_add_loss_are_part_of_the_loss_once(condition, eagerly):
    keras.utils.set_random_seed(1)
    model = Penalized(SHAPE, 3, condition=condition, beta=0.0, seed=1)
    model.compile("sgd", run_eagerly=eagerly)
    images, labels = data()
    activity = keras.layers.ActivityRegularization(l2=1.0)
    activity(np.ones((len(images), 64), "float32"))
    expected = 1000 + float(activity.losses[0])
    for _ in range(3):  # penalties of earlier steps are gone
        model.classify(images)
        result = model.test_on_batch(images, labels, return_dict=True)
        own = result["classifier_loss"]
        if condition == "label":
            own += result["reconstruction"]
            np.testing.assert_allclose(result["loss"] - own, expected, rtol=1e-5)
        else:
            assert expected < result["loss"] - own < expected + 100
        model.reset_metrics()
        model.train_on_batch(images, labels)
        model.reset_metrics()


@pytest.mark.parametrize("name", MODELS)
def test_a_frozen_model_is_evaluated_by_fit(name):
    model = make(name)
    model.trainable = False
    model.compile("sgd", run_eagerly=True)
    before = model.get_weights()
    with pytest.warns(UserWarning, match="does not have any trainable weights"):
        history = model.fit(*inputs_of(model), verbose=0).history
    assert np.isfinite(history["loss"]).all()
    for weight, value in zip(model.trainable_weights, before, strict=False):
        np.testing.assert_array_equal(weight, value)


# Ranges


@pytest.mark.parametrize("name", [name for name in MODELS if name != "k-sparse"])
def test_images_out_of_range(name):
    model = make(name)
    images, *labels = inputs_of(model)
    for value in (255.0, -0.1, np.nan, np.inf):
        images[3, 5, 5] = value
        with pytest.raises(
            tf.errors.InvalidArgumentError, match=r"Images must be floats in \[0, 1\]. Received"
        ):
            model.fit(images, *labels, verbose=0)


def test_missing_pixels_may_have_any_values():
    model = make("completion")
    images, _ = data()
    wild = images.copy()
    wild.reshape(12, -1)[:, model._missing] = np.nan
    np.testing.assert_array_equal(model(wild), model(images))
    wild.reshape(12, -1)[0, model._observed[0]] = 2
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"floats in \[0, 1\]"):
        model(wild)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_labels_that_are_no_classes(jit_compile):
    model = make("label", jit_compile=jit_compile)
    images, good = data()
    for wrong in (-7, 3, 2**40):
        labels = np.array([*good[:-1], wrong])
        for call in (
            lambda labels: model.fit(images, labels, verbose=0),
            lambda labels: model.fit(images, good, validation_data=(images, labels), verbose=0),
            lambda labels: model.evaluate(images, labels, verbose=0),
            lambda labels: model.train_on_batch(images, labels),
            lambda labels: model.test_on_batch(images, labels),
        ):
            with pytest.raises(
                tf.errors.InvalidArgumentError,
                match=r"`labels` must be integers in \[0, 3\).*Received: numbers",
            ):
                call(labels)


def test_what_xla_cannot_refuse_is_nan():
    model = make("label", jit_compile=True)
    images, good = data()
    labels = np.array([*good[:-1], 3])
    batches = tf.data.Dataset.from_tensor_slices((images, labels)).batch(12)
    assert np.isnan(model.evaluate(batches, verbose=0, return_dict=True)["loss"])
    batches = tf.data.Dataset.from_tensor_slices((255 * images, good)).batch(12)
    assert np.isnan(model.evaluate(batches, verbose=0, return_dict=True)["loss"])
    batches = tf.data.Dataset.from_tensor_slices((images, good)).batch(12)
    assert np.isfinite(model.evaluate(batches, verbose=0, return_dict=True)["loss"])
    decode = tf.function(model.decode, jit_compile=True)
    z = np.zeros((2, 3), "float32")
    assert np.isnan(decode(z, tf.constant([0, 3]))).all()
    assert np.isfinite(decode(z, tf.constant([0, 2]))).all()


# Dtypes


@pytest.fixture
def float64():
    keras.config.set_floatx("float64")
    yield
    keras.config.set_floatx("float32")


@pytest.mark.parametrize("name", MODELS)
def test_every_model_trains_with_floatx_float64(name, float64):
    model = make(name)
    images, *labels = inputs_of(model)
    losses = model.fit(images.astype("float64"), *labels, epochs=3, verbose=0).history["loss"]
    assert losses[-1] < losses[0]


def test_every_method_works_with_floatx_float64(float64):
    for name in ("label", "flow", "pixels"):
        model = make(name)
        images, labels = data(2)
        for result in (
            model.encode(images)[0],
            model.represent(images),
            model.log_weights(images, labels),
            model.generate(labels),
            model.generate(labels, seed=1),
            model.swap(images, labels, seed=1),
            model.traverse(labels, z=np.zeros((2, 3))),
            model.morph(labels, labels, z=np.zeros((2, 3))),
        ):
            assert result.dtype == tf.float32
            assert np.isfinite(result).all()
    completion = make("completion")
    assert np.isfinite(completion.complete(data(2)[0], samples=2)).all()
    assert np.isfinite(completion.conditional_nll(data(2)[0], samples=2)).all()


@pytest.mark.parametrize("dtype", ["float64", "bfloat16", "mixed_bfloat16", "mixed_float16"])
def test_the_layers_of_models_take_any_dtype(dtype):
    rng = np.random.default_rng(0)
    images, features, noise = (rng.random((2, 6, 6, size)).astype("float32") for size in (1, 3, 1))
    z, context = rng.normal(size=(2, 3)).astype("float32"), rng.normal(size=(2, 5)).astype("float32")
    exact = PixelCNN(1, 8), InverseAutoregressiveFlow()
    expected = [exact[0](images, features), *exact[1](z, context)]
    layers = PixelCNN(1, 8, dtype=dtype), InverseAutoregressiveFlow(dtype=dtype)
    layers[0].build(images.shape, features.shape)
    layers[1].build(z.shape, context.shape)
    for one, other in zip(exact, layers, strict=True):
        other.set_weights(one.get_weights())
    outputs = [layers[0](images, features), *layers[1](z, context)]
    for one, other in zip(expected, outputs, strict=True):
        assert other.dtype == layers[0].compute_dtype
        np.testing.assert_allclose(one, tf.cast(other, tf.float32), atol=1e-5 if dtype == "float64" else 0.1)
    means = layers[0].draw(features, noise)[1]
    assert means.dtype == layers[0].compute_dtype
    assert np.isfinite(tf.cast(means, tf.float32)).all()


@pytest.mark.parametrize("dtype", ["float64", "float16", "int64", "int32", "uint8"])
def test_z_of_any_dtype(dtype):
    model = make("label")
    z = np.array([[0, 1, 2]])
    for call in (
        lambda z: model.decode(z, [1]),
        lambda z: model.morph([0], [1], 3, z=z),
        lambda z: model.traverse([1], z=z),
    ):
        np.testing.assert_array_equal(call(z.astype(dtype)), call(z.astype("float32")))


@pytest.mark.parametrize("shape", [(3,), (1, 2), (1, 4), (1, 1, 3)])
def test_z_of_a_wrong_shape(shape):
    model = make("label")
    for call in (model.decode, lambda z, labels: model.morph(labels, labels, z=z)):
        with pytest.raises(ValueError, match=r"`z` must have shape \(batch, 3\). Received"):
            call(np.zeros(shape), [0])


# Networks of a subclass


class Net(keras.Model):
    """A subclassed network, which has no `outputs`."""

    def __init__(self, *sizes):
        super().__init__()
        self.flatten = keras.layers.Flatten()
        self.ends = [keras.layers.Dense(size) for size in sizes]

    def call(self, inputs, training=False):
        flat = tf.concat([self.flatten(each) for each in tf.nest.flatten(inputs)], -1)
        outputs = [end(flat) for end in self.ends]
        return outputs if len(outputs) > 1 else outputs[0]


NETWORKS = {
    "subclassed": lambda: Net(3),
    "not built": lambda: keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(3)]),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_may_be_subclassed_or_not_built(name, tmp_path):
    class Mine(ConditionalVAE):
        def make_classifier(self):
            return NETWORKS[name]()

        def make_encoder(self):
            return Net(*([3, 3] + [5] * (self.posterior == "iaf")))

    for options in ({}, {"posterior": "iaf"}, {"dtype": "mixed_bfloat16"}):
        keras.utils.set_random_seed(1)
        model = Mine(SHAPE, 3, seed=1, **options)
        model.compile(keras.optimizers.Adam(1e-2))
        losses = model.fit(*data(), epochs=3, verbose=0).history["loss"]
        assert losses[-1] < losses[0]
        model.save_weights(tmp_path / "model.weights.h5")
        loaded = Mine(SHAPE, 3, seed=2, **options)
        loaded.load_weights(tmp_path / "model.weights.h5")
        images, labels = data(2)
        np.testing.assert_array_equal(loaded.swap(images, labels), model.swap(images, labels))


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (lambda: None, r"must return a `keras.Model`. Received: None"),
        (lambda: keras.layers.Dense(3), r"must return a `keras.Model`. Received: <Dense"),
        (lambda: Net(2), r"shapes \[\(3,\)\]. Received: \[\(2,\)\]"),
        (lambda: Net(3, 3), r"shapes \[\(3,\)\]. Received: \[\(3,\), \(3,\)\]"),
        (
            lambda: keras.Sequential([keras.Input((5,)), keras.layers.Dense(3)]),
            r"accepts inputs of the shapes \[\(8, 8, 1\)\].*which fails",
        ),
    ],
)
def test_networks_that_are_none_or_do_not_fit(network, message):
    Wrong = type("Wrong", (ConditionalVAE,), {"make_classifier": lambda self: network()})  # noqa: N806
    with pytest.raises(
        ValueError, match=f"(?s)`make_classifier` must return a `keras.Model`.*{message}|{message}"
    ):
        Wrong(SHAPE, 3)


# The k of an autoencoder


@pytest.mark.parametrize(("alpha", "inference_k"), [(1, 2), (2.5, 5), (100, 16)])
def test_loaded_weights_bring_their_k(alpha, inference_k, tmp_path):
    path = tmp_path / "model.weights.h5"
    KSparseAutoencoder(SHAPE, 16, 2, alpha=alpha).save_weights(path)
    model = KSparseAutoencoder(SHAPE, 16, 5, alpha=alpha)
    images, _ = data()
    encode = tf.function(model.encode)  # traced with the former k
    encode(images)
    model.load_weights(path)
    assert (model.k, model.sparsity.k, model.sparsity.inference_k) == (2, 2, inference_k)
    assert model.get_config()["k"] == 2
    assert (np.count_nonzero(encode(images), axis=-1) == inference_k).all()
    assert (np.count_nonzero(model._code(images, training=True), axis=-1) == 2).all()
