"""The op composed of plain TensorFlow ops, for where the compiled one cannot go.

Gives the same bits as the compiled op. It works with values and IEEE comparisons alone, so it means the same
eagerly, in a graph and under XLA, and whether or not denormals are flushed where it runs.

What is below the k-th greatest number is a cheap guess at what is not selected. It is right where it leaves k
entries in every row and that number is no zero, whatever NaN there are and however `top_k` orders them: what
is left ranks above what is not. Where entries tie at that number, `top_k` promises the lowest indices, and it
keeps its word but for NaN, and for zeros and denormals, which are one number here. Only rows with NaN have to
be counted.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from separationfactor import _private

# A number, or a scalar tensor of which a gradient may be asked.
Factor = float | tf.Tensor

# Numbers added at a time by `sum_selected`; cc/core/separate.cc adds in the same order.
_GROUP = 64

# XLA's top_k on the CPU gives an entry of a long row twice now and then, and misses another (TensorFlow 2.21:
# 3 of 16 normal rows of 1,000,000 with k = 1000, 2 of 32 of 524,288; none of 264 of 131,072 and 262,144).
_LONGEST_XLA_TOP_K = 131072


def _tiny(dtype: tf.DType) -> float:
    """Returns the least number that is no zero to scores, and to factors, of the dtype."""
    # In float32 a float16 denormal is an ordinary number, and bfloat16's denormals are denormals too.
    return np.finfo(np.float64 if dtype == tf.float64 else np.float32).tiny


def _flush(numbers: tf.Tensor) -> tf.Tensor:
    """Makes denormals zero: whether they equal zero depends on the thread's mode."""
    return tf.where(tf.abs(numbers) < _tiny(numbers.dtype), tf.zeros_like(numbers), numbers)


def with_gradient(function: Callable[..., Any]) -> Callable[..., Any]:
    """Gives a function of tensors the gradient that it returns beside its result.

    So does `tf.custom_gradient`. But in forward mode that differentiates the ops in the function, and
    `tf.where` keeps no tangent of what it replaces by zero. Here forward mode follows the gradient too, as it
    does for the compiled ops. (A TensorFlow without the private names for it leaves `tf.custom_gradient`.)
    """
    if not _private.has_tapes():
        return tf.custom_gradient(function)

    @functools.wraps(function)
    def call(*inputs):
        inputs = [tf.convert_to_tensor(each) for each in inputs]
        gradient = None

        def keep_gradient(*inputs):
            nonlocal gradient
            result, gradient = function(*inputs)
            return result, gradient

        with _private.stop_recording():
            result = tf.custom_gradient(keep_gradient)(*inputs)

        def list_gradients(*d_results):
            return tf.nest.flatten(gradient(*d_results))

        _private.record_operation(function.__name__, tf.nest.flatten(result), inputs, list_gradients)
        return result

    return call


def is_in_range(k: tf.Tensor, n: tf.Tensor) -> tf.Tensor:
    """Returns whether each k lies in [0, n], for int64 tensors."""
    return (k >= 0) & (k <= n)


def _checked_k(k: tf.Tensor | int, n: int | None, x: tf.Tensor) -> tuple[tf.Tensor | int, tf.Tensor | None]:
    """Returns k, as an int or an int32 tensor, which is checked to lie in [0, n].

    And whether it does, a bool tensor, where the check may be lost; else None.
    """
    if isinstance(k, int) and n is not None:
        if not 0 <= k <= n:
            message = f"k must be in [0, n]. Received: k = {k}, n = {n}"
            raise tf.errors.InvalidArgumentError(None, None, message)
        return k, None
    wide = tf.cast(k, tf.int64)
    n = tf.shape(x, out_type=tf.int64)[-1]
    is_valid = is_in_range(wide, n)
    check = tf.debugging.Assert(is_valid, ["k must be in [0, n]. Received: k =", wide, ", n =", n])
    with tf.control_dependencies([check]):
        return tf.cast(wide, tf.int32), None if tf.executing_eagerly() else is_valid


@with_gradient
def nan_unless(is_valid: tf.Tensor, y: tf.Tensor) -> tuple[tf.Tensor, Callable[..., Any]]:
    """Returns y, or NaN alone where k is not valid, and the same for the gradient.

    XLA leaves assertions out, as the converters to TFLite and ONNX do: there an invalid k is no error. A
    function that was traced on its own may be called by one that XLA compiles, so every graph has this.
    """

    def gradient(d_y):
        return None, nan_unless(is_valid, d_y)

    return tf.where(is_valid, y, tf.constant(np.nan, y.dtype)), gradient


