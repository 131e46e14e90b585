"""The effect of a richer posterior and of an autoregressive decoder on the reference model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from matplotlib.figure import Figure

from separationfactor.models import ConditionalVAE
from separationfactor_lab import evaluation, figures, metrics
from separationfactor_lab.data import Dataset
from separationfactor_lab.options import STUDIES
from separationfactor_lab.studies import training
from separationfactor_lab.studies.framework import Results, Study, Trial

_EPOCHS, _QUICK_EPOCHS = 12, 1
_BATCH = 100
# The number of test images for the importance-weighted bound, and the number of samples of z per image.
_IMAGES, _SAMPLES = 500, 100
_QUICK_IMAGES, _QUICK_SAMPLES = 20, 3
_SHOWN = 6


def prepare(dataset: Dataset, folder: Path, quick: bool) -> None:
    """Trains the judge, a classifier of the generated images."""
    evaluation.judge_of(folder, dataset, epochs=1 if quick else 15)


def measure(trial: Trial) -> dict[str, float]:
    """Trains the model of a setting and measures it on the test part."""
    dataset, quick = trial.dataset, trial.quick
    model = ConditionalVAE(
        dataset.image_shape, dataset.num_classes, seed=trial.seed, implementation="tf", **trial.options
    )

    def train():
        training.fit(
            model,
            dataset.x_train,
            dataset.y_train,
            epochs=_QUICK_EPOCHS if quick else _EPOCHS,
            batch_size=_BATCH,
            seed=trial.seed,
        )

    model.compile(keras.optimizers.Adam(1e-3))
    training.once(trial, model, train)
    count, samples = (_QUICK_IMAGES, _QUICK_SAMPLES) if quick else (_IMAGES, _SAMPLES)
    images, labels = dataset.x_test[:count], dataset.y_test[:count]
    with model.drawing_from(trial.seed):
        terms = model.evaluate(dataset.x_test, dataset.y_test, batch_size=500, verbose=0, return_dict=True)
        weigh = tf.function(model.log_weights)
        log_weights = [weigh(images, labels) for _ in range(samples)]

    judge = evaluation.judge_of(trial.shared, dataset)
    others = (labels + 1 + np.arange(len(labels)) % (model.num_classes - 1)) % model.num_classes
    swapped = model.swap(images, others, labels, seed=trial.seed)
    drawn = model.generate(labels, seed=trial.seed)
    shown = _drawn(model, images, labels)
    np.save(trial.folder / "images.npy", shown.astype(np.float16))
    return {
        "negative_elbo": terms["negative_elbo"],
        "reconstruction": terms["reconstruction"],
        "kl": terms["kl"],
        "importance_weighted_nll": metrics.importance_weighted_nll(log_weights),
        "swap_accuracy": np.mean(np.argmax(judge(swapped), axis=1) == others),
        "sample_accuracy": np.mean(np.argmax(judge(drawn), axis=1) == labels),
        "judge_accuracy": np.mean(np.argmax(judge(images), axis=1) == labels),
        "leakage_linear": metrics.leakage(np.asarray(model.encode(images, labels)[0]), labels),
    }


def _drawn(model: ConditionalVAE, images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Returns rows of images.

    The first row holds test images, the second their reconstructions. Three rows hold class swaps, and three
    rows hold new images of the same classes.
    """
    images, labels = images[:_SHOWN], labels[:_SHOWN]
    rows = [images, model.reconstruct(images, labels)]
    rows += [model.swap(images, (labels + step) % model.num_classes, labels) for step in (1, 2, 3)]
    rows += [model.generate(labels, seed=seed) for seed in (0, 1, 2)]
    return np.stack(rows)


def draw(results: Results) -> Mapping[str, Figure]:
    """Draws the bounds, the accuracies of the class, and images of each setting's first seed."""
    return {"bound": _draw_bound(results), "images": _draw_images(results)}


def _draw_bound(results: Results) -> Figure:
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    names = results.settings()
    panels = {
        "nats per image": ("negative_elbo", "importance_weighted_nll", "kl"),
        "accuracy": ("swap_accuracy", "sample_accuracy", "leakage_linear"),
    }
    for index, (title, columns) in enumerate(panels.items()):
        axes = figure.add_subplot(1, 2, index + 1)
        for place, column in enumerate(columns):
            axes.bar(
                np.arange(len(names)) + 0.27 * (place - 1),
                [results.mean(name, column) for name in names],
                0.25,
                yerr=[results.deviation(name, column) for name in names],
                label=column.replace("_", " "),
            )
        axes.set_xticks(range(len(names)), names, fontsize=8)
        axes.set_title(title, fontsize=10)
        axes.margins(y=0.2)  # space for the legend
        axes.legend(fontsize=7, loc="upper center", ncols=len(columns))
    return figure


def _draw_images(results: Results) -> Figure:
    names = results.settings()
    figure = Figure(figsize=(3.4 * len(names), 4.2), layout="constrained")
    labels = ["image", "redrawn", "class + 1", "class + 2", "class + 3", "new", "new", "new"]
    for index, name in enumerate(names):
        grid = np.load(results.trial_folder(name, 0) / "images.npy").astype(np.float32)
        figures.show_rows(figure.add_subplot(1, len(names), index + 1), grid, labels, name)
    return figure


STUDY = Study(
    name="expressive",
    summary=STUDIES["expressive"],
    settings={
        "reference": {"posterior": "gaussian", "decoder": "convolutional"},
        "iaf": {"posterior": "iaf", "decoder": "convolutional"},
        "pixelcnn": {"posterior": "gaussian", "decoder": "pixelcnn"},
        "iaf+pixelcnn": {"posterior": "iaf", "decoder": "pixelcnn"},
    },
    quick_settings=("reference", "iaf+pixelcnn"),
    measure=measure,
    draw=draw,
    columns={
        "negative_elbo": ".1f",
        "kl": ".1f",
        "importance_weighted_nll": ".1f",
        "swap_accuracy": ".3f",
        "sample_accuracy": ".3f",
        "leakage_linear": ".3f",
    },
    prepare=prepare,
)
