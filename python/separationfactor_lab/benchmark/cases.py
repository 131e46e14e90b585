"""The benchmark's cases: shapes, k and distributions, expected results, and data for training steps."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from separationfactor_lab.errors import LabError


class CaseError(LabError, ValueError):
    """No case matches the given name."""


@dataclasses.dataclass(frozen=True)
class Case:
    """One row of the table: the input and the arguments of the op.

    Attributes:
        rows, n: The shape of the tensor.
        k: The number of selected entries per row. Their factor is 1.
        dtype: The dtype of the tensor.
        suppression: The factor of the other entries.
        distribution: The distribution of the entries, a key of `DISTRIBUTIONS`.
    """

    rows: int
    n: int
    k: int
    dtype: str = "float32"
    suppression: float = 0.0
    distribution: str = "normal"

    def __str__(self) -> str:
        text = f"{self.rows}x{self.n}, {self.k}"
        if self.dtype != "float32":
            text += f", {self.dtype}"
        if self.suppression:
            text += f", suppression {self.suppression:g}"
        if self.distribution != "normal":
            text += f", {self.distribution}"
        return text


def _normal(rng, shape):
    return rng.standard_normal(shape)


DISTRIBUTIONS: dict[str, Callable[[np.random.Generator, tuple[int, int]], np.ndarray]] = {
    "normal": _normal,
    "ascending": lambda rng, shape: np.sort(_normal(rng, shape), axis=-1),
    "descending": lambda rng, shape: -np.sort(_normal(rng, shape), axis=-1),
    "all equal": lambda rng, shape: np.ones(shape),
    "half zeros": lambda rng, shape: np.maximum(_normal(rng, shape), 0),
    "sawtooth": lambda rng, shape: np.broadcast_to(np.arange(shape[1]) % 97, shape),
    "four values": lambda rng, shape: rng.integers(0, 4, shape),
}

HEADLINE = [
    Case(200, 10, 1),
    Case(65536, 10, 1),
    Case(4096, 64, 8),
    Case(1024, 1000, 25),
    Case(256, 16384, 32),
    Case(64, 131072, 64),
    Case(8, 1_000_000, 100),
    Case(1024, 1000, 500),
    Case(64, 32768, 16384),
]
SPARSE_AUTOENCODER = HEADLINE[4]
LONG_ROW = Case(1, 16_777_216, 1000)
MORE = [
    LONG_ROW,
    *(dataclasses.replace(SPARSE_AUTOENCODER, dtype=dtype) for dtype in ("bfloat16", "float16", "float64")),
    *(dataclasses.replace(case, suppression=0.25) for case in HEADLINE[3:7]),
    *(
        dataclasses.replace(SPARSE_AUTOENCODER, distribution=name)
        for name in DISTRIBUTIONS
        if name != "normal"
    ),
]


def data(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Returns x and d_y, which are the same in every call."""
    rng = np.random.default_rng(0)
    shape = (case.rows, case.n)
    dtype = tf.as_dtype(case.dtype).as_numpy_dtype
    x = DISTRIBUTIONS[case.distribution](rng, shape).astype(dtype)
    return x, rng.standard_normal(shape).astype(dtype)


def expected(case: Case, x: np.ndarray, d_y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns y and dx, computed with a stable sort. Ties go to the lowest index."""
    order = np.argsort(-x.astype(np.float64), axis=-1, kind="stable")[:, : case.k]
    selected = np.zeros(x.shape, bool)
    np.put_along_axis(selected, order, True, axis=-1)
    suppression = x.dtype.type(case.suppression)
    return np.where(selected, x, x * suppression), np.where(selected, d_y, d_y * suppression)


@dataclasses.dataclass(frozen=True)
class TrainingCase:
    """A training step of a k-sparse autoencoder.

    Attributes:
        batch: The number of examples in a step.
        d: The number of features.
        n: The number of latents.
        k: The number of latents that are kept for an example.
        threads: The number of threads.
    """

    batch: int
    d: int
    n: int
    k: int
    threads: int = 1

    def __str__(self) -> str:
        return f"{self.batch}, {self.d} -> {self.n}, {self.k}"


TRAINING = [
    TrainingCase(256, 784, 1000, 25),
    TrainingCase(256, 768, 16384, 32),
    TrainingCase(256, 768, 65536, 64),
    TrainingCase(1024, 768, 16384, 32),
]
QUICK_TRAINING = [TrainingCase(64, 128, 1024, 8), TRAINING[0]]
MEMORY = TrainingCase(512, 768, 131072, 32)
QUICK_MEMORY = TrainingCase(64, 128, 16384, 8)
BATCHES = 8


def training_data(case: TrainingCase) -> list[np.ndarray]:
    """Returns the batches of a case, which are the same in every call and every process.

    An example is a sum of a few directions out of many, which a sparse autoencoder can learn, and noise. Its
    entries have a variance of about 1.
    """
    rng = np.random.default_rng(1)
    directions = rng.standard_normal((4 * case.d, case.d), np.float32)
    directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
    active = max(1, case.k // 2)
    scale = np.float32(np.sqrt(case.d / active))
    batches = []
    for _ in range(BATCHES):
        which = rng.integers(0, len(directions), (case.batch, active))
        strengths = rng.uniform(0.5, 1.5, which.shape).astype(np.float32)
        batch = 0.1 * rng.standard_normal((case.batch, case.d), np.float32)
        for column in range(active):
            batch += scale * strengths[:, column, np.newaxis] * directions[which[:, column]]
        batches.append(batch)
    return batches


def training_weights(case: TrainingCase) -> tuple[np.ndarray, np.ndarray]:
    """Returns the initial kernels of the encoder and the decoder, of shape `[n, d]`. Biases start at 0.

    They are equal, as SAE libraries initialize them: then every selected latent lowers the loss.
    """
    rng = np.random.default_rng(2)
    encoder = rng.standard_normal((case.n, case.d), np.float32)
    encoder /= np.float32(np.sqrt(case.d))
    return encoder, encoder.copy()
