"""The implementations of masking that are compared: this op and its alternatives."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import tensorflow as tf

from separationfactor import implementations, library
from separationfactor.ops import separate
from separationfactor_lab.benchmark.cases import Case

TENSORFLOW_MODES = ("eager", "function", "xla")


@dataclasses.dataclass(frozen=True)
class Rival:
    """One implementation of masking.

    Attributes:
        name, mode: The implementation's name and how it runs: "eager", "function", "xla", a number of
            threads, or the name of another library.
        forward: Computes y.
        gradient: Computes y and dx, or `None` if the gradient is not measured.
        is_floor: Whether the rival only reads and writes the tensor.
        wait: Waits until a result is ready. A call on a CPU returns when the result is ready. A call on a GPU
            may return earlier.
    """

    name: str
    mode: str
    forward: Callable[[], Any] | None
    gradient: Callable[[], Any] | None = None
    is_floor: bool = False
    wait: Callable[[Any], None] = lambda result: None


OURS, OURS_TF, FLOOR = "this op", "this op in tf", "relu"
KERNEL, COPY = "kernel", "copy"


def _compositions(case: Case) -> dict[str, Callable[[tf.Tensor], tf.Tensor]]:
    """Returns compositions of plain TensorFlow ops that a user would write, exact except for ties."""
    k, suppression = case.k, case.suppression

    def mask(x, selected):
        return tf.where(selected, x, tf.zeros_like(x) if suppression == 0 else x * suppression)

    def threshold(x):
        # The minimum instead of the last value, because a slice of the result would prevent XLA from using
        # its fast top_k.
        values = tf.math.top_k(x, k, sorted=False).values
        return mask(x, x >= tf.reduce_min(values, axis=-1, keepdims=True))

    def scatter(x):
        values, indices = tf.math.top_k(x, k, sorted=False)
        rows = tf.broadcast_to(tf.range(case.rows)[:, tf.newaxis], (case.rows, k))
        indices = tf.stack([rows, indices], -1)
        if suppression == 0:
            return tf.scatter_nd(indices, values, x.shape)
        return tf.tensor_scatter_nd_update(x * suppression, indices, values)

    compositions = {"top_k + threshold": threshold, "top_k + scatter": scatter}
    if k == 1:
        compositions["max + threshold"] = lambda x: mask(x, x >= tf.reduce_max(x, -1, keepdims=True))
        compositions["argmax + one_hot"] = lambda x: mask(
            x, tf.one_hot(tf.argmax(x, -1), case.n, on_value=True, off_value=False, dtype=tf.bool)
        )
    return compositions


def _loop_over_rows(case: Case) -> Callable[[tf.Tensor], tf.Tensor]:
    """Returns the layer that the project started from: a loop over rows with sparse additions."""

    def masked(x):
        def body(row, result):
            index = tf.argmax(x[row], output_type=tf.int32)
            scaled = tf.sparse.add(
                x[row] * case.suppression,
                tf.SparseTensor(
                    tf.cast([[index]], tf.int64), [x[row, index] * (1 - case.suppression)], [case.n]
                ),
            )
            return row + 1, tf.tensor_scatter_nd_update(result, [[row]], [scaled])

        return tf.while_loop(lambda row, _: row < case.rows, body, (tf.constant(0), tf.zeros_like(x)))[1]

    return masked


def _tensorflow_rivals(case: Case, x: np.ndarray, d_y: np.ndarray, device: str) -> Iterator[Rival]:
    # If TensorFlow finds a GPU, it places tensors and ops on the GPU by default.
    x, d_y = tf.constant(x), tf.constant(d_y)
    waits = {"wait": lambda result: tf.test.experimental.sync_devices()} if device == "gpu" else {}

    def rival(name, formula, mode, is_floor=False):
        def value_and_gradient(x, d_y):
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = formula(x)
            return y, tape.gradient(y, x, output_gradients=d_y)

        if mode == "eager":
            return Rival(name, mode, functools.partial(formula, x), is_floor=is_floor, **waits)
        wrap = functools.partial(tf.function, jit_compile=mode == "xla")
        forward, gradient = wrap(formula), wrap(value_and_gradient)
        return Rival(name, mode, lambda: forward(x), lambda: gradient(x, d_y), is_floor, **waits)

    modes = TENSORFLOW_MODES
    yield rival(COPY, lambda x: tf.raw_ops.DeepCopy(x=x), "eager", is_floor=True)
    for mode in modes:
        yield rival(FLOOR, tf.nn.relu, mode, is_floor=True)

    def masked(implementation):
        # Not functools.partial: a tf.function inspects its arguments in every call.
        return lambda x: separate(x, case.k, 1.0, case.suppression, implementation=implementation)

    if library.ops is not None:
        for mode in modes if implementations.supports_jit("native") else modes[:2]:
            yield rival(OURS, masked("native"), mode)
    for mode in modes:
        yield rival(OURS_TF, masked("tf"), mode)
    for name, formula in _compositions(case).items():
        for mode in modes:
            yield rival(name, formula, mode)
    if case.k == 1 and case.rows <= 200:
        for mode in modes[:2]:
            yield rival("loop over rows", _loop_over_rows(case), mode)


def _rivals_by_threads(case: Case, x: np.ndarray) -> Iterator[Rival]:
    """Yields the kernel and a copy on one thread and on all threads, if one row is split among threads."""
    if library.ops is None or case.rows > 1:
        return
    import separationfactor_core as core

    counts = sorted({1, len(os.sched_getaffinity(0))})
    pool = ThreadPoolExecutor(counts[-1])

    def kernel(threads):
        return core.separate(x, k=case.k, suppression=case.suppression, threads=threads)[0]

    def copy(threads):
        y = np.empty_like(x)
        parts = (np.array_split(each.reshape(-1), threads) for each in (y, x))
        list(pool.map(np.copyto, *parts))
        return y

    for threads in counts:
        mode = f"{threads} thread" + "s" * (threads > 1)
        yield Rival(KERNEL, mode, functools.partial(kernel, threads))
        yield Rival(COPY, mode, functools.partial(copy, threads), is_floor=True)


def _numpy_rival(case: Case, x: np.ndarray) -> Iterator[Rival]:
    if case.dtype == "bfloat16":
        return  # NumPy sorts only its own dtypes

    def partition():
        threshold = np.partition(x, case.n - case.k, axis=-1)[:, case.n - case.k, np.newaxis]
        return np.where(x >= threshold, x, x * x.dtype.type(case.suppression))

    yield Rival("partition", "numpy", partition)


def _torch_rival(case: Case, x: np.ndarray, d_y: np.ndarray, device: str) -> Iterator[Rival]:
    try:
        import torch
    except ImportError:
        return
    if device == "gpu" and not torch.cuda.is_available():
        return
    place = {"dtype": getattr(torch, case.dtype), "device": "cuda" if device == "gpu" else "cpu"}
    x = torch.from_numpy(x.astype(np.float64)).to(**place)
    d_y = torch.from_numpy(d_y.astype(np.float64)).to(**place)
    leaf = x.clone().requires_grad_()

    def masked(x):
        values, indices = x.topk(case.k, sorted=False)
        others = torch.zeros_like(x) if case.suppression == 0 else x * case.suppression
        return others.scatter(-1, indices, values)

    def forward():
        with torch.inference_mode():
            return masked(x)

    def gradient():
        y = masked(leaf)
        return y.detach(), torch.autograd.grad(y, leaf, d_y)[0]

    waits = {"wait": lambda result: torch.cuda.synchronize()} if device == "gpu" else {}
    yield Rival("topk + scatter", "torch", forward, gradient, **waits)


def _jax_rival(case: Case, x: np.ndarray, d_y: np.ndarray, device: str) -> Iterator[Rival]:
    # By default, JAX reserves most of the memory of the GPU. The other frameworks need some of it.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    try:
        import jax
    except ImportError:
        return
    jax.config.update("jax_enable_x64", True)
    try:
        place = jax.devices(device)[0]
    except RuntimeError:  # JAX was installed without GPU support
        return
    x, d_y = jax.device_put(x, place), jax.device_put(d_y, place)

    @jax.jit
    def masked(x):
        values, indices = jax.lax.top_k(x, case.k)
        others = jax.numpy.zeros_like(x) if case.suppression == 0 else x * case.suppression
        return others.at[jax.numpy.arange(case.rows)[:, None], indices].set(values)

    @jax.jit
    def value_and_gradient(x, d_y):
        y, pull_back = jax.vjp(masked, x)
        return y, pull_back(d_y)[0]

    if device == "gpu":
        yield Rival(
            "lax.top_k + scatter",
            "jax",
            lambda: masked(x),
            lambda: value_and_gradient(x, d_y),
            wait=jax.block_until_ready,
        )
    else:
        yield Rival(
            "lax.top_k + scatter",
            "jax",
            lambda: masked(x).block_until_ready(),
            lambda: jax.block_until_ready(value_and_gradient(x, d_y)),
        )


def rivals(case: Case, x: np.ndarray, d_y: np.ndarray, device: str = "cpu") -> list[Rival]:
    """Returns all rivals that can compute a case on a device, bound to the case's data."""
    # TensorFlow would warn of retracing, because each rival is a separate tf.function.
    tf.get_logger().setLevel("ERROR")
    found = [
        *_tensorflow_rivals(case, x, d_y, device),
        *_torch_rival(case, x, d_y, device),
        *_jax_rival(case, x, d_y, device),
    ]
    if device == "cpu":
        found += [*_rivals_by_threads(case, x), *_numpy_rival(case, x)]
    return found
