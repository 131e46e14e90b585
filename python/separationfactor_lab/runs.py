"""Training runs of the reference model. Each run is a folder and can be resumed and reproduced."""

from __future__ import annotations

import csv
import dataclasses
import json
import platform
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from separationfactor import distribution
from separationfactor.implementations import build_info
from separationfactor.models import ConditionalVAE
from separationfactor_lab import data, figures
from separationfactor_lab.files import make_folder, save_figure, tensorflow_writes, written_at_once
from separationfactor_lab.options import Options, RunError


def environment() -> dict[str, Any]:
    """Describes the environment of a run or a study: the package's build, versions and the machine."""
    return {
        **build_info(),
        "keras": keras.version(),
        "numpy": np.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
    }


class Run:
    """The folder of a run.

    Attributes:
        folder: The path of the folder.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)

    def __str__(self) -> str:
        return str(self.folder)

    @property
    def config_path(self) -> Path:
        """The file with the options, data, model and environment that the run was started with."""
        return self.folder / "config.json"

    @property
    def history_path(self) -> Path:
        """The file with the metrics of each epoch."""
        return self.folder / "history.csv"

    @property
    def model_path(self) -> Path:
        """The file with the model, its optimizer and its seed generator after the last complete epoch."""
        return self.folder / "model.keras"

    def exists(self) -> bool:
        """Returns whether a run was started in the folder."""
        return self.config_path.is_file()

    def config(self) -> dict[str, Any]:
        """Returns the content of config.json: the options, data, model and environment of the run.

        Raises:
            RunError: If the folder contains no run.
        """
        try:
            return json.loads(self.config_path.read_text())
        except FileNotFoundError:
            raise RunError(f"{self}: expected a run's folder, with a config.json in it") from None
        except (OSError, ValueError) as error:
            raise RunError(f"{self.config_path}: cannot be read: {error}") from error

    def options(self) -> Options:
        """Returns the options that the run was started with.

        Raises:
            RunError: If the folder contains no run, or config.json contains no valid options.
        """
        config = self.config()
        try:
            return Options(**config["options"])
        except (KeyError, TypeError, RunError) as error:
            raise RunError(f"{self.config_path}: expected a run's options: {error}") from error

    def history(self) -> dict[str, list[float]]:
        """Returns the values by epoch of each column of history.csv.

        Raises:
            RunError: If the file is damaged.
        """
        rows = self._history_rows()
        return {name: [row[name] for row in rows] for name in (rows[0] if rows else ())}

    def _history_rows(self) -> list[dict[str, float]]:
        try:
            with open(self.history_path, newline="") as file:
                rows = [
                    {name: int(value) if name == "epoch" else float(value) for name, value in row.items()}
                    for row in csv.DictReader(file)
                ]
        except FileNotFoundError:
            return []
        except (
            ValueError,
            TypeError,
            csv.Error,
        ) as error:  # a value is not a number, or a row has too many or too few values
            raise RunError(f"{self.history_path}: cannot be read: {error}") from error
        for epoch, row in enumerate(rows, 1):
            missing = [name for name in ("epoch", *figures.CURVES) if name not in row]
            if missing or row["epoch"] != epoch:
                raise RunError(
                    f"{self.history_path}: expected the metrics of epoch {epoch} in row {epoch}. Missing: "
                    f"{', '.join(missing) or 'that epoch'}"
                )
        return rows

    def model(self) -> ConditionalVAE:
        """Loads the model as it was after the last complete epoch.

        Raises:
            RunError: If there is no model yet, or the file is not a `ConditionalVAE`.
        """
        self.config()
        if not self.model_path.is_file():
            raise RunError(f"{self}: no epoch was finished, so {self.model_path.name} does not exist yet")
        try:
            model = keras.models.load_model(self.model_path)
        except (
            Exception
        ) as error:  # a damaged file raises many kinds of errors in Keras, zipfile, h5py and json
            raise RunError(f"{self.model_path}: expected a model that Keras can load: {error}") from error
        if not isinstance(model, ConditionalVAE):
            raise RunError(f"{self.model_path}: expected a ConditionalVAE. Received: {type(model).__name__}")
        return model

    def data(self) -> data.Dataset:
        """Loads the data that the run was started with.

        Raises:
            RunError: If the data have changed since.
            separationfactor_lab.data.DatasetError: If the data cannot be loaded.
        """
        config = self.config()
        try:
            source, fingerprint = (config["dataset"][name] for name in ("source", "fingerprint"))
        except (KeyError, TypeError) as error:
            raise RunError(f"{self.config_path}: expected a run's dataset: {error}") from error
        dataset = data.load(source)
        if dataset.fingerprint != fingerprint:
            raise RunError(
                f"{self}: its data set {source} has changed since the run was started: "
                f"expected the checksum {fingerprint}. Received: {dataset.fingerprint}"
            )
        return dataset

    def _start_or_continue(self, options: Options, dataset: data.Dataset, model: ConditionalVAE) -> None:
        if self.exists():
            if options != self.options():
                self._write_config({**self.config(), "options": dataclasses.asdict(options)})
            return
        make_folder(self.folder)
        config = {
            "options": dataclasses.asdict(options),
            "dataset": {
                "source": dataset.name,
                "fingerprint": dataset.fingerprint,
                "image_shape": dataset.image_shape,
                "num_classes": dataset.num_classes,
                "training_images": len(dataset.x_train),
                "test_images": len(dataset.x_test),
            },
            "model": model.get_config(),
            "environment": environment(),
        }
        self._write_config(config)

    def _write_config(self, config: dict[str, Any]) -> None:
        with written_at_once(self.config_path) as temporary:
            temporary.write_text(json.dumps(config, indent=2) + "\n")


class _Batches(keras.utils.PyDataset):
    """Images and their labels, in batches."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, batch_size: int):
        super().__init__()
        self._images, self._labels, self._batch_size = images, labels, batch_size
        self._order = np.arange(len(labels))

    def shuffle(self, seed: int, epoch: int) -> None:
        """Reorders the images. The order depends only on the seed and the epoch."""
        self._order = np.random.default_rng((seed, epoch)).permutation(len(self._labels))

    def __len__(self) -> int:
        return -(-len(self._labels) // self._batch_size)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        batch = self._order[index * self._batch_size : (index + 1) * self._batch_size]
        return self._images[batch], self._labels[batch]


class _Shuffle(keras.callbacks.Callback):
    """Shuffles the batches before each epoch."""

    def __init__(self, batches: _Batches, seed: int):
        super().__init__()
        self._batches, self._seed = batches, seed

    def on_epoch_begin(self, epoch, logs=None):
        self._batches.shuffle(self._seed, epoch)


class _Record(keras.callbacks.Callback):
    """Writes the metrics and then the model after each epoch."""

    def __init__(self, run: Run, rows: list[dict[str, float]]):
        super().__init__()
        self._run, self._rows = run, rows

    def on_epoch_end(self, epoch, logs=None):
        self._rows.append({"epoch": epoch + 1, **(logs or {})})
        with (
            written_at_once(self._run.history_path) as temporary,
            open(temporary, "w", newline="") as file,
        ):
            writer = csv.DictWriter(file, self._rows[0])
            writer.writeheader()
            writer.writerows(self._rows)
        # The model is written last, because a resumed run continues after the model's last epoch.
        with written_at_once(self._run.model_path) as temporary:
            self.model.save(temporary)


def train(output: str | Path, *, resume: bool = False, verbose: Any = "auto", **options: Any) -> Run | None:
    """Trains a `ConditionalVAE` and draws its results.

    The run's folder contains `config.json`, `history.csv`, TensorBoard events, `model.keras` and, at the end,
    the pictures of `draw`. Each file except the events is written atomically. An interrupted run resumes
    after its last complete epoch and gives the same result as an uninterrupted run. On one machine's CPU, the
    seed determines the result bit for bit. For this, the function makes TensorFlow's ops deterministic in
    this process.

    With `strategy="multiworker"`, every worker calls this function with the same arguments and a folder that
    all workers share. One worker, the chief, writes the files.

    Args:
        output: The run's folder. Unless `resume` is set, it must be new or empty.
        resume: Whether to continue the run in the folder. The folder must then contain a run.
        verbose: As for `keras.Model.fit`: 0 is silent, 1 shows progress bars, 2 prints a line per epoch.
        **options: Fields of `Options`. With `resume`, the given options must equal those of the run, except
            that `epochs` may be larger, to train for longer.

    Returns:
        The run, or `None` on a worker that is not the chief.

    Raises:
        RunError: If the folder does not meet these conditions, or an option is invalid.
        separationfactor_lab.data.DatasetError: If the data set is missing or malformed.
        separationfactor.distribution.StrategyError: If the devices or workers do not match the strategy.
        OSError: If a file cannot be written.
    """
    run = Run(output)
    chosen = _chosen(run, resume, options)
    tf.config.experimental.enable_op_determinism()
    strategy = distribution.make(chosen.strategy, chosen.devices)
    is_chief = distribution.is_chief(strategy)
    keras.utils.set_random_seed(chosen.seed)
    dataset = run.data() if run.exists() else data.load(chosen.dataset)
    with strategy.scope():
        model = run.model() if run.model_path.exists() else _new_model(chosen, dataset)
    # Wait until every worker has read the folder, before the chief changes it.
    distribution.wait_for_all(strategy)
    if is_chief:
        run._start_or_continue(chosen, dataset, model)

    batches = _Batches(dataset.x_train, dataset.y_train, chosen.batch_size)
    epoch = int(model.optimizer.iterations.numpy()) // len(batches)
    rows = run._history_rows()[:epoch]
    if len(rows) < epoch:
        raise RunError(
            f"{run.history_path}: expected {epoch} epochs, as many as the model was trained for. "
            f"Received: {len(rows)}"
        )
    if epoch < chosen.epochs:
        callbacks = [_Shuffle(batches, chosen.seed)]
        if is_chief:
            callbacks += [
                keras.callbacks.TensorBoard(run.folder / "tensorboard", write_graph=False),
                _Record(run, rows),
            ]
        with tensorflow_writes(run.folder):
            distribution.fit(
                model,
                strategy,
                batches,
                _Batches(dataset.x_test, dataset.y_test, chosen.batch_size),
                initial_epoch=epoch,
                epochs=chosen.epochs,
                verbose=verbose if is_chief else 0,
                callbacks=callbacks,
            )
    if is_chief:
        # The chief alone draws the pictures, so it loads a model that is not distributed.
        draw(run, model if chosen.strategy == "none" else run.model(), dataset)
    # Wait until the chief has written all files, before any worker exits or continues the run.
    distribution.wait_for_all(strategy)
    return run if is_chief else None


def _chosen(run: Run, resume: bool, given: dict[str, Any]) -> Options:
    """Returns the options of a new run, or those of a resumed run with the given number of epochs."""
    if not run.exists():
        if resume:
            raise RunError(f"{run}: expected a run's folder to continue (resume), with a config.json in it")
        if run.folder.exists() and (not run.folder.is_dir() or any(run.folder.iterdir())):
            raise RunError(f"{run}: expected a new or empty folder, or a run's to continue")
        return Options(**given)
    if not resume:
        raise RunError(f"{run}: holds a run already. Continue it (resume) or choose another folder")
    own = run.options()
    longer = dataclasses.replace(own, **given)
    for name in given:
        before, now = getattr(own, name), getattr(longer, name)
        if now != before and (name != "epochs" or now < before):
            raise RunError(
                f"{run}: was started with {name}={before} and must be continued with that value"
                f"{' or more' if name == 'epochs' else ''}. Received: {name}={now}"
            )
    return longer


def _new_model(options: Options, dataset: data.Dataset) -> ConditionalVAE:
    try:
        model = ConditionalVAE(
            dataset.image_shape,
            dataset.num_classes,
            separation_factor=options.separation,
            suppression_factor=options.suppression,
            k=options.k,
            trainable_factors=options.trainable_factors,
            combine=options.combine,
            condition=options.condition,
            hard=options.hard,
            stop_gradient=options.stop_gradient,
            beta=options.beta,
            posterior=options.posterior,
            decoder=options.decoder,
            implementation=options.implementation,
            seed=options.seed,
            name="conditional_vae",
        )
    except (ValueError, RuntimeError) as error:
        raise RunError(f"the model rejects the options: {error}") from error
    model.compile(keras.optimizers.Adam(options.learning_rate))
    return model


def draw(run: Run, model: ConditionalVAE, dataset: data.Dataset) -> list[Path]:
    """Draws a run's pictures in its folder and returns their paths."""
    shown = slice(0, 12)
    each_class = figures.one_of_each_class(dataset.y_test, dataset.num_classes)
    classes = range(dataset.num_classes)
    pictures = {
        "training-curves": figures.training_curves(run.history()),
        "reconstructions": figures.reconstructions(model, dataset.x_test[shown], dataset.y_test[shown]),
        "samples": figures.samples(model),
        "class-swap": figures.class_swap(model, dataset.x_test[each_class], dataset.y_test[each_class]),
        "traversals": figures.traversals(model, label=0),
        "morphs": figures.morphs(model, [(label, (label + 1) % len(classes)) for label in classes]),
    }
    paths = [run.folder / f"{name}.png" for name in pictures]
    for path, figure in zip(paths, pictures.values(), strict=True):
        save_figure(figure, path)
    return paths
