"""The inverse autoregressive flow: its determinant and its masks against autodiff, and its density."""

import json

import numpy as np
import pytest
import tensorflow as tf

from separationfactor.models.inverse_autoregressive_flow import InverseAutoregressiveFlow


def make(size, steps, units, context_size=3):
    """A flow far from the identity: each weight is random, biases too."""
    flow = InverseAutoregressiveFlow(steps, units)
    flow.build((None, size), (None, context_size))
    rng = np.random.default_rng(size)
    flow.set_weights([rng.normal(scale=0.5, size=weight.shape) for weight in flow.get_weights()])
    return flow


def jacobian(flow, z, context):
    with tf.GradientTape() as tape:
        tape.watch(z)
        result, log_determinant = flow(z, context)
    return tape.batch_jacobian(result, z).numpy(), log_determinant.numpy()


@pytest.mark.parametrize("size", [1, 2, 5, 10])
@pytest.mark.parametrize("steps", [1, 2, 4])
def test_the_determinant_is_autodiffs(size, steps):
    flow = make(size, steps, units=16)
    z, context = tf.random.normal((20, size)), tf.random.normal((20, 3))
    matrix, log_determinant = jacobian(flow, z, context)
    sign, expected = np.linalg.slogdet(matrix.astype(np.float64))
    np.testing.assert_allclose(log_determinant, expected, rtol=1e-3, atol=1e-3)
    assert np.ptp(log_determinant) > 0.1
    # A step's Jacobian is positive; each reversal but the first step's is a permutation.
    reversal = (-1) ** ((size // 2) * (steps - 1))
    np.testing.assert_array_equal(sign, reversal)


def test_a_step_is_autoregressive():
    matrix, _ = jacobian(make(6, 1, units=40), tf.random.normal((8, 6)), tf.random.normal((8, 3)))
    np.testing.assert_array_equal(matrix * np.triu(np.ones((6, 6)), 1), 0)
    # ... and no entry below the diagonal is out of reach.
    assert (np.abs(matrix).max(0)[np.tril_indices(6)] > 0).all()


def test_every_entry_depends_on_the_context():
    flow, context = make(4, 1, units=16), tf.random.normal((16, 3))
    with tf.GradientTape() as tape:
        tape.watch(context)
        z, _ = flow(tf.random.normal((16, 4)), context)
    assert (np.abs(tape.batch_jacobian(z, context)).max((0, 2)) > 0).all()


def test_the_density_is_that_of_the_samples():
    """In one dimension the histogram of samples is close to exp(log q)."""
    flow = make(1, 3, units=8)
    z = np.random.default_rng(0).normal(size=(200_000, 1)).astype("float32")
    context = np.tile([[0.3, -1.0, 0.5]], (len(z), 1)).astype("float32")
    samples, log_determinant = (each.numpy() for each in flow(z, context))
    log_q = -0.5 * (z[:, 0] ** 2 + np.log(2 * np.pi)) - log_determinant
    counts, edges = np.histogram(samples, bins=20, range=np.quantile(samples, [0.05, 0.95]), density=False)
    order = np.argsort(samples[:, 0])
    middle = (edges[1:] + edges[:-1]) / 2
    density = np.exp(np.interp(middle, samples[order, 0], log_q[order]))
    np.testing.assert_allclose(counts / len(z) / np.diff(edges), density, rtol=0.05)


def test_the_context_broadcasts():
    flow = make(4, 2, units=8)
    z, context = tf.random.normal((5, 7, 4)), tf.random.normal((5, 1, 3))
    result, log_determinant = flow(z, context)
    alone, alone_log_determinant = flow(z[:, 2], context[:, 0])
    np.testing.assert_allclose(result[:, 2], alone, rtol=1e-5)
    np.testing.assert_allclose(log_determinant[:, 2], alone_log_determinant, rtol=1e-5)


def test_it_starts_near_the_identity():
    flow = InverseAutoregressiveFlow(1)
    z = tf.random.normal((100, 10))
    flow.build(z.shape, (None, 3))
    result, _ = flow(z, tf.zeros((100, 3)))
    assert np.corrcoef(np.ravel(result), np.ravel(z))[0, 1] > 0.7


def test_config_round_trip():
    config = InverseAutoregressiveFlow(3, 9, name="some").get_config()
    assert config == json.loads(json.dumps(config))
    assert InverseAutoregressiveFlow.from_config(config).get_config() == config


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"steps": 0}, "`steps` must be a positive integer"), ({"units": 0.5}, "`units` must be a positive")],
)
def test_argument_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        InverseAutoregressiveFlow(**arguments)
