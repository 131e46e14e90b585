"""The effect of the separation layer on a conditional VAE: its likelihood and its control of the class."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter

from separationfactor.models import ConditionalVAE
from separationfactor_lab import evaluation, figures, files, metrics
from separationfactor_lab.data import Dataset
from separationfactor_lab.options import STUDIES
from separationfactor_lab.studies import training
from separationfactor_lab.studies.framework import Results, Study, Trial

_EPOCHS, _LONG_EPOCHS, _JUDGE_EPOCHS, _QUICK_EPOCHS = 25, 75, 15, 2
_BATCH = 100
_SWAP_ACCURACY = 0.98
# The minimum swap accuracy in the second panel, which enlarges the crowded part of the first.
_OBEDIENT = 0.8
# The settings whose likelihood the others should reach, one for each training length, and their line styles.
_RIVALS = {"concat": "--", "long-concat": ":"}
# The first words of the settings' names.
_FAMILIES = ("factor", "concat", "predicted", "trained", "wide", "rising", "beta", "long")


class DenseConditionalVAE(ConditionalVAE):
    """The reference model with networks of one hidden layer of 400 units each, which train in seconds."""

    units = 400

    def make_classifier(self):
        images = keras.Input(self.image_shape)
        features = keras.layers.Dense(self.units, activation="relu")(keras.layers.Flatten()(images))
        logits = keras.layers.Dense(self.num_classes, dtype="float32")(features)
        return keras.Model(images, logits, name="classifier")

    def make_encoder(self):
        images = keras.Input(self.image_shape)
        class_vector = keras.Input((self.num_classes,))
        features = keras.layers.Concatenate()([keras.layers.Flatten()(images), class_vector])
        features = keras.layers.Dense(self.units, activation="relu")(features)
        mean = keras.layers.Dense(self.latent_dim, name="mean", dtype="float32")(features)
        log_variance = keras.layers.Dense(self.latent_dim, name="log_variance", dtype="float32")(features)
        return keras.Model([images, class_vector], [mean, log_variance], name="encoder")

    def make_decoder(self):
        latent = keras.Input((self.latent_dim + (self.num_classes if self.combine == "concat" else 0),))
        features = keras.layers.Dense(self.units, activation="relu")(latent)
        logits = keras.layers.Dense(math.prod(self.image_shape), dtype="float32")(features)
        return keras.Model(latent, keras.layers.Reshape(self.image_shape)(logits), name="decoder")


def prepare(dataset: Dataset, folder: Path, quick: bool) -> None:
    """Trains the judge that all trials share."""
    evaluation.judge_of(folder, dataset, epochs=_QUICK_EPOCHS if quick else _JUDGE_EPOCHS)


def measure(trial: Trial) -> dict[str, Any]:
    """Trains the model of a setting and measures it on the test part."""
    dataset, options = trial.dataset, dict(trial.options)
    warm_up = options.pop("warm_up", 0)
    epochs = options.pop("epochs", _EPOCHS)
    model = DenseConditionalVAE(
        dataset.image_shape,
        dataset.num_classes,
        seed=trial.seed,
        # With a warm-up, the factor must be a variable, although it is not trained.
        **{"trainable_factors": warm_up > 0, **options},
    )
    if warm_up:
        model.separation.trainable = False

    def move_factor(epoch):
        if warm_up:
            model.separation.separation.assign(options["separation_factor"] * min(1, epoch / warm_up))

    def train():
        training.fit(
            model,
            dataset.x_train,
            dataset.y_train,
            epochs=_QUICK_EPOCHS if trial.quick else epochs,
            batch_size=_BATCH,
            seed=trial.seed,
            before_epoch=move_factor,
        )

    model.compile(keras.optimizers.Adam(1e-3))
    training.once(trial, model, train)
    if trial.seed == 0:
        each_class = figures.one_of_each_class(dataset.y_test, dataset.num_classes)
        swaps = figures.class_swap(model, dataset.x_test[each_class], dataset.y_test[each_class])
        files.save_figure(swaps, trial.folder / "class-swap.png")
    judge = evaluation.judge_of(trial.shared, dataset)
    with model.drawing_from(trial.seed):
        on_training_part = model.evaluate(dataset.x_train, dataset.y_train, 500, verbose=0, return_dict=True)
    return {
        "training_negative_elbo": on_training_part["negative_elbo"],
        **evaluation.evaluate_model(model, dataset, judge, samples=2 if trial.quick else 50),
    }


def _settings() -> dict[str, dict]:
    """Returns slices of the grid around factor 10, instead of the whole grid.

    If labels are the class vector, suppression and k have no effect: all but one entry of a one-hot vector
    are 0 and stay 0. Suppression and k vary only where the classifier's soft output is the class vector.
    """

    def setting(factor, **others):
        return {"separation_factor": float(factor), "suppression_factor": 0.25, **others}

    predicted = {"condition": "predicted"}
    wide = {"latent_dim": 20}
    long = {"epochs": _LONG_EPOCHS}
    return {
        # The factor, from 0 to 30.
        **{f"factor={factor}": setting(factor) for factor in (0, 1, 3, 5, 7, 10, 30)},
        # z and S(y) concatenated.
        "concat": setting(1, combine="concat"),
        **{f"concat-factor={factor}": setting(factor, combine="concat") for factor in (3, 10, 30, 100)},
        # The classifier's output in training, soft or hard.
        **{f"predicted-factor={factor}": setting(factor, **predicted) for factor in (1, 3, 10)},
        **{f"predicted-hard-factor={factor}": setting(factor, hard=True, **predicted) for factor in (3, 10)},
        "predicted-stop-factor=10": setting(10, stop_gradient=True, **predicted),
        # The suppression of the other classes of a soft vector, and k.
        "predicted-suppression=0": {**setting(10, **predicted), "suppression_factor": 0.0},
        "predicted-suppression=1": {**setting(10, **predicted), "suppression_factor": 1.0},
        **{f"predicted-k={k}": setting(10, k=k, **predicted) for k in (2, 3)},
        # Trainable factors.
        "trained-factor=1": setting(1, trainable_factors=True),
        "trained-factor=10": setting(10, trainable_factors=True),
        "trained-concat": setting(1, trainable_factors=True, combine="concat"),
        # Candidates for both a high likelihood and a high swap accuracy: more dimensions of z than classes, a
        # rising factor, a larger weight of the KL term (which makes it more expensive to encode the class in
        # z), and longer training.
        "wide-factor=5": setting(5, **wide),
        "wide-factor=10": setting(10, **wide),
        "wide-concat": setting(1, combine="concat", **wide),
        "wide-concat-factor=10": setting(10, combine="concat", **wide),
        "rising-factor=10": setting(10, warm_up=10),
        "rising-concat-factor=10": setting(10, combine="concat", warm_up=10),
        "beta=2-factor=10": setting(10, beta=2.0),
        "beta=2-concat-factor=10": setting(10, combine="concat", beta=2.0),
        "beta=2-concat-factor=30": setting(30, combine="concat", beta=2.0),
        "long-concat": setting(1, combine="concat", **long),
        "long-factor=10": setting(10, **long),
        "long-concat-factor=10": setting(10, combine="concat", **long),
        "long-beta=2-concat-factor=10": setting(10, combine="concat", beta=2.0, **long),
    }


def _line(results: Results, setting: str) -> str:
    shown = {"swap accuracy": ("swap_accuracy", ".3f"), "-ELBO": ("negative_elbo", ".1f")}
    return ", ".join(
        f"{name} {results.mean(setting, column):{form}} ± {results.deviation(setting, column):{form}}"
        for name, (column, form) in shown.items()
    )


def conclude(results: Results) -> str:
    """Returns which settings reach the swap accuracy and are as likely as concat, in the mean over seeds."""
    lines = []
    for rival in _RIVALS:
        if rival in results.settings():
            lines += [f"{rival}: {_line(results, rival)}.", *_compared(results, rival)]
    return "\n".join(lines or ["Without the setting concat there is nothing to compare with."])


def _compared(results: Results, rival: str) -> list[str]:
    """Returns which settings are at least as likely as a rival, and reach the swap accuracy."""
    names = results.settings()
    likely = [n for n in names if results.mean(n, "negative_elbo") <= results.mean(rival, "negative_elbo")]
    both = [name for name in likely if results.mean(name, "swap_accuracy") >= _SWAP_ACCURACY]
    if both:
        head = f"As likely, with a swap accuracy of {_SWAP_ACCURACY} or more:"
        return [head, *(f"- {name}: {_line(results, name)}" for name in both)]
    lines = [f"No setting is as likely and has a swap accuracy of {_SWAP_ACCURACY} or more."]
    obedient = [name for name in names if results.mean(name, "swap_accuracy") >= _SWAP_ACCURACY]
    if obedient:
        best = min(obedient, key=lambda name: results.mean(name, "negative_elbo"))
        lines.append(f"The likeliest with such a swap accuracy is {best}: {_line(results, best)}.")
    # This includes the rival itself, unless its bound is NaN.
    if likely:
        best = max(likely, key=lambda name: results.mean(name, "swap_accuracy"))
        lines.append(f"The greatest swap accuracy of those as likely has {best}: {_line(results, best)}.")
    return lines


def draw(results: Results) -> Mapping[str, Figure]:
    """Draws likelihood against swap accuracy, and the effect of the factor."""
    drawn = {"likelihood-and-swaps": _likelihood_and_swaps(results)}
    factors = {
        options["separation_factor"]: name
        for name, options in STUDY.settings.items()
        if name.startswith("factor=") and name in results.settings()
    }
    if len(factors) > 1:
        drawn["factor"] = _by_factor(results, factors)
    return drawn


def _likelihood_and_swaps(results: Results) -> Figure:
    figure = Figure(figsize=(13, 6), layout="constrained")
    names = results.settings()
    obedient = [name for name in names if results.mean(name, "swap_accuracy") >= _OBEDIENT]
    panels = figure.subplots(1, 2)
    _draw_settings(panels[0], results, names)
    _draw_settings(panels[1], results, obedient)
    panels[0].legend(fontsize=7)
    # The settings without `stop_gradient` reach several times the others' ELBO.
    panels[0].set_yscale("log")
    for which in (panels[0].yaxis.set_major_formatter, panels[0].yaxis.set_minor_formatter):
        which(StrMethodFormatter("{x:.0f}"))
    panels[0].set_ylabel("negative ELBO (nats per image); lower is better")
    panels[0].set_title("All settings", fontsize=10)
    panels[1].set_title(f"Those with a swap accuracy of {_OBEDIENT} or more", fontsize=10)
    if obedient:
        panels[1].set_xlim(_OBEDIENT - 0.005, 1)
    figure.suptitle("Settings below and to the right of the dashed lines meet both goals", fontsize=11)
    figures.label_points(panels[0], _places(results, [name for name in names if name not in obedient]))
    figures.label_points(panels[1], _places(results, obedient))
    return figure


def _places(results: Results, names: Sequence[str]) -> dict[str, tuple[float, float]]:
    """Returns the swap accuracy and the negative ELBO of each setting where both are finite."""
    places = {
        name: (results.mean(name, "swap_accuracy"), results.mean(name, "negative_elbo")) for name in names
    }
    return {name: place for name, place in places.items() if all(map(math.isfinite, place))}


def _draw_settings(axes: Axes, results: Results, names: Sequence[str]) -> None:
    markers = dict(zip(_FAMILIES, "os^DPXv*", strict=True))
    seen = set()
    for name, place in _places(results, names).items():
        family = re.split("[-=]", name)[0]
        axes.errorbar(
            *place,
            results.deviation(name, "negative_elbo"),
            results.deviation(name, "swap_accuracy"),
            markers[family],
            color=f"C{list(markers).index(family)}",
            label=None if family in seen else family,
            capsize=2,
        )
        seen.add(family)
    for rival, style in _RIVALS.items():
        if rival in results.settings():
            axes.axhline(
                results.mean(rival, "negative_elbo"), color="gray", lw=0.8, ls=style, label=f"{rival}'s ELBO"
            )
    axes.axvline(_SWAP_ACCURACY, color="gray", lw=0.8, ls="--")
    axes.set_xlabel("swap accuracy")
    axes.grid(alpha=0.3)


def _by_factor(results: Results, factors: Mapping[float, str]) -> Figure:
    figure = Figure(figsize=(11, 3.2), layout="constrained")
    panels = figure.subplots(1, 3)
    places = range(len(factors))

    def plot(axes, column, label):
        means = [results.mean(name, column) for name in factors.values()]
        deviations = [results.deviation(name, column) for name in factors.values()]
        axes.errorbar(places, means, deviations, marker="o", ms=4, capsize=2, label=label)

    plot(panels[0], "negative_elbo", "z + S(y)")
    if "concat" in results.settings():
        concat = results.mean("concat", "negative_elbo")
        panels[0].axhline(concat, color="gray", ls="--", lw=0.8, label="concat")
    panels[0].set_title("negative ELBO (nats per image)", fontsize=10)
    plot(panels[1], "swap_accuracy", "swap accuracy")
    plot(panels[1], "leakage_linear", "leakage, linear probe")
    plot(panels[1], "judge_accuracy", "the judge's own accuracy")
    panels[1].set_title("the class", fontsize=10)
    plot(panels[2], "prior_sample_accuracy", "samples, judged")
    classes = results.dataset.num_classes
    bayes = [metrics.prior_bayes_accuracy(factor, classes) for factor in factors]
    panels[2].plot(places, bayes, "k:", label="best guess from z + S(y)")
    panels[2].set_title("class of samples of the prior", fontsize=10)
    for axes in panels:
        axes.set_xticks(places, [f"{factor:g}" for factor in factors])
        axes.set_xlabel("separation factor")
        axes.legend(fontsize=7)
        axes.grid(alpha=0.3)
    return figure


STUDY = Study(
    name="separation",
    summary=STUDIES["separation"],
    settings=_settings(),
    quick_settings=("factor=0", "factor=10", "concat"),
    measure=measure,
    draw=draw,
    columns={
        "negative_elbo": ".1f",
        "importance_weighted_nll": ".1f",
        "swap_accuracy": ".3f",
        "prior_sample_accuracy": ".3f",
        "leakage_linear": ".2f",
        "leakage_mlp": ".2f",
        "active_units": ".0f",
        "classifier_accuracy": ".3f",
        "mig_one_vs_rest": ".2f",
    },
    prepare=prepare,
    conclude=conclude,
)
