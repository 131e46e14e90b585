"""The op composed of plain TensorFlow ops, for where the compiled one cannot go.

Gives the same bits as the compiled op. It works with values and IEEE comparisons alone, so it means the same
eagerly, in a graph and under XLA, and whether or not denormals are flushed where it runs.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from separationfactor import native

# Numbers added at a time by `sum_selected`; cc/core/separate.cc adds in the same order.
_GROUP = 64

# XLA's top_k on the CPU gives an entry of a long row twice now and then, and misses another (TensorFlow 2.21:
# 3 of 16 normal rows of 1,000,000 with k = 1000, 2 of 32 of 524,288; none of 264 of 131,072 and 262,144).
_LONGEST_XLA_TOP_K = 131072


def _scores(x: tf.Tensor, by: str) -> tf.Tensor:
    """Returns numbers that `<` and `==` order as the contract orders x, NaN aside."""
    # In float32 a float16 denormal is an ordinary number, and XLA's top_k is fast on no other type.
    scores = tf.cast(x, tf.float32) if x.dtype in (tf.float16, tf.bfloat16) else x
    magnitude = tf.abs(scores)
    if by == "magnitude":
        scores = magnitude
    # Whether a denormal equals zero depends on the thread's mode, so it is made zero.
    tiny = np.finfo(scores.dtype.as_numpy_dtype).tiny
    return tf.where(magnitude < tiny, tf.zeros_like(scores), scores)


def _kth_greatest(scores: tf.Tensor, k: tf.Tensor, static_k: int | None) -> tf.Tensor:
    """Returns the k-th greatest number of each row, as a column; the greatest where k is 0."""
    if static_k is not None and static_k <= 1:
        return tf.reduce_max(scores, axis=-1, keepdims=True)
    n = scores.shape[-1]
    if native.in_xla_context() and (static_k is None or n is None or n > _LONGEST_XLA_TOP_K):
        # XLA compiles top_k for one k only, and a sort for all.
        ordered = tf.sort(scores, axis=-1, direction="DESCENDING")
        return tf.gather(ordered, tf.maximum(k, 1)[tf.newaxis] - 1, axis=-1)
    # The minimum, as XLA's fast top_k is lost on a slice of its result.
    greatest = tf.math.top_k(scores, static_k or tf.maximum(k, 1), sorted=False).values
    return tf.reduce_min(greatest, axis=-1, keepdims=True)


def _checked_k(k: tf.Tensor, static_k: int | None, x: tf.Tensor) -> tf.Tensor:
    """Returns k once it is known to lie in [0, n]."""
    n = x.shape[-1] if x.shape.rank is not None else None
    if static_k is not None and n is not None:
        if not 0 <= static_k <= n:
            message = f"k must be in [0, n]. Received: k = {static_k}, n = {n}"
            raise tf.errors.InvalidArgumentError(None, None, message)
        return k
    n = tf.shape(x, out_type=k.dtype)[-1]
    check = tf.debugging.Assert((k >= 0) & (k <= n), ["k must be in [0, n]. Received: k =", k, ", n =", n])
    with tf.control_dependencies([check]):
        return tf.identity(k)


def select(x: tf.Tensor, k: tf.Tensor, by: str) -> tf.Tensor:
    """Returns which entries of each row are among its k greatest, a bool tensor of x's shape."""
    static_k = tf.get_static_value(k)
    k = _checked_k(k, static_k, x)
    scores = _scores(x, by)
    is_nan = tf.math.is_nan(x)
    # NaN joins +inf for now: no number lies between them, so the threshold stays right.
    scores = tf.where(is_nan, tf.constant(np.inf, scores.dtype), scores)
    threshold = _kth_greatest(scores, k, static_k)
    k = tf.cast(k, tf.int32)

    def count(selection):
        return tf.reduce_sum(tf.cast(selection, tf.int32), axis=-1, keepdims=True)

    def break_ties(passed):
        """Of those at the threshold, lets in as many as fit: NaN before +inf, then by lowest index."""
        above = scores > threshold
        first = is_nan & ~above
        second = passed & ~above & ~first
        room = k - count(above)
        return (
            above
            | (first & (tf.cumsum(tf.cast(first, tf.int32), axis=-1) <= room))
            | (second & (tf.cumsum(tf.cast(second, tf.int32), axis=-1) <= room - count(first)))
        )

    passed = scores >= threshold
    # Without a tie across the threshold, what passed it is the answer, and counting costs little.
    return tf.cond(tf.reduce_all(count(passed) == k), lambda: passed, lambda: break_ties(passed))


def _scale(v: tf.Tensor, selected: tf.Tensor, separation: tf.Tensor, suppression: tf.Tensor) -> tf.Tensor:
    factor = tf.where(selected, separation, suppression)
    # A factor of zero writes +0 whatever v is; a denormal one is zero, as flush-to-zero has it. The half
    # types' factors are compared in float32, where a float16 denormal is an ordinary number.
    tiny = np.finfo(np.float64 if v.dtype == tf.float64 else np.float32).tiny
    wide = tf.float64 if v.dtype == tf.float64 else tf.float32

    def is_zero(factor):
        return tf.abs(tf.cast(factor, wide)) < tiny

    masked = tf.where(selected, is_zero(separation), is_zero(suppression))
    return tf.where(masked, tf.zeros_like(v), v * factor)


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


def _sum_selected(u: tf.Tensor, v: tf.Tensor, selected: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    product = tf.cast(u, tf.float64) * tf.cast(v, tf.float64)
    zeros = tf.zeros_like(product)

    def round_once(total):
        # By way of float32, as casts to the half types go that way on some devices and not on others.
        return tf.cast(tf.cast(total, tf.float32), u.dtype) if u.dtype != tf.float64 else total

    return (
        round_once(_sum(tf.where(selected, product, zeros))),
        round_once(_sum(tf.where(selected, zeros, product))),
    )


def scale_selected(
    v: tf.Tensor,
    selected: tf.Tensor,
    separation: tf.Tensor,
    suppression: tf.Tensor,
    factor_gradients: bool,
) -> tf.Tensor:
    """Multiplies the selected entries by `separation` and the others by `suppression`."""

    @tf.custom_gradient
    def of_v(v):
        def gradient(d_out):
            return scale_selected(d_out, selected, separation, suppression, factor_gradients)

        return _scale(v, selected, separation, suppression), gradient

    @tf.custom_gradient
    def of_v_and_factors(v, separation, suppression):
        def gradient(d_out):
            return (
                scale_selected(d_out, selected, separation, suppression, factor_gradients),
                *sum_selected(d_out, v, selected),
            )

        return _scale(v, selected, separation, suppression), gradient

    return of_v_and_factors(v, separation, suppression) if factor_gradients else of_v(v)


def sum_selected(u: tf.Tensor, v: tf.Tensor, selected: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Sums u * v over the selected entries and over the others."""

    @tf.custom_gradient
    def of_u_and_v(u, v):
        def gradient(d_selected_sum, d_others_sum):
            return (
                scale_selected(v, selected, d_selected_sum, d_others_sum, True),
                scale_selected(u, selected, d_selected_sum, d_others_sum, True),
            )

        return _sum_selected(u, v, selected), gradient

    return of_u_and_v(u, v)


def separate(
    x: tf.Tensor,
    k: tf.Tensor,
    separation: tf.Tensor,
    suppression: tf.Tensor,
    by: str,
    factor_gradients: bool,
) -> tf.Tensor:
    """Computes `separationfactor.separate` for rows along the last axis."""
    selected = select(tf.stop_gradient(x), k, by)
    return scale_selected(x, selected, separation, suppression, factor_gradients)
