"""SparseAdam, against Keras' Adam with the dense gradient."""

import doctest
import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import separationfactor as sf
from conftest import needs_native
from separationfactor import optimizers
from separationfactor.optimizers import SparseAdam

N, D = 12, 5
HOW = {
    "eagerly": lambda function: function,
    "in a function": tf.function,
    "under XLA": lambda function: tf.function(function, jit_compile=True),
}
# Arguments of both optimizers.
OPTIONS = {
    "plain": {},
    "other numbers": {"beta_1": 0.8, "beta_2": 0.9, "epsilon": 1e-3},
    "amsgrad": {"amsgrad": True},
    "weight decay": {"weight_decay": 0.01},
    "clipnorm": {"clipnorm": 0.5},
    "clipvalue": {"clipvalue": 0.1},
    "global clipnorm": {"global_clipnorm": 0.5},
    "ema": {"use_ema": True, "ema_momentum": 0.9},
    "ema that overwrites": {"use_ema": True, "ema_momentum": 0.9, "ema_overwrite_frequency": 2},
    "accumulation": {"gradient_accumulation_steps": 2},
    "accumulation, clipped": {"gradient_accumulation_steps": 2, "global_clipnorm": 0.5},
    "loss scale": {"loss_scale_factor": 8.0},
    "loss scale, clipped": {"loss_scale_factor": 8.0, "clipnorm": 0.5},
    "schedule": {},
}


def make(optimizer_class, options, **kwargs):
    rate = keras.optimizers.schedules.ExponentialDecay(0.1, 3, 0.5) if options == "schedule" else 0.1
    return optimizer_class(rate, **OPTIONS[options], **kwargs)


