"""The tf implementation: the op composed of plain TensorFlow ops, for use where the compiled op cannot run.

It gives the same bits as the compiled op. It uses only values and IEEE comparisons, so its results are the
same eagerly, in a graph and under XLA, and do not depend on whether denormals are flushed.

The threshold of a row is its k-th greatest number. The algorithm has three steps, from cheap to expensive:

1. Assume that the entries below the threshold are those that are not selected. This is right if it leaves k
   entries in every row and the threshold is not zero: every entry that is left then ranks above every other
   entry. This holds with NaN too, in any order in which `top_k` puts them.
2. If entries tie at the threshold, use the indices that `top_k` returns. `top_k` promises the lowest indices.
   The promise fails for zeros and denormals, which count as one number here, so these become +0 first.
3. The promise also fails for NaN. If there are any, count the entries above and at the threshold.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf

from separationfactor import _private

# A number, or a scalar tensor, which may need a gradient.
Factor: TypeAlias = "float | tf.Tensor"

# The group size of the sums in `sum_selected`. cc/core/separate.cc adds in the same order.
_GROUP = 64

# For long rows, XLA's top_k on the CPU sometimes returns one entry twice and misses another (TensorFlow 2.21:
# in 3 of 16 normal rows of 1,000,000 with k = 1000, 2 of 32 of 524,288; none of 264 of 131,072 and 262,144).
_LONGEST_XLA_TOP_K = 131072


def _tiny(dtype: tf.DType) -> float:
    """Returns the least positive number that does not count as zero in scores and factors of the dtype."""
    # A float16 denormal is an ordinary number in float32. A bfloat16 denormal is a denormal in float32 too.
    return float(np.finfo(np.float64 if dtype == tf.float64 else np.float32).tiny)


def _flush(numbers: tf.Tensor) -> tf.Tensor:
    """Replaces denormals by zero. Otherwise the thread's mode decides whether a denormal equals zero."""
    return tf.where(tf.abs(numbers) < _tiny(numbers.dtype), tf.zeros_like(numbers), numbers)


