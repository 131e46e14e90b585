"""The op as a function: `separate`, and the gradients of the compiled ops."""

from __future__ import annotations

import functools
import numbers
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.python import pywrap_tfe
from tensorflow.python.eager import context, record
from tensorflow.python.framework.ops import EagerTensor

from separationfactor import native, plain, vectorize

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

    Ties go to the lowest index, as in `tf.math.top_k`, and -0 ties with +0. NaN ranks above +inf. A factor
    of exactly 0 writes +0 for any x, NaN and infinities included. The gradient is that of the
    multiplication, with the selection held fixed; it can be differentiated to any order, in reverse and
    forward mode. For it, the compiled op keeps one bit an element, and x only where a factor is a tensor.

    >>> separationfactor.separate([[1.0, 5.0, 3.0], [2.0, 0.0, 9.0]], k=2)
    [[0.0, 5.0, 3.0], [2.0, 0.0, 9.0]]

    Args:
        x: A float32, float64, bfloat16 or float16 tensor of at least one axis.
        k: How many entries of each row are selected, `0 <= k <= n`: an int, or a scalar int32 or int64
            tensor, whose change neither retraces a `tf.function` nor recompiles XLA.
        separation: The factor of the selected entries: a number, or a scalar tensor or variable of x's
            dtype, for which a gradient is then defined.
        suppression: The factor of the others; likewise.
        axis: The axis that rows lie along.
        by: What entries are ranked by, "value" or "magnitude".
        implementation: "native" (the compiled op), "tf" (plain TensorFlow ops, with the same results), or
            "auto" (native where it loads, else tf with a warning; the environment variable
            `SEPARATIONFACTOR_IMPLEMENTATION` can say which).

    Returns:
        A tensor of x's shape and dtype.

    Raises:
        TypeError: If x, k or a factor has a dtype other than those above.
        ValueError: If x or a factor has a wrong rank, or `axis`, `by` or `implementation` a wrong value.
        tf.errors.InvalidArgumentError: If k is not in [0, n].
        RuntimeError: If "native" is asked for and the compiled op is not available.
        NotImplementedError: If x is a DTensor, which only "tf" takes. In a `tf.function` TensorFlow says so,
            in words of its own.
    """
    if (
        type(x) is EagerTensor
        and type(k) is int
        and type(separation) is type(suppression) is float
        and axis == -1
        and by == "value"
        and pywrap_tfe.TFE_Py_TapeSetIsEmpty()
        and context._context._thread_local_data.is_eager
        and native.runs_eagerly(implementation)
    ):
        # The op's generated wrapper costs more than a small kernel.
        try:
            return pywrap_tfe.TFE_Py_FastPathExecute(
                context._context,
                "SeparationFactor>SeparateWithoutGradient",
                None,
                x,
                _scalars(k, separation, suppression),
            )
        except Exception:
            pass  # what is wrong with an argument, the checks that follow say
    implementation = native.resolve(implementation)
    x = tf.convert_to_tensor(x)
    if implementation == "native" and isinstance(x, EagerTensor) and "CUSTOM" in x.device:
        # DTensor, a custom device, splits only ops that TensorFlow itself has told it of.
        raise NotImplementedError(
            "the compiled op does not take a DTensor; implementation='tf' does. Received: x of shape "
            f"{x.shape} on {x.device}"
        )
    if x.dtype not in DTYPES:
        raise TypeError(
            f"`x` must be of dtype float32, float64, bfloat16 or float16. Received: {x.dtype.name}"
        )
    rank = x.shape.rank
    if rank == 0:
        raise ValueError("`x` must have at least one axis. Received: a scalar")
    if by not in SCORES:
        raise ValueError(f"`by` must be 'value' or 'magnitude'. Received: {by!r}")
    if axis != -1:
        if not isinstance(axis, numbers.Integral) or (rank is not None and not -rank <= axis < rank):
            raise ValueError(
                f"`axis` must be an int in [-rank, rank). Received: axis={axis!r} for x of rank {rank}"
            )
        if rank is None or axis % rank != rank - 1:
            # One pass over transposed rows beats a strided one, and autodiff undoes it.
            to_last = _to_last_axis(tf.rank(x) if rank is None else rank, axis)
            y = separate(
                tf.transpose(x, to_last),
                k,
                separation,
                suppression,
                by=by,
                implementation=implementation,
            )
            return tf.transpose(y, tf.argsort(to_last) if rank is None else np.argsort(to_last))

    k = _k(k, x.shape[-1] if rank is not None else None)
    separation, separation_is_tensor = _factor("separation", separation, x.dtype)
    suppression, suppression_is_tensor = _factor("suppression", suppression, x.dtype)
    factor_gradients = separation_is_tensor or suppression_is_tensor
    if implementation == "tf":
        return plain.separate(x, k, separation, suppression, by)
    if factor_gradients or not tf.executing_eagerly() or not record.could_possibly_record():
        return native.ops.separation_factor_separate(
            x, k, separation, suppression, by=by, factor_gradients=factor_gradients
        )[0]
    return _separate_on_tape(x, k, separation, suppression, by)


@functools.lru_cache(maxsize=256)
def _scalars(k: int, separation: float, suppression: float) -> tf.Tensor:
    """Returns the scalars as SeparateWithoutGradient takes them: made once, whatever the type of x."""
    with tf.device("CPU"):
        # Each type rounds as a constant of it does everywhere else.
        factors = [tf.constant([separation, suppression], dtype).numpy() for dtype in DTYPES]
        return tf.constant(np.concatenate([[k], *factors], dtype=np.float64))


def _to_last_axis(rank: Any, axis: int) -> Any:
    """Returns the permutation that moves `axis` to the end; an array for an int `rank`, else a tensor."""
    if isinstance(rank, int):
        axis %= rank
        return [*range(axis), *range(axis + 1, rank), axis]
    axis = axis % rank
    return tf.concat([tf.range(axis), tf.range(axis + 1, rank), [axis]], 0)


def _k(k: Any, n: int | None) -> Any:
    if isinstance(k, numbers.Integral) and not isinstance(k, bool):
        if k < 0 or (n is not None and k > n):
            raise tf.errors.InvalidArgumentError(
                None,
                None,
                f"k must be in [0, n]. Received: k = {k}, n = {'unknown' if n is None else n}",
            )
        return int(k) if k < 2**31 else tf.constant(k, tf.int64)
    if isinstance(k, (bool, numbers.Number, str)):
        raise TypeError(f"`k` must be an int or a scalar int32 or int64 tensor. Received: {k!r}")
    k = tf.convert_to_tensor(k)
    if k.dtype not in (tf.int32, tf.int64):
        raise TypeError(f"`k` must be an int or a scalar int32 or int64 tensor. Received: {k.dtype.name}")
    if k.shape.rank not in (0, None):
        raise ValueError(f"`k` must be a scalar. Received: a tensor of shape {k.shape}")
    return k


def _factor(name: str, factor: Any, dtype: tf.DType) -> tuple[Any, bool]:
    """Returns the factor as the ops take it, and whether it is a tensor, which may ask for its gradient."""
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
    """Computes `separate` eagerly under a tape, which would keep an op's every input: x, not just bits."""
    with record.stop_recording():
        y, selected = native.ops.separation_factor_separate(
            x, k, separation, suppression, by=by, factor_gradients=False
        )

    def gradient(d_y):
        return [_scale_on_tape(d_y, selected, separation, suppression)]

    record.record_operation("SeparationFactor>Separate", [y], [x], gradient)
    return y