def _scores(x: tf.Tensor, by: str) -> tf.Tensor:
    """Returns numbers that order x as the contract does, but for NaN and for denormals."""
    # XLA's top_k is fast on no other type. Elsewhere the cast costs more than it gains.
    is_cast = _private.in_xla_context() and x.dtype in (tf.float16, tf.bfloat16)
    scores = tf.cast(x, tf.float32) if is_cast else x
    return tf.abs(scores) if by == "magnitude" else scores


def _greatest(
    scores: tf.Tensor, k: tf.Tensor | int, in_xla: bool
) -> tuple[tf.Tensor, Callable[[], tf.Tensor] | None]:
    """Returns the k-th greatest number of each row as a column; the greatest where k, a tensor, is 0.

    And, but where nothing knows them, a function of the indices of the k greatest; of one where k is 0.
    """
    if isinstance(k, int) and k == 1:

        def index():  # `argmax` does not say which of two it takes
            found = _xla_top_k(scores, k) if in_xla else None
            return (found or tf.math.top_k(scores, k))[1]

        return tf.raw_ops.Max(input=scores, axis=-1, keep_dims=True), index
    if not in_xla:
        at_least_one = k if isinstance(k, int) else tf.minimum(tf.maximum(k, 1), tf.shape(scores)[-1])
        found = tf.math.top_k(scores, at_least_one, sorted=False)
    else:
        found = _xla_top_k(scores, k)
    if found is None:
        ordered = tf.sort(scores, axis=-1, direction="DESCENDING")
        return tf.gather(ordered, tf.maximum(k, 1)[tf.newaxis] - 1, axis=-1), None
    values, indices = found
    # The minimum, as XLA's fast top_k is lost on a slice of its result.
    return tf.raw_ops.Min(input=values, axis=-1, keep_dims=True), lambda: indices


