"""The rivals of `separationfactor benchmark --training`, and what runs in their processes.

Every rival trains the same k-sparse autoencoder with the mean squared error and Adam: the same weights at the
start, the same batches, the same learning rate. The rivals of TensorFlow train by `fit`, with Keras' default
arguments, because users train so. Those of PyTorch train in a plain loop, because PyTorch has no `fit`.

Each rival has a process of its own, and the processes take turns. In one process, the rivals would share an
allocator, which keeps memory that another rival has freed and saves the next one its page faults; and
TensorFlow's and PyTorch's pools of threads would spin beside each other. The number of threads must also be
known before TensorFlow is imported. A process that waits for its turn does nothing.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import os
import re
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import keras
import numpy as np
import tensorflow as tf

from separationfactor import KSparse, SparseDecoder, SparseEncoder, library, sparse
from separationfactor.optimizers import SparseAdam
from separationfactor_lab.benchmark import measuring
from separationfactor_lab.benchmark.cases import TrainingCase, training_data, training_weights

LEARNING_RATE = 1e-3
# Keras adds epsilon before the second moment is corrected, and PyTorch adds it after. The gradients of a mean
# squared error are so small that with the default, 1e-7, the two would train differently.
EPSILON = 1e-12
OURS, BARE, JIT, SCREENED = (
    "this project",
    "this project, bare step",
    "this project, jit_compile",
    'this project, screen="bfloat16"',
)
KERAS, KERAS_XLA, GATHER = "Keras dense", "Keras dense, XLA", "top_k + gather"
TORCH, TORCH_SPARSE, TORCH_AUTOGRAD = "dense", "embedding_bag, index_add_", "embedding_bag, autograd"
NO_TORCH = "PyTorch is not installed: pip install torch"
NO_MATRIX_UNITS = "the processor has no matrix units for bfloat16 (AMX)"


class Trainer(Protocol):
    """A model that is trained step by step.

    Attributes:
        note: What the table says of the rival, or an empty text.
    """

    note: str

    def losses(self, batches: list[np.ndarray]) -> list[float]:
        """Takes a step on each batch, and returns the losses before the steps."""

    def time_steps(self, count: int) -> float:
        """Takes `count + 1` steps, and returns the seconds per step of all but the first."""


@dataclasses.dataclass(frozen=True)
class TrainingRival:
    """A way to train a k-sparse autoencoder.

    Attributes:
        name: The name.
        framework: "TensorFlow" or "PyTorch".
        make: Returns a trainer for a case, in the rival's process.
        precision: The dtype of the products: "float32" or "bfloat16".
        trains_by: How a step is called: "fit", "tf.function" or "loop".
    """

    name: str
    framework: str
    make: Callable[[TrainingCase], Trainer]
    precision: str = "float32"
    trains_by: str = "fit"

    @property
    def key(self) -> str:
        """The rival's name among all rivals."""
        return ", ".join(
            [self.framework, self.name]
            if self.precision == "float32"
            else [self.framework, self.name, "bfloat16"]
        )

    def why_unavailable(self) -> str | None:
        """Returns why the rival cannot run on this machine, or None."""
        if self.framework == "PyTorch" and importlib.util.find_spec("torch") is None:
            return NO_TORCH
        if self.name == SCREENED and not _has_matrix_units():
            return NO_MATRIX_UNITS
        return None


def _has_matrix_units() -> bool:
    try:
        return re.search(r"\bamx_bf16\b", Path("/proc/cpuinfo").read_text()) is not None
    except OSError:
        return False


# TensorFlow's rivals


class _Clock(keras.callbacks.Callback):
    """Notes the time at the end of every step."""

    def __init__(self):
        super().__init__()
        self.times = []

    def on_train_batch_end(self, batch, logs=None):
        self.times.append(time.perf_counter())


class Fit:
    """Trains by `model.fit(x, x, batch_size=...)`, with Keras' default arguments."""

    def __init__(
        self, case: TrainingCase, model: keras.Model, optimizer: keras.optimizers.Optimizer, **compiled
    ):
        self._model, self._case = model, case
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Model doesn't support `jit_compile=True`")
            model.compile(optimizer=optimizer, loss="mse", **compiled)
        is_refused = compiled.get("jit_compile") and not model.jit_compile
        self.note = "Keras runs it without XLA: the layers say supports_jit=False" if is_refused else ""
        self._data = np.concatenate(training_data(case))

    def losses(self, batches: list[np.ndarray]) -> list[float]:
        """Takes a step on each batch, and returns the losses before the steps."""
        return [
            float(self._model.fit(batch, batch, batch_size=len(batch)).history["loss"][0])
            for batch in batches
        ]

    def time_steps(self, count: int) -> float:
        """Times the steps of one epoch, from the end of the first step to the end of the last."""
        x = np.resize(self._data, ((count + 1) * self._case.batch, self._case.d))
        clock = _Clock()
        self._model.fit(x, x, batch_size=self._case.batch, callbacks=[clock])
        return (clock.times[-1] - clock.times[0]) / count


