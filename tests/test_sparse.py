"""Sparse codes and their products, against NumPy, in both implementations."""

import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import oracle
from conftest import needs_native
from separationfactor import sparse, vectorize

HOW = {
    "eagerly": lambda function: function,
    "in a function": tf.function,
    "under XLA": lambda function: tf.function(function, jit_compile=True),
}
how = pytest.mark.parametrize("how", HOW)
dtypes = pytest.mark.parametrize("dtype", oracle.DTYPES)
# The dtypes of activations and kernels.
PAIRS = [(name, name) for name in oracle.DTYPES] + [("bfloat16", "float32"), ("float16", "float32")]
pairs = pytest.mark.parametrize(("dtype", "kernel_dtype"), PAIRS)


def run(function, how, implementation):
    """Returns the function as `how` runs it. Skips a test of compiled ops under XLA without kernels."""
    if how == "under XLA" and not sparse.supports_jit(implementation):
        pytest.skip("XLA has no kernels for the sparse ops")
    return HOW[how](function)


def integers(rng, shape, dtype="float32"):
    """Small integers, whose products and sums are exact in every dtype, with many ties."""
    return rng.integers(-3, 4, shape).astype(oracle.DTYPES[dtype])


def tolerance(dtype):
    return 4 * float(ml_dtypes.finfo(oracle.DTYPES[dtype]).eps)


def expected_top_k(x, k, by="value"):
    selected = oracle.select(x, k, by)
    indices = np.nonzero(selected)[-1].reshape(*x.shape[:-1], k).astype(np.int32)
    return np.take_along_axis(x, indices, -1), indices


def wide(x):
    return np.asarray(x).astype(np.float64)


def expected_decode(values, indices, kernel, bias=None):
    y = np.zeros((*values.shape[:-1], kernel.shape[1]))
    for place in np.ndindex(values.shape):
        if values[place] != 0:
            y[place[:-1]] += wide(values[place]) * wide(kernel[indices[place]])
    return y if bias is None else y + wide(bias)


def expected_rows(values, indices, x, n):
    rows = np.zeros((n, x.shape[-1]))
    for place in np.ndindex(values.shape):
        if values[place] != 0:
            rows[indices[place]] += wide(values[place]) * wide(x[place[:-1]])
    return rows


def used(values, indices):
    return sorted(set(indices[values != 0].tolist()))


# top_k


@dtypes
@pytest.mark.parametrize("by", ["value", "magnitude"])
@pytest.mark.parametrize("distribution", oracle.DISTRIBUTIONS)
def test_top_k_selects_as_separate_does(implementation, dtype, by, distribution):
    x = oracle.DISTRIBUTIONS[distribution](np.random.default_rng(0), (3, 40), oracle.DTYPES[dtype])
    for k in (0, 1, 7, 40):
        values, indices = sparse.top_k(x, k, by=by, implementation=implementation)
        expected_values, expected_indices = expected_top_k(x, k, by)
        np.testing.assert_array_equal(indices, expected_indices, err_msg=f"k={k}")
        assert indices.dtype == tf.int32
        oracle.assert_same(values, expected_values)


@how
@pytest.mark.parametrize("shape", [(5,), (0, 4), (2, 0, 3, 6), (2, 3, 6)])
def test_top_k_of_any_shape(implementation, how, shape):
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    function = run(lambda x: sparse.top_k(x, 3, implementation=implementation), how, implementation)
    for actual, expected in zip(function(tf.constant(x)), expected_top_k(x, 3), strict=True):
        np.testing.assert_array_equal(actual, expected)


def test_top_k_of_long_rows_under_xla():
    """XLA's own top_k errs on them."""
    x = np.random.default_rng(0).standard_normal((2, 300_000)).astype(np.float32)
    x[1, 5] = np.nan
    function = HOW["under XLA"](lambda x: sparse.top_k(x, 20, implementation="tf"))
    order = np.argsort(-np.where(np.isnan(x), np.inf, x), axis=-1, kind="stable")[:, :20]
    np.testing.assert_array_equal(function(x)[1], np.sort(order))