def with_gradient(function: Callable[..., Any]) -> Callable[..., Any]:
    """Gives a function of tensors the gradient that it returns beside its result.

    `tf.custom_gradient` does this for reverse mode only. In forward mode it differentiates the ops inside the
    function, and `tf.where` drops the tangents of the entries that it replaces by zero. Here, forward mode
    uses the given gradient too, as it does for the compiled ops. If TensorFlow lacks the private names that
    this needs, the result is that of `tf.custom_gradient`.
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
    """Returns whether each k is in [0, n], for int64 tensors."""
    return (k >= 0) & (k <= n)


_RANGE_MESSAGE = "k must be in [0, n]. Received: k ="


def range_error(k: int, n: int | str) -> tf.errors.InvalidArgumentError:
    """Returns the error for a k that is out of range."""
    return tf.errors.InvalidArgumentError(None, None, f"{_RANGE_MESSAGE} {k}, n = {n}")


def range_assertion(is_valid: tf.Tensor, k: tf.Tensor, n: tf.Tensor) -> tf.Operation | None:
    """Returns an assertion whose error has the same message."""
    return tf.debugging.Assert(is_valid, [_RANGE_MESSAGE, k, ", n =", n])


def _checked_k(k: tf.Tensor | int, n: int | None, x: tf.Tensor) -> tuple[tf.Tensor | int, tf.Tensor | None]:
    """Returns k as an int or an int32 tensor, after checking that it is in [0, n].

    Also returns a bool tensor that says whether k is in range, or None if the check cannot be dropped later.
    """
    if isinstance(k, int) and n is not None:
        if not 0 <= k <= n:
            raise range_error(k, n)
        return k, None
    wide = tf.cast(k, tf.int64)
    n = tf.shape(x, out_type=tf.int64)[-1]
    is_valid = is_in_range(wide, n)
    with tf.control_dependencies([range_assertion(is_valid, wide, n)]):
        return tf.cast(wide, tf.int32), None if tf.executing_eagerly() else is_valid


@with_gradient
def nan_unless(is_valid: tf.Tensor, y: tf.Tensor) -> tuple[tf.Tensor, Callable[..., Any]]:
    """Returns y where k is valid and NaN where it is not. The gradient does the same.

    XLA and the converters to TFLite and ONNX drop assertions, so an invalid k raises no error there. A
    function that was traced without XLA may be called by one that XLA compiles, so every graph needs this.
    """

    def gradient(d_y):
        return None, nan_unless(is_valid, d_y)

    return tf.where(is_valid, y, tf.constant(np.nan, y.dtype)), gradient


def _scores(x: tf.Tensor, by: str) -> tf.Tensor:
    """Returns numbers that rank the entries of x correctly, except for NaN and denormals."""
    # XLA's top_k is fast for float32 only. Without XLA, the cast costs more than it saves.
    is_cast = _private.in_xla_context() and x.dtype in (tf.float16, tf.bfloat16)
    scores = tf.cast(x, tf.float32) if is_cast else x
    return tf.abs(scores) if by == "magnitude" else scores


def _greatest(
    scores: tf.Tensor, k: tf.Tensor | int, in_xla: bool
) -> tuple[tf.Tensor, Callable[[], tf.Tensor] | None]:
    """Returns the k-th greatest number of each row, as a column.

    Also returns a function that gives the indices of the k greatest entries, or None if they are unavailable.
    If k is a tensor whose value is 0, the results are those for k = 1.
    """
    if isinstance(k, int) and k == 1:

        def index():  # Not `argmax`, which does not specify the index for a tie.
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
    # The minimum and not a slice: XLA does not use its fast top_k if the result is sliced.
    return tf.raw_ops.Min(input=values, axis=-1, keep_dims=True), lambda: indices


def _xla_top_k(scores: tf.Tensor, k: tf.Tensor | int) -> tuple[tf.Tensor, tf.Tensor] | None:
    """Returns the result of `top_k`, or None if XLA does not compile it well.

    XLA compiles `top_k` well for a constant k, float32 and short rows. A long row is split into segments. The
    function takes the k greatest entries of each segment, then the k greatest of these candidates.
    """
    n = scores.shape[-1]
    # For float64, XLA sorts the indices too, which takes 1.5 times as long as sorting the numbers alone.
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
    # Reshaped to two axes, because XLA copies the scores if there are more. Sorted, so that equal candidates
    # are in the order of their indices.
    values, indices = tf.math.top_k(tf.reshape(scores, [-1, length]), k)
    indices = tf.reshape(indices, [-1, segments, k]) + tf.range(0, segments * length, length)[:, tf.newaxis]
    candidates = tf.concat([outer, [segments * k]], 0)
    values, places = tf.math.top_k(tf.reshape(values, candidates), k, sorted=False)
    return values, tf.gather(tf.reshape(indices, candidates), places, batch_dims=scores.shape.rank - 1)


# `tf.raw_ops` are used because TensorFlow's Python wrappers cost as much as a small eager op itself.
# NumPy reads an eager tensor in host memory at no cost. It cannot read a DTensor.


def _is_in_host_memory(tensor: tf.Tensor) -> bool:
    return tf.executing_eagerly() and "CPU" in tensor.device


def _is_normal(numbers: tf.Tensor) -> tf.Tensor | np.bool_:
    """Returns whether no number is zero, denormal or NaN."""
    if _is_in_host_memory(numbers):
        return (abs(numbers.numpy()) >= _tiny(numbers.dtype)).all()
    return tf.reduce_all(tf.abs(numbers) >= _tiny(numbers.dtype))


def _any(entries: tf.Tensor) -> tf.Tensor | np.bool_:
    return entries.numpy().any() if _is_in_host_memory(entries) else tf.reduce_any(entries)


def _is_beside_a_gpu() -> bool:
    return bool(tf.config.get_visible_devices("GPU"))


def _count(entries: tf.Tensor) -> tf.Tensor:
    """Returns the number of true entries in each row of a bool tensor, as a column."""
    # If there is a GPU, TensorFlow sums int32 in host memory, which copies every entry to the host and back.
    dtype = tf.int64 if _is_beside_a_gpu() else tf.int32
    count = tf.raw_ops.Sum(input=tf.raw_ops.Cast(x=entries, DstT=dtype), axis=-1, keep_dims=True)
    return tf.cast(count, tf.int32)


def _all_rows_have(count: tf.Tensor | int, entries: tf.Tensor) -> tf.Tensor | np.bool_:
    """Returns whether every row of a bool tensor has `count` true entries."""
    if _is_in_host_memory(entries):
        return (np.count_nonzero(entries.numpy(), axis=-1) == int(count)).all()
    return tf.reduce_all(_count(entries) == count)


def _if(condition: tf.Tensor | np.bool_, then: Callable[[], Any], otherwise: Callable[[], Any]) -> tf.Tensor:
    if isinstance(condition, tf.Tensor):
        return tf.cond(condition, then, otherwise)
    return then() if condition else otherwise()


def others(x: tf.Tensor, k: tf.Tensor | int, by: str) -> tf.Tensor:
    """Returns which entries of each row are not among its k greatest, as a bool tensor of x's shape.

    k is an int or an int32 tensor in [0, n].
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
        # Under XLA, a pass over the scores costs as much as everything else.
        return by_index()
    below = scores < threshold
    return _if(_all_rows_have(n - k, below) & _is_normal(threshold), lambda: below, by_index)


def _all_but(indices: tf.Tensor, k: tf.Tensor | int, scores: tf.Tensor) -> tf.Tensor:
    """Returns which entries of each row are not at its k indices. If k is 0, `indices` is ignored."""
    if _is_in_host_memory(indices):
        others = np.ones(scores.shape, bool)
        np.put_along_axis(others, indices.numpy(), int(k) == 0, axis=-1)
        return tf.convert_to_tensor(others)
    shape = tf.shape(scores)
    indices = tf.reshape(indices, [-1, tf.shape(indices)[-1]])
    rows = tf.broadcast_to(tf.range(tf.shape(indices)[0])[:, tf.newaxis], tf.shape(indices))
    # If k is 0, the updates are True and change nothing. tf2onnx cannot convert an empty slice of indices.
    updates = tf.fill(tf.shape(indices), tf.equal(k, 0))
    # Not `scatter_nd`: `tf.vectorized_map` runs it in a loop, which fails if no instance takes this branch.
    others = tf.fill([tf.shape(indices)[0], shape[-1]], True)
    others = tf.tensor_scatter_nd_update(others, tf.stack([rows, indices], -1), updates)
    return tf.reshape(others, shape)


