"""The layers as Keras layers: against the oracle, in models, saved, masked, mixed and trained."""

import doctest
import json

import keras
import numpy as np
import pytest
import tensorflow as tf

import oracle
import separationfactor as sf
from conftest import needs_native
from separationfactor import layers

POLICIES = ["float32", "float64", "bfloat16", "float16", "mixed_bfloat16", "mixed_float16"]
# Class, arguments, and what the layer does at inference to a (3, 5, 4) input: k, the factors, the
# axis and the score.
CASES = {
    "separation": (
        sf.SeparationFactor,
        {"separation_factor": 10, "suppression_factor": 0.25},
        (1, 10.0, 0.25, -1, "value"),
    ),
    "separation by magnitude along axis 1": (
        sf.SeparationFactor,
        {
            "separation_factor": 3.0,
            "suppression_factor": -0.5,
            "k": 2,
            "axis": 1,
            "by": "magnitude",
        },
        (2, 3.0, -0.5, 1, "magnitude"),
    ),
    "separation, trainable": (
        sf.SeparationFactor,
        {"separation_factor": 2.5, "suppression_factor": 0.5, "trainable_factors": True},
        (1, 2.5, 0.5, -1, "value"),
    ),
    "k-sparse": (sf.KSparse, {"k": 2}, (2, 1.0, 0.0, -1, "value")),
    "k-sparse with an inference k": (
        sf.KSparse,
        {"k": 1, "inference_k": 3, "axis": -2, "by": "magnitude"},
        (3, 1.0, 0.0, -2, "magnitude"),
    ),
    "k-sparse over the batch": (sf.KSparse, {"k": 1, "axis": 0}, (1, 1.0, 0.0, 0, "value")),
}
cases = pytest.mark.parametrize("case", CASES)
# The layers that work on vectors.
row_cases = pytest.mark.parametrize("case", ["separation", "separation, trainable", "k-sparse"])


@pytest.fixture(autouse=True)
def fresh_keras():
    keras.utils.clear_session(free_memory=False)


def make(case, **kwargs):
    layer_class, arguments, _ = CASES[case]
    return layer_class(**arguments, **kwargs)


def expected(case, x):
    k, separation, suppression, axis, by = CASES[case][2]
    rows = np.moveaxis(x, axis, -1)
    return np.moveaxis(oracle.separate(rows, k, separation, suppression, by), -1, axis)


def normal(shape=(3, 5, 4), dtype="float32", seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(oracle.DTYPES[dtype])


def model_with(layer, **compile_arguments):
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(8), layer, keras.layers.Dense(3)])
    model.compile(keras.optimizers.SGD(1e-3), "mse", **compile_arguments)
    return model


def fit(model, **kwargs):
    x, y = normal((8, 6)), normal((8, 3), seed=1)
    return model.fit(x, y, batch_size=4, verbose=0, shuffle=False, **kwargs).history["loss"]


# Results


@cases
@pytest.mark.parametrize("policy", POLICIES)
def test_output_is_the_oracles(implementation, case, policy):
    layer = make(case, dtype=policy, implementation=implementation)
    compute_dtype = policy.removeprefix("mixed_")
    x = normal()
    y = layer(x)
    assert y.dtype == compute_dtype
    oracle.assert_same(y.numpy(), expected(case, x.astype(oracle.DTYPES[compute_dtype])))
    for weight in layer.trainable_weights:
        assert weight.dtype == ("float32" if "mixed" in policy else policy)


@cases
def test_gradient_is_the_oracles(implementation, case):
    layer = make(case, implementation=implementation)
    x, d_y = tf.constant(normal()), normal(seed=1)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x)
    k, separation, suppression, axis, by = CASES[case][2]
    selected = oracle.select(np.moveaxis(x.numpy(), axis, -1), k, by)
    d_x = oracle.scale(np.moveaxis(d_y, axis, -1), selected, separation, suppression)
    oracle.assert_same(tape.gradient(y, x, d_y).numpy(), np.moveaxis(d_x, -1, axis))


def test_seeds_call(implementation):
    from separationfactor import SeparationFactor

    layer = SeparationFactor(separation_factor=10, supression_factor=0.25, implementation=implementation)
    positional = SeparationFactor(10, 0.25, implementation=implementation)
    probabilities = np.array([[0.5, 0.25, 0.25], [0.0, 0.0, 1.0]], "float32")
    for each in (layer, positional):
        np.testing.assert_array_equal(each(probabilities), [[5.0, 0.0625, 0.0625], [0.0, 0.0, 10.0]])
    assert layer.get_config()["suppression_factor"] == 0.25
    assert "supression_factor" not in layer.get_config()


