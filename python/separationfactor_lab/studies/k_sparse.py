"""k-sparse autoencoders as in Makhzani and Frey: how useful their features are to a linear classifier."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping

import keras
import numpy as np
from matplotlib.figure import Figure
from sklearn.dummy import DummyClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split

from separationfactor import KSchedule
from separationfactor.models import KSparseAutoencoder
from separationfactor.optimizers import SparseAdam
from separationfactor_lab.options import STUDIES
from separationfactor_lab.studies import training
from separationfactor_lab.studies.framework import Results, Study, Trial

_BATCH = 100
# The total number of training images, counting repetitions.
_IMAGES, _QUICK_IMAGES = 480_000, 2_000
_LEARNING_RATE = 1e-3
# The initial k. It decreases to the setting's k over the first half of the training.
_START_K = 100
# At inference, a trained autoencoder keeps alpha * k units, for each of these alphas.
_ALPHAS = (1, 3)
_REGULARIZATIONS = (0.01, 0.1, 1.0)
# The fraction of the training images that is held out to select the regularization.
_HELD_OUT = 0.2
_SHOWN_FILTERS = (6, 10)

_KS = (10, 25, 40, 70, 100)
# Makhzani and Frey, 2013: 1,000 units on the 60,000 digits of MNIST.
_PAPER_K, _PAPER_ERROR = 25, 1.35


def measure(trial: Trial) -> dict[str, float]:
    """Trains the autoencoder of a setting, and a logistic regression on its features."""
    dataset = trial.dataset
    if not trial.options:
        features = [images.reshape(len(images), -1) for images in (dataset.x_train, dataset.x_test)]
        return {"error_percent": _error_percent(trial, *features)}

    model = KSparseAutoencoder(dataset.image_shape, seed=trial.seed, **_model_options(trial))
    _train(trial, model)
    measured = {
        "squared_error": model.evaluate(dataset.x_test, verbose=0, return_dict=True)["loss"],
        "dead_units": model.evaluate(dataset.x_train, verbose=0, return_dict=True)["dead_units"],
    }
    for alpha in _ALPHAS if model.k < model.units else (1,):
        features = [_features(model, alpha, images) for images in (dataset.x_train, dataset.x_test)]
        name = "error_percent" if alpha == 1 else f"error_percent_alpha_{alpha}"
        measured[name] = _error_percent(trial, *features)
    np.save(trial.folder / "filters.npy", model.filters()[: math.prod(_SHOWN_FILTERS)])
    return measured


def _model_options(trial: Trial) -> dict:
    options = {name: value for name, value in trial.options.items() if name != "schedule"}
    if trial.quick:
        scale = options["units"] // 50
        options |= {"units": 50, "k": -(-options["k"] // scale)}
    return options


def _train(trial: Trial, model: KSparseAutoencoder) -> None:
    images = trial.dataset.x_train
    epochs = max(2, round((_QUICK_IMAGES if trial.quick else _IMAGES) / len(images)))
    batch = min(_BATCH, len(images))
    steps = epochs * (len(images) // batch)
    # With the paper's gradient descent with momentum, many more units are dead after so few images.
    model.compile(SparseAdam(keras.optimizers.schedules.CosineDecay(_LEARNING_RATE, steps)))
    start = max(model.k, min(_START_K, model.units)) if trial.options["schedule"] else model.k
    schedule = KSchedule(start, model.k, max(1, epochs // 2))

    def before_epoch(epoch):
        model.sparsity.k = schedule.k_at(epoch)

    training.fit(
        model,
        images,
        epochs=epochs,
        batch_size=batch,
        seed=trial.seed,
        before_epoch=before_epoch,
    )


def _features(model: KSparseAutoencoder, alpha: float, images: np.ndarray) -> np.ndarray:
    """Returns the codes of a copy of the model that keeps alpha * k units."""
    same = KSparseAutoencoder.from_config({**model.get_config(), "alpha": alpha})
    same.set_weights(model.get_weights())
    return np.concatenate([same.encode(images[i : i + 1000]) for i in range(0, len(images), 1000)])


def _error_percent(trial: Trial, train: np.ndarray, test: np.ndarray) -> float:
    """Returns the test error of a logistic regression on the features, in percent.

    A held-out part of `train` selects the regularization.
    """
    # The scale of all-zero features is set to 1.
    scale = np.sqrt(np.mean(np.square(train), dtype=np.float64)).astype(np.float32) or np.float32(1)
    train, test, labels = train / scale, test / scale, trial.dataset.y_train
    classes, counts = np.unique(labels, return_counts=True)
    if len(classes) == 1:
        return 100 * np.mean(trial.dataset.y_test != classes[0])
    # The split is stratified by class, unless a class or the held-out part is too small.
    can_share = counts.min() > 1 and math.ceil(_HELD_OUT * len(labels)) >= len(counts)
    inner, held_out, inner_labels, held_out_labels = train_test_split(
        train,
        labels,
        test_size=_HELD_OUT,
        stratify=labels if can_share else None,
        random_state=trial.seed,
    )

    def fitted(regularization, features, labels):
        if len(np.unique(labels)) == 1:
            return DummyClassifier().fit(features, labels)
        # All settings use the same early stop. The remaining improvement is small.
        regression = LogisticRegression(C=regularization, max_iter=20 if trial.quick else 100)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            return regression.fit(features, labels)

    best = max(
        _REGULARIZATIONS, key=lambda c: fitted(c, inner, inner_labels).score(held_out, held_out_labels)
    )
    return 100 * (1 - fitted(best, train, labels).score(test, trial.dataset.y_test))


def draw(results: Results) -> Mapping[str, Figure]:
    """Draws the errors by k beside those of the other methods, and the first filters of each setting."""
    return {"errors": _draw_errors(results), "filters": _draw_filters(results)}


def _draw_errors(results: Results) -> Figure:
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    measured = results.settings()
    ks = [k for k in _KS if f"k={k}" in measured]
    for alpha, column in ((1, "error_percent"), (3, "error_percent_alpha_3")):
        means = [results.mean(f"k={k}", column) for k in ks]
        deviations = [results.deviation(f"k={k}", column) for k in ks]
        axes.errorbar(
            ks,
            means,
            deviations,
            marker="o",
            capsize=3,
            label=f"k-sparse, {alpha}k at inference" if alpha > 1 else "k-sparse",
        )
    for index, name in enumerate(name for name in ("raw-pixels", "dropout", "denoising") if name in measured):
        axes.axhline(results.mean(name, "error_percent"), color=f"C{index + 2}", ls="--", label=name)
    paper = "Makhzani and Frey: 60,000 digits of MNIST, not these data"
    axes.plot(_PAPER_K, _PAPER_ERROR, "k*", markersize=10, label=paper)
    axes.set_xlabel("k")
    axes.set_ylabel("test error of a logistic regression (%)")
    axes.set_ylim(0)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside upper center", fontsize=8, ncols=2)
    return figure


def _draw_filters(results: Results) -> Figure:
    paths = {name: results.trial_folder(name, 0) / "filters.npy" for name in results.settings()}
    paths = {name: path for name, path in paths.items() if path.exists()}
    columns = 3
    figure = Figure(figsize=(3.1 * columns, 2.2 * -(-len(paths) // columns)), layout="constrained")
    for index, (name, path) in enumerate(paths.items()):
        filters = np.load(path)[..., 0]
        rows, across = _SHOWN_FILTERS
        count, height, width = filters.shape
        # Zero is grey. The largest magnitude of a filter is black or white. The NaN between filters is white.
        filters = filters / np.maximum(np.abs(filters).max((1, 2), keepdims=True), 1e-12)
        tiles = np.full((rows * across, height + 1, width + 1), np.nan)
        tiles[:count, :height, :width] = filters
        tiles = tiles.reshape(rows, across, height + 1, width + 1).swapaxes(1, 2)
        axes = figure.add_subplot(-(-len(paths) // columns), columns, index + 1)
        axes.imshow(tiles.reshape(rows * (height + 1), -1)[:-1, :-1], cmap="gray", vmin=-1, vmax=1)
        axes.set_axis_off()
        axes.set_title(name, fontsize=8)
    return figure


def _settings() -> dict[str, dict]:
    base = {"units": 1000, "k": 25, "schedule": True}
    usual = {**base, "k": 1000, "activation": "relu", "schedule": False}
    return {
        "raw-pixels": {},
        "dropout": {**usual, "code_dropout": 0.5},
        "denoising": {**usual, "input_dropout": 0.2},
        **{f"k={k}": {**base, "k": k} for k in _KS},
        "k=25+untied": {**base, "tied": False},
        "k=25+relu": {**base, "activation": "relu"},
        "k=25+no-schedule": {**base, "schedule": False},
    }


STUDY = Study(
    name="k-sparse",
    summary=STUDIES["k-sparse"],
    settings=_settings(),
    quick_settings=("raw-pixels", "dropout", "k=25"),
    measure=measure,
    draw=draw,
    columns={
        "error_percent": ".2f",
        "error_percent_alpha_3": ".2f",
        "squared_error": ".2f",
        "dead_units": ".0f",
    },
)
