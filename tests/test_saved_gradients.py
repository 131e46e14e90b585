"""Gradients of a SavedModel that holds the op, and those that TensorFlow's C interface makes."""

import ctypes
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import oracle
import separationfactor as sf
from conftest import needs_native

pytestmark = needs_native

FOLDER = Path(sf.__file__).parent
SEPARATE, SCALE, SUM = (f"SeparationFactor>{name}" for name in ("Separate", "ScaleSelected", "SumSelected"))


class Output(ctypes.Structure):
    """The C interface's TF_Output."""

    _fields_ = (("operation", ctypes.c_void_p), ("index", ctypes.c_int))


class CGraph:
    """A graph that only TensorFlow's C interface knows, which differentiates by C++ gradients alone."""

    def __init__(self, graph_def):
        self._c = ctypes.CDLL(str(Path(tf.sysconfig.get_lib()) / "libtensorflow_cc.so.2"))
        for name in ("TF_NewStatus", "TF_NewGraph", "TF_NewBuffer", "TF_NewBufferFromString", "TF_Message"):
            getattr(self._c, name).restype = ctypes.c_void_p
        for name in ("TF_NewImportGraphDefOptions", "TF_GraphOperationByName", "TF_LoadLibrary"):
            getattr(self._c, name).restype = ctypes.c_void_p
        self._c.TF_GetBuffer.restype = Buffer
        self._status = ctypes.c_void_p(self._c.TF_NewStatus())
        self._graph = ctypes.c_void_p(self._c.TF_NewGraph())
        self.call("TF_LoadLibrary", str(FOLDER / "_gradients.so").encode(), self._status)
        data = graph_def.SerializeToString()
        buffer = ctypes.c_void_p(self._c.TF_NewBufferFromString(data, ctypes.c_size_t(len(data))))
        options = ctypes.c_void_p(self._c.TF_NewImportGraphDefOptions())
        self.call("TF_GraphImportGraphDef", self._graph, buffer, options, self._status)

    def call(self, name, *arguments):
        result = getattr(self._c, name)(*arguments)
        if self._c.TF_GetCode(self._status) != 0:
            message = ctypes.cast(self._c.TF_Message(self._status), ctypes.c_char_p).value
            raise RuntimeError(message.decode())
        return result

    def add_gradient(self, y, xs, d_y):
        """Differentiates the sum of y * d_y by each of `xs`, all names of tensors; returns such names."""
        y, d_y = self.output(y), self.output(d_y)
        xs = (Output * len(xs))(*map(self.output, xs))
        d_xs = (Output * len(xs))()
        y, d_y = ctypes.byref(y), ctypes.byref(d_y)
        self.call("TF_AddGradients", self._graph, y, 1, xs, len(xs), d_y, self._status, d_xs)
        return [self.name(each) for each in d_xs]

    def output(self, name):
        operation, _, index = name.partition(":")
        pointer = self._c.TF_GraphOperationByName(self._graph, operation.encode())
        return Output(pointer, int(index or 0))

    def name(self, output):
        self._c.TF_OperationName.restype = ctypes.c_char_p
        return f"{self._c.TF_OperationName(ctypes.c_void_p(output.operation)).decode()}:{output.index}"

    def graph_def(self):
        buffer = ctypes.c_void_p(self._c.TF_NewBuffer())
        self.call("TF_GraphToGraphDef", self._graph, buffer, self._status)
        content = self._c.TF_GetBuffer(buffer)
        return tf.compat.v1.GraphDef.FromString(ctypes.string_at(content.data, content.length))


class Buffer(ctypes.Structure):
    """The C interface's TF_Buffer."""

    _fields_ = (("data", ctypes.c_void_p), ("length", ctypes.c_size_t), ("deallocator", ctypes.c_void_p))


@pytest.mark.parametrize("factor_gradients", [False, True])
def test_the_c_interface_differentiates_to_the_third_order(factor_gradients):
    """f = sum of y^4; its derivatives by x and the separation, made by C++ and run by Python."""
    x = np.random.default_rng(0).standard_normal((3, 7))
    with tf.Graph().as_default() as graph:
        placeholder = tf.compat.v1.placeholder(tf.float64, (3, 7), name="x")
        separation = tf.constant(2.0, tf.float64, name="separation")
        y = sf.separate(placeholder, 2, separation if factor_gradients else 2.0, 0.5, implementation="native")
        tf.square(tf.square(y), name="f")
        tf.ones((3, 7), tf.float64, name="ones")  # TensorFlow's own start has no gradient in C++
    c_graph = CGraph(graph.as_graph_def())
    watched = ["x", "separation"] if factor_gradients else ["x"]
    first = c_graph.add_gradient("f", watched, "ones")
    second = c_graph.add_gradient(first[0], watched, "ones")
    third = c_graph.add_gradient(second[0], watched, "ones")
    with tf.Graph().as_default() as graph, tf.compat.v1.Session() as session:
        tf.import_graph_def(c_graph.graph_def(), name="")
        run = session.run([first, second, third], {"x:0": x})
    selected = oracle.select(x, 2)
    factor = np.where(selected, 2.0, 0.5)
    for derivatives, by_x, by_separation in zip(
        run,
        (4 * factor**4 * x**3, 12 * factor**4 * x**2, 24 * factor**4 * x),
        (4 * factor**3 * x**4, 16 * factor**3 * x**3, 48 * factor**3 * x**2),
        strict=True,
    ):
        np.testing.assert_allclose(derivatives[0], by_x)
        if factor_gradients:
            np.testing.assert_allclose(derivatives[1], by_separation[selected].sum())
    ops = {node.op for node in graph.as_graph_def().node}
    assert (SUM in ops) == factor_gradients
    assert {SEPARATE, SCALE} <= ops


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