def test_ksparse_keeps_k_in_training_and_inference_k_at_inference(implementation):
    layer = sf.KSparse(1, inference_k=3, implementation=implementation)
    x = normal((7, 5))
    for arguments, k in (({"training": True}, 1), ({"training": False}, 3), ({}, 3)):
        oracle.assert_same(layer(x, **arguments).numpy(), oracle.separate(x, k))


def test_ksparse_without_inference_k_follows_k(implementation):
    layer = sf.KSparse(1, implementation=implementation)
    x = normal((7, 5))
    layer(x)
    layer.k = 4
    assert layer.inference_k == 4
    for training in (True, False):
        oracle.assert_same(layer(x, training=training).numpy(), oracle.separate(x, 4))


@pytest.mark.parametrize("k", [0, 5])
def test_k_of_nothing_and_of_everything(implementation, k):
    x = normal((7, 5))
    oracle.assert_same(sf.KSparse(k, implementation=implementation)(x).numpy(), oracle.separate(x, k))
    layer = sf.SeparationFactor(3, 0.5, k=k, implementation=implementation)
    oracle.assert_same(layer(x).numpy(), oracle.separate(x, k, 3, 0.5))


def test_autocast_off_keeps_the_inputs_dtype(implementation):
    x = normal((7, 5), "float64")
    layer = sf.SeparationFactor(3, 0.5, trainable_factors=True, autocast=False, implementation=implementation)
    oracle.assert_same(layer(x).numpy(), oracle.separate(x, 1, 3, 0.5))
    assert layer(keras.Input((5,), dtype="float64")).dtype == "float64"


# Keras' conventions


@cases
def test_config_round_trip(implementation, case):
    layer = make(case, name="some", dtype="mixed_bfloat16", implementation=implementation)
    config = layer.get_config()
    assert config == json.loads(json.dumps(config))
    revived = type(layer).from_config(config)
    assert revived.get_config() == config
    serialized = keras.saving.serialize_keras_object(layer)
    assert serialized["registered_name"] == f"separationfactor>{type(layer).__name__}"
    revived = keras.saving.deserialize_keras_object(json.loads(json.dumps(serialized)))
    assert type(revived) is type(layer)
    assert revived.get_config() == config
    assert vars(revived).keys() == vars(layer).keys()


@cases
@pytest.mark.parametrize("shape", [(5, 4), (None, 4), (5, None), (None, None)])
@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
def test_symbolic_call_agrees_with_the_eager_one(implementation, case, shape, policy):
    layer = make(case, dtype=policy, implementation=implementation)
    inputs = keras.Input(shape)
    outputs = layer(inputs)
    assert outputs.shape == (None, *shape)
    assert layer.compute_output_shape((None, *shape)) == (None, *shape)
    x = normal()
    y = keras.Model(inputs, outputs)(x)
    assert keras.backend.standardize_dtype(y.dtype) == outputs.dtype
    oracle.assert_same(y.numpy(), make(case, dtype=policy, implementation=implementation)(x).numpy())


@cases
def test_weights(case):
    layer = make(case)
    assert not layer.built
    assert layer.weights == []
    layer.build((None, 5, 4))
    names = {
        "separation, trainable": (["separation", "suppression"], []),
        "k-sparse": ([], ["k"]),
        "k-sparse with an inference k": ([], ["k"]),
        "k-sparse over the batch": ([], ["k"]),
    }.get(case, ([], []))
    assert [weight.name for weight in layer.trainable_weights] == names[0]
    assert [weight.name for weight in layer.non_trainable_weights] == names[1]
    assert all(weight.shape == () for weight in layer.weights)
    assert layer.count_params() == len(names[0]) + len(names[1])


@pytest.mark.parametrize("policy", POLICIES)
def test_k_is_an_int64_weight_under_every_policy(policy):
    layer = sf.KSparse(3, dtype=policy)
    layer.build((None, 5))
    assert layer.weights[0].dtype == "int64"
    assert layer.weights[0].path == f"{layer.name}/k"
    assert layer.k == 3
    assert isinstance(layer.k, int)


