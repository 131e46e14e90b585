"""What the separation layer does to a conditional VAE: its likelihood against its command of the class."""

from __future__ import annotations

import math
from collections.abc import Mapping

import keras
from matplotlib.figure import Figure

from separationfactor.models import ConditionalVAE
from separationfactor.studies import training
from separationfactor.studies.framework import Results, Study, Trial

_EPOCHS, _QUICK_EPOCHS = 25, 2
_BATCH = 100


class DenseConditionalVAE(ConditionalVAE):
    """The reference model with networks of one dense layer of 400 units each, which train in seconds."""

    units = 400

    def _make_classifier(self):
        images = keras.Input(self.image_shape)
        features = keras.layers.Dense(self.units, activation="relu")(keras.layers.Flatten()(images))
        logits = keras.layers.Dense(self.num_classes, dtype="float32")(features)
        return keras.Model(images, logits, name="classifier")

    def _make_encoder(self):
        images = keras.Input(self.image_shape)
        class_vector = keras.Input((self.num_classes,))
        features = keras.layers.Concatenate()([keras.layers.Flatten()(images), class_vector])
        features = keras.layers.Dense(self.units, activation="relu")(features)
        mean = keras.layers.Dense(self.latent_dim, name="mean", dtype="float32")(features)
        log_variance = keras.layers.Dense(self.latent_dim, name="log_variance", dtype="float32")(features)
        return keras.Model([images, class_vector], [mean, log_variance], name="encoder")

    def _make_decoder(self):
        latent = keras.Input((self.latent_dim + (self.num_classes if self.combine == "concat" else 0),))
        features = keras.layers.Dense(self.units, activation="relu")(latent)
        logits = keras.layers.Dense(math.prod(self.image_shape), dtype="float32")(features)
        return keras.Model(latent, keras.layers.Reshape(self.image_shape)(logits), name="decoder")


def measure(trial: Trial) -> dict[str, float]:
    """Trains the model of a setting and measures it on the test part."""
    dataset = trial.dataset
    model = DenseConditionalVAE(
        dataset.image_shape, dataset.num_classes, seed=trial.seed, implementation="tf", **trial.options
    )
    model.compile(keras.optimizers.Adam(1e-3))
    training.fit(
        model,
        dataset.x_train,
        dataset.y_train,
        epochs=_QUICK_EPOCHS if trial.quick else _EPOCHS,
        batch_size=_BATCH,
        seed=trial.seed,
    )
    return model.evaluate(dataset.x_test, dataset.y_test, verbose=0, return_dict=True)


def _settings() -> dict[str, dict]:
    base = {"separation_factor": 10.0, "suppression_factor": 0.25}
    factors = {
        f"factor={factor}": {**base, "separation_factor": float(factor)} for factor in (0, 1, 3, 10, 30)
    }
    return {**factors, "concat": {**base, "separation_factor": 1.0, "combine": "concat"}}


def draw(results: Results) -> Mapping[str, Figure]:
    """Draws the negative ELBO of each setting."""
    figure = Figure(figsize=(7, 3), layout="constrained")
    axes = figure.add_subplot()
    names = results.settings()
    axes.bar(
        names,
        [results.mean(name, "negative_elbo") for name in names],
        yerr=[results.deviation(name, "negative_elbo") for name in names],
    )
    axes.set_ylabel("negative ELBO (nats an image)")
    return {"negative-elbo": figure}


STUDY = Study(
    name="separation",
    summary="What the separation layer does to a conditional VAE's likelihood and its command of the class.",
    settings=_settings(),
    quick_settings=("factor=0", "factor=10", "concat"),
    measure=measure,
    draw=draw,
    columns={"negative_elbo": ".1f", "classifier_accuracy": ".3f"},
)
