"""Computes all metrics of `separationfactor_lab.metrics` for a trained model and for a run."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from separationfactor.models import ConditionalVAE
from separationfactor_lab import metrics
from separationfactor_lab.data import Dataset
from separationfactor_lab.errors import LabError
from separationfactor_lab.files import written_at_once
from separationfactor_lab.runs import Run

_BATCH = 500


def train_judge(dataset: Dataset, seed: int = 0, epochs: int = 15) -> keras.Model:
    """Returns a small convolutional classifier, trained on the training part.

    It predicts the class that generated images show. It is trained on real images only, so it is independent
    of the model that it judges. Its accuracy on the test part is the upper limit for generated images that
    are as hard to classify as real images. Generated images may be easier.
    """
    keras.utils.set_random_seed(seed)
    layers = [
        keras.Input(dataset.image_shape),
        keras.layers.Conv2D(32, 5, strides=2, padding="same", activation="relu"),
        keras.layers.Conv2D(64, 3, strides=2, padding="same", activation="relu"),
        keras.layers.Flatten(),
        keras.layers.Dropout(0.3),
        keras.layers.Dense(128, activation="relu"),
        keras.layers.Dropout(0.5),
        keras.layers.Dense(dataset.num_classes),
    ]
    judge = keras.Sequential(layers, name="judge")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    judge.compile(keras.optimizers.Adam(1e-3), loss)
    judge.fit(dataset.x_train, dataset.y_train, batch_size=64, epochs=epochs, verbose=0)
    return judge


def judge_of(folder: str | Path, dataset: Dataset, seed: int = 0, epochs: int = 15) -> keras.Model:
    """Returns the judge stored in a folder, after training and storing it if there is none.

    Raises:
        LabError: If the stored judge cannot be loaded.
    """
    path = Path(folder) / "judge.keras"
    if path.exists():
        try:
            return keras.models.load_model(path)
        except Exception as error:  # Keras, zipfile, h5py and json raise many kinds for a damaged file.
            raise LabError(
                f"{path}: expected a model that Keras can load; remove it, and it is trained again: {error}"
            ) from error
    judge = train_judge(dataset, seed, epochs)
    with written_at_once(path) as temporary:
        judge.save(temporary)
    return judge


def evaluate_model(
    model: ConditionalVAE,
    dataset: Dataset,
    judge: keras.Model,
    *,
    images: int = 2000,
    samples: int = 100,
    seed: int = 0,
    advance: Callable[[str], None] = lambda part: None,
) -> dict[str, Any]:
    """Returns all metrics of a model on the test part.

    For class swaps and class leakage, z is the mean of q(z | x, y), where y is the label of the image. The
    code for the silhouette, nearest neighbours and disentanglement is computed from the image alone: y is the
    output of the classifier, and the code is the input of the decoder, the sum or the concatenation of z and
    S(y).

    The class is measured as a factor in two ways; `metrics` gives the reasons. Names that end in
    `_one_vs_rest` use the code and treat each class as a separate factor. These factors are not independent,
    although most of the metrics assume it. Names that end in `_collapsed` use z and the argmax of y as the
    code, with the class as the only factor. If the data set has ground-truth factors, names that end in
    `_factors` use the code with the class and the ground-truth factors. Factors that are constant on the
    selected images are left out.

    Args:
        model: The model.
        dataset: The data that the model was trained on.
        judge: A classifier from `train_judge`.
        images: The maximum number of test images for the slow metrics: all except the ELBO, the accuracy and
            calibration of the classifier, and the accuracy of the judge.
        samples: The number of samples of z per image for the importance-weighted bound.
        seed: Seeds the choice of images, all samples of z, the noise of a PixelCNN, and the halves and probes
            of the metrics. The state of the model's own generator does not change.
        advance: Called with the name of each part when the part begins.

    Returns:
        The metrics by name. Likelihoods are in nats per image. They refer to p(x | y), where y is the label,
        whatever class vector the model was trained with. Adding log K, for K classes, gives a bound on
        -log p(x, y). A metric that is undefined for the images or the model, or that is not finite, is
        `None`. If there are such metrics, the entry `undefined` maps their names to the reasons.
    """
    with model.drawing_from(seed):
        return _evaluate_model(model, dataset, judge, images, samples, seed, advance)


def _evaluate_model(model, dataset, judge, images, samples, seed, advance):
    result, undefined = {}, {}

    def add(measures):
        for name, measure in measures.items():
            try:
                result[name] = measure()
            except metrics.UndefinedMetricError as error:
                result[name], undefined[name] = None, str(error)

    advance("likelihood and classifier")
    x, y = dataset.x_test, dataset.y_test
    for name, value in model.evaluate(x, y, batch_size=_BATCH, verbose=0, return_dict=True).items():
        if name in ("negative_elbo", "reconstruction", "kl", "classifier_loss", "classifier_accuracy"):
            result[name] = float(value)
    probabilities = _batched(model.classify, x)
    add({"classifier_calibration_error": lambda: metrics.expected_calibration_error(probabilities, y)})
    result["judge_accuracy"] = float(np.mean(_judged(judge, x) == y))
    result["separation"] = float(model.separation.separation)
    result["suppression"] = float(model.separation.suppression)

    chosen = np.sort(np.random.default_rng(seed).permutation(len(x))[:images])
    x, y = x[chosen], y[chosen]
    advance("importance-weighted bound")
    weigh = tf.function(model.log_weights, reduce_retracing=True)
    log_weights = [_batched(weigh, x, y) for _ in range(samples)]
    result["importance_weighted_nll"] = metrics.importance_weighted_nll(log_weights)

    advance("class swaps and samples")
    z = _batched(lambda x, y: model.encode(x, y)[0], x, y)
    decode = functools.partial(model.decode, seed=seed)
    # Every image is decoded as every other class.
    others = (y[:, np.newaxis] + np.arange(1, model.num_classes)) % model.num_classes
    swapped = _batched(decode, np.repeat(z, model.num_classes - 1, axis=0), others.ravel())
    result["swap_accuracy"] = float(np.mean(_judged(judge, swapped) == others.ravel()))
    labels = np.arange(len(y)) % model.num_classes
    noise = np.random.default_rng(seed).normal(size=z.shape).astype(np.float32)
    drawn = _batched(decode, noise, labels)
    result["prior_sample_accuracy"] = float(np.mean(_judged(judge, drawn) == labels))

    advance("leakage and clusters of the class")
    add({"active_units": lambda: metrics.active_units(z)})
    add(
        {
            f"leakage_{probe}": functools.partial(metrics.leakage, z, y, probe, seed)
            for probe in ("linear", "mlp")
        }
    )
    z = _batched(lambda x: model.encode(x)[0], x)
    code = _batched(model.represent, x)
    for name, array in (("z", z), ("code", code)):
        add({f"silhouette_{name}": functools.partial(metrics.silhouette, array, y)})
        add({f"knn_accuracy_{name}": functools.partial(metrics.knn_accuracy, array, y, seed=seed)})

    advance("disentanglement")
    collapsed = np.column_stack([z, _batched(model.classify, x).argmax(axis=1)])
    add(_of_one_dimension(collapsed, y[:, np.newaxis], False, seed, "collapsed"))
    one_vs_rest = metrics.one_vs_rest(y)
    add(_of_one_dimension(code, one_vs_rest, False, seed, "one_vs_rest"))
    add(_of_several_factors(code, one_vs_rest, seed, "one_vs_rest"))
    if dataset.factor_names:
        advance("ground-truth factors")
        truth = np.column_stack([y, dataset.factors_test[chosen]])
        varies = np.ptp(truth, axis=0) > 0
        is_continuous = np.array([False] + [True] * len(dataset.factor_names))[varies]
        add(_of_one_dimension(code, truth[:, varies], is_continuous, seed, "factors"))
        add(_of_several_factors(code, truth[:, varies], seed, "factors"))

    for name, value in result.items():
        if value is not None and not np.isfinite(value):
            result[name], undefined[name] = None, f"the value is {value}"
    return result | ({"undefined": undefined} if undefined else {})


def _of_one_dimension(code, factors, continuous, seed, suffix) -> dict[str, Callable[[], float]]:
    """Returns functions that compute the metrics of whether one dimension encodes a factor."""
    dci = functools.cache(lambda: metrics.dci(code, factors, continuous, seed=seed))
    return {
        f"mig_{suffix}": lambda: metrics.mig(code, factors),
        f"sap_{suffix}": lambda: metrics.sap(code, factors, continuous, seed=seed),
        f"dci_disentanglement_{suffix}": lambda: dci().disentanglement,
        f"dci_completeness_{suffix}": lambda: dci().completeness,
        f"dci_informativeness_{suffix}": lambda: dci().informativeness,
    }


def _of_several_factors(code, factors, seed, suffix) -> dict[str, Callable[[], float]]:
    """Returns functions that compute the metrics that compare factors with each other."""
    return {
        f"modularity_{suffix}": lambda: metrics.modularity(code, factors),
        f"explicitness_{suffix}": lambda: metrics.explicitness(code, factors, seed=seed),
        f"factor_vae_{suffix}": lambda: metrics.factor_vae_score(code, factors, seed=seed),
        f"beta_vae_{suffix}": lambda: metrics.beta_vae_score(code, factors, seed=seed),
        f"irs_{suffix}": lambda: metrics.irs(code, factors),
    }


def _batched(function, *arrays) -> np.ndarray:
    """Applies a function to batches of the arrays, and concatenates the results."""
    starts = range(0, len(arrays[0]), _BATCH)
    return np.concatenate([function(*(array[i : i + _BATCH] for array in arrays)) for i in starts])


def _judged(judge: keras.Model, images: np.ndarray) -> np.ndarray:
    """Returns the class that the judge predicts for each image."""
    return _batched(judge, images).argmax(axis=1)


def evaluate(run: Run, *, advance: Callable[[str], None] = lambda part: None, **options) -> dict[str, Any]:
    """Computes the metrics of a run's model, and writes them to the run's `metrics.json`.

    Args:
        run: The run.
        advance: As in `evaluate_model`.
        **options: `images`, `samples` and `seed`, as in `evaluate_model`.

    Returns:
        The result of `evaluate_model`.

    Raises:
        separationfactor_lab.runs.RunError: If the run has no model yet, or its data have changed.
    """
    model, dataset = run.model(), run.data()
    advance("judge")
    judge = judge_of(run.folder, dataset)
    result = evaluate_model(model, dataset, judge, advance=advance, **options)
    with written_at_once(run.folder / "metrics.json") as temporary:
        temporary.write_text(json.dumps(result, indent=2, allow_nan=False) + "\n")
    return result