class BareStep:
    """Trains by a `tf.function` that computes the loss, its gradient and the optimizer's step."""

    def __init__(self, case: TrainingCase, model: keras.Model, optimizer: keras.optimizers.Optimizer):
        variables = model.trainable_variables
        optimizer.build(variables)

        @tf.function
        def step(x):
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(tf.square(model(x, training=True) - x))
            optimizer.apply(tape.gradient(loss, variables), variables)
            return loss

        self.note = ""
        self._step = step
        self._batches = [tf.constant(batch) for batch in training_data(case)]

    def losses(self, batches: list[np.ndarray]) -> list[float]:
        """Takes a step on each batch, and returns the losses before the steps."""
        return [float(self._step(tf.constant(batch))) for batch in batches]

    def time_steps(self, count: int) -> float:
        """Takes `count + 1` steps, and returns the seconds per step of all but the first."""
        float(self._step(self._batches[-1]))
        start = time.perf_counter()
        for step in range(count):
            loss = self._step(self._batches[step % len(self._batches)])
        float(loss)
        return (time.perf_counter() - start) / count


def sparse_model(case: TrainingCase, screen: str | None = None) -> keras.Model:
    """Returns the autoencoder of this project's sparse layers."""
    encoder = SparseEncoder(case.n, case.k, screen=screen)
    decoder = SparseDecoder(case.d, case.n)
    inputs = keras.Input((case.d,))
    model = keras.Model(inputs, decoder(*encoder(inputs)))
    encoder_kernel, decoder_kernel = training_weights(case)
    encoder.kernel.assign(encoder_kernel)
    decoder.kernel.assign(decoder_kernel)
    return model


def dense_model(case: TrainingCase) -> keras.Model:
    """Returns the autoencoder of dense layers and this project's mask."""
    encoder, decoder = keras.layers.Dense(case.n), keras.layers.Dense(case.d)
    inputs = keras.Input((case.d,))
    model = keras.Model(inputs, decoder(KSparse(case.k)(encoder(inputs))))
    encoder_kernel, decoder_kernel = training_weights(case)
    encoder.kernel.assign(encoder_kernel.T)
    decoder.kernel.assign(decoder_kernel)
    return model


@tf.custom_gradient
def _with_dense_gradient(kernel):
    # The gradient of `tf.gather` repeats the indices of latents that several examples use. Keras' Adam would
    # square each slice by itself instead of their sum, and train differently.
    return tf.identity(kernel), tf.convert_to_tensor


class _GatherDecoder(keras.layers.Layer):
    """`tf.math.top_k`, and the selected rows of the kernel by `tf.gather`."""

    def __init__(self, case):
        super().__init__()
        self.case = case

    def build(self, input_shape):
        self.kernel = self.add_weight(shape=(self.case.n, self.case.d), name="kernel")
        self.bias = self.add_weight(shape=(self.case.d,), initializer="zeros", name="bias")

    def call(self, inputs):
        values, indices = tf.math.top_k(inputs, self.case.k, sorted=False)
        kernel = _with_dense_gradient(self.kernel.value)
        return tf.einsum("bk,bkd->bd", values, tf.gather(kernel, indices)) + self.bias

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.case.d)


def gather_model(case: TrainingCase) -> keras.Model:
    """Returns the autoencoder that plain TensorFlow ops make of `top_k` and `gather`."""
    encoder, decoder = keras.layers.Dense(case.n), _GatherDecoder(case)
    inputs = keras.Input((case.d,))
    model = keras.Model(inputs, decoder(encoder(inputs)))
    encoder_kernel, decoder_kernel = training_weights(case)
    encoder.kernel.assign(encoder_kernel.T)
    decoder.kernel.assign(decoder_kernel)
    return model


def _ours(case, screen=None, **compiled):
    return Fit(case, sparse_model(case, screen), SparseAdam(LEARNING_RATE, epsilon=EPSILON), **compiled)


def _dense(case, **compiled):
    return Fit(case, dense_model(case), keras.optimizers.Adam(LEARNING_RATE, epsilon=EPSILON), **compiled)


