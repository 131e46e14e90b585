"""Trains on data in memory, with little overhead for short epochs, and keeps the weights."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from separationfactor_lab import files
from separationfactor_lab.studies.framework import Trial


def once(trial: Trial, model: keras.Model, train: Callable[[], None]) -> None:
    """Trains a trial's model, or loads the weights from an earlier training of the same trial.

    The weights are in the trial's `weights.npz`. If only the measurements change, remove the `measured.json`
    files: the study then measures again without training again.

    Args:
        trial: The trial.
        model: A built model.
        train: Trains the model.
    """
    path, options = trial.folder / "weights.npz", json.dumps(dict(trial.options), sort_keys=True)
    try:
        with np.load(path) as kept:
            if str(kept["options"]) == options:
                model.set_weights([kept[f"{index}"] for index in range(len(model.weights))])
                return
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile):
        pass  # the file is missing, or belongs to another model
    train()
    weights = {f"{index}": weight for index, weight in enumerate(model.get_weights())}
    with files.written_at_once(path) as temporary:
        np.savez(temporary, options=options, **weights)


def fit(
    model: keras.Model,
    images: np.ndarray,
    targets: np.ndarray | None = None,
    *,
    epochs: int,
    batch_size: int,
    seed: int,
    before_epoch: Callable[[int], None] | None = None,
) -> None:
    """Trains a built and compiled model like `keras.Model.fit`, with one call into TensorFlow per epoch.

    The images are one tensor, and the graph gathers the batches from it. No metrics are returned.

    Args:
        model: The model. Its `train_step` is called.
        images: Array of shape `(images, ...)`.
        targets: Array of shape `(images, ...)`, or `None` for a model without targets.
        epochs: The number of passes over the images.
        batch_size: Images per step, at most the number of images. The incomplete last batch is left out; it
            consists of different images in each epoch.
        seed: Seeds the order of the images.
        before_epoch: Called before each epoch with its number, from 0 on.
    """
    data = [tf.constant(array) for array in (images, targets) if array is not None]
    batch_size = min(batch_size, len(images))
    steps = len(images) // batch_size
    # Keras creates the variables of its metrics on the first batch. A loop in a graph cannot create
    # variables.
    model.test_on_batch(*(array[:batch_size] for array in data))
    model.optimizer.build(model.trainable_variables)

    # The images are an argument instead of captured, because TensorFlow keeps the graphs of loops and their
    # captures alive.
    @tf.function
    def epoch(order, *data):
        for step in tf.range(steps):
            model.train_step(tuple(tf.gather(array, order[step]) for array in data))

    generator = np.random.default_rng(seed)
    for number in range(epochs):
        if before_epoch is not None:
            before_epoch(number)
        order = generator.permutation(len(images))[: steps * batch_size]
        epoch(tf.constant(order.reshape(steps, batch_size), tf.int32), *data)
