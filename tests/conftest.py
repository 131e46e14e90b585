"""Fixtures that all tests share."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import pytest
import tensorflow as tf

from separationfactor import native

# Tests compare bits, and find out whether the op is one of those that determinism forbids.
tf.config.experimental.enable_op_determinism()

needs_native = pytest.mark.skipif(
    native.ops is None, reason=f"the compiled op is not available: {native.why_unavailable}"
)


@pytest.fixture(params=[pytest.param("native", marks=needs_native), "tf"])
def implementation(request):
    """Runs a test on the compiled op and on plain TensorFlow ops."""
    return request.param