@cases
def test_mask_passes_through(implementation, case):
    x = normal()
    x[0, 3:] = 0
    inputs = keras.Input((5, 4))
    masked = keras.layers.Masking()(inputs)
    layer = make(case, implementation=implementation)
    model = keras.Model(inputs, keras.layers.GlobalAveragePooling1D()(layer(masked)))
    mask = np.arange(5) < np.array([[3], [5], [5]])
    total = (expected(case, x) * mask[..., None]).sum(axis=1)
    np.testing.assert_allclose(model(x), total / mask.sum(axis=1)[:, None], rtol=1e-5, atol=1e-6)


def test_does_not_stop_a_model_from_being_quantized():
    model = model_with(sf.KSparse(2))
    if hasattr(model, "quantize"):
        model.quantize("int8")
    assert model(normal((2, 6))).shape == (2, 3)


@pytest.mark.parametrize("module", [layers])
def test_docstring_examples(module):
    globs = {"np": np, "keras": keras, **vars(module)}
    results = doctest.testmod(module, globs=globs)
    assert results.attempted > 0
    assert results.failed == 0


# Models


@row_cases
@pytest.mark.parametrize(
    "compile_arguments",
    [{"run_eagerly": True}, {"jit_compile": False}, {"jit_compile": "auto"}, {"jit_compile": True}],
    ids=str,
)
def test_fit(implementation, case, compile_arguments):
    layer = make(case, implementation=implementation)
    if compile_arguments == {"jit_compile": True} and not layer.supports_jit:
        with pytest.warns(UserWarning, match="doesn't support `jit_compile=True`"):
            model = model_with(layer, **compile_arguments)
    else:
        model = model_with(layer, **compile_arguments)
    losses = fit(model, epochs=3)
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]


@needs_native
@row_cases
def test_both_implementations_train_alike(case):
    losses = []
    for implementation in ("native", "tf"):
        keras.utils.set_random_seed(1)
        model = model_with(make(case, implementation=implementation), jit_compile=False)
        losses.append(fit(model, epochs=3))
    assert losses[0] == losses[1]


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
@row_cases
def test_fit_in_mixed_precision(implementation, case, policy):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        model = model_with(make(case, implementation=implementation))
        assert np.isfinite(fit(model, epochs=2)).all()
        assert model.layers[1].compute_dtype == policy.removeprefix("mixed_")
    finally:
        keras.config.set_dtype_policy(before)


def test_supports_jit_is_the_implementations(implementation):
    for case in CASES:
        assert make(case, implementation=implementation).supports_jit == sf.implementations.supports_jit(
            implementation
        )


@row_cases
def test_saved_model_is_the_same_model(implementation, case, tmp_path):
    model = model_with(make(case, name="selecting", implementation=implementation))
    fit(model)
    if case == "k-sparse":
        model.get_layer("selecting").k = 5
    x = normal((4, 6), seed=2)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), model.predict(x, verbose=0))
    layer, revived = model.get_layer("selecting"), loaded.get_layer("selecting")
    assert revived.get_config() == layer.get_config()
    assert revived.get_weights() == layer.get_weights()
    assert fit(loaded) == fit(model)

    model.save_weights(tmp_path / "model.weights.h5")
    other = model_with(make(case, implementation=implementation))
    other.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(other.predict(x, verbose=0), model.predict(x, verbose=0))
    assert other.layers[1].k == layer.k


def test_clone_has_the_current_k():
    model = model_with(sf.KSparse(2))
    model.layers[1].k = 6
    assert keras.models.clone_model(model).layers[1].k == 6


def test_summary_counts_the_weights():
    lines = []
    inputs = keras.Input((5,))
    outputs = sf.KSparse(2)(sf.SeparationFactor(2, 0.5, trainable_factors=True)(inputs))
    keras.Model(inputs, outputs).summary(print_fn=lines.append)
    summary = "\n".join(lines)
    assert "Trainable params: 2 " in summary
    assert "Non-trainable params: 1 " in summary


# k


def test_changed_k_does_not_retrace(implementation):
    layer = sf.KSparse(1, implementation=implementation)
    layer.build((None, 5))  # a tf.function that creates variables is traced twice by itself
    traces = []

    @tf.function
    def run(x):
        traces.append(1)
        return layer(x)

    x = normal((7, 5))
    for k in (1, 3, 0, 5):
        layer.k = k
        assert layer.k == k
        oracle.assert_same(run(tf.constant(x)).numpy(), oracle.separate(x, k))
    assert len(traces) == 1