def test_gradient_of_top_k(implementation):
    x = tf.constant(np.random.default_rng(0).standard_normal((2, 3, 8)))
    with tf.GradientTape() as outer:
        outer.watch(x)
        with tf.GradientTape() as tape:
            tape.watch(x)
            values, _ = sparse.top_k(x, 2, implementation=implementation)
            f = tf.reduce_sum(values**3)
        gradient = tape.gradient(f, x)
    selected = oracle.select(x.numpy(), 2)
    np.testing.assert_allclose(gradient, np.where(selected, 3 * x**2, 0))
    np.testing.assert_allclose(outer.gradient(gradient, x), np.where(selected, 6 * x, 0))
    with tf.autodiff.ForwardAccumulator(x, tf.ones_like(x)) as accumulator:
        values, _ = sparse.top_k(x, 2, implementation=implementation)
    np.testing.assert_array_equal(accumulator.jvp(values), np.ones((2, 3, 2)))


# encode


@pairs
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    seed=st.integers(0, 10**6),
    batch=st.sampled_from([(1,), (5,), (0,), (2, 3), ()]),
    d=st.integers(1, 40),
    n=st.integers(1, 70),
    share=st.floats(0, 1),
    chunk=st.sampled_from([None, 1, 7, 16, 1000]),
    with_bias=st.booleans(),
)
def test_encode_selects_exactly(
    implementation, dtype, kernel_dtype, seed, batch, d, n, share, chunk, with_bias
):
    rng = np.random.default_rng(seed)
    x, kernel = integers(rng, (*batch, d), dtype), integers(rng, (n, d), kernel_dtype)
    bias = integers(rng, (n,), kernel_dtype) if with_bias else None
    k = round(share * n)
    entries = wide(x) @ wide(kernel).T + (0 if bias is None else wide(bias))
    values, indices = sparse.encode(x, kernel, bias, k, chunk=chunk, implementation=implementation)
    expected_values, expected_indices = expected_top_k(entries, k)
    np.testing.assert_array_equal(indices, expected_indices)
    np.testing.assert_array_equal(wide(values), expected_values)
    assert values.dtype == dtype


@dtypes
def test_encode_of_real_numbers(implementation, dtype):
    rng = np.random.default_rng(0)
    x, kernel = (rng.standard_normal(shape).astype(oracle.DTYPES[dtype]) for shape in ((9, 33), (150, 33)))
    bias = rng.standard_normal(150).astype(oracle.DTYPES[dtype])
    values, indices = sparse.encode(x, kernel, bias, 10, chunk=32, implementation=implementation)
    entries = wide(x) @ wide(kernel).T + wide(bias)
    _, expected_indices = expected_top_k(entries, 10)
    np.testing.assert_array_equal(indices, expected_indices)
    np.testing.assert_allclose(
        wide(values),
        np.take_along_axis(entries, indices.numpy(), -1),
        rtol=tolerance(dtype),
        atol=tolerance(dtype),
    )


def test_relu_is_applied_to_what_was_selected(implementation):
    x, kernel = tf.constant([[1.0]]), tf.constant([[-3.0], [-1.0], [2.0]])
    values, indices = sparse.encode(x, kernel, None, 2, activation="relu", implementation=implementation)
    np.testing.assert_array_equal(indices, [[1, 2]])
    np.testing.assert_array_equal(values, [[0, 2]])


@how
def test_nan_and_infinity_rank_as_in_top_k_and_stay_in_their_example(implementation, how):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((4, 6)).astype(np.float32)
    kernel = rng.standard_normal((50, 6)).astype(np.float32)
    clean = sparse.encode(x, kernel, None, 5, chunk=8, implementation=implementation)
    x[1, 2], x[3, 0] = np.nan, np.inf
    function = run(
        lambda x: sparse.encode(x, kernel, None, 5, chunk=8, implementation=implementation),
        how,
        implementation,
    )
    values, indices = function(tf.constant(x))
    for row in (0, 2):
        np.testing.assert_array_equal(indices[row], clean[1][row])
        np.testing.assert_allclose(values[row], clean[0][row], rtol=1e-6)
    # Every entry is NaN: the first ones are selected.
    np.testing.assert_array_equal(indices[1], range(5))
    assert np.isnan(values[1]).all()
    np.testing.assert_array_equal(indices[3], np.nonzero(kernel[:, 0] > 0)[0][:5])
    assert np.isposinf(values[3]).all()


def test_a_latent_of_nan_is_selected_first(implementation):
    kernel = np.ones((30, 2), np.float32)
    kernel[20], kernel[25], kernel[3] = np.nan, np.inf, np.inf
    values, indices = sparse.encode(
        np.ones((2, 2), np.float32), kernel, None, 2, chunk=4, implementation=implementation
    )
    np.testing.assert_array_equal(indices, [[3, 20]] * 2)
    np.testing.assert_array_equal(values, [[np.inf, np.nan]] * 2)


