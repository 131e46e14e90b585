"""The op compiled by XLA: a call of the same kernels, with the same bits."""

import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings

import oracle
import separationfactor as sf
from conftest import needs_native, needs_xla
from separationfactor import library
from test_ops import cases, dtypes, rows_of


def compiled(function=None, **options):
    return tf.function(function, jit_compile=True, **options)


@needs_native
def test_what_the_headers_promise_loads():
    """A library that was built and does not load, or that its headers promised and is not there, is a bug."""
    why = library.build()["why_not_xla"]
    assert why is None or "comes without" in why
    assert library.why_not_xla() == why


@needs_xla
def test_the_op_is_a_call_of_the_kernel_with_k_as_an_operand():
    @compiled
    def f(x, k):
        return sf.separate(x, k, 2.0, 0.5)

    x = tf.constant(np.random.default_rng(0).standard_normal((4, 33)).astype(np.float32))
    hlo = f.experimental_get_compiler_ir(x, tf.constant(3))(stage="optimized_hlo")
    assert 'custom_call_target="separationfactor.separate"' in hlo
    assert "sort" not in hlo
    for k in (0, 1, 9, 33):
        oracle.assert_same(f(x, tf.constant(k)), oracle.separate(x.numpy(), k, 2.0, 0.5))
    assert f.experimental_get_tracing_count() == 1
    # What k is does not show in what was compiled.
    assert f.experimental_get_compiler_ir(x, tf.constant(9))(stage="optimized_hlo") == hlo


@compiled
def value_and_gradients(x, k, separation, suppression, d_y, by):
    with tf.GradientTape() as tape:
        tape.watch([x, separation, suppression])
        y = sf.separate(x, k, separation, suppression, by=by, implementation="native")
    return y, *tape.gradient(y, [x, separation, suppression], output_gradients=d_y)


@needs_xla
@dtypes
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(case=cases())
def test_the_bits_are_the_eager_ones(dtype, case):
    x = rows_of(case, dtype)
    d_y = rows_of({**case, "seed": case["seed"] + 1}, dtype)
    inputs = [tf.constant(x), tf.constant(case["k"]), *(tf.constant(f, x.dtype) for f in case["factors"])]
    inputs.append(tf.constant(d_y))
    under_xla = value_and_gradients(*inputs, case["by"])
    eager = value_and_gradients.python_function(*inputs, case["by"])
    for actual, expected in zip(under_xla, eager, strict=True):
        assert_equal_bits(actual, expected)


def assert_equal_bits(actual, expected):
    assert actual.dtype == expected.dtype
    assert actual.shape == expected.shape
    assert actual.numpy().tobytes() == expected.numpy().tobytes()


@needs_xla
@dtypes
@pytest.mark.parametrize("distribution", oracle.DISTRIBUTIONS)
def test_forward_against_the_oracle(dtype, distribution):
    f = compiled(lambda x, k: sf.separate(x, k, 2.0, 0.25, implementation="native"))
    x = oracle.DISTRIBUTIONS[distribution](np.random.default_rng(3), (4, 37), oracle.DTYPES[dtype])
    for k in (0, 1, 9, 37):
        for k_dtype in (tf.int32, tf.int64):
            y = f(x, tf.constant(k, k_dtype))
            oracle.assert_same(y, oracle.separate(x, k, 2.0, 0.25), flushed=oracle.is_denormal(x), k=k)


@needs_xla
@pytest.mark.parametrize("shape", [(4096, 257), (3, 1_000_000), (256, 4096)])
def test_shared_rows_and_split_rows(shape):
    """Enough work that XLA's pool shares it."""
    rng = np.random.default_rng(0)
    x, d_y = (tf.constant(rng.standard_normal(shape).astype(np.float32)) for _ in range(2))
    inputs = (x, tf.constant(9), tf.constant(1.5), tf.constant(0.5), d_y)
    for _ in range(3):
        actuals = value_and_gradients(*inputs, "value")
        for actual, expected in zip(
            actuals, value_and_gradients.python_function(*inputs, "value"), strict=True
        ):
            assert_equal_bits(actual, expected)


