"""Training on data that fit in memory, for models so small that an epoch is short, and keeping the result."""

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
    """Trains a trial's model, or gives it the weights that an earlier training of the same trial has left.

    They are in the trial's `weights.npz`: where only the measuring has changed, a study whose `measured.json`
    are removed measures anew and does not train again.

    Args:
        trial: The trial.
        model: A built model.
        train: Trains it.
    """
    path, options = trial.folder / "weights.npz", json.dumps(dict(trial.options), sort_keys=True)
    try:
        with np.load(path) as kept:
            if str(kept["options"]) == options:
                model.set_weights([kept[f"{index}"] for index in range(len(model.weights))])
                return
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile):
        pass  # there is none, or of another model
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
    """Trains a built and compiled model as `keras.Model.fit` would, with one call into TensorFlow an epoch.

    The images are one tensor, batches are gathered from it within the graph, and no metrics are returned.

    Args:
        model: The model. Its `train_step` is what is called.
        images: Array of shape `(images, ...)`.
        targets: Array of shape `(images, ...)`, or `None` for a model that has none.
        epochs: How many times to go through the images.
        batch_size: Images in a step, or all where there are fewer. What remains of the images after whole
            batches is left out, other images in each epoch.
        seed: Seeds the order of the images.
        before_epoch: Is called with the number of each epoch, from 0 on, before it.
    """
    data = [tf.constant(array) for array in (images, targets) if array is not None]
    batch_size = min(batch_size, len(images))
    steps = len(images) // batch_size
    # Keras makes the variables of its metrics on the first batch, which a loop in a graph cannot.
    model.test_on_batch(*(array[:batch_size] for array in data))
    model.optimizer.build(model.trainable_variables)

    # The images are an argument: TensorFlow keeps the graphs of loops, and what these capture.
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