def test_encode_holds_no_entries_of_all_latents():
    """Of all tensors of the graph, the kernel is the largest."""

    @tf.function(input_signature=[tf.TensorSpec((512, 4)), tf.TensorSpec((20_000, 4))])
    def encode(x, kernel):
        return sparse.encode(x, kernel, None, 3, chunk=100, implementation="tf")

    graph = encode.get_concrete_function().graph
    loops = [op for op in graph.get_operations() if "While" in op.type]
    assert loops
    bodies = [graph._get_function(op.get_attr("body").name).graph for op in loops]
    sizes = [
        output.shape.num_elements() or 0
        for each in (graph, *bodies)
        for operation in each.get_operations()
        for output in operation.outputs
    ]
    assert max(sizes) == 20_000 * 4


# decode and gather_dot


@pairs
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    seed=st.integers(0, 10**6),
    batch=st.sampled_from([(1,), (5,), (0,), (2, 3), ()]),
    k=st.integers(0, 9),
    d=st.integers(0, 40),
    n=st.integers(1, 20),
    index_dtype=st.sampled_from([np.int32, np.int64]),
    with_bias=st.booleans(),
)
def test_products(implementation, dtype, kernel_dtype, seed, batch, k, d, n, index_dtype, with_bias):
    """Indices repeat and have any order, and some values are zero."""
    rng = np.random.default_rng(seed)
    values, x = integers(rng, (*batch, k), dtype), integers(rng, (*batch, d), dtype)
    indices = rng.integers(0, n, (*batch, k)).astype(index_dtype)
    kernel = integers(rng, (n, d), kernel_dtype)
    bias = integers(rng, (d,), kernel_dtype) if with_bias else None
    y = sparse.decode(values, indices, kernel, bias, implementation=implementation)
    assert y.dtype == dtype
    np.testing.assert_array_equal(wide(y), expected_decode(values, indices, kernel, bias))
    s = sparse.gather_dot(x, kernel, indices, implementation=implementation)
    assert s.dtype == dtype
    np.testing.assert_array_equal(wide(s), np.sum(wide(x)[..., None, :] * wide(kernel)[indices], -1))
    dense = sparse.to_dense(values, indices, n, implementation=implementation)
    expected = np.zeros((*batch, n))
    for place in np.ndindex(values.shape):
        expected[(*place[:-1], indices[place])] += wide(values[place])
    np.testing.assert_array_equal(wide(dense), expected)


@pytest.mark.parametrize(
    ("how", "dtype", "kernel_dtype"),
    [("eagerly", *pair) for pair in PAIRS]
    + [("in a function", "float32", "float32"), ("under XLA", "bfloat16", "float32")],
)
def test_gradients(implementation, how, dtype, kernel_dtype):
    rng = np.random.default_rng(0)
    n, shape = 60, (2, 3)
    values, x, d_s = (integers(rng, (*shape, m), dtype) for m in (4, 5, 4))
    d_y = integers(rng, (*shape, 5), dtype)
    indices = rng.integers(0, n, (*shape, 4)).astype(np.int32)
    kernel, bias = integers(rng, (n, 5), kernel_dtype), integers(rng, (5,), kernel_dtype)

    def gradients(values, x, kernel, bias):
        with tf.GradientTape(persistent=True) as tape:
            tape.watch([values, x, kernel, bias])
            y = sparse.decode(values, indices, kernel, bias, implementation=implementation)
            s = sparse.gather_dot(x, kernel, indices, implementation=implementation)
        return (
            *tape.gradient(y, [values, kernel, bias], d_y),
            *tape.gradient(s, [x, kernel], d_s),
        )

    function = run(gradients, how, implementation)
    d_values, d_kernel, d_bias, d_x, other_d_kernel = function(
        *(tf.constant(each) for each in (values, x, kernel, bias))
    )
    np.testing.assert_array_equal(wide(d_values), np.sum(wide(d_y)[..., None, :] * wide(kernel)[indices], -1))
    np.testing.assert_array_equal(wide(d_bias), wide(d_y).sum((0, 1)))
    np.testing.assert_array_equal(wide(d_x), expected_decode(d_s, indices, kernel))
    for slices, factors, others in ((d_kernel, values, d_y), (other_d_kernel, d_s, x)):
        assert isinstance(slices, tf.IndexedSlices)
        assert slices.dtype == kernel_dtype
        assert (np.diff(slices.indices) > 0).all()
        assert tuple(slices.dense_shape.numpy()) == (n, 5)
        if how == "under XLA":
            assert len(slices.indices) == min(indices.size, n)
        else:
            assert slices.indices.numpy().tolist() == used(factors, indices)
        rows = expected_rows(factors, indices, others, n)
        np.testing.assert_array_equal(wide(tf.convert_to_tensor(slices)), rows)


