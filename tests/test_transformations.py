"""The op in functions that TensorFlow vectorizes, loops, recomputes, differentiates and rewrites."""

import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.grappler import tf_optimizer

import oracle
import separationfactor as sf
from conftest import needs_native, needs_xla
from separationfactor import library, vectorize

pytestmark = needs_native
needs_pfor = pytest.mark.skipif(
    vectorize.RegisterPFor is None, reason="this TensorFlow has no registry of vectorizations"
)


@pytest.fixture(autouse=True)
def no_warnings(monkeypatch):
    """Fails a test in which TensorFlow warns, as it does where it falls back to a loop."""
    warned = []
    for name in ("warning", "warn", "error"):
        monkeypatch.setattr(tf.get_logger(), name, lambda message, *_, **__: warned.append(message))
    yield
    # An eager vectorized_map traces its function at each call.
    assert not [message for message in warned if "retracing" not in message]


def separate(x, k, separation=2.0, suppression=0.5, **options):
    return sf.separate(x, k, separation, suppression, implementation="native", **options)


def normal(shape, seed=0, dtype=np.float32):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def vectorized_map(function, elements):
    """Fails where TensorFlow would run an op in a loop, and compares with a real loop, bit for bit."""
    actual = tf.vectorized_map(function, elements, fallback_to_while_loop=False)
    signature = tf.nest.map_structure(lambda each: tf.TensorSpec(each.shape[1:], each.dtype), actual)
    looped = tf.map_fn(function, elements, fn_output_signature=signature)
    for one, other in zip(tf.nest.flatten(actual), tf.nest.flatten(looped), strict=True):
        assert one.shape == other.shape
        oracle.assert_same(one, other.numpy())
    return actual


# What differs between instances: x alone is the common case, and stays one op.
STACKED = [
    "x",
    "k",
    "separation",
    "k separation",
    "x k",
    "x separation suppression",
    "x k separation suppression",
]


@needs_pfor
@pytest.mark.parametrize("stacked", STACKED)
@pytest.mark.parametrize("by", ["value", "magnitude"])
def test_vectorized_map_over_any_input(stacked, by):
    rng = np.random.default_rng(0)
    elements = {
        "x": rng.integers(-4, 5, (6, 3, 11)).astype(np.float32),
        "k": np.array([0, 1, 5, 10, 11, 3]),
        "separation": np.array([1, 0, -2, 3, 0.5, 0], np.float32),
        "suppression": np.array([0, 0, 1, 0.25, 0, 2], np.float32),
    }
    elements["x"][0, 0, 2:5] = np.nan, np.inf, np.nan
    elements["x"][1:3, 0, :2] = np.inf, np.nan
    elements["x"][4, 1, :4] = -np.inf
    elements = {name: tf.constant(value) for name, value in elements.items()}
    invariant = {name: value[1] for name, value in elements.items() if name not in stacked.split()}

    def f(each):
        inputs = {**invariant, **each}
        return separate(inputs["x"], inputs["k"], inputs["separation"], inputs["suppression"], by=by)

    y = vectorized_map(f, {name: elements[name] for name in stacked.split()})
    for i in range(6):
        inputs = {name: (invariant.get(name, value[i])).numpy() for name, value in elements.items()}
        oracle.assert_same(
            y[i], oracle.separate(inputs["x"], inputs["k"], inputs["separation"], inputs["suppression"], by)
        )


@needs_pfor
@pytest.mark.parametrize("stacked", STACKED)
def test_vectorized_gradients_within_and_without(stacked):
    """Of x and the factors, taken inside the map and through it."""
    elements = {
        "x": tf.constant(normal((4, 2, 9), dtype=np.float64)),
        "k": tf.constant([1, 0, 5, 9]),
        "separation": tf.constant([1.0, 0.0, -2.0, 3.0], tf.float64),
        "suppression": tf.constant([0.5, 2.0, 1.0, 0.25], tf.float64),
    }
    invariant = {name: value[2] for name, value in elements.items() if name not in stacked.split()}
    elements = {name: elements[name] for name in stacked.split()}

    def f(each):
        inputs = {**invariant, **each}
        watched = [inputs["x"], inputs["separation"], inputs["suppression"]]
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(watched)
            y = separate(inputs["x"], inputs["k"], inputs["separation"], inputs["suppression"])
            first = tape.gradient(tf.reduce_sum(y * y * y), watched)
            f = tf.reduce_sum(tf.square(first[0])) + first[1] * first[2]
        return y, *first, *tape.gradient(f, watched)

    vectorized_map(f, elements)
    differentiable = [value for value in (*elements.values(), *invariant.values()) if value.dtype.is_floating]
    gradients = []
    for map_function in (tf.vectorized_map, tf.map_fn):
        options = {"fn_output_signature": (tf.float64,) * 7} if map_function is tf.map_fn else {}
        with tf.GradientTape() as tape:
            tape.watch(differentiable)
            outputs = map_function(f, elements, **options)
            loss = sum(tf.reduce_sum(output**2) for output in outputs)
        gradients.append(tape.gradient(loss, differentiable))
    for actual, expected in zip(*gradients, strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-10)


