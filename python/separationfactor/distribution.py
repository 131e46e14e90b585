"""Training on several devices or machines: TensorFlow's strategies by name, and a `fit` for all of them.

A global batch is split into one piece per replica, in the order of the replicas. Anything that a model
computes over a batch, it computes over the pieces of all replicas (`place_in_batch`). So the number of
replicas changes training only by rounding.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

STRATEGIES = ("none", "mirrored", "multiworker")


class StrategyError(ValueError):
    """The strategy is not valid, or the devices or machines do not meet its requirements."""


def make(strategy: str, devices: int | None = None) -> tf.distribute.Strategy:
    """Returns a strategy by its name. The first call must come before this process computes anything.

    The same arguments return the same strategy object, because two strategies on the same devices would
    confuse each other's collectives.

    Args:
        strategy: "none"; "mirrored" for the devices of this machine; or "multiworker" for the machines that
            the environment variable `TF_CONFIG` lists. Each of these machines runs the same program.
        devices: The number of devices for "mirrored": GPUs or, if there are none, logical CPU devices. With
            `None`, all GPUs or two logical CPU devices.

    Raises:
        StrategyError: If there is no such strategy, there are too few devices, or `TF_CONFIG` is missing or
            malformed.
    """
    if strategy not in STRATEGIES:
        raise StrategyError(f"strategy must be one of {', '.join(STRATEGIES)}. Received: {strategy!r}")
    if devices is not None and strategy != "mirrored":
        raise StrategyError(
            f"devices must be None unless the strategy is 'mirrored'. Received: strategy={strategy!r}, "
            f"devices={devices}"
        )
    if strategy == "mirrored":
        return _mirrored(tuple(_devices(devices)))
    if strategy == "multiworker":
        return _multiworker()
    return tf.distribute.get_strategy()


@functools.cache
def _mirrored(devices: tuple[str, ...]) -> tf.distribute.Strategy:
    return tf.distribute.MirroredStrategy(devices)


@functools.cache
def _multiworker() -> tf.distribute.Strategy:
    _check_cluster()
    return tf.distribute.MultiWorkerMirroredStrategy()


def _devices(count: int | None) -> list[str]:
    gpus = tf.config.list_logical_devices("GPU") if tf.config.list_physical_devices("GPU") else []
    if gpus:
        count = count or len(gpus)
        if count > len(gpus):
            raise StrategyError(
                f"devices must be at most the number of GPUs, {len(gpus)}. Received: devices={count}"
            )
        return [gpu.name for gpu in gpus[:count]]
    count = count or 2
    (cpu,) = tf.config.list_physical_devices("CPU")
    try:
        if len(tf.config.get_logical_device_configuration(cpu) or ()) < count:
            tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * count)
    except RuntimeError as error:
        raise StrategyError(
            f"the CPU must be split into {count} devices before this process computes anything: {error}"
        ) from error
    return [f"CPU:{index}" for index in range(count)]


def _check_cluster() -> None:
    """Raises an error unless `TF_CONFIG` describes a cluster of workers and this worker's place in it.

    Without a cluster, TensorFlow would assume a single worker. With a wrong cluster, it would wait for the
    other workers forever.
    """
    expected = (
        "the strategy 'multiworker' needs the environment variable TF_CONFIG, such as "
        '{"cluster": {"worker": ["host1:port", "host2:port"]}, "task": {"type": "worker", "index": 0}}'
    )
    value = os.environ.get("TF_CONFIG")
    if not value:
        raise StrategyError(f"{expected}. It is not set.")
    try:
        config = json.loads(value)
        task = config["task"]
        address = config["cluster"][task["type"]][int(task["index"])]
    except (ValueError, TypeError, LookupError) as error:
        raise StrategyError(f"{expected}. Received: TF_CONFIG={value} ({error!r})") from error
    if task["type"] not in ("chief", "worker") or int(task["index"]) < 0 or not isinstance(address, str):
        raise StrategyError(f"{expected}. Received: TF_CONFIG={value}")


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Returns whether this process is the chief, which writes the files."""
    resolver = strategy.cluster_resolver
    if resolver is None or not resolver.task_type:
        return True
    has_chief = "chief" in resolver.cluster_spec().jobs
    return resolver.task_type == "chief" or (not has_chief and resolver.task_id == 0)


def wait_for_all(strategy: tf.distribute.Strategy) -> None:
    """Blocks until every worker has called this function."""
    # Without AutoGraph, because it warns if two lambdas share a line.
    meet = tf.function(
        lambda: strategy.reduce("SUM", strategy.run(lambda: tf.constant(1.0)), axis=None), autograph=False
    )
    meet()


