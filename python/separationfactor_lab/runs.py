"""Training runs of the reference model: each is a folder that can be continued, repeated and looked at."""

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
    """Returns what a run or a study was made with: the package's build, versions, the machine."""
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
        folder: Its path.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)

    def __str__(self) -> str:
        return str(self.folder)

    @property
    def config_path(self) -> Path:
        """What the run was started with: options, data, model and environment."""
        return self.folder / "config.json"

    @property
    def history_path(self) -> Path:
        """The metrics of each epoch."""
        return self.folder / "history.csv"

    @property
    def model_path(self) -> Path:
        """The model, its optimizer and its seed generator after the last whole epoch."""
        return self.folder / "model.keras"

    def exists(self) -> bool:
        """Returns whether a run was started in the folder."""
        return self.config_path.is_file()

    def config(self) -> dict[str, Any]:
        """Returns what the run was started with.

        Raises:
            RunError: If the folder holds no run.
        """
        try:
            return json.loads(self.config_path.read_text())
        except FileNotFoundError:
            raise RunError(f"{self}: expected a run's folder, with a config.json in it") from None
        except (OSError, ValueError) as error:
            raise RunError(f"{self.config_path}: cannot be read: {error}") from error

    def options(self) -> Options:
        """Returns the options the run was started with.

        Raises:
            RunError: If the folder holds no run, or config.json no options.
        """
        config = self.config()
        try:
            return Options(**config["options"])
        except (KeyError, TypeError, RunError) as error:
            raise RunError(f"{self.config_path}: expected a run's options: {error}") from error

    def history(self) -> dict[str, list[float]]:
        """Returns, for each column of history.csv, its values by epoch.

        Raises:
            RunError: If the file is not as it was written.
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
        ) as error:  # no number, or more or fewer than there are columns
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
        """Loads the model as it is after the last whole epoch.

        Raises:
            RunError: If there is none yet, or what is there is none.
        """
        self.config()
        if not self.model_path.is_file():
            raise RunError(f"{self}: no epoch was finished, so there is no {self.model_path.name} yet")
        try:
            model = keras.models.load_model(self.model_path)
        except Exception as error:  # whatever Keras, zipfile, h5py and json raise of a file that is broken
            raise RunError(f"{self.model_path}: expected a model that Keras can load: {error}") from error
        if not isinstance(model, ConditionalVAE):
            raise RunError(f"{self.model_path}: expected a ConditionalVAE. Received: {type(model).__name__}")
        return model

    def data(self) -> data.Dataset:
        """Loads the data the run was started with.

        Raises:
            RunError: If they are no longer the same.
            separationfactor_lab.data.DatasetError: If they cannot be loaded.
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
        """Puts the images in an order that depends on the seed and the epoch alone."""
        self._order = np.random.default_rng((seed, epoch)).permutation(len(self._labels))

    def __len__(self) -> int:
        return -(-len(self._labels) // self._batch_size)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        batch = self._order[index * self._batch_size : (index + 1) * self._batch_size]
        return self._images[batch], self._labels[batch]


class _Shuffle(keras.callbacks.Callback):
    """Shuffles before each epoch."""

    def __init__(self, batches: _Batches, seed: int):
        super().__init__()
        self._batches, self._seed = batches, seed

    def on_epoch_begin(self, epoch, logs=None):
        self._batches.shuffle(self._seed, epoch)


class _Record(keras.callbacks.Callback):
    """After each epoch writes down its metrics, then the model."""

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
        # The model comes last: what it has been through is what counts when a run is continued.
        with written_at_once(self._run.model_path) as temporary:
            self.model.save(temporary)


def train(output: str | Path, *, resume: bool = False, verbose: Any = "auto", **options: Any) -> Run | None:
    """Trains a `ConditionalVAE` and draws what it has learned.

    The folder holds `config.json`, `history.csv`, TensorBoard events, `model.keras` and, in the end, the
    pictures that `draw` makes. Files but the events are written in one step each. A run that was interrupted
    goes on from its last whole epoch to the result it would have had: the seed determines a run, bit for
    bit on one machine's CPU, for which TensorFlow's ops are made deterministic in this process.

    With `strategy="multiworker"` every worker calls it alike, on a folder that all of them see. One of them,
    the chief, writes the files.

    Args:
        output: The run's folder. Unless `resume`, it must be new or empty.
        resume: Whether to continue the run that is there, which must be there then.
        verbose: As `keras.Model.fit` takes it: 0 is silent, 1 shows progress bars, 2 a line an epoch.
        **options: Fields of `Options`. With `resume`, those given must be the run's own, except that
            more `epochs` make it go on for longer.

    Returns:
        The run, or `None` on a worker that is not the chief.

    Raises:
        RunError: If the folder is not as above, or an option's value is none.
        separationfactor_lab.data.DatasetError: If the data set is missing or malformed.
        separationfactor.distribution.StrategyError: If the devices or workers are not as the strategy needs.
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
    # Every worker has seen the folder as it was.
    distribution.wait_for_all(strategy)
    if is_chief:
        run._start_or_continue(chosen, dataset, model)

    batches = _Batches(dataset.x_train, dataset.y_train, chosen.batch_size)
    epoch = int(model.optimizer.iterations.numpy()) // len(batches)
    rows = run._history_rows()[:epoch]
    if len(rows) < epoch:
        raise RunError(
            f"{run.history_path}: expected {epoch} epochs, as many as made the model. Received: {len(rows)}"
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
        # Pictures are drawn by a model of this process alone.
        draw(run, model if chosen.strategy == "none" else run.model(), dataset)
    # No worker leaves, or goes on with the run, before the chief has written all.
    distribution.wait_for_all(strategy)
    return run if is_chief else None


def _chosen(run: Run, resume: bool, given: dict[str, Any]) -> Options:
    """Returns the options of a run that starts, or that goes on with as many epochs as are given now."""
    if not run.exists():
        if resume:
            raise RunError(f"{run}: expected a run's folder to continue (resume), with a config.json in it")
        if run.folder.exists() and (not run.folder.is_dir() or any(run.folder.iterdir())):
            raise RunError(f"{run}: expected a new or empty folder, or a run's to continue")
        return Options(**given)
    if not resume:
        raise RunError(f"{run}: holds a run already. Continue it (resume), or choose another folder")
    own = run.options()
    longer = dataclasses.replace(own, **given)
    for name in given:
        before, now = getattr(own, name), getattr(longer, name)
        if now != before and (name != "epochs" or now < before):
            raise RunError(
                f"{run}: was started with {name}={before}, and is continued with that"
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
        raise RunError(f"the model does not take the options: {error}") from error
    model.compile(keras.optimizers.Adam(options.learning_rate))
    return model


def draw(run: Run, model: ConditionalVAE, dataset: data.Dataset) -> list[Path]:
    """Draws a run's pictures into its folder and returns their paths."""
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