@needs_pfor
def test_vectorized_map_of_unknown_shapes():
    @tf.function(input_signature=[tf.TensorSpec(None), tf.TensorSpec([None], tf.int32)])
    def f(x, k):
        def each(element):
            return separate(element[0], element[1])

        return tf.vectorized_map(each, (x, k), fallback_to_while_loop=False)

    x, k = normal((4, 3, 7)), [0, 7, 2, 3]
    y = f(x, k)
    for i in range(4):
        oracle.assert_same(y[i], oracle.separate(x[i], k[i], 2.0, 0.5))


@needs_pfor
def test_vectorized_map_checks_k():
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"k must be in \[0, n\]"):
        tf.vectorized_map(lambda k: separate(tf.zeros((2, 5)), k), tf.constant([1, 6]))


@needs_pfor
@needs_xla
@pytest.mark.parametrize("k", [-1, 6])
def test_vectorized_map_checks_k_under_xla(k):
    @tf.function(jit_compile=True)
    def f(x, k):
        return tf.vectorized_map(lambda each: separate(*each), (x, k), fallback_to_while_loop=False)

    x = normal((2, 3, 5))
    with pytest.raises(tf.errors.InvalidArgumentError, match=rf"k must be in \[0, n\].*k = {k}, n = 5"):
        f(x, tf.constant([1, k]))
    for each, row, count in zip(f(x, tf.constant([1, 4])), x, (1, 4), strict=True):
        oracle.assert_same(each, oracle.separate(row, count, 2.0, 0.5))


@needs_pfor
def test_vectorized_map_of_an_invalid_k_that_nothing_raises(monkeypatch):
    """As on a GPU under XLA: the instance's every entry is NaN, and no other's is."""
    monkeypatch.setattr(vectorize, "_checked", lambda k, n: k)
    x = normal((3, 3, 5))
    y = tf.vectorized_map(lambda each: separate(*each), (x, tf.constant([1, 6, 5])))
    assert np.isnan(y[1]).all()
    for i, k in ((0, 1), (2, 5)):
        oracle.assert_same(y[i], oracle.separate(x[i], k, 2.0, 0.5))


@needs_pfor
@pytest.mark.parametrize("k", [0, 1, 2, 5])
def test_vectorized_map_of_plain_ops(k):
    """Of rows that take each of their ways, and of rows that all take one."""
    special = normal((4, 3, 5))
    special[1], special[2, 0, 1:3], special[3] = 0, np.nan, np.round(special[3])
    for x in (normal((4, 3, 5)), special):
        y = tf.vectorized_map(lambda row: sf.separate(row, k, 2.0, 0.5, implementation="tf"), x)
        oracle.assert_same(y, oracle.separate(x, k, 2.0, 0.5))


@needs_pfor
@pytest.mark.parametrize("in_function", [False, True])
def test_jacobian(in_function):
    x = normal((2, 3, 5))

    def jacobians(x, separation):
        with tf.GradientTape(persistent=True) as tape:
            tape.watch([x, separation])
            y = separate(x, 2, separation)
        by_x, by_separation = tape.jacobian(y, [x, separation])
        return by_x, by_separation, tape.batch_jacobian(y, x)

    f = tf.function(jacobians) if in_function else jacobians
    by_x, by_separation, batch = f(tf.constant(x), tf.constant(2.0))
    selected = oracle.select(x, 2)
    factor = np.where(selected, np.float32(2), np.float32(0.5))
    np.testing.assert_array_equal(by_x, np.diag(factor.ravel()).reshape(x.shape * 2))
    np.testing.assert_array_equal(by_separation, np.where(selected, x, 0))
    expected = np.stack([np.diag(each.ravel()).reshape(3, 5, 3, 5) for each in factor])
    np.testing.assert_array_equal(batch, expected)


@needs_pfor
def test_hessian():
    x, separation = tf.constant(normal((3, 4), dtype=np.float64)), tf.constant(2.0, tf.float64)
    with tf.GradientTape(persistent=True) as outer:
        outer.watch([x, separation])
        with tf.GradientTape() as tape:
            tape.watch([x, separation])
            f = tf.reduce_sum(separate(x, 2, separation) ** 3)
        d_x, d_separation = tape.gradient(f, [x, separation])
    selected = oracle.select(x.numpy(), 2)
    factor = np.where(selected, 2.0, 0.5)
    hessian = outer.jacobian(d_x, x).numpy().reshape(12, 12)
    np.testing.assert_allclose(hessian, np.diag((6 * factor**3 * x).numpy().ravel()))
    by_separation = np.where(selected, 9 * 4 * x**2, 0)
    np.testing.assert_allclose(outer.jacobian(d_x, separation), by_separation)
    np.testing.assert_allclose(outer.jacobian(d_separation, x), by_separation)
    np.testing.assert_allclose(
        outer.jacobian(d_separation, separation), (6 * 2 * x**3).numpy()[selected].sum()
    )


