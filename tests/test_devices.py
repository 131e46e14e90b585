"""The compiled op on every device there is: the oracle's bits on each, and the CPU's on a GPU.

The tests for a GPU have the marker `gpu`, and are skipped where there is none: `pytest -m gpu`.
"""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import oracle
import separationfactor as sf
from conftest import needs_native
from separationfactor import implementations, library

pytestmark = needs_native

devices = pytest.mark.parametrize("device", ["CPU", pytest.param("GPU", marks=pytest.mark.gpu)])
dtypes = pytest.mark.parametrize("dtype", oracle.DTYPES)
FACTORS = [(1.0, 0.0), (10.0, 0.25), (-2.0, -0.0), (0.0, 1.0)]
# About the edges of every path of the CUDA kernels (docs/cuda.md): rows of a thread, of part of a warp, of a
# block, and of several blocks.
SIZES = [1, 2, 8, 15, 16, 17, 31, 32, 33, 48, 49, 63, 64, 65, 96, 97, 127, 129, 255, 257, 511, 513, 768, 769]
SIZES += [1000, 1023, 1024, 1025]
SIZES += [2048, 4095, 4097, 10000, 16383, 16384, 16385, 40000, 70001]


def on(device, x):
    with tf.device(f"/{device}:0"):
        return tf.identity(tf.constant(x))


def masked(device, x, k, *factors, **options):
    with tf.device(f"/{device}:0"):
        y = sf.separate(on(device, x), k, *factors, implementation="native", **options)
    assert device in y.device
    return y


@devices
@dtypes
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    rows=st.integers(1, 40),
    n=st.one_of(st.integers(1, 70), st.sampled_from([127, 128, 129, 300, 1024, 1030])),
    share=st.floats(0, 1),
    seed=st.integers(0, 2**32 - 1),
    distribution=st.sampled_from(list(oracle.DISTRIBUTIONS)),
    factors=st.sampled_from(FACTORS),
    by=st.sampled_from(["value", "magnitude"]),
)
def test_forward_and_gradient_have_the_oracles_bits(
    device, dtype, rows, n, share, seed, distribution, factors, by
):
    rng = np.random.default_rng(seed)
    k = round(share * n)
    x, d_y = (oracle.DISTRIBUTIONS[distribution](rng, (rows, n), oracle.DTYPES[dtype]) for _ in range(2))
    selected = oracle.select(x, k, by)
    x_tensor = on(device, x)
    with tf.GradientTape() as tape, tf.device(f"/{device}:0"):
        tape.watch(x_tensor)
        y = sf.separate(x_tensor, k, *factors, by=by, implementation="native")
    d_x = tape.gradient(y, x_tensor, output_gradients=on(device, d_y))
    state = {"rows": rows, "n": n, "k": k, "seed": seed, "distribution": distribution, "by": by}
    oracle.assert_same(y, oracle.scale(x, selected, *factors), flushed=oracle.is_denormal(x), **state)
    oracle.assert_same(d_x, oracle.scale(d_y, selected, *factors), flushed=oracle.is_denormal(d_y), **state)