@how
def test_gradients_of_encode(implementation, how):
    rng = np.random.default_rng(0)
    x, kernel, bias = (rng.standard_normal(shape) for shape in ((6, 5), (40, 5), (40,)))
    weight = rng.standard_normal((6, 3))

    def gradients(x, kernel, bias):
        with tf.GradientTape() as tape:
            tape.watch([x, kernel, bias])
            values, indices = sparse.encode(x, kernel, bias, 3, chunk=7, implementation=implementation)
            f = tf.reduce_sum(weight * values)
        return indices, *tape.gradient(f, [x, kernel, bias])

    function = run(gradients, how, implementation)
    indices, d_x, d_kernel, d_bias = function(*(tf.constant(each) for each in (x, kernel, bias)))
    indices = indices.numpy()
    np.testing.assert_allclose(d_x, expected_decode(weight, indices, kernel))
    assert isinstance(d_kernel, tf.IndexedSlices)
    np.testing.assert_allclose(tf.convert_to_tensor(d_kernel), expected_rows(weight, indices, x, 40))
    assert isinstance(d_bias, tf.Tensor)
    np.testing.assert_allclose(d_bias, expected_rows(weight, indices, np.ones((6, 1)), 40)[:, 0])


@how
def test_an_entry_of_value_zero_is_nothing(implementation, how):
    """Whatever its row holds, and whatever the example's gradient is."""
    kernel = tf.constant([[np.nan, np.inf], [1.0, 2.0], [5.0, -1.0]])
    values = tf.constant([[0.0, 2.0], [-0.0, 1.0], [0.0, 0.0]])
    indices = tf.constant([[0, 1], [0, 2], [0, 0]])
    d_y = tf.constant([[1.0, 1.0], [1.0, 1.0], [np.nan, np.inf]])

    def function(values, kernel):
        with tf.GradientTape() as tape:
            tape.watch(kernel)
            y = sparse.decode(values, indices, kernel, implementation=implementation)
        return y, tape.gradient(y, kernel, d_y)

    y, d_kernel = run(function, how, implementation)(values, kernel)
    np.testing.assert_array_equal(y, [[2, 4], [5, -1], [0, 0]])
    np.testing.assert_array_equal(tf.convert_to_tensor(d_kernel), [[0, 0], [2, 2], [1, 1]])
    if how != "under XLA":
        np.testing.assert_array_equal(d_kernel.indices, [1, 2])


@how
def test_nan_and_infinity_stay_in_their_example(implementation, how):
    rng = np.random.default_rng(0)
    values, x, kernel = (tf.constant(rng.standard_normal(shape)) for shape in ((3, 2), (3, 32), (9, 32)))
    indices = tf.constant([[0, 1], [2, 3], [4, 5]])

    def function(values, x):
        with tf.GradientTape(persistent=True) as tape:
            tape.watch([values, x, kernel])
            y = sparse.decode(values, indices, kernel, implementation=implementation)
            s = sparse.gather_dot(x, kernel, indices, implementation=implementation)
        return (
            y,
            s,
            tape.gradient(y, values, x),
            tape.gradient(s, x, values),
            tf.convert_to_tensor(tape.gradient(y, kernel, x)),
            tf.convert_to_tensor(tape.gradient(s, kernel, values)),
        )

    function = run(function, how, implementation)
    clean = function(values, x)
    place = np.array([[False] * 2, [True] * 2, [False] * 2])
    for number in (np.nan, np.inf):
        dirty = function(
            tf.where(place, tf.constant(number, tf.float64), values),
            tf.where(place[:, :1], tf.constant(number, tf.float64), x),
        )
        for i, (one, other) in enumerate(zip(clean, dirty, strict=True)):
            rows = [0, 2] if i < 4 else [0, 1, 4, 5, 6, 7, 8]
            np.testing.assert_allclose(other.numpy()[rows], one.numpy()[rows], rtol=1e-12)
            assert not np.isfinite(other.numpy()[1 if i < 4 else 2]).all()