def _of_whatever(scores: tf.Tensor, k: tf.Tensor | int, in_xla: bool) -> tf.Tensor:
    """Computes `others` for rows that may have zeros, denormals and NaN.

    It counts only if it must, because counting costs more than `top_k`.
    """
    is_nan = tf.math.is_nan(scores)
    # For the threshold, NaN is replaced by the greatest number of its row. No number lies between the two, so
    # the threshold is right. Infinity would not do: the TFLite converter writes the greatest finite number
    # in its place.
    numbers = tf.where(is_nan, tf.zeros_like(scores), _flush(scores))
    scores = tf.where(is_nan, tf.reduce_max(numbers, axis=-1, keepdims=True), numbers)
    threshold, indices = _greatest(scores, k, in_xla)

    def by_counting():
        above = scores > threshold
        first = is_nan & ~above
        second = (scores == threshold) & ~first
        room = k - _count(above)
        # Entries at the threshold fill the remaining room: NaN before numbers, then by lowest index.
        return ~(
            above
            | (first & (tf.cumsum(tf.cast(first, tf.int32), axis=-1) <= room))
            | (second & (tf.cumsum(tf.cast(second, tf.int32), axis=-1) <= room - _count(first)))
        )

    if indices is None:
        return by_counting()
    return _if(_any(is_nan), by_counting, lambda: _all_but(indices(), k, scores))


def _scale(v: tf.Tensor, others: tf.Tensor, separation: Factor, suppression: Factor) -> tf.Tensor:
    """Multiplies v by the factors. A factor that is zero or denormal writes +0 for any v."""
    tiny = _tiny(v.dtype)

    def scaled(factor):
        if isinstance(factor, float):
            factor = v.dtype.as_numpy_dtype(factor)  # A half type rounds it, possibly to zero.
            if abs(float(factor)) < tiny:
                return tf.constant(0, v.dtype)
            return v if factor == 1 else v * factor
        # Half types are compared in float32, where a float16 denormal is an ordinary number.
        is_zero = tf.abs(tf.cast(factor, tf.float64 if v.dtype == tf.float64 else tf.float32)) < tiny
        return tf.where(is_zero, tf.zeros_like(v), v * factor)

    return tf.raw_ops.SelectV2(condition=others, t=scaled(suppression), e=scaled(separation))


def _sum_groups(numbers: tf.Tensor) -> tf.Tensor:
    """Returns the sum of each group of numbers in a vector. The last group is padded with zeros."""
    numbers = tf.pad(numbers, [[0, -tf.size(numbers) % _GROUP]])
    numbers = tf.reshape(numbers, [-1, _GROUP])
    half = _GROUP // 2
    while half:
        numbers = numbers[:, :half] + numbers[:, half:]
        half //= 2
    return numbers[:, 0]


def _sum(numbers: tf.Tensor) -> tf.Tensor:
    """Sums a tensor in an order that depends only on the number of elements."""
    size = numbers.shape.num_elements()
    numbers = tf.reshape(numbers, [-1])
    if size is None:
        # Enough levels for 2^36 elements, because XLA cannot loop over shapes. Surplus levels do not change
        # the sum.
        levels = 6
    else:
        levels = 0
        while _GROUP**levels < size:
            levels += 1
    for _ in range(levels):
        numbers = _sum_groups(numbers)
    # One number is left, or none if the tensor is empty. A zero becomes +0, because the sign of a zero sum
    # depends on the order of the additions.
    total = tf.reduce_sum(numbers)
    return tf.where(total == 0, tf.zeros_like(total), total)


def _sum_selected(u: tf.Tensor, v: tf.Tensor, others: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    product = tf.cast(u, tf.float64) * tf.cast(v, tf.float64)
    zeros = tf.zeros_like(product)

    def round_once(total):
        # Through float32 on every device, because only some devices cast float64 to half types that way.
        return tf.cast(tf.cast(total, tf.float32), u.dtype) if u.dtype != tf.float64 else total

    return (
        round_once(_sum(tf.where(others, zeros, product))),
        round_once(_sum(tf.where(others, product, zeros))),
    )


def scale_selected(v: tf.Tensor, others: tf.Tensor, separation: Factor, suppression: Factor) -> tf.Tensor:
    """Multiplies the selected entries by `separation` and the others by `suppression`.

    A factor has a gradient if it is a tensor.
    """
    v = tf.convert_to_tensor(v)  # The gradient of a gather is IndexedSlices.
    if isinstance(separation, float) and isinstance(suppression, float):
        # No tape or accumulator is active, or TensorFlow's own gradient is right.
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


# AutoGraph would rewrite the function for nothing: no Python control flow depends on a tensor's value.
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