def place_in_batch(rows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the start of this replica's piece in the global batch, and the number of rows in the batch.

    Args:
        rows: An int32 scalar, the number of rows in this replica's piece.
    """
    replica = tf.distribute.get_replica_context()
    if replica.num_replicas_in_sync == 1:
        return tf.constant(0), rows
    index = replica.replica_id_in_sync_group
    mine = tf.one_hot(index, replica.num_replicas_in_sync) * tf.cast(rows, tf.float32)
    of_each = tf.cast(replica.all_reduce("SUM", mine), tf.int32)
    return tf.cumsum(of_each, exclusive=True)[index], tf.reduce_sum(of_each)


def _on_each_replica(
    step: Callable[[tuple[tf.Tensor, ...]], Any],
    batches: keras.utils.PyDataset,
    strategy: tf.distribute.Strategy,
) -> Callable[[tuple[np.ndarray, ...]], None]:
    """Returns a function of a global batch. It runs a step on each replica with that replica's piece.

    The pieces are function arguments and not elements of a `tf.data.Dataset`, because deleting a dataset's
    iterators can take minutes on a busy processor (seen in TensorFlow 2.21). TensorFlow wakes the thread that
    tunes an iterator before it marks the iterator as cancelled. If the thread checks in between, it sleeps
    again for up to 60 seconds, and the deletion waits. Under `MirroredStrategy`, each device has such an
    iterator.
    """
    replicas = strategy.num_replicas_in_sync
    # The signature leaves the sizes of the pieces open, so that a piece of another size causes no retracing.
    piece = tuple(tf.TensorSpec((None, *array.shape[1:]), array.dtype) for array in batches[0])

    # Without AutoGraph, like the steps in Keras' own `fit`.
    @tf.function(input_signature=[[piece] * replicas], autograph=False)
    def run(pieces):
        own = strategy.experimental_distribute_values_from_function(
            lambda context: pieces[context.replica_id_in_sync_group]
        )
        strategy.run(step, (own,))

    def run_on(batch):
        run(list(zip(*(np.array_split(array, replicas) for array in batch), strict=True)))

    return run_on


def fit(
    model: keras.Model,
    strategy: tf.distribute.Strategy,
    batches: keras.utils.PyDataset,
    test_batches: keras.utils.PyDataset,
    *,
    initial_epoch: int = 0,
    epochs: int,
    verbose: Any = "auto",
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> None:
    """Trains a model as its own `fit` does, under any strategy.

    Keras' own `fit` fails under `MultiWorkerMirroredStrategy` (github.com/keras-team/keras/issues/20585). It
    also fails under `MirroredStrategy` if the first batch is not divisible by the number of replicas.

    Args:
        model: A compiled and built model, made in the strategy's scope. The losses that its `train_step`
            differentiates must sum over the replicas to the loss of the global batch. Keras' own losses do
            if all pieces have the same size. The model must accept an empty piece, because a batch may have
            fewer rows than there are replicas. With oneDNN, TensorFlow's convolutions do not accept one
            (see `models.image_layers`).
        strategy: The strategy.
        batches: The global batches, each a tuple of arrays, in training order. The same on all workers.
        test_batches: The batches for validation after each epoch, in the same form.
        initial_epoch: As in `keras.Model.fit`.
        epochs: As in `keras.Model.fit`.
        verbose: As in `keras.Model.fit`.
        callbacks: As in `keras.Model.fit`.
    """
    if strategy is tf.distribute.get_strategy():  # The default strategy, "none".
        model.fit(
            batches,
            shuffle=False,
            validation_data=test_batches,
            initial_epoch=initial_epoch,
            epochs=epochs,
            verbose=verbose,
            callbacks=callbacks,
        )
        return
    with strategy.scope():
        model.optimizer.build(model.trainable_variables)
    train_step = _on_each_replica(model.train_step, batches, strategy)
    test_step = _on_each_replica(model.test_step, test_batches, strategy)
    progress = keras.callbacks.CallbackList(
        list(callbacks),
        add_progbar=verbose != 0,
        model=model,
        verbose=verbose,
        epochs=epochs,
        steps=len(batches),
    )
    progress.on_train_begin()
    for epoch in range(initial_epoch, epochs):
        model.reset_metrics()
        progress.on_epoch_begin(epoch)
        for step in range(len(batches)):
            progress.on_train_batch_begin(step)
            train_step(batches[step])
            # No logs here. Reading the metrics sums them over all workers, which would slow down every batch,
            # so they are read once per epoch.
            progress.on_train_batch_end(step)
        logs = model.get_metrics_result()
        model.reset_metrics()
        for step in range(len(test_batches)):
            test_step(test_batches[step])
        logs |= {f"val_{name}": value for name, value in model.get_metrics_result().items()}
        progress.on_epoch_end(epoch, {name: float(value) for name, value in logs.items()})
    progress.on_train_end()
