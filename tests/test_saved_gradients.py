"""Gradients of a SavedModel that holds the op."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import tensorflow as tf

import oracle
import separationfactor as sf
from conftest import needs_native

pytestmark = needs_native

SEPARATE = "SeparationFactor>Separate"
X = np.random.default_rng(0).standard_normal((3, 7)).astype(np.float32)


def gradients(model):
    """Returns y, its gradients by x and the model's weight, and the second-order one by both."""
    x = tf.constant(X)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        y = model(x, 2)
        d_x, d_weight = tape.gradient(y, [x, model.weight])
    return [each.numpy() for each in (y, d_x, d_weight, tape.gradient(d_x, model.weight))]


LOAD = """
import sys
import numpy as np
import tensorflow as tf
from test_saved_gradients import SEPARATE, gradients

loaded = tf.saved_model.load(sys.argv[1])
assert SEPARATE in str(loaded.__call__.concrete_functions[0].graph.as_graph_def())
np.savez(sys.argv[2], *gradients(loaded))
"""


def test_a_saved_model_differentiates_in_a_fresh_process(tmp_path):
    class Model(tf.Module):
        def __init__(self):
            self.weight = tf.Variable(3.0)

        @tf.function(input_signature=[tf.TensorSpec([None, 7]), tf.TensorSpec([], tf.int32)])
        def __call__(self, x, k):
            return sf.separate(x * self.weight, k, self.weight, 0.5, implementation="native")

    model = Model()
    saved, results = str(tmp_path / "model"), str(tmp_path / "gradients.npz")
    tf.saved_model.save(model, saved)
    process = subprocess.run(
        [sys.executable, "-c", LOAD, saved, results],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    with np.load(results) as found:
        for actual, expected in zip(found.values(), gradients(model), strict=True):
            oracle.assert_same(actual, expected)
