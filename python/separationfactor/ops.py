"""The function `separate`, and the gradients of the compiled ops."""

from __future__ import annotations

import contextlib
import functools
import numbers
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from separationfactor import _private, composed, implementations, library, vectorize
from separationfactor._private import EagerTensor

DTYPES = (tf.float32, tf.float64, tf.bfloat16, tf.float16)
SCORES = ("value", "magnitude")


def separate(
    x: Any,
    k: Any = 1,
    separation: Any = 1.0,
    suppression: Any = 0.0,
    *,
    axis: int = -1,
    by: str = "value",
    implementation: str = "auto",
) -> tf.Tensor:
    """Multiplies the k greatest entries of each row by one factor and the others by another.

    For every row `x[0..n)` along `axis`:

        selected = the k entries with the greatest score    (score = x, or |x| with by="magnitude")
        y[i]     = x[i] * (separation if i in selected else suppression)

    `separation=1, suppression=0` is the k-sparse activation of Makhzani and Frey, 2013 (arXiv 1312.5663),
    and the TopK activation of Gao et al., 2024 (arXiv 2406.04093).

    Ties go to the lowest index, as in `tf.math.top_k`. -0 ties with +0. NaN ranks above +inf. A factor of
    exactly 0 writes +0 for any x, including NaN and infinities.

    The gradient is that of the multiplication, with the selection held fixed. It can be differentiated to
    any order, in reverse and forward mode. For the gradient, the compiled op keeps one bit per element. It
    keeps x only if a factor is a tensor.

    >>> separationfactor.separate([[1.0, 5.0, 3.0], [2.0, 0.0, 9.0]], k=2)
    [[0.0, 5.0, 3.0], [2.0, 0.0, 9.0]]

    Args:
        x: A dense float32, float64, bfloat16 or float16 tensor with at least one axis, or a
            `keras.KerasTensor`, as `keras.Input` returns. For a `KerasTensor`, k must be an int, the
            factors must be numbers, and the result is a `KerasTensor`, as with `keras.ops`.
        k: The number of entries to select in each row, `0 <= k <= n`. An int, or a scalar tensor of any
            integer dtype. Changing the value of the tensor neither retraces a `tf.function` nor recompiles
            XLA.
        separation: The factor of the selected entries. A number, or a scalar tensor or variable of x's
            dtype. A tensor or variable has a gradient.
        suppression: The factor of the other entries. The same types as for `separation`.
        axis: The axis along which rows lie.
        by: The score that ranks entries: "value" for x, "magnitude" for |x|.
        implementation: "native" (the compiled op), "tf" (plain TensorFlow ops, with the same results) or
            "auto". "auto" is native if the compiled op loads, else tf with a warning. The environment
            variable `SEPARATIONFACTOR_IMPLEMENTATION` sets what "auto" means.

    Returns:
        A tensor of x's shape and dtype.

    Raises:
        TypeError: If x, k or a factor has a type or dtype that is not listed above.
        ValueError: If x, k or a factor has the wrong rank, or `axis`, `by` or `implementation` has a wrong
            value.
        tf.errors.InvalidArgumentError: If k is not in [0, n]. The error is raised while tracing if k and n
            are known then, otherwise at run time. Under XLA, the error at run time needs the compiled op
            and a CPU. XLA on a GPU, and XLA with "tf" on any device, cannot raise it: every entry of the
            result is then NaN. Also raised if x's rank is unknown while tracing and x is a scalar or `axis`
            is out of range.
        RuntimeError: If `implementation` is "native" and the compiled op is not available. If x is a
            `KerasTensor` and Keras' backend is not TensorFlow.
        NotImplementedError: If x is a DTensor and the implementation is native: only tf accepts a DTensor.
            Inside a `tf.function`, TensorFlow raises its own error.
    """
    if (
        type(x) is EagerTensor  # None without the fast path
        and type(k) is int
        and type(separation) is type(suppression) is float
        and axis == -1
        and by == "value"
        and _private.tape_set_is_empty()
        and _private.is_executing_eagerly()
        and implementations.runs_eagerly(implementation)
    ):
        # The op's generated Python wrapper costs more than a small kernel.
        try:
            return _private.execute(
                "SeparationFactor>SeparateWithoutGradient", x, _scalars(k, separation, suppression)
            )
        except _private.FAST_PATH_ERRORS:
            pass  # The checks below find the wrong argument.
    if isinstance(x, keras.KerasTensor):
        return Separate(
            k, separation, suppression, axis=axis, by=by, implementation=implementation
        ).symbolic_call(x)
    implementation = implementations.resolve(implementation)
    if isinstance(x, (tf.RaggedTensor, tf.SparseTensor)):
        raise TypeError(f"`x` must be a dense tensor. Received: a {type(x).__name__}")
    x = tf.convert_to_tensor(x)
    if implementation == "native" and _private.is_eager(x) and "CUSTOM" in x.device:
        # DTensor is a custom device. It can partition only TensorFlow's own ops.
        raise NotImplementedError(
            "The compiled op does not take a DTensor; implementation='tf' does. Received: x of shape "
            f"{x.shape} on {x.device}"
        )
    rank = x.shape.rank
    _check_input(x.dtype, rank, axis)
    check_score(by)
    if rank is None and (axis != -1 or implementation == "tf"):
        x = _with_checked_axis(x, axis)
    arguments = (k, separation, suppression, by, implementation)
    if axis == -1 or (rank is not None and axis % rank == rank - 1):
        return _separate_last_axis(x, *arguments)
    # One pass over transposed rows is faster than a strided pass. Autodiff transposes the gradient back.
    to_last = _to_last_axis(tf.rank(x) if rank is None else rank, axis)
    y = _separate_last_axis(tf.transpose(x, to_last), *arguments)
    return tf.transpose(y, tf.argsort(to_last) if rank is None else np.argsort(to_last))


