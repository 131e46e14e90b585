"""Runs and the command line: what a run's folder holds, that runs repeat and resume, and errors."""

import contextlib
import csv
import json
import os
import shutil
import subprocess
import sys

import click.testing
import keras
import numpy as np
import pytest

import separationfactor as sf
from separationfactor_lab import cli, data, files, runs

pytestmark = pytest.mark.usefixtures("deterministic")

PICTURES = ["class-swap", "morphs", "reconstructions", "samples", "training-curves", "traversals"]


@pytest.fixture(scope="module")
def dataset_path(tmp_path_factory):
    """A hundred of the digits, so that an epoch is short."""
    digits = data.load("digits")
    path = tmp_path_factory.mktemp("data") / "few.npz"
    np.savez(
        path,
        x_train=digits.x_train[:100],
        y_train=digits.y_train[:100],
        x_test=digits.x_test[:30],
        y_test=digits.y_test[:30],
    )
    return path


def train(dataset_path, output, **options):
    options = {"dataset": str(dataset_path), "epochs": 3, "batch_size": 32, "seed": 5, **options}
    return runs.train(output, verbose=0, **options)


@pytest.fixture(scope="module")
def whole(dataset_path, tmp_path_factory, deterministic):
    return train(dataset_path, tmp_path_factory.mktemp("runs") / "whole")


@pytest.fixture
def without_pictures(monkeypatch):
    """Saves the time to draw, for tests of the training."""
    monkeypatch.setattr(runs, "draw", lambda run, model, dataset: [])


def copied(run, folder):
    """Returns a copy of a run, for tests that change it."""
    shutil.copytree(run.folder, folder)
    return runs.Run(folder)


def weights(run):
    return [weight.numpy() for weight in run.model().weights]


