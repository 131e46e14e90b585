"""Derivatives in forward mode, reverse mode and both, where factors, sums and numbers are zero."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

import oracle
import separationfactor as sf
from conftest import needs_native, skip_unless_xla_compiles

NORMAL = np.random.default_rng(0).standard_normal((3, 5))
X = {
    "normal": NORMAL,
    "zeros": np.array([[1, 0, 0, 0, 0], [0, 0, 0, 0, 0], [-1, 0, -0.0, 2, 0]], float),
    # Over all rows, both sums of x, and of its squares with the weights below, are zero.
    "zero sums": np.array([[1, -1, 3, 2, -2], [0, 0, 0, 0, 0], [1, 1, -3, 2, -2]], float),
}
WEIGHT = np.array([[1, 2, -1, 0, 3], [1, 1, 1, 1, 1], [-1, -2, 1, 2, -3]], float)
D_X = np.random.default_rng(1).standard_normal((3, 5))
D_FACTORS = (1.5, -2.0)
# The last is denormal in float32 and bfloat16, which the op flushes to zero.
FACTORS = [(1.0, 0.0), (0.0, 0.0), (2.0, -0.0), (0.0, 0.5), (-0.75, 3.0), (1e-40, 2.0)]
HOW = {
    "eagerly": lambda function: function,
    "in a function": tf.function,
    "under XLA": lambda function: tf.function(function, jit_compile=True),
}
how = pytest.mark.parametrize("how", HOW)


def run(function, how, implementation):
    """Returns the function as `how` runs it; skips the test where that is impossible."""
    if how == "under XLA":
        skip_unless_xla_compiles(implementation)
    return HOW[how](function)


def derivatives(implementation):
    """Returns a function of all derivatives that the tests look at."""

    def separate(x, k, factors):
        return sf.separate(x, k, *factors, implementation=implementation)

    def forward(x, k, factors, d_x, d_factors):
        with tf.autodiff.ForwardAccumulator([x, *factors], [d_x, *d_factors]) as accumulator:
            y = separate(x, k, factors)
        return accumulator.jvp(y)

    def reverse(x, k, factors, weight):
        with tf.GradientTape() as tape:
            tape.watch([x, *factors])
            f = tf.reduce_sum(weight * tf.square(separate(x, k, factors)))
        return tape.gradient(f, [x, *factors])

    def function(x, k, factors, d_x, d_factors, weight):
        with tf.autodiff.ForwardAccumulator([x, *factors], [d_x, *d_factors]) as accumulator:
            gradients = reverse(x, k, factors, weight)
        with tf.GradientTape(persistent=True) as tape:
            tape.watch([x, *factors])
            along = tf.reduce_sum(weight * forward(x, k, factors, d_x, d_factors))
            inner = reverse(x, k, factors, weight)
            products = [tf.reduce_sum(a * b) for a, b in zip(inner, [d_x, *d_factors], strict=True)]
            product = tf.add_n(products)
        return {
            "forward": [forward(x, k, factors, d_x, d_factors)],
            "reverse": reverse(x, k, factors, weight),
            "forward over reverse": [accumulator.jvp(gradient) for gradient in gradients],
            "reverse over forward": tape.gradient(along, [x, *factors]),
            "reverse over reverse": tape.gradient(product, [x, *factors]),
        }

    return function


def expected(x, k, factors, dtype):
    """Returns the analytic derivatives of y = x * factor and of f = sum of weight * y^2."""
    selected = oracle.select(x, k)
    factors = [0.0 if abs(factor) < np.finfo(dtype).tiny else factor for factor in factors]
    factor, d_factor = (np.where(selected, *pair) for pair in (factors, D_FACTORS))

    def sums(numbers):
        return [numbers[selected].sum(), numbers[~selected].sum()]

    y, d_y = x * factor, D_X * factor + x * d_factor
    hessian_product = [
        2 * WEIGHT * (d_y * factor + y * d_factor),
        *sums(2 * WEIGHT * (d_y * x + y * D_X)),
    ]
    return {
        "forward": [d_y],
        "reverse": [2 * WEIGHT * y * factor, *sums(2 * WEIGHT * y * x)],
        "forward over reverse": hessian_product,
        "reverse over forward": [WEIGHT * d_factor, *sums(WEIGHT * D_X)],
        "reverse over reverse": hessian_product,
    }


@pytest.mark.parametrize(
    ("how", "dtype"),
    [("eagerly", "float32"), ("eagerly", "float64"), ("in a function", "float32"), ("under XLA", "float32")],
)
def test_derivatives_are_those_on_paper(implementation, how, dtype):
    function = run(derivatives(implementation), how, implementation)
    tolerance = 1e-5 if dtype == "float32" else 1e-12

    def cast(number):
        return tf.cast(tf.constant(number, tf.float64), dtype)

    for name, factors, k in itertools.product(X, FACTORS, (0, 2, 5)):
        x = X[name]
        actual = function(
            cast(x),
            tf.constant(k),
            [cast(each) for each in factors],
            cast(D_X),
            [cast(each) for each in D_FACTORS],
            cast(WEIGHT),
        )
        for order, values in expected(x, k, factors, dtype).items():
            for one, other in zip(actual[order], values, strict=True):
                np.testing.assert_allclose(
                    np.asarray(one, np.float64),
                    other,
                    rtol=tolerance,
                    atol=10 * tolerance,
                    err_msg=f"{order}, {name}, factors={factors}, k={k}",
                )


@how
def test_a_zero_factor_hides_everything_in_forward_mode(implementation, how):
    """If a factor and its tangent are zero, neither x nor x's tangent has an effect."""
    x = tf.constant([[np.inf, 3.0, np.nan, -np.inf, 2.0]])
    d_x = tf.constant([[np.nan, np.inf, 5.0, 1.0, 1.0]])

    def jvp(x, d_x, d_suppression):
        primals = [x, tf.constant(1.0), tf.constant(0.0)]
        tangents = [d_x, tf.constant(0.0), d_suppression]
        with tf.autodiff.ForwardAccumulator(primals, tangents) as accumulator:
            y = sf.separate(primals[0], 1, *primals[1:], implementation=implementation)
        return accumulator.jvp(y)

    f = run(jvp, how, implementation)
    np.testing.assert_array_equal(f(x, d_x, tf.constant(0.0)), [[0, 0, 5, 0, 0]])
    np.testing.assert_array_equal(f(x, d_x, tf.constant(2.0)), [[np.inf, 6, 5, -np.inf, 4]])