def _xla_top_k(scores: tf.Tensor, k: tf.Tensor | int) -> tuple[tf.Tensor, tf.Tensor] | None:
    """Returns what `top_k` does, where XLA compiles it well: for one k, float32, and rows that are not long.

    Of a long row it takes the k greatest of each segment, and of these the k greatest.
    """
    n = scores.shape[-1]
    # Of float64 XLA sorts the indices too, which takes half as long again as the numbers alone.
    if not isinstance(k, int) or n is None or scores.dtype == tf.float64:
        return None
    segments = -(-n // _LONGEST_XLA_TOP_K)
    if segments == 1:
        return tf.math.top_k(scores, k, sorted=False)
    length = -(-n // segments)
    if k > length or segments * k > _LONGEST_XLA_TOP_K:
        return None
    outer = tf.shape(scores)[:-1]
    if missing := segments * length - n:
        padding = tf.fill(tf.concat([outer, [missing]], 0), tf.constant(-np.inf, scores.dtype))
        scores = tf.concat([scores, padding], -1)
    # Two axes, as XLA copies the scores for more. And sorted, so that of equal candidates, too, the one with
    # the lowest index comes first.
    values, indices = tf.math.top_k(tf.reshape(scores, [-1, length]), k)
    indices = tf.reshape(indices, [-1, segments, k]) + tf.range(0, segments * length, length)[:, tf.newaxis]
    candidates = tf.concat([outer, [segments * k]], 0)
    values, places = tf.math.top_k(tf.reshape(values, candidates), k, sorted=False)
    return values, tf.gather(tf.reshape(indices, candidates), places, batch_dims=scores.shape.rank - 1)


# `tf.raw_ops`, as around a small op that is called eagerly, TensorFlow's Python costs as much as the op.
# NumPy looks into an eager tensor in host memory at no cost, and into no DTensor.


def _is_in_host_memory(tensor: tf.Tensor) -> bool:
    return tf.executing_eagerly() and "CPU" in tensor.device


def _is_normal(numbers: tf.Tensor) -> tf.Tensor | np.bool_:
    """Returns whether none of the numbers is zero, a denormal or NaN."""
    if _is_in_host_memory(numbers):
        return (abs(numbers.numpy()) >= _tiny(numbers.dtype)).all()
    return tf.reduce_all(tf.abs(numbers) >= _tiny(numbers.dtype))


def _any(entries: tf.Tensor) -> tf.Tensor | np.bool_:
    return entries.numpy().any() if _is_in_host_memory(entries) else tf.reduce_any(entries)


def _is_beside_a_gpu() -> bool:
    return bool(tf.config.get_visible_devices("GPU"))


def _count(entries: tf.Tensor) -> tf.Tensor:
    """Returns how many entries of each row of a bool tensor are true, as a column."""
    # Beside a GPU TensorFlow sums int32 in the host's memory: there and back for every entry.
    dtype = tf.int64 if _is_beside_a_gpu() else tf.int32
    count = tf.raw_ops.Sum(input=tf.raw_ops.Cast(x=entries, DstT=dtype), axis=-1, keep_dims=True)
    return tf.cast(count, tf.int32)


def _all_rows_have(count: tf.Tensor | int, entries: tf.Tensor) -> tf.Tensor | np.bool_:
    """Returns whether so many entries of each row of a bool tensor are true."""
    if _is_in_host_memory(entries):
        return (np.count_nonzero(entries.numpy(), axis=-1) == int(count)).all()
    return tf.reduce_all(_count(entries) == count)


def _if(condition: tf.Tensor | np.bool_, then: Callable[[], Any], otherwise: Callable[[], Any]) -> tf.Tensor:
    if isinstance(condition, tf.Tensor):
        return tf.cond(condition, then, otherwise)
    return then() if condition else otherwise()


def others(x: tf.Tensor, k: tf.Tensor | int, by: str) -> tf.Tensor:
    """Returns which entries of each row are not among its k greatest, a bool tensor of x's shape.

    k lies in [0, n], as an int or an int32 tensor.
    """
    n = x.shape[-1] if x.shape.rank is not None else None
    if n == 0 or (isinstance(k, int) and k == 0):
        return tf.fill(tf.shape(x), True)
    if n is None:
        n = tf.shape(x)[-1]
    scores = _scores(x, by)
    in_xla = _private.in_xla_context()
    threshold, indices = _greatest(scores, k, in_xla)

    def by_index():
        if indices is None:
            return _of_whatever(scores, k, in_xla)
        return _if(
            ~_any(tf.math.is_nan(scores)) & _is_normal(threshold),
            lambda: _all_but(indices(), k, scores),
            lambda: _of_whatever(scores, k, in_xla),
        )

    if in_xla and isinstance(k, int) and k > 1 and indices is not None:
        # A pass over the scores costs it as much as the rest.
        return by_index()
    below = scores < threshold
    return _if(_all_rows_have(n - k, below) & _is_normal(threshold), lambda: below, by_index)


def _all_but(indices: tf.Tensor, k: tf.Tensor | int, scores: tf.Tensor) -> tf.Tensor:
    """Returns which entries of each row are none of its k indices; where k is 0 there are some even so."""
    if _is_in_host_memory(indices):
        others = np.ones(scores.shape, bool)
        np.put_along_axis(others, indices.numpy(), int(k) == 0, axis=-1)
        return tf.convert_to_tensor(others)
    shape = tf.shape(scores)
    indices = tf.reshape(indices, [-1, tf.shape(indices)[-1]])
    rows = tf.broadcast_to(tf.range(tf.shape(indices)[0])[:, tf.newaxis], tf.shape(indices))
    # Not a slice of no indices, which tf2onnx cannot convert.
    updates = tf.fill(tf.shape(indices), tf.equal(k, 0))
    # Not `scatter_nd`, which `tf.vectorized_map` runs in a loop, and fails where no instance comes this way.
    others = tf.fill([tf.shape(indices)[0], shape[-1]], True)
    others = tf.tensor_scatter_nd_update(others, tf.stack([rows, indices], -1), updates)
    return tf.reshape(others, shape)


def _of_whatever(scores: tf.Tensor, k: tf.Tensor | int, in_xla: bool) -> tf.Tensor:
    """Does the work of `others` for rows with zeros, denormals and NaN. To count costs more than `top_k`."""
    is_nan = tf.math.is_nan(scores)
    # NaN joins the row's greatest number for now: none lies between them, so the threshold stays right. Not
    # infinity, for which the converter to TFLite would write the greatest finite number.
    numbers = tf.where(is_nan, tf.zeros_like(scores), _flush(scores))
    scores = tf.where(is_nan, tf.reduce_max(numbers, axis=-1, keepdims=True), numbers)
    threshold, indices = _greatest(scores, k, in_xla)

    def by_counting():
        above = scores > threshold
        first = is_nan & ~above
        second = (scores == threshold) & ~first
        room = k - _count(above)
        # Of those at the threshold, as many as fit: NaN before numbers, then by lowest index.
        return ~(
            above
            | (first & (tf.cumsum(tf.cast(first, tf.int32), axis=-1) <= room))
            | (second & (tf.cumsum(tf.cast(second, tf.int32), axis=-1) <= room - _count(first)))
        )

    if indices is None:
        return by_counting()
    return _if(_any(is_nan), by_counting, lambda: _all_but(indices(), k, scores))


def _scale(v: tf.Tensor, others: tf.Tensor, separation: Factor, suppression: Factor) -> tf.Tensor:
    """Multiplies; a factor of zero writes +0 whatever v is, and a denormal one is a zero."""
    tiny = _tiny(v.dtype)

    def scaled(factor):
        if isinstance(factor, float):
            factor = v.dtype.as_numpy_dtype(factor)  # a half type rounds it, maybe to zero
            if abs(float(factor)) < tiny:
                return tf.constant(0, v.dtype)
            return v if factor == 1 else v * factor
        # In float32 for the half types: a float16 denormal is an ordinary number.
        is_zero = tf.abs(tf.cast(factor, tf.float64 if v.dtype == tf.float64 else tf.float32)) < tiny
        return tf.where(is_zero, tf.zeros_like(v), v * factor)

    return tf.raw_ops.SelectV2(condition=others, t=scaled(suppression), e=scaled(separation))


def _sum_groups(numbers: tf.Tensor) -> tf.Tensor:
    """Replaces the numbers, a vector, by the sums of their groups; the last is filled up with zeros."""
    numbers = tf.pad(numbers, [[0, -tf.size(numbers) % _GROUP]])
    numbers = tf.reshape(numbers, [-1, _GROUP])
    half = _GROUP // 2
    while half:
        numbers = numbers[:, :half] + numbers[:, half:]
        half //= 2
    return numbers[:, 0]


def _sum(numbers: tf.Tensor) -> tf.Tensor:
    """Sums a tensor in an order that depends on the number of elements alone."""
    size = numbers.shape.num_elements()
    numbers = tf.reshape(numbers, [-1])
    if size is None:
        # As many levels as 2^36 elements take: XLA has no loop over shapes. Further sums of one number
        # leave it as it is.
        levels = 6
    else:
        levels = 0
        while _GROUP**levels < size:
            levels += 1
    for _ in range(levels):
        numbers = _sum_groups(numbers)
    # One number or, of nothing, none. No order of additions should show in the sign of a zero.
    total = tf.reduce_sum(numbers)
    return tf.where(total == 0, tf.zeros_like(total), total)


def _sum_selected(u: tf.Tensor, v: tf.Tensor, others: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    product = tf.cast(u, tf.float64) * tf.cast(v, tf.float64)
    zeros = tf.zeros_like(product)

    def round_once(total):
        # By way of float32, as casts to the half types go that way on some devices and not on others.
        return tf.cast(tf.cast(total, tf.float32), u.dtype) if u.dtype != tf.float64 else total

    return (
        round_once(_sum(tf.where(others, zeros, product))),
        round_once(_sum(tf.where(others, product, zeros))),
    )


def scale_selected(v: tf.Tensor, others: tf.Tensor, separation: Factor, suppression: Factor) -> tf.Tensor:
    """Multiplies the selected entries by `separation` and the others by `suppression`.

    Gradients by factors are defined where these are tensors.
    """
    v = tf.convert_to_tensor(v)  # the gradient of a gather is IndexedSlices
    if isinstance(separation, float) and isinstance(suppression, float):
        # A gradient that nobody can ask for, or that TensorFlow's own does right.
        if (
            not _private.could_possibly_record()
            if tf.executing_eagerly()
            else (separation, suppression) == (1, 0)
        ):
            return _scale(v, others, separation, suppression)

        @with_gradient
        def of_v(v):
            def gradient(d_out):
                return scale_selected(d_out, others, separation, suppression)

            return _scale(v, others, separation, suppression), gradient

        return of_v(v)

    @with_gradient
    def of_v_and_factors(v, separation, suppression):
        def gradient(d_out):
            return (
                scale_selected(d_out, others, separation, suppression),
                *sum_selected(d_out, v, others),
            )

        return _scale(v, others, separation, suppression), gradient

    return of_v_and_factors(
        v, tf.convert_to_tensor(separation, v.dtype), tf.convert_to_tensor(suppression, v.dtype)
    )


def sum_selected(u: tf.Tensor, v: tf.Tensor, others: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Sums u * v over the selected entries and over the others."""

    @with_gradient
    def of_u_and_v(u, v):
        def gradient(d_selected_sum, d_others_sum):
            return (
                scale_selected(v, others, d_selected_sum, d_others_sum),
                scale_selected(u, others, d_selected_sum, d_others_sum),
            )

        return _sum_selected(u, v, others), gradient

    return of_u_and_v(u, v)


# AutoGraph would rewrite what has no control flow of its own.
@tf.autograph.experimental.do_not_convert
def separate(x: tf.Tensor, k: tf.Tensor | int, separation: Factor, suppression: Factor, by: str) -> tf.Tensor:
    """Computes `separationfactor.separate` for rows along the last axis."""
    if not isinstance(k, int):
        static_k = tf.get_static_value(k)
        k = k if static_k is None else int(static_k)
    with _private.stop_recording():
        k, is_valid = _checked_k(k, x.shape[-1] if x.shape.rank is not None else None, x)
        masked = others(x, k, by)
    y = scale_selected(x, masked, separation, suppression)
    return y if is_valid is None else nan_unless(is_valid, y)
