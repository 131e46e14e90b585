"""The sparse functions composed of plain TensorFlow ops, for use where the compiled ops cannot run.

`sparse.py` adds the gradients. Values and indices have two axes here: rows and entries.

Products and sums of the half types are float32. Everything compiles under XLA: no shape depends on a value
there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from separationfactor import _private, composed

# The number of latents whose pre-activations are held at a time. For 512 rows of float32, 8 MB.
DEFAULT_CHUNK = 4096

# XLA's top_k takes shorter rows than this one (see composed.py).
_XLA_CHUNK = 65536


def wide(dtype: tf.DType) -> tf.DType:
    """Returns the dtype in which products of numbers of `dtype` are summed."""
    return tf.float64 if dtype == tf.float64 else tf.float32


# Indices


def checked_indices(indices: tf.Tensor, n: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns indices that can be used, and which of the given ones are in [0, n).

    An index out of range is an error if the device can raise it.
    """
    n = tf.cast(n, indices.dtype)
    is_valid = (indices >= 0) & (indices < n)
    all_valid = tf.reduce_all(is_valid)
    message = "indices must be in [0, n). Received: index"
    if not tf.executing_eagerly():
        least = tf.reduce_min(indices)
        worst = tf.where(least < 0, least, tf.reduce_max(indices))
        check = tf.debugging.Assert(all_valid, [message, worst, ", n =", n])
    elif all_valid:
        check = None
    else:
        wrong = tf.boolean_mask(indices, ~is_valid)[0]
        raise tf.errors.InvalidArgumentError(None, None, f"{message} {wrong}, n = {n}")
    with tf.control_dependencies([] if check is None else [check]):
        usable = tf.where(is_valid, indices, tf.zeros_like(indices))
    return usable, is_valid