def test_no_entries(implementation):
    kernel, bias = tf.ones((4, 3)), tf.constant([1.0, 2.0, 3.0])
    empty = tf.zeros((2, 0)), tf.zeros((2, 0), tf.int32)
    np.testing.assert_array_equal(
        sparse.decode(*empty, kernel, bias, implementation=implementation), [[1, 2, 3]] * 2
    )
    assert sparse.gather_dot(tf.ones((2, 3)), kernel, empty[1], implementation=implementation).shape == (2, 0)
    with tf.GradientTape() as tape:
        tape.watch(kernel)
        values, indices = sparse.encode(tf.ones((2, 3)), kernel, None, 0, implementation=implementation)
        y = sparse.decode(values, indices, kernel, bias, implementation=implementation)
    assert tape.gradient(y, kernel).values.shape == (0, 3)
    assert values.shape == indices.shape == (2, 0)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_unknown_shapes(implementation, rank):
    rng = np.random.default_rng(0)
    shape = (2, 3)[: rank - 1]
    x, kernel = rng.standard_normal((*shape, 5)), rng.standard_normal((20, 5))

    @tf.function(input_signature=[tf.TensorSpec(None, tf.float64), tf.TensorSpec(None, tf.float64)])
    def function(x, kernel):
        with tf.GradientTape() as tape:
            tape.watch(kernel)
            values, indices = sparse.encode(x, kernel, None, 3, chunk=4, implementation=implementation)
            y = sparse.decode(values, indices, kernel, implementation=implementation)
            s = sparse.gather_dot(x, kernel, indices, implementation=implementation)
        return values, indices, y, s, tf.convert_to_tensor(tape.gradient(y, kernel))

    values, indices, y, s, d_kernel = function(x, kernel)
    expected_values, expected_indices = expected_top_k(x @ kernel.T, 3)
    np.testing.assert_array_equal(indices, expected_indices)
    np.testing.assert_allclose(values, expected_values)
    np.testing.assert_allclose(s, expected_values)
    np.testing.assert_allclose(y, expected_decode(expected_values, expected_indices, kernel))
    assert d_kernel.shape == (20, 5)


@pytest.mark.parametrize("wrong", [-1, 9, 2**31 - 1, 2**40])
@pytest.mark.parametrize("how", ["eagerly", "in a function"])
def test_an_index_out_of_range_is_an_error(implementation, how, wrong):
    values, x, kernel = tf.ones((3, 2)), tf.ones((3, 4)), tf.ones((9, 4))
    indices = np.array([[0, 1], [2, wrong], [8, 3]], np.int64 if wrong >= 2**31 else np.int32)
    for function in (
        lambda: sparse.decode(values, indices, kernel, implementation=implementation),
        lambda: sparse.gather_dot(x, kernel, indices, implementation=implementation),
        lambda: sparse.to_dense(values, indices, 9, implementation=implementation),
    ):
        with pytest.raises(tf.errors.InvalidArgumentError, match=rf"indices must be in \[0, n\).*{wrong}.*9"):
            HOW[how](function)()


def test_an_index_out_of_range_where_nothing_can_raise():
    """The row is NaN, and never another latent's."""
    indices = tf.constant([[0, 1], [2, 9], [-1, 3], [8, 8]])

    @HOW["under XLA"]
    def function(values, x, kernel):
        return (
            sparse.decode(values, indices, kernel, implementation="tf"),
            sparse.gather_dot(x, kernel, indices, implementation="tf"),
            sparse.to_dense(values, indices, 9, implementation="tf"),
        )

    for result in function(tf.ones((4, 2)), tf.ones((4, 3)), tf.ones((9, 3))):
        assert np.isnan(result.numpy()[1:3]).all()
        assert np.isfinite(result.numpy()[[0, 3]]).all()


# Derivatives


def _dense(x, kernel, bias, decoder_kernel, decoder_bias):
    """The same function with dense codes."""
    entries = x @ tf.transpose(kernel) + bias
    threshold = tf.sort(entries, axis=-1)[:, -3][:, tf.newaxis]
    return tf.where(entries >= threshold, entries, 0) @ decoder_kernel + decoder_bias


def _derivatives(function):
    def derivatives(arguments, tangents, weight):
        def f():
            return tf.reduce_sum(weight * function(*arguments) ** 2)

        def reverse():
            with tf.GradientTape() as tape:
                tape.watch(arguments)
                value = f()
            return [tf.convert_to_tensor(each) for each in tape.gradient(value, arguments)]

        def forward():
            with tf.autodiff.ForwardAccumulator(arguments, tangents) as accumulator:
                value = f()
            return accumulator.jvp(value)

        with tf.autodiff.ForwardAccumulator(arguments, tangents) as accumulator:
            gradients = reverse()
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(arguments)
            along = forward()
            product = tf.add_n([tf.reduce_sum(a * b) for a, b in zip(reverse(), tangents, strict=True)])
        return {
            "forward": [forward()],
            "reverse": reverse(),
            "forward over reverse": [tf.convert_to_tensor(accumulator.jvp(each)) for each in gradients],
            "reverse over forward": [tf.convert_to_tensor(e) for e in tape.gradient(along, arguments)],
            "reverse over reverse": [tf.convert_to_tensor(e) for e in tape.gradient(product, arguments)],
        }

    return derivatives


