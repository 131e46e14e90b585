"""Training on several devices and workers: the weights of one process, one writer of files, clear errors.

Devices and workers are set up once a process, so each strategy trains in processes of its own, whose
program is `main` below.
"""

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from unittest import mock

import click.testing
import keras
import numpy as np
import pytest
import tensorflow as tf

import separationfactor as sf
from separationfactor import distribution
from separationfactor_lab import cli, data, runs

# Batches of odd sizes. The last has one image, so the second replica gets none.
IMAGES, TEST_IMAGES, BATCH_SIZE = 91, 31, 15
# Batches of even sizes, because Keras' own losses are means of the replicas' means.
EVEN = 90, 30, 18


def few_digits(images=IMAGES, test_images=TEST_IMAGES):
    digits = data.load("digits")
    return {
        "x_train": digits.x_train[:images],
        "y_train": digits.y_train[:images],
        "x_test": digits.x_test[:test_images],
        "y_test": digits.y_test[:test_images],
    }


def classifier():
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Flatten(),
            keras.layers.Dense(32),
            sf.KSparse(8),
            keras.layers.Dense(10),
            sf.SeparationFactor(2.0, 0.5, k=3, trainable_factors=True),
            keras.layers.Dense(10),
        ]
    )


def conditional_vae():
    return sf.models.ConditionalVAE((8, 8, 1), 10, condition="predicted", trainable_factors=True, seed=5)


def expressive_vae():
    return sf.models.ConditionalVAE((8, 8, 1), 10, posterior="iaf", decoder="pixelcnn", seed=5)


def autoencoder():
    return sf.models.KSparseAutoencoder((8, 8, 1), 50, 8, seed=5)


class ImagesAlone(runs._Batches):
    def __getitem__(self, index):
        images, _ = super().__getitem__(index)
        return (images,)


# Plain gradient descent, because Adam hides a loss that is scaled by the number of replicas.
MODELS = {
    "classifier": (classifier, 0.05, EVEN),
    "conditional_vae": (conditional_vae, 1e-3, (IMAGES, TEST_IMAGES, BATCH_SIZE)),
    "expressive_vae": (expressive_vae, 1e-3, (IMAGES, TEST_IMAGES, BATCH_SIZE)),
    "autoencoder": (autoencoder, 1e-3, (IMAGES, TEST_IMAGES, BATCH_SIZE)),
}


def train_models(strategy, folder):
    """Trains each model and writes its weights and losses to `folder`."""
    for name, (make, learning_rate, (images, test_images, batch_size)) in MODELS.items():
        digits = few_digits(images, test_images)
        keras.utils.set_random_seed(3)
        with strategy.scope():
            model = make()
            loss = "sparse_categorical_crossentropy" if name == "classifier" else None
            model.compile(keras.optimizers.SGD(learning_rate), loss)
        batches = ImagesAlone if name == "autoencoder" else runs._Batches
        record = keras.callbacks.History()
        distribution.fit(
            model,
            strategy,
            batches(digits["x_train"], digits["y_train"], batch_size),
            batches(digits["x_test"], digits["y_test"], batch_size),
            epochs=2,
            verbose=0,
            callbacks=[record],
        )
        if distribution.is_chief(strategy):
            np.savez(
                Path(folder) / f"{name}.npz",
                *(weight.numpy() for weight in model.weights),
                **{f"history of {key}": values for key, values in record.history.items()},
            )


def train_command(folder, *arguments):
    options = ["--dataset", Path(folder) / "few.npz", "--batch-size", BATCH_SIZE, "--seed", 5]
    arguments = ["train", "--output", Path(folder) / "run", *options, *arguments]
    cli.main([str(argument) for argument in arguments], standalone_mode=False)


def forbid_writing():
    """Makes every way in which a run writes files fail."""

    def fail(*args, **kwargs):
        raise AssertionError(f"a worker that is not the chief wrote a file: {args}")

    runs.written_at_once = keras.callbacks.TensorBoard = keras.Model.save = fail


def forbidden_datasets():
    """Makes it fail to create a `tf.data.Dataset`: deleting its iterators can take minutes."""
    error = AssertionError("training on replicas reads its batches by a tf.data.Dataset")
    return mock.patch.object(tf.data.Dataset, "__init__", side_effect=error)


def check_dtensor():
    """A tensor that is split between the two devices."""
    from tensorflow.experimental import dtensor

    mesh = dtensor.create_mesh([("batch", 2)], devices=["CPU:0", "CPU:1"])
    layout = dtensor.Layout.batch_sharded(mesh, "batch", rank=2)
    x = dtensor.call_with_layout(tf.ones, layout, shape=(4, 6))
    parts = dtensor.unpack(sf.separate(x, 2, implementation="tf"))
    for part in parts:
        np.testing.assert_array_equal(part, [[1, 1, 0, 0, 0, 0]] * 2)
    if sf.library.ops is not None:
        with pytest.raises(NotImplementedError, match="does not take a DTensor; implementation='tf' does"):
            sf.separate(x, 2, implementation="native")


