"""The private names of TensorFlow, Keras and Python that the package uses, each with a public fallback.

TensorFlow's names speed up eager calls, reduce the memory that gradients need, and support vectorization.
Keras' names find, reset and copy the state of layers. Results do not depend on them, except where a docstring
below says so. No other module may use a private name of another package.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

# The eager fast path: calls an op without its generated Python wrapper. `EagerTensor` is None without it.
try:
    from tensorflow.python import pywrap_tfe
    from tensorflow.python.eager import context as _context
    from tensorflow.python.eager.core import _FallbackException, _NotOkStatusException
    from tensorflow.python.framework.ops import EagerTensor

    tape_set_is_empty = pywrap_tfe.TFE_Py_TapeSetIsEmpty
    _fast_path_execute = pywrap_tfe.TFE_Py_FastPathExecute
    # Checks that the names exist that two functions below read.
    _context._context, _context.context()._thread_local_data.is_eager
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


def environment(variable: str) -> tuple[Mapping[Any, Any], Any]:
    """Returns a mapping with the environment's current state, and the key under which it holds a variable.

    The mapping is the dictionary behind `os.environ`. For an unset variable, `os.environ.get` raises and
    catches a KeyError, which takes a third of the time of a small eager call.
    """
    dictionary = getattr(os.environ, "_data", None)
    if dictionary is None:
        return os.environ, variable
    return dictionary, os.environ.encodekey(variable)


def inner_layers(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    """Returns the layers that a layer or model tracks, without their own inner layers."""
    flatten = getattr(layer, "_flatten_layers", None)
    if flatten is not None:
        return flatten(include_self=False, recursive=False)
    if isinstance(layer, keras.Model):
        return list(layer.layers)
    found: dict[int, keras.layers.Layer] = {}

    def search(value: Any) -> None:
        if isinstance(value, keras.layers.Layer):
            found.setdefault(id(value), value)
        elif isinstance(value, (list, tuple, set)):
            for each in value:
                search(each)
        elif isinstance(value, dict):
            search(list(value.values()))

    search(vars(layer))
    return list(found.values())


def all_layers(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    """Returns a layer or model and the layers inside it, at any depth, each once."""
    found = {id(layer): layer}

    def search(outer: keras.layers.Layer) -> None:
        for inner in inner_layers(outer):
            if id(inner) not in found:
                found[id(inner)] = inner
                search(inner)

    search(layer)
    return list(found.values())


def clear_losses(layer: keras.layers.Layer) -> list[Any]:
    """Removes the losses that a layer's earlier calls added. Returns those that remain in `layer.losses`.

    If Keras cannot remove them, they keep their memory.
    """
    clear = getattr(layer, "_clear_losses", None)
    if clear is None:
        return list(layer.losses)
    clear()
    return []


def output_shape(layer: keras.layers.Lambda) -> Any:
    """Returns the argument `output_shape` of a Lambda layer, or a function that computes the same shape."""
    return getattr(layer, "_output_shape", layer.compute_output_shape)


def copy_call_state(source: keras.layers.Layer, target: keras.layers.Layer) -> None:
    """Copies the build shapes of a layer, and whether it has been called.

    Keras exports only models whose build shapes it knows. For ONNX, a model must also have been called. If
    Keras stores them otherwise, some copies must be called once before they are exported.
    """
    for name in ("_build_shapes_dict", "_called"):
        value = getattr(source, name, None)
        if value is not None:
            setattr(target, name, value)


def is_bookkeeping(attribute: str) -> bool:
    """Returns whether TensorFlow added an attribute to a layer, to track what the layer holds."""
    return attribute.startswith("_self_")


def origin(tensor: keras.KerasTensor) -> tuple[Any, int, list[keras.KerasTensor]] | None:
    """Returns the operation that made a symbolic tensor, the number of its call, and that call's inputs.

    Returns None for a tensor that no operation made, and if Keras cannot tell.
    """
    history = getattr(tensor, "_keras_history", None)
    nodes = getattr(getattr(history, "operation", None), "_inbound_nodes", None)
    if history is None or nodes is None:
        return None
    return history.operation, history.node_index, nodes[history.node_index].input_tensors


def adam_state(optimizer: keras.optimizers.Adam, variable: Any) -> tuple[int, list[keras.Variable]]:
    """Returns the index of a variable among those of an Adam optimizer, and its moments.

    The moments are the first, the second and, with `amsgrad`, the greatest second one. Without Keras' lists
    of them, they are found by their names, and the variable by its handle.
    """
    index_of = getattr(optimizer, "_get_variable_index", None)
    names = ("_momentums", "_velocities", "_velocity_hats")
    lists: list[Any] = [getattr(optimizer, name, None) for name in names]
    if lists[0] is None or lists[1] is None:
        lists = [
            [each for each in optimizer.variables if each.path.endswith(suffix)]
            for suffix in ("_momentum", "_velocity", "_velocity_hat")
        ]
    if index_of is not None:
        index = index_of(variable)
    else:
        # Moments are named after their variables.
        name = getattr(variable, "path", variable.name).replace("/", "_").partition(":")[0]
        index = next(i for i, each in enumerate(lists[0]) if each.name == f"{name}_momentum")
    return index, [moments[index] for moments in lists if moments]