@how
def test_derivatives_of_two_orders(implementation, how):
    rng = np.random.default_rng(0)
    shapes = [(4, 5), (9, 5), (9,), (9, 5), (5,)]
    arguments, tangents = ([tf.constant(rng.standard_normal(shape)) for shape in shapes] for _ in range(2))
    weight = tf.constant(rng.standard_normal((4, 5)))

    def function(x, kernel, bias, decoder_kernel, decoder_bias):
        values, indices = sparse.encode(x, kernel, bias, 3, chunk=4, implementation=implementation)
        return sparse.decode(values, indices, decoder_kernel, decoder_bias, implementation=implementation)

    actual = run(_derivatives(function), how, implementation)(arguments, tangents, weight)
    expected = _derivatives(_dense)(arguments, tangents, weight)
    for order, values in expected.items():
        for one, other in zip(actual[order], values, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-9, err_msg=order)


@how
def test_second_derivatives_at_zero(implementation, how):
    """A row without gradient has one of its own once its value moves."""
    values, indices = tf.constant([[0.0, 2.0]]), tf.constant([[1, 0]])
    kernel, tangent = tf.constant([[1.0, 2.0], [3.0, 5.0]]), tf.constant([[1.0, 0.0], [10.0, 100.0]])

    def function(values, kernel):
        with tf.GradientTape() as outer:
            outer.watch(values)
            with tf.GradientTape() as tape:
                tape.watch(kernel)
                y = sparse.decode(values, indices, kernel, implementation=implementation)
                f = tf.reduce_sum(y**2) / 2
            product = tf.reduce_sum(tape.gradient(f, kernel) * tangent)
        return outer.gradient(product, values)

    # f = |v W|^2 / 2, of which the kernel's gradient is v^T v W.
    expected = tangent @ tf.transpose(values[:, ::-1] @ kernel) + kernel @ tf.transpose(
        values[:, ::-1] @ tangent
    )
    actual = run(function, how, implementation)(values, kernel)
    np.testing.assert_allclose(actual[0, ::-1], expected[:, 0])


def test_derivatives_through_a_function_that_was_traced_before(implementation):
    rng = np.random.default_rng(0)
    x, kernel, tangent = (tf.constant(rng.standard_normal(shape)) for shape in ((4, 5), (9, 5), (9, 5)))

    def encode(x, kernel):
        return sparse.encode(x, kernel, None, 3, implementation=implementation)[0]

    function = tf.function(encode)
    function(x, kernel)
    with tf.GradientTape() as outer:
        outer.watch(x)
        with tf.GradientTape() as tape:
            tape.watch(kernel)
            f = tf.reduce_sum(function(x, kernel) ** 2)
        gradient = tf.convert_to_tensor(tape.gradient(f, kernel))
        product = tf.reduce_sum(gradient * tangent)
    indices = sparse.encode(x, kernel, None, 3, implementation=implementation)[1].numpy()
    values = np.sum(x.numpy()[:, None] * kernel.numpy()[indices], -1)
    moved = np.sum(x.numpy()[:, None] * tangent.numpy()[indices], -1)
    expected = 2 * (expected_decode(values, indices, tangent) + expected_decode(moved, indices, kernel))
    np.testing.assert_allclose(outer.gradient(product, x), expected)
    function = tf.function(encode)
    function(x, kernel)
    with tf.autodiff.ForwardAccumulator(kernel, tangent) as accumulator:
        result = function(x, kernel)
    np.testing.assert_allclose(accumulator.jvp(result), moved)