@needs_xla
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_any_layout(axis):
    """Results of a transposition and a product, which XLA may lay out in any order."""
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal(shape).astype(np.float32) for shape in ((4, 5, 6), (4, 6, 5)))

    def f(a, b):
        x = tf.transpose(tf.transpose(a, [2, 1, 0]) * tf.transpose(b, [1, 2, 0]), [1, 2, 0])
        return tf.transpose(sf.separate(x, 2, 3.0, 0.5, axis=axis), [2, 0, 1])

    x = np.transpose(np.transpose(a, [2, 1, 0]) * np.transpose(b, [1, 2, 0]), [1, 2, 0])
    expected = np.moveaxis(oracle.separate(np.moveaxis(x, axis, -1), 2, 3.0, 0.5), -1, axis)
    oracle.assert_same(compiled(f)(a, b), np.transpose(expected, [2, 0, 1]))


@needs_xla
@pytest.mark.parametrize("shape", [(5,), (1, 5), (2, 1, 3, 1, 5), (0,), (0, 4), (4, 0), (2, 0, 3), (0, 0)])
def test_any_shape(shape):
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    k = min(2, shape[-1])
    inputs = (tf.constant(x), tf.constant(k), tf.constant(2.0), tf.constant(0.5), tf.ones(shape))
    y, d_x, d_separation, _ = value_and_gradients(*inputs, "value")
    oracle.assert_same(y, oracle.separate(x, k, 2.0, 0.5))
    assert d_x.shape == shape
    np.testing.assert_allclose(d_separation, x[oracle.select(x, k)].sum(), rtol=1e-6)


@needs_xla
@pytest.mark.parametrize("shape", [(2, 5), (3, 0), (0, 5)])
@pytest.mark.parametrize("k", [-1, 6, 2**40])
def test_k_out_of_range(shape, k):
    f = compiled(lambda x, k: sf.separate(x, k))
    message = rf"k must be in \[0, n\]. Received: k = {k}, n = {shape[-1]}"
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        f(tf.zeros(shape), tf.constant(k, tf.int64))
    # The process lives on, and so does the function.
    np.testing.assert_array_equal(f(tf.ones(shape), tf.constant(0, tf.int64)), tf.zeros(shape))


@pytest.mark.parametrize("dtype", oracle.DTYPES)
def test_k_out_of_range_where_nothing_can_raise(dtype):
    """Of plain TensorFlow ops: every entry is NaN, and so is what is differentiated."""
    x = np.random.default_rng(0).standard_normal((3, 5)).astype(oracle.DTYPES[dtype])

    @compiled
    def f(x, k):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = sf.separate(x, k, 2.0, 0.5, implementation="tf")
        return y, tape.gradient(y, x)

    for k in (-1, 6, 2**32 + 1, -(2**40)):
        for result in f(tf.constant(x), tf.constant(k, tf.int64)):
            assert np.isnan(result).all()
    for k in (0, 2, 5):
        y, d_x = f(tf.constant(x), tf.constant(k, tf.int64))
        oracle.assert_same(y, oracle.separate(x, k, 2.0, 0.5))
        oracle.assert_same(d_x, oracle.scale(np.ones_like(x), oracle.select(x, k), 2.0, 0.5))
    assert f.experimental_get_tracing_count() == 1


def test_k_out_of_range_in_a_function_that_was_traced_before():
    """Without XLA, by a call of its own."""

    @tf.function
    def inner(x, k):
        return sf.separate(x, k, implementation="tf")

    x, k = tf.ones((2, 5)), tf.constant(6)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"k must be in \[0, n\].*6"):
        inner(x, k)
    assert np.isnan(compiled(lambda x, k: inner(x, k))(x, k)).all()
    assert inner.experimental_get_tracing_count() == 1


def test_k_out_of_range_in_layers():
    x = tf.ones((2, 8))
    layer = sf.KSparse(3, axis=0, implementation="tf")
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"k must be in \[0, n\]"):
        tf.function(layer)(x)
    assert np.isnan(compiled(layer)(x)).all()
    # What is known while tracing is an error then.
    for layer in (
        sf.SeparationFactor(2, 0.5, k=3, axis=0, implementation="tf"),
        sf.KSparse(1, inference_k=3, axis=0, implementation="tf"),
    ):
        with pytest.raises(tf.errors.InvalidArgumentError, match=r"k must be in \[0, n\].*k = 3, n = 2"):
            compiled(layer)(x)


@needs_xla
def test_rows_whose_number_is_known_at_run_time_alone():
    """A size within a bound, which is what XLA makes of the number of rows that pass a filter."""

    @compiled
    def f(x):
        kept = tf.boolean_mask(x, x[:, 0] > 0)
        return tf.reduce_sum(sf.separate(kept, 2, 2.0, 0.5), axis=0)

    x = np.random.default_rng(0).integers(-8, 8, (9, 5)).astype(np.float32)
    np.testing.assert_array_equal(f(x), oracle.separate(x[x[:, 0] > 0], 2, 2.0, 0.5).sum(0))