def test_changed_k_reaches_a_compiled_model(implementation):
    layer = sf.KSparse(1, implementation=implementation)
    model = keras.Sequential([keras.Input((5,)), layer])
    x = normal((7, 5))
    oracle.assert_same(model.predict(x, verbose=0), oracle.separate(x, 1))
    layer.k = 3
    oracle.assert_same(model.predict(x, verbose=0), oracle.separate(x, 3))


def test_training_leaves_k_alone(implementation):
    layer = sf.KSparse(3, implementation=implementation)
    model = model_with(layer)
    fit(model, epochs=2)
    assert layer.k == 3
    assert layer.weights[0].path not in [weight.path for weight in model.trainable_weights]


def test_k_assigned_before_the_build():
    layer = sf.KSparse(1)
    layer.k = 4
    x = normal((7, 5))
    oracle.assert_same(layer(x).numpy(), oracle.separate(x, 4))
    assert layer.get_config()["k"] == 4


def test_fixed_k_is_read_only():
    with pytest.raises(AttributeError):
        sf.SeparationFactor(2, 0.5).k = 3
    with pytest.raises(AttributeError):
        sf.KSparse(1, inference_k=2).inference_k = 3


# Trainable factors


def test_gradients_of_trainable_factors(implementation):
    layer = sf.SeparationFactor(2, 0.5, k=2, trainable_factors=True, implementation=implementation)
    x, d_y = normal((7, 5)), normal((7, 5), seed=1)
    with tf.GradientTape() as tape:
        y = layer(x)
    gradients = tape.gradient(y, [weight.value for weight in layer.trainable_weights], d_y)
    selected = oracle.select(x, 2)
    np.testing.assert_allclose(gradients[0], (d_y * x)[selected].sum(), rtol=1e-5)
    np.testing.assert_allclose(gradients[1], (d_y * x)[~selected].sum(), rtol=1e-5)


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_trainable_factors_train(implementation, policy):
    layer = sf.SeparationFactor(1, 1, trainable_factors=True, dtype=policy, implementation=implementation)
    model = keras.Sequential([keras.Input((5,)), layer])
    model.compile(keras.optimizers.Adam(0.1), "mse")
    x = normal((64, 5))
    model.fit(x, oracle.separate(x, 1, 3.0, -0.5), epochs=60, batch_size=32, verbose=0)
    np.testing.assert_allclose(layer.get_weights(), [3.0, -0.5], atol=0.05)
    assert layer.separation_factor == 1.0, "the configuration keeps what training started from"


def test_frozen_factors_have_no_weights(implementation):
    layer = sf.SeparationFactor(
        2, 0.5, trainable_factors=True, trainable=False, implementation=implementation
    )
    layer.build((None, 5))
    assert layer.trainable_weights == []
    assert len(layer.non_trainable_weights) == 2