def main(name, folder):
    strategy = distribution.make(name)
    if not distribution.is_chief(strategy):
        forbid_writing()
    with forbidden_datasets():
        train_models(strategy, folder)
    if name == "mirrored":
        train_command(folder, "--strategy", name, "--devices", 2, "--epochs", 2)
        check_dtensor()
    else:
        train_command(folder, "--strategy", name, "--epochs", 1)
        train_command(folder, "--resume", "--epochs", 2)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A folder with what one process makes on the whole batches."""
    folder = tmp_path_factory.mktemp("alone")
    np.savez(folder / "few.npz", **few_digits())
    train_models(distribution.make("none"), folder)
    train_command(folder, "--epochs", 2)
    return folder


def run_main(name, folder, *environments):
    """Runs `main` in a process for each environment, all at a time."""
    program = f"import test_distribution; test_distribution.main({name!r}, {str(folder)!r})"
    with contextlib.ExitStack() as stack:
        processes = []
        for environment in environments:
            log = stack.enter_context(tempfile.TemporaryFile("w+"))
            process = subprocess.Popen(
                [sys.executable, "-c", program],
                env={**os.environ, "MPLBACKEND": "agg", **environment},
                cwd=Path(__file__).parent,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
            stack.callback(process.wait)
            stack.callback(process.kill)  # a worker whose fellow has failed waits for it
            processes.append((process, log))
        for process, log in processes:
            process.wait(timeout=900)
            log.seek(0)
            assert process.returncode == 0, log.read()


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@pytest.fixture(scope="module", params=["mirrored", "multiworker"])
def together(request, tmp_path_factory):
    """A folder with what two devices, or two workers, make."""
    folder = tmp_path_factory.mktemp(request.param)
    np.savez(folder / "few.npz", **few_digits())
    if request.param == "mirrored":
        run_main("mirrored", folder, {})
        return folder
    cluster = {"worker": [f"127.0.0.1:{port}" for port in free_ports(2)]}
    tasks = [{"type": "worker", "index": index} for index in range(2)]
    # With oneDNN, whose convolutions are the ones that stumble over an empty piece (`models.image_layers`).
    environments = [
        {"TF_CONFIG": json.dumps({"cluster": cluster, "task": task}), "TF_ENABLE_ONEDNN_OPTS": "1"}
        for task in tasks
    ]
    run_main("multiworker", folder, *environments)
    return folder


def assert_close(one, other, name):
    # A step of the optimizer is a hundred times as large.
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=3e-5, err_msg=name)


@pytest.mark.parametrize("name", MODELS)
def test_the_same_weights_and_metrics_as_one_process(name, alone, together):
    expected, result = np.load(alone / f"{name}.npz"), np.load(together / f"{name}.npz")
    assert set(expected) == set(result)
    for key in expected:
        assert_close(result[key], expected[key], key)


def test_the_command_makes_the_same_run(alone, together):
    """Two workers train it in two parts: the second resumes the first."""
    one, other = runs.Run(alone / "run"), runs.Run(together / "run")
    assert {path.name for path in one.folder.iterdir()} == {path.name for path in other.folder.iterdir()}
    assert other.options().strategy == together.name.rstrip("0123456789")
    assert other.history()["epoch"] == [1, 2]
    for key, values in one.history().items():
        assert_close(other.history()[key], values, key)
    for mine, theirs in zip(one.model().weights, other.model().weights, strict=True):
        assert_close(theirs.numpy(), mine.numpy(), mine.path)


@pytest.mark.parametrize(
    ("arguments", "config", "message"),
    [
        (["multiworker"], None, "needs the environment variable TF_CONFIG, such as {.*It is not set"),
        (["multiworker"], "{", "Received: TF_CONFIG={ "),
        (["multiworker"], "{}", "Received: TF_CONFIG={} (KeyError('task'))"),
        (
            ["multiworker"],
            '{"cluster": {"worker": ["127.0.0.1:1"]}, "task": {"type": "worker", "index": 1}}',
            "IndexError",
        ),
        (["multiworker", "--devices", "2"], None, "devices must be None unless the strategy is 'mirrored'"),
        (["none", "--devices", "2"], None, "devices must be None unless the strategy is 'mirrored'"),
        (["mirrored", "--devices", "3"], None, "into 3 devices before this process computes anything"),
        (["both"], None, "Invalid value for '--strategy'"),
    ],
)
def test_errors(tmp_path, monkeypatch, arguments, config, message):
    tf.constant(1.0)  # from here on the devices are as they are
    monkeypatch.delenv("TF_CONFIG", raising=False)
    if config is not None:
        monkeypatch.setenv("TF_CONFIG", config)
    arguments = ["train", "--output", str(tmp_path / "run"), "--strategy", *arguments]
    result = click.testing.CliRunner().invoke(cli.main, arguments)
    assert result.exit_code in (1, 2)
    output = " ".join(result.output.split())
    assert all(part in output for part in message.split(".*"))
    assert not (tmp_path / "run").exists()


def test_an_unknown_strategy(tmp_path):
    with pytest.raises(distribution.StrategyError, match="strategy must be one of none, .* Received: 'tpu'"):
        runs.train(tmp_path / "run", strategy="tpu")