@needs_xla
def test_within_loops_and_branches():
    @compiled
    def f(x, repetitions):
        for i in tf.range(repetitions):
            x = sf.separate(x, i + 1, 2.0, 0.5) if i % 2 == 0 else sf.separate(x + 1.0, 3, by="magnitude")
        return x

    x = np.random.default_rng(0).standard_normal((3, 7)).astype(np.float32)
    assert_equal_bits(f(x, tf.constant(5)), f.python_function(tf.constant(x), 5))


@needs_xla
def test_all_orders_of_gradients():
    def derivatives(x, separation):
        with tf.GradientTape(persistent=True) as tape:
            tape.watch([x, separation])
            f = tf.reduce_sum(sf.separate(x, 2, separation, 0.5) ** 4)
            first = tape.gradient(f, [x, separation])
            second = tape.gradient(first[0], [x, separation])
            third = tape.gradient(second[0], [x, separation])
        return *first, *second, *third

    x = tf.constant(np.random.default_rng(0).standard_normal((3, 7)))
    separation = tf.constant(2.0, tf.float64)
    for actual, expected in zip(
        compiled(derivatives)(x, separation), derivatives(x, separation), strict=True
    ):
        np.testing.assert_allclose(actual, expected, rtol=1e-12)


@needs_native
@pytest.mark.parametrize("layer", [sf.KSparse(3), sf.SeparationFactor(10, 0.25, trainable_factors=True)])
def test_keras_trains_in_every_mode(layer):
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((64, 8)).astype(np.float32), rng.standard_normal((64, 2)).astype(np.float32)
    weights = {}
    for jit_compile in ("auto", True, False):
        keras.utils.set_random_seed(1)
        copy = type(layer).from_config(layer.get_config())
        model = keras.Sequential([keras.layers.Dense(16), copy, keras.layers.Dense(2)])
        model.compile("adam", "mse", jit_compile=jit_compile)
        if jit_compile != "auto":  # which is False without a GPU, in new versions of Keras
            assert model.jit_compile == (jit_compile and copy.supports_jit)
        model.fit(x, y, epochs=3, batch_size=16, verbose=0, shuffle=False)
        weights[jit_compile] = model.get_weights()
    for jit_compile in ("auto", True):
        for actual, expected in zip(weights[jit_compile], weights[False], strict=True):
            np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-6)


def run(program, folder=None):
    """Runs a program in a process of its own and returns what it prints."""
    environment = {**os.environ, "PYTHONPATH": str(folder or Path(sf.__file__).parents[1])}
    return subprocess.run(
        [sys.executable, "-W", "error::RuntimeWarning", "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout


USE = """
import separationfactor as sf
f = tf.function(lambda x: sf.separate(x, 2), jit_compile=True)
print(f(tf.constant([[1.0, 5.0, 3.0]])).numpy().tolist())
hlo = f.experimental_get_compiler_ir(tf.constant([[1.0, 5.0, 3.0]]))(stage="hlo")
print("separationfactor.separate" in hlo, sf.build_info()["xla"], sf.KSparse(1).supports_jit)
print(sf.build_info()["why_not_xla"])
"""


@needs_xla
def test_imported_after_xla_has_compiled():
    printed = run(f"import tensorflow as tf\ntf.function(tf.nn.relu, jit_compile=True)(1.0)\n{USE}")
    assert printed.splitlines() == ["[[0.0, 5.0, 3.0]]", "True True True", "None"]


@needs_xla
@pytest.mark.parametrize("library", [None, b"", b"no library"])
def test_without_xlas_library_plain_tensorflow_is_compiled(tmp_path, library):
    package = tmp_path / "separationfactor"
    source = Path(sf.__file__).parent
    for file in [*source.rglob("*.py"), source / "_build.json", source / "_ops.so"]:
        copy = package / file.relative_to(source)
        copy.parent.mkdir(exist_ok=True, parents=True)
        copy.write_bytes(file.read_bytes())
    if library is not None:
        (package / "_xla.so").write_bytes(library)
    printed = run(f"import tensorflow as tf\n{USE}\nprint(sf.build_info()['implementation'])", tmp_path)
    value, facts, why, implementation = printed.splitlines()
    assert value == "[[0.0, 5.0, 3.0]]"
    assert facts == "False False False"
    assert "does not load" in why
    assert implementation == "native"
