"""Fixtures that all tests share."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import pytest
import tensorflow as tf
from tensorflow.python.framework.config import disable_op_determinism

from separationfactor import implementations, library

needs_native = pytest.mark.skipif(
    library.ops is None, reason=f"the compiled op is not available: {library.why_unavailable}"
)
needs_xla = pytest.mark.skipif(
    library.why_not_xla() is not None, reason=f"XLA does not compile the op: {library.why_not_xla()}"
)


def skip_unless_xla_compiles(implementation):
    """Skips a test of the compiled op under XLA where TensorFlow lacks the interface for it."""
    if not implementations.supports_jit(implementation):
        pytest.skip(f"XLA does not compile the op: {library.why_not_xla()}")


def pytest_runtest_setup(item):
    if item.get_closest_marker("gpu"):
        if not tf.config.list_physical_devices("GPU"):
            pytest.skip("TensorFlow sees no GPU")
        if library.why_not_cuda is not None:
            pytest.skip(f"the compiled op has no kernels for a GPU: {library.why_not_cuda}")


@pytest.fixture(params=[pytest.param("native", marks=needs_native), "tf"])
def implementation(request):
    """Runs a test on the compiled op and on plain TensorFlow ops."""
    return request.param


@pytest.fixture(autouse=True)
def seeded():
    keras.utils.set_random_seed(1)


@pytest.fixture(scope="module")
def deterministic():
    """Lets a module's tests compare the bits of whole trainings.

    Not for all tests: while it is on, Keras compiles nothing with XLA.
    """
    tf.config.experimental.enable_op_determinism()
    yield
    disable_op_determinism()
