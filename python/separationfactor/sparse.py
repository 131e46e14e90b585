"""Sparse codes: values and indices of the few entries that are not zero, and products with such codes.

A code of n entries, of which k may be different from zero, is a pair of tensors: `values` of shape `[..., k]`
and `indices` of shape `[..., k]`. Every kernel has one contiguous row of d numbers for each of the n latents,
the encoder's as well as the decoder's: its shape is `[n, d]`. No function here computes or holds n numbers
for an example, except `to_dense`.

    values, indices = sparse.encode(x, encoder_kernel, encoder_bias, k=32)
    y = sparse.decode(values, indices, decoder_kernel, decoder_bias)

This is the forward pass of the TopK autoencoder of Gao et al., 2024 (arXiv 2406.04093), without the dense
code.

All functions have derivatives of any order, in reverse and forward mode. The gradient with respect to a
kernel is `tf.IndexedSlices` with unique, ascending indices: the latents that the batch uses.
`separationfactor.optimizers.SparseAdam` trains with such gradients without making them dense.

Results do not depend on the number of threads. Sums of m products of float32 differ from the exact sum by at
most (m + 1) 2^-24 times the sum of the products' magnitudes, in any order and with any instruction set. The
half types are summed in float32 and rounded once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from separationfactor import _private, arguments, implementations, library, ops
from separationfactor import sparse_composed as plain

ACTIVATIONS = ("linear", "relu")
SCREENS = (None, "bfloat16")


def top_k(x: Any, k: int, *, by: str = "value", implementation: str = "auto") -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the k greatest entries of each row as values and indices.

    The selection is that of `separationfactor.separate`: ties go to the lowest index, -0 ties with +0, and
    NaN ranks above +inf. The gradient is that of the selected entries, with the selection held fixed.

    >>> sparse.top_k([[1.0, 5.0, 3.0], [2.0, 0.0, 9.0]], 2)
    ([[5.0, 3.0], [2.0, 9.0]], [[1, 2], [0, 2]])

    Args:
        x: A dense float32, float64, bfloat16 or float16 tensor of shape `[..., n]`.
        k: An int in [0, n].
        by: The score that ranks entries: "value" for x, "magnitude" for |x|.
        implementation: "native", "tf" or "auto", as for `separate`.

    Returns:
        The values, of shape `[..., k]` and x's dtype, and their indices, int32 and ascending in each row.

    Raises:
        TypeError, ValueError: If an argument has a wrong type, dtype, rank or value.
        tf.errors.InvalidArgumentError: If k is greater than n.
    """
    k = _k(k)
    ops.check_score(by)
    x = _rows("x", x)
    return _top_k(x, k, by, resolve(implementation))