def test_gradients_that_are_slices(implementation):
    rng = np.random.default_rng(0)
    values, kernel = tf.constant(rng.standard_normal((4, 2))), tf.constant(rng.standard_normal((6, 3)))
    indices = tf.constant([[0, 1], [2, 3], [4, 5], [0, 5]])
    with tf.GradientTape() as tape:
        tape.watch([values, kernel])
        y = tf.gather(sparse.decode(values, indices, kernel, implementation=implementation), [0, 3])
    d_values, d_kernel = tape.gradient(y, [values, kernel])
    np.testing.assert_allclose(
        d_values, np.where([[True], [False], [False], [True]], kernel.numpy().sum(1)[indices], 0)
    )
    d_y = np.array([[1.0] * 3, [0] * 3, [0] * 3, [1] * 3])
    np.testing.assert_allclose(
        tf.convert_to_tensor(d_kernel), expected_rows(values.numpy(), indices.numpy(), d_y, 6)
    )


@pytest.mark.parametrize("how", ["eagerly", "in a function"])
def test_slices_reach_a_variable(implementation, how):
    kernel = tf.Variable(tf.ones((9, 3)))

    def function():
        with tf.GradientTape() as tape:
            values, indices = sparse.encode(tf.ones((2, 3)), kernel, None, 2, implementation=implementation)
            y = sparse.decode(values, indices, tf.ones((9, 3)), implementation=implementation)
        return tape.gradient(y, kernel)

    gradient = HOW[how](function)()
    assert isinstance(gradient, tf.IndexedSlices)
    np.testing.assert_array_equal(gradient.indices, [0, 1])
    # Two uses give their slices one after the other.
    with tf.GradientTape() as tape:
        y = sum(
            tf.reduce_sum(sparse.decode([[1.0]], [[i]], kernel, implementation=implementation))
            for i in (4, 4)
        )
    np.testing.assert_array_equal(tape.gradient(y, kernel).indices, [4, 4])


# Vectorization


def _vectorized(function, elements):
    actual = tf.vectorized_map(function, elements, fallback_to_while_loop=False)
    signature = tf.nest.map_structure(lambda each: tf.TensorSpec(each.shape[1:], each.dtype), actual)
    looped = tf.map_fn(function, elements, fn_output_signature=signature)
    for one, other in zip(tf.nest.flatten(actual), tf.nest.flatten(looped), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12)


@needs_native
@pytest.mark.skipif(
    vectorize.RegisterPFor is None, reason="this TensorFlow has no registry of vectorizations"
)
@pytest.mark.parametrize("stacked", ["x", "kernel", "bias", "x kernel", "x kernel bias", "decoder_bias"])
def test_vectorized_map(stacked):
    rng = np.random.default_rng(0)
    shapes = {"x": (3, 4), "kernel": (9, 4), "bias": (9,), "decoder_bias": (4,)}
    elements = {name: tf.constant(rng.standard_normal((5, *shape))) for name, shape in shapes.items()}
    fixed = {name: each[0] for name, each in elements.items() if name not in stacked.split()}

    def function(each):
        x, kernel, bias, decoder_bias = ({**fixed, **each}[name] for name in shapes)
        with tf.GradientTape() as tape:
            tape.watch([x, kernel])
            values, indices = sparse.encode(x, kernel, bias, 2, implementation="native")
            y = sparse.decode(values, indices, kernel, decoder_bias, implementation="native")
            s = sparse.gather_dot(y, kernel, indices, implementation="native")
            top = sparse.top_k(s, 1, implementation="native")
        d_x, d_kernel = tape.gradient(s, [x, kernel])
        return values, indices, y, s, top, d_x, tf.convert_to_tensor(d_kernel)

    _vectorized(function, {name: elements[name] for name in stacked.split()})


def test_jacobian(implementation):
    rng = np.random.default_rng(0)
    values, kernel = tf.constant(rng.standard_normal((3, 2))), tf.constant(rng.standard_normal((5, 4)))
    indices = tf.constant([[0, 1], [1, 2], [4, 0]])
    with tf.GradientTape() as tape:
        tape.watch(values)
        y = sparse.decode(values, indices, kernel, implementation=implementation)
    expected = np.zeros((3, 4, 3, 2))
    for row in range(3):
        expected[row, :, row] = kernel.numpy()[indices[row].numpy()].T
    np.testing.assert_allclose(tape.jacobian(y, values), expected)


# Both implementations


@needs_native
@dtypes
def test_both_implementations_agree_to_rounding(dtype):
    rng = np.random.default_rng(0)
    x, kernel = (rng.standard_normal(shape).astype(oracle.DTYPES[dtype]) for shape in ((20, 50), (300, 50)))
    results = []
    for implementation in ("native", "tf"):
        variables = tf.Variable(x), tf.Variable(kernel)
        with tf.GradientTape() as tape:
            values, indices = sparse.encode(*variables, None, 12, implementation=implementation)
            y = sparse.decode(values, indices, variables[1], implementation=implementation)
        gradients = tape.gradient(y, variables, x)
        results.append((values, indices, y, *(tf.convert_to_tensor(each) for each in gradients)))
    for one, other in zip(*results, strict=True):
        scale = abs(wide(one)).max()
        np.testing.assert_allclose(wide(one), wide(other), atol=8 * scale * tolerance(dtype))