@devices
@dtypes
@pytest.mark.parametrize("n", SIZES)
def test_sizes_about_the_edges_of_every_path(device, dtype, n):
    rng = np.random.default_rng(n)
    is_long = n > 1100  # the oracle takes its time
    for distribution in ("normal", "specials") if is_long else oracle.DISTRIBUTIONS:
        x = oracle.DISTRIBUTIONS[distribution](rng, (2 if is_long else 5, n), oracle.DTYPES[dtype])
        for k in (1, n // 3) if is_long else sorted({0, 1, n // 3, n}):
            y = masked(device, x, k, 2.0, 0.5)
            expected = oracle.separate(x, k, 2.0, 0.5)
            oracle.assert_same(y, expected, flushed=oracle.is_denormal(x), k=k, distribution=distribution)


@devices
@dtypes
@pytest.mark.parametrize("shape", [(1, 1), (7, 10), (3, 1000), (2, 5000), (70, 65)])
def test_the_gradients_by_the_factors_have_the_oracles_bits(device, dtype, shape):
    rng = np.random.default_rng(0)
    x, d_y = (rng.standard_normal(shape).astype(oracle.DTYPES[dtype]) for _ in range(2))
    k = shape[1] // 3
    with tf.device(f"/{device}:0"):
        factors = [tf.Variable(factor, dtype=x.dtype) for factor in (3.0, 0.5)]
        with tf.GradientTape() as tape:
            y = sf.separate(on(device, x), k, *factors, implementation="native")
        gradients = tape.gradient(y, factors, output_gradients=on(device, d_y))
    for actual, expected in zip(gradients, oracle.sum_selected(d_y, x, oracle.select(x, k)), strict=True):
        oracle.assert_same(actual, expected, shape=shape)


@devices
@pytest.mark.parametrize("shape", [(0, 5), (3, 0), (0,), (2, 0, 4)])
def test_empty_tensors(device, shape):
    x = np.zeros(shape, np.float32)
    assert masked(device, x, 0).shape == shape
    with tf.device(f"/{device}:0"):
        factors = [tf.Variable(2.0), tf.Variable(3.0)]
        with tf.GradientTape() as tape:
            y = sf.separate(on(device, x), 0, *factors, implementation="native")
        assert [float(gradient) for gradient in tape.gradient(y, factors)] == [0, 0]


@devices
@pytest.mark.parametrize("k_device", ["CPU", "GPU"])
@pytest.mark.parametrize("k_dtype", [tf.int32, tf.int64])
def test_k_that_is_out_of_range_is_an_error_wherever_it_is(device, k_device, k_dtype):
    with tf.device(f"/{k_device if device == 'GPU' else 'CPU'}:0"):
        k = tf.identity(tf.constant(11, k_dtype))
    with pytest.raises(
        tf.errors.InvalidArgumentError, match=r"k must be in \[0, n\]. Received: k = 11, n = 10"
    ):
        masked(device, np.zeros((4, 10), np.float32), k)


@devices
def test_functions_and_layers(device):
    x = np.random.default_rng(0).standard_normal((64, 40)).astype(np.float32)
    expected = oracle.separate(x, 7)
    with tf.device(f"/{device}:0"):
        layer = sf.KSparse(7, implementation="native")
        oracle.assert_same(layer(on(device, x)), expected)
        for jit_compile in (False, True) if implementations.supports_jit("native") else (False,):
            compiled = tf.function(layer, jit_compile=jit_compile)
            oracle.assert_same(compiled(on(device, x)), expected, jit_compile=jit_compile)


@devices
def test_a_buffer_that_nobody_else_needs_is_reused(device):
    """In a function, the op may overwrite its input. y must still be right."""
    x = np.random.default_rng(0).standard_normal((16, 3000)).astype(np.float32)

    @tf.function
    def twice(x):
        return sf.separate(
            sf.separate(x + 1, 100, 2.0, 0.5, implementation="native"), 30, implementation="native"
        )

    with tf.device(f"/{device}:0"):
        y = twice(on(device, x))
    oracle.assert_same(y, oracle.separate(oracle.separate(x + np.float32(1), 100, 2.0, 0.5), 30))


@pytest.mark.gpu
@dtypes
@pytest.mark.parametrize(
    "shape",
    [(65536, 10), (4096, 64), (1024, 1000), (256, 16384), (64, 131072), (8, 1_000_000), (3, 1_000_003)],
)
def test_a_gpu_has_the_cpus_bits(dtype, shape):
    rng = np.random.default_rng(0)
    for distribution in ("normal", "64 values", "half zeros", "shared leading bits", "any bits"):
        x = oracle.DISTRIBUTIONS[distribution](rng, shape, oracle.DTYPES[dtype])
        d_y = rng.standard_normal(shape).astype(x.dtype)
        for k in (1, shape[1] // 30 + 1, shape[1] // 2):
            found = {}
            for device in ("CPU", "GPU", "GPU"):
                with tf.device(f"/{device}:0"):
                    selected = library.ops.separation_factor_separate(on(device, x), k, 2.0, 0.5)[1]
                    out = library.ops.separation_factor_scale_selected(on(device, d_y), selected, 2.0, 0.5)
                    sums = library.ops.separation_factor_sum_selected(
                        on(device, d_y), on(device, d_y), selected
                    )
                results = [result.numpy() for result in (selected, out, *sums)]
                for result, before in zip(results, found.setdefault("first", results), strict=True):
                    assert result.tobytes() == before.tobytes(), (device, distribution, k)


@pytest.mark.gpu
def test_more_than_2_to_the_32_elements():
    """Compares row by row: TensorFlow's sums and concatenations of so many elements are wrong."""
    shape = (66000, 65536)
    try:
        with tf.device("/GPU:0"):
            x = tf.random.stateless_normal(shape, (1, 2), dtype=tf.float16)
            y = sf.separate(x, 3, implementation="native")
    except tf.errors.ResourceExhaustedError:
        pytest.skip("the card's memory is too small")
    for row in (0, 32767, 32768, 45000, shape[0] - 1):
        oracle.assert_same(y[row], oracle.separate(x[row].numpy(), 3), row=row)