def gradients_of(step, dtype="float32", repeated=False):
    """Slices of some rows, and a dense gradient. They repeat indices in any order if `repeated`."""
    rng = np.random.default_rng(step)
    indices = np.sort(rng.choice(N, [3, 5, 1, 0, 12, 4][step % 6], replace=False))
    if repeated:
        indices = np.concatenate([indices, rng.permutation(indices)[: len(indices) // 2 + 1]])
    values = rng.standard_normal((len(indices), D)) * (1 + step)
    slices = tf.IndexedSlices(tf.constant(values, dtype), tf.constant(indices), tf.constant([N, D]))
    return slices, tf.constant(rng.standard_normal(D), dtype)


def variables(dtype="float32"):
    rng = np.random.default_rng(100)
    return [keras.Variable(rng.standard_normal(shape), dtype=dtype) for shape in ((N, D), (D,))]


def train(optimizer, how="eagerly", dense=False, dtype="float32", repeated=False, steps=6):
    """Returns the weights after each step."""
    weights = variables(dtype)
    optimizer.build(weights)

    def apply(values, indices, gradient):
        slices = tf.IndexedSlices(values, indices, tf.constant([N, D]))
        optimizer.apply([tf.convert_to_tensor(slices) if dense else slices, gradient], weights)

    apply = HOW[how](apply)
    history = []
    for step in range(steps):
        slices, gradient = gradients_of(step, dtype, repeated)
        apply(slices.values, slices.indices, gradient)
        history.append([np.array(weight) for weight in weights])
    return history


def assert_alike(actual, expected, rtol=1e-5, atol=2e-6):
    for step, (one, other) in enumerate(zip(actual, expected, strict=True)):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_allclose(a, b, rtol=rtol, atol=atol, err_msg=f"step {step}")


@pytest.mark.parametrize(
    ("how", "options", "repeated"),
    [("eagerly", options, False) for options in OPTIONS]
    + [("in a function", options, True) for options in OPTIONS]
    + [("under XLA", options, True) for options in ("plain", "global clipnorm")],
)
def test_trains_as_dense_adam_does(implementation, how, options, repeated):
    actual = train(make(SparseAdam, options, implementation=implementation), how, repeated=repeated)
    expected = train(make(keras.optimizers.Adam, options), dense=True, repeated=repeated)
    assert_alike(actual, expected)


@pytest.mark.parametrize(("dtype", "rtol"), [("float64", 1e-12), ("bfloat16", 0.1), ("float16", 0.02)])
def test_other_dtypes(implementation, dtype, rtol):
    # A half type's second moments must not be zero.
    options = {"epsilon": 1e-3}
    actual = train(SparseAdam(0.1, implementation=implementation, **options), dtype=dtype)
    expected = train(keras.optimizers.Adam(0.1, **options), dense=True, dtype=dtype)
    actual, expected = ([[each.astype(float) for each in step] for step in run] for run in (actual, expected))
    assert_alike(actual, expected, rtol=rtol, atol=rtol)


def test_dense_gradients(implementation):
    actual = train(SparseAdam(0.1, implementation=implementation), dense=True)
    assert_alike(actual, train(keras.optimizers.Adam(0.1), dense=True))


def test_a_step_without_rows_moves_the_weights(implementation):
    """By what is left of their momentum."""
    history = train(SparseAdam(0.1, implementation=implementation), steps=4)
    assert not np.array_equal(history[2][0], history[3][0])


def test_numbers_that_are_not_finite_stay_in_their_row(implementation):
    weights = variables()
    optimizer = SparseAdam(0.1, implementation=implementation)
    for number in (np.nan, np.inf):
        slices = tf.IndexedSlices(
            tf.fill((1, D), tf.constant(number, tf.float32)), tf.constant([3]), tf.constant([N, D])
        )
        optimizer.apply([slices, tf.zeros(D)], weights)
    finite = np.isfinite(np.array(weights[0])).all(-1)
    np.testing.assert_array_equal(finite, np.arange(N) != 3)


def test_the_gradient_is_not_made_dense(implementation):
    """No tensor of the step but those that hold all rows of the weights or a moment."""
    weights = variables()
    optimizer = SparseAdam(0.1, implementation=implementation)
    optimizer.build(weights)

    @tf.function
    def apply(values):
        slices = tf.IndexedSlices(values, tf.constant([1, 5]), tf.constant([N, D]))
        optimizer.apply([slices, tf.zeros(D)], weights)

    def types(graph):
        for operation in graph.get_operations():
            yield operation.type
            for name in ("then_branch", "else_branch"):
                if name in operation.node_def.attr:
                    yield from types(graph._get_function(operation.get_attr(name).name).graph)

    found = set(types(apply.get_concrete_function(tf.TensorSpec((2, D))).graph))
    assert ("SeparationFactor>SparseAdam" in found) == (implementation == "native")
    assert ("ResourceScatterAdd" in found) == (implementation == "tf")


# Lazy


def lazily(slices_of_steps, weights, rate=0.1, beta_1=0.9, beta_2=0.999, epsilon=1e-7):
    """The definition in NumPy."""
    w, m, v, last = weights.copy(), np.zeros((N, D)), np.zeros((N, D)), np.zeros(N, int)
    for step, (indices, values) in enumerate(slices_of_steps, 1):
        alpha = rate * np.sqrt(1 - beta_2**step) / (1 - beta_1**step)
        for i in set(indices.tolist()):
            g, missed = values[indices == i].sum(0), step - last[i] - 1
            w[i] -= rate * sum(beta_1**j for j in range(1, missed + 1)) * m[i] / (np.sqrt(v[i]) + epsilon)
            m[i] = m[i] * beta_1 ** (missed + 1) + (1 - beta_1) * g
            v[i] = v[i] * beta_2 ** (missed + 1) + (1 - beta_2) * g**2
            w[i] -= alpha * m[i] / (np.sqrt(v[i]) + epsilon)
            last[i] = step
    return w


@pytest.mark.parametrize(
    ("how", "repeated"), [("eagerly", False), ("in a function", True), ("under XLA", False)]
)
def test_lazy(how, repeated):
    actual = train(SparseAdam(0.1, lazy=True), how, repeated=repeated, steps=8)
    steps = [gradients_of(step, "float64", repeated)[0] for step in range(8)]
    expected = lazily(
        [(each.indices.numpy(), each.values.numpy()) for each in steps], np.array(variables()[0])
    )
    np.testing.assert_allclose(actual[-1][0], expected, rtol=1e-4, atol=1e-5)
    # A vector has no rows: it is trained as by Adam.
    dense = train(keras.optimizers.Adam(0.1), dense=True, repeated=repeated, steps=8)
    np.testing.assert_allclose(actual[-1][1], dense[-1][1], rtol=1e-5, atol=1e-5)


def test_lazy_leaves_other_rows_alone():
    weights = variables()
    before = np.array(weights[0])
    optimizer = SparseAdam(0.1, lazy=True)
    for indices in ([1, 4], [4, 7]):
        slices = tf.IndexedSlices(tf.ones((2, D)), tf.constant(indices), tf.constant([N, D]))
        optimizer.apply([slices, tf.zeros(D)], weights)
    moved = (np.array(weights[0]) != before).any(-1)
    np.testing.assert_array_equal(np.nonzero(moved)[0], [1, 4, 7])


# In Keras


def data(rows=32):
    return np.random.default_rng(0).standard_normal((rows, 8)).astype(np.float32)


def autoencoder(implementation="auto", tied=True):
    keras.utils.set_random_seed(1)
    inputs = keras.Input((8,))
    encoder = sf.SparseEncoder(24, 3, implementation=implementation)
    decoder = sf.SparseDecoder(8, 24, tied_to=encoder if tied else None, implementation=implementation)
    return keras.Model(inputs, decoder(*encoder(inputs)))


def fit(model, **kwargs):
    x = data()
    return model.fit(x, x, batch_size=8, shuffle=False, verbose=0, **{"epochs": 3, **kwargs}).history["loss"]


class DenseAdam(keras.optimizers.Adam):
    """Keras' Adam, which gets slices as dense gradients."""

    def apply(self, grads, trainable_variables=None):
        return super().apply([tf.convert_to_tensor(each) for each in grads], trainable_variables)


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize(
    "compile_arguments",
    [{}, {"run_eagerly": True}, {"jit_compile": True}, {"steps_per_execution": 2}],
    ids=str,
)
def test_fit_is_that_of_dense_adam(implementation, tied, compile_arguments):
    """The two uses of a tied kernel repeat indices."""
    model, reference = autoencoder(implementation, tied), autoencoder("tf", tied)
    if compile_arguments == {"jit_compile": True} and not model.layers[1].supports_jit:
        with pytest.warns(UserWarning, match="doesn't support `jit_compile=True`"):
            model.compile(SparseAdam(0.01, implementation=implementation), "mse", **compile_arguments)
    else:
        model.compile(SparseAdam(0.01, implementation=implementation), "mse", **compile_arguments)
    reference.compile(DenseAdam(0.01), "mse")
    np.testing.assert_allclose(fit(model), fit(reference), rtol=1e-5)
    for one, other in zip(model.weights, reference.weights, strict=True):
        np.testing.assert_allclose(np.array(one), np.array(other), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_fit_in_mixed_precision(implementation, policy):
    """float16 wraps the optimizer in a LossScaleOptimizer."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        model, reference = autoencoder(implementation), autoencoder("tf")
        model.compile(SparseAdam(0.01, implementation=implementation), "mse")
        reference.compile(DenseAdam(0.01), "mse")
        losses = fit(model)
        np.testing.assert_allclose(losses, fit(reference), rtol=0.02)
        assert losses[-1] < losses[0]
        assert model.layers[1].kernel.dtype == "float32"
    finally:
        keras.config.set_dtype_policy(before)


@pytest.mark.parametrize("lazy", [False, True])
def test_saved_optimizer_goes_on_as_the_same(tmp_path, lazy):
    model = autoencoder()
    model.compile(SparseAdam(0.01, lazy=lazy, clipnorm=1.0), "mse")
    fit(model)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert type(loaded.optimizer) is SparseAdam
    assert loaded.optimizer.lazy == lazy
    assert fit(loaded) == fit(model)


def test_config_round_trip():
    optimizer = SparseAdam(
        0.01, 0.8, 0.9, 1e-5, lazy=True, implementation="tf", weight_decay=0.1, name="some"
    )
    config = optimizer.get_config()
    assert config == json.loads(json.dumps(config))
    assert SparseAdam.from_config(config).get_config() == config
    serialized = keras.optimizers.serialize(optimizer)
    assert serialized["registered_name"] == "separationfactor>SparseAdam"
    assert type(keras.optimizers.deserialize(serialized)) is SparseAdam


def test_docstring_example():
    globs = {"np": np, "keras": keras, "SparseEncoder": sf.SparseEncoder, "SparseDecoder": sf.SparseDecoder}
    results = doctest.testmod(optimizers, globs={**vars(optimizers), **globs})
    assert results.attempted > 0
    assert results.failed == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lazy": 1}, "`lazy` must be a boolean. Received: lazy=1"),
        ({"lazy": True, "amsgrad": True}, "`amsgrad` must be False if `lazy` is True"),
        ({"implementation": "gpu"}, "`implementation` must be one of"),
    ],
)
def test_argument_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        SparseAdam(**arguments)


@needs_native
def test_the_op_rejects_what_would_be_wrong():
    m, v, w = (tf.Variable(tf.ones((4, 2))) for _ in range(3))

    def step(latents, rows=1):
        one = tf.constant(1.0, tf.float64)
        sf.library.ops.separation_factor_sparse_adam(
            variable=w.handle,
            m=m.handle,
            v=v.handle,
            gradient=tf.ones((rows, 2)),
            latents=latents,
            alpha=one,
            beta_1=one,
            beta_2=one,
            epsilon=one,
            dense=False,
        )

    for latents in ([4], [-1], [2, 2], [2, 1]):
        with pytest.raises(tf.errors.InvalidArgumentError, match="latents must be ascending"):
            step(latents, len(latents))
    with pytest.raises(tf.errors.InvalidArgumentError, match="gradient must have shape"):
        step([1], 2)


# Strategies

_MIRRORED = """
import sys
import keras, numpy as np, tensorflow as tf
(cpu,) = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from test_sparse_adam import D, N, SparseAdam, assert_alike, gradients_of, make, variables

strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
alone = tf.distribute.get_strategy()


def train(strategy, optimizer_class, options, dense=False, **kwargs):
    with strategy.scope():
        weights = variables()
        optimizer = make(optimizer_class, options, **kwargs)
        optimizer.build(weights)

    def apply(values, indices, gradient):
        slices = tf.IndexedSlices(values, indices, tf.constant([N, D]))
        optimizer.apply([tf.convert_to_tensor(slices) if dense else slices, gradient], weights)

    run = tf.function(lambda *inputs: strategy.run(apply, inputs))
    history = []
    for step in (0, 1, 2, 5):
        # One process has the sum of the replicas' gradients. They share rows.
        replicas = gradients_of(step), gradients_of(step + 1)
        replicas = [(slices.values, slices.indices, gradient) for slices, gradient in replicas]
        if strategy is alone:
            values, indices, gradients = zip(*replicas)
            run(tf.concat(values, 0), tf.concat(indices, 0), sum(gradients))
        else:
            each = strategy.experimental_distribute_values_from_function
            run(*(each(lambda c, i=i: replicas[c.replica_id_in_sync_group][i]) for i in range(3)))
        history.append([np.array(weight) for weight in weights])
    return history


native = {"implementation": sys.argv[1]}
for options in ("plain", "weight decay", "ema", "loss scale"):
    expected = train(alone, keras.optimizers.Adam, options, dense=True)
    assert_alike(train(strategy, SparseAdam, options, **native), expected)
for options in ("clipnorm", "global clipnorm"):
    # Keras clips before the gradients of the replicas are added.
    expected = train(strategy, keras.optimizers.Adam, options, dense=True)
    assert_alike(train(strategy, SparseAdam, options, **native), expected)
assert_alike(train(strategy, SparseAdam, "plain", lazy=True), train(alone, SparseAdam, "plain", lazy=True))
for options in ("accumulation", "ema that overwrites"):
    try:
        train(strategy, SparseAdam, options)
    except ValueError as error:
        assert "must be None under a tf.distribute strategy" in str(error), error
    else:
        raise AssertionError(options)
print("alike")
"""


def test_replicas_train_as_one_process(implementation):
    """Their gradients are concatenated, and so repeat indices."""
    result = subprocess.run(
        [sys.executable, "-c", _MIRRORED, implementation],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path, str(Path(__file__).parent)])},
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert "alike" in result.stdout
