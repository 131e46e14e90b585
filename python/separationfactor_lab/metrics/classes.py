"""Metrics of the class: calibration, probes, clusters and nearest neighbours."""

from __future__ import annotations

import numpy as np
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import silhouette_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from separationfactor import arguments
from separationfactor_lab.metrics.arrays import UndefinedMetricError, _codes, _finite_matrix, _halves, _labels


def expected_calibration_error(probabilities: np.ndarray, labels: np.ndarray, bins: int = 15) -> float:
    """Returns the mean absolute difference between a classifier's confidence and its accuracy.

    The confidence is the largest probability of an image. The images are sorted by confidence into bins of
    equal width. ECE is the sum over bins of (fraction of images in the bin) * |accuracy - mean confidence|
    ([Guo, Pleiss, Sun and Weinberger, 2017](https://arxiv.org/abs/1706.04599), equation 3).

    Args:
        probabilities: Array of shape `(images, classes)`.
        labels: The true classes.
        bins: The number of bins.
    """
    probabilities = _finite_matrix("probabilities", probabilities, "classes")
    labels = _labels(labels, len(probabilities))
    arguments.integer("bins", bins, "a positive integer", least=1)
    confidence = probabilities.max(axis=1)
    is_right = probabilities.argmax(axis=1) == labels
    # Bin m contains the confidences in ((m - 1) / bins, m / bins].
    number = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gaps = np.bincount(number, is_right - confidence, bins)
    return float(np.abs(gaps).sum() / len(labels))


def leakage(codes: np.ndarray, labels: np.ndarray, probe: str = "linear", seed: int = 0) -> float:
    """Returns the test accuracy of a probe that predicts the class from the codes.

    If the style z is independent of the class, the accuracy is about the fraction of images in the largest
    class. With a single class it is 1.

    Args:
        codes: Usually the means of q(z | x, y).
        labels: The classes.
        probe: "linear" for logistic regression ([Alain and Bengio, 2016](https://arxiv.org/abs/1610.01644)),
            or "mlp" for a network with one hidden layer of 64 units. Both get standardized codes.
        seed: Seeds the split into halves and the initial weights of the network.

    Raises:
        UndefinedMetricError: If there is only one image.
    """
    codes = _codes(codes)
    probes = {
        "linear": LogisticRegression(max_iter=1000),
        "mlp": MLPClassifier(
            (64,), early_stopping=True, n_iter_no_change=20, max_iter=500, random_state=seed
        ),
    }
    if probe not in probes:
        raise ValueError(f"probe must be one of {tuple(probes)}. Received: {probe!r}")
    train, test, labels_train, labels_test = _halves(codes, _labels(labels, len(codes)), seed)
    if probe == "mlp":
        # Early stopping holds out a stratified validation set. It needs at least two images of each class and
        # one held-out image for each class.
        _, first, counts = np.unique(labels_train, return_index=True, return_counts=True)
        again = np.append(np.arange(len(train)), first[counts == 1])
        train, labels_train = train[again], labels_train[again]
        probes[probe].validation_fraction = max(0.1, len(counts) / len(train))
    model = make_pipeline(StandardScaler(), _classifier(probes[probe], labels_train))
    return float(model.fit(train, labels_train).score(test, labels_test))


def silhouette(codes: np.ndarray, labels: np.ndarray) -> float:
    """Returns the mean silhouette coefficient of the classes, (b - a) / max(a, b), in [-1, 1].

    a is the mean distance of an image to the other images of its class. b is its mean distance to the images
    of the nearest other class. An image that is alone in its class counts as 0 ([Rousseeuw,
    1987](https://doi.org/10.1016/0377-0427(87)90125-7)).

    Raises:
        UndefinedMetricError: If there is only one class.
    """
    codes = _codes(codes)
    labels = _labels(labels, len(codes))
    classes = len(np.unique(labels))
    if classes == 1:
        raise UndefinedMetricError("silhouette needs at least two classes. Received: 1")
    # scikit-learn raises an error if every image is alone in its class.
    return float(silhouette_score(codes, labels)) if classes < len(labels) else 0.0


def knn_accuracy(codes: np.ndarray, labels: np.ndarray, neighbours: int = 10, seed: int = 0) -> float:
    """Returns the test accuracy of a k-nearest-neighbours classifier on the codes.

    It predicts the most frequent class among the nearest training images. If there are fewer training images
    than `neighbours`, it uses all of them.

    Raises:
        UndefinedMetricError: If there is only one image.
    """
    codes = _codes(codes)
    arguments.integer("neighbours", neighbours, "a positive integer", least=1)
    train, test, labels_train, labels_test = _halves(codes, _labels(labels, len(codes)), seed)
    model = KNeighborsClassifier(min(neighbours, len(train)))
    return float(model.fit(train, labels_train).score(test, labels_test))


def one_vs_rest(labels: np.ndarray) -> np.ndarray:
    """Returns one binary factor for each class that occurs: 1 for images of the class, 0 for all others."""
    labels = np.asarray(labels)
    return (labels[:, np.newaxis] == np.unique(labels)).astype(np.int64)


def _classifier(classifier, labels: np.ndarray):
    """Returns the classifier, or a constant predictor if there is only one class to learn."""
    return classifier if len(np.unique(labels)) > 1 else DummyClassifier()
