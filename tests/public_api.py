"""Uses the public API. It is not run: type checkers must accept it and infer the asserted types."""

from typing import Any

import keras
import tensorflow as tf
from typing_extensions import assert_type

import separationfactor as sf


def ops(x: tf.Tensor) -> None:
    assert_type(sf.separate(x), tf.Tensor)
    sf.separate([[1.0, 2.0]], tf.constant(1), 2.0, 0.5, axis=-1, by="magnitude", implementation="tf")


def layers() -> list[keras.layers.Layer]:
    separation = sf.SeparationFactor(10, 0.25, k=1, axis=-1, by="value", trainable_factors=True)
    sparse = sf.KSparse(25, inference_k=40, axis=-1, by="magnitude", implementation="auto", name="sparse")
    assert_type(sparse, sf.KSparse)
    return [separation, sparse]


def training(model: keras.Model) -> None:
    callbacks: list[keras.callbacks.Callback] = [sf.KSchedule(start=100, end=25, epochs=10)]
    model.fit(None, callbacks=callbacks)
    exported: keras.Model = sf.portable(model)
    exported.summary()


def models() -> list[keras.Model]:
    baseline = sf.models.CompletionBaseline((28, 28, 1), quadrants=1)
    return [
        sf.models.ConditionalVAE((28, 28, 1), 10, posterior="iaf", seed=1),
        sf.models.KSparseAutoencoder((28, 28, 1), 1000, 25, tied=True),
        sf.models.CompletionVAE(baseline, latent_dim=50),
    ]


assert_type(sf.build_info(), dict[str, Any])
assert_type(sf.__version__, str)