def _separate_last_axis(x, k, separation, suppression, by, implementation):
    k = _k(k, x.shape[-1] if x.shape.rank is not None else None)
    separation, separation_is_tensor = _factor("separation", separation, x.dtype)
    suppression, suppression_is_tensor = _factor("suppression", suppression, x.dtype)
    factor_gradients = separation_is_tensor or suppression_is_tensor
    if implementation == "tf":
        return composed.separate(x, k, separation, suppression, by)
    on_tape = tf.executing_eagerly() and _private.could_possibly_record() and _private.has_tapes()
    if factor_gradients or not on_tape:
        return library.ops.separation_factor_separate(
            x, k, separation, suppression, by=by, factor_gradients=factor_gradients
        )[0]
    return _separate_on_tape(x, k, separation, suppression, by)


@keras.saving.register_keras_serializable(package="separationfactor")
class Separate(keras.Operation):
    """The operation that `separate` adds to a functional model when x is a `keras.KerasTensor`."""

    def __init__(
        self, k=1, separation=1.0, suppression=0.0, *, axis=-1, by="value", implementation="auto", name=None
    ):
        super().__init__(name=name)
        if keras.backend.backend() != "tensorflow":
            raise RuntimeError(
                "`separate` of a KerasTensor needs Keras' TensorFlow backend. "
                f"Received: backend={keras.backend.backend()}"
            )
        if not _is_int(k):
            raise TypeError(f"`k` must be an int if `x` is a KerasTensor. Received: k={k!r}")
        for factor_name, factor in (("separation", separation), ("suppression", suppression)):
            if not isinstance(factor, numbers.Real):
                raise TypeError(
                    f"`{factor_name}` must be a number if `x` is a KerasTensor. "
                    f"Received: {factor_name}={factor!r}"
                )
        check_score(by)
        implementations.resolve(implementation)
        self.k = int(k)
        self.separation, self.suppression = float(separation), float(suppression)
        self.axis, self.by, self.implementation = axis, by, implementation

    def call(self, x):
        return separate(
            x,
            self.k,
            self.separation,
            self.suppression,
            axis=self.axis,
            by=self.by,
            implementation=self.implementation,
        )

    def compute_output_spec(self, x):
        if x.sparse or getattr(x, "ragged", False):
            raise TypeError(f"`x` must be a dense tensor. Received: x={x}")
        _check_input(tf.as_dtype(x.dtype), len(x.shape), self.axis)
        _k(self.k, x.shape[self.axis])
        return keras.KerasTensor(x.shape, dtype=x.dtype)

    def get_config(self):
        return {
            "name": self.name,
            "k": self.k,
            "separation": self.separation,
            "suppression": self.suppression,
            "axis": self.axis,
            "by": self.by,
            "implementation": self.implementation,
        }