def encode(
    x: Any,
    kernel: Any,
    bias: Any = None,
    k: int = 32,
    *,
    activation: str = "linear",
    chunk: int | None = None,
    screen: str | None = None,
    implementation: str = "auto",
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the k greatest entries of each row of `x @ transpose(kernel) + bias`, as `top_k` does.

    All n entries of a row are never held: the latents are processed in chunks, with a running selection. The
    gradient is that of the selected entries: of x and the kernel as for `gather_dot`, of the bias dense.

    Args:
        x: A dense float32, float64, bfloat16 or float16 tensor of shape `[..., d]`.
        kernel: A tensor or variable of shape `[n, d]`, of x's dtype. If x has a half type, float32 is
            accepted too.
        bias: A tensor or variable of shape `[n]` and the kernel's dtype, or None.
        k: An int in [0, n].
        activation: "linear", or "relu" for max(0, value). It is applied to the selected entries.
        chunk: The number of latents that are processed at a time. With None, the implementation chooses. The
            compiled op always chooses, by the size of the processor's cache. Results do not depend on it,
            except for rounding.
        screen: "bfloat16" lets candidates be found by a product in bfloat16 and computed anew in float32. The
            selection is that of float32 in any case. No implementation screens yet: all make one product in
            float32, as with None.
        implementation: "native", "tf" or "auto", as for `separate`.

    Returns:
        The values, of shape `[..., k]` and x's dtype, and their indices, int32 and ascending in each row.

    Raises:
        TypeError, ValueError: If an argument has a wrong type, dtype, shape or value.
        tf.errors.InvalidArgumentError: If k is greater than n.
    """
    k = _k(k)
    arguments.one_of("activation", activation, ACTIVATIONS)
    arguments.one_of("screen", screen, SCREENS)
    if chunk is not None:
        arguments.integer("chunk", chunk, "a positive integer or None", least=1)
    x = _rows("x", x)
    kernel = _kernel(kernel, x)
    _check_width("x", x, kernel)
    bias = _bias(bias, kernel, 0)
    values, indices = _encode(x, kernel, bias, k, chunk, screen, resolve(implementation))
    return (tf.nn.relu(values) if activation == "relu" else values), indices


def decode(
    values: Any, indices: Any, kernel: Any, bias: Any = None, *, implementation: str = "auto"
) -> tf.Tensor:
    """Returns the sum over j of `values[..., j] * kernel[indices[..., j]]`, plus the bias.

    An entry whose value is 0 adds nothing, and gives its row of the kernel no gradient, whatever the row
    holds. Indices may repeat and may have any order.

    Args:
        values: A dense float32, float64, bfloat16 or float16 tensor of shape `[..., k]`.
        indices: An int32 or int64 tensor of the same shape.
        kernel: A tensor or variable of shape `[n, d]`, of the values' dtype. If they have a half type,
            float32 is accepted too.
        bias: A tensor or variable of shape `[d]` and the kernel's dtype, or None.
        implementation: "native", "tf" or "auto", as for `separate`.

    Returns:
        A tensor of shape `[..., d]` and the values' dtype.

    Raises:
        TypeError, ValueError: If an argument has a wrong type, dtype, shape or value.
        tf.errors.InvalidArgumentError: If an index is not in [0, n). XLA and GPUs cannot raise it: the row of
            the result is then NaN.
    """
    values = _rows("values", values)
    indices = _indices(indices)
    _check_same_shape(values, indices)
    kernel = _kernel(kernel, values)
    bias = _bias(bias, kernel, 1)
    return _decode(values, indices, kernel, bias, resolve(implementation))


def gather_dot(x: Any, kernel: Any, indices: Any, *, implementation: str = "auto") -> tf.Tensor:
    """Returns the products of x and the kernel's rows at the indices, one number for each index.

    This is the gradient of `decode` with respect to the values, and an encoder of chosen latents.

    Args:
        x: A dense float32, float64, bfloat16 or float16 tensor of shape `[..., d]`.
        kernel: A tensor or variable of shape `[n, d]`, of x's dtype. If x has a half type, float32 is
            accepted too.
        indices: An int32 or int64 tensor of shape `[..., k]`, with the leading axes of x.
        implementation: "native", "tf" or "auto", as for `separate`.

    Returns:
        A tensor of shape `[..., k]` and x's dtype.

    Raises:
        TypeError, ValueError: If an argument has a wrong type, dtype, shape or value.
        tf.errors.InvalidArgumentError: If an index is not in [0, n). XLA and GPUs cannot raise it: the row of
            the result is then NaN.
    """
    x = _rows("x", x)
    kernel = _kernel(kernel, x)
    _check_width("x", x, kernel)
    indices = _indices(indices)
    if not x.shape[:-1].is_compatible_with(indices.shape[:-1]):
        raise ValueError(
            "`x` and `indices` must have the same leading axes. Received: x of shape "
            f"{x.shape}, indices of shape {indices.shape}"
        )
    return _gather_dot(x, kernel, indices, resolve(implementation))


def to_dense(values: Any, indices: Any, n: int, *, implementation: str = "auto") -> tf.Tensor:
    """Returns rows of n entries that hold the values at the indices and zero elsewhere.

    Values at the same index of a row are added.

    Args:
        values: A dense float32, float64, bfloat16 or float16 tensor of shape `[..., k]`.
        indices: An int32 or int64 tensor of the same shape.
        n: The number of entries of a row, an int or an integer scalar tensor.
        implementation: Accepted as by the other functions. There is one implementation.

    Returns:
        A tensor of shape `[..., n]` and the values' dtype.

    Raises:
        TypeError, ValueError: If an argument has a wrong type, dtype, shape or value.
        tf.errors.InvalidArgumentError: If an index is not in [0, n). XLA and GPUs cannot raise it: the row of
            the result is then NaN.
    """
    values = _rows("values", values)
    indices = _indices(indices)
    _check_same_shape(values, indices)
    if not tf.is_tensor(n):
        n = arguments.count("n", n)
    resolve(implementation)
    return _to_dense(values, indices, n)


# Arguments


def resolve(implementation: str) -> str:
    """Returns which implementation runs here, "native" or "tf".

    GPUs have no kernels for the sparse ops, so "auto" uses plain TensorFlow ops if a GPU is visible. Every
    implementation does in a function that XLA compiles, if XLA cannot call the kernels.
    """
    resolved = implementations.resolve(implementation)
    if implementation == "auto" and tf.config.get_visible_devices("GPU"):
        return "tf"
    if _private.in_xla_context() and library.why_not_xla() is not None:
        return "tf"
    return resolved


def supports_jit(implementation: str) -> bool:
    """Returns whether a layer with this implementation may be compiled by XLA.

    It may not if that would lose the compiled kernels.
    """
    return resolve(implementation) == "tf" or library.why_not_xla() is None


def _k(k: Any) -> int:
    try:
        return arguments.count("k", k)
    except ValueError as error:
        raise (ValueError if isinstance(k, int) and not isinstance(k, bool) else TypeError)(
            f"`k` must be a non-negative int. Received: k={k!r}"
        ) from error


def _rows(name: str, x: Any) -> tf.Tensor:
    """Returns a tensor of floats with at least one axis."""
    if isinstance(x, (tf.RaggedTensor, tf.SparseTensor)):
        raise TypeError(f"`{name}` must be a dense tensor. Received: a {type(x).__name__}")
    x = tf.convert_to_tensor(x)
    if x.dtype not in ops.DTYPES:
        raise TypeError(
            f"`{name}` must be of dtype float32, float64, bfloat16 or float16. Received: {x.dtype.name}"
        )
    if x.shape.rank == 0:
        raise ValueError(f"`{name}` must have at least one axis. Received: a scalar")
    return x


def _indices(indices: Any) -> tf.Tensor:
    if isinstance(indices, (tf.RaggedTensor, tf.SparseTensor)):
        raise TypeError(f"`indices` must be a dense tensor. Received: a {type(indices).__name__}")
    indices = tf.convert_to_tensor(indices)
    if indices.dtype not in (tf.int32, tf.int64):
        raise TypeError(f"`indices` must be of dtype int32 or int64. Received: {indices.dtype.name}")
    if indices.shape.rank == 0:
        raise ValueError("`indices` must have at least one axis. Received: a scalar")
    return indices


def _kernel(kernel: Any, rows: tf.Tensor) -> tf.Tensor:
    """Returns the kernel. A variable's tensor hands slices of a gradient on to the variable."""
    kernel = tf.convert_to_tensor(kernel)
    accepted = {rows.dtype, plain.wide(rows.dtype)}
    if kernel.dtype not in accepted:
        expected = " or ".join(sorted(dtype.name for dtype in accepted))
        raise TypeError(
            f"`kernel` must be of dtype {expected} if the activations are {rows.dtype.name}. "
            f"Received: {kernel.dtype.name}"
        )
    if kernel.shape.rank not in (2, None):
        raise ValueError(
            f"`kernel` must have shape [n, d], one row for each latent. Received: shape {kernel.shape}"
        )
    return kernel


def _check_width(name: str, x: tf.Tensor, kernel: tf.Tensor) -> None:
    if x.shape.rank is None or kernel.shape.rank is None:
        return
    if not x.shape[-1:].is_compatible_with(kernel.shape[1:]):
        raise ValueError(
            f"The last axis of `{name}` must have the size of the kernel's rows, {kernel.shape[1]}. "
            f"Received: {name} of shape {x.shape}, kernel of shape {kernel.shape}"
        )


def _check_same_shape(values: tf.Tensor, indices: tf.Tensor) -> None:
    if not values.shape.is_compatible_with(indices.shape):
        raise ValueError(
            "`values` and `indices` must have the same shape. Received: values of shape "
            f"{values.shape}, indices of shape {indices.shape}"
        )


def _bias(bias: Any, kernel: tf.Tensor, axis: int) -> tf.Tensor | None:
    if bias is None:
        return None
    bias = tf.convert_to_tensor(bias)
    if bias.dtype != kernel.dtype:
        raise TypeError(
            f"`bias` must have the kernel's dtype, {kernel.dtype.name}. Received: {bias.dtype.name}"
        )
    size = None if kernel.shape.rank is None else kernel.shape[axis]
    if not bias.shape.is_compatible_with([size]):
        raise ValueError(f"`bias` must have shape [{size}]. Received: shape {bias.shape}")
    return bias


# Any leading axes


def _flat(rows: tf.Tensor) -> tf.Tensor:
    """Returns a tensor with one axis for all leading axes."""
    if rows.shape.rank == 2:
        return rows
    shape = tf.shape(rows)
    flat = tf.reshape(rows, tf.stack([tf.reduce_prod(shape[:-1]), shape[-1]]))
    if rows.shape.rank is not None:
        flat.set_shape([rows.shape[:-1].num_elements(), rows.shape[-1]])
    return flat


def _like(flat: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
    """Returns a tensor with the leading axes of `rows`."""
    if rows.shape.rank == 2:
        return flat
    shaped = tf.reshape(flat, tf.concat([tf.shape(rows)[:-1], tf.shape(flat)[-1:]], 0))
    shaped.set_shape(rows.shape[:-1].concatenate(flat.shape[-1:]))
    return shaped


# Derivatives


def _differentiable(
    name: str, implementation: str, function: Callable[..., tuple[Any, Any, Any]], *inputs: tf.Tensor
) -> Any:
    """Returns the first result of a function of tensors, with the derivatives that the others define.

    Unlike `composed.with_gradient`, it defines forward mode explicitly. TensorFlow would transpose the
    gradient, which it cannot do with the `tf.IndexedSlices` of a kernel. Without the private names that this
    needs, forward mode is what TensorFlow derives from the ops.

    Args:
        name: The name of the operation on tapes.
        implementation: If it is "native", the function calls an op whose registered gradient is the same.
        function: Returns the outputs, the function that maps their gradients to those of the inputs, and the
            function that maps the inputs' tangents to those of the outputs. These two must use the tensors
            that the function got: in a graph, they are not the ones given here.
        inputs: Tensors.
    """
    derivatives: list[Callable[..., Any]] = []

    def list_gradients(*d_outputs):
        # The gradient of a gather is IndexedSlices.
        return list(derivatives[0](*(tf.convert_to_tensor(each) for each in d_outputs if each is not None)))

    def call(*inputs):
        outputs, *derivatives[:] = function(*inputs)
        return outputs

    if not tf.executing_eagerly():
        # A gradient function must not use tensors of other graphs than the one that it differentiates.
        inputs = tuple(tf.identity(each) for each in inputs)
    if implementation == "tf" and not (tf.executing_eagerly() and _private.has_tapes()):
        # For `tf.gradients` and for the gradients of functions, which tapes do not reach.
        compute = tf.custom_gradient(lambda *inputs: (call(*inputs), list_gradients))
    else:
        compute = call
    if not _private.has_tapes():
        return compute(*inputs)
    with _private.stop_recording():
        outputs = compute(*inputs)
    if _private.could_possibly_record():
        _private.record_operation(
            name, tf.nest.flatten(outputs), list(inputs), list_gradients, derivatives[1]
        )
    return outputs


def _no_bias(bias: tf.Tensor) -> bool:
    """Returns whether a bias is the empty vector that stands for none."""
    return bias.shape.num_elements() == 0


def _or_empty(bias: tf.Tensor | None, kernel: tf.Tensor) -> tf.Tensor:
    return tf.zeros([0], kernel.dtype) if bias is None else bias


def _sum_over_rows(d_y: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    return tf.cast(tf.reduce_sum(tf.cast(_flat(d_y), plain.wide(dtype)), axis=0), dtype)


def _decode(values, indices, kernel, bias, implementation):
    with_bias = bias is not None

    def function(values, indices, kernel, bias):
        def gradient(d_y):
            return _decode_gradient(values, indices, kernel, with_bias, d_y, implementation)

        def tangents(d_values, _, d_kernel, d_bias):
            d_bias = d_bias if with_bias else None
            return [
                _decode(d_values, indices, kernel, d_bias, implementation)
                + _decode(values, indices, d_kernel, None, implementation)
            ]

        if implementation == "native":
            y = library.ops.separation_factor_sparse_decode(
                values=values, indices=indices, kernel=kernel, bias=bias
            )
        else:
            y = plain.decode(_flat(values), _flat(indices), kernel, bias if with_bias else None)
            y = _like(y, values)
        return y, gradient, tangents

    inputs = (values, indices, kernel, _or_empty(bias, kernel))
    return _differentiable("SparseDecode", implementation, function, *inputs)


def _decode_gradient(values, indices, kernel, with_bias, d_y, implementation):
    return (
        _gather_dot(d_y, kernel, indices, implementation),
        None,
        _kernel_gradient(values, indices, d_y, kernel, implementation),
        _sum_over_rows(d_y, kernel.dtype) if with_bias else None,
    )


def _gather_dot(x, kernel, indices, implementation):
    def function(x, kernel, indices):
        def gradient(d_s):
            return _gather_dot_gradient(x, kernel, indices, d_s, implementation)

        def tangents(d_x, d_kernel, _):
            return [_gather_dot_tangent(x, kernel, indices, d_x, d_kernel, implementation)]

        if implementation == "native":
            s = library.ops.separation_factor_sparse_gather_dot(x=x, kernel=kernel, indices=indices)
        else:
            s = _like(plain.gather_dot(_flat(x), kernel, _flat(indices)), indices)
        return s, gradient, tangents

    return _differentiable("SparseGatherDot", implementation, function, x, kernel, indices)


def _gather_dot_tangent(x, kernel, indices, d_x, d_kernel, implementation):
    return _gather_dot(d_x, kernel, indices, implementation) + _gather_dot(
        x, d_kernel, indices, implementation
    )


def _gather_dot_gradient(x, kernel, indices, d_s, implementation):
    return (
        _decode(d_s, indices, kernel, None, implementation),
        _kernel_gradient(d_s, indices, x, kernel, implementation),
        None,
    )


def _encode(x, kernel, bias, k, chunk, screen, implementation):
    with_bias = bias is not None

    def function(x, kernel, bias):
        def gradient(d_values, *_):
            return _encode_gradient(x, kernel, bias if with_bias else None, indices, d_values, implementation)

        def tangents(d_x, d_kernel, d_bias):
            d_values = _gather_dot_tangent(x, kernel, indices, d_x, d_kernel, implementation)
            if with_bias:
                d_values += tf.cast(tf.gather(d_bias, indices), x.dtype)
            return [d_values, None]

        if implementation == "native":
            values, indices = library.ops.separation_factor_sparse_encode(
                x=x, kernel=kernel, bias=bias, k=k, screen=screen or "none"
            )
        else:
            values, indices = plain.encode(
                _flat(x), kernel, bias if with_bias else None, k, chunk or plain.DEFAULT_CHUNK
            )
            values, indices = _like(values, x), _like(indices, x)
        return (values, indices), gradient, tangents

    inputs = (x, kernel, _or_empty(bias, kernel))
    return _differentiable("SparseEncode", implementation, function, *inputs)


def _encode_gradient(x, kernel, bias, indices, d_values, implementation):
    d_x, d_kernel, _ = _gather_dot_gradient(x, kernel, indices, d_values, implementation)
    d_bias = None
    if bias is not None:
        d_bias = tf.math.unsorted_segment_sum(
            tf.reshape(tf.cast(d_values, plain.wide(kernel.dtype)), [-1]),
            tf.reshape(indices, [-1]),
            tf.size(bias),
        )
        d_bias = tf.cast(d_bias, kernel.dtype)
    return d_x, d_kernel, d_bias


def _kernel_gradient(values, indices, x, kernel, implementation):
    """Returns the sum over all entries of the outer products of a latent and values[..., j] * x[...]."""
    # A constant, if possible, so that the gradient's shape is known if it is made dense.
    shape = kernel.shape.as_list() if kernel.shape.is_fully_defined() else tf.shape(kernel)
    shape = tf.convert_to_tensor(shape, tf.int32)
    rows, latents = _sum_rows(values, indices, x, shape[0], kernel.dtype, implementation)
    rows.set_shape([None, kernel.shape[1] if kernel.shape.rank else None])
    return tf.IndexedSlices(rows, latents, shape)


def _sum_rows(values, indices, x, n, dtype, implementation):
    """Returns, for each latent in use, the sum over its uses of values[..., j] * x[...], and those latents.

    Entries whose value is 0 are no use. But they are kept where derivatives of the sums may follow: the
    derivative with respect to such a value needs the gradient of its row.
    """
    keep_zeros = _private.could_possibly_record()
    if implementation == "native" and not keep_zeros:
        return library.ops.separation_factor_sparse_rows(
            values=values, indices=indices, x=x, n=tf.cast(n, tf.int64), W=dtype
        )
    with _private.stop_recording():
        flat = tf.reshape(indices, [-1])
        counted = (flat >= 0) & (flat < tf.cast(n, flat.dtype))
        if not keep_zeros:
            counted &= tf.reshape(values, [-1]) != 0
        latents, places, size = plain.latents_in_use(flat, counted, n)
        places = tf.reshape(places, tf.shape(indices))
    return _sum_rows_at(places, size, values, x, dtype, implementation), latents


def _sum_rows_at(places, size, values, x, dtype, implementation):
    """Returns the sums for a list of latents, given each entry's place in the list, or -1 for none."""

    def function(values, x):
        def gradient(d_rows):
            return _sum_rows_gradient(places, values, x, d_rows, implementation)

        def tangents(d_values, d_x):
            return [
                _sum_rows_at(places, size, d_values, x, dtype, implementation)
                + _sum_rows_at(places, size, values, d_x, dtype, implementation)
            ]

        rows = plain.sum_rows(_flat(values), _flat(x), tf.reshape(places, [-1]), size, dtype)
        return rows, gradient, tangents

    return _differentiable("SparseRows", "tf", function, values, x)


def _sum_rows_gradient(places, values, x, d_rows, implementation):
    is_listed = places >= 0
    # A row of zeros is for the entries whose latents are not in the list.
    places = tf.where(is_listed, places, tf.shape(d_rows)[0])
    d_rows = tf.pad(d_rows, [[0, 1], [0, 0]])
    d_values = _gather_dot(x, d_rows, places, implementation)
    return (
        tf.where(is_listed, d_values, tf.zeros_like(d_values)),
        _decode(tf.where(is_listed, values, tf.zeros_like(values)), places, d_rows, None, implementation),
    )


def _top_k(x, k, by, implementation):
    if implementation == "native":
        return library.ops.separation_factor_sparse_top_k(x=x, k=k, by=by)
    rows = _flat(x)
    with _private.stop_recording():
        indices = plain.top_k(rows, k, by)
    return _like(tf.gather(rows, indices, batch_dims=1), x), _like(indices, x)


def _to_dense(values, indices, n):
    return _like(plain.to_dense(_flat(values), _flat(indices), n), values)


if library.ops is not None:
    _register_gradient = ops._register_gradient

    @_register_gradient("SeparationFactor>SparseTopK")
    def _top_k_gradient(op, d_values, _):
        return _to_dense(tf.convert_to_tensor(d_values), op.outputs[1], tf.shape(op.inputs[0])[-1])

    @_register_gradient("SeparationFactor>SparseEncode")
    def _sparse_encode_gradient(op, d_values, _):
        x, kernel, bias = op.inputs
        bias = None if _no_bias(bias) else bias
        return _encode_gradient(x, kernel, bias, op.outputs[1], tf.convert_to_tensor(d_values), "native")

    @_register_gradient("SeparationFactor>SparseDecode")
    def _sparse_decode_gradient(op, d_y):
        values, indices, kernel, bias = op.inputs
        d_y = tf.convert_to_tensor(d_y)
        return _decode_gradient(values, indices, kernel, not _no_bias(bias), d_y, "native")

    @_register_gradient("SeparationFactor>SparseGatherDot")
    def _sparse_gather_dot_gradient(op, d_s):
        x, kernel, indices = op.inputs
        return _gather_dot_gradient(x, kernel, indices, tf.convert_to_tensor(d_s), "native")

    @_register_gradient("SeparationFactor>SparseRows")
    def _sparse_rows_gradient(op, d_rows, _):
        values, indices, x, _ = op.inputs
        latents = tf.cast(op.outputs[1], indices.dtype)
        flat = tf.reshape(indices, [-1])
        places = tf.searchsorted(latents, flat)
        found = tf.gather(tf.concat([latents, [-1]], 0), places) == flat
        places = tf.reshape(tf.where(found, places, -tf.ones_like(places)), tf.shape(indices))
        d_values, d_x = _sum_rows_gradient(places, values, x, tf.convert_to_tensor(d_rows), "native")
        return d_values, None, d_x, None