def _scale_on_tape(v, selected, separation, suppression):
    """Computes its op eagerly, likewise: linear in v, so it is its own gradient."""
    with record.stop_recording():
        out = native.ops.separation_factor_scale_selected(
            v, selected, separation, suppression, factor_gradients=False
        )

    def gradient(d_out):
        return [_scale_on_tape(d_out, selected, separation, suppression)]

    record.record_operation("SeparationFactor>ScaleSelected", [out], [v], gradient)
    return out


if native.ops is not None:
    vectorize.register()

    @tf.RegisterGradient("SeparationFactor>Separate")
    def _separate_gradient(op, d_y, _):
        x, _, separation, suppression = op.inputs
        selected = op.outputs[1]
        d_x, *d_factors = _scale_and_sum(op, d_y, x, selected, separation, suppression)
        return d_x, None, *d_factors

    @tf.RegisterGradient("SeparationFactor>ScaleSelected")
    def _scale_selected_gradient(op, d_out):
        v, selected, separation, suppression = op.inputs
        d_v, *d_factors = _scale_and_sum(op, d_out, v, selected, separation, suppression)
        return d_v, None, *d_factors

    @tf.RegisterGradient("SeparationFactor>SumSelected")
    def _sum_selected_gradient(op, d_selected_sum, d_others_sum):
        u, v, selected = op.inputs
        scale = native.ops.separation_factor_scale_selected
        return (
            scale(v, selected, d_selected_sum, d_others_sum),
            scale(u, selected, d_selected_sum, d_others_sum),
            None,
        )

    def _scale_and_sum(op, d_out, v, selected, separation, suppression):
        """The gradients of v * factor: by v and, where the op was told they are wanted, by the factors."""
        factor_gradients = op.get_attr("factor_gradients")
        d_v = native.ops.separation_factor_scale_selected(
            d_out, selected, separation, suppression, factor_gradients=factor_gradients
        )
        if not factor_gradients:
            return d_v, None, None
        return d_v, *native.ops.separation_factor_sum_selected(d_out, v, selected)
