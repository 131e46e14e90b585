"""The op against the oracle: both implementations, every dtype, eagerly, in graphs and under XLA."""

import gc
import itertools
import weakref

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import oracle
import separationfactor as sf
from conftest import needs_native, skip_unless_xla_compiles
from separationfactor import composed, library
from separationfactor.ops import DTYPES

IMPLEMENTATIONS = ["native", "tf"] if library.ops is not None else ["tf"]
FACTORS = [(1.0, 0.0), (10.0, 0.25), (0.0, 1.0), (-2.0, 0.0), (-0.75, -0.0), (3.0, 3.0), (0.0, 0.0)]

dtypes = pytest.mark.parametrize("dtype", oracle.DTYPES)


@st.composite
def cases(draw):
    """Rows, k and factors; the rows' numbers come from a seed, which hypothesis need not shrink."""
    n = draw(st.one_of(st.integers(0, 40), st.sampled_from([63, 64, 65, 127, 129, 200])))
    return {
        "shape": (draw(st.integers(0, 4)), n),
        "distribution": draw(st.sampled_from(list(oracle.DISTRIBUTIONS))),
        "seed": draw(st.integers(0, 2**32 - 1)),
        "k": draw(st.one_of(st.integers(0, n), st.sampled_from([0, min(1, n), n]))),
        "by": draw(st.sampled_from(["value", "magnitude"])),
        "factors": draw(st.sampled_from(FACTORS)),
    }


def rows_of(case, dtype):
    rng = np.random.default_rng(case["seed"])
    return oracle.DISTRIBUTIONS[case["distribution"]](rng, case["shape"], oracle.DTYPES[dtype])


@dtypes
@settings(max_examples=2000, deadline=None, suppress_health_check=list(HealthCheck))
@given(case=cases())
def test_both_implementations_give_the_oracles_bits(dtype, case):
    x = rows_of(case, dtype)
    expected = oracle.separate(x, case["k"], *case["factors"], case["by"])
    for implementation in IMPLEMENTATIONS:
        y = sf.separate(x, case["k"], *case["factors"], by=case["by"], implementation=implementation)
        oracle.assert_same(y, expected, flushed=oracle.is_denormal(x), implementation=implementation, **case)


@dtypes
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(case=cases())
def test_the_gradient_by_x_has_the_oracles_bits(dtype, case):
    x = rows_of(case, dtype)
    d_y = rows_of({**case, "seed": case["seed"] + 1}, dtype)
    expected = oracle.scale(d_y, oracle.select(x, case["k"], case["by"]), *case["factors"])
    for implementation in IMPLEMENTATIONS:
        x_tensor = tf.constant(x)
        with tf.GradientTape() as tape:
            tape.watch(x_tensor)
            y = sf.separate(
                x_tensor, case["k"], *case["factors"], by=case["by"], implementation=implementation
            )
        d_x = tape.gradient(y, x_tensor, output_gradients=tf.constant(d_y))
        oracle.assert_same(
            d_x, expected, flushed=oracle.is_denormal(d_y), implementation=implementation, **case
        )


@dtypes
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(case=cases(), in_function=st.booleans())
def test_the_gradients_by_the_factors_have_the_oracles_bits(dtype, case, in_function):
    x = rows_of(case, dtype)
    # A sum that meets a denormal depends on whether it is flushed, so none is there, and no product is one.
    is_tiny = oracle.is_denormal(x) | ((x != 0) & (np.abs(x.astype(np.float64)) < 1e-300))
    x = np.where(is_tiny, np.ones_like(x), x)
    d_y = np.random.default_rng(case["seed"]).standard_normal(x.shape).astype(x.dtype)
    expected = oracle.sum_selected(d_y, x, oracle.select(x, case["k"], case["by"]))

    def gradients(x, d_y, implementation):
        factors = [tf.constant(factor, x.dtype) for factor in case["factors"]]
        with tf.GradientTape() as tape:
            tape.watch(factors)
            y = sf.separate(x, case["k"], *factors, by=case["by"], implementation=implementation)
        return tape.gradient(y, factors, output_gradients=d_y)

    if in_function:
        gradients = tf.function(gradients)
    for implementation in IMPLEMENTATIONS:
        for actual, total in zip(
            gradients(tf.constant(x), tf.constant(d_y), implementation), expected, strict=True
        ):
            if oracle.is_denormal(total):  # a flushed sum has no sign
                assert abs(float(actual)) <= abs(float(total)), (implementation, case)
            else:
                oracle.assert_same(actual, total, implementation=implementation, **case)