def _torch(name, precision):
    def make(case):
        from separationfactor_lab.benchmark import training_torch

        makers = {
            TORCH: training_torch.Dense,
            TORCH_SPARSE: functools.partial(training_torch.Sparse, with_autograd=False),
            TORCH_AUTOGRAD: functools.partial(training_torch.Sparse, with_autograd=True),
        }
        return training_torch.Loop(case, makers[name], precision, LEARNING_RATE, EPSILON)

    return TrainingRival(name, "PyTorch", make, precision, "loop")


# The first is the reference for losses.
RIVALS = {
    rival.key: rival
    for rival in [
        TrainingRival(KERAS, "TensorFlow", _dense),
        TrainingRival(KERAS_XLA, "TensorFlow", functools.partial(_dense, jit_compile=True)),
        TrainingRival(
            GATHER,
            "TensorFlow",
            lambda case: Fit(case, gather_model(case), keras.optimizers.Adam(LEARNING_RATE, epsilon=EPSILON)),
        ),
        TrainingRival(OURS, "TensorFlow", _ours),
        TrainingRival(
            BARE,
            "TensorFlow",
            lambda case: BareStep(case, sparse_model(case), SparseAdam(LEARNING_RATE, epsilon=EPSILON)),
            trains_by="tf.function",
        ),
        TrainingRival(JIT, "TensorFlow", functools.partial(_ours, jit_compile=True)),
        TrainingRival(SCREENED, "TensorFlow", functools.partial(_ours, screen="bfloat16"), "bfloat16"),
        *(
            _torch(name, precision)
            for precision in ("float32", "bfloat16")
            for name in (TORCH, TORCH_SPARSE, TORCH_AUTOGRAD)
        ),
    ]
}


# What runs in a rival's process

_trainer: Trainer | None = None


def start(threads: int) -> None:
    """Prepares the process of a rival."""
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    tf.get_logger().setLevel("ERROR")
    # For the progress bars of `fit`, which by default are written.
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115


def prepare(key: str, case: TrainingCase, steps: int) -> tuple[list[float], str]:
    """Makes a rival's trainer, and takes steps on two batches alternately.

    Returns:
        The losses before the steps, and the trainer's note. If the rival fails, no losses, and why.
    """
    global _trainer
    _trainer = None  # frees the memory of the case before
    keras.backend.clear_session()
    try:
        _trainer = RIVALS[key].make(case)
        batches = training_data(case)
        return _trainer.losses([batches[step % 2] for step in range(steps)]), _trainer.note
    except Exception as error:
        # A rival that fails must not end the run, and TensorFlow's errors cannot be sent to another process.
        return [], _described(error)


def _described(error: Exception) -> str:
    """Returns an error in one line. TensorFlow puts the traceback of a traced function before the message."""
    lines = str(error).strip().splitlines() or [""]
    message = lines[-1].strip() if lines[0].startswith("in user code") else lines[0]
    return f"{type(error).__name__}: {message}"[:200]


def time_steps(count: int) -> float:
    """Takes `count + 1` steps, and returns the seconds per step of all but the first."""
    return _trainer.time_steps(count)


def peak_memory() -> int | None:
    """Returns the peak memory of two steps minus the memory in use before them, in bytes."""
    return measuring.peak_memory(lambda: _trainer.time_steps(1))


# The parts of this project's step, and what limits them

ENCODE, DECODE, GATHER_DOT, ROWS_ADAM = "encode", "decode", "gather-dot", "rows and Adam"
ROWS, ADAM = "rows alone", "Adam alone"
DENSE_PRODUCT, GATHER_PRODUCT = "dense product", "tf.gather + einsum"
PRODUCT_SIZE, COPIED_BYTES = 2048, 2**28


@dataclasses.dataclass(frozen=True)
class Part:
    """A part of a step.

    Attributes:
        seconds: The median time of a call.
        flops: The floating-point operations of a call, a product and an addition being two.
        bytes: The bytes that a call must read and write at least: every tensor once, and of a kernel the rows
            in use.
    """

    seconds: float
    flops: float = 0
    bytes: float = 0


@dataclasses.dataclass(frozen=True)
class Roofline:
    """What the machine can do, by number of threads.

    Attributes:
        flops: Floating-point operations per second, of the fastest large product in float32.
        bandwidth: Bytes read and written per second, of the fastest copy.
    """

    flops: float
    bandwidth: float

    def limit(self, part: Part) -> float:
        """Returns the least seconds that a part can take."""
        return max(part.flops / self.flops, part.bytes / self.bandwidth)