# Arguments


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda s: s.top_k(tf.ones(3), 4), tf.errors.InvalidArgumentError, r"k must be in \[0, n\].*4.*3"),
        (lambda s: s.top_k(tf.ones(3), -1), ValueError, "`k` must be a non-negative int. Received: k=-1"),
        (lambda s: s.top_k(tf.ones(3), 1.5), TypeError, "`k` must be a non-negative int. Received: k=1.5"),
        (lambda s: s.top_k(tf.ones(3), True), TypeError, "`k` must be a non-negative int"),
        (lambda s: s.top_k(tf.ones(3), 1, by="rank"), ValueError, "`by` must be"),
        (lambda s: s.top_k(1.0, 1), ValueError, "`x` must have at least one axis"),
        (lambda s: s.top_k([1, 2], 1), TypeError, "`x` must be of dtype float32.*int32"),
        (lambda s: s.top_k(tf.ones(3), 1, implementation="gpu"), ValueError, "`implementation` must be"),
        (
            lambda s: s.encode(tf.ones((2, 3)), tf.ones((5, 4)), None, 1),
            ValueError,
            r"last axis of `x` must have the size of the kernel's rows, 4",
        ),
        (
            lambda s: s.encode(tf.ones((2, 4)), tf.ones((5, 4)), tf.ones(4), 1),
            ValueError,
            r"`bias` must have shape \[5\]. Received: shape \(4,\)",
        ),
        (
            lambda s: s.encode(tf.ones((2, 4)), tf.ones((5, 4)), None, 6),
            tf.errors.InvalidArgumentError,
            r"k must be in \[0, n\].*6.*5",
        ),
        (
            lambda s: s.encode(tf.ones((2, 4)), tf.ones((5, 4)), None, 1, activation="tanh"),
            ValueError,
            "`activation` must be one of",
        ),
        (
            lambda s: s.encode(tf.ones((2, 4)), tf.ones((5, 4)), None, 1, screen="int8"),
            ValueError,
            "`screen` must be one of",
        ),
        (
            lambda s: s.encode(tf.ones((2, 4)), tf.ones((5, 4)), None, 1, chunk=0),
            ValueError,
            "`chunk` must be a positive integer",
        ),
        (
            lambda s: s.decode(tf.ones((2, 3)), tf.zeros((2, 4), tf.int32), tf.ones((5, 4))),
            ValueError,
            r"must have the same shape.*\(2, 3\).*\(2, 4\)",
        ),
        (
            lambda s: s.decode(tf.ones((2, 3)), tf.zeros((2, 3)), tf.ones((5, 4))),
            TypeError,
            "`indices` must be of dtype int32 or int64. Received: float32",
        ),
        (
            lambda s: s.decode(tf.ones((2, 3)), tf.zeros((2, 3), tf.int32), tf.ones((5, 4), tf.float64)),
            TypeError,
            "`kernel` must be of dtype float32 .*float64",
        ),
        (
            lambda s: s.decode(tf.ones((2, 3)), tf.zeros((2, 3), tf.int32), tf.ones(5)),
            ValueError,
            r"`kernel` must have shape \[n, d\]",
        ),
        (
            lambda s: s.gather_dot(tf.ones((2, 4)), tf.ones((5, 4)), tf.zeros((3, 2), tf.int32)),
            ValueError,
            "`x` and `indices` must have the same leading axes",
        ),
        (lambda s: s.to_dense([[1.0]], [[0]], -1), ValueError, "`n` must be a non-negative integer"),
        (
            lambda s: s.top_k(tf.sparse.from_dense(tf.ones((2, 2))), 1),
            TypeError,
            "`x` must be a dense tensor. Received: a SparseTensor",
        ),
    ],
)
def test_argument_errors(call, error, message):
    with pytest.raises(error, match=message):
        call(sparse)


def test_docstring_example():
    values, indices = sparse.top_k([[1.0, 5.0, 3.0], [2.0, 0.0, 9.0]], 2)
    np.testing.assert_array_equal(values, [[5.0, 3.0], [2.0, 9.0]])
    np.testing.assert_array_equal(indices, [[1, 2], [0, 2]])