@dtypes
@pytest.mark.parametrize("distribution", oracle.DISTRIBUTIONS)
def test_sizes_about_every_vector_width(implementation, dtype, distribution):
    rng = np.random.default_rng(7)
    for n in (1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 255, 257, 1000):
        x = oracle.DISTRIBUTIONS[distribution](rng, (3, n), oracle.DTYPES[dtype])
        for k in sorted({0, 1, n // 3, n // 2, max(n - 1, 0), n}):
            y = sf.separate(x, k, 2.0, 0.5, implementation=implementation)
            oracle.assert_same(y, oracle.separate(x, k, 2.0, 0.5), flushed=oracle.is_denormal(x), n=n, k=k)


@pytest.mark.parametrize("axis", [-3, -2, -1, 0, 1, 2])
@pytest.mark.parametrize("shape", [(3, 4, 5), (None, 4, None), None])
def test_axis(implementation, axis, shape):
    x = np.random.default_rng(0).standard_normal((3, 4, 5)).astype(np.float32)
    expected = np.moveaxis(oracle.separate(np.moveaxis(x, axis, -1), 2, 3.0, 0.5), -1, axis)

    @tf.function(input_signature=[tf.TensorSpec(shape, tf.float32)])
    def f(x):
        return sf.separate(x, 2, 3.0, 0.5, axis=axis, implementation=implementation)

    assert f.get_concrete_function().output_shapes.is_compatible_with((3, 4, 5))
    if shape == (None, 4, None):
        assert f.get_concrete_function().output_shapes.as_list() == [None, 4, None]
    oracle.assert_same(f(x), expected)
    oracle.assert_same(sf.separate(x, 2, 3.0, 0.5, axis=axis, implementation=implementation), expected)


@dtypes
def test_k_is_dynamic(implementation, dtype):
    x = np.random.default_rng(0).standard_normal((6, 33)).astype(oracle.DTYPES[dtype])
    for k_dtype in (tf.int32, tf.int64):
        f = tf.function(lambda x, k: sf.separate(x, k, 2.0, 0.25, implementation=implementation))

        for k in (0, 1, 5, 32, 33):
            oracle.assert_same(f(x, tf.constant(k, k_dtype)), oracle.separate(x, k, 2.0, 0.25))
        assert f.experimental_get_tracing_count() == 1


@pytest.mark.parametrize("as_tensor", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_tf_under_xla(dtype, as_tensor):
    compiled = tf.function(lambda x, k: sf.separate(x, k, 2.0, 0.25, implementation="tf"), jit_compile=True)
    rng = np.random.default_rng(3)
    for distribution, rows in oracle.DISTRIBUTIONS.items():
        x = rows(rng, (4, 37), oracle.DTYPES[dtype])
        for k in (0, 1, 9, 37):
            y = compiled(x, tf.constant(k) if as_tensor else k)
            oracle.assert_same(
                y,
                oracle.separate(x, k, 2.0, 0.25),
                flushed=oracle.is_denormal(x),
                distribution=distribution,
                k=k,
            )


@pytest.mark.parametrize("jit_compile", [False, True])
def test_tf_counts_alike_beside_a_gpu(monkeypatch, jit_compile):
    """Beside a GPU, the tf implementation counts in int64."""
    monkeypatch.setattr(composed, "_is_beside_a_gpu", lambda: True)
    rng = np.random.default_rng(3)
    for distribution, rows in oracle.DISTRIBUTIONS.items():
        x = rows(rng, (4, 37), oracle.DTYPES["float32"])
        for k in (1,) if jit_compile else (0, 1, 9, 37):
            f = tf.function(lambda x, k=k: sf.separate(x, k, implementation="tf"), jit_compile=jit_compile)
            flushed = oracle.is_denormal(x)
            oracle.assert_same(f(x), oracle.separate(x, k), flushed=flushed, distribution=distribution, k=k)


@pytest.mark.parametrize("k", [1, 1000])
@pytest.mark.parametrize(
    "rows",
    [
        lambda rng: rng.standard_normal((32, 524288)),
        lambda rng: rng.integers(0, 100, (4, 300_001)),
        lambda rng: np.maximum(rng.standard_normal((4, 300_001)) - 3, 0),  # some 400 that are no zeros
    ],
    ids=["normal", "hundred values", "zeros"],
)
def test_long_rows_of_tf_under_xla(rows, k):
    """XLA's own top_k sometimes loses an entry of such rows."""
    x = rows(np.random.default_rng(0)).astype(np.float32)
    selected = np.zeros(x.shape, bool)
    np.put_along_axis(selected, np.argsort(-x, axis=-1, kind="stable")[:, :k], True, axis=-1)
    f = tf.function(lambda x: sf.separate(x, k, 1.0, -1.0, implementation="tf"), jit_compile=True)
    oracle.assert_same(f(x), oracle.scale(x, selected, 1.0, -1.0))


def test_auto_is_compiled_by_xla():
    x = np.random.default_rng(0).standard_normal((6, 33)).astype(np.float32)

    @tf.function(jit_compile=True)
    def value_and_gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = sf.separate(x, 5, 2.0, 0.25)
        return y, tape.gradient(y, x, output_gradients=x)

    expected = oracle.separate(x, 5, 2.0, 0.25)
    for actual in value_and_gradient(tf.constant(x)):
        oracle.assert_same(actual, expected)


def test_any_leading_dimensions(implementation):
    rng = np.random.default_rng(0)
    for shape in [(5,), (1, 5), (2, 3, 5), (2, 1, 3, 1, 5)]:
        x = rng.standard_normal(shape).astype(np.float32)
        oracle.assert_same(sf.separate(x, 2, implementation=implementation), oracle.separate(x, 2))


@pytest.mark.parametrize("shape", [(0,), (0, 4), (4, 0), (2, 0, 3), (0, 0)])
def test_empty_tensors(implementation, shape):
    x = tf.zeros(shape)
    factor = tf.constant(2.0)
    with tf.GradientTape() as tape:
        tape.watch([x, factor])
        y = sf.separate(x, min(1, shape[-1]), factor, 0.0, implementation=implementation)
    d_x, d_factor = tape.gradient(y, [x, factor])
    assert y.shape == d_x.shape == shape
    assert d_factor.numpy() == 0
    with pytest.raises(tf.errors.InvalidArgumentError, match="k must be in"):
        sf.separate(x, shape[-1] + 1, implementation=implementation)


def test_more_threads_give_the_same_bits():
    """There are enough rows for several threads of TensorFlow's pool."""
    x = np.random.default_rng(0).standard_normal((4096, 257)).astype(np.float32)
    ys = [sf.separate(x, 9, 1.5, 0.5, implementation=each) for each in IMPLEMENTATIONS]
    expected = np.where(x >= np.sort(x)[:, -9:-8], x * np.float32(1.5), x * np.float32(0.5))
    for y in ys:
        oracle.assert_same(y, expected)


# Gradients


@pytest.mark.parametrize("in_function", [False, True])
@pytest.mark.parametrize("tensors", [False, True])
def test_all_orders_of_gradients(implementation, tensors, in_function):
    """f = sum of y^4, y = x * factor: its derivatives by x up to the third, and mixed ones."""
    x = np.random.default_rng(0).standard_normal((3, 7))
    selected = oracle.select(x, 2)
    factor = np.where(selected, 2.0, 0.5)

    def derivatives(x):
        factors = (tf.constant(2.0, tf.float64), tf.constant(0.5, tf.float64)) if tensors else (2.0, 0.5)
        watched = [x, *factors] if tensors else [x]
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(watched)
            y = sf.separate(x, 2, *factors, implementation=implementation)
            f = tf.reduce_sum(y**4)
            first = tape.gradient(f, watched)
            second = tape.gradient(first[0], watched)
            third = tape.gradient(second[0], watched)
            mixed = tape.gradient(first[1], watched) if tensors else []
        return first, second, third, mixed

    first, second, third, mixed = (tf.function(derivatives) if in_function else derivatives)(tf.constant(x))
    np.testing.assert_allclose(first[0], 4 * factor**4 * x**3)
    np.testing.assert_allclose(second[0], 12 * factor**4 * x**2)
    np.testing.assert_allclose(third[0], 24 * factor**4 * x)
    if tensors:
        by_factor = 4 * factor**3 * x**4
        np.testing.assert_allclose(first[1], by_factor[selected].sum())
        np.testing.assert_allclose(first[2], by_factor[~selected].sum())
        # d/d separation of the sum over x of df/dx, and d2f/d separation2.
        np.testing.assert_allclose(second[1], (16 * factor**3 * x**3)[selected].sum())
        np.testing.assert_allclose(mixed[1], (12 * factor**2 * x**4)[selected].sum())
        np.testing.assert_allclose(mixed[0], np.where(selected, 16 * factor**3 * x**3, 0))


@pytest.mark.parametrize("in_function", [False, True])
def test_forward_mode(implementation, in_function):
    x = np.random.default_rng(0).standard_normal((3, 7)).astype(np.float32)
    tangent = np.random.default_rng(1).standard_normal((3, 7)).astype(np.float32)
    expected = oracle.scale(tangent, oracle.select(x, 2), 2.0, 0.5)

    def jvp(x, tangent):
        with tf.autodiff.ForwardAccumulator(x, tangent) as accumulator:
            y = sf.separate(x, 2, 2.0, 0.5, implementation=implementation)
        return accumulator.jvp(y)

    f = tf.function(jvp) if in_function else jvp
    oracle.assert_same(f(tf.constant(x), tf.constant(tangent)), expected)


def test_forward_over_reverse(implementation):
    x = tf.constant(np.random.default_rng(0).standard_normal((3, 7)))
    factor = np.where(oracle.select(x.numpy(), 2), 2.0, 0.5)
    with tf.autodiff.ForwardAccumulator(x, tf.ones_like(x)) as accumulator:
        with tf.GradientTape() as tape:
            tape.watch(x)
            f = tf.reduce_sum(sf.separate(x, 2, 2.0, 0.5, implementation=implementation) ** 3)
        d_x = tape.gradient(f, x)
    np.testing.assert_allclose(accumulator.jvp(d_x), 6 * factor**3 * x.numpy())


def test_a_gradient_by_one_factor_alone(implementation):
    x = np.random.default_rng(0).standard_normal((3, 7)).astype(np.float32)
    selected = oracle.select(x, 2)
    separation = tf.Variable(2.0)
    with tf.GradientTape() as tape:
        y = sf.separate(x, 2, separation, 0.0, implementation=implementation)
    np.testing.assert_allclose(tape.gradient(y, separation), x[selected].sum(), rtol=1e-6)


def test_a_zero_factor_hides_everything_and_still_has_a_gradient(implementation):
    x = np.array([[np.inf, 3.0, np.nan, -np.inf, 2.0]], np.float32)
    suppression = tf.constant(0.0)
    x_tensor = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch([x_tensor, suppression])
        y = sf.separate(x_tensor, 1, 1.0, suppression, implementation=implementation)
    oracle.assert_same(y, np.array([[0, 0, np.nan, 0, 0]], np.float32))
    d_y = tf.constant([[np.nan, np.inf, 2.0, 1.0, 1.0]])
    d_x, d_suppression = tape.gradient(y, [x_tensor, suppression], output_gradients=d_y)
    oracle.assert_same(d_x, np.array([[0, 0, 2, 0, 0]], np.float32))
    assert np.isnan(d_suppression)


@needs_native
@pytest.mark.parametrize("as_tensor", [False, True])
def test_an_eager_tape_keeps_x_only_for_the_factors_gradients(as_tensor):
    source = tf.random.stateless_normal((8, 8), seed=(1, 2))
    with tf.GradientTape() as tape:
        tape.watch(source)
        x = source + 1.0
        x_lives = weakref.ref(x)
        y = sf.separate(x, 2, tf.constant(2.0) if as_tensor else 2.0, implementation="native")
        del x
        gc.collect()
        assert (x_lives() is not None) == as_tensor
    assert tape.gradient(y, source) is not None


@needs_native
@pytest.mark.parametrize("as_tensor", [False, True])
def test_a_graphs_backward_reads_x_only_for_the_factors_gradients(as_tensor):
    with tf.Graph().as_default() as graph:
        x = tf.compat.v1.placeholder(tf.float32, (4, 20))
        separation = tf.constant(2.0)
        y = sf.separate(x, 2, separation if as_tensor else 2.0, implementation="native")
        forward = set(graph.get_operations())
        tf.gradients(y, [x, separation] if as_tensor else [x])
        backward = [operation for operation in graph.get_operations() if operation not in forward]
    kept = {each.name for operation in backward for each in operation.inputs if each.op in forward}
    kept = {name for name in kept if graph.get_tensor_by_name(name).shape.rank}
    assert kept == ({y.op.outputs[1].name, x.name} if as_tensor else {y.op.outputs[1].name})


@needs_native
def test_the_op_works_in_place_where_it_may():
    addresses = []

    def note_address(array):
        addresses.append(array.ctypes.data)
        return np.int64(0)

    @tf.function
    def f(x):
        x = x + 1.0
        with tf.control_dependencies([tf.numpy_function(note_address, [x], tf.int64)]):
            y = sf.separate(x, 10, 2.0, 0.5, implementation="native")
        with tf.control_dependencies([tf.numpy_function(note_address, [y], tf.int64)]):
            return tf.identity(y)

    x = np.random.default_rng(0).standard_normal((64, 100)).astype(np.float32)
    oracle.assert_same(f(x), oracle.separate(x + np.float32(1), 10, 2.0, 0.5))
    assert addresses[0] == addresses[1]


# Errors


@pytest.mark.parametrize("k", [-1, 6, 2**32 + 1, 2**40])
def test_k_out_of_range(implementation, k):
    x = tf.zeros((2, 5))
    message = rf"k must be in \[0, n\].*{k}"
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        sf.separate(x, k, implementation=implementation)
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        sf.separate(x, tf.constant(k, tf.int64), implementation=implementation)

    @tf.function(input_signature=[tf.TensorSpec([None, None]), tf.TensorSpec([], tf.int64)])
    def f(x, k):
        return sf.separate(x, k, implementation=implementation)

    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        f(x, tf.constant(k, tf.int64))


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("n", [5, None])
@pytest.mark.parametrize("k", [-1, 6])
def test_a_k_known_while_tracing_to_be_out_of_range(implementation, n, k, jit_compile):
    if n is None and k == 6:
        k = 2**31  # more than any row has
    makers = [lambda: k, lambda: np.int64(k), lambda: np.array(k), lambda: tf.constant(k, tf.int64)]
    for maker in makers:

        def f(x, maker=maker):
            return sf.separate(x, maker(), implementation=implementation)

        with pytest.raises(tf.errors.InvalidArgumentError, match=rf"k must be in \[0, n\].*{k}"):
            tf.function(f, jit_compile=jit_compile).get_concrete_function(tf.TensorSpec([None, n]))


@pytest.mark.parametrize(
    "k_dtype", ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"]
)
def test_k_of_any_integer_dtype(implementation, k_dtype):
    x = np.random.default_rng(0).standard_normal((4, 9)).astype(np.float32)
    expected = oracle.separate(x, 3)
    number = getattr(np, k_dtype)(3)
    for k in (number, np.array(number), tf.constant(3, k_dtype), tf.Variable(number)):
        oracle.assert_same(sf.separate(x, k, implementation=implementation), expected)
        f = tf.function(lambda x, k=k: sf.separate(x, k, implementation=implementation))
        oracle.assert_same(f(x), expected)
    f = tf.function(lambda x, k: sf.separate(x, k, implementation=implementation))
    oracle.assert_same(f(x, tf.constant(3, k_dtype)), expected)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"k must be in \[0, n\].*10"):
        f(x, tf.constant(10, k_dtype))


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("axis", [3, 5, -4, -7])
def test_an_axis_out_of_range_of_an_unknown_rank(implementation, axis, jit_compile):
    if jit_compile:
        skip_unless_xla_compiles(implementation)

    @tf.function(input_signature=[tf.TensorSpec(None)], jit_compile=jit_compile)
    def f(x):
        return sf.separate(x, 1, axis=axis, implementation=implementation)

    with pytest.raises(
        tf.errors.InvalidArgumentError, match=rf"(?s)(axis|rank).*\b3\b.*{axis}|{axis}.*\b3\b"
    ) as e:
        f(tf.zeros((2, 3, 8)))
    assert "axis" in str(e.value)
    assert "rank" in str(e.value)


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("axis", [-1, 0, 1])
def test_a_scalar_whose_rank_was_unknown(implementation, axis, jit_compile):
    if jit_compile:
        skip_unless_xla_compiles(implementation)

    @tf.function(input_signature=[tf.TensorSpec(None)], jit_compile=jit_compile)
    def f(x):
        return sf.separate(x, 1, axis=axis, implementation=implementation)

    # XLA's message contains only the name of the op that fails.
    message = "x`? must have at least one axis|x_must_have_at_least_one_axis"
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        f(tf.constant(1.0))


@pytest.mark.parametrize("axis", [-2, -1, 0, 1])
def test_gradients_of_an_unknown_rank(implementation, axis):
    x, d_y = np.random.default_rng(0).standard_normal((2, 4, 5)).astype(np.float32)

    @tf.function(input_signature=[tf.TensorSpec(None), tf.TensorSpec(None)])
    def f(x, d_y):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = sf.separate(x, 2, 3.0, 0.5, axis=axis, implementation=implementation)
        return tape.gradient(y, x, output_gradients=d_y)

    selected = oracle.select(np.moveaxis(x, axis, -1), 2)
    expected = np.moveaxis(oracle.scale(np.moveaxis(d_y, axis, -1), selected, 3.0, 0.5), -1, axis)
    oracle.assert_same(f(x, d_y), expected)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"x": tf.ragged.constant([[1.0], []])}, TypeError, "`x` must be a dense tensor.*RaggedTensor"),
        ({"x": tf.sparse.from_dense([[1.0]])}, TypeError, "`x` must be a dense tensor.*SparseTensor"),
        ({"k": tf.ragged.constant([[1]])}, TypeError, "`k` must be an int.*RaggedTensor"),
        ({"k": None}, TypeError, "`k` must be an int.*None"),
        ({"k": np.array(True)}, TypeError, "`k` must be an int.*bool"),
        ({"x": 1.0}, ValueError, "`x` must have at least one axis"),
        ({"x": [1, 2]}, TypeError, "`x` must be of dtype float32.*int32"),
        ({"k": 1.5}, TypeError, "`k` must be an int.*1.5"),
        ({"k": True}, TypeError, "`k` must be an int.*True"),
        ({"k": "2"}, TypeError, "`k` must be an int.*'2'"),
        ({"k": np.float32([1])}, TypeError, "`k` must be an int.*float32"),
        ({"k": [1]}, ValueError, r"`k` must be a scalar.*\(1,\)"),
        (
            {"separation": np.float64([1])},
            TypeError,
            "`separation` must have x's dtype, float32.*float64",
        ),
        ({"suppression": np.float32([1])}, ValueError, r"`suppression` must be a scalar.*\(1,\)"),
        ({"suppression": None}, TypeError, "`suppression` must be a number.*None"),
        ({"axis": 1}, ValueError, "`axis` must be an int.*axis=1.*rank 1"),
        ({"axis": True}, ValueError, "`axis` must be an int.*axis=True"),
        ({"axis": 0.5}, ValueError, "`axis` must be an int.*axis=0.5"),
        ({"by": "size"}, ValueError, "`by` must be 'value' or 'magnitude'.*'size'"),
        ({"implementation": "cuda"}, ValueError, "`implementation` must be one of 'auto'.*'cuda'"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        sf.separate(**{"x": [1.0, 2.0], **arguments})


@needs_native
@pytest.mark.parametrize("dtype", oracle.DTYPES)
def test_a_call_that_needs_no_gradient_gives_the_bits_of_one_that_does(dtype):
    # The factors lie about halfway between numbers of the half types, and one is of theirs denormal.
    x = tf.cast(np.random.default_rng(0).standard_normal((5, 37)), dtype)
    halfway = 1 + 2.0**-11
    for separation, suppression in [(0.1, 1 / 3), (halfway + 2.0**-40, halfway), (1e-6, -0.0), (1e6, 3.0)]:
        with tf.GradientTape() as tape:
            tape.watch(x)
            expected = sf.separate(x, 9, separation, suppression)
        y = sf.separate(x, 9, separation, suppression)
        assert y.numpy().tobytes() == expected.numpy().tobytes()


@needs_native
def test_the_raw_ops_check_what_they_are_given():
    ops = library.ops
    x, mask = tf.zeros((2, 9)), tf.zeros((2, 2), tf.uint8)
    for call, message in [
        (
            lambda: ops.separation_factor_separate(tf.zeros(()), 0, 1.0, 0.0),
            "x must have at least one axis",
        ),
        (lambda: ops.separation_factor_separate(x, [1], 1.0, 0.0), "k must be a scalar"),
        (
            lambda: ops.separation_factor_separate(x, 10, 1.0, 0.0),
            r"k must be in \[0, n\].*k = 10, n = 9",
        ),
        (lambda: ops.separation_factor_separate(x, 1, [1.0], 0.0), "separation must be a scalar"),
        (
            lambda: ops.separation_factor_separate_without_gradient(x, [1.0, 1.0, 0.0]),
            "scalars must be k and two factors",
        ),
        (
            lambda: ops.separation_factor_separate_without_gradient(x, [10.0] * 9),
            r"k must be in \[0, n\].*k = 10, n = 9",
        ),
        (
            lambda: ops.separation_factor_scale_selected(x, mask[:1], 1.0, 0.0),
            r"selected must have shape \[2,2\]",
        ),
        (
            lambda: ops.separation_factor_scale_selected(x, mask[:, :1], 1.0, 0.0),
            "selected must have shape",
        ),
        (
            lambda: ops.separation_factor_sum_selected(x, x[:1], mask),
            "u and v must have the same shape",
        ),
        (lambda: ops.separation_factor_sum_selected(x, x, mask[0]), "selected must have shape"),
    ]:
        with pytest.raises(tf.errors.InvalidArgumentError, match=message):
            call()


@needs_native
def test_the_scalars_hold_the_factors_in_the_order_of_dtypes():
    scalars = [1.0, *range(2, 2 + 2 * len(DTYPES))]
    for index, dtype in enumerate(DTYPES):
        y = library.ops.separation_factor_separate_without_gradient(tf.constant([1, 2], dtype), scalars)
        separation, suppression = scalars[1 + 2 * index :][:2]
        np.testing.assert_array_equal(tf.cast(y, tf.float64), [suppression, 2 * separation])


@needs_native
def test_a_static_k_beyond_n_fails_when_the_graph_is_built():
    @tf.function(input_signature=[tf.TensorSpec([None, 5])])
    def f(x):
        return library.ops.separation_factor_separate(x, 6, 1.0, 0.0)[0]

    with pytest.raises(ValueError, match=r"k must be in \[0, n\].*k = 6, n = 5"):
        f.get_concrete_function()


@needs_native
def test_the_bitmask():
    rng = np.random.default_rng(0)
    for n, k in itertools.product((1, 7, 8, 9, 64, 100), (0, 1)):
        x = rng.standard_normal((3, n)).astype(np.float32)
        _, mask = library.ops.separation_factor_separate(x, k, 1.0, 0.0)
        np.testing.assert_array_equal(mask, oracle.bitmask(oracle.select(x, k)))