def assert_same_run(one, other):
    assert one.history_path.read_text() == other.history_path.read_text()
    for mine, theirs in zip(weights(one), weights(other), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def invoke(*arguments):
    return click.testing.CliRunner().invoke(cli.main, [str(argument) for argument in arguments])


# What a run leaves


def test_the_folder(whole):
    names = {path.name for path in whole.folder.iterdir()}
    assert names == {
        "config.json",
        "history.csv",
        "model.keras",
        "tensorboard",
        *(f"{name}.png" for name in PICTURES),
    }
    assert list(whole.folder.glob("tensorboard/train/events.out.tfevents.*"))
    assert list(whole.folder.glob("tensorboard/validation/events.out.tfevents.*"))
    for name in PICTURES:
        assert (whole.folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_the_config_holds_everything(whole, dataset_path):
    config = json.loads(whole.config_path.read_text())
    assert config["options"] == {
        "dataset": str(dataset_path),
        "epochs": 3,
        "batch_size": 32,
        "learning_rate": 1e-3,
        "seed": 5,
        "separation": 10.0,
        "suppression": 0.25,
        "k": 1,
        "trainable_factors": False,
        "combine": "add",
        "condition": "label",
        "hard": False,
        "stop_gradient": False,
        "beta": 1.0,
        "posterior": "gaussian",
        "decoder": "convolutional",
        "implementation": "auto",
        "strategy": "none",
        "devices": None,
    }
    assert config["dataset"]["training_images"] == 100
    assert config["model"] == json.loads(json.dumps(whole.model().get_config()))
    assert config["environment"]["tensorflow"] == sf.build_info()["tensorflow"]


def test_the_history(whole):
    with open(whole.history_path, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"])
    result = whole.model().metrics_names
    assert {f"val_{name}" for name in result} | set(result) | {"epoch"} == rows[0].keys()


def test_the_model_loads_with_keras_alone(whole):
    images = data.load("digits").x_test[:4]
    model = keras.models.load_model(whole.model_path)
    assert isinstance(model, sf.models.ConditionalVAE)
    assert model.predict(images, verbose=0).shape == (4, 8, 8, 1)
    result = model.evaluate(images, data.load("digits").y_test[:4], verbose=0, return_dict=True)
    assert np.isfinite(list(result.values())).all()


@pytest.mark.usefixtures("without_pictures")
def test_the_options_reach_the_model(dataset_path, tmp_path):
    run = train(
        dataset_path,
        tmp_path / "run",
        epochs=1,
        separation=3.0,
        suppression=0.5,
        k=2,
        trainable_factors=True,
        combine="concat",
        condition="predicted",
        hard=True,
        stop_gradient=True,
        beta=0.5,
        implementation="tf",
    )
    config = run.model().get_config()
    expected = {
        "separation_factor": 3.0,
        "suppression_factor": 0.5,
        "k": 2,
        "trainable_factors": True,
        "combine": "concat",
        "condition": "predicted",
        "hard": True,
        "stop_gradient": True,
        "beta": 0.5,
        "implementation": "tf",
        "seed": 5,
    }
    assert {name: config[name] for name in expected} == expected


# Repeating and resuming


@pytest.mark.usefixtures("without_pictures")
def test_a_seed_repeats_a_run_and_another_does_not(whole, dataset_path, tmp_path):
    assert_same_run(train(dataset_path, tmp_path / "again"), whole)
    other = train(dataset_path, tmp_path / "other", seed=6)
    assert other.history_path.read_text() != whole.history_path.read_text()


@pytest.mark.usefixtures("without_pictures")
@pytest.mark.skipif(sf.library.ops is None, reason="the compiled op is not available")
def test_both_implementations_give_the_same_run(whole, dataset_path, tmp_path):
    assert_same_run(train(dataset_path, tmp_path / "tf", implementation="tf"), whole)


def test_each_epoch_has_an_order_of_its_own():
    digits = data.load("digits")
    batches = runs._Batches(digits.x_train, digits.y_train, 100)
    orders = []
    for epoch in (0, 1, 0):
        batches.shuffle(1, epoch)
        orders.append(np.concatenate([batches[index][1] for index in range(len(batches))]))
    assert not np.array_equal(orders[0], orders[1])
    np.testing.assert_array_equal(orders[0], orders[2])
    np.testing.assert_array_equal(np.sort(orders[0]), np.sort(data.load("digits").y_train))


class Interrupt(keras.callbacks.Callback):
    """Stops a training as Ctrl-C does, in the middle of an epoch."""

    def __init__(self, epoch):
        super().__init__()
        self.epoch = epoch

    def on_epoch_begin(self, epoch, logs=None):
        self.current = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self.current, batch) == (self.epoch, 1):
            raise KeyboardInterrupt


@pytest.mark.usefixtures("without_pictures")
@pytest.mark.parametrize("epoch", [0, 1, 2])
def test_an_interrupted_run_goes_on_to_the_same_result(whole, dataset_path, tmp_path, monkeypatch, epoch):
    tensorboard = keras.callbacks.TensorBoard
    with monkeypatch.context() as patch:
        patch.setattr(keras.callbacks, "TensorBoard", lambda *args, **kwargs: Interrupt(epoch))
        with pytest.raises(KeyboardInterrupt):
            train(dataset_path, tmp_path / "run")
    run = runs.Run(tmp_path / "run")
    assert run.model_path.exists() == (epoch > 0)
    assert len(run.history().get("epoch", [])) == epoch
    assert keras.callbacks.TensorBoard is tensorboard
    runs.train(run.folder, resume=True, verbose=0)
    assert_same_run(run, whole)


@pytest.mark.usefixtures("without_pictures")
def test_a_run_cut_off_between_history_and_model_forgets_the_history(whole, dataset_path, tmp_path):
    run = train(dataset_path, tmp_path / "run", epochs=2)
    text = run.history_path.read_text()
    run.history_path.write_text(text + text.splitlines()[-1].replace("2,", "3,", 1) + "\n")
    runs.train(run.folder, resume=True, verbose=0, epochs=3)
    assert_same_run(run, whole)


@pytest.mark.usefixtures("without_pictures")
def test_more_epochs_make_a_run_go_on(whole, dataset_path, tmp_path):
    run = train(dataset_path, tmp_path / "run", epochs=1)
    train(dataset_path, run.folder, resume=True, epochs=3)
    assert run.options().epochs == 3
    assert_same_run(run, whole)


def test_resuming_a_finished_run_draws_its_pictures_again(whole, tmp_path):
    run = copied(whole, tmp_path / "run")
    before = weights(run)
    (run.folder / "samples.png").unlink()
    runs.train(run.folder, resume=True, verbose=0)
    assert (run.folder / "samples.png").exists()
    for mine, theirs in zip(weights(run), before, strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_resuming_nothing_is_an_error(dataset_path, tmp_path):
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "none", tmp_path / "empty"):
        with pytest.raises(runs.RunError, match="expected a run's folder to continue"):
            train(dataset_path, folder, resume=True, epochs=1)
    assert os.listdir(tmp_path) == ["empty"]


def test_files_are_written_at_once(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("before")
    with contextlib.suppress(ZeroDivisionError), files.written_at_once(path) as temporary:
        temporary.write_text("half of")
        raise ZeroDivisionError
    assert path.read_text() == "before"
    with files.written_at_once(path) as temporary:
        temporary.write_text("after")
    assert path.read_text() == "after"
    assert os.listdir(tmp_path) == ["file.txt"]


def test_files_are_written_where_a_path_leads(tmp_path):
    with files.written_at_once(tmp_path / "new" / "folder" / "file.txt") as temporary:
        temporary.write_text("in folders that are made")
    link = tmp_path / "link.txt"
    link.symlink_to(tmp_path / "new" / "target.txt")
    with files.written_at_once(link) as temporary:
        temporary.write_text("at the end of a link")
    assert (link.is_symlink(), link.read_text()) == (True, "at the end of a link")
    # Nothing is put in the place of a device or a pipe.
    os.mkfifo(tmp_path / "pipe")
    with (
        pytest.raises(FileExistsError, match="Not a regular file.*pipe"),
        files.written_at_once(tmp_path / "pipe"),
    ):
        raise AssertionError("written to")
    assert (tmp_path / "pipe").is_fifo()


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_that_is_none(seed):
    assert runs.Options(seed=2**32 - 1).seed == 2**32 - 1
    with pytest.raises(runs.RunError, match=rf"seed must be an integer in \[0, 2\^32\). Received: {seed}"):
        runs.Options(seed=seed)


# The command line


def test_train_and_traverse(dataset_path, tmp_path):
    folder = tmp_path / "run"
    arguments = ["--dataset", dataset_path, "--epochs", 1, "--seed", 5, "--separation", 4, "--beta", 0.5]
    result = invoke("train", *arguments, "--combine", "concat", "--output", folder)
    assert result.exit_code == 0, result.output
    assert "after 1 epochs" in result.output
    assert str(folder / "class-swap.png") in result.output.replace("\n", "")
    options = runs.Run(folder).options()
    assert (options.separation, options.beta, options.combine, options.seed) == (4.0, 0.5, "concat", 5)
    assert options.suppression == 0.25

    result = invoke("train", "--resume", "--epochs", 2, "--output", folder)
    assert result.exit_code == 0, result.output
    assert runs.Run(folder).history()["epoch"] == [1, 2]

    for arguments, name in [
        ([], "traversals-0.png"),
        (["--label", 4], "traversals-4.png"),
        (["--label", 1, "--to", 9], "morph-1-9.png"),
        (["--output", folder / "mine.pdf"], "mine.pdf"),
    ]:
        result = invoke("traverse", folder, *arguments)
        assert result.exit_code == 0, result.output
        assert (folder / name).exists()


def test_info():
    result = invoke("info")
    assert result.exit_code == 0
    assert sf.build_info()["tensorflow"] in result.output


def test_the_help_shows_the_defaults():
    result = invoke("train", "--help")
    assert result.exit_code == 0
    for default in ("digits", "10.0", "0.25", "add", "label", "auto"):
        assert f"default: {default}" in " ".join(result.output.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dataset", "nowhere"], "nowhere: no such data set. Expected digits"),
        (["--k", "11"], "`k` of layer 'separation' must be at most the size of axis -1 of its inputs, 10"),
        (["--separation", "nan"], "`separation_factor` must be a finite number"),
        (["--epochs", "0"], "Invalid value for '--epochs'"),
        (["--combine", "sum"], "Invalid value for '--combine'"),
        (["--beta", "-1"], "Invalid value for '--beta'"),
    ],
)
def test_train_errors(tmp_path, arguments, message):
    result = invoke("train", *arguments, "--output", tmp_path / "run")
    assert result.exit_code in (1, 2)
    assert message in " ".join(result.output.split())
    assert not (tmp_path / "run").exists()


def test_folder_errors(whole, dataset_path, tmp_path):
    for call, message in [
        (lambda: train(dataset_path, whole.folder), "holds a run already"),
        (lambda: train(dataset_path, dataset_path), "expected a new or empty folder"),
        (lambda: train(dataset_path, dataset_path.parent), "expected a new or empty folder"),
        (lambda: train(dataset_path, whole.folder, resume=True, seed=6), "started with seed=5.*seed=6"),
        (
            lambda: train(dataset_path, whole.folder, resume=True, epochs=2),
            "epochs=3 and .*or more.*epochs=2",
        ),
        (lambda: runs.Run(tmp_path).model(), "expected a run's folder"),
        (lambda: runs.Run(tmp_path / "none").data(), "expected a run's folder"),
    ]:
        with pytest.raises(runs.RunError, match=message):
            call()


def test_a_run_whose_data_changed(whole, dataset_path, tmp_path):
    path = tmp_path / "mine.npz"
    path.write_bytes(dataset_path.read_bytes())
    run = copied(whole, tmp_path / "run")
    config = run.config()
    config["dataset"]["source"] = str(path)
    run._write_config(config)
    assert len(run.data().x_train) == 100
    with np.load(path) as file:
        arrays = dict(file)
    arrays["x_train"] = 1 - arrays["x_train"]
    np.savez(path, **arrays)
    with pytest.raises(runs.RunError, match="has changed since the run was started"):
        runs.train(run.folder, resume=True, verbose=0)


def test_a_broken_config(tmp_path):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(runs.RunError, match=r"config.json: cannot be read"):
        runs.Run(tmp_path).config()
    (tmp_path / "config.json").write_text('{"options": {"epoch": 3}}')
    with pytest.raises(runs.RunError, match=r"config.json: expected a run's options.*'epoch'"):
        runs.Run(tmp_path).options()


def test_traverse_errors(whole, tmp_path):
    for arguments, message in [
        ([tmp_path], "expected a run's folder"),
        (
            [whole.folder, "--label", "10"],
            "must be less than 10, the number of classes of the run. Received: 10",
        ),
        (
            [whole.folder, "--to", "12"],
            "must be less than 10, the number of classes of the run. Received: 12",
        ),
    ]:
        result = invoke("traverse", *arguments)
        assert result.exit_code in (1, 2)
        assert message in " ".join(result.output.split())


def test_the_installed_command_and_the_module():
    for command in (["separationfactor"], [sys.executable, "-m", "separationfactor_lab.cli"]):
        if command[0] == "separationfactor":
            command = [os.path.join(os.path.dirname(sys.executable), "separationfactor")]
        result = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True)
        assert sf.__version__ in result.stdout