# Errors


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: sf.SeparationFactor(), TypeError, "'separation_factor'"),
        (lambda: sf.SeparationFactor(1), TypeError, "missing .* 'suppression_factor'"),
        (
            lambda: sf.SeparationFactor(1, 2, supression_factor=2),
            TypeError,
            "both 'suppression_factor' and its other spelling 'supression_factor'",
        ),
        (lambda: sf.SeparationFactor(1, 2, 3), TypeError, "positional arguments"),
        (lambda: sf.SeparationFactor("1", 2), ValueError, "finite number. Received: .*=1"),
        (lambda: sf.SeparationFactor(1, np.inf), ValueError, "finite number. Received: .*=inf"),
        (lambda: sf.SeparationFactor(1, [2]), ValueError, r"finite number. Received: .*=\[2\]"),
        (
            lambda: sf.SeparationFactor(1, 2, trainable_factors=1),
            ValueError,
            "`trainable_factors` must be a boolean. Received: trainable_factors=1",
        ),
        (lambda: sf.KSparse(), TypeError, "'k'"),
        (lambda: sf.KSparse(-1), ValueError, "`k` must be a non-negative integer. Received: k=-1"),
        (lambda: sf.KSparse(1.0), ValueError, "`k` must be a non-negative integer. Received: k=1"),
        (lambda: sf.KSparse(True), ValueError, "`k` must be a non-negative integer"),
        (lambda: sf.SeparationFactor(1, 2, k=-1), ValueError, "`k` must be a non-negative integer"),
        (
            lambda: sf.KSparse(1, inference_k=-2),
            ValueError,
            "`inference_k` must be a non-negative integer. Received: inference_k=-2",
        ),
        (lambda: sf.KSparse(1, axis=0.5), ValueError, "`axis` must be an integer"),
        (lambda: sf.KSparse(1, axis=None), ValueError, "`axis` must be an integer"),
        (
            lambda: sf.KSparse(1, by="rank"),
            ValueError,
            "`by` must be 'value' or 'magnitude'. Received: by='rank'",
        ),
        (
            lambda: sf.KSparse(1, implementation="cuda"),
            ValueError,
            "`implementation` must be one of .*'native', 'tf'.*Received: implementation=cuda",
        ),
        (lambda: sf.KSparse(1, units=3), ValueError, "Unrecognized keyword arguments"),
    ],
)
def test_argument_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize(
    ("layer", "inputs", "message"),
    [
        (lambda: sf.KSparse(1, axis=2), normal((3, 4)), r"range \[-2, 2\).*axis=2"),
        (lambda: sf.KSparse(1, axis=-3), normal((3, 4)), r"range \[-2, 2\).*axis=-3"),
        (lambda: sf.KSparse(5), normal((3, 4)), "`k` .* at most the size .* 4. Received: k=5"),
        (lambda: sf.SeparationFactor(1, 0, k=5), normal((3, 4)), "`k` .* 4. Received: k=5"),
        (lambda: sf.KSparse(1, inference_k=5), normal((3, 4)), "`inference_k` .* 4. Received"),
        (lambda: sf.KSparse(1), np.float32(1), "min_ndim=1"),
        (lambda: sf.KSparse(1), [tf.zeros((3, 4)), tf.zeros((3, 4))], "expect.* 1 input"),
        (lambda: sf.KSparse(1), tf.zeros((3, 4), "int32"), "dtype is one of .*dtype=int32"),
        (lambda: sf.KSparse(1), tf.zeros((3, 4), "complex64"), "one of .*dtype=complex64"),
        (lambda: sf.KSparse(1), tf.sparse.from_dense([[1.0]]), "one dense tensor"),
        (lambda: sf.SeparationFactor(1, 0), tf.ragged.constant([[1.0], []]), "one dense tensor"),
    ],
)
def test_input_errors(layer, inputs, message):
    with pytest.raises(ValueError, match=message):
        layer()(inputs)


@cases
def test_call_and_stateless_call_of_arrays(implementation, case):
    """As Keras' own layers: not only a layer's `__call__` takes what is no tensor."""
    layer = make(case, implementation=implementation)
    layer.build((None, 5, 4))
    x = normal()
    weights = (layer.trainable_variables, layer.non_trainable_variables)
    y, state = layer.stateless_call(*([each.value for each in group] for group in weights), x)
    oracle.assert_same(np.asarray(y), expected(case, x))
    assert len(state) == len(weights[1])
    oracle.assert_same(np.asarray(layer.call(x)), expected(case, x))


@cases
def test_a_variable_as_input(implementation, case):
    x = keras.Variable(normal())
    layer = make(case, implementation=implementation)
    with tf.GradientTape() as tape:
        y = layer(x)
    oracle.assert_same(y.numpy(), expected(case, normal()))
    assert tape.gradient(y, x.value).shape == x.shape
    oracle.assert_same(np.asarray(layer.call(x)), expected(case, normal()))


def test_symbolic_input_errors():
    with pytest.raises(ValueError, match="dtype=int32"):
        sf.KSparse(1)(keras.Input((4,), dtype="int32"))
    with pytest.raises(ValueError, match="one dense tensor"):
        sf.KSparse(1)(keras.Input((4,), sparse=True))
    with pytest.raises(ValueError, match="at most the size of axis -1 of its inputs, 4"):
        sf.KSparse(5)(keras.Input((4,)))


def test_assigned_k_is_checked():
    layer = sf.KSparse(2)
    layer.build((None, 5))
    for k in (-1, 6, 2.0):
        with pytest.raises(ValueError, match=f"`k`.*Received: k={k}"):
            layer.k = k
    assert layer.k == 2


def test_k_beyond_an_unknown_axis_is_the_ops_error(implementation):
    layer = sf.KSparse(6, implementation=implementation)
    run = tf.function(layer, input_signature=[tf.TensorSpec((None, None))])
    assert run(normal((2, 6))).shape == (2, 6)
    with pytest.raises(tf.errors.InvalidArgumentError, match="6"):
        run(normal((2, 5)))
