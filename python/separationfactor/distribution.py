"""Training on several devices or machines: TensorFlow's strategies, by name, and what Keras' `fit` lacks.

A global batch is cut into one piece a replica, in the order of the replicas. What a model computes over a
batch it then computes over the pieces of all replicas (`place_in_batch`), so that how many there are changes
a training by no more than rounding.
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
    """The devices or machines are not as a strategy needs them; the message says what was expected."""


def make(strategy: str, devices: int | None = None) -> tf.distribute.Strategy:
    """Returns a strategy by its name. To be called first before this process computes anything.

    The same arguments give the same strategy: two on the same devices would take each other's collectives
    for their own.

    Args:
        strategy: "none"; "mirrored" for this machine's devices; or "multiworker" for the machines that the
            environment variable `TF_CONFIG` lists, each of which runs the same program.
        devices: How many devices "mirrored" takes: GPUs or, where there is none, logical devices of the
            CPU. With `None`, all GPUs, or two logical devices.

    Raises:
        StrategyError: If there is no such strategy, the devices are too few, or `TF_CONFIG` is missing or
            malformed.
    """
    if strategy not in STRATEGIES:
        raise StrategyError(f"strategy must be one of {', '.join(STRATEGIES)}. Received: {strategy!r}")
    if devices is not None and strategy != "mirrored":
        raise StrategyError(
            f"devices are counted for the strategy 'mirrored' only. Received: strategy={strategy!r}, "
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
            raise StrategyError(f"there are {len(gpus)} GPUs. Received: devices={count}")
        return [gpu.name for gpu in gpus[:count]]
    count = count or 2
    (cpu,) = tf.config.list_physical_devices("CPU")
    try:
        if len(tf.config.get_logical_device_configuration(cpu) or ()) < count:
            tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * count)
    except RuntimeError as error:
        raise StrategyError(
            f"the CPU can be divided into {count} devices only before this process computes anything: {error}"
        ) from error
    return [f"CPU:{index}" for index in range(count)]


def _check_cluster() -> None:
    """Raises unless `TF_CONFIG` tells of a cluster of workers and of which this one is.

    TensorFlow would take no cluster for one of a single worker, and wait for ever for workers of a wrong one.
    """
    expected = (
        "the strategy 'multiworker' needs the environment variable TF_CONFIG, such as "
        '{"cluster": {"worker": ["host1:port", "host2:port"]}, "task": {"type": "worker", "index": 0}}'
    )
    value = os.environ.get("TF_CONFIG")
    if not value:
        raise StrategyError(f"{expected}. It is not set")
    try:
        config = json.loads(value)
        task = config["task"]
        address = config["cluster"][task["type"]][int(task["index"])]
    except (ValueError, TypeError, LookupError) as error:
        raise StrategyError(f"{expected}. Received: TF_CONFIG={value} ({error!r})") from error
    if task["type"] not in ("chief", "worker") or int(task["index"]) < 0 or not isinstance(address, str):
        raise StrategyError(f"{expected}. Received: TF_CONFIG={value}")


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Returns whether this process is the one that writes files."""
    resolver = strategy.cluster_resolver
    if resolver is None or not resolver.task_type:
        return True
    has_chief = "chief" in resolver.cluster_spec().jobs
    return resolver.task_type == "chief" or (not has_chief and resolver.task_id == 0)


def wait_for_all(strategy: tf.distribute.Strategy) -> None:
    """Returns once every worker has called it."""
    # Without AutoGraph, which warns of lambdas that share a line.
    meet = tf.function(
        lambda: strategy.reduce("SUM", strategy.run(lambda: tf.constant(1.0)), axis=None), autograph=False
    )
    meet()


def place_in_batch(rows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns where this replica's piece of the global batch starts, and how many rows the batch has.

    Args:
        rows: How many rows this replica's piece has, an int32 scalar.
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
    """Returns a function of a global batch that runs a step on each replica, with its piece of the batch.

    The pieces are arguments and not the elements of a `tf.data.Dataset`, because deleting its iterators can
    take minutes on a busy processor (seen in TensorFlow 2.21). The thread that tunes an iterator is woken
    before the iterator counts as cancelled. If the thread looks in between, it sleeps again, for up to 60
    seconds, and the deletion waits for it. Under `MirroredStrategy` each device has such an iterator.
    """
    replicas = strategy.num_replicas_in_sync
    # The signature leaves the sizes of pieces open, so that an odd one traces nothing anew.
    piece = tuple(tf.TensorSpec((None, *array.shape[1:]), array.dtype) for array in batches[0])

    # Without AutoGraph, as Keras' own `fit` traces a step.
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

    Keras' own fails under `MultiWorkerMirroredStrategy` (github.com/keras-team/keras/issues/20585), and
    under `MirroredStrategy` where the first batch does not divide by the replicas.

    Args:
        model: A compiled and built model, made in the strategy's scope. Its `train_step` takes gradients of
            a loss that sums up over the replicas to that of the global batch. Keras' own losses do where
            the replicas' pieces are of one size. It must take an empty piece, which a batch of fewer rows
            than replicas leaves: with oneDNN, TensorFlow's convolutions do not (`models.image_layers`).
        strategy: The strategy.
        batches: The global batches, each a tuple of arrays, in this order; the same on all workers.
        test_batches: Likewise, for validation after each epoch.
        initial_epoch: As `keras.Model.fit` takes it.
        epochs: Likewise.
        verbose: Likewise.
        callbacks: Likewise.
    """
    if strategy is tf.distribute.get_strategy():  # the one that stands for none
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
            # Metrics are summed over all workers, which would take the batches of each longer: once an epoch.
            progress.on_train_batch_end(step)
        logs = model.get_metrics_result()
        model.reset_metrics()
        for step in range(len(test_batches)):
            test_step(test_batches[step])
        logs |= {f"val_{name}": value for name, value in model.get_metrics_result().items()}
        progress.on_epoch_end(epoch, {name: float(value) for name, value in logs.items()})
    progress.on_train_end()
