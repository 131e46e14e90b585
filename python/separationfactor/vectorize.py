"""Vectorizes the compiled ops for `tf.vectorized_map`, jacobians and similar functions.

TensorFlow vectorizes a loop op by op. An input that differs between the loop's instances is stacked: it gets
a leading axis with one entry per instance. Rows are independent, so a stack of rows is just more rows, which
one call of the op computes. k, the factors and the sums are scalars in the op. If each instance has its own,
plain TensorFlow ops compute the same bits.
"""

from __future__ import annotations

import contextlib

import numpy as np
import tensorflow as tf

from separationfactor import composed, library, sparse_composed
from separationfactor._private import RegisterPFor, wrap


def _column(scalars: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
    """Reshapes a vector of one scalar per instance, so that it broadcasts to the rows."""
    shape = tf.concat([tf.shape(scalars), tf.ones([tf.rank(rows) - 1], tf.int32)], 0)
    column = tf.reshape(scalars, shape)
    if rows.shape.rank is not None:
        column.set_shape([scalars.shape[0]] + [1] * (rows.shape.rank - 1))
    return column


def _unpack(bitmask: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
    """Returns the selection that a bitmask encodes, as a bool tensor of the rows' shape."""
    bits = tf.bitwise.right_shift(bitmask[..., tf.newaxis], np.arange(8, dtype=np.uint8))
    bits = tf.reshape(bits & 1, tf.concat([tf.shape(bitmask)[:-1], [8 * tf.shape(bitmask)[-1]]], 0))
    selected = tf.cast(bits[..., : tf.shape(rows)[-1]], tf.bool)
    return tf.ensure_shape(selected, rows.shape)


def _pack(selected: tf.Tensor) -> tf.Tensor:
    """Returns the bitmask of a selection."""
    bits = tf.cast(selected, tf.uint8)
    padding = tf.reshape(-tf.shape(bits)[-1] % 8, [1, 1]) * [[0, 1]]
    paddings = tf.concat([tf.zeros([tf.rank(bits) - 1, 2], tf.int32), padding], 0)
    bits = tf.pad(bits, paddings)
    bits = tf.reshape(bits, tf.concat([tf.shape(bits)[:-1], [tf.shape(bits)[-1] // 8, 8]], 0))
    return tf.reduce_sum(tf.bitwise.left_shift(bits, np.arange(8, dtype=np.uint8)), axis=-1)


def _checked(k: tf.Tensor, n: tf.Tensor) -> tf.Tensor:
    """Returns each instance's k, an int64 vector, after checking that all are in [0, n]."""
    with_zero = tf.concat([k, [0]], 0)  # There may be no instances.
    least, greatest = tf.reduce_min(with_zero), tf.reduce_max(with_zero)
    worst = tf.where(least < 0, least, greatest)
    check = composed.range_assertion(composed.is_in_range(worst, n), worst, n)
    # XLA drops assertions, but it keeps the op below, which on a CPU checks k even if there are no rows.
    # Without XLA, Grappler removes the op. The placeholder hides a constant k from Grappler, which would
    # raise a different error.
    hidden = tf.compat.v1.placeholder_with_default(worst, [])
    compiled_check = library.ops.separation_factor_separate(tf.zeros(tf.stack([0, n])), hidden, 1.0, 1.0)
    with tf.control_dependencies([check, compiled_check[0]]):
        return tf.identity(k)


def _select(x: tf.Tensor, k: tf.Tensor, by: str) -> tf.Tensor:
    """Returns which entries of each row are among its k greatest, with one k per instance."""
    shape = tf.shape(x)
    n = shape[-1]
    k = tf.broadcast_to(_column(tf.cast(k, tf.int32), x), tf.concat([shape[:-1], [1]], 0))
    rows = tf.reshape(x, [tf.reduce_prod(shape[:-1]), n])
    scores = composed._flush(composed._scores(rows, by))
    # NaN ties with +inf in the first sort. The second sort puts NaN first.
    is_nan = tf.math.is_nan(rows)
    scores = tf.where(is_nan, tf.constant(np.inf, scores.dtype), scores)
    order = tf.argsort(scores, direction="DESCENDING", stable=True)
    is_nan = tf.cast(tf.gather(is_nan, order, batch_dims=1), tf.float32)
    order = tf.gather(order, tf.argsort(is_nan, direction="DESCENDING", stable=True), batch_dims=1)
    rank = tf.reshape(tf.argsort(order), shape)
    return tf.ensure_shape(rank < k, x.shape)


def _scale(v, selected, separation, suppression):
    """Multiplies as the op does, with factors per instance."""

    @composed.with_gradient
    def scale(v, separation, suppression):
        def gradient(d_out):
            return _scale(d_out, selected, separation, suppression), *_sum(d_out, v, selected)

        return composed._scale(v, ~selected, _column(separation, v), _column(suppression, v)), gradient

    return scale(v, separation, suppression)


def _sum(u, v, selected):
    """Sums as the op does, with sums per instance."""

    @composed.with_gradient
    def sums(u, v):
        def gradient(d_selected_sum, d_others_sum):
            return (
                _scale(v, selected, d_selected_sum, d_others_sum),
                _scale(u, selected, d_selected_sum, d_others_sum),
            )

        # TensorFlow vectorizes these ops itself.
        return tf.vectorized_map(lambda each: composed._sum_selected(*each), (u, v, ~selected)), gradient

    return sums(u, v)


def _convert_separate(pfor_input):
    """Converts to one op for all instances, or to a selection and a multiplication.

    The second form is needed if k or a factor differs between instances.
    """
    by = pfor_input.get_attr("by").decode()
    x, k, separation, suppression = pfor_input.inputs
    if not (k.is_stacked or separation.is_stacked or suppression.is_stacked):
        outputs = library.ops.separation_factor_separate(
            x.t,
            k.t,
            separation.t,
            suppression.t,
            by=by,
            factor_gradients=pfor_input.get_attr("factor_gradients"),
        )
        return [wrap(output, True) for output in outputs]
    pfor_input.stack_inputs([0, 2, 3])
    x, k, separation, suppression = pfor_input.inputs
    fixed_x = tf.stop_gradient(x.t)
    is_valid = None
    if k.is_stacked:
        n = tf.shape(x.t, tf.int64)[-1]
        each_k = _checked(tf.cast(k.t, tf.int64), n)
        is_valid = _column(composed.is_in_range(each_k, n), x.t)
        selected = _select(fixed_x, each_k, by)
        bitmask = _pack(selected)
    else:
        one = tf.ones([], x.t.dtype)
        bitmask = library.ops.separation_factor_separate(
            fixed_x, k.t, one, one, by=by, factor_gradients=False
        )[1]
        selected = _unpack(bitmask, x.t)
    y = _scale(x.t, selected, separation.t, suppression.t)
    if is_valid is not None:
        y = composed.nan_unless(is_valid, y)
    return [wrap(y, True), wrap(bitmask, True)]


def _convert_scale_selected(pfor_input):
    pfor_input.stack_inputs([0, 1])
    v, selected, separation, suppression = pfor_input.inputs
    if not (separation.is_stacked or suppression.is_stacked):
        out = library.ops.separation_factor_scale_selected(
            v.t,
            selected.t,
            separation.t,
            suppression.t,
            factor_gradients=pfor_input.get_attr("factor_gradients"),
        )
        return wrap(out, True)
    pfor_input.stack_inputs([2, 3])
    v, selected, separation, suppression = pfor_input.inputs
    return wrap(_scale(v.t, _unpack(selected.t, v.t), separation.t, suppression.t), True)


def _convert_sum_selected(pfor_input):
    pfor_input.stack_inputs()
    u, v, selected = (each.t for each in pfor_input.inputs)
    return [wrap(each, True) for each in _sum(u, v, _unpack(selected, v))]


# The sparse functions. A stack of kernels is one kernel of more rows, whose indices count on.


def _convert_sparse_top_k(pfor_input):
    outputs = library.ops.separation_factor_sparse_top_k(
        x=pfor_input.stacked_input(0), k=pfor_input.get_attr("k"), by=pfor_input.get_attr("by").decode()
    )
    return [wrap(output, True) for output in outputs]


def _convert_sparse_encode(pfor_input):
    def encode(x, kernel, bias):
        return library.ops.separation_factor_sparse_encode(
            x=x,
            kernel=kernel,
            bias=bias,
            k=pfor_input.get_attr("k"),
            screen=pfor_input.get_attr("screen").decode(),
        )

    x, kernel, bias = pfor_input.inputs
    if not (kernel.is_stacked or bias.is_stacked):
        return [wrap(output, True) for output in encode(x.t, kernel.t, bias.t)]
    pfor_input.stack_inputs()
    outputs = tf.map_fn(
        lambda each: tuple(encode(*each)),
        tuple(each.t for each in pfor_input.inputs),
        fn_output_signature=(x.t.dtype, tf.int32),
    )
    return [wrap(output, True) for output in outputs]


def _joined(kernels, indices):
    """Returns one kernel of the rows of all, and the indices in it."""
    n = tf.shape(kernels)[1]
    usable, is_valid = sparse_composed.checked_indices(indices, n)
    starts = tf.cast(tf.range(tf.shape(kernels)[0]) * n, indices.dtype)
    usable += _column(starts, indices)
    # An index that is out of range stays so.
    indices = tf.where(is_valid, usable, -tf.ones_like(usable))
    return tf.reshape(kernels, tf.concat([[-1], tf.shape(kernels)[2:]], 0)), indices


def _convert_sparse_decode(pfor_input):
    pfor_input.stack_inputs([0, 1])
    values, indices, kernel, bias = pfor_input.inputs
    kernel_t, indices_t, bias_t = kernel.t, indices.t, bias.t
    if kernel.is_stacked:
        kernel_t, indices_t = _joined(kernel_t, indices_t)
    if bias.is_stacked:
        bias_t = tf.zeros([0], bias_t.dtype)
    y = library.ops.separation_factor_sparse_decode(
        values=values.t, indices=indices_t, kernel=kernel_t, bias=bias_t
    )
    if bias.is_stacked:
        outer = tf.concat([tf.shape(bias.t)[:1], tf.ones([tf.rank(y) - 2], tf.int32)], 0)
        y += tf.cast(tf.reshape(bias.t, tf.concat([outer, tf.shape(bias.t)[1:]], 0)), y.dtype)
    return wrap(y, True)


def _convert_sparse_gather_dot(pfor_input):
    pfor_input.stack_inputs([0, 2])
    x, kernel, indices = pfor_input.inputs
    kernel_t, indices_t = kernel.t, indices.t
    if kernel.is_stacked:
        kernel_t, indices_t = _joined(kernel_t, indices_t)
    s = library.ops.separation_factor_sparse_gather_dot(x=x.t, kernel=kernel_t, indices=indices_t)
    return wrap(s, True)


def _convert_sparse_rows(pfor_input):
    """Converts to lists of latents that have the same size for all instances."""
    pfor_input.stack_inputs([0, 1, 2])
    values, indices, x = (each.t for each in pfor_input.inputs[:3])
    n = tf.cast(pfor_input.unstacked_input(3), tf.int32)
    dtype = pfor_input.get_attr("W")

    def rows(each):
        values, indices, x = each
        flat = tf.reshape(indices, [-1])
        counted = (tf.reshape(values, [-1]) != 0) & (flat >= 0) & (flat < tf.cast(n, flat.dtype))
        latents, places, size = sparse_composed.latents_in_use(flat, counted, n, is_filled=True)
        values = tf.reshape(values, [-1, tf.shape(values)[-1]])
        x = tf.reshape(x, [-1, tf.shape(x)[-1]])
        return sparse_composed.sum_rows(values, x, places, size, dtype), latents

    outputs = tf.map_fn(rows, (values, indices, x), fn_output_signature=(dtype, tf.int32))
    return [wrap(output, True) for output in outputs]


def _convert_top_k(pfor_input):
    """Converts to one call for all instances, as newer versions of TensorFlow do themselves.

    TensorFlow 2.16 runs a loop and warns. The loop fails in a branch that no instance takes, and the tf
    implementation has such branches.
    """
    outputs = tf.raw_ops.TopKV2(
        input=pfor_input.stacked_input(0),
        k=pfor_input.unstacked_input(1),
        sorted=pfor_input.get_attr("sorted"),
        index_type=pfor_input.get_attr("index_type"),
    )
    return [wrap(output, True) for output in outputs]


def register() -> None:
    """Registers the conversions, if this version of TensorFlow has the interface for it."""
    if RegisterPFor is None:
        return
    conversions = {"TopKV2": _convert_top_k}
    if library.ops is not None:
        conversions |= {
            "SeparationFactor>Separate": _convert_separate,
            "SeparationFactor>ScaleSelected": _convert_scale_selected,
            "SeparationFactor>SumSelected": _convert_sum_selected,
            "SeparationFactor>SparseTopK": _convert_sparse_top_k,
            "SeparationFactor>SparseEncode": _convert_sparse_encode,
            "SeparationFactor>SparseDecode": _convert_sparse_decode,
            "SeparationFactor>SparseGatherDot": _convert_sparse_gather_dot,
            "SeparationFactor>SparseRows": _convert_sparse_rows,
        }
    for op, convert in conversions.items():
        # Keep an existing conversion: TensorFlow's own, or ours if the package is imported again.
        with contextlib.suppress(AssertionError):
            RegisterPFor(op)(convert)