def _nan_unless_valid(is_valid: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
    """Returns rows, or NaN for a row of which an index is out of range. See `composed.nan_unless`."""
    if tf.executing_eagerly():
        return rows
    all_valid = tf.reduce_all(is_valid, axis=-1, keepdims=True)
    return tf.where(all_valid, rows, tf.constant(float("nan"), rows.dtype))


def latents_in_use(
    indices: tf.Tensor, counted: tf.Tensor, n: tf.Tensor, is_filled: bool | None = None
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Returns the distinct indices among those counted, ascending.

    Args:
        indices: A vector. Those counted are in [0, n).
        counted: A bool vector, which indices count.
        n: The number of latents.
        is_filled: Whether other latents fill the list up to a size that does not depend on values, the
            lesser of n and the number of indices. XLA needs that. With None, whether XLA will compile the
            function.

    Returns:
        The latents, an int32 vector. The place of each index in it, or -1 for one that is not counted. The
        number of latents in the list.
    """
    indices = tf.cast(tf.where(counted, indices, -tf.ones_like(indices)), tf.int32)
    # A segment of index -1 is dropped.
    uses = tf.math.unsorted_segment_sum(tf.ones_like(indices), indices, n)
    in_list = uses > 0
    if _private.in_xla_context() if is_filled is None else is_filled:
        # At least one, because XLA cannot scatter to nothing.
        size = tf.minimum(tf.maximum(tf.size(indices), 1), n)
        spare = size - tf.reduce_sum(tf.cast(in_list, tf.int32))
        in_list |= tf.cumsum(tf.cast(~in_list, tf.int32)) <= spare
        places = tf.cumsum(tf.cast(in_list, tf.int32)) - 1
        latents = tf.math.unsorted_segment_sum(
            tf.range(n), tf.where(in_list, places, -tf.ones_like(places)), size
        )
    else:
        places = tf.cumsum(tf.cast(in_list, tf.int32)) - 1
        latents = tf.cast(tf.where(in_list)[:, 0], tf.int32)
        size = tf.size(latents)
    # One more place, so that there is one to gather if n is 0.
    places = tf.gather(tf.concat([places, [-1]], 0), tf.where(counted, indices, tf.zeros_like(indices)))
    return latents, tf.where(counted, places, -tf.ones_like(places)), size


# The products


def decode(values: tf.Tensor, indices: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor | None) -> tf.Tensor:
    """Returns the sum over j of values[b, j] * kernel[indices[b, j]], plus the bias."""
    dtype = wide(values.dtype)
    indices, is_valid = checked_indices(indices, tf.shape(kernel)[0])
    factors = tf.cast(values, dtype)[..., tf.newaxis]
    products = factors * tf.cast(tf.gather(kernel, indices), dtype)
    # Zero times a row that holds NaN is nothing, too.
    y = tf.reduce_sum(tf.where(factors == 0, tf.zeros_like(products), products), axis=-2)
    if bias is not None:
        y += tf.cast(bias, dtype)
    return tf.cast(_nan_unless_valid(is_valid, y), values.dtype)


def gather_dot(x: tf.Tensor, kernel: tf.Tensor, indices: tf.Tensor) -> tf.Tensor:
    """Returns the products of x[b] and kernel[indices[b, j]]."""
    dtype = wide(x.dtype)
    indices, is_valid = checked_indices(indices, tf.shape(kernel)[0])
    s = tf.linalg.matvec(tf.cast(tf.gather(kernel, indices), dtype), tf.cast(x, dtype))
    return tf.cast(_nan_unless_valid(is_valid, s), x.dtype)


def sum_rows(
    values: tf.Tensor, x: tf.Tensor, places: tf.Tensor, size: tf.Tensor, dtype: tf.DType
) -> tf.Tensor:
    """Returns, for each latent of a list, the sum over its uses of values[b, j] * x[b].

    Args:
        values: A tensor of two axes, b and j.
        x: One row for each b.
        places: A vector, the place in the list of each entry of the values, or -1.
        size: The number of latents in the list.
        dtype: The dtype of the sums.
    """
    products = tf.cast(values, wide(x.dtype))[..., tf.newaxis] * tf.cast(x, wide(x.dtype))[:, tf.newaxis]
    shape = tf.shape(products)
    products = tf.reshape(products, tf.stack([shape[0] * shape[1], shape[2]]))
    return tf.cast(tf.math.unsorted_segment_sum(products, places, size), dtype)


def to_dense(values: tf.Tensor, indices: tf.Tensor, n: tf.Tensor) -> tf.Tensor:
    """Returns rows of n entries that hold the values at the indices and zero elsewhere."""
    indices, is_valid = checked_indices(indices, n)
    shape = tf.shape(indices, out_type=indices.dtype)
    rows = tf.broadcast_to(tf.range(shape[0])[:, tf.newaxis], shape)
    places = tf.stack([rows, indices], axis=-1)
    z = tf.scatter_nd(places, tf.where(is_valid, values, tf.zeros_like(values)), [shape[0], n])
    return _nan_unless_valid(is_valid, z)


# Selection


def _greatest(scores: tf.Tensor, k: int) -> tf.Tensor:
    """Returns the ascending indices of the k greatest entries of each row, in the order of `separate`."""
    numbers = composed._flush(scores)
    is_nan = tf.math.is_nan(numbers)

    def numbers_alone():
        return tf.math.top_k(numbers, k, sorted=False)[1]

    def with_nan():
        # NaN ties with +inf in the first sort. The second sort puts NaN first.
        finite = tf.where(is_nan, tf.constant(float("inf"), numbers.dtype), numbers)
        order = tf.argsort(finite, direction="DESCENDING", stable=True)
        is_first = tf.cast(tf.gather(is_nan, order, batch_dims=1), tf.float32)
        second = tf.argsort(is_first, direction="DESCENDING", stable=True)
        return tf.gather(order, second[:, :k], batch_dims=1)

    indices = composed._if(composed._any(is_nan), with_nan, numbers_alone)
    return tf.sort(tf.ensure_shape(indices, [None, k]), axis=-1)


def _running_top_k(
    block: Callable[[Any, Any], tf.Tensor], n: Any, k: int, chunk: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the k greatest entries of rows that are computed a block at a time, and their indices.

    Args:
        block: Returns the entries [start, start + size) of all rows, given start and size.
        n: The number of entries of a row, at least k. An int, or a tensor if it is unknown while tracing.
        k: The number of entries to keep.
        chunk: The number of entries in a block.
    """
    static = isinstance(n, int)
    # The first block has at least k entries, and so many that the others are full.
    least = max(k, chunk)
    first = least + (n - least) % chunk
    first = min(n, first) if static else tf.minimum(n, first)

    def merge(values, indices, start, size):
        values = tf.concat([values, block(start, size)], axis=-1)
        shape = tf.shape(values)
        numbers = tf.broadcast_to(start + tf.range(size), tf.stack([shape[0], size]))
        indices = tf.concat([indices, numbers], axis=-1)
        # Indices ascend within what was kept, and all are below those of the block. So places break ties as
        # indices do.
        places = _greatest(values, k)
        return tf.gather(values, places, batch_dims=1), tf.gather(indices, places, batch_dims=1)

    values = block(0, first)
    indices = _greatest(values, k)
    values = tf.gather(values, indices, batch_dims=1)
    if static and first == n:
        return values, indices

    def step(start, values, indices):
        return start + chunk, *merge(values, indices, start, chunk)

    shapes = [tf.TensorShape([]), values.shape, indices.shape]
    _, values, indices = tf.while_loop(
        lambda start, *_: start < n, step, [tf.convert_to_tensor(first), values, indices], shapes
    )
    return values, indices


def _static(size: tf.Tensor, static: int | None) -> Any:
    return size if static is None else static


def _nothing(rows: tf.Tensor, dtype: tf.DType) -> tuple[tf.Tensor, tf.Tensor]:
    shape = tf.stack([tf.shape(rows)[0], 0])
    return tf.zeros(shape, dtype), tf.zeros(shape, tf.int32)


def _checked_k(k: int, n: Any, rows: tf.Tensor) -> tf.Tensor:
    """Returns the rows after checking that k is in [0, n]."""
    if isinstance(n, int):
        if k > n:
            raise composed.range_error(k, n)
        return rows
    with tf.control_dependencies([composed.range_assertion(k <= n, tf.constant(k), n)]):
        return tf.identity(rows)


def top_k(x: tf.Tensor, k: int, by: str) -> tf.Tensor:
    """Returns the ascending indices of the k greatest entries of each row."""
    n = _static(tf.shape(x)[-1], x.shape[-1])
    x = _checked_k(k, n, x)
    if k == 0:
        return _nothing(x, x.dtype)[1]
    scores = composed._scores(x, by)
    if not _private.in_xla_context() or not isinstance(n, int) or n <= composed._LONGEST_XLA_TOP_K:
        return _greatest(scores, k)
    return _running_top_k(lambda start, size: tf.slice(scores, [0, start], [-1, size]), n, k, _XLA_CHUNK)[1]


def encode(
    x: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor | None, k: int, chunk: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the k greatest entries of each row of x kernel^T + bias, and their ascending indices.

    The half types are selected before they are rounded.
    """
    dtype = wide(x.dtype)
    n = _static(tf.shape(kernel)[0], kernel.shape[0])
    rows = tf.cast(_checked_k(k, n, x), dtype)
    if k == 0:
        return _nothing(x, x.dtype)

    def block(start, size):
        # The float32 product, because TensorFlow's bfloat16 product on AMX leaks NaN from a row into another.
        latents = tf.cast(tf.slice(kernel, [start, 0], [size, -1]), dtype)
        entries = tf.matmul(rows, latents, transpose_b=True)
        return entries if bias is None else entries + tf.cast(tf.slice(bias, [start], [size]), dtype)

    values, indices = _running_top_k(block, n, k, chunk)
    for each in (values, indices):
        each.set_shape([x.shape[0], k])
    return tf.cast(values, x.dtype), indices