def measure_parts(case: TrainingCase, bursts: int, limit: float) -> tuple[dict[str, Part], Roofline] | str:
    """Measures the parts of a step of this project in turns, beside the limits of the machine.

    Returns:
        The parts by name, and the roofline; or why it failed.
    """
    try:
        functions, work = _parts(case)
        for function in functions.values():
            function()
        timers = {
            name: functools.partial(measuring._time_by_call, function, wait=lambda result: None)
            for name, function in {**functions, **_limits(case)}.items()
        }
        samples = measuring.take_turns(timers, bursts, limit, 10 * measuring.BURST_SECONDS)
    except Exception as error:  # as in `prepare`
        return _described(error)
    parts = {name: Part(statistics.median(samples[name]), *work.get(name, ())) for name in functions}
    return parts, Roofline(
        2 * PRODUCT_SIZE**3 / min(samples["product"]), 2 * COPIED_BYTES / min(samples["copy"])
    )


def _limits(case: TrainingCase) -> dict[str, Callable[[], Any]]:
    a = tf.random.normal([PRODUCT_SIZE, PRODUCT_SIZE])
    # Larger than the caches.
    source, target = (np.ones(COPIED_BYTES // 4, np.float32) for _ in range(2))
    pool = ThreadPoolExecutor(case.threads)
    slices = [
        (np.array_split(target, case.threads)[part], np.array_split(source, case.threads)[part])
        for part in range(case.threads)
    ]
    return {
        "product": lambda: tf.linalg.matmul(a, a),
        "copy": lambda: list(pool.map(lambda pair: np.copyto(*pair), slices)),
    }


def _parts(case: TrainingCase) -> tuple[dict[str, Callable[[], Any]], Mapping[str, tuple[float, float]]]:
    """Returns the parts of a step, and the operations and bytes of each."""
    x = tf.constant(training_data(case)[0])
    kernels = [tf.Variable(kernel) for kernel in training_weights(case)]
    encoder, decoder = kernels
    values, indices = sparse.encode(x, encoder, k=case.k)
    d_y = sparse.decode(values, indices, decoder) - x
    dense = sparse.to_dense(values, indices, case.n)
    # The other parts use the kernels too, so they must not move far.
    optimizer = SparseAdam(1e-12, epsilon=EPSILON)
    optimizer.build(kernels)
    shape = tf.constant([case.n, case.d])

    def gradients():
        # In a graph, what a gradient does not need is removed: the products themselves, and gather-dot.
        with tf.GradientTape() as tape:
            s = sparse.gather_dot(x, encoder, indices)
        first = tape.gradient(s, encoder, output_gradients=values)
        with tf.GradientTape() as tape:
            y = sparse.decode(values, indices, decoder)
        return first, tape.gradient(y, decoder, output_gradients=d_y)

    @tf.function
    def rows():
        return [(slices.values, slices.indices) for slices in gradients()]

    @tf.function
    def rows_and_adam():
        optimizer.apply(gradients(), kernels)

    found = rows()

    @tf.function
    def adam(found):
        optimizer.apply([tf.IndexedSlices(*slices, shape) for slices in found], kernels)

    functions = {
        ENCODE: tf.function(lambda: sparse.encode(x, encoder, k=case.k)),
        DECODE: tf.function(lambda: sparse.decode(values, indices, decoder)),
        GATHER_DOT: tf.function(lambda: sparse.gather_dot(d_y, decoder, indices)),
        ROWS_ADAM: rows_and_adam,
        ROWS: rows,
        ADAM: lambda: adam(found),
        DENSE_PRODUCT: tf.function(lambda: tf.linalg.matmul(dense, decoder)),
        GATHER_PRODUCT: tf.function(lambda: tf.einsum("bk,bkd->bd", values, tf.gather(decoder, indices))),
    }
    used = len(found[0][1])
    size, row, code = 4, 4 * case.d, 8 * case.batch * case.k
    examples = case.batch * row
    product = 2 * case.batch * case.k * case.d
    work = {
        ENCODE: (2 * case.batch * case.n * case.d, examples + case.n * row + code),
        DECODE: (product, code + used * row + examples),
        GATHER_DOT: (product, code + used * row + examples),
        ROWS: (2 * product, 2 * (code + examples + used * row)),
        # Weights and both moments are read and written. Adam alone reads the gradient's rows, too.
        ROWS_ADAM: (2 * product, 2 * (code + examples + 6 * case.n * row)),
        ADAM: (0, 2 * (6 * case.n + used) * row),
        DENSE_PRODUCT: (
            2 * case.batch * case.n * case.d,
            size * case.batch * case.n + case.n * row + examples,
        ),
    }
    return functions, work


def uses_compiled_ops() -> bool:
    """Returns whether the sparse functions run as compiled ops."""
    return hasattr(library.ops, "separation_factor_sparse_decode")
