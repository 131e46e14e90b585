"""The private TensorFlow names that the package uses, each with a fallback for when it is missing.

They speed up eager calls, reduce the memory that gradients need, and support vectorization. Results do not
depend on them, except where a docstring below says so.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

# The eager fast path: calls an op without its generated Python wrapper. `EagerTensor` is None without it.
try:
    from tensorflow.python import pywrap_tfe
    from tensorflow.python.eager import context as _context
    from tensorflow.python.eager.core import _FallbackException, _NotOkStatusException
    from tensorflow.python.framework.ops import EagerTensor

    tape_set_is_empty = pywrap_tfe.TFE_Py_TapeSetIsEmpty
    _fast_path_execute = pywrap_tfe.TFE_Py_FastPathExecute
    _context._context  # noqa: B018, checks that the name exists: two functions below read it
    # The errors of invalid arguments: the op's own, and that of a number too large for a float.
    FAST_PATH_ERRORS: tuple[type[Exception], ...] = (_FallbackException, _NotOkStatusException, OverflowError)
except (ImportError, AttributeError):
    EagerTensor = None
    FAST_PATH_ERRORS = ()

# Recording on gradient tapes. `_record` is None without it.
try:
    from tensorflow.python.eager import record as _record

    _record.stop_recording, _record.record_operation, _record.could_possibly_record  # noqa: B018
except (ImportError, AttributeError):
    _record = None

# Tells whether XLA compiles the function being traced.
try:
    from tensorflow.python.ops.control_flow_util import GraphOrParentsInXlaContext
except ImportError:
    GraphOrParentsInXlaContext = None

# Registers how `tf.vectorized_map` converts an op. Without it, TensorFlow runs the op in a loop and warns.
try:
    from tensorflow.python.ops.parallel_for.pfor import RegisterPFor, wrap
except ImportError:
    RegisterPFor = wrap = None


def is_eager(tensor: Any) -> bool:
    """Returns whether an object is an eager tensor."""
    if EagerTensor is None:
        return isinstance(tensor, tf.Tensor) and hasattr(tensor, "numpy")
    return isinstance(tensor, EagerTensor)


def is_executing_eagerly() -> bool:
    """Returns the same as `tf.executing_eagerly`, in a tenth of the time. For the fast path only."""
    return _context._context._thread_local_data.is_eager


def execute(op: str, *inputs: Any) -> Any:
    """Executes an op with one output eagerly, without a gradient. For the fast path only."""
    return _fast_path_execute(_context._context, op, None, *inputs)


def has_tapes() -> bool:
    """Returns whether `stop_recording` and `record_operation` work."""
    return _record is not None


def stop_recording() -> contextlib.AbstractContextManager:
    """Returns a context in which tapes and forward accumulators record nothing.

    If TensorFlow lacks it, the context does nothing.
    """
    return contextlib.nullcontext() if _record is None else _record.stop_recording()


def could_possibly_record() -> bool:
    """Returns whether a tape or a forward accumulator may be active."""
    return _record is None or _record.could_possibly_record()


def record_operation(
    name: str,
    outputs: Sequence[tf.Tensor],
    inputs: Sequence[tf.Tensor],
    gradient: Callable[..., Any],
    tangents: Callable[..., Any] | None = None,
) -> None:
    """Records an operation and its gradient on the tapes and forward accumulators.

    `tangents` maps the inputs' tangents to the outputs'. With `None`, TensorFlow transposes the gradient,
    which must then be made of tensors alone.
    """
    _record.record_operation(name, outputs, inputs, gradient, tangents)


def in_xla_context() -> bool:
    """Returns whether XLA will compile the function being traced.

    If TensorFlow cannot tell, returns True for every function, because code for XLA is correct everywhere.
    """
    if tf.executing_eagerly():
        return False
    if GraphOrParentsInXlaContext is None:
        return True
    return GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph())