def _check_input(dtype: tf.DType, rank: int | None, axis: Any) -> None:
    """Raises an error if x's dtype, x's rank or `axis` is not valid. `rank` is None if it is unknown."""
    if dtype not in DTYPES:
        raise TypeError(f"`x` must be of dtype float32, float64, bfloat16 or float16. Received: {dtype.name}")
    if rank == 0:
        raise ValueError("`x` must have at least one axis. Received: a scalar")
    if not _is_int(axis) or (rank is not None and not -rank <= axis < rank):
        raise ValueError(
            f"`axis` must be an int in [-rank, rank). Received: axis={axis!r} for x of rank {rank}"
        )


def _with_checked_axis(x: tf.Tensor, axis: int) -> tf.Tensor:
    """Returns x, whose rank is unknown while tracing, after checking that it has the axis."""
    rank = tf.rank(x)
    checks = [
        tf.debugging.Assert(rank >= 1, ["`x` must have at least one axis. Received: a scalar"]),
        tf.debugging.Assert(
            (rank == 0) | ((-rank <= axis) & (axis < rank)),
            ["`axis` must be an int in [-rank, rank). Received: axis =", axis, "for x of rank", rank],
        ),
    ]
    with tf.control_dependencies(checks):
        # XLA drops assertions. When it compiles a split, it checks the axis, and its error names the op.
        (x,) = tf.raw_ops.Split(axis=-1, value=x, num_split=1, name="x_must_have_at_least_one_axis")
        (x,) = tf.raw_ops.Split(axis=axis, value=x, num_split=1, name="axis_must_be_one_of_x")
    return x


def check_score(by: Any) -> str:
    """Returns `by` if it is valid."""
    if by not in SCORES:
        raise ValueError(f"`by` must be 'value' or 'magnitude'. Received: by={by!r}")
    return by


@functools.lru_cache(maxsize=256)
def _scalars(k: int, separation: float, suppression: float) -> tf.Tensor:
    """Returns the scalars as one tensor, which SeparateWithoutGradient accepts for an x of any dtype."""
    with tf.device("CPU"):
        # Each dtype rounds the factors as `tf.constant` does. cc/tensorflow/scalars.h has the same order.
        factors = [tf.constant([separation, suppression], dtype).numpy() for dtype in DTYPES]
        return tf.constant(np.concatenate([[k], *factors], dtype=np.float64))


def _to_last_axis(rank: Any, axis: int) -> Any:
    """Returns the permutation that moves `axis` to the end: a list if `rank` is an int, else a tensor."""
    if isinstance(rank, int):
        axis %= rank
        return [*range(axis), *range(axis + 1, rank), axis]
    axis = axis % rank
    return tf.concat([tf.range(axis), tf.range(axis + 1, rank), [axis]], 0)


def _is_int(number: Any) -> bool:
    return isinstance(number, numbers.Integral) and not isinstance(number, bool)


def _k(k: Any, n: int | None) -> Any:
    """Returns k as the ops accept it: an int, or a scalar int32 or int64 tensor."""
    expected = "`k` must be an int or a scalar tensor of an integer dtype"
    if not _is_int(k):
        if isinstance(k, (bool, numbers.Number, str)):
            raise TypeError(f"{expected}. Received: {k!r}")
        try:
            k = tf.convert_to_tensor(k)
        except (TypeError, ValueError) as error:
            raise TypeError(f"{expected}. Received: {k!r}") from error
        if not k.dtype.is_integer:
            raise TypeError(f"{expected}. Received: {k.dtype.name}")
        if k.shape.rank not in (0, None):
            raise ValueError(f"`k` must be a scalar. Received: a tensor of shape {k.shape}")
        if k.dtype not in (tf.int32, tf.int64):
            k = tf.cast(k, tf.int64)
        # A value that is known while tracing is checked now. The op checks an eager tensor, which may be on
        # a GPU.
        static_k = None if _private.is_eager(k) else tf.get_static_value(k)
        if static_k is None:
            return k
        k = int(static_k)
    # The length of a row fits in an int32.
    if not 0 <= k <= (2**31 - 1 if n is None else n):
        raise composed.range_error(k, "unknown" if n is None else n)
    return int(k) if k < 2**31 else tf.constant(k, tf.int64)