def test_map_fn_and_while_loop():
    x = normal((4, 3, 7))
    expected = oracle.separate(x, 2, 2.0, 0.5)
    oracle.assert_same(tf.map_fn(lambda row: separate(row, 2), x), expected)

    @tf.function
    def f(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            _, y = tf.while_loop(lambda i, _: i < 3, lambda i, y: (i + 1, separate(y, i + 1)), (0, x))
        return y, tape.gradient(y, x)

    y, d_x = f(tf.constant(x))
    expected, factor = x, 1
    for k in (1, 2, 3):
        factor = factor * np.where(oracle.select(expected, k), 2.0, 0.5)
        expected = oracle.separate(expected, k, 2.0, 0.5)
    oracle.assert_same(y, expected)
    np.testing.assert_array_equal(d_x, factor)


def test_cond():
    @tf.function
    def f(x, flag):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = tf.cond(flag, lambda: separate(x, 1), lambda: separate(x, 3))
        return y, tape.gradient(y, x)

    x = normal((3, 7))
    for flag, k in ((True, 1), (False, 3)):
        y, d_x = f(tf.constant(x), tf.constant(flag))
        oracle.assert_same(y, oracle.separate(x, k, 2.0, 0.5))
        oracle.assert_same(d_x, np.where(oracle.select(x, k), np.float32(2), np.float32(0.5)))


def test_data_map():
    x = normal((10, 3, 7))
    dataset = tf.data.Dataset.from_tensor_slices(x).map(lambda row: separate(row, 2), tf.data.AUTOTUNE)
    assert dataset.element_spec == tf.TensorSpec((3, 7))
    for batch in dataset.batch(10):
        oracle.assert_same(batch, oracle.separate(x, 2, 2.0, 0.5))


@pytest.mark.parametrize("in_function", [False, True])
def test_recompute_grad(in_function):
    weight = tf.Variable(3.0)

    @tf.recompute_grad
    def block(x):
        return separate(x * weight, 2, weight)

    def gradients(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = block(x)
        return y, *tape.gradient(y, [x, weight])

    x = normal((3, 7))
    y, d_x, d_weight = (tf.function(gradients) if in_function else gradients)(tf.constant(x))
    selected = oracle.select(x, 2)
    oracle.assert_same(y, oracle.separate(x * np.float32(3), 2, 3.0, 0.5))
    np.testing.assert_allclose(d_x, np.where(selected, 9.0, 1.5))
    np.testing.assert_allclose(d_weight, np.where(selected, 6.0, 0.5).ravel() @ x.ravel(), rtol=1e-5)


@pytest.mark.parametrize("in_function", [False, True])
def test_forward_mode_of_x_and_factors(in_function):
    x, d_x = normal((3, 7), dtype=np.float64), normal((3, 7), 1, np.float64)

    def jvp(x, separation):
        with tf.autodiff.ForwardAccumulator([x, separation], [d_x, tf.constant(5.0, tf.float64)]) as forward:
            y = separate(x, 2, separation)
        return forward.jvp(y)

    f = tf.function(jvp) if in_function else jvp
    selected = oracle.select(x, 2)
    expected = np.where(selected, 2.0, 0.5) * d_x + np.where(selected, 5 * x, 0)
    np.testing.assert_allclose(f(tf.constant(x), tf.constant(2.0, tf.float64)), expected)


# Rewriting graphs


def test_shapes_propagate_as_far_as_they_are_known():
    for shape in (None, [None], [None, None], [3, None], [None, 9], [None, 4, 16]):

        @tf.function(input_signature=[tf.TensorSpec(shape), tf.TensorSpec([], tf.int32)])
        def f(x, k):
            y, selected = library.ops.separation_factor_separate(x, k, 1.0, 0.0)
            out = library.ops.separation_factor_scale_selected(y, selected, 1.0, 0.0)
            return y, selected, out, *library.ops.separation_factor_sum_selected(x, out, selected)

        y, selected, out, *sums = f.get_concrete_function().structured_outputs
        assert y.shape.as_list() == shape if shape is not None else y.shape.rank is None
        assert out.shape.rank == y.shape.rank
        assert all(each.shape == () for each in sums)
        if shape is not None:
            n = shape[-1]
            assert selected.shape.as_list() == [*shape[:-1], None if n is None else -(-n // 8)]


@pytest.mark.parametrize("k", [-1, 6])
def test_a_static_k_out_of_range_fails_when_the_graph_is_built(k):
    @tf.function(input_signature=[tf.TensorSpec([None, 5])])
    def f(x):
        return library.ops.separation_factor_separate(x, k, 1.0, 0.0)[0]

    with pytest.raises(ValueError, match=rf"k must be in \[0, n\].*k = {k}, n = 5"):
        f.get_concrete_function()


def test_shapes_that_do_not_match_fail_when_the_graph_is_built():
    ops = library.ops
    x, mask = tf.TensorSpec([None, 9]), tf.TensorSpec([None, 3], tf.uint8)
    for function in (
        lambda x, mask: ops.separation_factor_scale_selected(x, mask, 1.0, 0.0),
        lambda x, mask: ops.separation_factor_sum_selected(x, x, mask),
    ):
        with pytest.raises(ValueError, match="must be equal, but are 2 and 3"):
            tf.function(function).get_concrete_function(x, mask)


def test_grappler_folds_constants():
    """An op whose inputs are all constants is computed once, when the graph is made."""
    x = normal((4, 9))

    @tf.function
    def f(z):
        return z + separate(tf.constant(x), 2)

    oracle.assert_same(f(tf.zeros((4, 9))), oracle.separate(x, 2, 2.0, 0.5))
    concrete = f.get_concrete_function(tf.TensorSpec((4, 9)))
    assert "SeparationFactor>Separate" in {operation.type for operation in concrete.graph.get_operations()}
    assert "SeparationFactor>Separate" not in {node.op for node in optimize(concrete).node}


def optimize(concrete):
    """Returns the graph that Grappler makes of a concrete function."""
    # A function's graph inherits the default graph's collections, not all of which can be serialized.
    with concrete.graph.as_default():
        meta_graph = tf.compat.v1.train.export_meta_graph(graph=concrete.graph, collection_list=[])
    meta_graph.collection_def["train_op"].node_list.value.append(concrete.outputs[0].name)
    return tf_optimizer.OptimizeGraph(tf.compat.v1.ConfigProto(), meta_graph)


# What is switched on for a whole process


def run(program):
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


TRAIN = """
import keras, numpy as np, tensorflow as tf, separationfactor as sf

def train():
    keras.utils.set_random_seed(1)
    separate = sf.SeparationFactor(2, 0.5, trainable_factors=True, implementation="native")
    layers = [keras.layers.Dense(64), sf.KSparse(5, implementation="native"), separate, keras.layers.Dense(4)]
    model = keras.Sequential(layers)
    model.compile("adam", "mse")
    x = np.random.default_rng(0).standard_normal((256, 32)).astype("float32")
    model.fit(x, x[:, :4], epochs=2, batch_size=64, verbose=0)
    return b"".join(weight.tobytes() for weight in model.get_weights())
"""


def test_op_determinism():
    print_same = "print(train() == train())"
    assert run(f"{TRAIN}\ntf.config.experimental.enable_op_determinism()\n{print_same}") == "True\n"


def test_numeric_checks():
    program = f"""{TRAIN}
tf.debugging.enable_check_numerics()
train()
separate = lambda x: sf.separate(x, 1, 1.0, 0.5, implementation="native")
x = tf.constant([[1.0, 3.0, 2.0]])
with tf.GradientTape() as tape:
    tape.watch(x)
    y = separate(x)
print(tape.gradient(y, x).numpy().tolist())
for function in (separate, tf.function(separate)):
    try:
        function(tf.constant([[1.0, np.nan, 2.0]]))
    except tf.errors.InvalidArgumentError as error:
        print("SeparationFactor>Separate" in str(error), "NaN" in str(error))
"""
    assert run(program) == "[[0.5, 1.0, 0.5]]\nTrue True\nTrue True\n"


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_trains(policy):
    import keras

    x, y = normal((64, 16)), normal((64, 3), 1)
    layers = [
        keras.layers.Dense(32, dtype=policy),
        sf.KSparse(5, dtype=policy, implementation="native"),
        sf.SeparationFactor(2, 0.5, trainable_factors=True, dtype=policy, implementation="native"),
        keras.layers.Dense(3, dtype="float32"),
    ]
    model = keras.Sequential(layers)
    optimizer = keras.optimizers.Adam(1e-2)
    if policy == "mixed_float16":
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    model.compile(optimizer, "mse")
    losses = model.fit(x, y, epochs=5, batch_size=16, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    assert layers[1](x).dtype == policy.removeprefix("mixed_")
    assert {weight.dtype for weight in layers[2].trainable_weights} == {"float32"}
    assert float(layers[2].separation.numpy()) != 2
