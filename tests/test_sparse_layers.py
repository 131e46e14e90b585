"""The sparse layers as Keras layers: values, shapes, configurations, ties, masks, files and training."""

import doctest
import json

import keras
import numpy as np
import pytest
import tensorflow as tf

import oracle
import separationfactor as sf
from separationfactor import sparse_layers

D, N, K = 6, 20, 3
POLICIES = ["float32", "float64", "bfloat16", "float16", "mixed_bfloat16", "mixed_float16"]


@pytest.fixture(autouse=True)
def fresh_keras():
    keras.utils.clear_session(free_memory=False)


def data(shape=(8, D), seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def pair(tied=False, implementation="auto", **kwargs):
    encoder = sf.SparseEncoder(N, K, implementation=implementation, name="encoder", **kwargs)
    tied_to = encoder if tied else None
    decoder = sf.SparseDecoder(D, N, tied_to=tied_to, implementation=implementation, name="decoder", **kwargs)
    return encoder, decoder


def autoencoder(tied=False, shape=(D,), between=None, **kwargs):
    encoder, decoder = pair(tied, **kwargs)
    inputs = keras.Input(shape)
    values, indices = encoder(inputs)
    return keras.Model(inputs, decoder(values if between is None else between(values), indices))


def expected(model, x):
    """The reconstructions of an autoencoder, in NumPy."""
    encoder, decoder = (model.get_layer(name) for name in ("encoder", "decoder"))
    entries = x.astype(np.float64) @ np.array(encoder.kernel).T + np.array(encoder.bias)
    code = np.where(oracle.select(entries, K), entries, 0)
    return code @ np.array(decoder.kernel) + np.array(decoder.bias)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("shape", [(D,), (5, D), (None, D)])
def test_an_autoencoder(implementation, tied, shape):
    model = autoencoder(tied, shape, implementation=implementation)
    for weight in model.weights:
        weight.assign(data(weight.shape, seed=1))
    x = data((4, *(5 if size is None else size for size in shape)))
    assert model.output_shape == (None, *shape)
    np.testing.assert_allclose(model(x), expected(model, x), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(model.predict(x, verbose=0), expected(model, x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("policy", POLICIES)
def test_dtype_policies(implementation, policy):
    encoder, decoder = pair(implementation=implementation, dtype=policy)
    values, indices = encoder(data())
    outputs = decoder(values, indices)
    assert values.dtype == outputs.dtype == policy.removeprefix("mixed_")
    assert indices.dtype == tf.int32
    for weight in (*encoder.weights, *decoder.weights):
        assert weight.dtype == ("float32" if "mixed" in policy else policy)
    # The kernel's gradient is not made dense by a cast.
    with tf.GradientTape() as tape:
        outputs = decoder(*encoder(data()))
    for gradient in tape.gradient(outputs, [encoder.kernel.value, decoder.kernel.value]):
        assert isinstance(gradient, tf.IndexedSlices)
    symbolic = encoder(keras.Input((D,)))
    assert [each.dtype for each in symbolic] == [values.dtype.name, "int32"]
    assert [each.shape for each in symbolic] == [(None, K)] * 2
    assert decoder(*symbolic).dtype == outputs.dtype.name


def test_relu_and_no_bias(implementation):
    encoder = sf.SparseEncoder(N, N, activation="relu", use_bias=False, implementation=implementation)
    values, indices = encoder(data())
    np.testing.assert_array_equal(indices, np.broadcast_to(np.arange(N), (8, N)))
    np.testing.assert_allclose(
        values, np.maximum(data() @ np.array(encoder.kernel).T, 0), rtol=1e-5, atol=1e-6
    )
    assert len(encoder.weights) == 1
    decoder = sf.SparseDecoder(D, N, use_bias=False, implementation=implementation)
    decoder(values, indices)
    assert len(decoder.weights) == 1


@pytest.mark.parametrize("make", [lambda n: sf.SparseEncoder(n, 1), lambda n: sf.SparseDecoder(64, n)])
def test_initial_rows_do_not_depend_on_the_number_of_latents(make):
    for latents in (50, 5000):
        layer = make(latents)
        layer.build((None, 64)) if isinstance(layer, sf.SparseEncoder) else layer.build((None, 1), (None, 1))
        assert layer.kernel.shape == (latents, 64)
        np.testing.assert_allclose(np.linalg.norm(layer.kernel, axis=1).mean(), 1, rtol=0.05)


def test_initializers_that_have_no_fans():
    kernel = data((N, D))
    layer = sf.SparseEncoder(N, K, kernel_initializer=lambda shape, dtype=None: kernel)
    layer.build((None, D))
    np.testing.assert_array_equal(layer.kernel, kernel)


# Ties


def test_a_tied_kernel_is_one_weight():
    model = autoencoder(tied=True)
    encoder, decoder = model.layers[1:]
    assert decoder.kernel is encoder.kernel
    assert [weight.path for weight in model.weights] == ["encoder/kernel", "encoder/bias", "decoder/bias"]
    decoder.trainable = False
    assert [weight.path for weight in model.trainable_weights] == ["encoder/kernel", "encoder/bias"]


def test_the_gradient_of_a_tied_kernel_has_both_parts(implementation):
    model = autoencoder(tied=True, implementation=implementation)
    encoder, decoder = model.layers[1:]
    with tf.GradientTape(persistent=True) as tape:
        values, indices = encoder(data())
        outputs = decoder(values, indices)
        fixed = decoder(tf.stop_gradient(values), indices)
    gradient, other = (tape.gradient(y, encoder.kernel.value) for y in (outputs, fixed))
    code = np.zeros((8, N))
    np.put_along_axis(code, indices.numpy(), values.numpy(), -1)
    np.testing.assert_allclose(tf.convert_to_tensor(other), code.T @ np.ones((8, D)), rtol=1e-4, atol=1e-5)
    mask = code != 0
    encoders = (mask * np.array(encoder.kernel).sum(1)).T @ data()
    np.testing.assert_allclose(
        tf.convert_to_tensor(gradient), code.T @ np.ones((8, D)) + encoders, rtol=1e-4, atol=1e-5
    )


COPIES = {
    "file": lambda model, folder: (
        model.save(folder / "model.keras"),
        keras.models.load_model(folder / "model.keras"),
    )[1],
    "configuration": lambda model, folder: keras.Model.from_config(model.get_config()),
    "json": lambda model, folder: keras.models.model_from_json(model.to_json()),
    "clone": lambda model, folder: keras.models.clone_model(model),
    "portable": lambda model, folder: sf.portable(model),
}


@pytest.mark.parametrize("between", [None, "layer"])
@pytest.mark.parametrize("copy", COPIES)
def test_a_copy_is_tied_too(copy, between, tmp_path):
    model = autoencoder(tied=True, between=between and keras.layers.Dropout(0.5))
    duplicate = COPIES[copy](model, tmp_path)
    encoder, decoder = duplicate.get_layer("encoder"), duplicate.get_layer("decoder")
    assert decoder.tied_to is encoder
    assert decoder.kernel is encoder.kernel
    assert encoder is not model.get_layer("encoder")
    assert len(duplicate.weights) == len(model.weights) == 3
    duplicate.set_weights(model.get_weights())
    np.testing.assert_allclose(duplicate(data()), model(data()), rtol=1e-5, atol=1e-6)


class Tied(keras.Model):
    """A subclassed model, whose decoder is built and saved before its encoder."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.encoder, self.decoder = pair(tied=True)

    def build(self, input_shape):
        self.decoder.build((None, K), (None, K))
        self.encoder.build(input_shape)

    def call(self, x):
        return self.decoder(*self.encoder(x))


def test_a_subclassed_model_keeps_its_tie(tmp_path):
    model, other = Tied(), Tied()
    for each in (model, other):
        each(data())
    assert len(model.weights) == 3
    model.save_weights(tmp_path / "model.weights.h5")
    other.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(model(data()), other(data()))


# Keras' conventions


@pytest.mark.parametrize("layer", pair(kernel_regularizer="l2", bias_constraint="non_neg") + pair(tied=True))
def test_config_round_trip(layer):
    config = layer.get_config()
    assert config == json.loads(json.dumps(config))
    assert type(layer).from_config(config).get_config() == config
    serialized = keras.saving.serialize_keras_object(layer)
    assert serialized["registered_name"] == f"separationfactor>{type(layer).__name__}"
    revived = keras.saving.deserialize_keras_object(json.loads(json.dumps(serialized)))
    assert revived.get_config() == config


@pytest.mark.parametrize("tied", [False, True])
def test_saved_model_is_the_same_model(implementation, tied, tmp_path):
    model = autoencoder(tied, implementation=implementation)
    model.compile(sf.optimizers.SparseAdam(0.01, implementation=implementation), "mse")
    model.fit(data(), data(), verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.predict(data(), verbose=0), model.predict(data(), verbose=0))
    histories = [each.fit(data(), data(), verbose=0).history for each in (model, loaded)]
    assert histories[0] == histories[1]


def test_a_mask_passes_through(implementation):
    inputs = keras.Input((5, D))
    masked = keras.layers.Masking()(inputs)
    encoder, decoder = pair(implementation=implementation)
    outputs = keras.layers.GlobalAveragePooling1D()(decoder(*encoder(masked)))
    model = keras.Model(inputs, outputs)
    x = data((3, 5, D))
    x[0, 3:] = 0
    mask = np.arange(5) < np.array([[3], [5], [5]])
    rows = decoder(*encoder(x)).numpy() * mask[..., None]
    np.testing.assert_allclose(model(x), rows.sum(1) / mask.sum(1)[:, None], rtol=1e-5, atol=1e-6)


def test_regularizers_and_constraints(implementation):
    encoder = sf.SparseEncoder(N, K, kernel_constraint=keras.constraints.UnitNorm(axis=1))
    decoder = sf.SparseDecoder(D, N, kernel_regularizer=keras.regularizers.L2(0.5))
    inputs = keras.Input((D,))
    model = keras.Model(inputs, decoder(*encoder(inputs)))
    norm = np.sum(np.array(decoder.kernel) ** 2)
    np.testing.assert_allclose(model.losses, [0.5 * norm], rtol=1e-5)
    model.compile(sf.optimizers.SparseAdam(0.1, implementation=implementation), "mse")
    model.fit(data(), data(), verbose=0)
    np.testing.assert_allclose(np.linalg.norm(encoder.kernel, axis=1), 1, rtol=1e-5)


def test_other_optimizers_train_too(implementation):
    """Those that make slices dense."""
    model = autoencoder(implementation=implementation)
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse")
    losses = model.fit(data(), data(), epochs=5, verbose=0).history["loss"]
    assert losses[-1] < losses[0]


def test_supports_jit_where_nothing_is_lost_by_it(implementation):
    for layer in pair(implementation=implementation):
        assert layer.supports_jit == (implementation == "tf" or sf.library.why_not_xla() is None)


def test_a_compiled_function_gives_the_same(implementation):
    model = autoencoder(implementation=implementation)
    compiled = tf.function(model, jit_compile=True)
    np.testing.assert_allclose(compiled(data()), model(data()), rtol=1e-5, atol=1e-6)


def test_exported_portable_model(tmp_path):
    model = sf.portable(autoencoder())
    model.export(tmp_path / "model", verbose=False)
    loaded = tf.saved_model.load(tmp_path / "model")
    np.testing.assert_allclose(loaded.serve(data()), model(data()), rtol=1e-5, atol=1e-6)


def test_docstring_examples():
    results = doctest.testmod(sparse_layers, globs={"np": np, **vars(sparse_layers)})
    assert results.attempted > 0
    assert results.failed == 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: sf.SparseEncoder(0, 1), "`latents` must be a positive integer"),
        (lambda: sf.SparseEncoder(5, 6), "`k` must be at most `latents`. Received: k=6, latents=5"),
        (lambda: sf.SparseEncoder(5, -1), "`k` must be a non-negative integer"),
        (lambda: sf.SparseEncoder(5, 1, activation="tanh"), "`activation` must be one of"),
        (lambda: sf.SparseEncoder(5, 1, chunk=0), "`chunk` must be a positive integer or `None`"),
        (lambda: sf.SparseEncoder(5, 1, screen="int8"), "`screen` must be one of"),
        (lambda: sf.SparseEncoder(5, 1, implementation="gpu"), "`implementation` must be one of"),
        (lambda: sf.SparseEncoder(5, 1).build((None, None)), "must have a known size"),
        (lambda: sf.SparseDecoder(0, 5), "`features` must be a positive integer"),
        (
            lambda: sf.SparseDecoder(3, 5, tied_to=keras.layers.Dense(5)),
            "`tied_to` must be a `SparseEncoder`",
        ),
        (lambda: sf.SparseDecoder(3, 5, tied_to=sf.SparseEncoder(6, 1)), "`latents` must be that of.*6.*5"),
        (
            lambda: sf.SparseDecoder(3, 5, tied_to=sf.SparseEncoder(5, 1), kernel_constraint="non_neg"),
            "`kernel_constraint` must be `None` if `tied_to` is given",
        ),
    ],
)
def test_argument_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_tie_of_other_widths_is_an_error():
    encoder = sf.SparseEncoder(N, K)
    encoder.build((None, D))
    with pytest.raises(ValueError, match=f"`features` of layer .* must be the number of features.*{D}.*=5"):
        sf.SparseDecoder(5, N, tied_to=encoder).build((None, K))