def _factor(name: str, factor: Any, dtype: tf.DType) -> tuple[Any, bool]:
    """Returns the factor as the ops accept it, and whether it is a tensor, which may need a gradient."""
    if isinstance(factor, numbers.Real):
        return float(factor), False
    try:
        factor = tf.convert_to_tensor(factor)
    except (TypeError, ValueError) as error:
        raise TypeError(f"`{name}` must be a number or a scalar tensor. Received: {factor!r}") from error
    if factor.dtype != dtype:
        raise TypeError(f"`{name}` must have x's dtype, {dtype.name}. Received: {factor.dtype.name}")
    if factor.shape.rank not in (0, None):
        raise ValueError(f"`{name}` must be a scalar. Received: a tensor of shape {factor.shape}")
    return factor, True


def _separate_on_tape(x, k, separation, suppression, by):
    """Computes `separate` eagerly and records its gradient on the tapes.

    If the tapes recorded the op itself, they would keep all of its inputs: x, and not only the bitmask.
    """
    with _private.stop_recording():
        y, selected = library.ops.separation_factor_separate(
            x, k, separation, suppression, by=by, factor_gradients=False
        )

    def gradient(d_y):
        return [_scale_on_tape(d_y, selected, separation, suppression)]

    _private.record_operation("SeparationFactor>Separate", [y], [x], gradient)
    return y


def _scale_on_tape(v, selected, separation, suppression):
    """Computes ScaleSelected eagerly and records its gradient on the tapes.

    The op is linear in v, so its gradient is the same op.
    """
    v = tf.convert_to_tensor(v)  # The gradient of a gather is IndexedSlices.
    with _private.stop_recording():
        out = library.ops.separation_factor_scale_selected(
            v, selected, separation, suppression, factor_gradients=False
        )

    def gradient(d_out):
        return [_scale_on_tape(d_out, selected, separation, suppression)]

    _private.record_operation("SeparationFactor>ScaleSelected", [out], [v], gradient)
    return out


def _register_gradient(op: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Registers a gradient. If the package is imported again, TensorFlow keeps the first registration."""

    def register(function):
        with contextlib.suppress(KeyError):
            tf.RegisterGradient(op)(function)
        return function

    return register


vectorize.register()

if library.ops is not None:

    @_register_gradient("SeparationFactor>Separate")
    def _separate_gradient(op, d_y, _):
        x, _, separation, suppression = op.inputs
        selected = op.outputs[1]
        d_x, *d_factors = _scale_and_sum(op, d_y, x, selected, separation, suppression)
        return d_x, None, *d_factors

    @_register_gradient("SeparationFactor>ScaleSelected")
    def _scale_selected_gradient(op, d_out):
        v, selected, separation, suppression = op.inputs
        d_v, *d_factors = _scale_and_sum(op, d_out, v, selected, separation, suppression)
        return d_v, None, *d_factors

    @_register_gradient("SeparationFactor>SumSelected")
    def _sum_selected_gradient(op, d_selected_sum, d_others_sum):
        u, v, selected = op.inputs
        scale = library.ops.separation_factor_scale_selected
        return (
            scale(v, selected, d_selected_sum, d_others_sum),
            scale(u, selected, d_selected_sum, d_others_sum),
            None,
        )

    def _scale_and_sum(op, d_out, v, selected, separation, suppression):
        """Returns the gradients of v * factor for v and for the factors.

        The gradients for the factors are None unless the op's attribute `factor_gradients` is set.
        """
        factor_gradients = op.get_attr("factor_gradients")
        d_v = library.ops.separation_factor_scale_selected(
            d_out, selected, separation, suppression, factor_gradients=factor_gradients
        )
        if not factor_gradients:
            return d_v, None, None
        return d_v, *library.ops.separation_factor_sum_selected(d_out, v, selected)