@how
@pytest.mark.parametrize("factors", [(2.0, 0.5), (1.0, 0.0), (0.0, 3.0)])
def test_numbers_as_factors(implementation, how, factors):
    def function(x, d_x):
        with tf.autodiff.ForwardAccumulator(x, d_x) as accumulator:
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = sf.separate(x, 2, *factors, implementation=implementation)
                f = tf.reduce_sum(y**3)
            d_f = tape.gradient(f, x)
        return accumulator.jvp(y), d_f, accumulator.jvp(d_f)

    d_y, d_f, second = run(function, how, implementation)(tf.constant(NORMAL), tf.constant(D_X))
    factor = np.where(oracle.select(NORMAL, 2), *factors)
    oracle.assert_same(d_y, oracle.scale(D_X, oracle.select(NORMAL, 2), *factors))
    np.testing.assert_allclose(d_f, 3 * factor**3 * NORMAL**2)
    np.testing.assert_allclose(second, 6 * factor**3 * NORMAL * D_X)


@pytest.mark.parametrize("vectorized", ["x", "factors", "x factors"])
def test_in_a_vectorized_map(implementation, vectorized):
    """Over x, over the factors, and over both; an instance each of the cases above."""
    elements = {
        "x": tf.constant(np.stack([X["zero sums"], X["zeros"], NORMAL])),
        "factors": tf.constant([[1.0, 0.0], [0.0, 0.5], [0.0, 0.0]], tf.float64),
    }
    function = derivatives(implementation)
    d_factors = list(tf.constant(D_FACTORS, tf.float64))
    stacked = {name: elements[name] for name in vectorized.split()}

    def each(instance):
        x, factors = (instance.get(name, elements[name][0]) for name in ("x", "factors"))
        return function(x, 2, [factors[0], factors[1]], tf.constant(D_X), d_factors, tf.constant(WEIGHT))

    actual = tf.vectorized_map(each, stacked)
    for i in range(3):
        x, factors = (
            elements[name][i if name in stacked else 0].numpy().astype(float) for name in ("x", "factors")
        )
        for order, values in expected(x, 2, tuple(factors), "float64").items():
            for one, other in zip(actual[order], values, strict=True):
                np.testing.assert_allclose(one[i], other, rtol=1e-12, atol=1e-12, err_msg=f"{order}, {i}")


@needs_native
@pytest.mark.parametrize("dtype", oracle.DTYPES)
def test_both_implementations_give_the_same_bits_for_factors_that_are_tensors(dtype):
    """Also for numbers that are not finite, and in forward mode."""
    x = np.array([[np.nan, 1, 2, -0.0, 4], [np.inf, 1, -np.inf, 2, 0], [1, 0, 3, -np.inf, np.nan]])
    for factors, k in itertools.product(FACTORS, (0, 2, 5)):
        results = []
        for implementation in ("native", "tf"):
            primals = [tf.cast(each, dtype) for each in (x, *factors)]
            tangents = [tf.cast(each, dtype) for each in (D_X, *D_FACTORS)]
            with tf.autodiff.ForwardAccumulator(primals, tangents) as accumulator:
                y = sf.separate(primals[0], k, *primals[1:], implementation=implementation)
            results.append((y, accumulator.jvp(y)))
        for native, composed in zip(*results, strict=True):
            oracle.assert_same(composed, native.numpy(), factors=factors, k=k)


def test_the_gradient_of_a_gather(implementation):
    """The gradient of a gather is an IndexedSlices."""
    x = tf.constant(NORMAL)
    factor = np.where(oracle.select(NORMAL, 2), 2.0, 0.5)
    factor[1] = 0
    for factors in ((2.0, 0.5), (tf.constant(2.0, tf.float64), tf.constant(0.5, tf.float64))):
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = tf.gather(sf.separate(x, 2, *factors, implementation=implementation), [0, 2])
                f = tf.reduce_sum(y**2)
            d_x = tape.gradient(f, x)
        np.testing.assert_allclose(d_x, 2 * factor**2 * NORMAL)
        np.testing.assert_allclose(outer.gradient(d_x, x), 2 * factor**2)
