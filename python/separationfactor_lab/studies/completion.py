"""Completion of digits as in Sohn, Lee and Yan: a baseline network and a conditional VAE.

Each setting observes one, two or three quadrants of a digit.
"""

from __future__ import annotations

from collections.abc import Mapping

import keras
import numpy as np
from matplotlib.figure import Figure
from sklearn.model_selection import train_test_split

from separationfactor.models import CompletionBaseline, CompletionVAE
from separationfactor.models.completion import observed_pixels
from separationfactor_lab import figures
from separationfactor_lab.options import STUDIES
from separationfactor_lab.studies import training
from separationfactor_lab.studies.framework import Results, Study, Trial

_BATCH = 100
_EPOCHS, _QUICK_EPOCHS = 60, 2
# Training stops after this many epochs in a row without improvement on the held-out images. The best epoch is
# kept.
_PATIENCE = 5
_HELD_OUT = 0.1
# Samples of z per image. Samples of the prior rarely fit the image, so that estimate needs more of them.
_MONTE_CARLO, _IMPORTANCE, _QUICK_SAMPLES = 1000, 100, 5
_SHOWN_IMAGES, _SHOWN_SAMPLES = 8, 5

# Results of Pyro's example on the 60,000 digits of MNIST, by number of quadrants: its baseline, and what it
# calls Monte Carlo. The latter is the negative ELBO, with z from the recognition network, which sees the
# answer (`Trace_ELBO` with a guide of `ys`). It corresponds to `negative_elbo` here. Pyro's networks are
# early-stopped on the test images, ours on held-out training images.
_PYRO = {1: (100.4, 71.8), 2: (61.9, 51.0), 3: (25.4, 24.2)}


def measure(trial: Trial) -> dict[str, float]:
    """Trains both models for a number of quadrants and measures them on the test part."""
    quadrants, test = trial.options["quadrants"], trial.dataset.x_test
    hidden_units = 50 if trial.quick else trial.options["hidden_units"]
    baseline = CompletionBaseline(trial.dataset.image_shape, quadrants, hidden_units)
    _train(trial, baseline)
    model = CompletionVAE(baseline, trial.options["latent_dim"], seed=trial.seed)
    _train(trial, model)

    terms = model.evaluate(test, verbose=0, return_dict=True)
    monte_carlo, importance = (_QUICK_SAMPLES,) * 2 if trial.quick else (_MONTE_CARLO, _IMPORTANCE)
    shown = test[:_SHOWN_IMAGES]
    np.savez_compressed(
        trial.folder / "completions.npz",
        image=shown,
        baseline=baseline(shown),
        samples=model.complete(shown, _SHOWN_SAMPLES, seed=trial.seed),
    )
    return {
        "baseline_nll": baseline.evaluate(test, verbose=0, return_dict=True)["loss"],
        "negative_elbo": terms["loss"],
        "kl": terms["kl"],
        "monte_carlo_nll": _conditional_nll(model, test, monte_carlo, "monte_carlo"),
        "importance_nll": _conditional_nll(model, test, importance, "importance"),
    }


def _conditional_nll(model: CompletionVAE, images: np.ndarray, samples: int, method: str) -> float:
    parts = [images[i : i + 500] for i in range(0, len(images), 500)]
    return float(np.mean(np.concatenate([model.conditional_nll(part, samples, method) for part in parts])))


class _StopError(Exception):
    """Ends training before the last epoch."""


def _train(trial: Trial, model: keras.Model) -> None:
    """Trains a model until it stops improving on held-out images, then restores its best weights."""
    images, held_out = train_test_split(
        trial.dataset.x_train, test_size=_HELD_OUT, random_state=trial.seed, stratify=trial.dataset.y_train
    )
    model.compile(keras.optimizers.Adam(1e-3))
    best = {"loss": np.inf, "epoch": 0, "weights": model.get_weights()}

    def before_epoch(epoch):
        loss = model.evaluate(held_out, batch_size=500, verbose=0, return_dict=True)["loss"]
        if loss < best["loss"]:
            best.update(loss=loss, epoch=epoch, weights=model.get_weights())
        elif epoch - best["epoch"] >= _PATIENCE:
            raise _StopError

    try:
        epochs = _QUICK_EPOCHS if trial.quick else _EPOCHS
        training.fit(
            model, images, epochs=epochs, batch_size=_BATCH, seed=trial.seed, before_epoch=before_epoch
        )
        before_epoch(epochs)
    except _StopError:
        pass
    model.set_weights(best["weights"])


def draw(results: Results) -> Mapping[str, Figure]:
    """Draws the likelihoods with those of Pyro, and completions of the first test images."""
    return {"likelihoods": _draw_likelihoods(results), "completions": _draw_completions(results)}


def _draw_likelihoods(results: Results) -> Figure:
    names = results.settings()
    figure = Figure(figsize=(3.2 * len(names), 3.2), layout="constrained")
    columns = {
        "baseline_nll": "baseline",
        "negative_elbo": "negative ELBO",
        "monte_carlo_nll": "Monte Carlo",
        "importance_nll": "importance",
    }
    for index, name in enumerate(names):
        axes = figure.add_subplot(1, len(names), index + 1)
        means = [results.mean(name, column) for column in columns]
        axes.bar(list(columns.values()), means, yerr=[results.deviation(name, c) for c in columns], capsize=3)
        axes.tick_params(axis="x", labelrotation=30)
        axes.set_title(name, fontsize=10)
        if results.dataset.image_shape == (28, 28, 1):
            pyro = _PYRO[results.values(name, "quadrants")[0]]
            axes.plot([0, 1], pyro, "k*", markersize=9, label="Pyro's example, 60,000 digits of MNIST")
            axes.set_ylim(0, 1.25 * max(*means, *pyro))
            axes.legend(fontsize=7)
    figure.supylabel("-log p(missing | observed), nats per image", fontsize=9)
    return figure


def _draw_completions(results: Results) -> Figure:
    names = results.settings()
    rows = 2 + _SHOWN_SAMPLES
    figure = Figure(figsize=(4.2 * len(names), 0.52 * rows + 0.4), layout="constrained")
    for index, name in enumerate(names):
        saved = np.load(results.trial_folder(name, 0) / "completions.npz")
        grid = np.concatenate([saved["image"][None], saved["baseline"][None], saved["samples"]])
        missing = ~observed_pixels(grid.shape[2:], results.values(name, "quadrants")[0])
        axes = figure.add_subplot(1, len(names), index + 1)
        labels = ["image", "baseline", *(f"sample {number + 1}" for number in range(_SHOWN_SAMPLES))]
        figures.show_rows(axes, grid, labels, name)
        # The missing pixels, which all rows but the first predict, are shaded.
        height, width = grid.shape[2:4]
        shade = np.zeros((rows, height, grid.shape[1], width, 4))
        shade[..., 2] = 1
        shade[..., 3] = 0.12 * missing[..., 0][None, :, None, :]
        axes.imshow(shade.reshape(rows * height, -1, 4))
    return figure


STUDY = Study(
    name="completion",
    summary=STUDIES["completion"],
    settings={
        f"quadrants={number}": {"quadrants": number, "hidden_units": 500, "latent_dim": 50}
        for number in (1, 2, 3)
    },
    quick_settings=("quadrants=1", "quadrants=3"),
    measure=measure,
    draw=draw,
    columns={
        "baseline_nll": ".1f",
        "negative_elbo": ".1f",
        "monte_carlo_nll": ".1f",
        "importance_nll": ".1f",
        "kl": ".1f",
    },
)
